//! What goes out over links: frames in bounded queues, sealed when their socket can take them.

use bft_core::door::{Answer, Lane, To};
use bft_core::ids::{LinkId, Nanos};
use bft_core::limits;
use bft_core::wire::archive::encode;
use bft_core::wire::message::Message;
use bft_link::{Channel, RECORD_PLAINTEXT_MAX};
use bytes::Bytes;

use super::Shard;
use super::fault::Fault;
use super::link::State;
use super::queue::{self, Frame, SendQueue};

/// New memory for encoded frames.
const ENCODE_BYTES: usize = 64 * 1024;

impl Shard {
    /// An encoded frame for replicas whose links are here.
    pub fn send(&mut self, now: Nanos, to: To, lane: Lane, frame: Bytes) {
        let frame = self.budget.frame(frame);
        match to {
            To::All => {
                for index in 0..self.peers.len() {
                    self.send_to(now, index, lane, &frame);
                }
            }
            To::One(peer) => self.send_to(now, peer.index(), lane, &frame),
        }
    }

    /// An answer for a client's link. It waits in the lane of ordering: a client that does not read loses answers, and
    /// asks again.
    pub fn answer(&mut self, now: Nanos, link: LinkId, mut answer: Answer) {
        let Some(State::Up(up)) = self.links.get(&link).map(|held| &held.state) else { return };
        if let Answer::Info(info) = &mut answer {
            info.sealed = up.channel.name().into();
        }
        let message = Message::from(answer);
        if self.encoded.capacity() < ENCODE_BYTES / 16 {
            self.encoded.reserve(ENCODE_BYTES);
        }
        encode(&message, self.setup.config.epoch(), &mut self.encoded);
        let frame = self.budget.frame(self.encoded.split().freeze());
        self.enqueue(now, link, Lane::Ordering, frame);
    }

    /// Appends sealed bytes for a link until `out` holds `most` or nothing waits.
    pub fn write(&mut self, link: LinkId, out: &mut Vec<u8>, most: usize) {
        let Some(held) = self.links.get_mut(&link) else { return };
        held.is_dirty = false;
        let before = out.len();
        out.append(&mut held.clear);
        if let State::Up(up) = &mut held.state {
            seal(&mut held.queue, &mut up.channel, &mut self.plain, out, most);
        }
        if held.queue.bytes() > 0 {
            held.is_dirty = true;
            self.dirty.push(link);
        }
        self.counters.bytes_sent.add((out.len() - before) as u64);
    }

    /// Whether anything waits to be written.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.links.values().any(|held| !held.clear.is_empty() || held.queue.bytes() > 0)
    }

    fn send_to(&mut self, now: Nanos, index: usize, lane: Lane, frame: &Frame) {
        if let Some(link) = self.peers[index] {
            self.enqueue(now, link, lane, frame.clone());
        }
    }

    fn enqueue(&mut self, now: Nanos, link: LinkId, lane: Lane, frame: Frame) {
        let Some(held) = self.links.get_mut(&link) else { return };
        match held.queue.push(lane, frame, limits::SEND_QUEUE_BYTES_PER_PEER) {
            Ok(dropped) => {
                self.counters.frames_sent.add(1);
                self.counters.frames_dropped.add(dropped);
                self.mark(link);
                self.shed();
            }
            Err(queue::Stuck) => self.fail(now, link, &Fault::Stuck),
        }
    }

    /// Keeps what all links hold together inside this shard's part of the bound: the fullest queue gives first.
    fn shed(&mut self) {
        let most = limits::SEND_QUEUE_BYTES / usize::from(self.setup.shards);
        while self.budget.used() > most {
            let fullest = self.links.values_mut().max_by_key(|held| held.queue.bytes());
            if !fullest.is_some_and(|held| held.queue.shed()) {
                return;
            }
            self.counters.frames_dropped.add(1);
        }
    }

    pub(super) fn mark(&mut self, link: LinkId) {
        let held = self.links.get_mut(&link).expect("the caller has it");
        if !std::mem::replace(&mut held.is_dirty, true) {
            self.dirty.push(link);
        }
    }
}

/// Seals frames together while they fit one record; a frame longer than that goes by itself, uncopied.
fn seal(queue: &mut SendQueue, channel: &mut Channel, plain: &mut Vec<u8>, out: &mut Vec<u8>, most: usize) {
    plain.clear();
    while out.len() + plain.len() < most {
        let Some(frame) = queue.pop() else { break };
        let bytes = frame.bytes();
        if plain.len() + bytes.len() > RECORD_PLAINTEXT_MAX && !plain.is_empty() {
            channel.seal(plain, out);
            plain.clear();
        }
        if bytes.len() > RECORD_PLAINTEXT_MAX {
            channel.seal(bytes, out);
        } else {
            plain.extend_from_slice(bytes);
        }
    }
    if !plain.is_empty() {
        channel.seal(plain, out);
    }
}
