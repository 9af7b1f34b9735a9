//! A replica that executes the same order to something else, step by step (K4): it is found, it names the first Seq that
//! differs, goes back to an agreed state and comes back. Whole clusters in which services drift are the simulator's.

mod common;

use std::collections::BTreeMap;

use bft_core::config::ProtocolParams;
use bft_core::divergence::{Alarm, Finding, Report, Unnamed, What};
use bft_core::door::Input;
use bft_core::ids::{ReplicaId, Seq, View};
use bft_core::limits::SECOND;
use bft_core::replica::QuarantinePhase;
use bft_core::wire::message::{Kind, Message, Trail};
use common::cluster::Cluster;

/// A checkpoint every 8 Seqs, a snapshot every `snapshot_slots`.
fn cluster(snapshot_slots: u64) -> Cluster {
    let params = ProtocolParams {
        checkpoint_interval: 8,
        window: 16,
        pipeline_max: 8,
        snapshot_slots,
        ..ProtocolParams::default()
    };
    let mut cluster = Cluster::with(params);
    cluster.settle();
    cluster.link();
    cluster
}

/// A backup of the first view.
fn backup(cluster: &Cluster) -> ReplicaId {
    cluster.others(&[cluster.primary(0)])[0]
}

fn is_in_quarantine(cluster: &Cluster, replica: ReplicaId) -> bool {
    cluster.hosts[replica.index()].replica.quarantine().is_some()
}

fn reports(cluster: &Cluster, replica: ReplicaId) -> Vec<&Report> {
    let alarms = cluster.hosts[replica.index()].alarms.iter();
    alarms
        .map(|alarm| match alarm {
            Alarm::Diverged(report) => &**report,
            Alarm::Nondeterminism(what) => panic!("a quorum agrees: {what:?}"),
        })
        .collect()
}

/// Whether a replica signed one root at most for each Seq, in everything that left it.
fn signed_once(cluster: &Cluster, replica: ReplicaId) -> bool {
    let mut roots = BTreeMap::new();
    cluster.sent.iter().filter(|(from, _)| *from == replica).all(|(_, message)| match message {
        Message::Checkpoint(vote) if vote.signatures.len() == 1 => {
            *roots.entry(vote.seq).or_insert(vote.root) == vote.root
        }
        _ => true,
    })
}

fn votes(cluster: &Cluster, replica: ReplicaId) -> usize {
    let is_vote =
        |kind| matches!(kind, Kind::PrePrepare | Kind::Prepare | Kind::Commit | Kind::ViewChange | Kind::Snapshot);
    cluster.sent.iter().filter(|(from, message)| *from == replica && is_vote(message.kind())).count()
}

fn comes_back(cluster: &mut Cluster, replica: ReplicaId) {
    for _ in 0..40 {
        if !is_in_quarantine(cluster, replica) {
            return;
        }
        cluster.submit();
        cluster.pass(SECOND);
    }
    panic!("{replica:?} does not come back: {:?}", cluster.hosts[replica.index()].replica.quarantine());
}

#[test]
fn k4_a_replica_that_differs_names_the_first_seq_goes_back_and_votes_again() {
    let mut cluster = cluster(8);
    let (drifter, others) = (backup(&cluster), cluster.others(&[backup(&cluster)]));
    cluster.host(drifter).astray.insert(Seq(13), 1);
    cluster.run_to(16);
    cluster.pass(SECOND / 10);
    assert!(is_in_quarantine(&cluster, drifter) && others.iter().all(|other| !is_in_quarantine(&cluster, *other)));
    let [report] = reports(&cluster, drifter)[..] else { panic!("one report") };
    assert_eq!((report.what, report.seq, report.repeated), (What::Checkpoint, Seq(16), 0));
    let wrong: Vec<_> = report.roots.iter().filter(|(_, root)| *root == report.here).map(|(who, _)| *who).collect();
    assert_eq!(wrong, [drifter], "{:?}", report.roots);
    let Finding::Slot(slot) = &report.finding else { panic!("{:?}", report.finding) };
    assert_eq!((slot.seq, slot.here.reply_root), (Seq(13), slot.there.reply_root));
    assert_ne!((slot.here.delta, slot.here.exec), (slot.there.delta, slot.there.exec));
    let operations = slot.operations.as_ref().expect("the journal has it");
    assert_eq!((operations.listed.len(), operations.more, operations.listed[0].bytes), (1, 0, 2));

    // Meanwhile it answers nobody and votes for nothing.
    let (voted, answered) = (votes(&cluster, drifter), cluster.done);
    cluster.submit();
    cluster.pass_until(SECOND, |cluster| cluster.done == answered + 1);
    assert_eq!(votes(&cluster, drifter), voted);

    comes_back(&mut cluster, drifter);
    let counters = cluster.hosts[drifter.index()].replica.counters();
    assert_eq!((counters.divergences, counters.quarantines_ended), (1, 1));
    let voted = votes(&cluster, drifter);
    let executed = cluster.hosts[drifter.index()].replica.executed();
    cluster.run_to(executed.0 + 20);
    assert!(votes(&cluster, drifter) > voted, "it votes again");
    assert!(cluster.config.replicas().all(|replica| signed_once(&cluster, replica)));
    cluster.come_together();
}

#[test]
fn k4_a_primary_in_quarantine_is_given_up_and_comes_back() {
    let mut cluster = cluster(8);
    let drifter = cluster.primary(0);
    cluster.host(drifter).astray.insert(Seq(5), 1);
    cluster.run_to(8);
    assert!(is_in_quarantine(&cluster, drifter));
    let done = cluster.done;
    cluster.submit();
    cluster.pass_until(5 * SECOND, |cluster| cluster.done == done + 1);
    assert!(cluster.view(cluster.others(&[drifter])[0]).0 > View(0));
    comes_back(&mut cluster, drifter);
    cluster.come_together();
}

/// What peers give is compared with the root that a blocking set signed: nobody makes a report name another Seq.
#[test]
fn k4_a_liar_does_not_make_the_report_name_another_seq() {
    let mut cluster = cluster(8);
    let drifter = backup(&cluster);
    let liar = cluster.others(&[drifter])[0];
    cluster.host(drifter).astray.insert(Seq(13), 1);
    cluster.hears = |_, _, message| message.kind() != Kind::Trail;
    cluster.run_to(16);
    cluster.pass(SECOND / 10);
    assert!(reports(&cluster, drifter).is_empty());
    let trail = cluster.sent_of(Kind::Trail).find_map(|(_, message)| match message {
        Message::Trail(trail) => Some(trail.clone()),
        _ => None,
    });
    let trail = trail.expect("it asked, and they answered");
    let say = |cluster: &mut Cluster, trail: Trail| {
        let message = cluster.verifier.check(liar, Message::Trail(trail)).expect("passes the door");
        cluster.queue.push_back((drifter, Input::Message { from: liar, message }));
        cluster.settle();
    };
    let mut lies = Vec::new();
    for nth in 0..trail.steps.len() {
        let mut lie = trail.clone();
        lie.steps[nth].delta.0[0] ^= 1;
        lies.push(lie);
    }
    lies.push(Trail { exec_before: trail.chain, ..trail.clone() });
    lies.push(Trail { chain: trail.exec_before, ..trail.clone() });
    lies.push(Trail { steps: trail.steps[1..].to_vec(), ..trail.clone() });
    lies.push(Trail { steps: Vec::new(), ..trail.clone() });
    lies.push(Trail { seq: Seq(8), ..trail.clone() });
    lies.push(Trail { steps: trail.steps.repeat(200), ..trail.clone() });
    lies.push(Trail { seq: Seq(0), ..trail.clone() });
    for lie in lies {
        say(&mut cluster, lie);
        assert!(reports(&cluster, drifter).is_empty());
    }
    say(&mut cluster, trail);
    let [report] = reports(&cluster, drifter)[..] else { panic!("one report") };
    assert!(matches!(&report.finding, Finding::Slot(slot) if slot.seq == Seq(13)), "{:?}", report.finding);
}

#[test]
fn k4_where_nobody_gives_what_proves_anything_the_report_names_the_interval() {
    let mut cluster = cluster(8);
    let drifter = backup(&cluster);
    cluster.host(drifter).astray.insert(Seq(13), 1);
    cluster.hears = |_, _, message| message.kind() != Kind::Trail;
    cluster.run_to(16);
    cluster.pass(5 * SECOND);
    let [report] = reports(&cluster, drifter)[..] else { panic!("one report") };
    let (after, through, why) = (Seq(8), Seq(16), Unnamed::NoAnswer);
    assert_eq!(report.finding, Finding::Between { after, through, why });
    comes_back(&mut cluster, drifter);
}

#[test]
fn k4_quarantine_survives_a_restart() {
    let mut cluster = cluster(8);
    let drifter = backup(&cluster);
    cluster.host(drifter).astray.insert(Seq(13), 1);
    // It finds no way back before it is killed.
    cluster.hears = |_, _, message| message.kind() != Kind::Trail;
    cluster.run_to(16);
    assert!(is_in_quarantine(&cluster, drifter));
    let voted = votes(&cluster, drifter);
    cluster.restart(drifter);
    cluster.link();
    assert!(is_in_quarantine(&cluster, drifter));
    cluster.pass(SECOND);
    let quarantine = cluster.hosts[drifter.index()].replica.quarantine().expect("it is");
    assert_eq!((quarantine.phase, quarantine.through), (QuarantinePhase::Executing, Seq(16)));
    assert_eq!(votes(&cluster, drifter), voted);
    comes_back(&mut cluster, drifter);

    // And after it has come back, a replay of what it once signed wrongly is no news.
    cluster.restart(drifter);
    cluster.link();
    assert!(!is_in_quarantine(&cluster, drifter));
    let executed = cluster.hosts[drifter.index()].replica.executed();
    cluster.run_to(executed.0 + 20);
    assert!(!is_in_quarantine(&cluster, drifter) && signed_once(&cluster, drifter));
    cluster.come_together();
}

#[test]
fn k4_a_service_that_goes_astray_at_one_seq_for_ever_is_led_past_it() {
    let mut cluster = cluster(24);
    let drifter = backup(&cluster);
    cluster.host(drifter).astray.insert(Seq(29), u32::MAX);
    cluster.run_to(34);
    assert!(is_in_quarantine(&cluster, drifter));
    assert_eq!(cluster.hosts[drifter.index()].replica.stable_snapshot(), Seq(24));
    cluster.pass(60 * SECOND);
    // At once, and then after 4, 8, 16 and 32 seconds.
    let repairs = cluster.hosts[drifter.index()].replica.counters().repairs;
    assert!((3..=5).contains(&repairs), "{repairs} repairs in a minute");
    let told = reports(&cluster, drifter);
    let is_it = |report: &&Report| matches!(&report.finding, Finding::Slot(slot) if slot.seq == Seq(29));
    assert!(told.iter().all(is_it) && told.iter().enumerate().all(|(nth, report)| report.repeated == nth as u32));

    // The others' next snapshot lies behind it.
    cluster.run_to(49);
    comes_back(&mut cluster, drifter);
    let counters = cluster.hosts[drifter.index()].replica.counters();
    assert_eq!((counters.transfers, counters.quarantines_ended), (1, 1));
    assert!(signed_once(&cluster, drifter));
    cluster.come_together();
}

#[test]
fn k4_where_the_own_snapshot_is_spoilt_that_of_the_others_leads_back() {
    let mut cluster = cluster(24);
    let drifter = backup(&cluster);
    cluster.host(drifter).astray.insert(Seq(29), 1);
    cluster.run_to(31);
    cluster.host(drifter).files.lose(Seq(24));
    cluster.run_to(34);
    cluster.pass(20 * SECOND);
    // Nobody has a newer one: the same snapshot is fetched whole.
    let replica = &cluster.hosts[drifter.index()].replica;
    assert_eq!(replica.quarantine().expect("no checkpoint has come since").phase, QuarantinePhase::Executing);
    assert_eq!((replica.counters().transfers, replica.stable_snapshot()), (1, Seq(24)));
    cluster.run_to(49);
    comes_back(&mut cluster, drifter);
    assert_eq!(cluster.hosts[drifter.index()].replica.counters().transfers, 1);
    cluster.come_together();
}

#[test]
fn k4_before_there_is_a_snapshot_a_start_leads_back() {
    let mut cluster = cluster(1024);
    let drifter = backup(&cluster);
    cluster.host(drifter).astray.insert(Seq(5), 1);
    cluster.run_to(12);
    cluster.pass(20 * SECOND);
    let quarantine = cluster.hosts[drifter.index()].replica.quarantine().expect("nothing leads back");
    assert_eq!(quarantine.phase, QuarantinePhase::Stopped);
    cluster.restart(drifter);
    cluster.link();
    comes_back(&mut cluster, drifter);
    assert!(signed_once(&cluster, drifter));
    cluster.come_together();
}

#[test]
fn k4_a_state_that_differs_although_all_replies_agree_names_its_pieces() {
    let mut cluster = cluster(8);
    let drifter = backup(&cluster);
    cluster.run_to(12);
    cluster.host(drifter).state ^= 1;
    cluster.run_to(16);
    cluster.pass(SECOND / 10);
    let [report] = reports(&cluster, drifter)[..] else { panic!("one report") };
    assert_eq!((report.what, report.seq), (What::Snapshot, Seq(16)));
    assert_eq!(report.finding, Finding::Pieces { chunks: vec![0], clients: Vec::new(), more: 0 });
    comes_back(&mut cluster, drifter);
    cluster.come_together();
}

#[test]
fn k4_when_nobody_can_agree_everybody_says_so_and_nobody_stops() {
    let mut cluster = cluster(8);
    // Each in its own way: no two of them agree.
    for replica in cluster.config.replicas() {
        cluster.host(replica).astray.insert(Seq(5), 1);
    }
    cluster.run_to(8);
    cluster.pass(SECOND);
    for host in &cluster.hosts {
        assert_eq!(host.replica.counters().nondeterminism, 1);
        let [Alarm::Nondeterminism(disagreement)] = &host.alarms[..] else { panic!("{:?}", host.alarms) };
        // Three of four are enough to know it, whatever the fourth came to.
        assert!(disagreement.seq == Seq(8) && disagreement.roots.len() >= 3, "{disagreement:?}");
        assert!(host.replica.quarantine().is_none(), "who is right nobody knows");
    }
    cluster.run_to(12);
    assert_eq!(cluster.hosts[0].replica.stable(), Seq(0), "and the window ends where it must");
}
