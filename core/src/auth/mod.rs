//! Who said it: keys, signatures, and [`Verified`], the seal that only [`Verifier`] can put on what came from outside.

use std::ops::Deref;

use crate::ids::{Digest, PublicKey, Signature};
use crate::wire::canonical::SigningBytes;
use crate::wire::message::Message;
use crate::wire::request::SignedRequest;

pub mod ed25519;
pub mod keys;
mod known;
pub mod verifier;

pub use ed25519::{Ed25519, is_usable_key};
pub use keys::SecretKey;
pub use verifier::{Refusal, Rejected, Verifier};

/// One signature to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who is said to have signed.
    pub public_key: PublicKey,
    /// What.
    pub bytes: SigningBytes,
    /// The signature.
    pub signature: Signature,
}

/// How signatures are made and checked: Ed25519 in production, a ledger of signed digests in the simulator. Signing is
/// deterministic: the same bytes give the same signature, after a restart too.
pub trait Scheme: Send + Sync {
    /// The key that [`Self::sign`] signs with.
    fn public_key(&self) -> PublicKey;

    /// Signs with the own key.
    fn sign(&self, bytes: &SigningBytes) -> Signature;

    /// Whether one signature is valid.
    fn verify(&self, claim: &Claim) -> bool;

    /// Checks many at once: sets `valid[i]` to the verdict on `claims[i]`, the same that [`Self::verify`] gives.
    fn verify_many(&self, claims: &[Claim], valid: &mut Vec<bool>) {
        valid.clear();
        valid.extend(claims.iter().map(|claim| self.verify(claim)));
    }

    /// The secret that the nonces of COMMITs are derived from; the same after a restart.
    fn commit_secret(&self) -> Digest;
}

/// A thing whose signatures and well-formedness were checked under the cluster's configuration. Made by [`Verifier`]
/// and nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// The thing itself.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl Verified<Vec<SignedRequest>> {
    /// Takes off those from `at` on.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        Self(self.0.split_off(at))
    }

    /// Adds others, behind these.
    pub fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// Each as the message that it came in.
    pub fn into_messages(self) -> impl Iterator<Item = Verified<Message>> {
        self.0.into_iter().map(|request| Verified(Message::Request(request)))
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
