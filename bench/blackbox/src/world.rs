//! A cluster of real replicas, each in a network namespace of its own; the clients are in this process, and in its
//! namespace. What connects them is in `wire`; who speaks to them under load is in `load`.
//!
//! Invariants: what runs is in `children`, dies with this thread, and is gone when a [`World`] is dropped; a replica that
//! is down has nobody at its port.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bft_cli::exit::{Failure, Reason, because};
use bft_cli::stop::Stop;
use bft_client::{Client, ClientConfig, Completions, SessionStart};
use bft_core::ids::{ReplicaId, View};
use bft_core::wire::message::Info;
use bft_server::children::{Child, Program};
use bft_server::testnet::{Testnet, TestnetOptions};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::sandbox::{ip, mount_memory};
use crate::wire::{self, Station, Way, Weather, Wire};

/// How many replicas there are, and where a second process of one of them would be.
pub const REPLICAS: usize = 4;
/// Where a second process with the identity of a replica runs.
pub const TWIN: Station = Station(REPLICAS);
/// Where the clients are.
pub const CLIENTS: Station = Station(REPLICAS + 1);
const STATIONS: usize = REPLICAS + 2;

/// The port of all replicas.
const PORT: u16 = 4700;
/// How long anything here may take that is not expected to take any time.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// How long a killed process may hold its port.
const PORT_MAX: Duration = Duration::from_secs(20);
/// How often is looked whether something has come about.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// How long a replica has to say how it is.
const INFO: Duration = Duration::from_millis(1500);
/// How much of a replica's log is told where something failed.
const LAST_LINES: usize = 6;

/// The replicas and the network between them.
pub struct World<'a> {
    testnet: Testnet,
    bftd: PathBuf,
    /// By station; none at the clients'.
    children: Vec<Option<Child>>,
    /// Where the twin's files are, once there is one.
    twin_dir: Option<PathBuf>,
    wire: Wire,
    observer: Client,
    stop: &'a Stop,
    mounts: Vec<PathBuf>,
}

/// The station of a replica.
pub fn station(replica: ReplicaId) -> Station {
    Station(replica.index())
}

fn address(replica: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(replica + 1).expect("few replicas"))
}

const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

fn namespace(station: Station) -> String {
    format!("station-{}", station.0)
}

fn device_name(station: Station) -> String {
    format!("wire{}", station.0)
}

impl<'a> World<'a> {
    /// Makes network and files; nothing runs yet. `adjust` may change what the cluster is.
    pub fn create(
        folder: &Path,
        bftd: &Path,
        seed: u64,
        stop: &'a Stop,
        adjust: impl FnOnce(&mut TestnetOptions),
    ) -> Result<Self, Failure> {
        let addresses = (0..REPLICAS).map(|replica| format!("{}:{PORT}", address(replica))).collect();
        let mut options = TestnetOptions::hosts(addresses).map_err(because(Reason::Failed))?;
        adjust(&mut options);
        let testnet = Testnet::create(folder, &options).map_err(because(Reason::Failed))?;
        let wire = Wire::start((0..STATIONS).map(|index| lay(Station(index))).collect::<Result<_, _>>()?, seed)?;
        for index in 0..REPLICAS {
            connect(&wire, Station(index), address(index))?;
        }
        connect(&wire, CLIENTS, CLIENT_ADDRESS)?;
        let mut config = ClientConfig::load(&testnet.client_config()).map_err(because(Reason::Failed))?;
        config.session = SessionStart::WithFirstOperation;
        let observer = Client::open(config, Completions::Futures).map_err(because(Reason::Failed))?;
        let children = (0..STATIONS).map(|_| None).collect();
        Ok(Self { testnet, bftd: bftd.to_owned(), children, twin_dir: None, wire, observer, stop, mounts: Vec::new() })
    }

    /// Its files.
    pub fn testnet(&self) -> &Testnet {
        &self.testnet
    }

    /// Its network.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// All replicas.
    pub fn replicas(&self) -> Vec<ReplicaId> {
        self.testnet.cluster().replicas().collect()
    }

    /// All but this one.
    pub fn others(&self, than: ReplicaId) -> Vec<ReplicaId> {
        self.replicas().into_iter().filter(|replica| *replica != than).collect()
    }

    /// Starts what is at `station`, and does not wait for it.
    pub fn start(&mut self, station: Station) -> Result<(), Failure> {
        let folder = self.folder(station);
        assert!(self.children[station.0].is_none(), "{} runs already", namespace(station));
        let listener = listen(station)?;
        let words = ["netns", "exec", &namespace(station)].map(OsString::from);
        let arguments = words.into_iter().chain([self.bftd.clone().into(), "run".into()]).collect();
        let program = Program { path: "ip".into(), arguments };
        let child = Child::start(&program, &folder.join("bftd.toml"), &listener, &folder.join("log"));
        self.children[station.0] = Some(child.map_err(because(Reason::Unavailable))?);
        Ok(())
    }

    /// Starts all replicas, and waits until they are ready.
    pub fn start_all(&mut self) -> Result<(), Failure> {
        for replica in self.replicas() {
            self.start(station(replica))?;
        }
        for replica in self.replicas() {
            self.child(station(replica)).wait_ready(PATIENCE).map_err(because(Reason::Failed))?;
        }
        Ok(())
    }

    /// What runs at `station`.
    pub fn child(&mut self, station: Station) -> &mut Child {
        self.children[station.0].as_mut().expect("it was started")
    }

    /// Ends what runs at `station` as a crash does.
    pub fn kill(&mut self, station: Station) -> Result<(), Failure> {
        match self.children[station.0].take() {
            Some(mut child) => child.kill().map(drop).map_err(because(Reason::Failed)),
            None => Ok(()),
        }
    }

    /// Ends what runs at `station` in good order; says so if it did not.
    pub fn stop(&mut self, station: Station) -> Result<(), Failure> {
        self.child(station).terminate();
        self.await_end(station)
    }

    /// Ends everything in good order; says who did not end so.
    pub fn stop_all(&mut self) -> Result<(), Failure> {
        self.children.iter().flatten().for_each(Child::terminate);
        (0..STATIONS).map(Station).try_for_each(|station| self.await_end(station))
    }

    /// One signal is enough: a second one means at once.
    fn await_end(&mut self, station: Station) -> Result<(), Failure> {
        let Some(mut child) = self.children[station.0].take() else { return Ok(()) };
        let status = child.wait(PATIENCE).map_err(because(Reason::Failed))?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::new(Reason::Failed, format!("{} ended: {status}", namespace(station))))
    }

    /// The first station that ended by itself, with its last words.
    pub fn ended(&mut self) -> Option<(Station, String)> {
        self.children.iter_mut().enumerate().find_map(|(index, child)| {
            let status = child.as_mut()?.try_wait().ok()??;
            Some((Station(index), status.to_string()))
        })
    }

    /// What the log at `station` says in the end: for people who look for what went wrong.
    pub fn last_words(&self, station: Station) -> String {
        let text = fs::read_to_string(self.folder(station).join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    /// The stations that were ever started.
    pub fn stations(&self) -> impl Iterator<Item = Station> {
        (0..STATIONS).map(Station).filter(|station| self.folder(*station).join("log").exists())
    }

    /// A second process with `replica`'s identity: its files as they are now, its address, at [`TWIN`]. The replica must
    /// be down. It is not started.
    pub fn make_twin(&mut self, replica: ReplicaId) -> Result<(), Failure> {
        assert!(self.children[replica.index()].is_none(), "files of a running replica cannot be copied");
        let folder = self.testnet.dir().join("twin");
        copy_folder(&self.testnet.replica_dir(replica), &folder).map_err(because(Reason::Failed))?;
        // What the replica said before is not the twin's.
        fs::remove_file(folder.join("log")).map_err(because(Reason::Failed))?;
        self.twin_dir = Some(folder);
        connect(&self.wire, TWIN, address(replica.index()))
    }

    /// Moves a replica's data to a disk of this size, as the kernel writes sizes. The replica must be down.
    pub fn move_to_small_disk(&mut self, replica: ReplicaId, size: &str) -> Result<(), Failure> {
        assert!(self.children[replica.index()].is_none(), "files of a running replica cannot be moved");
        let data = self.data_dir(replica);
        let former = data.with_extension("former");
        fs::rename(&data, &former).and_then(|()| fs::create_dir(&data)).map_err(because(Reason::Failed))?;
        mount_memory(&data, size)?;
        self.mounts.push(data.clone());
        copy_folder(&former, &data).map_err(because(Reason::Failed))
    }

    /// Where a replica keeps what it must not forget.
    pub fn data_dir(&self, replica: ReplicaId) -> PathBuf {
        self.testnet.replica_dir(replica).join("data")
    }

    /// Opens all ways, without delay or loss.
    pub fn heal(&self) {
        self.weather(Weather::default());
    }

    /// The same weather everywhere.
    pub fn weather(&self, weather: Weather) {
        let all: Vec<_> = (0..STATIONS).map(Station).collect();
        self.wire.set_between(&all, &all, Way::Open(weather));
    }

    /// What each replica says, by id; `None` for one that is silent.
    pub fn infos(&self) -> Vec<Option<Info>> {
        self.observer.query_info(INFO, false).into_iter().map(|(_, info)| info).collect()
    }

    /// What `replica` counts under these names at one time; `None`: it is silent.
    pub fn counted<const N: usize>(&self, replica: ReplicaId, names: [&str; N]) -> Option<[u64; N]> {
        let info = self.infos().swap_remove(replica.index())?;
        Some(names.map(|name| info.counter(name).expect("every replica counts it")))
    }

    /// The primary of the highest view that any replica tells of.
    pub fn primary(&self) -> Result<ReplicaId, Failure> {
        let view = self.infos().iter().flatten().map(|info| info.view).max();
        let view = view.ok_or_else(|| Failure::new(Reason::Failed, "no replica says in what view it is"))?;
        Ok(self.testnet.cluster().primary(view))
    }

    /// One who is not the primary, and will not be the next one.
    pub fn backup(&self) -> Result<ReplicaId, Failure> {
        let (primary, cluster) = (self.primary()?, self.testnet.cluster());
        let view = (0..).map(View).find(|view| cluster.primary(*view) == primary).expect("it is one");
        Ok(cluster.primary(View(view.0 + 2)))
    }

    /// Whether these have executed the same, and hold the same state.
    pub fn is_equal(&self, replicas: &[ReplicaId]) -> bool {
        let infos = self.observer.query_info(INFO, true);
        let told = infos.into_iter().filter(|(replica, _)| replicas.contains(replica));
        let states: Vec<_> = told.filter_map(|(_, info)| info.map(|info| (info.executed, info.state))).collect();
        let is_whole = |(executed, state): &(_, Option<(_, _)>)| state.is_some_and(|(at, _)| at == *executed);
        states.len() == replicas.len()
            && states.iter().all(is_whole)
            && states.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Waits until `is_so`.
    pub fn wait(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            self.stop.check()?;
            if Instant::now() > deadline {
                let seconds = PATIENCE.as_secs();
                return Err(Failure::new(Reason::Failed, format!("{what} did not come within {seconds} s")));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    fn folder(&self, station: Station) -> PathBuf {
        match (&self.twin_dir, station) {
            (Some(folder), TWIN) => folder.clone(),
            _ => self.testnet.dir().join(format!("replica-{}", station.0)),
        }
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        for child in self.children.iter().flatten() {
            // One that is stopped ends with this signal too.
            child.signal(Signal::KILL);
        }
        self.children.clear();
        for station in (0..STATIONS).map(Station).filter(|station| *station != CLIENTS) {
            // There is nobody left to tell; the namespace of all of them goes with this process.
            let _ = ip(&["netns", "del", &namespace(station)]);
        }
        for mounted in &self.mounts {
            let _ = unmount(mounted, UnmountFlags::DETACH);
        }
    }
}

/// Makes the namespace of `station` and its device, which is not up yet.
fn lay(station: Station) -> Result<std::os::fd::OwnedFd, Failure> {
    let (device, space) = (device_name(station), namespace(station));
    let end = wire::device(&device)?;
    if station != CLIENTS {
        ip(&["netns", "add", &space])?;
        ip(&["link", "set", &device, "netns", &space])?;
        ip(&["-n", &space, "link", "set", "lo", "up"])?;
    }
    Ok(end)
}

/// Gives `station` an address, and brings it up.
fn connect(wire: &Wire, station: Station, address: Ipv4Addr) -> Result<(), Failure> {
    let (device, space) = (device_name(station), namespace(station));
    let inside: Vec<&str> = if station == CLIENTS { Vec::new() } else { vec!["-n", &space] };
    let net = format!("{address}/24");
    ip(&[&inside[..], &["addr", "add", &net, "dev", &device]].concat())?;
    ip(&[&inside[..], &["link", "set", &device, "txqueuelen", "10000", "up"]].concat())?;
    wire.set_address(station, address);
    Ok(())
}

/// A listener in the namespace of `station`: a socket stays where it was made, whoever uses it.
fn listen(station: Station) -> Result<TcpListener, Failure> {
    let bind = || {
        let space = File::open(Path::new("/run/netns").join(namespace(station)))?;
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&space), Some(LinkNameSpaceType::Network))?;
        bind_when_free()
    };
    // On a thread of its own, which ends there: this one stays where it is.
    let bound = std::thread::scope(|scope| scope.spawn(bind).join().expect("it does not panic"));
    bound.map_err(|error| Failure::new(Reason::Failed, format!("listen in {}: {error}", namespace(station))))
}

/// Who was killed there may hold the port after its end: the kernel lets go of an io_uring's sockets some milliseconds
/// later.
fn bind_when_free() -> std::io::Result<TcpListener> {
    let deadline = Instant::now() + PORT_MAX;
    loop {
        let bound = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT));
        let is_taken = bound.as_ref().is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
        if !is_taken || Instant::now() > deadline {
            return bound;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Copies a folder as deep as it is.
pub fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
