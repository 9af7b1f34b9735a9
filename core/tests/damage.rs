//! A replica whose journal lost what was durable (PROTOCOL §11, AMNESIA-LITE): what its superblock owns up to, what it signs
//! and what not until the checkpoints of the others pass that, and what it does with a record that rots while it runs.
//! Whole clusters with damaged disks are the simulator's.

mod common;

use std::io;
use std::sync::Arc;

use bft_core::auth::Rejected;
use bft_core::door::{Effects, Input, Now, Place, Tuning};
use bft_core::evidence::{Evidence, Proof, SignedVote};
use bft_core::ids::{LogPosition, Nanos, ReplicaId, Seq, View, WallNanos};
use bft_core::journal::record::{Committed, Record, RecordKind, Vote};
use bft_core::journal::superblock::Superblock;
use bft_core::journal::{Blocks, Damage, ScanError, SegmentFile, scan};
use bft_core::limits::SECOND;
use bft_core::quorum::ReplicaSet;
use bft_core::replica::{Replica, own_up};
use bft_core::wire::message::{CommittedSlot, Kind, Message, Status};
use bft_core::wire::request::Body;
use common::{TestCluster, superblock};

/// H_dmg of the replicas here.
const SILENT_THROUGH: Seq = Seq(4);
/// Longer than any timer of a view.
const LONG: u64 = 100 * SECOND;

fn silent(cluster: &TestCluster, me: ReplicaId) -> Superblock {
    Superblock { damaged_through: SILENT_THROUGH, ..superblock(&cluster.config, me) }
}

/// A replica, the time, and what it wanted.
struct Host<'a> {
    cluster: &'a TestCluster,
    me: ReplicaId,
    replica: Replica,
    now: u64,
    last: LogPosition,
    persisted: Vec<Place>,
    sent: Vec<Message>,
    loads: Vec<LogPosition>,
}

impl<'a> Host<'a> {
    fn start(cluster: &'a TestCluster, superblock: Superblock, records: Vec<Record>) -> Self {
        let me = superblock.replica;
        let scheme = cluster.replicas[me.index()].clone();
        let mut recovery = Replica::recover(cluster.config.clone(), me, scheme, Tuning::default(), superblock);
        let mut last = LogPosition(0);
        for record in records {
            last = last.next();
            recovery.record(last, record).expect("a journal of this cluster");
        }
        let mut effects = Effects::default();
        let replica = recovery.finish(time(SECOND), last, Seq(0), &mut effects);
        let (persisted, sent, loads) = (Vec::new(), Vec::new(), Vec::new());
        let mut host = Self { cluster, me, replica, now: SECOND, last, persisted, sent, loads };
        host.note(effects);
        // Nobody holds anything that it does not know of.
        let answer = common::nothing_is_held(host.sent.iter()).expect("it asks");
        let others: Vec<_> = cluster.config.replicas().filter(|other| *other != me).collect();
        others[..2].iter().for_each(|peer| host.hear(*peer, answer.clone()));
        assert!(!host.replica.is_asking());
        host
    }

    fn step(&mut self, input: Input) {
        let mut effects = Effects::default();
        self.replica.step(time(self.now), input, &mut effects);
        self.note(effects);
        self.replica.check_invariants();
    }

    /// Everything that is to become durable does so at once.
    fn note(&mut self, effects: Effects) {
        assert_eq!(effects.halt, None);
        let before = self.last;
        for persist in effects.persist {
            self.last = persist.position;
            self.persisted.push(persist.place);
        }
        self.sent.extend(effects.send.into_iter().map(|outgoing| outgoing.message));
        self.loads.extend(effects.load);
        if self.last > before {
            self.step(Input::Durable(self.last));
        }
    }

    fn hear(&mut self, from: ReplicaId, message: Message) {
        let message = self.cluster.verifier().check(from, message).expect("well-formed");
        self.step(Input::Message { from, message });
    }

    fn wait(&mut self, time: u64) {
        self.now += time;
        // The first call only moves the timers on: nobody was on time here.
        self.step(Input::Deadline);
        self.now += time;
        self.step(Input::Deadline);
    }

    /// What it said that is signed.
    fn signed(&self) -> Vec<Kind> {
        let is_signed = |kind: &Kind| {
            matches!(
                kind,
                Kind::PrePrepare
                    | Kind::Prepare
                    | Kind::Commit
                    | Kind::Checkpoint
                    | Kind::Snapshot
                    | Kind::ViewChange
                    | Kind::NewView
            )
        };
        self.sent.iter().map(Message::kind).filter(is_signed).collect()
    }

    fn records(&self) -> Vec<RecordKind> {
        let of = |place: &Place| match place {
            Place::Journal(record) => Some(record.kind()),
            Place::Superblock(_) => None,
        };
        self.persisted.iter().filter_map(of).collect()
    }

    /// The checkpoint at `seq` becomes stable, by the others alone.
    fn others_pass(&mut self, seq: u64) {
        let others: Vec<_> = self.cluster.config.replicas().filter(|other| *other != self.me).collect();
        self.hear(others[0], Message::Checkpoint(self.cluster.checkpoint(seq, &others)));
        assert_eq!(self.replica.stable(), Seq(seq));
    }
}

fn time(now: u64) -> Now {
    Now { mono: Nanos(now), wall: WallNanos(1_700_000_000_000_000_000 + now) }
}

fn backup(cluster: &TestCluster) -> ReplicaId {
    cluster.backups(View(0))[0]
}

/// A Request that waits at the replica, forwarded by a peer.
fn request(cluster: &TestCluster) -> Message {
    Message::Request(cluster.request("ada", 1, &[b"op"]))
}

#[test]
fn d7_a_backup_that_lost_votes_signs_nothing_until_the_others_have_passed_them() {
    let cluster = TestCluster::with_window_of_four();
    let primary = cluster.config.primary(View(0));
    let other = cluster.backups(View(0))[1];
    let mut host = Host::start(&cluster, silent(&cluster, backup(&cluster)), Vec::new());
    assert_eq!(host.replica.silent_through(), Some(SILENT_THROUGH));
    // It is asked for a vote, knows of work that nobody does, and hears that others leave the view.
    host.hear(primary, Message::PrePrepare(cluster.pre_prepare(0, 1, cluster.body(1))));
    host.hear(other, request(&cluster));
    host.wait(LONG);
    for peer in [primary, other] {
        let changing = Some(ReplicaSet::EMPTY);
        let status = Status { epoch: cluster.config.epoch(), view: View(1), changing, ..empty_status(&cluster) };
        host.hear(peer, Message::Status(status));
    }
    // What others have committed it takes, executes and keeps; its own root it signs not.
    for seq in 1..=2 {
        let body = Body::default();
        let certificate = Arc::new(cluster.committed(0, seq, &body, &cluster.backups(View(0))));
        let slot = CommittedSlot { certificate, body: Arc::new(body) };
        host.hear(other, Message::Slot(slot));
    }
    assert_eq!(host.replica.executed(), Seq(2));
    assert_eq!((host.signed(), host.records()), (vec![], vec![RecordKind::Committed; 2]));
    assert_eq!((host.replica.ordering().view(), host.replica.counters().suspected), (View(0), 0));

    let mut host = Host::start(&cluster, silent(&cluster, backup(&cluster)), Vec::new());
    host.others_pass(2);
    host.hear(primary, Message::PrePrepare(cluster.pre_prepare(0, 3, cluster.body(3))));
    assert_eq!(host.signed(), [], "it may have voted up to Seq 4");
    host.others_pass(4);
    assert_eq!(host.replica.silent_through(), None);
    host.hear(primary, Message::PrePrepare(cluster.pre_prepare(0, 5, cluster.body(5))));
    assert_eq!((host.signed(), host.records()), (vec![Kind::Prepare], vec![RecordKind::Vote]));
}

#[test]
fn d7_evidence_against_the_primary_moves_a_silent_replica_when_it_votes_again() {
    let cluster = TestCluster::with_window_of_four();
    let vote = |batch| {
        let (position, _) = cluster.position(0, 1, &cluster.body(batch));
        SignedVote { digest: position.digest, ballot: cluster.proposal(&position) }
    };
    let evidence = Evidence::new(&cluster.config, Proof::two_proposals(View(0), Seq(1), vote(1), vote(2)));
    let mut host = Host::start(&cluster, silent(&cluster, backup(&cluster)), Vec::new());
    host.hear(cluster.backups(View(0))[1], Message::Evidence(Arc::new(evidence)));
    host.wait(LONG);
    assert_eq!((host.signed(), host.records()), (vec![], vec![RecordKind::Evidence]), "kept, and no view left for it");
    assert!(host.sent.iter().any(|message| message.kind() == Kind::Evidence), "it is passed on");
    assert_eq!((host.replica.ordering().view(), host.replica.counters().suspected), (View(0), 0));
    host.others_pass(4);
    assert_eq!(host.replica.silent_through(), None);
    assert_eq!(host.signed(), [Kind::ViewChange], "its primary is proved to have lied");
    assert_eq!(host.replica.ordering().view(), View(1));
}

fn empty_status(cluster: &TestCluster) -> Status {
    let words = vec![0; (cluster.config.params().window as usize).div_ceil(64)];
    Status { proposed: words.clone(), prepared: words.clone(), committed: words, ..Status::default() }
}

#[test]
fn d7_a_primary_that_lost_votes_proposes_nothing_where_it_may_have_proposed() {
    let cluster = TestCluster::with_window_of_four();
    let primary = cluster.config.primary(View(0));
    let mut host = Host::start(&cluster, silent(&cluster, primary), Vec::new());
    host.hear(backup(&cluster), request(&cluster));
    assert_eq!(host.signed(), []);
    host.others_pass(4);
    let proposed = host.sent.iter().find_map(|message| match message {
        Message::PrePrepare(proposal) => Some(proposal.position.seq),
        _ => None,
    });
    assert_eq!(proposed, Some(Seq(5)));
}

#[test]
fn d7_a_view_that_was_promised_is_spoken_of_again_when_no_certificate_can_be_missing() {
    let cluster = TestCluster::with_window_of_four();
    let me = cluster.config.replicas().find(|me| *me != cluster.config.primary(View(3))).expect("there are four");
    let promised = Superblock { promised: View(3), ..silent(&cluster, me) };
    let mut host = Host::start(&cluster, promised, Vec::new());
    host.wait(LONG);
    let told = host.sent.iter().find_map(|message| match message {
        Message::Status(status) => Some((status.view, status.changing)),
        _ => None,
    });
    assert_eq!(told.map(|(view, changing)| (view, changing.is_some())), Some((View(3), true)), "on its way to it");
    assert_eq!(host.signed(), []);
    host.others_pass(4);
    let changes = host.sent.iter().filter_map(|message| match message {
        Message::ViewChange(message) => Some((message.view, message.stable())),
        _ => None,
    });
    assert_eq!(changes.collect::<Vec<_>>(), [(View(3), Seq(4))]);
}

/// A journal without a file, of which the superblock says that it was durable up to position 7.
fn damage(superblock: &Superblock) -> Damage {
    struct Nothing;
    impl Blocks for Nothing {
        fn segments(&mut self) -> io::Result<Vec<SegmentFile>> {
            Ok(Vec::new())
        }
        fn read(&mut self, _: u32, _: u32, _: &mut [u8]) -> io::Result<()> {
            unreachable!("there is no file")
        }
    }
    match scan::<io::Error>(superblock, &mut Nothing, &mut |_, _| Ok(())) {
        Err(ScanError::Damage(damage)) => damage,
        other => panic!("{other:?}"),
    }
}

#[test]
fn d20_the_superblock_owns_up_to_every_vote_that_may_be_lost() {
    let cluster = TestCluster::with_window_of_four();
    let quorum: Vec<_> = (0..3).map(ReplicaId).collect();
    let before = Superblock {
        durable_through: LogPosition(7),
        stable: Some(cluster.checkpoint(6, &quorum)),
        ..superblock(&cluster.config, backup(&cluster))
    };
    let mut after = before.clone();
    own_up(&mut after, &damage(&before), &cluster.config);
    assert_eq!((after.damaged_through, after.journal_start), (Seq(6 + 4), LogPosition(8)));
    assert_eq!((after.sequence, after.promised), (before.sequence + 1, View(0)));
    // A second time, before anything new was durable: nothing is forgotten.
    let earlier = Superblock { damaged_through: Seq(100), ..before.clone() };
    let mut after = earlier.clone();
    own_up(&mut after, &damage(&earlier), &cluster.config);
    assert_eq!(after.damaged_through, Seq(100));
}

#[test]
fn d7_who_may_have_begun_a_view_does_not_begin_it_again() {
    let cluster = TestCluster::with_window_of_four();
    for view in [View(2), View(3)] {
        let primary = cluster.config.primary(View(2));
        let mut after =
            Superblock { durable_through: LogPosition(7), promised: view, ..superblock(&cluster.config, primary) };
        let damage = damage(&after);
        own_up(&mut after, &damage, &cluster.config);
        assert_eq!(after.promised, View(3), "its own view 2 is left, the view 3 of another is not");
    }
}

#[test]
fn d5_a_body_that_rots_while_the_replica_runs_is_fetched_from_others() {
    let cluster = TestCluster::with_window_of_four();
    let (me, body) = (backup(&cluster), cluster.body(1));
    let backups = cluster.backups(View(0));
    let (position, header) = cluster.position(0, 1, &body);
    let vote =
        |bytes| Record::Vote(Vote { position, proposal: cluster.proposal(&position), header, body: Some(bytes) });
    let certificate = Arc::new(cluster.committed(0, 1, &body, &backups));
    let records = vec![
        vote(body.bytes().clone()),
        Record::Cert(cluster.prepared(0, 1, &body, &backups)),
        Record::Committed(Committed { certificate: certificate.clone(), body: None }),
    ];
    let mut host = Host::start(&cluster, superblock(&cluster.config, me), records);
    assert_eq!(host.loads, [LogPosition(1)]);
    // Well-formed, of the same length, and another batch.
    let rotten = cluster.body(2);
    assert_eq!(rotten.bytes().len(), body.bytes().len());
    host.step(Input::Loaded { at: LogPosition(1), record: Some(vote(rotten.bytes().clone())) });
    assert_eq!(host.replica.executed(), Seq(0));
    let slot = CommittedSlot { certificate, body: Arc::new(body) };
    let mut effects = Effects::default();
    let message = cluster.verifier().check(backups[1], Message::Slot(slot)).expect("well-formed");
    host.replica.step(time(host.now), Input::Message { from: backups[1], message }, &mut effects);
    assert!(
        host.replica.executed() == Seq(1) || effects.execute.iter().any(|order| order.seq == Seq(1)),
        "executed, as soon as it is here again"
    );
}

#[test]
fn d6_what_a_peer_gives_for_a_lost_batch_proves_itself() {
    let cluster = TestCluster::with_window_of_four();
    let (verifier, peer) = (cluster.verifier(), cluster.backups(View(0))[1]);
    let genuine = cluster.slot(0, 1);
    let check = |slot| verifier.check(peer, Message::Slot(slot)).map(drop);
    assert_eq!(check(genuine.clone()), Ok(()));
    let other_body = CommittedSlot { body: Arc::new(cluster.body(2)), ..genuine.clone() };
    assert_eq!(check(other_body), Err(Rejected::BodyMismatch));
    let mut certificate = (*genuine.certificate).clone();
    certificate.commits.truncate(1);
    let too_few = CommittedSlot { certificate: Arc::new(certificate), ..genuine.clone() };
    assert_eq!(check(too_few), Err(Rejected::NoQuorum));
    let mut certificate = (*genuine.certificate).clone();
    certificate.commits[0].2.0[0] ^= 1;
    let not_opened = CommittedSlot { certificate: Arc::new(certificate), ..genuine };
    assert!(check(not_opened).is_err());
}
