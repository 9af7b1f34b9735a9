//! What a program logs: on stderr, without colours. How the replicas of users log is `bftd`'s.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::exit::{Failure, Reason, because};

/// From now on what `level` lets through is logged.
pub fn start(level: &str) -> Result<(), Failure> {
    let filter = EnvFilter::builder().parse(level).map_err(because(Reason::Config))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    log.log_internal_errors(false).init();
    Ok(())
}
