//! A replica that has stopped has given everything back: descriptors, threads, ports. Alone in its program, because it
//! counts what the process has.

mod support;

use std::time::Instant;

use bft_core::config::ProtocolParams;
use bft_server::Io;
use bft_services::null::Null;
use support::{Cluster, PATIENCE};

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// Waits for the threads of sockets that were just closed.
fn assert_comes_down_to(what: &str, folder: &str, expected: usize) {
    let until = Instant::now() + PATIENCE;
    while entries(folder) > expected {
        assert!(Instant::now() < until, "{} {what} are left, not {expected}", entries(folder));
        std::thread::yield_now();
    }
}

#[test]
fn replicas_that_stopped_leave_nothing_behind() {
    for (io, cores) in [(Io::Uring, 1), (Io::Uring, 2), (Io::Epoll, 1), (Io::Epoll, 2)] {
        let mut cluster = Cluster::new(io, 4, cores, ProtocolParams::default(), || Box::new(Null::new(8)));
        let mut first = None;
        for round in 0..4 {
            cluster.start_all();
            cluster.wait_until("linked to all", |info| info.peers == 3);
            let mut client = cluster.client(100 + round);
            client.call(vec![1]);
            drop(client);
            cluster.stop_all();
            // An executor of glommio's keeps one eventfd, for ever.
            let executors = if io == Io::Uring { 4 * cores * usize::from(round) } else { 0 };
            let (descriptors, threads) =
                *first.get_or_insert_with(|| (entries("/proc/self/fd"), entries("/proc/self/task")));
            assert_comes_down_to("descriptors", "/proc/self/fd", descriptors + executors);
            assert_comes_down_to("threads", "/proc/self/task", threads);
        }
    }
}
