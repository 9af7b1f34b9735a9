//! Ed25519 under the one validity rule of the whole system, ZIP-215, single and batched (DEPENDENCIES §3, X2).

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use ed25519_dalek::SigningKey;
use ed25519_dalek::ed25519::signature::Signer;
use sha2::{Digest as _, Sha512};

use super::{Claim, Scheme};
use crate::hash::{Context, hash};
use crate::ids::{Digest, PublicKey, Signature};
use crate::wire::canonical::SigningBytes;

/// Whether `key` may be registered: it decodes, is canonical, has no small order and no torsion.
#[must_use]
pub fn is_usable_key(key: &PublicKey) -> bool {
    CompressedEdwardsY(key.0)
        .decompress()
        .is_some_and(|point| point.compress().0 == key.0 && !point.is_small_order() && point.is_torsion_free())
}

/// Ed25519 with one secret key.
pub struct Ed25519 {
    key: SigningKey,
    commit_secret: Digest,
}

impl Ed25519 {
    /// The scheme of whoever holds `secret`, a 32-byte Ed25519 seed.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(secret), commit_secret: hash(Context::CommitNonce, &[secret]) }
    }
}

impl Scheme for Ed25519 {
    fn public_key(&self) -> PublicKey {
        PublicKey(self.key.verifying_key().to_bytes())
    }

    fn sign(&self, bytes: &SigningBytes) -> Signature {
        Signature(self.key.sign(bytes).to_bytes())
    }

    fn verify(&self, claim: &Claim) -> bool {
        verify(claim)
    }

    fn commit_secret(&self) -> Digest {
        self.commit_secret
    }
}

/// ZIP-215: `s` is reduced, `A` and `R` decode, and `8(sB - kA - R)` is the identity.
#[must_use]
pub fn verify(claim: &Claim) -> bool {
    let (r, s) = claim.signature.0.split_first_chunk::<32>().expect("64 bytes");
    let s: [u8; 32] = s.try_into().expect("32 bytes");
    let Some(s) = Scalar::from_canonical_bytes(s).into_option() else { return false };
    let Some(public) = CompressedEdwardsY(claim.public_key.0).decompress() else { return false };
    let Some(commitment) = CompressedEdwardsY(*r).decompress() else { return false };
    let mut hasher = Sha512::new();
    hasher.update(r);
    hasher.update(claim.public_key.0);
    hasher.update(claim.bytes);
    let k = Scalar::from_bytes_mod_order_wide(&hasher.finalize().into());
    let sum = EdwardsPoint::vartime_double_scalar_mul_basepoint(&k, &-public, &s) - commitment;
    sum.is_small_order()
}
