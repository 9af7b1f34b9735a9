//! Where io_uring is refused, as containers do by a seccomp filter: a replica that chooses by itself serves over epoll, and
//! one that is told to use io_uring says what to change. Replicas of both kinds make one cluster.

mod support;

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use bft_core::ids::ReplicaId;
use bft_server::io::Driver;
use bft_server::testnet::{Testnet, TestnetOptions};
use serde_json::Value;
use support::{Adders, Observer, PATIENCE, SNAPSHOTS_RARELY, bftd, cluster, running_cluster};

/// From here on this thread, and the processes that it starts, are refused io_uring: making a ring fails with `errno`.
fn refuse_io_uring(errno: i32) -> io::Result<()> {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // The number of the system call; io_uring_setup is refused, the rest may pass.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: two calls of prctl as its manual has them; `program` and the filter that it points to outlive both.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
    };
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `bftd`, with io_uring refused to it and to what it starts.
fn confined(errno: i32, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bftd"));
    command.args(arguments);
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(move || refuse_io_uring(errno)) };
    command
}

#[test]
fn the_demo_does_its_job_whichever_way_io_uring_is_refused() {
    // EPERM is what container runtimes say, ENOSYS what old kernels do.
    for errno in [libc::EPERM, libc::ENOSYS] {
        let folder = tempfile::tempdir().unwrap();
        let mut demo = confined(errno, &["demo", "--seconds", "1", "--output", "json"]);
        let output = demo.env("TMPDIR", folder.path()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        let line: Value =
            serde_json::from_str(String::from_utf8(output.stdout).unwrap().lines().last().unwrap()).unwrap();
        assert_eq!((&line["state_digests_equal"], &line["counters_equal_adds"]), (&true.into(), &true.into()));
        assert_eq!((&line["durable"], &line["ops_failed"]), (&true.into(), &0.into()));
        assert!(line["write_path"].as_str().unwrap().starts_with("epoll, "), "{line}");
        assert!(line["ops_committed"].as_f64().unwrap() > 0.0, "{line}");
    }
}

#[test]
fn a_replica_that_chooses_epoll_says_why_and_what_it_costs_and_status_tells() {
    // On a thread of its own: a filter is never taken off again.
    let confined = std::thread::spawn(|| {
        refuse_io_uring(libc::EPERM).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = running_cluster(dir.path(), SNAPSHOTS_RARELY);
        let adders = Adders::start(&cluster);
        adders.wait_for_more("the load runs", 200);
        adders.stop_and_compare();
        Observer::new(&cluster).wait_equal();
        let words = cluster.child(ReplicaId(0)).said().unwrap();
        let lines: Vec<_> = words.lines().filter(|line| line.contains("io_uring is refused here")).collect();
        assert_eq!(lines.len(), 1, "{words}");
        for told in ["epoll", "io_uring_setup", "Operation not permitted", "two hops between threads more"] {
            assert!(lines[0].contains(told), "{told}: {}", lines[0]);
        }
        let client = cluster.testnet().client_config();
        let output = bftd(&["status", "--config", client.to_str().unwrap(), "--output", "json"]);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(told["replicas"].as_array().unwrap().iter().all(|row| row["driver"] == "epoll"), "{told}");
        let output = bftd(&["status", "--config", client.to_str().unwrap()]);
        let table = String::from_utf8(output.stdout).unwrap();
        assert_eq!(table.matches("  epoll, ").count(), 4, "{table}");
        let ends = cluster.stop_all(PATIENCE).unwrap();
        assert!(ends.iter().all(|end| end.success()), "{ends:?}");
    });
    confined.join().unwrap();
}

#[test]
fn replicas_of_both_drivers_make_one_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = cluster(dir.path(), SNAPSHOTS_RARELY);
    for (replica, io) in cluster.testnet().cluster().replicas().zip(["uring", "epoll", "uring", "epoll"]) {
        let file = cluster.testnet().config(replica);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("io = \"auto\""), "{text}");
        std::fs::write(&file, text.replace("io = \"auto\"", &format!("io = \"{io}\""))).unwrap();
    }
    cluster.start_all(PATIENCE).unwrap();
    let adders = Adders::start(&cluster);
    adders.wait_for_more("the load runs", 500);
    adders.stop_and_compare();
    let observer = Observer::new(&cluster);
    observer.wait_equal();
    let drivers = observer.infos(false).into_iter().flatten().map(|info| Driver::of_write_path(&info.write_path));
    let [uring, epoll] = [Some(Driver::Uring), Some(Driver::Epoll)];
    assert!(drivers.eq([uring, epoll, uring, epoll]));
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}

fn run_alone(dir: &Path, io: &str) -> (Option<i32>, String) {
    let testnet = Testnet::create(&dir.join("net"), &TestnetOptions::loopback(4, 4710).unwrap()).unwrap();
    let config = testnet.config(ReplicaId(0));
    let mut command = confined(libc::EPERM, &["run", "--config", config.to_str().unwrap()]);
    command.env("BFTD_LISTEN", "127.0.0.1:0").env("BFTD_IO", io).stdout(Stdio::null());
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn where_io_uring_is_asked_for_and_refused_the_setting_to_change_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (code, told) = run_alone(dir.path(), "uring");
    let last = told.lines().last().unwrap();
    assert_eq!(code, Some(69), "{told}");
    assert!(
        last.starts_with("bftd: io_uring is refused here (io_uring_setup: ")
            && last.contains("Operation not permitted"),
        "{last}"
    );
    for setting in ["kernel.io_uring_disabled=0", "seccomp", "ulimit -l", "io = \"auto\""] {
        assert!(last.contains(setting), "{setting}: {last}");
    }
}

#[test]
fn a_driver_that_there_is_not_is_refused_with_those_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let (code, told) = run_alone(dir.path(), "kqueue");
    assert_eq!(code, Some(78), "{told}");
    assert!(told.starts_with("bftd: BFTD_IO: io: ") && ["auto", "uring", "epoll"].iter().all(|io| told.contains(io)));
}
