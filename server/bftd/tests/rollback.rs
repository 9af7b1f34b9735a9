//! Directories that are put back or lost: what the replica finds out when it starts on them, and what it is from then on.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bft_core::ids::{ReplicaId, View};
use bft_core::wire::message::Info;
use bft_server::children::LocalCluster;
use support::{Adders, Observer, PATIENCE, SNAPSHOTS_RARELY, bftd, running_cluster, wait_until};

fn backup(cluster: &LocalCluster) -> ReplicaId {
    let config = cluster.testnet().cluster();
    config.replicas().find(|replica| *replica != config.primary(View(0))).expect("there are four")
}

fn data_dir(cluster: &LocalCluster, replica: ReplicaId) -> PathBuf {
    cluster.testnet().replica_dir(replica).join("data")
}

/// Ends a replica in good order.
fn stop(cluster: &mut LocalCluster, replica: ReplicaId) {
    cluster.child(replica).terminate();
    assert!(cluster.child(replica).wait(PATIENCE).unwrap().success());
    cluster.kill(replica).unwrap();
}

fn start(cluster: &mut LocalCluster, replica: ReplicaId) {
    cluster.start(replica).unwrap();
    cluster.child(replica).wait_ready(PATIENCE).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn number(info: &Info, name: &str) -> u64 {
    info.counter(name).expect("it is told")
}

fn status(cluster: &LocalCluster) -> String {
    let client = cluster.testnet().client_config();
    let status = bftd(&["status", "--config", client.to_str().unwrap()]);
    String::from_utf8(status.stdout).unwrap()
}

/// A cluster that has counted, a backup of it that was stopped after that, one who asks, and how much was added.
fn with_a_stopped_backup(dir: &Path) -> (LocalCluster, ReplicaId, Observer, u64) {
    let mut cluster = running_cluster(dir, SNAPSHOTS_RARELY);
    let replica = backup(&cluster);
    let observer = Observer::new(&cluster);
    let adders = Adders::start(&cluster);
    adders.wait_for_more("the load runs", 200);
    let added = adders.stop_and_compare();
    observer.wait_equal();
    stop(&mut cluster, replica);
    (cluster, replica, observer, added)
}

#[test]
fn d11_a_replica_whose_directory_is_put_back_finds_out_and_never_votes_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, replica, observer, added) = with_a_stopped_backup(dir.path());
    let (data, image) = (data_dir(&cluster, replica), dir.path().join("image"));
    copy(&data, &image);

    start(&mut cluster, replica);
    wait_until("it votes again", || observer.info(replica).is_some_and(|info| number(&info, "asking") == 0));
    let adders = Adders::start_after(&cluster, added);
    adders.wait_for_more("the load runs on", 200);
    let added = adders.stop_and_compare();
    observer.wait_equal();
    cluster.kill(replica).unwrap();
    fs::remove_dir_all(&data).unwrap();
    copy(&image, &data);

    start(&mut cluster, replica);
    wait_until("it finds out", || observer.info(replica).is_some_and(|info| number(&info, "learner") == 2));
    let words = cluster.child(replica).said().unwrap();
    assert!(words.contains("this replica's disk went back in time"), "{words}");
    let told = status(&cluster);
    assert!(told.contains(&format!("replica {replica}: a learner, which never votes again")), "{told}");
    // It follows, and what it learned lasts.
    let adders = Adders::start_after(&cluster, added);
    adders.wait_for_more("the load runs without its vote", 200);
    adders.stop_and_compare();
    observer.wait_equal();
    stop(&mut cluster, replica);
    start(&mut cluster, replica);
    assert_eq!(observer.info(replica).map(|info| number(&info, "learner")), Some(2));
    observer.wait_equal();
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}

#[test]
fn d12_a_lost_directory_starts_as_a_learner_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, replica, observer, _) = with_a_stopped_backup(dir.path());
    let config = cluster.testnet().config(replica);
    let config = config.to_str().unwrap();
    let refused = run(&["--learner", "--config", config]).output().unwrap();
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(78) && why.contains("holds a replica that votes"), "{why}");
    fs::remove_dir_all(data_dir(&cluster, replica)).unwrap();
    let refused = run(&["--config", config]).output().unwrap();
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(78) && why.contains("bftd run --learner"), "{why}");

    let learner = run(&["--learner", "--config", config]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let learner = Ended(learner.unwrap());
    let superblock = data_dir(&cluster, replica).join("superblock");
    wait_until("the directory is made", || superblock.exists());
    drop(learner);
    // From now on its directory says it.
    start(&mut cluster, replica);
    assert_eq!(observer.info(replica).map(|info| number(&info, "learner")), Some(1));
    observer.wait_equal();
    assert!(status(&cluster).contains(&format!("replica {replica}: a learner, which never votes again")));
    let words = cluster.child(replica).said().unwrap();
    assert!(words.contains("this replica's directory was lost"), "{words}");
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}

/// `bftd run` at a port of its own: the cluster holds that of the replica.
fn run(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bftd"));
    command.env("BFTD_LISTEN", "127.0.0.1:0").arg("run").args(arguments);
    command
}

/// A process that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
