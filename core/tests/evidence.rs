//! Evidence by itself: of every kind a piece that holds, from its bytes and the configuration alone; with any one field
//! changed it holds no more; and nothing that correct replicas sign, restarts and all, can be put together to hold.

mod common;

use std::sync::Arc;

use bft_core::auth::{Scheme, Verifier};
use bft_core::config::ProtocolParams;
use bft_core::evidence::{
    Accused, Evidence, EvidenceKind, ForgedRequest, Opened, Proof, SignedRoot, SignedVote, Unproven,
};
use bft_core::hash::merkle_path;
use bft_core::ids::{ClusterId, Digest, Epoch, ReplicaId, Seq, Signature, View};
use bft_core::wire::canonical;
use bft_core::wire::message::{Ballot, BatchHeader, NewView, Position, ViewChange};
use bft_core::wire::request::Body;
use bytes::Bytes;
use common::{CLUSTER, TestCluster};

const NOBODY: ReplicaId = ReplicaId(4);

fn cluster() -> TestCluster {
    TestCluster::with(
        CLUSTER,
        &[1; 4],
        ProtocolParams { checkpoint_interval: 8, window: 16, pipeline_max: 8, ..ProtocolParams::default() },
    )
}

/// What becomes of `proof` after a way through its bytes.
fn verdict(cluster: &TestCluster, proof: Proof) -> Result<Accused, Unproven> {
    verdict_of(&cluster.verifier(), &Evidence::new(&cluster.config, proof))
}

fn verdict_of(verifier: &Verifier, evidence: &Evidence) -> Result<Accused, Unproven> {
    let bytes = evidence.encode();
    assert!(bytes.len() <= evidence.bytes_at_most());
    let read = Evidence::decode(&bytes).expect("what was encoded");
    assert_eq!((&read, read.encode()), (evidence, bytes));
    read.verify(verifier)
}

fn accused(replica: ReplicaId, kind: EvidenceKind, view: u64, seq: u64) -> Result<Accused, Unproven> {
    Ok(Accused { replica, kind, epoch: Epoch(3), view: View(view), seq: Seq(seq) })
}

fn not_signed(signer: ReplicaId, what: &'static str) -> Unproven {
    Unproven::NotSigned { signer, what }
}

fn flip(digest: &mut Digest) {
    digest.0[31] ^= 0x80;
}

fn spoil(signature: &mut Signature) {
    signature.0[32] ^= 1;
}

/// Any batch at a place.
fn at(cluster: &TestCluster, view: u64, seq: u64, batch: u64) -> Position {
    cluster.position(view, seq, &cluster.body(batch)).0
}

fn proposed(cluster: &TestCluster, at: &Position) -> SignedVote {
    SignedVote { digest: at.digest, ballot: cluster.proposal(at) }
}

fn prepared(cluster: &TestCluster, at: &Position, replica: ReplicaId) -> SignedVote {
    SignedVote { digest: at.digest, ballot: cluster.ballot(at, replica) }
}

fn root(cluster: &TestCluster, replica: ReplicaId, seq: u64, root: u8) -> SignedRoot {
    let (root, epoch_end) = (Digest([root; 32]), Seq(0));
    let bytes = canonical::checkpoint(CLUSTER, Epoch(3), Seq(seq), root, epoch_end, replica);
    SignedRoot { root, epoch_end, signature: cluster.scheme(replica).sign(&bytes) }
}

/// View 1 of a cluster where the batch 5 was prepared at Seq 3 in view 0, by what replicas `of` say.
fn beginning(cluster: &TestCluster, of: &[u16]) -> Arc<NewView> {
    let certificate = cluster.prepared(0, 3, &cluster.body(5), &cluster.backups(View(0)));
    let message = |id: &u16| cluster.view_change(ReplicaId(*id), 1, None, vec![certificate.clone()]);
    cluster.new_view(1, of.iter().map(message).collect())
}

#[test]
fn a1_e1_two_proposals_for_one_place() {
    let cluster = cluster();
    let primary = cluster.config.primary(View(2));
    let (one, other) = (at(&cluster, 2, 7, 1), at(&cluster, 2, 7, 2));
    let proof = |one, other| Proof::two_proposals(View(2), Seq(7), one, other);
    let good = proof(proposed(&cluster, &one), proposed(&cluster, &other));
    assert_eq!(good, proof(proposed(&cluster, &other), proposed(&cluster, &one)), "one form, however it was seen");
    assert_eq!(verdict(&cluster, good.clone()), accused(primary, EvidenceKind::TwoProposals, 2, 7));

    let same = proof(proposed(&cluster, &one), proposed(&cluster, &one));
    assert_eq!(verdict(&cluster, same), Err(Unproven::NotTwo), "sent twice");
    let elsewhere = proof(proposed(&cluster, &one), proposed(&cluster, &at(&cluster, 2, 8, 3)));
    assert_eq!(verdict(&cluster, elsewhere), Err(not_signed(primary, "PRE-PREPARE")), "of another Seq");
    let earlier = proof(proposed(&cluster, &one), proposed(&cluster, &at(&cluster, 6, 7, 3)));
    assert_eq!(verdict(&cluster, earlier), Err(not_signed(primary, "PRE-PREPARE")), "of another view of its");
    let backup = cluster.backups(View(2))[0];
    let votes = proof(prepared(&cluster, &one, backup), prepared(&cluster, &other, backup));
    assert_eq!(verdict(&cluster, votes), Err(not_signed(primary, "PRE-PREPARE")), "a backup's PREPAREs");

    let not_signed = |view| Unproven::NotSigned { signer: cluster.config.primary(View(view)), what: "PRE-PREPARE" };
    let said = |proof: &mut Proof| match proof {
        Proof::TwoProposals { view, seq, said } => (*view, *seq, *said),
        other => panic!("{other:?}"),
    };
    let mut cases: Vec<(&str, Unproven, Proof)> = Vec::new();
    let mut case = |what, expected, change: &dyn Fn(&mut View, &mut Seq, &mut [SignedVote; 2])| {
        let (mut view, mut seq, mut said) = said(&mut good.clone());
        change(&mut view, &mut seq, &mut said);
        cases.push((what, expected, Proof::TwoProposals { view, seq, said }));
    };
    case("another primary", not_signed(3), &|view, _, _| *view = View(3));
    case("another view of its", not_signed(2), &|view, _, _| *view = View(6));
    case("another Seq", not_signed(2), &|_, seq, _| *seq = Seq(8));
    case("descending", Unproven::NotTwo, &|_, _, said| said.swap(0, 1));
    case("the first digest", not_signed(2), &|_, _, said| said[0].digest = Digest::ZERO);
    case("the second digest", not_signed(2), &|_, _, said| said[1].digest = Digest([0xff; 32]));
    case("a commitment", not_signed(2), &|_, _, said| flip(&mut said[1].ballot.commitment));
    case("the first signature", not_signed(2), &|_, _, said| spoil(&mut said[0].ballot.signature));
    case("the second signature", not_signed(2), &|_, _, said| spoil(&mut said[1].ballot.signature));
    case("signatures exchanged", not_signed(2), &|_, _, said| {
        let [one, other] = said;
        std::mem::swap(&mut one.ballot.signature, &mut other.ballot.signature);
    });
    for (what, expected, changed) in cases {
        assert_eq!(verdict(&cluster, changed), Err(expected), "{what}");
    }
}

#[test]
fn a1_e2_two_prepares_for_one_place() {
    let cluster = cluster();
    let backup = cluster.backups(View(0))[1];
    let (one, other) = (at(&cluster, 0, 7, 1), at(&cluster, 0, 7, 2));
    let proof = |id, one, other| Proof::two_prepares(id, View(0), Seq(7), one, other);
    let good = proof(backup, prepared(&cluster, &one, backup), prepared(&cluster, &other, backup));
    assert_eq!(verdict(&cluster, good.clone()), accused(backup, EvidenceKind::TwoPrepares, 0, 7));

    let neighbour = cluster.backups(View(0))[0];
    let two = proof(backup, prepared(&cluster, &one, backup), prepared(&cluster, &other, neighbour));
    assert_eq!(verdict(&cluster, two), Err(not_signed(backup, "PREPARE")), "votes of two replicas");
    let framed = proof(neighbour, prepared(&cluster, &one, backup), prepared(&cluster, &other, backup));
    assert_eq!(verdict(&cluster, framed), Err(not_signed(neighbour, "PREPARE")), "somebody else is named");
    let primary = cluster.config.primary(View(0));
    let by_primary = proof(primary, proposed(&cluster, &one), proposed(&cluster, &other));
    assert_eq!(verdict(&cluster, by_primary), Err(Unproven::NotABackup(primary)));
    let twice = proof(backup, prepared(&cluster, &one, backup), prepared(&cluster, &one, backup));
    assert_eq!(verdict(&cluster, twice), Err(Unproven::NotTwo), "sent again after a restart, byte for byte");
    let next_view = prepared(&cluster, &at(&cluster, 1, 7, 2), backup);
    let lawful = proof(backup, prepared(&cluster, &one, backup), next_view);
    assert_eq!(verdict(&cluster, lawful), Err(not_signed(backup, "PREPARE")), "another batch in another view");

    let unsigned = not_signed(backup, "PREPARE");
    let said = |proof: &mut Proof, change: fn(&mut [SignedVote; 2])| match proof {
        Proof::TwoPrepares { said, .. } => change(said),
        other => panic!("{other:?}"),
    };
    for (expected, change) in [
        (Unproven::NotTwo, (|said| said.swap(0, 1)) as fn(&mut [SignedVote; 2])),
        (unsigned, |said| said[0].digest = Digest::ZERO),
        (unsigned, |said| flip(&mut said[0].ballot.commitment)),
        (unsigned, |said| spoil(&mut said[1].ballot.signature)),
    ] {
        let mut changed = good.clone();
        said(&mut changed, change);
        assert_eq!(verdict(&cluster, changed), Err(expected));
    }
    let Proof::TwoPrepares { view, seq, said, .. } = good else { panic!("E2") };
    let nobody = Proof::TwoPrepares { replica: NOBODY, view, seq, said };
    assert_eq!(verdict(&cluster, nobody), Err(Unproven::NotAMember(NOBODY)));
    let elsewhere = Proof::TwoPrepares { replica: backup, view, seq: Seq(6), said };
    assert_eq!(verdict(&cluster, elsewhere), Err(unsigned));
}

#[test]
fn a1_e3_two_checkpoints_of_one_seq() {
    let cluster = cluster();
    let (replica, other) = (ReplicaId(2), ReplicaId(1));
    let proof = |id, one, other| Proof::two_checkpoints(id, Seq(8), one, other);
    let (one, two) = (root(&cluster, replica, 8, 1), root(&cluster, replica, 8, 2));
    let good = proof(replica, two, one);
    assert_eq!(verdict(&cluster, good), accused(replica, EvidenceKind::TwoCheckpoints, 0, 8));

    let unsigned = not_signed(replica, "CHECKPOINT");
    assert_eq!(verdict(&cluster, proof(replica, one, one)), Err(Unproven::NotTwo), "sent again");
    let of_two = proof(replica, one, root(&cluster, other, 8, 2));
    assert_eq!(verdict(&cluster, of_two), Err(unsigned), "roots of two replicas");
    let framed = proof(other, one, two);
    assert_eq!(verdict(&cluster, framed), Err(not_signed(other, "CHECKPOINT")));
    let later = proof(replica, one, root(&cluster, replica, 16, 2));
    assert_eq!(verdict(&cluster, later), Err(unsigned), "roots of two Seqs");
    assert_eq!(verdict(&cluster, proof(NOBODY, one, two)), Err(Unproven::NotAMember(NOBODY)));
    let mut changed = [one, two];
    changed[1].epoch_end = Seq(16);
    assert_eq!(verdict(&cluster, proof(replica, changed[0], changed[1])), Err(unsigned), "an end that it did not sign");
    changed = [one, two];
    spoil(&mut changed[0].signature);
    assert_eq!(verdict(&cluster, proof(replica, changed[0], changed[1])), Err(unsigned));
    let descending = Proof::TwoCheckpoints { replica, seq: Seq(8), said: [two, one] };
    assert_eq!(verdict(&cluster, descending), Err(Unproven::NotTwo));
}

/// That `replica` committed the batch 5 at Seq 3 in `view`.
fn opened(cluster: &TestCluster, replica: ReplicaId, view: u64) -> Opened {
    let position = at(cluster, view, 3, 5);
    let is_primary = replica == cluster.config.primary(View(view));
    let ballot = if is_primary { cluster.proposal(&position) } else { cluster.ballot(&position, replica) };
    Opened { position, ballot, nonce: cluster.nonce(replica, &position) }
}

#[test]
fn a1_e4_a_view_change_that_forgets() {
    let cluster = cluster();
    let all: Vec<_> = cluster.config.replicas().collect();
    let primary = cluster.config.primary(View(1));
    let is_backup = |id: &ReplicaId| (0..2).all(|view| cluster.config.primary(View(view)) != *id);
    let backup = all.iter().copied().find(is_backup).expect("two of four");
    let certificate = |view| cluster.prepared(view, 3, &cluster.body(5), &cluster.backups(View(view)));
    let proof = |replica, opened, message: Arc<ViewChange>| {
        assert_eq!(message.replica, replica);
        Proof::Amnesia { opened, view_change: message }
    };
    for replica in [primary, backup] {
        let opened = opened(&cluster, replica, 1);
        for (what, prepared) in [("nothing", vec![]), ("an older certificate", vec![certificate(0)])] {
            let message = cluster.view_change(replica, 2, None, prepared);
            let said = verdict(&cluster, proof(replica, opened, message));
            assert_eq!(said, accused(replica, EvidenceKind::Amnesia, 2, 3), "{what}");
        }
        // What a correct replica says, before and after any restart.
        let covered = Some(cluster.checkpoint(8, &all));
        for (what, certificate, prepared) in [
            ("it names the certificate", None, vec![certificate(1)]),
            ("it has a later one", None, vec![certificate(2)]),
            ("a checkpoint has passed it", covered, vec![]),
        ] {
            let message = cluster.view_change(replica, 3, certificate, prepared);
            let said = verdict(&cluster, proof(replica, opened, message));
            assert_eq!(said, Err(Unproven::Remembered), "{what}");
        }
        let same_view = cluster.view_change(replica, 1, None, vec![]);
        assert_eq!(verdict(&cluster, proof(replica, opened, same_view)), Err(Unproven::NotEarlier));
    }

    let forgot = cluster.view_change(backup, 2, None, vec![]);
    let good = opened(&cluster, backup, 1);
    let of = |opened| verdict(&cluster, proof(backup, opened, Arc::clone(&forgot)));
    let closed = Opened { nonce: Digest([7; 32]), ..good };
    assert_eq!(of(closed), Err(Unproven::NotOpened), "it voted and never committed");
    let framed = Opened { nonce: cluster.nonce(primary, &good.position), ..good };
    assert_eq!(of(framed), Err(Unproven::NotOpened), "another replica's nonce");
    assert_eq!(of(opened(&cluster, cluster.config.primary(View(0)), 1)), Err(not_signed(backup, "PREPARE")));
    let mut own = good;
    own.ballot.commitment = canonical::opening(&Digest([7; 32]));
    own.nonce = Digest([7; 32]);
    assert_eq!(of(own), Err(not_signed(backup, "PREPARE")), "a commitment that somebody else made");
    let digest = Opened { position: Position { digest: Digest([1; 32]), ..good.position }, ..good };
    assert_eq!(of(digest), Err(not_signed(backup, "PREPARE")));
    let older = Opened { position: Position { view: View(0), ..good.position }, ..good };
    assert_eq!(of(older), Err(not_signed(backup, "PREPARE")));
    let mut unsigned = ViewChange::clone(&forgot);
    spoil(&mut unsigned.signature);
    let said = verdict(&cluster, proof(backup, good, Arc::new(unsigned)));
    assert_eq!(said, Err(not_signed(backup, "VIEW-CHANGE")));
    let mut shortened = ViewChange::clone(&cluster.view_change(backup, 2, None, vec![certificate(1)]));
    shortened.prepared.clear();
    let said = verdict(&cluster, proof(backup, good, Arc::new(shortened)));
    assert_eq!(said, Err(not_signed(backup, "VIEW-CHANGE")), "others cannot take out what it named");
    let epoch = ViewChange { epoch: Epoch(2), ..ViewChange::clone(&forgot) };
    let said = verdict(&cluster, proof(backup, good, Arc::new(epoch)));
    assert_eq!(said, Err(Unproven::OtherEpoch { found: Epoch(2), expected: Epoch(3) }));
}

#[test]
fn a1_e5_a_new_view_that_is_not_valid() {
    let cluster = cluster();
    let primary = cluster.config.primary(View(1));
    let proof = |new_view| Proof::FalseNewView { new_view, against: None };
    let good = beginning(&cluster, &[0, 1, 2]);
    assert_eq!(verdict(&cluster, proof(Arc::clone(&good))), Err(Unproven::ValidNewView));

    let is_proven = |what: &str, view_changes: Vec<Arc<ViewChange>>| {
        let said = verdict(&cluster, proof(cluster.new_view(1, view_changes)));
        assert_eq!(said, accused(primary, EvidenceKind::FalseNewView, 1, 0), "{what}");
    };
    is_proven("no quorum", good.view_changes[..2].to_vec());
    is_proven("one too many", beginning(&cluster, &[0, 1, 2, 3]).view_changes.clone());
    is_proven("not ascending", good.view_changes.iter().rev().cloned().collect());
    let mut forged = good.view_changes.clone();
    spoil(&mut Arc::make_mut(&mut forged[1]).signature);
    is_proven("a VIEW-CHANGE that nobody signed", forged);
    let other_view = cluster.view_change(ReplicaId(2), 2, None, vec![]);
    is_proven("of another view", [&good.view_changes[..2], &[other_view]].concat());

    let mut unsigned = NewView::clone(&good);
    unsigned.view_changes.pop();
    let said = verdict(&cluster, proof(Arc::new(unsigned)));
    assert_eq!(said, Err(not_signed(primary, "NEW-VIEW")), "spoilt by whoever delivers it");
    let mut other = NewView::clone(&cluster.new_view(1, good.view_changes[..2].to_vec()));
    other.view = View(2);
    let said = verdict(&cluster, proof(Arc::new(other)));
    assert_eq!(said, Err(not_signed(cluster.config.primary(View(2)), "NEW-VIEW")), "blamed on another primary");
}

#[test]
fn a1_v4_e5_a_proposal_against_what_the_view_begins_with() {
    let cluster = cluster();
    let primary = cluster.config.primary(View(1));
    let new_view_1 = beginning(&cluster, &[0, 1, 2]);
    let proof = |seq, vote| Proof::FalseNewView { new_view: Arc::clone(&new_view_1), against: Some((Seq(seq), vote)) };
    let null = BatchHeader::NULL.digest(CLUSTER, Epoch(3));
    let at_null = |seq| Position { epoch: Epoch(3), view: View(1), seq: Seq(seq), digest: null };
    for (seq, position) in [(3, at(&cluster, 1, 3, 6)), (1, at(&cluster, 1, 1, 6)), (3, at_null(3)), (4, at_null(4))] {
        let said = verdict(&cluster, proof(seq, proposed(&cluster, &position)));
        assert_eq!(said, accused(primary, EvidenceKind::FalseNewView, 1, seq), "{position:?}");
    }
    for position in [at(&cluster, 1, 3, 5), at_null(1), at_null(2), at(&cluster, 1, 4, 6)] {
        let said = verdict(&cluster, proof(position.seq.0, proposed(&cluster, &position)));
        assert_eq!(said, Err(Unproven::Allowed), "what a correct primary proposes: {position:?}");
    }
    let wrong = at(&cluster, 1, 3, 6);
    let of_a_backup = prepared(&cluster, &wrong, cluster.backups(View(1))[0]);
    assert_eq!(verdict(&cluster, proof(3, of_a_backup)), Err(not_signed(primary, "PRE-PREPARE")));
    let before = proposed(&cluster, &at(&cluster, 5, 3, 6));
    assert_eq!(verdict(&cluster, proof(3, before)), Err(not_signed(primary, "PRE-PREPARE")), "in another view");
    let mut spoilt = proposed(&cluster, &wrong);
    spoil(&mut spoilt.ballot.signature);
    assert_eq!(verdict(&cluster, proof(3, spoilt)), Err(not_signed(primary, "PRE-PREPARE")));
    // A NEW-VIEW that the primary never signed demands nothing of it.
    let mut framed = NewView::clone(&new_view_1);
    framed.signature = cluster.scheme(ReplicaId(3)).sign(&framed.signing_bytes(CLUSTER));
    let said = proposed(&cluster, &at(&cluster, 1, 3, 6));
    let framed = Proof::FalseNewView { new_view: Arc::new(framed), against: Some((Seq(3), said)) };
    assert_eq!(verdict(&cluster, framed), Err(not_signed(primary, "NEW-VIEW")));
    let few = cluster.new_view(1, new_view_1.view_changes[..2].to_vec());
    let invalid = Proof::FalseNewView { new_view: few, against: Some((Seq(3), said)) };
    assert!(matches!(verdict(&cluster, invalid), Err(Unproven::InvalidNewView(_))), "the other form of E5");
}

#[test]
fn a1_e7_two_new_views_of_one_view() {
    let cluster = cluster();
    let primary = cluster.config.primary(View(1));
    let (one, other) = (beginning(&cluster, &[0, 1, 2]), beginning(&cluster, &[1, 2, 3]));
    let proof =
        |one: &Arc<NewView>, other: &Arc<NewView>| Proof::two_new_views(CLUSTER, Arc::clone(one), Arc::clone(other));
    let good = proof(&one, &other);
    assert_eq!(good, proof(&other, &one));
    assert_eq!(verdict(&cluster, good.clone()), accused(primary, EvidenceKind::TwoNewViews, 1, 0));

    assert_eq!(verdict(&cluster, proof(&one, &one)), Err(Unproven::NotTwo), "sent again after a restart");
    let resigned = NewView { signature: Signature([1; 64]), ..NewView::clone(&one) };
    assert_eq!(verdict(&cluster, proof(&one, &Arc::new(resigned))), Err(Unproven::NotTwo), "another signature, one V");
    let later = cluster.new_view(5, other.view_changes.clone());
    assert_eq!(verdict(&cluster, proof(&one, &later)), Err(Unproven::NotOneView));
    let mut framed = NewView::clone(&one);
    framed.view_changes.pop();
    let said = verdict(&cluster, proof(&one, &Arc::new(framed)));
    assert_eq!(said, Err(not_signed(primary, "NEW-VIEW")), "a V that somebody else made");
    let Proof::TwoNewViews([first, second]) = good else { panic!("E7") };
    assert_eq!(verdict(&cluster, Proof::TwoNewViews([second, first])), Err(Unproven::NotTwo), "descending");
}

/// A batch of three Requests the second of which nobody signed, proposed by the primary of view 0 at Seq 4.
fn forged(cluster: &TestCluster) -> ForgedRequest {
    let mut requests: Vec<_> = cluster.body(1).requests().collect();
    let mut bytes = requests[1].bytes.to_vec();
    let last = bytes.len() - 1;
    bytes[last - 40] ^= 1;
    requests[1] = bft_core::wire::request::SignedRequest::parse(Bytes::from(bytes), cluster.bounds()).expect("parses");
    let body = Body::join(&requests);
    let header = body.header(9);
    let digest = header.digest(CLUSTER, Epoch(3));
    let position = Position { epoch: Epoch(3), view: View(0), seq: Seq(4), digest };
    let leaves = body.entries().iter().map(|entry| entry.leaf).collect();
    ForgedRequest {
        view: View(0),
        seq: Seq(4),
        ballot: cluster.proposal(&position),
        header,
        index: 1,
        path: merkle_path(leaves, 1),
        request: requests[1].bytes.clone(),
    }
}

#[test]
fn a1_c15_e8_a_proposal_over_a_request_that_its_client_has_not_signed() {
    let cluster = cluster();
    let primary = cluster.config.primary(View(0));
    let good = forged(&cluster);
    let of = |forged: ForgedRequest| verdict(&cluster, Proof::ForgedRequest(Box::new(forged)));
    assert_eq!(of(good.clone()), accused(primary, EvidenceKind::ForgedRequest, 0, 4));

    let genuine: Vec<_> = cluster.body(1).requests().collect();
    let changed = |change: &dyn Fn(&mut ForgedRequest)| {
        let mut changed = good.clone();
        change(&mut changed);
        of(changed)
    };
    assert_eq!(changed(&|forged| forged.request = genuine[1].bytes.clone()), Err(Unproven::NotInBatch));
    assert_eq!(changed(&|forged| forged.request = genuine[0].bytes.clone()), Err(Unproven::NotInBatch));
    assert_eq!(changed(&|forged| forged.index = 0), Err(Unproven::NotInBatch));
    assert_eq!(changed(&|forged| forged.index = 3), Err(Unproven::NotInBatch));
    assert_eq!(changed(&|forged| flip(&mut forged.path[0])), Err(Unproven::NotInBatch));
    assert_eq!(changed(&|forged| forged.path.clear()), Err(Unproven::NotInBatch));
    assert_eq!(changed(&|forged| forged.path.push(Digest::ZERO)), Err(Unproven::NotInBatch));
    assert_eq!(changed(&|forged| forged.request = good.request.slice(1..)).map_err(is_malformed), Err(true));
    let unsigned = Err(not_signed(primary, "PRE-PREPARE"));
    assert_eq!(changed(&|forged| forged.seq = Seq(5)), unsigned);
    assert_eq!(changed(&|forged| forged.header.time_ns += 1), unsigned);
    assert_eq!(changed(&|forged| forged.header.count += 1), unsigned);
    assert_eq!(changed(&|forged| flip(&mut forged.header.merkle_root)), unsigned);
    assert_eq!(changed(&|forged| flip(&mut forged.ballot.commitment)), unsigned);
    assert_eq!(changed(&|forged| spoil(&mut forged.ballot.signature)), unsigned);
    assert_eq!(changed(&|forged| forged.header.flags = 1), Err(Unproven::OtherHeader));
    let next = cluster.config.primary(View(1));
    assert_eq!(changed(&|forged| forged.view = View(1)), Err(not_signed(next, "PRE-PREPARE")), "another primary");

    // A batch that is in order, and each Request of it.
    let body = cluster.body(1);
    let proposal = cluster.pre_prepare(0, 4, body.clone());
    for (index, request) in genuine.iter().enumerate() {
        let leaves = body.entries().iter().map(|entry| entry.leaf).collect();
        let lawful = ForgedRequest {
            view: View(0),
            seq: Seq(4),
            ballot: proposal.ballot,
            header: proposal.header,
            index: index as u32,
            path: merkle_path(leaves, index),
            request: request.bytes.clone(),
        };
        assert_eq!(of(lawful), Err(Unproven::GenuineRequest));
    }
}

fn is_malformed(why: Unproven) -> bool {
    matches!(why, Unproven::Malformed(_))
}

/// One piece of every kind and form.
fn every_kind(cluster: &TestCluster) -> Vec<Proof> {
    let backup = cluster.backups(View(0))[0];
    let (one, other) = (at(cluster, 0, 7, 1), at(cluster, 0, 7, 2));
    let new_view_1 = beginning(cluster, &[0, 1, 2]);
    let against = Some((Seq(3), proposed(cluster, &at(cluster, 1, 3, 6))));
    let few = cluster.new_view(1, new_view_1.view_changes[..2].to_vec());
    let replica = cluster.backups(View(1))[0];
    let view_change = cluster.view_change(replica, 2, None, vec![]);
    vec![
        Proof::two_proposals(View(0), Seq(7), proposed(cluster, &one), proposed(cluster, &other)),
        Proof::two_prepares(
            backup,
            View(0),
            Seq(7),
            prepared(cluster, &one, backup),
            prepared(cluster, &other, backup),
        ),
        Proof::two_checkpoints(backup, Seq(8), root(cluster, backup, 8, 1), root(cluster, backup, 8, 2)),
        Proof::Amnesia { opened: opened(cluster, replica, 1), view_change },
        Proof::FalseNewView { new_view: Arc::clone(&new_view_1), against },
        Proof::FalseNewView { new_view: few, against: None },
        Proof::two_new_views(CLUSTER, new_view_1, beginning(cluster, &[1, 2, 3])),
        Proof::ForgedRequest(Box::new(forged(cluster))),
    ]
}

#[test]
fn a2_evidence_is_its_bytes_and_no_other_bytes_are_it() {
    let cluster = cluster();
    let verifier = cluster.verifier();
    let kinds: Vec<_> = every_kind(&cluster);
    assert!(EvidenceKind::ALL.iter().all(|kind| kinds.iter().any(|proof| proof.kind() == *kind)));
    for proof in kinds {
        let evidence = Evidence::new(&cluster.config, proof);
        assert!(verdict_of(&verifier, &evidence).is_ok(), "{evidence:?}");
        let bytes = evidence.encode();
        assert!((0..bytes.len()).all(|end| match Evidence::decode(&bytes[..end]) {
            Ok(cut) => cut.verify(&verifier).is_err(),
            Err(_) => true,
        }));
        let longer = [&bytes[..], b"x"].concat();
        assert!(
            Evidence::decode(&longer).is_ok_and(|longer| longer.verify(&verifier).is_err())
                || Evidence::decode(&longer).is_err()
        );
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            let Ok(read) = Evidence::decode(&changed) else { continue };
            assert_eq!(read.encode(), changed, "one encoding, byte {at}");
        }
    }
}

#[test]
fn a2_no_bit_of_evidence_can_be_changed_and_it_still_names_a_correct_replica() {
    let cluster = cluster();
    let verifier = cluster.verifier();
    for proof in every_kind(&cluster) {
        let evidence = Evidence::new(&cluster.config, proof);
        let genuine = evidence.verify(&verifier).expect("it holds");
        let bytes = evidence.encode();
        // Each byte of the small ones; of those with a NEW-VIEW in them one in sixteen.
        let step = if bytes.len() > 4096 { 61 } else { 1 };
        for at in (0..bytes.len()).step_by(step) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            let Ok(Ok(accused)) = Evidence::decode(&changed).map(|read| read.verify(&verifier)) else { continue };
            assert_eq!(accused.replica, genuine.replica, "byte {at} of {}", genuine.kind.name());
        }
    }
}

#[test]
fn a2_evidence_is_of_one_cluster_and_epoch() {
    let (here, there) = (cluster(), TestCluster::named(ClusterId([2; 32])));
    for proof in every_kind(&here) {
        let evidence = Evidence::new(&here.config, proof);
        let (found, expected) = (CLUSTER, ClusterId([2; 32]));
        assert_eq!(verdict_of(&there.verifier(), &evidence), Err(Unproven::OtherCluster { found, expected }));
        let renamed = Evidence { cluster: expected, ..evidence.clone() };
        assert!(verdict_of(&there.verifier(), &renamed).is_err(), "the same keys under another name");
        let (found, expected) = (Epoch(4), Epoch(3));
        let bytes = Evidence { epoch: found, ..evidence }.encode();
        let said = Evidence::decode(&bytes).expect("decodes").verify(&here.verifier());
        assert_eq!(said, Err(Unproven::OtherEpoch { found, expected }));
    }
}

#[test]
fn a1_what_is_refused_proves_something_only_against_who_signed_it() {
    let cluster = cluster();
    let verifier = cluster.verifier();
    let bad = cluster.new_view(1, beginning(&cluster, &[0, 1, 2]).view_changes[..2].to_vec());
    let evidence = Evidence::of_refused_new_view(&verifier, &bad).expect("its primary signed it");
    assert_eq!(evidence.verify(&verifier), accused(cluster.config.primary(View(1)), EvidenceKind::FalseNewView, 1, 0));
    let mut spoilt = NewView::clone(&bad);
    spoil(&mut spoilt.signature);
    assert_eq!(Evidence::of_refused_new_view(&verifier, &Arc::new(spoilt)), None, "anybody can make that");
    assert_eq!(Evidence::of_refused_new_view(&verifier, &beginning(&cluster, &[0, 1, 2])), None, "nothing is wrong");

    let mut requests: Vec<_> = cluster.body(1).requests().collect();
    let mut bytes = requests[2].bytes.to_vec();
    let last = bytes.len() - 1;
    bytes[last - 40] ^= 1;
    requests[2] = bft_core::wire::request::SignedRequest::parse(Bytes::from(bytes), cluster.bounds()).expect("parses");
    let bad = cluster.pre_prepare(0, 4, Body::join(&requests));
    let evidence = Evidence::of_refused_proposal(&verifier, &bad).expect("its primary signed it");
    assert_eq!(evidence.verify(&verifier), accused(cluster.config.primary(View(0)), EvidenceKind::ForgedRequest, 0, 4));
    let mut spoilt = bad.clone();
    spoil(&mut spoilt.ballot.signature);
    assert_eq!(Evidence::of_refused_proposal(&verifier, &spoilt), None, "anybody can make that");
    let good = cluster.pre_prepare(0, 4, cluster.body(1));
    assert_eq!(Evidence::of_refused_proposal(&verifier, &good), None, "nothing is wrong");
    let swapped = bft_core::wire::message::PrePrepare { body: Arc::clone(&bad.body), ..good };
    assert_eq!(Evidence::of_refused_proposal(&verifier, &swapped), None, "a body that the primary did not propose");
    let ballot = Ballot { commitment: Digest::ZERO, ..bad.ballot };
    assert_eq!(Evidence::of_refused_proposal(&verifier, &bft_core::wire::message::PrePrepare { ballot, ..bad }), None);
}
