//! State: the manifest and client table of a snapshot, and the operations and chunks of `kv`.

use bft_core::ids::{PublicKey, RequestNo, Seq, SessionId};
use bft_core::limits::CHUNK_BYTES_MAX;
use bft_core::service::{Batch, Operation as Admitted, ReplyBuffer, Service};
use bft_core::snapshot::{ClientsImage, Manifest};
use bft_services::kv::{Kv, Operation, Reply};
use bytes::Bytes;

use crate::feed::Feed;

/// A manifest, a client table, or chunks of `kv`. What reads encodes to the bytes that it was read from.
pub fn snapshot(data: &[u8]) {
    let mut feed = Feed::new(data);
    match feed.u8() % 3 {
        0 => {
            if let Ok(manifest) = Manifest::decode(feed.rest()) {
                assert_eq!(manifest.encode(), feed.rest());
                // Whatever it says, a root can be computed.
                let _ = (manifest.root(), manifest.state_bytes());
            }
        }
        1 => {
            let bytes = Bytes::copy_from_slice(feed.rest());
            if let Ok(image) = ClientsImage::decode(&bytes) {
                assert_eq!(image.encode(), bytes);
            }
        }
        _ => chunks(feed),
    }
}

/// A state that restores gives the chunks that it was restored from; one that does not leaves the old one.
fn chunks(mut feed: Feed<'_>) {
    let mut kv = Kv::new();
    execute(&mut kv, 1, &[&Operation::Put { key: b"old", value: b"state" }.to_bytes().expect("short")]);
    let count = 1 + feed.choice(3);
    let mut given = Vec::new();
    kv.restore_begin(Seq(5), count as u32).expect("always");
    for index in 0..count {
        let len = if index + 1 == count { usize::MAX } else { feed.choice(512) };
        let chunk = feed.take(len);
        if kv.restore_chunk(index as u32, chunk).is_err() {
            break;
        }
        given.push(chunk.to_vec());
    }
    if given.len() == count && kv.restore_finish().is_ok() {
        assert_eq!(image(&mut kv, 5), given);
    } else {
        kv.restore_abort();
        assert_eq!(kv.get(b"old"), Some(&b"state"[..]));
    }
}

/// Batches of operations, each with its length before it. Every operation is answered, by two services alike; the state
/// goes through an image and back; what decodes has one encoding.
pub fn kv(data: &[u8]) {
    let mut feed = Feed::new(data);
    let (mut one, mut other) = (Kv::new(), Kv::new());
    let mut seq = 0;
    while !feed.is_empty() && seq < 64 {
        seq += 1;
        let count = 1 + usize::from(feed.u8() % 20);
        let mut operations = Vec::new();
        for _ in 0..count {
            let len = feed.choice(1024);
            operations.push(feed.take(len));
        }
        assert_eq!(execute(&mut one, seq, &operations), execute(&mut other, seq, &operations));
        for operation in operations {
            canonical(operation);
            query(&mut one, operation);
        }
    }
    let chunks = image(&mut one, seq);
    assert_eq!(image(&mut other, seq), chunks);
    let mut restored = Kv::new();
    restored.restore_begin(Seq(seq), chunks.len() as u32).expect("always");
    for (index, chunk) in (0..).zip(&chunks) {
        restored.restore_chunk(index, chunk).expect("its own chunk");
    }
    restored.restore_finish().expect("its own chunks");
    assert_eq!((image(&mut restored, seq), restored.keys()), (chunks, one.keys()));
}

fn canonical(operation: &[u8]) {
    if let Ok(decoded) = Operation::decode(operation) {
        assert_eq!(decoded.to_bytes().as_deref(), Ok(operation));
    }
}

fn execute(service: &mut Kv, seq: u64, operations: &[&[u8]]) -> Vec<Vec<u8>> {
    let admitted = |(index, bytes)| {
        let client = PublicKey::ZERO;
        Admitted { bytes, client, session: SessionId(1), req_no: RequestNo(seq), index }
    };
    let admitted: Vec<_> = (0..).zip(operations.iter().copied()).map(admitted).collect();
    let mut buffer = ReplyBuffer::default();
    let batch = Batch { seq: Seq(seq), time_ns: seq, operations: &admitted };
    service.execute(&batch, &mut buffer.begin(admitted.len())).expect("no operation is a fault");
    (0..admitted.len()).map(|index| reply(&buffer, index)).collect()
}

fn query(service: &mut Kv, query: &[u8]) {
    let mut buffer = ReplyBuffer::default();
    service.query(query, &mut buffer.begin(1)).expect("no query is a fault");
    reply(&buffer, 0);
}

fn reply(buffer: &ReplyBuffer, index: usize) -> Vec<u8> {
    let reply = buffer.get(index).expect("every operation is answered").expect("short ones");
    let decoded = Reply::decode(reply).expect("in its own format");
    let mut again = Vec::new();
    decoded.encode(&mut again);
    assert_eq!(again, reply);
    again
}

fn image(service: &mut Kv, seq: u64) -> Vec<Vec<u8>> {
    let mut image = service.snapshot(Seq(seq)).expect("of the Seq where it is");
    let mut out = vec![0; CHUNK_BYTES_MAX];
    let mut chunks = Vec::new();
    for index in 0..image.chunks() {
        let len = image.read(index, &mut out).expect("one of its own");
        chunks.push(out[..len].to_vec());
    }
    chunks
}

/// The one chunk of a state with two keys.
#[must_use]
pub fn chunk_of_two() -> Vec<u8> {
    let mut kv = Kv::new();
    let put = |key| Operation::Put { key, value: b"value" }.to_bytes().expect("short");
    execute(&mut kv, 1, &[&put(b"one"), &put(b"two")]);
    image(&mut kv, 1).remove(0)
}
