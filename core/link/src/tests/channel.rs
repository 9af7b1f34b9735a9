//! Records: every cut, every change, order, keys, memory.

use bft_core::config::Cipher;

use super::{CIPHERS, channels};
use crate::channel::sealed_len;
use crate::{Channel, LENGTH_BYTES, LinkError, RECORD_BYTES_MAX, RECORD_PLAINTEXT_MAX};

fn seal(channel: &mut Channel, plaintext: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    channel.seal(plaintext, &mut out);
    out
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[test]
fn plaintexts_of_every_size_arrive() {
    let sizes = [0, 1, 15, 16, 17, RECORD_PLAINTEXT_MAX - 1, RECORD_PLAINTEXT_MAX, RECORD_PLAINTEXT_MAX + 1, 300_000];
    for cipher in CIPHERS {
        let (mut connector, mut acceptor) = channels(cipher);
        for size in sizes {
            let plaintext = pattern(size);
            let mut heard = b"before".to_vec();
            let wire = seal(&mut connector, &plaintext);
            assert_eq!(wire.len(), sealed_len(size));
            acceptor.open(&wire, &mut heard).unwrap();
            assert_eq!(heard, [b"before".as_slice(), &plaintext].concat(), "appended");
            heard.clear();
            connector.open(&seal(&mut acceptor, &plaintext), &mut heard).unwrap();
            assert_eq!(heard, plaintext);
        }
    }
}

#[test]
fn records_are_as_long_as_noise_allows_and_no_longer() {
    let (mut from, _) = channels(Cipher::AesGcm);
    let wire = seal(&mut from, &pattern(2 * RECORD_PLAINTEXT_MAX + 1));
    let (mut rest, mut lengths) = (wire.as_slice(), Vec::new());
    while let Some((length, after)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes(*length));
        lengths.push(len);
        rest = &after[len..];
    }
    assert_eq!(lengths, [RECORD_BYTES_MAX, RECORD_BYTES_MAX, 17]);
}

#[test]
fn every_split_of_the_records_is_the_same() {
    let plaintexts = [pattern(1), pattern(40), pattern(7)];
    let sealed = |from: &mut Channel| plaintexts.iter().flat_map(|plaintext| seal(from, plaintext)).collect::<Vec<_>>();
    let len = sealed(&mut channels(Cipher::AesGcm).0).len();
    for at in 0..=len {
        let (mut from, mut to) = channels(Cipher::AesGcm);
        let wire = sealed(&mut from);
        let (front, back) = wire.split_at(at);
        let mut heard = Vec::new();
        to.open(front, &mut heard).unwrap();
        let at_boundary = [0, 19, 19 + 58, len].contains(&at);
        assert_eq!(to.closed().is_ok(), at_boundary, "ended at {at}");
        to.open(back, &mut heard).unwrap();
        assert_eq!(heard, plaintexts.concat(), "split at {at}");
        assert_eq!(to.closed(), Ok(()));
    }
    let (mut from, mut to) = channels(Cipher::ChaChaPoly);
    let mut heard = Vec::new();
    for byte in sealed(&mut from).chunks(1) {
        to.open(byte, &mut heard).unwrap();
    }
    assert_eq!(heard, plaintexts.concat());
}

#[test]
fn no_byte_of_a_record_can_be_changed() {
    for cipher in CIPHERS {
        let len = sealed_len(24);
        for at in 0..len {
            let (mut from, mut to) = channels(cipher);
            let mut wire = seal(&mut from, &pattern(24));
            wire[at] ^= 1 << (at % 8);
            let mut heard = Vec::new();
            // A length that grew makes it wait for what never comes.
            let refused = to.open(&wire, &mut heard).and_then(|()| to.closed()).expect_err("changed");
            assert!(heard.is_empty(), "byte {at}");
            assert!(refused.is_hostile() || at < LENGTH_BYTES, "byte {at}: {refused}");
        }
    }
}

#[test]
fn records_cannot_be_lost_doubled_swapped_or_reflected() {
    let forged = |record| Err(LinkError::ForgedRecord { record });
    let deliver = |order: &[usize]| {
        let (mut from, mut to) = channels(Cipher::AesGcm);
        let records = [b"a", b"b", b"c"].map(|text| seal(&mut from, text));
        let mut heard = Vec::new();
        let wire: Vec<u8> = order.iter().flat_map(|i| records[*i].clone()).collect();
        let opened = to.open(&wire, &mut heard);
        (opened, heard)
    };
    assert_eq!(deliver(&[0, 1, 2]), (Ok(()), b"abc".to_vec()));
    assert_eq!(deliver(&[0, 2]), (forged(1), b"a".to_vec()));
    assert_eq!(deliver(&[0, 1, 1]), (forged(2), b"ab".to_vec()));
    assert_eq!(deliver(&[1, 0]), (forged(0), Vec::new()));
    let (mut from, _) = channels(Cipher::AesGcm);
    let own = seal(&mut from, b"a");
    assert_eq!(from.open(&own, &mut Vec::new()), forged(0), "its own record");
}

#[test]
fn x5_a_record_of_another_link_is_refused() {
    let (mut from, _) = channels(Cipher::AesGcm);
    let recipe = super::Recipe { cluster: 8, ..super::Recipe::new(Cipher::AesGcm) };
    let (_, (_, mut elsewhere)) = super::meet(&recipe.client(super::CLIENT), &recipe.replica(0), 0).both();
    let opened = elsewhere.open(&seal(&mut from, b"a"), &mut Vec::new());
    assert_eq!(opened, Err(LinkError::ForgedRecord { record: 0 }));
}

#[test]
fn an_error_is_final() {
    let (mut from, mut to) = channels(Cipher::AesGcm);
    let (good, mut bad) = (seal(&mut from, b"good"), seal(&mut from, b"bad"));
    let right = bad.clone();
    bad[LENGTH_BYTES] ^= 1;
    let mut heard = Vec::new();
    let refused = Err(LinkError::ForgedRecord { record: 1 });
    assert_eq!(to.open(&[good, bad].concat(), &mut heard), refused);
    assert_eq!(to.open(&right, &mut heard), refused);
    assert_eq!(to.open(&[], &mut heard), refused);
    assert_eq!((heard.as_slice(), to.closed()), (b"good".as_slice(), refused));
}

#[test]
fn records_of_nothing_are_refused() {
    for len in [0_u8, 1, 15, 16] {
        let (_, mut to) = channels(Cipher::AesGcm);
        let error = LinkError::RecordLength { record: 0, len: len.into() };
        assert_eq!(to.open(&[len, 0], &mut Vec::new()), Err(error.clone()), "before anything of it came");
        let (_, mut to) = channels(Cipher::AesGcm);
        to.open(&[len], &mut Vec::new()).unwrap();
        assert_eq!(to.open(&[0], &mut Vec::new()), Err(error.clone()));
        assert!(error.is_hostile());
    }
}

#[test]
fn an_end_inside_a_record_is_told_from_an_end() {
    let (mut from, mut to) = channels(Cipher::AesGcm);
    let mut wire = seal(&mut from, b"whole");
    wire.extend_from_slice(&seal(&mut from, b"half")[..5]);
    let mut heard = Vec::new();
    to.open(&wire, &mut heard).unwrap();
    assert_eq!(to.closed(), Err(LinkError::Truncated { record: 1 }));
    assert!(!to.closed().unwrap_err().is_hostile());
}

#[test]
fn mem2_what_waits_is_less_than_two_records() {
    let (mut from, mut to) = channels(Cipher::AesGcm);
    let plaintext = pattern(3 * RECORD_PLAINTEXT_MAX);
    let wire = seal(&mut from, &plaintext);
    let mut heard = Vec::new();
    for piece in wire.chunks(1_000) {
        to.open(piece, &mut heard).unwrap();
        assert!(to.held() <= 2 * (LENGTH_BYTES + RECORD_BYTES_MAX));
    }
    assert_eq!(heard, plaintext);
    let (_, mut to) = channels(Cipher::AesGcm);
    to.open(&[0xff, 0xff], &mut Vec::new()).unwrap();
    assert!(to.held() < 100, "a length alone reserves nothing");
}

#[test]
fn both_sides_change_keys_after_the_same_record() {
    for cipher in CIPHERS {
        let (mut connector, mut acceptor) = channels(cipher);
        for channel in [&mut connector, &mut acceptor] {
            channel.rekey_after(3);
        }
        let mut heard = Vec::new();
        for round in 0..10_u8 {
            heard.clear();
            acceptor.open(&seal(&mut connector, &[round]), &mut heard).unwrap();
            connector.open(&seal(&mut acceptor, &[round]), &mut heard).unwrap();
            assert_eq!(heard, [round, round]);
        }
    }
    let (mut from, mut to) = channels(Cipher::AesGcm);
    from.rekey_after(3);
    let wire = seal(&mut from, &[0]).into_iter().chain(seal(&mut from, &[1])).chain(seal(&mut from, &[2]));
    let wire: Vec<u8> = wire.collect();
    to.open(&wire, &mut Vec::new()).unwrap();
    let fourth = to.open(&seal(&mut from, &[3]), &mut Vec::new());
    assert_eq!(fourth, Err(LinkError::ForgedRecord { record: 3 }), "the keys do change");
}

#[test]
fn a_hundred_thousand_small_records_cost_their_tags_and_no_memory() {
    const RECORDS: usize = 100_000;
    const PLAIN: usize = 64;
    let (mut from, mut to) = channels(Cipher::AesGcm);
    let mut wire = Vec::with_capacity(RECORDS * sealed_len(PLAIN));
    let room = wire.capacity();
    for record in 0..RECORDS {
        from.seal(&[record as u8; PLAIN], &mut wire);
    }
    assert_eq!((wire.len(), wire.capacity()), (RECORDS * (PLAIN + 18), room));
    let mut heard = Vec::with_capacity(128 * 1024);
    let mut opened = 0;
    for piece in wire.chunks(65_536) {
        heard.clear();
        to.open(piece, &mut heard).unwrap();
        opened += heard.len();
    }
    assert_eq!((opened, heard.capacity()), (RECORDS * PLAIN, 128 * 1024), "no buffer had to grow");
}
