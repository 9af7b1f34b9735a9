//! What every hostile client has: its key, operations of its own, and the lines that it is about to say.

use std::sync::Arc;

use bft_core::auth::Scheme;
use bft_core::config::ClusterConfig;
use bft_core::door::To;
use bft_core::ids::{ClusterId, Digest, PublicKey, ReplicaId, RequestNo, SessionId, Signature};
use bft_core::wire::canonical::{Tag, signing_bytes};
use bft_core::wire::message::Message;
use bft_core::wire::request::{RequestBounds, SignedRequest, encode_request};

use crate::ledger::{Entry, Order};
use crate::rng::{Rng, Seed};

/// From here on are the numbers of operations that no core submitted.
const OWN_NUMBERS: u64 = 1 << 40;

/// One line of a hostile client.
#[derive(Debug)]
pub enum Said {
    /// What its core said.
    Truth(To, Message),
    /// What it made itself: the wire may refuse it.
    Lie(To, Message),
}

/// The means of a hostile client.
pub struct ClientMeans {
    /// Its number among the clients of the run.
    pub index: u32,
    /// What everybody knows.
    pub config: Arc<ClusterConfig>,
    /// Chance.
    pub rng: Rng,
    scheme: Arc<dyn Scheme>,
    /// The keys of the other clients: everybody may know them.
    others: Vec<PublicKey>,
    submitted: u64,
    said: Vec<Said>,
    /// Operations that it has signed without its core: they may be executed.
    signed: Vec<(Entry, Vec<u8>)>,
    misdeeds: u64,
    told: u64,
}

impl ClientMeans {
    /// The means of the client with this index, who holds the key of `scheme`.
    #[must_use]
    pub fn new(
        index: u32,
        config: Arc<ClusterConfig>,
        scheme: Arc<dyn Scheme>,
        others: Vec<PublicKey>,
        seed: Seed,
    ) -> Self {
        let rng = seed.child("hostile").rng();
        let (said, signed) = (Vec::new(), Vec::new());
        Self { index, config, rng, scheme, others, submitted: 0, said, signed, misdeeds: 0, told: 0 }
    }

    /// What its core said goes to `to`.
    pub fn truth(&mut self, to: To, message: Message) {
        self.said.push(Said::Truth(to, message));
    }

    /// A Request of its own goes to `to`.
    pub fn lie(&mut self, to: To, request: SignedRequest) {
        self.misdeeds += 1;
        self.said.push(Said::Lie(to, Message::Request(request)));
    }

    /// Any replica.
    pub fn anyone(&mut self) -> To {
        To::One(ReplicaId(self.rng.below(self.config.n() as u64) as u16))
    }

    /// The key of some other client, its own if it is alone.
    pub fn another_key(&mut self) -> PublicKey {
        if self.others.is_empty() { self.scheme.public_key() } else { self.rng.pick(&self.others) }
    }

    /// An operation that its core knows nothing of.
    pub fn order(&mut self) -> Vec<u8> {
        self.submitted += 1;
        let entry = Entry { client: self.index, number: OWN_NUMBERS + self.submitted };
        let operation = Order { entry, amount: self.rng.u64() }.encode(0);
        self.signed.push((entry, operation.clone()));
        operation
    }

    /// The same operation of the same number with another amount.
    pub fn other_amount(&mut self, operation: &[u8]) -> Vec<u8> {
        let Some(order) = Order::decode(operation) else { return operation.to_vec() };
        let other = Order { amount: order.amount ^ 1, ..order }.encode(operation.len() - 20);
        self.signed.push((order.entry, other.clone()));
        other
    }

    /// A Request of this client, signed for this cluster; `None`: it passes what the cluster allows.
    pub fn sign(
        &self,
        session: SessionId,
        req_no: RequestNo,
        ack: RequestNo,
        operations: &[Vec<u8>],
    ) -> Option<SignedRequest> {
        self.sign_for(self.config.cluster_id(), session, req_no, ack, operations)
    }

    /// The same, for whatever cluster.
    pub fn sign_for(
        &self,
        cluster: ClusterId,
        session: SessionId,
        req_no: RequestNo,
        ack: RequestNo,
        operations: &[Vec<u8>],
    ) -> Option<SignedRequest> {
        let sign = |digest: Digest| -> Signature { self.scheme.sign(&signing_bytes(Tag::Request, cluster, digest)) };
        let operations = operations.iter().map(Vec::as_slice);
        let bytes = encode_request(self.scheme.public_key(), session, req_no, ack, 0, operations, sign);
        self.parse(bytes.to_vec())
    }

    /// Whatever these bytes are as a Request.
    pub fn parse(&self, bytes: Vec<u8>) -> Option<SignedRequest> {
        SignedRequest::parse(bytes.into(), RequestBounds::from(self.config.params())).ok()
    }

    /// Takes the lines, in their order.
    pub fn take_said(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.said)
    }

    /// Gives back the memory of lines that were said.
    pub fn reuse(&mut self, mut said: Vec<Said>) {
        said.clear();
        self.said = said;
    }

    /// Takes what it signed without its core since this was last asked.
    pub fn take_signed(&mut self) -> impl Iterator<Item = (Entry, Vec<u8>)> {
        self.signed.drain(..)
    }

    /// The misdeeds since this was last asked.
    pub fn take_misdeeds(&mut self) -> u64 {
        let new = self.misdeeds - self.told;
        self.told = self.misdeeds;
        new
    }

    /// All misdeeds so far.
    #[must_use]
    pub fn all_misdeeds(&self) -> u64 {
        self.misdeeds
    }

    /// The operations of a Request, each for itself.
    #[must_use]
    pub fn operations_of(request: &SignedRequest) -> Vec<Vec<u8>> {
        request.operations().map(<[u8]>::to_vec).collect()
    }
}
