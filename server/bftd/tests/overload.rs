//! More than there is room for, on real processes. Clients beyond the sessions are told so and come in when there is room;
//! one that brings more than its rate gets all of it done in time; the others notice nothing.

#[macro_use]
mod support;

use std::time::Duration;

use bft_client::{Client, ClientConfig, Completions, NotSent, Outcome, Submit, Wait};
use bft_server::Io;
use bft_server::children::LocalCluster;
use bft_services::kv::{Operation, Reply};
use support::{INTERVAL, Observer, PATIENCE, program};

over_each_driver!(
    mem1_clients_beyond_the_sessions_are_told_busy_and_nobody_loses_one,
    pf4_a_client_over_its_rate_gets_all_done_and_slows_nobody_else,
);

const SESSIONS: u32 = 3;

fn add(client: &Client, deadline: Duration) -> Outcome {
    client.call(&Operation::Add { key: b"visits", delta: 1 }.to_bytes().unwrap(), deadline)
}

fn counter(outcome: &Outcome) -> i64 {
    let Outcome::Done { result, .. } = outcome else { panic!("{outcome:?}") };
    match Reply::decode(result) {
        Ok(Reply::Counter(sum)) => sum,
        other => panic!("{other:?}"),
    }
}

fn mem1_clients_beyond_the_sessions_are_told_busy_and_nobody_loses_one(io: Io) {
    let dir = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::create(&dir.path().join("net"), 4, program(), |options| {
        options.io = io;
        options.params.sessions_max = SESSIONS;
        options.params.checkpoint_interval = INTERVAL;
        options.params.window = 2 * INTERVAL;
        options.params.pipeline_max = INTERVAL;
        options.journal.segment_bytes = 4 << 20;
    });
    let mut cluster = cluster.unwrap();
    cluster.start_all(PATIENCE).unwrap();
    let config = ClientConfig::load(&cluster.testnet().client_config()).unwrap();
    let open = || Client::open(config.clone(), Completions::Queue).unwrap();
    let mut inside: Vec<_> = (0..SESSIONS).map(|_| open()).collect();
    let mut sum = 0;
    let mut all_count_on = |clients: &[Client]| {
        for client in clients {
            sum += 1;
            assert_eq!(counter(&add(client, PATIENCE)), sum);
        }
    };
    all_count_on(&inside);

    let outside: Vec<_> = (0..5).map(|_| open()).collect();
    for client in &outside {
        let told = add(client, Duration::from_millis(600));
        assert!(matches!(told, Outcome::NotSent { reason: NotSent::Overloaded }), "{told:?}");
    }
    for _ in 0..20 {
        all_count_on(&inside);
    }
    let infos = Observer::new(&cluster).infos(false);
    let told: u64 = infos.into_iter().flatten().filter_map(|info| info.counter("busy")).sum();
    assert!(told >= 5, "{told} BUSY were sent");

    // Who goes makes room for one of those who kept asking.
    inside.remove(0).close(PATIENCE);
    let count = Operation::Count.to_bytes().unwrap();
    let asked = Submit { bytes: &count, deadline: Some(PATIENCE), ..Submit::default() };
    assert!(outside.iter().all(|client| client.submit(&[asked]) == Ok(1)));
    let mut ends = Vec::new();
    support::wait_until("one of them has a session", || {
        outside.iter().map(|client| client.poll(&mut ends, 1, Wait::No)).sum::<usize>() > 0
    });
    assert!(matches!(ends[0].outcome, Outcome::Done { .. }), "{ends:?}");
    all_count_on(&inside);
    outside.into_iter().chain(inside).for_each(|client| client.close(Duration::ZERO));
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}

fn pf4_a_client_over_its_rate_gets_all_done_and_slows_nobody_else(io: Io) {
    const OPERATIONS: usize = 60;
    let dir = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::create(&dir.path().join("net"), 4, program(), |options| {
        options.io = io;
        options.clients.requests_per_second = 20;
        options.journal.segment_bytes = 4 << 20;
    });
    let mut cluster = cluster.unwrap();
    cluster.start_all(PATIENCE).unwrap();
    let mut config = ClientConfig::load(&cluster.testnet().client_config()).unwrap();
    config.operations_per_request = 1;
    let open = || Client::open(config.clone(), Completions::Queue).unwrap();
    let (glutton, other) = (open(), open());
    let count = Operation::Count.to_bytes().unwrap();
    let addition = Operation::Add { key: b"visits", delta: 1 }.to_bytes().unwrap();
    let asked = Submit { bytes: &addition, deadline: Some(PATIENCE), ..Submit::default() };
    assert_eq!(glutton.submit(&vec![asked; OPERATIONS]), Ok(OPERATIONS));
    assert!(matches!(other.call(&count, PATIENCE), Outcome::Done { .. }));
    let mut ends = Vec::new();
    support::wait_until("all of them are done", || {
        glutton.poll(&mut ends, OPERATIONS, Wait::No);
        ends.len() == OPERATIONS
    });
    assert!(ends.iter().all(|end| matches!(end.outcome, Outcome::Done { .. })), "{ends:?}");
    assert_eq!(counter(&add(&glutton, PATIENCE)), OPERATIONS as i64 + 1, "each once");
    let infos = Observer::new(&cluster).infos(false);
    let counted = |name: &str| -> Vec<u64> { infos.iter().flatten().filter_map(|info| info.counter(name)).collect() };
    assert!(counted("requests_over_rate").iter().any(|refused| *refused > 0));
    assert_eq!(counted("views_left"), [0; 4], "a refusal makes nobody suspect the primary");
    glutton.close(Duration::ZERO);
    other.close(Duration::ZERO);
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}
