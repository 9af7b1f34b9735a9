//! What `kv` costs per operation among ten thousand and a million keys, in batches of 256, and what a snapshot adds to the batch after
//! it. `cargo bench -p bft-services --bench kv`

use bft_core::ids::{PublicKey, RequestNo, Seq, SessionId};
use bft_core::service::{Batch, Operation as Admitted, ReplyBuffer, Service};
use bft_services::kv::{Kv, Operation};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;

const BATCH: usize = 256;

/// Makes an operation on a key.
type Kind = fn(&[u8]) -> Operation<'_>;

/// A store, and a walk over its keys in an order that caches do not like.
struct Bench {
    kv: Kv,
    keys: u64,
    seq: u64,
    next: u64,
    replies: ReplyBuffer,
}

impl Bench {
    fn new(keys: u64) -> Self {
        let mut bench = Self { kv: Kv::new(), keys, seq: 0, next: 0, replies: ReplyBuffer::default() };
        for _ in 0..keys / 1000 {
            let puts = bench.encode(1000, |key| Operation::Put { key, value: &[7; 8] });
            bench.execute(&puts);
        }
        assert_eq!(bench.kv.keys(), keys);
        bench
    }

    fn encode(&mut self, count: usize, of: impl Fn(&[u8]) -> Operation<'_>) -> Vec<Vec<u8>> {
        let mut operation = || {
            self.next = (self.next + 611_953) % self.keys;
            of(&self.next.to_le_bytes()).to_bytes().expect("the key is short")
        };
        (0..count).map(|_| operation()).collect()
    }

    fn execute(&mut self, operations: &[Vec<u8>]) {
        let admit =
            |bytes| Admitted { bytes, client: PublicKey::ZERO, session: SessionId(1), req_no: RequestNo(1), index: 0 };
        let operations: Vec<_> = operations.iter().map(|bytes| admit(bytes)).collect();
        self.seq += 1;
        let batch = Batch { seq: Seq(self.seq), time_ns: self.seq, operations: &operations };
        let mut replies = self.replies.begin(operations.len());
        self.kv.execute(&batch, &mut replies).expect("kv has no faults");
        black_box(self.replies.delta());
    }
}

fn operations(criterion: &mut Criterion) {
    for (name, keys) in [("ten thousand", 10_000), ("a million", 1_000_000)] {
        operations_among(criterion, name, &mut Bench::new(keys));
    }
}

fn operations_among(criterion: &mut Criterion, keys: &str, bench: &mut Bench) {
    let mut group = criterion.benchmark_group(format!("kv, {keys} keys, batch of {BATCH}"));
    group.throughput(Throughput::Elements(BATCH as u64));
    let kinds: [(&str, Kind); 3] = [
        ("get", |key| Operation::Get { key }),
        ("put", |key| Operation::Put { key, value: &[9; 8] }),
        ("add", |key| Operation::Add { key, delta: 1 }),
    ];
    for (name, of) in kinds {
        let batches: Vec<_> = (0..1000).map(|_| bench.encode(BATCH, of)).collect();
        let mut turn = batches.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| bench.execute(turn.next().expect("a cycle has no end")));
        });
    }
    let batches: Vec<_> = (0..1000).map(|_| bench.encode(BATCH, |key| Operation::Add { key, delta: 1 })).collect();
    let mut turn = batches.iter().cycle();
    group.bench_function("add, first batch after a snapshot", |bencher| {
        let bench = std::cell::RefCell::new(&mut *bench);
        bencher.iter_batched(
            || {
                let bench = &mut **bench.borrow_mut();
                bench.kv.snapshot(Seq(bench.seq)).expect("kv has no faults")
            },
            |image| {
                bench.borrow_mut().execute(turn.next().expect("a cycle has no end"));
                image
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
    criterion.bench_function(&format!("kv, {keys} keys, snapshot() itself"), |bencher| {
        bencher.iter(|| bench.kv.snapshot(Seq(bench.seq)).expect("kv has no faults"));
    });
}

fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .without_plots()
}

criterion_group! { name = kv; config = quick(); targets = operations }
criterion_main!(kv);
