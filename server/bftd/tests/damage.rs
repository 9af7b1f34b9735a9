//! Damage to the files of a replica that does not run: what the next start says, and what becomes of the replica.

#[macro_use]
mod support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bft_core::ids::{ReplicaId, View};
use bft_core::wire::message::Info;
use bft_server::Io;
use bft_server::children::LocalCluster;
use support::{Adders, Observer, PATIENCE, SNAPSHOTS_RARELY, bftd, running_cluster, running_cluster_over, wait_until};

over_each_driver!(d7_a_backup_with_a_damaged_journal_learns_and_votes_again, d4_a_torn_tail_is_no_damage,);

const BLOCK: usize = 4096;

/// A backup, and another one.
fn backups(cluster: &LocalCluster) -> (ReplicaId, ReplicaId) {
    let config = cluster.testnet().cluster();
    let primary = config.primary(View(0));
    let backups: Vec<_> = config.replicas().filter(|replica| *replica != primary).collect();
    (backups[0], backups[1])
}

/// Ends a replica in good order.
fn stop(cluster: &mut LocalCluster, replica: ReplicaId) {
    cluster.child(replica).terminate();
    assert!(cluster.child(replica).wait(PATIENCE).unwrap().success());
    cluster.kill(replica).unwrap();
}

fn start(cluster: &mut LocalCluster, replica: ReplicaId) -> String {
    cluster.start(replica).unwrap();
    cluster.child(replica).wait_ready(PATIENCE).unwrap();
    cluster.child(replica).said().unwrap()
}

fn data_dir(cluster: &LocalCluster, replica: ReplicaId) -> PathBuf {
    cluster.testnet().replica_dir(replica).join("data")
}

/// The journal's files that hold a segment, with their bytes.
fn segments(data_dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(data_dir.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.retain(|(_, bytes)| bytes[0] != 0);
    files.sort();
    files
}

fn overwrite(path: &Path, offset: usize, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset as u64).unwrap();
}

/// A byte in the middle of the first group's records becomes another.
fn damage_first_group(data_dir: &Path) {
    let (path, bytes) = segments(data_dir).swap_remove(0);
    let at = BLOCK + 100;
    overwrite(&path, at, &[bytes[at] ^ 0x10]);
}

fn silent_through(info: &Info) -> u64 {
    info.counter("silent_through").expect("it is told")
}

fn d7_a_backup_with_a_damaged_journal_learns_and_votes_again(io: Io) {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = running_cluster_over(io, dir.path(), SNAPSHOTS_RARELY);
    let (damaged, other) = backups(&cluster);
    let observer = Observer::new(&cluster);
    let adders = Adders::start(&cluster);
    adders.wait_for_more("the load runs", 500);
    let added = adders.stop_and_compare();
    observer.wait_equal();
    stop(&mut cluster, damaged);
    damage_first_group(&data_dir(&cluster, damaged));

    let words = start(&mut cluster, damaged);
    assert!(words.contains("the journal is damaged") && words.contains("silent_through="), "{words}");
    assert!(words.contains("its last good group ends at position 0"), "{words}");
    // It has nothing left but its superblock, and learns everything anew.
    observer.wait_equal();
    let info = observer.info(damaged).expect("it answers");
    assert!(silent_through(&info) > info.stable.0, "nothing was ordered since: it may not vote yet");
    let client = cluster.testnet().client_config();
    let status = bftd(&["status", "--config", client.to_str().unwrap()]);
    let told = String::from_utf8(status.stdout).unwrap();
    assert!(told.contains(&format!("replica {damaged}: its journal was damaged")), "{told}");

    // Killed and started again it has not forgotten that.
    cluster.kill(damaged).unwrap();
    let words = start(&mut cluster, damaged);
    assert!(words.contains("this replica follows, and does not vote"), "{words}");
    observer.wait_equal();

    let adders = Adders::start_after(&cluster, added);
    adders.wait_for_more("the load runs again", 500);
    wait_until("it may vote", || observer.info(damaged).is_some_and(|info| silent_through(&info) == 0));
    assert!(cluster.child(damaged).said().unwrap().contains("this replica votes again"));
    // Without the other backup nothing commits unless this one votes.
    cluster.kill(other).unwrap();
    adders.wait_for_more("it votes again", 500);
    start(&mut cluster, other);
    adders.stop_and_compare();
    observer.wait_equal();
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}

fn d4_a_torn_tail_is_no_damage(io: Io) {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = running_cluster_over(io, dir.path(), SNAPSHOTS_RARELY);
    let (torn, _) = backups(&cluster);
    let observer = Observer::new(&cluster);
    let adders = Adders::start(&cluster);
    adders.wait_for_more("the load runs", 300);
    adders.stop_and_compare();
    observer.wait_equal();
    stop(&mut cluster, torn);
    // The last group is the mark of the clean stop: nothing rests on it.
    let (path, bytes) = segments(&data_dir(&cluster, torn)).pop().expect("a journal");
    let last = bytes.chunks(BLOCK).rposition(|block| block.iter().any(|byte| *byte != 0)).expect("it was written");
    overwrite(&path, last * BLOCK, &[0; BLOCK]);

    let words = start(&mut cluster, torn);
    let since = words.rsplit("journal read records=").next().expect("split gives one at least");
    assert!(!words.contains("the journal is damaged") && !since.starts_with("0 "), "{words}");
    observer.wait_equal();
    assert_eq!(observer.info(torn).map(|info| silent_through(&info)), Some(0));
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}

#[test]
fn d9_a_damaged_superblock_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = running_cluster(dir.path(), SNAPSHOTS_RARELY);
    let (damaged, _) = backups(&cluster);
    stop(&mut cluster, damaged);
    let path = data_dir(&cluster, damaged).join("superblock");
    for copy in 0..3 {
        let at = copy * BLOCK + 200;
        overwrite(&path, at, &[fs::read(&path).unwrap()[at] ^ 1]);
    }
    let before = fs::read(&path).unwrap();
    cluster.start(damaged).unwrap();
    let why = cluster.child(damaged).wait_ready(PATIENCE).unwrap_err().to_string();
    assert!(why.contains("exit status: 1") && why.contains("replaced under a new key"), "{why}");
    assert!(fs::read(&path).unwrap() == before, "nothing is written to it");
}

#[test]
fn d12_a_lost_disk_is_refused_under_the_old_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = running_cluster(dir.path(), SNAPSHOTS_RARELY);
    let (lost, _) = backups(&cluster);
    stop(&mut cluster, lost);
    let data = data_dir(&cluster, lost);
    fs::rename(&data, dir.path().join("lost")).unwrap();
    fs::create_dir(&data).unwrap();
    cluster.start(lost).unwrap();
    let why = cluster.child(lost).wait_ready(PATIENCE).unwrap_err().to_string();
    assert!(why.contains("exit status: 78") && why.contains("it would break what it promised"), "{why}");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "nothing is made there");
}
