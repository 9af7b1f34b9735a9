//! `bftd.toml`: how one replica runs, as people write it. Read strictly: an unknown key, a wrong value or a missing file
//! is an error with its place and what to do. What the values mean together is checked where they are used
//! ([`crate::run`]); the cluster's own file is [`bft_core::config::file`]'s.
//!
//! Kept here: relative paths are seen from the folder of the file; `BFTD_SECTION__KEY` in the environment goes before
//! what the file says.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bft_core::auth::SecretKey;
use bft_core::config::strict::{ByteSize, Document, FileError, HumanDuration};
use bft_core::config::{ClusterConfig, ProtocolParams};
use bft_core::door::Tuning;
use bft_core::ids::ReplicaId;
use bft_core::journal::{JournalOptions, LongestRecord};
use bft_core::limits::MIB;
pub use bft_files::ConfigError;
use bft_files::{read_cluster, read_secret_key, read_text};
use serde::Deserialize;

use crate::shard::refusals;
use crate::{ClientRates, Io, LinkRules, Pin, ServerConfig};

/// The version of the file that is read and written.
pub const VERSION: u64 = 1;

/// What the environment's variables for this file begin with.
pub const VARIABLE_PREFIX: &str = "BFTD_";

/// The most cores that a replica takes.
const CORES_MAX: usize = 64;
/// The most that one journal file may have.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// One replica's configuration.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// The cluster.
    pub cluster: Arc<ClusterConfig>,
    /// Which replica of it.
    pub me: ReplicaId,
    /// Its secret key.
    pub secret_key: SecretKey,
    /// Its directory.
    pub data_dir: PathBuf,
    /// `host:port` where it listens, unless a listener is handed down.
    pub listen: String,
    /// Cores granted.
    pub cores: usize,
    /// Whether its executors are pinned to them.
    pub pin: Pin,
    /// Who moves its bytes.
    pub io: Io,
    /// What executes.
    pub service: ServiceSection,
    /// How the journal is written.
    pub journal: JournalOptions,
    /// How links are held to account.
    pub links: LinksSection,
    /// How much one client may bring.
    pub clients: ClientsSection,
    /// What is told to people.
    pub log: LogSection,
    document: Document,
}

/// `[service]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServiceSection {
    /// Of a service that is built in.
    pub name: String,
    /// The service's own words; what they mean is its business.
    #[serde(default)]
    pub config: String,
}

/// `[links]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LinksSection {
    /// The longest time for which a source of what only an enemy sends is refused; 0: nobody is.
    pub refusal_max: HumanDuration,
}

impl Default for LinksSection {
    fn default() -> Self {
        Self { refusal_max: HumanDuration(refusals::LONGEST) }
    }
}

/// `[clients]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ClientsSection {
    /// The most Requests that one client's key may bring in a second; 0: as many as there is room for.
    pub requests_per_second: u64,
    /// The most bytes of Requests; 0: as many as there is room for.
    pub bytes_per_second: ByteSize,
}

impl ClientsSection {
    fn rates(self) -> ClientRates {
        ClientRates { requests: self.requests_per_second, bytes: self.bytes_per_second.0 }
    }
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LogSection {
    /// How a line looks.
    pub format: LogFormat,
    /// The least level that is told, `info`; or by target too, `info,bft_server=debug`.
    pub level: String,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One object a line.
    Json,
}

#[derive(Deserialize)]
struct ReplicaFile {
    #[allow(dead_code, reason = "checked before the rest is read; here so that the key is known")]
    version: u64,
    cluster: PathBuf,
    replica: u16,
    data_dir: PathBuf,
    key: PathBuf,
    listen: Option<String>,
    #[serde(default = "cores_default")]
    cores: usize,
    #[serde(default)]
    pin: bool,
    #[serde(default)]
    io: Io,
    service: ServiceSection,
    #[serde(default)]
    journal: JournalSection,
    #[serde(default)]
    links: LinksSection,
    #[serde(default)]
    clients: ClientsSection,
    #[serde(default)]
    log: LogSection,
}

#[derive(Default, Deserialize)]
struct JournalSection {
    segment_bytes: Option<ByteSize>,
}

fn cores_default() -> usize {
    1
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::default(), level: "info".into() }
    }
}

impl ReplicaConfig {
    /// Reads `bftd.toml` at `path` with the variables of this process's environment, and the files that it names.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        // A name or value that is no Unicode is none of ours.
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let ours = variables.filter(|(name, _)| name.starts_with(VARIABLE_PREFIX));
        let ours: Vec<_> = ours.map(|(name, value)| (name, value.to_string_lossy().into_owned())).collect();
        Self::load_with(path, ours)
    }

    /// The same with these variables, `BFTD_SECTION__KEY` and its value, over what the file says.
    pub fn load_with(path: &Path, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let text = read_text(path, "this is the replica's configuration, bftd.toml")?;
        let mut document = Document::parse(&text, &path.display().to_string())?;
        document.set_from_variables(VARIABLE_PREFIX, variables)?;
        document.require_version(VERSION)?;
        let file: ReplicaFile = document.read()?;
        let base = path.parent().unwrap_or(Path::new(""));
        let cluster = read_cluster(&base.join(&file.cluster), "named by `cluster` in bftd.toml")?;
        let secret_key = read_secret_key(&base.join(&file.key), "named by `key` in bftd.toml")?;
        let me = ReplicaId(file.replica);
        let Some(member) = cluster.member(me) else {
            let what = format!("replica: the cluster has no replica {me}");
            let hint = format!("its replicas are 0 to {}", cluster.n() - 1);
            return Err(document.error("replica", what).with_hint(hint).into());
        };
        Ok(Self {
            me,
            secret_key,
            data_dir: base.join(&file.data_dir),
            listen: file.listen.unwrap_or_else(|| member.address.clone()),
            cores: within(&document, "cores", file.cores as u64, 1..=CORES_MAX as u64)? as usize,
            pin: if file.pin { Pin::Pinned } else { Pin::Free },
            io: file.io,
            service: file.service,
            journal: file.journal.options(&document, &cluster)?,
            links: file.links,
            clients: file.clients,
            log: file.log,
            cluster: Arc::new(cluster),
            document,
        })
    }

    /// An error about the value of a key of the file, with its place.
    #[must_use]
    pub fn error(&self, key: &str, what: impl std::fmt::Display) -> FileError {
        self.document.error(key, format!("{key}: {what}"))
    }

    /// What [`crate::run`] takes.
    #[must_use]
    pub fn into_server_config(self, listener: TcpListener) -> ServerConfig {
        ServerConfig {
            cluster: self.cluster,
            me: self.me,
            secret_key: *self.secret_key.as_bytes(),
            data_dir: self.data_dir,
            listener,
            cores: self.cores,
            pin: self.pin,
            io: self.io,
            journal: self.journal,
            tuning: Tuning::default(),
            rules: LinkRules { refusal_max: self.links.refusal_max.0, rates: self.clients.rates() },
        }
    }
}

impl JournalSection {
    fn options(&self, document: &Document, cluster: &ClusterConfig) -> Result<JournalOptions, FileError> {
        let default = JournalOptions::default();
        let Some(ByteSize(bytes)) = self.segment_bytes else { return Ok(default) };
        const KEY: &str = "journal.segment_bytes";
        let least = segment_bytes_least(cluster.n(), cluster.params()).into();
        // What is too small is told with its reason.
        within(document, KEY, bytes.max(least), least..=SEGMENT_BYTES_MAX)?;
        if !bytes.is_multiple_of(MIB as u64) {
            return Err(document.error(KEY, format!("{KEY}: {bytes} is not a whole number of MiB")));
        }
        let segment_bytes = u32::try_from(bytes).expect("at most a GiB");
        let options = JournalOptions { segment_bytes, ..default };
        options.check(LongestRecord::of(cluster.n(), cluster.params())).map_err(|short| {
            let LongestRecord { content, bytes: longest } = short.longest;
            let what = format!(
                "{KEY}: is {}, but one file must hold the longest record of this cluster, {content} ({longest} bytes)",
                ByteSize(bytes)
            );
            document.error(KEY, what).with_hint(format!("take \"{}\" or more", ByteSize(least)))
        })?;
        Ok(options)
    }
}

/// The least `journal.segment_bytes` in a cluster of so many replicas with these parameters: whole MiB.
#[must_use]
pub fn segment_bytes_least(replicas: usize, params: &ProtocolParams) -> u32 {
    JournalOptions::segment_bytes_least(LongestRecord::of(replicas, params)).next_multiple_of(MIB as u32)
}

fn within(document: &Document, key: &str, value: u64, bounds: std::ops::RangeInclusive<u64>) -> Result<u64, FileError> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    let (low, high) = bounds.into_inner();
    Err(document.error(key, format!("{key}: is {value}, but must be {low} to {high}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use bft_core::limits::{BATCH_BYTES_LIMIT, NEW_VIEW_FRAME_BYTES, REPLICAS_MAX, WINDOW_MAX, new_view_bytes};

    use super::*;
    use crate::testnet::{Testnet, TestnetOptions};

    fn testnet(dir: &Path) -> Testnet {
        Testnet::create(&dir.join("net"), &TestnetOptions::loopback(4, 4710).unwrap()).unwrap()
    }

    fn load(path: &Path, variables: &[(&str, &str)]) -> Result<ReplicaConfig, ConfigError> {
        ReplicaConfig::load_with(path, variables.iter().map(|(name, value)| (name.to_string(), value.to_string())))
    }

    fn message(outcome: Result<ReplicaConfig, ConfigError>, dir: &Path) -> String {
        outcome.unwrap_err().to_string().replace(&dir.display().to_string(), "DIR")
    }

    #[test]
    fn what_testnet_writes_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let testnet = testnet(dir.path());
        let config = load(&testnet.config(ReplicaId(2)), &[]).unwrap();
        assert_eq!((config.me, config.cores, config.pin, config.io), (ReplicaId(2), 1, Pin::Free, Io::Auto));
        assert_eq!(config.listen, "127.0.0.1:4712");
        assert_eq!(config.data_dir, dir.path().join("net/replica-2/data"));
        assert_eq!(*config.cluster, **testnet.cluster());
        assert_eq!(config.secret_key.public_key(), config.cluster.member(config.me).unwrap().public_key);
        assert_eq!(config.service, ServiceSection { name: "kv".into(), config: String::new() });
        assert_eq!(config.log, LogSection::default());
        assert_eq!(config.links, LinksSection::default());
        assert_eq!(config.clients, ClientsSection::default());
        assert_eq!(config.journal, JournalOptions::default());
    }

    #[test]
    fn variables_go_before_the_file_and_errors_name_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = testnet(dir.path()).config(ReplicaId(0));
        let variables = [
            ("BFTD_CORES", "2"),
            ("BFTD_LOG__FORMAT", "json"),
            ("BFTD_JOURNAL__SEGMENT_BYTES", "8MiB"),
            ("PIN", "x"),
            ("BFTD_LINKS__REFUSAL_MAX", "0s"),
            ("BFTD_CLIENTS__REQUESTS_PER_SECOND", "200"),
            ("BFTD_CLIENTS__BYTES_PER_SECOND", "1MiB"),
            ("BFTD_IO", "epoll"),
        ];
        let config = load(&path, &variables).unwrap();
        assert_eq!((config.cores, config.log.format, config.journal.segment_bytes), (2, LogFormat::Json, 8 << 20));
        assert_eq!((config.links.refusal_max, config.io), (HumanDuration(0), Io::Epoll));
        assert_eq!(config.clients, ClientsSection { requests_per_second: 200, bytes_per_second: ByteSize(1 << 20) });
        let wrong = |name, value| message(load(&path, &[(name, value)]), dir.path());
        assert_eq!(wrong("BFTD_CORES", "0"), "BFTD_CORES: cores: is 0, but must be 1 to 64");
        assert_eq!(
            wrong("BFTD_CORES", "many"),
            "BFTD_CORES: cores: expected a whole number, 0 or more, found \"many\""
        );
        assert_eq!(wrong("BFTD_LOG__LEVL", "info"), "BFTD_LOG__LEVL: log.levl: unknown key; did you mean `level`?");
        assert_eq!(
            wrong("BFTD_REPLICA", "4"),
            "BFTD_REPLICA: replica: the cluster has no replica 4; its replicas are 0 to 3"
        );
        assert_eq!(
            wrong("BFTD_JOURNAL__SEGMENT_BYTES", "4194305"),
            "BFTD_JOURNAL__SEGMENT_BYTES: journal.segment_bytes: 4194305 is not a whole number of MiB"
        );
        assert_eq!(
            wrong("BFTD_JOURNAL__SEGMENT_BYTES", "2GiB"),
            "BFTD_JOURNAL__SEGMENT_BYTES: journal.segment_bytes: is 2147483648, but must be 3145728 to 1073741824"
        );
        assert_eq!(
            wrong("BFTD_KEY", "nowhere.pem"),
            "DIR/net/replica-0/nowhere.pem: No such file or directory (os error 2); named by `key` in bftd.toml"
        );
        std::fs::write(path.with_file_name("key.pem"), "no key").unwrap();
        assert!(wrong("BFTD_CORES", "1").contains("no line \"-----BEGIN PRIVATE KEY-----\""));
        std::fs::set_permissions(path.with_file_name("key.pem"), std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(
            wrong("BFTD_CORES", "1"),
            "DIR/net/replica-0/key.pem: its mode is 0640, so that others may read the secret key: chmod 600 it"
        );
    }

    #[test]
    fn a_journal_file_holds_the_longest_record_of_the_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let mut clusters = Vec::new();
        let mut config_of = |replicas: usize, change: fn(&mut ProtocolParams)| {
            let mut options = TestnetOptions::loopback(replicas, 4710).unwrap();
            change(&mut options.params);
            let least = segment_bytes_least(replicas, &options.params);
            clusters.push(replicas);
            let made = Testnet::create(&dir.path().join(clusters.len().to_string()), &options).unwrap();
            (made.config(ReplicaId(0)), least)
        };
        let with = |path: &Path, value: &str| load(path, &[("BFTD_JOURNAL__SEGMENT_BYTES", value)]);
        let refused = |path: &Path, value: &str| {
            let all = message(with(path, value), dir.path());
            let said = all.strip_prefix("BFTD_JOURNAL__SEGMENT_BYTES: journal.segment_bytes: is ").unwrap().to_owned();
            said.replacen(", but one file must hold the longest record of this cluster, ", ": ", 1)
        };

        let (path, least) = config_of(4, |_| ());
        assert_eq!(refused(&path, "1MiB"), "1MiB: evidence against a replica (2097184 bytes); take \"3MiB\" or more");
        assert_eq!(refused(&path, "2MiB"), "2MiB: evidence against a replica (2097184 bytes); take \"3MiB\" or more");
        assert_eq!(refused(&path, "0"), "0B: evidence against a replica (2097184 bytes); take \"3MiB\" or more");
        assert_eq!((with(&path, "3MiB").unwrap().journal.segment_bytes, least), (3 << 20, 3 << 20));

        let (path, least) = config_of(4, |params| params.batch_bytes_max = 8 << 20);
        let batch = "a batch of protocol.batch_bytes_max (8389376 bytes)";
        assert_eq!(refused(&path, "8MiB"), format!("8MiB: {batch}; take \"9MiB\" or more"));
        assert_eq!((with(&path, "9MiB").unwrap().journal.segment_bytes, least), (9 << 20, 9 << 20));

        let (path, least) = config_of(31, |_| ());
        let new_view = "a NEW-VIEW of all replicas over two times protocol.checkpoint_interval slots (26664992 bytes)";
        assert_eq!(refused(&path, "16MiB"), format!("16MiB: {new_view}; take \"26MiB\" or more"));
        assert_eq!((with(&path, "26MiB").unwrap().journal.segment_bytes, least), (26 << 20, 26 << 20));
    }

    #[test]
    fn the_default_journal_file_suits_every_cluster() {
        let mut params = ProtocolParams { batch_bytes_max: BATCH_BYTES_LIMIT as u32, ..ProtocolParams::default() };
        for replicas in 1..=REPLICAS_MAX {
            params.window = WINDOW_MAX;
            while new_view_bytes(replicas, params.window) > NEW_VIEW_FRAME_BYTES {
                params.window /= 2;
            }
            assert!(JournalOptions::default().segment_bytes >= segment_bytes_least(replicas, &params), "{replicas}");
        }
    }

    #[test]
    fn errors_in_the_file_have_line_and_advice() {
        let dir = tempfile::tempdir().unwrap();
        let path = testnet(dir.path()).config(ReplicaId(0));
        let text = std::fs::read_to_string(&path).unwrap();
        let with = |from: &str, to: &str| {
            assert!(text.contains(from), "{from} in {text}");
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            message(load(&path, &[]), dir.path())
        };
        let line = |needle: &str| text[..text.find(needle).unwrap()].matches('\n').count() + 1;
        assert_eq!(
            with("data_dir =", "data-dir ="),
            format!(
                "DIR/net/replica-0/bftd.toml:{}:1: data-dir: unknown key; did you mean `data_dir`?",
                line("data_dir =")
            )
        );
        assert_eq!(
            with("version = 1", "version = 9"),
            format!(
                "DIR/net/replica-0/bftd.toml:{}:11: version: the file has version 9; this program reads version 1",
                line("version = 1")
            )
        );
        assert_eq!(
            with("format = \"pretty\"", "format = \"josn\""),
            format!(
                "DIR/net/replica-0/bftd.toml:{}:10: log.format: unknown value \"josn\"; did you mean `json`?",
                line("format =")
            )
        );
    }
}
