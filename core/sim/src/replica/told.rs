//! What is written into the trace of a run about a replica.

use bft_core::door::{FileDone, Input, Place, To};
use bft_core::ids::{LogPosition, ReplicaId, Seq};
use bft_core::snapshot::ChunkBytes;
use bft_core::wire::message::{Message, StableSnapshot, Status};

use crate::trace::Actor;
use crate::world::World;

pub(super) fn note(world: &mut World, id: ReplicaId, input: &Input) {
    let kind = match input {
        Input::Requests(_) => 1,
        Input::Message { message, .. } => 100 + message.kind() as u64,
        Input::Link { .. } => 2,
        Input::Client { .. } => 3,
        Input::Durable(_) => 4,
        Input::Executed { .. } => 5,
        Input::Snapshot { .. } => 6,
        Input::Loaded { .. } => 7,
        Input::Installed { .. } => 8,
        Input::InfoQuery { .. } => 9,
        Input::Deadline => 10,
        Input::File(_) => 11,
    };
    world.trace.event(world.now, Actor::Replica(id.index()), kind, || describe_input(input));
}

fn describe_input(input: &Input) -> String {
    match input {
        Input::Requests(requests) => {
            let numbers = requests.iter().map(|request| format!("{:?}/{}", request.entry.client, request.entry.req_no));
            format!("Requests {}", numbers.collect::<Vec<_>>().join(" "))
        }
        Input::Message { from, message } => format!("{from:?} says {}", describe(message)),
        Input::Link { peer, state } => format!("link to {peer:?} {state:?}"),
        Input::Client { client, link, state } => format!("client {client:?} on link {link} {state:?}"),
        Input::Durable(through) => format!("durable through {through}"),
        Input::Executed { seq, .. } => format!("executed Seq {seq}"),
        Input::Snapshot { seq, outcome } => format!("snapshot {seq} written: {:?}", outcome.root),
        Input::Loaded { at, record } => format!("loaded {at}: {:?}", record.as_ref().map(|record| record.kind())),
        Input::Installed { seq } => format!("installed {seq}"),
        Input::File(done) => describe_file(done),
        Input::InfoQuery { .. } => "INFO-QUERY".into(),
        Input::Deadline => "deadline".into(),
    }
}

fn describe_file(done: &FileDone) -> String {
    match done {
        FileDone::Manifest { seq, manifest } => format!("manifest {seq} read: {}", manifest.is_some()),
        FileDone::Piece { to, seq, piece, bytes } => format!("{piece:?} of {seq} read for {to:?}: {}", bytes.is_some()),
        FileDone::Begun { attempt, found } => format!("{attempt:?} begins with {} pieces", found.len()),
        FileDone::Checked { attempt, part, state } => format!("{attempt:?}: piece {part} is {state:?}"),
        FileDone::Stored { attempt, part } => format!("{attempt:?}: piece {part} is stored"),
        FileDone::Reread { seq, image } => format!("snapshot {seq} read back: {}", image.is_some()),
        FileDone::Assembled { attempt, clients } => format!("{attempt:?} is assembled: {}", clients.is_some()),
    }
}

fn describe(message: &Message) -> String {
    match message {
        Message::Request(request) => format!("Request {:?}/{}", request.entry.client, request.entry.req_no),
        Message::PrePrepare(proposal) => {
            let at = &proposal.position;
            let requests = proposal.body.entries().len();
            format!("PRE-PREPARE {} in {:?} {:?}, {requests} Requests", at.seq, at.view, at.digest)
        }
        Message::Prepare(vote) => format!("PREPARE {} {:?}", vote.position.seq, vote.position.digest),
        Message::Commit(commit) => format!("COMMIT {} {:?}", commit.position.seq, commit.position.digest),
        Message::Checkpoint(vote) => format!("CHECKPOINT {} {:?} of {}", vote.seq, vote.root, vote.signatures.len()),
        Message::Snapshot(vote) => format!("SNAPSHOT {} {:?} of {}", vote.seq, vote.root, vote.signatures.len()),
        Message::Status(status) => {
            let Status { view, changing, stable, executed, snapshot, .. } = status;
            format!("STATUS {view:?} {changing:?} stable {stable} executed {executed} snapshot {snapshot}")
        }
        Message::ViewChange(message) => {
            let prepared = message.prepared.iter().map(|prepared| prepared.position);
            let prepared: Vec<_> = prepared.map(|at| format!("{}@{}", at.seq, at.view)).collect();
            format!("VIEW-CHANGE {:?} stable {} prepared {}", message.view, message.stable(), prepared.join(" "))
        }
        Message::NewView(message) => {
            let of: Vec<_> = message.view_changes.iter().map(|message| message.replica).collect();
            format!("NEW-VIEW {:?} of {of:?}", message.view)
        }
        Message::FetchBody(batch) => format!("FETCH-BODY {} {:?}", batch.seq, batch.digest),
        Message::Body(batch) => format!("BODY {}", batch.seq),
        Message::FetchSlot(seq) => format!("FETCH-SLOT {seq}"),
        Message::FetchLog(seq) => format!("FETCH-LOG {seq}"),
        Message::Slot(slot) => format!("SLOT {}", slot.certificate.position.seq),
        Message::Log(slots) => {
            let seq = |slot: Option<&bft_core::wire::message::CommittedSlot>| {
                slot.map_or(Seq(0), |slot| slot.certificate.position.seq)
            };
            format!("LOG {}..={}", seq(slots.first()), seq(slots.last()))
        }
        Message::FetchManifest(above) => format!("FETCH-MANIFEST above {above}"),
        Message::Manifest(StableSnapshot { certificate, manifest }) => {
            format!("MANIFEST {} {:?}, {} pieces", certificate.seq, certificate.root, manifest.parts())
        }
        Message::FetchChunk(fetch) => format!("FETCH-CHUNK {} {:?}", fetch.seq, fetch.piece),
        Message::Chunk(chunk) => {
            let digest = chunk.bytes.as_ref().map(ChunkBytes::digest);
            format!("CHUNK {} {:?} {digest:?}", chunk.seq, chunk.piece)
        }
        Message::FetchTrail(seq) => format!("FETCH-TRAIL {seq}"),
        Message::Trail(trail) => format!("TRAIL {} of {}", trail.seq, trail.steps.len()),
        Message::Evidence(evidence) => {
            let (view, seq) = evidence.proof.place();
            format!("EVIDENCE {} {view:?} {seq}", evidence.proof.kind().name())
        }
        Message::Recall(question) => {
            format!("RECALL {:?} {:?} above {}", question.view, question.phase, question.through)
        }
        Message::Recalled(answer) => format!("RECALLED {:?}", answer.held.as_ref().map(|held| held.place())),
        Message::Reply(reply) => format!("REPLY {}/{} {:?}", reply.session, reply.req_no, reply.code),
        Message::Busy(_) | Message::InfoQuery { .. } | Message::Info(_) | Message::ClientJoin(_) => {
            format!("{:?}", message.kind())
        }
    }
}

pub(super) fn note_persist(world: &mut World, place: &Place, position: LogPosition) {
    world.trace.number(position.0);
    world.trace.detail(|| match place {
        Place::Journal(record) => format!("persist {position}: {:?} Seq {}", record.kind(), record.place().2),
        Place::Superblock(superblock) => format!(
            "persist {position}: superblock, promised {:?}, stable {:?}, snapshot {:?}, start {}",
            superblock.promised,
            superblock.stable.as_ref().map(|stable| stable.seq),
            superblock.snapshot.map(|(seq, _)| seq),
            superblock.journal_start
        ),
    });
}

pub(super) fn note_send(world: &mut World, to: To, message: &Message) {
    world.trace.number(message.kind() as u64);
    match message {
        Message::PrePrepare(proposal) => world.trace.digest(&proposal.position.digest),
        Message::Prepare(vote) => world.trace.digest(&vote.position.digest),
        Message::Commit(commit) => world.trace.digest(&commit.nonce),
        Message::Checkpoint(vote) => world.trace.digest(&vote.root),
        Message::Snapshot(vote) => world.trace.digest(&vote.root),
        Message::Status(status) => world.trace.number(status.executed.0 << 32 | status.stable.0),
        Message::FetchSlot(seq) | Message::FetchLog(seq) | Message::FetchManifest(seq) | Message::FetchTrail(seq) => {
            world.trace.number(seq.0);
        }
        Message::Trail(trail) => world.trace.digest(&trail.exec_before),
        Message::Manifest(snapshot) => world.trace.digest(&snapshot.certificate.root),
        Message::FetchChunk(fetch) => world.trace.number(fetch.piece.index.into()),
        Message::Chunk(chunk) => {
            chunk.bytes.iter().for_each(|bytes| world.trace.digest(&bytes.digest()));
        }
        Message::ViewChange(message) => {
            world.counters.view_changes += 1;
            world.trace.number(message.view.0);
        }
        Message::NewView(message) => {
            world.counters.new_views += 1;
            world.trace.number(message.view.0);
        }
        Message::FetchBody(batch) => world.trace.digest(&batch.digest),
        Message::Body(batch) => {
            world.counters.bodies_sent += 1;
            world.trace.number(batch.seq.0);
        }
        Message::Evidence(evidence) => {
            let (view, seq) = evidence.proof.place();
            world.trace.number(evidence.proof.kind() as u64);
            world.trace.number(view.0);
            world.trace.number(seq.0);
        }
        Message::Recall(question) => world.trace.number(question.through.0),
        Message::Recalled(answer) => world.trace.number(answer.held.is_some().into()),
        Message::Request(_)
        | Message::Slot(_)
        | Message::Log(_)
        | Message::Reply(_)
        | Message::Busy(_)
        | Message::InfoQuery { .. }
        | Message::Info(_)
        | Message::ClientJoin(_) => {}
    }
    world.trace.detail(|| match to {
        To::All => format!("send all {}", describe(message)),
        To::One(peer) => format!("send {peer:?} {}", describe(message)),
    });
}
