//! The commands, one file each. What several need is here.

use std::path::Path;
use std::time::Duration;

use bft_client::{Client, ClientConfig, Completions};
use bft_server::data_dir::{DataDirError, StoppedDir};

use crate::exit::{Failure, Reason, because};

pub mod audit;
pub mod demo;
pub mod inspect;
pub mod kv;
pub mod run;
pub mod status;
pub mod testnet;
pub mod verify;

/// How long the cluster may take where neither the command line nor `client.toml` says so.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A client with a key of its own, and how long it waits. Calls at the same time never close each other's sessions.
fn client_of_its_own(config: &Path, timeout: Option<Duration>) -> Result<(Client, Duration), Failure> {
    let mut config = ClientConfig::load(config).map_err(because(Reason::Config))?;
    if config.authority.is_some() {
        config.key = None;
    }
    let timeout = timeout.or(config.timeout).unwrap_or(TIMEOUT);
    let client = Client::open(config, Completions::Futures).map_err(because(Reason::Config))?;
    Ok((client, timeout))
}

/// Takes the directory of a replica that does not run.
fn stopped_dir(path: &Path) -> Result<StoppedDir, Failure> {
    StoppedDir::open(path).map_err(|error| match error {
        DataDirError::Locked(_) => {
            let path = path.display();
            let what = format!("a replica runs in {path}: what it writes changes while it is read; stop it first");
            Failure::new(Reason::Unavailable, what)
        }
        DataDirError::NoSuperblock(_) => {
            let path = path.display();
            let what = format!("{path} has no superblock: name a replica's data directory, such as net/replica-0/data");
            Failure::new(Reason::Config, what)
        }
        error => Failure::new(Reason::Failed, error),
    })
}

/// What the links are doing, for whom there was no answer.
fn links_in_words(client: &Client) -> String {
    client.links().iter().map(|link| format!("\n  {link}")).collect()
}
