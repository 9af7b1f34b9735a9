//! The executor's side of its doorbell: a read of the eventfd that is always pending.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::sync::Arc;

use glommio::io::BufferedFile;

use crate::io::doorbell::Doorbell;

/// Hears the bell of one executor.
pub struct Listener {
    bell: Arc<Doorbell>,
    file: BufferedFile,
}

impl Listener {
    /// Belongs to the executor that calls this.
    pub fn new(bell: Arc<Doorbell>) -> io::Result<Self> {
        let own = bell.event().try_clone_to_owned()?;
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
        self.bell.heard();
        Ok(())
    }

    /// Gives the descriptor back.
    pub async fn close(self) {
        // It was only read from: nothing is lost where this fails.
        let _ = self.file.close().await;
    }
}
