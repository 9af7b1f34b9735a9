//! The genuine encodings that a search starts from: what every corpus holds at least. They are a function of the formats:
//! where one changes, `bin/seeds` writes them anew.

use bft_core::ids::Seq;
use bft_core::wire::message::Kind;
use bft_services::kv::Operation;

use crate::wire::{cast, framed, payload};
use crate::{TARGETS, files, journal, link};

/// The seeds of the target of this name, each with a name of its own.
///
/// # Panics
/// If there is no such target.
#[must_use]
pub fn of(target: &str) -> Vec<(String, Vec<u8>)> {
    let seeds = match target {
        "frame" => frames(),
        "message" => messages(),
        "evidence" => evidence(),
        "handshake" => handshakes(),
        "record" => numbered([vec![0], vec![0, 200, 0, 50, 0, 16, 0], vec![13, 100, 2, 0, 1, 30, 0, 5, 0, 255]]),
        "journal" => journals(),
        "disk" => disks(),
        "snapshot" => snapshots(),
        "kv" => numbered([operations()]),
        "config" => {
            numbered(files::genuine().into_iter().map(|(which, text)| [&[which][..], text.as_bytes()].concat()))
        }
        other => panic!("{other} is none of {:?}", TARGETS.map(|(name, _)| name)),
    };
    seeds.into_iter().map(|(name, bytes)| (format!("seed-{name}"), bytes)).collect()
}

type Seeds = Vec<(String, Vec<u8>)>;

fn numbered(seeds: impl IntoIterator<Item = Vec<u8>>) -> Seeds {
    seeds.into_iter().enumerate().map(|(index, bytes)| (format!("{index:02}"), bytes)).collect()
}

/// Each kind alone, and all that one peer may send in a stream.
fn frames() -> Seeds {
    let messages = cast().messages(Seq(41));
    let frame = |index: usize| framed(Kind::ALL[index], cast(), &payload(cast(), &messages[index]));
    let from =
        |role, cut, kinds: &[usize]| [vec![role, cut], kinds.iter().flat_map(|index| frame(*index)).collect()].concat();
    let replica: Vec<_> = [0].into_iter().chain(6..Kind::ALL.len()).collect();
    let mut seeds: Seeds = Vec::new();
    for (name, role, kinds) in [("replica", 0, &replica[..]), ("client", 1, &[0, 3, 5]), ("server", 2, &[1, 2, 4])] {
        seeds.push((name.into(), from(role, 40, kinds)));
        seeds.extend(kinds.iter().map(|kind| (format!("{name}-{kind:02}"), from(role, 6, &[*kind]))));
    }
    seeds
}

fn messages() -> Seeds {
    let messages = cast().messages(Seq(41));
    let seed = |(index, message)| [vec![index as u8, 3, 0], payload(cast(), message)].concat();
    numbered(messages.iter().enumerate().map(seed))
}

/// Each kind and form by itself, and all of them in one file.
fn evidence() -> Seeds {
    let pieces = cast().evidence(Seq(41));
    let file = pieces.iter().flat_map(bft_core::evidence::file::write_file).collect();
    let kinds = pieces.iter().enumerate().map(|(index, piece)| (format!("{index:02}"), piece.encode()));
    kinds.chain([("file".into(), file)]).collect()
}

/// Each way to meddle with each flight, of a client and of a replica.
fn handshakes() -> Seeds {
    let flights = link::flights(0);
    let mut seeds = Vec::new();
    for choices in (0..16).chain([0x10, 0x2F]) {
        for flight in 0..4 {
            let changes = if choices >> 2 & 3 == 0 { flights.get(flight).cloned() } else { None };
            seeds.push([vec![choices, flight as u8, 0], changes.unwrap_or(vec![9, 0, 1])].concat());
        }
    }
    numbered(seeds)
}

/// Every journal as it is, and each kind of harm to the longest ones.
fn journals() -> Seeds {
    let harms =
        (0..12).flat_map(|kind| [vec![2, kind, 0, 0, 1, 0, 70, 0, 1, 1], vec![3, kind, 1, 0, 2, 0, 9, 0, 3, 200]]);
    numbered((0..4).map(|which| vec![which]).chain(harms))
}

fn disks() -> Seeds {
    let records = journal::record_bytes().into_iter().map(|bytes| [&[0][..], &bytes].concat());
    let superblock = journal::superblock_bytes();
    let length = (superblock.len() as u16).to_le_bytes();
    numbered(records.chain([[&[1][..], &length, &superblock].concat()]))
}

fn snapshots() -> Seeds {
    use bft_core::ids::{Digest, PublicKey, RequestNo, SessionId};
    use bft_core::snapshot::{CachedReply, ClientsImage, Manifest, Scalars, SessionImage};
    use bft_core::wire::message::Code;
    let scalars = Scalars { seq: Seq(128), ..Scalars::default() };
    let reply = CachedReply {
        req_no: RequestNo(3),
        seq: Seq(9),
        code: Code::Ok,
        content: Digest([1; 32]),
        digest: Digest([2; 32]),
        results: bytes::Bytes::from_static(b"\x01\0\0\0r"),
    };
    let session = SessionImage {
        id: SessionId(1 << 20),
        client: PublicKey([3; 32]),
        opened_by: Digest([4; 32]),
        opened_at: Seq(1),
        recency: 5,
        floor: RequestNo(2),
        max_seen: RequestNo(3),
        replies: vec![reply],
    };
    let clients = ClientsImage { scalars, next_recency: 6, sessions: vec![session] }.encode();
    let mut manifest = Manifest::new(scalars);
    manifest.add_chunk(b"state");
    manifest.add_clients(&clients);
    let tagged = |tag: u8, bytes: &[u8]| [&[tag], bytes].concat();
    let chunk = crate::state::chunk_of_two();
    numbered([tagged(0, &manifest.encode()), tagged(1, &clients), tagged(2, &[&[0, 0][..], &chunk].concat())])
}

/// One batch with every operation, then one with a few that are none.
fn operations() -> Vec<u8> {
    let (key, value) = (&b"key"[..], &b"value"[..]);
    let genuine = [
        Operation::Put { key, value },
        Operation::Get { key },
        Operation::Cas { key, expect: Some(value), value: b"" },
        Operation::Cas { key, expect: None, value },
        Operation::Add { key: b"counter", delta: i64::MAX },
        Operation::Add { key: b"counter", delta: 1 },
        Operation::Add { key, delta: -1 },
        Operation::Append { key, value },
        Operation::Count,
        Operation::Delete { key },
    ];
    let genuine: Vec<_> = genuine.iter().map(|operation| operation.to_bytes().expect("short")).collect();
    let strange: [&[u8]; 5] = [b"", b"\x08", b"\x06x", b"\x02\xff\xffkey", b"\x04\x01\0k\x01\xff\xff\xff\xff"];
    let with_length = |operation: &[u8]| [&(operation.len() as u16).to_le_bytes()[..], operation].concat();
    let mut out = vec![genuine.len() as u8 - 1];
    genuine.iter().for_each(|operation| out.extend(with_length(operation)));
    out.push(strange.len() as u8 - 1);
    strange.iter().for_each(|operation| out.extend(with_length(operation)));
    out
}
