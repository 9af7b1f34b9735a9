//! What a villain says where its core sent one message: nothing, that message, others, to whom and when.

use bft_core::ids::ReplicaId;
use bft_core::wire::message::Message;

/// One message of a villain.
#[derive(Debug)]
pub struct Line {
    /// For whom; `None`: for whom the core's message was.
    pub to: Option<ReplicaId>,
    /// How many nanoseconds later than the core's it leaves.
    pub delay: u64,
    /// What it says.
    pub message: Message,
    /// Whether the core made it, or the villain.
    pub by: By,
}

/// Who made a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The core.
    Core,
    /// The villain: the wire may refuse it.
    Villain,
}

/// The lines that wait to be sent, and misdeeds.
#[derive(Debug, Default)]
pub struct Said {
    lines: Vec<Line>,
    pub(super) misdeeds: u64,
}

impl Said {
    /// The core's message goes where it should.
    pub fn truth(&mut self, message: Message) {
        self.lines.push(Line { to: None, delay: 0, message, by: By::Core });
    }

    /// A message of the villain's goes to whom the core's was for.
    pub fn lie(&mut self, message: Message) {
        self.misdeeds += 1;
        self.lines.push(Line { to: None, delay: 0, message, by: By::Villain });
    }

    /// The same lie, to somebody else.
    pub fn lie_to(&mut self, peer: ReplicaId, message: Message) {
        self.misdeeds += 1;
        self.lines.push(Line { to: Some(peer), delay: 0, message, by: By::Villain });
    }

    /// The core's message goes where it should, later.
    pub fn later(&mut self, delay: u64, message: Message) {
        self.misdeeds += 1;
        self.lines.push(Line { to: None, delay, message, by: By::Core });
    }

    /// The core's message goes nowhere.
    pub fn nothing(&mut self) {
        self.misdeeds += 1;
    }

    /// Takes the lines, in their order.
    pub fn drain(&mut self) -> impl Iterator<Item = Line> {
        self.lines.drain(..)
    }
}
