//! Where everything happens: namespaces for network, mounts and processes that this program makes for itself. The host's
//! interfaces, mounts and `/run` are not touched, and nothing can be left of them: all processes inside end with the
//! first one, and with the last process the networks and mounts are gone.
//!
//! The outer process waits; the inner one, process 1 of its namespace, does the work. The folder on the host's disk
//! belongs to the outer one, which removes it however the inner one ended; killed itself, it takes the inner one along
//! and leaves the folder.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::Duration;

use bft_cli::exit::{Failure, Reason, because};
use bft_cli::output;
use bft_cli::stop::Stop;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// How often the outer process looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The option with which this program calls itself inside.
pub const INSIDE: &str = "--inside";

/// What becomes of the folder in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// It goes.
    Removed,
    /// It stays, for people to look at.
    Kept,
}

/// Runs this program again with the same arguments, inside; gives its exit code.
pub fn enclose(folder: Folder) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals(Reason::Interrupted)?;
    let made = tempfile::Builder::new().prefix("bft-blackbox-").disable_cleanup(folder == Folder::Kept).tempdir();
    let made = made.map_err(|error| Failure::new(Reason::Unavailable, format!("make a temporary folder: {error}")))?;
    unshare(UnshareFlags::NEWPID)?;
    let own = std::env::current_exe().map_err(because(Reason::Unavailable))?;
    let arguments = std::env::args_os().skip(1).chain([OsString::from(INSIDE), made.path().into()]);
    let inner = Command::new(own).args(arguments).process_group(0).spawn().map_err(because(Reason::Unavailable))?;
    let status = wait(inner, &stop)?;
    match folder {
        Folder::Kept => output::complain(&format!("kept: {}", made.path().display())),
        Folder::Removed => made.close().map_err(because(Reason::Failed))?,
    }
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(Reason::Failed as u8)))
}

/// Passes the first signal on; the second ends this process, and with it the inner one.
fn wait(mut inner: Child, stop: &Stop) -> Result<ExitStatus, Failure> {
    let mut is_told = false;
    loop {
        if let Some(status) = inner.try_wait().map_err(because(Reason::Failed))? {
            return Ok(status);
        }
        if stop.is_told() && !is_told {
            is_told = true;
            // It may have ended just now.
            let _ = kill_process(Pid::from_child(&inner), Signal::TERM);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Makes itself at home inside: the first thing that the inner process does.
pub fn settle() -> Result<(), Failure> {
    if !rustix::process::getpid().is_init() {
        return Err(Failure::new(Reason::Usage, format!("{INSIDE} is for this program's own use")));
    }
    let unavailable = |what: &'static str| move |error| Failure::new(Reason::Unavailable, format!("{what}: {error}"));
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(unavailable("ask to die with the parent"))?;
    unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(unavailable("make the mounts private"))?;
    mount("proc", "/proc", "proc", MountFlags::empty(), None).map_err(unavailable("mount /proc"))?;
    // Where `ip netns` keeps the names of namespaces.
    mount_memory(Path::new("/run"), "4m")?;
    ip(&["link", "set", "lo", "up"])
}

fn unshare(namespaces: UnshareFlags) -> Result<(), Failure> {
    // SAFETY: descriptors stay shared, and this process has one thread.
    unsafe { unshare_unsafe(namespaces) }.map_err(|error| {
        let what = format!("namespaces for network, mounts and processes: {error}; they need root (CAP_SYS_ADMIN)");
        Failure::new(Reason::Unavailable, what)
    })
}

/// Mounts a file system in memory of this size, as the kernel writes sizes.
pub fn mount_memory(at: &Path, size: &str) -> Result<(), Failure> {
    let options = std::ffi::CString::new(format!("size={size},mode=0755")).expect("a size has no NUL");
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
        .map_err(|error| Failure::new(Reason::Unavailable, format!("mount a tmpfs at {}: {error}", at.display())))
}

/// Calls `ip`.
pub fn ip(arguments: &[&str]) -> Result<(), Failure> {
    let told = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| Failure::new(Reason::Unavailable, format!("`ip` cannot be run: {error}; install iproute2")))?;
    if told.status.success() {
        return Ok(());
    }
    let (words, complaint) = (arguments.join(" "), String::from_utf8_lossy(&told.stderr).into_owned());
    Err(Failure::new(Reason::Unavailable, format!("ip {words}: {}", complaint.trim())))
}
