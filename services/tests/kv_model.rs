//! `kv` against a plain map: every answer, every state.

mod common;

use bft_core::ids::{PublicKey, Seq};
use bft_core::service::{ReplyBuffer, Service};
use bft_services::kv::{Kv, Operation, Prior, Refusal, Reply, VALUE_BYTES_MAX};
use common::{Bytes, Model, chunks_at, delete, execute, execute_as, kv_of, model, op, put};
use proptest::prelude::*;

/// Few keys, so that operations meet; values that are counters, nearly full counters and none.
fn any_operation() -> impl Strategy<Value = Bytes> {
    let key = || prop::collection::vec(0u8..3, 0..4);
    let value = || {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..12),
            any::<i64>().prop_map(|counter| counter.to_le_bytes().to_vec()),
            Just(i64::MAX.to_le_bytes().to_vec()),
        ]
    };
    prop_oneof![
        2 => key().prop_map(|key| op(Operation::Get { key: &key })),
        4 => (key(), value()).prop_map(|(key, value)| put(&key, &value)),
        2 => key().prop_map(|key| delete(&key)),
        2 => (key(), prop::option::of(value()), value()).prop_map(|(key, expect, value)| {
            op(Operation::Cas { key: &key, expect: expect.as_deref(), value: &value })
        }),
        2 => (key(), -3i64..4).prop_map(|(key, delta)| op(Operation::Add { key: &key, delta })),
        2 => (key(), value()).prop_map(|(key, value)| op(Operation::Append { key: &key, value: &value })),
        1 => Just(op(Operation::Count)),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_answers_as_a_map_does(batches in prop::collection::vec(prop::collection::vec(any_operation(), 1..40), 1..8)) {
        let mut kv = Kv::new();
        let mut map = Model::new();
        for (seq, batch) in (1..).zip(&batches) {
            let expected: Vec<_> = batch.iter().map(|operation| model(&mut map, operation)).collect();
            let (replies, _) = execute(&mut kv, seq, batch);
            prop_assert_eq!(replies, expected);
        }
        prop_assert_eq!(kv.keys(), map.len() as u64);
        for (key, value) in &map {
            prop_assert_eq!(kv.get(key), Some(value.as_slice()));
        }
        prop_assert_eq!(chunks_at(&mut kv, 100), chunks_at(&mut kv_of(&map), 100));
    }

    /// What a replica may not depend on: how the operations were cut into batches, at what agreed time, and whose they
    /// were.
    #[test]
    fn k9_the_state_depends_on_the_operations_alone(
        operations in prop::collection::vec(any_operation(), 1..60),
        cut in 1usize..20,
    ) {
        let (mut one, mut other) = (Kv::new(), Kv::new());
        let (expected, _) = execute(&mut one, 1, &operations);
        let mut replies = Vec::new();
        for (seq, batch) in (5..).zip(operations.chunks(cut)) {
            replies.extend(execute_as(&mut other, seq, batch, PublicKey([9; 32]), 1 << 60).0);
        }
        prop_assert_eq!(replies, expected);
        prop_assert_eq!(chunks_at(&mut one, 100), chunks_at(&mut other, 100));
    }
}

#[test]
fn k4_what_a_batch_changed_is_in_its_delta() {
    let run = |operations: &[Bytes]| {
        let mut kv = Kv::new();
        execute(&mut kv, 1, &[put(b"a", b"1"), put(b"b", b"")]);
        execute(&mut kv, 2, operations).1
    };
    let nothing = run(&[op(Operation::Get { key: b"a" })]);
    assert_eq!(nothing, run(&[op(Operation::Count), delete(b"unknown"), b"malformed".to_vec()]));
    let changes = [
        vec![put(b"a", b"1")],
        vec![put(b"a", b"2")],
        vec![put(b"b", b"2")],
        vec![put(b"b", b"")],
        vec![delete(b"a")],
        vec![delete(b"b")],
        vec![delete(b"a"), delete(b"b")],
        vec![put(b"", b"b")],
        vec![op(Operation::Add { key: b"new", delta: 1 })],
        vec![op(Operation::Add { key: b"new", delta: 2 })],
        vec![op(Operation::Cas { key: b"a", expect: Some(b"1"), value: b"3" })],
        vec![op(Operation::Append { key: b"a", value: b"4" })],
        vec![op(Operation::Append { key: b"other", value: b"4" })],
    ];
    let mut deltas = vec![nothing];
    for change in &changes {
        let delta = run(change);
        assert_eq!(delta, run(change));
        assert!(!deltas.contains(&delta), "{change:?}");
        deltas.push(delta);
    }
}

#[test]
fn c16_a_counter_counts_every_addition() {
    let mut kv = Kv::new();
    let add = |delta| op(Operation::Add { key: b"counter", delta });
    for seq in 1..=100 {
        let (replies, _) = execute(&mut kv, seq, &[add(1), add(1)]);
        assert_eq!(Reply::decode(&replies[1]), Ok(Reply::Counter(2 * seq as i64)));
    }
    let (replies, _) = execute(&mut kv, 101, &[add(i64::MAX), add(-300)]);
    assert_eq!(Reply::decode(&replies[0]), Ok(Reply::Error(Refusal::Overflow)));
    assert_eq!(Reply::decode(&replies[1]), Ok(Reply::Counter(-100)));
}

#[test]
fn what_is_appended_comes_behind_what_is_there_up_to_the_longest_value() {
    let mut kv = Kv::new();
    let append = |value: &[u8]| op(Operation::Append { key: b"list", value });
    let (replies, _) = execute(&mut kv, 1, &[append(b"a"), append(b"bc"), append(b"")]);
    let replies: Vec<_> = replies.iter().map(|reply| Reply::decode(reply).unwrap()).collect();
    assert_eq!(replies, [Reply::Appended(1), Reply::Appended(3), Reply::Appended(3)]);
    assert_eq!(kv.get(b"list"), Some(&b"abc"[..]));
    let full = vec![b'f'; VALUE_BYTES_MAX - 3];
    let (replies, _) = execute(&mut kv, 2, &[append(&full), append(b"g"), append(b"")]);
    assert_eq!(Reply::decode(&replies[0]), Ok(Reply::Appended(VALUE_BYTES_MAX as u32)));
    assert_eq!(Reply::decode(&replies[1]), Ok(Reply::Error(Refusal::ValueTooLong)));
    assert_eq!(Reply::decode(&replies[2]), Ok(Reply::Appended(VALUE_BYTES_MAX as u32)), "nothing was changed");
}

#[test]
fn the_largest_values_go_in_and_out() {
    let mut kv = Kv::new();
    let value = vec![5; VALUE_BYTES_MAX];
    let get = op(Operation::Get { key: b"k" });
    let cas = op(Operation::Cas { key: b"k", expect: Some(b"other"), value: b"" });
    let (replies, _) = execute(&mut kv, 1, &[put(b"k", &value), get, cas]);
    assert_eq!(Reply::decode(&replies[0]), Ok(Reply::Stored(Prior::Absent)));
    assert_eq!(Reply::decode(&replies[1]), Ok(Reply::Value(Some(&value))));
    assert_eq!(Reply::decode(&replies[2]), Ok(Reply::Mismatch(Some(&value))));
    assert!(replies[1].len() <= bft_core::limits::REPLY_BYTES_MAX);
}

#[test]
fn queries_read_and_do_not_write() {
    let mut kv = Kv::new();
    execute(&mut kv, 1, &[put(b"k", b"v")]);
    let mut buffer = ReplyBuffer::default();
    let mut query = |bytes: &[u8]| {
        kv.query(bytes, &mut buffer.begin(1)).unwrap();
        buffer.get(0).unwrap().unwrap().to_vec()
    };
    assert_eq!(Reply::decode(&query(&op(Operation::Get { key: b"k" }))), Ok(Reply::Value(Some(b"v"))));
    assert_eq!(Reply::decode(&query(&op(Operation::Count))), Ok(Reply::Count(1)));
    let append = op(Operation::Append { key: b"k", value: b"w" });
    for write in [put(b"k", b"w"), delete(b"k"), op(Operation::Add { key: b"c", delta: 1 }), append] {
        assert_eq!(Reply::decode(&query(&write)), Ok(Reply::Error(Refusal::ReadOnly)));
    }
    assert_eq!(Reply::decode(&query(b"")), Ok(Reply::Error(Refusal::Malformed)));
    assert_eq!((kv.keys(), kv.get(b"k")), (1, Some(&b"v"[..])));
}

#[test]
fn a_seq_is_executed_once_and_in_order() {
    let mut kv = Kv::new();
    execute(&mut kv, 5, &[put(b"k", b"v")]);
    let mut buffer = ReplyBuffer::default();
    let batch = bft_core::service::Batch { seq: Seq(5), time_ns: 0, operations: &[] };
    let fault = kv.execute(&batch, &mut buffer.begin(0)).unwrap_err();
    assert_eq!(fault.to_string(), "service fault: kv: Seq 5 was to be executed after Seq 5");
    assert_eq!(kv.open(), Ok(Seq(0)));
}
