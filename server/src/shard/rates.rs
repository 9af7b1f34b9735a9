//! How much one client's key may bring in a second, where the operator says so: a place in time for each key (the
//! generic cell rate algorithm of ITU-T I.371, one number a key), moved on by what each Request costs. Local to a shard
//! and to this replica: what other replicas pass on is theirs to limit.
//!
//! Kept here: no Request is too large for a rate, it only makes the next ones wait longer; the table is bounded and holds
//! those that brought most.

use std::collections::BTreeMap;

use bft_core::ids::{Nanos, PublicKey};
use bft_core::limits::{CLIENT_BUSY_MAX, SECOND};

/// What a key that was quiet may bring at once: as much as in this time.
const BURST: u64 = SECOND;
/// Keys in the table.
const KEYS_MAX: usize = 8192;

/// The most that one client's key may bring in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientRates {
    /// Requests, whatever they hold; 0: as many as there is room for.
    pub requests: u64,
    /// Bytes of them; 0: as many as there is room for.
    pub bytes: u64,
}

impl ClientRates {
    /// For how long a Request of `len` bytes uses a rate up: the longer time of the two.
    fn cost(self, len: usize) -> u64 {
        let time = |amount: u64, rate: u64| amount.saturating_mul(SECOND).checked_div(rate).unwrap_or(0);
        time(1, self.requests).max(time(len as u64, self.bytes))
    }
}

#[derive(Clone, Copy, Debug)]
struct Account {
    /// All that was taken is paid for by then.
    paid: Nanos,
    /// All that was refused was told to come by then.
    told: Nanos,
}

/// The table.
#[derive(Debug)]
pub struct Rates {
    rates: ClientRates,
    accounts: BTreeMap<PublicKey, Account>,
}

impl Rates {
    /// An empty one.
    #[must_use]
    pub fn new(rates: ClientRates) -> Self {
        Self { rates, accounts: BTreeMap::new() }
    }

    /// Takes a Request of `len` bytes, or says in how many milliseconds to come again. Those that are refused at one time
    /// are told different times.
    pub fn take(&mut self, now: Nanos, client: PublicKey, len: usize) -> Result<(), u32> {
        let cost = self.rates.cost(len);
        if cost == 0 {
            return Ok(());
        }
        self.make_room(now, client);
        let account = self.accounts.entry(client).or_insert(Account { paid: now, told: now });
        let ahead = account.paid.since(now);
        if ahead < BURST {
            account.paid = account.paid.max(now).after(cost);
            return Ok(());
        }
        let first = now.after(ahead - BURST + 1);
        account.told = account.told.max(first).after(cost).min(now.after(CLIENT_BUSY_MAX));
        let wait = account.told.since(now).div_ceil(bft_core::limits::MILLISECOND);
        Err(u32::try_from(wait).expect("at most a second"))
    }

    /// Who owes nothing needs no place; where all owe, who owes least gives up theirs.
    fn make_room(&mut self, now: Nanos, client: PublicKey) {
        if self.accounts.len() < KEYS_MAX || self.accounts.contains_key(&client) {
            return;
        }
        self.accounts.retain(|_, account| account.paid > now || account.told > now);
        if self.accounts.len() == KEYS_MAX {
            let least = self.accounts.iter().min_by_key(|(_, account)| account.paid).map(|(client, _)| *client);
            self.accounts.remove(&least.expect("a full table is not empty"));
        }
    }
}

#[cfg(test)]
mod tests {
    use bft_core::limits::MILLISECOND;

    use super::*;

    const CLIENT: PublicKey = PublicKey([1; 32]);

    fn rates(requests: u64, bytes: u64) -> Rates {
        Rates::new(ClientRates { requests, bytes })
    }

    /// How many Requests of `len` bytes are taken in ten seconds from one that is sent every millisecond.
    fn taken(rates: &mut Rates, len: usize) -> usize {
        (0..10_000).filter(|at| rates.take(Nanos(at * MILLISECOND), CLIENT, len).is_ok()).count()
    }

    #[test]
    fn pf4_a_client_brings_a_second_at_once_and_then_its_rate() {
        assert_eq!(taken(&mut rates(0, 0), 100), 10_000, "no rate, no limit");
        assert_eq!(taken(&mut rates(50, 0), 1 << 20), 11 * 50, "Requests, however large");
        assert_eq!(taken(&mut rates(0, 50 * 100), 100), 11 * 50, "bytes, in however many Requests");
        assert_eq!(taken(&mut rates(50, 20 * 100), 100), 11 * 20, "whichever is less");
    }

    #[test]
    fn pf4_what_is_larger_than_a_rate_is_taken_and_paid_for_afterwards() {
        let mut rates = rates(0, 1000);
        assert_eq!(rates.take(Nanos(SECOND), CLIENT, 5000), Ok(()));
        assert_eq!(rates.take(Nanos(SECOND), CLIENT, 1), Err(1000), "told as late as clients believe");
        assert!(rates.take(Nanos(5 * SECOND), CLIENT, 1).is_err());
        assert_eq!(rates.take(Nanos(5 * SECOND + 1), CLIENT, 1), Ok(()));
    }

    #[test]
    fn pf4_who_is_refused_is_told_when_there_is_room_and_each_another_time() {
        let mut rates = rates(100, 0);
        let now = Nanos(SECOND);
        assert!((0..100).all(|_| rates.take(now, CLIENT, 1).is_ok()));
        let told: Vec<_> = (0..20).map(|_| rates.take(now, CLIENT, 1).unwrap_err()).collect();
        assert!(told.windows(2).all(|pair| (9..=11).contains(&(pair[1] - pair[0]))), "{told:?}");
        for wait in told {
            assert_eq!(rates.take(now.after(u64::from(wait) * MILLISECOND), CLIENT, 1), Ok(()), "after {wait} ms");
        }
        assert_eq!(rates.take(now, PublicKey([2; 32]), 1), Ok(()), "another key has a rate of its own");
    }

    #[test]
    fn mem1_the_table_of_rates_is_bounded_and_keeps_who_owes_most() {
        let mut rates = rates(1, 0);
        let key = |i: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&i.to_be_bytes());
            PublicKey(bytes)
        };
        let glutton = key(u32::MAX);
        assert_eq!(rates.take(Nanos(2), glutton, 1), Ok(()));
        for i in 0..2 * KEYS_MAX as u32 {
            assert_eq!(rates.take(Nanos(1), key(i), 1), Ok(()));
        }
        assert_eq!(rates.accounts.len(), KEYS_MAX);
        assert!(rates.take(Nanos(2), glutton, 1).is_err());
        assert_eq!(rates.take(Nanos(5 * SECOND), key(u32::MAX - 1), 1), Ok(()));
        assert_eq!(rates.accounts.len(), 1, "who owes nothing is forgotten");
    }
}
