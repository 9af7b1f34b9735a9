//! Links that are cut, in both directions or one, and links on which packets are late or lost.

use std::time::Duration;

use bft_cli::exit::{Failure, Reason};
use bft_core::ids::ReplicaId;

use crate::stage::{Stage, Told, ms, told};
use crate::wire::{Station, Way, Weather};
use crate::world::{CLIENTS, station};

/// Everybody but `replica`.
fn all_others(stage: &Stage<'_>, replica: ReplicaId) -> Vec<Station> {
    stage.world.others(replica).into_iter().map(station).chain([CLIENTS]).collect()
}

pub fn cut_off_primary(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let victim = stage.world.primary()?;
    cut_off(stage, victim)
}

pub fn cut_off_backup(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let victim = stage.world.backup()?;
    cut_off(stage, victim)
}

fn cut_off(stage: &Stage<'_>, victim: ReplicaId) -> Result<Told, Failure> {
    let others = all_others(stage, victim);
    during(stage, victim, || stage.world.wire().set_between(&[station(victim)], &others, Way::Cut))
}

pub fn deaf_primary(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let victim = stage.world.primary()?;
    let others = all_others(stage, victim);
    let cut = || others.iter().for_each(|other| stage.world.wire().set(*other, station(victim), Way::Cut));
    during(stage, victim, cut)
}

pub fn dumb_primary(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let victim = stage.world.primary()?;
    let others = all_others(stage, victim);
    let cut = || others.iter().for_each(|other| stage.world.wire().set(station(victim), *other, Way::Cut));
    during(stage, victim, cut)
}

/// Cuts, lets the others go on, heals, and waits for `victim` to be with them again.
fn during(stage: &Stage<'_>, victim: ReplicaId, cut: impl FnOnce()) -> Result<Told, Failure> {
    cut();
    let first = stage.first_commit(stage.load.now())?;
    stage.sleep(stage.span)?;
    stage.world.heal();
    let back = stage.catch_up(victim)?;
    Ok(told(format!("first commit {} after the cut, caught up {} after it was healed", ms(first), ms(back))))
}

/// No side has a quorum.
pub fn split(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let all: Vec<_> = stage.world.replicas().into_iter().map(station).collect();
    let (ones, others) = all.split_at(all.len() / 2);
    stage.world.wire().set_between(ones, others, Way::Cut);
    let cut = stage.load.now();
    stage.sleep(stage.span)?;
    let answered = stage.load.answered_since(cut);
    if answered > 0 {
        let what = format!("{answered} operations were answered that were begun while no side had a quorum");
        return Err(Failure::new(Reason::Failed, what));
    }
    stage.world.heal();
    let healed = Duration::from_nanos(stage.load.now() - cut);
    let first = stage.first_commit(cut)?.saturating_sub(healed);
    let figures = format!("no commit in {}, the first one {} after it was healed", ms(healed), ms(first));
    Ok(told(figures))
}

pub fn bad_weather(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let (delay, jitter) = (Duration::from_millis(50), Duration::from_millis(20));
    stage.world.weather(Weather { delay, jitter, lost_of_1000: 50 });
    let begun = stage.load.now();
    let first = stage.first_commit(begun)?;
    stage.sleep(3 * stage.span)?;
    let per_second =
        stage.load.answered_since(begun) as f64 / Duration::from_nanos(stage.load.now() - begun).as_secs_f64();
    stage.world.heal();
    let after = stage.first_commit(stage.load.now())?;
    let figures =
        format!("first commit after {}, {per_second:.1} operations/s, {} after it cleared up", ms(first), ms(after));
    Ok(told(figures))
}
