//! What lies in the directory of a replica that does not run: for `bftd inspect` and `bftd verify`. Reads only, by
//! [`StoppedDir`]; the journal is read by the one scan there is. How it is told to people is the command's.
//!
//! Kept here: nothing is changed; whatever the files hold, memory stays bounded and the answer is a finding.

use std::path::PathBuf;
use std::sync::Arc;

use bft_core::auth::{Ed25519, Rejected, Verifier};
use bft_core::config::ClusterConfig;
use bft_core::ids::{Digest, LogPosition, ReplicaId, Seq};
use bft_core::journal::group::GroupHeader;
use bft_core::journal::record::{Committed, Record, Vote};
use bft_core::journal::segment::SegmentHeader;
use bft_core::journal::{ScanError, Seen, Superblock, scan_seeing};
use bft_core::quorum::ReplicaSet;
use bft_core::wire::canonical;
use bft_core::wire::message::{CommittedSlot, Message, PrePrepare};
use bft_core::wire::request::Body;

use crate::data_dir::{DataDirError, StoppedDir, check_owner};
use crate::error::ServerError;
use crate::snapshots::SnapshotFolder;
use crate::start::JournalFiles;

/// Findings that are told one by one.
const FINDINGS_MAX: usize = 100;
/// Own snapshot votes whose roots are remembered: there are never more snapshots in a directory.
const ROOTS_KEPT: usize = 8;

/// What lies in a journal, in its order.
#[allow(clippy::large_enum_variant, reason = "one at a time, and looked at at once")]
#[derive(Debug)]
pub enum Entry {
    /// A segment.
    Segment {
        /// Its file.
        path: PathBuf,
        /// The file's length.
        bytes: u32,
        /// What its block 0 says.
        header: SegmentHeader,
    },
    /// A group of records that were made durable together.
    Group {
        /// Where in its file.
        offset: u32,
        /// What its header says.
        header: GroupHeader,
    },
    /// A record that is still needed.
    Record {
        /// Its position.
        at: LogPosition,
        /// Its bytes in the journal.
        bytes: u32,
        /// The record.
        record: Record,
    },
}

/// How a journal ends.
#[derive(Debug)]
pub enum End {
    /// Where it should: this is the last position handed out.
    Whole(LogPosition),
    /// Before it should: in words.
    Damaged(String),
    /// At what is not understood: in words.
    Unusable(String),
}

/// Shows the journal to `on_entry`, as far as it is good.
pub fn read_journal(
    directory: &StoppedDir,
    superblock: &Superblock,
    on_entry: &mut dyn FnMut(Entry),
) -> Result<End, ServerError> {
    let mut files = JournalFiles::look(&directory.journal())?;
    let paths = files.paths().to_vec();
    let scanned = scan_seeing::<std::convert::Infallible>(superblock, &mut files, &mut |seen| {
        on_entry(match seen {
            Seen::Segment(file, header) => {
                Entry::Segment { path: paths[file.file as usize].clone(), bytes: file.bytes, header }
            }
            Seen::Group(offset, header) => Entry::Group { offset, header },
            Seen::Record { at, bytes, record } => Entry::Record { at, bytes, record },
        });
        Ok(())
    });
    match scanned {
        Ok(tail) => Ok(End::Whole(tail.last())),
        Err(ScanError::Damage(damage)) => Ok(End::Damaged(damage.to_string())),
        Err(ScanError::Io(source)) => Err(ServerError::JournalIo { what: "read", path: directory.journal(), source }),
        Err(error @ (ScanError::Twice(..) | ScanError::Record { .. } | ScanError::Refused { .. })) => {
            Ok(End::Unusable(error.to_string()))
        }
    }
}

/// A part of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The superblock.
    Superblock,
    /// The journal.
    Journal,
    /// A snapshot.
    Snapshot,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub part: Part,
    /// What was found.
    pub what: String,
    /// What that is.
    pub meaning: Meaning,
}

/// What a finding means for the replica, and what is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A crash leaves that behind.
    Ordinary,
    /// Votes may be lost.
    LearnsAnew,
    /// It cannot go on from here.
    CannotStart,
    /// What was written is not what a correct replica writes.
    NotGenuine,
}

impl Meaning {
    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::LearnsAnew => "learns anew",
            Self::CannotStart => "cannot start",
            Self::NotGenuine => "not genuine",
        }
    }

    /// What it means.
    #[must_use]
    pub fn means(self) -> &'static str {
        match self {
            Self::Ordinary => "nothing is lost",
            Self::LearnsAnew => {
                "votes of this replica may be lost: the next start sets the journal aside, fetches from its peers what is \
                 missing, and casts no vote until their checkpoints have passed everything that it may have signed; until \
                 then it counts as faulty"
            }
            Self::CannotStart => "this replica cannot start from this directory",
            Self::NotGenuine => {
                "the bytes are as they were written, and no correct replica of this cluster writes them: another \
                 cluster.toml, a fault of the program, or somebody who knows the directory's key"
            }
        }
    }

    /// What to do.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Ordinary => "start it: it is put right",
            Self::LearnsAnew => {
                "check the disk, and start it while a quorum of the others runs; never put an older copy in its place"
            }
            Self::CannotStart => {
                "keep the directory, and replace the replica under a new key: the old one must never sign again"
            }
            Self::NotGenuine => "do not start it; compare the cluster.toml, keep the directory, and report it",
        }
    }
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Segments, groups and records of the journal.
    pub segments: u64,
    /// Groups whose check and chain are right.
    pub groups: u64,
    /// Records in them.
    pub records: u64,
    /// Certificates and votes whose signatures were checked.
    pub signed: u64,
    /// Snapshots whose files were compared with their manifests.
    pub snapshots: u64,
    /// What is not as it should be, the first of it.
    pub findings: Vec<Finding>,
    /// How much more there is.
    pub more_findings: u64,
}

impl Verified {
    /// Whether everything is there that was ever durable, and genuine.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.meaning == Meaning::Ordinary)
    }

    fn add(&mut self, part: Part, meaning: Meaning, what: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { part, what, meaning });
        } else {
            self.more_findings += 1;
        }
    }
}

/// Compares everything in a directory with what it should be under `cluster`.
pub fn verify(directory: &StoppedDir, cluster: &Arc<ClusterConfig>) -> Result<Verified, ServerError> {
    let mut verified = Verified::default();
    let (superblock, repair) = match directory.superblock() {
        Ok(read) => read,
        Err(error @ DataDirError::Damaged { .. }) => {
            verified.add(Part::Superblock, Meaning::CannotStart, error.to_string());
            return Ok(verified);
        }
        Err(error) => return Err(error.into()),
    };
    check_member(directory, &superblock, cluster)?;
    for copy in repair.copies {
        verified.add(Part::Superblock, Meaning::Ordinary, format!("copy {copy} differs from the others"));
    }
    let mut judge = Judge::new(cluster, verified);
    judge.superblock(&superblock);
    let end = read_journal(directory, &superblock, &mut |entry| judge.entry(entry))?;
    let Judge { mut verified, roots, .. } = judge;
    match end {
        End::Whole(_) => {}
        End::Damaged(what) => verified.add(Part::Journal, Meaning::LearnsAnew, what),
        End::Unusable(what) => verified.add(Part::Journal, Meaning::CannotStart, what),
    }
    verify_snapshots(directory, &superblock, &roots, &mut verified);
    Ok(verified)
}

fn check_member(directory: &StoppedDir, superblock: &Superblock, cluster: &ClusterConfig) -> Result<(), ServerError> {
    let Some(member) = cluster.member(superblock.replica) else {
        return Err(ServerError::Config(format!(
            "{} belongs to replica {}, which the cluster does not have",
            directory.path().display(),
            superblock.replica
        )));
    };
    Ok(check_owner(directory.path(), superblock, cluster, superblock.replica, member.public_key)?)
}

fn verify_snapshots(directory: &StoppedDir, superblock: &Superblock, roots: &[(Seq, Digest)], out: &mut Verified) {
    let folder = SnapshotFolder::look(directory.snapshots());
    let (mut whole, unfinished) = match folder.list() {
        Ok(listed) => listed,
        Err(error) => return out.add(Part::Snapshot, Meaning::CannotStart, error.to_string()),
    };
    for name in unfinished {
        out.add(Part::Snapshot, Meaning::Ordinary, format!("{name} was never finished"));
    }
    let named = superblock.snapshot;
    if let Some((seq, _)) = named
        && !whole.contains(&seq)
    {
        whole.push(seq);
    }
    for seq in whole {
        let root = named.filter(|(newest, _)| *newest == seq).map(|(_, root)| root);
        let root = root.or_else(|| roots.iter().find(|(at, _)| *at == seq).map(|(_, root)| *root));
        // One that nobody signed can still be compared with itself.
        let loaded = root.map_or_else(|| folder.root_of(seq), Ok).and_then(|root| folder.load(seq, root));
        out.snapshots += 1;
        if let Err(error) = loaded {
            // What the superblock does not name is written again, or not needed.
            let is_needed = named.is_some_and(|(newest, _)| newest == seq);
            let meaning = if is_needed { Meaning::CannotStart } else { Meaning::Ordinary };
            out.add(Part::Snapshot, meaning, error.to_string());
        }
    }
}

/// Looks at one record after the other.
struct Judge {
    cluster: Arc<ClusterConfig>,
    verifier: Verifier,
    verified: Verified,
    /// Of the newest snapshots that this replica signed.
    roots: Vec<(Seq, Digest)>,
}

impl Judge {
    fn new(cluster: &Arc<ClusterConfig>, verified: Verified) -> Self {
        // Nothing is signed here: the key is nobody's.
        let scheme = Arc::new(Ed25519::new(&crate::entropy(), crate::entropy()));
        let verifier = Verifier::new(cluster.clone(), scheme);
        Self { cluster: cluster.clone(), verifier, verified, roots: Vec::new() }
    }

    fn superblock(&mut self, superblock: &Superblock) {
        let Some(stable) = &superblock.stable else { return };
        let signers = stable.signatures.iter().map(|(replica, _)| *replica).collect();
        let checked = self.quorum(Message::Checkpoint(stable.clone()), signers);
        self.note(Part::Superblock, checked, || format!("the certificate of the stable checkpoint {}", stable.seq));
    }

    fn entry(&mut self, entry: Entry) {
        match entry {
            Entry::Segment { .. } => self.verified.segments += 1,
            Entry::Group { .. } => self.verified.groups += 1,
            Entry::Record { at, record, .. } => {
                self.verified.records += 1;
                let (kind, (_, view, seq)) = (record.kind(), record.place());
                let checked = self.record(record);
                self.note(Part::Journal, checked, || format!("record {at}, {kind:?} of view {view}, Seq {seq}"));
            }
        }
    }

    fn note(&mut self, part: Part, checked: Result<Checked, String>, what: impl FnOnce() -> String) {
        match checked {
            Ok(Checked::Signed) => self.verified.signed += 1,
            Ok(Checked::Unsigned) => {}
            Err(why) => self.verified.add(part, Meaning::NotGenuine, format!("{}: {why}", what())),
        }
    }

    fn record(&mut self, record: Record) -> Result<Checked, String> {
        match record {
            Record::Vote(vote) => self.vote(vote),
            Record::Cert(certificate) => signed(self.verifier.prepared(&certificate)),
            Record::NewView(new_view) => self.message(Message::NewView(new_view)),
            Record::Committed(Committed { certificate, body: None }) => signed(self.verifier.committed(&certificate)),
            Record::Committed(Committed { certificate, body: Some(body) }) => {
                let body = Body::parse(body, self.verifier.bounds()).map_err(|why| why.to_string())?;
                self.message(Message::Slot(CommittedSlot { certificate, body: Arc::new(body) }))
            }
            // The root is signed again whenever it is sent.
            Record::CkptVote { .. } => Ok(Checked::Unsigned),
            Record::SnapVote { seq, root, .. } => {
                self.roots.retain(|(at, _)| *at != seq);
                self.roots.push((seq, root));
                let old = self.roots.len().saturating_sub(ROOTS_KEPT);
                self.roots.drain(..old);
                Ok(Checked::Unsigned)
            }
            Record::SnapStable(vote) => {
                let signers = vote.signatures.iter().map(|(replica, _)| *replica).collect();
                self.quorum(Message::Snapshot(vote), signers)
            }
            Record::Stable(checkpoint) => {
                let signers = checkpoint.signatures.iter().map(|(replica, _)| *replica).collect();
                self.quorum(Message::Checkpoint(checkpoint), signers)
            }
            Record::Evidence(evidence) => self.message(Message::Evidence(evidence)),
        }
    }

    fn vote(&self, vote: Vote) -> Result<Checked, String> {
        let Vote { position, proposal, header, body } = vote;
        if let Some(body) = body {
            let body = Body::parse(body, self.verifier.bounds()).map_err(|why| why.to_string())?;
            let proposal = PrePrepare { position, ballot: proposal, header, body: Arc::new(body) };
            return self.message(Message::PrePrepare(proposal));
        }
        if header.digest(self.cluster.cluster_id(), position.epoch) != position.digest {
            return Err(Rejected::BodyMismatch.to_string());
        }
        let primary = self.cluster.member(self.cluster.primary(position.view)).expect("a primary is a member");
        let bytes = canonical::pre_prepare(self.cluster.cluster_id(), &position, proposal.commitment);
        match self.verifier.is_signed(primary.public_key, bytes, proposal.signature) {
            true => Ok(Checked::Signed),
            false => Err(Rejected::BadSignature.to_string()),
        }
    }

    fn message(&self, message: Message) -> Result<Checked, String> {
        // Who sends it does not matter for what is signed.
        signed(self.verifier.check(ReplicaId(0), message).map(drop))
    }

    fn quorum(&self, message: Message, signers: ReplicaSet) -> Result<Checked, String> {
        if !self.cluster.weights().is_quorum(signers) {
            return Err(Rejected::NoQuorum.to_string());
        }
        self.message(message)
    }
}

/// What was to be checked.
enum Checked {
    Signed,
    Unsigned,
}

fn signed(checked: Result<(), Rejected>) -> Result<Checked, String> {
    checked.map(|()| Checked::Signed).map_err(|why| why.to_string())
}
