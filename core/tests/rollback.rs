//! What a replica asks when it starts, and what the answers make of it (PROTOCOL §11): a disk that went back in time is found
//! by what others hold under the replica's signature, and nothing else than that makes a learner. Whole clusters whose disks
//! are put back are the simulator's.

mod common;

use std::sync::Arc;

use bft_core::auth::Rejected;
use bft_core::door::{Effects, Input, Now, Persist, Place, Tuning};
use bft_core::ids::{LogPosition, Nanos, ReplicaId, Seq, View, WallNanos};
use bft_core::journal::record::{Record, Vote};
use bft_core::journal::superblock::{Learner, Superblock};
use bft_core::limits::{MILLISECOND, SECOND};
use bft_core::replica::Replica;
use bft_core::wire::message::{CommittedSlot, Kind, Message, Status, ViewChange};
use bft_core::wire::recall::{Held, Recall, Recalled};
use bft_core::wire::request::Body;
use common::cluster::Cluster;
use common::{TestCluster, superblock};

/// One replica that has just started, and what it wanted.
struct Starter {
    cluster: TestCluster,
    me: ReplicaId,
    replica: Replica,
    question: Option<Recall>,
    persisted: Vec<Place>,
    sent: Vec<Message>,
    last: LogPosition,
}

impl Starter {
    fn new(superblock: Superblock, records: Vec<Record>) -> Self {
        let cluster = TestCluster::with_window_of_four();
        let me = superblock.replica;
        let scheme = cluster.replicas[me.index()].clone();
        let mut recovery = Replica::recover(cluster.config.clone(), me, scheme, Tuning::default(), superblock);
        let mut last = LogPosition(0);
        for record in records {
            last = last.next();
            recovery.record(last, record).expect("a journal of this cluster");
        }
        let mut effects = Effects::default();
        let replica = recovery.finish(time(), last, Seq(0), &mut effects);
        let (persisted, sent) = (Vec::new(), Vec::new());
        let mut starter = Self { cluster, me, replica, question: None, persisted, sent, last };
        starter.note(effects);
        starter.question = starter.sent.iter().find_map(|message| match message {
            Message::Recall(question) => Some(question.clone()),
            _ => None,
        });
        starter
    }

    /// The first backup of view 0, at the stable checkpoint 2, with a vote for Seq 3 and a certificate for Seq 4.
    fn backup() -> Self {
        let cluster = TestCluster::with_window_of_four();
        let me = cluster.backups(View(0))[0];
        let quorum: Vec<_> = (0..3).map(ReplicaId).collect();
        let superblock = Superblock { stable: Some(cluster.checkpoint(2, &quorum)), ..superblock(&cluster.config, me) };
        let records = vec![
            vote(&cluster, 3),
            vote(&cluster, 4),
            Record::Cert(cluster.prepared(0, 4, &cluster.body(4), &cluster.backups(View(0)))),
        ];
        Self::new(superblock, records)
    }

    fn others(&self) -> Vec<ReplicaId> {
        self.cluster.config.replicas().filter(|other| *other != self.me).collect()
    }

    fn step(&mut self, input: Input) {
        let mut effects = Effects::default();
        self.replica.step(time(), input, &mut effects);
        self.replica.check_invariants();
        self.note(effects);
    }

    /// Everything that is to become durable does so at once.
    fn note(&mut self, effects: Effects) {
        assert_eq!(effects.halt, None);
        let before = self.last;
        for Persist { position, place } in effects.persist {
            self.last = position;
            self.persisted.push(place);
        }
        self.sent.extend(effects.send.into_iter().map(|outgoing| outgoing.message));
        if self.last > before {
            self.step(Input::Durable(self.last));
        }
    }

    fn hear(&mut self, from: ReplicaId, message: Message) {
        let message = self.cluster.verifier().check(from, message).expect("well-formed");
        self.step(Input::Message { from, message });
    }

    fn answer(&self, held: Option<Held>) -> Message {
        let Recall { epoch, start, .. } = *self.question.as_ref().expect("it asks");
        Message::Recalled(Recalled { epoch, start, held })
    }

    /// The first peer shows this.
    fn show(&mut self, held: Option<Held>) {
        let from = self.others()[0];
        self.hear(from, self.answer(held));
    }

    /// The vote of `replica` in view 0, and its COMMIT if that is asked for.
    fn vote_of(&self, replica: ReplicaId, seq: u64, opened: Opened) -> Held {
        let (position, _) = self.cluster.position(0, seq, &self.cluster.body(seq));
        let nonce = (opened == Opened::Yes).then(|| self.cluster.nonce(replica, &position));
        let is_primary = self.cluster.config.primary(position.view) == replica;
        let ballot =
            if is_primary { self.cluster.proposal(&position) } else { self.cluster.ballot(&position, replica) };
        Held::Vote { replica, position, ballot, nonce }
    }

    fn view_change(&self, view: u64) -> Arc<ViewChange> {
        self.cluster.view_change(self.me, view, None, Vec::new())
    }

    /// What it said that is signed by it.
    fn signed(&self) -> Vec<Kind> {
        let kinds = [Kind::PrePrepare, Kind::Prepare, Kind::Commit, Kind::Checkpoint, Kind::Snapshot, Kind::ViewChange];
        self.sent.iter().map(Message::kind).filter(|kind| kinds.contains(kind)).collect()
    }

    fn superblocks(&self) -> impl Iterator<Item = &Superblock> {
        self.persisted.iter().filter_map(|place| match place {
            Place::Superblock(superblock) => Some(&**superblock),
            Place::Journal(_) => None,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Opened {
    Yes,
    No,
}

fn vote(cluster: &TestCluster, seq: u64) -> Record {
    let body = cluster.body(seq);
    let (position, header) = cluster.position(0, seq, &body);
    Record::Vote(Vote { position, proposal: cluster.proposal(&position), header, body: Some(body.bytes().clone()) })
}

fn time() -> Now {
    Now { mono: Nanos(SECOND), wall: WallNanos(1_700_000_000_000_000_000) }
}

#[test]
fn d19_what_its_disk_need_not_know_of_makes_nobody_a_learner() {
    let mut starter = Starter::backup();
    let (me, other) = (starter.me, starter.others()[1]);
    let (seq_2, seq_3) = (starter.vote_of(me, 2, Opened::Yes), starter.vote_of(me, 3, Opened::No));
    let seq_4 = starter.vote_of(me, 4, Opened::Yes);
    let of_another = starter.vote_of(other, 5, Opened::Yes);
    for held in [seq_2, seq_3, seq_4, of_another] {
        starter.show(Some(held));
        assert_eq!(starter.replica.learner(), None, "covered by its checkpoint, known, or not its own");
        assert!(starter.replica.is_asking(), "one peer, however often it answers");
    }
    let stale = Message::Recalled(Recalled {
        epoch: starter.cluster.config.epoch(),
        start: starter.question.as_ref().expect("it asks").start ^ 1,
        held: Some(starter.vote_of(me, 5, Opened::No)),
    });
    starter.hear(other, stale);
    assert!(starter.replica.is_asking() && starter.replica.learner().is_none(), "an answer to another question");
    assert_eq!(starter.signed(), []);
    starter.hear(other, starter.answer(None));
    assert!(!starter.replica.is_asking());
    // What it signs from now on the question does not know of.
    let later = starter.vote_of(me, 5, Opened::No);
    starter.show(Some(later));
    assert_eq!(starter.replica.learner(), None);
}

#[test]
fn d19_a_signature_that_is_none_is_refused() {
    let starter = Starter::backup();
    let (verifier, peer) = (starter.cluster.verifier(), starter.others()[0]);
    let Held::Vote { replica, position, ballot, .. } = starter.vote_of(starter.me, 5, Opened::No) else {
        unreachable!("a vote was made")
    };
    let check = |held| verifier.check(peer, starter.answer(Some(held))).map(drop);
    let vote = |position, ballot, nonce| Held::Vote { replica, position, ballot, nonce };
    assert_eq!(check(vote(position, ballot, None)), Ok(()));
    let elsewhere = bft_core::wire::message::Position { seq: Seq(6), ..position };
    assert_eq!(check(vote(elsewhere, ballot, None)), Err(Rejected::BadSignature));
    let other_nonce = starter.cluster.nonce(peer, &position);
    assert_eq!(check(vote(position, ballot, Some(other_nonce))), Err(Rejected::BadOpening));
    let mut forged = (*starter.view_change(1)).clone();
    forged.view = View(2);
    assert_eq!(check(Held::ViewChange(Arc::new(forged))), Err(Rejected::BadSignature));
}

#[test]
fn d11_any_signature_that_its_disk_lacks_makes_a_learner_for_good() {
    let probe = Starter::backup();
    let me = probe.me;
    let new_view = || {
        // A view of which this replica is the primary.
        let view = (1..).find(|view| probe.cluster.config.primary(View(*view)) == me).expect("it leads every fourth");
        Held::NewView(probe.cluster.new_view(view, vec![probe.view_change(view)]))
    };
    let missing = [
        probe.vote_of(me, 5, Opened::No),
        probe.vote_of(me, 3, Opened::Yes),
        probe.vote_of(me, 900, Opened::Yes),
        Held::ViewChange(probe.view_change(1)),
        new_view(),
    ];
    for held in missing {
        let (view, seq) = held.place();
        let mut starter = Starter::backup();
        starter.show(Some(held.clone()));
        let why = Some(Learner::WentBack { view, seq });
        assert_eq!(starter.replica.learner(), why, "{held:?}");
        let superblock = starter.superblocks().last().cloned().expect("it is written down");
        assert_eq!(superblock.learner, why);
        // Nothing changes that any more: neither the others' answers, nor a proposal, nor a start.
        let primary = starter.cluster.config.primary(View(0));
        starter.hear(starter.others()[1], starter.answer(None));
        starter.hear(primary, Message::PrePrepare(starter.cluster.pre_prepare(0, 6, starter.cluster.body(6))));
        assert_eq!(starter.signed(), []);
        let again = Starter::new(superblock, Vec::new());
        assert!(again.question.is_none() && again.replica.learner() == why, "it asks nobody");
    }
}

#[test]
fn d11_nothing_is_signed_before_a_quorum_has_answered() {
    let cluster = TestCluster::with_window_of_four();
    let me = cluster.config.primary(View(0));
    let mut starter = Starter::new(superblock(&cluster.config, me), Vec::new());
    starter.hear(starter.others()[0], Message::Request(cluster.request("ada", 1, &[b"op"])));
    starter.show(None);
    starter.show(None);
    assert_eq!(starter.signed(), [], "one has answered, twice");
    starter.hear(starter.others()[1], starter.answer(None));
    assert_eq!(starter.signed(), [Kind::PrePrepare]);
}

#[test]
fn d11_what_was_executed_meanwhile_is_signed_when_a_quorum_has_answered() {
    let cluster = TestCluster::with_window_of_four();
    let (me, backups) = (cluster.backups(View(0))[0], cluster.backups(View(0)));
    let mut starter = Starter::new(superblock(&cluster.config, me), Vec::new());
    for seq in 1..=2 {
        let body = Body::default();
        let certificate = Arc::new(cluster.committed(0, seq, &body, &backups[1..]));
        starter.hear(backups[1], Message::Slot(CommittedSlot { certificate, body: Arc::new(body) }));
    }
    assert_eq!((starter.replica.executed(), starter.signed()), (Seq(2), vec![]));
    starter.show(None);
    starter.hear(starter.others()[1], starter.answer(None));
    assert_eq!(starter.signed(), [Kind::Checkpoint]);
}

#[test]
fn d11_an_own_vote_in_what_is_fetched_later_makes_a_learner_too() {
    let cluster = TestCluster::with_window_of_four();
    let (me, backups) = (cluster.backups(View(0))[0], cluster.backups(View(0)));
    let slot = |seq, voters: &[ReplicaId]| {
        let body = cluster.body(seq);
        let certificate = Arc::new(cluster.committed(0, seq, &body, voters));
        Message::Slot(CommittedSlot { certificate, body: Arc::new(body) })
    };
    let started = |records| {
        let mut starter = Starter::new(superblock(&cluster.config, me), records);
        starter.show(None);
        starter.hear(starter.others()[1], starter.answer(None));
        assert!(!starter.replica.is_asking());
        starter
    };
    let mut starter = started(vec![vote(&cluster, 1)]);
    starter.hear(backups[1], slot(1, &backups[..2]));
    starter.hear(backups[1], slot(2, &backups[1..]));
    assert_eq!(starter.replica.learner(), None, "known, and not its own");
    starter.hear(backups[1], slot(3, &backups[..2]));
    assert_eq!(starter.replica.learner(), Some(Learner::WentBack { view: View(0), seq: Seq(3) }));
    // What it voted for in this life is its own.
    let mut starter = started(Vec::new());
    let primary = cluster.config.primary(View(0));
    starter.hear(primary, Message::PrePrepare(cluster.pre_prepare(0, 2, cluster.body(2))));
    assert_eq!(starter.signed(), [Kind::Prepare]);
    starter.hear(backups[1], slot(2, &backups[..2]));
    assert_eq!(starter.replica.learner(), None);
}

#[test]
fn d12_who_lost_its_directory_follows_and_signs_nothing() {
    let cluster = TestCluster::with_window_of_four();
    let me = cluster.backups(View(0))[0];
    let lost = Superblock { learner: Some(Learner::LostDirectory), ..superblock(&cluster.config, me) };
    let mut starter = Starter::new(lost, Vec::new());
    assert!(starter.question.is_none() && !starter.replica.is_asking());
    let (primary, backups) = (cluster.config.primary(View(0)), cluster.backups(View(0)));
    for seq in 1..=2 {
        let body = Body::default();
        let certificate = Arc::new(cluster.committed(0, seq, &body, &backups[1..]));
        starter.hear(backups[1], Message::Slot(CommittedSlot { certificate, body: Arc::new(body) }));
    }
    starter.hear(primary, Message::PrePrepare(cluster.pre_prepare(0, 3, cluster.body(3))));
    let words = vec![0; (cluster.config.params().window as usize).div_ceil(64)];
    for peer in [primary, backups[1]] {
        let (proposed, prepared, committed) = (words.clone(), words.clone(), words.clone());
        let changing = Some(bft_core::quorum::ReplicaSet::EMPTY);
        let (epoch, view) = (cluster.config.epoch(), View(1));
        starter.hear(
            peer,
            Message::Status(Status { epoch, view, changing, proposed, prepared, committed, ..Status::default() }),
        );
    }
    assert_eq!((starter.replica.executed(), starter.signed()), (Seq(2), vec![]));
    assert_eq!(starter.replica.ordering().view(), View(0), "it moves nobody to another view");
}

#[test]
fn d11_an_own_new_view_that_comes_back_makes_a_learner() {
    let cluster = TestCluster::with_window_of_four();
    let view = 1;
    let me = cluster.config.primary(View(view));
    let mut starter = Starter::new(superblock(&cluster.config, me), Vec::new());
    starter.show(None);
    starter.hear(starter.others()[1], starter.answer(None));
    let view_changes = cluster.config.replicas().take(3).map(|who| cluster.view_change(who, view, None, Vec::new()));
    let new_view = cluster.new_view(view, view_changes.collect());
    starter.hear(starter.others()[0], Message::NewView(new_view));
    assert_eq!(starter.replica.learner(), Some(Learner::WentBack { view: View(view), seq: Seq(0) }));
    assert_eq!(starter.signed(), []);
    assert!(starter.replica.ordering().is_normal(), "it follows");
}

/// Orders so many operations, one after the other.
fn order(cluster: &mut Cluster, count: u64) {
    for _ in 0..count {
        let done = cluster.done + 1;
        cluster.submit();
        cluster.pass_until(2 * SECOND, |cluster| cluster.done == done);
    }
}

#[test]
fn d11_a_cluster_finds_the_disk_that_went_back_and_goes_on_without_its_vote() {
    let mut cluster = Cluster::new();
    cluster.settle();
    order(&mut cluster, 3);
    let backup = cluster.others(&[cluster.primary(0)])[0];
    let image = cluster.host(backup).records.len();
    order(&mut cluster, 2);
    let host = cluster.host(backup);
    host.records.truncate(image);
    host.durable = host.records.last().expect("it has voted").position;
    let before = cluster.sent.len();
    cluster.restart(backup);
    cluster.pass(100 * MILLISECOND);
    let learner = cluster.host(backup).replica.learner();
    assert!(matches!(learner, Some(Learner::WentBack { view: View(0), seq }) if seq > Seq(3)), "{learner:?}");
    // Far enough for two checkpoints: it follows, and signs nothing.
    order(&mut cluster, 18);
    cluster.pass(SECOND);
    let executed: Vec<_> = cluster.hosts.iter().map(|host| host.replica.executed()).collect();
    assert!(executed.iter().all(|seq| *seq == executed[0]), "{executed:?}");
    let signs = |kind: Kind| matches!(kind, Kind::Prepare | Kind::Commit | Kind::ViewChange | Kind::PrePrepare);
    let mut said = cluster.sent[before..].iter().filter(|(from, _)| *from == backup);
    assert!(said.all(|(_, message)| !signs(message.kind())));
    cluster.restart(backup);
    assert_eq!(cluster.host(backup).replica.learner(), learner, "its superblock remembers");
}

#[test]
fn d11_a_cluster_that_starts_as_a_whole_comes_up_and_nobody_is_a_learner() {
    let mut cluster = Cluster::new();
    cluster.settle();
    order(&mut cluster, 12);
    cluster.hears = |_, _, _| false;
    cluster.others(&[]).into_iter().for_each(|replica| cluster.restart(replica));
    cluster.hears = |_, _, _| true;
    assert!(cluster.hosts.iter().all(|host| host.replica.is_asking()), "nobody was there to answer");
    cluster.pass(60 * MILLISECOND);
    assert!(cluster.hosts.iter().all(|host| !host.replica.is_asking() && host.replica.learner().is_none()));
    order(&mut cluster, 3);
}
