//! How a walk gives the real core what lets it take a step that the model allows, and what else may arrive.

use std::sync::Arc;

use bft_core::door::{Input, To};
use bft_core::wire::message::{BatchBody, Message};
use bft_sim::rng::Rng;

use super::names::core_seq;
use super::{Diverged, Ended, REQUESTS, Walk, on_its_way};
use crate::agreement::{Action, Phase, QUORUM, REPLICAS, Replicas, Value, View};

/// Steps of the clock before a replica that does not leave its view is taken to wait for something else.
pub const DEADLINES: usize = 1500;

/// Whether the code must take a step that the model allows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It must.
    Surely,
    /// What arrived out of turn may keep it from that, or make it take another.
    Perhaps,
}

impl Walk {
    /// Gives the core what lets it take this step, and says what it did.
    pub(super) fn want(&mut self, wanted: Action) -> Result<(Taken, Vec<Action>), Ended> {
        match wanted {
            Action::Propose { replica, slot, value } => {
                let taken = if self.state.replicas[replica].order[slot].is_some() {
                    self.show_body(replica, slot, value)?
                } else {
                    self.ask(replica)?
                };
                Ok((Taken::Perhaps, taken))
            }
            Action::Accept { replica, slot, value } => self.want_accepted(replica, slot, value),
            Action::Certify { replica, slot } => self.want_certified(replica, slot),
            Action::Flush { replica } => Ok((Taken::Surely, self.flush(replica)?)),
            Action::Leave { replica, view } => Ok((Taken::Perhaps, self.want_left(replica, view)?)),
            Action::Lead { replica, .. } => Ok((Taken::Perhaps, self.want_led(replica)?)),
            Action::Follow { replica, view, order } => match self.network.new_views.get(&(view, order)) {
                Some(sent) => {
                    let sent = Message::NewView(Arc::clone(sent));
                    Ok((Taken::Surely, self.arrive(replica, view.primary(), sent)?))
                }
                None => {
                    let forged = self.enemy.new_view(&mut self.rng, &self.names, &self.network, view);
                    let taken = forged.map(|forged| self.arrive(replica, self.enemy.replica, forged));
                    Ok((Taken::Perhaps, taken.transpose()?.unwrap_or_default()))
                }
            },
            Action::Crash { replica } => Ok((Taken::Surely, self.crash(replica)?)),
        }
    }

    fn want_accepted(&mut self, replica: usize, slot: usize, value: Value) -> Result<(Taken, Vec<Action>), Ended> {
        let view = self.state.replicas[replica].view;
        let primary = view.primary();
        let sent = self.network.votes.get(&(primary, view, slot, value)).cloned();
        let forges = primary == self.enemy.replica;
        let forged = || forges.then(|| self.enemy.proposal(&self.names, view, slot, value))?;
        let Some(message) = sent.or_else(forged) else { return Ok((Taken::Perhaps, Vec::new())) };
        // A core that learned what is committed here from others needs no votes any more, unless its view begins with it.
        let known = self.host(replica).replica.ordering().slot(core_seq(slot)).is_some_and(|at| at.committed.is_some());
        let must = known && self.state.replicas[replica].order[slot].is_none();
        let taken = self.arrive(replica, primary, message)?;
        Ok((if must { Taken::Perhaps } else { Taken::Surely }, taken))
    }

    /// PREPAREs of all who sent one. An enemy that voted otherwise before, at this replica, does not count here.
    fn want_certified(&mut self, replica: usize, slot: usize) -> Result<(Taken, Vec<Action>), Ended> {
        let Some(value) = self.state.replicas[replica].accepted[slot] else { return Ok((Taken::Perhaps, Vec::new())) };
        let view = self.state.replicas[replica].view;
        let others = |from: &usize| *from != replica && *from != view.primary();
        let sent = (0..REPLICAS).filter(others).filter_map(|from| {
            let message = self.network.votes.get(&(from, view, slot, value)).cloned();
            message.map(|message| (from, message))
        });
        let mut sent: Vec<_> = sent.collect();
        let members = Replicas::default().with(replica).with(view.primary());
        let correct = sent.iter().fold(members, |members, (from, _)| members.with(*from));
        let surely = if correct.len() >= QUORUM { Taken::Surely } else { Taken::Perhaps };
        if others(&self.enemy.replica)
            && let Some(at) = self.names.position(view, slot, value)
        {
            sent.push((self.enemy.replica, self.enemy.prepare(at)));
        }
        let mut taken = Vec::new();
        for (from, message) in sent {
            taken.append(&mut self.arrive(replica, from, message)?);
        }
        Ok((surely, taken))
    }

    /// By a timer, or because others are on their way.
    fn want_left(&mut self, replica: usize, view: View) -> Result<Vec<Action>, Ended> {
        let me = &self.state.replicas[replica];
        if view == me.view.next() && self.rng.chance(500) {
            let in_view = me.phase == Phase::Normal;
            let mut taken = if in_view { self.ask(replica)? } else { self.tell_ways(replica, me.view)? };
            if taken.is_empty() {
                taken.append(&mut self.expire(replica)?);
            }
            return Ok(taken);
        }
        self.tell_ways(replica, view)
    }

    /// STATUS of everybody who is on its way to `view` or beyond.
    fn tell_ways(&mut self, replica: usize, view: View) -> Result<Vec<Action>, Ended> {
        let mut taken = Vec::new();
        for from in (0..REPLICAS).filter(|from| *from != replica) {
            let other = &self.state.replicas[from];
            let goes = other.phase != Phase::Normal && other.view >= view;
            if from == self.enemy.replica || goes {
                let view = if goes { other.view } else { view };
                let status = on_its_way(self.verifier.config(), view);
                taken.append(&mut self.arrive(replica, from, status)?);
            }
        }
        Ok(taken)
    }

    /// VIEW-CHANGEs of everybody for the view that `replica` is to lead.
    fn want_led(&mut self, replica: usize) -> Result<Vec<Action>, Ended> {
        let view = self.state.replicas[replica].view;
        let of_view = self.network.view_changes.iter().filter(|(of, _)| of.view == view && of.from != replica);
        let mut sent: Vec<_> = of_view.map(|(of, sent)| (of.from, Arc::clone(sent))).collect();
        sent.push((self.enemy.replica, self.enemy.view_change(&mut self.rng, &self.names, &self.network, view)));
        let mut taken = Vec::new();
        while !sent.is_empty() && self.state.replicas[replica].phase == Phase::Changing {
            let (from, message) = sent.swap_remove(self.rng.below(sent.len() as u64) as usize);
            taken.append(&mut self.arrive(replica, from, Message::ViewChange(message))?);
        }
        Ok(taken)
    }

    /// A Request arrives from its client.
    fn ask(&mut self, replica: usize) -> Result<Vec<Action>, Ended> {
        let request = self.requests[self.rng.below(REQUESTS as u64) as usize].clone();
        let checked = self.verifier.check_requests(vec![request]).0;
        self.input(replica, Input::Requests(checked))
    }

    /// The body that a primary may lack for what its view must begin with.
    fn show_body(&mut self, replica: usize, slot: usize, value: Value) -> Result<Vec<Action>, Ended> {
        let Some(batch) = self.names.batch(value).cloned() else { return Ok(Vec::new()) };
        let mut taken = self.call(replica)?;
        let body = BatchBody { seq: core_seq(slot), header: batch.header, body: batch.body };
        taken.append(&mut self.arrive(replica, self.enemy.replica, Message::Body(body))?);
        Ok(taken)
    }

    /// Lets the time pass, for this replica, until it leaves its view.
    fn expire(&mut self, replica: usize) -> Result<Vec<Action>, Ended> {
        let view = self.state.replicas[replica].view;
        let mut taken = Vec::new();
        for _ in 0..DEADLINES {
            taken.append(&mut self.call(replica)?);
            if self.state.replicas[replica].view != view {
                break;
            }
        }
        Ok(taken)
    }

    /// The time that `replica` asked for has come.
    fn call(&mut self, replica: usize) -> Result<Vec<Action>, Ended> {
        self.now = self.now.max(self.host(replica).deadline.0);
        self.input(replica, Input::Deadline)
    }

    fn flush(&mut self, replica: usize) -> Result<Vec<Action>, Ended> {
        let through = self.waiting[replica].pop_front();
        let through = through.ok_or_else(|| Diverged(format!("r{replica} has no record to flush")))?;
        let action = Action::Flush { replica };
        self.take(action)?;
        let now = self.now;
        let out = self.host(replica).flush(now, through)?;
        let mut taken = self.observe(replica, out)?;
        taken.insert(0, action);
        Ok(taken)
    }

    /// Afterwards the replica says its VIEW-CHANGE again as soon as somebody asks.
    fn crash(&mut self, replica: usize) -> Result<Vec<Action>, Ended> {
        let action = Action::Crash { replica };
        self.take(action)?;
        self.network.owe(replica, &self.state);
        self.waiting[replica].clear();
        let now = self.now;
        let out = self.host(replica).restart(now)?;
        let mut taken = self.observe(replica, out)?;
        taken.append(&mut self.swear_in(replica)?);
        if self.state.replicas[replica].phase == Phase::Changing {
            let view = self.state.replicas[replica].view;
            let asks = on_its_way(self.verifier.config(), view);
            taken.append(&mut self.arrive(replica, self.enemy.replica, asks)?);
        }
        taken.insert(0, action);
        Ok(taken)
    }

    /// Everybody answers what a replica asks before its first vote.
    pub(super) fn swear_in(&mut self, replica: usize) -> Result<Vec<Action>, Ended> {
        let mut taken = Vec::new();
        for from in (0..REPLICAS).filter(|from| *from != replica) {
            if let Some(answer) = self.host(replica).answer() {
                taken.append(&mut self.arrive(replica, from, answer)?);
            }
        }
        Ok(taken)
    }

    /// A message that nothing asked for: one that left, or one of the enemy's.
    pub(super) fn arrive_something(&mut self) -> Result<Vec<Action>, Ended> {
        let correct: Vec<_> = (0..REPLICAS).filter(|replica| *replica != self.enemy.replica).collect();
        let to = self.rng.pick(&correct);
        let some = match self.rng.below(7) {
            0 => pick(&mut self.rng, self.network.votes.iter()).map(|(at, message)| (at.0, message.clone())),
            1 | 2 => pick(&mut self.rng, self.network.commits.iter()).map(|(at, message)| (at.0, message.clone())),
            3 => pick(&mut self.rng, self.network.view_changes.iter())
                .map(|(of, sent)| (of.from, Message::ViewChange(Arc::clone(sent)))),
            4 => pick(&mut self.rng, self.network.new_views.iter())
                .map(|((view, _), sent)| (view.primary(), Message::NewView(Arc::clone(sent)))),
            5 => {
                let id = self.names.id(to);
                let for_it = self.network.others.iter().filter(|(_, at, _)| *at == To::All || *at == To::One(id));
                pick(&mut self.rng, for_it).map(|(from, _, message)| (*from, message.clone()))
            }
            _ => self.forge().map(|message| (self.enemy.replica, message)),
        };
        match some.filter(|(from, _)| *from != to) {
            Some((from, message)) => self.arrive(to, from, message),
            None => Ok(Vec::new()),
        }
    }

    /// Something that the enemy can sign.
    fn forge(&mut self) -> Option<Message> {
        let view = View(self.rng.below(u64::from(self.model.last_view.0) + 1) as u8);
        let slot = self.rng.below(self.model.slots as u64) as usize;
        let values: Vec<_> = self.names.values().collect();
        let value = self.rng.pick(&values);
        let at = self.names.position(view, slot, value)?;
        let leads = view.primary() == self.enemy.replica;
        match self.rng.below(5) {
            0 if leads => self.enemy.proposal(&self.names, view, slot, value),
            0 | 1 if !leads => Some(self.enemy.prepare(at)),
            2 if view > View(0) && leads => self.enemy.new_view(&mut self.rng, &self.names, &self.network, view),
            3 if view > View(0) => {
                Some(Message::ViewChange(self.enemy.view_change(&mut self.rng, &self.names, &self.network, view)))
            }
            _ => Some(self.enemy.commit(at)),
        }
    }
}

fn pick<T>(rng: &mut Rng, items: impl Iterator<Item = T>) -> Option<T> {
    let mut items: Vec<_> = items.collect();
    let count = items.len() as u64;
    (count > 0).then(|| items.swap_remove(rng.below(count) as usize))
}
