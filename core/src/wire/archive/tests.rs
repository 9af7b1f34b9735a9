//! Every message there and back, every bound, hostile bytes, and the bytes themselves, frozen.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::Strategy;

use super::*;
use crate::evidence::{Evidence, Proof, SignedVote};
use crate::ids::{ClusterId, Digest, PublicKey, ReplicaId, RequestNo, Seq, SessionId, Signature, View};
use crate::quorum::ReplicaSet;
use crate::snapshot::{ChunkBytes, Manifest, Piece, Scalars, Section};
use crate::wire::frame::{WIRE_VERSION, is_kept};
use crate::wire::message::{
    Ballot, BatchBody, BatchHeader, BatchId, Busy, Checkpoint, Chunk, ClientCertificate, ClientJoin, Code, Commit,
    CommitCertificate, FetchChunk, Info, Position, PrePrepare, Prepare, PreparedCertificate, Reply, SnapshotVote,
    StableSnapshot, Status, Step, Trail,
};
use crate::wire::recall::{Held, Phase};
use crate::wire::request::{Body, FLAG_CLOSE, encode_request, result_digest};

pub(in crate::wire) const BOUNDS: RequestBounds =
    RequestBounds { request_bytes: 4096, operations: 8, requests: 16, body_bytes: 1 << 16 };

fn request(client: u8, req_no: u64, operations: &[&[u8]]) -> SignedRequest {
    let sign = |digest: Digest| Signature([digest.0[0]; 64]);
    let (session, ack) = (SessionId(77 << 20 | 3), RequestNo(req_no - 1));
    let operations = operations.iter().copied();
    let bytes = encode_request(PublicKey([client; 32]), session, RequestNo(req_no), ack, FLAG_CLOSE, operations, sign);
    SignedRequest::parse(bytes, BOUNDS).unwrap()
}

fn slot(seq: u64, commits: u16) -> CommittedSlot {
    let ballot = |i: u8| Ballot { commitment: Digest([i; 32]), signature: Signature([i ^ 0xff; 64]) };
    let body = Body::join(&[request(1, seq, &[b"add", b""]), request(2, seq + 1, &[b"a longer operation"])]);
    let header = body.header(1_700_000_000_000_000_000 + seq);
    let position = Position { epoch: Epoch(2), view: View(5), seq: Seq(seq), digest: Digest([9; 32]) };
    let commits = (0..commits).map(|i| (ReplicaId(i), ballot(i as u8), Digest([i as u8 + 100; 32]))).collect();
    let opening = seq.is_multiple_of(2).then_some(Digest([8; 32]));
    let certificate = CommitCertificate { position, header, proposal: ballot(7), opening, commits };
    CommittedSlot { certificate: Arc::new(certificate), body: Arc::new(body) }
}

fn info() -> Info {
    Info {
        replica: ReplicaId(3),
        epoch: Epoch(2),
        view: View(5),
        executed: Seq(1000),
        stable: Seq(896),
        snapshot: Seq(512),
        state: Some((Seq(999), Digest([6; 32]))),
        peers: 3,
        write_path: "linked fdatasync".into(),
        sealed: "Noise_XX_25519_AESGCM_SHA256".into(),
        signatures: "ed25519 ZIP-215 (avx2)".into(),
        cpu_us: 123_456_789,
        rss_max_kib: 250_000,
        counters: vec![("requests".into(), u64::MAX), ("größe".into(), 0)],
    }
}

/// One fixed message of each kind, in the order of [`Kind::ALL`].
pub(in crate::wire) fn examples() -> Vec<Message> {
    let CommittedSlot { certificate, body } = slot(41, 0);
    let CommitCertificate { position, header, proposal, .. } = *certificate;
    let signatures = vec![(ReplicaId(0), Signature([1; 64])), (ReplicaId(2), Signature([2; 64]))];
    let results = Bytes::from_static(b"\x02\0\0\0ok\0\0\0\0");
    let reply = Reply {
        epoch: Epoch(2),
        session: SessionId(77 << 20 | 3),
        req_no: RequestNo(41),
        seq: Seq(41),
        code: Code::Ok,
        digest: result_digest(Code::Ok, &results),
        results: Some(results),
    };
    let certificate = ClientCertificate { expires_epoch: Epoch(12), signature: Signature([4; 64]) };
    let (epoch, seq, root) = (Epoch(2), Seq(128), Digest([5; 32]));
    vec![
        Message::Request(request(1, 41, &[b"one", b"", b"three"])),
        Message::Reply(reply),
        Message::Busy(Busy { request: Digest([3; 32]), retry_after_ms: 250 }),
        Message::InfoQuery { want_digest: true },
        Message::Info(Box::new(info())),
        Message::ClientJoin(ClientJoin {
            public_key: PublicKey([2; 32]),
            certificate: Some(certificate),
            signature: Signature([3; 64]),
        }),
        Message::PrePrepare(PrePrepare { position, ballot: proposal, header, body }),
        Message::Prepare(Prepare { position, replica: ReplicaId(3), ballot: proposal }),
        Message::Commit(Commit { position, replica: ReplicaId(3), nonce: Digest([11; 32]) }),
        Message::Checkpoint(Checkpoint { epoch, seq, root, epoch_end: Seq(256), signatures: signatures.clone() }),
        Message::Snapshot(SnapshotVote { epoch, seq, root, signatures }),
        Message::ViewChange(Arc::new(view_change(1))),
        Message::NewView(Arc::new(NewView {
            epoch,
            view: View(6),
            view_changes: (0..3).map(|replica| Arc::new(view_change(replica))).collect(),
            signature: Signature([9; 64]),
        })),
        Message::Status(Status {
            epoch,
            view: View(5),
            changing: ReplicaSet::from_bits(0b1010, 4),
            stable: Seq(896),
            executed: Seq(1000),
            snapshot: Seq(256),
            proposed: vec![u64::MAX, 0xff, 0, 0],
            prepared: vec![u64::MAX, 0x0f, 0, 0],
            committed: vec![],
        }),
        Message::FetchSlot(Seq(42)),
        Message::Slot(slot(42, 3)),
        Message::FetchBody(BatchId { seq: Seq(42), digest: Digest([6; 32]) }),
        Message::Body(BatchBody { seq: Seq(42), header: slot(42, 0).certificate.header, body: slot(42, 0).body }),
        Message::FetchLog(Seq(43)),
        Message::Log(vec![slot(43, 2), slot(44, 3)]),
        Message::FetchManifest(Seq(44)),
        Message::Manifest(stable_snapshot(2, 3)),
        Message::FetchChunk(FetchChunk { seq: Seq(128), piece: Piece { section: Section::Clients, index: 7 } }),
        Message::Chunk(chunk(Some(b"a piece of the state"))),
        Message::FetchTrail(Seq(128)),
        Message::Trail(trail(3)),
        Message::Evidence(Arc::new(evidence(7))),
        Message::Recall(recall(2)),
        Message::Recalled(recalled(Some(position))),
    ]
}

fn evidence(seq: u64) -> Evidence {
    let vote = |digest| SignedVote { digest: Digest([digest; 32]), ballot: slot(1, 0).certificate.proposal };
    let proof = Proof::two_prepares(ReplicaId(3), View(5), Seq(seq), vote(1), vote(2));
    Evidence { cluster: ClusterId([4; 32]), epoch: Epoch(2), proof }
}

fn trail(steps: u8) -> Trail {
    let step = |step| Step { reply_root: Digest([step; 32]), delta: Digest([step ^ 0xff; 32]) };
    let (chain, exec_before) = (Digest([7; 32]), Digest([8; 32]));
    Trail { seq: Seq(128), chain, exec_before, steps: (0..steps).map(step).collect() }
}

fn recall(words: usize) -> Recall {
    Recall {
        epoch: Epoch(2),
        start: 0x0123_4567_89ab_cdef,
        view: View(5),
        phase: Phase::Begun,
        through: Seq(900),
        stable: Seq(896),
        voted: vec![0xff; words],
        certified: vec![0x0f; words],
    }
}

fn recalled(position: Option<Position>) -> Recalled {
    let ballot = slot(1, 0).certificate.proposal;
    let vote = |position| Held::Vote { replica: ReplicaId(3), position, ballot, nonce: Some(Digest([12; 32])) };
    Recalled { epoch: Epoch(2), start: 0x0123_4567_89ab_cdef, held: position.map(vote) }
}

fn chunk(bytes: Option<&'static [u8]>) -> Chunk {
    let piece = Piece { section: Section::State, index: 9 };
    Chunk { seq: Seq(128), piece, bytes: bytes.map(|bytes| ChunkBytes::new(Bytes::from_static(bytes))) }
}

fn stable_snapshot(signers: u16, chunks: u8) -> StableSnapshot {
    let mut manifest = Manifest::new(Scalars { seq: Seq(128), time_ns: 5, ..Scalars::default() });
    (0..chunks).for_each(|chunk| manifest.add_chunk(&[chunk; 5]));
    manifest.add_clients(b"clients");
    let signatures = (0..signers).map(|replica| (ReplicaId(replica), Signature([3; 64]))).collect();
    let certificate = SnapshotVote { epoch: Epoch(2), seq: Seq(128), root: manifest.root(), signatures };
    StableSnapshot { certificate, manifest: Arc::new(manifest) }
}

fn view_change(replica: u16) -> ViewChange {
    let signatures = vec![(ReplicaId(0), Signature([1; 64])), (ReplicaId(2), Signature([2; 64]))];
    let CommitCertificate { position, header, proposal, .. } = *slot(129, 0).certificate;
    let (epoch, prepares) = (Epoch(2), vec![(ReplicaId(1), proposal), (ReplicaId(3), proposal)]);
    ViewChange {
        epoch,
        view: View(6),
        replica: ReplicaId(replica),
        certificate: Some(Checkpoint { epoch, seq: Seq(128), root: Digest([5; 32]), epoch_end: Seq(0), signatures }),
        prepared: vec![PreparedCertificate { position: Position { epoch, ..position }, header, proposal, prepares }],
        signature: Signature([8; 64]),
    }
}

fn encoded(message: &Message) -> Bytes {
    let mut out = Vec::new();
    encode(message, Epoch(2), &mut out);
    Bytes::from(out)
}

/// A message's payload, unbounded, in aligned memory of its own.
fn payload(message: &Message) -> Bytes {
    let mut out = Vec::new();
    encode_payload(message, &mut out);
    let mut buffer = AlignedBuffer::with_capacity(out.len());
    buffer.append(&out);
    buffer.freeze()
}

fn digests() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn seqs() -> impl Strategy<Value = Seq> {
    any::<u64>().prop_map(Seq)
}

fn signatures() -> impl Strategy<Value = Signature> {
    (any::<[u8; 32]>(), any::<[u8; 32]>())
        .prop_map(|(r, s)| Signature(std::array::from_fn(|i| if i < 32 { r[i] } else { s[i - 32] })))
}

fn positions() -> impl Strategy<Value = Position> {
    (any::<[u64; 3]>(), digests()).prop_map(|([epoch, view, seq], digest)| Position {
        epoch: Epoch(epoch),
        view: View(view),
        seq: Seq(seq),
        digest,
    })
}

fn ballots() -> impl Strategy<Value = Ballot> {
    (digests(), signatures()).prop_map(|(commitment, signature)| Ballot { commitment, signature })
}

fn headers() -> impl Strategy<Value = BatchHeader> {
    (any::<u64>(), any::<[u32; 3]>(), digests()).prop_map(|(time_ns, [count, body_len, flags], merkle_root)| {
        BatchHeader { time_ns, count, body_len, merkle_root, flags }
    })
}

fn requests() -> impl Strategy<Value = SignedRequest> {
    let operations = vec(vec(any::<u8>(), 0..40), 1..5);
    (any::<[u8; 32]>(), any::<[u64; 3]>(), 0..=FLAG_CLOSE, operations, signatures()).prop_map(
        |(client, [session, req_no, ack], flags, operations, signature)| {
            let operations = operations.iter().map(Vec::as_slice);
            let (session, req_no, ack) = (SessionId(session), RequestNo(req_no), RequestNo(ack));
            let bytes = encode_request(PublicKey(client), session, req_no, ack, flags, operations, |_| signature);
            SignedRequest::parse(bytes, BOUNDS).unwrap()
        },
    )
}

fn bodies() -> impl Strategy<Value = Body> {
    vec(requests(), 0..4).prop_map(|requests| Body::join(&requests))
}

fn slots() -> impl Strategy<Value = CommittedSlot> {
    let votes = vec((any::<u16>().prop_map(ReplicaId), ballots(), digests()), 0..=limits::REPLICAS_MAX);
    (positions(), headers(), ballots(), option::of(digests()), votes, bodies()).prop_map(
        |(position, header, proposal, opening, commits, body)| CommittedSlot {
            certificate: Arc::new(CommitCertificate { position, header, proposal, opening, commits }),
            body: Arc::new(body),
        },
    )
}

fn signed() -> impl Strategy<Value = Vec<(ReplicaId, Signature)>> {
    vec((any::<u16>().prop_map(ReplicaId), signatures()), 0..=limits::REPLICAS_MAX)
}

fn replies() -> impl Strategy<Value = Reply> {
    let code = (0..12u16).prop_map(|number| Code::from_number(number).unwrap());
    let results = option::of(vec(any::<u8>(), 0..300).prop_map(Bytes::from));
    (any::<[u64; 4]>(), code, digests(), results).prop_map(|([epoch, session, req_no, seq], code, digest, results)| {
        let (session, req_no) = (SessionId(session), RequestNo(req_no));
        Reply { epoch: Epoch(epoch), session, req_no, seq: Seq(seq), code, digest, results }
    })
}

fn infos() -> impl Strategy<Value = Info> {
    let text = "\\PC{0,32}";
    let counters = vec((text, any::<u64>()), 0..=limits::INFO_COUNTERS_MAX);
    (any::<[u64; 7]>(), any::<u16>(), any::<u32>(), option::of((seqs(), digests())), (text, text, text), counters)
        .prop_map(|(numbers, replica, peers, state, (write_path, sealed, signatures), counters)| {
            let [epoch, view, executed, stable, snapshot, cpu_us, rss_max_kib] = numbers;
            Info {
                replica: ReplicaId(replica),
                epoch: Epoch(epoch),
                view: View(view),
                executed: Seq(executed),
                stable: Seq(stable),
                snapshot: Seq(snapshot),
                state,
                peers,
                write_path,
                sealed,
                signatures,
                cpu_us,
                rss_max_kib,
                counters,
            }
        })
}

fn statuses() -> impl Strategy<Value = Status> {
    let map = || vec(any::<u64>(), 0..=MAP_WORDS.most);
    let changing = option::of((0..1u32 << limits::REPLICAS_MAX).prop_map(replica_set));
    (any::<[u64; 5]>(), changing, map(), map(), map()).prop_map(
        |([epoch, view, stable, executed, snapshot], changing, proposed, prepared, committed)| Status {
            epoch: Epoch(epoch),
            view: View(view),
            changing,
            stable: Seq(stable),
            executed: Seq(executed),
            snapshot: Seq(snapshot),
            proposed,
            prepared,
            committed,
        },
    )
}

fn replica_set(bits: u32) -> ReplicaSet {
    ReplicaSet::from_bits(bits, limits::REPLICAS_MAX).expect("within the bits that replicas have")
}

/// In one Epoch, as its canonical bytes have it.
fn view_changes(epoch: u64, view: u64) -> impl Strategy<Value = Arc<ViewChange>> {
    let epoch = Epoch(epoch);
    let checkpoint = (seqs(), seqs(), digests(), signed())
        .prop_map(move |(seq, epoch_end, root, signatures)| Checkpoint { epoch, seq, root, epoch_end, signatures });
    let prepares = vec((any::<u16>().prop_map(ReplicaId), ballots()), 0..=limits::REPLICAS_MAX);
    let prepared =
        (positions(), headers(), ballots(), prepares).prop_map(move |(position, header, proposal, prepares)| {
            PreparedCertificate { position: Position { epoch, ..position }, header, proposal, prepares }
        });
    (any::<u16>(), option::of(checkpoint), vec(prepared, 0..4), signatures()).prop_map(
        move |(replica, certificate, prepared, signature)| {
            let (view, replica) = (View(view), ReplicaId(replica));
            Arc::new(ViewChange { epoch, view, replica, certificate, prepared, signature })
        },
    )
}

fn new_views() -> impl Strategy<Value = NewView> {
    any::<[u64; 2]>().prop_flat_map(|[epoch, view]| {
        (vec(view_changes(epoch, view), 0..4), signatures()).prop_map(move |(view_changes, signature)| NewView {
            epoch: Epoch(epoch),
            view: View(view),
            view_changes,
            signature,
        })
    })
}

fn joins() -> impl Strategy<Value = ClientJoin> {
    let certificate = (any::<u64>().prop_map(Epoch), signatures())
        .prop_map(|(expires_epoch, signature)| ClientCertificate { expires_epoch, signature });
    (any::<[u8; 32]>().prop_map(PublicKey), option::of(certificate), signatures())
        .prop_map(|(public_key, certificate, signature)| ClientJoin { public_key, certificate, signature })
}

fn pieces() -> impl Strategy<Value = Piece> {
    (any::<bool>(), any::<u32>()).prop_map(|(is_state, index)| {
        let section = if is_state { Section::State } else { Section::Clients };
        Piece { section, index }
    })
}

fn stable_snapshots() -> impl Strategy<Value = StableSnapshot> {
    let entry = || (0..=limits::CHUNK_BYTES_MAX as u32, digests());
    let scalars = (seqs(), digests(), digests(), any::<[u64; 2]>()).prop_map(
        |(seq, chain, exec, [time_ns, previous_state_bytes])| Scalars {
            seq,
            chain,
            exec,
            time_ns,
            previous_state_bytes,
        },
    );
    (any::<u64>(), seqs(), digests(), signed(), scalars, vec(entry(), 0..20), vec(entry(), 0..4)).prop_map(
        |(epoch, seq, root, signatures, scalars, state, clients)| StableSnapshot {
            certificate: SnapshotVote { epoch: Epoch(epoch), seq, root, signatures },
            manifest: Arc::new(Manifest { scalars, state, clients }),
        },
    )
}

pub(in crate::wire) fn messages() -> impl Strategy<Value = Message> {
    let replica = || any::<u16>().prop_map(ReplicaId);
    prop_oneof![
        requests().prop_map(Message::Request),
        replies().prop_map(Message::Reply),
        (digests(), any::<u32>()).prop_map(|(request, retry_after_ms)| Message::Busy(Busy { request, retry_after_ms })),
        any::<bool>().prop_map(|want_digest| Message::InfoQuery { want_digest }),
        infos().prop_map(|info| Message::Info(Box::new(info))),
        joins().prop_map(Message::ClientJoin),
        (positions(), ballots(), headers(), bodies()).prop_map(|(position, ballot, header, body)| {
            Message::PrePrepare(PrePrepare { position, ballot, header, body: Arc::new(body) })
        }),
        (positions(), replica(), ballots()).prop_map(|(position, replica, ballot)| Message::Prepare(Prepare {
            position,
            replica,
            ballot
        })),
        (positions(), replica(), digests()).prop_map(|(position, replica, nonce)| Message::Commit(Commit {
            position,
            replica,
            nonce
        })),
        (any::<u64>(), seqs(), seqs(), digests(), signed()).prop_map(|(epoch, seq, epoch_end, root, signatures)| {
            Message::Checkpoint(Checkpoint { epoch: Epoch(epoch), seq, root, epoch_end, signatures })
        }),
        (any::<u64>(), seqs(), digests(), signed()).prop_map(|(epoch, seq, root, signatures)| {
            Message::Snapshot(SnapshotVote { epoch: Epoch(epoch), seq, root, signatures })
        }),
        any::<[u64; 2]>().prop_flat_map(|[epoch, view]| view_changes(epoch, view)).prop_map(Message::ViewChange),
        new_views().prop_map(|new_view| Message::NewView(Arc::new(new_view))),
        statuses().prop_map(Message::Status),
        seqs().prop_map(Message::FetchSlot),
        slots().prop_map(Message::Slot),
        (seqs(), digests()).prop_map(|(seq, digest)| Message::FetchBody(BatchId { seq, digest })),
        (seqs(), headers(), bodies()).prop_map(|(seq, header, body)| Message::Body(BatchBody {
            seq,
            header,
            body: Arc::new(body)
        })),
        seqs().prop_map(Message::FetchLog),
        vec(slots(), 0..4).prop_map(Message::Log),
        seqs().prop_map(Message::FetchManifest),
        stable_snapshots().prop_map(Message::Manifest),
        (seqs(), pieces()).prop_map(|(seq, piece)| Message::FetchChunk(FetchChunk { seq, piece })),
        (seqs(), pieces(), option::of(vec(any::<u8>(), 0..300))).prop_map(|(seq, piece, bytes)| {
            let bytes = bytes.map(|bytes| ChunkBytes::new(Bytes::from(bytes)));
            Message::Chunk(Chunk { seq, piece, bytes })
        }),
        seqs().prop_map(Message::FetchTrail),
        (seqs(), digests(), digests(), vec((digests(), digests()), 0..40)).prop_map(
            |(seq, chain, exec_before, steps)| {
                let steps = steps.into_iter().map(|(reply_root, delta)| Step { reply_root, delta }).collect();
                Message::Trail(Trail { seq, chain, exec_before, steps })
            }
        ),
        any::<u64>().prop_map(|seq| Message::Evidence(Arc::new(evidence(seq)))),
        (0..4usize).prop_map(|words| Message::Recall(recall(words))),
        option::of(positions()).prop_map(|at| {
            let at = at.map(|at| Position { epoch: Epoch(2), ..at });
            Message::Recalled(recalled(at))
        }),
    ]
}

#[test]
fn the_examples_are_one_of_each_kind() {
    let kinds: Vec<_> = examples().iter().map(Message::kind).collect();
    assert_eq!(kinds, Kind::ALL);
    assert!(Kind::ALL.iter().all(|kind| Kind::from_number(*kind as u16) == Some(*kind)));
}

/// A peer of the same wire version makes and reads these very bytes. Whoever changes one of them after the first release
/// raises `WIRE_VERSION` and freezes anew.
#[test]
fn wire_bytes_are_frozen() {
    let lines = examples().into_iter().map(|message| {
        let frame = encoded(&message);
        format!("{:?} {} {}\n", message.kind(), frame.len(), &blake3::hash(&frame).to_hex()[..32])
    });
    let found = format!("wire version {WIRE_VERSION}\n{}", lines.collect::<String>());
    assert_eq!(found, include_str!("frozen.txt"));
}

#[test]
fn results_that_another_replica_sends_are_not_empty_results() {
    let reply = |results| Message::Reply(Reply { results, ..examples_reply() });
    for message in [reply(None), reply(Some(Bytes::new()))] {
        assert_eq!(decode(Kind::Reply, &payload(&message), BOUNDS), Ok(message));
    }
}

fn examples_reply() -> Reply {
    match &examples()[1] {
        Message::Reply(reply) => reply.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_misaligned_payload_decodes_alike() {
    for message in examples() {
        let payload = payload(&message);
        for shift in 1..FRAME_ALIGN {
            let shifted = Bytes::from([vec![0; shift], payload.to_vec()].concat()).slice(shift..);
            assert_eq!(decode(message.kind(), &shifted, BOUNDS).as_ref(), Ok(&message), "shifted by {shift}");
        }
    }
}

#[test]
fn a_frame_is_the_same_wherever_it_is_appended() {
    for message in examples() {
        let alone = encoded(&message);
        assert_eq!(alone.len() % FRAME_ALIGN, 0);
        for before in [1, 7, 8, 16] {
            let mut vector = vec![0xaa; before];
            encode(&message, Epoch(2), &mut vector);
            let mut shared = bytes::BytesMut::from(&vec![0xaa; before][..]);
            encode(&message, Epoch(2), &mut shared);
            assert_eq!(vector[before..], alone);
            assert_eq!(shared.freeze()[before..], alone);
        }
    }
}

#[test]
fn a_large_message_is_not_moved_while_it_is_written() {
    for message in examples() {
        let mut out = Vec::with_capacity(payload_estimate(&message) + FRAME_HEADER_BYTES + FRAME_ALIGN);
        let at = out.as_ptr();
        encode(&message, Epoch(2), &mut out);
        assert_eq!(out.as_ptr(), at, "{:?} takes {} bytes", message.kind(), out.len());
    }
}

/// The cutter gives memory of its own to exactly those payloads that the message goes on to hold.
#[test]
fn mem1_a_message_holds_its_payload_only_where_the_cutter_expects_it() {
    for message in examples() {
        let payload = payload(&message);
        let decoded = decode(message.kind(), &payload, BOUNDS).unwrap();
        assert_eq!(!payload.is_unique(), is_kept(message.kind()), "{:?}", message.kind());
        drop(decoded);
        assert!(payload.is_unique());
    }
}

#[test]
fn a_slot_takes_no_more_than_foretold() {
    let slots: Vec<_> = (1..6).map(|i| slot(i, 6 * i as u16 + 1)).collect();
    let foretold: usize = slots.iter().map(slot_bytes).sum();
    let taken = payload(&Message::Log(slots.clone())).len();
    assert!(taken <= foretold && foretold < taken + slots.len() * 100, "{taken} of {foretold}");
    assert!(payload(&Message::Slot(slots[4].clone())).len() <= slot_bytes(&slots[4]));
}

#[test]
fn the_largest_small_messages_fit_their_frames() {
    let text = "x".repeat(TEXT_BYTES.most);
    let counters = vec![(text.clone(), 1); COUNTERS.most];
    let largest = Info { write_path: text.clone(), sealed: text.clone(), signatures: text, counters, ..info() };
    let map = vec![1; MAP_WORDS.most];
    let (proposed, prepared, committed) = (map.clone(), map.clone(), map);
    let status = Status { proposed, prepared, committed, ..Status::default() };
    let signatures = vec![(ReplicaId(0), Signature([1; 64])); SIGNERS.most];
    let vote = SnapshotVote { epoch: Epoch(0), seq: Seq(0), root: Digest::ZERO, signatures };
    for message in [Message::Info(Box::new(largest)), Message::Status(status), Message::Snapshot(vote)] {
        let frame = encoded(&message);
        assert!(frame.len() <= limits::SMALL_FRAME_BYTES, "{:?} takes {}", message.kind(), frame.len());
        assert_eq!(decode(message.kind(), &payload(&message), BOUNDS), Ok(message));
    }
}

/// Messages with one vector longer than any peer may send.
fn oversized() -> Vec<Message> {
    let replicas = SIGNERS.most as u16 + 1;
    let votes: Vec<_> = (0..replicas).map(|i| (ReplicaId(i), Signature([1; 64]))).collect();
    let (epoch, seq, root) = (Epoch(0), Seq(1), Digest::ZERO);
    let long = || "x".repeat(TEXT_BYTES.most + 1);
    let map = vec![0; MAP_WORDS.most + 1];
    let info = |info| Message::Info(Box::new(info));
    vec![
        Message::Checkpoint(Checkpoint { epoch, seq, root, epoch_end: seq, signatures: votes.clone() }),
        Message::Snapshot(SnapshotVote { epoch, seq, root, signatures: votes }),
        Message::Status(Status { proposed: map.clone(), ..Status::default() }),
        Message::Status(Status { prepared: map.clone(), ..Status::default() }),
        Message::Status(Status { committed: map, ..Status::default() }),
        Message::Slot(slot(1, replicas)),
        Message::Log(vec![slot(1, 3), slot(2, replicas)]),
        Message::Log(vec![slot(1, 0); LOG_SLOTS.most + 1]),
        info(Info { counters: vec![(String::new(), 0); COUNTERS.most + 1], ..Info::default() }),
        info(Info { counters: vec![(long(), 0)], ..Info::default() }),
        info(Info { write_path: long(), ..Info::default() }),
        info(Info { sealed: long(), ..Info::default() }),
        info(Info { signatures: long(), ..Info::default() }),
        Message::Manifest(stable_snapshot(replicas, 1)),
        Message::Chunk(chunk(Some(LONG_CHUNK))),
    ]
}

const LONG_CHUNK: &[u8] = &[0; limits::CHUNK_BYTES_MAX + 1];

#[test]
fn t5_every_vector_has_a_bound() {
    for message in oversized() {
        let found = decode(message.kind(), &payload(&message), BOUNDS);
        assert!(matches!(found, Err(DecodeError::TooMany { .. })), "{found:?}");
    }
}

#[test]
fn t5_nothing_is_sent_that_no_peer_would_take() {
    for message in oversized() {
        let sent = std::panic::catch_unwind(|| encoded(&message));
        assert!(sent.is_err(), "{:?}", message.kind());
    }
}

#[test]
fn t5_the_largest_manifest_and_chunk_fit_their_frames_and_longer_ones_are_refused() {
    let mut largest = stable_snapshot(limits::REPLICAS_MAX as u16, 0);
    let entry = (limits::CHUNK_BYTES_MAX as u32, Digest([7; 32]));
    let state = vec![entry; limits::SNAPSHOT_CHUNKS_MAX as usize];
    let clients = vec![entry; limits::SNAPSHOT_CLIENTS_MAX as usize];
    largest.manifest = Arc::new(Manifest { scalars: Scalars::default(), state, clients });
    let frame = encoded(&Message::Manifest(largest.clone()));
    assert!(frame.len() <= limits::MANIFEST_FRAME_BYTES, "{}", frame.len());
    for section in [Section::State, Section::Clients] {
        let mut longer = Manifest::clone(&largest.manifest);
        match section {
            Section::State => longer.state.push(entry),
            Section::Clients => longer.clients.push(entry),
        }
        let longer = Message::Manifest(StableSnapshot { manifest: Arc::new(longer), ..largest.clone() });
        let refused = decode(Kind::Manifest, &payload(&longer), BOUNDS);
        assert!(matches!(refused, Err(DecodeError::Canonical { kind: Kind::Manifest, .. })), "{section:?}");
        assert!(std::panic::catch_unwind(|| encoded(&longer)).is_err(), "nor is it sent");
    }
    let chunk = Message::Chunk(chunk(Some(&LONG_CHUNK[1..])));
    assert!(payload(&chunk).len() <= limits::CHUNK_BYTES_MAX + limits::CHUNK_FRAME_SLACK);
    assert_eq!(decode(Kind::Chunk, &payload(&chunk), BOUNDS), Ok(chunk));
}

#[test]
fn a_chunk_that_is_not_kept_is_not_an_empty_one_and_an_unknown_section_is_refused() {
    for message in [chunk(None), chunk(Some(b""))].map(Message::Chunk) {
        assert_eq!(decode(Kind::Chunk, &payload(&message), BOUNDS), Ok(message));
    }
    let piece = Piece { section: Section::State, index: 0 };
    let mut bytes = payload(&Message::FetchChunk(FetchChunk { seq: Seq(1), piece })).to_vec();
    bytes[12] = 2;
    assert_eq!(decode(Kind::FetchChunk, &Bytes::from(bytes), BOUNDS), Err(DecodeError::Section(2)));
}

#[test]
fn an_unknown_code_or_presence_byte_is_refused() {
    let reply = Message::Reply(examples_reply());
    let payload = payload(&reply).to_vec();
    // The root lies at the end: …, code u16, presence u8, a byte of padding, eight of results, four of padding.
    let code = payload.len() - 16;
    let refused = |at: usize, byte: u8| {
        let mut payload = payload.clone();
        payload[at] = byte;
        decode(Kind::Reply, &Bytes::from(payload), BOUNDS)
    };
    assert_eq!(refused(code, 12), Err(DecodeError::Code(12)));
    assert_eq!(refused(code + 1, 1), Err(DecodeError::Code(256)));
    assert_eq!(refused(code + 2, 2), Err(DecodeError::Flag(2)));
    assert_eq!(decode(Kind::InfoQuery, &Bytes::from_static(&[3]), BOUNDS), Err(DecodeError::Flag(3)));
}

#[test]
fn a_text_that_is_none_is_refused() {
    let name = "größe";
    let info = Info { counters: vec![(name.into(), 1)], ..Info::default() };
    let mut payload = payload(&Message::Info(Box::new(info))).to_vec();
    let at = payload.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    payload[at + 2] = 0xff;
    assert_eq!(decode(Kind::Info, &Bytes::from(payload), BOUNDS), Err(DecodeError::Text));
}

#[test]
fn malformed_bodies_and_requests_are_named() {
    let mut tight = BOUNDS;
    tight.requests = 1;
    let (with_body, others): (Vec<_>, Vec<_>) = examples()
        .into_iter()
        .partition(|message| [Kind::PrePrepare, Kind::Slot, Kind::Body, Kind::Log].contains(&message.kind()));
    for message in with_body {
        let refused = Err(DecodeError::Request(RequestMalformed::Requests));
        assert_eq!(decode(message.kind(), &payload(&message), tight), refused);
    }
    for message in others {
        assert_eq!(decode(message.kind(), &payload(&message), tight), Ok(message));
    }
    let cut = payload(&examples()[0]).slice(1..);
    assert!(matches!(decode(Kind::Request, &cut, BOUNDS), Err(DecodeError::Request(_))));
}

/// Without this a small payload could name one large vector many times.
#[test]
fn z13_x7_two_vectors_over_the_same_bytes_are_refused() {
    let status = Status { proposed: vec![1; 64], prepared: vec![2; 64], ..Status::default() };
    let mut bytes = payload(&Message::Status(status)).to_vec();
    // The root ends with three vectors of offset i32 and length u32; an offset counts from itself.
    let (proposed, prepared) = (bytes.len() - 24, bytes.len() - 16);
    let offset = i32::from_le_bytes(bytes[proposed..proposed + 4].try_into().unwrap());
    bytes[prepared..prepared + 4].copy_from_slice(&(offset - 8).to_le_bytes());
    let len = bytes.len();
    let refused = Err(DecodeError::Archive { kind: Kind::Status, len });
    assert_eq!(decode(Kind::Status, &Bytes::from(bytes), BOUNDS), refused);
}

#[test]
fn x7_every_cut_of_every_archive_is_refused() {
    for message in examples() {
        let whole = payload(&message);
        for end in 0..whole.len() {
            let cut = decode(message.kind(), &whole.slice(..end), BOUNDS);
            assert_ne!(cut.as_ref(), Ok(&message), "{:?} cut at {end}", message.kind());
        }
        let empty = decode(message.kind(), &Bytes::new(), BOUNDS);
        assert!(empty.is_err(), "{empty:?}");
    }
}

/// Whatever decodes is within its bounds, so it can be sent on.
fn never_panics(kind: Kind, bytes: Vec<u8>) {
    if let Ok(message) = decode(kind, &Bytes::from(bytes), BOUNDS) {
        assert_bounds(&message);
        assert_eq!(message.kind(), kind);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_decoded_to_what_was_encoded(message in messages()) {
        prop_assert_eq!(decode(message.kind(), &payload(&message), BOUNDS), Ok(message));
    }

    #[test]
    fn x7_mutated_payloads_never_panic(
        message in messages(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        tail in any::<bool>(),
    ) {
        let mut bytes = payload(&message).to_vec();
        let len = bytes.len();
        for (index, byte) in changes {
            // The root, where the pointers are, is at the end.
            let from = if tail { len.saturating_sub(64) } else { 0 };
            if let Some(slot) = bytes.get_mut(from + index.index((len - from).max(1))) {
                *slot = byte;
            }
        }
        never_panics(message.kind(), bytes);
    }

    #[test]
    fn x7_a_payload_of_another_kind_never_panics(message in messages()) {
        for kind in Kind::ALL {
            never_panics(kind, payload(&message).to_vec());
        }
    }

    #[test]
    fn x7_random_payloads_never_panic(bytes in vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 0..600)) {
        for kind in Kind::ALL {
            never_panics(kind, bytes.clone());
        }
    }
}
