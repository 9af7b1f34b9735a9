//! What is written for people and programs. Nobody who stops reading makes a panic.

use std::io::{self, Write};

use clap::ValueEnum;

use crate::exit::{Failure, Reason};

/// In what form a command answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON object on the last line.
    Json,
}

/// Writes bytes to stdout. A reader who has gone away has what it wanted.
pub fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(Reason::Failed, format!("stdout: {error}"))),
    }
}

/// Writes a line to stdout.
pub fn line(text: &str) -> Result<(), Failure> {
    write(format!("{text}\n").as_bytes())
}

/// Writes a line to stderr, if anyone is there to read it.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

impl Output {
    /// Tells how things go: on stdout, or beside it where that is for the one object.
    pub fn progress(self, text: &str) -> Result<(), Failure> {
        match self {
            Self::Text => line(text),
            Self::Json => {
                complain(text);
                Ok(())
            }
        }
    }
}
