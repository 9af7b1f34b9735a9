//! How a transfer of state goes, for people: lines in the log, at most one in a second, and numbers in INFO.

use bft_core::ids::{Nanos, Seq};
use bft_core::limits::SECOND;
use bft_core::replica::Progress;

/// Watches the transfers of a replica.
#[derive(Debug, Default)]
pub struct TransferWatch {
    current: Option<Watched>,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    progress: Progress,
    /// When it began to be fetched, and what the disk held then.
    since: Nanos,
    held_then: u64,
    /// When a line was last written.
    told: Nanos,
}

impl Watched {
    fn bytes_per_second(&self, now: Nanos) -> u64 {
        let fetched = u128::from(self.progress.bytes_held.saturating_sub(self.held_then));
        let elapsed = u128::from(now.since(self.since).max(1));
        u64::try_from(fetched * u128::from(SECOND) / elapsed).unwrap_or(u64::MAX)
    }

    fn seconds_left(&self, now: Nanos) -> Option<u64> {
        let left = self.progress.bytes - self.progress.bytes_held;
        left.checked_div(self.bytes_per_second(now))
    }
}

impl TransferWatch {
    /// How far the core is now.
    pub fn look(&mut self, now: Nanos, progress: Option<Progress>) {
        let former = self.current.take();
        let Some(progress) = progress else {
            if let Some(former) = former {
                tracing::info!(seq = former.progress.seq.0, bytes = former.progress.bytes, "state transfer has ended");
            }
            return;
        };
        // The disk says at the beginning what it holds already.
        let same =
            former.filter(|former| former.progress.seq == progress.seq && former.progress.bytes == progress.bytes);
        let mut watched = same.unwrap_or_else(|| {
            tracing::info!(
                seq = progress.seq.0,
                bytes = progress.bytes,
                "state transfer: a snapshot is fetched from peers"
            );
            Watched { progress, since: now, held_then: progress.bytes_held, told: now }
        });
        watched.progress = progress;
        if now.since(watched.told) >= SECOND {
            watched.told = now;
            tracing::info!(
                seq = progress.seq.0,
                bytes = progress.bytes,
                bytes_held = progress.bytes_held,
                bytes_per_second = watched.bytes_per_second(now),
                seconds_left = watched.seconds_left(now),
                "state transfer"
            );
        }
        self.current = Some(watched);
    }

    /// What INFO says of the transfer that is under way; nothing while there is none.
    #[must_use]
    pub fn named(&self, now: Nanos) -> Vec<(&'static str, u64)> {
        let Some(watched) = &self.current else { return Vec::new() };
        let Progress { seq: Seq(seq), bytes, bytes_held } = watched.progress;
        let mut named = vec![
            ("transfer_seq", seq),
            ("transfer_bytes", bytes),
            ("transfer_bytes_held", bytes_held),
            ("transfer_bytes_per_second", watched.bytes_per_second(now)),
        ];
        named.extend(watched.seconds_left(now).map(|seconds| ("transfer_seconds_left", seconds)));
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(bytes_held: u64) -> Option<Progress> {
        Some(Progress { seq: Seq(8), bytes: 1000, bytes_held })
    }

    #[test]
    fn the_rate_is_of_what_was_fetched_and_not_of_what_was_there() {
        let mut watch = TransferWatch::default();
        assert!(watch.named(Nanos(5)).is_empty());
        watch.look(Nanos(5 * SECOND), progress(200));
        watch.look(Nanos(7 * SECOND), progress(400));
        let expected = [
            ("transfer_seq", 8),
            ("transfer_bytes", 1000),
            ("transfer_bytes_held", 400),
            ("transfer_bytes_per_second", 100),
            ("transfer_seconds_left", 6),
        ];
        assert_eq!(watch.named(Nanos(7 * SECOND)), expected);
        watch.look(Nanos(8 * SECOND), None);
        assert!(watch.named(Nanos(8 * SECOND)).is_empty());
    }

    #[test]
    fn without_a_rate_nobody_guesses_the_end() {
        let mut watch = TransferWatch::default();
        watch.look(Nanos(SECOND), progress(200));
        watch.look(Nanos(2 * SECOND), progress(200));
        assert!(watch.named(Nanos(2 * SECOND)).iter().all(|(name, _)| *name != "transfer_seconds_left"));
    }
}
