//! A real cluster with a primary that proposes one batch to some and another to the others: it goes on, nothing that was
//! acknowledged is lost or doubled, and the lie is in writing.

use std::fs;
use std::time::{Duration, Instant};

use bft_client::{Client, ClientConfig, Completion, Completions, Outcome, Submit, Wait};
use bft_core::ids::{ReplicaId, View};
use bft_server::children::{LocalCluster, Program};
use bft_services::kv::{Operation, Reply};

/// Nothing here takes longer on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Operations under way.
const INFLIGHT: u64 = 32;
const KEY: &[u8] = b"counter";

fn program(villain: Option<&str>) -> Program {
    let arguments = ["run"].into_iter().chain(villain.into_iter().flat_map(|name| ["--villain", name]));
    Program { path: env!("CARGO_BIN_EXE_bft-villain").into(), arguments: arguments.map(Into::into).collect() }
}

/// Adds 1 as fast as answers come, until there were `more` of them and `is_enough` says so. Gives how many there were.
fn add(client: &Client, more: u64, is_enough: impl Fn() -> bool) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    let bytes = Operation::Add { key: KEY, delta: 1 }.to_bytes().unwrap();
    let (mut open, mut acknowledged, mut completions) = (0, 0, Vec::new());
    loop {
        let is_over = acknowledged >= more && is_enough();
        assert!(is_over || Instant::now() < deadline, "after {PATIENCE:?}: {acknowledged} answers");
        if is_over && open == 0 {
            return acknowledged;
        }
        while open < INFLIGHT && !is_over {
            assert_eq!(client.submit(&[Submit { bytes: &bytes, ..Submit::default() }]).unwrap(), 1);
            open += 1;
        }
        open -= client.poll(&mut completions, usize::MAX, Wait::UpTo(PATIENCE)) as u64;
        for Completion { outcome, .. } in completions.drain(..) {
            let Outcome::Done { result, .. } = &outcome else { panic!("{outcome:?}") };
            assert!(matches!(Reply::decode(result), Ok(Reply::Counter(_))), "{result:?}");
            acknowledged += 1;
        }
    }
}

fn counted(client: &Client) -> u64 {
    let get = Operation::Get { key: KEY }.to_bytes().unwrap();
    let Outcome::Done { result, .. } = client.call(&get, PATIENCE) else { panic!("no answer to a get") };
    let Reply::Value(Some(value)) = Reply::decode(&result).unwrap() else { panic!("{result:?} is no counter") };
    i64::from_le_bytes(value.try_into().unwrap()).try_into().unwrap()
}

/// Who is accused in the files of a replica.
fn accused(cluster: &LocalCluster, replica: ReplicaId) -> Vec<String> {
    let folder = cluster.testnet().replica_dir(replica).join("data/evidence");
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.file_name());
    let names = names.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".evidence"));
    names.map(|name| name.split('-').nth(1).unwrap().into()).collect()
}

#[test]
fn a_primary_that_proposes_two_batches_is_borne_and_caught() {
    let dir = tempfile::tempdir().unwrap();
    let adjust = |options: &mut bft_server::testnet::TestnetOptions| options.service.name = "kv".into();
    let mut cluster = LocalCluster::create(&dir.path().join("net"), 4, program(None), adjust).unwrap();
    let config = cluster.testnet().cluster().clone();
    let liar = config.primary(View(0));
    cluster.run_by(liar, program(Some("proposes-two")));
    cluster.start_all(PATIENCE).unwrap();

    let mut client = ClientConfig::load(&cluster.testnet().client_config()).unwrap();
    client.timeout = None;
    let client = Client::open(client, Completions::Queue).unwrap();
    let honest: Vec<_> = config.replicas().filter(|replica| *replica != liar).collect();
    let is_caught = || honest.iter().all(|replica| !accused(&cluster, *replica).is_empty());
    let acknowledged = add(&client, 500, is_caught) + add(&client, 500, || true);
    assert_eq!(counted(&client), acknowledged, "what the counter holds, and what was answered");
    for replica in &honest {
        assert!(accused(&cluster, *replica).iter().all(|name| *name == liar.to_string()), "{replica} accuses others");
    }
    let infos = client.query_info(Duration::from_secs(5), false);
    let views = infos.iter().filter(|(replica, _)| *replica != liar).map(|(_, info)| info.as_ref().unwrap().view);
    assert!(views.min().unwrap() > View(0), "who is caught leads no longer");
    client.close(Duration::from_secs(1));
    cluster.stop_all(PATIENCE).unwrap();
    let log = fs::read_to_string(cluster.testnet().replica_dir(liar).join("log")).unwrap();
    let misdeeds = log.lines().find_map(|line| line.strip_prefix("villain proposes-two: ")?.strip_suffix(" misdeeds"));
    assert!(misdeeds.unwrap().parse::<u64>().unwrap() > 0, "{misdeeds:?}");
}
