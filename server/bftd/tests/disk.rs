//! What a replica keeps on its disk under load that does not end: bounded, whatever was written before.

#[macro_use]
mod support;

use std::path::Path;

use bft_core::wire::message::Info;
use bft_server::Io;
use bft_server::children::LocalCluster;
use support::{Adders, INTERVAL, Observer, PATIENCE, program, wait_until};

over_each_driver!(mem1_the_disk_of_a_replica_stays_bounded_however_much_is_written,);

const MIB: u64 = 1 << 20;
/// A journal file.
const SEGMENT: u64 = 3 * MIB;
/// Slots between two snapshots.
const SNAPSHOT_SLOTS: u64 = 16 * INTERVAL;
/// What one slot of this load takes in the journal at most: three groups of records, of which each begins on a block of
/// 4 KiB and one has the body, no more than what all clients have under way.
const SLOT: u64 = 3 * 4096 + 12 * 1024;
/// The journal reaches back to the older of two snapshots while the next one is taken and agreed on; then files that
/// were freed wait to be written again.
const BOUND: u64 = 3 * SNAPSHOT_SLOTS * SLOT + 4 * SEGMENT;

fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        // Removed meanwhile.
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

fn written(info: &Info) -> u64 {
    info.counter("journal_bytes").expect("it is counted")
}

fn mem1_the_disk_of_a_replica_stays_bounded_however_much_is_written(io: Io) {
    let dir = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::create(&dir.path().join("net"), 4, program(), |options| {
        options.io = io;
        options.journal.segment_bytes = SEGMENT as u32;
        options.params.checkpoint_interval = INTERVAL;
        options.params.window = 2 * INTERVAL;
        options.params.pipeline_max = INTERVAL;
        options.params.snapshot_slots = SNAPSHOT_SLOTS;
    });
    let mut cluster = cluster.unwrap();
    cluster.start_all(PATIENCE).unwrap();
    let observer = Observer::new(&cluster);
    let adders = Adders::start(&cluster);
    let folders: Vec<_> =
        cluster.testnet().cluster().replicas().map(|replica| cluster.testnet().replica_dir(replica)).collect();
    let mut most = 0;
    wait_until("each replica has written more than it may keep", || {
        most = folders.iter().map(|folder| bytes_below(folder)).max().unwrap().max(most);
        assert!(most <= BOUND, "{most} bytes lie in a replica's folder; {BOUND} may");
        let infos: Vec<_> = observer.infos(false).into_iter().flatten().collect();
        infos.len() == folders.len() && infos.iter().all(|info| written(info) >= BOUND + BOUND / 4)
    });
    adders.stop_and_compare();
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}
