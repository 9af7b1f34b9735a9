//! Proof that a replica broke the protocol: things that it signed and that no correct replica can have signed both
//! (PROTOCOL §15). Whoever has the cluster's configuration can check it, today or in ten years, with nothing else. Here:
//! what there is to prove, and its canonical bytes; what makes it hold is in `verify`. Who finds it: `ordering/pbft`,
//! `replica/checkpoints.rs` and `replica/views.rs` where a second statement meets a first one, `auth/verifier.rs` where
//! one signed message is enough. Who keeps it and tells others: `replica/accusations.rs`.
//!
//! Kept here: one encoding for one piece of evidence; nothing rests on who delivered it. E6, two EXECs, does not exist:
//! there is no EXEC yet.
//!
//! ```text
//! evidence  version u16 | kind u16 | cluster 32 | epoch u64, then by kind
//! vote      digest 32 | commitment 32 | signature 64
//! E1        view u64 | seq u64 | 2 × vote, ascending
//! E2        replica u16 | view u64 | seq u64 | 2 × vote, ascending
//! E3        replica u16 | seq u64 | 2 × (root 32 | epoch_end u64 | signature 64), ascending
//! E4        view u64 | seq u64 | vote | nonce 32 | VIEW-CHANGE
//! E5        0, or 1 | seq u64 | vote; then NEW-VIEW
//! E7        len u32 | NEW-VIEW | NEW-VIEW, ascending by what is signed
//! E8        view u64 | seq u64 | commitment 32 | signature 64 | header 52 | index u32 | count u8 × digest 32 | Request
//! ```

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::ClusterConfig;
use crate::ids::{ClusterId, Digest, Epoch, ReplicaId, Seq, Signature, View};
use crate::wire::canonical::{NotCanonical, Reader, SigningBytes};
use crate::wire::message::{Ballot, BatchHeader, NewView, Position, ViewChange};

pub mod file;
mod verify;

pub use verify::Unproven;

/// The version of the canonical bytes.
pub const EVIDENCE_VERSION: u16 = 1;
/// A path through a Merkle tree of at most 2^32 leaves.
const PATH_MAX: usize = 32;

/// What a replica is shown to have done. The numbers are those of the canonical bytes and of PROTOCOL §15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum EvidenceKind {
    /// Two PRE-PREPAREs of one view and Seq.
    TwoProposals = 1,
    /// Two PREPAREs of one view and Seq.
    TwoPrepares = 2,
    /// Two CHECKPOINTs of one Seq.
    TwoCheckpoints = 3,
    /// A VIEW-CHANGE without what its sender had committed to.
    Amnesia = 4,
    /// A NEW-VIEW that is not valid, or a PRE-PREPARE against what it demands.
    FalseNewView = 5,
    /// Two NEW-VIEWs of one view.
    TwoNewViews = 7,
    /// A PRE-PREPARE over a Request that its client has not signed.
    ForgedRequest = 8,
}

impl EvidenceKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::TwoProposals,
        Self::TwoPrepares,
        Self::TwoCheckpoints,
        Self::Amnesia,
        Self::FalseNewView,
        Self::TwoNewViews,
        Self::ForgedRequest,
    ];

    /// The name that texts and files use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TwoProposals => "E1",
            Self::TwoPrepares => "E2",
            Self::TwoCheckpoints => "E3",
            Self::Amnesia => "E4",
            Self::FalseNewView => "E5",
            Self::TwoNewViews => "E7",
            Self::ForgedRequest => "E8",
        }
    }

    /// What was done, for people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::TwoProposals => "two PRE-PREPAREs for one place",
            Self::TwoPrepares => "two PREPAREs for one place",
            Self::TwoCheckpoints => "two CHECKPOINTs of one Seq",
            Self::Amnesia => "a VIEW-CHANGE that leaves out what it had committed to",
            Self::FalseNewView => "a NEW-VIEW that is not valid, or not kept to",
            Self::TwoNewViews => "two NEW-VIEWs of one view",
            Self::ForgedRequest => "a PRE-PREPARE over a Request that its client has not signed",
        }
    }

    /// Whether only the primary of the view can do it: then the view cannot go on with it.
    #[must_use]
    pub fn is_of_primary(self) -> bool {
        match self {
            Self::TwoProposals | Self::FalseNewView | Self::TwoNewViews | Self::ForgedRequest => true,
            Self::TwoPrepares | Self::TwoCheckpoints | Self::Amnesia => false,
        }
    }
}

/// Who did what where. One piece of evidence is kept for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Accused {
    /// Who.
    pub replica: ReplicaId,
    /// What.
    pub kind: EvidenceKind,
    /// In which configuration.
    pub epoch: Epoch,
    /// In which view; 0 where the deed is of none.
    pub view: View,
    /// At which Seq; 0 where the deed is of none.
    pub seq: Seq,
}

impl fmt::Display for Accused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replica, kind, epoch, view, seq } = self;
        write!(f, "replica {replica}: {}, {}, in Epoch {epoch}", kind.name(), kind.describe())?;
        if *kind != EvidenceKind::TwoCheckpoints {
            write!(f, ", view {view}")?;
        }
        if *seq != Seq(0) { write!(f, ", at Seq {seq}") } else { Ok(()) }
    }
}

/// A signed vote for a batch: a PRE-PREPARE or PREPARE without its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedVote {
    /// D.
    pub digest: Digest,
    /// Commitment and signature.
    pub ballot: Ballot,
}

/// A signed root of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedRoot {
    /// The root.
    pub root: Digest,
    /// Where the Epoch ends, if it does.
    pub epoch_end: Seq,
    /// Over both and the Seq.
    pub signature: Signature,
}

/// That a replica sent its COMMIT: its vote, and the nonce behind the commitment in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What it committed to.
    pub position: Position,
    /// Its PRE-PREPARE or PREPARE.
    pub ballot: Ballot,
    /// What its COMMIT revealed.
    pub nonce: Digest,
}

/// What is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// E1.
    TwoProposals {
        /// Of whose primary.
        view: View,
        /// For which place.
        seq: Seq,
        /// For two batches, ascending by digest.
        said: [SignedVote; 2],
    },
    /// E2.
    TwoPrepares {
        /// Whose.
        replica: ReplicaId,
        /// In which view.
        view: View,
        /// For which place.
        seq: Seq,
        /// For two batches, ascending by digest.
        said: [SignedVote; 2],
    },
    /// E3.
    TwoCheckpoints {
        /// Whose.
        replica: ReplicaId,
        /// Of which Seq.
        seq: Seq,
        /// Two roots, ascending.
        said: [SignedRoot; 2],
    },
    /// E4: its sender had sent a COMMIT that neither the checkpoint nor a certificate in it answers for.
    Amnesia {
        /// That COMMIT.
        opened: Opened,
        /// What left it out.
        view_change: Arc<ViewChange>,
    },
    /// E5.
    FalseNewView {
        /// What the primary of its view signed.
        new_view: Arc<NewView>,
        /// A PRE-PREPARE of the same primary and view that its VIEW-CHANGEs forbid; `None`: they are not valid, or not
        /// those of a minimal quorum.
        against: Option<(Seq, SignedVote)>,
    },
    /// E7: ascending by what is signed.
    TwoNewViews([Arc<NewView>; 2]),
    /// E8.
    ForgedRequest(Box<ForgedRequest>),
}

/// A PRE-PREPARE, and the way from its digest to one Request in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForgedRequest {
    /// The view.
    pub view: View,
    /// The place.
    pub seq: Seq,
    /// Of the primary.
    pub ballot: Ballot,
    /// B: its digest is what was proposed.
    pub header: BatchHeader,
    /// The place of the Request in the batch.
    pub index: u32,
    /// From its leaf to the root in the header.
    pub path: Vec<Digest>,
    /// The Request, whose signature is not valid.
    pub request: Bytes,
}

impl Proof {
    /// E1, in whatever order the two were seen.
    #[must_use]
    pub fn two_proposals(view: View, seq: Seq, one: SignedVote, other: SignedVote) -> Self {
        Self::TwoProposals { view, seq, said: ascending(one, other, |vote| vote.digest) }
    }

    /// E2, in whatever order the two were seen.
    #[must_use]
    pub fn two_prepares(replica: ReplicaId, view: View, seq: Seq, one: SignedVote, other: SignedVote) -> Self {
        Self::TwoPrepares { replica, view, seq, said: ascending(one, other, |vote| vote.digest) }
    }

    /// E3, in whatever order the two were seen.
    #[must_use]
    pub fn two_checkpoints(replica: ReplicaId, seq: Seq, one: SignedRoot, other: SignedRoot) -> Self {
        Self::TwoCheckpoints { replica, seq, said: ascending(one, other, |said| (said.root, said.epoch_end)) }
    }

    /// E7, in whatever order the two were seen.
    #[must_use]
    pub fn two_new_views(cluster: ClusterId, one: Arc<NewView>, other: Arc<NewView>) -> Self {
        let signed = |message: &Arc<NewView>| -> SigningBytes { message.signing_bytes(cluster) };
        let (first, second) = if signed(&one) <= signed(&other) { (one, other) } else { (other, one) };
        Self::TwoNewViews([first, second])
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> EvidenceKind {
        match self {
            Self::TwoProposals { .. } => EvidenceKind::TwoProposals,
            Self::TwoPrepares { .. } => EvidenceKind::TwoPrepares,
            Self::TwoCheckpoints { .. } => EvidenceKind::TwoCheckpoints,
            Self::Amnesia { .. } => EvidenceKind::Amnesia,
            Self::FalseNewView { .. } => EvidenceKind::FalseNewView,
            Self::TwoNewViews(_) => EvidenceKind::TwoNewViews,
            Self::ForgedRequest(_) => EvidenceKind::ForgedRequest,
        }
    }

    /// View and Seq of the deed; 0 where it has none.
    #[must_use]
    pub fn place(&self) -> (View, Seq) {
        match self {
            Self::TwoProposals { view, seq, .. } | Self::TwoPrepares { view, seq, .. } => (*view, *seq),
            Self::TwoCheckpoints { seq, .. } => (View(0), *seq),
            Self::Amnesia { opened, view_change } => (view_change.view, opened.position.seq),
            Self::FalseNewView { new_view, against } => (new_view.view, against.map_or(Seq(0), |(seq, _)| seq)),
            Self::TwoNewViews([first, _]) => (first.view, Seq(0)),
            Self::ForgedRequest(forged) => (forged.view, forged.seq),
        }
    }
}

fn ascending<T, K: Ord>(one: T, other: T, key: impl Fn(&T) -> K) -> [T; 2] {
    if key(&one) <= key(&other) { [one, other] } else { [other, one] }
}

/// A piece of evidence: what is shown, and of which cluster. Says nothing about whether it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The cluster.
    pub cluster: ClusterId,
    /// The configuration.
    pub epoch: Epoch,
    /// What is shown.
    pub proof: Proof,
}

impl Evidence {
    /// What `proof` shows about a replica of `config`.
    #[must_use]
    pub fn new(config: &ClusterConfig, proof: Proof) -> Self {
        Self { cluster: config.cluster_id(), epoch: config.epoch(), proof }
    }

    /// Whom it accuses of what, under `config`. Says nothing about whether it holds: that is [`Self::verify`]'s.
    #[must_use]
    pub fn accused(&self, config: &ClusterConfig) -> Accused {
        let (view, seq) = self.proof.place();
        let replica = match &self.proof {
            Proof::TwoPrepares { replica, .. } | Proof::TwoCheckpoints { replica, .. } => *replica,
            Proof::Amnesia { view_change, .. } => view_change.replica,
            Proof::TwoProposals { .. }
            | Proof::FalseNewView { .. }
            | Proof::TwoNewViews(_)
            | Proof::ForgedRequest(_) => config.primary(view),
        };
        Accused { replica, kind: self.proof.kind(), epoch: self.epoch, view, seq }
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes_at_most());
        out.extend_from_slice(&EVIDENCE_VERSION.to_le_bytes());
        out.extend_from_slice(&(self.proof.kind() as u16).to_le_bytes());
        out.extend_from_slice(&self.cluster.0);
        put_u64(&mut out, self.epoch.0);
        put_proof(&mut out, &self.proof);
        out
    }

    /// What it takes in canonical bytes, at most.
    #[must_use]
    pub fn bytes_at_most(&self) -> usize {
        const FIXED: usize = 512 + PATH_MAX * 32;
        FIXED
            + match &self.proof {
                Proof::TwoProposals { .. } | Proof::TwoPrepares { .. } | Proof::TwoCheckpoints { .. } => 0,
                Proof::Amnesia { view_change, .. } => view_change.bytes_at_most(),
                Proof::FalseNewView { new_view, .. } => new_view.bytes_at_most(),
                Proof::TwoNewViews(both) => both.iter().map(|new_view| new_view.bytes_at_most()).sum(),
                Proof::ForgedRequest(forged) => forged.request.len(),
            }
    }

    /// Reads one that fills `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotCanonical> {
        let mut reader = Reader::new(bytes);
        if reader.u16()? != EVIDENCE_VERSION {
            return Err(NotCanonical);
        }
        let number = reader.u16()?;
        let kind = EvidenceKind::ALL.into_iter().find(|kind| *kind as u16 == number).ok_or(NotCanonical)?;
        let (cluster, epoch) = (ClusterId(reader.array()?), Epoch(reader.u64()?));
        let proof = read_proof(&mut reader, kind, epoch)?;
        reader.end()?;
        Ok(Self { cluster, epoch, proof })
    }
}

/// Evidence that was checked, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accusation {
    /// Whom it accuses of what.
    pub accused: Accused,
    /// The evidence.
    pub evidence: Arc<Evidence>,
}

fn put_proof(out: &mut Vec<u8>, proof: &Proof) {
    match proof {
        Proof::TwoProposals { view, seq, said } => {
            put_place(out, *view, *seq);
            said.iter().for_each(|vote| put_vote(out, vote));
        }
        Proof::TwoPrepares { replica, view, seq, said } => {
            out.extend_from_slice(&replica.0.to_le_bytes());
            put_place(out, *view, *seq);
            said.iter().for_each(|vote| put_vote(out, vote));
        }
        Proof::TwoCheckpoints { replica, seq, said } => {
            out.extend_from_slice(&replica.0.to_le_bytes());
            put_u64(out, seq.0);
            for SignedRoot { root, epoch_end, signature } in said {
                out.extend_from_slice(&root.0);
                put_u64(out, epoch_end.0);
                out.extend_from_slice(&signature.0);
            }
        }
        Proof::Amnesia { opened: Opened { position, ballot, nonce }, view_change } => {
            put_place(out, position.view, position.seq);
            put_vote(out, &SignedVote { digest: position.digest, ballot: *ballot });
            out.extend_from_slice(&nonce.0);
            out.extend_from_slice(&view_change.encode());
        }
        Proof::FalseNewView { new_view, against } => {
            out.push(against.is_some().into());
            if let Some((seq, vote)) = against {
                put_u64(out, seq.0);
                put_vote(out, vote);
            }
            out.extend_from_slice(&new_view.encode());
        }
        Proof::TwoNewViews([first, second]) => {
            let first = first.encode();
            out.extend_from_slice(&u32::try_from(first.len()).expect("far below 4 GiB").to_le_bytes());
            out.extend_from_slice(&first);
            out.extend_from_slice(&second.encode());
        }
        Proof::ForgedRequest(forged) => put_forged(out, forged),
    }
}

fn put_forged(out: &mut Vec<u8>, forged: &ForgedRequest) {
    let ForgedRequest { view, seq, ballot, header, index, path, request } = forged;
    put_place(out, *view, *seq);
    out.extend_from_slice(&ballot.bytes());
    out.extend_from_slice(&header.bytes());
    out.extend_from_slice(&index.to_le_bytes());
    assert!(path.len() <= PATH_MAX, "no tree is higher");
    out.push(path.len() as u8);
    path.iter().for_each(|digest| out.extend_from_slice(&digest.0));
    out.extend_from_slice(request);
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_place(out: &mut Vec<u8>, view: View, seq: Seq) {
    put_u64(out, view.0);
    put_u64(out, seq.0);
}

fn put_vote(out: &mut Vec<u8>, vote: &SignedVote) {
    out.extend_from_slice(&vote.digest.0);
    out.extend_from_slice(&vote.ballot.bytes());
}

fn read_proof(reader: &mut Reader<'_>, kind: EvidenceKind, epoch: Epoch) -> Result<Proof, NotCanonical> {
    Ok(match kind {
        EvidenceKind::TwoProposals => {
            let (view, seq) = read_place(reader)?;
            Proof::TwoProposals { view, seq, said: [read_vote(reader)?, read_vote(reader)?] }
        }
        EvidenceKind::TwoPrepares => {
            let replica = ReplicaId(reader.u16()?);
            let (view, seq) = read_place(reader)?;
            Proof::TwoPrepares { replica, view, seq, said: [read_vote(reader)?, read_vote(reader)?] }
        }
        EvidenceKind::TwoCheckpoints => {
            let (replica, seq) = (ReplicaId(reader.u16()?), Seq(reader.u64()?));
            Proof::TwoCheckpoints { replica, seq, said: [read_root(reader)?, read_root(reader)?] }
        }
        EvidenceKind::Amnesia => {
            let (view, seq) = read_place(reader)?;
            let SignedVote { digest, ballot } = read_vote(reader)?;
            let position = Position { epoch, view, seq, digest };
            let opened = Opened { position, ballot, nonce: Digest(reader.array()?) };
            Proof::Amnesia { opened, view_change: Arc::new(ViewChange::decode(read_rest(reader)?)?) }
        }
        EvidenceKind::FalseNewView => {
            let against = match reader.u8()? {
                0 => None,
                1 => Some((Seq(reader.u64()?), read_vote(reader)?)),
                _ => return Err(NotCanonical),
            };
            Proof::FalseNewView { new_view: Arc::new(NewView::decode(read_rest(reader)?)?), against }
        }
        EvidenceKind::TwoNewViews => {
            let len = reader.u32()? as usize;
            let first = Arc::new(NewView::decode(reader.take(len)?)?);
            Proof::TwoNewViews([first, Arc::new(NewView::decode(read_rest(reader)?)?)])
        }
        EvidenceKind::ForgedRequest => Proof::ForgedRequest(Box::new(read_forged(reader)?)),
    })
}

fn read_forged(reader: &mut Reader<'_>) -> Result<ForgedRequest, NotCanonical> {
    let (view, seq) = read_place(reader)?;
    let ballot = Ballot::read(reader)?;
    let header = BatchHeader::read(reader)?;
    let index = reader.u32()?;
    let height = usize::from(reader.u8()?);
    if height > PATH_MAX {
        return Err(NotCanonical);
    }
    let path = (0..height).map(|_| Ok(Digest(reader.array()?))).collect::<Result<_, NotCanonical>>()?;
    let request = Bytes::copy_from_slice(read_rest(reader)?);
    Ok(ForgedRequest { view, seq, ballot, header, index, path, request })
}

fn read_rest<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], NotCanonical> {
    reader.take(reader.rest().len())
}

fn read_place(reader: &mut Reader<'_>) -> Result<(View, Seq), NotCanonical> {
    Ok((View(reader.u64()?), Seq(reader.u64()?)))
}

fn read_vote(reader: &mut Reader<'_>) -> Result<SignedVote, NotCanonical> {
    Ok(SignedVote { digest: Digest(reader.array()?), ballot: Ballot::read(reader)? })
}

fn read_root(reader: &mut Reader<'_>) -> Result<SignedRoot, NotCanonical> {
    Ok(SignedRoot {
        root: Digest(reader.array()?),
        epoch_end: Seq(reader.u64()?),
        signature: Signature(reader.array()?),
    })
}
