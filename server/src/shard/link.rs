//! One link: its handshake, or what it has become, and what waits to be written to it.

use std::net::IpAddr;

use bft_core::ids::{Nanos, PublicKey};
use bft_core::wire::frame::FrameCutter;
use bft_link::{Channel, Handshake, Peer};

use super::REPLICA_SILENCE;
use super::fault::Fault;
use super::queue::SendQueue;

pub(super) struct Link {
    pub(super) origin: Option<IpAddr>,
    pub(super) state: State,
    /// Handshake output: goes before everything that is sealed.
    pub(super) clear: Vec<u8>,
    pub(super) queue: SendQueue,
    pub(super) heard: Nanos,
    pub(super) is_dirty: bool,
}

pub(super) enum State {
    Handshake { handshake: Box<Handshake>, until: Nanos },
    Up(Box<Up>),
}

pub(super) struct Up {
    pub(super) peer: Peer,
    pub(super) channel: Channel,
    pub(super) cutter: FrameCutter,
    pub(super) keys: Vec<PublicKey>,
}

impl Link {
    pub(super) fn new(origin: Option<IpAddr>, state: State, now: Nanos) -> Self {
        Self { origin, state, clear: Vec::new(), queue: SendQueue::default(), heard: now, is_dirty: false }
    }

    pub(super) fn forgive(&mut self, ns: u64) {
        self.heard = self.heard.after(ns);
        match &mut self.state {
            State::Handshake { until, .. } => *until = until.after(ns),
            State::Up(_) => {}
        }
    }

    pub(super) fn is_client(&self) -> bool {
        match &self.state {
            State::Handshake { .. } => false,
            State::Up(up) => up.peer.replica.is_none(),
        }
    }

    pub(super) fn overdue(&self, now: Nanos) -> Option<Fault> {
        match &self.state {
            State::Handshake { until, .. } => (now >= *until).then_some(Fault::Slow),
            State::Up(up) => {
                let is_silent = up.peer.replica.is_some() && now.since(self.heard) > REPLICA_SILENCE;
                is_silent.then_some(Fault::Silent)
            }
        }
    }
}
