//! `bftd inspect`: what lies in a stopped replica's directory.

use std::path::PathBuf;

use bft_core::ids::{LogPosition, Seq};
use bft_core::journal::record::RecordKind;
use bft_core::journal::{CopyInvalid, Superblock};
use bft_server::data_dir::StoppedDir;
use bft_server::offline::{self, End, Entry};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::exit::{Failure, Reason, because};
use crate::output::{self, Output};

use super::stopped_dir;

/// Records that are told unless more are asked for.
const LIMIT: u64 = 1_000;

const EXAMPLES: &str = "\
Examples:
  bftd inspect superblock net/replica-0/data
  bftd inspect journal net/replica-0/data --from 1000 --to 1100
  bftd inspect journal net/replica-0/data --limit 20 --output json

It opens files for reading and nothing else. Whether what lies there is genuine, `bftd verify` says.

Exit codes: 0 told; 1 unreadable, or the journal ends before it should; 69 a replica runs in the directory; 78 DIR is no data
directory.";

/// Look into the directory of a stopped replica
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// What the superblock says, and its four copies
    Superblock(SuperblockArgs),
    /// Segments, groups and records of the journal, as far as they are needed and readable
    Journal(JournalArgs),
}

#[derive(clap::Args)]
struct SuperblockArgs {
    /// The replica's data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// How to answer
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(clap::Args)]
struct JournalArgs {
    /// The replica's data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The first position to tell of
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// The last position to tell of
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    to: u64,
    /// How many records to tell of
    #[arg(long, default_value_t = LIMIT)]
    limit: u64,
    /// How to answer
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Looks and tells.
pub fn inspect(args: &Args) -> Result<(), Failure> {
    match &args.what {
        What::Superblock(args) => superblock(args),
        What::Journal(args) => journal(args),
    }
}

fn superblock(args: &SuperblockArgs) -> Result<(), Failure> {
    let directory = stopped_dir(&args.directory)?;
    let copies: Vec<_> = directory.copies().iter().map(copy_in_words).collect();
    let read = directory.superblock();
    let fields = read.as_ref().map(|(superblock, _)| fields(superblock)).unwrap_or_default();
    match args.output {
        Output::Text => {
            let mut out = String::new();
            for (name, value) in &fields {
                out += &format!("{name:<16} {}\n", in_words(value));
            }
            for (number, copy) in copies.iter().enumerate() {
                out += &format!("copy {number:<11} {copy}\n");
            }
            output::write(out.as_bytes())?;
        }
        Output::Json => {
            let fields: serde_json::Map<_, _> = fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
            output::line(&json!({ "superblock": fields, "copies": copies }).to_string())?;
        }
    }
    read.map(drop).map_err(because(Reason::Failed))
}

fn copy_in_words(copy: &Result<Superblock, CopyInvalid>) -> String {
    match copy {
        Ok(superblock) => format!("whole, sequence {}", superblock.sequence),
        Err(CopyInvalid::Damaged) => "damaged".into(),
        Err(CopyInvalid::Version { version }) => format!("of version {version}"),
    }
}

/// Every field but the directory's key, which would let its reader make records that pass for genuine (D14).
fn fields(superblock: &Superblock) -> Vec<(&'static str, Value)> {
    let Superblock {
        sequence,
        cluster_id,
        replica,
        directory_id,
        directory_key: _,
        public_key,
        instance,
        epoch,
        promised,
        stable,
        damaged_through,
        quarantined,
        disowned_through,
        snapshot,
        journal_start,
        collected,
        durable_through,
    } = superblock;
    let directory: String = directory_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let stable = stable.as_ref().map(|stable| {
        let signers: Vec<_> = stable.signatures.iter().map(|(replica, _)| replica.0).collect();
        json!({ "seq": stable.seq.0, "root": stable.root.to_string(), "signed_by": signers })
    });
    let snapshot = snapshot.map(|(seq, root)| json!({ "seq": seq.0, "root": root.to_string() }));
    vec![
        ("sequence", json!(sequence)),
        ("cluster", json!(cluster_id.to_string())),
        ("replica", json!(replica.0)),
        ("public_key", json!(public_key.to_string())),
        ("directory", json!(directory)),
        ("instance", json!(instance)),
        ("epoch", json!(epoch.0)),
        ("promised_view", json!(promised.0)),
        ("stable", json!(stable)),
        ("silent_through", json!(damaged_through.0)),
        ("quarantined", json!(quarantined)),
        ("disowned_through", json!(disowned_through.0)),
        ("snapshot", json!(snapshot)),
        ("journal_start", json!(journal_start.0)),
        ("collected", json!(collected.0)),
        ("durable_through", json!(durable_through.0)),
    ]
}

fn in_words(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name} {}", in_words(value)));
            fields.collect::<Vec<_>>().join(", ")
        }
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_)) => other.to_string(),
    }
}

fn journal(args: &JournalArgs) -> Result<(), Failure> {
    let directory = stopped_dir(&args.directory)?;
    let (superblock, _) = directory.superblock().map_err(because(Reason::Failed))?;
    let mut teller = Teller::new(args);
    let end = offline::read_journal(&directory, &superblock, &mut |entry| teller.entry(entry));
    let end = end.map_err(because(Reason::Failed))?;
    teller.end(&end, &superblock, &directory)
}

/// Tells of what it is shown, within the limits that were asked for.
struct Teller<'a> {
    args: &'a JournalArgs,
    /// What was shown and is told only if one of its records is.
    headings: [Option<(String, Value)>; 2],
    told: u64,
    left_out: u64,
    rows: Vec<Value>,
    counts: [u64; 3],
    /// The first failure to write.
    outcome: Result<(), Failure>,
}

impl<'a> Teller<'a> {
    fn new(args: &'a JournalArgs) -> Self {
        let (headings, rows) = ([None, None], Vec::new());
        Self { args, headings, told: 0, left_out: 0, rows, counts: [0; 3], outcome: Ok(()) }
    }

    fn entry(&mut self, entry: Entry) {
        let (level, line, row) = match &entry {
            Entry::Segment { path, bytes, header } => {
                let (number, first) = (header.number, header.first_position.0);
                let path = path.display().to_string();
                let line = format!("segment {number}: {path}, {bytes} bytes, first position {first}");
                let row = json!({ "segment": number, "file": path, "bytes": bytes, "first_position": first });
                (0, line, row)
            }
            Entry::Group { offset, header } => {
                let (first, last) = (header.first_position.0, header.last_position().0);
                let (records, bytes, durable) = (header.records, header.bytes, header.durable_through.0);
                let what = if records == 0 { "mark".into() } else { format!("positions {first} to {last}") };
                let line = format!("  group at {offset}: {what}, {bytes} bytes, durable through {durable}");
                let row = json!({
                    "group_at": offset,
                    "segment": header.segment,
                    "first_position": first,
                    "records": records,
                    "bytes": bytes,
                    "durable_through": durable,
                });
                (1, line, row)
            }
            Entry::Record { at, bytes, record } => {
                let (kind, (epoch, view, seq)) = (kind(record.kind()), record.place());
                let line = format!("    {at:<10} {kind:<11} view {view:<5} seq {seq:<9} {bytes} bytes");
                let row = json!({
                    "position": at.0,
                    "kind": kind,
                    "epoch": epoch.0,
                    "view": view.0,
                    "seq": seq.0,
                    "bytes": bytes,
                });
                (2, line, row)
            }
        };
        self.counts[level] += 1;
        match entry {
            Entry::Record { at, .. } => self.record(at, line, row),
            Entry::Segment { .. } | Entry::Group { .. } => self.heading(level, line, row),
        }
    }

    /// A segment or group is told with its first record that is told.
    fn heading(&mut self, level: usize, line: String, row: Value) {
        self.headings[level..].fill(None);
        self.headings[level] = Some((line, row));
    }

    fn record(&mut self, at: LogPosition, line: String, row: Value) {
        if !(self.args.from..=self.args.to).contains(&at.0) {
            return;
        }
        if self.told == self.args.limit {
            self.left_out += 1;
            return;
        }
        self.told += 1;
        let headings = std::mem::take(&mut self.headings).into_iter().flatten();
        let told = headings.chain([(line, row)]);
        match self.args.output {
            Output::Text => {
                let lines: String = told.map(|(line, _)| line + "\n").collect();
                self.write(&lines);
            }
            Output::Json => self.rows.extend(told.map(|(_, row)| row)),
        }
    }

    fn write(&mut self, text: &str) {
        if self.outcome.is_ok() {
            self.outcome = output::write(text.as_bytes());
        }
    }

    fn end(mut self, end: &End, superblock: &Superblock, directory: &StoppedDir) -> Result<(), Failure> {
        let [segments, groups, records] = self.counts;
        let (state, why) = match end {
            End::Whole(_) => ("whole", None),
            End::Damaged(why) => ("damaged", Some(why)),
            End::Unusable(why) => ("unusable", Some(why)),
        };
        match self.args.output {
            Output::Text => {
                let mut text = format!("{segments} segments, {groups} groups, {records} records; {state}\n");
                if self.left_out > 0 {
                    text += &format!("{} more records: raise --limit, or narrow --from and --to\n", self.left_out);
                }
                if superblock.damaged_through > Seq(0) {
                    text += &format!("after damage: silent until the checkpoint {}\n", superblock.damaged_through);
                }
                self.write(&text);
            }
            Output::Json => {
                let object = json!({
                    "directory": directory.path().display().to_string(),
                    "segments": segments,
                    "groups": groups,
                    "records": records,
                    "state": state,
                    "why": why,
                    "left_out": self.left_out,
                    "entries": self.rows,
                });
                self.write(&format!("{object}\n"));
            }
        }
        self.outcome?;
        why.map_or(Ok(()), |why| Err(Failure::new(Reason::Failed, why)))
    }
}

fn kind(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Vote => "VOTE",
        RecordKind::Cert => "CERT",
        RecordKind::Promise => "PROMISE",
        RecordKind::NewView => "NEWVIEW",
        RecordKind::Committed => "COMMITTED",
        RecordKind::CkptVote => "CKPT_VOTE",
        RecordKind::Stable => "STABLE",
        RecordKind::SnapVote => "SNAP_VOTE",
        RecordKind::SnapStable => "SNAP_STABLE",
        RecordKind::Epoch => "EPOCH",
        RecordKind::Evidence => "EVIDENCE",
    }
}
