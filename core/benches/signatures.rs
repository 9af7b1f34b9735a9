//! What signatures cost: `cargo bench -p bft-core --bench signatures`. Batches of distinct signers are what bodies of
//! Requests bring, batches of few signers what certificates bring.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;
use std::time::Duration;

use bft_core::auth::{Claim, Ed25519, Scheme};
use bft_core::hash::{Context, hash};
use bft_core::ids::ClusterId;
use bft_core::wire::canonical::{Tag, signing_bytes};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const CLUSTER: ClusterId = ClusterId([7; 32]);

fn signer(number: usize) -> Ed25519 {
    Ed25519::new(&hash(Context::Link, &[&number.to_le_bytes()]).0, [1; 32])
}

/// `count` valid claims of `signers` signers in turn.
fn claims(count: usize, signers: usize) -> Vec<Claim> {
    let signers: Vec<_> = (0..signers).map(signer).collect();
    let claim = |(index, signer): (usize, &Ed25519)| {
        let bytes = signing_bytes(Tag::Request, CLUSTER, hash(Context::Request, &[&index.to_le_bytes()]));
        Claim { public_key: signer.public_key(), bytes, signature: signer.sign(&bytes) }
    };
    (0..count).zip(signers.iter().cycle()).map(claim).collect()
}

fn single(c: &mut Criterion) {
    let scheme = signer(0);
    let claim = claims(1, 1)[0];
    let mut group = c.benchmark_group("single");
    group.throughput(Throughput::Elements(1));
    group.bench_function("sign", |b| b.iter(|| scheme.sign(black_box(&claim.bytes))));
    group.bench_function("verify", |b| b.iter(|| assert!(scheme.verify(black_box(&claim)))));
    group.bench_function("verify, key not known", |b| b.iter(|| assert!(bft_core::auth::ed25519::verify(&claim))));
    group.finish();
}

fn batched(c: &mut Criterion) {
    let scheme = signer(0);
    let mut valid = Vec::new();
    let mut group = c.benchmark_group("batch");
    let cases = [2, 3, 4, 8, 16, 64, 256, 1024].map(|count| (count, count));
    for (count, signers) in cases.into_iter().chain([(4, 1), (16, 1), (64, 1), (256, 1), (256, 4)]) {
        let claims = claims(count, signers);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{count} of {signers} signers"), |b| {
            b.iter(|| {
                scheme.verify_many(black_box(&claims), &mut valid);
                assert!(valid.iter().all(|valid| *valid));
            });
        });
    }
    for bad in [1, 8, 256] {
        let mut claims = claims(256, 256);
        for index in 0..bad {
            claims[index * 256 / bad].signature.0[40] ^= 1;
        }
        group.throughput(Throughput::Elements(256));
        group.bench_function(format!("256 of 256 signers, {bad} bad"), |b| {
            b.iter(|| {
                scheme.verify_many(black_box(&claims), &mut valid);
                assert_eq!(valid.iter().filter(|valid| !**valid).count(), bad);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .sample_size(10)
        .without_plots();
    targets = single, batched
}
criterion_main!(benches);
