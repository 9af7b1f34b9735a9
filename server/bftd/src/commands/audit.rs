//! `bftd audit`: checks evidence, far from any replica, and says what it shows.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bft_core::auth::{Claim, Ed25519, Scheme, Verifier};
use bft_core::config::ClusterConfig;
use bft_core::evidence::file::read_file;
use bft_core::evidence::{Accused, Evidence, Proof, SignedVote, Unproven};
use bft_core::ids::{Digest, PublicKey, Signature};
use bft_core::wire::canonical::SigningBytes;
use bft_core::wire::message::{NewView, ViewChange};
use bft_files::read_cluster;
use serde_json::{Value, json};

use crate::exit::{Failure, Reason, because};
use crate::output::{self, Output};

/// Bytes of a file of evidence: what a whole cluster may keep, and a good deal more.
const EVIDENCE_FILE_BYTES_MAX: u64 = 64 << 20;

const EXAMPLES: &str = "\
Examples:
  bftd audit net/replica-0/data/evidence/*.evidence --cluster net/cluster.toml
  bftd audit E1-2-0-0-17.evidence --cluster cluster.toml --output json

A replica writes evidence into the folder `evidence` of its data directory; files can be joined with cat. What holds was
signed by the replica that is named, and no correct replica signs it. Nothing is asked of the cluster: the files and
cluster.toml of that Epoch are enough.
Exit codes: 0 all of it holds; 1 some does not; 65 a file is no evidence or can not be read; 78 wrong configuration.";

/// Check evidence that a replica broke the protocol
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Files of evidence
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The cluster's cluster.toml
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// How to answer
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// A piece of evidence and what became of it.
struct Row {
    file: PathBuf,
    /// Which piece of the file, from 1.
    piece: usize,
    evidence: Evidence,
    verdict: Result<Accused, Unproven>,
}

/// Reads, checks and tells.
pub fn audit(args: &Args) -> Result<(), Failure> {
    let cluster = read_cluster(&args.cluster, "named by --cluster").map_err(because(Reason::Config))?;
    let cluster = Arc::new(cluster);
    let verifier = Verifier::new(Arc::clone(&cluster), Arc::new(OneByOne(Ed25519::new(&[0; 32], [0; 32]))));
    let mut rows = Vec::new();
    for file in &args.files {
        let pieces = read_file(&read(file)?);
        let pieces = pieces.map_err(|error| unreadable(file, format!("no evidence that can be checked: {error}")))?;
        rows.extend((1..).zip(pieces).map(|(piece, evidence)| {
            let verdict = evidence.verify(&verifier);
            Row { file: file.clone(), piece, evidence, verdict }
        }));
    }
    match args.output {
        Output::Text => output::write(rows.iter().map(|row| text(&cluster, row)).collect::<String>().as_bytes())?,
        Output::Json => output::line(&object(&cluster, &rows).to_string())?,
    }
    match rows.iter().filter(|row| row.verdict.is_err()).count() {
        0 => Ok(()),
        wrong => Err(Failure::new(
            Reason::Failed,
            format!("{wrong} of {} pieces prove nothing, whoever made them", rows.len()),
        )),
    }
}

/// Checks each signature by itself: nobody waits for it here, and no secret seed is needed for that.
struct OneByOne(Ed25519);

impl Scheme for OneByOne {
    fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    fn sign(&self, bytes: &SigningBytes) -> Signature {
        self.0.sign(bytes)
    }

    fn verify(&self, claim: &Claim) -> bool {
        self.0.verify(claim)
    }

    fn commit_secret(&self) -> Digest {
        self.0.commit_secret()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let read =
        file.take(EVIDENCE_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, error))?;
    if read as u64 > EVIDENCE_FILE_BYTES_MAX {
        return Err(unreadable(path, format!("longer than {EVIDENCE_FILE_BYTES_MAX} bytes: split it by its pieces")));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new(Reason::Unreadable, format!("{}: {why}", path.display()))
}

fn text(cluster: &ClusterConfig, row: &Row) -> String {
    let accused = row.evidence.accused(cluster);
    let mut out = format!("{}, piece {}: {accused}\n", row.file.display(), row.piece);
    match &row.verdict {
        Ok(accused) => {
            let member = cluster.member(accused.replica).expect("what holds is about a member");
            out += &format!("  holds: signed with {}, the key of {}\n", member.public_key, member.address);
            for statement in statements(&row.evidence.proof) {
                out += &format!("  {statement}\n");
            }
        }
        Err(why) => out += &format!("  PROVES NOTHING: {why}\n"),
    }
    out
}

fn object(cluster: &ClusterConfig, rows: &[Row]) -> Value {
    let piece = |row: &Row| {
        let accused = row.evidence.accused(cluster);
        let member = cluster.member(accused.replica).filter(|_| row.verdict.is_ok());
        json!({
            "file": row.file.display().to_string(),
            "piece": row.piece,
            "holds": row.verdict.is_ok(),
            "why_not": row.verdict.as_ref().err().map(ToString::to_string),
            "kind": accused.kind.name(),
            "what": accused.kind.describe(),
            "replica": accused.replica.0,
            "public_key": member.map(|member| member.public_key.to_string()),
            "address": member.map(|member| member.address.clone()),
            "epoch": accused.epoch.0,
            "view": accused.view.0,
            "seq": accused.seq.0,
            "statements": statements(&row.evidence.proof),
        })
    };
    json!({
        "cluster": cluster.cluster_id().to_string(),
        "epoch": cluster.epoch().0,
        "all_hold": rows.iter().all(|row| row.verdict.is_ok()),
        "pieces": rows.iter().map(piece).collect::<Vec<_>>(),
    })
}

/// What the accused signed, a line each.
fn statements(proof: &Proof) -> Vec<String> {
    let batch = |vote: &SignedVote| format!("batch {}", vote.digest);
    match proof {
        Proof::TwoProposals { said, .. } => said.iter().map(|vote| format!("PRE-PREPARE of {}", batch(vote))).collect(),
        Proof::TwoPrepares { said, .. } => said.iter().map(|vote| format!("PREPARE of {}", batch(vote))).collect(),
        Proof::TwoCheckpoints { said, .. } => {
            said.iter().map(|said| format!("CHECKPOINT with root {}", said.root)).collect()
        }
        Proof::Amnesia { opened, view_change } => {
            let at = &opened.position;
            let commit = format!("COMMIT of batch {} in view {} at Seq {}", at.digest, at.view, at.seq);
            vec![commit, format!("VIEW-CHANGE that does not answer for it: {}", describe_view_change(view_change))]
        }
        Proof::FalseNewView { new_view, against } => {
            let proposal = against.iter().map(|(seq, vote)| format!("PRE-PREPARE of {} at Seq {seq}", batch(vote)));
            let what = if against.is_some() { "that forbids it" } else { "that is not valid" };
            proposal.chain([format!("NEW-VIEW {what}: {}", describe_new_view(new_view))]).collect()
        }
        Proof::TwoNewViews(both) => both.iter().map(|one| format!("NEW-VIEW: {}", describe_new_view(one))).collect(),
        Proof::ForgedRequest(forged) => vec![
            format!(
                "PRE-PREPARE of a batch of {} Requests with Merkle root {}",
                forged.header.count, forged.header.merkle_root
            ),
            format!(
                "Request {} of it, of {} bytes, which its client has not signed",
                forged.index,
                forged.request.len()
            ),
        ],
    }
}

fn describe_view_change(message: &ViewChange) -> String {
    let prepared: Vec<_> = message.prepared.iter().map(|certificate| certificate.position.seq.to_string()).collect();
    format!("view {}, checkpoint {}, prepared [{}]", message.view, message.stable(), prepared.join(" "))
}

fn describe_new_view(message: &NewView) -> String {
    let of: Vec<_> = message.view_changes.iter().map(|message| message.replica.to_string()).collect();
    format!("view {}, VIEW-CHANGEs of replicas [{}], signature {}", message.view, of.join(" "), message.signature)
}
