//! `cluster.toml`: the configuration of a cluster as people write it, the same bytes at every replica and client. What
//! a value must be is [`super::ClusterConfig`]'s business; here is where in the file it stands.

use std::fmt::Write as _;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use super::strict::{ByteSize, Document, FileError, HumanDuration};
use super::{Admission, Cipher, ClusterConfig, ConfigInvalid, Member, ProtocolParams};
use crate::ids::{ClusterId, Epoch, PublicKey, ReplicaId};
use crate::quorum::WeightsError;

/// The version of the file that is read and written.
const VERSION: u64 = 1;

#[derive(Deserialize)]
struct ClusterFile {
    #[allow(dead_code, reason = "checked before the rest is read; here so that the key is known")]
    version: u64,
    #[serde(deserialize_with = "hex")]
    cluster_id: ClusterId,
    epoch: u64,
    #[serde(default)]
    protocol: ProtocolFile,
    clients: ClientsFile,
    replica: Vec<ReplicaFile>,
}

#[derive(Default, Deserialize)]
struct ProtocolFile {
    checkpoint_interval: Option<u64>,
    window: Option<u64>,
    pipeline_max: Option<u64>,
    request_bytes_max: Option<ByteSize>,
    request_operations_max: Option<u32>,
    batch_requests_max: Option<u32>,
    batch_bytes_max: Option<ByteSize>,
    client_window: Option<u64>,
    sessions_max: Option<u32>,
    reply_bytes_max: Option<ByteSize>,
    reply_cache_bytes_max: Option<ByteSize>,
    snapshot_bytes: Option<ByteSize>,
    snapshot_slots: Option<u64>,
    view_timeout: Option<HumanDuration>,
    cipher: Option<CipherName>,
}

#[derive(Clone, Copy, Deserialize)]
enum CipherName {
    #[serde(rename = "aes-gcm")]
    AesGcm,
    #[serde(rename = "chacha20-poly1305")]
    ChaChaPoly,
}

#[derive(Deserialize)]
struct ClientsFile {
    admit: Admit,
    #[serde(default, deserialize_with = "optional_hex")]
    authority: Option<PublicKey>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Admit {
    Any,
    Certified,
}

#[derive(Deserialize)]
struct ReplicaFile {
    id: u16,
    #[serde(default = "weight_default")]
    weight: u64,
    #[serde(deserialize_with = "hex")]
    public_key: PublicKey,
    address: String,
}

fn weight_default() -> u64 {
    1
}

/// An id or key of 32 bytes.
fn hex<'de, D: Deserializer<'de>, T: FromStr>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        let found = match text.chars().find(|c| !matches!(c, '0'..='9' | 'a'..='f')) {
            Some(strange) => format!("{strange:?} among them"),
            None => format!("{} digits", text.len()),
        };
        de::Error::custom(format!("expected 64 lower-case hexadecimal digits, found {found}"))
    })
}

fn optional_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PublicKey>, D::Error> {
    hex(deserializer).map(Some)
}

/// Reads `cluster.toml`. `file` is the name that errors give.
pub fn parse_cluster(text: &str, file: &str) -> Result<ClusterConfig, FileError> {
    let document = Document::parse(text, file)?;
    document.require_version(VERSION)?;
    let cluster: ClusterFile = document.read()?;
    let params = cluster.protocol.params(&document)?;
    let admission = cluster.clients.admission(&document)?;
    let replicas = Replicas { document: &document, authority: cluster.clients.authority, listed: &cluster.replica };
    let members = replicas.members()?;
    ClusterConfig::new(cluster.cluster_id, Epoch(cluster.epoch), params, admission, members)
        .map_err(|invalid| replicas.locate(&invalid))
}

impl ProtocolFile {
    /// Keys that are left out follow those that are there, where their bounds depend on them.
    fn params(&self, document: &Document) -> Result<ProtocolParams, FileError> {
        let default = ProtocolParams::default();
        let narrow = |key: &str, size: Option<ByteSize>, default: u32| match size {
            None => Ok(default),
            Some(size) => u32::try_from(size.0)
                .map_err(|_| document.error(&format!("protocol.{key}"), format!("protocol.{key}: {size} is too much"))),
        };
        let bytes = |size: Option<ByteSize>, default: u64| size.map_or(default, |size| size.0);
        let checkpoint_interval = self.checkpoint_interval.unwrap_or(default.checkpoint_interval);
        let window = self.window.unwrap_or(checkpoint_interval.saturating_mul(2));
        let batch_bytes_max = narrow("batch_bytes_max", self.batch_bytes_max, default.batch_bytes_max)?;
        let request_default = default.request_bytes_max.min(batch_bytes_max.saturating_sub(8));
        Ok(ProtocolParams {
            checkpoint_interval,
            window,
            pipeline_max: self.pipeline_max.unwrap_or(default.pipeline_max.min(window)),
            request_bytes_max: narrow("request_bytes_max", self.request_bytes_max, request_default)?,
            request_operations_max: self.request_operations_max.unwrap_or(default.request_operations_max),
            batch_requests_max: self.batch_requests_max.unwrap_or(default.batch_requests_max),
            batch_bytes_max,
            client_window: self.client_window.unwrap_or(default.client_window),
            sessions_max: self.sessions_max.unwrap_or(default.sessions_max),
            reply_bytes_max: narrow("reply_bytes_max", self.reply_bytes_max, default.reply_bytes_max)?,
            reply_cache_bytes: bytes(self.reply_cache_bytes_max, default.reply_cache_bytes),
            snapshot_bytes: bytes(self.snapshot_bytes, default.snapshot_bytes),
            snapshot_slots: self.snapshot_slots.unwrap_or(default.snapshot_slots),
            view_timeout: self.view_timeout.map_or(default.view_timeout, |timeout| timeout.0),
            cipher: match self.cipher {
                None => default.cipher,
                Some(CipherName::AesGcm) => Cipher::AesGcm,
                Some(CipherName::ChaChaPoly) => Cipher::ChaChaPoly,
            },
        })
    }
}

impl ClientsFile {
    fn admission(&self, document: &Document) -> Result<Admission, FileError> {
        match (&self.admit, self.authority) {
            (Admit::Any, None) => Ok(Admission::Any),
            (Admit::Certified, Some(authority)) => Ok(Admission::Certified(authority)),
            (Admit::Any, Some(_)) => Err(document
                .error("clients.authority", "clients.authority: has no use while `admit` is \"any\"")
                .with_hint("take it out, or set `admit` to \"certified\"")),
            (Admit::Certified, None) => Err(document
                .error("clients.admit", "clients.authority: missing while `admit` is \"certified\"")
                .with_hint("set it to the public key of who certifies clients")),
        }
    }
}

/// The replicas, in the order in which the file lists them, and who else has a key.
struct Replicas<'a> {
    document: &'a Document,
    authority: Option<PublicKey>,
    listed: &'a [ReplicaFile],
}

impl Replicas<'_> {
    fn members(&self) -> Result<Vec<Member>, FileError> {
        let count = self.listed.len();
        for (index, replica) in self.listed.iter().enumerate() {
            if usize::from(replica.id) >= count {
                let what =
                    format!("there are {count} replicas, so their ids are 0 to {}, not {}", count - 1, replica.id);
                return Err(self.error(index, "id", &what));
            }
            if let Some(first) = self.listed[..index].iter().position(|other| other.id == replica.id) {
                return Err(self.error(index, "id", &format!("replica[{first}] has the id {} already", replica.id)));
            }
            if !is_address(&replica.address) {
                let what = format!("{:?} is no address", replica.address);
                return Err(self.error(index, "address", &what).with_hint("write host:port, as in 10.0.0.1:4710"));
            }
            if let Some(other) = self.listed[..index].iter().find(|other| other.address == replica.address) {
                let what = format!("{} is the address of replica {} already", replica.address, other.id);
                return Err(self.error(index, "address", &what));
            }
        }
        let mut members: Vec<_> = self.listed.iter().collect();
        members.sort_by_key(|replica| replica.id);
        let member = |replica: &ReplicaFile| Member {
            weight: replica.weight,
            public_key: replica.public_key,
            address: replica.address.clone(),
        };
        Ok(members.into_iter().map(member).collect())
    }

    fn error(&self, index: usize, key: &str, what: &str) -> FileError {
        let key = format!("replica[{index}].{key}");
        self.document.error(&key, format!("{key}: {what}"))
    }

    /// The index in the file of the replica `id`; every id is there.
    fn index(&self, id: ReplicaId) -> usize {
        self.listed.iter().position(|replica| replica.id == id.0).expect("the ids were checked")
    }

    fn locate(&self, invalid: &ConfigInvalid) -> FileError {
        let key = match invalid {
            ConfigInvalid::Value { key, .. } => (*key).to_owned(),
            ConfigInvalid::Window { .. } => "protocol.checkpoint_interval".into(),
            ConfigInvalid::Weights(WeightsError::Count(_)) => "replica".into(),
            ConfigInvalid::Weights(WeightsError::Zero(id)) => format!("replica[{}].weight", self.index(*id)),
            ConfigInvalid::Weights(WeightsError::Total) => "replica".into(),
            ConfigInvalid::SameKey(_, id) => format!("replica[{}].public_key", self.index(*id)),
            // The authority's key is the first to be checked.
            ConfigInvalid::Key { public_key, .. } if self.authority == Some(*public_key) => "clients.authority".into(),
            ConfigInvalid::Key { public_key, .. } => {
                let index = self.listed.iter().position(|replica| replica.public_key == *public_key);
                format!("replica[{}].public_key", index.expect("the key is the authority's or a replica's"))
            }
        };
        let error = self.document.error(&key, invalid.to_string());
        if key == "protocol.view_timeout" {
            error.with_hint("these are nanoseconds: \"1s\" is 1000000000")
        } else {
            error
        }
    }
}

/// `host:port`: a name, an IPv4 address, or an IPv6 address in brackets.
#[must_use]
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let port_is_good =
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0);
    let host_is_good = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    };
    port_is_good && host_is_good
}

/// The text of `cluster.toml` that [`parse_cluster`] reads as `config`.
#[must_use]
pub fn write_cluster(config: &ClusterConfig) -> String {
    let mut out = String::new();
    let cluster_id = config.cluster_id();
    let epoch = config.epoch();
    write!(
        out,
        "# A cluster: the same bytes at every replica and client.
version = {VERSION}
# The cluster's name, drawn at random when it was made.
cluster_id = \"{cluster_id}\"
# Counts changes of membership.
epoch = {epoch}

"
    )
    .expect(TO_STRING);
    write_protocol(&mut out, config.params()).expect(TO_STRING);
    write_clients(&mut out, config.admission()).expect(TO_STRING);
    for (id, member) in config.replicas().zip(config.members()) {
        let Member { weight, public_key, address } = member;
        let address = toml::Value::String(address.clone());
        write!(
            out,
            "\n[[replica]]\nid = {id}\nweight = {weight}\npublic_key = \"{public_key}\"\naddress = {address}\n"
        )
        .expect(TO_STRING);
    }
    out
}

const TO_STRING: &str = "writing to a String does not fail";

fn write_protocol(out: &mut String, params: &ProtocolParams) -> std::fmt::Result {
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
    let size = |bytes: u64| ByteSize(bytes);
    let cipher = match cipher {
        Cipher::AesGcm => "aes-gcm",
        Cipher::ChaChaPoly => "chacha20-poly1305",
    };
    write!(
        out,
        "[protocol]
# Slots between two checkpoints: a power of two.
checkpoint_interval = {checkpoint_interval}
# Slots that may be open at a time: twice the interval.
window = {window}
# Slots that the primary keeps in flight.
pipeline_max = {pipeline_max}
# The largest Request, and how many operations it may have.
request_bytes_max = \"{}\"
request_operations_max = {request_operations_max}
# The largest batch, in Requests and in bytes.
batch_requests_max = {batch_requests_max}
batch_bytes_max = \"{}\"
# Requests that a client may have outstanding.
client_window = {client_window}
# Clients at a time.
sessions_max = {sessions_max}
# The results of one Request, and all results that are kept until clients have them.
reply_bytes_max = \"{}\"
reply_cache_bytes_max = \"{}\"
# A snapshot is due after so many bytes, or slots, of work.
snapshot_bytes = \"{}\"
snapshot_slots = {snapshot_slots}
# How long a replica waits for progress before it asks for another primary.
view_timeout = \"{}\"
# How links are sealed: \"aes-gcm\" or \"chacha20-poly1305\".
cipher = \"{cipher}\"

",
        size((*request_bytes_max).into()),
        size((*batch_bytes_max).into()),
        size((*reply_bytes_max).into()),
        size(*reply_cache_bytes),
        size(*snapshot_bytes),
        HumanDuration(*view_timeout),
    )
}

fn write_clients(out: &mut String, admission: Admission) -> std::fmt::Result {
    out.push_str("# Who may be a client: \"any\" (for a laboratory), or \"certified\" by the authority.\n[clients]\n");
    match admission {
        Admission::Any => writeln!(out, "admit = \"any\""),
        Admission::Certified(authority) => writeln!(out, "admit = \"certified\"\nauthority = \"{authority}\""),
    }
}
