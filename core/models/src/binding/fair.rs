//! What follows a walk when nothing is lost any more: every message arrives, disks write, clocks run, the Byzantine replica
//! is silent. From wherever the walk came to, the correct replicas must come to a view in which they order what is asked
//! of all of them.

use std::collections::VecDeque;

use bft_core::door::{Input, Outgoing, To};
use bft_core::limits::VIEW_TIMEOUT_MAX;

use super::host::Out;
use super::{Diverged, REPLICAS, Walk};

/// How long that may take: a few of the longest timeouts.
const PATIENCE: u64 = 10 * VIEW_TIMEOUT_MAX;

impl Walk {
    /// See above.
    pub(super) fn go_on_fairly(&mut self) -> Result<(), Diverged> {
        let mut queue = VecDeque::new();
        for replica in self.correct() {
            let checked = self.verifier.check_requests(vec![self.last_request.clone()]).0;
            queue.push_back((replica, Input::Requests(checked)));
        }
        let end = self.now + PATIENCE;
        while !self.is_settled() {
            while let Some((to, input)) = queue.pop_front() {
                self.carry(to, input, &mut queue)?;
            }
            let next = self.correct().into_iter().min_by_key(|replica| self.host(*replica).deadline);
            let next = next.expect("three are correct");
            self.now = self.host(next).deadline.0.max(self.now);
            if self.now > end {
                return Err(Diverged(format!(
                    "nothing is lost, and what was asked is not ordered: {}",
                    self.whereabouts()
                )));
            }
            queue.push_back((next, Input::Deadline));
        }
        Ok(())
    }

    fn carry(&mut self, to: usize, input: Input, queue: &mut VecDeque<(usize, Input)>) -> Result<(), Diverged> {
        let now = self.now;
        let host = self.host(to);
        let out = host.step(now, input)?;
        let flushed = if host.durable() < host.last() { host.flush(now, host.last())? } else { Out::default() };
        for Outgoing { to: receiver, message, .. } in out.left.into_iter().chain(flushed.left) {
            for peer in self.correct().into_iter().filter(|peer| *peer != to) {
                if receiver == To::All || receiver == To::One(self.names.id(peer)) {
                    let from = self.names.id(to);
                    let checked = self.verifier.check(from, message.clone());
                    let message =
                        checked.map_err(|why| Diverged(format!("a message of {from} is refused: {why:?}")))?;
                    queue.push_back((peer, Input::Message { from, message }));
                }
            }
        }
        Ok(())
    }

    /// What was asked is ordered, as everybody knows.
    fn is_settled(&self) -> bool {
        let asked = self.last_request.entry.digest;
        self.hosts.iter().flatten().all(|host| host.has_ordered(asked))
    }

    fn correct(&self) -> Vec<usize> {
        (0..REPLICAS).filter(|replica| *replica != self.enemy.replica).collect()
    }

    fn whereabouts(&self) -> String {
        let place = |replica: &bft_core::replica::Replica| {
            let core = replica.ordering();
            let (stay, waits) = (if core.is_normal() { "in" } else { "on its way to" }, replica.pool_fill().0);
            let (executed, open) = (replica.executed(), core.in_flight());
            format!("{stay} {}, executed {executed}, {open} batches open, {waits} bytes wait", core.view())
        };
        let places: Vec<_> = self.hosts.iter().flatten().map(|host| place(&host.replica)).collect();
        places.join("; ")
    }
}
