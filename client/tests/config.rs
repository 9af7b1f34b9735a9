//! `client.toml` and the files that it names.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bft_client::{ClientConfig, ConfigError};
use bft_core::auth::keys::SecretKey;
use bft_core::config::file::write_cluster;

mod support;

struct Folder(tempfile::TempDir);

impl Folder {
    /// With a `cluster.toml` and a `client.key` that can be used.
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("cluster.toml", &write_cluster(&support::Cluster::start().config));
        folder.write("client.key", &key().to_pem());
        folder
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }

    fn load(&self, text: &str) -> Result<ClientConfig, ConfigError> {
        self.write("client.toml", text);
        ClientConfig::load(&self.0.path().join("client.toml"))
    }

    /// What the user is told.
    fn refusal(&self, text: &str) -> String {
        let told = self.load(text).expect_err("refused").to_string();
        told.replace(&self.0.path().display().to_string(), "DIR")
    }
}

fn key() -> SecretKey {
    SecretKey::from_entropy([21; 32])
}

#[test]
fn a_whole_file_is_read_with_paths_relative_to_it() {
    let folder = Folder::new();
    folder.write("authority.key", &SecretKey::from_entropy([22; 32]).to_pem());
    let text = "version = 1\ncluster = \"cluster.toml\"\nkey = \"client.key\"\n\
                authority_key = \"authority.key\"\ntimeout = \"1.5s\"\n";
    let config = folder.load(text).unwrap();
    assert_eq!(config.cluster.n(), support::N);
    assert_eq!(config.key.unwrap().public_key(), key().public_key());
    assert!(config.authority.is_some());
    assert_eq!(config.timeout, Some(Duration::from_millis(1500)));
}

#[test]
fn the_least_file_needs_only_a_cluster() {
    let config = Folder::new().load("version = 1\ncluster = \"cluster.toml\"\n").unwrap();
    assert!(config.key.is_none() && config.authority.is_none() && config.timeout.is_none());
}

#[test]
fn refusals_name_the_file_the_place_and_the_remedy() {
    let folder = Folder::new();
    let whole = "version = 1\ncluster = \"cluster.toml\"\n";
    let told = folder.refusal(&format!("{whole}tiemout = \"1s\"\n"));
    assert!(told.starts_with("DIR/client.toml:3:1: ") && told.contains("timeout"), "{told}");
    let told = folder.refusal(&whole.replace("= 1", "= 7"));
    assert!(told.starts_with("DIR/client.toml:1:11: version: ") && told.contains("reads version 1"), "{told}");
    let told = folder.refusal("version = 1\n");
    assert!(told.contains("cluster"), "{told}");
    let told = folder.refusal(&format!("{whole}key = \"none.key\"\n"));
    assert!(told.starts_with("DIR/none.key: ") && told.ends_with("named by `key` in client.toml"), "{told}");
    let told = folder.refusal(&format!("{whole}key = \"cluster.toml\"\n"));
    assert!(told.starts_with("DIR/cluster.toml: ") && told.contains("BEGIN PRIVATE KEY"), "{told}");
    std::fs::set_permissions(folder.0.path().join("client.key"), Permissions::from_mode(0o644)).unwrap();
    let told = folder.refusal(&format!("{whole}key = \"client.key\"\n"));
    let mode = "its mode is 0644, so that others may read the secret key: chmod 600 it";
    assert_eq!(told, format!("DIR/client.key: {mode}"));
    let told = folder.refusal(&format!("{whole}timeout = \"soon\"\n"));
    assert!(told.starts_with("DIR/client.toml:3:"), "{told}");
    folder.write("cluster.toml", "version = 1\n");
    assert!(folder.refusal(whole).starts_with("DIR/cluster.toml"));
    let missing = ClientConfig::load(Path::new("no-such-folder/client.toml")).expect_err("there is none");
    assert!(missing.to_string().ends_with("this is the client's configuration, client.toml"), "{missing}");
}
