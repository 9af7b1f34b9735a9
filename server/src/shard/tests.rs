//! Shards driven without sockets: bytes from one are given to the other.

use std::sync::Arc;

use bft_core::auth::{Ed25519, Scheme, Verifier};
use bft_core::config::{Admission, Member, ProtocolParams};
use bft_core::door::{Answer, Lane, To};
use bft_core::ids::{ClusterId, Digest, Epoch, RequestNo, SessionId, View};
use bft_core::wire::archive::{decode, encode};
use bft_core::wire::canonical::{Tag, signing_bytes};
use bft_core::wire::frame::{FrameCutter, PeerRole};
use bft_core::wire::message::{Busy, Commit, Message, Position, Status};
use bft_core::wire::request::encode_request;
use bft_link::Handshake;
use bytes::Bytes;

use super::arrival::{HANDSHAKES_PER_ADDRESS, STALE_SILENCE};
use super::rates::ClientRates;
use super::*;

const N: u16 = 4;
const ADDRESS: [u8; 4] = [10, 0, 0, 9];

fn scheme(of: u8) -> Arc<dyn Scheme> {
    Arc::new(Ed25519::new(&[of; 32], [of; 32]))
}

fn config() -> Arc<ClusterConfig> {
    let member = |id: u16| Member {
        weight: 1,
        public_key: scheme(id as u8 + 1).public_key(),
        address: format!("10.0.1.{id}:7000"),
    };
    let members = (0..N).map(member).collect();
    let params = ProtocolParams::default();
    Arc::new(ClusterConfig::new(ClusterId([3; 32]), Epoch(0), params, Admission::Any, members).unwrap())
}

fn shard_of(id: u16, instance: u64, shards: u16) -> Shard {
    let (config, scheme) = (config(), scheme(id as u8 + 1));
    let identity = LocalIdentity::replica(config.clone(), scheme.clone(), ReplicaId(id), instance).unwrap();
    let (brim, rules) = (Arc::default(), LinkRules::default());
    let verifier = Verifier::new(config.clone(), scheme);
    let setup = ShardSetup { index: 0, shards, brim, config, me: ReplicaId(id), verifier, identity, rules };
    Shard::new(setup, Arc::default())
}

/// The other end of a link to the shard under test.
struct Remote {
    scheme: Arc<dyn Scheme>,
    handshake: Handshake,
    channel: Option<(Peer, Channel)>,
    cutter: FrameCutter,
    link: LinkId,
}

impl Remote {
    fn new(shard: &mut Shard, identity: LocalIdentity, scheme: Arc<dyn Scheme>, entropy: u8, now: Nanos) -> Self {
        let link = shard.connected(now, Origin::Accepted(ADDRESS.into()), [entropy; 32]).unwrap();
        let handshake = Handshake::connect(identity, shard.setup.me, [entropy + 1; 32]);
        let cutter = FrameCutter::new(PeerRole::Server, FrameLimits::new(&config()));
        Self { scheme, handshake, channel: None, cutter, link }
    }

    fn client(shard: &mut Shard, key: u8) -> Self {
        let identity = LocalIdentity::client(config(), scheme(key), None).unwrap();
        let mut remote = Self::new(shard, identity, scheme(key), key, Nanos(0));
        remote.shake(shard, Nanos(0));
        remote
    }

    fn replica(shard: &mut Shard, id: u16, instance: u64, now: Nanos) -> Self {
        let scheme = scheme(id as u8 + 1);
        let identity = LocalIdentity::replica(config(), scheme.clone(), ReplicaId(id), instance).unwrap();
        let mut remote = Self::new(shard, identity, scheme, instance as u8, now);
        remote.shake(shard, now);
        remote
    }

    fn shake(&mut self, shard: &mut Shard, now: Nanos) {
        while self.channel.is_none() {
            let output = self.handshake.take_output();
            shard.received(now, self.link, &output);
            self.channel = self.handshake.finished();
            let mut answer = Vec::new();
            shard.write(self.link, &mut answer, usize::MAX);
            self.handshake.feed(&mut &answer[..]).unwrap();
        }
    }

    fn send(&mut self, shard: &mut Shard, now: Nanos, messages: &[Message]) {
        let mut frames = Vec::new();
        messages.iter().for_each(|message| encode(message, Epoch(0), &mut frames));
        self.send_frames(shard, now, &frames);
    }

    fn send_frames(&mut self, shard: &mut Shard, now: Nanos, frames: &[u8]) {
        let mut sealed = Vec::new();
        self.channel.as_mut().unwrap().1.seal(frames, &mut sealed);
        // Cut where no record or frame ends.
        for part in sealed.chunks(1000) {
            shard.received(now, self.link, part);
        }
        shard.finish_turn(now);
    }

    fn receive(&mut self, shard: &mut Shard) -> Vec<Message> {
        let (mut sealed, mut plain) = (Vec::new(), Vec::new());
        shard.write(self.link, &mut sealed, usize::MAX);
        self.channel.as_mut().unwrap().1.open(&sealed, &mut plain).unwrap();
        self.cutter.push(&plain);
        std::iter::from_fn(|| self.cutter.next().unwrap())
            .map(|(header, payload)| decode(header.kind, &payload, shard.bounds).unwrap())
            .collect()
    }

    fn request(&self, req_no: u64, operation: &[u8]) -> Message {
        let key = self.scheme.public_key();
        let (session, sign) = (SessionId(1 << 20), |digest: Digest| {
            self.scheme.sign(&signing_bytes(Tag::Request, config().cluster_id(), digest))
        });
        let operations = [operation];
        let bytes = encode_request(key, session, RequestNo(req_no), RequestNo(0), 0, operations.into_iter(), sign);
        Message::Request(SignedRequest::parse(bytes, RequestBounds::from(config().params())).unwrap())
    }
}

fn inputs(shard: &mut Shard) -> Vec<Input> {
    let of = |arrival| match arrival {
        Arrival::Input(input) => Some(input),
        Arrival::InfoQuery { .. } => None,
    };
    shard.arrivals().filter_map(of).collect()
}

fn status(view: u64) -> Message {
    let words = 256 / 64;
    let maps = vec![0; words];
    let status = Status {
        view: View(view),
        proposed: maps.clone(),
        prepared: maps.clone(),
        committed: maps,
        ..Status::default()
    };
    Message::Status(status)
}

/// Ticks as often as the executor does.
fn tick_until(shard: &mut Shard, until: u64) {
    let first = if shard.ticked == Nanos(u64::MAX) { 0 } else { shard.ticked.0 };
    (first..until).step_by(limits::SECOND as usize / 4).chain([until]).for_each(|at| shard.tick(Nanos(at)));
}

#[test]
fn the_requests_of_one_turn_are_checked_together_and_keep_their_order() {
    let mut shard = shard_of(0, 1, 1);
    let mut client = Remote::client(&mut shard, 100);
    let up = inputs(&mut shard);
    assert!(
        matches!(up[..], [Input::Client { client: key, state: LinkState::Up, .. }] if key == scheme(100).public_key())
    );
    let requests: Vec<_> = (1..=20).map(|req_no| client.request(req_no, &[7; 300])).collect();
    client.send(&mut shard, Nanos(1), &requests);
    let arrived = inputs(&mut shard);
    let [Input::Requests(requests)] = &arrived[..] else { panic!("{arrived:?}") };
    let numbers: Vec<_> = requests.iter().map(|request| request.entry.req_no.0).collect();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
}

#[test]
fn pf6_a_bad_signature_closes_its_link_and_no_other() {
    let mut shard = shard_of(0, 1, 1);
    let mut good = Remote::client(&mut shard, 100);
    let mut bad = Remote::client(&mut shard, 101);
    inputs(&mut shard);
    let Message::Request(mut forged) = bad.request(1, b"x") else { unreachable!() };
    let mut bytes = forged.bytes.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    forged = SignedRequest::parse(bytes.into(), shard.bounds).unwrap();
    let good_request = good.request(1, b"y");
    bad.send(&mut shard, Nanos(1), &[Message::Request(forged)]);
    assert_eq!(shard.closed(), [bad.link]);
    good.send(&mut shard, Nanos(1), &[good_request]);
    let arrived = inputs(&mut shard);
    assert!(matches!(&arrived[..], [Input::Client { state: LinkState::Down, .. }, Input::Requests(_)]), "{arrived:?}");
    let refused = shard.connected(Nanos(2), Origin::Accepted(ADDRESS.into()), [1; 32]);
    assert_eq!(refused, Err(TurnedAway::Refused), "its address is refused for a while");
    let other = shard.connected(Nanos(2), Origin::Accepted([10, 0, 0, 8].into()), [1; 32]);
    assert!(other.is_ok(), "others are not");
    let later = Nanos(limits::SECOND);
    assert!(shard.connected(later, Origin::Accepted(ADDRESS.into()), [1; 32]).is_ok());
}

#[test]
fn a1_a_request_of_a_key_that_is_not_on_the_link_is_the_links_fault() {
    let mut shard = shard_of(0, 1, 1);
    let mut client = Remote::client(&mut shard, 100);
    let stranger = Remote::client(&mut shard, 101);
    inputs(&mut shard);
    let request = stranger.request(1, b"x");
    client.send(&mut shard, Nanos(1), &[request]);
    assert_eq!(shard.closed(), [client.link]);
}

#[test]
fn further_keys_join_a_link() {
    let mut shard = shard_of(0, 1, 1);
    let mut client = Remote::client(&mut shard, 100);
    let hash = client.channel.as_ref().unwrap().0.handshake_hash;
    let joined = scheme(101);
    let join = bft_link::join(joined.as_ref(), None, &hash, config().cluster_id());
    inputs(&mut shard);
    client.send(&mut shard, Nanos(1), &[Message::ClientJoin(join.clone())]);
    client.scheme = joined;
    let request = client.request(1, b"x");
    client.send(&mut shard, Nanos(1), &[request]);
    let arrived = inputs(&mut shard);
    assert!(matches!(&arrived[..], [Input::Client { state: LinkState::Up, .. }, Input::Requests(_)]), "{arrived:?}");

    let mut other = Remote::client(&mut shard, 102);
    other.send(&mut shard, Nanos(1), &[Message::ClientJoin(join)]);
    assert_eq!(shard.closed(), [other.link], "a join is for the link it was made for");
}

#[test]
fn a_message_that_its_peer_may_not_send_closes_the_link() {
    let mut shard = shard_of(3, 1, 1);
    for (case, message) in
        [status(0), Message::Busy(Busy { request: Digest::ZERO, retry_after_ms: 1 })].into_iter().enumerate()
    {
        let mut client = Remote::client(&mut shard, 100 + 10 * case as u8);
        client.send(&mut shard, Nanos(1), &[message]);
        assert_eq!(shard.closed(), [client.link]);
        shard = shard_of(3, 1, 1);
    }
    let position = Position { epoch: Epoch(0), view: View(0), seq: bft_core::ids::Seq(1), digest: Digest::ZERO };
    let commit = Message::Commit(Commit { position, replica: ReplicaId(2), nonce: Digest::ZERO });
    let mut peer = Remote::replica(&mut shard, 1, 1, Nanos(0));
    peer.send(&mut shard, Nanos(1), &[commit]);
    assert_eq!(shard.closed(), [peer.link], "it speaks for another replica");
    let again = Remote::replica(&mut shard, 1, 2, Nanos(2));
    assert_eq!(shard.closed(), [again.link], "its key is refused for a while");
}

#[test]
fn garbage_in_a_sealed_record_closes_the_link() {
    let mut shard = shard_of(0, 1, 1);
    let mut client = Remote::client(&mut shard, 100);
    client.send_frames(&mut shard, Nanos(1), &[0x55; 64]);
    assert_eq!(shard.closed(), [client.link]);
}

#[test]
fn replicas_talk_over_two_shards() {
    let (mut low, mut high) = (shard_of(0, 1, 1), shard_of(1, 1, 1));
    let now = Nanos(0);
    let dialled = low.connected(now, Origin::Dialled(ReplicaId(1)), [1; 32]).unwrap();
    let accepted = high.connected(now, Origin::Accepted([10, 0, 1, 0].into()), [2; 32]).unwrap();
    let pump = |low: &mut Shard, high: &mut Shard| {
        for _ in 0..4 {
            let (mut there, mut back) = (Vec::new(), Vec::new());
            low.write(dialled, &mut there, usize::MAX);
            high.received(now, accepted, &there);
            high.write(accepted, &mut back, usize::MAX);
            low.received(now, dialled, &back);
        }
    };
    pump(&mut low, &mut high);
    assert!(matches!(inputs(&mut low)[..], [Input::Link { peer: ReplicaId(1), state: LinkState::Up }]));
    assert!(matches!(inputs(&mut high)[..], [Input::Link { peer: ReplicaId(0), state: LinkState::Up }]));
    let mut frame = Vec::new();
    encode(&status(5), Epoch(0), &mut frame);
    low.send(now, To::All, Lane::Control, frame.into());
    pump(&mut low, &mut high);
    let arrived = inputs(&mut high);
    assert!(
        matches!(&arrived[..], [Input::Message { from: ReplicaId(0), message }] if matches!(&**message, Message::Status(s) if s.view == View(5))),
        "{arrived:?}"
    );
    low.ended(now, dialled);
    assert!(matches!(inputs(&mut low)[..], [Input::Link { peer: ReplicaId(1), state: LinkState::Down }]));
}

#[test]
fn d11_a_second_link_of_a_replica_counts_if_it_is_newer_or_the_first_is_silent() {
    let mut shard = shard_of(3, 1, 1);
    let first = Remote::replica(&mut shard, 1, 5, Nanos(0));
    let cloned = Remote::replica(&mut shard, 1, 5, Nanos(limits::SECOND));
    assert_eq!(shard.closed(), [cloned.link], "a process on a copy of the disk");
    let silent = Nanos(STALE_SILENCE + 2);
    let again = Remote::replica(&mut shard, 1, 5, silent);
    assert_eq!(shard.closed(), [first.link], "the same process, whose first connection broke");
    let restarted = Remote::replica(&mut shard, 1, 6, silent);
    assert_eq!(shard.closed(), [again.link], "a newer process");
    assert_eq!(shard.peers[1], Some(restarted.link));
    let ups = inputs(&mut shard);
    let downs = ups.iter().filter(|input| matches!(input, Input::Link { state: LinkState::Down, .. })).count();
    assert_eq!((ups.len(), downs), (5, 2), "{ups:?}");
}

#[test]
fn mem2_slow_handshakes_end_and_do_not_shut_others_out() {
    let mut shard = shard_of(0, 1, 1);
    let from = |host: u8| Origin::Accepted([10, 9, 9, host].into());
    for _ in 0..HANDSHAKES_PER_ADDRESS {
        shard.connected(Nanos(0), from(1), [1; 32]).unwrap();
    }
    assert_eq!(shard.connected(Nanos(1), from(1), [1; 32]), Err(TurnedAway::Busy));
    for host in 2..2 + (limits::HANDSHAKES_MAX - HANDSHAKES_PER_ADDRESS) as u8 {
        shard.connected(Nanos(2), from(host), [1; 32]).unwrap();
    }
    let late = shard.connected(Nanos(3), from(200), [1; 32]).unwrap();
    assert_eq!(shard.closed().len(), 1, "whoever has most gives one");
    tick_until(&mut shard, limits::HANDSHAKE_TIMEOUT + 2);
    assert_eq!(shard.closed().len(), limits::HANDSHAKES_MAX - 1);
    assert!(shard.links.contains_key(&late));
}

#[test]
fn mem2_a_handshake_holds_no_more_than_its_messages_may_have() {
    let mut shard = shard_of(0, 1, 1);
    let link = shard.connected(Nanos(0), Origin::Accepted(ADDRESS.into()), [1; 32]).unwrap();
    shard.received(Nanos(0), link, &vec![0; 1 << 20]);
    assert_eq!(shard.closed(), [link]);
}

#[test]
fn a_silent_replica_is_given_up_and_a_silent_client_is_not() {
    let mut shard = shard_of(3, 1, 1);
    let client = Remote::client(&mut shard, 100);
    let peer = Remote::replica(&mut shard, 1, 1, Nanos(0));
    shard.tick(Nanos(0));
    shard.tick(Nanos(2 * REPLICA_SILENCE));
    assert!(shard.closed().is_empty(), "this process was not scheduled");
    for at in 2..=4 {
        tick_until(&mut shard, at * REPLICA_SILENCE);
    }
    assert_eq!(shard.closed(), [peer.link]);
    assert!(shard.links.contains_key(&client.link));
}

#[test]
fn pf4_a_client_that_does_not_read_loses_answers_and_holds_bounded_memory() {
    let mut shard = shard_of(0, 1, 1);
    let mut client = Remote::client(&mut shard, 100);
    let results = Bytes::from(vec![9; 200 * limits::KIB]);
    for req_no in 0..200 {
        let reply = bft_core::wire::message::Reply {
            epoch: Epoch(0),
            session: SessionId(1),
            req_no: RequestNo(req_no),
            seq: bft_core::ids::Seq(1),
            code: bft_core::wire::message::Code::Ok,
            digest: Digest::ZERO,
            results: Some(results.clone()),
        };
        shard.answer(Nanos(1), client.link, Answer::Reply(reply));
        assert!(shard.budget.used() <= limits::SEND_QUEUE_BYTES_PER_PEER);
    }
    let received = client.receive(&mut shard);
    let Some(Message::Reply(last)) = received.last() else { panic!("nothing was kept") };
    assert_eq!(last.req_no, RequestNo(199), "the newest are kept");
    assert!(received.len() < 100 && shard.counters.frames_dropped.get() as usize == 200 - received.len());
    assert!(!shard.has_output());
}

#[test]
fn a_stopping_shard_answers_busy() {
    let mut shard = shard_of(0, 1, 1);
    let mut client = Remote::client(&mut shard, 100);
    inputs(&mut shard);
    shard.stop_admitting();
    let request = client.request(1, b"x");
    client.send(&mut shard, Nanos(1), &[request]);
    assert!(inputs(&mut shard).is_empty());
    assert!(matches!(client.receive(&mut shard)[..], [Message::Busy(_)]));
}

#[test]
fn a_link_is_handed_to_the_shard_that_it_belongs_to() {
    let mut door = shard_of(3, 1, 2);
    let mut other = shard_of(3, 1, 2);
    other.setup.index = 1;
    other.next_link = 1 << 48;
    let mut peer = Remote::replica(&mut door, 1, 1, Nanos(0));
    let handover = door.handovers().next().expect("replica 1 belongs to shard 1 of 2");
    assert_eq!((handover.shard, handover.link), (1, peer.link));
    assert!(inputs(&mut door).is_empty() && door.closed().is_empty());
    peer.link = other.adopt(Nanos(1), handover);
    assert_eq!(Shard::of_link(peer.link), 1);
    peer.send(&mut other, Nanos(1), &[status(1)]);
    let arrived = inputs(&mut other);
    assert!(matches!(&arrived[..], [Input::Link { .. }, Input::Message { from: ReplicaId(1), .. }]), "{arrived:?}");
}

fn numbers(shard: &mut Shard) -> Vec<(Option<ReplicaId>, u64)> {
    let of = |input| match input {
        Input::Requests(requests) => requests.iter().map(|request| (None, request.entry.req_no.0)).collect(),
        Input::Message { from, message } => match &*message {
            Message::Request(request) => vec![(Some(from), request.entry.req_no.0)],
            other => panic!("{other:?}"),
        },
        Input::Link { .. } | Input::Client { .. } => Vec::new(),
        other => panic!("{other:?}"),
    };
    inputs(shard).into_iter().flat_map(of).collect()
}

fn forged(request: Message, shard: &Shard) -> Message {
    let Message::Request(request) = request else { unreachable!("it is one") };
    let mut bytes = request.bytes.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    Message::Request(SignedRequest::parse(bytes.into(), shard.bounds).unwrap())
}

/// Opens and takes what was sent, without the end of the turn.
fn bring(remote: &mut Remote, shard: &mut Shard, messages: &[Message]) {
    let (mut frames, mut sealed) = (Vec::new(), Vec::new());
    messages.iter().for_each(|message| encode(message, Epoch(0), &mut frames));
    remote.channel.as_mut().unwrap().1.seal(&frames, &mut sealed);
    shard.received(Nanos(1), remote.link, &sealed);
}

#[test]
fn z5_a1_a_bad_signature_in_a_forwarded_request_is_charged_to_the_link_that_brought_it() {
    let mut shard = shard_of(3, 1, 1);
    let mut client = Remote::client(&mut shard, 100);
    let mut honest = Remote::replica(&mut shard, 1, 1, Nanos(0));
    let mut liar = Remote::replica(&mut shard, 2, 2, Nanos(0));
    inputs(&mut shard);
    let bad = forged(client.request(1, b"x"), &shard);
    bring(&mut liar, &mut shard, &[client.request(2, b"x"), bad, client.request(3, b"x")]);
    let own = client.request(5, b"x");
    bring(&mut client, &mut shard, &[own]);
    bring(&mut honest, &mut shard, &[client.request(4, b"x")]);
    assert!(inputs(&mut shard).is_empty(), "they are checked together, at the end of the turn");
    shard.finish_turn(Nanos(1));
    assert_eq!(shard.closed(), [liar.link], "neither the client nor who brought others");
    let (honest, liar) = (Some(ReplicaId(1)), Some(ReplicaId(2)));
    assert_eq!(numbers(&mut shard), [(None, 5), (liar, 2), (liar, 3), (honest, 4)]);
}

#[test]
fn pf4_a_turn_takes_so_many_requests_and_no_more_and_replicas_are_read_all_the_same() {
    let mut shard = shard_of(3, 1, 1);
    let mut client = Remote::client(&mut shard, 100);
    let mut peer = Remote::replica(&mut shard, 1, 1, Nanos(0));
    inputs(&mut shard);
    let requests: Vec<_> = (1..=GATHERED_MAX as u64).map(|req_no| client.request(req_no, b"x")).collect();
    bring(&mut client, &mut shard, &requests[1..]);
    assert!(shard.may_read(client.link));
    bring(&mut client, &mut shard, &requests[..1]);
    assert!(!shard.may_read(client.link) && shard.may_read(peer.link));

    // What a replica forwards is bounded by itself: its link never waits.
    let forwarded: Vec<_> = (1..=FORWARDED_MAX as u64 + 3).map(|req_no| client.request(1000 + req_no, b"x")).collect();
    bring(&mut peer, &mut shard, &forwarded);
    bring(&mut peer, &mut shard, &[status(7)]);
    assert!(
        matches!(&inputs(&mut shard)[..], [Input::Message { message, .. }] if matches!(**message, Message::Status(_)))
    );
    shard.finish_turn(Nanos(1));
    let taken = numbers(&mut shard);
    assert_eq!(taken.iter().filter(|(by, _)| by.is_none()).count(), GATHERED_MAX);
    assert_eq!(taken.iter().filter(|(by, _)| by.is_some()).count(), FORWARDED_MAX);
    assert_eq!(shard.counters.forwards_dropped.get(), 3);
    assert!(shard.may_read(client.link), "the next turn has room again");
}

#[test]
fn pf4_while_the_pool_is_full_requests_are_refused_unchecked_but_for_known_ones() {
    let mut shard = shard_of(0, 1, 1);
    let mut client = Remote::client(&mut shard, 100);
    let (known, new) = (client.request(1, b"x"), client.request(2, b"y"));
    client.send(&mut shard, Nanos(1), std::slice::from_ref(&known));
    inputs(&mut shard);
    shard.setup.brim.look(16, 16);
    client.send(&mut shard, Nanos(2), &[known.clone(), new.clone()]);
    assert_eq!(numbers(&mut shard), [(None, 1)], "it may have been answered meanwhile");
    let [Message::Busy(busy)] = &client.receive(&mut shard)[..] else { panic!("it is told to wait") };
    let Message::Request(refused) = &new else { unreachable!("it is one") };
    assert_eq!(busy.request, refused.entry.digest);
    assert_eq!(shard.counters.requests_checked.get(), 2);
    shard.setup.brim.look(12, 16);
    client.send(&mut shard, Nanos(3), &[new]);
    assert_eq!(numbers(&mut shard), [(None, 2)]);
}

#[test]
fn pf4_a_client_over_its_rate_is_told_when_to_come_again_and_the_others_are_not() {
    let mut shard = shard_of(0, 1, 1);
    shard.rates = Rates::new(ClientRates { requests: 4, bytes: 0 });
    let (mut glutton, mut other) = (Remote::client(&mut shard, 100), Remote::client(&mut shard, 101));
    let requests: Vec<_> = (1..=6).map(|req_no| glutton.request(req_no, b"x")).collect();
    glutton.send(&mut shard, Nanos(1), &requests);
    assert_eq!(numbers(&mut shard), [(None, 1), (None, 2), (None, 3), (None, 4)]);
    let told: Vec<_> = glutton
        .receive(&mut shard)
        .into_iter()
        .map(|message| match message {
            Message::Busy(busy) => busy.retry_after_ms,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [251, 501], "each when its turn comes");
    assert_eq!(shard.counters.requests_over_rate.get(), 2);
    assert_eq!(shard.counters.requests_checked.get(), 4, "a refused one costs no check");
    let asked = other.request(1, b"x");
    other.send(&mut shard, Nanos(1), &[asked]);
    assert_eq!(numbers(&mut shard), [(None, 1)]);
    glutton.send(&mut shard, Nanos(252 * limits::MILLISECOND), &requests[4..5]);
    assert_eq!(numbers(&mut shard), [(None, 5)]);
}
