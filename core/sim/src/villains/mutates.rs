//! The attack: no plan at all. Any number or digest of any message is moved by one, set to nothing, to the most there is, or
//! to what the message of its kind before had there; and old messages come again (after ByzzFuzz, Winter et al., OOPSLA'23).
//! What carries its own signature is signed anew, most of the time.

use std::sync::Arc;

use bft_core::evidence::{Evidence, Proof};
use bft_core::ids::{Digest, ReplicaId};
use bft_core::snapshot::Manifest;
use bft_core::wire::message::{
    Ballot, BatchHeader, Checkpoint, Kind, Message, NewView, Position, PreparedCertificate, SnapshotVote, Status,
    ViewChange,
};

use super::Villain;
use super::means::Means;
use super::said::Said;

/// How many of its messages in a thousand are changed.
const MUTATED: u32 = 80;

/// A field that can be changed.
enum Field<'a> {
    Word(&'a mut u64),
    Half(&'a mut u32),
    Replica(&'a mut ReplicaId),
    Digest(&'a mut Digest),
}

/// Changes fields at random.
#[derive(Default)]
pub struct Mutates {
    /// The last message of each kind.
    before: [Option<Message>; Kind::ALL.len()],
}

impl Villain for Mutates {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        if !means.rng.chance(MUTATED) {
            return said.truth(message);
        }
        let slot = Kind::ALL.iter().position(|kind| *kind == message.kind()).expect("every message has a kind");
        let before = self.before[slot].replace(message.clone());
        if let Some(before) = &before
            && means.rng.chance(200)
        {
            said.lie(before.clone());
            return said.truth(message);
        }
        let mut changed = message;
        mutate(means, &mut changed, before);
        if means.rng.chance(800) {
            seal(means, &mut changed);
        }
        said.lie(changed);
    }
}

/// Changes one field.
fn mutate(means: &mut Means, message: &mut Message, mut before: Option<Message>) {
    let mut count = 0;
    visit(message, &mut |_| count += 1);
    if count == 0 {
        return;
    }
    let chosen = means.rng.below(count);
    let former = before.as_mut().and_then(|before| value_of(before, chosen));
    let how = means.rng.below(5);
    nth(message, chosen, |field| match field {
        Field::Word(word) => *word = change(how, *word, former, u64::MAX),
        Field::Half(half) => *half = change(how, (*half).into(), former, u32::MAX.into()) as u32,
        Field::Replica(replica) => replica.0 = change(how, replica.0.into(), former, u16::MAX.into()) as u16,
        Field::Digest(digest) => {
            let (front, _) = digest.0.split_first_chunk_mut::<8>().expect("a digest has 32 bytes");
            *front = change(how, u64::from_le_bytes(*front), former, u64::MAX).to_le_bytes();
        }
    });
}

fn change(how: u64, value: u64, former: Option<u64>, most: u64) -> u64 {
    match how {
        0 => value.wrapping_add(1) & most,
        1 => value.wrapping_sub(1) & most,
        2 => 0,
        3 => most,
        _ => former.unwrap_or(value ^ 1) & most,
    }
}

fn value_of(message: &mut Message, chosen: u64) -> Option<u64> {
    let mut value = None;
    nth(message, chosen, |field| {
        value = Some(match field {
            Field::Word(word) => *word,
            Field::Half(half) => (*half).into(),
            Field::Replica(replica) => replica.0.into(),
            Field::Digest(digest) => u64::from_le_bytes(*digest.0.first_chunk().expect("a digest has 32 bytes")),
        });
    });
    value
}

fn nth(message: &mut Message, chosen: u64, act: impl FnOnce(Field<'_>)) {
    let (mut at, mut act) = (0, Some(act));
    visit(message, &mut |field| {
        if at == chosen
            && let Some(act) = act.take()
        {
            act(field);
        }
        at += 1;
    });
}

/// Shows every field of a message that travels.
fn visit(message: &mut Message, see: &mut dyn FnMut(Field<'_>)) {
    match message {
        Message::PrePrepare(proposal) => {
            visit_position(&mut proposal.position, see);
            visit_ballot(&mut proposal.ballot, see);
            visit_header(&mut proposal.header, see);
        }
        Message::Prepare(vote) => {
            visit_position(&mut vote.position, see);
            see(Field::Replica(&mut vote.replica));
            visit_ballot(&mut vote.ballot, see);
        }
        Message::Commit(commit) => {
            visit_position(&mut commit.position, see);
            see(Field::Replica(&mut commit.replica));
            see(Field::Digest(&mut commit.nonce));
        }
        Message::Checkpoint(vote) => visit_checkpoint(vote, see),
        Message::Snapshot(vote) => visit_snapshot(vote, see),
        Message::Manifest(snapshot) => {
            visit_snapshot(&mut snapshot.certificate, see);
            visit_manifest(Arc::make_mut(&mut snapshot.manifest), see);
        }
        Message::FetchChunk(fetch) => {
            see(Field::Word(&mut fetch.seq.0));
            see(Field::Half(&mut fetch.piece.index));
        }
        Message::Chunk(chunk) => {
            see(Field::Word(&mut chunk.seq.0));
            see(Field::Half(&mut chunk.piece.index));
        }
        Message::Trail(trail) => {
            see(Field::Word(&mut trail.seq.0));
            see(Field::Digest(&mut trail.chain));
            see(Field::Digest(&mut trail.exec_before));
            for step in &mut trail.steps {
                see(Field::Digest(&mut step.reply_root));
                see(Field::Digest(&mut step.delta));
            }
        }
        Message::ViewChange(view_change) => visit_view_change(Arc::make_mut(view_change), see),
        Message::NewView(new_view) => {
            let NewView { epoch, view, view_changes, .. } = Arc::make_mut(new_view);
            see(Field::Word(&mut epoch.0));
            see(Field::Word(&mut view.0));
            view_changes.iter_mut().for_each(|message| visit_view_change(Arc::make_mut(message), see));
        }
        Message::Status(status) => visit_status(status, see),
        Message::FetchSlot(seq) | Message::FetchLog(seq) | Message::FetchManifest(seq) | Message::FetchTrail(seq) => {
            see(Field::Word(&mut seq.0));
        }
        Message::FetchBody(batch) => {
            see(Field::Word(&mut batch.seq.0));
            see(Field::Digest(&mut batch.digest));
        }
        Message::Body(batch) => {
            see(Field::Word(&mut batch.seq.0));
            visit_header(&mut batch.header, see);
        }
        Message::Slot(slot) => visit_position(&mut Arc::make_mut(&mut slot.certificate).position, see),
        Message::Log(slots) => {
            slots.iter_mut().for_each(|slot| visit_position(&mut Arc::make_mut(&mut slot.certificate).position, see));
        }
        Message::Evidence(evidence) => {
            let Evidence { epoch, proof, .. } = Arc::make_mut(evidence);
            see(Field::Word(&mut epoch.0));
            if let Proof::TwoPrepares { replica, .. } | Proof::TwoCheckpoints { replica, .. } = proof {
                see(Field::Replica(replica));
            }
        }
        Message::Request(_)
        | Message::Reply(_)
        | Message::Busy(_)
        | Message::InfoQuery { .. }
        | Message::Info(_)
        | Message::ClientJoin(_) => {}
    }
}

fn visit_snapshot(vote: &mut SnapshotVote, see: &mut dyn FnMut(Field<'_>)) {
    let SnapshotVote { epoch, seq, root, signatures } = vote;
    see(Field::Word(&mut epoch.0));
    see(Field::Word(&mut seq.0));
    see(Field::Digest(root));
    signatures.iter_mut().for_each(|(replica, _)| see(Field::Replica(replica)));
}

fn visit_manifest(manifest: &mut Manifest, see: &mut dyn FnMut(Field<'_>)) {
    see(Field::Word(&mut manifest.scalars.seq.0));
    see(Field::Digest(&mut manifest.scalars.chain));
    see(Field::Digest(&mut manifest.scalars.exec));
    see(Field::Word(&mut manifest.scalars.time_ns));
    see(Field::Word(&mut manifest.scalars.previous_state_bytes));
    for (len, digest) in manifest.state.iter_mut().chain(&mut manifest.clients) {
        see(Field::Half(len));
        see(Field::Digest(digest));
    }
}

fn visit_position(at: &mut Position, see: &mut dyn FnMut(Field<'_>)) {
    see(Field::Word(&mut at.epoch.0));
    see(Field::Word(&mut at.view.0));
    see(Field::Word(&mut at.seq.0));
    see(Field::Digest(&mut at.digest));
}

fn visit_ballot(ballot: &mut Ballot, see: &mut dyn FnMut(Field<'_>)) {
    see(Field::Digest(&mut ballot.commitment));
}

fn visit_header(header: &mut BatchHeader, see: &mut dyn FnMut(Field<'_>)) {
    see(Field::Word(&mut header.time_ns));
    see(Field::Half(&mut header.count));
    see(Field::Half(&mut header.body_len));
    see(Field::Digest(&mut header.merkle_root));
    see(Field::Half(&mut header.flags));
}

fn visit_checkpoint(vote: &mut Checkpoint, see: &mut dyn FnMut(Field<'_>)) {
    see(Field::Word(&mut vote.epoch.0));
    see(Field::Word(&mut vote.seq.0));
    see(Field::Digest(&mut vote.root));
    see(Field::Word(&mut vote.epoch_end.0));
    vote.signatures.iter_mut().for_each(|(replica, _)| see(Field::Replica(replica)));
}

fn visit_view_change(message: &mut ViewChange, see: &mut dyn FnMut(Field<'_>)) {
    see(Field::Word(&mut message.view.0));
    see(Field::Replica(&mut message.replica));
    message.certificate.iter_mut().for_each(|certificate| visit_checkpoint(certificate, see));
    for PreparedCertificate { position, header, proposal, prepares } in &mut message.prepared {
        visit_position(position, see);
        visit_header(header, see);
        visit_ballot(proposal, see);
        prepares.iter_mut().for_each(|(replica, _)| see(Field::Replica(replica)));
    }
}

fn visit_status(status: &mut Status, see: &mut dyn FnMut(Field<'_>)) {
    see(Field::Word(&mut status.epoch.0));
    see(Field::Word(&mut status.view.0));
    see(Field::Word(&mut status.stable.0));
    see(Field::Word(&mut status.executed.0));
    see(Field::Word(&mut status.snapshot.0));
    for map in [&mut status.proposed, &mut status.prepared, &mut status.committed] {
        map.iter_mut().for_each(|word| see(Field::Word(word)));
    }
}

/// Signs what is its own to sign; of a batch with another header, its digest too.
fn seal(means: &mut Means, message: &mut Message) {
    match message {
        Message::PrePrepare(proposal) => {
            if means.rng.chance(500) {
                proposal.position.digest = means.digest_of(&proposal.header);
            }
            proposal.ballot = means.sign_proposal(&proposal.position);
        }
        Message::Prepare(vote) if vote.replica == means.me => *vote = means.prepare(vote.position),
        Message::Checkpoint(vote) if vote.signatures.len() == 1 => means.seal_checkpoint(vote),
        Message::Snapshot(vote) if vote.signatures.len() == 1 => means.seal_snapshot(vote),
        Message::ViewChange(own) if own.replica == means.me => means.seal_view_change(Arc::make_mut(own)),
        Message::NewView(own) if means.config.primary(own.view) == means.me => {
            means.seal_new_view(Arc::make_mut(own));
        }
        Message::Prepare(_)
        | Message::Checkpoint(_)
        | Message::Snapshot(_)
        | Message::ViewChange(_)
        | Message::NewView(_)
        | Message::Commit(_)
        | Message::Status(_)
        | Message::FetchSlot(_)
        | Message::Slot(_)
        | Message::FetchBody(_)
        | Message::Body(_)
        | Message::FetchLog(_)
        | Message::Log(_)
        | Message::FetchManifest(_)
        | Message::Manifest(_)
        | Message::FetchChunk(_)
        | Message::Chunk(_)
        | Message::FetchTrail(_)
        | Message::Trail(_)
        | Message::Evidence(_)
        | Message::Request(_)
        | Message::Reply(_)
        | Message::Busy(_)
        | Message::InfoQuery { .. }
        | Message::Info(_)
        | Message::ClientJoin(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bft_core::ids::Seq;

    #[test]
    fn every_field_is_reached_and_only_one_changes() {
        let status =
            Status { stable: Seq(7), proposed: vec![1], prepared: vec![2], committed: vec![3], ..Status::default() };
        let first = Message::Status(status);
        let mut count = 0;
        visit(&mut first.clone(), &mut |_| count += 1);
        assert_eq!(count, 8);
        for chosen in 0..count {
            let mut changed = first.clone();
            nth(&mut changed, chosen, |field| {
                if let Field::Word(word) = field {
                    *word = change(3, *word, None, u64::MAX);
                }
            });
            assert_eq!(value_of(&mut changed, chosen), Some(u64::MAX));
            let differing = (0..count).filter(|at| value_of(&mut changed, *at) != value_of(&mut first.clone(), *at));
            assert_eq!(differing.count(), 1);
        }
    }

    #[test]
    fn changes_stay_within_their_field() {
        assert_eq!(change(0, 0xffff, None, 0xffff), 0);
        assert_eq!(change(1, 0, None, 0xffff), 0xffff);
        assert_eq!(change(4, 5, Some(9), 0xffff), 9);
        assert_ne!(change(4, 5, None, 0xffff), 5);
    }
}
