//! Evidence that is kept: one piece for each deed, on disk and in memory, told to people once, to all peers when it is
//! durable, and to each whose link comes up later (PROTOCOL §15). It changes nothing of who may vote: removing a replica
//! is for people to decide. A primary that is proved to have lied in its view loses that view.
//!
//! Kept here: of one accused at most `EVIDENCE_PER_ACCUSED` pieces and its share of `EVIDENCE_BYTES`. Only who is faulty
//! can be accused, so a share for each that may be is enough. What finds no room is acted upon, counted and not kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Replica;
use crate::config::ClusterConfig;
use crate::door::{Effects, Lane, Now, To};
use crate::evidence::{Accusation, Accused, Evidence};
use crate::ids::{LogPosition, Nanos, ReplicaId, View};
use crate::journal::record::Record;
use crate::limits::{EVIDENCE_BYTES, EVIDENCE_PER_ACCUSED, EVIDENCE_TELL_INTERVAL, evidence_share_bytes};
use crate::ordering::Outbox;
use crate::ordering::pbft::Ignored;
use crate::quorum::ReplicaSet;
use crate::wire::message::Message;

/// Views to come whose primaries are known to have lied in them.
const CONDEMNED_MAX: usize = 64;

/// What is kept.
#[derive(Debug, Default)]
pub struct Accusations {
    kept: BTreeMap<Accused, Kept>,
    /// Of all of them, in canonical bytes.
    bytes: usize,
    /// Views, from the present one on, that cannot go on.
    condemned: BTreeSet<View>,
    /// Peers whose link came up since they were told all of it.
    untold: ReplicaSet,
    /// When each peer was last told all of it.
    told: BTreeMap<ReplicaId, Nanos>,
}

#[derive(Debug)]
struct Kept {
    evidence: Arc<Evidence>,
    bytes: usize,
    /// The newest record of it.
    at: LogPosition,
}

impl Accusations {
    /// Whether the primary of `view` is proved to have lied in it.
    #[must_use]
    pub fn condemns(&self, view: View) -> bool {
        self.condemned.contains(&view)
    }

    /// Those whose records lie below `cut`: their new ones are those that `copy` makes.
    pub fn carry_over(&mut self, cut: LogPosition, mut copy: impl FnMut(Arc<Evidence>) -> LogPosition) {
        for kept in self.kept.values_mut().filter(|kept| kept.at < cut) {
            kept.at = copy(Arc::clone(&kept.evidence));
        }
    }

    /// The link of `peer` came up: what was told before may not have reached it.
    pub fn owe(&mut self, peer: ReplicaId) {
        self.untold.insert(peer);
    }

    /// Recounts. For the invariants.
    pub fn check(&self) {
        let bytes: usize = self.kept.values().map(|kept| kept.bytes).sum();
        assert_eq!(bytes, self.bytes, "evidence is counted right");
        assert!(bytes <= EVIDENCE_BYTES && self.condemned.len() <= CONDEMNED_MAX, "evidence is bounded");
    }

    fn has_room(&self, config: &ClusterConfig, accused: &Accused, bytes: usize) -> bool {
        let of_one = self.kept.iter().filter(|(known, _)| known.replica == accused.replica);
        let (count, used) = of_one.fold((0, 0), |(count, used), (_, kept)| (count + 1, used + kept.bytes));
        count < EVIDENCE_PER_ACCUSED
            && used + bytes <= evidence_share_bytes(config.n())
            && self.bytes + bytes <= EVIDENCE_BYTES
    }

    fn insert(&mut self, accused: Accused, evidence: Arc<Evidence>, bytes: usize, at: LogPosition) {
        self.bytes += bytes;
        if let Some(former) = self.kept.insert(accused, Kept { evidence, bytes, at }) {
            self.bytes -= former.bytes;
        }
    }

    fn condemn(&mut self, accused: &Accused, present: View) {
        self.condemned = self.condemned.split_off(&present);
        if accused.kind.is_of_primary() && accused.view >= present {
            self.condemned.insert(accused.view);
        }
        if self.condemned.len() > CONDEMNED_MAX {
            self.condemned.pop_last();
        }
    }
}

impl Replica {
    /// What the step has proved.
    pub(super) fn accuse_proved(&mut self, out: &mut Effects) {
        for proof in self.pbft.take_proofs() {
            let evidence = Arc::new(Evidence::new(&self.config, proof));
            if let Err(ignored) = self.accuse(evidence, out) {
                self.counters.ignore(ignored);
            }
        }
    }

    /// EVIDENCE of a peer, or what a refused message proved: checked by the verifier.
    pub(super) fn on_evidence(&mut self, evidence: Arc<Evidence>, out: &mut Effects) -> Result<(), Ignored> {
        self.accuse(evidence, out)
    }

    /// Evidence read back from the journal.
    pub(super) fn restore_evidence(&mut self, at: LogPosition, evidence: Arc<Evidence>) {
        let accused = evidence.accused(&self.config);
        let bytes = evidence.encode().len();
        self.accusations.condemn(&accused, self.pbft.view());
        self.accusations.insert(accused, evidence, bytes, at);
    }

    /// At the end of a start: tells again what was kept, because the last life may have ended before it was told.
    pub(super) fn tell_evidence(&mut self, out: &mut Effects) {
        self.counters.evidence = self.accusations.kept.len() as u64;
        let all = self.accusations.kept.iter();
        out.evidence
            .extend(all.map(|(accused, kept)| Accusation { accused: *accused, evidence: Arc::clone(&kept.evidence) }));
    }

    /// To peers whose links came up, what is kept. A peer whose link comes and goes gets it no more often than every
    /// `EVIDENCE_TELL_INTERVAL`: it may be two mebibytes.
    pub(super) fn tell_evidence_to_peers(&mut self, now: Now, out: &mut Effects) {
        let accusations = &mut self.accusations;
        if accusations.kept.is_empty() {
            return;
        }
        for peer in self.config.replicas() {
            let is_due = accusations.told.get(&peer).is_none_or(|at| now.mono >= at.after(EVIDENCE_TELL_INTERVAL));
            if !is_due || !self.peers.contains(peer) || !accusations.untold.contains(peer) {
                continue;
            }
            accusations.untold.remove(peer);
            accusations.told.insert(peer, now.mono);
            let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
            for Kept { evidence, at, .. } in accusations.kept.values() {
                outbox.send(To::One(peer), Lane::Bulk, Message::Evidence(Arc::clone(evidence)), *at);
            }
        }
    }

    fn accuse(&mut self, evidence: Arc<Evidence>, out: &mut Effects) -> Result<(), Ignored> {
        let accused = evidence.accused(&self.config);
        self.accusations.condemn(&accused, self.pbft.view());
        if self.accusations.kept.contains_key(&accused) {
            return Err(Ignored::Duplicate);
        }
        let bytes = evidence.encode().len();
        if !self.accusations.has_room(&self.config, &accused, bytes) {
            self.counters.evidence_dropped += 1;
            return Err(Ignored::MemoryFull);
        }
        self.counters.evidence += 1;
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        let at = outbox.persist(Record::Evidence(Arc::clone(&evidence)));
        outbox.send(To::All, Lane::Bulk, Message::Evidence(Arc::clone(&evidence)), at);
        out.evidence.push(Accusation { accused, evidence: Arc::clone(&evidence) });
        self.accusations.insert(accused, evidence, bytes, at);
        Ok(())
    }
}
