//! `bftd verify`: whether a stopped replica's directory is whole and genuine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bft_core::config::ClusterConfig;
use bft_files::read_cluster;
use bft_server::ServerError;
use bft_server::data_dir::DataDirError;
use bft_server::offline::{self, Finding, Part, Verified};
use serde_json::{Value, json};

use crate::exit::{Failure, Reason, because};
use crate::output::{self, Output};

use super::stopped_dir;

const EXAMPLES: &str = "\
Examples:
  bftd verify net/replica-0/data
  bftd verify copy-of-data --cluster net/cluster.toml --output json

It compares the four copies of the superblock; the check of every group and its place in the chain; up to where the journal
says that it was durable; the signatures of every certificate and vote, under cluster.toml; and every file of the snapshots
with its manifest. It opens files for reading and nothing else.

Exit codes: 0 everything is as it was written; 1 something is not, and what that means is told; 69 a replica runs in the
directory; 78 no directory of this cluster.";

/// Check the directory of a stopped replica
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The replica's data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The cluster.toml of its cluster [default: the one beside DIR]
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// How to answer
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Checks and tells.
pub fn verify(args: &Args) -> Result<(), Failure> {
    let directory = stopped_dir(&args.directory)?;
    let cluster = cluster(args)?;
    let verified = offline::verify(&directory, &cluster).map_err(|error| failure(&error))?;
    match args.output {
        Output::Text => output::write(text(&args.directory, &verified).as_bytes())?,
        Output::Json => output::line(&object(&args.directory, &verified).to_string())?,
    }
    if verified.is_sound() {
        return Ok(());
    }
    Err(Failure::new(Reason::Failed, format!("{} is damaged", args.directory.display())))
}

fn cluster(args: &Args) -> Result<Arc<ClusterConfig>, Failure> {
    let beside = || args.directory.join("..").join("cluster.toml");
    let path = args.cluster.clone().unwrap_or_else(beside);
    if args.cluster.is_none() && !path.exists() {
        let what = format!("{} is not there: name the cluster's file with --cluster", path.display());
        return Err(Failure::new(Reason::Config, what));
    }
    read_cluster(&path, "named by --cluster, or beside the directory").map(Arc::new).map_err(because(Reason::Config))
}

fn failure(error: &ServerError) -> Failure {
    let is_of_another = matches!(
        error,
        ServerError::Config(_)
            | ServerError::DataDir(
                DataDirError::OtherCluster { .. }
                    | DataDirError::OtherReplica { .. }
                    | DataDirError::OtherKey { .. }
                    | DataDirError::OtherEpoch { .. }
            )
    );
    Failure::new(if is_of_another { Reason::Config } else { Reason::Failed }, error)
}

fn part(part: Part) -> &'static str {
    match part {
        Part::Superblock => "superblock",
        Part::Journal => "journal",
        Part::Snapshot => "snapshot",
    }
}

fn text(directory: &Path, verified: &Verified) -> String {
    let Verified { segments, groups, records, signed, snapshots, findings, more_findings } = verified;
    let verdict = if verified.is_sound() { "whole and genuine" } else { "damaged" };
    let mut out = format!(
        "{}: {verdict}\njournal: {segments} segments, {groups} groups, {records} records; {signed} of them signed, and the \
         signatures checked\nsnapshots: {snapshots}\n",
        directory.display()
    );
    for Finding { part: at, what, meaning } in findings {
        out += &format!("{}, {}: {what}\n  means: {}\n", part(*at), meaning.name(), meaning.means());
        out += &format!("  do:    {}\n", meaning.remedy());
    }
    if *more_findings > 0 {
        out += &format!("and {more_findings} more\n");
    }
    out
}

fn object(directory: &Path, verified: &Verified) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "part": part(finding.part),
            "what": finding.what,
            "meaning": finding.meaning.name(),
            "means": finding.meaning.means(),
            "remedy": finding.meaning.remedy(),
        })
    };
    json!({
        "directory": directory.display().to_string(),
        "sound": verified.is_sound(),
        "segments": verified.segments,
        "groups": verified.groups,
        "records": verified.records,
        "signed": verified.signed,
        "snapshots": verified.snapshots,
        "findings": verified.findings.iter().map(finding).collect::<Vec<_>>(),
        "more_findings": verified.more_findings,
    })
}
