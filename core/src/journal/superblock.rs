//! The superblock: what a replica must find at once when it starts. Four copies of one block, written two and two
//! (D9, D21): after a crash at any point two of them are equal and whole. Who writes when is in [`super::writer`].
//!
//! ```text
//! magic 8 | version u16 | the fields of Superblock in their order | zeros | check 16 at the end of the block
//! ```
//! The check, keyed with the directory key that lies in the block, is what makes "two equal copies" proof: the two
//! copies of a pair travel in one write, and may be torn at the same place.

use std::fmt;

use crate::ids::{ClusterId, Digest, Epoch, LogPosition, PublicKey, ReplicaId, Seq, View};
use crate::wire::canonical::{NotCanonical, Reader};
use crate::wire::message::Checkpoint;

use super::VERSION;
use super::block::{BLOCK_BYTES, BlockBuf};
use super::group::Seal;
use super::record::{put_option, put_signatures, read_option, read_signatures};

const MAGIC: &[u8; 8] = b"bftsuper";
/// Copies in the file.
const COPIES: usize = 4;
/// Where the check lies in a copy.
const CHECK_AT: usize = BLOCK_BYTES - 16;
/// The length of the superblock's file.
pub const SUPERBLOCK_FILE_BYTES: usize = COPIES * BLOCK_BYTES;

/// What the superblock says. The core owns every field but `sequence` and `durable_through`, which the journal fills in
/// when it writes.
#[derive(Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Raised by one with every write.
    pub sequence: u64,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The replica.
    pub replica: ReplicaId,
    /// Drawn at random when the directory was made.
    pub directory_id: [u8; 16],
    /// Drawn at random when the directory was made; keys the checks of groups.
    pub directory_key: [u8; 32],
    /// The key that this directory's votes were signed with.
    pub public_key: PublicKey,
    /// Raised and flushed at every start.
    pub instance: u64,
    /// The configuration.
    pub epoch: Epoch,
    /// The highest view promised (P4).
    pub promised: View,
    /// The last stable checkpoint, SC(h) (P6).
    pub stable: Option<Checkpoint>,
    /// No vote before h reaches this (PROTOCOL §11, AMNESIA-LITE); 0: no damage.
    pub damaged_through: Seq,
    /// The newest stable snapshot and the root of its manifest.
    pub snapshot: Option<(Seq, Digest)>,
    /// The first record that is still needed.
    pub journal_start: LogPosition,
    /// No record of a slot up to this Seq is needed; every record of a later one lies at or behind `journal_start`.
    pub collected: Seq,
    /// The last position of the newest journal group in the unbroken durable prefix when this was written.
    pub durable_through: LogPosition,
    /// This replica differed from the others and is in quarantine (PROTOCOL §7): it answers nobody and votes for nothing. In a
    /// superblock of before there are zeros here, and in the next field: it is not.
    pub quarantined: bool,
    /// What it signed for checkpoints and snapshots up to this Seq it does not stand by, and it signs nothing more there;
    /// 0: there is no such thing.
    pub disowned_through: Seq,
}

/// Whose a new directory is: what [`Superblock::first`] starts from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The replica.
    pub replica: ReplicaId,
    /// Its key.
    pub public_key: PublicKey,
    /// The configuration.
    pub epoch: Epoch,
    /// Drawn at random.
    pub directory_id: [u8; 16],
    /// Drawn at random.
    pub directory_key: [u8; 32],
}

/// Stands for a directory key: whoever reads it in a log could make records that pass for genuine (D14).
const HIDDEN: fmt::Arguments<'static> = format_args!("(hidden)");

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster_id, replica, public_key, epoch, directory_id, directory_key: _ } = self;
        f.debug_struct("Directory")
            .field("cluster_id", cluster_id)
            .field("replica", replica)
            .field("public_key", public_key)
            .field("epoch", epoch)
            .field("directory_id", directory_id)
            .field("directory_key", &HIDDEN)
            .finish()
    }
}

impl fmt::Debug for Superblock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sequence,
            cluster_id,
            replica,
            directory_id,
            directory_key: _,
            public_key,
            instance,
            epoch,
            promised,
            stable,
            damaged_through,
            quarantined,
            disowned_through,
            snapshot,
            journal_start,
            collected,
            durable_through,
        } = self;
        f.debug_struct("Superblock")
            .field("sequence", sequence)
            .field("cluster_id", cluster_id)
            .field("replica", replica)
            .field("directory_id", directory_id)
            .field("directory_key", &HIDDEN)
            .field("public_key", public_key)
            .field("instance", instance)
            .field("epoch", epoch)
            .field("promised", promised)
            .field("stable", stable)
            .field("damaged_through", damaged_through)
            .field("quarantined", quarantined)
            .field("disowned_through", disowned_through)
            .field("snapshot", snapshot)
            .field("journal_start", journal_start)
            .field("collected", collected)
            .field("durable_through", durable_through)
            .finish()
    }
}

impl Superblock {
    /// The first superblock of a new directory, with an empty journal.
    #[must_use]
    pub fn first(directory: &Directory) -> Self {
        let Directory { cluster_id, replica, public_key, epoch, directory_id, directory_key } = *directory;
        Self {
            sequence: 1,
            cluster_id,
            replica,
            directory_id,
            directory_key,
            public_key,
            instance: 0,
            epoch,
            promised: View(0),
            stable: None,
            damaged_through: Seq(0),
            quarantined: false,
            disowned_through: Seq(0),
            snapshot: None,
            journal_start: LogPosition(1),
            collected: Seq(0),
            durable_through: LogPosition(0),
        }
    }

    /// The whole file: four equal copies. For a new directory, whose file takes its name only when it is flushed; and,
    /// in two halves with a flush after each, where a superblock is written outside of the journal.
    #[must_use]
    pub fn encode_file(&self) -> BlockBuf {
        let mut file = BlockBuf::with_capacity(SUPERBLOCK_FILE_BYTES);
        for _ in 0..COPIES {
            self.encode(&mut file);
        }
        file
    }

    /// Appends one copy.
    pub fn encode(&self, out: &mut BlockBuf) {
        let at = out.len();
        out.put(MAGIC);
        out.put_u16(VERSION);
        out.put_u64(self.sequence);
        out.put(&self.cluster_id.0);
        out.put_u16(self.replica.0);
        out.put(&self.directory_id);
        out.put(&self.directory_key);
        out.put(&self.public_key.0);
        out.put_u64(self.instance);
        out.put_u64(self.epoch.0);
        out.put_u64(self.promised.0);
        put_option(out, self.stable.as_ref(), put_checkpoint);
        out.put_u64(self.damaged_through.0);
        put_option(out, self.snapshot, |out, (seq, root)| {
            out.put_u64(seq.0);
            out.put(&root.0);
        });
        out.put_u64(self.journal_start.0);
        out.put_u64(self.collected.0);
        out.put_u64(self.durable_through.0);
        out.put(&[u8::from(self.quarantined)]);
        out.put_u64(self.disowned_through.0);
        let used = out.len() - at;
        assert!(used <= CHECK_AT, "a certificate of the largest configuration fits a superblock");
        out.put_zeros(CHECK_AT - used);
        let check = Seal::new(self.directory_key).check(&[&out[at..]]);
        out.put(&check.0);
    }

    /// Reads one copy.
    pub fn decode(block: &[u8]) -> Result<Self, CopyInvalid> {
        let (checked, check) = block.split_at_checked(CHECK_AT).ok_or(CopyInvalid::Damaged)?;
        let mut reader = Reader::new(checked);
        let magic: [u8; 8] = reader.array()?;
        let version = reader.u16()?;
        if magic != *MAGIC {
            return Err(CopyInvalid::Damaged);
        }
        if version != VERSION {
            return Err(CopyInvalid::Version { version });
        }
        let superblock = read_fields(&mut reader)?;
        let is_whole = check == Seal::new(superblock.directory_key).check(&[checked]).0;
        let is_canonical = reader.rest().iter().all(|byte| *byte == 0);
        if is_whole && is_canonical { Ok(superblock) } else { Err(CopyInvalid::Damaged) }
    }
}

/// Why a copy is not to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyInvalid {
    /// Torn, damaged or never written.
    Damaged,
    /// Of another version.
    Version {
        /// Which.
        version: u16,
    },
}

impl From<NotCanonical> for CopyInvalid {
    fn from(_: NotCanonical) -> Self {
        Self::Damaged
    }
}

/// What must be written before anything else, and flushed: the copies that a crash left different.
#[derive(Debug)]
pub struct Repair {
    /// Their numbers: copy i lies at `i * BLOCK_BYTES`. None: nothing to do. The copies chosen are never among them.
    pub copies: Vec<u32>,
    /// What each of them becomes.
    pub block: BlockBuf,
}

/// Why there is no superblock to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockDamage {
    /// Not four copies long.
    #[error("the superblock file has {bytes} bytes instead of {SUPERBLOCK_FILE_BYTES}; {LOST}")]
    Length {
        /// Its length.
        bytes: usize,
    },
    /// Written by another version.
    #[error("the superblock is of version {version}, this program knows version {VERSION}: start the right program")]
    Version {
        /// Which.
        version: u16,
    },
    /// No two copies are equal and whole: more than a crash can do.
    #[error("no two of the superblock's copies are equal and whole ({whole} of 4 are whole); {LOST}")]
    NoTwoEqual {
        /// How many copies are whole.
        whole: usize,
    },
}

const LOST: &str =
    "what this replica promised is lost: it must be replaced under a new key, its old key must never sign again";

/// The superblock that the file's four copies hold: the highest sequence of which two copies are equal byte for byte.
pub fn read_superblock(file: &[u8]) -> Result<(Superblock, Repair), SuperblockDamage> {
    if file.len() != SUPERBLOCK_FILE_BYTES {
        return Err(SuperblockDamage::Length { bytes: file.len() });
    }
    let copies: Vec<&[u8]> = file.chunks(BLOCK_BYTES).collect();
    let decoded: Vec<_> = copies.iter().map(|copy| Superblock::decode(copy)).collect();
    let has_twin = |at: usize| (0..COPIES).any(|other| other != at && copies[other] == copies[at]);
    let chosen = (0..COPIES)
        .filter(|at| has_twin(*at))
        .filter_map(|at| decoded[at].as_ref().ok().map(|superblock| (superblock.sequence, at)))
        .max();
    let Some((_, chosen)) = chosen else {
        return Err(nothing_to_start_from(&decoded));
    };
    let differing = (0..COPIES).filter(|at| copies[*at] != copies[chosen]);
    let mut block = BlockBuf::with_capacity(BLOCK_BYTES);
    block.put(copies[chosen]);
    let repair = Repair { copies: differing.map(|at| at as u32).collect(), block };
    let superblock = decoded.into_iter().nth(chosen).and_then(Result::ok).expect("the chosen copy is whole");
    Ok((superblock, repair))
}

fn nothing_to_start_from(decoded: &[Result<Superblock, CopyInvalid>]) -> SuperblockDamage {
    let other_version = decoded.iter().find_map(|copy| match copy {
        Err(CopyInvalid::Version { version }) => Some(*version),
        Err(CopyInvalid::Damaged) | Ok(_) => None,
    });
    match other_version {
        Some(version) => SuperblockDamage::Version { version },
        None => SuperblockDamage::NoTwoEqual { whole: decoded.iter().filter(|copy| copy.is_ok()).count() },
    }
}

fn put_checkpoint(out: &mut BlockBuf, checkpoint: &Checkpoint) {
    let Checkpoint { epoch, seq, root, epoch_end, signatures } = checkpoint;
    out.put_u64(epoch.0);
    out.put_u64(seq.0);
    out.put(&root.0);
    out.put_u64(epoch_end.0);
    put_signatures(out, signatures);
}

fn read_checkpoint(reader: &mut Reader<'_>) -> Result<Checkpoint, NotCanonical> {
    Ok(Checkpoint {
        epoch: Epoch(reader.u64()?),
        seq: Seq(reader.u64()?),
        root: Digest(reader.array()?),
        epoch_end: Seq(reader.u64()?),
        signatures: read_signatures(reader)?,
    })
}

fn read_flag(reader: &mut Reader<'_>) -> Result<bool, NotCanonical> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(NotCanonical),
    }
}

fn read_fields(reader: &mut Reader<'_>) -> Result<Superblock, NotCanonical> {
    Ok(Superblock {
        sequence: reader.u64()?,
        cluster_id: ClusterId(reader.array()?),
        replica: ReplicaId(reader.u16()?),
        directory_id: reader.array()?,
        directory_key: reader.array()?,
        public_key: PublicKey(reader.array()?),
        instance: reader.u64()?,
        epoch: Epoch(reader.u64()?),
        promised: View(reader.u64()?),
        stable: read_option(reader, read_checkpoint)?,
        damaged_through: Seq(reader.u64()?),
        snapshot: read_option(reader, |reader| Ok((Seq(reader.u64()?), Digest(reader.array()?))))?,
        journal_start: LogPosition(reader.u64()?),
        collected: Seq(reader.u64()?),
        durable_through: LogPosition(reader.u64()?),
        quarantined: read_flag(reader)?,
        disowned_through: Seq(reader.u64()?),
    })
}
