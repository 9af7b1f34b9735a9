//! A replica that runs twice: two processes with one key, from the same files, each with a part of the others. That is
//! one faulty replica, and all that four can bear: the others agree, and where all three others meet they go on.
//!
//! Before its first vote each process asks a quorum what it holds under its signature (core's `replica/handshake.rs`). One
//! whose twin has voted by then learns so, and never votes: nothing is signed that contradicts anything, and nobody finds
//! evidence.

use std::fs;
use std::time::Duration;

use bft_cli::exit::{Failure, Reason};
use bft_core::ids::ReplicaId;

use crate::stage::{Stage, Told, ms};
use crate::wire::{Station, Way, Weather};
use crate::world::{CLIENTS, TWIN, World, station};

/// How often the others are parted, and meet again.
const ROUNDS: usize = 3;

pub fn of_primary(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let victim = stage.world.primary()?;
    twin(stage, victim)
}

pub fn of_backup(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let victim = stage.world.backup()?;
    twin(stage, victim)
}

fn twin(stage: &mut Stage<'_>, victim: ReplicaId) -> Result<Told, Failure> {
    stage.world.kill(station(victim))?;
    stage.world.make_twin(victim)?;
    part(stage, victim, 0);
    let begun = stage.load.now();
    stage.world.start(station(victim))?;
    stage.world.start(TWIN)?;
    // Nobody can tell this twin from a replica that was restarted.
    let first = stage.first_commit(begun)?;
    let (mut with_commits, mut meetings) = (0, Vec::new());
    for round in 0..ROUNDS {
        part(stage, victim, round);
        let parted = stage.load.now();
        stage.sleep(stage.span)?;
        with_commits += usize::from(stage.load.first_answer_to(parted).is_some());
        meet(stage, victim, round);
        meetings.push(ms(stage.first_commit(stage.load.now())?));
        if round == 0 {
            let is_learner = |world: &World<'_>| world.counted(victim, ["learner"]).is_some_and(|[why]| why > 0);
            stage.world.wait("a process that learns that its twin has voted", is_learner)?;
        }
        stage.sleep(Duration::from_millis(500))?;
    }
    let ended = stage.world.ended().map_or(String::new(), |(who, how)| format!(", station {} ended: {how}", who.0));
    stage.world.kill(TWIN)?;
    stage.world.heal();
    let accusers = accusers(stage, victim);
    if accusers > 0 {
        let what = format!("{accusers} have evidence, but only one of the two processes has voted");
        return Err(Failure::new(Reason::Failed, what));
    }
    let figures = format!(
        "first commit {} after both ran, commits in {with_commits} of {ROUNDS} partitions and {} after each meeting, \
         the second process is a learner{ended}",
        ms(first),
        meetings.join(", "),
    );
    Ok(Told { figures, faulty: Some(victim) })
}

/// One of the two processes, and the other.
fn processes(victim: ReplicaId, round: usize) -> [Station; 2] {
    if round.is_multiple_of(2) { [TWIN, station(victim)] } else { [station(victim), TWIN] }
}

/// Two of the three others with one of the two processes, and the third with the other, in turn; clients are where the
/// two are.
fn part(stage: &Stage<'_>, victim: ReplicaId, round: usize) {
    let others: Vec<_> = stage.world.others(victim).into_iter().map(station).collect();
    let alone = others[round % others.len()];
    let two: Vec<_> = others.into_iter().filter(|other| *other != alone).chain([CLIENTS]).collect();
    let [with_two, with_one] = processes(victim, round);
    let (wire, open) = (stage.world.wire(), Way::Open(Weather::default()));
    wire.set_between(&[with_one], &two, Way::Cut);
    wire.set_between(&[with_two], &[alone], Way::Cut);
    wire.set_between(&[alone], &two, Way::Cut);
    wire.set_between(&[with_two], &two, open);
    wire.set_between(&[with_one], &[alone], open);
}

/// All others with the process that knows less.
fn meet(stage: &Stage<'_>, victim: ReplicaId, round: usize) {
    let others: Vec<_> = stage.world.others(victim).into_iter().map(station).chain([CLIENTS]).collect();
    let [left, joins] = processes(victim, round);
    stage.world.wire().set_between(&others, &others, Way::Open(Weather::default()));
    stage.world.wire().set_between(&[left], &others, Way::Cut);
    stage.world.wire().set_between(&[joins], &others, Way::Open(Weather::default()));
}

/// How many of the others can prove to anybody what it did.
fn accusers(stage: &Stage<'_>, victim: ReplicaId) -> usize {
    let has_evidence = |replica: &ReplicaId| {
        let folder = stage.world.data_dir(*replica).join("evidence");
        fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
    };
    stage.world.others(victim).iter().filter(|replica| has_evidence(replica)).count()
}
