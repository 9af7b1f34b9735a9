//! The client's thread against a loopback cluster that answers as a real one would.

use std::collections::BTreeSet;
use std::future::Future;
use std::io::Write;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bft_client::{
    Client, ClientConfig, Completion, Completions, NotSent, OpenError, Outcome, SessionReport, SessionStart, Submit,
    SubmitError, Unknown, Wait,
};
use bft_core::auth::keys::SecretKey;
use bft_core::config::{Admission, ClusterConfig};
use bft_core::ids::ReplicaId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

mod support;

use support::{Cluster, N, SOON, eventually};

fn result(outcome: Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Done { result, .. } => result.to_vec(),
        other => panic!("not done: {other:?}"),
    }
}

fn tagged(tag: u64) -> Submit<'static> {
    Submit { bytes: b"tagged", tag, ..Submit::default() }
}

/// Takes completions until there are as many.
fn take(client: &Client, count: usize) -> Vec<Completion> {
    let mut out = Vec::new();
    while out.len() < count {
        assert!(client.poll(&mut out, count, Wait::UpTo(SOON)) > 0, "{} of {count} completions came", out.len());
    }
    out
}

fn is_readable(client: &Client) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(client.event_fd(), PollFlags::IN)], Some(&now)).unwrap() == 1
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park_timeout(SOON);
    }
}

#[test]
fn a_call_is_executed_once_and_the_session_is_closed() {
    let cluster = Cluster::start();
    let client = Client::open(cluster.client(), Completions::Futures).unwrap();
    assert_eq!(result(client.call(b"one", SOON)), b"one");
    assert_eq!(result(client.call(b"", SOON)), b"");
    assert_eq!(cluster.runs(b"one"), 1);
    assert_eq!(client.submit(&[tagged(1)]), Err(SubmitError::NoTags));
    let other = client.clone();
    client.close(SOON);
    assert_eq!(other.call(b"late", SOON), Outcome::NotSent { reason: NotSent::Closed });
    assert_eq!(cluster.runs(b"late"), 0);
}

#[test]
fn submitted_operations_come_back_by_their_tags_and_the_descriptor_tells_when() {
    let cluster = Cluster::start();
    let client = Client::open(cluster.client(), Completions::Queue).unwrap();
    assert!(!is_readable(&client));
    let operations: Vec<_> = (0..1000).map(tagged).collect();
    assert_eq!(client.submit(&operations), Ok(1000));
    let descriptor = &mut [PollFd::from_borrowed_fd(client.event_fd(), PollFlags::IN)];
    let soon = Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(poll(descriptor, Some(&soon)).unwrap(), 1, "readable when completions are there");
    let mut tags: Vec<_> = take(&client, 1000).into_iter().map(|completion| completion.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..1000).collect::<Vec<_>>());
    assert!(!is_readable(&client), "silent when all were taken");
    assert_eq!(client.poll(&mut Vec::new(), 1, Wait::No), 0);
    assert_eq!(cluster.runs(b"tagged"), 1000);
    client.close(SOON);
}

#[test]
fn futures_work_under_any_executor() {
    let cluster = Cluster::start();
    let client = Client::open(cluster.client(), Completions::Futures).unwrap();
    let pending: Vec<_> = (0..50u8).map(|i| client.send(&[i], None)).collect();
    for (i, pending) in (0..50u8).zip(pending) {
        assert_eq!(result(block_on(pending)), [i]);
    }
    let too_large = block_on(client.send(&vec![0; 256 << 10], None));
    assert_eq!(too_large, Outcome::NotSent { reason: NotSent::TooLarge });
    client.close(SOON);
}

#[test]
fn a_callback_gets_every_completion_even_after_it_panicked() {
    let cluster = Cluster::start();
    let (sender, receiver) = mpsc::channel();
    let callback = move |completion: Completion| {
        sender.send(completion.tag).unwrap();
        assert_ne!(completion.tag, 0, "a bug of the caller's");
    };
    let client = Client::open(cluster.client(), Completions::Callback(Box::new(callback))).unwrap();
    client.submit(&[tagged(0)]).unwrap();
    assert_eq!(receiver.recv_timeout(SOON), Ok(0));
    client.submit(&[tagged(1)]).unwrap();
    assert_eq!(receiver.recv_timeout(SOON), Ok(1));
    client.close(SOON);
}

#[test]
fn a_batch_callback_gets_together_what_came_together_and_the_history_is_told() {
    let cluster = Cluster::start();
    let own = Arc::new(Mutex::new(None::<Client>));
    let (in_callback, (sender, receiver)) = (own.clone(), mpsc::channel());
    let callback = move |completions: &mut Vec<Completion>| {
        let tags: Vec<_> = completions.drain(..).map(|completion| completion.tag).collect();
        if tags.contains(&0) {
            let next: Vec<_> = tags.iter().map(|tag| tagged(tag + 10)).collect();
            let client = in_callback.lock().unwrap();
            assert_eq!(client.as_ref().unwrap().submit(&next), Ok(tags.len()));
        }
        sender.send(tags).unwrap();
    };
    let client = Client::open(cluster.client(), Completions::Batches(Box::new(callback))).unwrap();
    *own.lock().unwrap() = Some(client.clone());
    client.submit(&[tagged(0), tagged(1), tagged(2)]).unwrap();
    assert_eq!(receiver.recv_timeout(SOON), Ok(vec![0, 1, 2]), "one Request, one call");
    assert_eq!(receiver.recv_timeout(SOON), Ok(vec![10, 11, 12]));
    assert_eq!(client.sessions(), SessionReport { opened: 1, lost: 0, busy: 0 });
    client.close(SOON);
    assert_eq!(Arc::strong_count(&own), 1, "the callback is gone with the session");
}

#[test]
fn a_deadline_tells_what_was_sent_from_what_was_not() {
    let mut cluster = Cluster::start();
    let client = Client::open(cluster.client(), Completions::Futures).unwrap();
    result(client.call(b"open", SOON));
    cluster.ledger.is_silent.store(true, Ordering::SeqCst);
    let start = Instant::now();
    let outcome = client.call(b"unanswered", Duration::from_millis(50));
    assert_eq!(outcome, Outcome::Unknown { reason: Unknown::Deadline });
    assert!(start.elapsed() >= Duration::from_millis(50));
    (0..N).for_each(|id| cluster.kill(id));
    let unopened = Client::open(cluster.client(), Completions::Futures).unwrap();
    let outcome = unopened.call(b"unsent", Duration::from_millis(50));
    assert_eq!(outcome, Outcome::NotSent { reason: NotSent::Deadline });
    assert_eq!(cluster.runs(b"unsent"), 0);
    unopened.close(Duration::ZERO);
}

#[test]
fn the_configured_timeout_is_the_deadline_of_operations_without_one() {
    let mut cluster = Cluster::start();
    (0..N).for_each(|id| cluster.kill(id));
    let config = ClientConfig { timeout: Some(Duration::from_millis(30)), ..cluster.client() };
    let client = Client::open(config, Completions::Queue).unwrap();
    client.submit(&[tagged(1)]).unwrap();
    let outcome = Outcome::NotSent { reason: NotSent::Deadline };
    assert_eq!(take(&client, 1), [Completion { tag: 1, outcome }]);
    client.close(Duration::ZERO);
}

#[test]
fn cancelled_operations_complete_at_once() {
    let cluster = Cluster::start();
    cluster.ledger.is_deaf.store(true, Ordering::SeqCst);
    let client = Client::open(cluster.client(), Completions::Queue).unwrap();
    client.submit(&[tagged(1), tagged(2), tagged(1)]).unwrap();
    client.cancel(1);
    let outcome = Outcome::NotSent { reason: NotSent::Cancelled };
    let cancelled = Completion { tag: 1, outcome };
    assert_eq!(take(&client, 2), [cancelled.clone(), cancelled]);
    cluster.ledger.is_deaf.store(false, Ordering::SeqCst);
    let last = take(&client, 1);
    assert_eq!((last[0].tag, result(last[0].outcome.clone())), (2, b"tagged".to_vec()));
    client.close(SOON);
}

#[test]
fn links_come_back_and_the_operation_with_them() {
    let mut cluster = Cluster::start();
    let client = Client::open(cluster.client(), Completions::Futures).unwrap();
    result(client.call(b"before", SOON));
    (0..N).for_each(|id| cluster.kill(id));
    let pending = client.send(b"during", None);
    eventually("every link is seen to be down", || client.links().iter().all(|link| !link.is_up));
    assert!(client.links().iter().all(|link| !link.last_error.is_empty()));
    (0..N).for_each(|id| cluster.revive(id));
    assert_eq!(result(block_on(pending)), b"during");
    assert_eq!(cluster.runs(b"during"), 1);
    eventually("all four come back", || client.links().iter().all(|link| link.is_up));
    client.close(SOON);
}

#[test]
fn two_of_four_replicas_are_enough_for_an_answer() {
    let mut cluster = Cluster::start();
    cluster.kill(0);
    cluster.kill(3);
    let client = Client::open(cluster.client(), Completions::Futures).unwrap();
    assert_eq!(result(client.call(b"still", SOON)), b"still");
    client.close(SOON);
}

#[test]
fn close_leaves_nothing_without_an_end() {
    let cluster = Cluster::start();
    let client = Client::open(cluster.client(), Completions::Queue).unwrap();
    result(client.call(b"open", SOON));
    let other = client.clone();
    let last = client.clone();
    client.submit(&[tagged(1)]).unwrap();
    client.close(SOON);
    assert_eq!(result(take(&other, 1)[0].outcome.clone()), b"tagged", "it was waited for");
    assert_eq!(other.submit(&[tagged(2)]), Err(SubmitError::Closed));
    assert_eq!(other.poll(&mut Vec::new(), 1, Wait::Forever), 0, "nothing will come, so nothing is waited for");
    other.cancel(1);
    assert!(other.query_info(SOON, false).iter().all(|(_, info)| info.is_none()));
    other.close(SOON);
    drop(last);

    let client = Client::open(cluster.client(), Completions::Queue).unwrap();
    result(client.call(b"open", SOON));
    cluster.ledger.is_silent.store(true, Ordering::SeqCst);
    let other = client.clone();
    client.submit(&[tagged(1)]).unwrap();
    eventually("it is executed", || cluster.runs(b"tagged") == 2);
    client.close(Duration::ZERO);
    assert_eq!(take(&other, 1)[0].outcome, Outcome::Unknown { reason: Unknown::Closed });
}

#[test]
fn dropping_the_last_handle_ends_the_session_and_every_future() {
    let mut cluster = Cluster::start();
    (0..N).for_each(|id| cluster.kill(id));
    let client = Client::open(cluster.client(), Completions::Futures).unwrap();
    let pending = client.send(b"never", None);
    drop(client);
    assert_eq!(block_on(pending), Outcome::NotSent { reason: NotSent::Closed });
}

#[test]
fn a_callback_may_hold_its_own_client() {
    let cluster = Cluster::start();
    let own = Arc::new(Mutex::new(None::<Client>));
    let (in_callback, (sender, receiver)) = (own.clone(), mpsc::channel());
    let callback = move |completion: Completion| {
        if completion.tag < 5 {
            let client = in_callback.lock().unwrap();
            client.as_ref().unwrap().submit(&[tagged(completion.tag + 1)]).unwrap();
        } else {
            sender.send(completion.tag).unwrap();
        }
    };
    let client = Client::open(cluster.client(), Completions::Callback(Box::new(callback))).unwrap();
    *own.lock().unwrap() = Some(client.clone());
    client.submit(&[tagged(0)]).unwrap();
    assert_eq!(receiver.recv_timeout(SOON), Ok(5), "each completion submitted the next operation");
    client.close(SOON);
    assert_eq!(Arc::strong_count(&own), 1, "the callback is gone with the session");
}

#[test]
fn a_full_queue_takes_what_fits() {
    let cluster = Cluster::start();
    cluster.ledger.is_deaf.store(true, Ordering::SeqCst);
    let config = ClientConfig { queue_operations: 4, ..cluster.client() };
    let client = Client::open(config, Completions::Queue).unwrap();
    assert_eq!(client.submit(&[]), Ok(0));
    assert_eq!(client.submit(&[tagged(1), tagged(2), tagged(3), tagged(4), tagged(5)]), Ok(4));
    assert_eq!(client.submit(&[tagged(5)]), Err(SubmitError::Full));
    assert_eq!(client.call(b"x", SOON), Outcome::NotSent { reason: NotSent::Overloaded });
    cluster.ledger.is_deaf.store(false, Ordering::SeqCst);
    eventually("the queue fills up", || is_readable(&client));
    let large = vec![0; 256 << 10];
    let too_large = Submit { bytes: &large, ..Submit::default() };
    let refused = client.submit(&[too_large]);
    assert_eq!(refused, Err(SubmitError::TooLarge { len: 256 << 10, max: (256 << 10) - 132 }));
    take(&client, 4);
    assert_eq!(client.submit(&[tagged(5), too_large]), Ok(1), "taken completions make room");
    take(&client, 1);
    client.close(SOON);
}

#[test]
fn many_sessions_share_one_set_of_links() {
    let cluster = Cluster::start();
    let done = Arc::new(Mutex::new(Vec::new()));
    let completions = |session: usize| {
        let done = done.clone();
        Completions::Callback(Box::new(move |completion| done.lock().unwrap().push((session, completion.tag))))
    };
    let clients = Client::open_many(cluster.client(), 20, completions).unwrap();
    for (index, client) in clients.iter().enumerate() {
        let tag = index as u64;
        assert_eq!(client.submit(&[tagged(tag), tagged(tag)]), Ok(2));
    }
    eventually("all complete", || done.lock().unwrap().len() == 40);
    let mut done = std::mem::take(&mut *done.lock().unwrap());
    done.sort_unstable();
    let expected: Vec<_> = (0..20).flat_map(|index| [(index, index as u64); 2]).collect();
    assert_eq!(done, expected, "each session hears of its own");
    assert_eq!(cluster.clients(), 20, "each has a key of its own");
    eventually("every link is up", || clients[0].links().iter().all(|link| link.is_up));
    assert_eq!(cluster.ledger.connections.load(Ordering::SeqCst), N, "one link to each replica");
    assert_eq!(clients.iter().map(Client::public_key).collect::<BTreeSet<_>>().len(), 20);
    let mut clients = clients.into_iter();
    clients.next().unwrap().close(SOON);
    assert_eq!(result(clients.next().unwrap().call(b"on", SOON)), b"on", "the others go on");
    clients.for_each(|client| client.close(SOON));
    assert!(matches!(Client::open_many(cluster.client(), 0, |_| Completions::Futures), Err(OpenError::Sessions(0))));
}

#[test]
fn info_of_those_that_answer_and_none_of_the_others() {
    let mut cluster = Cluster::start();
    cluster.kill(2);
    let client = Client::open(cluster.client(), Completions::Futures).unwrap();
    result(client.call(b"open", SOON));
    eventually("three links", || client.links().iter().filter(|link| link.is_up).count() == 3);
    let answers = client.query_info(Duration::from_millis(300), true);
    let ids: Vec<_> = answers.iter().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [0, 1, 2, 3]);
    for (id, info) in answers {
        let info = info.filter(|info| info.replica == id && info.executed.0 > 0 && info.state.is_some());
        assert_eq!(info.is_some(), id != ReplicaId(2));
    }
    cluster.revive(2);
    let start = Instant::now();
    assert!(client.query_info(SOON, false).iter().all(|(_, info)| info.is_some()), "a link that comes up is asked too");
    assert!(start.elapsed() < SOON);
    client.close(SOON);
}

#[test]
fn who_only_asks_opens_no_session() {
    let cluster = Cluster::start();
    let config = ClientConfig { session: SessionStart::WithFirstOperation, ..cluster.client() };
    let client = Client::open(config, Completions::Futures).unwrap();
    assert!(client.query_info(SOON, false).iter().all(|(_, info)| info.is_some()));
    assert_eq!(cluster.open_sessions(), 0);
    assert_eq!(result(client.call(b"now", SOON)), b"now");
    assert_eq!(cluster.open_sessions(), 1);
    client.close(SOON);
}

#[test]
fn what_is_no_replica_is_refused_and_named_and_the_others_serve() {
    let mut cluster = Cluster::start();
    cluster.kill(1);
    let address = cluster.config.members()[1].address.clone();
    let impostor = TcpListener::bind(address).unwrap();
    let babble = std::thread::spawn(move || {
        let (mut stream, _) = impostor.accept().unwrap();
        drop(stream.write_all(&[0x55; 4096]));
    });
    let client = Client::open(cluster.client(), Completions::Futures).unwrap();
    assert_eq!(result(client.call(b"on", SOON)), b"on");
    babble.join().unwrap();
    eventually("the impostor is named", || {
        let link = &client.links()[1];
        !link.is_up && link.replica == ReplicaId(1) && !link.last_error.is_empty()
    });
    client.close(SOON);
}

#[test]
fn names_are_resolved() {
    let cluster = Cluster::start_with(Admission::Any, |address| format!("localhost:{}", address.port()));
    let client = Client::open(cluster.client(), Completions::Futures).unwrap();
    assert_eq!(result(client.call(b"named", SOON)), b"named");
    client.close(SOON);
}

#[test]
fn a_name_that_leads_nowhere_is_reported() {
    let cluster = Cluster::start();
    let mut members = cluster.config.members().to_vec();
    members[0].address = "no port here".into();
    let params = cluster.config.params().clone();
    let (id, epoch) = (cluster.config.cluster_id(), cluster.config.epoch());
    let config = ClusterConfig::new(id, epoch, params, Admission::Any, members).unwrap();
    let client = Client::open(ClientConfig::new(Arc::new(config)), Completions::Futures).unwrap();
    assert_eq!(result(client.call(b"on", SOON)), b"on");
    eventually("the name is in the report", || {
        client.links()[0].last_error.starts_with("cannot resolve no port here: ")
    });
    client.close(SOON);
}

#[test]
fn a_certified_cluster_wants_its_authority() {
    let authority = SecretKey::from_entropy([9; 32]);
    let cluster = Cluster::start_with(Admission::Certified(authority.public_key()), |address| address.to_string());
    let open = |authority| Client::open(ClientConfig { authority, ..cluster.client() }, Completions::Futures);
    assert!(matches!(open(None), Err(OpenError::NoAuthority)));
    let wrong = SecretKey::from_entropy([10; 32]);
    let keys = (wrong.public_key(), authority.public_key());
    let refused = open(Some(wrong)).err().expect("the wrong authority");
    assert!(matches!(refused, OpenError::WrongAuthority { found, expected } if (found, expected) == keys));
    let client = open(Some(authority)).unwrap();
    assert_eq!(result(client.call(b"certified", SOON)), b"certified");
    client.close(SOON);
}

#[test]
fn c18_the_next_life_of_a_key_replaces_its_session() {
    let cluster = Cluster::start();
    let config = ClientConfig { key: Some(SecretKey::from_entropy([11; 32])), ..cluster.client() };
    let first = Client::open(config.clone(), Completions::Futures).unwrap();
    result(first.call(b"first", SOON));
    let second = Client::open(config, Completions::Futures).unwrap();
    assert_eq!(first.public_key(), second.public_key());
    assert_eq!(result(second.call(b"second", SOON)), b"second");
    assert_eq!(first.call(b"lost", SOON), Outcome::Unknown { reason: Unknown::SessionLost });
    assert_eq!((cluster.runs(b"lost"), cluster.open_sessions()), (0, 1));
    second.close(SOON);
}
