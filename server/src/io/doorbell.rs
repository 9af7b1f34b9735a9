//! Wakes an executor from another thread, or from the journal's ring: an eventfd that the executor waits for in its
//! driver's own way. Ringing twice before the executor has looked costs one system call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// A bell.
#[derive(Debug)]
pub struct Doorbell {
    event: OwnedFd,
    is_rung: AtomicBool,
}

impl Doorbell {
    /// A bell that nobody has rung.
    pub fn new() -> io::Result<Self> {
        Ok(Self { event: eventfd(0, EventfdFlags::CLOEXEC)?, is_rung: AtomicBool::new(false) })
    }

    /// Wakes the executor. What was put into a queue before this call is there when it looks.
    pub fn ring(&self) {
        // Paired with the swap in `heard`: either this call sees `false` and writes, or the executor has yet to look.
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            rustix::io::write(&self.event, &1u64.to_ne_bytes()).expect("an eventfd far from its limit takes a 1");
        }
    }

    /// The executor has woken: what rings from now on wakes it again. Called before it looks at its queues.
    pub fn heard(&self) {
        self.is_rung.swap(false, Ordering::AcqRel);
    }

    /// The eventfd, to be waited for, and for a ring to post its completions to.
    #[must_use]
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
