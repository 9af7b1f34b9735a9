//! How a command ends: a code that scripts can rely on, and a sentence for people on stderr.

use std::fmt;
use std::process::ExitCode;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub struct Failure {
    reason: Reason,
    message: String,
}

/// What kind of failure; the numbers are the exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The answer is no, or something broke.
    Failed = 1,
    /// The command line is wrong, in a way that clap cannot see.
    Usage = 2,
    /// What is in an operation is refused.
    Data = 64,
    /// A file can not be read, or is not what it should be.
    Unreadable = 65,
    /// What is needed is not to be had now.
    Unavailable = 69,
    /// A configuration is wrong.
    Config = 78,
    /// A signal ended it.
    Interrupted = 130,
}

impl Failure {
    /// A failure that is told as `message`.
    pub fn new(reason: Reason, message: impl fmt::Display) -> Self {
        Self { reason, message: message.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// For `map_err`: the error as a failure of this kind.
pub fn because<E: fmt::Display>(reason: Reason) -> impl Fn(E) -> Failure {
    move |error| Failure::new(reason, error)
}

/// Tells about a failure in `program`, and gives the exit code.
#[must_use]
pub fn report(program: &str, outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { reason, message }) => {
            crate::output::complain(&format!("{program}: {message}"));
            ExitCode::from(reason as u8)
        }
    }
}
