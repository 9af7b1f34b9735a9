//! The ledger of `embed` by itself: what it refuses, and that its snapshots bring back what they were taken of.

#[allow(dead_code, reason = "the program around the ledger is run by the tests beside this one")]
#[path = "../embed.rs"]
mod embed;

use bft_core::ids::{PublicKey, RequestNo, Seq, SessionId};
use bft_core::limits::CHUNK_BYTES_MAX;
use bft_core::service::{Batch, Operation, ReplyBuffer, Service, Snapshot};
use embed::Ledger;

fn execute(ledger: &mut Ledger, seq: u64, texts: &[&str]) -> Vec<String> {
    let of_client = |text| Operation {
        bytes: text,
        client: PublicKey::ZERO,
        session: SessionId(1),
        req_no: RequestNo(seq),
        index: 0,
    };
    let operations: Vec<_> = texts.iter().map(|text| of_client(text.as_bytes())).collect();
    let mut buffer = ReplyBuffer::default();
    let batch = Batch { seq: Seq(seq), time_ns: seq, operations: &operations };
    ledger.execute(&batch, &mut buffer.begin(texts.len())).unwrap();
    let reply = |index| String::from_utf8(buffer.get(index).unwrap().unwrap().to_vec()).unwrap();
    (0..texts.len()).map(reply).collect()
}

fn chunks(image: &mut dyn Snapshot) -> Vec<Vec<u8>> {
    let mut out = vec![0; CHUNK_BYTES_MAX];
    let chunks = 0..image.chunks();
    let mut read = |index| image.read(index, &mut out).map(|len| out[..len].to_vec());
    chunks.map(|index| read(index).unwrap()).collect()
}

fn restored(at: u64, chunks: &[Vec<u8>]) -> Ledger {
    let mut ledger = Ledger::default();
    execute(&mut ledger, 1, &["open carol"]);
    ledger.restore_begin(Seq(at), chunks.len() as u32).unwrap();
    for (index, chunk) in (0..).zip(chunks) {
        ledger.restore_chunk(index, chunk).unwrap();
    }
    ledger.restore_finish().unwrap();
    ledger
}

#[test]
fn what_is_wrong_is_refused_and_changes_nothing() {
    let mut ledger = Ledger::default();
    assert_eq!(execute(&mut ledger, 1, &["open a", "open b", "pay a 5", "move a b 2"]), ["0", "0", "5", "3"]);
    let long = format!("open {}", "n".repeat(65));
    let wrong = [
        ("open a", "the account is there already"),
        (&long, "a name has at most 64 bytes"),
        ("pay c 1", "there is no such account"),
        ("pay a -1", "an amount is a whole number below 2^64"),
        ("pay a 18446744073709551615", "an account holds no more than 2^64 - 1"),
        ("move a b 4", "the account does not hold so much"),
        ("move a c 1", "there is no such account"),
        ("", "write open NAME, pay NAME AMOUNT, move FROM TO AMOUNT, balance NAME or total"),
        ("total now", "write open NAME, pay NAME AMOUNT, move FROM TO AMOUNT, balance NAME or total"),
    ];
    for (operation, why) in wrong {
        assert_eq!(execute(&mut ledger, 2, &[operation]), [format!("refused: {why}")], "{operation}");
    }
    assert_eq!(execute(&mut ledger, 3, &["move a a 3", "balance a", "balance b", "total"]), ["3", "3", "2", "5"]);
    let mut buffer = ReplyBuffer::default();
    ledger.query(b"pay a 1", &mut buffer.begin(1)).unwrap();
    assert!(buffer.get(0).unwrap().unwrap().starts_with(b"refused"), "a query changes nothing");
    ledger.query(b"balance a", &mut buffer.begin(1)).unwrap();
    assert_eq!(buffer.get(0), Some(Ok(&b"3"[..])));
}

#[test]
fn k5_an_image_stays_as_it_was_and_restores_to_the_same_chunks() {
    let mut ledger = Ledger::default();
    for n in 0..600 {
        execute(&mut ledger, n + 1, &[&format!("open account-{n}"), &format!("pay account-{n} {n}")]);
    }
    let mut image = ledger.snapshot(Seq(600)).unwrap();
    execute(&mut ledger, 601, &["pay account-7 1000", "open later"]);
    let before = chunks(&mut *image);

    let mut other = restored(600, &before);
    assert_eq!(execute(&mut other, 602, &["balance account-7", "total", "balance carol"])[..2], ["7", "179700"]);
    assert_eq!(execute(&mut other, 603, &["balance later", "balance carol"]), ["refused: there is no such account"; 2]);
    assert_eq!(chunks(&mut *other.snapshot(Seq(603)).unwrap()), before);

    let mut image = ledger.snapshot(Seq(601)).unwrap();
    let after = chunks(&mut *image);
    let changed = (0..image.chunks()).filter(|index| !image.unchanged_since(*index, Seq(600)));
    let differ = (0..image.chunks()).filter(|index| before[*index as usize] != after[*index as usize]);
    let (changed, differ): (Vec<_>, Vec<_>) = (changed.collect(), differ.collect());
    assert!(changed == differ && (1..=2).contains(&changed.len()), "{changed:?} {differ:?}");
}

#[test]
fn a_restore_that_does_not_end_well_leaves_the_ledger_as_it_was() {
    let mut ledger = Ledger::default();
    execute(&mut ledger, 1, &["open a", "pay a 9"]);
    assert!(ledger.restore_begin(Seq(5), 3).is_err());
    assert!(ledger.restore_chunk(0, b"").is_err() && ledger.restore_finish().is_err());
    ledger.restore_begin(Seq(5), 256).unwrap();
    for chunk in [&b"\x01"[..], b"\x01a\0\0", b"\x01\xff\0\0\0\0\0\0\0\0"] {
        assert!(ledger.restore_chunk(0, chunk).is_err(), "{chunk:?}");
    }
    ledger.restore_chunk(0, b"").unwrap();
    assert!(ledger.restore_finish().is_err(), "255 chunks are missing");
    ledger.restore_begin(Seq(5), 256).unwrap();
    ledger.restore_abort();
    assert!(ledger.restore_finish().is_err());
    assert_eq!(execute(&mut ledger, 2, &["balance a"]), ["9"]);
}
