//! How a walk sees what a real core did, as steps of the model, and compares the two.

use std::fmt;
use std::sync::Arc;

use bft_core::door::{Persist, Place};
use bft_core::journal::record::{Record, Vote};
use bft_core::wire::request::Body;
use stateright::Model;

use super::host::{Host, Out};
use super::names::core_seq;
use super::network::order_of;
use super::{Diverged, Ended, Tally, Walk};
use crate::agreement::{Action, Phase, Placed, REPLICAS, View};

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noted {
    /// The model has no such records.
    NotOfTheModel,
    /// It belongs to a step that a later record tells.
    NoStepYet,
    /// This step was taken.
    Step(Action),
}

impl Walk {
    /// Everything that a core did must be steps that the model allows, in this order.
    pub(super) fn observe(&mut self, replica: usize, out: Out) -> Result<Vec<Action>, Ended> {
        let mut taken = Vec::new();
        let mut left = None;
        for Persist { position, place } in out.records {
            let noted = self.note(replica, &place, &mut left)?;
            if noted != Noted::NotOfTheModel {
                self.waiting[replica].push_back(position);
            }
            if let Noted::Step(action) = noted {
                taken.push(action);
                self.take(action)?;
            }
        }
        if let Some(action) = left.map(|view| Action::Leave { replica, view }) {
            taken.push(action);
            self.take(action)?;
        }
        for outgoing in out.left {
            self.network.leave(&mut self.names, replica, outgoing.to, outgoing.message)?;
        }
        Ok(taken)
    }

    /// What a record says. A promise is kept in `left` until it is clear whether a NEW-VIEW led there.
    fn note(&mut self, replica: usize, place: &Place, left: &mut Option<View>) -> Result<Noted, Ended> {
        match place {
            Place::Superblock(superblock) => {
                let view = self.names.view(superblock.promised)?;
                if view <= self.state.replicas[replica].view || *left == Some(view) {
                    return Ok(Noted::NotOfTheModel);
                }
                if let Some(view) = left.replace(view) {
                    self.take(Action::Leave { replica, view })?;
                }
                Ok(Noted::NoStepYet)
            }
            Place::Journal(Record::NewView(begun)) => {
                let (view, order) = (self.names.view(begun.view)?, order_of(&self.names, &begun.view_changes)?);
                let leads = view.primary() == replica;
                *left = None;
                let follow = Action::Follow { replica, view, order };
                Ok(Noted::Step(if leads { Action::Lead { replica, order } } else { follow }))
            }
            Place::Journal(Record::Vote(vote)) => self.note_vote(replica, vote),
            Place::Journal(Record::Cert(certificate)) => {
                let slot = self.names.slot(certificate.position.seq);
                Ok(slot.map_or(Noted::NotOfTheModel, |slot| Noted::Step(Action::Certify { replica, slot })))
            }
            Place::Journal(
                Record::Committed(_)
                | Record::CkptVote { .. }
                | Record::SnapVote { .. }
                | Record::SnapStable(_)
                | Record::Stable(_)
                | Record::Evidence(_),
            ) => Ok(Noted::NotOfTheModel),
        }
    }

    fn note_vote(&mut self, replica: usize, vote: &Vote) -> Result<Noted, Ended> {
        let body = vote.body.as_ref().map(|body| Body::parse(body.clone(), self.verifier.bounds()));
        if let Some(Ok(body)) = body {
            self.names.note(vote.header, &Arc::new(body))?;
        }
        let Some(slot) = self.names.slot(vote.position.seq) else { return Ok(Noted::NotOfTheModel) };
        let (view, value) = (self.names.view(vote.position.view)?, self.names.value(vote.position.digest));
        let accept = Action::Accept { replica, slot, value };
        let proposes = view.primary() == replica;
        Ok(Noted::Step(if proposes { Action::Propose { replica, slot, value } } else { accept }))
    }

    /// The model takes the step, if it allows it.
    pub(super) fn take(&mut self, action: Action) -> Result<(), Diverged> {
        self.steps.push(action.to_string());
        let mut allowed = Vec::new();
        self.model.actions(&self.state, &mut allowed);
        if !allowed.contains(&action) {
            return Err(Diverged(format!("the code does what the model does not allow: {action}")));
        }
        self.state = self.model.next_state(&self.state, action).expect("a step that is allowed leads somewhere");
        Ok(())
    }

    /// Model and code say the same, and the model is content with it.
    pub(super) fn compare(&mut self, tally: &mut Tally) -> Result<(), Ended> {
        self.network.compare(&self.state)?;
        for property in self.model.properties() {
            if !(property.condition)(&self.model, &self.state) {
                return Err(Diverged(format!("{} is broken", property.name)).into());
            }
        }
        for replica in 0..REPLICAS {
            if let Some(host) = &self.hosts[replica] {
                self.compare_replica(replica, host)?;
                tally.committed += self.committed_of(host)?;
            }
        }
        Ok(())
    }

    fn compare_replica(&self, replica: usize, host: &Host) -> Result<(), Ended> {
        let (model, real) = (&self.state.replicas[replica], host.replica.ordering());
        let same = |what: &str, model: &dyn fmt::Debug, real: &dyn fmt::Debug| {
            let (model, real) = (format!("{model:?}"), format!("{real:?}"));
            let text = || Diverged(format!("r{replica}: {what} is {real}, in the model {model}"));
            if model == real { Ok(()) } else { Err(text()) }
        };
        same("view", &model.view, &self.names.view(real.view())?)?;
        same("being in its view", &(model.phase == Phase::Normal), &real.is_normal())?;
        for slot in 0..self.model.slots {
            let there = real.slot(core_seq(slot)).ok_or_else(|| Diverged(format!("r{replica} has no slot {slot}")))?;
            let order = real.beginning().order.get(&core_seq(slot)).map(|chosen| self.names.value(chosen.digest));
            same("what the view begins with", &model.order[slot], &order)?;
            let accepted = there.accepted.as_ref().map(|accepted| self.names.value(accepted.position.digest));
            same("what is accepted", &model.accepted[slot], &accepted)?;
            same("being certified", &model.certified[slot], &there.cert_at.is_some())?;
            let now = there.accepted.as_ref().filter(|_| there.cert_at.is_some()).map(|accepted| accepted.position);
            let before = there.prepared_before.as_ref().map(|before| before.position);
            let shows = now.or(before).map(|at| {
                Ok::<_, Ended>(Placed { view: self.names.view(at.view)?, value: self.names.value(at.digest) })
            });
            same("the certificate that it shows", &model.certificates()[slot], &shows.transpose()?)?;
        }
        same("records that wait", &model.pending.len(), &self.waiting[replica].len())?;
        Ok(())
    }

    /// What a core takes for committed anybody can prove, in the model too.
    fn committed_of(&self, host: &Host) -> Result<u64, Ended> {
        let slots =
            (0..self.model.slots).filter_map(|slot| Some((slot, host.replica.ordering().slot(core_seq(slot))?)));
        let mut count = 0;
        for (slot, certificate) in slots.filter_map(|(slot, at)| Some((slot, at.committed.as_ref()?))) {
            let at = certificate.position;
            let (view, value) = (self.names.view(at.view)?, self.names.value(at.digest));
            if !self.model.is_committable(&self.state, view, slot, value) {
                return Err(Diverged(format!("{value} is committed at {slot} in {view}, not so in the model")).into());
            }
            count += 1;
        }
        Ok(count)
    }
}
