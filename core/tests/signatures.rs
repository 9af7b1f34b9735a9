//! The signature rule: ZIP-215, alone and in every company, and what a signature of one kind is worth as another.
//! Hostile signatures are made here from their equations; ed25519-zebra, the reference of ZIP-215, is asked too.

mod common;

use bft_core::auth::{Claim, Ed25519, Scheme, ed25519, is_usable_key};
use bft_core::hash::{Context, hash};
use bft_core::ids::{ClusterId, Digest, Epoch, PublicKey, ReplicaId, Seq, Signature, View};
use bft_core::wire::canonical::{self, SigningBytes, Tag, commit_nonce, signing_bytes};
use bft_core::wire::message::{NewView, Position, ViewChange};
use common::{CLUSTER, scheme};
use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use sha2::{Digest as _, Sha512};

/// The prime order of the group, l, little endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// The prime of the field, p = 2²⁵⁵ - 19, little endian.
const PRIME: [u8; 32] = {
    let mut bytes = [0xff; 32];
    bytes[0] = 0xed;
    bytes[31] = 0x7f;
    bytes
};

/// `a + b`, little endian; `None` past 256 bits.
fn add(a: [u8; 32], b: [u8; 32]) -> Option<[u8; 32]> {
    let mut carry = 0;
    let sum = std::array::from_fn(|i| {
        let digit = u16::from(a[i]) + u16::from(b[i]) + carry;
        carry = digit >> 8;
        digit as u8
    });
    (carry == 0).then_some(sum)
}

/// Every encoding of every point of small order: eight canonical ones, two with the sign of a zero, four of y ≥ p.
fn small_order_encodings() -> Vec<[u8; 32]> {
    let mut ys: Vec<[u8; 32]> = EIGHT_TORSION.iter().map(|point| point.compress().0).collect();
    for y in &mut ys {
        y[31] &= 0x7f;
    }
    let above = |y: &[u8; 32]| add(*y, PRIME).filter(|y| y[31] < 0x80);
    ys.extend(ys.clone().iter().filter_map(above));
    let signed = |mut y: [u8; 32]| {
        let plain = y;
        y[31] |= 0x80;
        [plain, y]
    };
    let mut encodings: Vec<_> = ys.into_iter().flat_map(signed).collect();
    encodings.sort_unstable();
    encodings.dedup();
    encodings
}

/// A message as we sign them.
fn message(number: u64) -> SigningBytes {
    signing_bytes(Tag::Request, CLUSTER, hash(Context::Request, &[&number.to_le_bytes()]))
}

/// A scalar that depends on `name`.
fn scalar(name: &str, number: u64) -> Scalar {
    let wide = Sha512::new().chain_update(name).chain_update(number.to_le_bytes()).finalize();
    Scalar::from_bytes_mod_order_wide(&wide.into())
}

fn challenge(r: &[u8; 32], a: &[u8; 32], bytes: &SigningBytes) -> Scalar {
    let wide = Sha512::new().chain_update(r).chain_update(a).chain_update(bytes).finalize();
    Scalar::from_bytes_mod_order_wide(&wide.into())
}

fn claim(a: [u8; 32], r: [u8; 32], s: [u8; 32], bytes: SigningBytes) -> Claim {
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&r);
    signature[32..].copy_from_slice(&s);
    Claim { public_key: PublicKey(a), bytes, signature: Signature(signature) }
}

/// A signature whose A and R are off the prime-order group by `torsion_a` and `torsion_r`, and which holds but for them.
fn twisted(number: u64, torsion_a: EdwardsPoint, torsion_r: EdwardsPoint) -> Claim {
    let (secret, nonce, bytes) = (scalar("secret", number % 5), scalar("nonce", number), message(number));
    let a = (secret * ED25519_BASEPOINT_POINT + torsion_a).compress().0;
    let r = (nonce * ED25519_BASEPOINT_POINT + torsion_r).compress().0;
    claim(a, r, (nonce + challenge(&r, &a, &bytes) * secret).to_bytes(), bytes)
}

/// Bytes that are no point.
fn no_point(number: u64) -> [u8; 32] {
    let candidates = (0u64..).map(|i| hash(Context::Leaf, &[&number.to_le_bytes(), &i.to_le_bytes()]).0);
    candidates.into_iter().find(|bytes| CompressedEdwardsY(*bytes).decompress().is_none()).expect("every second one")
}

fn signed(number: u64) -> Claim {
    let signer = scheme(&format!("signer {}", number % 5));
    let bytes = message(number);
    Claim { public_key: signer.public_key(), bytes, signature: signer.sign(&bytes) }
}

/// Adds l to the s of `claim`.
fn with_unreduced_s(mut claim: Claim) -> Claim {
    let s: [u8; 32] = claim.signature.0[32..].try_into().unwrap();
    claim.signature.0[32..].copy_from_slice(&add(s, ORDER).expect("s < l < 2²⁵³"));
    claim
}

fn zebra(claim: &Claim) -> bool {
    let signature = ed25519_zebra::Signature::from(claim.signature.0);
    ed25519_zebra::VerificationKey::try_from(claim.public_key.0)
        .is_ok_and(|key| key.verify(&signature, &claim.bytes).is_ok())
}

/// The verdicts of a fresh scheme with this seed, all at once.
fn batched(claims: &[Claim], seed: u8) -> Vec<bool> {
    let mut valid = vec![true; 3];
    Ed25519::new(&[1; 32], [seed; 32]).verify_many(claims, &mut valid);
    valid
}

/// The verdict on `claim`, which must be the same alone, everywhere in company, and with ed25519-zebra.
fn verdict(claim: &Claim) -> bool {
    let alone = ed25519::verify(claim);
    assert_eq!(zebra(claim), alone, "ed25519-zebra: {claim:?}");
    let scheme = scheme("verifier");
    assert_eq!((scheme.verify(claim), scheme.verify(claim)), (alone, alone), "before and after its key is known");
    for count in [1, 2, 5, 64] {
        assert_eq!(batched(&vec![*claim; count], 1), vec![alone; count], "{count} times itself");
        for place in [0, count / 2, count - 1] {
            let mut claims: Vec<_> = (0..count as u64).map(signed).collect();
            claims[place] = *claim;
            let expected: Vec<_> = (0..count).map(|index| alone || index != place).collect();
            assert_eq!(batched(&claims, 2), expected, "at {place} of {count}");
        }
    }
    alone
}

#[test]
fn x2_the_196_small_order_signatures_of_zip_215_are_valid() {
    let encodings = small_order_encodings();
    assert_eq!(encodings.len(), 14);
    let is_canonical = |bytes: &[u8; 32]| CompressedEdwardsY(*bytes).decompress().unwrap().compress().0 == *bytes;
    assert_eq!(encodings.iter().filter(|bytes| is_canonical(bytes)).count(), 8);
    let pairs = encodings.iter().flat_map(|a| encodings.iter().map(move |r| (*a, *r)));
    let claims: Vec<_> = pairs.zip(0..).map(|((a, r), number)| claim(a, r, [0; 32], message(number))).collect();
    assert_eq!(claims.len(), 196);
    for claim in &claims {
        assert!(ed25519::verify(claim) && zebra(claim), "{claim:?}");
    }
    assert_eq!(batched(&claims, 7), [true; 196]);
    assert!(claims.iter().step_by(13).all(verdict));
}

#[test]
fn x2_torsion_in_key_or_commitment_is_ignored_everywhere() {
    for (number, torsion) in (0..).zip(EIGHT_TORSION) {
        let none = EIGHT_TORSION[0];
        assert!(verdict(&twisted(number, none, torsion)), "R + {number}T");
        assert!(verdict(&twisted(number, torsion, none)), "A + {number}T");
        assert!(verdict(&twisted(number, torsion, EIGHT_TORSION[3])), "both");
    }
}

#[test]
fn x2_errors_that_cancel_one_another_do_not_pass_together() {
    let one = |claim: &mut Claim, by: Scalar| {
        let s: [u8; 32] = claim.signature.0[32..].try_into().unwrap();
        claim.signature.0[32..].copy_from_slice(&(Scalar::from_canonical_bytes(s).unwrap() + by).to_bytes());
    };
    for (left, right) in [(0, 1), (0, 5), (3, 40)] {
        let mut claims: Vec<_> = (0..64).map(signed).collect();
        one(&mut claims[left], Scalar::ONE);
        one(&mut claims[right], -Scalar::ONE);
        let expected: Vec<_> = (0..64).map(|index| index != left && index != right).collect();
        assert_eq!(batched(&claims, 3), expected);
        assert_eq!(batched(&[claims[left], claims[right]], 3), [false, false]);
    }
}

#[test]
fn x3_an_unreduced_s_is_refused() {
    for number in 0..8 {
        assert!(verdict(&signed(number)));
        assert!(!verdict(&with_unreduced_s(signed(number))));
    }
    let neutral = EIGHT_TORSION[0].compress().0;
    assert!(verdict(&claim(neutral, neutral, [0; 32], message(0))));
    assert!(!verdict(&claim(neutral, neutral, ORDER, message(0))), "s = l");
}

#[test]
fn x2_what_does_not_decode_is_refused() {
    let Claim { public_key, bytes, signature } = signed(1);
    let s = signature.0[32..].try_into().unwrap();
    let r = signature.0[..32].try_into().unwrap();
    assert!(!verdict(&claim(no_point(0), r, s, bytes)), "A");
    assert!(!verdict(&claim(public_key.0, no_point(1), s, bytes)), "R");
    assert!(!verdict(&claim(no_point(2), no_point(3), [0; 32], bytes)), "both");
}

#[test]
fn x2_no_claims_no_verdicts() {
    assert_eq!(batched(&[], 1), []);
}

#[test]
fn x2_a_batch_of_several_sums_settles_every_claim() {
    let mut claims: Vec<_> = (0..2100).map(signed).collect();
    let bad = [0, 1, 700, 1023, 1024, 1025, 2047, 2048, 2099];
    for index in bad {
        claims[index].signature.0[33] ^= 4;
    }
    let expected: Vec<_> = (0..claims.len()).map(|index| !bad.contains(&index)).collect();
    assert_eq!(batched(&claims, 9), expected);
}

#[test]
fn x2_batches_full_of_bad_signatures_are_settled_too() {
    for honest in [usize::MAX, 2, 3, 7, 60] {
        let claims: Vec<_> = (0..300)
            .map(|index| {
                let mut claim = signed(index as u64);
                claim.signature.0[32] ^= u8::from(index % honest != 1);
                claim
            })
            .collect();
        let expected: Vec<_> = (0..300).map(|index| index % honest == 1).collect();
        assert_eq!(batched(&claims, 5), expected, "one in {honest} is good");
    }
}

/// One claim of each class that a liar may think of; `number` varies it.
fn of_class(class: u8, number: u64) -> Claim {
    let encodings = small_order_encodings();
    let small = |shift: u64| encodings[((number + shift) % 14) as usize];
    let torsion = EIGHT_TORSION[(number % 8) as usize];
    let mut claim_ = signed(number);
    match class {
        0 => claim_.signature.0[(number % 64) as usize] ^= 1 << (number % 8),
        1 => claim_.bytes[(number % 80) as usize] ^= 1,
        2 => claim_.public_key = signed(number + 1).public_key,
        3 => claim_ = with_unreduced_s(claim_),
        4 => claim_ = twisted(number, torsion, EIGHT_TORSION[0]),
        5 => claim_ = twisted(number, EIGHT_TORSION[0], torsion),
        6 => claim_ = claim(small(0), small(number / 14), [0; 32], message(number)),
        7 => claim_ = claim(small(0), claim_.signature.0[..32].try_into().unwrap(), [0; 32], message(number)),
        8 => claim_ = claim(no_point(number), small(0), [0; 32], message(number)),
        9 => claim_.signature.0[..32].copy_from_slice(&no_point(number)),
        10 => claim_.signature.0 = signed(number + 5).signature.0,
        _ => {}
    }
    claim_
}

fn any_claim() -> impl Strategy<Value = Claim> {
    // Half of them honest: only then do halves of a batch differ.
    (0u8..22, 0u64..200).prop_map(|(class, number)| of_class(class, number))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        rng_seed: RngSeed::Fixed(215),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn x2_no_verdict_depends_on_company_order_or_seed(
        claims in prop::collection::vec(any_claim(), 0..70),
        seed: u8,
        rotation: prop::sample::Index,
        kept in prop::collection::vec(any::<bool>(), 70),
    ) {
        let alone: Vec<_> = claims.iter().map(ed25519::verify).collect();
        prop_assert_eq!(&alone, &claims.iter().map(zebra).collect::<Vec<_>>());
        prop_assert_eq!(&alone, &batched(&claims, seed));

        let mut turned = claims.clone();
        let mut expected = alone.clone();
        if !claims.is_empty() {
            turned.rotate_left(rotation.index(claims.len()));
            expected.rotate_left(rotation.index(claims.len()));
        }
        turned.reverse();
        expected.reverse();
        prop_assert_eq!(expected, batched(&turned, seed.wrapping_add(1)));

        let chosen: Vec<_> = claims.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(claim, _)| *claim).collect();
        let expected: Vec<_> = alone.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(valid, _)| *valid).collect();
        prop_assert_eq!(expected, batched(&chosen, seed));
    }

    #[test]
    fn x2_a_mutated_signature_is_judged_as_by_zebra(number in 0u64..50, at in 0usize..176, flip in 1u8..=255) {
        let mut claim = signed(number);
        match at {
            0..32 => claim.public_key.0[at] ^= flip,
            32..112 => claim.bytes[at - 32] ^= flip,
            _ => claim.signature.0[at - 112] ^= flip,
        }
        prop_assert_eq!(ed25519::verify(&claim), zebra(&claim));
        prop_assert!(!ed25519::verify(&claim));
        prop_assert_eq!(batched(&[signed(0), claim, signed(1), claim], 4), [true, false, true, false]);
    }
}

#[test]
fn x6_only_canonical_keys_of_the_prime_order_group_are_usable() {
    for encoding in small_order_encodings() {
        assert!(!is_usable_key(&PublicKey(encoding)), "small order");
    }
    let key = scheme("somebody").public_key();
    assert!(is_usable_key(&key));
    let point = CompressedEdwardsY(key.0).decompress().unwrap();
    for torsion in &EIGHT_TORSION[1..] {
        assert!(!is_usable_key(&PublicKey((point + torsion).compress().0)), "torsion");
    }
    for number in 0..8 {
        assert!(!is_usable_key(&PublicKey(no_point(number))), "no point");
    }
    // Of the encodings of y ≥ p that decode, none is canonical, whatever its order.
    for y in 0..19u8 {
        let Some(mut bytes) = add(PRIME, {
            let mut low = [0; 32];
            low[0] = y;
            low
        }) else {
            panic!("below 2²⁵⁶")
        };
        assert!(!is_usable_key(&PublicKey(bytes)), "not canonical");
        bytes[31] |= 0x80;
        assert!(!is_usable_key(&PublicKey(bytes)), "not canonical");
    }
}

#[test]
fn x8_signatures_and_nonces_are_the_same_after_a_restart() {
    let at = Position { epoch: Epoch(1), view: View(2), seq: Seq(3), digest: Digest([4; 32]) };
    let (before, after) = (Ed25519::new(&[9; 32], [1; 32]), Ed25519::new(&[9; 32], [2; 32]));
    assert_eq!(before.public_key(), after.public_key());
    assert_eq!(before.commit_secret(), after.commit_secret());
    assert_eq!(commit_nonce(&before.commit_secret(), &at), commit_nonce(&after.commit_secret(), &at));
    for number in 0..16 {
        assert_eq!(before.sign(&message(number)), after.sign(&message(number)));
    }
    let other = Ed25519::new(&[8; 32], [1; 32]);
    assert_ne!(other.commit_secret(), before.commit_secret());
    assert_ne!(other.sign(&message(0)), before.sign(&message(0)));
}

#[test]
fn x8_a_nonce_is_of_one_place_and_one_batch() {
    let secret = scheme("somebody").commit_secret();
    let at = Position { epoch: Epoch(1), view: View(2), seq: Seq(3), digest: Digest([4; 32]) };
    let nonces = [
        commit_nonce(&secret, &at),
        commit_nonce(&secret, &Position { epoch: Epoch(2), ..at }),
        commit_nonce(&secret, &Position { view: View(1), ..at }),
        commit_nonce(&secret, &Position { seq: Seq(2), ..at }),
        commit_nonce(&secret, &Position { digest: Digest([5; 32]), ..at }),
        commit_nonce(&scheme("somebody else").commit_secret(), &at),
    ];
    assert_all_differ(&nonces);
}

/// Everything that is signed, over the same fields as far as it has them.
fn every_kind(cluster: ClusterId, at: &Position) -> Vec<SigningBytes> {
    let (digest, replica, client) = (at.digest, ReplicaId(1), scheme("client").public_key());
    let mut kinds = vec![
        canonical::pre_prepare(cluster, at, digest),
        canonical::prepare(cluster, at, replica, digest),
        canonical::checkpoint(cluster, at.epoch, at.seq, digest, at.seq, replica),
        canonical::snapshot(cluster, at.epoch, at.seq, digest, replica),
        canonical::client_certificate(cluster, client, at.epoch),
    ];
    let (epoch, view, signature) = (at.epoch, at.view, Signature::ZERO);
    let view_change = ViewChange { epoch, view, replica, certificate: None, prepared: Vec::new(), signature };
    kinds.push(view_change.signing_bytes(cluster));
    kinds.push(NewView { epoch, view, view_changes: Vec::new(), signature }.signing_bytes(cluster));
    // The crudest case (Z1): every kind signs one and the same digest.
    kinds.extend(Tag::ALL.map(|tag| signing_bytes(tag, cluster, digest)));
    kinds
}

fn assert_all_differ<T: PartialEq + std::fmt::Debug>(things: &[T]) {
    for (index, thing) in things.iter().enumerate() {
        assert!(!things[..index].contains(thing), "{thing:?} twice");
    }
}

#[test]
fn x1_s10_a_signature_of_one_kind_is_worth_nothing_as_another() {
    let at = Position { epoch: Epoch(1), view: View(1), seq: Seq(128), digest: Digest([1; 32]) };
    let signer = scheme("signer");
    let kinds = every_kind(CLUSTER, &at);
    assert_eq!(kinds.len(), 17);
    assert_all_differ(&kinds);
    let signatures: Vec<_> = kinds.iter().map(|bytes| signer.sign(bytes)).collect();
    for (signed, signature) in signatures.iter().enumerate() {
        for (shown, bytes) in kinds.iter().enumerate() {
            let claim = Claim { public_key: signer.public_key(), bytes: *bytes, signature: *signature };
            assert_eq!(signer.verify(&claim), signed == shown, "{signed} as {shown}");
        }
    }
}

#[test]
fn x1_tags_are_zero_padded_ascii_and_all_different() {
    let tags = Tag::ALL.map(|tag| signing_bytes(tag, CLUSTER, Digest::ZERO)[..16].to_vec());
    assert_all_differ(&tags);
    for tag in &tags {
        let text: Vec<u8> = tag.iter().copied().take_while(|byte| *byte != 0).collect();
        assert!(text.starts_with(b"bft1.") && text.is_ascii());
        assert!(tag[text.len()..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn z1_every_field_of_a_vote_is_signed() {
    let at = Position { epoch: Epoch(1), view: View(1), seq: Seq(1), digest: Digest([1; 32]) };
    let places = [
        at,
        Position { epoch: Epoch(2), ..at },
        Position { view: View(2), ..at },
        Position { seq: Seq(2), ..at },
        Position { digest: Digest([2; 32]), ..at },
    ];
    let mut all = Vec::new();
    for at in &places {
        all.push(canonical::pre_prepare(CLUSTER, at, Digest([7; 32])));
        all.push(canonical::prepare(CLUSTER, at, ReplicaId(1), Digest([7; 32])));
    }
    all.push(canonical::pre_prepare(CLUSTER, &at, Digest([8; 32])));
    all.push(canonical::prepare(CLUSTER, &at, ReplicaId(1), Digest([8; 32])));
    all.push(canonical::prepare(CLUSTER, &at, ReplicaId(2), Digest([7; 32])));
    let (one, two) = (Digest([1; 32]), Digest([2; 32]));
    for (epoch, seq, root, end, replica) in [
        (1, 1, one, 1, 1),
        (2, 1, one, 1, 1),
        (1, 2, one, 1, 1),
        (1, 1, two, 1, 1),
        (1, 1, one, 2, 1),
        (1, 1, one, 1, 2),
    ] {
        all.push(canonical::checkpoint(CLUSTER, Epoch(epoch), Seq(seq), root, Seq(end), ReplicaId(replica)));
        if end == 1 {
            all.push(canonical::snapshot(CLUSTER, Epoch(epoch), Seq(seq), root, ReplicaId(replica)));
        }
    }
    for (client, epoch) in [("ada", 1), ("bob", 1), ("ada", 2)] {
        all.push(canonical::client_certificate(CLUSTER, scheme(client).public_key(), Epoch(epoch)));
    }
    assert_all_differ(&all);
}

#[test]
fn x5_what_is_signed_in_one_cluster_is_worth_nothing_in_another() {
    let at = Position { epoch: Epoch(1), view: View(1), seq: Seq(128), digest: Digest([1; 32]) };
    let signer = scheme("signer");
    for (here, there) in every_kind(CLUSTER, &at).iter().zip(every_kind(ClusterId([9; 32]), &at)) {
        let (public_key, signature) = (signer.public_key(), signer.sign(here));
        assert!(signer.verify(&Claim { public_key, bytes: *here, signature }));
        assert!(!signer.verify(&Claim { public_key, bytes: there, signature }));
    }
}
