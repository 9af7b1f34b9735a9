//! Ed25519 under the one validity rule of the whole system, ZIP-215 (DEPENDENCIES §3, X2): `s < l`; `A` and `R` are any
//! encodings that decode, non-canonical ones too; `8(sB - kA - R)` is the identity. Many signatures at once are checked
//! in [`batch`], decompressed public keys are kept in [`points`]; neither ever changes a verdict.

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use ed25519_dalek::SigningKey;
use ed25519_dalek::ed25519::signature::Signer;
use sha2::{Digest as _, Sha512};
use zeroize::Zeroizing;

use super::{Claim, Scheme};
use crate::hash::{Context, hash};
use crate::ids::{Digest, PublicKey, Signature};
use crate::wire::canonical::SigningBytes;

mod batch;
mod points;

use points::KnownPoints;

/// Whether `key` may be registered: it decodes, is canonical, has no small order and no torsion (X6).
#[must_use]
pub fn is_usable_key(key: &PublicKey) -> bool {
    decode(&key.0)
        .is_some_and(|point| point.compress().0 == key.0 && !point.is_small_order() && point.is_torsion_free())
}

/// Ed25519 with one secret key: for replicas, clients and authorities alike. Secrets are wiped when it is dropped.
pub struct Ed25519 {
    key: SigningKey,
    commit_secret: Zeroizing<[u8; 32]>,
    coefficients: Zeroizing<[u8; 32]>,
    points: KnownPoints,
}

impl Ed25519 {
    /// The scheme of whoever holds `secret`, a 32-byte Ed25519 seed. `batch_seed` is drawn anew at every start and told
    /// to nobody: a sender who knew it could make false signatures that pass together. It decides no verdict on
    /// signatures that were made without knowing it, and no signature.
    #[must_use]
    pub fn new(secret: &[u8; 32], batch_seed: [u8; 32]) -> Self {
        let batch_seed = Zeroizing::new(batch_seed);
        Self {
            key: SigningKey::from_bytes(secret),
            commit_secret: Zeroizing::new(hash(Context::CommitNonce, &[secret]).0),
            coefficients: Zeroizing::new(hash(Context::BatchCoefficients, &[&*batch_seed]).0),
            points: KnownPoints::default(),
        }
    }

    /// How signatures are checked on this processor, for people.
    #[must_use]
    pub fn implementation() -> &'static str {
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx512ifma") && std::is_x86_feature_detected!("avx512vl") {
                return "ed25519 ZIP-215 (avx512ifma)";
            }
            if std::is_x86_feature_detected!("avx2") {
                return "ed25519 ZIP-215 (avx2)";
            }
        }
        "ed25519 ZIP-215"
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
        let equation = Equation::of(claim);
        equation.is_some_and(|equation| self.points.get(&claim.public_key).is_some_and(|key| equation.holds_for(&key)))
    }

    fn verify_many(&self, claims: &[Claim], valid: &mut Vec<bool>) {
        batch::verify(claims, &self.coefficients, &self.points, valid);
    }

    fn commit_secret(&self) -> Digest {
        Digest(*self.commit_secret)
    }
}

/// Whether one signature is valid.
#[must_use]
pub fn verify(claim: &Claim) -> bool {
    let equation = Equation::of(claim);
    equation.is_some_and(|equation| decode(&claim.public_key.0).is_some_and(|key| equation.holds_for(&key)))
}

/// What a signature claims, beside the public key A: that `8(sB - kA - R)` is the identity.
#[derive(Clone, Copy)]
struct Equation {
    commitment: EdwardsPoint,
    s: Scalar,
    k: Scalar,
}

impl Equation {
    /// `None` if R does not decode or s is not reduced.
    fn of(claim: &Claim) -> Option<Self> {
        let (r, s) = claim.signature.0.split_first_chunk::<32>().expect("64 bytes");
        let s: [u8; 32] = s.try_into().expect("32 bytes");
        let s = Scalar::from_canonical_bytes(s).into_option()?;
        let commitment = decode(r)?;
        let mut hasher = Sha512::new();
        hasher.update(r);
        hasher.update(claim.public_key.0);
        hasher.update(claim.bytes);
        let k = Scalar::from_bytes_mod_order_wide(&hasher.finalize().into());
        Some(Self { commitment, s, k })
    }

    fn holds_for(&self, public_key: &EdwardsPoint) -> bool {
        self.sum(public_key).is_small_order()
    }

    /// `sB - kA - R`.
    fn sum(&self, public_key: &EdwardsPoint) -> EdwardsPoint {
        EdwardsPoint::vartime_double_scalar_mul_basepoint(&self.k, &-public_key, &self.s) - self.commitment
    }
}

/// The point that `bytes` encode, canonically or not.
fn decode(bytes: &[u8; 32]) -> Option<EdwardsPoint> {
    CompressedEdwardsY(*bytes).decompress()
}
