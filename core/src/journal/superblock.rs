//! The superblock: what a replica must find at once when it starts. Four copies of one block, written two and two.

use crate::ids::{ClusterId, Digest, Epoch, LogPosition, PublicKey, ReplicaId, Seq, View};
use crate::wire::message::Checkpoint;

/// What the superblock says. The core owns every field but `sequence` and `durable_through`, which the journal fills in
/// when it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}
