//! `client.toml`, and what a program may choose beyond it.
//!
//! ```toml
//! version = 1
//! cluster = "cluster.toml"          # paths are relative to this file
//! key = "client.key"                # optional: a fresh key is made where there is none
//! authority_key = "authority.key"   # optional: certifies the key, where the cluster wants that
//! timeout = "10s"                   # optional: the deadline of operations that have none of their own
//! ```

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bft_core::auth::keys::{KeyError, SecretKey};
use bft_core::config::ClusterConfig;
use bft_core::config::file::parse_cluster;
use bft_core::config::strict::{Document, FILE_BYTES_MAX, FileError, HumanDuration};
use bft_core::limits::{CLIENT_QUEUE_BYTES, CLIENT_QUEUE_OPERATIONS, KEY_FILE_BYTES_MAX};
use serde::Deserialize;

/// The version of the file that is read.
const VERSION: u64 = 1;

/// How a client finds its cluster, and who it is there.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The cluster.
    pub cluster: Arc<ClusterConfig>,
    /// The client's key; `None`: a fresh one for each session.
    pub key: Option<SecretKey>,
    /// The key of the cluster's client authority, with which the client certifies its own.
    pub authority: Option<SecretKey>,
    /// The deadline of operations that are submitted without one; `None`: they have none.
    pub timeout: Option<Duration>,
    /// Requests under way at a time; bounded by the cluster's `client_window`.
    pub window: u64,
    /// Operations under one signature; bounded by the cluster's `request_operations_max`.
    pub operations_per_request: u32,
    /// Operations of a session that may be taken and not yet given back as completions.
    pub queue_operations: usize,
    /// Their bytes.
    pub queue_bytes: usize,
    /// When the session is opened.
    pub session: SessionStart,
}

/// When a client opens its session: that takes an answer of the cluster, and the opening has its place in the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionStart {
    /// As soon as there are links: the first operation does not wait for it.
    #[default]
    AtOnce,
    /// With the first operation: for those who may only ask how the replicas are.
    WithFirstOperation,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: {error}; {hint}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
        /// Where it is named.
        hint: &'static str,
    },
    /// What a file says is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file holds no key.
    #[error("{}: {error}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        error: KeyError,
    },
    /// A secret key that others may read is none.
    #[error("{}: its mode is {mode:04o}, so that others may read the secret key: chmod 600 it", path.display())]
    KeyMode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

#[derive(Deserialize)]
struct ClientFile {
    #[allow(dead_code, reason = "checked before the rest is read; here so that the key is known")]
    version: u64,
    cluster: PathBuf,
    key: Option<PathBuf>,
    authority_key: Option<PathBuf>,
    timeout: Option<HumanDuration>,
}

impl ClientConfig {
    /// A client of `cluster` with a fresh key, no authority and no default deadline.
    #[must_use]
    pub fn new(cluster: Arc<ClusterConfig>) -> Self {
        Self {
            cluster,
            key: None,
            authority: None,
            timeout: None,
            window: u64::MAX,
            operations_per_request: u32::MAX,
            queue_operations: CLIENT_QUEUE_OPERATIONS,
            queue_bytes: CLIENT_QUEUE_BYTES,
            session: SessionStart::default(),
        }
    }

    /// Reads `client.toml` at `path`, and the files that it names.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path, FILE_BYTES_MAX, "this is the client's configuration, client.toml")?;
        let document = Document::parse(&text, &path.display().to_string())?;
        Self::from_document(&document, path.parent().unwrap_or(Path::new("")))
    }

    /// Reads a `client.toml` that was parsed, perhaps with values set over it. Paths in it are relative to `base`.
    pub fn from_document(document: &Document, base: &Path) -> Result<Self, ConfigError> {
        document.require_version(VERSION)?;
        let file: ClientFile = document.read()?;
        let path = base.join(&file.cluster);
        let text = read(&path, FILE_BYTES_MAX, "named by `cluster` in client.toml")?;
        let cluster = parse_cluster(&text, &path.display().to_string())?;
        let key = |path: &Option<PathBuf>, hint| path.as_ref().map(|path| read_key(&base.join(path), hint)).transpose();
        Ok(Self {
            key: key(&file.key, "named by `key` in client.toml")?,
            authority: key(&file.authority_key, "named by `authority_key` in client.toml")?,
            timeout: file.timeout.map(|timeout| Duration::from_nanos(timeout.0)),
            ..Self::new(Arc::new(cluster))
        })
    }
}

fn read_key(path: &Path, hint: &'static str) -> Result<SecretKey, ConfigError> {
    let text = read(path, KEY_FILE_BYTES_MAX, hint)?;
    let metadata = std::fs::metadata(path).map_err(|error| ConfigError::Read { path: path.into(), error, hint })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(ConfigError::KeyMode { path: path.into(), mode });
    }
    SecretKey::from_pem(&text).map_err(|error| ConfigError::Key { path: path.into(), error })
}

/// Reads a text file, and never much more of it than `bytes_max`: whoever parses it refuses what is longer.
fn read(path: &Path, bytes_max: usize, hint: &'static str) -> Result<String, ConfigError> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(bytes_max as u64 + 1).read_to_string(&mut text))
        .map_err(|error| ConfigError::Read { path: path.into(), error, hint })?;
    Ok(text)
}
