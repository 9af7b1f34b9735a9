//! `bft-bench floors`: what this machine allows at most, thing by thing.

use std::path::{Path, PathBuf};

use crate::exit::Failure;
use crate::floors::{Floors, measure};
use crate::output::{self, Output};

const EXAMPLES: &str = "\
Examples:
  bft-bench floors
  bft-bench floors --dir /var/lib/bftd --output json     durable writes on that disk";

/// Measure what signatures, hashes, flushes, the loopback and sealed records cost on this machine
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where files are written [default: the system's place for temporary ones]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How to tell the outcome
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Measures and tells.
pub fn floors(args: &Args) -> Result<(), Failure> {
    let floors = in_dir(args.dir.as_deref())?;
    match args.output {
        Output::Text => output::write(floors.text().as_bytes()),
        Output::Json => output::line(&floors.object().to_string()),
    }
}

/// Measures in `dir`, or in the system's place for temporary files.
pub fn in_dir(dir: Option<&Path>) -> Result<Floors, Failure> {
    measure(dir.unwrap_or(&std::env::temp_dir()))
}
