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
            // Two that may be torn in every way are 300 outcomes, three would be 5,000.
            let open = 3 - completed.count_ones();
            if open == 1 || (open == 2 && blocks % 2 == 1) {
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

/// A torn tail of which a whole segment is left: the last group of segment 1 is lost, the first of segment 2 is not.
fn with_a_segment_cut_off() -> Disk {
    let mut shell = running(1);
    shell.append(vote(100, 100));
    shell.submit();
    shell.append(vote(101, 100));
    shell.submit();
    shell.crash(&[Fate::Lost, Fate::Whole])
}

#[test]
fn d4_a_start_that_failed_does_not_open_the_way_into_what_was_cut_off() {
    // The journal's start moves to where the segment starts that was cut off, before anything else is written.
    let mut next = Shell::start(with_a_segment_cut_off()).expect("a torn tail");
    let start = LogPosition(next.last.0 + 2);
    next.append_superblock(|superblock| superblock.journal_start = start);
    while !next.journal.is_idle() {
        next.submit();
        for fates in next.crashes() {
            let mut disk = next.crash(&fates);
            let (_, found) = disk.scan().expect("a torn tail");
            let is_moved = disk.start().journal_start == start;
            assert_same(&found, if is_moved { &[] } else { &next.records }, fates);
        }
        next.complete(0);
    }
    let again = Shell::start(next.disk).expect("no damage");
    assert_same(&again.records, &[], "");
    assert!(again.last >= LogPosition(start.0 - 1), "positions below the journal's start are never handed out again");
}

#[test]
fn d4_the_number_of_a_lost_segment_is_not_used_again() {
    // Block 0 is lost, the group behind it is not, and the file has an old name.
    let mut shell = running(0);
    shell.append(vote(100, 100));
    shell.submit();
    let mut disk = shell.crash(&[Fate::Rest(8)]);
    let lost = disk.files.remove(&2).expect("it was made");
    disk.files.insert(0, lost);
    let mut next = Shell::start(disk).expect("a torn tail");
    next.append(vote(100, 100));
    next.settle();
    assert_eq!(Vec::from_iter(next.disk.files.keys().copied()), [1, 3]);
    assert_same(&next.disk.scan().expect("no damage").1, &next.records, "");
}

#[test]
fn d17_a_segment_with_a_write_under_way_is_not_dropped() {
    let mut shell = Shell::start(with_a_segment_cut_off()).expect("a torn tail");
    let first = shell.append(vote(200, 60_000));
    shell.submit();
    assert_eq!(shell.pending.len(), 2, "a mark in segment 3, a record in segment 4");
    assert_eq!(shell.journal.drop_below(first), [1]);
    shell.settle();
    assert_eq!(shell.journal.drop_below(first), [3]);
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
