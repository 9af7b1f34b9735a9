//! Whole replicas over real sockets and a real disk, by each driver.

#[macro_use]
mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bft_core::client::Outcome;
use bft_core::config::ProtocolParams;
use bft_core::ids::{Seq, View};
use bft_core::service::Service;
use bft_core::wire::message::Info;
use bft_server::data_dir::DataDirError;
use bft_server::io::Driver;
use bft_server::{Io, Pin, ServerError};
use bft_services::kv::{Kv, Operation, Reply};
use support::{Cluster, PATIENCE};

over_each_driver!(
    c16_four_replicas_count_every_operation_once,
    d22_a_cluster_that_stopped_goes_on_where_it_was,
    c16_two_cores_count_every_operation_once,
    service_and_snapshots_run_on_all_cores_beside_pinned_executors,
    pf7_a_backup_that_was_away_catches_up,
    d4_a_damaged_snapshot_is_fetched_from_the_others,
    d4_a_damaged_journal_is_set_aside_and_owned_up_to,
    mem2_strangers_do_not_stop_the_service,
);

fn kv() -> Box<dyn Service> {
    Box::new(Kv::new())
}

fn add(key: &[u8]) -> Vec<u8> {
    Operation::Add { key, delta: 1 }.to_bytes().unwrap()
}

fn counter(outcome: &Outcome) -> i64 {
    let Outcome::Done { result, .. } = outcome else { panic!("{outcome:?}") };
    match Reply::decode(result) {
        Ok(Reply::Counter(value)) => value,
        other => panic!("{other:?}"),
    }
}

/// Checkpoints and snapshots come often, so that a short test sees them.
fn small() -> ProtocolParams {
    ProtocolParams {
        checkpoint_interval: 8,
        window: 16,
        pipeline_max: 4,
        snapshot_slots: 32,
        ..ProtocolParams::default()
    }
}

fn c16_four_replicas_count_every_operation_once(io: Io) {
    let mut cluster = Cluster::new(io, 4, 1, small(), kv);
    cluster.start_all();
    let driver = if io == Io::Epoll { Driver::Epoll } else { Driver::Uring };
    assert_eq!(Driver::of_write_path(&cluster.info(0).write_path), Some(driver));
    let mut client = cluster.client(100);
    for round in 0..100 {
        assert_eq!(counter(&client.call(add(b"one"))), round + 1);
    }
    let many = client.call_all((0..5000).map(|_| add(b"many")));
    let mut counts: Vec<_> = many.iter().map(counter).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=5000).collect::<Vec<_>>());
    cluster.wait_until("on a snapshot", |info| info.snapshot.0 >= 32);
    cluster.assert_alike();
    cluster.stop_all();
}

fn d22_a_cluster_that_stopped_goes_on_where_it_was(io: Io) {
    let mut cluster = Cluster::new(io, 4, 1, small(), kv);
    cluster.start_all();
    let mut client = cluster.client(100);
    for round in 0..50 {
        assert_eq!(counter(&client.call(add(b"key"))), round + 1);
    }
    drop(client);
    cluster.stop_all();
    cluster.start_all();
    let mut client = cluster.client(100);
    assert_eq!(counter(&client.call(add(b"key"))), 51);
    assert!((0..4).all(|id| cluster.info(id).executed.0 > 50));
    cluster.stop_all();
}

fn c16_two_cores_count_every_operation_once(io: Io) {
    let mut cluster = Cluster::new(io, 4, 2, small(), kv);
    cluster.start_all();
    let mut clients: Vec<_> = (0..3).map(|key| cluster.client(100 + key)).collect();
    let mut counts = Vec::new();
    for _ in 0..10 {
        for client in &mut clients {
            counts.extend(client.call_all((0..100).map(|_| add(b"many"))).iter().map(counter));
        }
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=3000).collect::<Vec<_>>());
    cluster.stop_all();
    cluster.start_all();
    assert_eq!(counter(&cluster.client(100).call(add(b"many"))), 3001);
    cluster.stop_all();
}

fn service_and_snapshots_run_on_all_cores_beside_pinned_executors(io: Io) {
    let cores_of = |status: &str| {
        let text = std::fs::read_to_string(status).unwrap_or_default();
        text.lines().find_map(|line| Some(line.strip_prefix("Cpus_allowed_list:")?.trim().to_owned()))
    };
    let all = cores_of("/proc/thread-self/status").unwrap();
    let mut cluster = Cluster::new(io, 4, 2, small(), kv);
    cluster.pin = Pin::Pinned;
    cluster.start_all();
    assert_eq!(counter(&cluster.client(100).call(add(b"key"))), 1);
    let mut seen = 0;
    for thread in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let name = std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        if ["bft-execution", "bft-snapshot", "bft-journal"].contains(&name.trim())
            && let Some(cores) = cores_of(&thread.path().join("status").display().to_string())
        {
            assert_eq!(cores, all, "{name}");
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen} threads");
    cluster.stop_all();
}

fn pf7_a_backup_that_was_away_catches_up(io: Io) {
    let mut cluster = Cluster::new(io, 4, 1, small(), kv);
    cluster.start_all();
    let primary = cluster.config.primary(View(0)).0;
    let backup = (primary + 1) % 4;
    let mut client = cluster.client(100);
    for _ in 0..20 {
        client.call(add(b"key"));
    }
    cluster.stop(backup).unwrap();
    for _ in 0..20 {
        client.call(add(b"key"));
    }
    cluster.start(backup);
    assert!(cluster.control(backup).wait_ready(PATIENCE));
    assert_eq!(counter(&client.call(add(b"key"))), 41);
    cluster.assert_alike();
    cluster.stop_all();
}

#[test]
fn d11_a_directory_that_is_in_use_is_refused() {
    let mut cluster = Cluster::new(Io::Auto, 4, 1, small(), kv);
    cluster.start_all();
    let error = cluster.run_beside(0).unwrap_err();
    assert!(matches!(error, ServerError::DataDir(DataDirError::Locked(_))), "{error}");
    cluster.stop_all();
}

/// Four replicas that have added forty times, and stand still; and the snapshot that the first one has.
fn stopped_beyond_a_snapshot(io: Io) -> (Cluster, Seq) {
    let mut cluster = Cluster::new(io, 4, 1, small(), kv);
    cluster.start_all();
    let mut client = cluster.client(100);
    for _ in 0..40 {
        client.call(add(b"key"));
    }
    drop(client);
    cluster.wait_until("on a snapshot", |info| info.snapshot.0 >= 32);
    let snapshot = cluster.info(0).snapshot;
    cluster.stop_all();
    (cluster, snapshot)
}

fn d4_a_damaged_snapshot_is_fetched_from_the_others(io: Io) {
    let (mut cluster, snapshot) = stopped_beyond_a_snapshot(io);

    // Nobody has a later one: it is this very snapshot that is fetched, over what is left of the own one.
    let folder = cluster.data_dir(0).join(format!("snapshots/{snapshot}"));
    flip_first_byte(&folder.join("chunk-00000"));
    std::fs::remove_file(folder.join("clients-00000")).unwrap();
    cluster.start_all();
    cluster.wait_until("as far as it was", |info| info.executed >= snapshot);
    let transfers = |cluster: &Cluster, id| cluster.info(id).counter("transfers").expect("it is told");
    let deadline = Instant::now() + PATIENCE;
    while transfers(&cluster, 0) == 0 {
        assert!(Instant::now() < deadline, "{:?}", cluster.info(0));
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut client = cluster.client(100);
    assert_eq!(counter(&client.call(add(b"key"))), 41);
    cluster.assert_alike();
    assert_eq!(transfers(&cluster, 1), 0);
    cluster.stop_all();

    // The files are whole again: this start fetches nothing.
    cluster.start_all();
    cluster.assert_alike();
    assert_eq!(transfers(&cluster, 0), 0);
    cluster.stop_all();
}

fn d4_a_damaged_journal_is_set_aside_and_owned_up_to(io: Io) {
    let (mut cluster, snapshot) = stopped_beyond_a_snapshot(io);

    let journal = cluster.data_dir(0).join("journal");
    let mut damaged = BTreeMap::new();
    for entry in std::fs::read_dir(&journal).unwrap() {
        let path = entry.unwrap().path();
        flip_first_byte(&path);
        damaged.insert(path.file_name().unwrap().to_owned(), std::fs::read(&path).unwrap());
    }
    cluster.start_all();
    let stable = cluster.info(1).stable;
    cluster.wait_until("as far as the others", |info| info.stable >= stable);
    let through = silent_through(&cluster.info(0));
    assert!(through > 0 && through <= stable.0 + small().window, "silent up to {through}, stable is {stable}");
    assert!((1..4).all(|id| silent_through(&cluster.info(id)) == 0));
    let aside: Vec<_> = std::fs::read_dir(cluster.data_dir(0)).unwrap().map(|entry| entry.unwrap().path()).collect();
    let aside = aside.iter().find(|path| path.to_string_lossy().contains("journal-damaged-")).expect("it is kept");
    for (name, bytes) in &damaged {
        assert!(std::fs::read(aside.join(name)).unwrap() == *bytes, "{name:?} is as it was");
    }
    assert!(cluster.info(0).snapshot >= snapshot, "what it had agreed on it still has");
    cluster.stop_all();

    // The next start finds a whole journal, and still knows that it must be silent (D20).
    cluster.start_all();
    cluster.wait_until("as far as the others", |info| info.stable >= stable);
    assert_eq!(silent_through(&cluster.info(0)), through);
    cluster.stop_all();
}

fn silent_through(info: &Info) -> u64 {
    info.counter("silent_through").expect("it is told")
}

fn flip_first_byte(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn mem2_strangers_do_not_stop_the_service(io: Io) {
    let mut cluster = Cluster::new(io, 4, 1, small(), kv);
    cluster.start_all();
    let mut client = cluster.client(100);
    assert_eq!(counter(&client.call(add(b"key"))), 1);
    let primary = cluster.config.primary(View(0)).0;
    // Some say nothing, some say what makes no sense, some leave at once.
    let mut strangers = Vec::new();
    for kind in 0..300 {
        let mut stranger = TcpStream::connect(cluster.address(primary)).unwrap();
        match kind % 3 {
            0 => strangers.push(stranger),
            1 => {
                // A replica that has seen enough closes the connection.
                let _ = stranger.write_all(&[0x55; 5000]);
                strangers.push(stranger);
            }
            _ => drop(stranger),
        }
    }
    assert_eq!(counter(&client.call(add(b"key"))), 2);
    let mut another = cluster.client(101);
    assert_eq!(counter(&another.call(add(b"key"))), 3);
    let info = cluster.info(primary);
    assert!(info.counter("handshakes_failed").unwrap() >= 100, "{info:?}");
    cluster.stop_all();
}
