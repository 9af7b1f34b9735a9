//! What the benches measure with: keys, a cluster, Requests and batches.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use bft_core::auth::{Claim, Ed25519, Scheme};
use bft_core::config::{Admission, ClusterConfig, Member, ProtocolParams};
use bft_core::hash::{Context, hash};
use bft_core::ids::{ClusterId, Digest, Epoch, PublicKey, RequestNo, SessionId, Signature};
use bft_core::wire::canonical::{SigningBytes, Tag, signing_bytes};
use bft_core::wire::request::{RequestBounds, SignedRequest, encode_request};
use criterion::Criterion;

/// The cluster of all benches.
pub const CLUSTER: ClusterId = ClusterId([7; 32]);

/// Short: a bench is to be run again and again, and what is measured is microseconds long.
pub fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .without_plots()
}

/// The key with this number.
pub fn ed25519(number: usize) -> Arc<dyn Scheme> {
    Arc::new(Ed25519::new(&hash(Context::Link, &[&number.to_le_bytes()]).0, [1; 32]))
}

/// Signatures that cost a hash: what is left is everything else.
pub struct Cheap(Arc<dyn Scheme>);

impl Cheap {
    /// The key with this number.
    pub fn key(number: usize) -> Arc<dyn Scheme> {
        Arc::new(Self(ed25519(number)))
    }

    fn stamp(key: PublicKey, bytes: &SigningBytes) -> Signature {
        let half = hash(Context::Link, &[&key.0, &bytes[..]]).0;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&half);
        Signature(signature)
    }
}

impl Scheme for Cheap {
    fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    fn sign(&self, bytes: &SigningBytes) -> Signature {
        Self::stamp(self.public_key(), bytes)
    }

    fn verify(&self, claim: &Claim) -> bool {
        Self::stamp(claim.public_key, &claim.bytes) == claim.signature
    }

    fn commit_secret(&self) -> Digest {
        self.0.commit_secret()
    }
}

/// Four members with these keys.
pub fn cluster(schemes: &[Arc<dyn Scheme>]) -> Arc<ClusterConfig> {
    let member = |(index, scheme): (usize, &Arc<dyn Scheme>)| Member {
        weight: 1,
        public_key: scheme.public_key(),
        address: format!("localhost:{}", index + 1),
    };
    let members = schemes.iter().enumerate().map(member).collect();
    let params = ProtocolParams::default();
    Arc::new(ClusterConfig::new(CLUSTER, Epoch(0), params, Admission::Any, members).expect("four different members"))
}

/// A Request of `operations` operations of 16 bytes, signed by `scheme`.
pub fn request(scheme: &dyn Scheme, number: u64, operations: usize) -> SignedRequest {
    let operation = [number as u8; 16];
    let sign = |digest| scheme.sign(&signing_bytes(Tag::Request, CLUSTER, digest));
    let operations = (0..operations).map(|_| &operation[..]);
    let (session, no, ack) = (SessionId(1 << 20), RequestNo(number), RequestNo(number - 1));
    let bytes = encode_request(scheme.public_key(), session, no, ack, 0, operations, sign);
    SignedRequest::parse(bytes, RequestBounds::from(&ProtocolParams::default())).expect("within the bounds")
}
