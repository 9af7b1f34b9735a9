//! Threads that take no signals: those are the program's, whatever it does with them.

use std::io;
use std::mem::MaybeUninit;
use std::thread::{Builder, JoinHandle};

/// Starts a thread with every signal blocked but those that a thread raises by its own fault.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    // A thread begins with the mask of the one that makes it: so nothing is delivered in between.
    let former = block_all();
    let thread = Builder::new().name(name.into()).spawn(body);
    restore(&former);
    thread
}

fn block_all() -> libc::sigset_t {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut former = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` initialises `all`, the others get pointers to initialised sets and valid signal numbers;
    // `pthread_sigmask` initialises `former`, and cannot fail for SIG_SETMASK.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        for own_fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL] {
            libc::sigdelset(all.as_mut_ptr(), own_fault);
        }
        let failed = libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), former.as_mut_ptr());
        assert_eq!(failed, 0);
        former.assume_init()
    }
}

fn restore(former: &libc::sigset_t) {
    // SAFETY: `former` was filled in by `block_all`; no old mask is asked for.
    let failed = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, former, std::ptr::null_mut()) };
    assert_eq!(failed, 0);
}
