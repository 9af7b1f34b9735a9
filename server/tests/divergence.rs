//! A replica whose service goes astray once, over real sockets and a real disk: it finds out, says where, and comes back.

#[macro_use]
mod support;

use std::cell::Cell;
use std::fs;

use bft_core::client::Outcome;
use bft_core::config::ProtocolParams;
use bft_core::ids::Seq;
use bft_core::service::{Batch, Replies, Service, ServiceFault, Snapshot};
use bft_core::wire::message::Info;
use bft_server::Io;
use bft_services::kv::{Kv, Operation};
use support::Cluster;

over_each_driver!(k4_a_replica_that_came_to_something_else_says_where_and_comes_back);

/// Which of the services that were made, one for each replica in their order, goes astray.
const ASTRAY: u32 = 2;
/// Which of its batches.
const AT: u32 = 60;

thread_local! {
    /// How many this test has made.
    static MADE: Cell<u32> = const { Cell::new(0) };
}

/// A kv that once says that a batch changed something else.
struct Straying {
    kv: Kv,
    nth: u32,
    batches: u32,
}

fn make() -> Box<dyn Service> {
    let nth = MADE.replace(MADE.get() + 1);
    Box::new(Straying { kv: Kv::new(), nth, batches: 0 })
}

impl Service for Straying {
    fn open(&mut self) -> Result<Seq, ServiceFault> {
        self.kv.open()
    }

    fn execute(&mut self, batch: &Batch<'_>, replies: &mut Replies<'_>) -> Result<(), ServiceFault> {
        self.batches += 1;
        self.kv.execute(batch, replies)?;
        if (self.nth, self.batches) == (ASTRAY, AT) {
            replies.delta(b"astray");
        }
        Ok(())
    }

    fn query(&mut self, query: &[u8], reply: &mut Replies<'_>) -> Result<(), ServiceFault> {
        self.kv.query(query, reply)
    }

    fn snapshot(&mut self, at: Seq) -> Result<Box<dyn Snapshot>, ServiceFault> {
        self.kv.snapshot(at)
    }

    fn snapshot_stable(&mut self, at: Seq) {
        self.kv.snapshot_stable(at);
    }

    fn restore_begin(&mut self, at: Seq, chunks: u32) -> Result<(), ServiceFault> {
        self.kv.restore_begin(at, chunks)
    }

    fn restore_chunk(&mut self, index: u32, bytes: &[u8]) -> Result<(), ServiceFault> {
        self.kv.restore_chunk(index, bytes)
    }

    fn restore_finish(&mut self) -> Result<(), ServiceFault> {
        self.kv.restore_finish()
    }

    fn restore_abort(&mut self) {
        self.kv.restore_abort();
    }
}

fn counted(info: &Info, name: &str) -> u64 {
    info.counter(name).unwrap_or(0)
}

fn k4_a_replica_that_came_to_something_else_says_where_and_comes_back(io: Io) {
    let params = ProtocolParams {
        checkpoint_interval: 8,
        window: 16,
        pipeline_max: 4,
        snapshot_slots: 32,
        ..ProtocolParams::default()
    };
    let mut cluster = Cluster::new(io, 4, 1, params, make);
    cluster.start_all();
    let mut client = cluster.client(100);
    let add = Operation::Add { key: b"one", delta: 1 }.to_bytes().unwrap();
    let drifter = ASTRAY as u16;
    let mut added = 0;
    while counted(&cluster.info(drifter), "quarantines_ended") == 0 {
        assert!(added < 5000, "it does not come back: {:?}", cluster.info(drifter));
        assert!(matches!(client.call(add.clone()), Outcome::Done { .. }));
        added += 1;
    }
    let told = cluster.info(drifter);
    assert_eq!((counted(&told, "divergences"), counted(&told, "quarantined_through")), (1, 0));
    for id in (0..4).filter(|id| *id != drifter) {
        assert_eq!(counted(&cluster.info(id), "divergences"), 0);
    }
    let reports: Vec<_> = fs::read_dir(cluster.data_dir(drifter).join("divergence")).unwrap().collect();
    let [report] = &reports[..] else { panic!("one report: {reports:?}") };
    let path = report.as_ref().unwrap().path();
    assert!(path.file_name().unwrap().to_str().unwrap().starts_with("checkpoint-0-"), "{}", path.display());
    let report = fs::read_to_string(&path).unwrap();
    assert!(report.contains("finding = \"the first Seq that differs is") && report.contains("its delta"), "{report}");
    assert!(report.contains("operations = [\n  { client ="), "{report}");
    cluster.stop_all();
}
