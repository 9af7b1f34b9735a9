//! Many signatures at once: the sum of their equations under coefficients that no sender can foresee vanishes, up to
//! the cofactor, if all hold, and with a chance of 2⁻¹²⁸ if one does not. Where it does not vanish, halves are tried,
//! down to single signatures. Cofactored like the single check, so both give one verdict (X2).
//!
//! The coefficients are keyed BLAKE3 of the batch: the same batch under the same seed repeats in every bit.

use std::ops::Range;

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::VartimeMultiscalarMul;

use super::points::KnownPoints;
use super::{Claim, Equation};

/// Fewer than this are checked one by one. A sum of two costs nine tenths of two checks, of four six tenths, of 1024 a
/// fifth.
const SUM_MIN: usize = 2;
/// So many are summed at most: more gain next to nothing, and what the sum needs (a kibibyte each) must stay small.
const SUM_MAX: usize = 1024;
/// Fewer than this, of which one is known to be bad, are checked one by one: halves of eight seldom pay for themselves.
const HALVE_MIN: usize = 16;
/// How many signatures may be summed again, for each one in a batch that failed, before the rest is checked one by one.
/// One bad signature costs less than that wherever it stands; this bounds what a batch full of them may cost.
const AGAIN_MAX: usize = 2;

/// Sets `valid[i]` to whether `claims[i]` is valid. `key` is the secret that coefficients are drawn under.
pub(super) fn verify(claims: &[Claim], key: &[u8; 32], points: &KnownPoints, valid: &mut Vec<bool>) {
    valid.clear();
    valid.resize(claims.len(), false);
    // One signer's signatures side by side: they share a term of the sum, and a liar's fall into few halves.
    let mut order: Vec<usize> = (0..claims.len()).collect();
    order.sort_unstable_by_key(|index| (claims[*index].public_key, *index));
    for chosen in order.chunks(SUM_MAX) {
        let mut batch = Batch::new(claims, chosen, points);
        if batch.terms.len() >= SUM_MIN {
            batch.draw_coefficients(claims, key);
        }
        batch.settle(0..batch.terms.len());
        for term in batch.terms {
            valid[term.claim] = term.valid;
        }
    }
}

/// The equation of one claim.
struct Term {
    /// The index of its claim.
    claim: usize,
    /// The index of its public key in [`Batch::signers`], ascending over the terms.
    signer: usize,
    equation: Equation,
    /// The coefficient z, and z·k and z·s.
    z: Scalar,
    zk: Scalar,
    zs: Scalar,
    valid: bool,
}

struct Batch {
    signers: Vec<EdwardsPoint>,
    terms: Vec<Term>,
    /// Summed again so far.
    again: usize,
    /// Room for the merged scalars of one sum, and the signers that they belong to.
    merged: Vec<(Scalar, usize)>,
}

impl Batch {
    /// The claims of `chosen` that are equations at all, in the order of `chosen`.
    fn new(claims: &[Claim], chosen: &[usize], points: &KnownPoints) -> Self {
        let mut signers: Vec<EdwardsPoint> = Vec::new();
        let mut terms = Vec::with_capacity(chosen.len());
        let mut last = None;
        for index in chosen {
            let claim = &claims[*index];
            if last != Some(claim.public_key) {
                let Some(point) = points.get(&claim.public_key) else { continue };
                signers.push(point);
                last = Some(claim.public_key);
            }
            let Some(equation) = Equation::of(claim) else { continue };
            let (claim, signer) = (*index, signers.len() - 1);
            terms.push(Term {
                claim,
                signer,
                equation,
                z: Scalar::ZERO,
                zk: Scalar::ZERO,
                zs: Scalar::ZERO,
                valid: false,
            });
        }
        let merged = Vec::with_capacity(signers.len());
        Self { signers, terms, again: 0, merged }
    }

    /// 128 bits a term, a function of the secret and of everything in the batch.
    fn draw_coefficients(&mut self, claims: &[Claim], key: &[u8; 32]) {
        let mut hasher = blake3::Hasher::new_keyed(key);
        for term in &self.terms {
            let Claim { public_key, bytes, signature } = &claims[term.claim];
            hasher.update(&public_key.0).update(bytes).update(&signature.0);
        }
        let mut stream = hasher.finalize_xof();
        for term in &mut self.terms {
            let mut z = [0; 16];
            stream.fill(&mut z);
            term.z = Scalar::from(u128::from_le_bytes(z));
            term.zk = term.z * term.equation.k;
            term.zs = term.z * term.equation.s;
        }
    }

    /// Finds the verdicts of `range`.
    fn settle(&mut self, range: Range<usize>) {
        if range.len() < SUM_MIN || self.again > AGAIN_MAX * self.terms.len() {
            self.check_singly(range);
        } else if self.sum_vanishes(range.clone()) {
            self.accept(range);
        } else {
            self.bisect(range);
        }
    }

    /// Finds the verdicts of `range`, whose sum does not vanish.
    fn bisect(&mut self, range: Range<usize>) {
        if range.len() < HALVE_MIN {
            return self.check_singly(range);
        }
        let middle = range.start + range.len() / 2;
        let (left, right) = (range.start..middle, middle..range.end);
        self.again += left.len();
        if self.sum_vanishes(left.clone()) {
            self.accept(left);
            // The halves add up to the whole: the right one cannot vanish too.
            self.bisect(right);
        } else {
            self.bisect(left);
            self.again += right.len();
            self.settle(right);
        }
    }

    fn accept(&mut self, range: Range<usize>) {
        for term in &mut self.terms[range] {
            term.valid = true;
        }
    }

    fn check_singly(&mut self, range: Range<usize>) {
        for term in &mut self.terms[range] {
            let signer = &self.signers[term.signer];
            term.valid = crate::mutant!(
                M45BatchWithoutCofactor,
                term.equation.holds_for(signer),
                term.equation.sum(signer) == EdwardsPoint::default()
            );
        }
    }

    /// Whether `8(Σ z·R + Σ z·k·A - (Σ z·s)·B)` is the identity. The signs keep the coefficients of R short.
    fn sum_vanishes(&mut self, range: Range<usize>) -> bool {
        let Self { signers, terms, merged, .. } = self;
        let terms = &terms[range];
        merged.clear();
        for term in terms {
            match merged.last_mut() {
                Some((scalar, signer)) if *signer == term.signer => *scalar += term.zk,
                Some(_) | None => merged.push((term.zk, term.signer)),
            }
        }
        let base = -terms.iter().map(|term| term.zs).sum::<Scalar>();
        let scalars = [base].into_iter().chain(merged.iter().map(|(scalar, _)| *scalar));
        let points = [ED25519_BASEPOINT_POINT].into_iter().chain(merged.iter().map(|(_, signer)| signers[*signer]));
        let sum = EdwardsPoint::vartime_multiscalar_mul(
            scalars.chain(terms.iter().map(|term| term.z)),
            points.chain(terms.iter().map(|term| term.equation.commitment)),
        );
        crate::mutant!(M45BatchWithoutCofactor, sum.is_small_order(), sum == EdwardsPoint::default())
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::EIGHT_TORSION;

    use super::*;
    use crate::ids::{PublicKey, Signature};

    /// Valid, but for the cofactor: the neutral element signs everything, R is of small order, s is 0.
    fn twisted(number: u8) -> Claim {
        let mut signature = Signature([0; 64]);
        signature.0[..32].copy_from_slice(&EIGHT_TORSION[usize::from(number) % 8].compress().0);
        Claim { public_key: PublicKey(EIGHT_TORSION[0].compress().0), bytes: [number; 80], signature }
    }

    #[test]
    fn x2_torsion_costs_nothing_extra() {
        let claims: Vec<_> = (0..64).map(twisted).collect();
        let order: Vec<_> = (0..claims.len()).collect();
        let mut batch = Batch::new(&claims, &order, &KnownPoints::default());
        batch.draw_coefficients(&claims, &[1; 32]);
        assert!(batch.sum_vanishes(0..64), "no need to halve");
    }

    #[test]
    fn what_bad_signatures_cost_is_bounded() {
        let mut claims: Vec<_> = (0..255).map(twisted).collect();
        for bad in [1, 2, 5, 40, 255] {
            for claim in &mut claims[..bad] {
                claim.signature.0[32] = 1;
            }
            let order: Vec<_> = (0..claims.len()).map(|index| index * 101 % 255).collect();
            let mut batch = Batch::new(&claims, &order, &KnownPoints::default());
            batch.draw_coefficients(&claims, &[1; 32]);
            batch.settle(0..255);
            assert_eq!(batch.terms.iter().filter(|term| !term.valid).count(), bad);
            assert!(bad > 1 || batch.again < 2 * 255, "the rest is summed, not checked singly");
            assert!(batch.again <= (AGAIN_MAX + 1) * 255, "{bad} bad: {} summed again", batch.again);
        }
    }
}
