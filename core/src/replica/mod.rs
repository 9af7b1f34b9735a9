//! One replica: an ordering core and everything around it that all ordering cores need. The door is [`Replica::step`];
//! what goes in and out is in [`crate::door`]. Each part of the state lives with its rules in a file of its own:
//!
//! * `pool`: Requests that wait; `sessions`: exactly once; `idle`: whose session may give way to a new one; `executing`:
//!   committed batches into the service, in order;
//! * `forwarding`: what a backup passes on to its primary;
//! * `checkpoints`: agreement on the order and the replies; `snapshots`: agreement on the state; both free something;
//! * `views`: when to leave a view, and how to come to the next; `batches`: bodies that a new primary lacks;
//! * `quarantine`: what a replica does that came to something else than the others; `trail`: where it began to;
//! * `accusations`: what was proved against others; `handshake`: what a start asks before the first vote;
//! * `loading`: what is being read back from the journal;
//! * `catch_up`: committed batches from peers and for peers; `transfer`: a snapshot from peers and for peers;
//! * `index`: where records lie; `recovery`: from the journal back to all of this.

use std::collections::HashMap;
use std::sync::Arc;

use crate::auth::{Scheme, Verified, Verifier};
use crate::config::ClusterConfig;
use crate::door::{Answer, Effects, Halt, Input, Lane, LinkState, Now, To, Tuning};
use crate::ids::{LinkId, LogPosition, Nanos, PublicKey, ReplicaId, Seq, SessionId};
use crate::journal::superblock::{Learner, Superblock};
use crate::ordering::Outbox;
use crate::ordering::pbft::{Ignored, Pbft, Standing};
use crate::quorum::ReplicaSet;
use crate::wire::message::{Busy, Info, Message, Reply, Status};
use crate::wire::request::{Body, RequestEntry, SignedRequest};

mod accusations;
mod batches;
mod catch_up;
mod checkpoints;
mod counters;
mod executing;
mod fairness;
mod forwarding;
mod handshake;
mod idle;
pub mod index;
mod loading;
mod pool;
mod quarantine;
mod recovery;
pub mod sessions;
mod snapshots;
mod trail;
mod transfer;
mod views;

pub use counters::Counters;
pub use quarantine::{InQuarantine, QuarantinePhase};
pub use recovery::{RecoverError, Recovery, own_up};
pub use transfer::Progress;

use accusations::Accusations;
use batches::Batches;
use catch_up::CatchUp;
use checkpoints::Checkpoints;
use executing::Executing;
use fairness::Fairness;
use forwarding::Forwarding;
use handshake::Handshake;
use idle::IdleMarks;
use index::JournalIndex;
use loading::Loading;
use pool::{Added, Pool};
use quarantine::Quarantine;
use sessions::Sessions;
use snapshots::Snapshots;
use trail::Trails;
use transfer::Transfer;
use views::Views;

/// Results up to this many bytes are sent by every replica: a digest would save nothing.
const RESULTS_ALWAYS_SENT: usize = 256;
/// How often the pool is searched for Requests that can have no effect any more, in nanoseconds.
const PURGE_INTERVAL: u64 = crate::limits::SECOND;
/// What a client whose Request finds no room is told to wait, in milliseconds.
const BUSY_RETRY_MS: u32 = 20;
/// The same, of a client who finds the client table full of sessions in use, in milliseconds.
const SESSIONS_BUSY_RETRY_MS: u32 = 500;

/// One replica of a cluster.
pub struct Replica {
    config: Arc<ClusterConfig>,
    me: ReplicaId,
    verifier: Verifier,
    scheme: Arc<dyn Scheme>,
    tuning: Tuning,
    pbft: Pbft,
    sessions: Sessions,
    idle: IdleMarks,
    pool: Pool,
    /// Used while a batch is made, empty in between.
    taken: Vec<SignedRequest>,
    executing: Executing,
    trails: Trails,
    quarantine: Quarantine,
    checkpoints: Checkpoints,
    snapshots: Snapshots,
    loading: Loading,
    catch_up: CatchUp,
    transfer: Transfer,
    views: Views,
    batches: Batches,
    accusations: Accusations,
    forwarding: Forwarding,
    handshake: Handshake,
    fairness: Fairness,
    index: JournalIndex,
    superblock: Superblock,
    /// The last record emitted.
    last: LogPosition,
    /// Every record up to here is durable.
    durable: LogPosition,
    /// The promise of the current view, or the record of its NEW-VIEW: what is said of that view needs it.
    views_need: LogPosition,
    /// Where the NEW-VIEW of the current view lies.
    new_view_at: LogPosition,
    clients: HashMap<PublicKey, LinkId, foldhash::fast::FixedState>,
    peers: ReplicaSet,
    next_status: Nanos,
    next_purge: Nanos,
    counters: Counters,
}

impl Replica {
    /// Starts a replica from what its disk holds: feed the [`Recovery`], then finish it.
    #[must_use]
    pub fn recover(
        config: Arc<ClusterConfig>,
        me: ReplicaId,
        scheme: Arc<dyn Scheme>,
        tuning: Tuning,
        superblock: Superblock,
    ) -> Recovery {
        Recovery::new(config, me, scheme, tuning, superblock)
    }

    /// Pure: the same state, `now` and `input` always give the same effects.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Effects) {
        self.note_time(now);
        let is_deadline = matches!(input, Input::Deadline);
        match input {
            Input::Requests(requests) => {
                for request in requests.into_inner() {
                    self.on_request(now, request, None, out);
                }
            }
            Input::Message { from, message } => self.on_message(now, from, message, out),
            Input::Link { peer, state: LinkState::Up } => {
                self.peers.insert(peer);
                self.accusations.owe(peer);
                // A peer that comes back learns at once where we are, and tells us.
                self.next_status = self.next_status.min(now.mono);
            }
            Input::Link { peer, state: LinkState::Down } => self.peers.remove(peer),
            Input::Client { client, link, state } => self.on_client(client, link, state),
            Input::Durable(through) => self.on_durable(through, out),
            Input::Executed { seq, outcome } => self.on_executed(seq, &outcome, out),
            Input::Snapshot { seq, outcome } => self.on_snapshot_written(seq, outcome, out),
            Input::Loaded { at, record } => self.on_loaded(at, record.as_ref(), out),
            Input::File(done) => self.on_file(now, done, out),
            Input::Installed { seq } => self.on_installed(seq, out),
            Input::InfoQuery { to } => {
                let info = self.info();
                out.answer.push((to.0, Answer::Info(Box::new(info))));
            }
            Input::Deadline => {}
        }
        self.accuse_proved(out);
        self.execute_ready(out);
        self.advance_quarantine(now, out);
        self.advance_transfer(now, out);
        self.advance_views(now, is_deadline, out);
        self.propose_ready(now, out);
        self.status_when_due(now, out);
    }

    /// The cluster.
    #[must_use]
    pub fn config(&self) -> &Arc<ClusterConfig> {
        &self.config
    }

    /// The last Seq executed.
    #[must_use]
    pub fn executed(&self) -> Seq {
        self.executing.last
    }

    /// The last stable checkpoint.
    #[must_use]
    pub fn stable(&self) -> Seq {
        self.pbft.stable()
    }

    /// The newest stable snapshot, 0 if none.
    #[must_use]
    pub fn stable_snapshot(&self) -> Seq {
        self.superblock.snapshot.map_or(Seq(0), |(seq, _)| seq)
    }

    /// After damage: the Seq that the stable checkpoint must reach before this replica votes again. `None`: no damage keeps
    /// it from voting.
    #[must_use]
    pub fn silent_through(&self) -> Option<Seq> {
        (!self.pbft.remembers()).then_some(self.superblock.damaged_through)
    }

    /// Why it votes no more, if it does not.
    #[must_use]
    pub fn learner(&self) -> Option<Learner> {
        self.superblock.learner
    }

    /// Whether it has just started and waits for what a quorum holds of it.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.handshake.is_open()
    }

    /// How far the transfer of a snapshot is, if one is under way.
    #[must_use]
    pub fn transfer_progress(&self) -> Option<Progress> {
        self.transfer.progress()
    }

    /// The ordering core, to look at.
    #[must_use]
    pub fn ordering(&self) -> &Pbft {
        &self.pbft
    }

    /// The client table, to look at.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Bytes of the Requests that wait to be ordered, and the most that may.
    #[must_use]
    pub fn pool_fill(&self) -> (usize, usize) {
        self.pool.fill()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Asserts what must hold between steps. Recounts everything: for the simulator.
    pub fn check_invariants(&self) {
        self.pbft.check();
        self.sessions.check();
        // What is behind the window is executed yet too, and nobody here knows what it is.
        let has_all = self.executing.last >= self.pbft.stable();
        let open = has_all.then(|| open_requests(&self.pbft, self.executing.last).map(|entry| entry.digest).collect());
        self.pool.check(open.as_ref());
        self.catch_up.check(&self.tuning);
        self.transfer.check();
        self.trails.check();
        let is_silent = self.silent_through().is_some() || !self.is_sworn_in();
        assert!(self.superblock.quarantined || self.pbft.may_vote() || is_silent);
        self.accusations.check();
        assert!(self.durable <= self.last, "only what was emitted becomes durable");
        assert!(self.index.base() <= self.executing.last || self.executing.last == Seq(0));
        assert!(self.pbft.view() >= self.superblock.promised);
        let standing = match (self.superblock.learner, self.handshake.is_open()) {
            (Some(_), false) => Standing::Learner,
            (None, true) => Standing::Asking,
            (None, false) => Standing::Voter,
            (Some(_), true) => unreachable!("a learner asks for nothing"),
        };
        assert_eq!(self.pbft.standing(), standing, "nobody votes unasked, or as a learner (D11)");
    }

    fn on_message(&mut self, now: Now, from: ReplicaId, message: Verified<Message>, out: &mut Effects) {
        self.counters.messages += 1;
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        let result = match message.into_inner() {
            Message::Request(request) => {
                self.on_request(now, request, Some(from), out);
                Ok(())
            }
            Message::PrePrepare(pre_prepare) => self.pbft.on_pre_prepare(now, pre_prepare, &mut outbox),
            Message::Prepare(prepare) => self.pbft.on_prepare(&prepare, &mut outbox),
            Message::Commit(commit) => self.pbft.on_commit(&commit, &mut outbox),
            Message::Checkpoint(checkpoint) => self.on_checkpoint(checkpoint, out),
            Message::Snapshot(vote) => self.on_snapshot_vote(&vote, out),
            Message::Status(status) => self.on_status(now, from, &status, out),
            Message::FetchSlot(seq) => self.on_fetch(from, seq, catch_up::Shape::Slot, out),
            Message::FetchLog(seq) => self.on_fetch(from, seq, catch_up::Shape::Log, out),
            Message::Slot(slot) => self.on_log(now, from, vec![slot], out),
            Message::Log(slots) => self.on_log(now, from, slots, out),
            Message::Evidence(evidence) => self.on_evidence(evidence, out),
            Message::Recall(question) => self.on_recall(now, from, &question, out),
            Message::Recalled(answer) => self.on_recalled(from, &answer, out),
            Message::ViewChange(view_change) => self.on_view_change(&view_change),
            Message::NewView(new_view) => self.on_new_view(new_view, out),
            Message::FetchBody(batch) => self.on_fetch_body(from, batch, out),
            Message::Body(batch) => self.on_body(batch),
            Message::FetchManifest(above) => self.on_fetch_manifest(from, above, out),
            Message::Manifest(snapshot) => self.on_manifest(snapshot, out),
            Message::FetchChunk(fetch) => self.on_fetch_chunk(from, fetch, out),
            Message::Chunk(chunk) => self.on_chunk(now, from, chunk, out),
            Message::FetchTrail(seq) => self.on_fetch_trail(now, from, seq, out),
            Message::Trail(trail) => self.on_trail(&trail, out),
            Message::Reply(_)
            | Message::Busy(_)
            | Message::InfoQuery { .. }
            | Message::Info(_)
            | Message::ClientJoin(_) => Err(Ignored::NotNeeded),
        };
        if let Err(ignored) = result {
            self.counters.ignore(ignored);
        }
    }

    /// A Request from its client's link, or forwarded by a peer.
    fn on_request(&mut self, now: Now, request: SignedRequest, forwarded_by: Option<ReplicaId>, out: &mut Effects) {
        let answered = self.sessions.answered(&request.entry);
        if let Some(reply) = crate::mutant!(M32WaitsForExecuted, answered, None) {
            self.answer(&request.entry, &reply, Detail::Full, out);
            return;
        }
        if self.sessions.is_acknowledged(&request.entry) {
            return;
        }
        if !self.has_session_for(&request) {
            return self.refuse_for_now(&request, SESSIONS_BUSY_RETRY_MS, out);
        }
        match self.pool.add(&request) {
            Added::Full => self.refuse_for_now(&request, BUSY_RETRY_MS, out),
            Added::New | Added::Known if forwarded_by.is_none() && !self.pbft.is_primary() => {
                self.forwarding.note(now.mono, &request.entry);
            }
            Added::New | Added::Known => {}
        }
    }

    /// Openings beyond the maximum of sessions are not ordered: they would end the sessions of others (PROTOCOL §14).
    fn has_session_for(&self, request: &SignedRequest) -> bool {
        let entry = &request.entry;
        entry.session != SessionId(0)
            || self.pool.knows(&entry.digest)
            || self.sessions.has_one(&entry.client)
            || self.sessions.room(self.pool.openings() + 1, self.idle.idle_below()) > self.pool.openings()
    }

    /// Openings for which there was room when they came, and is none any more, are as those that come now: a primary that
    /// passes them over is right, and to order them would end the sessions of others.
    fn drop_openings_without_room(&mut self) {
        let openings = self.pool.openings();
        let room = self.sessions.room(openings, self.idle.idle_below());
        if room < openings {
            self.pool.drop_openings(room, &|client| self.sessions.has_one(client));
        }
    }

    fn refuse_for_now(&mut self, request: &SignedRequest, retry_after_ms: u32, out: &mut Effects) {
        self.counters.busy += 1;
        if let Some(link) = self.clients.get(&request.entry.client) {
            let busy = Busy { request: request.entry.digest, retry_after_ms };
            out.answer.push((*link, Answer::Busy(busy)));
        }
    }

    fn on_client(&mut self, client: PublicKey, link: LinkId, state: LinkState) {
        match state {
            LinkState::Up => drop(self.clients.insert(client, link)),
            LinkState::Down => {
                if self.clients.get(&client) == Some(&link) {
                    self.clients.remove(&client);
                }
            }
        }
    }

    fn on_durable(&mut self, through: LogPosition, out: &mut Effects) {
        assert!(self.durable <= through && through <= self.last, "durability grows, up to what was emitted");
        self.durable = through;
        self.vote_when_answered(out);
        self.pbft.on_durable(through, &mut Outbox::new(out, &mut self.last, &mut self.index));
        self.checkpoints_durable(out);
        self.snapshots_durable(out);
    }

    /// Closes batches while there is room: at once while little is in flight, and the larger the more is (PROTOCOL §6.1:
    /// self-clocking, no linger). With k batches in flight the next one waits for k Requests: under load batches grow,
    /// and a lone Request never waits longer than one of them takes.
    fn propose_ready(&mut self, now: Now, out: &mut Effects) {
        if !self.pbft.may_vote() {
            return;
        }
        if self.pbft.is_normal() && !self.pbft.has_begun() {
            self.propose_again(now, out);
        }
        // A primary that lacks what was ordered before its view does not know what is executed already (V12).
        if self.executing.last < self.pbft.beginning().stable || self.awaits_state() {
            return;
        }
        if self.has_a_batch() {
            self.drop_openings_without_room();
        }
        while self.has_a_batch() {
            self.pool.take(&mut self.taken);
            assert!(!self.taken.is_empty(), "one Request always fits a batch");
            let body = Body::join(&self.taken);
            self.taken.clear();
            self.pbft.propose(now, body, &mut Outbox::new(out, &mut self.last, &mut self.index));
        }
    }

    fn has_a_batch(&self) -> bool {
        self.pool.waiting() > 0
            && self.pbft.room() > 0
            && self.pool.waiting() >= self.pbft.in_flight()
            && !self.executing.is_installing()
    }

    /// STATUS to every peer, often while work is outstanding.
    fn status_when_due(&mut self, now: Now, out: &mut Effects) {
        let interval = if self.has_outstanding_work() { self.tuning.status_busy } else { self.tuning.status_idle };
        if now.mono >= self.next_status {
            let mut status = Status {
                epoch: self.config.epoch(),
                executed: self.executing.last,
                snapshot: self.stable_snapshot(),
                ..Status::default()
            };
            self.pbft.describe(&mut status);
            self.restore_bodies(now, out);
            self.seek_when_far_behind(now);
            self.forward_when_due(now, out);
            self.ask_peers(out);
            self.tell_evidence_to_peers(now, out);
            Outbox::new(out, &mut self.last, &mut self.index).send(
                To::All,
                Lane::Control,
                Message::Status(status),
                LogPosition(0),
            );
            self.next_status = now.mono.after(interval);
        }
        if now.mono >= self.next_purge {
            self.next_purge = now.mono.after(PURGE_INTERVAL);
            self.idle.tick(now.mono, self.sessions.next_recency());
            self.purge_pool();
            self.suspect_when_unfair(out);
        }
        self.next_status = self.next_status.min(now.mono.after(interval));
        out.deadline = Some(self.views.tell(self.next_status));
    }

    fn forward_when_due(&mut self, now: Now, out: &mut Effects) {
        if self.pbft.is_normal() && !self.pbft.is_primary() {
            let due = self.forwarding.due(now.mono, self.tuning.status_busy, &self.pool);
            self.forward(due, out);
        }
    }

    fn forward(&mut self, requests: Vec<SignedRequest>, out: &mut Effects) {
        let primary = self.pbft.primary();
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        for request in requests {
            outbox.send(To::One(primary), Lane::Bulk, Message::Request(request), LogPosition(0));
        }
    }

    /// Requests in batches that are open must not be proposed again when their clients send them again.
    fn mark_open_requests(&mut self) {
        open_requests(&self.pbft, self.executing.last).for_each(|entry| self.pool.mark_ordered(entry));
    }

    /// After a jump, or where another batch than the one accepted here was executed: what was on its way in batches that
    /// are open no more may come again.
    fn forget_requests_not_open(&mut self) {
        self.pool.forget_ordered();
        self.mark_open_requests();
    }

    fn purge_pool(&mut self) {
        let sessions = &self.sessions;
        let is_open = |request: &SignedRequest| sessions.is_open(&request.entry);
        self.pool.purge(&|request| crate::mutant!(M32WaitsForExecuted, is_open(request), true));
        self.drop_openings_without_room();
    }

    fn has_outstanding_work(&self) -> bool {
        self.pool.waiting() > 0
            || !self.pbft.is_normal()
            || self.pbft.in_flight() > 0
            || self.catch_up.is_executed_by_others(self.executing.last.next(), self.config.weights())
            || self.transfer.is_active()
            || self.handshake.is_open()
            || self.superblock.quarantined
            || self.checkpoints.has_unstable(self.pbft.stable())
    }

    /// The answer to an ordered Request, to where its client is connected.
    fn answer(&self, entry: &RequestEntry, reply: &crate::snapshot::CachedReply, detail: Detail, out: &mut Effects) {
        // Whose state may be wrong answers nobody.
        let Some(link) = self.clients.get(&entry.client).filter(|_| !self.superblock.quarantined) else { return };
        let mine = entry.req_no.0 % self.config.n() as u64 == u64::from(self.me.0);
        let in_full = detail == Detail::Full || mine || reply.results.len() <= RESULTS_ALWAYS_SENT;
        let reply = Reply {
            epoch: self.config.epoch(),
            session: entry.session,
            req_no: entry.req_no,
            seq: reply.seq,
            code: reply.code,
            digest: reply.digest,
            results: in_full.then(|| reply.results.clone()),
        };
        out.answer.push((*link, Answer::Reply(reply)));
    }

    fn info(&self) -> Info {
        let mut counters = self.counters.named();
        counters.push(("silent_through".into(), self.silent_through().map_or(0, |seq| seq.0)));
        counters.push(("asking".into(), self.is_asking().into()));
        counters.push(("learner".into(), self.superblock.learner.map_or(0, |learner| learner.number().into())));
        counters.push(("state_lost".into(), self.awaits_state().into()));
        counters.push(("quarantined_through".into(), self.quarantine().map_or(0, |quarantine| quarantine.through.0)));
        Info {
            replica: self.me,
            epoch: self.config.epoch(),
            view: self.pbft.view(),
            executed: self.executing.last,
            stable: self.pbft.stable(),
            snapshot: self.stable_snapshot(),
            peers: self.peers.len() as u32,
            counters,
            ..Info::default()
        }
    }

    fn halt(&mut self, halt: Halt, out: &mut Effects) {
        self.executing.stop();
        out.halt.get_or_insert(halt);
    }
}

/// Requests in proposals that are to be executed yet.
fn open_requests(pbft: &Pbft, executed: Seq) -> impl Iterator<Item = &RequestEntry> {
    let open = pbft.slots().filter(move |slot| slot.seq > executed);
    let bodies = open.filter_map(|slot| slot.accepted.as_ref()?.body.as_ref());
    bodies.flat_map(|body| body.entries())
}

/// How much of an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detail {
    /// The results, if this replica is the one to send them.
    Designated,
    /// The results: the client asked again.
    Full,
}
