//! Power failures: every outcome of the writes that were under way.

use crate::disk::{Disk, Shell, vote};

#[test]
fn what_was_written_is_read_again_after_a_clean_stop() {
    let mut shell = Shell::start(Disk::new()).expect("an empty journal");
    for seq in 1..40 {
        shell.append(vote(seq, 100 * seq as usize));
        if seq % 7 == 0 {
            shell.append_superblock(|superblock| superblock.instance += 1);
        }
        if seq % 3 == 0 {
            shell.settle();
        }
    }
    shell.settle();
    assert_eq!(shell.journal.durable(), shell.last);
    shell.journal.close();
    shell.settle();
    assert!(shell.journal.is_idle());
    let (tail, found) = shell.disk.scan().expect("nothing is damaged");
    assert_eq!(found, shell.records);
    assert_eq!(tail.last(), shell.records.last().expect("records were written").0);
    assert!(shell.disk.files.len() > 1, "more than one segment was needed");
}
