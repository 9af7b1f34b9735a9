//! The part of a run that is written out beforehand: cuts of a machine's links and of its power, and rounds of a fixed
//! partition under a fixed leader. Draws no chance of its own.

use bft_core::ids::{ReplicaId, View};
use bft_core::limits::{MILLISECOND, SECOND};
use bft_core::quorum::ReplicaSet;

use super::Run;
use crate::checkers::Oracle;
use crate::network::Node;
use crate::points::Point;
use crate::script::{Company, Part, Round};
use crate::trace::Actor;
use crate::world::{Event, Led, ToClient, ToMachine};

/// How long a machine is without power.
const OUTAGE: u64 = 25 * MILLISECOND;
/// How much later the second one loses it.
const STAGGER: u64 = 10 * MILLISECOND;
/// When the first round begins: the links are up.
const WARM_UP: u64 = 20 * MILLISECOND;
/// How often is looked where the rounds are.
const TICK: u64 = 2 * MILLISECOND;
/// How long a round lasts when its leader's view is reached: many times what a batch takes, and less than the base
/// timeout of a view.
const ROUND: u64 = 40 * MILLISECOND;
/// How long a quorum may need to come to its leader's view.
const ROUND_BOUND: u64 = 120 * SECOND;

/// Where the rounds of a script are.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// Rounds that have begun.
    begun: usize,
    /// When the present one did.
    since: u64,
    /// When it ends; `None`: its leader's view is not reached yet.
    until: Option<u64>,
}

impl Run {
    pub(super) fn begin_script(&mut self) {
        let script = &self.world.options.script;
        for crash in &script.crashes {
            self.machines[crash.victim.index()].plug_in(&crash.points);
        }
        let damage = script.damage.iter().map(|damage| damage.at);
        let cuts: Vec<_> = script.cuts.iter().map(|cut| cut.from).chain(damage).collect();
        let first_round = (!script.rounds.is_empty()).then_some(WARM_UP);
        cuts.into_iter().chain(first_round).for_each(|at| self.world.after(at, Event::Scripted));
    }

    pub(super) fn on_scripted(&mut self) {
        self.cut_off();
        self.damage();
        if !self.world.options.script.rounds.is_empty() {
            self.go_on_with_rounds();
        }
    }

    /// Cuts off who is due.
    fn cut_off(&mut self) {
        let now = self.world.now;
        let due: Vec<_> = self.world.options.script.cuts.iter().filter(|cut| cut.from == now).copied().collect();
        let nodes = self.machines.len() + self.clients.len();
        for cut in due {
            self.world.trace.event(now, Actor::World, 41, || format!("{:?} is cut off", cut.machine));
            for other in (0..nodes).map(Node).filter(|other| *other != cut.machine) {
                self.world.network.cut(cut.machine, other, cut.until);
                self.world.network.cut(other, cut.machine, cut.until);
            }
        }
    }

    // ---- crashes ----

    /// Who is due loses its power, and something that was durable.
    fn damage(&mut self) {
        let now = self.world.now;
        let Some(damage) = self.world.options.script.damage.filter(|damage| damage.at == now) else { return };
        let node = Node(damage.victim.index());
        self.on_power_loss(node);
        let machine = &mut self.machines[node.0];
        let is_damaged = match damage.part {
            Part::Journal => machine.rot(&mut self.world),
            Part::Snapshot => machine.spoil(&mut self.world),
        };
        if !is_damaged {
            self.world.checks.report(Oracle::Convergence, "the script finds nothing to damage".into());
        }
    }

    /// A machine lost its power at a point of the script, and perhaps others with it.
    pub(super) fn on_pulled(&mut self, node: Node, point: Point) {
        self.world.counters.points += 1;
        self.world.trace.event(self.world.now, Actor::Replica(node.0), 32, || {
            let (operation, _) = self.machines[node.0].plug().log()[point.operation];
            format!("is without power at {point}: {operation:?}")
        });
        let crashes = &self.world.options.script.crashes;
        let company = crashes.iter().find(|crash| crash.victim.index() == node.0).map(|crash| crash.company);
        match company.expect("only a script has points") {
            Company::One => {}
            Company::All => {
                let others = self.nodes().into_iter().filter(|other| *other != node);
                others.collect::<Vec<_>>().into_iter().for_each(|other| self.on_power_loss(other));
            }
            Company::Staggered => {
                let other = Node((node.0 + 1) % self.machines.len());
                self.world.after(STAGGER, Event::PowerLoss(other));
            }
        }
        self.world.after(OUTAGE, Event::Machine(node, ToMachine::Start));
    }

    /// A machine loses its power because another one did.
    pub(super) fn on_power_loss(&mut self, node: Node) {
        self.world.trace.event(self.world.now, Actor::Replica(node.0), 33, || "is without power too".into());
        self.machines[node.0].renew_fate(&self.world);
        self.lose_power(node);
        self.world.after(OUTAGE, Event::Machine(node, ToMachine::Start));
    }

    // ---- rounds ----

    fn go_on_with_rounds(&mut self) {
        let now = self.world.now;
        let rounds = &mut self.rounds;
        let is_over = rounds.begun == 0 || rounds.until.is_some_and(|until| until <= now);
        if is_over {
            self.next_round();
        } else if rounds.until.is_none() && self.is_view_reached() {
            self.rounds.until = Some(now + ROUND);
        } else if now > self.rounds.since + ROUND_BOUND {
            let text = format!("round {}: a quorum does not come to the view of its leader", self.rounds.begun);
            self.world.checks.report(Oracle::Convergence, text);
        }
        if self.rounds.begun <= self.world.options.script.rounds.len() {
            self.world.after(TICK, Event::Scripted);
        }
    }

    fn next_round(&mut self) {
        let options = std::sync::Arc::clone(&self.world.options);
        let next = options.script.rounds.get(self.rounds.begun);
        self.rounds = Rounds { begun: self.rounds.begun + 1, since: self.world.now, until: None };
        match next {
            Some(round) => self.begin_round(round),
            None => {
                self.world.led = None;
                self.end_faults();
            }
        }
        // Everybody has something new to say.
        for client in &self.clients {
            self.world.after(0, Event::Client(client.index(), client.life(), ToClient::Wake));
        }
    }

    fn begin_round(&mut self, round: &Round) {
        let highest = self.machines.iter().filter_map(|machine| machine.view()).max().unwrap_or_default();
        let view = self.next_view_of(round.leader, highest);
        self.world.trace.event(self.world.now, Actor::World, 42, || format!("{round:?} in {view:?}"));
        self.world.network.part(&round.side);
        self.world.led = Some(Led { since: highest, view });
    }

    /// The first view from `view` on that `leader` leads: the present one, if it does.
    fn next_view_of(&self, leader: ReplicaId, view: View) -> View {
        let views = std::iter::successors(Some(view), |view| Some(view.next()));
        let mut led = views.skip_while(|view| self.world.cluster.config.primary(*view) != leader);
        led.next().expect("everybody leads again and again")
    }

    /// Whether everybody who stands on a side with a quorum is in the leader's view, or on the way to it. A half that was
    /// shown what the other half signed is a learner and counts for no quorum: it comes to a view by its NEW-VIEW alone,
    /// which may be lost.
    fn is_view_reached(&self) -> bool {
        let round = &self.world.options.script.rounds[self.rounds.begun - 1];
        let voters = || self.machines.iter().filter(|machine| !machine.is_learner());
        let of_side = |side: bool| voters().filter(move |machine| round.side[machine.node().0] == side);
        [false, true].into_iter().all(|side| {
            let members: ReplicaSet = of_side(side).map(|machine| machine.id()).collect();
            let is_there = || of_side(side).all(|machine| machine.view() >= self.world.led.map(|led| led.view));
            !self.world.cluster.config.weights().is_quorum(members) || is_there()
        })
    }
}
