//! Why a link did not come about, or ended. The link that the bytes came over is at fault, never the replica or client
//! that they name (A1): whoever holds a key has not spoken before its signature is checked.

use std::ops::RangeInclusive;

use bft_core::ids::{Digest, Epoch, PublicKey, ReplicaId};
use bft_core::wire::canonical::NotCanonical;

use crate::preface::{VERSION_MAX, VERSION_MIN};

/// Why a link is refused. Final: the shell closes the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The first bytes are not those of this protocol.
    #[error("the connection begins with {found:02x?} and not with \"BFT1\": what connected is not of this protocol")]
    NotOurs {
        /// The first bytes.
        found: [u8; 4],
    },
    /// A preface that no version allows.
    #[error("the preface is malformed: {what}")]
    Preface {
        /// What is wrong in it.
        what: &'static str,
    },
    /// The connecting side speaks only other versions.
    #[error(
        "the peer speaks wire versions {} to {}, this side {VERSION_MIN} to {VERSION_MAX}: upgrade the older one",
        theirs.start(), theirs.end()
    )]
    NoCommonVersion {
        /// What it speaks.
        theirs: RangeInclusive<u16>,
    },
    /// The connecting side seals with something other than the cluster's cipher.
    #[error(
        "the peer seals with suite {theirs}, this cluster with {ours} (`cipher` in cluster.toml): compare the files"
    )]
    WrongSuite {
        /// Its suite.
        theirs: u8,
        /// The cluster's.
        ours: u8,
    },
    /// Bytes where the handshake has no room for any yet.
    #[error("{bytes} bytes of early data in the first message of the handshake: there is no such thing here")]
    EarlyData {
        /// How many.
        bytes: usize,
    },
    /// A length that a message of the handshake cannot have.
    #[error("message {message} of the handshake has {len} bytes, not {} to {}", allowed.start(), allowed.end())]
    MessageLength {
        /// Which message, from 1.
        message: u8,
        /// The length it says.
        len: usize,
        /// What it may have.
        allowed: RangeInclusive<usize>,
    },
    /// Message 2 of the handshake does not decrypt.
    #[error(
        "the replica's answer does not decrypt: it is most likely of another cluster (compare `cluster_id` in \
         cluster.toml and the address), or the bytes were changed on the way"
    )]
    OtherCluster,
    /// Message 3 of the handshake does not decrypt, though message 2 did for its sender.
    #[error("the last message of the handshake does not decrypt: changed on the way, or replayed")]
    Forged,
    /// An X25519 key with which the secret is the same for everybody.
    #[error("an X25519 key of small order in the handshake")]
    SmallOrder,
    /// Bytes that are no Identity.
    #[error("the Identity in the handshake is malformed: {what}")]
    Identity {
        /// What is wrong in it.
        what: &'static str,
    },
    /// A signature that its key did not make, or made for something else.
    #[error("a signature of {public_key} is not valid for this link")]
    BadSignature {
        /// Whose it is said to be.
        public_key: PublicKey,
    },
    /// A client's key that no signature may be checked with.
    #[error("the key {public_key} is not usable: not on the curve, of small order, or with torsion")]
    UnusableKey {
        /// The key.
        public_key: PublicKey,
    },
    /// The peer is in another Epoch.
    #[error("the peer is in epoch {theirs}, this side in {ours}: give both the same cluster.toml")]
    WrongEpoch {
        /// Its Epoch.
        theirs: Epoch,
        /// Ours.
        ours: Epoch,
    },
    /// The same Epoch, but another configuration.
    #[error(
        "the peer has another configuration of this epoch (digest {theirs}, here {ours}): cluster.toml must be the \
         same everywhere but for addresses"
    )]
    WrongConfig {
        /// Its digest.
        theirs: Digest,
        /// Ours.
        ours: Digest,
    },
    /// A replica that the configuration does not have.
    #[error("replica {replica} is not in the configuration, which has {members}")]
    UnknownReplica {
        /// Which.
        replica: ReplicaId,
        /// How many there are.
        members: usize,
    },
    /// A replica with another key than the configuration's.
    #[error("replica {replica} has the key {found}, but the configuration says {expected}: check its key file and id")]
    WrongKey {
        /// Which.
        replica: ReplicaId,
        /// The key it has.
        found: PublicKey,
        /// The configuration's.
        expected: PublicKey,
    },
    /// A replica, but not the one that was wanted.
    #[error("this address leads to replica {reached} instead of {wanted}: check `address` in cluster.toml")]
    WrongReplica {
        /// Who was wanted.
        wanted: ReplicaId,
        /// Who answered.
        reached: ReplicaId,
    },
    /// Somebody else is this replica: with its id, and with its key.
    #[error("another process runs as this very replica, instance {instance}: a copied key or a cloned disk (D11)")]
    OwnIdentity {
        /// The instance of the other one.
        instance: u64,
    },
    /// A client that shows no certificate where one is needed.
    #[error("the client {client} shows no certificate, and this cluster admits only certified ones")]
    NoCertificate {
        /// Its key.
        client: PublicKey,
    },
    /// A client whose certificate is over.
    #[error("the certificate of the client {client} held until epoch {expired}, and this is {epoch}: issue a new one")]
    CertificateExpired {
        /// Its key.
        client: PublicKey,
        /// The last Epoch it held in.
        expired: Epoch,
        /// This one.
        epoch: Epoch,
    },
    /// A client whose certificate is of somebody else.
    #[error("the certificate of the client {client} is not of this cluster's authority, or of another key")]
    BadCertificate {
        /// Its key.
        client: PublicKey,
    },
    /// The peer closed the connection inside the handshake.
    #[error("the peer closed the connection after message {after} of the handshake: {hint}")]
    Closed {
        /// The last message that went over the link, from 1; 0: none.
        after: u8,
        /// What that is most likely to mean.
        hint: &'static str,
    },
    /// A length that no record has.
    #[error("record {record} has {len} bytes, fewer than a sealed byte takes")]
    RecordLength {
        /// The number of the record from the peer, from 0.
        record: u64,
        /// The length it says.
        len: usize,
    },
    /// A record that the peer did not seal, or not as this one in the order.
    #[error("record {record} does not decrypt: changed, lost, doubled or put in another place on the way")]
    ForgedRecord {
        /// The number of the record from the peer, from 0.
        record: u64,
    },
    /// The connection ended inside a record.
    #[error("the connection ended inside record {record}")]
    Truncated {
        /// The number of the record from the peer, from 0.
        record: u64,
    },
}

impl LinkError {
    /// Whether no honest program could have caused it, whatever its version or its configuration: the shell punishes
    /// the address. What an operator's mistake may be is only refused and reported.
    #[must_use]
    pub fn is_hostile(&self) -> bool {
        match self {
            Self::Preface { .. }
            | Self::EarlyData { .. }
            | Self::MessageLength { .. }
            | Self::Forged
            | Self::SmallOrder
            | Self::Identity { .. }
            | Self::BadSignature { .. }
            | Self::UnusableKey { .. }
            | Self::RecordLength { .. }
            | Self::ForgedRecord { .. } => true,
            Self::NotOurs { .. }
            | Self::NoCommonVersion { .. }
            | Self::WrongSuite { .. }
            | Self::OtherCluster
            | Self::WrongEpoch { .. }
            | Self::WrongConfig { .. }
            | Self::UnknownReplica { .. }
            | Self::WrongKey { .. }
            | Self::WrongReplica { .. }
            | Self::OwnIdentity { .. }
            | Self::NoCertificate { .. }
            | Self::CertificateExpired { .. }
            | Self::BadCertificate { .. }
            | Self::Closed { .. }
            | Self::Truncated { .. } => false,
        }
    }
}

impl From<NotCanonical> for LinkError {
    fn from(NotCanonical: NotCanonical) -> Self {
        Self::Identity { what: "too short or too long" }
    }
}
