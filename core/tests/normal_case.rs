//! Single rules of the normal case, of checkpoints and of clocks, step by step at one replica of a cluster that the test
//! leads. Whole clusters under faults are the simulator's.

mod common;

use bft_core::auth::Rejected;
use bft_core::door::{Input, Persist, Place};
use bft_core::ids::{Epoch, ReplicaId, Seq, View};
use bft_core::journal::record::{Record, Vote};
use bft_core::limits::SECOND;
use bft_core::wire::message::{Kind, Message, Status};
use common::TestCluster;
use common::cluster::{Cluster, T0};

const HOUR: u64 = 3600 * SECOND;

/// A cluster, all that it could sign, and a backup that leads neither of the first two views.
fn idle() -> (Cluster, TestCluster, ReplicaId) {
    let mut cluster = Cluster::new();
    cluster.settle();
    let secrets = cluster.secrets();
    let backup = cluster.primary(2);
    (cluster, secrets, backup)
}

/// `at` takes what `from` sends, and nobody else hears anything of it.
fn hear(cluster: &mut Cluster, at: ReplicaId, from: ReplicaId, message: Message) {
    cluster.hears = |_, _, _| false;
    let message = cluster.verifier.check(from, message).expect("well signed");
    cluster.step(at, Input::Message { from, message });
    cluster.settle();
}

fn votes(cluster: &Cluster, at: ReplicaId) -> Vec<Vote> {
    let vote = |persist: &Persist| match &persist.place {
        Place::Journal(Record::Vote(vote)) => Some(vote.clone()),
        Place::Journal(_) | Place::Superblock(_) => None,
    };
    cluster.hosts[at.index()].records.iter().filter_map(vote).collect()
}

fn voted_seqs(cluster: &Cluster, at: ReplicaId) -> Vec<u64> {
    votes(cluster, at).iter().map(|vote| vote.position.seq.0).collect()
}

fn is_certified(cluster: &Cluster, at: ReplicaId) -> bool {
    let is_certificate = |persist: &Persist| matches!(persist.place, Place::Journal(Record::Cert(_)));
    cluster.hosts[at.index()].records.iter().any(is_certificate)
}

#[test]
fn s1_a_proposal_of_another_view_or_epoch_is_not_voted_for() {
    let (mut cluster, secrets, backup) = idle();
    let of_next_view = secrets.pre_prepare(1, 1, secrets.body(1));
    let next_primary = cluster.primary(1);
    hear(&mut cluster, backup, next_primary, Message::PrePrepare(of_next_view));
    assert!(votes(&cluster, backup).is_empty());
    let mut of_other_epoch = secrets.pre_prepare(0, 1, secrets.body(1));
    of_other_epoch.position.epoch = Epoch(4);
    let refused = cluster.verifier.check(cluster.primary(0), Message::PrePrepare(of_other_epoch));
    assert_eq!(refused.err(), Some(Rejected::WrongEpoch));
    let primary = cluster.primary(0);
    hear(&mut cluster, backup, primary, Message::PrePrepare(secrets.pre_prepare(0, 1, secrets.body(1))));
    assert_eq!(voted_seqs(&cluster, backup), [1], "of this view it is");
}

#[test]
fn s4_proposals_beyond_the_window_wait_and_those_beyond_the_next_one_are_dropped() {
    let (mut cluster, secrets, backup) = idle();
    let (primary, window) = (cluster.primary(0), cluster.config.params().window);
    for seq in [window, window + 1, 2 * window, 2 * window + 1, 1000 * window] {
        let proposal = secrets.pre_prepare(0, seq, secrets.body(seq));
        hear(&mut cluster, backup, primary, Message::PrePrepare(proposal));
    }
    assert_eq!(voted_seqs(&cluster, backup), [window]);
    let signers: Vec<_> = cluster.config.replicas().collect();
    hear(&mut cluster, backup, primary, Message::Checkpoint(secrets.checkpoint(window, &signers)));
    assert_eq!(voted_seqs(&cluster, backup), [window, window + 1, 2 * window]);
    hear(&mut cluster, backup, primary, Message::Checkpoint(secrets.checkpoint(2 * window, &signers)));
    assert_eq!(voted_seqs(&cluster, backup).len(), 3, "what came too early is gone");
}

#[test]
fn s7_nothing_is_prepared_without_the_proposal_and_the_own_durable_vote() {
    let (mut cluster, secrets, backup) = idle();
    let primary = cluster.primary(0);
    let proposal = secrets.pre_prepare(0, 1, secrets.body(1));
    for other in cluster.others(&[primary, backup]) {
        hear(&mut cluster, backup, other, Message::Prepare(secrets.prepare(proposal.position, other)));
    }
    assert!(!is_certified(&cluster, backup), "votes for what nobody has proposed to it");
    cluster.host(backup).disk_is_stopped = true;
    hear(&mut cluster, backup, primary, Message::PrePrepare(proposal));
    assert_eq!(voted_seqs(&cluster, backup), [1]);
    assert!(!is_certified(&cluster, backup), "a quorum has voted, and its own vote may be lost");
    cluster.start_disk(backup);
    assert!(is_certified(&cluster, backup));
}

#[test]
fn d24_a_batch_that_is_voted_for_at_another_seq_is_written_there_too() {
    let (mut cluster, secrets, backup) = idle();
    let primary = cluster.primary(0);
    let first = secrets.pre_prepare(0, 1, secrets.body(1));
    let mut second = first.clone();
    second.position.seq = Seq(2);
    second.ballot = secrets.proposal(&second.position);
    for proposal in [first, second] {
        hear(&mut cluster, backup, primary, Message::PrePrepare(proposal));
    }
    let votes = votes(&cluster, backup);
    assert_eq!(votes.len(), 2);
    assert_eq!(votes[0].position.digest, votes[1].position.digest);
    assert!(votes.iter().all(|vote| vote.body.is_some()), "the segment of the first one may go before the second's");
}

#[test]
fn r3_f3_nothing_is_executed_or_answered_before_it_is_committed() {
    let mut cluster = Cluster::running();
    let executed = |cluster: &Cluster| cluster.hosts.iter().map(|host| host.executed.len()).sum::<usize>();
    let before = executed(&cluster);
    cluster.hears = |_, _, message| message.kind() != Kind::Commit;
    cluster.submit();
    let prepared = cluster.hosts[0].replica.ordering().highest_prepared();
    assert!(prepared > cluster.hosts[0].replica.executed(), "it is prepared");
    assert_eq!((executed(&cluster), cluster.done), (before, 1));
}

#[test]
fn k6_of_one_replica_only_the_two_highest_checkpoints_are_kept() {
    let (mut cluster, secrets, backup) = idle();
    let others = cluster.others(&[backup]);
    let mut vote = |from: ReplicaId, seq| {
        hear(&mut cluster, backup, from, Message::Checkpoint(secrets.checkpoint(seq, &[from])));
        cluster.hosts[backup.index()].replica.stable()
    };
    for nth in 1..=50 {
        vote(others[0], 8 * nth);
    }
    for other in &others[1..] {
        assert_eq!(vote(*other, 8), Seq(0), "the first replica's vote for it is forgotten");
    }
    vote(others[1], 400);
    assert_eq!(vote(others[2], 400), Seq(400));
}

#[test]
fn c8_a_request_that_its_client_has_not_signed_moves_nobody() {
    let mut cluster = Cluster::running();
    let mut forged = cluster.asked.last().cloned().expect("the client has asked");
    forged.entry.digest.0[0] ^= 1;
    forged.entry.leaf.0[0] ^= 1;
    let down = cluster.primary(0);
    cluster.down.push(down);
    for replica in cluster.others(&[down]) {
        let (requests, refused) = cluster.verifier.check_requests(vec![forged.clone()]);
        assert_eq!(refused, [0]);
        cluster.step(replica, Input::Requests(requests));
    }
    cluster.pass(20 * T0);
    assert!(cluster.all_are_in(0), "nobody waits for what nobody has signed");
}

#[test]
fn pf5_one_peer_that_boasts_does_not_keep_a_replica_busy() {
    let (mut cluster, _, backup) = idle();
    cluster.pass(10 * SECOND);
    let spoken = |cluster: &Cluster| cluster.sent_of(Kind::Status).filter(|(from, _)| *from == backup).count();
    let before = spoken(&cluster);
    cluster.pass(10 * SECOND);
    let calm = spoken(&cluster) - before;
    let (epoch, executed) = (cluster.config.epoch(), Seq(1 << 60));
    let map = || vec![0];
    let status = Status { epoch, executed, proposed: map(), prepared: map(), committed: map(), ..Status::default() };
    let boaster = cluster.primary(1);
    let message = cluster.verifier.check(boaster, Message::Status(status)).expect("well formed");
    cluster.step(backup, Input::Message { from: boaster, message });
    let before = spoken(&cluster);
    cluster.pass(10 * SECOND);
    let after = spoken(&cluster) - before;
    assert!(after <= calm + 2, "{after} times in ten seconds, and {calm} times without the lie");
}

#[test]
fn v13_a_disk_and_a_service_that_stand_still_stop_no_step() {
    let mut cluster = Cluster::running();
    let slow = cluster.primary(2);
    cluster.host(slow).disk_is_stopped = true;
    cluster.host(slow).service_is_stopped = true;
    for done in 2..=4 {
        cluster.submit();
        cluster.pass_until(SECOND, |cluster| cluster.done == done);
    }
    // The session, and four operations.
    assert_eq!(voted_seqs(&cluster, slow), [1, 2, 3, 4, 5], "it takes all the others' proposals meanwhile");
    assert_eq!(cluster.hosts[slow.index()].replica.executed(), Seq(2));
    cluster.start_disk(slow);
    cluster.start_service(slow);
    cluster.pass_until(SECOND, |cluster| cluster.hosts[slow.index()].replica.executed() == Seq(5));
}

#[test]
fn v16_a_replica_whose_own_service_lags_suspects_nobody_and_a_silent_primary_all_the_same() {
    let mut cluster = Cluster::running();
    let slow = cluster.primary(2);
    cluster.host(slow).service_is_stopped = true;
    for done in 2..=4 {
        cluster.submit();
        cluster.pass_until(SECOND, |cluster| cluster.done == done);
    }
    cluster.pass(20 * T0);
    assert_eq!(cluster.view(slow), (View(0), true), "what it waits for is its own");
    cluster.start_service(slow);
    cluster.down.push(cluster.primary(0));
    cluster.submit();
    cluster.pass_until(5 * T0, |cluster| cluster.view(slow).0 > View(0));
}

#[test]
fn v16_a_replica_that_is_behind_suspects_nobody_and_a_silent_primary_once_it_is_not() {
    let mut cluster = Cluster::running();
    let late = ReplicaId(3);
    assert!(late != cluster.primary(0));
    // It hears where the others are, and gets nothing from them; the Request waits in its pool all the while.
    cluster.hears = |_, to, message| to != ReplicaId(3) || message.kind() == Kind::Status;
    cluster.submit();
    cluster.pass_until(SECOND, |cluster| cluster.done == 2);
    let proposed = cluster.sent.iter().rev().find_map(|(_, message)| match message {
        Message::PrePrepare(proposal) => proposal.body.requests().next(),
        _ => None,
    });
    let requests = cluster.verifier.check_requests(vec![proposed.expect("it was executed")]).0;
    cluster.step(late, Input::Requests(requests));
    cluster.pass(20 * T0);
    assert_eq!(cluster.view(late), (View(0), true), "others have executed it, whoever is primary");
    cluster.hears = |_, _, _| true;
    cluster.pass_until(5 * SECOND, |cluster| cluster.hosts[late.index()].replica.executed() == Seq(2));
    cluster.down.push(cluster.primary(0));
    cluster.submit();
    cluster.pass_until(5 * T0, |cluster| cluster.view(late).0 > View(0));
}

#[test]
fn z6_c2_o3_clocks_that_jump_by_an_hour_refuse_and_lose_nothing() {
    let mut cluster = Cluster::running();
    // A Request waits for an hour before anybody hears of it.
    cluster.down = cluster.config.replicas().collect();
    cluster.submit();
    cluster.down.clear();
    cluster.walls.iter_mut().for_each(|wall| *wall += HOUR);
    cluster.pass_until(20 * SECOND, |cluster| cluster.done == 2);
    // All clocks go back.
    cluster.walls.iter_mut().for_each(|wall| *wall -= 2 * HOUR);
    cluster.submit();
    cluster.pass_until(20 * SECOND, |cluster| cluster.done == 3);
    assert!(cluster.all_are_in(0), "nobody is given up over a clock that all share");
    // The primary's is ahead of all others: they order without it.
    let primary = cluster.primary(0);
    cluster.walls[primary.index()] += 4 * HOUR;
    cluster.submit();
    cluster.pass_until(20 * SECOND, |cluster| cluster.done == 4);
    let executed: Vec<_> = cluster.hosts.iter().map(|host| host.executed.len()).collect();
    assert!(executed.iter().all(|count| *count <= 4), "nothing twice: {executed:?}");
}

#[test]
fn s12_two_runs_sign_the_same_bytes() {
    let run = || {
        let mut cluster = Cluster::running();
        cluster.down.push(cluster.primary(0));
        for done in 2..=12 {
            cluster.submit();
            cluster.pass_until(20 * SECOND, |cluster| cluster.done == done);
        }
        let signed = cluster.sent.iter().filter(|(_, message)| message.kind() != Kind::Status);
        signed.map(|(from, message)| (*from, format!("{message:?}"))).collect::<Vec<_>>()
    };
    let (first, second) = (run(), run());
    assert!(first.iter().any(|(_, message)| message.starts_with("NewView")), "every kind of signature is among them");
    assert_eq!(first, second);
}
