//! What of a message does not lie in a signature: its cluster, whether a replica may send its kind, the size of its maps.

use bft_core::auth::{Rejected, Scheme};
use bft_core::config::ProtocolParams;
use bft_core::ids::{ClusterId, Digest, Epoch, RequestNo, Seq, SessionId, Signature, View};
use bft_core::snapshot::{Piece, Section};
use bft_core::wire::message::{BatchId, Busy, Chunk, ClientJoin, Code, FetchChunk, Message, Reply, Status, Trail};

use crate::checking::{check, each_change_is_refused};
use crate::common::{CLUSTER, TestCluster};

#[test]
fn x5_verifiers_of_two_clusters_with_the_same_keys_take_nothing_from_one_another() {
    let (here, there) = (TestCluster::new(), TestCluster::named(ClusterId([2; 32])));
    let every = |cluster: &TestCluster| {
        let body = cluster.body(1);
        let (position, _) = cluster.position(0, 1, &body);
        let all: Vec<_> = cluster.config.replicas().collect();
        vec![
            Message::Request(cluster.request("ada", 1, &[b"x"])),
            Message::PrePrepare(cluster.pre_prepare(0, 1, body)),
            Message::Prepare(cluster.prepare(position, cluster.backups(View(0))[2])),
            Message::Checkpoint(cluster.checkpoint(128, &all)),
            Message::Snapshot(cluster.snapshot(128, &all)),
            Message::Slot(cluster.slot(0, 1)),
        ]
    };
    for message in every(&there) {
        assert_eq!(check(&there, message.clone()), Ok(()));
        assert!(check(&here, message.clone()).is_err(), "{message:?}");
    }
}

#[test]
fn a_status_has_maps_of_the_window_and_no_more() {
    let cluster = TestCluster::new();
    let words = cluster.config.params().window as usize / 64;
    let map = vec![u64::MAX; words];
    let good = Status { proposed: map.clone(), prepared: map.clone(), committed: map, ..Status::default() };
    each_change_is_refused(
        &good,
        [
            ("a short map", Rejected::BadMap, (|s| s.proposed.truncate(1)) as fn(&mut Status)),
            ("a long map", Rejected::BadMap, |s| s.prepared.push(0)),
            ("no map", Rejected::BadMap, |s| s.committed.clear()),
        ],
        |status| check(&cluster, Message::Status(status)),
    );
    let params = ProtocolParams {
        checkpoint_interval: 8,
        window: 16,
        pipeline_max: 16,
        snapshot_slots: 64,
        ..ProtocolParams::default()
    };
    let small = TestCluster::with(CLUSTER, &[1; 4], params);
    let status = |bits| Status { proposed: vec![0], prepared: vec![0], committed: vec![bits], ..Status::default() };
    assert_eq!(check(&small, Message::Status(status(0xffff))), Ok(()));
    assert_eq!(check(&small, Message::Status(status(0x1_0000))), Err(Rejected::BadMap), "beyond the window");
}

#[test]
fn what_a_replica_may_not_send_is_refused_and_what_needs_no_check_passes() {
    let cluster = TestCluster::new();
    let reply = Reply {
        epoch: Epoch(3),
        session: SessionId(1),
        req_no: RequestNo(1),
        seq: Seq(1),
        code: Code::Ok,
        digest: Digest::ZERO,
        results: None,
    };
    let join = ClientJoin { public_key: cluster.authority.public_key(), certificate: None, signature: Signature::ZERO };
    for message in [
        Message::Reply(reply),
        Message::Busy(Busy { request: Digest::ZERO, retry_after_ms: 1 }),
        Message::InfoQuery { want_digest: true },
        Message::Info(Box::default()),
        Message::ClientJoin(join),
    ] {
        assert_eq!(check(&cluster, message), Err(Rejected::NotAllowed));
    }
    let batch = BatchId { seq: Seq(1), digest: Digest::ZERO };
    let piece = Piece { section: Section::State, index: u32::MAX };
    for message in [
        Message::FetchSlot(Seq(1)),
        Message::FetchLog(Seq(1)),
        Message::FetchBody(batch),
        Message::FetchManifest(Seq(1)),
        Message::FetchChunk(FetchChunk { seq: Seq(1), piece }),
        Message::Chunk(Chunk { seq: Seq(1), piece, bytes: None }),
        Message::FetchTrail(Seq(1)),
        Message::Trail(Trail { seq: Seq(1), chain: Digest::ZERO, exec_before: Digest::ZERO, steps: Vec::new() }),
    ] {
        assert_eq!(check(&cluster, message), Ok(()));
    }
}
