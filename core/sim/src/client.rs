//! A client: a production `ClientCore` with operations to submit, and lives that end without warning.

use std::collections::BTreeSet;
use std::sync::Arc;

use bft_core::client::{ClientCore, ClientEffects, ClientOptions, Outcome, Rejected};
use bft_core::door::{Answer, LinkState, To};
use bft_core::ids::{LinkId, Nanos};
use bft_core::limits::{MILLISECOND, SECOND};
use bft_core::wire::message::Message;
use bytes::Bytes;

use crate::carriage::carry_lie;
use crate::ledger::{Entry, Order};
use crate::network::Node;
use crate::rng::{Rng, Seed};
use crate::trace::Actor;
use crate::villains::clients::ClientTwin;
use crate::villains::clients::means::{ClientMeans, Said};
use crate::world::{Event, Life, ToClient, ToMachine, World};

/// How long a hostile client goes on when all other faults have ended.
const HOSTILE_AFTER_FAULTS: u64 = 10 * SECOND;

/// A client and what it has still to do.
pub struct Client {
    index: usize,
    core: ClientCore,
    life: Life,
    rng: Rng,
    seed: Seed,
    effects: ClientEffects,
    /// By machine: what it calls the link of this life.
    links: Vec<Option<LinkId>>,
    submitted: u64,
    waiting: BTreeSet<u64>,
    deadline_generation: u64,
    hurries: bool,
    /// What it makes of what its core sends, if it is hostile: then nobody waits for what it asked for.
    hostile: Option<ClientTwin>,
}

impl Client {
    /// The client of this index, before it has done anything.
    #[must_use]
    pub fn new(index: usize, world: &World) -> Self {
        let seed = Seed::root(world.options.seed).child("client").nth(index as u64);
        Self {
            index,
            core: core(index, Life(0), seed, world),
            life: Life(0),
            rng: seed.child("work").rng(),
            seed,
            effects: ClientEffects::default(),
            links: vec![None; world.options.machines()],
            submitted: 0,
            waiting: BTreeSet::new(),
            deadline_generation: 0,
            hurries: false,
            hostile: world.options.client.filter(|_| world.options.hostile_client() == Some(index)).map(|strategy| {
                let own = Arc::clone(&world.cluster.clients[index]);
                let others = world.cluster.clients.iter().map(|scheme| scheme.public_key());
                let others = others.filter(|key| *key != own.public_key()).collect();
                let config = Arc::clone(&world.cluster.config);
                ClientTwin::new(strategy, ClientMeans::new(index as u32, config, own, others, seed))
            }),
        }
    }

    /// Its number among the clients.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// The number of the present life.
    #[must_use]
    pub fn life(&self) -> Life {
        self.life
    }

    /// Operations without an end.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether everything was submitted and has its end.
    #[must_use]
    pub fn is_done(&self, world: &World) -> bool {
        self.hostile.is_some()
            || self.waiting.is_empty() && self.submitted >= u64::from(world.options.clients[self.index].operations)
    }

    /// The link that this life has to a machine.
    #[must_use]
    pub fn link(&self, machine: Node) -> Option<LinkId> {
        self.links[machine.0]
    }

    /// From now on what is left is submitted without thinking.
    pub fn hurry(&mut self) {
        self.hurries = true;
    }

    /// A new life: nothing is known of the old one but the key and how many operations it submitted.
    pub fn restart(&mut self, world: &mut World) {
        world.trace.event(world.now, Actor::Client(self.index), 20, || "forgets everything".into());
        self.life = Life(self.life.0 + 1);
        self.core = core(self.index, self.life, self.seed, world);
        self.links.fill(None);
        world.counters.unknown += self.waiting.len() as u64;
        self.waiting.clear();
        self.wake_later(world);
    }

    /// Something happens to this life.
    pub fn on_event(&mut self, world: &mut World, event: ToClient) {
        if matches!(event, ToClient::Deadline { generation } if generation != self.deadline_generation) {
            return;
        }
        let now = Nanos(world.now);
        let mut effects = std::mem::take(&mut self.effects);
        match event {
            ToClient::Wake => self.submit(world),
            ToClient::Message { from, message } => {
                let kind = message.kind();
                world.trace.event(world.now, Actor::Client(self.index), 21, || format!("{from:?} says {kind:?}"));
                if let Ok(answer) = Answer::try_from(message) {
                    self.core.on_answer(now, from, &answer, &mut effects);
                }
            }
            ToClient::LinkUp { replica, machine, link } => {
                self.links[machine.0] = Some(link);
                self.core.on_link(now, replica, LinkState::Up, &mut effects);
            }
            ToClient::LinkDown { replica, machine, link } => {
                // Late, and a newer one is up already: nothing changes.
                if self.links[machine.0].take_if(|known| *known == link).is_some() {
                    self.core.on_link(now, replica, LinkState::Down, &mut effects);
                }
            }
            ToClient::Deadline { .. } => {
                world.trace.event(world.now, Actor::Client(self.index), 22, || "deadline".into());
                self.core.on_deadline(now, &mut effects);
            }
        }
        self.core.flush(now, &mut effects);
        self.carry_out(world, effects);
    }

    fn submit(&mut self, world: &mut World) {
        let options = world.options.clients[self.index].clone();
        let left = u64::from(options.operations) - self.submitted;
        let burst = left.min(1 + self.rng.below(2 * options.burst));
        world.trace.event(world.now, Actor::Client(self.index), 23, || format!("submits {burst} operations"));
        for _ in 0..burst {
            let entry = Entry { client: self.index as u32, number: self.submitted };
            let order = Order { entry, amount: self.rng.u64() };
            let bytes = order.encode(self.rng.below(options.padding + 1) as usize);
            let patience = self.rng.below(400) * MILLISECOND;
            let deadline = self.rng.chance(options.impatience).then(|| Nanos(world.now + patience));
            world.checks.submitted(self.core.key(), entry, &bytes);
            if self.core.submit(Bytes::from(bytes), entry.number, deadline).is_err() {
                // Full: the rest of the burst comes later.
                break;
            }
            self.waiting.insert(entry.number);
            self.submitted += 1;
        }
        self.wake_later(world);
    }

    /// Plans the next submission, if there is anything left to submit.
    pub fn wake_later(&mut self, world: &mut World) {
        let options = &world.options.clients[self.index];
        if self.submitted < u64::from(options.operations) {
            let think = if self.hurries { MILLISECOND } else { self.rng.exponential(options.think) };
            world.after(think, Event::Client(self.index, self.life, ToClient::Wake));
        }
    }

    fn carry_out(&mut self, world: &mut World, mut effects: ClientEffects) {
        for (to, message) in effects.send.drain(..) {
            self.send(world, to, message);
        }
        for (number, outcome) in effects.done.drain(..) {
            self.finish(world, number, &outcome);
        }
        self.deadline_generation += 1;
        if let Some(deadline) = effects.deadline {
            let event = ToClient::Deadline { generation: self.deadline_generation };
            world.deadline(deadline.0, Event::Client(self.index, self.life, event));
        }
        effects.clear();
        self.effects = effects;
    }

    fn send(&mut self, world: &mut World, to: To, message: Message) {
        let Some(mut hostile) = self.hostile.take() else { return self.say(world, to, message) };
        if world.now > world.options.safety + HOSTILE_AFTER_FAULTS {
            // It has gone away: a flood without an end would leave nobody time to come to theirs.
            self.hostile = Some(hostile);
            return;
        }
        let means = hostile.sends(to, message);
        for (entry, operation) in means.take_signed() {
            world.checks.signed(self.core.key(), entry, operation);
        }
        world.counters.client_misdeeds += means.take_misdeeds();
        let mut said = means.take_said();
        for line in said.drain(..) {
            match line {
                Said::Truth(to, message) => self.say(world, to, message),
                Said::Lie(to, message) => match carry_lie(&message, &world.cluster.config) {
                    Some(arrived) => self.say(world, to, arrived),
                    None => world.counters.requests_refused += 1,
                },
            }
        }
        means.reuse(said);
        self.hostile = Some(hostile);
    }

    fn say(&self, world: &mut World, to: To, message: Message) {
        world.trace.number(message.kind() as u64);
        world.trace.detail(|| format!("send {to:?} {:?}", message.kind()));
        let replicas: Vec<_> = match to {
            To::All => world.cluster.config.replicas().collect(),
            To::One(replica) => vec![replica],
        };
        for replica in replicas {
            for machine in world.machines_of(replica) {
                if let Some(link) = self.link(machine) {
                    let from = world.client_node(self.index);
                    let arrive = |message| ToMachine::FromClient { link, message };
                    world.send_to_machine(from, machine, message.clone(), arrive);
                }
            }
        }
    }

    fn finish(&mut self, world: &mut World, number: u64, outcome: &Outcome) {
        world.trace.detail(|| format!("operation {number}: {outcome:?}"));
        world.trace.number(number);
        if !self.waiting.remove(&number) {
            let text = format!("operation {number} of client {} ends twice", self.index);
            return world.checks.report(crate::checkers::Oracle::ExactlyOnce, text);
        }
        if self.hostile.is_some() {
            return;
        }
        let entry = Entry { client: self.index as u32, number };
        match outcome {
            Outcome::Done { seq, result } => {
                world.counters.operations += 1;
                world.checks.done(entry, *seq, result);
            }
            Outcome::Rejected { seq, reason: Rejected::ExecutedReplyTooLarge } => {
                world.checks.executed_unseen(entry, *seq);
            }
            Outcome::Rejected { reason: Rejected::Conflict | Rejected::Denied, .. } | Outcome::NotSent { .. } => {
                world.checks.never(entry);
            }
            Outcome::Unknown { reason } => {
                world.counters.unknown += 1;
                world.checks.unknown(entry, *reason);
            }
        }
    }
}

fn core(index: usize, life: Life, seed: Seed, world: &World) -> ClientCore {
    let options = &world.options.clients[index];
    let options = ClientOptions {
        window: options.window,
        operations_per_request: options.operations_per_request,
        ..ClientOptions::default()
    };
    let nonce_seed = seed.child("nonce").nth(life.0).rng().bytes();
    let scheme = Arc::clone(&world.cluster.clients[index]);
    ClientCore::new(Arc::clone(&world.cluster.config), scheme, options, nonce_seed)
}
