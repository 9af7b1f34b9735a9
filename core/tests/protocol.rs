//! Holds the table of messages in `core/PROTOCOL.md` against the code: every kind has its row, comes from whom the wire
//! lets it come from, is handled by a function that exists, and waits for the record that the row names.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use bft_core::door::Place;
use bft_core::ids::{LogPosition, ReplicaId, View};
use bft_core::journal::record::Record;
use bft_core::limits::SECOND;
use bft_core::wire::frame::{PeerRole, senders};
use bft_core::wire::message::Kind;
use common::cluster::Cluster;

/// A row: one or more kinds.
struct Row {
    from: String,
    handler: String,
    durable_first: String,
}

/// As the texts write it: `PrePrepare` is PRE-PREPARE.
fn name(kind: Kind) -> String {
    let mut name = String::new();
    for letter in format!("{kind:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

fn table() -> BTreeMap<String, Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("PROTOCOL.md");
    let text = fs::read_to_string(path).expect("core/PROTOCOL.md is there");
    let lines = text.lines().skip_while(|line| !line.starts_with("| message |")).skip(2);
    let mut rows = BTreeMap::new();
    for line in lines.take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [messages, from, handler, _, durable_first] = cells[..] else { panic!("a row has five cells: {line}") };
        let messages = messages.split('{').next().expect("split gives one part at least");
        for message in messages.split(", ") {
            let [from, handler, durable_first] = [from, handler, durable_first].map(str::to_string);
            let former = rows.insert(message.trim().to_string(), Row { from, handler, durable_first });
            assert!(former.is_none(), "one row for {message}");
        }
    }
    rows
}

#[test]
fn every_kind_has_its_row() {
    let kinds: BTreeSet<_> = Kind::ALL.into_iter().map(name).collect();
    assert_eq!(table().into_keys().collect::<BTreeSet<_>>(), kinds);
}

#[test]
fn a_row_names_those_that_the_wire_takes_the_message_from() {
    let rows = table();
    for kind in Kind::ALL {
        let row = &rows[&name(kind)];
        let role = |part: &str| {
            let (from, to) = part.split_once(" → ").expect("from → to");
            match (from.rsplit(' ').next().expect("a word"), to) {
                ("client", "replica") => PeerRole::Client,
                ("replica", "client") => PeerRole::Server,
                ("replica" | "primary" | "backup", "all" | "primary" | "replica") => PeerRole::Replica,
                other => panic!("{kind:?} goes {other:?}"),
            }
        };
        let told: Vec<_> = row.from.split(", ").map(role).collect();
        assert_eq!(told, senders(kind), "{kind:?}");
    }
}

#[test]
fn handlers_exist() {
    let mut sources = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
    for (message, row) in table() {
        if row.handler == "the shell" {
            continue;
        }
        let (owner, function) = row.handler.trim_matches('`').split_once("::").expect("Type::function");
        let (owner, function) = (format!("impl {owner} "), format!("fn {function}("));
        let is_there = sources.iter().any(|text| text.contains(&owner) && text.contains(&function));
        assert!(is_there, "{message} is handled by {}", row.handler);
    }
}

fn collect(folder: &Path, sources: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder of the tree is readable") {
        let path = entry.expect("an entry is readable").path();
        if path.is_dir() {
            collect(&path, sources);
        } else {
            sources.push(fs::read_to_string(&path).expect("a source file is text"));
        }
    }
}

/// How the table calls what a message waits for.
fn record_name(place: &Place) -> &'static str {
    match place {
        Place::Superblock(_) => "the promise, in the superblock (P4)",
        Place::Journal(Record::Vote(_)) => "VOTE",
        Place::Journal(Record::Cert(_)) => "CERT (P3)",
        Place::Journal(Record::NewView(_)) => "NEWVIEW (P7)",
        Place::Journal(Record::CkptVote { .. }) => "CKPT_VOTE (P5)",
        Place::Journal(Record::SnapVote { .. }) => "files, then SNAP_VOTE (P5s)",
        Place::Journal(_) => "nothing that a row names",
    }
}

/// A cluster through two checkpoints, a view change and what comes after it.
fn lived() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.settle();
    for done in 1..=20 {
        cluster.submit();
        cluster.pass_until(SECOND, |cluster| cluster.done == done);
    }
    cluster.down.push(cluster.primary(0));
    for done in 21..=24 {
        cluster.submit();
        cluster.pass_until(5 * SECOND, |cluster| cluster.done == done);
    }
    assert!(cluster.all_are_in(1) && cluster.view(ReplicaId(0)).0 <= View(1));
    cluster
}

#[test]
fn messages_wait_for_the_record_that_their_row_names() {
    let (rows, cluster) = (table(), lived());
    let record = |at: ReplicaId, position: LogPosition| {
        let records = &cluster.hosts[at.index()].records;
        records.iter().find(|persist| persist.position == position).map(|persist| record_name(&persist.place))
    };
    let mut waited_for: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (at, kind, needs) in &cluster.told {
        let record = record(*at, *needs).unwrap_or("-");
        waited_for.entry(name(*kind)).or_default().insert(record);
    }
    for message in ["PRE-PREPARE", "PREPARE", "COMMIT", "CHECKPOINT", "VIEW-CHANGE", "NEW-VIEW", "STATUS"] {
        let waited_for = &waited_for[message];
        let named = rows[message].durable_first.as_str();
        assert!(
            waited_for.iter().all(|record| named.starts_with(record)),
            "{message} waits for {named}, but was told to wait for {waited_for:?}"
        );
    }
}
