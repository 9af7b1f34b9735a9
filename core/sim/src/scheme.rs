//! Signatures by bookkeeping: what was signed is in a ledger that all keys of a run share, and nothing else verifies.
//! Unforgeable however clever the caller, deterministic, and a hash instead of a curve.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::sync::{Arc, Mutex};

use bft_core::auth::{Claim, Scheme};
use bft_core::hash::{Context, hash};
use bft_core::ids::{Digest, PublicKey, Signature};
use bft_core::wire::canonical::SigningBytes;

use crate::rng::mix;

/// A fixed hash for the ledger: nothing iterates over it, and no enemy chooses its keys.
#[derive(Default)]
struct Folding(u64);

impl std::hash::Hasher for Folding {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = fold(self.0, bytes);
    }
}

fn fold(start: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(start, |state, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(state.rotate_left(5) ^ u64::from_le_bytes(word))
    })
}

type Signed = HashSet<(PublicKey, SigningBytes), BuildHasherDefault<Folding>>;

/// Everything that was ever signed in a run.
#[derive(Default)]
pub struct SignedDigests(Mutex<Signed>);

impl SignedDigests {
    fn insert(&self, key: PublicKey, bytes: SigningBytes) {
        self.0.lock().expect("no holder panics").insert((key, bytes));
    }

    fn contains(&self, key: PublicKey, bytes: SigningBytes) -> bool {
        self.0.lock().expect("no holder panics").contains(&(key, bytes))
    }
}

/// One key's access to the ledger.
pub struct LedgerScheme {
    public_key: PublicKey,
    commit_secret: Digest,
    signed: Arc<SignedDigests>,
}

impl LedgerScheme {
    /// The scheme of whoever holds `public_key`.
    #[must_use]
    pub fn new(public_key: PublicKey, signed: Arc<SignedDigests>) -> Self {
        Self { public_key, commit_secret: hash(Context::CommitNonce, &[&public_key.0, b"simulated"]), signed }
    }
}

impl Scheme for LedgerScheme {
    fn public_key(&self) -> PublicKey {
        self.public_key
    }

    fn sign(&self, bytes: &SigningBytes) -> Signature {
        self.signed.insert(self.public_key, *bytes);
        signature(&self.public_key, bytes)
    }

    fn verify(&self, claim: &Claim) -> bool {
        claim.signature == signature(&claim.public_key, &claim.bytes)
            && self.signed.contains(claim.public_key, claim.bytes)
    }

    fn commit_secret(&self) -> Digest {
        self.commit_secret
    }
}

/// Looks like a signature and is a function of key and bytes, as an Ed25519 signature is.
fn signature(key: &PublicKey, bytes: &SigningBytes) -> Signature {
    let seed = fold(fold(0, &key.0), bytes);
    let mut out = [0; 64];
    for (lane, chunk) in (1..).zip(out.chunks_exact_mut(8)) {
        chunk.copy_from_slice(&mix(seed.wrapping_add(lane)).to_le_bytes());
    }
    Signature(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_verifies_and_signing_again_gives_the_same() {
        let signed = Arc::new(SignedDigests::default());
        let ours = LedgerScheme::new(PublicKey([1; 32]), Arc::clone(&signed));
        let other = LedgerScheme::new(PublicKey([2; 32]), signed);
        let bytes = [7; 80];
        let forged = Claim { public_key: PublicKey([1; 32]), bytes, signature: signature(&PublicKey([1; 32]), &bytes) };
        assert!(!other.verify(&forged), "the right bytes of a signature that was never made");
        let signature = ours.sign(&bytes);
        assert_eq!(ours.sign(&bytes), signature);
        assert!(other.verify(&forged) && other.verify(&Claim { signature, ..forged }));
        assert!(!other.verify(&Claim { bytes: [8; 80], ..forged }));
        assert!(!other.verify(&Claim { public_key: PublicKey([2; 32]), ..forged }));
    }
}
