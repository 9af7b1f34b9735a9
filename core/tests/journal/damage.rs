//! What was durable is gone or changed: it must be told, and never be cut off like a torn tail.

use std::io;

use bft_core::ids::{LogPosition, Seq};
use bft_core::journal::block::BlockBuf;
use bft_core::journal::group::{Check, GroupHeader, Seal};
use bft_core::journal::{Damage, Evidence, ScanError};
use bytes::Bytes;

use crate::disk::{Disk, Shell, assert_same, first_superblock, vote, vote_with};

/// Four groups over two segments, the second group of several blocks.
fn written() -> Shell {
    let mut shell = Shell::start(Disk::new()).expect("an empty journal");
    for (seq, bytes) in [(1, 20), (2, 44_000), (3, 9_000), (4, 30)] {
        shell.append(vote(seq, bytes));
        shell.settle();
    }
    assert_eq!(shell.disk.files.len(), 2);
    shell
}

fn closed() -> Shell {
    let mut shell = written();
    shell.journal.close();
    shell.settle();
    shell
}

fn damage(result: Result<impl Sized, ScanError<io::Error>>) -> Option<Damage> {
    match result {
        Err(ScanError::Damage(damage)) => Some(damage),
        Ok(_) => None,
        Err(other) => panic!("{other}"),
    }
}

/// Offsets of a file's used part, all where `is_dense`, else a sample.
fn offsets(disk: &Disk, stride: usize) -> Vec<(u32, usize)> {
    let headers = |at: usize| at % 4096 < 160;
    disk.used_bytes().into_iter().filter(|(_, at)| headers(*at) || at % stride == 0).collect()
}

#[test]
fn d4_after_a_clean_stop_every_flipped_bit_is_damage_or_harmless() {
    let shell = closed();
    let mut found_out = 0;
    let mut disk = shell.disk.clone();
    for (file, at) in offsets(&shell.disk, 37) {
        let bit = 1 << (at % 8);
        disk.files.get_mut(&file).expect("it is there")[at] ^= bit;
        match disk.scan() {
            Ok((_, found)) => assert_same(&found, &shell.records, format!("byte {at} of file {file}")),
            Err(error) => found_out += usize::from(damage(Err::<(), _>(error)).is_some()),
        }
        disk.files.get_mut(&file).expect("it is there")[at] ^= bit;
    }
    assert!(found_out > 1_500, "{found_out} flips were damage");
}

#[test]
fn d4_without_a_clean_stop_only_the_last_group_may_be_taken_for_torn() {
    let shell = written();
    let mut disk = shell.disk.clone();
    let (mut torn, mut damaged) = (0, 0);
    for (file, at) in offsets(&shell.disk, 101) {
        disk.files.get_mut(&file).expect("it is there")[at] ^= 0x80;
        match disk.scan() {
            Ok((_, found)) => {
                assert!(shell.records.starts_with(&found) && found.len() >= 3, "byte {at} of file {file}");
                torn += usize::from(found.len() == 3);
            }
            Err(error) => damaged += usize::from(damage(Err::<(), _>(error)).is_some()),
        }
        disk.files.get_mut(&file).expect("it is there")[at] ^= 0x80;
    }
    assert!(torn > 100 && damaged > 500, "{torn} torn, {damaged} damaged");
}

#[test]
fn d4_a_superblock_written_last_guards_the_last_group() {
    let mut shell = written();
    shell.append_superblock(|superblock| superblock.instance += 1);
    shell.settle();
    let mut disk = shell.disk.clone();
    let last = *disk.used_bytes().last().expect("something was written");
    disk.files.get_mut(&last.0).expect("it is there")[last.1] ^= 1;
    let damage = damage(disk.scan()).expect("the last group was durable");
    assert_eq!(damage.evidence, Evidence::Superblock);
    assert_eq!((damage.segment, damage.last_good, damage.durable_through), (Some(2), LogPosition(3), LogPosition(4)));
    let text = damage.to_string();
    for part in ["position 3", "segment 2", "the superblock", "up to 4"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn d4_a_file_cut_at_any_length_is_damage_or_a_torn_tail() {
    let (closed, open) = (closed(), written());
    let len = closed.disk.files[&1].len();
    for end in (0..len).filter(|end| end % 4096 < 3 || end % 509 == 0) {
        // What segment 2 says proves that segment 1 was durable.
        let mut disk = closed.disk.clone();
        disk.files.get_mut(&1).expect("it is there").truncate(end);
        assert!(damage(disk.scan()).is_some(), "file 1 cut at {end}");
        for shell in [&closed, &open] {
            // Proof that lay in the part that is gone is gone: then only peers can tell.
            let mut disk = shell.disk.clone();
            disk.files.get_mut(&2).expect("it is there").truncate(end);
            if let Ok((_, found)) = disk.scan() {
                let all = if end >= 2 * 4096 { 4 } else { 3 };
                assert_same(&found, &shell.records[..all], format!("file 2 cut at {end}"));
            }
        }
    }
    let mut disk = closed.disk.clone();
    disk.files.remove(&1);
    assert!(damage(disk.scan()).is_some(), "file 1 is gone");
}

/// A body that holds, wherever its record lies, a whole group at some block's start, sealed by `seal`, which says that
/// everything was durable.
fn body_with_group(seal: &Seal, segment: u32, body_at: usize) -> Bytes {
    let mut body = BlockBuf::with_capacity(16_384);
    body.put_zeros(4096 - body_at % 4096);
    let at = body.len();
    body.put_zeros(64);
    let header = GroupHeader {
        records: 0,
        bytes: 0,
        segment,
        first_position: LogPosition(1_000_001),
        durable_through: LogPosition(1_000_000),
        prev_check: Check([9; 16]),
    };
    header.seal(seal, &mut body, at);
    body.put_zeros(4096);
    Bytes::copy_from_slice(&body)
}

#[test]
fn d14_an_operation_that_holds_a_whole_group_proves_nothing() {
    // Where the body of a lone VOTE lies in its group: header of the group, header and fixed part of the record.
    let body_at = 64 + 32 + 180;
    let torn_after = |key: [u8; 32]| {
        let mut shell = written();
        let body = body_with_group(&Seal::new(key), 2, body_at);
        shell.append(vote_with(5, body));
        shell.settle();
        let group = shell.disk.files[&2].windows(4).rposition(|word| word == [1, 0, 1, 0]).expect("the VOTE's header");
        shell.disk.files.get_mut(&2).expect("it is there")[group + 40] ^= 1;
        shell.disk.scan().map(|(_, found)| found.len())
    };
    assert_eq!(torn_after([77; 32]).expect("a torn tail"), 4);
    let own = damage(torn_after(first_superblock().directory_key)).expect("with the right key it would be believed");
    assert_eq!(own.durable_through, LogPosition(1_000_000));
}

#[test]
fn d5_misdirected_and_stale_blocks_are_found_out() {
    let shell = closed();
    let block = |file: u32, at: usize| shell.disk.files[&file][at..at + 4096].to_vec();
    // Any block where any other should be: what is read is what was written, or it is damage.
    let places: Vec<(u32, usize)> = [1, 2].iter().flat_map(|file| (0..16).map(|at| (*file, at * 4096))).collect();
    for from in &places {
        for to in &places {
            let mut disk = shell.disk.clone();
            disk.files.get_mut(&to.0).expect("it is there")[to.1..to.1 + 4096].copy_from_slice(&block(from.0, from.1));
            match disk.scan() {
                Ok((_, found)) => assert_same(&found, &shell.records, format!("{from:?} over {to:?}")),
                Err(ScanError::Damage(_) | ScanError::Twice(..)) => {}
                Err(other) => panic!("{from:?} over {to:?}: {other}"),
            }
        }
    }
}

#[test]
fn d5_segments_are_known_by_block_0_and_not_by_their_files() {
    let shell = closed();
    let mut disk = shell.disk.clone();
    let (one, two) = (disk.files.remove(&1).expect("there"), disk.files.remove(&2).expect("there"));
    disk.files.extend([(2, one), (1, two), (3, vec![0; 65_536])]);
    let (tail, found) = disk.scan().expect("no damage");
    assert_same(&found, &shell.records, "");
    assert_eq!((tail.files(), tail.free()), (&[(2, 1), (1, 2)][..], &[3][..]));

    disk.files.insert(9, disk.files[&2].clone());
    let error = disk.scan().expect_err("two files say that they are segment 1");
    assert!(matches!(error, ScanError::Twice(2, 9, 1)), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_and_not_a_torn_tail() {
    let mut disk = closed().disk;
    disk.unreadable = Some(2);
    assert!(matches!(disk.scan(), Err(ScanError::Io(_))));
}

#[test]
fn d20_after_damage_the_journal_starts_anew_above_everything_old() {
    // The first group; the last but one. A crash before the new journal's first group; none.
    for (file, last_good) in [(1, 0), (2, 3)] {
        for crashed in [false, true] {
            let mut disk = closed().disk;
            disk.files.get_mut(&file).expect("it is there")[4096 + 70] ^= 1;
            let damage = damage(disk.scan()).expect("damage");
            assert_eq!(damage.last_good, LogPosition(last_good));

            let mut superblock = disk.start();
            superblock.sequence += 1;
            superblock.damaged_through = Seq(512);
            superblock.journal_start = damage.fresh.last().next();
            disk.superblock = superblock.encode_file().to_vec();
            let mut shell =
                if crashed { start_again(disk) } else { Shell::with(disk, superblock, *damage.fresh, Vec::new()) };
            assert_eq!(shell.superblock.damaged_through, Seq(512), "the silence is not forgotten");
            let first = shell.append(vote(7, 100));
            assert!(first > LogPosition(4));
            shell.append_superblock(|superblock| superblock.instance += 1);
            shell.settle();
            let found = shell.disk.scan().expect("the new journal is whole").1;
            assert_same(&found, &shell.records, file);
        }
    }
}

/// The damage may still show, or lie below the journal's start; what lies below it never comes back.
fn start_again(mut disk: Disk) -> Shell {
    let superblock = disk.start();
    let tail = match disk.scan() {
        Err(ScanError::Damage(damage)) => *damage.fresh,
        Ok((tail, found)) => {
            assert_same(&found, &[], "nothing old");
            tail
        }
        Err(other) => panic!("{other}"),
    };
    Shell::with(disk, superblock, tail, Vec::new())
}
