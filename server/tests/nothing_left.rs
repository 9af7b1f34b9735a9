//! A replica that has stopped has given everything back: descriptors, threads, ports. Alone in its program, because it
//! counts what the process has.

mod support;

use bft_core::config::ProtocolParams;
use bft_services::null::Null;
use support::Cluster;

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn replicas_that_stopped_leave_nothing_behind() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(4, cores, ProtocolParams::default(), || Box::new(Null::new(8)));
        let mut counts = Vec::new();
        for round in 0..4 {
            cluster.start_all();
            cluster.wait_until("linked to all", |info| info.peers == 3);
            let mut client = cluster.client(100 + round);
            client.call(vec![1]);
            drop(client);
            cluster.stop_all();
            counts.push((entries("/proc/self/fd"), entries("/proc/self/task")));
        }
        assert_eq!(counts[1], counts[3], "descriptors and threads after each of four rounds: {counts:?}");
    }
}
