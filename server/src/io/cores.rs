//! Where threads run. A thread begins on the cores of the one that starts it, and an executor may be pinned to one: what is
//! to run beside it must not begin there.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::ServerError;

/// The cores that this thread had before an executor was made on it.
pub struct Cores(CpuSet);

impl Cores {
    /// Those of the calling thread.
    pub fn of_this_thread() -> Result<Self, ServerError> {
        sched_getaffinity(None).map(Self).map_err(|error| ServerError::Executor(format!("the cores granted: {error}")))
    }

    /// Keeps the calling thread on one of them, the `number`-th, counted round and round.
    pub fn pin(&self, number: usize) -> Result<(), ServerError> {
        let granted: Vec<_> = (0..CpuSet::MAX_CPU).filter(|core| self.0.is_set(*core)).collect();
        let mut one = CpuSet::new();
        one.set(granted[number % granted.len()]);
        sched_setaffinity(None, &one).map_err(|error| ServerError::Executor(format!("pin to a core: {error}")))
    }

    /// Runs `start` with all of them, so that threads which it starts have them; then this thread has its own again.
    pub fn with_all<T>(&self, start: impl FnOnce() -> T) -> T {
        let own = sched_getaffinity(None);
        take(&self.0);
        let started = start();
        if let Ok(own) = own {
            take(&own);
        }
        started
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        take(&self.0);
    }
}

/// Where the system takes cores away meanwhile, a thread stays where it is: it is slower there, and no less right.
fn take(cores: &CpuSet) {
    if let Err(error) = sched_setaffinity(None, cores) {
        tracing::warn!(%error, "a thread stays on the cores that it has");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mine() -> CpuSet {
        sched_getaffinity(None).unwrap()
    }

    #[test]
    fn threads_that_a_pinned_one_starts_have_all_cores() {
        let all = mine();
        let cores = Cores::of_this_thread().unwrap();
        cores.pin(all.count() as usize).unwrap();
        let mut one = CpuSet::new();
        one.set((0..CpuSet::MAX_CPU).find(|core| all.is_set(*core)).unwrap());
        assert_eq!(mine(), one, "they are counted round and round");
        assert_eq!(std::thread::spawn(mine).join().unwrap(), one, "they inherit it otherwise");
        assert_eq!(cores.with_all(|| std::thread::spawn(mine)).join().unwrap(), all);
        assert_eq!(mine(), one);
        drop(cores);
        assert_eq!(mine(), all, "and so has the caller in the end");
    }
}
