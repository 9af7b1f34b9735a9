//! SIGTERM and SIGINT: the first asks to stop, the second ends the process at once, with the exit code of a [`Reason`].

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::{Failure, Reason, because};

/// Whether somebody wants an end: for whoever looks now and then.
#[derive(Debug)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on signals ask for it.
    pub fn on_signals(at_once: Reason) -> Result<Self, Failure> {
        let told = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset.
            signal_hook::flag::register_conditional_shutdown(signal, i32::from(at_once as u8), told.clone())
                .and_then(|_| signal_hook::flag::register(signal, told.clone()))
                .map_err(because(Reason::Unavailable))?;
        }
        Ok(Self(told))
    }

    /// Whether a signal came.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once one came.
    pub fn check(&self) -> Result<(), Failure> {
        if self.is_told() { Err(Failure::new(Reason::Interrupted, "interrupted")) } else { Ok(()) }
    }
}

/// Calls `stop` with the first signal that comes, on a thread of its own.
pub fn on_signal(at_once: Reason, stop: impl FnOnce(i32) + Send + 'static) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(because(Reason::Unavailable))?;
    spawn("bft-signals", move || {
        let mut signals = signals.forever();
        if let Some(signal) = signals.next() {
            stop(signal);
        }
        if signals.next().is_some() {
            exit(i32::from(at_once as u8));
        }
    })
}

/// A thread beside the work.
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(body);
    thread.map(drop).map_err(because(Reason::Unavailable))
}
