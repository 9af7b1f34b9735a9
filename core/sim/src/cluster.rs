//! The cluster of a run: its configuration, its keys, and who can sign and check what.

use std::sync::Arc;

use bft_core::auth::{Ed25519, Scheme};
use bft_core::config::{Admission, ClusterConfig, Member};
use bft_core::ids::{ClusterId, Epoch, PublicKey, ReplicaId, View};
use bft_core::quorum::ReplicaSet;

use crate::environments::Environment;
use crate::options::{Fault, Fidelity, Options};
use crate::rng::{Rng, Seed};
use crate::scheme::{LedgerScheme, SignedDigests};
use crate::villains::{Seat, Strategy};

/// A configuration and the keys to it.
#[derive(Clone)]
pub struct Cluster {
    /// What every replica and client knows.
    pub config: Arc<ClusterConfig>,
    /// One for each replica.
    pub replicas: Vec<Arc<dyn Scheme>>,
    /// One for each client.
    pub clients: Vec<Arc<dyn Scheme>>,
    /// Of somebody who signs nothing: what the checkers verify with.
    pub witness: Arc<dyn Scheme>,
    /// Replicas that attack.
    pub villains: ReplicaSet,
    /// Replicas whose service is not deterministic after a restart.
    pub drifters: ReplicaSet,
}

impl Cluster {
    /// The cluster that `options` asks for.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let seed = Seed::root(options.seed).child("keys");
        let signed = Arc::new(SignedDigests::default());
        // Real keys in both modes: a configuration takes no others.
        let scheme = |name: &str, nth: u64| -> Arc<dyn Scheme> {
            let key = {
                let mut rng = seed.child(name).nth(nth).rng();
                Ed25519::new(&rng.bytes(), rng.bytes())
            };
            match options.fidelity {
                Fidelity::Ledger => Arc::new(LedgerScheme::new(key.public_key(), Arc::clone(&signed))),
                Fidelity::Full => Arc::new(key),
            }
        };
        let replicas: Vec<_> = (0..).zip(&options.weights).map(|(nth, _)| scheme("replica", nth)).collect();
        let clients = (0..).zip(&options.clients).map(|(nth, _)| scheme("client", nth)).collect();
        let members = replicas.iter().zip(&options.weights).map(|(scheme, weight)| Member {
            weight: *weight,
            public_key: scheme.public_key(),
            address: String::new(),
        });
        let id = ClusterId(seed.child("cluster").rng().bytes());
        let config = ClusterConfig::new(id, Epoch(0), options.params.clone(), Admission::Any, members.collect());
        let config = Arc::new(config.expect("options stay within the bounds of a configuration"));
        let (villains, drifters) = draw_faulty(options, &config);
        Self { config, replicas, clients, witness: scheme("witness", 0), villains, drifters }
    }

    /// The replica that proposes in the first view.
    #[must_use]
    pub fn primary(&self) -> ReplicaId {
        self.config.primary(View(0))
    }

    /// The client that holds `key`.
    #[must_use]
    pub fn client(&self, key: PublicKey) -> Option<usize> {
        self.clients.iter().position(|scheme| scheme.public_key() == key)
    }
}

/// At most F of the weight is faulty from the beginning: villains, and what they leave room for.
fn draw_faulty(options: &Options, config: &ClusterConfig) -> (ReplicaSet, ReplicaSet) {
    let mut rng = Seed::root(options.seed).child("faulty").rng();
    let mut left = options.villain_weight_max;
    let villains = options
        .villain
        .map_or(ReplicaSet::EMPTY, |strategy| draw_villains(strategy, options, config, &mut rng, &mut left));
    let mut drifters = ReplicaSet::EMPTY;
    let id = ReplicaId(rng.below(options.weights.len() as u64) as u16);
    if options.has(Fault::Drift) && options.weights[id.index()] <= left && !villains.contains(id) {
        drifters.insert(id);
    }
    (villains, drifters)
}

/// The first one in its seat, most of the time; then, in half of the runs, as many others as may be.
fn draw_villains(
    strategy: Strategy,
    options: &Options,
    config: &ClusterConfig,
    rng: &mut Rng,
    left: &mut u64,
) -> ReplicaSet {
    let n = options.weights.len();
    let anywhere = ReplicaId(rng.below(n as u64) as u16);
    let seat = match strategy.seat() {
        Seat::Any | Seat::Leaving => anywhere,
        Seat::First => config.primary(View(0)),
        Seat::Second => config.primary(View(1)),
    };
    let first = if rng.chance(800) { seat } else { anywhere };
    let leaves_room = options.scene.environment.is_some_and(Environment::leaves_room);
    let most = if rng.chance(500) && !leaves_room { n } else { 1 };
    let mut villains = ReplicaSet::EMPTY;
    for ahead in 0..n {
        let id = ReplicaId(((first.index() + ahead) % n) as u16);
        if options.weights[id.index()] <= *left && villains.len() < most {
            villains.insert(id);
            *left -= options.weights[id.index()];
        }
    }
    villains
}
