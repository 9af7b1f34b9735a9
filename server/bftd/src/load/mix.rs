//! What one client asks for, and what it may be answered. First every key is written once, each by one client; then
//! puts, gets, adds and compare-and-swaps come as a sequence of pseudo-random numbers says. Gets, puts and adds of all
//! clients meet on the same keys.

use std::ops::Range;

use bft_services::kv::{Operation, Reply};

/// Keys with values.
const VALUES: u32 = 8192;
/// Keys with counters.
pub const COUNTERS: u32 = 2048;
/// Keys that are compared and swapped.
const CELLS: u32 = 512;

/// How many keys the load is over.
pub const KEYS: u32 = VALUES + COUNTERS + CELLS;

const KEYS_BEFORE_CELLS: u32 = VALUES + COUNTERS;

const _: () = assert!(KEYS >= 10_000, "the demo promises so many");

/// The bytes of an operation of the service `null`.
const NULL_OPERATION_BYTES: usize = 16;

/// Which service the load is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// The key-value service.
    Kv,
    /// The service that does nothing.
    Null,
}

impl Workload {
    /// The service's name.
    pub fn service(self) -> &'static str {
        match self {
            Self::Kv => "kv",
            Self::Null => "null",
        }
    }
}

/// An operation on its way.
#[derive(Clone, Copy, Debug)]
pub enum Asked {
    Put,
    Get { key: u32 },
    Add { delta: i64 },
    Swap { cell: u32, number: u64 },
    Nothing,
}

/// One client's operations.
pub struct Mix {
    workload: Workload,
    client: u32,
    clients: u32,
    /// Keys from here on still wait for their first write.
    unwritten: Range<u32>,
    random: u64,
    /// What this client knows of each of its cells; 0: nothing is in it.
    cells: Vec<u64>,
    /// All that was added and acknowledged.
    added: i64,
}

/// The name of a counter.
pub fn counter_key(index: u32) -> String {
    format!("counter/{index:05}")
}

fn value_key(index: u32) -> String {
    format!("value/{index:05}")
}

fn cell_key(index: u32) -> String {
    format!("cell/{index:05}")
}

/// Shows what key it belongs to, and says something of its own.
fn value(key: &str, number: u64) -> String {
    format!("{key}={number:016x}")
}

impl Mix {
    /// Of client `client` of `clients`.
    pub fn new(workload: Workload, client: u32, clients: u32) -> Self {
        assert!(KEYS_BEFORE_CELLS.is_multiple_of(clients) && CELLS.is_multiple_of(clients), "every client has as many");
        let cells = vec![0; (CELLS / clients) as usize];
        let unwritten = match workload {
            Workload::Kv => client..KEYS,
            Workload::Null => 0..0,
        };
        Self { workload, client, clients, unwritten, random: u64::from(client) + 1, cells, added: 0 }
    }

    /// What was added to counters and acknowledged.
    pub fn added(&self) -> i64 {
        self.added
    }

    /// Puts the next operation into `out`.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Asked {
        out.clear();
        match self.workload {
            Workload::Null => {
                let number = self.draw();
                out.resize(NULL_OPERATION_BYTES, 0);
                out[..8].copy_from_slice(&number.to_le_bytes());
                Asked::Nothing
            }
            Workload::Kv if !self.unwritten.is_empty() => self.first_write(out),
            Workload::Kv => self.any(out),
        }
    }

    fn first_write(&mut self, out: &mut Vec<u8>) -> Asked {
        let key = self.unwritten.start;
        self.unwritten.start = key.saturating_add(self.clients).min(KEYS);
        if key < VALUES {
            self.put(key, out)
        } else if key < KEYS_BEFORE_CELLS {
            self.add(key - VALUES, out)
        } else {
            self.swap((key - KEYS_BEFORE_CELLS) / self.clients, out)
        }
    }

    fn any(&mut self, out: &mut Vec<u8>) -> Asked {
        let below = |number: u64, bound: u32| (number % u64::from(bound)) as u32;
        let number = self.draw();
        match below(number >> 32, 10) {
            0..4 => self.put(below(number, VALUES), out),
            4..7 => {
                let key = below(number, VALUES);
                encode(Operation::Get { key: value_key(key).as_bytes() }, out);
                Asked::Get { key }
            }
            7..9 => self.add(below(number, COUNTERS), out),
            _ => self.swap(below(number, self.cells.len() as u32), out),
        }
    }

    fn put(&mut self, key: u32, out: &mut Vec<u8>) -> Asked {
        let key = value_key(key);
        let value = value(&key, self.draw());
        encode(Operation::Put { key: key.as_bytes(), value: value.as_bytes() }, out);
        Asked::Put
    }

    fn add(&mut self, counter: u32, out: &mut Vec<u8>) -> Asked {
        let delta = 1 + (self.draw() % 9) as i64;
        encode(Operation::Add { key: counter_key(counter).as_bytes(), delta }, out);
        Asked::Add { delta }
    }

    /// On the client's `own`-th cell: what it knows of it is right but for its own swaps on their way.
    fn swap(&mut self, own: u32, out: &mut Vec<u8>) -> Asked {
        let key = cell_key(own * self.clients + self.client);
        let number = self.draw() | 1;
        let known = self.cells[own as usize];
        let expect = (known != 0).then(|| value(&key, known));
        let expect = expect.as_ref().map(String::as_bytes);
        encode(Operation::Cas { key: key.as_bytes(), expect, value: value(&key, number).as_bytes() }, out);
        Asked::Swap { cell: own, number }
    }

    /// Looks at an answer, and learns from it; an error says what may not be.
    pub fn answered(&mut self, asked: Asked, result: &[u8]) -> Result<(), String> {
        if let Asked::Nothing = asked {
            return if result.is_empty() { Ok(()) } else { Err(format!("null answered {} bytes", result.len())) };
        }
        let reply = Reply::decode(result).map_err(|error| error.to_string())?;
        match (asked, reply) {
            (Asked::Put, Reply::Stored(_)) => Ok(()),
            (Asked::Get { key }, Reply::Value(found)) => belongs(&value_key(key), found).map(drop),
            (Asked::Add { delta }, Reply::Counter(sum)) if sum >= delta => {
                self.added += delta;
                Ok(())
            }
            (Asked::Swap { cell, number }, Reply::Swapped) => {
                self.cells[cell as usize] = number;
                Ok(())
            }
            (Asked::Swap { cell, .. }, Reply::Mismatch(found)) => {
                let key = cell_key(cell * self.clients + self.client);
                self.cells[cell as usize] = belongs(&key, found)?;
                Ok(())
            }
            (asked, reply) => Err(format!("{asked:?} was answered with {reply:?}")),
        }
    }

    /// A pseudo-random number (SplitMix64).
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn encode(operation: Operation<'_>, out: &mut Vec<u8>) {
    operation.encode(out).expect("keys and values of the demo are short");
}

/// The number in a value, if it is one that was written under `key`; 0 if there is none.
fn belongs(key: &str, found: Option<&[u8]>) -> Result<u64, String> {
    let Some(found) = found else { return Ok(0) };
    let text = std::str::from_utf8(found).ok().and_then(|text| text.strip_prefix(key)?.strip_prefix('='));
    let number = text.and_then(|text| u64::from_str_radix(text, 16).ok());
    number.ok_or_else(|| format!("under {key} was found {:?}", String::from_utf8_lossy(found)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_key_is_written_once_before_anything_else() {
        let mut keys = BTreeSet::new();
        let mut out = Vec::new();
        let mut mixes: Vec<_> = (0..4).map(|client| Mix::new(Workload::Kv, client, 4)).collect();
        for mix in &mut mixes {
            while !mix.unwritten.is_empty() {
                mix.next(&mut out);
                assert!(keys.insert(Operation::decode(&out).unwrap().key().to_vec()), "{out:?}");
            }
        }
        for mix in &mut mixes {
            for _ in 0..1000 {
                mix.next(&mut out);
                assert!(keys.contains(Operation::decode(&out).unwrap().key()), "{out:?}");
            }
        }
        assert_eq!(keys.len(), KEYS as usize);
    }

    #[test]
    fn wrong_answers_are_seen() {
        let mut mix = Mix::new(Workload::Kv, 0, 4);
        let bytes = |reply: Reply<'_>| {
            let mut out = Vec::new();
            reply.encode(&mut out);
            out
        };
        let value = value("value/00007", 9);
        assert_eq!(mix.answered(Asked::Get { key: 7 }, &bytes(Reply::Value(Some(value.as_bytes())))), Ok(()));
        assert!(mix.answered(Asked::Get { key: 8 }, &bytes(Reply::Value(Some(value.as_bytes())))).is_err());
        assert!(mix.answered(Asked::Put, &bytes(Reply::Swapped)).is_err());
        assert!(mix.answered(Asked::Add { delta: 3 }, &bytes(Reply::Counter(2))).is_err());
        assert_eq!(mix.added(), 0);
        assert_eq!(mix.answered(Asked::Add { delta: 3 }, &bytes(Reply::Counter(3))), Ok(()));
        assert_eq!(mix.added(), 3);
        assert!(mix.answered(Asked::Nothing, b"x").is_err());
    }
}
