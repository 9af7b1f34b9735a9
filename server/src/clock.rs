//! The process's clocks and what it has used so far: the only place in this crate that asks the system for them.

use bft_core::door::Now;
use bft_core::ids::{Nanos, WallNanos};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Both clocks.
#[must_use]
pub fn now() -> Now {
    Now {
        mono: Nanos(nanos(clock_gettime(ClockId::Monotonic))),
        wall: WallNanos(nanos(clock_gettime(ClockId::Realtime))),
    }
}

/// CPU time of the process in microseconds.
#[must_use]
pub fn cpu_us() -> u64 {
    nanos(clock_gettime(ClockId::ProcessCPUTime)) / 1000
}

/// Largest resident memory of the process so far, in KiB; 0 where the system does not tell.
#[must_use]
pub fn rss_max_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse().ok()).unwrap_or(0)
}

/// A wall clock before 1970 reads as 1970.
fn nanos(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_move_and_memory_is_known() {
        let first = now();
        let second = now();
        assert!(second.mono >= first.mono && first.wall > WallNanos(1_600_000_000_000_000_000));
        assert!(cpu_us() > 0 && rss_max_kib() > 100);
    }
}
