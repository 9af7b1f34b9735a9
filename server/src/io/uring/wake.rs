//! Wakes one task from another of the same executor.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Set by any task, awaited by one.
#[derive(Debug, Default)]
pub struct Notice {
    is_set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Notice {
    /// Wakes whoever waits; if nobody does, the next to wait does not.
    pub fn give(&self) {
        if !self.is_set.replace(true)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Waits until it was given since the last wait.
    pub async fn taken(&self) {
        poll_fn(|context| {
            if self.is_set.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
