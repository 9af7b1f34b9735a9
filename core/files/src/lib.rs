//! The files that a configuration of a replica, a client or a command names: `bft-core` parses what they say and touches
//! no file itself. Each is read with a bound, and what is wrong is told with the path, the reason and where the file is
//! named.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bft_core::auth::keys::{KeyError, SecretKey};
use bft_core::config::ClusterConfig;
use bft_core::config::file::parse_cluster;
use bft_core::config::strict::{FILE_BYTES_MAX, FileError};
use bft_core::limits::KEY_FILE_BYTES_MAX;

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

/// Reads a configuration as text; `hint` says where it is named.
pub fn read_text(path: &Path, hint: &'static str) -> Result<String, ConfigError> {
    read(path, FILE_BYTES_MAX, hint).map(|(text, _)| text)
}

/// Reads a `cluster.toml`; `hint` says where it is named.
pub fn read_cluster(path: &Path, hint: &'static str) -> Result<ClusterConfig, ConfigError> {
    Ok(parse_cluster(&read_text(path, hint)?, &path.display().to_string())?)
}

/// Reads a secret key that nobody else may read; `hint` says where it is named.
pub fn read_secret_key(path: &Path, hint: &'static str) -> Result<SecretKey, ConfigError> {
    let (text, mode) = read(path, KEY_FILE_BYTES_MAX, hint)?;
    if mode & 0o077 != 0 {
        return Err(ConfigError::KeyMode { path: path.into(), mode });
    }
    SecretKey::from_pem(&text).map_err(|error| ConfigError::Key { path: path.into(), error })
}

/// A text file and its permissions. Never much more of it than `bytes_max`: whoever parses it refuses what is longer.
fn read(path: &Path, bytes_max: usize, hint: &'static str) -> Result<(String, u32), ConfigError> {
    let read = || {
        let file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        let mut text = String::new();
        file.take(bytes_max as u64 + 1).read_to_string(&mut text)?;
        Ok((text, mode))
    };
    read().map_err(|error| ConfigError::Read { path: path.into(), error, hint })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn told<T>(outcome: Result<T, ConfigError>, dir: &Path) -> String {
        let error = outcome.err().expect("it is refused");
        error.to_string().replace(&dir.display().to_string(), "DIR")
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_path_and_where_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = told(read_cluster(&dir.path().join("cluster.toml"), "named by --cluster"), dir.path());
        assert_eq!(missing, "DIR/cluster.toml: No such file or directory (os error 2); named by --cluster");
        let folder = told(read_text(dir.path(), "named by nobody"), dir.path());
        assert_eq!(folder, "DIR: Is a directory (os error 21); named by nobody");
    }

    #[test]
    fn a_file_without_end_is_refused_and_not_read_to_its_end() {
        let zeros = read_cluster(Path::new("/dev/zero"), "named by --cluster").unwrap_err().to_string();
        assert!(zeros.starts_with("/dev/zero"), "{zeros}");
    }

    #[test]
    fn a_secret_key_that_others_may_read_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let read = || read_secret_key(&path, "named by `key`");
        fs::write(&path, "no key").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read(), Err(ConfigError::KeyMode { mode: 0o640, .. })));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(read(), Err(ConfigError::Key { .. })));
    }
}
