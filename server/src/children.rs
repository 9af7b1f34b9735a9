//! Replicas as child processes: for the demo, the bench and tests on real processes. The parent binds the listeners and
//! hands each down as descriptor 3 (`LISTEN_FDS`, as service managers do), so that nobody guesses a free port and
//! nobody is refused while a replica restarts. [`inherited_listener`] is the child's end.
//!
//! Kept here: a child dies with the thread that started it (and so with its process), and with its [`Child`]; it is in
//! a process group of its own, so that a Ctrl-C reaches the parent alone.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::ManuallyDrop;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bft_core::ids::ReplicaId;
use rustix::io::{FdFlags, dup2, fcntl_setfd};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use crate::testnet::{Testnet, TestnetError, TestnetOptions, bind_loopback};

/// What the log says, once, when a replica takes connections.
pub const READY: &str = "replica is ready";

/// The first descriptor that is handed down.
const FIRST_HANDED_DOWN: i32 = 3;
/// How often a child is looked at while something is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// What an error tells of a child's last words.
const LAST_WORDS_BYTES: u64 = 4096;
/// In which CPU time is told: fixed for all of Linux.
const TICKS_PER_SECOND: u64 = 100;

/// What went wrong with a child.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started, or looked after.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// What the system says.
        error: io::Error,
    },
    /// It ended before it was ready.
    #[error("the replica ended ({status}) before it was ready; its last words:\n{last_words}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// The end of its log.
        last_words: String,
    },
    /// It takes too long.
    #[error("the replica was not {waited_for} after {seconds} s; its last words:\n{last_words}")]
    TooLate {
        /// What it should have done.
        waited_for: &'static str,
        /// How long it had.
        seconds: u64,
        /// The end of its log.
        last_words: String,
    },
    /// The cluster could not be made.
    #[error(transparent)]
    Testnet(#[from] TestnetError),
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> ChildError {
    let what = what.into();
    move |error| ChildError::System { what, error }
}

/// A program that runs a replica when called with these arguments, `--config` and a file.
#[derive(Clone, Debug)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// What comes before `--config`.
    pub arguments: Vec<OsString>,
}

impl Program {
    /// The program of this process.
    pub fn own(arguments: &[&str]) -> io::Result<Self> {
        Ok(Self { path: std::env::current_exe()?, arguments: arguments.iter().map(Into::into).collect() })
    }
}

/// CPU time and memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, of all threads, in user and in kernel.
    pub cpu: Duration,
    /// The most memory it ever had, in KiB.
    pub rss_max_kib: u64,
}

/// A replica that runs as a child. Dropped, it is killed.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    log: PathBuf,
    /// Where this child's lines begin in the log.
    log_from: u64,
}

impl Child {
    /// Starts `program` with this configuration and listener; what it says is appended to `log`.
    pub fn start(program: &Program, config: &Path, listener: &TcpListener, log: &Path) -> Result<Self, ChildError> {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.map_err(system(format!("open {}", log.display())))?;
        let log_from = file.metadata().map_err(system(format!("look at {}", log.display())))?.len();
        let mut command = Command::new(&program.path);
        command.args(&program.arguments).arg("--config").arg(config);
        command.env("LISTEN_FDS", "1").env_remove("LISTEN_PID").env_remove("LISTEN_FDNAMES");
        command.stdin(Stdio::null()).process_group(0);
        let second = file.try_clone().map_err(system("duplicate a descriptor"))?;
        command.stdout(file).stderr(second);
        let (descriptor, parent) = (listener.as_raw_fd(), rustix::process::getpid());
        // SAFETY: between fork and exec only system calls are made, on values that were computed before; `descriptor`
        // is open here, since `listener` is borrowed until `spawn` has returned, and a fork copies it.
        unsafe { command.pre_exec(move || prepare(descriptor, parent)) };
        let process = command.spawn().map_err(system(format!("start {}", program.path.display())))?;
        Ok(Self { process, log: log.to_owned(), log_from })
    }

    /// Waits until the replica takes connections.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<(), ChildError> {
        let deadline = Instant::now() + timeout;
        while !self.said()?.contains(READY) {
            if let Some(status) = self.try_wait()? {
                return Err(ChildError::Ended { status, last_words: self.last_words() });
            }
            self.look_again(deadline, timeout, "ready")?;
        }
        Ok(())
    }

    /// Asks it to end in good order.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it at once, as a crash does, and waits until it is gone.
    pub fn kill(&mut self) -> Result<ExitStatus, ChildError> {
        // It may have ended by itself; what counts is that it has.
        let _ = self.process.kill();
        self.process.wait().map_err(system("wait for the replica"))
    }

    /// Sends it a signal, if it still runs.
    pub fn signal(&self, signal: Signal) {
        // A process that has ended keeps its id until it was waited for: nobody else is hit.
        let _ = kill_process(self.pid(), signal);
    }

    /// Waits until it has ended.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus, ChildError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            self.look_again(deadline, timeout, "gone")?;
        }
    }

    /// What it has used so far; `None` once it has ended.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        let folder = Path::new("/proc").join(self.process.id().to_string());
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let status = fs::read_to_string(folder.join("status")).ok()?;
        Some(Usage { cpu: cpu_time(&stat)?, rss_max_kib: rss_max_kib(&status)? })
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has said so far.
    pub fn said(&self) -> Result<String, ChildError> {
        read_from(&self.log, self.log_from).map_err(system(format!("read {}", self.log.display())))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, ChildError> {
        self.process.try_wait().map_err(system("wait for the replica"))
    }

    fn look_again(&self, deadline: Instant, had: Duration, waited_for: &'static str) -> Result<(), ChildError> {
        if Instant::now() >= deadline {
            let (seconds, last_words) = (had.as_secs(), self.last_words());
            return Err(ChildError::TooLate { waited_for, seconds, last_words });
        }
        std::thread::sleep(LOOK_INTERVAL);
        Ok(())
    }

    fn last_words(&self) -> String {
        let end = fs::metadata(&self.log).map_or(0, |metadata| metadata.len());
        let from = end.saturating_sub(LAST_WORDS_BYTES).max(self.log_from);
        read_from(&self.log, from).unwrap_or_default()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = self.kill();
    }
}

/// In the child, before its program is loaded.
fn prepare(listener: i32, parent: Pid) -> io::Result<()> {
    // SAFETY: the caller holds the descriptor open.
    let listener = unsafe { BorrowedFd::borrow_raw(listener) };
    // SAFETY: whatever number 3 is in this process, nothing but the new program uses it from here on; never closed here.
    let mut third = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(FIRST_HANDED_DOWN) });
    if listener.as_raw_fd() != FIRST_HANDED_DOWN {
        dup2(listener, &mut third)?;
    }
    fcntl_setfd(&*third, FdFlags::empty())?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the line above.
    if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

fn read_from(path: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Out of `/proc/PID/stat`: the program's name stands in parentheses, and may have any bytes in it.
fn cpu_time(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    Some(Duration::from_millis(ticks * (1000 / TICKS_PER_SECOND)))
}

/// Out of `/proc/PID/status`.
fn rss_max_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The listener that the parent handed down, if there is one. Call it once, before anything else opens a descriptor.
pub fn inherited_listener() -> io::Result<Option<TcpListener>> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    let Ok(count) = std::env::var("LISTEN_FDS") else { return Ok(None) };
    // Meant for another process, from which this one inherited the variables.
    if std::env::var("LISTEN_PID").is_ok_and(|pid| pid != std::process::id().to_string()) {
        return Ok(None);
    }
    match count.as_str() {
        "0" | "" => return Ok(None),
        "1" => {}
        more => return Err(invalid(format!("LISTEN_FDS is {more:?}; a replica takes one listener"))),
    }
    // SAFETY: only asked about here.
    let handed_down = unsafe { BorrowedFd::borrow_raw(FIRST_HANDED_DOWN) };
    if !rustix::net::sockopt::socket_acceptconn(handed_down).unwrap_or(false) {
        return Err(invalid("LISTEN_FDS is 1, but descriptor 3 is no listening socket".into()));
    }
    fcntl_setfd(handed_down, FdFlags::CLOEXEC)?;
    // SAFETY: the protocol says that it is this process's own now; it is open, as was just seen.
    Ok(Some(unsafe { TcpListener::from_raw_fd(FIRST_HANDED_DOWN) }))
}

/// A cluster on this machine: its folder, its listeners, and replicas that run or do not.
#[derive(Debug)]
pub struct LocalCluster {
    testnet: Testnet,
    /// What each replica is run by.
    programs: Vec<Program>,
    listeners: Vec<TcpListener>,
    children: Vec<Option<Child>>,
}

impl LocalCluster {
    /// Makes a cluster of `replicas` in `dir`; `adjust` may change what it is. Nothing runs yet.
    pub fn create(
        dir: &Path,
        replicas: usize,
        program: Program,
        adjust: impl FnOnce(&mut TestnetOptions),
    ) -> Result<Self, ChildError> {
        let listeners = bind_loopback(replicas).map_err(system("bind a loopback port"))?;
        let mut options = TestnetOptions::listeners(&listeners).map_err(system("name a loopback port"))?;
        adjust(&mut options);
        let testnet = Testnet::create(dir, &options)?;
        let children = listeners.iter().map(|_| None).collect();
        Ok(Self { testnet, programs: vec![program; replicas], listeners, children })
    }

    /// Its folder.
    #[must_use]
    pub fn testnet(&self) -> &Testnet {
        &self.testnet
    }

    /// From its next start on, a replica is run by another program.
    pub fn run_by(&mut self, replica: ReplicaId, program: Program) {
        self.programs[replica.index()] = program;
    }

    /// Starts a replica that does not run.
    pub fn start(&mut self, replica: ReplicaId) -> Result<(), ChildError> {
        let slot = &mut self.children[replica.index()];
        assert!(slot.is_none(), "replica {replica} runs already");
        let log = self.testnet.replica_dir(replica).join("log");
        let (program, listener) = (&self.programs[replica.index()], &self.listeners[replica.index()]);
        *slot = Some(Child::start(program, &self.testnet.config(replica), listener, &log)?);
        Ok(())
    }

    /// Starts all replicas that do not run, and waits until they are ready.
    pub fn start_all(&mut self, timeout: Duration) -> Result<(), ChildError> {
        let deadline = Instant::now() + timeout;
        for replica in self.testnet.cluster().replicas() {
            if self.children[replica.index()].is_none() {
                self.start(replica)?;
            }
        }
        for child in self.children.iter_mut().flatten() {
            child.wait_ready(deadline.saturating_duration_since(Instant::now()))?;
        }
        Ok(())
    }

    /// A replica that runs.
    ///
    /// # Panics
    /// If it was not started.
    pub fn child(&mut self, replica: ReplicaId) -> &mut Child {
        self.children[replica.index()].as_mut().expect("the replica was started")
    }

    /// The replicas that were started and not stopped.
    pub fn running(&self) -> impl Iterator<Item = (ReplicaId, &Child)> {
        let children = self.testnet.cluster().replicas().zip(&self.children);
        children.filter_map(|(replica, child)| Some((replica, child.as_ref()?)))
    }

    /// Ends a replica as a crash does.
    pub fn kill(&mut self, replica: ReplicaId) -> Result<(), ChildError> {
        match self.children[replica.index()].take() {
            Some(mut child) => child.kill().map(drop),
            None => Ok(()),
        }
    }

    /// Ends all replicas as a power cut does: the signals first, the waiting after them.
    pub fn kill_all(&mut self) -> Result<(), ChildError> {
        self.running().for_each(|(_, child)| child.signal(Signal::KILL));
        for child in &mut self.children {
            if let Some(mut child) = child.take() {
                child.kill()?;
            }
        }
        Ok(())
    }

    /// Ends all replicas in good order; gives their ends by id.
    pub fn stop_all(&mut self, timeout: Duration) -> Result<Vec<ExitStatus>, ChildError> {
        self.running().for_each(|(_, child)| child.terminate());
        let deadline = Instant::now() + timeout;
        let mut ends = Vec::new();
        for child in &mut self.children {
            if let Some(mut child) = child.take() {
                ends.push(child.wait(deadline.saturating_duration_since(Instant::now()))?);
            }
        }
        Ok(ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_and_memory_are_read_past_a_strange_name() {
        let stat = "4711 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu_time("4711 (short) S 1"), None);
        assert_eq!(rss_max_kib("Name:\tx\nVmHWM:\t   12345 kB\nVmRSS:\t 1 kB\n"), Some(12_345));
        assert_eq!(rss_max_kib("Name:\tx\n"), None);
    }

    fn shell(script: &str) -> Program {
        Program { path: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] }
    }

    #[test]
    fn a_child_is_waited_for_and_its_last_words_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let listener = &bind_loopback(1).unwrap()[0];
        let long = Duration::from_secs(20);
        let start = |script: &str| Child::start(&shell(script), Path::new("x"), listener, &log).unwrap();
        let mut ready = start("echo the replica is ready; exec sleep 60");
        ready.wait_ready(long).unwrap();
        assert!(ready.usage().unwrap().rss_max_kib > 0);
        ready.terminate();
        assert!(!ready.wait(long).unwrap().success());
        let ended = start("echo oh >&2; exit 3").wait_ready(long).unwrap_err().to_string();
        assert!(ended.contains("exit status: 3") && ended.ends_with("oh\n"), "{ended}");
        let late = start("exec sleep 60").wait_ready(Duration::ZERO).unwrap_err();
        assert!(matches!(late, ChildError::TooLate { waited_for: "ready", .. }), "{late}");
    }

    #[test]
    fn the_listener_is_handed_down_as_descriptor_three() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let listener = &bind_loopback(1).unwrap()[0];
        let script = "test $LISTEN_FDS = 1 && readlink /proc/$$/fd/3";
        let mut child = Child::start(&shell(script), Path::new("x"), listener, &log).unwrap();
        assert!(child.wait(Duration::from_secs(20)).unwrap().success());
        let own = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        assert_eq!(child.said().unwrap().trim(), own.display().to_string());
    }
}
