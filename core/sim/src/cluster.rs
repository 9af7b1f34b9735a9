//! The cluster of a run: its configuration, its keys, and who can sign and check what.

use std::sync::Arc;

use bft_core::auth::{Ed25519, Scheme};
use bft_core::config::{Admission, ClusterConfig, Member};
use bft_core::ids::{ClusterId, Epoch, PublicKey, ReplicaId, View};
use bft_core::quorum::ReplicaSet;

use crate::options::{Fault, Fidelity, Options};
use crate::rng::Seed;
use crate::scheme::{LedgerScheme, SignedDigests};

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
    /// Replicas that lie.
    pub liars: ReplicaSet,
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
        let (liars, drifters) = draw_faulty(options);
        Self { config, replicas, clients, witness: scheme("witness", 0), liars, drifters }
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

/// At most F of the weight is faulty from the beginning.
fn draw_faulty(options: &Options) -> (ReplicaSet, ReplicaSet) {
    let mut rng = Seed::root(options.seed).child("faulty").rng();
    let (mut left, mut liars, mut drifters) = (options.faulty_max(), ReplicaSet::EMPTY, ReplicaSet::EMPTY);
    for (fault, set) in [(Fault::Liar, &mut liars), (Fault::Drift, &mut drifters)] {
        let id = ReplicaId(rng.below(options.weights.len() as u64) as u16);
        let weight = options.weights[id.index()];
        if options.has(fault) && weight <= left {
            set.insert(id);
            left -= weight;
        }
    }
    liars.iter().for_each(|id| drifters.remove(id));
    (liars, drifters)
}
