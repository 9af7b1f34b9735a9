//! `kill -9` of real replicas under load. The clients count what was answered; the counters must hold exactly that.

#[macro_use]
mod support;

use bft_core::ids::{ReplicaId, View};
use bft_server::Io;
use support::{
    Adders, INTERVAL, Observer, PATIENCE, SNAPSHOTS_OFTEN, SNAPSHOTS_RARELY, running_cluster_over, wait_until,
};

over_each_driver!(
    c16_a_killed_backup_loses_and_doubles_nothing_and_votes_again_after_its_restart,
    c16_all_four_killed_at_once_ten_times_keep_every_answered_operation_once,
    v12_primaries_killed_one_after_the_other_lose_and_double_nothing,
);

fn c16_a_killed_backup_loses_and_doubles_nothing_and_votes_again_after_its_restart(io: Io) {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = running_cluster_over(io, dir.path(), SNAPSHOTS_RARELY);
    let primary = cluster.testnet().cluster().primary(View(0));
    let backups: Vec<_> = cluster.testnet().cluster().replicas().filter(|replica| *replica != primary).collect();
    let (killed, other): (ReplicaId, ReplicaId) = (backups[0], backups[1]);
    let observer = Observer::new(&cluster);
    let adders = Adders::start(&cluster);
    adders.wait_for_more("the load runs", 500);

    cluster.kill(killed).unwrap();
    let goal = observer.stable() + 20 * INTERVAL;
    wait_until("twenty checkpoints pass without it", || observer.stable() > goal);

    cluster.start(killed).unwrap();
    cluster.child(killed).wait_ready(PATIENCE).unwrap();
    let words = cluster.child(killed).said().unwrap();
    assert!(words.contains("journal read records=") && !words.contains("records=0 "), "it replayed: {words}");
    let goal = observer.stable();
    wait_until("it catches up under load", || observer.info(killed).is_some_and(|info| info.stable.0 >= goal));

    // Without the other backup nothing commits unless this one votes.
    cluster.kill(other).unwrap();
    adders.wait_for_more("it votes again", 1000);
    cluster.start(other).unwrap();
    cluster.child(other).wait_ready(PATIENCE).unwrap();

    adders.stop_and_compare();
    observer.wait_equal();
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}

fn c16_all_four_killed_at_once_ten_times_keep_every_answered_operation_once(io: Io) {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = running_cluster_over(io, dir.path(), SNAPSHOTS_OFTEN);
    let observer = Observer::new(&cluster);
    let adders = Adders::start(&cluster);
    for round in 0..10 {
        adders.wait_for_more(&format!("the load runs in round {round}"), 300);
        cluster.kill_all().unwrap();
        cluster.start_all(PATIENCE).unwrap();
    }
    adders.wait_for_more("the load runs in the end", 300);
    let acknowledged = adders.stop_and_compare();
    assert!(acknowledged >= 11 * 300);
    observer.wait_equal();
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}

fn v12_primaries_killed_one_after_the_other_lose_and_double_nothing(io: Io) {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = running_cluster_over(io, dir.path(), SNAPSHOTS_RARELY);
    let observer = Observer::new(&cluster);
    let adders = Adders::start(&cluster);
    adders.wait_for_more("the load runs", 500);
    let mut view = View(0);
    for round in 0..4 {
        let primary = cluster.testnet().cluster().primary(view);
        cluster.kill(primary).unwrap();
        adders.wait_for_more(&format!("the service goes on without {primary:?}, killed in round {round}"), 300);
        let others = cluster.testnet().cluster().replicas().filter(|replica| *replica != primary);
        let known = others.filter_map(|replica| observer.info(replica)).map(|info| info.view).max();
        assert!(known.is_some_and(|known| known > view), "another is primary: {known:?} after {view:?}");
        cluster.start(primary).unwrap();
        cluster.child(primary).wait_ready(PATIENCE).unwrap();
        let goal = observer.stable();
        wait_until("it catches up", || observer.info(primary).is_some_and(|info| info.stable.0 >= goal));
        view = known.expect("asked above");
    }
    adders.stop_and_compare();
    observer.wait_equal();
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}
