//! Makes a cluster: keys, configurations and data directories of all replicas, and what a client needs, in one folder.
//! For a laboratory on one machine, or to be carried to real ones: every path inside is relative.
//!
//! ```text
//! DIR/cluster.toml              the cluster, for clients
//! DIR/client.toml               a client's configuration
//! DIR/client-authority.pem      who has this can be any client
//! DIR/replica-K/                one replica: complete, to be copied as it is
//!     bftd.toml  key.pem  cluster.toml  data/
//! ```
//!
//! Kept here: a folder that has something in it is left alone; secrets are readable by their owner only.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bft_core::auth::SecretKey;
use bft_core::config::file::{is_address, write_cluster};
use bft_core::config::strict::{ByteSize, HumanDuration};
use bft_core::config::{Admission, ClusterConfig, ConfigInvalid, Member, ProtocolParams};
use bft_core::ids::{ClusterId, Epoch, ReplicaId};
use bft_core::journal::JournalOptions;

use crate::Io;
use crate::config::{ClientsSection, LogFormat, LogSection, ServiceSection, VERSION, segment_bytes_least};
use crate::data_dir::{self, DataDirError, flush_folder};
use crate::shard::refusals::LONGEST;
use crate::{directory_entropy, entropy};

/// The port of the first replica where nobody names one.
pub const BASE_PORT: u16 = 4710;

/// Why a cluster was not made.
#[derive(Debug, thiserror::Error)]
pub enum TestnetError {
    /// The folder is in use.
    #[error("{} is not empty: name a folder that does not exist yet, or an empty one", .0.display())]
    NotEmpty(PathBuf),
    /// A host is none.
    #[error("{0:?} is no address: write host:port, as in 10.0.0.1:4710")]
    Address(String),
    /// There are not so many ports.
    #[error("the ports {base} to {} do not exist: the last one is 65535", u64::from(*base) + *replicas as u64 - 1)]
    Ports {
        /// The first.
        base: u16,
        /// How many.
        replicas: usize,
    },
    /// These replicas with these parameters are no cluster.
    #[error(transparent)]
    Invalid(#[from] ConfigInvalid),
    /// A data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file or folder.
    #[error("{what} {}: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// What cluster is made.
#[derive(Clone, Debug)]
pub struct TestnetOptions {
    /// Where each replica is found, `host:port`, by id.
    pub addresses: Vec<String>,
    /// Where they listen.
    pub listen: Listen,
    /// The protocol's parameters.
    pub params: ProtocolParams,
    /// Who moves the replicas' bytes.
    pub io: Io,
    /// What executes.
    pub service: ServiceSection,
    /// How the journals are written.
    pub journal: JournalOptions,
    /// How much one client may bring.
    pub clients: ClientsSection,
    /// How the replicas log.
    pub log: LogSection,
}

/// Where replicas listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// At their address: it is one of the machine that they run on.
    Address,
    /// At the port of their address on every interface: the address may be a name, or one that others see.
    EveryInterface,
}

impl TestnetOptions {
    /// `replicas` on this machine, at `base_port` and the ports after it.
    pub fn loopback(replicas: usize, base_port: u16) -> Result<Self, TestnetError> {
        let ports = (0..replicas).map(|index| u16::try_from(usize::from(base_port) + index));
        let addresses = ports.map(|port| port.map(|port| format!("127.0.0.1:{port}"))).collect::<Result<_, _>>();
        let addresses = addresses.map_err(|_| TestnetError::Ports { base: base_port, replicas })?;
        Ok(Self::at(addresses, Listen::Address))
    }

    /// One replica on each of these, `host:port`.
    pub fn hosts(addresses: Vec<String>) -> Result<Self, TestnetError> {
        match addresses.iter().find(|address| !is_address(address)) {
            Some(strange) => Err(TestnetError::Address(strange.clone())),
            None => Ok(Self::at(addresses, Listen::EveryInterface)),
        }
    }

    /// One replica at each of these listeners, which are to be handed down to them.
    pub fn listeners(listeners: &[TcpListener]) -> io::Result<Self> {
        let addresses = listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string()));
        Ok(Self::at(addresses.collect::<io::Result<_>>()?, Listen::Address))
    }

    fn at(addresses: Vec<String>, listen: Listen) -> Self {
        Self {
            addresses,
            listen,
            params: ProtocolParams::default(),
            io: Io::default(),
            service: ServiceSection { name: "kv".into(), config: String::new() },
            journal: JournalOptions::default(),
            clients: ClientsSection::default(),
            log: LogSection::default(),
        }
    }
}

/// A cluster's folder.
#[derive(Clone, Debug)]
pub struct Testnet {
    dir: PathBuf,
    cluster: Arc<ClusterConfig>,
}

impl Testnet {
    /// Makes a cluster in `dir`, which must be empty, or not be there.
    pub fn create(dir: &Path, options: &TestnetOptions) -> Result<Self, TestnetError> {
        let keys: Vec<_> = options.addresses.iter().map(|_| SecretKey::from_entropy(entropy())).collect();
        let authority = SecretKey::from_entropy(entropy());
        let member = |(key, address): (&SecretKey, &String)| Member {
            weight: 1,
            public_key: key.public_key(),
            address: address.clone(),
        };
        let members = keys.iter().zip(&options.addresses).map(member).collect();
        let admission = Admission::Certified(authority.public_key());
        let cluster = ClusterConfig::new(ClusterId(entropy()), Epoch(0), options.params.clone(), admission, members)?;
        let testnet = Self { dir: dir.to_owned(), cluster: Arc::new(cluster) };
        make_empty(dir)?;
        write(&dir.join("cluster.toml"), write_cluster(&testnet.cluster).as_bytes(), READABLE)?;
        write(&dir.join("client-authority.pem"), authority.to_pem().as_bytes(), SECRET)?;
        write(&testnet.client_config(), CLIENT_FILE.as_bytes(), READABLE)?;
        for (me, key) in testnet.cluster.replicas().zip(&keys) {
            testnet.create_replica(me, key, options)?;
        }
        flush_folder(dir).map_err(failed("flush", dir))?;
        Ok(testnet)
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &Arc<ClusterConfig> {
        &self.cluster
    }

    /// The folder of it all.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A replica's folder.
    #[must_use]
    pub fn replica_dir(&self, replica: ReplicaId) -> PathBuf {
        self.dir.join(format!("replica-{replica}"))
    }

    /// A replica's configuration.
    #[must_use]
    pub fn config(&self, replica: ReplicaId) -> PathBuf {
        self.replica_dir(replica).join("bftd.toml")
    }

    /// The client's configuration.
    #[must_use]
    pub fn client_config(&self) -> PathBuf {
        self.dir.join("client.toml")
    }

    fn create_replica(&self, me: ReplicaId, key: &SecretKey, options: &TestnetOptions) -> Result<(), TestnetError> {
        let dir = self.replica_dir(me);
        fs::create_dir(&dir).map_err(failed("create", &dir))?;
        write(&dir.join("key.pem"), key.to_pem().as_bytes(), SECRET)?;
        write(&dir.join("cluster.toml"), write_cluster(&self.cluster).as_bytes(), READABLE)?;
        write(&self.config(me), replica_file(me, options).as_bytes(), READABLE)?;
        data_dir::create(&dir.join("data"), &self.cluster, me, key.public_key(), &directory_entropy())?;
        flush_folder(&dir).map_err(failed("flush", &dir))
    }
}

/// Listeners on free loopback ports.
pub fn bind_loopback(count: usize) -> io::Result<Vec<TcpListener>> {
    (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect()
}

const CLIENT_FILE: &str = "\
# A client of the cluster. Paths are seen from the folder of this file.
version = 1
cluster = \"cluster.toml\"
# Clients make keys of their own and certify them with this one. Where clients are not to be trusted with it, give each
# a `key` that the authority has certified.
authority_key = \"client-authority.pem\"
# How long an operation may take where nothing else is said.
timeout = \"10s\"
";

fn replica_file(me: ReplicaId, options: &TestnetOptions) -> String {
    let TestnetOptions { addresses, listen, io, service, journal, clients, log, params } = options;
    let address = &addresses[me.index()];
    let listen = match listen {
        Listen::Address => address.clone(),
        Listen::EveryInterface => {
            let (_, port) = address.rsplit_once(':').expect("an address that was checked");
            format!("0.0.0.0:{port}")
        }
    };
    let quoted = |text: &str| toml::Value::String(text.into()).to_string();
    let service_config = match service.config.as_str() {
        "" => String::new(),
        config => format!("config = {}\n", quoted(config)),
    };
    let format = match log.format {
        LogFormat::Pretty => "pretty",
        LogFormat::Json => "json",
    };
    format!(
        "# Replica {me} of the cluster in cluster.toml. Paths are seen from the folder of this file.
# `BFTD_SECTION__KEY` in the environment goes before what stands here.
version = {VERSION}
cluster = \"cluster.toml\"
replica = {me}
data_dir = \"data\"
key = \"key.pem\"
# Where it takes connections of replicas and clients.
listen = {listen}
# With one core, one thread does it all; with more, each has a share of the links, and the service a thread.
cores = 1
# Whether those threads stay on their cores: only where nothing else runs there.
pin = false
# Who moves the bytes: \"uring\", \"epoll\", or \"auto\": io_uring, and epoll where it is refused.
io = \"{io}\"

[service]
name = {name}
{service_config}
[journal]
# The size of its files: whole MiB, here at least \"{least}\", which hold the longest record that this cluster can make.
segment_bytes = \"{segment}\"

[links]
# Who sends what only an enemy sends is refused, each time for twice as long, up to this: the address that it came from
# and the key that it holds. \"0s\" refuses nobody. Addresses of replicas are never refused.
refusal_max = \"{refusal_max}\"

[clients]
# The most that one client's key may bring to this replica in a second, after a second's worth at once; what is more is
# answered with BUSY and a time to come again. 0: as much as there is room for.
requests_per_second = {requests}
bytes_per_second = \"{bytes}\"

[log]
# \"pretty\" or \"json\".
format = \"{format}\"
# error, warn, info, debug or trace; by target too: \"info,bft_server=debug\".
level = {level}
",
        listen = quoted(&listen),
        io = io.name(),
        name = quoted(&service.name),
        refusal_max = HumanDuration(LONGEST),
        requests = clients.requests_per_second,
        bytes = clients.bytes_per_second,
        segment = ByteSize(journal.segment_bytes.into()),
        least = ByteSize(segment_bytes_least(addresses.len(), params).into()),
        level = quoted(&log.level),
    )
}

fn make_empty(dir: &Path) -> Result<(), TestnetError> {
    fs::create_dir_all(dir).map_err(failed("create", dir))?;
    match fs::read_dir(dir).map_err(failed("read", dir))?.next() {
        None => Ok(()),
        Some(_) => Err(TestnetError::NotEmpty(dir.to_owned())),
    }
}

const READABLE: u32 = 0o644;
const SECRET: u32 = 0o600;

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TestnetError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all())).map_err(failed("write", path))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TestnetError {
    let path = path.to_owned();
    move |error| TestnetError::Io { what, path, error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::ReplicaConfig;

    #[test]
    fn a_cluster_for_real_machines_can_be_carried_away_and_listens_everywhere() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = ["a.example:4710", "10.0.0.2:4711", "[fd00::3]:4712", "d:65535"].map(String::from).to_vec();
        let testnet = Testnet::create(&dir.path().join("net"), &TestnetOptions::hosts(hosts.clone()).unwrap()).unwrap();
        let moved = dir.path().join("elsewhere");
        fs::rename(testnet.replica_dir(ReplicaId(2)), &moved).unwrap();
        fs::remove_dir_all(testnet.dir()).unwrap();
        let config = ReplicaConfig::load_with(&moved.join("bftd.toml"), []).unwrap();
        assert_eq!((config.me, config.listen.as_str()), (ReplicaId(2), "0.0.0.0:4712"));
        assert_eq!(config.data_dir, moved.join("data"));
        let addresses: Vec<_> = config.cluster.members().iter().map(|member| member.address.clone()).collect();
        assert_eq!(addresses, hosts);
        data_dir::DataDir::open(&config.data_dir, &config.cluster, config.me, config.secret_key.public_key()).unwrap();
    }

    #[test]
    fn secrets_are_readable_by_their_owner_only_and_no_two_are_equal() {
        let dir = tempfile::tempdir().unwrap();
        let testnet = Testnet::create(dir.path(), &TestnetOptions::loopback(4, BASE_PORT).unwrap()).unwrap();
        let mut paths = vec![testnet.dir().join("client-authority.pem")];
        paths.extend(testnet.cluster().replicas().map(|id| testnet.replica_dir(id).join("key.pem")));
        let mut keys = Vec::new();
        for path in paths {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
            keys.push(SecretKey::from_pem(&fs::read_to_string(&path).unwrap()).unwrap().public_key());
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 5);
    }

    #[test]
    fn a_folder_with_something_in_it_and_strange_addresses_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let options = TestnetOptions::loopback(4, BASE_PORT).unwrap();
        fs::write(dir.path().join("mine"), "").unwrap();
        let refused = Testnet::create(dir.path(), &options).unwrap_err();
        assert!(matches!(refused, TestnetError::NotEmpty(_)), "{refused}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was added");
        let ports = TestnetOptions::loopback(4, 65533).unwrap_err();
        assert_eq!(ports.to_string(), "the ports 65533 to 65536 do not exist: the last one is 65535");
        let host = TestnetOptions::hosts(vec!["a:1".into(), "b".into()]).unwrap_err();
        assert_eq!(host.to_string(), "\"b\" is no address: write host:port, as in 10.0.0.1:4710");
        let none = Testnet::create(&dir.path().join("none"), &TestnetOptions::loopback(0, 1).unwrap()).unwrap_err();
        assert_eq!(none.to_string(), "a cluster has 1 to 31 replicas, not 0");
        assert!(!dir.path().join("none").exists());
    }

    #[test]
    fn listeners_give_the_addresses() {
        let listeners = bind_loopback(4).unwrap();
        let options = TestnetOptions::listeners(&listeners).unwrap();
        let port = listeners[3].local_addr().unwrap().port();
        assert_eq!(options.addresses[3], format!("127.0.0.1:{port}"));
    }
}
