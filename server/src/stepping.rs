//! What the ordering loop steps: a replica. Tests put something before it that changes what it hears and says; nothing that
//! is configured does. Here is the seam alone; whoever stands there is elsewhere.

use bft_core::door::{Effects, Input, Now};
use bft_core::replica::Replica;

/// A core as the ordering loop knows it.
pub trait Stepped {
    /// One step: the contract is that of [`bft_core::door`].
    fn step(&mut self, now: Now, input: Input, effects: &mut Effects);

    /// The replica in it, to be asked how it is.
    fn replica(&self) -> &Replica;
}

impl Stepped for Replica {
    fn step(&mut self, now: Now, input: Input, effects: &mut Effects) {
        Self::step(self, now, input, effects);
    }

    fn replica(&self) -> &Replica {
        self
    }
}

/// Makes of a replica that was read back what is stepped, and sees what its recovery wants done. Called once, on the thread
/// of the core.
pub type Seat = Box<dyn FnOnce(Replica, &mut Effects) -> Box<dyn Stepped>>;

/// The replica itself.
#[must_use]
pub fn plain() -> Seat {
    Box::new(|replica, _| Box::new(replica))
}
