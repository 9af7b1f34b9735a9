//! Committed batches that this replica lacks, from peers; and those that peers lack, from here (PROTOCOL §10 items 1 and
//! 2). What travels is a commit certificate with its body: whoever it comes from, it proves itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Replica;
use super::executing::{Ready, read_batch};
use crate::config::ClusterConfig;
use crate::door::{Effects, Halt, Lane, Now, To, Tuning};
use crate::ids::{LogPosition, Nanos, ReplicaId, Seq};
use crate::journal::record::{Committed, Record};
use crate::limits::{LOG_FRAME_BYTES, PRE_PREPARE_FRAME_SLACK};
use crate::ordering::Outbox;
use crate::ordering::pbft::Ignored;
use crate::ordering::pbft::retransmit::says;
use crate::ordering::pbft::slot::Slot;
use crate::quorum::{ReplicaSet, Weights};
use crate::wire::message::{CommitCertificate, CommittedSlot, Message, Status};

/// What an encoded certificate may take beside its body.
const CERTIFICATE_BYTES: usize = 8 * 1024;
/// Bodies in one LOG: with their certificates they fit its frame.
const LOG_BODY_BYTES: usize = LOG_FRAME_BYTES - PRE_PREPARE_FRAME_SLACK;

/// Slots that are fetched before they can be executed.
const FETCHED_AHEAD_MAX: u64 = 4096;

/// How many STATUS intervals an answer may take before another peer is asked, and before all are asked again: a peer that
/// says much and gives nothing must not keep the others from being asked.
const PATIENCE: u64 = 2;
const PATIENCE_WITH_TRIED: u64 = 8;

/// What is asked for, and what it is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One slot.
    Slot,
    /// Consecutive slots.
    Log,
}

/// What this replica lacks and what it gives.
#[derive(Debug)]
pub struct CatchUp {
    /// What each peer last said it has executed.
    claims: Vec<Seq>,
    /// Committed batches below the window that are not executed yet, as far as memory allows.
    backlog: BTreeMap<Seq, Ready>,
    backlog_bytes: usize,
    backlog_bytes_max: usize,
    /// Seqs whose records the journal could not give back.
    lost: BTreeSet<Seq>,
    /// The first Seq that is missing, and since when.
    missing: (Seq, Nanos),
    asked: Option<(Seq, Nanos)>,
    /// Who says that it has `missing`, and who of them was asked and gave nothing yet: the others come first.
    has: ReplicaSet,
    tried: ReplicaSet,
    /// Peers that no longer keep `missing`.
    refused_by: ReplicaSet,
    serving: BTreeMap<ReplicaId, Serving>,
    /// When each peer was last sent what its STATUS showed it to lack.
    resent: Vec<Option<Nanos>>,
}

/// An answer that waits for the journal.
#[derive(Debug)]
struct Serving {
    shape: Shape,
    slots: Vec<Part>,
}

/// One slot of an answer.
#[derive(Debug)]
struct Part {
    seq: Seq,
    certificate: Option<Arc<CommitCertificate>>,
    certificate_at: LogPosition,
    body: Option<Ready>,
    body_at: LogPosition,
}

impl CatchUp {
    /// Nothing missing yet, in a cluster of `n`.
    #[must_use]
    pub fn new(tuning: &Tuning, n: usize) -> Self {
        Self {
            claims: vec![Seq(0); n],
            backlog: BTreeMap::new(),
            backlog_bytes: 0,
            backlog_bytes_max: tuning.body_bytes,
            lost: BTreeSet::new(),
            missing: (Seq(0), Nanos(0)),
            asked: None,
            has: ReplicaSet::EMPTY,
            tried: ReplicaSet::EMPTY,
            refused_by: ReplicaSet::EMPTY,
            serving: BTreeMap::new(),
            resent: vec![None; n],
        }
    }

    /// Whether a blocking set says it has executed `seq`: what one liar boasts changes nothing here (T1, PF5).
    #[must_use]
    pub fn is_executed_by_others(&self, seq: Seq, weights: &Weights) -> bool {
        let peers = (0..).map(ReplicaId).zip(&self.claims);
        weights.is_blocking(peers.filter(|(_, claim)| **claim >= seq).map(|(peer, _)| peer).collect())
    }

    /// The highest Seq of which that is so.
    #[must_use]
    pub fn executed_by_others(&self, weights: &Weights) -> Seq {
        let claims = self.claims.iter().copied();
        claims.filter(|claim| self.is_executed_by_others(*claim, weights)).max().unwrap_or_default()
    }

    /// A committed batch below the window.
    #[must_use]
    pub fn backlog(&self, seq: Seq) -> Option<&Ready> {
        self.backlog.get(&seq)
    }

    /// The journal could not give back the batch of `seq`.
    pub fn lost(&mut self, seq: Seq) {
        self.lost.insert(seq);
    }

    /// Whether that is so.
    #[must_use]
    pub fn is_lost(&self, seq: Seq) -> bool {
        self.lost.contains(&seq)
    }

    /// `seq` was executed.
    pub fn executed(&mut self, seq: Seq) {
        self.lost.remove(&seq);
        if let Some(ready) = self.backlog.remove(&seq) {
            self.backlog_bytes -= ready.body.bytes().len();
        }
    }

    /// The state of `seq` came from others.
    pub fn jumped(&mut self, seq: Seq) {
        self.lost = self.lost.split_off(&seq.next());
        self.backlog = self.backlog.split_off(&seq.next());
        self.backlog_bytes = self.backlog.values().map(|ready| ready.body.bytes().len()).sum();
        self.asked = None;
    }

    /// The first Seq that was missing when a peer last said where it is, and since when.
    #[must_use]
    pub fn missing(&self) -> (Seq, Nanos) {
        self.missing
    }

    /// A slot leaves the window: what is committed there and not executed yet is kept.
    pub fn keep_committed(&mut self, executed: Seq, slot: &Slot) {
        if let (Some(certificate), Some(body)) = (&slot.committed, slot.committed_body())
            && slot.seq > executed
        {
            let (digest, body) = (certificate.position.digest, Arc::clone(body));
            self.insert(slot.seq, Ready { digest, header: certificate.header, body });
        }
    }

    /// Recounts. For the invariants.
    pub fn check(&self, tuning: &Tuning) {
        let bytes: usize = self.backlog.values().map(|ready| ready.body.bytes().len()).sum();
        assert_eq!(bytes, self.backlog_bytes, "the backlog is counted right");
        assert!(bytes <= self.backlog_bytes_max, "the backlog is bounded");
        assert!(self.serving.values().all(|serving| serving.slots.len() <= tuning.log_slots));
    }

    fn note_missing(&mut self, missing: Seq, now: Now) {
        self.missing = (missing, now.mono);
        self.refused_by = ReplicaSet::EMPTY;
        (self.has, self.tried) = (ReplicaSet::EMPTY, ReplicaSet::EMPTY);
    }

    /// Whether `peer`, who says that it has `missing`, may be asked for it now. Who has said that it is not kept there
    /// would say so again, and keep the others from being asked.
    fn may_ask(&self, peer: ReplicaId, now: Now, tuning: &Tuning) -> bool {
        let before = self.patience_before(peer, tuning);
        let (missing, _) = self.missing;
        let asked_lately = self.asked.is_some_and(|(seq, at)| seq == missing && now.mono.since(at) < before);
        !asked_lately && !self.refused_by.contains(peer)
    }

    /// Whether `peer` is sent again what its STATUS shows it to lack: not for one that comes sooner than a replica says so
    /// twice, or a few small messages could call for a hundred others each, as fast as they are sent (PF4).
    fn may_resend(&mut self, peer: ReplicaId, now: Now, tuning: &Tuning) -> bool {
        let resent = &mut self.resent[peer.index()];
        let may = resent.is_none_or(|at| now.mono.since(at) >= tuning.status_busy / 2);
        *resent = if may { Some(now.mono) } else { *resent };
        may
    }

    /// How long an answer may take before `peer` is asked, in nanoseconds: while somebody else who has it was never
    /// asked, a peer that was comes after all of them, however early it speaks.
    fn patience_before(&self, peer: ReplicaId, tuning: &Tuning) -> u64 {
        if !self.tried.contains(peer) {
            PATIENCE * tuning.status_busy
        } else if self.is_everybody_tried() {
            PATIENCE_WITH_TRIED * tuning.status_busy
        } else {
            PATIENCE * tuning.status_busy + PATIENCE * tuning.status_idle
        }
    }

    /// `peer` is asked. When everybody was, the next round begins, and in it the others come first again.
    fn ask(&mut self, peer: ReplicaId, missing: Seq, now: Now) {
        self.asked = Some((missing, now.mono));
        if self.is_everybody_tried() {
            self.tried = ReplicaSet::EMPTY;
        }
        self.tried.insert(peer);
    }

    fn is_everybody_tried(&self) -> bool {
        self.has.iter().all(|peer| self.tried.contains(peer) || self.refused_by.contains(peer))
    }

    /// Keeps a batch in memory if there is room; where there is none the journal gives it back in its turn.
    fn insert(&mut self, seq: Seq, ready: Ready) {
        let bytes = ready.body.bytes().len();
        if self.backlog_bytes + bytes > self.backlog_bytes_max {
            return;
        }
        self.backlog_bytes += bytes;
        if let Some(former) = self.backlog.insert(seq, ready) {
            self.backlog_bytes -= former.body.bytes().len();
        }
    }
}

impl Part {
    fn loads(&self) -> impl Iterator<Item = LogPosition> {
        let certificate = self.certificate.is_none().then_some(self.certificate_at);
        let body = self.body.is_none().then_some(self.body_at);
        certificate.into_iter().chain(body)
    }
}

impl Replica {
    /// Where a peer is: it gets what it lacks, and is asked for what we lack.
    pub(super) fn on_status(
        &mut self,
        now: Now,
        from: ReplicaId,
        status: &Status,
        out: &mut Effects,
    ) -> Result<(), Ignored> {
        if status.epoch != self.config.epoch() {
            return Err(Ignored::OtherView);
        }
        self.on_status_of_view(now, from, status, out);
        if self.catch_up.may_resend(from, now, &self.tuning) {
            self.pbft.retransmit(from, status, &mut Outbox::new(out, &mut self.last, &mut self.index));
            self.retransmit_checkpoints(from, status.stable, out);
            self.retransmit_snapshot_votes(from, status.snapshot, out);
        }
        self.catch_up.claims[from.index()] = status.executed;
        self.transfer.claims(from, status.snapshot);
        let missing = self.first_missing();
        if self.catch_up.missing.0 != missing {
            self.catch_up.note_missing(missing, now);
        }
        self.seek_when_gone(missing);
        let peer_has_it = status.executed >= missing || says(&status.committed, status.stable, missing) == Some(true);
        if peer_has_it {
            self.catch_up.has.insert(from);
            self.fetch_when_stuck(now, from, status.executed, out);
        }
        Ok(())
    }

    /// A peer asks for committed batches.
    pub(super) fn on_fetch(
        &mut self,
        from: ReplicaId,
        first: Seq,
        shape: Shape,
        out: &mut Effects,
    ) -> Result<(), Ignored> {
        self.transfer.goes_on(from);
        if first == Seq(0) || self.catch_up.serving.contains_key(&from) {
            return Err(Ignored::Duplicate);
        }
        if first <= self.index.base() {
            // An empty LOG says: not kept here any more.
            let message = Message::Log(Vec::new());
            Outbox::new(out, &mut self.last, &mut self.index).send(To::One(from), Lane::Bulk, message, LogPosition(0));
            return Ok(());
        }
        let slots = self.parts(first, shape);
        if slots.is_empty() {
            return Err(Ignored::NotNeeded);
        }
        let loads: BTreeSet<_> = slots.iter().flat_map(Part::loads).collect();
        loads.into_iter().for_each(|at| self.loading.begin(at, out));
        self.catch_up.serving.insert(from, Serving { shape, slots });
        self.answer_when_loaded(from, out);
        Ok(())
    }

    /// Committed batches from a peer.
    pub(super) fn on_log(
        &mut self,
        now: Now,
        from: ReplicaId,
        slots: Vec<CommittedSlot>,
        out: &mut Effects,
    ) -> Result<(), Ignored> {
        if slots.is_empty() {
            return self.on_not_kept(from);
        }
        let mut news = false;
        for slot in slots {
            news |= self.learn(slot, out);
        }
        if !news {
            return Err(Ignored::Duplicate);
        }
        self.catch_up.asked = None;
        self.execute_ready(out);
        let missing = self.first_missing();
        self.catch_up.note_missing(missing, now);
        // Far behind: the next part at once, from who has just given one.
        if self.catch_up.claims[from.index()] > missing.plus(self.config.params().window / 2) {
            self.fetch(now, from, missing, out);
        }
        Ok(())
    }

    /// A record was read back.
    pub(super) fn on_loaded(&mut self, at: LogPosition, record: Option<&Record>, out: &mut Effects) {
        self.loading.end(at);
        self.on_loaded_batch(at, record);
        self.on_loaded_body(at, record, out);
        self.on_loaded_report(at, record, out);
        let peers: Vec<_> = self.catch_up.serving.keys().copied().collect();
        for peer in peers {
            let serving = self.catch_up.serving.get_mut(&peer).expect("listed above");
            if let Some(unreadable) = serving.fill(at, record, &self.config) {
                serving.slots.truncate(unreadable);
            }
            self.answer_when_loaded(peer, out);
        }
        self.drop_when_unread(out);
    }

    /// The first Seq above what is executed that is not committed here.
    fn first_missing(&self) -> Seq {
        let mut seq = self.executing.last.next();
        while self.is_committed(seq) {
            seq = seq.next();
        }
        seq
    }

    fn fetch_when_stuck(&mut self, now: Now, from: ReplicaId, peer_executed: Seq, out: &mut Effects) {
        let (missing, since) = self.catch_up.missing;
        let patience = self.tuning.status_busy;
        let far_behind = peer_executed.0 > missing.0 + self.config.params().window / 2;
        if !far_behind && now.mono.since(since) < patience {
            return;
        }
        if self.catch_up.may_ask(from, now, &self.tuning) {
            self.fetch(now, from, missing, out);
        }
    }

    fn fetch(&mut self, now: Now, from: ReplicaId, missing: Seq, out: &mut Effects) {
        // What was fetched lies in the journal until its turn comes; it need not run far ahead of the execution.
        if missing.0 > self.executing.last.0 + FETCHED_AHEAD_MAX {
            return;
        }
        self.catch_up.ask(from, missing, now);
        let one = self.is_committed(missing.next());
        let message = if one { Message::FetchSlot(missing) } else { Message::FetchLog(missing) };
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        outbox.send(To::One(from), Lane::Control, message, LogPosition(0));
    }

    /// A peer keeps less than we need. If a blocking set says so, it is true, and there is no way back but the transfer of
    /// a snapshot.
    fn on_not_kept(&mut self, from: ReplicaId) -> Result<(), Ignored> {
        let (missing, _) = self.catch_up.missing;
        if self.catch_up.asked.is_none_or(|(seq, _)| seq != missing) {
            return Err(Ignored::Duplicate);
        }
        self.catch_up.asked = None;
        self.catch_up.refused_by.insert(from);
        self.seek_when_gone(missing);
        Ok(())
    }

    /// Nobody says again that `missing` is gone: while it is what is missing, it stays so. A transfer that has ended did not
    /// bring it, if it began for the sake of an earlier Seq.
    fn seek_when_gone(&mut self, missing: Seq) {
        if self.config.weights().is_blocking(self.catch_up.refused_by) {
            self.transfer.seek(missing);
        }
    }

    /// Takes one committed batch; says whether it was news.
    fn learn(&mut self, slot: CommittedSlot, out: &mut Effects) -> bool {
        let CommittedSlot { certificate, body } = slot;
        let (seq, digest) = (certificate.position.seq, certificate.position.digest);
        if seq <= self.executing.last || seq > self.pbft.stable().plus(self.config.params().window) {
            return false;
        }
        self.pbft.judge_committed(&certificate);
        self.compare_with_memory(&certificate, out);
        let news = match self.pbft.slot(seq) {
            Some(slot) if self.catch_up.is_lost(seq) && slot.is_committed_as(digest) => {
                let batch = certificate.position.batch();
                self.pbft.restore_committed_body(batch, Arc::clone(&body));
                Ok(true)
            }
            Some(_) => self.pbft.learn(&certificate, Arc::clone(&body)),
            None => self.learn_below_window(seq, &certificate, &body),
        };
        match news {
            Err(here) => {
                self.halt(Halt::TwoCommitted { seq, here, there: digest }, out);
                false
            }
            Ok(false) => false,
            Ok(true) => {
                self.counters.certificates_fetched += 1;
                let held = self.index.body(seq, digest).is_some() && !self.catch_up.is_lost(seq);
                let body = (!held).then(|| body.bytes().clone());
                let record = Record::Committed(Committed { certificate, body });
                Outbox::new(out, &mut self.last, &mut self.index).persist(record);
                self.catch_up.lost.remove(&seq);
                true
            }
        }
    }

    fn learn_below_window(
        &mut self,
        seq: Seq,
        certificate: &Arc<CommitCertificate>,
        body: &Arc<crate::wire::request::Body>,
    ) -> Result<bool, crate::ids::Digest> {
        if let Some(known) = self.catch_up.backlog(seq) {
            let same = known.digest == certificate.position.digest;
            return if same { Ok(false) } else { Err(known.digest) };
        }
        if self.is_committed(seq) {
            return Ok(false);
        }
        let ready = Ready { digest: certificate.position.digest, header: certificate.header, body: Arc::clone(body) };
        self.catch_up.insert(seq, ready);
        Ok(true)
    }

    /// Consecutive committed slots from `first` on, as far as they are here, readable, and fit one answer.
    fn parts(&self, first: Seq, shape: Shape) -> Vec<Part> {
        let count = match shape {
            Shape::Slot => 1,
            Shape::Log => self.tuning.log_slots,
        };
        let mut parts = Vec::new();
        let mut bytes = 0;
        for ahead in 0..count as u64 {
            let Some((part, body_len)) = self.part(first.plus(ahead)) else { break };
            bytes += body_len + CERTIFICATE_BYTES;
            if bytes > LOG_BODY_BYTES && !parts.is_empty() {
                break;
            }
            parts.push(part);
        }
        parts
    }

    fn part(&self, seq: Seq) -> Option<(Part, usize)> {
        let records = self.index.get(seq).filter(|_| !self.catch_up.is_lost(seq))?;
        let slot = self.pbft.slot(seq);
        let certificate = slot.and_then(|slot| slot.committed.clone());
        let body = self.committed_batch(seq);
        let readable = |at: LogPosition| at != LogPosition(0) && at <= self.durable;
        let known = records.committed != LogPosition(0);
        let certificate_is_had = certificate.is_some() || readable(records.committed);
        let body_is_had = body.is_some() || readable(records.body);
        let part = Part { seq, certificate, certificate_at: records.committed, body, body_at: records.body };
        (known && certificate_is_had && body_is_had).then_some((part, records.body_len as usize))
    }

    fn answer_when_loaded(&mut self, peer: ReplicaId, out: &mut Effects) {
        let Some(serving) = self.catch_up.serving.get(&peer) else { return };
        if serving.slots.iter().any(|part| part.loads().next().is_some()) {
            return;
        }
        let Serving { shape, slots } = self.catch_up.serving.remove(&peer).expect("looked at above");
        self.counters.certificates_served += slots.len() as u64;
        let mut slots: Vec<_> = slots.into_iter().filter_map(Part::into_slot).collect();
        let message = match shape {
            Shape::Slot => slots.pop().map(Message::Slot),
            Shape::Log => (!slots.is_empty()).then_some(Message::Log(slots)),
        };
        if let Some(message) = message {
            Outbox::new(out, &mut self.last, &mut self.index).send(To::One(peer), Lane::Bulk, message, LogPosition(0));
        }
    }
}

impl Serving {
    /// Puts a record that was read back where it is waited for; gives the index of the first slot that it spoils.
    fn fill(&mut self, at: LogPosition, record: Option<&Record>, config: &ClusterConfig) -> Option<usize> {
        let mut unreadable = None;
        for (index, part) in self.slots.iter_mut().enumerate() {
            if part.certificate.is_none() && part.certificate_at == at {
                part.certificate = match record {
                    Some(Record::Committed(committed)) if committed.certificate.position.seq == part.seq => {
                        Some(Arc::clone(&committed.certificate))
                    }
                    _ => None,
                };
                if part.certificate.is_none() {
                    unreadable.get_or_insert(index);
                }
            }
            if part.body.is_none() && part.body_at == at {
                part.body = record.and_then(|record| read_batch(record, config));
                if part.body.is_none() {
                    unreadable.get_or_insert(index);
                }
            }
        }
        unreadable
    }
}

impl Part {
    fn into_slot(self) -> Option<CommittedSlot> {
        let certificate = self.certificate?;
        assert_eq!(certificate.position.seq, self.seq, "the index leads to the right record");
        let body = self.body.filter(|body| body.digest == certificate.position.digest)?;
        Some(CommittedSlot { certificate, body: body.body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t3_a_peer_that_speaks_first_and_gives_nothing_does_not_keep_the_others_from_being_asked() {
        let tuning = Tuning::default();
        let mut catch_up = CatchUp::new(&tuning, 4);
        let (first, second, missing) = (ReplicaId(1), ReplicaId(2), Seq(5));
        let at = |nth: u64| Now { mono: Nanos(nth * tuning.status_idle), ..Now::default() };
        catch_up.note_missing(missing, at(0));
        catch_up.has = ReplicaSet::EMPTY.with(first).with(second);
        // Both speak once in an interval, always in this order.
        let mut asked = Vec::new();
        for nth in 1..=6 {
            for peer in [first, second] {
                if catch_up.may_ask(peer, at(nth), &tuning) {
                    catch_up.ask(peer, missing, at(nth));
                    asked.push(peer);
                }
            }
        }
        assert!(asked.iter().filter(|peer| **peer == second).count() >= 3, "{asked:?}");
        catch_up.refused_by.insert(first);
        assert!(!catch_up.may_ask(first, at(9), &tuning), "it said that it does not keep it");
        assert!(catch_up.may_ask(second, at(9), &tuning));
    }
}
