//! How the verifier is asked: by messages that change in one thing, and with a count of the signatures that it checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bft_core::auth::{Claim, Ed25519, Rejected, Scheme};
use bft_core::ids::{Digest, PublicKey, ReplicaId, Signature};
use bft_core::wire::canonical::SigningBytes;
use bft_core::wire::message::Message;

use crate::common::{TestCluster, scheme};

/// Somebody who relays.
pub const RELAY: ReplicaId = ReplicaId(2);
pub const NOBODY: ReplicaId = ReplicaId(4);

/// What the cluster says to `message` from `from`; what passes is handed on unchanged.
pub fn check_from(cluster: &TestCluster, from: ReplicaId, message: &Message) -> Result<(), Rejected> {
    cluster.verifier().check(from, message.clone()).map(|verified| assert_eq!(*verified, *message))
}

pub fn check(cluster: &TestCluster, message: Message) -> Result<(), Rejected> {
    check_from(cluster, RELAY, &message)
}

/// A change of one thing, and what must become of it.
pub type Case<T> = (&'static str, Rejected, fn(&mut T));

/// `good` passes, and with each of the changes is refused as it says.
pub fn each_change_is_refused<T: Clone>(
    good: &T,
    cases: impl IntoIterator<Item = Case<T>>,
    check: impl Fn(T) -> Result<(), Rejected>,
) {
    assert_eq!(check(good.clone()), Ok(()), "unchanged");
    for (what, expected, change) in cases {
        let mut changed = good.clone();
        change(&mut changed);
        assert_eq!(check(changed), Err(expected), "{what}");
    }
}

pub fn flip(digest: &mut Digest) {
    digest.0[31] ^= 0x80;
}

/// Changes what is signed, and leaves `s` reduced.
pub fn spoil(signature: &mut Signature) {
    signature.0[32] ^= 1;
}

pub fn first<T>(of: &mut [T]) -> &mut T {
    &mut of[0]
}

/// A scheme that counts what it is asked to check.
pub struct Counting {
    scheme: Ed25519,
    count: AtomicUsize,
    is_credulous: bool,
}

impl Counting {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { scheme: scheme("verifier"), count: AtomicUsize::new(0), is_credulous: false })
    }

    /// One that finds everything valid: for more Requests than a test has time to sign.
    pub fn credulous() -> Arc<Self> {
        Arc::new(Self { scheme: scheme("verifier"), count: AtomicUsize::new(0), is_credulous: true })
    }

    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Scheme for Counting {
    fn public_key(&self) -> PublicKey {
        self.scheme.public_key()
    }

    fn sign(&self, bytes: &SigningBytes) -> Signature {
        self.scheme.sign(bytes)
    }

    fn verify(&self, claim: &Claim) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.is_credulous || self.scheme.verify(claim)
    }

    fn commit_secret(&self) -> Digest {
        self.scheme.commit_secret()
    }
}
