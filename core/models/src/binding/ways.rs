//! Holds the model of `crate::synchroniser` to the code: a walk lets timers expire, tells replicas who goes where, and lets
//! VIEW-CHANGEs and NEW-VIEWs arrive; after each step every real replica must be in the view, or on its way to the one,
//! that the model says. Where the model says that a timer does not run, the clock is turned on for long: nothing may
//! come of it (V8).

use std::sync::Arc;

use bft_core::door::Input;
use bft_core::limits::SECOND;
use bft_core::wire::message::Message;
use bft_sim::rng::{Rng, Seed};
use stateright::Model;

use super::host::{Host, Out};
use super::network::Network;
use super::wants::DEADLINES;
use super::{Diverged, Ended, REPLICAS, Setup, Wrong, on_its_way};
use crate::agreement;
use crate::synchroniser::{Action, State, Synchroniser};

/// How long the clock of a replica is turned on that must not leave its view.
const LONG: u64 = 200 * SECOND;

struct Ways {
    model: Synchroniser,
    state: State,
    setup: Setup,
    network: Network,
    rng: Rng,
    now: u64,
    steps: Vec<String>,
}

/// Walks `steps` steps from `seed`; gives how many of them real replicas took.
pub fn walk(model: &Synchroniser, seed: u64, steps: usize) -> Result<usize, Box<Wrong>> {
    let mut ways = Ways::new(*model, seed).expect("a cluster of four begins");
    for step in 0..steps {
        match ways.step() {
            Ok(true) => {}
            Ok(false) | Err(Ended::BeyondTheViews | Ended::BeyondTheValues) => return Ok(step),
            Err(Ended::Diverged(why)) => return Err(Box::new(Wrong { seed, why, steps: ways.steps })),
        }
    }
    Ok(steps)
}

impl Ways {
    fn new(model: Synchroniser, seed: u64) -> Result<Self, Ended> {
        let setup = Setup::new(model.byzantine, 1, agreement::View(model.last_view))?;
        let (network, rng) = (Network::default(), Seed::root(seed).rng());
        let mut ways = Self { model, state: State::default(), setup, network, rng, now: SECOND, steps: Vec::new() };
        // There is always work: a Request that nobody's messages ever order.
        for replica in (0..REPLICAS).filter(|replica| *replica != model.byzantine) {
            for from in (0..REPLICAS).filter(|from| *from != replica) {
                let answer = ways.setup.hosts[replica].as_ref().and_then(Host::answer);
                answer.map(|answer| ways.arrive(replica, from, answer)).transpose()?;
            }
            let request = ways.setup.requests[0].clone();
            let checked = ways.setup.verifier.check_requests(vec![request]).0;
            ways.input(replica, Input::Requests(checked))?;
        }
        Ok(ways)
    }

    /// One step, or none if the model has come to its end.
    fn step(&mut self) -> Result<bool, Ended> {
        self.now += 1000;
        if self.rng.chance(50) {
            self.wait_in_vain()?;
        }
        let mut actions = Vec::new();
        self.model.actions(&self.state, &mut actions);
        if actions.is_empty() {
            return Ok(false);
        }
        let action = self.rng.pick(&actions);
        self.steps.push(action.to_string());
        self.state = self.model.next_state(&self.state, action).expect("a step that is allowed leads somewhere");
        self.take(action)?;
        self.compare()?;
        Ok(true)
    }

    fn take(&mut self, action: Action) -> Result<(), Ended> {
        match action {
            Action::Expire { replica } => self.expire(replica),
            Action::Hear { replica, from, view } => {
                let status = on_its_way(self.setup.verifier.config(), agreement::View(view));
                self.arrive(replica, from, status)
            }
            Action::Lead { replica } => {
                let view = agreement::View(self.state.replicas[replica].view);
                let of_view = self.network.view_changes.iter().filter(|(of, _)| of.view == view && of.from != replica);
                let mut sent: Vec<_> = of_view.map(|(of, sent)| (of.from, Arc::clone(sent))).collect();
                let Setup { enemy, names, .. } = &self.setup;
                sent.push((enemy.replica, enemy.view_change(&mut self.rng, names, &self.network, view)));
                sent.into_iter().try_for_each(|(from, sent)| self.arrive(replica, from, Message::ViewChange(sent)))
            }
            Action::Follow { replica, view } => self.follow(replica, agreement::View(view)),
        }
    }

    fn follow(&mut self, replica: usize, view: agreement::View) -> Result<(), Ended> {
        let Setup { enemy, names, .. } = &self.setup;
        let sent = self.network.new_views.iter().find(|((of, _), _)| *of == view);
        let message = match sent {
            Some((_, sent)) => Some(Message::NewView(Arc::clone(sent))),
            None => enemy.new_view(&mut self.rng, names, &self.network, view),
        };
        let message =
            message.ok_or_else(|| Diverged(format!("the model has a NEW-VIEW of {view}, the code has none")))?;
        self.arrive(replica, view.primary(), message)
    }

    /// Somebody whose timer does not run is called again and again.
    fn wait_in_vain(&mut self) -> Result<(), Ended> {
        let idle = |replica: &usize| *replica != self.model.byzantine && !self.model.waits(&self.state, *replica);
        let idle: Vec<_> = (0..REPLICAS).filter(idle).collect();
        if idle.is_empty() {
            return Ok(());
        }
        let replica = self.rng.pick(&idle);
        self.steps.push(format!("r{replica} waits in vain"));
        let end = self.now + LONG;
        while self.now < end {
            self.call(replica)?;
        }
        self.compare()
    }

    /// Turns the clock of `replica` on until it leaves its view.
    fn expire(&mut self, replica: usize) -> Result<(), Ended> {
        let before = self.view(replica);
        for _ in 0..DEADLINES {
            self.call(replica)?;
            if self.view(replica) != before {
                break;
            }
        }
        Ok(())
    }

    fn view(&self, replica: usize) -> Option<bft_core::ids::View> {
        Some(self.setup.hosts[replica].as_ref()?.replica.ordering().view())
    }

    fn call(&mut self, replica: usize) -> Result<(), Ended> {
        let deadline = self.setup.hosts[replica].as_ref().map_or(0, |host| host.deadline.0);
        self.now = self.now.max(deadline);
        self.input(replica, Input::Deadline)
    }

    fn arrive(&mut self, to: usize, from: usize, message: Message) -> Result<(), Ended> {
        let from = self.setup.names.id(from);
        let message = self.setup.verifier.check(from, message);
        let message = message.map_err(|why| Diverged(format!("a message of {from} is refused: {why:?}")))?;
        self.input(to, Input::Message { from, message })
    }

    /// Disks take no time here.
    fn input(&mut self, to: usize, input: Input) -> Result<(), Ended> {
        let host = self.setup.hosts[to].as_mut().expect("only correct replicas are stepped");
        let out = host.step(self.now, input)?;
        let flushed = if host.durable() < host.last() { host.flush(self.now, host.last())? } else { Out::default() };
        for outgoing in out.left.into_iter().chain(flushed.left) {
            self.network.leave(&mut self.setup.names, to, outgoing.to, outgoing.message)?;
        }
        Ok(())
    }

    fn compare(&self) -> Result<(), Ended> {
        for (replica, host) in self.setup.hosts.iter().enumerate() {
            let Some(core) = host.as_ref().map(|host| host.replica.ordering()) else { continue };
            let model = &self.state.replicas[replica];
            let there = (core.view().0, !core.is_normal());
            if (u64::from(model.view), model.is_changing) != there {
                let (view, changing) = there;
                let text = format!("r{replica} is at view {view}, on its way: {changing}; the model says {model:?}");
                return Err(Diverged(text).into());
            }
        }
        Ok(())
    }
}
