//! Links: every message may be lost, doubled, delayed and overtaken, and nodes may be cut off from one another, in one
//! direction or in both. Decides when a message arrives; who gets it is the run's business.

use crate::counters::Counters;
use crate::options::NetworkOptions;
use crate::rng::Rng;

/// An end of a link: the machines of the replicas first, the second machines of those that have two behind them, then
/// the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node(pub usize);

/// All links of a run.
#[derive(Debug)]
pub struct Network {
    options: NetworkOptions,
    rng: Rng,
    nodes: usize,
    /// By link: until when it is cut.
    cut_until: Vec<u64>,
    /// By link: when the last message that kept its place arrives.
    arrival: Vec<u64>,
}

/// When a message arrives: never, once or twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Arrivals {
    /// The first time.
    pub first: Option<u64>,
    /// The second time.
    pub second: Option<u64>,
}

impl Network {
    /// Links between `nodes` nodes.
    #[must_use]
    pub fn new(options: NetworkOptions, nodes: usize, rng: Rng) -> Self {
        Self { options, rng, nodes, cut_until: vec![0; nodes * nodes], arrival: vec![0; nodes * nodes] }
    }

    /// Lets no message from `from` to `to` through until `until`.
    pub fn cut(&mut self, from: Node, to: Node, until: u64) {
        let link = self.link(from, to);
        self.cut_until[link] = self.cut_until[link].max(until);
    }

    /// From now on, and until this is called again or all faults end: who stands on another side hears nothing. Nodes
    /// beyond the end of `side` hear everybody.
    pub fn part(&mut self, side: &[bool]) {
        self.cut_until.fill(0);
        for from in 0..side.len() {
            for to in (0..side.len()).filter(|to| side[*to] != side[from]) {
                self.cut(Node(from), Node(to), u64::MAX);
            }
        }
    }

    /// Ends all faults: from now on, links only delay.
    pub fn heal(&mut self) {
        self.cut_until.fill(0);
        (self.options.drop, self.options.double, self.options.reorder) = (0, 0, 0);
    }

    /// When a message that leaves now arrives.
    pub fn send(&mut self, now: u64, from: Node, to: Node, counters: &mut Counters) -> Arrivals {
        counters.messages += 1;
        let link = self.link(from, to);
        if self.cut_until[link] > now {
            counters.cut += 1;
            return Arrivals::default();
        }
        if self.rng.chance(self.options.drop) {
            counters.dropped += 1;
            return Arrivals::default();
        }
        let first = Some(self.arrive(now, link, counters));
        let doubled = self.rng.chance(self.options.double);
        let second = doubled.then(|| self.arrive(now, link, counters));
        counters.doubled += u64::from(doubled);
        Arrivals { first, second }
    }

    fn arrive(&mut self, now: u64, link: usize, counters: &mut Counters) -> u64 {
        let delay = self.options.delay_min + self.rng.exponential(self.options.delay_mean);
        let at = now + delay;
        if self.rng.chance(self.options.reorder) {
            // Leaves the line: late, or past those that wait in it.
            let at = now + self.rng.below(4 * delay + 1);
            counters.reordered += u64::from(at < self.arrival[link]);
            return at;
        }
        self.arrival[link] = self.arrival[link].max(at);
        self.arrival[link]
    }

    fn link(&self, from: Node, to: Node) -> usize {
        from.0 * self.nodes + to.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

    fn network(drop: u32, double: u32, reorder: u32) -> Network {
        let options = NetworkOptions { delay_min: 10, delay_mean: 100, drop, double, reorder };
        Network::new(options, 2, Seed::root(3).rng())
    }

    fn arrivals(network: &mut Network, counters: &mut Counters) -> Vec<u64> {
        (0..1000)
            .flat_map(|now| {
                let sent = network.send(now, Node(0), Node(1), counters);
                sent.first.into_iter().chain(sent.second)
            })
            .collect()
    }

    #[test]
    fn a_link_without_faults_delivers_everything_once_in_order() {
        let mut counters = Counters::default();
        let arrived = arrivals(&mut network(0, 0, 0), &mut counters);
        assert_eq!(arrived.len(), 1000);
        assert!(arrived.is_sorted());
        assert_eq!((counters.dropped, counters.doubled, counters.reordered), (0, 0, 0));
    }

    #[test]
    fn every_fault_shows_and_healing_ends_them() {
        let mut counters = Counters::default();
        let mut network = network(100, 100, 100);
        assert!(!arrivals(&mut network, &mut counters).is_sorted());
        assert!(counters.dropped > 50 && counters.doubled > 50 && counters.reordered > 10, "{counters:?}");
        network.cut(Node(0), Node(1), 500);
        assert_eq!(network.send(499, Node(0), Node(1), &mut counters), Arrivals::default());
        network.heal();
        network.part(&[false, true]);
        assert_eq!(network.send(1 << 40, Node(0), Node(1), &mut counters), Arrivals::default());
        network.part(&[true, true]);
        assert_eq!(arrivals(&mut network, &mut counters).len(), 1000);
    }
}
