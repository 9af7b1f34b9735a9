//! Images of `kv`: chunks are a function of the state, an image stays while execution goes on, and what is said to be
//! unchanged is.

mod common;

use std::collections::BTreeMap;

use bft_core::ids::Seq;
use bft_core::limits::CHUNK_BYTES_MAX;
use bft_core::service::{Service, Snapshot};
use bft_services::kv::{Kv, VALUE_BYTES_MAX};
use common::{Bytes, Model, chunks_at, chunks_of, delete, execute, kv_of, put, restore};
use proptest::prelude::*;
use proptest::sample::Index;

/// Keys by number, values by seed and length: states of megabytes from few random numbers.
fn key(n: u16) -> Bytes {
    format!("key {n}").into_bytes()
}

fn value(seed: u8, len: usize) -> Bytes {
    (0..len).map(|at| seed.wrapping_add(at as u8)).collect()
}

fn any_len() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0usize..40, 3 => 4_000usize..20_000, 1 => 100_000usize..=VALUE_BYTES_MAX]
}

/// `None` deletes.
fn any_write() -> impl Strategy<Value = (u16, Option<(u8, usize)>)> {
    (0u16..400, prop::option::weighted(0.7, (any::<u8>(), any_len())))
}

fn encode((n, write): &(u16, Option<(u8, usize)>)) -> Bytes {
    match write {
        Some((seed, len)) => put(&key(*n), &value(*seed, *len)),
        None => delete(&key(*n)),
    }
}

fn apply(map: &mut Model, (n, write): &(u16, Option<(u8, usize)>)) {
    match write {
        Some((seed, len)) => map.insert(key(*n), value(*seed, *len)),
        None => map.remove(&key(*n)),
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn chunks_are_a_function_of_the_state_and_restoring_gives_the_same(
        writes in prop::collection::vec(any_write(), 0..300),
    ) {
        let mut kv = Kv::new();
        let mut map = Model::new();
        for (seq, part) in (1..).zip(writes.chunks(7)) {
            execute(&mut kv, seq, &part.iter().map(encode).collect::<Vec<_>>());
            part.iter().for_each(|write| apply(&mut map, write));
        }
        let chunks = chunks_at(&mut kv, 1000);
        prop_assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES_MAX));
        prop_assert_eq!(&chunks, &chunks_at(&mut kv_of(&map), 7));

        let mut restored = Kv::new();
        execute(&mut restored, 1, &[put(b"old", b"gone")]);
        restore(&mut restored, 1000, &chunks);
        prop_assert_eq!(restored.keys(), map.len() as u64);
        prop_assert_eq!(restored.get(b"old"), None);
        for (key, value) in &map {
            prop_assert_eq!(restored.get(key), Some(value.as_slice()));
        }
        prop_assert_eq!(chunks_at(&mut restored, 1000), chunks);
    }

    /// Images of many Seqs, some of them across a restore: whenever one says that a chunk has not changed since
    /// another, the bytes are equal.
    #[test]
    fn k5_what_is_said_to_be_unchanged_is(
        rounds in prop::collection::vec(prop::collection::vec(any_write(), 0..12), 1..14),
        fill in prop::collection::vec(any_write(), 0..250),
        restore_at in any::<Index>(),
    ) {
        let mut kv = Kv::new();
        execute(&mut kv, 1, &fill.iter().map(encode).collect::<Vec<_>>());
        let mut seen: BTreeMap<u64, Vec<Bytes>> = BTreeMap::new();
        let restore_at = restore_at.index(rounds.len());
        for (round, writes) in rounds.iter().enumerate() {
            let seq = 2 + round as u64;
            execute(&mut kv, seq, &writes.iter().map(encode).collect::<Vec<_>>());
            let mut image = kv.snapshot(Seq(seq)).unwrap();
            let chunks = chunks_of(&mut *image);
            for (earlier, former) in &seen {
                for (index, chunk) in (0u32..).zip(&chunks) {
                    if image.unchanged_since(index, Seq(*earlier)) {
                        prop_assert_eq!(Some(chunk), former.get(index as usize), "chunk {} of {} since {}", index, seq, earlier);
                    }
                }
            }
            prop_assert!(!image.unchanged_since(chunks.len() as u32, Seq(seq)));
            if round == restore_at {
                restore(&mut kv, seq, &chunks);
            }
            seen.insert(seq, chunks);
        }
    }

    #[test]
    fn k5_an_image_stays_while_execution_goes_on(
        before in prop::collection::vec(any_write(), 0..200),
        after in prop::collection::vec(any_write(), 0..200),
    ) {
        let mut kv = Kv::new();
        execute(&mut kv, 1, &before.iter().map(encode).collect::<Vec<_>>());
        let expected = chunks_at(&mut kv, 1);
        let mut image = kv.snapshot(Seq(1)).unwrap();
        let reader = std::thread::spawn(move || chunks_of(&mut *image));
        for (seq, write) in (2..).zip(&after) {
            execute(&mut kv, seq, &[encode(write)]);
        }
        prop_assert_eq!(reader.join().unwrap(), expected);
    }
}

/// Writes 16 bytes to each of `keys` keys.
fn filled(keys: u32) -> Kv {
    let mut kv = Kv::new();
    let puts: Vec<_> = (0..keys).map(|n| put(&n.to_le_bytes(), &[n as u8; 16])).collect();
    execute(&mut kv, 1, &puts);
    kv
}

fn unchanged(image: &dyn Snapshot, earlier: u64) -> usize {
    (0..image.chunks()).filter(|index| image.unchanged_since(*index, Seq(earlier))).count()
}

#[test]
fn k8_a_snapshot_after_few_writes_has_few_new_chunks() {
    let mut kv = filled(100_000);
    let chunks = chunks_at(&mut kv, 1);
    assert!((8..=16).contains(&chunks.len()), "{} chunks of 2.6 MB", chunks.len());

    execute(&mut kv, 2, &[put(&7u32.to_le_bytes(), b"one key was changed")]);
    let mut image = kv.snapshot(Seq(2)).unwrap();
    let changed = chunks_of(&mut *image).iter().zip(&chunks).filter(|(new, old)| new != old).count();
    assert_eq!(changed, 1);
    assert_eq!(unchanged(&*image, 1), chunks.len() - 1);

    execute(&mut kv, 3, &(8..12u32).map(|n| delete(&n.to_le_bytes())).collect::<Vec<_>>());
    let mut image = kv.snapshot(Seq(3)).unwrap();
    let changed = chunks_of(&mut *image).iter().zip(&chunks).filter(|(new, old)| new != old).count();
    assert!((2..=5).contains(&changed));
    assert_eq!(unchanged(&*image, 1), chunks.len() - changed);
    let untouched = kv.snapshot(Seq(9)).unwrap();
    assert_eq!(unchanged(&*untouched, 3), chunks.len());
    assert_eq!(unchanged(&*untouched, 4), 0, "no image of Seq 4 was ever asked for");
}

#[test]
fn k8_growth_splits_one_chunk_at_a_time() {
    let mut kv = filled(100_000);
    let before = chunks_at(&mut kv, 1).len();
    let mut seq = 1;
    let mut n = 100_000u32;
    let image = loop {
        seq += 1;
        n += 1;
        execute(&mut kv, seq, &[put(&n.to_le_bytes(), &[0; 16])]);
        let image = kv.snapshot(Seq(seq)).unwrap();
        if image.chunks() as usize > before {
            break image;
        }
    };
    assert_eq!(image.chunks() as usize, before + 1);
    assert!(unchanged(&*image, seq - 1) >= before - 2, "one chunk was split in two, one was written to");
}

#[test]
fn a_state_that_grew_and_shrank_is_the_state_that_never_grew() {
    let mut kv = filled(1000);
    let small = chunks_at(&mut kv, 1);
    let numbers = 1000..60_000u32;
    let grow: Vec<_> = numbers.clone().map(|n| put(&n.to_le_bytes(), &[n as u8; 16])).collect();
    let shrink: Vec<_> = numbers.map(|n| delete(&n.to_le_bytes())).collect();
    execute(&mut kv, 2, &grow);
    assert!(chunks_at(&mut kv, 2).len() > 4);
    execute(&mut kv, 3, &shrink);
    assert_eq!(chunks_at(&mut kv, 3), small);
    execute(&mut kv, 4, &(0..1000u32).map(|n| delete(&n.to_le_bytes())).collect::<Vec<_>>());
    assert_eq!(chunks_at(&mut kv, 4), chunks_at(&mut Kv::new(), 0));
    assert_eq!(chunks_at(&mut kv, 4), [[1]], "an empty state is one chunk with nothing but its version");
}

#[test]
fn the_first_image_after_a_restore_knows_what_it_was_restored_from() {
    let mut kv = filled(100_000);
    let chunks = chunks_at(&mut kv, 5);
    let mut restored = Kv::new();
    restore(&mut restored, 5, &chunks);
    execute(&mut restored, 6, &[put(&7u32.to_le_bytes(), b"one key was changed")]);
    let image = restored.snapshot(Seq(6)).unwrap();
    assert_eq!(unchanged(&*image, 5), chunks.len() - 1);
    assert_eq!(unchanged(&*image, 1), 0);
}

#[test]
fn a_restore_is_atomic() {
    let chunks = chunks_at(&mut filled(30_000), 1);
    assert!(chunks.len() > 2);
    let mut kv = filled(10);
    let begin = |kv: &mut Kv, chunks: u32| kv.restore_begin(Seq(9), chunks).unwrap();
    let what = |result: Result<(), bft_core::service::ServiceFault>| result.unwrap_err().0;

    assert_eq!(what(kv.restore_chunk(0, &chunks[0])), "kv: no restore was begun");
    assert_eq!(what(kv.restore_finish()), "kv: no restore was begun");
    begin(&mut kv, 3);
    assert_eq!(what(kv.restore_chunk(1, &chunks[1])), "kv: chunk 1 came where chunk 0 of 3 was due");
    kv.restore_chunk(0, &chunks[0]).unwrap();
    let again = "kv: chunk 1 of Seq 9 is no chunk of kv: it has a key that came before";
    assert_eq!(what(kv.restore_chunk(1, &chunks[0])), again);
    assert_eq!(what(kv.restore_finish()), "kv: no restore was begun");

    begin(&mut kv, 2);
    kv.restore_chunk(0, &chunks[0]).unwrap();
    assert_eq!(what(kv.restore_finish()), "kv: the restore of Seq 9 ended after 1 of 2 chunks");
    begin(&mut kv, 2);
    kv.restore_chunk(0, &[1]).unwrap();
    kv.restore_chunk(1, &[1]).unwrap();
    assert_eq!(what(kv.restore_chunk(2, &[1])), "kv: chunk 2 came where chunk 2 of 2 was due");
    assert_eq!(what(kv.restore_finish()), "kv: the state of Seq 9 came in 2 chunks and makes 1");
    begin(&mut kv, 2);
    kv.restore_chunk(0, &chunks[0]).unwrap();
    kv.restore_abort();
    assert_eq!(what(kv.restore_chunk(1, &chunks[1])), "kv: no restore was begun");

    assert_eq!(kv.keys(), 10);
    restore(&mut kv, 9, &chunks);
    assert_eq!(kv.keys(), 30_000);
    execute(&mut kv, 10, &[put(b"it goes on", b"")]);
}

#[test]
fn an_image_says_what_it_cannot_give() {
    let mut kv = filled(10);
    execute(&mut kv, 7, &[put(b"k", b"v")]);
    let fault = kv.snapshot(Seq(6)).err().unwrap();
    assert_eq!(fault.0, "kv: a snapshot of Seq 6 was asked for after Seq 7");
    let mut image = kv.snapshot(Seq(7)).unwrap();
    let mut out = vec![0; CHUNK_BYTES_MAX];
    assert_eq!(image.read(1, &mut out).unwrap_err().0, "kv: chunk 1 was asked for; there are 1");
    assert_eq!(image.read(0, &mut out[..50]).unwrap_err().0, "kv: a chunk does not fit the 50 bytes given");
}

/// What is restored gives the chunks that it was restored from: so entries in another order, or in another chunk than
/// theirs, are no state.
#[test]
fn k5_chunks_that_no_image_gives_are_refused() {
    let mut map = Model::new();
    for n in 0..8u8 {
        map.insert(vec![n; 3], vec![n; 200 << 10]);
    }
    let mut kv = kv_of(&map);
    let chunks = chunks_at(&mut kv, 1);
    assert!(chunks.len() > 3, "{} chunks", chunks.len());
    let fails = |chunks: &[Vec<u8>]| {
        let mut kv = Kv::new();
        kv.restore_begin(Seq(9), chunks.len() as u32).unwrap();
        let read = (0..).zip(chunks).try_for_each(|(index, chunk)| kv.restore_chunk(index, chunk));
        read.and_then(|()| kv.restore_finish()).expect_err("no image gives these").0
    };
    let mut swapped = chunks.clone();
    let (first, second) = (0, (1..chunks.len()).find(|at| chunks[*at] != chunks[0]).unwrap());
    swapped.swap(first, second);
    assert_eq!(fails(&swapped), "kv: chunk 0 of Seq 9 has entries that belong into another one");
    let entry = |key: &[u8]| [&[6, 0, 0, 0, 3, 0][..], key, b"v"].concat();
    let in_order = chunks_at(&mut kv_of(&Model::from([(b"one".into(), b"v".into()), (b"two".into(), b"v".into())])), 1);
    let (one, two) = (entry(b"one"), entry(b"two"));
    let turned = [[&[1][..], &one, &two].concat(), [&[1][..], &two, &one].concat()];
    let turned = turned.into_iter().find(|chunk| *chunk != in_order[0]).unwrap();
    assert_eq!(fails(&[turned]), "kv: chunk 0 of Seq 9 is no chunk of kv: its entries are not in their order");
}
