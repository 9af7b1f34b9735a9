//! Evidence from the lie to the verdict: a replica whose key the test holds votes twice, the others write down what that
//! proves, and `bftd audit` says who did what, on any machine that has the files and `cluster.toml`.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bft_core::auth::{Ed25519, Scheme, SecretKey};
use bft_core::config::ClusterConfig;
use bft_core::evidence::file::{read_file, write_file};
use bft_core::evidence::{Evidence, Proof, SignedVote};
use bft_core::ids::{Digest, ReplicaId, Seq, View};
use bft_core::wire::archive::encode;
use bft_core::wire::canonical::{self, opening};
use bft_core::wire::message::{Ballot, Message, Position, Prepare};
use bft_link::{Channel, Handshake, LocalIdentity};
use bft_server::testnet::{Testnet, TestnetOptions};
use serde_json::{Value, json};
use support::{Observer, PATIENCE, SNAPSHOTS_RARELY, bftd, cluster, wait_until};

fn scheme_of(testnet: &Testnet, replica: ReplicaId) -> Arc<dyn Scheme> {
    let pem = fs::read_to_string(testnet.replica_dir(replica).join("key.pem")).unwrap();
    Arc::new(Ed25519::new(SecretKey::from_pem(&pem).unwrap().as_bytes(), [1; 32]))
}

/// A vote of `replica` in view 0 for a batch that nobody proposed.
fn prepare(config: &ClusterConfig, scheme: &dyn Scheme, replica: ReplicaId, seq: u64, batch: u8) -> Prepare {
    let position = Position { epoch: config.epoch(), view: View(0), seq: Seq(seq), digest: Digest([batch; 32]) };
    let commitment = opening(&Digest([batch; 32]));
    let bytes = canonical::prepare(config.cluster_id(), &position, replica, commitment);
    Prepare { position, replica, ballot: Ballot { commitment, signature: scheme.sign(&bytes) } }
}

fn two_prepares(testnet: &Testnet, liar: ReplicaId, seq: u64) -> Evidence {
    let (config, scheme) = (testnet.cluster(), scheme_of(testnet, liar));
    let vote = |batch| {
        let Prepare { position, ballot, .. } = prepare(config, &*scheme, liar, seq, batch);
        SignedVote { digest: position.digest, ballot }
    };
    Evidence::new(config, Proof::two_prepares(liar, View(0), Seq(seq), vote(1), vote(2)))
}

fn liar_of(config: &ClusterConfig) -> ReplicaId {
    config.replicas().filter(|replica| *replica != config.primary(View(0))).last().unwrap()
}

/// A link to `victim` in the name of `liar`.
fn connect(testnet: &Testnet, liar: ReplicaId, victim: ReplicaId) -> (TcpStream, Channel) {
    let config = testnet.cluster();
    let identity = LocalIdentity::replica(config.clone(), scheme_of(testnet, liar), liar, 1).unwrap();
    let mut stream = TcpStream::connect(&config.member(victim).unwrap().address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut handshake = Handshake::connect(identity, victim, [7; 32]);
    stream.write_all(&handshake.take_output()).unwrap();
    let mut buffer = [0; 4096];
    while handshake.closed().is_err() {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the victim takes the link");
        handshake.feed(&mut &buffer[..count]).expect("the victim is who it is");
    }
    stream.write_all(&handshake.take_output()).unwrap();
    let (_, channel) = handshake.finished().expect("its last message was sent");
    (stream, channel)
}

fn file_of(testnet: &Testnet, at: ReplicaId, liar: ReplicaId) -> PathBuf {
    testnet.replica_dir(at).join(format!("data/evidence/E2-{liar}-0-0-1.evidence"))
}

#[test]
fn a2_a_lie_told_to_one_replica_is_proved_at_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = cluster(dir.path(), SNAPSHOTS_RARELY);
    let config = cluster.testnet().cluster().clone();
    let liar = liar_of(&config);
    let honest: Vec<_> = config.replicas().filter(|replica| *replica != liar).collect();
    for replica in &honest[..2] {
        cluster.start(*replica).unwrap();
        cluster.child(*replica).wait_ready(PATIENCE).unwrap();
    }
    let observer = Observer::new(&cluster);

    let scheme = scheme_of(cluster.testnet(), liar);
    let (mut stream, mut channel) = connect(cluster.testnet(), liar, honest[1]);
    let mut frames = Vec::new();
    for batch in [1, 2] {
        let vote = prepare(&config, &*scheme, liar, 1, batch);
        encode(&Message::Prepare(vote), config.epoch(), &mut frames);
    }
    let mut sealed = Vec::new();
    channel.seal(&frames, &mut sealed);
    stream.write_all(&sealed).unwrap();

    let files: Vec<_> = honest.iter().map(|replica| file_of(cluster.testnet(), *replica, liar)).collect();
    wait_until("who heard it has it in writing", || files[1].exists());
    cluster.start(honest[2]).unwrap();
    wait_until("and everybody, who was not there as well", || files.iter().all(|file| file.exists()));
    let counter = |observer: &Observer, replica| observer.info(replica).unwrap().counter("evidence").unwrap();
    assert!(honest.iter().all(|replica| counter(&observer, *replica) == 1));
    assert!(cluster.child(honest[1]).said().unwrap().contains("evidence: two PREPAREs for one place"));
    let cluster_toml = cluster.testnet().dir().join("cluster.toml").display().to_string();
    let names: Vec<_> = files.iter().map(|file| file.to_str().unwrap()).collect();
    let output = bftd(&[&["audit", "--cluster", &cluster_toml], &names[..]].concat());
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        told.matches(&format!("replica {liar}: E2, two PREPAREs for one place, in Epoch 0, view 0, at Seq 1")).count(),
        3
    );

    // It outlives the process, and is written again where somebody took the file away.
    drop(stream);
    cluster.kill(honest[2]).unwrap();
    fs::remove_file(&files[2]).unwrap();
    cluster.start(honest[2]).unwrap();
    cluster.child(honest[2]).wait_ready(PATIENCE).unwrap();
    wait_until("it is there again", || files[2].exists());
    assert_eq!(counter(&observer, honest[2]), 1);
    assert_eq!(fs::read(&files[2]).unwrap(), fs::read(&files[0]).unwrap());
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}

fn testnet(dir: &Path) -> Testnet {
    Testnet::create(&dir.join("net"), &TestnetOptions::loopback(4, 4710).unwrap()).unwrap()
}

#[test]
fn audit_tells_what_holds_from_what_does_not_and_from_what_can_not_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let testnet = testnet(dir.path());
    let liar = liar_of(testnet.cluster());
    let genuine = two_prepares(&testnet, liar, 17);
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let cluster = testnet.dir().join("cluster.toml").display().to_string();
    let audit = |arguments: &[&str]| {
        let output = bftd(&[&["audit", "--cluster", &cluster], arguments].concat());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code().expect("no signal"), text(&output.stdout), text(&output.stderr))
    };

    let good = file("good", &write_file(&genuine));
    let member = testnet.cluster().member(liar).unwrap().clone();
    let said = format!(
        "{good}, piece 1: replica {liar}: E2, two PREPAREs for one place, in Epoch 0, view 0, at Seq 17\n  holds: \
         signed with {}, the key of {}\n  PREPARE of batch {}\n  PREPARE of batch {}\n",
        member.public_key,
        member.address,
        Digest([1; 32]),
        Digest([2; 32])
    );
    assert_eq!(audit(&[&good]), (0, said.clone(), String::new()));

    // Somebody else is named: the file reads, and proves nothing.
    let mut framed = genuine.clone();
    let victim =
        testnet.cluster().replicas().find(|replica| ![liar, testnet.cluster().primary(View(0))].contains(replica));
    if let Proof::TwoPrepares { replica, .. } = &mut framed.proof {
        *replica = victim.unwrap();
    }
    let both = file("both", &[write_file(&genuine), write_file(&framed)].concat());
    let (code, stdout, stderr) = audit(&[&good, &both]);
    assert_eq!((code, stderr.as_str()), (1, "bftd: 1 of 3 pieces prove nothing, whoever made them\n"));
    assert!(
        stdout.starts_with(&said)
            && stdout.contains(&format!("PROVES NOTHING: the PREPARE is not signed by replica {}", victim.unwrap())),
        "{stdout}"
    );
    let (code, stdout, _) = audit(&[&both, "--output", "json"]);
    let object: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &object["all_hold"]), (1, &json!(false)));
    let pieces = object["pieces"].as_array().unwrap();
    assert_eq!((&pieces[0]["holds"], &pieces[1]["holds"]), (&json!(true), &json!(false)));
    assert_eq!(
        (&pieces[0]["kind"], &pieces[0]["replica"], &pieces[0]["seq"]),
        (&json!("E2"), &json!(liar.0), &json!(17))
    );
    assert_eq!(pieces[0]["public_key"], json!(member.public_key.to_string()));
    assert_eq!((&pieces[1]["public_key"], &pieces[1]["piece"]), (&Value::Null, &json!(2)), "nobody signed it");
    assert_eq!(read_file(&fs::read(&both).unwrap()).unwrap().len(), 2);

    let wrong = |code, stderr: String| (code, String::new(), format!("bftd: {stderr}\n"));
    let cut = file("cut", &write_file(&genuine)[..100]);
    let why = "no evidence that can be checked: it is cut short, in piece 1, which begins at byte 0";
    assert_eq!(audit(&[&cut]), wrong(65, format!("{cut}: {why}")));
    let text = file("text", b"replica 2 did it");
    let why = "no evidence that can be checked: it does not begin with \"BFTE\": it is no evidence, or of another version, \
               in piece 1, which begins at byte 0";
    assert_eq!(audit(&[&text]), wrong(65, format!("{text}: {why}")));
    assert_eq!(audit(&["nowhere"]), wrong(65, "nowhere: No such file or directory (os error 2)".into()));
    let other = Testnet::create(&dir.path().join("other"), &TestnetOptions::loopback(4, 4710).unwrap()).unwrap();
    let foreign = file("foreign", &write_file(&two_prepares(&other, liar, 17)));
    let (code, stdout, _) = audit(&[&foreign]);
    assert!(code == 1 && stdout.contains("PROVES NOTHING: it is about the cluster "), "{stdout}");
    let config = bftd(&["audit", &good, "--cluster", &good]);
    assert_eq!(config.status.code(), Some(78));
    assert_eq!(bftd(&["audit", "--cluster", &cluster]).status.code(), Some(2), "no file is named");
}
