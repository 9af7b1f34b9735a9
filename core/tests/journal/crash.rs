//! Power failures: every outcome of the writes that were under way, in small scenes.

use bft_core::ids::LogPosition;

use crate::disk::{Disk, Fate, Shell, assert_same, vote};

/// A shell with some durable groups, of which the last leaves `blocks` blocks in its segment.
fn running(blocks: usize) -> Shell {
    let mut shell = Shell::start(Disk::new()).expect("an empty journal");
    for seq in 1..=(15 - blocks as u64) {
        shell.append(vote(seq, 100));
        shell.settle();
    }
    shell
}

/// Recovers from every outcome of the writes under way, goes on, and recovers again.
fn crash_in_every_way(shell: &Shell) -> usize {
    let crashes = shell.crashes();
    for fates in &crashes {
        let mut next = Shell::start(shell.crash(fates)).unwrap_or_else(|error| panic!("{fates:?}: {error}"));
        shell.check_recovered(&next.records);
        next.append(vote(200, 50));
        next.settle();
        next.append(vote(201, 50));
        next.settle();
        let (_, found) = next.disk.scan().unwrap_or_else(|error| panic!("{fates:?}: {error}"));
        assert_same(&found, &next.records, fates);
    }
    crashes.len()
}

#[test]
fn d4_every_outcome_of_groups_in_flight_in_every_order() {
    let mut outcomes = 0;
    // Room for all three groups; the segment ends before the third, before the second, before the first.
    for blocks in [3, 2, 1, 0] {
        for completed in 0..8u32 {
            let mut shell = running(blocks);
            for seq in 100..103 {
                shell.append(vote(seq, 100));
                shell.submit();
            }
            assert_eq!(shell.pending.len(), 3, "three groups of their own");
            for at in (0..3).rev().filter(|at| completed & 1 << at != 0) {
                shell.complete(at);
            }
            if completed == 0b110 || completed == 0b101 {
                outcomes += crash_in_every_way(&shell);
            } else if completed.count_ones() == 1 && blocks % 2 == 1 {
                outcomes += crash_in_every_way(&shell);
            }
        }
    }
    assert!(outcomes > 2_000, "{outcomes} outcomes");
}

#[test]
fn d4_a_first_group_that_is_torn_in_any_way_is_no_damage() {
    let mut shell = Shell::start(Disk::new()).expect("an empty journal");
    shell.append(vote(1, 5000));
    shell.submit();
    assert!(crash_in_every_way(&shell) > 30);
}

#[test]
fn d4_what_was_cut_off_never_comes_back() {
    // The second group in flight survives the first; then the very record of the first is written again, so the
    // survivor would fit behind it, check and all.
    let mut shell = running(10);
    shell.append(vote(100, 100));
    shell.submit();
    shell.append(vote(101, 100));
    shell.submit();
    let disk = shell.crash(&[Fate::Lost, Fate::Whole]);

    let mut next = Shell::start(disk).expect("a torn tail");
    assert_eq!(next.records.len(), 5, "the survivor is cut off with the lost one");
    next.append(vote(100, 100));
    next.settle();
    let (_, found) = next.disk.scan().expect("no damage");
    assert_same(&found, &next.records, "");
}

#[test]
fn d4_a_start_that_failed_does_not_open_the_way_into_what_was_cut_off() {
    // A segment was cut off; the journal's start moves beyond it before anything else is written.
    let mut shell = running(1);
    shell.append(vote(100, 100));
    shell.submit();
    shell.append(vote(101, 100));
    shell.submit();
    let disk = shell.crash(&[Fate::Lost, Fate::Whole]);
    let mut next = Shell::start(disk).expect("a torn tail");
    let last = next.last;
    next.append_superblock(|superblock| superblock.journal_start = LogPosition(last.0 + 3));
    next.submit();
    for fates in next.crashes() {
        let (_, found) = next.crash(&fates).scan().expect("a torn tail");
        assert!(next.records.starts_with(&found), "{fates:?}");
    }
    next.settle();
    let again = Shell::start(next.disk).expect("no damage");
    assert_same(&again.records, &[], "");
    assert!(again.last >= LogPosition(last.0 + 2), "positions below the journal's start are never handed out again");
}

#[test]
fn d18_a_stop_right_after_a_superblock_is_no_damage() {
    let mut shell = running(10);
    shell.append_superblock(|superblock| superblock.instance += 1);
    shell.append_superblock(|superblock| superblock.instance += 1);
    shell.settle();
    let (tail, found) = shell.disk.scan().expect("no damage");
    assert_same(&found, &shell.records, "");
    assert_eq!(shell.disk.start().durable_through, shell.records.last().expect("there are some").0);
    assert!(tail.last() < shell.last);
}

#[test]
fn d18_a_torn_group_before_a_superblock_and_a_whole_one_behind_it() {
    let mut shell = running(10);
    shell.append(vote(100, 100));
    shell.append_superblock(|superblock| superblock.instance += 1);
    shell.append(vote(101, 100));
    shell.submit();
    assert_eq!(shell.pending.len(), 2, "two groups; the superblock waits for the first");
    assert!(crash_in_every_way(&shell) > 200);
}
