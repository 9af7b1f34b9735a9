//! What the parts of a replica cost, each by itself: signatures, hashes, messages, journal groups. `kv` is measured with the
//! services.
//! `cargo bench -p bft-bench --bench parts`
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

mod support;

use std::hint::black_box;
use std::io;

use bft_core::auth::Claim;
use bft_core::door::{Persist, Place};
use bft_core::hash::{Context, hash};
use bft_core::ids::{Digest, Epoch, LogPosition, PublicKey, ReplicaId, Seq, Signature, View};
use bft_core::journal::record::{Record, Vote};
use bft_core::journal::superblock::{Directory, Superblock};
use bft_core::journal::{Blocks, Journal, JournalOptions, SegmentFile, scan};
use bft_core::wire::canonical::{Tag, signing_bytes};
use bft_core::wire::message::{Ballot, Kind, Message, Position, PrePrepare};
use bft_core::wire::request::{Body, RequestBounds};
use bft_core::wire::{decode, encode};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{CLUSTER, ed25519, quick, request};

/// Operations of a Request.
const OPERATIONS: usize = 256;
/// Requests of a batch, each of another client.
const REQUESTS: usize = 16;

fn claims(count: usize) -> Vec<Claim> {
    let claim = |index: usize| {
        let signer = ed25519(index);
        let bytes = signing_bytes(Tag::Request, CLUSTER, hash(Context::Request, &[&index.to_le_bytes()]));
        Claim { public_key: signer.public_key(), bytes, signature: signer.sign(&bytes) }
    };
    (0..count).map(claim).collect()
}

fn signatures(criterion: &mut Criterion) {
    let (scheme, claims) = (ed25519(0), claims(256));
    let mut group = criterion.benchmark_group("signature");
    group.bench_function("sign", |bencher| bencher.iter(|| scheme.sign(black_box(&claims[0].bytes))));
    group.bench_function("verify", |bencher| bencher.iter(|| assert!(scheme.verify(black_box(&claims[0])))));
    let mut valid = Vec::new();
    for count in [16, 64, 256] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("verify {count} signers at once"), |bencher| {
            bencher.iter(|| {
                scheme.verify_many(black_box(&claims[..count]), &mut valid);
                assert!(valid.iter().all(|valid| *valid));
            });
        });
    }
    group.finish();
}

fn hashes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hash");
    for bytes in [128, 1024, 65_536] {
        let data = vec![7; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{bytes} bytes"), |bencher| {
            bencher.iter(|| hash(Context::Request, &[black_box(&data)]));
        });
    }
    group.finish();
}

fn position(seq: u64) -> Position {
    Position { epoch: Epoch(0), view: View(0), seq: Seq(seq), digest: Digest([3; 32]) }
}

fn ballot() -> Ballot {
    Ballot { commitment: Digest([6; 32]), signature: Signature([7; 64]) }
}

/// A batch of [`REQUESTS`] Requests of `operations` operations.
fn body(operations: usize) -> Body {
    let requests: Vec<_> = (0..REQUESTS).map(|client| request(&*ed25519(client), 1, operations)).collect();
    Body::join(&requests)
}

fn messages(criterion: &mut Criterion) {
    let body = body(OPERATIONS);
    let pre_prepare = PrePrepare { position: position(1), ballot: ballot(), header: body.header(1), body: body.into() };
    let mut group = criterion.benchmark_group("message");
    group.throughput(Throughput::Elements(OPERATIONS as u64));
    let one = Message::Request(request(&*ed25519(0), 1, OPERATIONS));
    round_trip(&mut group, "REQUEST of 256 operations", &one);
    group.throughput(Throughput::Elements((REQUESTS * OPERATIONS) as u64));
    round_trip(&mut group, "PRE-PREPARE of 16 x 256", &Message::PrePrepare(pre_prepare));
    group.finish();
}

type Group<'a> = criterion::BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn round_trip(group: &mut Group<'_>, name: &str, message: &Message) {
    let bounds = RequestBounds::from(&bft_core::config::ProtocolParams::default());
    let mut frame = Vec::new();
    group.bench_function(format!("encode {name}"), |bencher| {
        bencher.iter(|| {
            frame.clear();
            encode(black_box(message), Epoch(0), &mut frame);
        });
    });
    let payload = payload(&frame);
    let kind: Kind = message.kind();
    group.bench_function(format!("decode {name}"), |bencher| {
        bencher.iter(|| decode(kind, black_box(&payload), bounds).expect("encoded above"));
    });
}

/// Of a frame, without its padding; aligned by the copy as the frame cutter's buffers are.
fn payload(frame: &[u8]) -> Bytes {
    let len = u32::from_le_bytes(frame[8..12].try_into().expect("four bytes")) as usize;
    let header = bft_core::limits::FRAME_HEADER_BYTES;
    Bytes::copy_from_slice(&frame[header..header + len])
}

/// A directory without segments.
struct Nothing;

impl Blocks for Nothing {
    fn segments(&mut self) -> io::Result<Vec<SegmentFile>> {
        Ok(Vec::new())
    }

    fn read(&mut self, _file: u32, _offset: u32, _out: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn journal(criterion: &mut Criterion) {
    let superblock = Superblock::first(&Directory {
        cluster_id: CLUSTER,
        replica: ReplicaId(0),
        public_key: PublicKey([2; 32]),
        epoch: Epoch(0),
        directory_id: [3; 16],
        directory_key: [4; 32],
    });
    let tail = scan(&superblock, &mut Nothing, &mut |_, _| Ok::<_, ()>(())).expect("nothing is no damage");
    let mut journal = Journal::new(&superblock, tail, JournalOptions::default());
    let mut last = 0;
    let mut group = criterion.benchmark_group("journal");
    for (records, operations) in [(1, 1), (16, 1), (1, 256)] {
        let body = body(operations);
        let (header, bytes) = (body.header(1), body.bytes().clone());
        group.throughput(Throughput::Bytes((records * bytes.len()) as u64));
        let name = format!("group of {records} votes of {} KiB", bytes.len().div_ceil(1024));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for _ in 0..records {
                    last += 1;
                    let (body, proposal) = (Some(bytes.clone()), ballot());
                    let vote = Record::Vote(Vote { position: position(last), proposal, header, body });
                    journal.append(Persist { position: LogPosition(last), place: Place::Journal(vote) });
                }
                let write = journal.next_write().expect("there is something to write");
                journal.written(write.ticket);
                journal.recycle(write.bytes);
                assert_eq!(journal.durable(), LogPosition(last), "in one group");
                journal.drop_below(LogPosition(last));
            });
        });
    }
    group.finish();
}

criterion_group! { name = parts; config = quick(); targets = signatures, hashes, messages, journal }
criterion_main!(parts);
