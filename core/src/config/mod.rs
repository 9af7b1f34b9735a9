//! The configuration of a cluster: the same at every replica and client, hashed, exchanged in every handshake. A value
//! of this type is valid; nothing checks it later. Its TOML form is in [`mod@file`].

use crate::hash::{Context, Hasher};
use crate::ids::{ClusterId, Digest, Epoch, PublicKey, ReplicaId, View};
use crate::limits;
use crate::quorum::{ReplicaSet, Weights, WeightsError};

pub mod file;
pub mod strict;

/// What a cluster may choose (PROTOCOL §1). Bytes, counts, slots, nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolParams {
    /// Slots between two checkpoints, K: a power of two.
    pub checkpoint_interval: u64,
    /// Slots that may be open at a time, L = 2K.
    pub window: u64,
    /// Slots that the primary keeps in flight.
    pub pipeline_max: u64,
    /// Size of an encoded Request.
    pub request_bytes_max: u32,
    /// Operations in a Request.
    pub request_operations_max: u32,
    /// Requests in a batch.
    pub batch_requests_max: u32,
    /// Size of a batch's body.
    pub batch_bytes_max: u32,
    /// Requests that a session may have outstanding, W.
    pub client_window: u64,
    /// Sessions.
    pub sessions_max: u32,
    /// Size of the results of one Request.
    pub reply_bytes_max: u32,
    /// Size of all cached results.
    pub reply_cache_bytes: u64,
    /// Bytes of executed bodies after which a snapshot is due.
    pub snapshot_bytes: u64,
    /// Slots after which a snapshot is due: a multiple of the checkpoint interval.
    pub snapshot_slots: u64,
    /// Base of the view-change timeout, in nanoseconds.
    pub view_timeout: u64,
    /// How links are sealed.
    pub cipher: Cipher,
}

impl Default for ProtocolParams {
    fn default() -> Self {
        Self {
            checkpoint_interval: limits::CHECKPOINT_INTERVAL,
            window: 2 * limits::CHECKPOINT_INTERVAL,
            pipeline_max: limits::PIPELINE_MAX,
            request_bytes_max: limits::REQUEST_BYTES_MAX as u32,
            request_operations_max: limits::REQUEST_OPERATIONS_MAX as u32,
            batch_requests_max: limits::BATCH_REQUESTS_MAX as u32,
            batch_bytes_max: limits::BATCH_BYTES_MAX as u32,
            client_window: limits::CLIENT_WINDOW,
            sessions_max: limits::SESSIONS_MAX as u32,
            reply_bytes_max: limits::REPLY_BYTES_MAX as u32,
            reply_cache_bytes: limits::REPLY_CACHE_BYTES as u64,
            snapshot_bytes: limits::SNAPSHOT_BYTES,
            snapshot_slots: limits::SNAPSHOT_SLOTS,
            view_timeout: limits::VIEW_TIMEOUT,
            cipher: Cipher::AesGcm,
        }
    }
}

/// How links are sealed. The numbers are those of the link's preface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cipher {
    /// AES-256-GCM.
    AesGcm = 1,
    /// ChaCha20-Poly1305.
    ChaChaPoly = 2,
}

/// Who may be a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Every key: for a laboratory.
    Any,
    /// Keys that carry a certificate of this authority.
    Certified(PublicKey),
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its weight in quorums.
    pub weight: u64,
    /// The key it signs with.
    pub public_key: PublicKey,
    /// `host:port`. Not part of the digest: a replica may move.
    pub address: String,
}

/// Why a configuration is none. Names the key of `cluster.toml` at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigInvalid {
    /// A value outside its bounds.
    #[error("{key} is {value}, but {must}")]
    Value {
        /// The key, dotted.
        key: &'static str,
        /// What it is.
        value: u64,
        /// What it must be.
        must: String,
    },
    /// A window so long that a NEW-VIEW of so many replicas would fit no frame: no view could ever change.
    #[error(
        "protocol.window is {window}; {replicas} replicas can change the view over at most {most} slots, because a NEW-VIEW \
         must fit its frame of {} MiB: take a checkpoint_interval of half of that, or fewer replicas",
        limits::NEW_VIEW_FRAME_BYTES / limits::MIB
    )]
    Window {
        /// What it is.
        window: u64,
        /// How many replicas there are.
        replicas: usize,
        /// The longest window that so many may have.
        most: u64,
    },
    /// The replicas' weights make no cluster.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A key that no signature may be checked with: not on the curve, of small order, or with torsion.
    #[error("the public key of {whose} is not usable: {public_key}")]
    Key {
        /// `replica 2`, or `the client authority`.
        whose: String,
        /// The key.
        public_key: PublicKey,
    },
    /// Two replicas with one key.
    #[error("replicas {0} and {1} have the same public key")]
    SameKey(ReplicaId, ReplicaId),
}

/// A cluster's configuration in one Epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    cluster_id: ClusterId,
    epoch: Epoch,
    params: ProtocolParams,
    admission: Admission,
    members: Vec<Member>,
    weights: Weights,
    digest: Digest,
    first_primary: u64,
}

impl ClusterConfig {
    /// Checks every bound and relation.
    pub fn new(
        cluster_id: ClusterId,
        epoch: Epoch,
        params: ProtocolParams,
        admission: Admission,
        members: Vec<Member>,
    ) -> Result<Self, ConfigInvalid> {
        params.check()?;
        let weights = Weights::new(members.iter().map(|member| member.weight).collect())?;
        params.check_new_view(members.len())?;
        if let Admission::Certified(authority) = admission
            && !crate::auth::is_usable_key(&authority)
        {
            return Err(ConfigInvalid::Key { whose: "the client authority".into(), public_key: authority });
        }
        for (id, member) in (0..).map(ReplicaId).zip(&members) {
            if !crate::auth::is_usable_key(&member.public_key) {
                return Err(ConfigInvalid::Key { whose: format!("replica {id}"), public_key: member.public_key });
            }
            if let Some(other) = members[..id.index()].iter().position(|other| other.public_key == member.public_key) {
                return Err(ConfigInvalid::SameKey(ReplicaId(other as u16), id));
            }
        }
        let digest = digest(cluster_id, epoch, &params, admission, &members);
        let offset = u64::from_le_bytes(digest.0[..8].try_into().expect("eight bytes"));
        let first_primary = offset % members.len() as u64;
        Ok(Self { cluster_id, epoch, params, admission, members, weights, digest, first_primary })
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// The Epoch this is the configuration of.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> &ProtocolParams {
        &self.params
    }

    /// Who may be a client.
    #[must_use]
    pub fn admission(&self) -> Admission {
        self.admission
    }

    /// The members, by [`ReplicaId`].
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member `id`; `None` if there is none.
    #[must_use]
    pub fn member(&self, id: ReplicaId) -> Option<&Member> {
        self.members.get(id.index())
    }

    /// The ids of all members.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        ReplicaSet::all(self.members.len()).iter()
    }

    /// How many members there are, n.
    #[must_use]
    pub fn n(&self) -> usize {
        self.members.len()
    }

    /// The members' weights: what is a quorum, and what blocks.
    #[must_use]
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The digest over everything but addresses.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The primary of `view`. View 0 starts at an index taken from the digest, so that a given host is not always first.
    #[must_use]
    pub fn primary(&self, view: View) -> ReplicaId {
        let n = self.members.len() as u64;
        ReplicaId(((view.0 % n + self.first_primary) % n) as u16)
    }
}

impl ProtocolParams {
    fn check(&self) -> Result<(), ConfigInvalid> {
        let within = |key, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(ConfigInvalid::Value { key, value, must: format!("must be {low} to {high}") })
            }
        };
        let interval = self.checkpoint_interval;
        within("protocol.checkpoint_interval", interval, 1, limits::WINDOW_MAX / 2)?;
        if !interval.is_power_of_two() {
            let must = "must be a power of two".into();
            return Err(ConfigInvalid::Value { key: "protocol.checkpoint_interval", value: interval, must });
        }
        within("protocol.window", self.window, 2 * interval, 2 * interval)?;
        within("protocol.pipeline_max", self.pipeline_max, 1, self.window)?;
        within("protocol.batch_bytes_max", self.batch_bytes_max.into(), 1024, limits::BATCH_BYTES_LIMIT as u64)?;
        // The offset table of a body takes four bytes for a Request.
        let request_high = u64::from(self.batch_bytes_max) - 8;
        within("protocol.request_bytes_max", self.request_bytes_max.into(), 512, request_high)?;
        let operations = self.request_operations_max.into();
        within("protocol.request_operations_max", operations, 1, limits::REQUEST_OPERATIONS_MAX as u64)?;
        within("protocol.batch_requests_max", self.batch_requests_max.into(), 1, limits::BATCH_REQUESTS_MAX as u64)?;
        within("protocol.client_window", self.client_window, 1, limits::CLIENT_WINDOW_MAX)?;
        within("protocol.sessions_max", self.sessions_max.into(), 1, 1 << 20)?;
        within("protocol.reply_bytes_max", self.reply_bytes_max.into(), 64, 4 * limits::MIB as u64)?;
        within("protocol.reply_cache_bytes_max", self.reply_cache_bytes, self.reply_bytes_max.into(), 1 << 34)?;
        within("protocol.snapshot_bytes", self.snapshot_bytes, 1, 1 << 40)?;
        within("protocol.snapshot_slots", self.snapshot_slots, interval, 1 << 32)?;
        if !self.snapshot_slots.is_multiple_of(interval) {
            let must = format!("must be a multiple of protocol.checkpoint_interval ({interval})");
            return Err(ConfigInvalid::Value { key: "protocol.snapshot_slots", value: self.snapshot_slots, must });
        }
        within("protocol.view_timeout", self.view_timeout, 10 * limits::MILLISECOND, 60 * limits::SECOND)
    }

    /// The largest NEW-VIEW of `replicas` fits its frame.
    fn check_new_view(&self, replicas: usize) -> Result<(), ConfigInvalid> {
        let fits = |window: &u64| limits::new_view_bytes(replicas, *window) <= limits::NEW_VIEW_FRAME_BYTES;
        if fits(&self.window) {
            return Ok(());
        }
        let shorter = std::iter::successors(Some(self.window), |window| Some(window / 2));
        let most = shorter.take_while(|window| *window > 0).find(fits).expect("a window of two slots fits");
        Err(ConfigInvalid::Window { window: self.window, replicas, most })
    }
}

fn digest(
    cluster_id: ClusterId,
    epoch: Epoch,
    params: &ProtocolParams,
    admission: Admission,
    members: &[Member],
) -> Digest {
    let mut hasher = Hasher::new(Context::Config);
    hasher.u64(epoch.0).update(&cluster_id.0);
    let ProtocolParams {
        checkpoint_interval,
        window,
        pipeline_max,
        request_bytes_max,
        request_operations_max,
        batch_requests_max,
        batch_bytes_max,
        client_window,
        sessions_max,
        reply_bytes_max,
        reply_cache_bytes,
        snapshot_bytes,
        snapshot_slots,
        view_timeout,
        cipher,
    } = params;
    hasher.u64(*checkpoint_interval).u64(*window).u64(*pipeline_max);
    hasher.u64((*request_bytes_max).into()).u64((*request_operations_max).into());
    hasher.u64((*batch_requests_max).into()).u64((*batch_bytes_max).into());
    hasher.u64(*client_window).u64((*sessions_max).into());
    hasher.u64((*reply_bytes_max).into()).u64(*reply_cache_bytes);
    hasher.u64(*snapshot_bytes).u64(*snapshot_slots).u64(*view_timeout).u64(*cipher as u64);
    match admission {
        Admission::Any => hasher.u64(0).update(&[0; 32]),
        Admission::Certified(authority) => hasher.u64(1).update(&authority.0),
    };
    hasher.u64(members.len() as u64);
    for member in members {
        hasher.u64(member.weight).update(&member.public_key.0);
    }
    hasher.finish()
}
