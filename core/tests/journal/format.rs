//! The bytes: every record there and back, and one of each thing frozen. A change here is a new journal version.

use std::fmt::Write as _;
use std::sync::Arc;

use bft_core::evidence::{Evidence, Proof, SignedVote};
use bft_core::ids::{ClusterId, Digest, Epoch, LogPosition, ReplicaId, Seq, Signature, View};
use bft_core::journal::record::{Committed, Vote};
use bft_core::journal::{BlockBuf, Record, RecordInvalid, Superblock, Target, read_record};
use bft_core::wire::message::{
    Ballot, BatchHeader, Checkpoint, CommitCertificate, Position, PreparedCertificate, SnapshotVote,
};
use bytes::Bytes;
use proptest::prelude::*;

use crate::disk::{Disk, Shell, first_superblock, vote};

fn position(n: u64) -> Position {
    Position { epoch: Epoch(n), view: View(n + 1), seq: Seq(n + 2), digest: Digest([n as u8; 32]) }
}

fn ballot(n: u8) -> Ballot {
    Ballot { commitment: Digest([n; 32]), signature: Signature([n + 1; 64]) }
}

fn header() -> BatchHeader {
    BatchHeader { time_ns: 5, count: 6, body_len: 7, merkle_root: Digest([8; 32]), flags: 0 }
}

fn signatures(count: u16) -> Vec<(ReplicaId, Signature)> {
    (0..count).map(|replica| (ReplicaId(replica), Signature([replica as u8; 64]))).collect()
}

fn evidence() -> Evidence {
    let vote = |digest| SignedVote { digest: Digest([digest; 32]), ballot: ballot(digest) };
    let proof = Proof::two_proposals(View(4), Seq(9), vote(1), vote(2));
    Evidence { cluster: ClusterId([5; 32]), epoch: Epoch(1), proof }
}

/// One of each kind, in each of its forms.
fn records() -> Vec<Record> {
    let bodies = [None, Some(Bytes::new()), Some(Bytes::from_static(b"seventeen bytes !"))];
    let vote = |body| Record::Vote(Vote { position: position(1), proposal: ballot(2), header: header(), body });
    let prepares = (1..4).map(|replica| (ReplicaId(replica), ballot(replica as u8))).collect();
    let cert = PreparedCertificate { position: position(3), header: header(), proposal: ballot(4), prepares };
    let committed = |opening, body| {
        let commits = (1..3).map(|replica| (ReplicaId(replica), ballot(9), Digest([replica as u8; 32]))).collect();
        let certificate =
            CommitCertificate { position: position(5), header: header(), proposal: ballot(6), opening, commits };
        Record::Committed(Committed { certificate: Arc::new(certificate), body })
    };
    let (epoch, seq, root) = (Epoch(1), Seq(128), Digest([7; 32]));
    let stable = Checkpoint { epoch, seq, root, epoch_end: Seq(9), signatures: signatures(31) };
    let snapshot = SnapshotVote { epoch, seq, root, signatures: signatures(3) };
    let mut all = vec![
        Record::Cert(cert),
        Record::CkptVote { epoch, seq, root },
        Record::SnapVote { epoch, seq, root },
        Record::Stable(stable),
        Record::SnapStable(snapshot),
        Record::Evidence(Arc::new(evidence())),
    ];
    for body in bodies {
        all.push(vote(body.clone()));
        all.push(committed(None, body.clone()));
        all.push(committed(Some(Digest([3; 32])), body));
    }
    all
}

/// The bytes of the record's extent.
fn encoded(record: &Record) -> Bytes {
    let mut out = BlockBuf::with_capacity(0);
    record.encode(&mut out);
    assert_eq!((out.len(), out.len() % 16), (record.encoded_len(), 0));
    let payload = u32::from_le_bytes(out[4..8].try_into().expect("four bytes"));
    assert!(out[32 + payload as usize..].iter().all(|byte| *byte == 0), "padding is zero");
    Bytes::copy_from_slice(&out[..32 + payload as usize])
}

#[test]
fn every_record_comes_back_and_its_body_is_a_slice_of_what_was_read() {
    for record in records() {
        let bytes = encoded(&record);
        let read = read_record(&bytes).expect("it was just written");
        assert_eq!(read, record);
        if let Record::Vote(Vote { body: Some(body), .. }) | Record::Committed(Committed { body: Some(body), .. }) =
            read
            && !body.is_empty()
        {
            assert!(bytes.as_ptr_range().contains(&body.as_ptr()), "no copy");
        }
    }
}

#[test]
fn a_record_cut_or_with_another_header_is_refused() {
    for record in records() {
        let bytes = encoded(&record);
        for end in 0..bytes.len() {
            assert!(read_record(&bytes.slice(..end)).is_err(), "{:?} cut at {end}", record.kind());
        }
        let with = |at: usize, value: u8| {
            let mut changed = bytes.to_vec();
            changed[at] = value;
            read_record(&Bytes::from(changed))
        };
        assert_eq!(with(2, 2), Err(RecordInvalid::Malformed), "an unknown flag");
        assert_eq!(with(0, 99), Err(RecordInvalid::Kind { kind: 99 }));
        assert_eq!(with(0, 3), Err(RecordInvalid::Kind { kind: 3 }), "a PROMISE lies in the superblock");
        if matches!(record, Record::CkptVote { .. } | Record::SnapVote { .. } | Record::Stable(_)) {
            assert_eq!(with(16, 1), Err(RecordInvalid::Malformed), "these have no view");
            assert_eq!(with(2, 1), Err(RecordInvalid::Malformed), "these have no body");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_read_is_refused_or_written_back_the_same(
        which in 0..15usize, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut bytes = encoded(&records()[which]).to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let bytes = Bytes::from(bytes);
        if let Ok(record) = read_record(&bytes) {
            prop_assert_eq!(encoded(&record), bytes);
        }
    }
}

/// Sixteen bytes a line, without those that are all zero.
fn dump(name: &str, bytes: &[u8], out: &mut String) {
    writeln!(out, "{name}, {} bytes", bytes.len()).expect("a string takes everything");
    for (at, line) in bytes.chunks(16).enumerate().filter(|(_, line)| line.iter().any(|byte| *byte != 0)) {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{:05x}  {}", at * 16, hex.join(" ")).expect("a string takes everything");
    }
}

#[test]
fn journal_bytes_are_frozen() {
    let mut shell = Shell::start(Disk::new()).expect("an empty journal");
    shell.append(vote(1, 5));
    shell.append(Record::CkptVote { epoch: Epoch(0), seq: Seq(128), root: Digest([0xab; 32]) });
    shell.submit();
    let mut text = String::new();
    assert_eq!(shell.pending[0].target, Target::Segment { number: 1, offset: 0, is_new: true });
    dump("block 0 and the first group of segment 1", &shell.pending[0].bytes, &mut text);
    let superblock = Superblock {
        instance: 2,
        promised: View(3),
        stable: Some(Checkpoint {
            epoch: Epoch(0),
            seq: Seq(128),
            root: Digest([0xab; 32]),
            epoch_end: Seq(0),
            signatures: signatures(3),
        }),
        snapshot: Some((Seq(64), Digest([0xcd; 32]))),
        collected: Seq(0x55),
        durable_through: LogPosition(2),
        ..first_superblock()
    };
    let mut copy = BlockBuf::with_capacity(0);
    superblock.encode(&mut copy);
    dump("a copy of the superblock", &copy, &mut text);
    let frozen = include_str!("frozen.txt");
    assert!(text == frozen, "the bytes of the journal changed, which takes a new version; they are now:\n{text}");
}
