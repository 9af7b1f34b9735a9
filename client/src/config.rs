//! `client.toml`, and what a program may choose beyond it.
//!
//! ```toml
//! version = 1
//! cluster = "cluster.toml"          # paths are relative to this file
//! key = "client.key"                # optional: a fresh key is made where there is none
//! authority_key = "authority.key"   # optional: certifies the key, where the cluster wants that
//! timeout = "10s"                   # optional: the deadline of operations that have none of their own
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bft_core::auth::keys::SecretKey;
use bft_core::config::ClusterConfig;
use bft_core::config::strict::{Document, HumanDuration};
use bft_core::limits::{CLIENT_QUEUE_BYTES, CLIENT_QUEUE_OPERATIONS};
use bft_files::{ConfigError, read_cluster, read_secret_key, read_text};
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
        let text = read_text(path, "this is the client's configuration, client.toml")?;
        let document = Document::parse(&text, &path.display().to_string())?;
        Self::from_document(&document, path.parent().unwrap_or(Path::new("")))
    }

    /// Reads a `client.toml` that was parsed, perhaps with values set over it. Paths in it are relative to `base`.
    pub fn from_document(document: &Document, base: &Path) -> Result<Self, ConfigError> {
        document.require_version(VERSION)?;
        let file: ClientFile = document.read()?;
        let cluster = read_cluster(&base.join(&file.cluster), "named by `cluster` in client.toml")?;
        let key = |path: &Option<PathBuf>, hint| {
            path.as_ref().map(|path| read_secret_key(&base.join(path), hint)).transpose()
        };
        Ok(Self {
            key: key(&file.key, "named by `key` in client.toml")?,
            authority: key(&file.authority_key, "named by `authority_key` in client.toml")?,
            timeout: file.timeout.map(|timeout| Duration::from_nanos(timeout.0)),
            ..Self::new(Arc::new(cluster))
        })
    }
}
