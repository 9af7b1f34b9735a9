//! What happened, as a hash that two runs of one seed must share, and as lines for people when a seed is replayed.

use std::fmt;
use std::io::Write;

use bft_core::ids::Digest;

use crate::rng::mix;

/// Where an event happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The environment.
    World,
    /// A replica.
    Replica(usize),
    /// A client.
    Client(usize),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::World => f.pad("*"),
            Self::Replica(id) => f.pad(&format!("r{id}")),
            Self::Client(nth) => f.pad(&format!("c{nth}")),
        }
    }
}

/// The events of a run.
#[derive(Default)]
pub struct Trace {
    hash: u64,
    lines: Option<Box<dyn Write>>,
}

impl Trace {
    /// Hashes only.
    #[must_use]
    pub fn quiet() -> Self {
        Self::default()
    }

    /// Hashes, and writes a line for each event.
    #[must_use]
    pub fn to(lines: Box<dyn Write>) -> Self {
        Self { hash: 0, lines: Some(lines) }
    }

    /// The hash over everything noted so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Takes a number into the hash.
    pub fn number(&mut self, number: u64) {
        self.hash = mix(self.hash.rotate_left(7) ^ number);
    }

    /// Takes a digest into the hash.
    pub fn digest(&mut self, digest: &Digest) {
        let (front, _) = digest.0.split_first_chunk::<8>().expect("a digest has 32 bytes");
        self.number(u64::from_le_bytes(*front));
    }

    /// Something happened at `now` at `actor`. The line is made only where somebody reads it.
    pub fn event(&mut self, now: u64, actor: Actor, kind: u64, line: impl FnOnce() -> String) {
        let place = match actor {
            Actor::World => 0,
            Actor::Replica(id) => 1 + 2 * id as u64,
            Actor::Client(nth) => 2 + 2 * nth as u64,
        };
        self.number(now);
        self.number(place << 32 | kind);
        if let Some(lines) = &mut self.lines {
            let (ms, us) = (now / 1_000_000, now / 1_000 % 1_000);
            // A reader that has gone away (`| head`) is no reason to fail the run.
            let _ = writeln!(lines, "{ms:>7}.{us:03} ms {actor:>4}  {}", line());
        }
    }

    /// Adds to what the last line says.
    pub fn detail(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let _ = writeln!(lines, "                      {}", line());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_time_place_kind_and_order_and_not_on_the_lines() {
        let of = |events: &[(u64, Actor, u64)]| {
            let mut trace = Trace::quiet();
            for (now, actor, kind) in events {
                trace.event(*now, *actor, *kind, || unreachable!("nobody reads"));
            }
            trace.hash()
        };
        let base = [(1, Actor::Replica(0), 2), (3, Actor::Client(0), 2)];
        let mut printed = Trace::to(Box::new(std::io::sink()));
        base.iter().for_each(|(now, actor, kind)| printed.event(*now, *actor, *kind, String::new));
        assert_eq!(of(&base), printed.hash());
        assert_ne!(of(&base), of(&[base[1], base[0]]));
        assert_ne!(of(&base), of(&[(2, Actor::Replica(0), 2), base[1]]));
        assert_ne!(of(&base), of(&[(1, Actor::Client(0), 2), base[1]]));
        assert_ne!(of(&base), of(&[(1, Actor::Replica(0), 3), base[1]]));
    }
}
