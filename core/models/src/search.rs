//! Looks at every state of a model, and says what it found: a row of the table. The search itself is stateright's,
//! breadth first: what it finds is found by few steps.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use bft_sim::rng::Seed;
use stateright::{Checker, HasDiscoveries, Model};

/// How far a search may go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Threads.
    pub threads: usize,
    /// States at most, about, those that are come to again among them.
    pub states: usize,
}

/// How a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every state was looked at.
    Holds,
    /// The bounds were reached before every state was.
    HoldsSoFar,
    /// A property does not hold: which, and the steps that show it.
    Broken(&'static str, Vec<String>),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds => f.write_str("holds in every state"),
            Self::HoldsSoFar => f.write_str("holds in these states"),
            Self::Broken(property, steps) => write!(f, "{property} is broken by {} steps", steps.len()),
        }
    }
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Different states.
    pub states: usize,
    /// The most steps from the beginning.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// How it ended.
    pub verdict: Verdict,
}

/// Searches `model` until a property is broken, every state was looked at, or the bounds are reached.
pub fn search<M>(model: M, bounds: Bounds) -> Found
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + fmt::Debug + PartialEq + std::hash::Hash + Send + Sync,
    M::Action: Clone + fmt::Debug + fmt::Display + PartialEq + Send + Sync,
{
    let names: BTreeSet<_> = model.properties().iter().map(|property| property.name).collect();
    let started = Instant::now();
    let checker = model.checker().threads(bounds.threads);
    let checker = checker.target_state_count(bounds.states).finish_when(HasDiscoveries::AnyOf(names));
    let checker = checker.spawn_bfs().join();
    let took = started.elapsed();
    let shortened = |(property, path): (&'static str, stateright::Path<M::State, M::Action>)| {
        (property, shorten(checker.model(), property, path.into_actions()))
    };
    let broken = checker.discoveries().into_iter().map(shortened);
    let verdict = match broken.min_by_key(|(property, steps)| (steps.len(), *property)) {
        Some((property, steps)) => Verdict::Broken(property, steps.iter().map(ToString::to_string).collect()),
        None if checker.is_done() && checker.state_count() < bounds.states => Verdict::Holds,
        None => Verdict::HoldsSoFar,
    };
    Found { states: checker.unique_state_count(), depth: checker.max_depth(), took, verdict }
}

/// Walks at random, from the beginning again after `steps` steps. Gives a row like a search; its states are those that were
/// looked at, again and again some of them.
pub fn wander<M>(model: M, seed: u64, walks: u64, steps: usize) -> Found
where
    M: Model,
    M::Action: Clone + fmt::Display + PartialEq,
{
    let started = Instant::now();
    let mut found = Found { states: 0, depth: steps, took: Duration::ZERO, verdict: Verdict::HoldsSoFar };
    for walk in 0..walks {
        let mut rng = Seed::root(seed).nth(walk).rng();
        let mut state = model.init_states().swap_remove(0);
        let mut taken = Vec::new();
        for _ in 0..steps {
            let mut allowed = Vec::new();
            model.actions(&state, &mut allowed);
            if allowed.is_empty() {
                break;
            }
            let step = allowed.swap_remove(rng.below(allowed.len() as u64) as usize);
            taken.push(step.clone());
            state = model.next_state(&state, step).expect("a step that is allowed leads somewhere");
            found.states += 1;
            let broken = model.properties().into_iter().find(|property| !(property.condition)(&model, &state));
            if let Some(property) = broken {
                let taken = shorten(&model, property.name, taken);
                found.verdict = Verdict::Broken(property.name, taken.iter().map(ToString::to_string).collect());
                return Found { took: started.elapsed(), ..found };
            }
        }
    }
    Found { took: started.elapsed(), ..found }
}

/// Leaves out every step without which the others can still be taken and still break the property.
fn shorten<M>(model: &M, property: &'static str, mut steps: Vec<M::Action>) -> Vec<M::Action>
where
    M: Model,
    M::Action: Clone + PartialEq,
{
    let mut at = 0;
    while at < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(at);
        if breaks(model, property, &fewer) {
            (steps, at) = (fewer, 0);
        } else {
            at += 1;
        }
    }
    steps
}

/// Whether these steps can be taken one after the other, and end where the property does not hold.
fn breaks<M>(model: &M, property: &'static str, steps: &[M::Action]) -> bool
where
    M: Model,
    M::Action: Clone + PartialEq,
{
    let Some(mut state) = model.init_states().into_iter().next() else { return false };
    for step in steps {
        let mut allowed = Vec::new();
        model.actions(&state, &mut allowed);
        let next = allowed.contains(step).then(|| model.next_state(&state, step.clone())).flatten();
        let Some(next) = next else { return false };
        state = next;
    }
    !(model.property(property).condition)(model, &state)
}
