//! Small direct checks of single rules of bft-core, for planted faults that no run shows: what one layer lets through another
//! one holds back, nobody in a run does it, or only time would tell. Each holds for the core as it is. The clusters that
//! they lead step by step are those of bft-core's tests.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bft_core::auth::{Claim, Ed25519, Scheme};
use bft_core::door::{Input, Place};
use bft_core::hash::{Context, hash};
use bft_core::ids::{Digest, PublicKey, ReplicaId, RequestNo, Seq, SessionId, Signature, View};
use bft_core::journal::record::Record;
use bft_core::limits::MILLISECOND;
use bft_core::ordering::pbft::new_view::Beginning;
use bft_core::quorum::ReplicaSet;
use bft_core::snapshot::{Manifest, Scalars};
use bft_core::wire::canonical::{self, commit_nonce};
use bft_core::wire::message::{Kind, Message, StableSnapshot};
use bft_core::wire::request::{Body, SignedRequest, encode_request};

use common::cluster::{Cluster, Hears, T0};
use common::{TestCluster, scheme};

use crate::run::quietly;

#[path = "../../tests/common/mod.rs"]
mod common;

/// A check by its name.
pub type Probe = fn();

/// Every probe.
pub const PROBES: &[(&str, Probe)] = &[
    ("only-the-primary-proposes", only_the_primary_proposes),
    ("a-second-proposal-is-not-voted-for", a_second_proposal_is_not_voted_for),
    ("a-leaf-binds-the-signature", a_leaf_binds_the_signature),
    ("early-proposals-are-kept", early_proposals_are_kept),
    ("a-manifest-is-the-one-that-was-signed", a_manifest_is_the_one_that_was_signed),
    ("a-claimed-signer-is-not-blamed", a_claimed_signer_is_not_blamed),
    ("certificates-in-a-view-change-are-signed", certificates_in_a_view_change_are_signed),
    ("the-highest-certificate-is-chosen", the_highest_certificate_is_chosen),
    ("the-root-binds-the-clients", the_root_binds_the_clients),
    ("view-changes-are-sent-again", view_changes_are_sent_again),
    ("timeouts-grow", timeouts_grow),
    ("an-executed-request-is-not-waited-for", an_executed_request_is_not_waited_for),
    ("a-batch-of-signatures-is-judged-like-each", a_batch_of_signatures_is_judged_like_each),
    ("a-nonce-is-of-one-batch", a_nonce_is_of_one_batch),
    ("what-is-committed-is-voted-for-again", what_is_committed_is_voted_for_again),
    ("a-checkpoint-is-signed-once", a_checkpoint_is_signed_once),
    ("the-window-moves-on-what-is-durable", the_window_moves_on_what_is_durable),
    ("a-silent-primary-is-suspected", a_silent_primary_is_suspected),
];

/// Whether the core passes a probe; an error says what is wrong.
pub fn holds(probe: Probe) -> Result<(), String> {
    quietly(AssertUnwindSafe(probe))
}

fn hear(cluster: &mut Cluster, at: ReplicaId, from: ReplicaId, message: Message) {
    let message = cluster.verifier.check(from, message).expect("well signed");
    cluster.step(at, Input::Message { from, message });
    cluster.settle();
}

fn only_the_primary_proposes() {
    let cluster = TestCluster::new();
    let backup = cluster.backups(View(0))[0];
    let mut proposal = cluster.pre_prepare(0, 1, cluster.body(1));
    let check = |proposal: &_| cluster.verifier().check(backup, Message::PrePrepare(Clone::clone(proposal)));
    check(&proposal).expect("the primary's");
    let bytes = canonical::pre_prepare(cluster.config.cluster_id(), &proposal.position, proposal.ballot.commitment);
    proposal.ballot.signature = cluster.scheme(backup).sign(&bytes);
    assert!(check(&proposal).is_err(), "a backup's proposal passes");
}

fn a_second_proposal_is_not_voted_for() {
    let mut cluster = Cluster::new();
    cluster.settle();
    let secrets = cluster.secrets();
    let (primary, backup) = (cluster.primary(0), secrets.backups(View(0))[0]);
    for salt in [1, 2] {
        let proposal = secrets.pre_prepare(0, 1, secrets.body(salt));
        hear(&mut cluster, backup, primary, Message::PrePrepare(proposal));
    }
    let votes = cluster.hosts[backup.index()].records.iter();
    let is_vote = |place: &Place| matches!(place, Place::Journal(Record::Vote(vote)) if vote.position.view == View(0));
    let votes = votes.filter(|persist| is_vote(&persist.place)).count();
    assert_eq!(votes, 1, "a backup votes twice at one place");
}

fn a_manifest_is_the_one_that_was_signed() {
    let cluster = TestCluster::new();
    let signers: Vec<_> = cluster.config.replicas().collect();
    let mut manifest = Manifest::new(Scalars { seq: Seq(1 << 17), ..Scalars::default() });
    manifest.add_chunk(b"state");
    let certificate = cluster.snapshot_of(1 << 17, manifest.root(), &signers);
    let check = |manifest: &Manifest| {
        let (certificate, manifest) = (certificate.clone(), Arc::new(manifest.clone()));
        cluster.verifier().check(ReplicaId(0), Message::Manifest(StableSnapshot { certificate, manifest }))
    };
    check(&manifest).expect("the one that was signed");
    manifest.add_chunk(b"more");
    assert!(check(&manifest).is_err(), "a manifest that nobody signed passes");
}

/// A proposal that its primary has not signed, over a Request that its client has not signed, proves nothing.
fn a_claimed_signer_is_not_blamed() {
    let cluster = TestCluster::new();
    let operation: &[u8] = b"forged";
    let (client, session, first, none) = (scheme("ada").public_key(), SessionId(9), RequestNo(1), RequestNo(0));
    let bytes = encode_request(client, session, first, none, 0, [operation].into_iter(), |_| Signature([1; 64]));
    let forged = SignedRequest::parse(bytes, cluster.bounds()).expect("well-formed");
    let mut proposal = cluster.pre_prepare(0, 1, Body::join(&[forged]));
    proposal.ballot.signature = Signature([2; 64]);
    let refused = cluster.verifier().check_or_accuse(cluster.backups(View(0))[0], Message::PrePrepare(proposal));
    assert!(refused.expect_err("nobody signed it").evidence.is_none(), "a primary is accused of what it never signed");
}

/// The same Request under two signatures.
fn a_leaf_binds_the_signature() {
    let cluster = TestCluster::new();
    let leaf = |signature| {
        let (client, session, first, none) = (PublicKey([7; 32]), SessionId(9), RequestNo(1), RequestNo(0));
        let operation: &[u8] = b"the same";
        let bytes = encode_request(client, session, first, none, 0, [operation].into_iter(), |_| signature);
        SignedRequest::parse(bytes, cluster.bounds()).expect("well-formed").entry.leaf
    };
    assert_ne!(leaf(Signature([1; 64])), leaf(Signature([2; 64])), "one batch has two strings of bytes");
}

fn early_proposals_are_kept() {
    let mut cluster = Cluster::new();
    cluster.settle();
    let secrets = cluster.secrets();
    let (primary, backup) = (cluster.primary(0), secrets.backups(View(0))[0]);
    let window = cluster.config.params().window;
    let early = secrets.pre_prepare(0, window + 1, secrets.body(1));
    hear(&mut cluster, backup, primary, Message::PrePrepare(early));
    let signers: Vec<_> = cluster.config.replicas().collect();
    let stable = secrets.checkpoint(window / 2, &signers);
    hear(&mut cluster, backup, primary, Message::Checkpoint(stable));
    let voted = cluster.told.iter().any(|(at, kind, _)| *at == backup && *kind == Kind::Prepare);
    assert!(voted, "a proposal of the next window was dropped");
}

fn certificates_in_a_view_change_are_signed() {
    let cluster = TestCluster::new();
    let backups = cluster.backups(View(0));
    let check = |spoil: bool| {
        let mut certificate = cluster.prepared(0, 1, &cluster.body(1), &backups);
        if spoil {
            certificate.prepares[0].1.signature.0[0] ^= 1;
        }
        let message = cluster.view_change(backups[0], 1, None, vec![certificate]);
        cluster.verifier().check(backups[0], Message::ViewChange(message))
    };
    check(false).expect("a valid VIEW-CHANGE");
    assert!(check(true).is_err(), "a vote that nobody signed passes in a certificate");
}

/// The certificate of the lower view comes first.
fn the_highest_certificate_is_chosen() {
    let cluster = TestCluster::new();
    let view_change = |(replica, view): (u16, u64)| {
        let prepared = vec![cluster.prepared(view, 1, &cluster.body(view), &cluster.backups(View(view)))];
        cluster.view_change(ReplicaId(replica), 9, None, prepared)
    };
    let beginning = Beginning::of(&[(0, 1), (1, 3)].map(view_change), Digest::ZERO).expect("no two in one view");
    let expected = cluster.position(3, 1, &cluster.body(3)).0.digest;
    assert_eq!(beginning.order[&Seq(1)].digest, expected, "a batch of a lower view comes back");
}

fn the_root_binds_the_clients() {
    let root = |clients: &[u8]| {
        let mut manifest = Manifest::new(Scalars::default());
        manifest.add_chunk(b"state");
        manifest.add_clients(clients);
        manifest.root()
    };
    assert_ne!(root(b"one table"), root(b"another"), "two client tables have one root");
}

fn view_changes_are_sent_again() {
    let mut cluster = Cluster::running();
    cluster.down.push(cluster.primary(0));
    cluster.hears = |_, _, message| !matches!(message, Message::ViewChange(_) | Message::NewView(_));
    cluster.submit();
    cluster.pass_until(3 * T0, |cluster| cluster.sent_of(Kind::ViewChange).count() >= 3);
    cluster.hears = |_, _, _| true;
    cluster.pass(T0 / 2);
    assert!(cluster.all_are_in(1), "what was lost of a VIEW-CHANGE is not sent again");
}

fn timeouts_grow() {
    let mut cluster = Cluster::running();
    cluster.down.push(cluster.primary(0));
    cluster.hears = |_, _, message| message.kind() != Kind::NewView;
    cluster.submit();
    let witness = cluster.others(&cluster.down)[0];
    let mut took = [0; 4];
    for (view, took) in (1..).zip(&mut took) {
        *took = cluster.pass_until(100 * T0, |cluster| cluster.view(witness).0 >= View(view));
    }
    assert!(took[3] > 3 * took[1], "views that fail take {took:?} ns");
}

fn an_executed_request_is_not_waited_for() {
    let mut cluster = Cluster::running();
    let late = cluster.asked.last().cloned().expect("the client has asked");
    cluster.down.push(cluster.primary(0));
    for replica in cluster.others(&cluster.down) {
        let requests = cluster.verifier.check_requests(vec![late.clone()]).0;
        cluster.step(replica, Input::Requests(requests));
    }
    cluster.pass(20 * T0);
    assert!(cluster.all_are_in(0), "a primary is given up over a Request that was executed");
}

/// A commitment of order 2 under the neutral key: valid with the cofactor, and not without.
fn a_batch_of_signatures_is_judged_like_each() {
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut of_order_two = [0xff; 32];
    (of_order_two[0], of_order_two[31]) = (0xec, 0x7f);
    let mut signature = Signature::ZERO;
    signature.0[..32].copy_from_slice(&of_order_two);
    let claims = [1, 2, 3, 4].map(|byte| Claim { public_key: PublicKey(identity), bytes: [byte; 80], signature });
    let scheme = Ed25519::new(&hash(Context::Link, &[b"probe"]).0, [3; 32]);
    let mut together = Vec::new();
    scheme.verify_many(&claims, &mut together);
    let alone: Vec<_> = claims.iter().map(|claim| scheme.verify(claim)).collect();
    assert_eq!((&together, alone[0]), (&alone, true), "the verdicts differ");
}

fn a_nonce_is_of_one_batch() {
    let cluster = TestCluster::new();
    let nonce = |salt| commit_nonce(&Digest([7; 32]), &cluster.position(0, 1, &cluster.body(salt)).0);
    assert_ne!(nonce(1), nonce(2), "one opening for two batches");
}

/// One replica commits what the others have only prepared, and votes for it in the next view as they need it.
fn what_is_committed_is_voted_for_again() {
    let mut cluster = Cluster::running();
    let knowing = cluster.primary(2);
    let hears: [Hears; 4] = [
        |_, to, message| message.kind() != Kind::Commit || to == ReplicaId(0),
        |_, to, message| message.kind() != Kind::Commit || to == ReplicaId(1),
        |_, to, message| message.kind() != Kind::Commit || to == ReplicaId(2),
        |_, to, message| message.kind() != Kind::Commit || to == ReplicaId(3),
    ];
    cluster.hears = hears[knowing.index()];
    cluster.submit();
    let ordering = cluster.hosts[knowing.index()].replica.ordering();
    let seq = ordering.highest_prepared();
    assert!(ordering.slot(seq).is_some_and(|slot| slot.committed.is_some()), "it heard all COMMITs");
    // Nobody is told of it.
    cluster.hears = |_, _, message| !matches!(message.kind(), Kind::Commit | Kind::Status);
    cluster.down.push(cluster.primary(0));
    cluster.pass_until(20 * T0, |cluster| cluster.all_are_in(1));
    cluster.pass(T0 / 10);
    let has_voted = cluster.sent_of(Kind::Prepare).any(|(from, message)| {
        let at = match message {
            Message::Prepare(prepare) => prepare.position,
            _ => unreachable!("only PREPAREs were asked for"),
        };
        *from == knowing && at.view == View(1) && at.seq == seq
    });
    assert!(has_voted, "{knowing:?} leaves the others without its vote for Seq {seq}");
}

/// The replica comes to its checkpoint again, after a restart and before it is stable.
fn a_checkpoint_is_signed_once() {
    let mut cluster = Cluster::running();
    cluster.hears = |_, _, message| message.kind() != Kind::Checkpoint;
    let backup = cluster.primary(2);
    while cluster.hosts[backup.index()].replica.executed() < Seq(8) {
        cluster.submit();
        cluster.pass(10 * MILLISECOND);
    }
    let signed = |cluster: &Cluster| {
        let records = cluster.hosts[backup.index()].records.iter();
        records.filter(|persist| matches!(persist.place, Place::Journal(Record::CkptVote { .. }))).count()
    };
    assert_eq!(signed(&cluster), 1);
    cluster.restart(backup);
    assert!(cluster.hosts[backup.index()].replica.executed() >= Seq(8), "it executes again what it had executed");
    assert_eq!(signed(&cluster), 1, "one root for each Seq, ever");
}

fn the_window_moves_on_what_is_durable() {
    let mut cluster = Cluster::new();
    cluster.settle();
    let secrets = cluster.secrets();
    let (primary, backup) = (cluster.primary(0), secrets.backups(View(0))[0]);
    let signers: Vec<_> = cluster.config.replicas().collect();
    cluster.host(backup).disk_is_stopped = true;
    hear(&mut cluster, backup, primary, Message::Checkpoint(secrets.checkpoint(8, &signers)));
    let durable = cluster.hosts[backup.index()].durable;
    cluster.step(backup, Input::Durable(durable));
    assert_eq!(cluster.hosts[backup.index()].replica.stable(), Seq(0), "the certificate is not durable");
    cluster.start_disk(backup);
    assert_eq!(cluster.hosts[backup.index()].replica.stable(), Seq(8));
}

fn a_silent_primary_is_suspected() {
    let mut cluster = Cluster::running();
    cluster.down.push(cluster.primary(0));
    cluster.submit();
    let backups: ReplicaSet = cluster.others(&cluster.down).into_iter().collect();
    cluster.pass_until(5 * T0, |cluster| backups.iter().all(|backup| cluster.view(backup).0 > View(0)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_passes_every_probe() {
        for (name, probe) in PROBES {
            assert_eq!(holds(*probe), Ok(()), "{name}");
        }
    }
}
