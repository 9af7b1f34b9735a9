//! `bft-bench transfer`: how a large state gets to a replica that lost touch, when everything goes wrong meanwhile: one
//! source is killed, another has files that are not what they were, and the receiver itself is killed twice. No piece
//! that it had may be fetched again; every one is counted.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bft_cli::stop::Stop;
use bft_client::ClientConfig;
use bft_core::config::strict::ByteSize;
use bft_core::ids::{ReplicaId, Seq, View};
use bft_core::snapshot::Manifest;
use bft_core::wire::message::Info;
use bft_server::children::LocalCluster;
use serde_json::json;

use super::local::{PATIENCE, create_cluster, folder, start};
use super::measure::{preload, start_load};
use crate::environment::environment;
use crate::exit::{Failure, Reason, because};
use crate::load::work::{KV_PUT_BYTES_MIN, Mix};
use crate::options::{Pace, Plan, ServiceName, WorkPlan};
use crate::output::{self, Output};
use crate::report::rounded;
use crate::watch::{INFO, Observer};

/// Values of the state: few operations, and chunks of many of them.
const VALUE_BYTES: usize = 16 << 10;
/// Slots between checkpoints, and between snapshots: few, so that a short load after the state leads to several.
const CHECKPOINTS: u64 = 16;
const SNAPSHOTS: u64 = 16 * CHECKPOINTS;
/// How many snapshots the receiver is behind.
const SNAPSHOTS_BEHIND: u64 = 3;
/// Every so manieth chunk of the source that lies is another one: it is caught with the first that it gives.
const LIES: usize = 4;
/// The receiver is killed when it has these parts of all pieces, the source at the first of them.
const KILLS: [f64; 2] = [0.25, 0.6];
/// How long anything may take: a state of a gigabyte is written and read several times on a busy machine.
const LONG: Duration = Duration::from_secs(900);
const TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
const CLOSE: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  bft-bench transfer --state 1GiB
  bft-bench transfer --state 64MiB --output json";

/// Fetch a large state while sources and receiver die, and count what was fetched
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// How large the state is; the disk needs about ten times as much, the memory five times
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    state: ByteSize,
    /// Where the temporary folder is made [default: the system's place for those]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How to tell the outcome
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    bytes: u64,
    pieces: u64,
    /// What the receiver had at each kill.
    held: [u64; KILLS.len()],
    /// Found again by its last process, and fetched by it.
    resumed: u64,
    fetched: u64,
    refused: u64,
    /// From its first start to its equality with the others, kills included.
    took: Duration,
}

/// Who plays what.
#[derive(Clone, Copy, Debug)]
struct Roles {
    receiver: ReplicaId,
    /// Killed in the middle.
    mortal: ReplicaId,
    /// Whose files are changed.
    liar: ReplicaId,
    /// Neither.
    honest: ReplicaId,
}

/// Makes the state, interferes, and tells. The replicas die with this thread.
pub fn transfer(args: &Args) -> Result<(), Failure> {
    let keys = args.state.0 / VALUE_BYTES as u64;
    if !(256..=1 << 20).contains(&keys) {
        return Err(Failure::new(Reason::Usage, format!("--state is {}, but must be 4MiB to 16GiB", args.state)));
    }
    let stop = Stop::on_signals(Reason::Interrupted)?;
    let folder = folder(args.dir.as_deref())?;
    let mut cluster = create_cluster(folder.path(), 4, None, |options| {
        options.service.name = ServiceName::Kv.name().into();
        let params = &mut options.params;
        (params.checkpoint_interval, params.window, params.pipeline_max) = (CHECKPOINTS, 2 * CHECKPOINTS, CHECKPOINTS);
        (params.snapshot_slots, params.snapshot_bytes) = (SNAPSHOTS, args.state.0);
    })?;
    let (config, observer) = start(&mut cluster)?;
    let primary = |ahead| cluster.testnet().cluster().primary(View(ahead));
    let roles = Roles { honest: primary(0), mortal: primary(1), liar: primary(2), receiver: primary(3) };
    let mut run = Run { cluster: &mut cluster, observer, config, stop: &stop, roles };
    run.fill(args, keys)?;
    let told = run.interfere(args.output)?;
    cluster.stop_all(PATIENCE).map_err(because(Reason::Failed))?;
    folder.close().map_err(because(Reason::Failed))?;
    tell(args.output, &told)?;
    check(&told)
}

struct Run<'a> {
    cluster: &'a mut LocalCluster,
    observer: Observer,
    config: ClientConfig,
    stop: &'a Stop,
    roles: Roles,
}

impl Run<'_> {
    /// Writes the state without the receiver, and goes on until the others have cut their journals above what it has.
    fn fill(&mut self, args: &Args, keys: u64) -> Result<(), Failure> {
        self.cluster.kill(self.roles.receiver).map_err(because(Reason::Failed))?;
        let work = WorkPlan::Kv { mix: Mix::Put, keys, value_bytes: VALUE_BYTES };
        let plan = Plan {
            clients: 2,
            inflight: 4,
            pace: Pace::Closed,
            ops_per_envelope: 1,
            work,
            op_bytes_max: KV_PUT_BYTES_MIN + VALUE_BYTES,
            timeout: TIMEOUT,
        };
        preload(args.output, &self.config, &plan.preload(&self.config.cluster), self.stop)?;
        let filled = self.snapshots().into_iter().max().unwrap_or_default();
        let goal = Seq(filled.0 + SNAPSHOTS_BEHIND * SNAPSHOTS);
        let load = start_load(&self.config, &plan, self.stop)?;
        let are_ahead = |run: &Self| {
            let snapshots = run.snapshots();
            snapshots.len() == 3 && snapshots.iter().all(|snapshot| *snapshot >= goal)
        };
        self.wait("three snapshots", are_ahead)?;
        load.measure(0, Duration::from_nanos(load.now()));
        load.wait_idle(|| self.stop.is_told());
        load.end(CLOSE);
        // From now on the target stays what it is.
        self.wait("the same snapshot at all sources", |run| {
            let snapshots = run.snapshots();
            snapshots.len() == 3 && snapshots.iter().all(|snapshot| *snapshot == snapshots[0])
        })
    }

    /// Of the sources that answer.
    fn snapshots(&self) -> Vec<Seq> {
        let infos = self.observer.ask(INFO);
        infos.iter().flatten().filter(|info| info.replica != self.roles.receiver).map(|info| info.snapshot).collect()
    }

    fn interfere(&mut self, output: Output) -> Result<Told, Failure> {
        let Roles { receiver, mortal, liar, honest } = self.roles;
        let target = self.snapshots().first().copied().ok_or_else(|| failed("no source answers"))?;
        let folder = |run: &Self, of| run.data_dir(of).join(format!("snapshots/{target}"));
        let manifest = fs::read(folder(self, honest).join("manifest")).map_err(because(Reason::Failed))?;
        let manifest = Manifest::decode(&manifest).map_err(|error| failed(&format!("{error:?}")))?;
        let distinct: BTreeSet<_> = manifest.pieces().map(|(_, _, digest)| digest).collect();
        let mut told = Told { pieces: distinct.len() as u64, ..Told::default() };
        told.bytes = manifest.pieces().map(|(_, len, _)| u64::from(len)).sum();
        let lies = make_a_liar(&folder(self, liar)).map_err(because(Reason::Failed))?;
        output.progress(&format!(
            "{} MiB in {} pieces, {lies} of them changed at {liar}",
            told.bytes >> 20,
            told.pieces
        ))?;
        let begun = Instant::now();
        for (index, part) in KILLS.into_iter().enumerate() {
            let goal = (told.pieces as f64 * part) as u64;
            self.cluster.start(receiver).map_err(because(Reason::Unavailable))?;
            self.wait("a part of the pieces", |run| run.held() >= goal)?;
            if index == 0 {
                self.cluster.kill(mortal).map_err(because(Reason::Failed))?;
                let further = goal + told.pieces / 20;
                self.wait("more pieces without the source that was killed", |run| run.held() >= further)?;
            }
            self.cluster.kill(receiver).map_err(because(Reason::Failed))?;
            told.held[index] = self.held();
            if told.held[index] == 0 {
                return Err(failed("the transfer was over before the receiver could be killed: take a larger --state"));
            }
            output.progress(&format!("the receiver is killed with {} pieces", told.held[index]))?;
        }
        self.cluster.start(receiver).map_err(because(Reason::Unavailable))?;
        self.wait("the state", |run| run.is_equal(receiver, honest))?;
        told.took = begun.elapsed();
        let info = self.info(receiver).ok_or_else(|| failed("the receiver does not answer"))?;
        let count = |name| info.counter(name).unwrap_or(0);
        told.resumed = count("chunks_resumed");
        told.fetched = count("chunks_fetched");
        told.refused = count("chunks_refused");
        Ok(told)
    }

    fn info(&self, replica: ReplicaId) -> Option<Info> {
        self.observer.ask(INFO)[replica.index()].clone()
    }

    fn is_equal(&self, one: ReplicaId, other: ReplicaId) -> bool {
        let infos = self.observer.ask(INFO);
        let of = |replica: ReplicaId| infos[replica.index()].as_ref().map(|info| (info.executed, info.snapshot));
        of(one).is_some() && of(one) == of(other)
    }

    /// Pieces on the receiver's disk that are not yet a snapshot.
    fn held(&self) -> u64 {
        let incoming = self.data_dir(self.roles.receiver).join("snapshots/incoming");
        fs::read_dir(incoming).map_or(0, |entries| entries.count() as u64)
    }

    fn data_dir(&self, replica: ReplicaId) -> PathBuf {
        self.cluster.testnet().replica_dir(replica).join("data")
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + LONG;
        while !is_so(self) {
            self.stop.check()?;
            if Instant::now() > deadline {
                return Err(failed(&format!("{what} did not come within {} s", LONG.as_secs())));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }
}

fn failed(what: &str) -> Failure {
    Failure::new(Reason::Failed, what)
}

/// Changes a byte in some of the chunks; says in how many.
fn make_a_liar(snapshot: &Path) -> std::io::Result<usize> {
    let mut chunks: Vec<_> = fs::read_dir(snapshot)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    chunks.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("chunk-")));
    chunks.sort();
    let changed = chunks.iter().skip(LIES / 2).step_by(LIES);
    let mut count = 0;
    for path in changed {
        let file = File::options().read(true).write(true).open(path)?;
        let at = file.metadata()?.len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 1], at)?;
        count += 1;
    }
    Ok(count)
}

/// Every piece came once: what was there at the last kill was found, all but the file that the kill cut off, and the rest
/// was fetched.
fn check(told: &Told) -> Result<(), Failure> {
    let Told { pieces, held, resumed, fetched, refused, .. } = *told;
    let [first, last] = held;
    if refused == 0 {
        return Err(failed("the source that lies was not caught: it was never asked, or it was believed"));
    }
    if first <= last && resumed <= last && resumed + 1 >= last && resumed + fetched == pieces {
        return Ok(());
    }
    Err(failed(&format!("of {pieces} pieces {resumed} were found and {fetched} fetched, where {held:?} had been held")))
}

fn tell(output: Output, told: &Told) -> Result<(), Failure> {
    let Told { bytes, pieces, held, resumed, fetched, refused, took } = *told;
    match output {
        Output::Json => output::line(
            &json!({
                "state_bytes": bytes,
                "pieces": pieces,
                "held_at_kills": held,
                "resumed": resumed,
                "fetched": fetched,
                "refused": refused,
                "took_s": rounded(took.as_secs_f64(), 3),
                "environment": environment(),
            })
            .to_string(),
        ),
        Output::Text => output::line(&format!(
            "{} MiB in {pieces} pieces in {:.1} s: killed with {} and {} of them, at last {resumed} found and {fetched} \
             fetched, {refused} refused",
            bytes >> 20,
            took.as_secs_f64(),
            held[0],
            held[1]
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_was_fetched_again_is_noticed() {
        let good = Told { pieces: 100, held: [25, 60], resumed: 60, fetched: 40, refused: 1, ..Told::default() };
        assert!(check(&good).is_ok());
        assert!(check(&Told { resumed: 59, fetched: 41, ..good }).is_ok(), "the kill cut one off");
        assert!(check(&Told { resumed: 58, fetched: 42, ..good }).is_err());
        assert!(check(&Told { fetched: 41, ..good }).is_err());
        assert!(check(&Told { refused: 0, ..good }).is_err());
        assert!(check(&Told { held: [61, 60], ..good }).is_err());
    }

    #[test]
    fn a_liar_has_a_byte_changed_in_every_fourth_chunk_and_in_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<_> = (0..40).map(|index| format!("chunk-{index:05}")).collect();
        names.iter().for_each(|name| fs::write(dir.path().join(name), vec![7; 100]).unwrap());
        fs::write(dir.path().join("manifest"), vec![7; 100]).unwrap();
        assert_eq!(make_a_liar(dir.path()).unwrap(), 10);
        let is_changed = |name: &String| fs::read(dir.path().join(name)).unwrap() != vec![7; 100];
        let changed = (0..names.len()).filter(|index| is_changed(&names[*index]));
        assert!(changed.eq((0..40).filter(|index| index % 4 == 2)));
        assert!(!is_changed(&"manifest".into()));
    }
}
