//! What must be true when the load has stopped: all replicas have executed the same, hold the same state, and the
//! counters hold what was added to them.

use std::time::{Duration, Instant};

use bft_client::{Client, Outcome, Submit, Wait};
use bft_core::ids::{Digest, ReplicaId, Seq};
use bft_core::wire::message::Info;
use bft_services::kv::{Operation, Reply};

use super::mix::{COUNTERS, counter_key};

/// How long a replica has for one answer.
const ANSWER: Duration = Duration::from_secs(2);
/// A replica computes a digest at most so often, and so may show an older one.
const DIGEST: Duration = Duration::from_secs(8);
/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// All replicas at one Seq.
pub struct Settled {
    /// What each said.
    pub infos: Vec<Info>,
    /// The Seq.
    pub seq: Seq,
    /// Each one's state digest at that Seq.
    pub digests: Vec<Digest>,
}

impl Settled {
    /// Whether all hold the same state.
    pub fn digests_equal(&self) -> bool {
        self.digests.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Whether all make durable what they promise before they promise it.
    pub fn is_durable(&self) -> bool {
        self.infos.iter().all(|info| !info.write_path.is_empty())
    }
}

/// Waits until all replicas have executed the same Seq and told their state digest at it.
pub fn settle(client: &Client, patience: Duration) -> Result<Settled, String> {
    let deadline = Instant::now() + patience;
    let seq = loop {
        let answers = client.query_info(ANSWER, false);
        let first = answers.iter().find_map(|(_, info)| info.as_ref()).map(|info| info.executed);
        let is_same = |(_, info): &(ReplicaId, Option<Info>)| info.as_ref().map(|info| info.executed) == first;
        if let Some(seq) = first.filter(|_| answers.iter().all(is_same)) {
            break seq;
        }
        if Instant::now() > deadline {
            return Err(format!("the replicas have not executed the same Seq: {}", in_words(&answers, |info| info.executed)));
        }
        std::thread::sleep(LOOK_INTERVAL);
    };
    let deadline = deadline.max(Instant::now() + DIGEST);
    loop {
        let answers = client.query_info(ANSWER, true);
        let digest = |info: &Info| info.state.filter(|(at, _)| *at == seq).map(|(_, digest)| digest);
        let digests: Vec<_> = answers.iter().filter_map(|(_, info)| digest(info.as_ref()?)).collect();
        if digests.len() == answers.len() {
            let infos = answers.into_iter().filter_map(|(_, info)| info).collect();
            return Ok(Settled { infos, seq, digests });
        }
        if Instant::now() > deadline {
            let told = in_words(&answers, |info| info.state.map_or(Seq(0), |(at, _)| at));
            return Err(format!("the replicas did not tell their state digest at Seq {seq}: {told}"));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn in_words(answers: &[(ReplicaId, Option<Info>)], seq: impl Fn(&Info) -> Seq) -> String {
    let word = |(replica, info): &(ReplicaId, Option<Info>)| match info {
        Some(info) => format!("replica {replica} at {}", seq(info)),
        None => format!("replica {replica} does not answer"),
    };
    answers.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// Reads all counters in the order, and adds them up.
pub fn sum_of_counters(client: &Client, patience: Duration) -> Result<i64, String> {
    let operations: Vec<_> = (0..COUNTERS)
        .map(|index| Operation::Get { key: counter_key(index).as_bytes() }.to_bytes().expect("a short key"))
        .collect();
    let submits: Vec<_> =
        operations.iter().map(|bytes| Submit { bytes, deadline: Some(patience), ..Submit::default() }).collect();
    let (mut taken, mut sum, mut answered) = (0, 0, 0);
    let mut completions = Vec::new();
    while answered < operations.len() {
        if taken < submits.len() {
            taken += client.submit(&submits[taken..]).map_err(|error| error.to_string())?;
        }
        if client.poll(&mut completions, usize::MAX, Wait::UpTo(patience)) == 0 {
            return Err("the counters were not answered".into());
        }
        for completion in completions.drain(..) {
            sum += counter(&completion.outcome)?;
            answered += 1;
        }
    }
    Ok(sum)
}

fn counter(outcome: &Outcome) -> Result<i64, String> {
    let Outcome::Done { result, .. } = outcome else { return Err(format!("a counter could not be read: {outcome:?}")) };
    match Reply::decode(result).map_err(|error| error.to_string())? {
        // Never written: the load ended before.
        Reply::Value(None) => Ok(0),
        Reply::Value(Some(value)) => value.try_into().map(i64::from_le_bytes).map_err(|_| "no counter".into()),
        other => Err(format!("a counter was answered with {other:?}")),
    }
}
