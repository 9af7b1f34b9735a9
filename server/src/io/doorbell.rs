//! Wakes an executor from another thread, or from the journal's ring: an eventfd that the executor keeps a read pending
//! on. Ringing twice before the executor has looked costs one system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use glommio::io::BufferedFile;
use rustix::event::{EventfdFlags, eventfd};

/// The side that rings.
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
        // Paired with the swap in `Listener::heard`: either this call sees `false` and writes, or the executor has yet to
        // look.
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            rustix::io::write(&self.event, &1u64.to_ne_bytes()).expect("an eventfd far from its limit takes a 1");
        }
    }

    /// The eventfd, for a ring to post its completions to.
    #[must_use]
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// The executor's side.
pub struct Listener {
    bell: std::sync::Arc<Doorbell>,
    file: BufferedFile,
}

impl Listener {
    /// Belongs to the executor that calls this.
    pub fn new(bell: std::sync::Arc<Doorbell>) -> io::Result<Self> {
        let own = bell.event.try_clone()?;
        // SAFETY: the descriptor was just made and has no other owner; the file closes it.
        let file = unsafe { BufferedFile::from_raw_fd(own.into_raw_fd()) };
        debug_assert!(file.as_raw_fd() >= 0);
        Ok(Self { bell, file })
    }

    /// Waits until somebody rings. What comes after this returns is heard the next time.
    pub async fn heard(&self) -> io::Result<()> {
        let count = self.file.read_at(0, 8).await.map_err(|error| io::Error::other(error.to_string()))?;
        if count.len() != 8 {
            return Err(io::Error::other("an eventfd gave less than its counter"));
        }
        self.bell.is_rung.swap(false, Ordering::AcqRel);
        Ok(())
    }

    /// Gives the descriptor back.
    pub async fn close(self) {
        // It was only read from: nothing is lost where this fails.
        let _ = self.file.close().await;
    }
}
