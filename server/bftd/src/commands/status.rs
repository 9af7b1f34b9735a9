//! `bftd status`: what each replica says of itself.

use std::path::PathBuf;
use std::time::Duration;

use bft_client::{Client, ClientConfig, Completions, LinkReport, SessionStart};
use bft_core::config::ClusterConfig;
use bft_core::config::strict::HumanDuration;
use bft_core::ids::ReplicaId;
use bft_core::journal::superblock::Learner;
use bft_core::wire::message::Info;
use bft_server::io::Driver;
use serde_json::{Map, Value, json};

use crate::exit::{Failure, Reason, because};
use crate::output::{self, Output};

/// How long a replica may take: a state digest of a big state takes a while.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Digits of a digest that people compare.
const DIGEST_DIGITS: usize = 16;

const EXAMPLES: &str = "\
Examples:
  bftd status --config net/client.toml
  bftd status --config net/client.toml --output json

The state digest is over the service's state at the Seq beside it; replicas that show the same Seq must show the same
digest. Exit codes: 0 all replicas answered; 1 some did not; 69 none did; 78 wrong configuration.";

/// Ask all replicas how they are
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The cluster's client.toml
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How long to wait for each
    #[arg(long)]
    timeout: Option<HumanDuration>,
    /// How to answer
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// One replica: what it said, or why it said nothing.
struct Row {
    replica: ReplicaId,
    address: String,
    answer: Result<Info, String>,
}

/// Asks and tells.
pub fn status(args: &Args) -> Result<(), Failure> {
    let mut config = ClientConfig::load(&args.config).map_err(because(Reason::Config))?;
    // Asking needs no session, and a session would have a place in the order.
    config.session = SessionStart::WithFirstOperation;
    let cluster = config.cluster.clone();
    let client = Client::open(config, Completions::Futures).map_err(because(Reason::Config))?;
    let timeout = args.timeout.map_or(TIMEOUT, |timeout| Duration::from_nanos(timeout.0));
    let answers = client.query_info(timeout, true);
    let rows = rows(&cluster, &client, answers);
    client.close(Duration::ZERO);
    match args.output {
        Output::Text => output::write(table(&cluster, &rows).as_bytes())?,
        Output::Json => output::line(&object(&cluster, &rows).to_string())?,
    }
    let answered = rows.iter().filter(|row| row.answer.is_ok()).count();
    match answered {
        0 => Err(Failure::new(Reason::Unavailable, "no replica answered")),
        all if all == rows.len() => Ok(()),
        some => Err(Failure::new(
            Reason::Failed,
            format!("{} of {} replicas did not answer", rows.len() - some, rows.len()),
        )),
    }
}

fn rows(cluster: &ClusterConfig, client: &Client, answers: Vec<(ReplicaId, Option<Info>)>) -> Vec<Row> {
    let links = client.links();
    let row = |(replica, info): (ReplicaId, Option<Info>)| {
        let address = cluster.member(replica).map(|member| member.address.clone()).unwrap_or_default();
        let answer = info.ok_or_else(|| why_not(links.iter().find(|link| link.replica == replica)));
        Row { replica, address, answer }
    };
    answers.into_iter().map(row).collect()
}

fn why_not(link: Option<&LinkReport>) -> String {
    match link {
        Some(LinkReport { is_up: true, .. }) => "connected, but no answer".into(),
        Some(LinkReport { last_error, .. }) if !last_error.is_empty() => last_error.clone(),
        Some(_) | None => "no connection".into(),
    }
}

fn table(cluster: &ClusterConfig, rows: &[Row]) -> String {
    let mut lines =
        vec![["REPLICA", "ADDRESS", "VIEW", "SEQ", "STABLE", "STATE", "DURABLE BY", "PEERS"].map(String::from)];
    let mut remarks = String::new();
    for row in rows {
        match &row.answer {
            Ok(info) => {
                lines.push(cells(cluster, row, info));
                if let Some(through) = counted(info, "quarantined_through") {
                    remarks += &format!(
                        "replica {}: it came to something else than the others and is in quarantine: it answers nobody, and \
                         votes again when it agrees at a checkpoint above {through}; see divergence/ in its data directory\n",
                        row.replica
                    );
                }
                if let Some(through) = counted(info, "silent_through") {
                    remarks += &format!(
                        "replica {}: its journal was damaged; it follows, and votes again when STABLE reaches {through}\n",
                        row.replica
                    );
                }
                if info.counter("state_lost") == Some(1) {
                    remarks += &format!(
                        "replica {}: its newest snapshot was damaged; it orders, and executes nothing until it has fetched \
                         that one or a later one\n",
                        row.replica
                    );
                }
                if let Some(why) = info.counter("learner").and_then(Learner::describe) {
                    remarks += &format!(
                        "replica {}: a learner, which never votes again and counts as faulty: {why}\n",
                        row.replica
                    );
                } else if info.counter("asking") == Some(1) {
                    remarks +=
                        &format!("replica {}: has started, and waits for a quorum's answers to vote\n", row.replica);
                }
            }
            Err(why) => remarks += &format!("replica {} at {}: {why}\n", row.replica, row.address),
        }
    }
    let widths: Vec<_> = (0..8).map(|column| lines.iter().map(|line| line[column].chars().count()).max()).collect();
    let mut out = String::new();
    for line in lines {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<0$}", width.unwrap_or(0)));
        out += padded.collect::<Vec<_>>().join("  ").trim_end();
        out.push('\n');
    }
    out + &remarks
}

/// A Seq up to which a replica is silent, if it is.
fn counted(info: &Info, name: &str) -> Option<u64> {
    info.counter(name).filter(|through| *through > 0)
}

fn cells(cluster: &ClusterConfig, row: &Row, info: &Info) -> [String; 8] {
    let is_primary = cluster.primary(info.view) == row.replica;
    let state =
        info.state.map_or("-".into(), |(seq, digest)| format!("{:.DIGEST_DIGITS$} at {seq}", digest.to_string()));
    let durable = if info.write_path.is_empty() { "nothing".into() } else { info.write_path.clone() };
    [
        format!("{}{}", row.replica, if is_primary { " (primary)" } else { "" }),
        row.address.clone(),
        info.view.to_string(),
        info.executed.to_string(),
        info.stable.to_string(),
        state,
        durable,
        info.peers.to_string(),
    ]
}

fn object(cluster: &ClusterConfig, rows: &[Row]) -> Value {
    let replicas: Vec<_> = rows.iter().map(|row| replica_object(cluster, row)).collect();
    json!({
        "cluster": cluster.cluster_id().to_string(),
        "epoch": cluster.epoch().0,
        "f": cluster.weights().faulty_max(),
        "replicas": replicas,
    })
}

fn replica_object(cluster: &ClusterConfig, row: &Row) -> Value {
    let info = match &row.answer {
        Ok(info) => info,
        Err(why) => return json!({ "replica": row.replica.0, "address": row.address, "error": why }),
    };
    let counters: Map<_, _> = info.counters.iter().map(|(name, count)| (name.clone(), json!(count))).collect();
    json!({
        "replica": row.replica.0,
        "address": row.address,
        "is_primary": cluster.primary(info.view) == row.replica,
        "view": info.view.0,
        "executed": info.executed.0,
        "stable": info.stable.0,
        "snapshot": info.snapshot.0,
        "learner": info.counter("learner").and_then(Learner::describe),
        "transfer": transfer_object(info),
        "state_digest": info.state.map(|(_, digest)| digest.to_string()),
        "state_digest_seq": info.state.map(|(seq, _)| seq.0),
        "driver": Driver::of_write_path(&info.write_path).map(Driver::name),
        "write_path": info.write_path,
        "durable": !info.write_path.is_empty(),
        "sealed": info.sealed,
        "signatures": info.signatures,
        "peers": info.peers,
        "cpu_us": info.cpu_us,
        "rss_max_kib": info.rss_max_kib,
        "counters": counters,
    })
}

/// The snapshot that the replica fetches from others just now; null if there is none.
fn transfer_object(info: &Info) -> Value {
    let number = |name: &str| info.counter(name);
    match number("transfer_seq") {
        None => Value::Null,
        Some(seq) => json!({
            "seq": seq,
            "bytes": number("transfer_bytes"),
            "bytes_held": number("transfer_bytes_held"),
            "bytes_per_second": number("transfer_bytes_per_second"),
            "seconds_left": number("transfer_seconds_left"),
        }),
    }
}
