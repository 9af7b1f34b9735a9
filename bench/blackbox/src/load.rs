//! Clients that write, swap and append, and note all that they saw: each on a thread of its own, at a bounded rate, on
//! objects that are new every second, so that no object's history grows beyond what a check can do.
//!
//! Invariants: every operation that was taken by its client is in the notes once, with a time before it was submitted
//! and one after its answer was there; every value written and every element appended is another one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bft_cli::exit::{Failure, Reason, because};
use bft_client::{Client, ClientConfig, Completion, Completions, Outcome, Submit, Wait};
use bft_histories::{list, register};
use bft_services::kv::{Operation, Reply};

use crate::draw::Draw;

/// Clients. Two at a time share a thread and links.
const CLIENTS: usize = 6;
/// Operations of each that are under way.
const UNDER_WAY_MAX: usize = 2;
/// What each waits between two of them.
const PACE: Duration = Duration::from_millis(15);
/// Objects that are used in the same second.
const REGISTERS: u64 = 3;
const LISTS: u64 = 3;
/// How long an operation may take: longer than any fault; the first client is impatient, and leaves some unknown.
const TIMEOUT: Duration = Duration::from_secs(40);
const IMPATIENCE: Duration = Duration::from_millis(700);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// An element of a list, or a value of a register.
const VALUE_BYTES: usize = size_of::<u64>();

/// An object of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// A register of this second, and which.
    Register(u64, u64),
    /// A list of this second, and which.
    List(u64, u64),
}

impl Object {
    fn key(self) -> String {
        match self {
            Self::Register(second, which) => format!("register/{second}/{which}"),
            Self::List(second, which) => format!("list/{second}/{which}"),
        }
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Of a register.
    Register(register::Call),
    /// Of a list.
    List(list::Call),
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A register answered.
    Register(register::Answer),
    /// A list answered.
    List(list::Answer),
    /// Nobody knows whether it was carried out, or will be.
    Unknown,
    /// It was not carried out, and never will be.
    NotSent,
    /// The service said what it may not say.
    Strange(String),
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// On which object.
    pub object: Object,
    /// What was asked for.
    pub call: Call,
    /// When, in nanoseconds since the start of the load.
    pub invoked: u64,
    /// When it had ended.
    pub ended: u64,
    /// How.
    pub ending: Ending,
}

impl Note {
    fn is_answered(&self) -> bool {
        matches!(self.ending, Ending::Register(_) | Ending::List(_))
    }
}

struct Shared {
    origin: Instant,
    /// Nothing more is begun.
    is_over: AtomicBool,
    /// Nobody wants to know how what is under way ends.
    is_abandoned: AtomicBool,
    notes: Mutex<Vec<Note>>,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("a process does not run for 584 years")
    }

    fn notes(&self) -> MutexGuard<'_, Vec<Note>> {
        // Nothing that is done under this lock panics halfway.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clients at work.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    config: ClientConfig,
}

impl Load {
    /// Starts them.
    pub fn start(config: &ClientConfig, seed: u64) -> Result<Self, Failure> {
        let shared = Arc::new(Shared {
            origin: Instant::now(),
            is_over: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
            notes: Mutex::default(),
        });
        let mut clients = Vec::new();
        for _ in 0..CLIENTS / 2 {
            clients.extend(open(config, 2)?);
        }
        let worker = |(index, client)| {
            let worker = Worker::new(index as u64, client, shared.clone(), seed);
            std::thread::spawn(|| worker.run())
        };
        let threads = clients.into_iter().enumerate().map(worker).collect();
        Ok(Self { shared, threads, config: config.clone() })
    }

    /// Nanoseconds since the start.
    pub fn now(&self) -> u64 {
        self.shared.now()
    }

    /// When the first answer came to an operation that was begun at `since` or later.
    pub fn first_answer_to(&self, since: u64) -> Option<u64> {
        let notes = self.shared.notes();
        notes.iter().filter(|note| note.invoked >= since && note.is_answered()).map(|note| note.ended).min()
    }

    /// How many operations were begun at `since` or later, and answered by now.
    pub fn answered_since(&self, since: u64) -> usize {
        self.shared.notes().iter().filter(|note| note.invoked >= since && note.is_answered()).count()
    }

    /// Begins nothing more, waits for all ends, and reads every object once more.
    pub fn stop(mut self) -> Result<Vec<Note>, Failure> {
        self.join();
        let mut objects: Vec<_> = self.shared.notes().iter().map(|note| note.object).collect();
        objects.sort_unstable();
        objects.dedup();
        let reader = open(&self.config, 1)?.remove(0);
        for object in objects {
            let call = match object {
                Object::Register(..) => Call::Register(register::Call::Read),
                Object::List(..) => Call::List(list::Call::Read),
            };
            let invoked = self.shared.now();
            let ending = ending(call, &reader.call(&encoded(object, call), TIMEOUT));
            self.shared.notes().push(Note { object, call, invoked, ended: self.shared.now(), ending });
        }
        Ok(std::mem::take(&mut *self.shared.notes()))
    }

    fn join(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a panic of a client was printed by its thread");
        }
    }
}

fn open(config: &ClientConfig, sessions: usize) -> Result<Vec<Client>, Failure> {
    Client::open_many(config.clone(), sessions, |_| Completions::Queue).map_err(because(Reason::Failed))
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.is_abandoned.store(true, Ordering::Relaxed);
        self.join();
    }
}

/// One client.
struct Worker {
    index: u64,
    client: Client,
    shared: Arc<Shared>,
    draw: Draw,
    /// Values and elements so far.
    number: u64,
    /// What is under way, by tag.
    open: BTreeMap<u64, (Object, Call, u64)>,
    /// What it last saw in the registers of a second.
    seen: BTreeMap<u64, Option<u64>>,
    second: u64,
}

impl Worker {
    fn new(index: u64, client: Client, shared: Arc<Shared>, seed: u64) -> Self {
        let draw = Draw::new(seed.wrapping_mul(1000).wrapping_add(index));
        Self { index, client, shared, draw, number: 0, open: BTreeMap::new(), seen: BTreeMap::new(), second: 0 }
    }

    fn run(mut self) {
        let mut next = Instant::now();
        let mut completions = Vec::new();
        loop {
            let is_over = self.shared.is_over.load(Ordering::Relaxed);
            if is_over && (self.open.is_empty() || self.shared.is_abandoned.load(Ordering::Relaxed)) {
                return;
            }
            if !is_over && self.open.len() < UNDER_WAY_MAX && Instant::now() >= next {
                next = Instant::now() + PACE;
                self.begin();
            }
            let wait = next.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), LOOK_INTERVAL);
            self.client.poll(&mut completions, UNDER_WAY_MAX, Wait::UpTo(wait));
            completions.drain(..).for_each(|completion| self.end(completion));
        }
    }

    fn begin(&mut self) {
        let invoked = self.shared.now();
        let second = invoked / 1_000_000_000;
        if second != self.second {
            self.second = second;
            self.seen.clear();
        }
        self.number += 1;
        let (object, call) = self.choose();
        let deadline = Some(if self.index == 0 { IMPATIENCE } else { TIMEOUT });
        let bytes = encoded(object, call);
        let operation = Submit { bytes: &bytes, tag: self.number, deadline, ..Submit::default() };
        self.client.submit(&[operation]).expect("a queue of two is never full");
        self.open.insert(self.number, (object, call, invoked));
    }

    fn choose(&mut self) -> (Object, Call) {
        let value = self.index << 48 | self.number;
        if self.draw.below(2) == 0 {
            let call = if self.draw.below(3) == 0 { list::Call::Read } else { list::Call::Append(value) };
            return (Object::List(self.second, self.draw.below(LISTS)), Call::List(call));
        }
        let which = self.draw.below(REGISTERS);
        let call = match self.draw.below(4) {
            0 => register::Call::Write(value),
            1 | 2 => register::Call::CompareAndSet { expect: self.seen.get(&which).copied().flatten(), value },
            _ => register::Call::Read,
        };
        (Object::Register(self.second, which), Call::Register(call))
    }

    fn end(&mut self, completion: Completion) {
        let ended = self.shared.now();
        let (object, call, invoked) = self.open.remove(&completion.tag).expect("it was begun, and ends once");
        let ending = ending(call, &completion.outcome);
        if let (Object::Register(second, which), Some(value)) = (object, value_after(call, &ending))
            && second == self.second
        {
            self.seen.insert(which, value);
        }
        self.shared.notes().push(Note { object, call, invoked, ended, ending });
    }
}

/// What a register held after it answered so.
fn value_after(call: Call, ending: &Ending) -> Option<Option<u64>> {
    match (call, ending) {
        (_, Ending::Register(register::Answer::Value(value) | register::Answer::Mismatch(value))) => Some(*value),
        (
            Call::Register(register::Call::Write(value) | register::Call::CompareAndSet { value, .. }),
            Ending::Register(_),
        ) => Some(Some(value)),
        _ => None,
    }
}

fn encoded(object: Object, call: Call) -> Vec<u8> {
    let key = object.key();
    let key = key.as_bytes();
    let bytes = match call {
        Call::Register(register::Call::Read) | Call::List(list::Call::Read) => Operation::Get { key }.to_bytes(),
        Call::Register(register::Call::Write(value)) => Operation::Put { key, value: &value.to_le_bytes() }.to_bytes(),
        Call::Register(register::Call::CompareAndSet { expect, value }) => {
            let expect = expect.map(u64::to_le_bytes);
            let expect = expect.as_ref().map(|bytes| &bytes[..]);
            Operation::Cas { key, expect, value: &value.to_le_bytes() }.to_bytes()
        }
        Call::List(list::Call::Append(element)) => Operation::Append { key, value: &element.to_le_bytes() }.to_bytes(),
    };
    bytes.expect("keys and values are short")
}

fn ending(call: Call, outcome: &Outcome) -> Ending {
    match outcome {
        Outcome::Done { result, .. } => {
            answer(call, result).unwrap_or_else(|| Ending::Strange(format!("{call:?} was answered with {result:?}")))
        }
        Outcome::Rejected { reason, .. } => Ending::Strange(format!("{call:?} was refused: {reason}")),
        Outcome::NotSent { .. } => Ending::NotSent,
        Outcome::Unknown { .. } => Ending::Unknown,
    }
}

/// What the reply says; `None` if it is none to `call`.
fn answer(call: Call, result: &[u8]) -> Option<Ending> {
    use register::Answer::{Mismatch, Set, Value, Written};
    let reply = Reply::decode(result).ok()?;
    match (call, reply) {
        (Call::Register(register::Call::Read), Reply::Value(value)) => Some(Ending::Register(Value(held(value)?))),
        (Call::Register(register::Call::Write(_)), Reply::Stored(_)) => Some(Ending::Register(Written)),
        (Call::Register(register::Call::CompareAndSet { .. }), Reply::Swapped) => Some(Ending::Register(Set)),
        (Call::Register(register::Call::CompareAndSet { .. }), Reply::Mismatch(value)) => {
            Some(Ending::Register(Mismatch(held(value)?)))
        }
        (Call::List(list::Call::Append(_)), Reply::Appended(bytes)) => {
            let bytes = bytes as usize;
            let is_whole = bytes.is_multiple_of(VALUE_BYTES);
            is_whole.then_some(Ending::List(list::Answer::Length(bytes / VALUE_BYTES)))
        }
        (Call::List(list::Call::Read), Reply::Value(value)) => {
            let (elements, rest) = value.unwrap_or_default().as_chunks();
            let elements = elements.iter().copied().map(u64::from_le_bytes).collect();
            rest.is_empty().then_some(Ending::List(list::Answer::Elements(elements)))
        }
        _ => None,
    }
}

/// What a register holds, as bytes; `None` if it is no value that anybody wrote.
fn held(value: Option<&[u8]>) -> Option<Option<u64>> {
    match value {
        None => Some(None),
        Some(bytes) => Some(Some(u64::from_le_bytes(bytes.try_into().ok()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(reply: Reply<'_>) -> Outcome {
        let mut result = Vec::new();
        reply.encode(&mut result);
        Outcome::Done { seq: bft_core::ids::Seq(1), result: result.into() }
    }

    #[test]
    fn replies_become_answers_and_what_is_none_is_strange() {
        let append = Call::List(list::Call::Append(7));
        assert_eq!(ending(append, &done(Reply::Appended(16))), Ending::List(list::Answer::Length(2)));
        let elements = [7_u64.to_le_bytes(), 9_u64.to_le_bytes()].concat();
        let read = Call::List(list::Call::Read);
        let both = Ending::List(list::Answer::Elements(vec![7, 9]));
        assert_eq!(ending(read, &done(Reply::Value(Some(&elements)))), both);
        assert_eq!(ending(read, &done(Reply::Value(None))), Ending::List(list::Answer::Elements(vec![])));
        let value = 5_u64.to_le_bytes();
        let swap = Call::Register(register::Call::CompareAndSet { expect: None, value: 3 });
        let mismatch = register::Answer::Mismatch(Some(5));
        assert_eq!(ending(swap, &done(Reply::Mismatch(Some(&value)))), Ending::Register(mismatch));
        for (call, reply) in [(append, Reply::Appended(15)), (append, Reply::Swapped), (read, Reply::Value(Some(b"x")))]
        {
            assert!(matches!(ending(call, &done(reply)), Ending::Strange(_)), "{call:?} {reply:?}");
        }
    }

    #[test]
    fn what_a_client_saw_is_what_it_expects_next() {
        let swap = Call::Register(register::Call::CompareAndSet { expect: None, value: 3 });
        assert_eq!(value_after(swap, &Ending::Register(register::Answer::Set)), Some(Some(3)));
        assert_eq!(value_after(swap, &Ending::Register(register::Answer::Mismatch(None))), Some(None));
        assert_eq!(value_after(swap, &Ending::Unknown), None);
    }
}
