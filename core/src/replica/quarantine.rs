//! A replica that executed the same order as the others and came to something else (PROTOCOL §7, PITFALLS K4): its service is
//! not deterministic, or its memory or disk is at fault. It stops answering and voting, finds out and tells where it began to
//! differ, goes back to a state that a quorum has signed, executes again from there, and comes back when its checkpoint agrees.
//!
//! Kept here: nothing is thrown away before the superblock says that this replica is in quarantine, and a restart does not end
//! it; what it signed up to [`disowned_through`](crate::journal::Superblock::disowned_through) it never signs otherwise (P5);
//! what a report calls the first Seq that differs follows from a root that a blocking set signed, and from no single peer's
//! word; who differs again after its repair waits, longer each time, until the others' snapshot has left the place behind.

use std::sync::Arc;

use super::Replica;
use super::executing::{Ready, read_batch};
use super::sessions::Sessions;
use super::trail::{self, Executed};
use crate::divergence::{
    Alarm, Came, Disagreement, Finding, OperationTold, Operations, Report, SlotDiffers, Unnamed, What,
};
use crate::door::{Effects, FileOrder, Lane, Now, To};
use crate::hash::{Context, hash};
use crate::ids::{Digest, LogPosition, Nanos, ReplicaId, Seq};
use crate::journal::record::Record;
use crate::limits::{REPAIR_PAUSE, REPAIR_PAUSE_MAX, REPORT_OPERATIONS_MAX, REPORT_PIECES_MAX};
use crate::ordering::Outbox;
use crate::ordering::pbft::Ignored;
use crate::quorum::ReplicaSet;
use crate::snapshot::{ClientsImage, Manifest};
use crate::wire::message::{Message, StableSnapshot, Trail};
use crate::wire::request::Body;

/// STATUS intervals that peers may take to give what is compared, before the report does without; and before they are asked
/// again.
const INQUIRY_PATIENCE: u64 = 40;
const ASK_PATIENCE: u64 = 8;

/// Where a replica in quarantine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuarantinePhase {
    /// It executes nothing: its state is not to be trusted.
    Stopped,
    /// It executes from an agreed state on, and compares.
    Executing,
}

/// A replica in quarantine, to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InQuarantine {
    /// Where it is.
    pub phase: QuarantinePhase,
    /// Its checkpoint must agree at a later Seq than this before it votes again.
    pub through: Seq,
    /// How often it differed again after going back to an agreed state.
    pub repeated: u32,
}

/// What a replica knows of differences between itself and others.
#[derive(Debug, Default)]
pub struct Quarantine {
    phase: Phase,
    repeated: u32,
    inquiry: Option<Inquiry>,
    /// A snapshot of this Seq or a later one leaves behind what went wrong here.
    beyond: Seq,
    /// When it may go back and execute the same again; `None`: not decided yet.
    next_try: Option<Nanos>,
    /// The own newest stable snapshot cannot be read back.
    own_is_damaged: bool,
    /// The last Seq at which this replica's state is known to have agreed with a quorum's.
    agreed: Seq,
    /// The highest checkpoint of which nobody can agree that was told.
    alarmed: Seq,
    /// When each peer was last given a trail.
    served: Vec<Option<Nanos>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Trusted,
    Stopped,
    /// The own snapshot of this Seq is being read back.
    Rereading(Seq),
    Executing,
}

/// A report that is being made.
#[derive(Debug)]
struct Inquiry {
    report: Report,
    question: Question,
    began: Option<Nanos>,
    asked: Option<Nanos>,
    /// How often, to ask another peer each time.
    asks: usize,
}

#[derive(Debug)]
enum Question {
    /// The trail to a checkpoint, which must end in this; `None`: no blocking set says yet in what.
    Trail { seq: Seq, end: Option<End> },
    /// The batch at the Seq that was found, from the journal.
    Batch { at: LogPosition, slot: Box<SlotDiffers> },
    /// The manifests of both snapshots.
    Pieces { here: Option<Arc<Manifest>>, there: Option<Arc<Manifest>> },
}

/// What a trail must end in.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The checkpoint's root.
    Root(Digest),
    /// The value of the `exec` chain that the next interval's trail began with.
    Exec(Digest),
}

impl Quarantine {
    /// At the start of a process, from the state of `agreed`.
    #[must_use]
    pub fn new(n: usize, is_quarantined: bool) -> Self {
        let phase = if is_quarantined { Phase::Executing } else { Phase::Trusted };
        Self { phase, served: vec![None; n], ..Self::default() }
    }

    /// The state comes from a snapshot that a quorum signed, or from the beginning.
    pub fn agreed(&mut self, seq: Seq) {
        self.agreed = seq;
    }

    /// The own newest stable snapshot cannot be read back at a start: nothing differs, but there is no state to go on from.
    pub fn begin_without_state(&mut self) {
        self.phase = Phase::Stopped;
        self.own_is_damaged = true;
    }

    /// Whether nothing is being compared for a report.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.inquiry.is_none()
    }

    /// Whether the present state is not to be trusted.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        match self.phase {
            Phase::Stopped | Phase::Rereading(_) => true,
            Phase::Trusted | Phase::Executing => false,
        }
    }

    /// Whether the own newest stable snapshot is one that cannot be read back, and no other has taken its place.
    #[must_use]
    pub fn is_own_damaged(&self) -> bool {
        self.own_is_damaged
    }
}

impl Replica {
    /// Whether this replica is in quarantine, and where.
    #[must_use]
    pub fn quarantine(&self) -> Option<InQuarantine> {
        let phase = if self.quarantine.is_suspect() { QuarantinePhase::Stopped } else { QuarantinePhase::Executing };
        let (through, repeated) = (self.superblock.disowned_through, self.quarantine.repeated);
        self.superblock.quarantined.then_some(InQuarantine { phase, through, repeated })
    }

    /// Whether the state was lost with the snapshot that held it: nothing is executed until a signed one is here again. The
    /// votes are not: the replica goes on ordering.
    #[must_use]
    pub fn awaits_state(&self) -> bool {
        self.quarantine.is_suspect() && !self.superblock.quarantined
    }

    /// The last Seq whose state is here, to go on from.
    pub(super) fn sound_through(&self) -> Seq {
        match (self.quarantine.is_suspect(), self.quarantine.own_is_damaged) {
            (false, _) => self.executing.last,
            (true, false) => self.stable_snapshot(),
            (true, true) => Seq(0),
        }
    }

    /// Whether a checkpoint or snapshot at `seq` may be signed: nothing else can have been signed there, its peers have
    /// said what they hold of this replica (D11), and it stands by its state.
    pub(super) fn may_sign(&self, seq: Seq) -> bool {
        let stands_by = !self.superblock.quarantined && seq > self.superblock.disowned_through;
        self.is_sworn_in()
            && seq > self.superblock.damaged_through
            && crate::mutant!(M64SignsWhereDisowned, stands_by, true)
    }

    /// This replica came to `here` at `seq`, and a blocking set, or it itself before, came to `there`.
    pub(super) fn differ(&mut self, what: What, seq: Seq, here: Digest, there: Option<Digest>, out: &mut Effects) {
        if self.quarantine.is_suspect() {
            return;
        }
        self.counters.divergences += 1;
        let again = self.superblock.quarantined;
        self.quarantine.repeated = if again { self.quarantine.repeated + 1 } else { 0 };
        self.quarantine.phase = Phase::Stopped;
        self.quarantine.next_try = None;
        self.quarantine.beyond = seq;
        self.superblock.quarantined = true;
        let signed = self.checkpoints.highest_signed().max(self.snapshots.highest_signed());
        self.superblock.disowned_through = self.superblock.disowned_through.max(seq).max(signed);
        Outbox::new(out, &mut self.last, &mut self.index).persist_superblock(self.superblock.clone());
        self.pbft.quarantine();
        if self.snapshots.drop_held() {
            self.executing.resume();
        }
        self.inquire(what, (seq, here, there), out);
    }

    /// Begins to find out what differs: nothing is given up before that is told, or has taken too long.
    fn inquire(&mut self, what: What, found: (Seq, Digest, Option<Digest>), out: &mut Effects) {
        let (seq, here, there) = found;
        let after = match what {
            What::Checkpoint | What::Replay => self.quarantine.agreed,
            What::Snapshot | What::ReplayedSnapshot => self.stable_snapshot(),
        };
        let report = Report {
            replica: self.me,
            epoch: self.config.epoch(),
            what,
            seq,
            here,
            there,
            roots: self.roots_at(what, seq, here),
            repeated: self.quarantine.repeated,
            finding: Finding::Between { after, through: seq, why: Unnamed::NoAnswer },
        };
        let question = match what {
            What::Checkpoint | What::Replay => Question::Trail { seq, end: there.map(End::Root) },
            What::Snapshot | What::ReplayedSnapshot => {
                out.files.push(FileOrder::ReadManifest { seq });
                Question::Pieces { here: None, there: None }
            }
        };
        self.quarantine.inquiry = Some(Inquiry { report, question, began: None, asked: None, asks: 0 });
    }

    /// The own checkpoint at `seq` is what a quorum signed. In quarantine this is what was waited for, as soon as it is of a
    /// Seq that was not signed wrongly, and no image of the state is still to be compared.
    pub(super) fn agrees(&mut self, seq: Seq, out: &mut Effects) {
        if self.quarantine.is_suspect() {
            return;
        }
        self.quarantine.agreed = self.quarantine.agreed.max(seq);
        let comes_back = self.superblock.quarantined && seq > self.superblock.disowned_through;
        if !comes_back || !self.snapshots.is_idle() {
            return;
        }
        self.counters.quarantines_ended += 1;
        self.quarantine.phase = Phase::Trusted;
        self.quarantine.repeated = 0;
        self.superblock.quarantined = false;
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        outbox.persist_superblock(self.superblock.clone());
        self.pbft.release(&mut outbox);
    }

    /// So many signed so many roots at `seq` that no quorum can agree on any, whatever the others sign: said once.
    pub(super) fn look_for_agreement(&mut self, seq: Seq, out: &mut Effects) {
        let Some(votes) = self.checkpoints.votes_at(seq).filter(|_| seq > self.quarantine.alarmed) else { return };
        let weights = self.config.weights();
        let silent = |replica: &ReplicaId| votes.get(*replica).is_none();
        let silent: ReplicaSet = self.config.replicas().filter(silent).collect();
        let may_agree = |root: Digest| {
            let could = votes.voters(root).iter().chain(silent.iter()).collect();
            weights.is_quorum(could)
        };
        if weights.is_quorum(silent) || votes.iter().any(|(_, root, _)| may_agree(root)) {
            return;
        }
        let roots = votes.iter().map(|(replica, root, _)| (replica, root)).collect();
        let (replica, epoch) = (self.me, self.config.epoch());
        self.quarantine.alarmed = seq;
        self.counters.nondeterminism += 1;
        out.alarms.push(Alarm::Nondeterminism(Box::new(Disagreement { replica, epoch, seq, roots })));
    }

    /// Does what can be done now. At the end of every step.
    pub(super) fn advance_quarantine(&mut self, now: Now, out: &mut Effects) {
        if self.quarantine.phase == Phase::Trusted {
            return;
        }
        self.advance_inquiry(now, out);
        if self.quarantine.is_told() && self.quarantine.phase == Phase::Stopped && !self.transfer.is_active() {
            self.go_back(now, out);
        }
    }

    /// A peer asks for a trail.
    pub(super) fn on_fetch_trail(
        &mut self,
        now: Now,
        from: ReplicaId,
        seq: Seq,
        out: &mut Effects,
    ) -> Result<(), Ignored> {
        // A small question has a large answer.
        let interval = self.tuning.status_busy / 2;
        let served = &mut self.quarantine.served[from.index()];
        if served.is_some_and(|served| now.mono.since(served) < interval) {
            return Err(Ignored::Duplicate);
        }
        let Some(trail) = self.trails.to(seq).filter(|_| !self.superblock.quarantined) else {
            return Err(Ignored::NotNeeded);
        };
        *served = Some(now.mono);
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        outbox.send(To::One(from), Lane::Bulk, Message::Trail(trail), LogPosition(0));
        Ok(())
    }

    /// The steps of others: whoever gives them, they are the right ones if they end in what was signed.
    pub(super) fn on_trail(&mut self, trail: &Trail, out: &mut Effects) -> Result<(), Ignored> {
        let Some(Inquiry { question: Question::Trail { seq, end: Some(end) }, .. }) = &self.quarantine.inquiry else {
            return Err(Ignored::NotNeeded);
        };
        if trail.seq != *seq {
            return Err(Ignored::NotNeeded);
        }
        if trail.steps.len() as u64 != self.config.params().checkpoint_interval {
            return Err(Ignored::Conflicting);
        }
        let execs = trail::fold(trail);
        let Some(last) = execs.last().copied() else { return Err(Ignored::Conflicting) };
        let is_proved = match *end {
            End::Root(root) => trail::root(trail.seq, trail.chain, last, self.config.digest()) == root,
            End::Exec(exec) => last == exec,
        };
        if !is_proved {
            return Err(Ignored::Conflicting);
        }
        self.compare_trail(trail, &execs, out);
        Ok(())
    }

    /// A certified snapshot that a report asked for.
    pub(super) fn compare_manifest(&mut self, snapshot: &StableSnapshot, out: &mut Effects) {
        let Some(Inquiry { report, question: Question::Pieces { there, .. }, .. }) = &mut self.quarantine.inquiry
        else {
            return;
        };
        if snapshot.certificate.seq == report.seq {
            report.there = Some(snapshot.certificate.root);
            *there = Some(Arc::clone(&snapshot.manifest));
            self.compare_pieces(out);
        }
    }

    /// The manifest of an own snapshot was read.
    pub(super) fn compare_own_manifest(&mut self, seq: Seq, manifest: Option<&Arc<Manifest>>, out: &mut Effects) {
        let Some(Inquiry { report, question: Question::Pieces { here, .. }, .. }) = &mut self.quarantine.inquiry else {
            return;
        };
        if seq != report.seq || here.is_some() {
            return;
        }
        match manifest {
            Some(manifest) => {
                *here = Some(Arc::clone(manifest));
                self.compare_pieces(out);
            }
            None => self.tell_unnamed(Unnamed::NotKept, out),
        }
    }

    /// A record was read back; it may be the batch of a report.
    pub(super) fn on_loaded_report(&mut self, loaded: LogPosition, record: Option<&Record>, out: &mut Effects) {
        let Some(inquiry) = self.quarantine.inquiry.as_mut() else { return };
        let Question::Batch { at, slot } = &mut inquiry.question else { return };
        if *at != loaded {
            return;
        }
        let ready = record.and_then(|record| read_batch(record, &self.config));
        slot.operations = ready.filter(|ready| ready.digest == slot.batch).map(|ready| operations(&ready.body));
        let finding = Finding::Slot(slot.clone());
        self.tell(finding, out);
    }

    /// The own newest stable snapshot was read back.
    pub(super) fn on_reread(
        &mut self,
        seq: Seq,
        image: Option<(Arc<Manifest>, Box<ClientsImage>)>,
        now: Now,
        out: &mut Effects,
    ) {
        if self.quarantine.phase != Phase::Rereading(seq) {
            return;
        }
        let Some((manifest, clients)) = image else {
            // Only one of others leads back.
            self.quarantine.own_is_damaged = true;
            self.quarantine.phase = Phase::Stopped;
            return;
        };
        assert_eq!(self.superblock.snapshot, Some((seq, manifest.root())), "what is named is read back");
        assert!(self.executing.is_free(), "nothing is executed on a state that is given up");
        self.transfer.give_up();
        self.executing.install(seq);
        self.adopt_state(&manifest, *clients, now);
        self.snapshots.rewind(&manifest);
        out.install = Some(seq);
        self.execute_anew(seq, out);
    }

    /// Everything that is replicated becomes what a snapshot says.
    pub(super) fn adopt_state(&mut self, manifest: &Manifest, clients: ClientsImage, now: Now) {
        let seq = manifest.scalars.seq;
        self.sessions = Sessions::restore(self.config.params(), clients);
        self.executing.jump(&manifest.scalars);
        self.trails.restart((seq, manifest.scalars.exec));
        self.quarantine.agreed = seq;
        self.catch_up.jumped(seq);
        self.views.forget_sample();
        self.idle = super::idle::IdleMarks::default();
        self.forget_requests_not_open();
        self.purge_pool();
        self.next_status = now.mono;
    }

    /// The state is a signed one again: what follows is executed and, in quarantine, compared, and nothing of it is signed.
    pub(super) fn execute_anew(&mut self, seq: Seq, out: &mut Effects) {
        self.tell_unnamed(Unnamed::NotKept, out);
        self.quarantine.own_is_damaged = false;
        self.quarantine.agreed = seq;
        if !self.superblock.quarantined {
            self.quarantine.phase = Phase::Trusted;
            return;
        }
        self.counters.repairs += 1;
        self.quarantine.phase = Phase::Executing;
        self.checkpoints.disown();
        self.snapshots.disown();
    }

    /// A step that was executed here.
    pub(super) fn note_step(&mut self, executed: Executed) {
        self.trails.note(executed);
    }

    /// Who signed what, as far as this replica heard, itself included.
    fn roots_at(&self, what: What, seq: Seq, here: Digest) -> Vec<(ReplicaId, Digest)> {
        let votes = match what {
            What::Checkpoint | What::Replay => self.checkpoints.votes_at(seq),
            What::Snapshot | What::ReplayedSnapshot => self.snapshots.votes_at(seq),
        };
        let mut roots: Vec<_> =
            votes.into_iter().flat_map(|votes| votes.iter()).map(|(id, root, _)| (id, root)).collect();
        let certificate = self.superblock.stable.as_ref().filter(|stable| stable.seq == seq);
        if let Some(certificate) = certificate.filter(|_| matches!(what, What::Checkpoint | What::Replay)) {
            roots.extend(certificate.signatures.iter().map(|(replica, _)| (*replica, certificate.root)));
        }
        roots.retain(|(replica, _)| *replica != self.me);
        roots.push((self.me, here));
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    /// The way back: a snapshot that the others have and this replica has not, whole; or else its own newest one, whose bytes
    /// are the same as theirs, so that they need not travel. Whoever differs again after that waits, longer each time, unless
    /// the others' snapshot leads past the place.
    fn go_back(&mut self, now: Now, out: &mut Effects) {
        let pause = REPAIR_PAUSE.saturating_mul(1 << self.quarantine.repeated.min(20)).min(REPAIR_PAUSE_MAX);
        let pause = if self.quarantine.repeated == 0 { 0 } else { pause };
        let next_try = *self.quarantine.next_try.get_or_insert(now.mono.after(pause));
        let named = self.stable_snapshot();
        let newest = self.transfer.known(self.config.weights());
        let leads_past = newest >= self.quarantine.beyond;
        if now.mono < next_try && !leads_past {
            return;
        }
        let lacking = if self.quarantine.own_is_damaged { named } else { named.next() };
        if newest >= lacking {
            let least = if leads_past { self.quarantine.beyond } else { named };
            self.transfer.seek(least.max(lacking));
        } else if named > Seq(0)
            && !self.quarantine.own_is_damaged
            && self.executing.is_free()
            && self.snapshots.is_idle()
        {
            self.quarantine.phase = Phase::Rereading(named);
            let (seq, root) = self.superblock.snapshot.expect("a snapshot above 0 is named");
            out.files.push(FileOrder::Reread { seq, root });
        }
    }

    fn advance_inquiry(&mut self, now: Now, out: &mut Effects) {
        let known = self.quarantine.inquiry.as_ref().and_then(|inquiry| self.agreed_root(inquiry.report.seq));
        let Some(inquiry) = &mut self.quarantine.inquiry else { return };
        let began = *inquiry.began.get_or_insert(now.mono);
        if now.mono.since(began) > INQUIRY_PATIENCE * self.tuning.status_busy {
            return self.tell_unnamed(Unnamed::NoAnswer, out);
        }
        if let Question::Trail { end: end @ None, .. } = &mut inquiry.question
            && let Some(root) = known
        {
            *end = Some(End::Root(root));
            inquiry.report.there = Some(root);
            if root == inquiry.report.here {
                return self.tell_unnamed(Unnamed::SignedWrongly, out);
            }
        }
        if inquiry.asked.is_some_and(|asked| now.mono.since(asked) < ASK_PATIENCE * self.tuning.status_busy) {
            return;
        }
        let (to, message) = match inquiry.question {
            Question::Trail { seq, end: Some(_) } => (To::All, Message::FetchTrail(seq)),
            Question::Pieces { there: None, .. } => {
                let peers: Vec<_> = self.peers.iter().collect();
                let Some(peer) = peers.get(inquiry.asks % peers.len().max(1)) else { return };
                (To::One(*peer), Message::FetchManifest(Seq(inquiry.report.seq.0 - 1)))
            }
            Question::Trail { end: None, .. } | Question::Pieces { there: Some(_), .. } | Question::Batch { .. } => {
                return;
            }
        };
        (inquiry.asked, inquiry.asks) = (Some(now.mono), inquiry.asks + 1);
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        outbox.send(to, Lane::Control, message, LogPosition(0));
    }

    /// The root of a checkpoint that a quorum, or at least a blocking set of others, signed.
    fn agreed_root(&self, seq: Seq) -> Option<Digest> {
        let certified = self.superblock.stable.as_ref().filter(|stable| stable.seq == seq).map(|stable| stable.root);
        certified.or_else(|| {
            let votes = self.checkpoints.votes_at(seq)?;
            votes.iter().map(|(_, root, _)| root).find(|root| {
                let mut others = votes.voters(*root);
                others.remove(self.me);
                self.config.weights().is_blocking(others)
            })
        })
    }

    fn compare_trail(&mut self, trail: &Trail, execs: &[Digest], out: &mut Effects) {
        let before = Seq(trail.seq.0 - trail.steps.len() as u64);
        match self.trails.exec_at(before) {
            None => return self.tell_unnamed(Unnamed::NotKept, out),
            Some(exec) if exec != trail.exec_before => return self.ask_earlier(before, trail.exec_before, out),
            Some(_) => {}
        }
        let seqs = (before.0 + 1..).map(Seq);
        let mut differing = seqs.zip(execs).zip(&trail.steps).filter_map(|((seq, exec), step)| {
            let own = self.trails.at(seq)?;
            (own.exec != *exec).then_some((*own, Came { exec: *exec, reply_root: step.reply_root, delta: step.delta }))
        });
        let Some((own, there)) = differing.next() else { return self.tell_unnamed(Unnamed::NotKept, out) };
        let here = Came { exec: own.exec, reply_root: own.step.reply_root, delta: own.step.delta };
        let slot = Box::new(SlotDiffers { seq: own.seq, batch: own.batch, here, there, operations: None });
        self.list_operations(slot, out);
    }

    /// The interval began differently already.
    fn ask_earlier(&mut self, before: Seq, exec: Digest, out: &mut Effects) {
        if self.trails.to(before).is_none() {
            return self.tell_unnamed(Unnamed::TooOld, out);
        }
        if let Some(inquiry) = &mut self.quarantine.inquiry {
            inquiry.question = Question::Trail { seq: before, end: Some(End::Exec(exec)) };
            (inquiry.began, inquiry.asked) = (None, None);
        }
    }

    fn list_operations(&mut self, mut slot: Box<SlotDiffers>, out: &mut Effects) {
        if let Some(Ready { body, .. }) = self.committed_batch(slot.seq).filter(|ready| ready.digest == slot.batch) {
            slot.operations = Some(operations(&body));
            return self.tell(Finding::Slot(slot), out);
        }
        let at = self.index.body(slot.seq, slot.batch).filter(|at| *at <= self.durable);
        match (at, &mut self.quarantine.inquiry) {
            (Some(at), Some(inquiry)) => {
                self.loading.begin(at, out);
                inquiry.question = Question::Batch { at, slot };
            }
            (None, _) | (_, None) => self.tell(Finding::Slot(slot), out),
        }
    }

    fn compare_pieces(&mut self, out: &mut Effects) {
        let Some(Inquiry { question: Question::Pieces { here: Some(here), there: Some(there) }, .. }) =
            &self.quarantine.inquiry
        else {
            return;
        };
        let (mut chunks, mut clients) =
            (differing(&here.state, &there.state), differing(&here.clients, &there.clients));
        let all = chunks.len() + clients.len();
        clients.truncate(REPORT_PIECES_MAX / 2);
        chunks.truncate(REPORT_PIECES_MAX - clients.len());
        let more = (all - chunks.len() - clients.len()) as u32;
        self.tell(Finding::Pieces { chunks, clients, more }, out);
    }

    fn tell_unnamed(&mut self, why: Unnamed, out: &mut Effects) {
        let Some(inquiry) = &self.quarantine.inquiry else { return };
        let finding = match (&inquiry.question, &inquiry.report.finding) {
            // It was found; only what its batch holds is not known.
            (Question::Batch { slot, .. }, _) => Finding::Slot(slot.clone()),
            (Question::Trail { seq, .. }, Finding::Between { after, .. }) => {
                Finding::Between { after: *after, through: *seq, why }
            }
            (Question::Pieces { .. }, Finding::Between { after, through, .. }) => {
                Finding::Between { after: *after, through: *through, why }
            }
            (_, found @ (Finding::Slot(_) | Finding::Pieces { .. })) => found.clone(),
        };
        self.tell(finding, out);
    }

    fn tell(&mut self, finding: Finding, out: &mut Effects) {
        if let Some(Inquiry { report, .. }) = self.quarantine.inquiry.take() {
            out.alarms.push(Alarm::Diverged(Box::new(Report { finding, ..report })));
        }
    }
}

/// Places at which two lists differ, ascending.
fn differing(here: &[(u32, Digest)], there: &[(u32, Digest)]) -> Vec<u32> {
    let longest = here.len().max(there.len());
    let places = (0..longest).filter(|place| here.get(*place) != there.get(*place));
    places.map(|place| place as u32).collect()
}

/// What a report says of a batch.
fn operations(body: &Body) -> Operations {
    let all: u64 = body.entries().iter().map(|entry| u64::from(entry.operations)).sum();
    let told = body.entries().iter().flat_map(|entry| {
        (0..).zip(entry.operations(body.bytes())).map(|(index, bytes)| OperationTold {
            client: entry.client,
            session: entry.session,
            req_no: entry.req_no,
            index,
            bytes: bytes.len() as u32,
            digest: hash(Context::Operation, &[bytes]),
        })
    });
    let listed: Vec<_> = told.take(REPORT_OPERATIONS_MAX).collect();
    Operations { more: all - listed.len() as u64, listed }
}
