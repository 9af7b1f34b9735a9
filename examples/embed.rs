//! A service of one's own on bft-server, complete: a ledger of accounts, replicated over four processes, and a client
//! that uses it. Copy it and replace the ledger.
//!
//! ```text
//! cargo run --release --example embed       four replicas, a client, a restart, a clean end
//! ```
//!
//! The program plays two parts. Started without arguments it makes a cluster in a temporary folder and starts itself
//! four times more, as `embed replica --config …/replica-K/bftd.toml`: each of those is one replica. On real machines
//! the second part is all that is needed, with folders that `bftd testnet --hosts` or [`Testnet::create`] made.
//!
//! [`Testnet::create`]: bft_server::testnet::Testnet::create

use std::collections::BTreeMap;
use std::error::Error;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bft_client::{Client, ClientConfig, Completions, Outcome, Submit, Wait};
use bft_core::ids::Seq;
use bft_core::limits::CHUNK_BYTES_MAX;
use bft_core::service::{Batch, Replies, Service, ServiceFault, Snapshot};
use bft_server::Control;
use bft_server::children::{LocalCluster, Program, READY, inherited_listener};
use bft_server::config::ReplicaConfig;
use bft_server::testnet::TestnetOptions;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Nothing here takes longer on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        [] => cluster_and_client(),
        ["replica", "--config", file] => replica(Path::new(file)),
        _ => Err("usage: embed, or embed replica --config FILE".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embed: {error}");
            ExitCode::FAILURE
        }
    }
}

// ---- the service ---------------------------------------------------------------------------------------------------

/// Accounts and what they hold. Operations and answers are text:
///
/// ```text
/// open NAME                the account is there, and empty
/// pay NAME AMOUNT          money comes from outside
/// move FROM TO AMOUNT      money goes from one account to another
/// balance NAME             what it holds
/// total                    what all of them hold
/// ```
///
/// A service is a function of its state and the batch alone: no clock, no chance, no order of a hash table, or its
/// replicas would part. What a client may send wrongly gets an answer that says so; a [`ServiceFault`] is for what no
/// client can cause.
///
/// The accounts are spread over [`SHARES`] maps behind [`Arc`]s. A snapshot clones the `Arc`s; the first write to a map
/// after it copies that map. So a snapshot costs next to nothing, and the image stays what it was while execution goes
/// on.
pub struct Ledger {
    shares: Vec<Arc<Share>>,
    /// What a restore has brought so far.
    restoring: Option<(Seq, Vec<Arc<Share>>)>,
}

/// The accounts of one share: one chunk of a snapshot.
#[derive(Clone, Default)]
struct Share {
    /// A map in the order of names, so that equal accounts give equal bytes.
    accounts: BTreeMap<String, u64>,
    /// When they last changed.
    changed: Seq,
}

/// Into how many shares the accounts go.
const SHARES: usize = 256;
/// The longest name.
const NAME_BYTES_MAX: usize = 64;
/// As many accounts as fit a chunk, whatever they are called. What is bounded stays bounded.
const ACCOUNTS_PER_SHARE_MAX: usize = CHUNK_BYTES_MAX / (1 + NAME_BYTES_MAX + 8);

/// Why an operation is not carried out. The client reads it.
type Refusal = &'static str;

/// Without accounts.
impl Default for Ledger {
    fn default() -> Self {
        Self { shares: (0..SHARES).map(|_| Arc::default()).collect(), restoring: None }
    }
}

impl Ledger {
    /// Carries out one operation; gives the number that is its answer.
    fn apply(&mut self, now: Seq, operation: &[u8], replies: &mut Replies<'_>) -> Result<u64, Refusal> {
        let mut set = |ledger: &mut Self, name: &str, holds| {
            ledger.set(now, name, holds);
            // Goes into the digest by which replicas that part are told from each other.
            replies.delta(format!("{name} {holds}").as_bytes());
        };
        match words(operation)?[..] {
            ["open", name] => {
                self.may_open(name)?;
                set(self, name, 0);
                Ok(0)
            }
            ["pay", name, amount] => {
                let holds = self.plus(name, number(amount)?)?;
                set(self, name, holds);
                Ok(holds)
            }
            ["move", from, to, amount] => {
                let amount = number(amount)?;
                let left = self.balance(from)?.checked_sub(amount).ok_or("the account does not hold so much")?;
                if from != to {
                    let holds = self.plus(to, amount)?;
                    set(self, from, left);
                    set(self, to, holds);
                }
                self.balance(from)
            }
            ref question => self.look(question),
        }
    }

    /// Operations that change nothing.
    fn look(&self, words: &[&str]) -> Result<u64, Refusal> {
        match words {
            ["balance", name] => self.balance(name),
            ["total"] => {
                let all = self.shares.iter().flat_map(|share| share.accounts.values());
                all.copied().try_fold(0_u64, u64::checked_add).ok_or("the total is too large")
            }
            _ => Err("write open NAME, pay NAME AMOUNT, move FROM TO AMOUNT, balance NAME or total"),
        }
    }

    fn balance(&self, name: &str) -> Result<u64, Refusal> {
        self.shares[share_of(name)].accounts.get(name).copied().ok_or("there is no such account")
    }

    fn plus(&self, name: &str, amount: u64) -> Result<u64, Refusal> {
        self.balance(name)?.checked_add(amount).ok_or("an account holds no more than 2^64 - 1")
    }

    fn may_open(&self, name: &str) -> Result<(), Refusal> {
        let accounts = &self.shares[share_of(name)].accounts;
        if name.len() > NAME_BYTES_MAX {
            Err("a name has at most 64 bytes")
        } else if accounts.contains_key(name) {
            Err("the account is there already")
        } else if accounts.len() >= ACCOUNTS_PER_SHARE_MAX {
            Err("the ledger is full")
        } else {
            Ok(())
        }
    }

    fn set(&mut self, now: Seq, name: &str, holds: u64) {
        // Copies the share if an image still has it.
        let share = Arc::make_mut(&mut self.shares[share_of(name)]);
        share.changed = now;
        share.accounts.insert(name.to_owned(), holds);
    }
}

fn words(operation: &[u8]) -> Result<Vec<&str>, Refusal> {
    let text = std::str::from_utf8(operation).map_err(|_| "an operation is text")?;
    Ok(text.split_ascii_whitespace().collect())
}

fn number(word: &str) -> Result<u64, Refusal> {
    word.parse().map_err(|_| "an amount is a whole number below 2^64")
}

/// The same at every replica and in every build: Rust's own hashes promise neither.
fn share_of(name: &str) -> usize {
    name.bytes().fold(0, |sum, byte| (sum * 31 + usize::from(byte)) % SHARES)
}

fn answer(outcome: Result<u64, Refusal>) -> String {
    match outcome {
        Ok(number) => number.to_string(),
        Err(why) => format!("refused: {why}"),
    }
}

fn fault(what: impl Into<String>) -> ServiceFault {
    ServiceFault(what.into())
}

impl Service for Ledger {
    /// The state is in memory: the library restores the newest snapshot and repeats what came after it.
    fn open(&mut self) -> Result<Seq, ServiceFault> {
        Ok(Seq(0))
    }

    fn execute(&mut self, batch: &Batch<'_>, replies: &mut Replies<'_>) -> Result<(), ServiceFault> {
        for (index, operation) in batch.operations.iter().enumerate() {
            let outcome = self.apply(batch.seq, operation.bytes, replies);
            replies.put(index, answer(outcome).as_bytes());
        }
        Ok(())
    }

    fn query(&mut self, query: &[u8], reply: &mut Replies<'_>) -> Result<(), ServiceFault> {
        let outcome = words(query).and_then(|words| self.look(&words));
        reply.put(0, answer(outcome).as_bytes());
        Ok(())
    }

    fn snapshot(&mut self, _at: Seq) -> Result<Box<dyn Snapshot>, ServiceFault> {
        Ok(Box::new(Image(self.shares.clone())))
    }

    fn restore_begin(&mut self, at: Seq, chunks: u32) -> Result<(), ServiceFault> {
        if chunks as usize != SHARES {
            return Err(fault(format!("a ledger has {SHARES} chunks, not {chunks}")));
        }
        self.restoring = Some((at, Vec::with_capacity(SHARES)));
        Ok(())
    }

    fn restore_chunk(&mut self, _index: u32, bytes: &[u8]) -> Result<(), ServiceFault> {
        let (at, shares) = self.restoring.as_mut().ok_or_else(|| fault("no restore has begun"))?;
        let accounts = accounts_of_chunk(bytes).ok_or_else(|| fault("a chunk ends inside an account"))?;
        shares.push(Arc::new(Share { accounts, changed: *at }));
        Ok(())
    }

    /// Only here the new state takes the place of the old one.
    fn restore_finish(&mut self) -> Result<(), ServiceFault> {
        let (_, shares) = self.restoring.take().ok_or_else(|| fault("no restore has begun"))?;
        if shares.len() != SHARES {
            return Err(fault(format!("{} chunks came, not {SHARES}", shares.len())));
        }
        self.shares = shares;
        Ok(())
    }

    fn restore_abort(&mut self) {
        self.restoring = None;
    }
}

/// The ledger as it was. Written to disk by another thread while the ledger goes on.
struct Image(Vec<Arc<Share>>);

impl Snapshot for Image {
    fn chunks(&self) -> u32 {
        SHARES as u32
    }

    /// Such a chunk is neither read, nor digested, nor written again.
    fn unchanged_since(&self, index: u32, earlier: Seq) -> bool {
        self.0[index as usize].changed <= earlier
    }

    fn read(&mut self, index: u32, out: &mut [u8]) -> Result<usize, ServiceFault> {
        let mut len = 0;
        let mut put = |bytes: &[u8]| {
            out[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        };
        for (name, holds) in &self.0[index as usize].accounts {
            put(&[name.len() as u8]);
            put(name.as_bytes());
            put(&holds.to_le_bytes());
        }
        Ok(len)
    }
}

/// What [`Image::read`] wrote; `None` if it did not.
fn accounts_of_chunk(mut bytes: &[u8]) -> Option<BTreeMap<String, u64>> {
    let mut accounts = BTreeMap::new();
    while let Some((len, rest)) = bytes.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(*len))?;
        let (holds, rest) = rest.split_first_chunk()?;
        accounts.insert(String::from_utf8(name.to_vec()).ok()?, u64::from_le_bytes(*holds));
        bytes = rest;
    }
    Some(accounts)
}

// ---- one replica ---------------------------------------------------------------------------------------------------

/// Runs one replica of the ledger until SIGTERM or Ctrl-C.
fn replica(file: &Path) -> Result<(), Box<dyn Error>> {
    // First of all: whatever is opened before would take the place of a listener that was handed down.
    let handed_down = inherited_listener()?;
    let config = ReplicaConfig::load(file)?;
    let listener = match handed_down {
        Some(listener) => listener,
        None => TcpListener::bind(&config.listen)?,
    };
    let control = Control::new()?;
    let (to_stop, to_tell) = (control.clone(), control.clone());
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            to_stop.stop();
        }
    });
    std::thread::spawn(move || {
        if to_tell.wait_ready(PATIENCE) {
            eprintln!("{READY}");
        }
    });
    // Blocks until the replica was stopped: everything is on disk then.
    bft_server::run(config.into_server_config(listener), Box::new(Ledger::default()), control)?;
    Ok(())
}

// ---- the cluster and its client ------------------------------------------------------------------------------------

fn cluster_and_client() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut cluster = LocalCluster::create(&folder.path().join("net"), 4, Program::own(&["replica"])?, adjust)?;
    cluster.start_all(PATIENCE)?;
    println!("four replicas run in {}", cluster.testnet().dir().display());

    // Each client has a key of its own, which the cluster's authority certifies, and a session with the cluster.
    let config = ClientConfig::load(&cluster.testnet().client_config())?;
    let client = Client::open(config.clone(), Completions::Queue)?;
    for operation in ["open alice", "open bob", "pay alice 1000", "move alice bob 30", "move bob alice 31"] {
        println!("{operation}: {}", ask(&client, operation)?);
    }
    move_one_by_one(&client, 500)?;
    let before = balances(&client)?;
    println!("alice holds {}, bob holds {}, together {}", before[0], before[1], before[2]);

    let snapshot = wait_for_snapshot(&client)?;
    client.close(PATIENCE);
    stop(&mut cluster)?;
    cluster.start_all(PATIENCE)?;
    println!("stopped all replicas and started them again, each from its snapshot of Seq {snapshot} or later");
    let client = Client::open(config, Completions::Queue)?;
    let after = balances(&client)?;
    println!("alice holds {}, bob holds {}, together {}", after[0], after[1], after[2]);
    client.close(PATIENCE);
    stop(&mut cluster)?;
    if before != after {
        return Err("the ledger is not what it was".into());
    }
    println!("all replicas stopped in good order");
    Ok(())
}

/// What this cluster has of its own. Snapshots after so few Seqs are for this short program alone: leave the lines out.
fn adjust(options: &mut TestnetOptions) {
    options.service.name = "ledger".into();
    options.params.checkpoint_interval = 4;
    options.params.window = 8;
    options.params.pipeline_max = 4;
    options.params.snapshot_slots = 8;
    options.journal.segment_bytes = 4 << 20;
}

/// One operation, and its answer: f + 1 replicas have given the same one.
fn ask(client: &Client, operation: &str) -> Result<String, Box<dyn Error>> {
    understood(client.call(operation.as_bytes(), PATIENCE))
}

/// The four ends that an operation can have.
fn understood(outcome: Outcome) -> Result<String, Box<dyn Error>> {
    match outcome {
        Outcome::Done { result, .. } => Ok(String::from_utf8(result.to_vec())?),
        Outcome::Rejected { seq, reason } => {
            Err(format!("not executed, and never will be: {reason} (Seq {seq})").into())
        }
        Outcome::NotSent { reason } => Err(format!("not executed, and never will be: {reason}").into()),
        Outcome::Unknown { reason } => Err(format!("perhaps executed, once: {reason}").into()),
    }
}

/// Many operations at a time: handed over with tags, signed together, answered in any order.
fn move_one_by_one(client: &Client, count: u64) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let operations: Vec<_> =
        (0..count).map(|tag| Submit { bytes: b"move alice bob 1", tag, ..Submit::default() }).collect();
    let (mut taken, mut done) = (0, Vec::new());
    while done.len() < operations.len() {
        if taken < operations.len() {
            // As many as there is room for; the rest when answers have made room.
            taken += client.submit(&operations[taken..])?;
        }
        client.poll(&mut done, operations.len(), Wait::UpTo(PATIENCE));
    }
    for completion in done {
        let left = understood(completion.outcome)?;
        left.parse::<u64>().map_err(|_| format!("operation {} was answered {left:?}", completion.tag))?;
    }
    println!("moved 1 from alice to bob {count} times in {} ms", started.elapsed().as_millis());
    Ok(())
}

fn balances(client: &Client) -> Result<[String; 3], Box<dyn Error>> {
    Ok([ask(client, "balance alice")?, ask(client, "balance bob")?, ask(client, "total")?])
}

/// Until every replica has a snapshot that a quorum agreed on; gives the oldest one's Seq.
fn wait_for_snapshot(client: &Client) -> Result<Seq, Box<dyn Error>> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let infos = client.query_info(PATIENCE, false);
        let snapshots = infos.into_iter().map(|(_, info)| info.map_or(Seq(0), |info| info.snapshot));
        match snapshots.min() {
            Some(oldest) if oldest > Seq(0) => return Ok(oldest),
            Some(_) | None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    Err("no snapshot was agreed on".into())
}

/// SIGTERM: each finishes what is under way, flushes and ends with 0.
fn stop(cluster: &mut LocalCluster) -> Result<(), Box<dyn Error>> {
    match cluster.stop_all(PATIENCE)?.into_iter().find(|end| !end.success()) {
        None => Ok(()),
        Some(end) => Err(format!("a replica did not stop in good order: {end}").into()),
    }
}
