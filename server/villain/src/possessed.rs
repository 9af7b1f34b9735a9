//! A replica with a villain at its door: between the ordering loop and a correct core, as the simulator has it. What the core
//! says passes the villain before its records are durable; whatever becomes of it waits for the same records.
//!
//! Kept here: the core is stepped by the contract of its door, a deadline of its own among it, so that what goes wrong is
//! what the villain does; Requests that reach the core were checked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bft_core::auth::Verified;
use bft_core::door::{Answer, Effects, Input, Now, Outgoing, To};
use bft_core::ids::{Digest, LinkId, Nanos, ReplicaId};
use bft_core::replica::Replica;
use bft_core::wire::message::Message;
use bft_core::wire::request::SignedRequest;
use bft_server::ordering::CONTROL_LINK;
use bft_server::stepping::Stepped;
use bft_sim::villains::said::Line;
use bft_sim::villains::{Heard, Twin};

/// Requests that a villain may take out and give back later: more than any of them does.
const WITHHELD_MAX: usize = 64;

/// Requests as they were checked, by their leaves.
type Checked = BTreeMap<Digest, Verified<Vec<SignedRequest>>>;

/// A core and its villain.
pub struct Possessed {
    replica: Replica,
    villain: Twin,
    peers: Vec<ReplicaId>,
    withheld: Checked,
    /// What leaves later, by its time and its number.
    later: BTreeMap<(Nanos, u64), Outgoing>,
    delayed: u64,
    /// When the core wants to be called.
    deadline: Option<Nanos>,
    misdeeds: Arc<AtomicU64>,
}

impl Possessed {
    /// Around `replica`, which is `me` and whose recovery wants `effects`. Misdeeds are counted in `misdeeds`.
    pub fn new(
        replica: Replica,
        me: ReplicaId,
        villain: Twin,
        now: Now,
        effects: &mut Effects,
        misdeeds: Arc<AtomicU64>,
    ) -> Self {
        let peers = replica.config().replicas().filter(|peer| *peer != me).collect();
        let (withheld, later) = (Checked::new(), BTreeMap::new());
        let mut possessed = Self { replica, villain, peers, withheld, later, delayed: 0, deadline: None, misdeeds };
        possessed.speak(now, effects);
        possessed
    }

    /// What of `input` the core gets.
    fn hear(&mut self, now: Now, input: Input) -> Option<Input> {
        match input {
            Input::Message { from, message } => match self.villain.hears(now.mono.0, from, &message) {
                Heard::Passed => Some(Input::Message { from, message }),
                Heard::Ignored => None,
            },
            Input::Requests(requests) => Some(Input::Requests(self.gather(now, requests))),
            // It may be the villain's own.
            Input::Deadline => self.deadline.take_if(|deadline| *deadline <= now.mono).map(|_| Input::Deadline),
            input @ (Input::Link { .. }
            | Input::Client { .. }
            | Input::Durable(_)
            | Input::Executed { .. }
            | Input::Snapshot { .. }
            | Input::Loaded { .. }
            | Input::File(_)
            | Input::Installed { .. }
            | Input::InfoQuery { .. }) => Some(input),
        }
    }

    /// The Requests that the villain leaves, in its order. They were checked before it saw them: to check them again would
    /// make it slower than its attack does.
    fn gather(&mut self, now: Now, requests: Verified<Vec<SignedRequest>>) -> Verified<Vec<SignedRequest>> {
        let mut chosen: Vec<_> = requests.to_vec();
        self.villain.gathers(now.mono.0, &mut chosen);
        if chosen.iter().map(leaf).eq(requests.iter().map(leaf)) {
            return requests;
        }
        let mut checked = std::mem::take(&mut self.withheld);
        let mut left = take_apart(requests, &mut checked);
        for request in &chosen {
            if let Some(request) = checked.remove(&request.entry.leaf) {
                left.append(request);
            }
        }
        while checked.len() > WITHHELD_MAX {
            checked.pop_first();
        }
        self.withheld = checked;
        left
    }

    /// Makes of what the core says what the villain says.
    fn speak(&mut self, now: Now, effects: &mut Effects) {
        self.deadline = effects.deadline.or(self.deadline);
        for outgoing in std::mem::take(&mut effects.send) {
            self.say(now, outgoing, &mut effects.send);
        }
        for (link, answer) in std::mem::take(&mut effects.answer) {
            self.answer(now, link, answer, &mut effects.answer);
        }
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now.mono
        {
            effects.send.push(entry.remove());
        }
        let next = self.later.first_key_value().map(|((due, _), _)| *due);
        effects.deadline = self.deadline.into_iter().chain(next).min();
        self.misdeeds.fetch_add(self.villain.take_misdeeds(), Ordering::Relaxed);
    }

    fn say(&mut self, now: Now, outgoing: Outgoing, send: &mut Vec<Outgoing>) {
        let Outgoing { to, lane, message, needs } = outgoing;
        let peers = match &to {
            To::One(peer) => std::slice::from_ref(peer),
            To::All => &self.peers,
        };
        for peer in peers {
            for line in self.villain.to_peer(now.mono.0, *peer, message.clone()).drain() {
                let Line { to, delay, message, by: _ } = line;
                let line = Outgoing { to: To::One(to.unwrap_or(*peer)), lane, message, needs };
                if delay == 0 {
                    send.push(line);
                } else {
                    self.delayed += 1;
                    self.later.insert((Nanos(now.mono.0 + delay), self.delayed), line);
                }
            }
        }
    }

    /// What the process asks itself is answered as it is.
    fn answer(&mut self, now: Now, link: LinkId, answer: Answer, answers: &mut Vec<(LinkId, Answer)>) {
        if link == CONTROL_LINK {
            return answers.push((link, answer));
        }
        let lines = self.villain.to_client(now.mono.0, Message::from(answer)).drain();
        answers.extend(lines.filter_map(|line| Some((link, Answer::try_from(line.message).ok()?))));
    }
}

impl Stepped for Possessed {
    fn step(&mut self, now: Now, input: Input, effects: &mut Effects) {
        if let Some(input) = self.hear(now, input) {
            self.replica.step(now, input, effects);
        }
        self.speak(now, effects);
    }

    fn replica(&self) -> &Replica {
        &self.replica
    }
}

fn leaf(request: &SignedRequest) -> Digest {
    request.entry.leaf
}

/// Each by itself, into `checked`. Gives what is left: none.
fn take_apart(mut requests: Verified<Vec<SignedRequest>>, checked: &mut Checked) -> Verified<Vec<SignedRequest>> {
    while let Some(last) = requests.last() {
        let leaf = last.entry.leaf;
        let one = requests.split_off(requests.len() - 1);
        checked.insert(leaf, one);
    }
    requests
}

#[cfg(test)]
mod tests {
    use bft_core::auth::{Ed25519, Scheme, Verifier};
    use bft_core::config::{Admission, ClusterConfig, Member, ProtocolParams};
    use bft_core::door::Tuning;
    use bft_core::ids::{ClusterId, Epoch, LogPosition, RequestNo, Seq, SessionId, View, WallNanos};
    use bft_core::journal::Superblock;
    use bft_core::journal::superblock::Directory;
    use bft_core::limits::SECOND;
    use bft_core::quorum::ReplicaSet;
    use bft_core::wire::canonical::{Tag, signing_bytes};
    use bft_core::wire::message::Kind;
    use bft_core::wire::opening::Opening;
    use bft_core::wire::recall::Recalled;
    use bft_core::wire::request::{RequestBounds, encode_request};
    use bft_sim::rng::Seed;
    use bft_sim::villains::Strategy;
    use bft_sim::villains::means::Means;

    use super::*;

    const START: Now = Now { mono: Nanos(SECOND), wall: WallNanos(1_700_000_000 * SECOND) };

    fn at(mono: Nanos) -> Now {
        Now { mono, wall: WallNanos(START.wall.0 + mono.0) }
    }

    fn scheme(of: u8) -> Arc<dyn Scheme> {
        Arc::new(Ed25519::new(&[of; 32], [of; 32]))
    }

    fn config() -> Arc<ClusterConfig> {
        let member = |id: u8| Member { weight: 1, public_key: scheme(id).public_key(), address: "127.0.0.1:1".into() };
        let (params, members) = (ProtocolParams::default(), (0..4).map(member).collect());
        Arc::new(ClusterConfig::new(ClusterId([7; 32]), Epoch(0), params, Admission::Any, members).unwrap())
    }

    /// The primary of view 0, possessed, whose peers hold nothing of it.
    fn primary(strategy: Strategy) -> (Possessed, Effects) {
        let config = config();
        let me = config.primary(View(0));
        let scheme = scheme(me.0 as u8);
        let superblock = Superblock::first(&Directory {
            cluster_id: config.cluster_id(),
            replica: me,
            public_key: scheme.public_key(),
            epoch: Epoch(0),
            directory_id: [1; 16],
            directory_key: [2; 32],
        });
        let mut effects = Effects::default();
        let recovery = Replica::recover(config.clone(), me, scheme.clone(), Tuning::default(), superblock);
        let mut replica = recovery.finish(START, LogPosition(0), Seq(0), &mut effects);
        let asked = effects.send.iter().find_map(|outgoing| match &outgoing.message {
            Message::Recall(question) => Some(Recalled { epoch: question.epoch, start: question.start, held: None }),
            _ => None,
        });
        let answer = Message::Recalled(asked.expect("a start asks"));
        let verifier = Verifier::new(config.clone(), scheme.clone());
        for from in config.replicas().filter(|peer| *peer != me).take(2) {
            let message = verifier.check(from, answer.clone()).expect("nothing is claimed");
            replica.step(START, Input::Message { from, message }, &mut effects);
        }
        effects.send.clear();
        let means = Means::new(me, config, scheme, ReplicaSet::EMPTY.with(me), Seed::root(1));
        let twin = Twin::new(strategy, means);
        let possessed = Possessed::new(replica, me, twin, START, &mut effects, Arc::default());
        (possessed, effects)
    }

    /// What opens a session for each of these clients.
    fn openings(clients: std::ops::Range<u8>) -> Verified<Vec<SignedRequest>> {
        let opening = |client: u8| {
            let opening = Opening { replaces: SessionId(0), at: Seq(0), nonce: [5; 32], certificate: None };
            let sign = |digest| scheme(client).sign(&signing_bytes(Tag::Request, config().cluster_id(), digest));
            let (key, bytes, zero) = (scheme(client).public_key(), opening.encode(), RequestNo(0));
            let operations = [&bytes[..]];
            let request = encode_request(key, SessionId(0), zero, zero, 0, operations.into_iter(), sign);
            SignedRequest::parse(request, RequestBounds::from(config().params())).unwrap()
        };
        let requests = clients.map(opening).collect();
        let (requests, refused) = Verifier::new(config(), scheme(0)).check_requests(requests);
        assert!(refused.is_empty());
        requests
    }

    fn proposals(effects: &Effects) -> Vec<(To, LogPosition)> {
        let sent = effects.send.iter().filter(|outgoing| outgoing.message.kind() == Kind::PrePrepare);
        sent.map(|outgoing| (outgoing.to, outgoing.needs)).collect()
    }

    #[test]
    fn what_a_villain_holds_back_leaves_at_its_time_and_not_before_its_record_is_durable() {
        let (mut slow, mut effects) = primary(Strategy::Slow);
        effects.clear();
        slow.step(START, Input::Requests(openings(100..101)), &mut effects);
        let record = effects.persist.last().expect("a proposal has a record").position;
        assert_eq!(proposals(&effects), []);
        let due = Nanos(START.mono.0 + config().params().view_timeout / 1000 * 800);
        assert!(effects.deadline.is_some_and(|deadline| deadline <= due), "{:?}", effects.deadline);

        effects.clear();
        slow.step(at(Nanos(due.0 - 1)), Input::Deadline, &mut effects);
        assert_eq!((proposals(&effects), effects.deadline), (Vec::new(), Some(due)), "the core's own is later now");
        effects.clear();
        slow.step(at(due), Input::Deadline, &mut effects);
        let peers: Vec<_> = slow.peers.iter().map(|peer| (To::One(*peer), record)).collect();
        assert_eq!(proposals(&effects), peers);
        assert_eq!(slow.misdeeds.load(Ordering::Relaxed), 3);
        assert!(effects.deadline.is_some_and(|deadline| Some(deadline) == slow.deadline), "only the core's is left");
    }

    #[test]
    fn the_villains_own_deadline_is_none_of_the_cores() {
        let (mut slow, mut effects) = primary(Strategy::Slow);
        effects.clear();
        slow.step(START, Input::Deadline, &mut effects);
        assert!(effects.send.is_empty() && effects.persist.is_empty(), "the core was not stepped");
        assert_eq!(effects.deadline, slow.deadline, "and is called when it wants to be");
    }

    #[test]
    fn requests_that_are_mixed_up_reach_the_core_once_each() {
        let (mut villain, _) = primary(Strategy::ShufflesRequests);
        let all = openings(100..140);
        let mut expected: Vec<_> = all.iter().map(leaf).collect();
        let mut arrived: Vec<_> = villain.gather(START, all).iter().map(leaf).collect();
        assert!(arrived.len() < expected.len() && expected[..arrived.len()] != arrived[..], "{}", arrived.len());
        while arrived.len() < expected.len() {
            let more = villain.gather(START, openings(0..0));
            assert!(!more.is_empty(), "what is held back comes");
            arrived.extend(more.iter().map(leaf));
        }
        expected.sort_unstable();
        arrived.sort_unstable();
        assert_eq!(arrived, expected);
        assert!(villain.withheld.is_empty());
    }

    #[test]
    fn a_client_that_is_not_heard_fills_no_memory() {
        let (mut villain, _) = primary(Strategy::Censors);
        for _ in 0..3 {
            let left = villain.gather(START, openings(100..102));
            assert_eq!(left.iter().map(|request| request.entry.client).collect::<Vec<_>>(), [scheme(101).public_key()]);
        }
        assert_eq!(villain.withheld.len(), 1);
    }
}
