//! What goes out when, what counts as durable, and where records are found again.

use std::sync::Arc;

use bft_core::config::ProtocolParams;
use bft_core::door::{Persist, Place};
use bft_core::evidence::{Evidence, ForgedRequest, Proof};
use bft_core::ids::{ClusterId, Digest, Epoch, LogPosition, ReplicaId, Seq, Signature, View};
use bft_core::journal::record::Committed;
use bft_core::journal::{
    BLOCK_BYTES, Journal, JournalOptions, LongContent, LongestRecord, Record, Target, read_record, scan,
};
use bft_core::limits::evidence_share_bytes;
use bft_core::wire::message::{Ballot, BatchHeader, CommitCertificate};
use bytes::Bytes;

use crate::disk::{Disk, OPTIONS, Shell, assert_same, committed, first_superblock, vote};

#[test]
fn d3_only_the_unbroken_prefix_is_durable_whatever_completes_first() {
    let mut shell = Shell::start(Disk::new()).expect("an empty journal");
    let ends: Vec<LogPosition> = (1..=4)
        .map(|seq| {
            let end = shell.append(vote(seq, 10));
            shell.submit();
            end
        })
        .collect();
    shell.append(vote(5, 10));
    shell.submit();
    assert_eq!(shell.pending.len(), OPTIONS.flushes_in_flight, "the fifth waits");
    shell.complete(3);
    shell.complete(1);
    assert_eq!(shell.journal.durable(), LogPosition(0));
    shell.complete(0);
    assert_eq!(shell.journal.durable(), ends[1]);
    shell.complete(0);
    assert_eq!(shell.journal.durable(), ends[3]);
    shell.settle();
    assert_eq!(shell.journal.durable(), shell.last);
}

#[test]
fn what_waits_becomes_one_group_up_to_its_bound() {
    let mut shell = Shell::start(Disk::new()).expect("an empty journal");
    for seq in 0..30 {
        shell.append(vote(seq, 1000));
    }
    shell.submit();
    let blocks: Vec<usize> = shell.pending.iter().map(|write| write.bytes.len() / 4096).collect();
    assert_eq!(blocks, [4, 3, 3], "block 0 and nine records; nine; nine; the rest");
    let mut shell = Shell::start(Disk::new()).expect("an empty journal");
    shell.append(vote(1, 10));
    shell.append(vote(2, 50_000));
    shell.append(vote(3, 10));
    shell.submit();
    assert_eq!(shell.pending.len(), 3, "a record beyond the bound goes alone");
    shell.settle();
    assert_same(&shell.disk.scan().expect("no damage").1, &shell.records, "");
}

#[test]
fn a_group_of_several_is_never_longer_than_a_segment() {
    let (tail, _) = Disk::new().scan().expect("an empty journal");
    let options = JournalOptions { group_bytes_max: 4 * OPTIONS.segment_bytes, ..OPTIONS };
    let mut journal = Journal::new(&first_superblock(), tail, options);
    for seq in 1..=10 {
        journal.append(Persist { position: LogPosition(seq), place: Place::Journal(vote(seq, 10_000)) });
    }
    let writes: Vec<_> = std::iter::from_fn(|| journal.next_write()).collect();
    assert_eq!(writes.len(), 2, "six of them fit the first segment");
    assert!(writes.iter().all(|write| write.bytes.len() <= OPTIONS.segment_bytes as usize));
}

/// A commit certificate of all replicas, with a body of so many bytes.
fn committed_by_all(seq: u64, replicas: u16, bytes: usize) -> Record {
    let Record::Committed(Committed { certificate, .. }) = committed(seq, None) else { unreachable!("it is one") };
    let ballot = certificate.proposal;
    let commits = (0..replicas).map(|id| (ReplicaId(id), ballot, Digest([5; 32]))).collect();
    let certificate = CommitCertificate { opening: Some(Digest([6; 32])), commits, ..(*certificate).clone() };
    Record::Committed(Committed { certificate: Arc::new(certificate), body: Some(vec![7; bytes].into()) })
}

/// A piece of evidence of exactly so many bytes.
fn evidence(bytes: usize) -> Record {
    let of = |request: Vec<u8>| {
        let ballot = Ballot { commitment: Digest([1; 32]), signature: Signature([2; 64]) };
        let forged = ForgedRequest {
            view: View(1),
            seq: Seq(3),
            ballot,
            header: BatchHeader::NULL,
            index: 0,
            path: Vec::new(),
            request: request.into(),
        };
        Evidence { cluster: ClusterId([1; 32]), epoch: Epoch(0), proof: Proof::ForgedRequest(Box::new(forged)) }
    };
    let without = of(Vec::new()).encode().len();
    Record::Evidence(Arc::new(of(vec![4; bytes - without])))
}

#[test]
fn the_longest_records_of_a_cluster_fit_the_least_segment() {
    let small = ProtocolParams { batch_bytes_max: 64 << 10, ..ProtocolParams::default() };
    let large = ProtocolParams { batch_bytes_max: 8 << 20, ..ProtocolParams::default() };
    for (replicas, params, content) in [
        (4, small.clone(), LongContent::Evidence),
        (4, ProtocolParams::default(), LongContent::Evidence),
        (4, large.clone(), LongContent::Batch),
        (31, large, LongContent::NewView),
        (31, ProtocolParams { window: 2, ..small }, LongContent::NewView),
    ] {
        let longest = LongestRecord::of(replicas, &params);
        assert_eq!(longest.content, content, "of {replicas}");
        let batch = committed_by_all(1, replicas as u16, params.batch_bytes_max as usize);
        let evidence = evidence(evidence_share_bytes(replicas));
        let lengths = [batch.encoded_len(), evidence.encoded_len()];
        assert!(lengths.iter().all(|len| *len <= longest.bytes), "{lengths:?} of at most {}", longest.bytes);
        assert!(content == LongContent::NewView || lengths.contains(&longest.bytes), "no more than is needed");

        let segment_bytes = JournalOptions::segment_bytes_least(longest);
        let options = JournalOptions { segment_bytes, ..JournalOptions::default() };
        assert_eq!(options.check(longest), Ok(()));
        let short = JournalOptions { segment_bytes: segment_bytes - BLOCK_BYTES as u32, ..options };
        assert_eq!(short.check(longest).unwrap_err().least, segment_bytes);
        let (tail, _) = Disk::new().scan().expect("an empty journal");
        let mut journal = Journal::new(&first_superblock(), tail, options);
        for (position, record) in (1..).map(LogPosition).zip([batch, evidence]) {
            journal.append(Persist { position, place: Place::Journal(record) });
            journal.hurry();
            let write = journal.next_write().expect("somebody waits for it");
            assert!(write.bytes.len() <= segment_bytes as usize, "of {replicas}");
        }
    }
}

#[test]
fn a_commit_certificate_has_no_flush_of_its_own() {
    let mut shell = Shell::start(Disk::new()).expect("an empty journal");
    shell.append(committed(1, None));
    shell.submit();
    assert!(shell.pending.is_empty() && !shell.journal.is_idle(), "nobody waits for it");
    let both = shell.append(vote(2, 10));
    shell.submit();
    assert_eq!(shell.pending.len(), 1, "it rides with the next that somebody waits for");
    shell.complete(0);
    assert_eq!(shell.journal.durable(), both);

    shell.append(committed(2, None));
    shell.submit();
    assert!(shell.pending.is_empty());
    shell.journal.hurry();
    shell.append(committed(3, None));
    shell.submit();
    assert_eq!(shell.pending.len(), 1, "what has waited for long goes alone, and takes the others along");
    shell.complete(0);
    assert_eq!(shell.journal.durable(), shell.last);

    shell.append(committed(4, None));
    shell.append_superblock(|superblock| superblock.instance += 1);
    shell.submit();
    assert!(matches!(shell.pending[..], [ref one] if matches!(one.target, Target::Segment { .. })));
    shell.settle();
    shell.append(committed(5, None));
    shell.journal.close();
    shell.settle();
    assert!(shell.journal.is_idle());
    assert_same(&shell.disk.scan().expect("no damage").1, &shell.records, "");
}

#[test]
fn mem1_commit_certificates_wait_in_bounded_number_and_size() {
    for (most, body) in [(64, None), (5, Some(Bytes::from(vec![7; 60 << 10])))] {
        let tail = scan::<()>(&first_superblock(), &mut Disk::new(), &mut |_, _| Ok(())).expect("an empty journal");
        let mut journal = Journal::new(&first_superblock(), tail, JournalOptions::default());
        let mut append = |seq| {
            let place = Place::Journal(committed(seq, body.clone()));
            journal.append(Persist { position: LogPosition(seq), place });
            journal.next_write().map(|write| journal.written(write.ticket))
        };
        let written_at: Vec<u64> = (1..=2 * most).filter(|seq| append(*seq).is_some()).collect();
        assert_eq!(written_at, [most, 2 * most]);
        assert_eq!(journal.durable(), LogPosition(2 * most));
    }
}

#[test]
fn a_record_of_nine_mebibytes_goes_with_the_options_of_production() {
    let mut journal = {
        let tail = scan::<()>(&first_superblock(), &mut Disk::new(), &mut |_, _| Ok(())).expect("an empty journal");
        Journal::new(&first_superblock(), tail, JournalOptions::default())
    };
    journal.append(Persist { position: LogPosition(1), place: Place::Journal(vote(1, 9 << 20)) });
    let write = journal.next_write().expect("it goes");
    assert_eq!(write.target, Target::Segment { number: 1, offset: 0, is_new: true });
    assert!(write.bytes.len() > 9 << 20);
    journal.written(write.ticket);
    assert_eq!(journal.durable(), LogPosition(1));
}

#[test]
fn records_are_found_again_by_their_position_until_they_are_dropped() {
    let mut shell = Shell::start(Disk::new()).expect("an empty journal");
    for seq in 1..=60 {
        shell.append(vote(seq, 3000));
        if seq % 5 == 0 {
            shell.append_superblock(|superblock| superblock.instance += 1);
        }
        if seq % 2 == 0 {
            shell.settle();
        }
    }
    shell.settle();
    check_located(&shell);
    let not_yet = shell.append(vote(61, 10));
    assert_eq!(shell.journal.locate(not_yet), None);
    shell.submit();
    assert_eq!(shell.journal.locate(not_yet), None, "under way");
    shell.settle();
    check_located(&shell);

    let cut = shell.records[40].0;
    let segments = shell.disk.files.len();
    shell.append_superblock(|superblock| superblock.journal_start = cut);
    shell.settle();
    let dropped = shell.drop_below(cut);
    assert!(dropped >= 2 && dropped < segments);
    assert_eq!(shell.drop_below(cut), 0);
    assert_eq!(shell.journal.locate(LogPosition(1)), None);
    assert!(shell.journal.locate(cut).is_some());

    let again = Shell::start(shell.disk.clone()).expect("no damage");
    assert_same(&again.records, &shell.records[40..], "");
    check_located(&again);
}

/// Every record that the shell knows lies where the journal says.
fn check_located(shell: &Shell) {
    for (at, record) in &shell.records {
        let extent = shell.journal.locate(*at).unwrap_or_else(|| panic!("record {at} is lost"));
        let file = &shell.disk.files[&extent.segment];
        let bytes = Bytes::copy_from_slice(&file[extent.offset as usize..][..extent.len as usize]);
        assert_eq!(read_record(&bytes).as_ref(), Ok(record));
        let (start, len) = extent.blocks();
        assert!(start % 4096 == 0 && len % 4096 == 0);
        assert!(start <= extent.offset && extent.offset + extent.len <= start + len);
    }
}

#[test]
fn a_clean_stop_is_marked_once_and_waits_for_everything() {
    let mut shell = Shell::start(Disk::new()).expect("an empty journal");
    shell.journal.close();
    assert!(shell.journal.is_idle(), "there is nothing to mark");
    shell.append(vote(1, 10));
    shell.append_superblock(|superblock| superblock.instance = 1);
    shell.submit();
    assert_eq!(shell.pending.len(), 1);
    shell.complete(0);
    shell.submit();
    assert!(matches!(shell.pending[..], [ref one] if matches!(one.target, Target::Superblock { copies: [0, 1] })));
    shell.settle();
    assert!(shell.journal.is_idle());
    let before = shell.disk.files.clone();

    let mut again = Shell::start(shell.disk).expect("no damage");
    again.journal.close();
    again.settle();
    assert_eq!(again.disk.files, before, "a stop after a stop writes nothing");
    again.append(vote(2, 10));
    again.settle();
    assert_same(&again.disk.scan().expect("no damage").1, &again.records, "");
    assert_eq!(again.disk.files.len(), 1, "it goes on in the same segment");
}

#[test]
#[should_panic(expected = "positions are consecutive")]
fn a_position_left_out_is_refused() {
    let shell = Shell::start(Disk::new()).expect("an empty journal");
    let mut journal = shell.journal;
    journal.append(Persist { position: LogPosition(2), place: Place::Journal(vote(1, 1)) });
}
