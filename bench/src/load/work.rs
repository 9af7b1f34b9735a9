//! What is sent to a service, and whether its answers are answers. Made without allocating, and checked at the cost of
//! a look.
//!
//! A key of `kv` is its number, u64 little endian. `put` writes a value under a key, `get` reads it, `add` raises a
//! counter; in `mixed` the keys of even number have values and the others are counters: a half of the operations are
//! puts, a quarter gets, a quarter adds.

use bft_services::kv::{Operation, Reply};
use clap::ValueEnum;

use crate::options::WorkPlan;

/// A key.
const KEY_BYTES: usize = 8;
/// The smallest put: kind, length of the key, key.
pub const KV_PUT_BYTES_MIN: usize = 1 + 2 + KEY_BYTES;
/// An add: kind, delta, key.
pub const KV_ADD_BYTES: usize = 1 + 8 + KEY_BYTES;
/// The largest value.
pub const KV_VALUE_BYTES_MAX: usize = 200 * 1024;

/// What is done with the keys of kv.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mix {
    /// Values are written.
    Put,
    /// Values are read: those that were written by --preload.
    Get,
    /// Counters are raised.
    Add,
    /// Half puts, a quarter gets, a quarter adds.
    #[default]
    Mixed,
}

/// What was asked of the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// Nothing: it answers with a fixed number of bytes.
    #[default]
    Nothing,
    /// To store a value.
    Put,
    /// To read one.
    Get,
    /// To raise a counter.
    Add,
}

/// What an answer is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is one.
    Right,
    /// The service refused the operation.
    Refused,
    /// It is not what this operation can be answered with.
    Wrong,
}

/// The operations of one client, one after the other.
#[derive(Debug)]
pub struct Work {
    plan: WorkPlan,
    random: u64,
    /// Of a preload: the next key, and how far it is to the one after it.
    next_key: u64,
    stride: u64,
}

impl Work {
    /// Of client `client` of `clients`.
    pub fn new(plan: WorkPlan, client: usize, clients: usize) -> Self {
        Self { plan, random: client as u64 + 1, next_key: client as u64, stride: clients as u64 }
    }

    /// Appends the next operation to `out`; `None`: there are no more.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Option<Asked> {
        match self.plan {
            WorkPlan::Null { op_bytes, .. } => {
                let number = self.draw().to_le_bytes();
                let from = out.len();
                out.resize(from + op_bytes, 0);
                let some = op_bytes.min(number.len());
                out[from..from + some].copy_from_slice(&number[..some]);
                Some(Asked::Nothing)
            }
            WorkPlan::Kv { mix, keys, value_bytes } => Some(self.any(mix, keys, value_bytes, out)),
            WorkPlan::Preload { mix, keys, value_bytes } => {
                let key = self.next_key;
                self.next_key += self.stride;
                (key < keys)
                    .then(|| if is_counter(mix, key) { add(key, 1, out) } else { self.put(key, value_bytes, out) })
            }
        }
    }

    fn any(&mut self, mix: Mix, keys: u64, value_bytes: usize, out: &mut Vec<u8>) -> Asked {
        let number = self.draw();
        let key = (number >> 2) % keys;
        match mix {
            Mix::Put => self.put(key, value_bytes, out),
            Mix::Get => get(key, out),
            Mix::Add => add(key, 1, out),
            Mix::Mixed => match (number & 3, key | 1) {
                (0, counter) if counter < keys => add(counter, 1, out),
                (1, _) => get(key & !1, out),
                (0 | 2.., _) => self.put(key & !1, value_bytes, out),
            },
        }
    }

    fn put(&mut self, key: u64, value_bytes: usize, out: &mut Vec<u8>) -> Asked {
        let number = self.draw().to_le_bytes();
        let from = out.len() + KV_PUT_BYTES_MIN;
        encode(Operation::Put { key: &key.to_le_bytes(), value: &[] }, out);
        out.resize(from + value_bytes, 0);
        let some = value_bytes.min(number.len());
        out[from..from + some].copy_from_slice(&number[..some]);
        Asked::Put
    }

    /// Looks at an answer.
    pub fn check(&self, asked: Asked, result: &[u8]) -> Verdict {
        match (self.plan, asked) {
            (WorkPlan::Null { reply_bytes, .. }, _) if result.len() == reply_bytes => Verdict::Right,
            (WorkPlan::Null { .. }, _) => Verdict::Wrong,
            (WorkPlan::Kv { .. } | WorkPlan::Preload { .. }, asked) => check_kv(asked, result),
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

/// Whether a key is one that is added to.
fn is_counter(mix: Mix, key: u64) -> bool {
    match mix {
        Mix::Put | Mix::Get => false,
        Mix::Add => true,
        Mix::Mixed => key % 2 == 1,
    }
}

fn get(key: u64, out: &mut Vec<u8>) -> Asked {
    encode(Operation::Get { key: &key.to_le_bytes() }, out);
    Asked::Get
}

fn add(key: u64, delta: i64, out: &mut Vec<u8>) -> Asked {
    encode(Operation::Add { key: &key.to_le_bytes(), delta }, out);
    Asked::Add
}

fn encode(operation: Operation<'_>, out: &mut Vec<u8>) {
    operation.encode(out).expect("keys and values are within their bounds");
}

fn check_kv(asked: Asked, result: &[u8]) -> Verdict {
    let Ok(reply) = Reply::decode(result) else { return Verdict::Wrong };
    let is_right = match asked {
        Asked::Nothing => false,
        Asked::Put => matches!(reply, Reply::Stored(_)),
        Asked::Get => matches!(reply, Reply::Value(_)),
        Asked::Add => matches!(reply, Reply::Counter(_)),
    };
    match reply {
        _ if is_right => Verdict::Right,
        Reply::Error(_) => Verdict::Refused,
        Reply::Value(_)
        | Reply::Stored(_)
        | Reply::Deleted(_)
        | Reply::Swapped
        | Reply::Mismatch(_)
        | Reply::Counter(_)
        | Reply::Count(_)
        | Reply::Appended(_) => Verdict::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn operations(plan: WorkPlan, client: usize, count: usize) -> Vec<(Asked, Vec<u8>)> {
        let mut work = Work::new(plan, client, 3);
        let next = || {
            let mut out = Vec::new();
            work.next(&mut out).map(|asked| (asked, out))
        };
        std::iter::from_fn(next).take(count).collect()
    }

    #[test]
    fn operations_have_the_size_that_was_asked_for() {
        let null = operations(WorkPlan::Null { op_bytes: 5, reply_bytes: 0 }, 0, 10);
        assert!(null.iter().all(|(asked, bytes)| *asked == Asked::Nothing && bytes.len() == 5));
        let kv = operations(WorkPlan::Kv { mix: Mix::Mixed, keys: 100, value_bytes: 21 }, 0, 1000);
        let mut kinds = BTreeMap::new();
        for (asked, bytes) in &kv {
            *kinds.entry(format!("{asked:?}")).or_insert(0) += 1;
            let key = Operation::decode(bytes).unwrap().key().to_vec();
            let key = u64::from_le_bytes(key.try_into().unwrap());
            assert!(key < 100 && is_counter(Mix::Mixed, key) == (*asked == Asked::Add), "{asked:?} {key}");
            let size = match asked {
                Asked::Put => KV_PUT_BYTES_MIN + 21,
                Asked::Get => 1 + KEY_BYTES,
                Asked::Add => KV_ADD_BYTES,
                Asked::Nothing => unreachable!("kv is asked for something"),
            };
            assert_eq!(bytes.len(), size);
        }
        assert!(kinds["Put"] > 400 && kinds["Get"] > 150 && kinds["Add"] > 150, "{kinds:?}");
    }

    #[test]
    fn a_preload_writes_every_key_once() {
        let plan = WorkPlan::Preload { mix: Mix::Mixed, keys: 1000, value_bytes: 8 };
        let mut keys = std::collections::BTreeSet::new();
        for client in 0..3 {
            for (_, bytes) in operations(plan, client, usize::MAX) {
                assert!(keys.insert(Operation::decode(&bytes).unwrap().key().to_vec()));
            }
        }
        assert_eq!(keys.len(), 1000);
    }

    #[test]
    fn answers_are_looked_at() {
        let work = Work::new(WorkPlan::Kv { mix: Mix::Put, keys: 1, value_bytes: 8 }, 0, 1);
        let bytes = |reply: Reply<'_>| {
            let mut out = Vec::new();
            reply.encode(&mut out);
            out
        };
        assert_eq!(work.check(Asked::Get, &bytes(Reply::Value(None))), Verdict::Right);
        assert_eq!(work.check(Asked::Put, &bytes(Reply::Value(None))), Verdict::Wrong);
        assert_eq!(work.check(Asked::Add, &[0, 4]), Verdict::Refused);
        assert_eq!(work.check(Asked::Add, &[]), Verdict::Wrong);
        let null = Work::new(WorkPlan::Null { op_bytes: 1, reply_bytes: 3 }, 0, 1);
        assert_eq!(null.check(Asked::Nothing, &[0; 3]), Verdict::Right);
        assert_eq!(null.check(Asked::Nothing, &[0; 2]), Verdict::Wrong);
    }
}
