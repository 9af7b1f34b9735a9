//! What nothing that the replicas do can be faster than: signatures, hashes, durable writes, the loopback and sealed
//! records, each through the code that the replicas use, on this machine, now. Rounds are interleaved and their medians
//! told, because what else the machine does comes and goes. What only computes is told in CPU time, what waits in time.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bft_core::auth::{Claim, Ed25519, Scheme};
use bft_core::config::{Admission, ClusterConfig, Member, ProtocolParams};
use bft_core::hash::{Context, hash};
use bft_core::ids::{ClusterId, Epoch, ReplicaId};
use bft_core::wire::canonical::{Tag, signing_bytes};
use bft_link::{Channel, Handshake, LocalIdentity};
use bft_server::Io;
use bft_server::io::Driver;
use bft_server::io::probe::{self, Trial, WritePath};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value};

use crate::exit::{Failure, Reason, because};
use crate::report::rounded;

/// How often each thing is measured.
const ROUNDS: usize = 5;
/// About how long a round of one thing takes.
const ROUND: Duration = Duration::from_millis(20);
/// Signatures of the largest batch.
const CLAIMS: usize = 256;
const CLUSTER: ClusterId = ClusterId([7; 32]);
/// What goes round the loopback.
const ECHO_BYTES: usize = 128;
/// The file that is written to.
const FILE_BYTES: usize = 8 << 20;

/// What was found: names with their units, and medians in microseconds.
pub struct Floors {
    /// In the order of the report.
    pub medians: Vec<(String, f64)>,
    /// How writes were made durable.
    pub write_path: WritePath,
    /// Who made them so: as a replica does that chooses by itself.
    pub driver: Driver,
}

impl Floors {
    fn us(&self, name: &str) -> f64 {
        self.medians.iter().find(|(own, _)| own == name).map_or(f64::NAN, |(_, us)| *us)
    }

    /// Operations a second that this machine could do if each were signed once, verified in a batch by each of
    /// `replicas`, and nothing else.
    fn signed_ops_per_s_max(&self, replicas: usize) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let us = self.us("ed25519_sign_us") + replicas as f64 * self.us("ed25519_verify_batch_256_us");
        cores as f64 * 1e6 / us
    }

    /// For people.
    pub fn text(&self) -> String {
        let line = |(name, us): &(String, f64)| format!("  {name:<28}{us:>10.3}\n");
        let mut text: String = self.medians.iter().map(line).collect();
        text += &format!("  durable writes by: {}\n", self.write_path.words(self.driver));
        text += &format!(
            "  at most {:.0} operations/s with a signature each, on all cores, with 4 replicas\n",
            self.signed_ops_per_s_max(4)
        );
        text
    }

    /// As an object.
    pub fn object(&self) -> Value {
        let mut object: Map<_, _> =
            self.medians.iter().map(|(name, us)| (name.clone(), rounded(*us, 3).into())).collect();
        object.insert("signed_ops_per_s_max_4_replicas".into(), rounded(self.signed_ops_per_s_max(4), 0).into());
        object.insert("write_path".into(), self.write_path.words(self.driver).into());
        Value::Object(object)
    }
}

/// One thing that is measured: does it `times` times, and says how long that took.
struct Item {
    name: String,
    /// Things done in one go: the time is told for one of them.
    per: usize,
    run: Box<dyn FnMut(usize) -> io::Result<Duration>>,
    times: usize,
    rounds: Vec<f64>,
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

impl Item {
    /// Something that only computes: its time is the thread's, so that others who use the core do not count.
    fn new(name: impl Into<String>, per: usize, mut once: impl FnMut() + 'static) -> Self {
        let run = move |times| {
            let begin = cpu_time();
            (0..times).for_each(|_| once());
            Ok(cpu_time().saturating_sub(begin))
        };
        Self::timed(name, per, run)
    }

    /// Something that says itself how long it took.
    fn timed(name: impl Into<String>, per: usize, run: impl FnMut(usize) -> io::Result<Duration> + 'static) -> Self {
        Self { name: name.into(), per, run: Box::new(run), times: 1, rounds: Vec::new() }
    }

    /// Finds out how often fits into a round.
    fn warm_up(&mut self) -> io::Result<()> {
        let mut took = (self.run)(1)?;
        while took < ROUND / 4 && self.times < 1 << 20 {
            self.times *= 2;
            took = (self.run)(self.times)?;
        }
        Ok(())
    }

    fn round(&mut self) -> io::Result<()> {
        let took = (self.run)(self.times)?;
        self.rounds.push(took.as_secs_f64() * 1e6 / (self.times * self.per) as f64);
        Ok(())
    }

    fn median(mut self) -> (String, f64) {
        self.rounds.sort_by(f64::total_cmp);
        let middle = self.rounds[self.rounds.len() / 2];
        (self.name, middle)
    }
}

/// Measures all of it; durable writes in `dir`.
pub fn measure(dir: &Path) -> Result<Floors, Failure> {
    let folder = tempfile::Builder::new().prefix("bft-floors-").tempdir_in(dir);
    let folder = folder
        .map_err(|error| Failure::new(Reason::Unavailable, format!("make a folder in {}: {error}", dir.display())))?;
    let driver = probe::driver(Io::Auto, 1).map_err(because(Reason::Unavailable))?;
    let write_path = probe::write_path(driver, folder.path()).map_err(because(Reason::Unavailable))?;
    let mut items = signatures();
    items.extend(hashes());
    items.extend(writes(driver, write_path, folder.path()).map_err(because(Reason::Unavailable))?);
    let (echo, echoer) = loopback().map_err(because(Reason::Unavailable))?;
    items.push(echo);
    items.extend(seals());
    let all = |items: &mut Vec<Item>, what: fn(&mut Item) -> io::Result<()>| items.iter_mut().try_for_each(what);
    all(&mut items, Item::warm_up).map_err(because(Reason::Failed))?;
    for _ in 0..ROUNDS {
        all(&mut items, Item::round).map_err(because(Reason::Failed))?;
    }
    let medians = items.into_iter().map(Item::median).collect();
    // Its end of the connection went with the item.
    echoer.join().expect("a panic of the echo was printed by its thread").map_err(because(Reason::Failed))?;
    folder.close().map_err(because(Reason::Failed))?;
    Ok(Floors { medians, write_path, driver })
}

fn signer(number: usize) -> Ed25519 {
    Ed25519::new(&hash(Context::Link, &[&number.to_le_bytes()]).0, [1; 32])
}

/// Of as many signers as there are signatures, as a batch of clients' Requests brings them.
fn claims() -> Vec<Claim> {
    let claim = |index: usize| {
        let signer = signer(index);
        let bytes = signing_bytes(Tag::Request, CLUSTER, hash(Context::Request, &[&index.to_le_bytes()]));
        Claim { public_key: signer.public_key(), bytes, signature: signer.sign(&bytes) }
    };
    (0..CLAIMS).map(claim).collect()
}

fn signatures() -> Vec<Item> {
    let claims: Arc<[Claim]> = claims().into();
    let (sign, verify, first, second) = (signer(0), signer(0), claims[0], claims[0]);
    let mut items = vec![
        Item::new("ed25519_sign_us", 1, move || {
            black_box(sign.sign(black_box(&first.bytes)));
        }),
        Item::new("ed25519_verify_us", 1, move || assert!(verify.verify(black_box(&second)))),
    ];
    for count in [1, 16, 64, 256] {
        let (scheme, claims, mut valid) = (signer(0), claims.clone(), Vec::new());
        items.push(Item::new(format!("ed25519_verify_batch_{count}_us"), count, move || {
            scheme.verify_many(black_box(&claims[..count]), &mut valid);
            assert!(valid.iter().all(|valid| *valid));
        }));
    }
    items
}

fn hashes() -> Vec<Item> {
    let item = |(name, bytes): (&str, usize)| {
        let bytes = vec![7; bytes];
        Item::new(format!("blake3_{name}_us"), 1, move || {
            black_box(hash(Context::Request, &[black_box(&bytes)]));
        })
    };
    [("128b", 128), ("1kib", 1024), ("64kib", 65_536)].into_iter().map(item).collect()
}

fn writes(driver: Driver, way: WritePath, folder: &Path) -> io::Result<Vec<Item>> {
    let path = folder.join("writes");
    let mut file = File::create(&path)?;
    file.write_all(&vec![0; FILE_BYTES]).and_then(|()| file.sync_all())?;
    let item = |(name, bytes)| {
        let mut trial = Trial::new(driver, way, &path, bytes)?;
        let run = move |times: usize| {
            let begin = Instant::now();
            (0..times).try_for_each(|_| trial.try_once()).map(|()| begin.elapsed())
        };
        Ok(Item::timed(format!("write_flush_{name}_us"), 1, run))
    };
    [("4kib", 4096), ("64kib", 65_536), ("1mib", 1 << 20)].into_iter().map(item).collect()
}

/// A byte string to another thread and back, over blocking sockets.
fn loopback() -> io::Result<(Item, JoinHandle<io::Result<()>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let echoer = std::thread::Builder::new().name("bft-echo".into()).spawn(move || {
        let mut bytes = [0; ECHO_BYTES];
        loop {
            match far.read_exact(&mut bytes) {
                Ok(()) => far.write_all(&bytes)?,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    })?;
    let mut bytes = [7; ECHO_BYTES];
    let run = move |times: usize| {
        let begin = Instant::now();
        for _ in 0..times {
            near.write_all(&bytes)?;
            near.read_exact(&mut bytes)?;
        }
        Ok(begin.elapsed())
    };
    Ok((Item::timed("loopback_round_trip_128b_us", 1, run), echoer))
}

/// Sealed at one end of a link and opened at the other.
fn seals() -> Vec<Item> {
    let item = |(name, bytes): (&str, usize)| {
        let (mut near, mut far) = channels();
        let (plain, mut sealed, mut opened) = (vec![7; bytes], Vec::new(), Vec::new());
        Item::new(format!("seal_open_{name}_us"), 1, move || {
            sealed.clear();
            opened.clear();
            near.seal(black_box(&plain), &mut sealed);
            far.open(&sealed, &mut opened).expect("sealed by the other end");
            assert_eq!(opened.len(), plain.len());
        })
    };
    [("64b", 64), ("1kib", 1024), ("16kib", 16_384)].into_iter().map(item).collect()
}

/// Both ends of a link of two replicas.
fn channels() -> (Channel, Channel) {
    let schemes: Vec<Arc<dyn Scheme>> = (0..4).map(|number| Arc::new(signer(number)) as _).collect();
    let member = |(index, scheme): (usize, &Arc<dyn Scheme>)| Member {
        weight: 1,
        public_key: scheme.public_key(),
        address: format!("localhost:{}", index + 1),
    };
    let members = schemes.iter().enumerate().map(member).collect();
    let config = ClusterConfig::new(CLUSTER, Epoch(0), ProtocolParams::default(), Admission::Any, members);
    let config = Arc::new(config.expect("four members with keys of their own are a cluster"));
    let identity = |index: u16| {
        let scheme = schemes[usize::from(index)].clone();
        LocalIdentity::replica(config.clone(), scheme, ReplicaId(index), 1).expect("a member with its own key")
    };
    let mut near = Handshake::connect(identity(0), ReplicaId(1), [1; 32]);
    let mut far = Handshake::accept(identity(1), [2; 32]);
    // A preface and three messages.
    for _ in 0..3 {
        pass(&mut near, &mut far);
        pass(&mut far, &mut near);
    }
    let channel = |mut end: Handshake| end.finished().expect("the handshake of two members ends in a channel").1;
    (channel(near), channel(far))
}

fn pass(from: &mut Handshake, to: &mut Handshake) {
    let bytes = from.take_output();
    to.feed(&mut bytes.as_slice()).expect("both ends are honest");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_measured_and_takes_some_time() {
        let dir = tempfile::tempdir().unwrap();
        let floors = measure(dir.path()).unwrap();
        assert_eq!(floors.medians.len(), 16);
        assert!(floors.medians.iter().all(|(_, us)| *us > 0.0), "{:?}", floors.medians);
        let object = floors.object();
        assert!(object["ed25519_verify_batch_256_us"].as_f64().unwrap() > 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }
}
