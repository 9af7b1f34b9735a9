//! One replica among peers that say contradictory things: it finds every kind of evidence where the second half meets the
//! first, keeps it over restarts, tells it once, and again to a peer that may have missed it, leaves a view whose primary
//! has lied in it; and finds nothing where peers only repeat themselves, change their view or start again.

mod common;

use std::sync::Arc;

use bft_core::auth::{Refusal, Rejected, Scheme, Verifier};
use bft_core::config::ProtocolParams;
use bft_core::door::{Effects, Input, LinkState, Now, Persist, Place, To, Tuning};
use bft_core::evidence::{Accused, Evidence, EvidenceKind, Proof, SignedVote};
use bft_core::ids::{Digest, Epoch, LogPosition, Nanos, ReplicaId, Seq, View, WallNanos};
use bft_core::journal::Record;
use bft_core::limits::{CLOCK_AHEAD_MAX, EVIDENCE_BYTES, EVIDENCE_PER_ACCUSED, EVIDENCE_TELL_INTERVAL, SECOND};
use bft_core::replica::Replica;
use bft_core::wire::canonical;
use bft_core::wire::message::{Checkpoint, CommittedSlot, Message, NewView, Position, PrePrepare, PreparedCertificate};
use bft_core::wire::request::{Body, SignedRequest};
use bytes::Bytes;
use common::{CLUSTER, TestCluster, superblock_after};

/// A backup of the views 0 to 2, and what comes out of it.
struct Witness {
    cluster: TestCluster,
    me: ReplicaId,
    verifier: Verifier,
    replica: Replica,
    now: Nanos,
    records: Vec<Persist>,
    effects: Effects,
    told: Vec<Accused>,
    sent: Vec<(To, Message)>,
}

impl Witness {
    fn new() -> Self {
        let params =
            ProtocolParams { checkpoint_interval: 8, window: 16, pipeline_max: 8, ..ProtocolParams::default() };
        let cluster = TestCluster::with(CLUSTER, &[1; 4], params);
        let me = cluster.config.primary(View(3));
        let (replica, effects) = start(&cluster, me, &[]);
        let verifier = cluster.verifier();
        let (now, records, told, sent) = (Nanos(SECOND), Vec::new(), Vec::new(), Vec::new());
        let mut witness = Self { cluster, me, verifier, replica, now, records, effects, told, sent };
        witness.carry_out();
        witness.pass_handshake();
        witness
    }

    /// Nobody holds anything that it does not know of.
    fn pass_handshake(&mut self) {
        let answer = common::nothing_is_held(self.sent.iter().map(|(_, message)| message)).expect("it asks");
        let others: Vec<_> = self.cluster.config.replicas().filter(|other| *other != self.me).collect();
        others[..2].iter().for_each(|peer| self.hear(*peer, answer.clone()));
        assert!(!self.replica.is_asking());
    }

    /// The process is killed and starts again with all that it wrote.
    fn restart(&mut self) {
        (self.replica, self.effects) = start(&self.cluster, self.me, &self.records);
        self.told.clear();
        self.sent.clear();
        self.carry_out();
        self.pass_handshake();
    }

    fn hear(&mut self, from: ReplicaId, message: Message) {
        let message = self.verifier.check(from, message).expect("well signed");
        self.step(Input::Message { from, message });
    }

    fn step(&mut self, input: Input) {
        let now = Now { mono: self.now, wall: WallNanos(1_700_000_000_000_000_000) };
        self.replica.step(now, input, &mut self.effects);
        self.replica.check_invariants();
        self.carry_out();
    }

    /// Every record is durable at once.
    fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        self.records.append(&mut effects.persist);
        self.told.extend(effects.evidence.drain(..).map(|accusation| {
            let found = accusation.evidence.verify(&self.verifier).expect("what is told holds");
            assert_eq!(found, accusation.accused);
            found
        }));
        self.sent.extend(effects.send.drain(..).map(|outgoing| (outgoing.to, outgoing.message)));
        effects.clear();
        self.effects = effects;
    }

    fn durable(&mut self) {
        let last = self.records.last().map_or(LogPosition(0), |persist| persist.position);
        self.step(Input::Durable(last));
    }

    fn at(&self, view: u64, seq: u64, batch: u64) -> Position {
        self.cluster.position(view, seq, &self.cluster.body(batch)).0
    }

    fn propose(&mut self, view: u64, seq: u64, batch: u64) {
        let proposal = self.cluster.pre_prepare(view, seq, self.cluster.body(batch));
        self.hear(self.cluster.config.primary(View(view)), Message::PrePrepare(proposal));
    }

    fn prepare(&mut self, view: u64, seq: u64, batch: u64, replica: ReplicaId) {
        let prepare = self.cluster.prepare(self.at(view, seq, batch), replica);
        self.hear(replica, Message::Prepare(prepare));
    }

    fn commit(&mut self, view: u64, seq: u64, batch: u64, replica: ReplicaId) {
        let commit = self.cluster.commit(self.at(view, seq, batch), replica);
        self.hear(replica, Message::Commit(commit));
    }

    /// A NEW-VIEW of empty VIEW-CHANGEs, of all but one replica.
    fn empty_new_view(&self, view: u64, without: usize) -> Arc<NewView> {
        let replicas = self.cluster.config.replicas().filter(|replica| replica.index() != without);
        self.cluster
            .new_view(view, replicas.map(|replica| self.cluster.view_change(replica, view, None, vec![])).collect())
    }

    fn prepared(&self, view: u64, seq: u64, batch: u64) -> PreparedCertificate {
        self.cluster.prepared(view, seq, &self.cluster.body(batch), &self.cluster.backups(View(view)))
    }

    fn primary(&self, view: u64) -> ReplicaId {
        self.cluster.config.primary(View(view))
    }

    /// A backup of the views 0 and 1, other than the witness.
    fn peer(&self) -> ReplicaId {
        self.primary(2)
    }

    fn accused(&self, replica: ReplicaId, kind: EvidenceKind, view: u64, seq: u64) -> Accused {
        Accused { replica, kind, epoch: Epoch(3), view: View(view), seq: Seq(seq) }
    }

    fn promised(&self) -> View {
        let superblocks = self.records.iter().filter_map(|persist| match &persist.place {
            Place::Superblock(superblock) => Some(superblock.promised),
            Place::Journal(_) => None,
        });
        superblocks.last().unwrap_or_default()
    }

    fn on_disk(&self) -> usize {
        let is_evidence = |persist: &&Persist| matches!(persist.place, Place::Journal(Record::Evidence(_)));
        self.records.iter().filter(is_evidence).count()
    }

    fn gossip(&self) -> Vec<Arc<Evidence>> {
        let of_all = self.sent.iter().filter(|(to, _)| *to == To::All);
        of_all
            .filter_map(|(_, message)| match message {
                Message::Evidence(evidence) => Some(Arc::clone(evidence)),
                _ => None,
            })
            .collect()
    }
}

fn start(cluster: &TestCluster, me: ReplicaId, records: &[Persist]) -> (Replica, Effects) {
    let superblock = superblock_after(&cluster.config, me, records);
    let scheme = Arc::clone(&cluster.replicas[me.index()]);
    let mut recovery = Replica::recover(Arc::clone(&cluster.config), me, scheme, Tuning::default(), superblock);
    for persist in records {
        if let Place::Journal(record) = &persist.place {
            recovery.record(persist.position, record.clone()).expect("its own journal");
        }
    }
    let last = records.last().map_or(LogPosition(0), |persist| persist.position);
    let now = Now { mono: Nanos(SECOND), wall: WallNanos(1_700_000_000_000_000_000) };
    let mut effects = Effects::default();
    let replica = recovery.finish(now, last, Seq(0), &mut effects);
    (replica, effects)
}

#[test]
fn s3_a2_e1_a_second_proposal_is_evidence_and_ends_the_view() {
    let mut witness = Witness::new();
    let primary = witness.primary(0);
    witness.propose(0, 1, 1);
    witness.propose(0, 1, 1);
    assert_eq!((witness.told.len(), witness.promised()), (0, View(0)), "repeated");
    witness.propose(0, 1, 2);
    assert_eq!(witness.told, [witness.accused(primary, EvidenceKind::TwoProposals, 0, 1)]);
    assert_eq!(witness.promised(), View(1), "the view cannot go on");
    assert_eq!((witness.on_disk(), witness.gossip().len()), (1, 1));
    let counters = witness.replica.counters();
    assert_eq!((counters.evidence, counters.suspected, counters.ignored_conflicting), (1, 1, 1));
}

#[test]
fn s3_e1_beyond_the_window_too_and_beside_a_certificate() {
    let mut witness = Witness::new();
    let primary = witness.primary(0);
    witness.propose(0, 20, 1);
    witness.propose(0, 20, 2);
    assert_eq!(witness.told, [witness.accused(primary, EvidenceKind::TwoProposals, 0, 20)], "early ones");

    let mut witness = Witness::new();
    let others: Vec<_> = witness.cluster.backups(View(0)).into_iter().filter(|backup| *backup != witness.me).collect();
    let body = witness.cluster.body(1);
    let certificate = Arc::new(witness.cluster.committed(0, 1, &body, &others));
    witness.hear(witness.peer(), Message::Slot(CommittedSlot { certificate, body: Arc::new(body) }));
    witness.propose(0, 1, 9);
    assert_eq!(witness.told, [witness.accused(primary, EvidenceKind::TwoProposals, 0, 1)], "against what is committed");
}

#[test]
fn s3_o3_e1_a_second_proposal_is_evidence_however_far_ahead_it_is_dated() {
    for seq in [1, 20] {
        let mut witness = Witness::new();
        let primary = witness.primary(0);
        witness.propose(0, seq, 1);
        let far_ahead = 1_700_000_000_000_000_000 + 2 * CLOCK_AHEAD_MAX;
        let second = witness.cluster.pre_prepare_dated(0, seq, witness.cluster.body(2), far_ahead);
        witness.hear(primary, Message::PrePrepare(second));
        assert_eq!(witness.told, [witness.accused(primary, EvidenceKind::TwoProposals, 0, seq)]);
    }
}

#[test]
fn a2_e2_a_second_prepare_is_evidence_and_the_view_goes_on() {
    let mut witness = Witness::new();
    let peer = witness.peer();
    witness.prepare(0, 1, 1, peer);
    witness.prepare(0, 1, 1, peer);
    witness.prepare(0, 2, 2, peer);
    witness.prepare(0, 1, 2, witness.primary(1));
    assert_eq!(witness.told, [], "repeated, of another Seq, of another replica");
    witness.prepare(0, 1, 2, peer);
    witness.prepare(0, 1, 3, peer);
    assert_eq!(witness.told, [witness.accused(peer, EvidenceKind::TwoPrepares, 0, 1)], "one piece for one place");
    assert_eq!((witness.promised(), witness.on_disk(), witness.gossip().len()), (View(0), 1, 1));
}

#[test]
fn a2_e1_e2_what_two_certificates_show_is_evidence() {
    let mut witness = Witness::new();
    let (primary, peer) = (witness.primary(0), witness.peer());
    witness.propose(0, 1, 1);
    witness.prepare(0, 1, 1, peer);
    let body = witness.cluster.body(2);
    let others: Vec<_> = [witness.primary(1), peer].into_iter().collect();
    let mut backups = others.clone();
    backups.sort_unstable();
    let certificate = witness.cluster.committed(0, 1, &body, &backups);
    let slot = CommittedSlot { certificate: Arc::new(certificate), body: Arc::new(body) };
    witness.hear(peer, Message::Slot(slot));
    let expected = [
        witness.accused(primary, EvidenceKind::TwoProposals, 0, 1),
        witness.accused(peer, EvidenceKind::TwoPrepares, 0, 1),
    ];
    assert_eq!(witness.told, expected, "the proposal and the vote that stand here are for another batch");

    let mut witness = Witness::new();
    witness.propose(0, 1, 1);
    let view_change = witness.cluster.view_change(peer, 1, None, vec![witness.prepared(0, 1, 2)]);
    witness.hear(peer, Message::ViewChange(view_change));
    assert_eq!(witness.told, [witness.accused(primary, EvidenceKind::TwoProposals, 0, 1)], "in a VIEW-CHANGE");
}

#[test]
fn a2_e3_a_second_checkpoint_is_evidence() {
    let mut witness = Witness::new();
    let peer = witness.peer();
    let all: Vec<_> = witness.cluster.config.replicas().collect();
    let other = |witness: &Witness, signers: &[ReplicaId]| {
        let (epoch, seq, root, epoch_end) = (Epoch(3), Seq(8), Digest([1; 32]), Seq(0));
        let sign = |id: &ReplicaId| {
            let bytes = canonical::checkpoint(CLUSTER, epoch, seq, root, epoch_end, *id);
            (*id, witness.cluster.scheme(*id).sign(&bytes))
        };
        Checkpoint { epoch, seq, root, epoch_end, signatures: signers.iter().map(sign).collect() }
    };
    witness.hear(peer, Message::Checkpoint(witness.cluster.checkpoint(8, &[peer])));
    witness.hear(peer, Message::Checkpoint(witness.cluster.checkpoint(8, &[peer])));
    witness.hear(peer, Message::Checkpoint(other(&witness, &[all[0]])));
    assert_eq!(witness.told, [], "repeated, of another replica");
    witness.hear(all[0], Message::Checkpoint(other(&witness, &[peer])));
    assert_eq!(witness.told, [witness.accused(peer, EvidenceKind::TwoCheckpoints, 0, 8)], "relayed by whomever");

    // The first half is in a certificate, the second comes after it.
    let mut witness = Witness::new();
    witness.hear(peer, Message::Checkpoint(witness.cluster.checkpoint(8, &all)));
    witness.hear(peer, Message::Checkpoint(other(&witness, &[peer])));
    assert_eq!(witness.told, [witness.accused(peer, EvidenceKind::TwoCheckpoints, 0, 8)]);
}

#[test]
fn a2_e4_a_view_change_that_forgets_a_commit_is_evidence_whichever_comes_first() {
    let peer = Witness::new().peer();
    let forgets = |witness: &mut Witness, view| {
        let message = witness.cluster.view_change(peer, view, None, vec![]);
        witness.hear(peer, Message::ViewChange(message));
    };
    let commits = |witness: &mut Witness| {
        witness.prepare(0, 1, 1, peer);
        witness.commit(0, 1, 1, peer);
    };
    let expected = |witness: &Witness, view| vec![witness.accused(peer, EvidenceKind::Amnesia, view, 1)];

    let mut witness = Witness::new();
    commits(&mut witness);
    forgets(&mut witness, 1);
    assert_eq!(witness.told, expected(&witness, 1), "in the view of the COMMIT");

    let mut witness = Witness::new();
    forgets(&mut witness, 2);
    assert_eq!(witness.told, []);
    commits(&mut witness);
    assert_eq!(witness.told, expected(&witness, 2), "the COMMIT comes after it");

    let mut witness = Witness::new();
    commits(&mut witness);
    let new_view = witness.empty_new_view(1, peer.index());
    witness.hear(witness.primary(1), Message::NewView(new_view));
    assert_eq!(witness.told, [], "the others had not committed");
    forgets(&mut witness, 2);
    assert_eq!(witness.told, expected(&witness, 2), "the view of the COMMIT was left before");

    let mut witness = Witness::new();
    forgets(&mut witness, 1);
    let slot = witness.cluster.slot(0, 1);
    witness.hear(witness.primary(1), Message::Slot(slot));
    assert_eq!(witness.told, expected(&witness, 1), "a certificate shows the COMMIT");

    let mut witness = Witness::new();
    commits(&mut witness);
    let new_view = witness.empty_new_view(1, witness.me.index());
    witness.hear(witness.primary(1), Message::NewView(new_view));
    assert_eq!(witness.told, expected(&witness, 1), "said to the new primary alone");
}

#[test]
fn a2_a_lawful_view_change_is_no_evidence() {
    let mut witness = Witness::new();
    let (peer, all) = (witness.peer(), witness.cluster.config.replicas().collect::<Vec<_>>());
    witness.propose(0, 1, 1);
    for replica in [peer, witness.primary(1)] {
        witness.prepare(0, 1, 1, replica);
        witness.commit(0, 1, 1, replica);
    }
    // What it committed to, then a voted-for batch that it did not, then again with a later checkpoint after a restart.
    witness.prepare(0, 2, 2, peer);
    let message = witness.cluster.view_change(peer, 1, None, vec![witness.prepared(0, 1, 1)]);
    witness.hear(peer, Message::ViewChange(message));
    let later = witness.cluster.view_change(peer, 1, Some(witness.cluster.checkpoint(8, &all)), vec![]);
    witness.hear(peer, Message::ViewChange(later));
    let on = witness.cluster.view_change(peer, 2, Some(witness.cluster.checkpoint(8, &all)), vec![]);
    witness.hear(peer, Message::ViewChange(on));
    // A COMMIT whose nonce opens nothing is nobody's word.
    let mut commit = witness.cluster.commit(witness.at(0, 2, 2), peer);
    commit.nonce = Digest([7; 32]);
    witness.hear(peer, Message::Commit(commit));
    assert_eq!(witness.told, []);
}

#[test]
fn v4_a2_e5_a_primary_that_does_not_keep_to_its_new_view_loses_it() {
    let mut witness = Witness::new();
    let primary = witness.primary(1);
    let certificate = witness.prepared(0, 1, 5);
    let replicas = witness.cluster.config.replicas().filter(|replica| *replica != witness.me);
    let message = |replica| witness.cluster.view_change(replica, 1, None, vec![certificate.clone()]);
    let new_view = witness.cluster.new_view(1, replicas.map(message).collect());
    witness.hear(primary, Message::NewView(new_view));
    witness.propose(1, 1, 5);
    witness.propose(1, 2, 7);
    assert_eq!((witness.told.len(), witness.promised()), (0, View(1)), "what it demands, and what it leaves open");
    witness.propose(1, 1, 6);
    assert_eq!(witness.told, [witness.accused(primary, EvidenceKind::FalseNewView, 1, 1)]);
    assert_eq!(witness.promised(), View(2));
}

#[test]
fn v4_a2_e5_an_invalid_new_view_is_refused_and_proves_it() {
    let mut witness = Witness::new();
    let (primary, relay) = (witness.primary(1), witness.peer());
    let valid = witness.empty_new_view(1, witness.me.index());
    let invalid = witness.cluster.new_view(1, valid.view_changes[..2].to_vec());
    let message = Message::NewView(Arc::clone(&invalid));
    let refusal: Box<Refusal> = witness.verifier.check_or_accuse(relay, message).expect_err("no quorum");
    assert_eq!(refusal.rejected, Rejected::NoQuorum);
    let evidence = refusal.evidence.expect("its primary signed it");
    // In view 0 nothing follows from it but that it is known; in view 1 its primary has lost the view.
    witness.step(Input::Message { from: relay, message: evidence });
    assert_eq!(witness.told, [witness.accused(primary, EvidenceKind::FalseNewView, 1, 0)]);
    assert_eq!(witness.promised(), View(0), "nobody knows that anybody else goes there");
    witness.hear(primary, Message::NewView(valid));
    assert_eq!(witness.promised(), View(2), "a view that is known to be lost is left at once");

    let mut forged = Arc::unwrap_or_clone(invalid);
    forged.signature.0[32] ^= 1;
    let refusal = witness.verifier.check_or_accuse(relay, Message::NewView(Arc::new(forged))).expect_err("refused");
    assert_eq!(refusal.evidence, None, "the link is at fault, and nobody else");
}

#[test]
fn a2_e7_a_second_new_view_is_evidence_and_ends_the_view() {
    let mut witness = Witness::new();
    let primary = witness.primary(1);
    let first = witness.empty_new_view(1, witness.me.index());
    witness.hear(primary, Message::NewView(Arc::clone(&first)));
    witness.hear(witness.peer(), Message::NewView(first));
    assert_eq!(witness.told, [], "repeated");
    let second = witness.empty_new_view(1, witness.peer().index());
    witness.hear(primary, Message::NewView(second));
    assert_eq!(witness.told, [witness.accused(primary, EvidenceKind::TwoNewViews, 1, 0)]);
    assert_eq!(witness.promised(), View(2));
}

/// A batch with a Request in it that its client has not signed.
fn forged_proposal(cluster: &TestCluster, seq: u64) -> PrePrepare {
    let mut requests: Vec<_> = cluster.body(1).requests().collect();
    let mut bytes = requests[1].bytes.to_vec();
    let last = bytes.len() - 1;
    bytes[last - 40] ^= 1;
    requests[1] = SignedRequest::parse(Bytes::from(bytes), cluster.bounds()).expect("a signature may be any bytes");
    cluster.pre_prepare(0, seq, Body::join(&requests))
}

#[test]
fn c15_a2_e8_a_proposal_over_a_forged_request_is_refused_and_proves_it() {
    let mut witness = Witness::new();
    let primary = witness.primary(0);
    let proposal = forged_proposal(&witness.cluster, 1);
    let message = Message::PrePrepare(proposal.clone());
    let refusal = witness.verifier.check_or_accuse(primary, message).expect_err("a forged Request");
    assert_eq!(refusal.rejected, Rejected::BadSignature);
    let message = refusal.evidence.expect("its primary signed it");
    witness.step(Input::Message { from: primary, message });
    assert_eq!(witness.told, [witness.accused(primary, EvidenceKind::ForgedRequest, 0, 1)]);
    assert_eq!(witness.promised(), View(1));

    let mut forged = proposal;
    forged.ballot.signature.0[32] ^= 1;
    let refusal = witness.verifier.check_or_accuse(primary, Message::PrePrepare(forged)).expect_err("refused");
    assert_eq!(refusal.evidence, None, "the link is at fault, and nobody else");
}

/// That `replica` prepared two batches at `seq`.
fn two_prepares(witness: &Witness, replica: ReplicaId, seq: u64) -> Arc<Evidence> {
    let vote = |batch| {
        let position = witness.at(0, seq, batch);
        SignedVote { digest: position.digest, ballot: witness.cluster.ballot(&position, replica) }
    };
    let proof = Proof::two_prepares(replica, View(0), Seq(seq), vote(1), vote(2));
    Arc::new(Evidence::new(&witness.cluster.config, proof))
}

#[test]
fn a1_evidence_of_peers_is_kept_and_passed_on_once_and_what_proves_nothing_is_charged_to_the_link() {
    let mut witness = Witness::new();
    let (peer, relay) = (witness.peer(), witness.primary(1));
    let evidence = two_prepares(&witness, peer, 1);
    for _ in 0..3 {
        witness.hear(relay, Message::Evidence(Arc::clone(&evidence)));
    }
    assert_eq!(witness.told, [witness.accused(peer, EvidenceKind::TwoPrepares, 0, 1)]);
    assert_eq!((witness.gossip(), witness.on_disk()), (vec![Arc::clone(&evidence)], 1));

    let mut framed = Evidence::clone(&evidence);
    if let Proof::TwoPrepares { replica, .. } = &mut framed.proof {
        *replica = relay;
    }
    let refused = witness.verifier.check_or_accuse(peer, Message::Evidence(Arc::new(framed))).expect_err("framing");
    assert_eq!((refused.rejected, refused.evidence), (Rejected::BadEvidence, None));
}

#[test]
fn a2_mem1_evidence_is_bounded_for_each_accused_and_by_its_bytes() {
    let mut witness = Witness::new();
    let (peer, relay) = (witness.peer(), witness.primary(1));
    let most = EVIDENCE_PER_ACCUSED as u64;
    for seq in 1..=most + 9 {
        let evidence = two_prepares(&witness, peer, seq);
        witness.hear(relay, Message::Evidence(evidence));
    }
    let counters = witness.replica.counters();
    assert_eq!((counters.evidence, counters.evidence_dropped), (most, 9));
    assert_eq!((witness.told.len(), witness.on_disk()), (EVIDENCE_PER_ACCUSED, EVIDENCE_PER_ACCUSED));
    let evidence = two_prepares(&witness, relay, 1);
    witness.hear(peer, Message::Evidence(evidence));
    assert_eq!(witness.told.len(), EVIDENCE_PER_ACCUSED + 1, "another one has room of its own");

    // As large as a Request may be: eight of them are more than the bytes that there are.
    let mut witness = Witness::new();
    let operation = vec![7; 250 << 10];
    let mut bytes = witness.cluster.request("ada", 1, &[&operation]).bytes.to_vec();
    let last = bytes.len() - 1;
    bytes[last - 40] ^= 1;
    let request = SignedRequest::parse(Bytes::from(bytes), witness.cluster.bounds()).expect("parses");
    let body = Body::join(&[request]);
    for seq in 1..=9 {
        let proposal = witness.cluster.pre_prepare(0, seq, body.clone());
        let refusal = witness.verifier.check_or_accuse(relay, Message::PrePrepare(proposal)).expect_err("forged");
        let message = refusal.evidence.expect("its primary signed it");
        witness.step(Input::Message { from: relay, message });
    }
    let counters = witness.replica.counters();
    assert_eq!(counters.evidence + counters.evidence_dropped, 9);
    assert_eq!(counters.evidence, (EVIDENCE_BYTES / (251 << 10)) as u64);
}

#[test]
fn a2_evidence_outlives_its_replica() {
    let mut witness = Witness::new();
    let peer = witness.peer();
    witness.propose(0, 1, 1);
    witness.prepare(0, 1, 1, peer);
    witness.prepare(0, 1, 2, peer);
    witness.durable();
    let expected = [witness.accused(peer, EvidenceKind::TwoPrepares, 0, 1)];
    assert_eq!(witness.told, expected);
    witness.restart();
    assert_eq!(witness.told, expected, "told again: nobody may have heard it");
    assert_eq!((witness.on_disk(), witness.gossip().len()), (1, 0), "and neither written nor gossiped again");
    assert_eq!(witness.replica.counters().evidence, 1);
    let evidence = two_prepares(&witness, peer, 1);
    witness.hear(peer, Message::Evidence(evidence));
    assert_eq!((witness.told.len(), witness.on_disk()), (1, 1), "known");
}

#[test]
fn a2_a_peer_whose_link_comes_up_is_told_but_not_at_its_every_whim() {
    let mut witness = Witness::new();
    let (peer, absent) = (witness.peer(), witness.primary(1));
    let link = |witness: &mut Witness, state| {
        witness.sent.clear();
        witness.step(Input::Link { peer: absent, state });
        let to_it = witness.sent.iter().filter(|(to, _)| *to == To::One(absent));
        to_it.filter(|(_, message)| matches!(message, Message::Evidence(_))).count()
    };
    assert_eq!(link(&mut witness, LinkState::Up), 0, "nothing is known");
    link(&mut witness, LinkState::Down);
    for seq in [1, 2] {
        witness.hear(peer, Message::Evidence(two_prepares(&witness, peer, seq)));
    }
    assert_eq!(link(&mut witness, LinkState::Up), 2, "both were told while it was away");
    link(&mut witness, LinkState::Down);
    assert_eq!(link(&mut witness, LinkState::Up), 0, "it was told just now");
    witness.now = witness.now.after(EVIDENCE_TELL_INTERVAL);
    witness.sent.clear();
    witness.step(Input::Deadline);
    let told_again = witness.sent.iter().filter(|(to, _)| *to == To::One(absent));
    assert_eq!(told_again.count(), 2, "and later, because its last link went down");
    witness.now = witness.now.after(EVIDENCE_TELL_INTERVAL);
    witness.sent.clear();
    witness.step(Input::Deadline);
    assert!(witness.sent.iter().all(|(to, _)| *to == To::All), "once for each link");
}

#[test]
fn a2_a_primary_whose_lie_is_on_disk_does_not_get_its_view_back() {
    let mut witness = Witness::new();
    witness.propose(0, 1, 1);
    witness.propose(0, 1, 2);
    // The evidence reached the disk, the promise did not.
    let is_evidence = |persist: &Persist| matches!(persist.place, Place::Journal(Record::Evidence(_)));
    let through = witness.records.iter().position(is_evidence).expect("on disk");
    witness.records.truncate(through + 1);
    witness.restart();
    assert_eq!(witness.promised(), View(1), "as soon as it may vote");
}

#[test]
fn a2_two_certificates_in_a_new_view_accuse_before_everything_stops() {
    let mut witness = Witness::new();
    let all: Vec<_> = witness.cluster.config.replicas().collect();
    let (primary, others) = (witness.primary(0), [witness.primary(1), witness.primary(2)]);
    let certificate = |batch: u64| {
        let mut backups = others.to_vec();
        backups.sort_unstable();
        witness.cluster.prepared(0, 1, &witness.cluster.body(batch), &backups)
    };
    let message = |replica: &ReplicaId| {
        witness.cluster.view_change(*replica, 1, None, vec![certificate(1 + u64::from(*replica == all[0]))])
    };
    let new_view = witness.cluster.new_view(1, all[..3].iter().map(message).collect());
    let now = Now { mono: Nanos(SECOND), wall: WallNanos(1_700_000_000_000_000_000) };
    let message = Message::NewView(new_view);
    let message = witness.verifier.check(witness.primary(1), message).expect("well signed");
    witness.replica.step(now, Input::Message { from: primary, message }, &mut witness.effects);
    assert!(witness.effects.halt.is_some(), "more are faulty than may be");
    witness.carry_out();
    let mut expected = vec![witness.accused(primary, EvidenceKind::TwoProposals, 0, 1)];
    expected.extend(others.map(|replica| witness.accused(replica, EvidenceKind::TwoPrepares, 0, 1)));
    let (mut told, mut expected) = (witness.told.clone(), expected);
    told.sort_unstable();
    expected.sort_unstable();
    assert_eq!(told, expected, "a blocking set, by name");
}
