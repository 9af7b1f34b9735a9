//! When the operations of an open loop are due: at fixed times, whatever has become of the earlier ones. Latencies are
//! counted from these times, never from when an operation could be sent: so a stall shows in every operation that it
//! kept waiting (no coordinated omission).

const SECOND: u128 = 1_000_000_000;

/// The times of one client's operations: those of the whole load are dealt out to the clients in turn.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start: u64,
    rate: u64,
    client: u64,
    clients: u64,
}

impl Schedule {
    /// Of client `client` of `clients` that start `rate` operations a second together, from `start` on.
    pub fn new(start: u64, rate: u64, client: usize, clients: usize) -> Self {
        assert!(rate > 0 && client < clients, "a rate, and one of the clients");
        Self { start, rate, client: client as u64, clients: clients as u64 }
    }

    /// When this client's operation `number`, from 0, is due, in nanoseconds.
    pub fn time(&self, number: u64) -> u64 {
        let before = u128::from(self.client) + u128::from(number) * u128::from(self.clients);
        let after = before * SECOND / u128::from(self.rate);
        u64::try_from(u128::from(self.start) + after).unwrap_or(u64::MAX)
    }

    /// How many of this client's operations are due at `now`.
    pub fn due(&self, now: u64) -> u64 {
        let Some(elapsed) = now.checked_sub(self.start) else { return 0 };
        // The last one of the whole load whose rounded-down time is not after `now`.
        let last = (u128::from(elapsed) + 1) * u128::from(self.rate);
        let all = last.div_ceil(SECOND);
        let own = all.saturating_sub(u128::from(self.client)).div_ceil(u128::from(self.clients));
        u64::try_from(own).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_what_has_a_time_until_now() {
        for (rate, clients) in [(1, 1), (3, 2), (7, 3), (1000, 4), (999_999_937, 5)] {
            for client in 0..clients {
                let schedule = Schedule::new(1_000, rate, client, clients);
                assert_eq!(schedule.due(999), 0);
                for number in 0..200 {
                    let time = schedule.time(number);
                    assert!(schedule.due(time) > number, "{rate} {clients} {client} {number}");
                    let next = schedule.time(number + 1);
                    if next > time {
                        assert_eq!(schedule.due(next - 1), number + 1, "{rate} {clients} {client} {number}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_clients_together_keep_the_rate() {
        let second = 1_000_000_000;
        let due = |rate| (0..7).map(|client| Schedule::new(5, rate, client, 7).due(5 + second - 1)).sum::<u64>();
        assert_eq!((due(1), due(10), due(123_457)), (1, 10, 123_457));
    }
}
