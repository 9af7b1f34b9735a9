//! The superblock's four copies under power failures and bit rot.

use bft_core::ids::{Digest, Epoch, LogPosition, ReplicaId, Seq, Signature, View};
use bft_core::journal::{BLOCK_BYTES, Superblock, SuperblockDamage, read_superblock};
use bft_core::limits::REPLICAS_MAX;
use bft_core::wire::message::Checkpoint;

use crate::disk::{Disk, Fate, Pending, Shell, first_superblock};

/// One that fills several sectors, so that a torn copy mixes old and new.
fn full(instance: u64) -> Superblock {
    let signatures =
        (0..REPLICAS_MAX).map(|replica| (ReplicaId(replica as u16), Signature([instance as u8 + 1; 64]))).collect();
    let (epoch, seq, root, epoch_end) = (Epoch(0), Seq(instance * 128), Digest([instance as u8; 32]), Seq(0));
    Superblock {
        instance,
        promised: View(instance * 3),
        stable: Some(Checkpoint { epoch, seq, root, epoch_end, signatures }),
        snapshot: Some((Seq(instance), Digest([9; 32]))),
        damaged_through: Seq(instance + 5),
        durable_through: LogPosition(instance + 6),
        collected: Seq(instance + 7),
        journal_start: LogPosition(1),
        ..first_superblock()
    }
}

fn writing(disk: Disk, instance: u64) -> Shell {
    let mut shell = Shell::start(disk).expect("an empty journal");
    let next = full(instance);
    shell.append_superblock(|superblock| *superblock = Superblock { journal_start: superblock.journal_start, ..next });
    shell.submit();
    shell
}

#[test]
fn a_superblock_reads_back_as_it_was_written() {
    let largest = full(4);
    let file = largest.encode_file();
    let (read, repair) = read_superblock(&file).expect("whole");
    assert_eq!(read, largest);
    assert!(repair.copies.is_empty());
    assert_eq!(Superblock::decode(&file[..BLOCK_BYTES]), Ok(largest));
}

#[test]
fn d21_a_crash_inside_each_pair_twice_in_a_row() {
    let mut base = Shell::start(Disk::new()).expect("an empty journal");
    base.append_superblock(|superblock| *superblock = full(1));
    base.settle();
    let mut outcomes = 0;
    for first_pairs in [0, 1] {
        let mut shell = writing(base.disk.clone(), 2);
        (0..first_pairs).for_each(|_| {
            shell.complete(0);
            shell.submit();
        });
        for fates in shell.crashes() {
            let mut disk = shell.crash(&fates);
            let survivor = disk.start();
            assert!(survivor.instance == 2 || (survivor.instance == 1 && first_pairs == 0), "{fates:?}");
            assert_eq!(survivor.stable, full(survivor.instance).stable, "one of the two, whole");
            for second_pairs in [0, 1] {
                let mut shell = writing(disk.clone(), 3);
                (0..second_pairs).for_each(|_| {
                    shell.complete(0);
                    shell.submit();
                });
                for again in shell.crashes() {
                    let last = shell.crash(&again).start();
                    let is_old = last.instance == survivor.instance && second_pairs == 0;
                    assert!(last.instance == 3 || is_old, "{fates:?}, {again:?}");
                    assert_eq!(last.stable, full(last.instance).stable);
                    outcomes += 1;
                }
            }
        }
    }
    assert!(outcomes > 4_000, "{outcomes} outcomes");
}

#[test]
fn d21_a_crash_during_the_repair_loses_nothing() {
    let mut base = Shell::start(Disk::new()).expect("an empty journal");
    base.append_superblock(|superblock| *superblock = full(1));
    base.settle();
    let shell = writing(base.disk, 2);
    for fates in shell.crashes() {
        let disk = shell.crash(&fates);
        let (chosen, repair) = read_superblock(&disk.superblock).expect("two copies are equal");
        assert!(repair.copies.len() <= 2, "the chosen ones are never touched");
        for fate in Fate::all(BLOCK_BYTES) {
            let mut torn = disk.clone();
            for copy in &repair.copies {
                let mut file = vec![0; BLOCK_BYTES];
                let at = *copy as usize * BLOCK_BYTES;
                file.copy_from_slice(&torn.superblock[at..at + BLOCK_BYTES]);
                tear(&mut file, &repair.block, fate);
                torn.superblock[at..at + BLOCK_BYTES].copy_from_slice(&file);
            }
            assert_eq!(
                read_superblock(&torn.superblock).expect("two copies are equal").0,
                chosen,
                "{fates:?}, {fate:?}"
            );
        }
    }
}

fn tear(file: &mut [u8], block: &[u8], fate: Fate) {
    let mut disk = Disk { superblock: file.to_vec(), ..Disk::default() };
    let target = bft_core::journal::Target::Superblock { copies: [0, 1] };
    disk.apply(&Pending { ticket: bft_core::journal::Ticket(0), target, bytes: block.to_vec() }, fate);
    file.copy_from_slice(&disk.superblock);
}

#[test]
fn d9_two_rotten_copies_do_no_harm_and_three_are_told() {
    let file = full(3).encode_file();
    for at in (0..BLOCK_BYTES).step_by(13) {
        let mut rotten = file.to_vec();
        rotten[at] ^= 4;
        rotten[2 * BLOCK_BYTES + at] ^= 8;
        let (read, repair) = read_superblock(&rotten).expect("two are left");
        assert_eq!((read, &repair.copies[..]), (full(3), &[0, 2][..]), "byte {at}");
        rotten[BLOCK_BYTES + at] ^= 2;
        let error = read_superblock(&rotten).expect_err("one is left");
        let expected = matches!(error, SuperblockDamage::NoTwoEqual { whole: 1 } | SuperblockDamage::Version { .. });
        assert!(expected, "byte {at}: {error}");
    }
    let twins = [[0; BLOCK_BYTES]; 4].concat();
    assert_eq!(read_superblock(&twins).err(), Some(SuperblockDamage::NoTwoEqual { whole: 0 }), "equal, but empty");
    assert!(matches!(read_superblock(&file[1..]), Err(SuperblockDamage::Length { .. })));
}

#[test]
fn d21_superblocks_that_wait_are_merged_and_wait_for_the_journal_before_them() {
    let mut shell = Shell::start(Disk::new()).expect("an empty journal");
    let first = shell.append_superblock(|superblock| superblock.instance = 1);
    shell.submit();
    assert_eq!(shell.pending.len(), 1, "copies 0 and 1");
    let record = shell.append(crate::disk::vote(1, 10));
    let merged = [2, 3].map(|instance| shell.append_superblock(|superblock| superblock.instance = instance));
    shell.submit();
    assert_eq!(shell.pending.len(), 2, "the journal does not wait for the superblock");
    shell.complete(0);
    assert_eq!(shell.journal.durable(), LogPosition(0), "the second pair is missing");
    shell.submit();
    shell.complete(1);
    assert_eq!(shell.journal.durable(), first);
    shell.submit();
    assert_eq!(shell.pending.len(), 1, "the next superblock waits for the record before it");
    shell.complete(0);
    assert_eq!(shell.journal.durable(), record);
    shell.submit();
    shell.complete(0);
    shell.submit();
    shell.complete(0);
    assert_eq!(shell.journal.durable(), merged[1], "one write for both");
    shell.submit();
    assert!(shell.pending.is_empty() && shell.journal.is_idle());
    let superblock = shell.disk.start();
    assert_eq!((superblock.instance, superblock.sequence, superblock.durable_through), (3, 3, record));
}

#[test]
fn d14_the_directory_key_is_in_no_log() {
    let superblock = first_superblock();
    let key = superblock.directory_key;
    let shown = format!("{superblock:?} {superblock:#?}");
    assert!(shown.contains("directory_key: (hidden)") && shown.contains("sequence: 1"), "{shown}");
    assert!(!shown.contains(&format!("{key:?}")), "{shown}");
    assert!(shown.contains(&format!("{:?}", superblock.directory_id)), "what is no secret is there");
}
