//! `null`: the same answer to everything, and a state that counts.

mod common;

use bft_core::ids::Seq;
use bft_core::service::{ReplyBuffer, Service};
use bft_services::null::Null;
use common::{chunks_at, execute, restore};

#[test]
fn it_answers_everything_alike_and_counts() {
    let mut null = Null::new(3);
    assert_eq!(null.open(), Ok(Seq(0)));
    let (replies, first) = execute(&mut null, 1, &[b"a".to_vec(), vec![], vec![7; 1000]]);
    assert_eq!(replies, [[0; 3]; 3]);
    let (_, second) = execute(&mut null, 2, &[vec![]]);
    assert_ne!(first, second, "each batch changes the state");
    assert_eq!(null.executed(), 4);
    let mut buffer = ReplyBuffer::default();
    null.query(b"anything", &mut buffer.begin(1)).unwrap();
    assert_eq!(buffer.get(0), Some(Ok(&[0; 3][..])));
    assert_eq!(null.executed(), 4);
}

#[test]
fn its_state_is_one_chunk_and_comes_back() {
    let mut null = Null::new(0);
    execute(&mut null, 3, &[vec![], vec![]]);
    let mut image = null.snapshot(Seq(4)).unwrap();
    assert!(image.unchanged_since(0, Seq(3)) && !image.unchanged_since(0, Seq(2)));
    assert_eq!(image.read(0, &mut [0; 4]).unwrap_err().0, "null: chunk 0 was asked for; there is chunk 0 with 8 bytes");
    let chunks = chunks_at(&mut null, 4);
    assert_eq!(chunks, [2u64.to_le_bytes()]);

    let mut other = Null::new(0);
    restore(&mut other, 4, &chunks);
    assert_eq!(other.executed(), 2);
    assert_eq!(chunks_at(&mut other, 4), chunks);
    assert!(!other.snapshot(Seq(4)).unwrap().unchanged_since(0, Seq(3)));
}

#[test]
fn a_restore_is_atomic() {
    let mut null = Null::new(0);
    execute(&mut null, 1, &[vec![]]);
    let what = |result: Result<(), bft_core::service::ServiceFault>| result.unwrap_err().0;
    assert_eq!(what(null.restore_begin(Seq(9), 2)), "null: the state at Seq 9 has 2 chunks instead of 1");
    assert_eq!(what(null.restore_chunk(0, &[0; 8])), "null: no restore was begun");
    null.restore_begin(Seq(9), 1).unwrap();
    assert_eq!(what(null.restore_chunk(0, &[0; 7])), "null: chunk 0 has 7 bytes; chunk 0 with 8 is due");
    assert_eq!(what(null.restore_finish()), "null: the restore ended without its chunk");
    null.restore_begin(Seq(9), 1).unwrap();
    null.restore_chunk(0, &[9; 8]).unwrap();
    null.restore_abort();
    assert_eq!(what(null.restore_finish()), "null: no restore was begun");
    assert_eq!(null.executed(), 1);
}
