//! From one view to the next, step by step: four replicas and a client in one thread, a clock that the tests move, links
//! that they cut and disks that they stop. Whole clusters under faults are the simulator's.

mod common;

use std::sync::Arc;

use bft_core::auth::Scheme;
use bft_core::config::ProtocolParams;
use bft_core::door::{Input, Persist, Place, Tuning};
use bft_core::ids::{ReplicaId, View};
use bft_core::journal::record::Record;
use bft_core::limits::{MILLISECOND, SECOND};
use bft_core::wire::canonical::{self, commit_nonce, opening};
use bft_core::wire::message::{Ballot, Kind, Message, NewView, Position, PrePrepare, ViewChange};
use bytes::Bytes;
use common::CLUSTER;
use common::cluster::{Cluster, Hears, T0};

/// No message comes to `replica`, and none from it.
fn cut_off(replica: ReplicaId) -> Hears {
    let hears: [Hears; 4] = [
        |from, to, _| from != ReplicaId(0) && to != ReplicaId(0),
        |from, to, _| from != ReplicaId(1) && to != ReplicaId(1),
        |from, to, _| from != ReplicaId(2) && to != ReplicaId(2),
        |from, to, _| from != ReplicaId(3) && to != ReplicaId(3),
    ];
    hears[replica.index()]
}

#[test]
fn v12_a_request_that_waits_for_a_dead_primary_is_executed_once_in_the_next_view() {
    let mut cluster = Cluster::running();
    cluster.down.push(cluster.primary(0));
    cluster.submit();
    let took = cluster.pass_until(5 * SECOND, |cluster| cluster.done == 2);
    assert!(cluster.all_are_in(1));
    assert!(took <= 2 * T0 + 100 * MILLISECOND, "{took} ns");
    let executed: Vec<_> =
        cluster.others(&cluster.down).iter().map(|r| cluster.hosts[r.index()].executed.len()).collect();
    assert!(executed.iter().all(|count| *count == executed[0]), "{executed:?}");
}

#[test]
fn z10_v12_what_a_dead_primary_had_proposed_to_a_quorum_comes_back_at_its_seq() {
    let mut cluster = Cluster::running();
    // Nobody hears a COMMIT: the batch is prepared everywhere and committed nowhere.
    cluster.hears = |_, _, message| message.kind() != Kind::Commit;
    cluster.submit();
    let prepared = cluster.hosts[0].replica.ordering().highest_prepared();
    let digest = |cluster: &Cluster, replica: ReplicaId| {
        let ordering = cluster.hosts[replica.index()].replica.ordering();
        ordering.slot(prepared).and_then(|slot| slot.accepted.as_ref()).map(|accepted| accepted.position.digest)
    };
    let before = digest(&cluster, ReplicaId(0));
    assert!(before.is_some());
    cluster.down.push(cluster.primary(0));
    cluster.hears = |_, _, _| true;
    cluster.pass_until(5 * SECOND, |cluster| cluster.done == 2);
    let others = cluster.others(&cluster.down);
    for replica in others {
        assert_eq!(digest(&cluster, replica), before, "the same batch at the same Seq, in view 1");
        assert_eq!(cluster.hosts[replica.index()].executed.iter().filter(|seq| **seq == prepared).count(), 1);
    }
}

#[test]
fn v12_a_proposal_that_too_few_are_there_to_prepare_costs_the_view_although_it_left_the_pool() {
    let mut cluster = Cluster::running();
    // The proposal reaches everybody, and nothing else of this view does.
    cluster.hears = |_, _, message| message.kind() != Kind::Prepare;
    cluster.submit();
    // Nor does the client ask again: nothing waits in the pools.
    cluster.said.deadline = None;
    cluster.pass_until(4 * T0, |cluster| {
        let backups = cluster.others(&[cluster.primary(0)]);
        backups.iter().any(|backup| cluster.view(*backup).0 > View(0))
    });
    cluster.hears = |_, _, _| true;
    cluster.pass_until(5 * SECOND, |cluster| cluster.done == 2);
}

#[test]
fn mem1_v12_bodies_kept_from_a_former_view_leave_the_next_one_its_room() {
    let params = ProtocolParams {
        checkpoint_interval: 8,
        window: 16,
        pipeline_max: 8,
        request_bytes_max: 3900,
        batch_bytes_max: 4096,
        ..ProtocolParams::default()
    };
    let tuning = Tuning { body_bytes: 8192, ..Tuning::default() };
    let mut cluster = Cluster::tuned(params, tuning).answered_once();
    let prepared = |cluster: &Cluster| cluster.hosts[0].replica.ordering().highest_prepared();
    let before = prepared(&cluster);
    // Two batches that fill the memory for bodies are prepared everywhere, and committed nowhere.
    cluster.hears = |_, _, message| !matches!(message, Message::Commit(commit) if commit.position.view == View(0));
    for _ in 0..2 {
        cluster.submit_operation(Bytes::from(vec![7; 3500]));
    }
    assert_eq!(prepared(&cluster), before.plus(2));
    cluster.down.push(cluster.primary(0));
    cluster.pass_until(5 * SECOND, |cluster| cluster.done == 3);
}

#[test]
fn z8_v9_views_change_although_whatever_is_said_of_them_first_is_lost() {
    let mut cluster = Cluster::running();
    cluster.down.push(cluster.primary(0));
    cluster.hears = |_, _, message| !matches!(message, Message::ViewChange(_) | Message::NewView(_));
    cluster.submit();
    cluster.pass(2 * T0);
    assert!(cluster.sent_of(Kind::ViewChange).count() >= 3 && !cluster.all_are_in(1));
    cluster.hears = |_, _, _| true;
    cluster.pass_until(5 * SECOND, |cluster| cluster.done == 2);
}

#[test]
fn v7_a_commit_that_waits_for_its_record_does_not_leave_after_the_view_is_left() {
    let mut cluster = Cluster::running();
    let backup = cluster.primary(2);
    let primary = cluster.primary(0);
    // The vote of the backup reaches the disk, its certificate does not.
    cluster.hears = |_, _, message| message.kind() != Kind::Commit;
    cluster.submit();
    let certified = cluster.host(backup).replica.ordering().highest_prepared();
    cluster.hears = |_, _, _| true;
    cluster.down.push(primary);
    cluster.host(backup).disk_is_stopped = true;
    cluster.submit();
    cluster.pass_until(4 * T0, |cluster| cluster.view(backup).0 > View(0));
    assert_eq!(cluster.view(backup), (View(1), false));
    let held =
        |cluster: &Cluster, kind| cluster.hosts[backup.index()].held.iter().any(|out| out.message.kind() == kind);
    assert!(!held(&cluster, Kind::Commit) && !held(&cluster, Kind::Prepare), "cancelled");
    assert!(cluster.sent_of(Kind::ViewChange).all(|(from, _)| *from != backup), "the promise is not durable");
    cluster.start_disk(backup);
    let of_backup = |(from, message): &(ReplicaId, Message)| match message {
        Message::ViewChange(message) if *from == backup => Some(Arc::clone(message)),
        _ => None,
    };
    let message = cluster.sent.iter().find_map(of_backup).expect("it says so as soon as it is");
    assert!(message.prepared.iter().any(|certificate| certificate.position.seq == certified), "{message:?}");
}

#[test]
fn v8_a_replica_that_is_alone_goes_one_view_on_and_comes_back() {
    let mut cluster = Cluster::running();
    let alone = cluster.primary(1);
    cluster.hears = cut_off(alone);
    // It alone gets the Request, and nobody executes it.
    cluster.submit();
    let request = cluster.sent.len();
    cluster.pass(600 * SECOND);
    assert!(cluster.sent.len() > request);
    assert!(cluster.view(alone).0 <= View(1), "{:?}", cluster.view(alone));
    cluster.hears = |_, _, _| true;
    cluster.submit();
    cluster.pass_until(5 * SECOND, |cluster| cluster.done == cluster.submitted);
}

#[test]
fn v8_a_primary_whose_view_comes_to_nothing_leaves_it_like_its_backups() {
    let mut cluster = Cluster::running();
    let primary = cluster.primary(0);
    cluster.hears = cut_off(primary);
    cluster.submit();
    let took = cluster.pass_until(4 * T0, |cluster| cluster.view(primary).0 > View(0));
    assert!(took >= T0, "{took} ns: no sooner than a backup");
    assert_eq!(cluster.view(primary), (View(1), false));
    cluster.pass(60 * SECOND);
    assert_eq!(cluster.view(primary).0, View(1), "and no further alone");
    cluster.hears = |_, _, _| true;
    cluster.pass_until(5 * SECOND, |cluster| cluster.done == cluster.submitted);
}

#[test]
fn v8_one_replica_moves_nobody_and_a_blocking_set_moves_all() {
    let mut cluster = Cluster::running();
    let far = |cluster: &Cluster, replica: ReplicaId, view: u64| {
        let message = Message::ViewChange(cluster.secrets().view_change(replica, view, None, Vec::new()));
        Input::Message { from: replica, message: cluster.verifier.check(replica, message).expect("well signed") }
    };
    let at = ReplicaId(0);
    let input = far(&cluster, ReplicaId(1), 1 << 60);
    cluster.step(at, input);
    cluster.settle();
    assert_eq!(cluster.view(at), (View(0), true));
    let input = far(&cluster, ReplicaId(2), 7);
    cluster.step(at, input);
    assert_eq!(cluster.view(at).0, View(7), "the highest view that a blocking set has reached");
}

#[test]
fn v10_timeouts_double_while_views_fail_and_fall_back_after_progress() {
    let mut cluster = Cluster::running();
    cluster.down.push(cluster.primary(0));
    cluster.hears = |_, _, message| message.kind() != Kind::NewView;
    cluster.submit();
    let mut times = Vec::new();
    for view in 1..=4 {
        let from = cluster.now;
        let witness = cluster.primary(0);
        let witness = cluster.others(&[witness])[0];
        cluster.pass_until(100 * T0, |cluster| cluster.view(witness).0 >= View(view));
        times.push(cluster.now - from);
    }
    assert!(times.windows(2).skip(1).all(|pair| pair[1] > pair[0] + pair[0] / 2), "{times:?}");
    cluster.hears = |_, _, _| true;
    cluster.pass_until(100 * T0, |cluster| cluster.done == 2);
    let (view, _) = cluster.view(cluster.others(&cluster.down)[0]);
    cluster.down = vec![cluster.config.primary(view)];
    cluster.submit();
    let took = cluster.pass_until(100 * T0, |cluster| cluster.done == 3);
    assert!(took <= 4 * T0, "{took} ns after progress, in {view:?}");
}

#[test]
fn v11_a_request_that_comes_after_its_execution_is_no_reason_to_suspect_anybody() {
    let mut cluster = Cluster::running();
    let late = cluster.sent.iter().find_map(|(_, message)| match message {
        Message::PrePrepare(proposal) => proposal.body.requests().next(),
        _ => None,
    });
    let late = late.expect("it was proposed");
    let down = cluster.primary(0);
    cluster.down.push(down);
    for replica in cluster.others(&[down]) {
        let requests = cluster.verifier.check_requests(vec![late.clone()]).0;
        cluster.step(replica, Input::Requests(requests));
    }
    cluster.pass(20 * T0);
    assert!(cluster.all_are_in(0));
}

#[test]
fn v16_a_replica_that_was_not_scheduled_suspects_nobody_and_a_silent_primary_is_suspected_all_the_same() {
    let mut cluster = Cluster::running();
    let (primary, backup) = (cluster.primary(0), cluster.primary(2));
    // Something waits at the backup, and before its time is over the host stands still for two seconds.
    cluster.hears = |_, _, _| false;
    cluster.submit();
    cluster.pass(T0 / 2);
    cluster.now += 2 * SECOND;
    cluster.step(backup, Input::Deadline);
    assert_eq!(cluster.view(backup), (View(0), true));
    cluster.hears = |_, _, _| true;
    cluster.down.push(primary);
    cluster.pass_until(3 * T0, |cluster| cluster.view(backup).0 == View(1));
}

/// The cluster in view 1, and the NEW-VIEW that began it.
fn in_view_one() -> (Cluster, Arc<NewView>) {
    let mut cluster = Cluster::running();
    cluster.down.push(cluster.primary(0));
    cluster.hears = |_, _, message| message.kind() != Kind::Commit;
    cluster.submit();
    cluster.pass_until(5 * SECOND, |cluster| cluster.all_are_in(1));
    let new_view = cluster.sent.iter().find_map(|(_, message)| match message {
        Message::NewView(new_view) => Some(Arc::clone(new_view)),
        _ => None,
    });
    (cluster, new_view.expect("a NEW-VIEW began it"))
}

#[test]
fn v4_a_proposal_that_the_beginning_of_the_view_does_not_have_is_not_voted_for() {
    let mut cluster = Cluster::running();
    let primary = cluster.primary(1);
    cluster.hears = |_, _, message| message.kind() != Kind::Commit;
    cluster.submit();
    cluster.down.push(cluster.primary(0));
    // The new primary is silent: the test speaks for it.
    cluster.hears = |_, _, message| message.voted_in().is_none();
    cluster.pass_until(5 * SECOND, |cluster| cluster.all_are_in(1));
    let backup = cluster.others(&[primary, cluster.primary(0)])[0];
    let ordering = cluster.hosts[backup.index()].replica.ordering();
    let seq = *ordering.beginning().order.keys().next().expect("something was prepared");
    assert!(ordering.slot(seq).expect("in the window").accepted.is_none());
    let null = ordering.null_digest();
    let epoch = cluster.config.epoch();
    let propose = |digest, header, body| {
        let position = Position { epoch, view: View(1), seq, digest };
        let scheme = &cluster.schemes[primary.index()];
        let commitment = opening(&commit_nonce(&scheme.commit_secret(), &position));
        let signature = scheme.sign(&canonical::pre_prepare(CLUSTER, &position, commitment));
        Message::PrePrepare(PrePrepare { position, ballot: Ballot { commitment, signature }, header, body })
    };
    let lie = propose(null, bft_core::wire::message::BatchHeader::NULL, Arc::default());
    let message = cluster.verifier.check(primary, lie).expect("well signed");
    let votes = |cluster: &Cluster| {
        let is_vote = |persist: &&Persist| matches!(persist.place, Place::Journal(Record::Vote(_)));
        cluster.hosts[backup.index()].records.iter().filter(is_vote).count()
    };
    let before = votes(&cluster);
    cluster.step(backup, Input::Message { from: primary, message });
    assert_eq!(votes(&cluster), before, "no vote");
    assert_eq!(cluster.view(backup), (View(2), false), "its primary is proved to have lied");
}

#[test]
fn s9_a_second_new_view_of_the_same_view_is_never_begun_and_ends_it() {
    let (mut cluster, first) = in_view_one();
    let primary = cluster.primary(1);
    let secrets = cluster.secrets();
    // The same senders, one of them with another VIEW-CHANGE: one that forgets what it had prepared.
    let mut view_changes = first.view_changes.clone();
    let ViewChange { replica, certificate, .. } = &*view_changes[0];
    view_changes[0] = secrets.view_change(*replica, 1, certificate.clone(), Vec::new());
    let second = secrets.new_view(1, view_changes);
    assert_ne!(second, first);
    let backup = cluster.others(&[primary, cluster.primary(0)])[0];
    let message = cluster.verifier.check(primary, Message::NewView(second)).expect("well signed");
    let again = cluster.verifier.check(primary, Message::NewView(Arc::clone(&first))).expect("the first one");
    cluster.step(backup, Input::Message { from: primary, message: again });
    assert_eq!(cluster.hosts[backup.index()].replica.counters().ignored_conflicting, 0, "the same again");
    assert_eq!(cluster.hosts[backup.index()].replica.ordering().new_view(), Some(&first));
    cluster.step(backup, Input::Message { from: primary, message });
    let counters = cluster.hosts[backup.index()].replica.counters();
    assert_eq!((counters.ignored_conflicting, counters.evidence), (1, 2), "and of who forgot");
    assert_eq!(cluster.view(backup), (View(2), false));
}

#[test]
fn v6_a_replica_that_starts_again_on_its_way_to_a_view_says_the_same_again() {
    let mut cluster = Cluster::running();
    cluster.hears = |_, _, message| !matches!(message, Message::Commit(_) | Message::NewView(_));
    cluster.submit();
    let (primary, backup) = (cluster.primary(0), cluster.primary(2));
    cluster.down.push(primary);
    cluster.pass_until(3 * T0, |cluster| cluster.sent_of(Kind::ViewChange).any(|(from, _)| *from == backup));
    let own = |cluster: &Cluster| cluster.hosts[backup.index()].replica.ordering().own_view_change().cloned();
    let before = own(&cluster);
    assert!(before.as_ref().is_some_and(|message| !message.prepared.is_empty()));
    cluster.restart(backup);
    assert_eq!(cluster.view(backup), (View(1), false), "the promise stands");
    assert_eq!(own(&cluster), before, "byte for byte");
    cluster.hears = |_, _, _| true;
    cluster.pass_until(20 * T0, |cluster| cluster.done == 2);
}

#[test]
fn s9_a_primary_that_starts_again_repeats_its_new_view_and_makes_no_other() {
    let (mut cluster, first) = in_view_one();
    let primary = cluster.primary(1);
    cluster.sent.clear();
    cluster.restart(primary);
    assert_eq!(cluster.view(primary), (View(1), true));
    assert_eq!(cluster.hosts[primary.index()].replica.ordering().new_view(), Some(&first));
    cluster.hears = |_, _, _| true;
    cluster.pass_until(20 * T0, |cluster| cluster.done == 2);
    let all_the_same = cluster.sent_of(Kind::NewView).all(|(_, message)| match message {
        Message::NewView(new_view) => new_view.view > View(1) || *new_view == first,
        _ => unreachable!("only NEW-VIEWs were asked for"),
    });
    assert!(all_the_same);
}

#[test]
fn d1_a_new_view_is_durable_before_its_primary_speaks_of_it() {
    let mut cluster = Cluster::running();
    let primary = cluster.primary(1);
    cluster.down.push(cluster.primary(0));
    cluster.submit();
    cluster.pass_until(3 * T0, |cluster| cluster.sent_of(Kind::ViewChange).any(|(from, _)| *from == primary));
    let records = |cluster: &Cluster| {
        let places = cluster.hosts[primary.index()].records.iter();
        places.filter(|persist| matches!(persist.place, Place::Journal(Record::NewView(_)))).count()
    };
    assert_eq!(records(&cluster), usize::from(cluster.sent_of(Kind::NewView).count() > 0));
    cluster.pass_until(5 * SECOND, |cluster| cluster.done == 2);
    assert_eq!(records(&cluster), 1);
}
