//! The Byzantine replica of a walk: makes every message that it can sign, out of those that left.

use std::sync::Arc;

use bft_core::config::ClusterConfig;
use bft_core::ids::{ReplicaId, Signature};
use bft_core::quorum::ReplicaSet;
use bft_core::wire::message::{self, Message, Position, PrePrepare, PreparedCertificate};
use bft_sim::rng::{Rng, Seed};
use bft_sim::scheme::LedgerScheme;
use bft_sim::villains::means::Means;

use super::names::{Names, core_view};
use super::network::Network;
use crate::agreement::{QUORUM, REPLICAS, Value, View};

/// See above.
pub struct Enemy {
    /// Its number.
    pub replica: usize,
    means: Means,
    config: Arc<ClusterConfig>,
}

impl Enemy {
    /// The replica that is `id` in the core.
    #[must_use]
    pub fn new(replica: usize, id: ReplicaId, config: &Arc<ClusterConfig>, scheme: &Arc<LedgerScheme>) -> Self {
        let fellows = ReplicaSet::EMPTY.with(id);
        let means = Means::new(id, Arc::clone(config), scheme.clone(), fellows, Seed::root(0));
        Self { replica, means, config: Arc::clone(config) }
    }

    /// Its PRE-PREPARE.
    #[must_use]
    pub fn proposal(&self, names: &Names, view: View, slot: usize, value: Value) -> Option<Message> {
        let (at, batch) = (names.position(view, slot, value)?, names.batch(value)?);
        let ballot = self.means.sign_proposal(&at);
        let body = Arc::clone(&batch.body);
        Some(Message::PrePrepare(PrePrepare { position: at, ballot, header: batch.header, body }))
    }

    /// Its PREPARE.
    #[must_use]
    pub fn prepare(&self, at: Position) -> Message {
        Message::Prepare(self.means.prepare(at))
    }

    /// Its COMMIT.
    #[must_use]
    pub fn commit(&self, at: Position) -> Message {
        Message::Commit(self.means.commit(at))
    }

    /// The prepared certificate for this, if it can be made.
    #[must_use]
    pub fn certificate(
        &self,
        names: &Names,
        network: &Network,
        (view, slot, value): (View, usize, Value),
    ) -> Option<PreparedCertificate> {
        let position = names.position(view, slot, value)?;
        let primary = view.primary();
        let proposal = match network.votes.get(&(primary, view, slot, value)) {
            Some(Message::PrePrepare(proposal)) => proposal.ballot,
            _ if primary == self.replica => self.means.sign_proposal(&position),
            _ => return None,
        };
        let mut prepares = Vec::new();
        for replica in (0..REPLICAS).filter(|replica| *replica != primary) {
            if let Some(Message::Prepare(prepare)) = network.votes.get(&(replica, view, slot, value)) {
                prepares.push((prepare.replica, prepare.ballot));
            } else if replica == self.replica {
                prepares.push((names.id(replica), self.means.prepare(position).ballot));
            }
        }
        prepares.sort_unstable_by_key(|(replica, _)| *replica);
        prepares.truncate(QUORUM as usize - 1);
        let header = names.batch(value)?.header;
        (prepares.len() + 1 == QUORUM as usize).then_some(PreparedCertificate { position, header, proposal, prepares })
    }

    /// A VIEW-CHANGE with some of the certificates that there are.
    #[must_use]
    pub fn view_change(&self, rng: &mut Rng, names: &Names, network: &Network, view: View) -> Arc<message::ViewChange> {
        let mut prepared = Vec::new();
        for slot in 0..names.slots() {
            let places = (0..view.0).flat_map(|below| names.values().map(move |value| (View(below), slot, value)));
            let mut all: Vec<_> = places.filter_map(|at| self.certificate(names, network, at)).collect();
            if !all.is_empty() && rng.chance(700) {
                prepared.push(all.swap_remove(rng.below(all.len() as u64) as usize));
            }
        }
        let mut message = message::ViewChange {
            epoch: self.config.epoch(),
            view: core_view(view),
            replica: names.id(self.replica),
            certificate: None,
            prepared,
            signature: Signature::ZERO,
        };
        self.means.seal_view_change(&mut message);
        Arc::new(message)
    }

    /// A NEW-VIEW out of the VIEW-CHANGEs of a quorum, drawn, if there are so many.
    #[must_use]
    pub fn new_view(&self, rng: &mut Rng, names: &Names, network: &Network, view: View) -> Option<Message> {
        let sent = network.view_changes.iter().filter(|(of, _)| of.view == view).map(|(_, sent)| Arc::clone(sent));
        let mut members: Vec<_> = sent.collect();
        while members.len() >= QUORUM as usize {
            members.swap_remove(rng.below(members.len() as u64) as usize);
        }
        members.push(self.view_change(rng, names, network, view));
        members.sort_unstable_by_key(|member| member.replica);
        if members.len() < QUORUM as usize {
            return None;
        }
        let mut message = message::NewView {
            epoch: self.config.epoch(),
            view: core_view(view),
            view_changes: members,
            signature: Signature::ZERO,
        };
        self.means.seal_new_view(&mut message);
        Some(Message::NewView(Arc::new(message)))
    }
}
