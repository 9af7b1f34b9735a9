//! Who is at an end of a link: the Identity in messages 2 and 3 of the handshake, its canonical bytes, and what it must
//! say to be let in.

use std::sync::Arc;

use bft_core::auth::{Scheme, Verifier, is_usable_key};
use bft_core::config::{Admission, ClusterConfig};
use bft_core::hash::{Context, hash};
use bft_core::ids::{ClusterId, Digest, Epoch, PublicKey, ReplicaId, Signature};
use bft_core::wire::canonical::{Reader, SigningBytes, Tag, signing_bytes};
use bft_core::wire::message::ClientCertificate;

use crate::error::LinkError;
use crate::noise::KEY_BYTES;
use crate::preface::{Role, VERSION_MAX, VERSION_MIN};

/// Stands where a client has no replica id.
const NO_REPLICA: u16 = 0xffff;
const CERTIFICATE_BYTES: u32 = 72;

/// What this process is towards its peers, and what it demands of them.
#[derive(Clone)]
pub struct LocalIdentity {
    pub(crate) config: Arc<ClusterConfig>,
    pub(crate) scheme: Arc<dyn Scheme>,
    pub(crate) who: Who,
    verifier: Verifier,
}

/// What only a replica, or only a client, says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Replica { id: ReplicaId, instance: u64 },
    Client { certificate: Option<ClientCertificate> },
}

/// What a peer said of itself and signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub who: Who,
    pub public_key: PublicKey,
    pub epoch: Epoch,
    pub config_digest: Digest,
    pub version: u16,
    pub features: u64,
}

/// What the other side of this handshake must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// This replica, at whatever version it chose.
    Replica(ReplicaId),
    /// What the preface said, at the version that was chosen.
    Connector { role: Role, version: u16 },
}

impl LocalIdentity {
    /// The replica `id`, with the secret key in `scheme`. `instance`: the counter in its superblock, raised at every
    /// start. Refused if the configuration has another key for it.
    pub fn replica(
        config: Arc<ClusterConfig>,
        scheme: Arc<dyn Scheme>,
        id: ReplicaId,
        instance: u64,
    ) -> Result<Self, LinkError> {
        check_member(&config, id, scheme.public_key())?;
        Ok(Self::new(config, scheme, Who::Replica { id, instance }))
    }

    /// A client, with the secret key in `scheme`. Refused if the cluster would not admit it.
    pub fn client(
        config: Arc<ClusterConfig>,
        scheme: Arc<dyn Scheme>,
        certificate: Option<ClientCertificate>,
    ) -> Result<Self, LinkError> {
        let identity = Self::new(config, scheme, Who::Client { certificate });
        check_admitted(&identity.config, &identity.verifier, identity.scheme.public_key(), certificate.as_ref())?;
        Ok(identity)
    }

    pub(crate) fn new(config: Arc<ClusterConfig>, scheme: Arc<dyn Scheme>, who: Who) -> Self {
        let verifier = Verifier::new(config.clone(), scheme.clone());
        Self { config, scheme, who, verifier }
    }

    /// What this side is.
    pub(crate) fn role(&self) -> Role {
        self.who.role()
    }

    /// Which replica this side is; `None` for a client.
    pub(crate) fn own_id(&self) -> Option<ReplicaId> {
        match self.who {
            Who::Replica { id, .. } => Some(id),
            Who::Client { .. } => None,
        }
    }

    /// What this side says on a link of `version`.
    pub(crate) fn identity(&self, version: u16) -> Identity {
        Identity {
            who: self.who,
            public_key: self.scheme.public_key(),
            epoch: self.config.epoch(),
            config_digest: self.config.digest(),
            version,
            features: 0,
        }
    }

    /// The Identity, signed for the handshake that has `hash` so far, and for the own X25519 key in it.
    pub(crate) fn sign(&self, identity: &Identity, hash: &[u8; 32], public: &[u8; KEY_BYTES]) -> Vec<u8> {
        let mut out = identity.encode();
        let signature = self.scheme.sign(&signed_bytes(self.config.cluster_id(), hash, public, &out));
        out.extend_from_slice(&signature.0);
        out
    }

    /// What `payload` says and its key signed, for the handshake that had `hash` before the message that carried it,
    /// and for `remote`, the X25519 key that Noise authenticated.
    pub(crate) fn open(
        &self,
        payload: &[u8],
        hash: &[u8; 32],
        remote: &[u8; KEY_BYTES],
    ) -> Result<Identity, LinkError> {
        let (fields, signature) =
            payload.split_last_chunk().ok_or(LinkError::Identity { what: "shorter than its signature" })?;
        let identity = Identity::decode(fields)?;
        let public_key = identity.public_key;
        let bytes = signed_bytes(self.config.cluster_id(), hash, remote, fields);
        if !self.verifier.is_signed(public_key, bytes, Signature(*signature)) {
            return Err(LinkError::BadSignature { public_key });
        }
        Ok(identity)
    }

    /// Whether the peer, whose signature was checked, may have this link.
    pub(crate) fn check(&self, peer: &Identity, expected: Expected) -> Result<(), LinkError> {
        self.check_cluster(peer)?;
        match (expected, peer.who) {
            (Expected::Connector { version, .. }, _) if peer.version != version => {
                Err(LinkError::Identity { what: "not the version that was chosen" })
            }
            (Expected::Connector { role, .. }, who) if role != who.role() => {
                Err(LinkError::Identity { what: "not the role of the preface" })
            }
            (Expected::Replica(_), _) if !(VERSION_MIN..=VERSION_MAX).contains(&peer.version) => {
                Err(LinkError::Identity { what: "a version that was not offered" })
            }
            (Expected::Replica(_), Who::Client { .. }) => {
                Err(LinkError::Identity { what: "a client where only a replica can be" })
            }
            (Expected::Replica(wanted), Who::Replica { id, .. }) => {
                check_member(&self.config, id, peer.public_key)?;
                if id == wanted { Ok(()) } else { Err(LinkError::WrongReplica { wanted, reached: id }) }
            }
            (Expected::Connector { .. }, Who::Replica { id, instance }) => {
                check_member(&self.config, id, peer.public_key)?;
                let is_own = self.own_id() == Some(id);
                if is_own { Err(LinkError::OwnIdentity { instance }) } else { Ok(()) }
            }
            (Expected::Connector { .. }, Who::Client { certificate }) => {
                check_admitted(&self.config, &self.verifier, peer.public_key, certificate.as_ref())
            }
        }
    }

    fn check_cluster(&self, peer: &Identity) -> Result<(), LinkError> {
        let (epoch, digest) = (self.config.epoch(), self.config.digest());
        if peer.epoch != epoch {
            return Err(LinkError::WrongEpoch { theirs: peer.epoch, ours: epoch });
        }
        if peer.config_digest != digest {
            return Err(LinkError::WrongConfig { theirs: peer.config_digest, ours: digest });
        }
        Ok(())
    }
}

/// Whether `replica` is a member, and `found` its key.
fn check_member(config: &ClusterConfig, replica: ReplicaId, found: PublicKey) -> Result<(), LinkError> {
    let member = config.member(replica).ok_or(LinkError::UnknownReplica { replica, members: config.n() })?;
    if member.public_key == found {
        return Ok(());
    }
    Err(LinkError::WrongKey { replica, found, expected: member.public_key })
}

/// Whether `client` may be one.
pub(crate) fn check_admitted(
    config: &ClusterConfig,
    verifier: &Verifier,
    client: PublicKey,
    certificate: Option<&ClientCertificate>,
) -> Result<(), LinkError> {
    if !is_usable_key(&client) {
        return Err(LinkError::UnusableKey { public_key: client });
    }
    if verifier.is_admitted(client, certificate) {
        return Ok(());
    }
    assert_ne!(config.admission(), Admission::Any, "every key is admitted there");
    let epoch = config.epoch();
    Err(match certificate {
        None => LinkError::NoCertificate { client },
        Some(ClientCertificate { expires_epoch, .. }) if *expires_epoch < epoch => {
            LinkError::CertificateExpired { client, expired: *expires_epoch, epoch }
        }
        Some(_) => LinkError::BadCertificate { client },
    })
}

/// What an Identity's signature is over.
fn signed_bytes(cluster: ClusterId, hash_before: &[u8; 32], public: &[u8; KEY_BYTES], fields: &[u8]) -> SigningBytes {
    signing_bytes(Tag::Link, cluster, hash(Context::Link, &[hash_before, public, fields]))
}

impl Who {
    /// What the fields say together; what is wrong, if one must not be there.
    fn new(
        role: Role,
        replica: u16,
        instance: u64,
        certificate: Option<ClientCertificate>,
    ) -> Result<Self, &'static str> {
        match role {
            Role::Replica if replica == NO_REPLICA => Err("a replica without an id"),
            Role::Replica if certificate.is_some() => Err("a replica with a client's certificate"),
            Role::Replica => Ok(Self::Replica { id: ReplicaId(replica), instance }),
            Role::Client if replica != NO_REPLICA => Err("a client with a replica's id"),
            Role::Client if instance != 0 => Err("a client with an instance"),
            Role::Client => Ok(Self::Client { certificate }),
        }
    }

    fn role(&self) -> Role {
        match self {
            Self::Replica { .. } => Role::Replica,
            Self::Client { .. } => Role::Client,
        }
    }
}

impl Identity {
    /// The canonical bytes, without the signature.
    pub fn encode(&self) -> Vec<u8> {
        let (replica, instance, certificate) = match self.who {
            Who::Replica { id, instance } => (id.0, instance, None),
            Who::Client { certificate } => (NO_REPLICA, 0, certificate),
        };
        let mut out = vec![self.who.role() as u8];
        out.extend_from_slice(&self.public_key.0);
        out.extend_from_slice(&replica.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.config_digest.0);
        out.extend_from_slice(&instance.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.features.to_le_bytes());
        out.extend_from_slice(&certificate.map_or(0, |_| CERTIFICATE_BYTES).to_le_bytes());
        if let Some(ClientCertificate { expires_epoch, signature }) = certificate {
            out.extend_from_slice(&expires_epoch.0.to_le_bytes());
            out.extend_from_slice(&signature.0);
        }
        out
    }

    /// Reads canonical bytes: whatever this takes encodes to the same bytes again.
    pub fn decode(bytes: &[u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new(bytes);
        let role = Role::from_byte(reader.u8()?).ok_or(LinkError::Identity { what: "no such role" })?;
        let public_key = PublicKey(reader.array()?);
        let replica = reader.u16()?;
        let epoch = Epoch(reader.u64()?);
        let config_digest = Digest(reader.array()?);
        let instance = reader.u64()?;
        let version = reader.u16()?;
        let features = reader.u64()?;
        let certificate = decode_certificate(&mut reader)?;
        reader.end()?;
        let who = Who::new(role, replica, instance, certificate).map_err(|what| LinkError::Identity { what })?;
        Ok(Self { who, public_key, epoch, config_digest, version, features })
    }
}

fn decode_certificate(reader: &mut Reader<'_>) -> Result<Option<ClientCertificate>, LinkError> {
    match reader.u32()? {
        0 => Ok(None),
        CERTIFICATE_BYTES => {
            let (expires_epoch, signature) = (Epoch(reader.u64()?), Signature(reader.array()?));
            Ok(Some(ClientCertificate { expires_epoch, signature }))
        }
        _ => Err(LinkError::Identity { what: "a certificate of another length" }),
    }
}
