//! A `kv` to be driven by tests: batches from operations, answers as values, chunks as bytes, and the plain map that
//! says what it should hold.
#![allow(dead_code, reason = "each test program uses its part of it")]

use std::collections::BTreeMap;

use bft_core::ids::{Digest, PublicKey, RequestNo, Seq, SessionId};
use bft_core::limits::CHUNK_BYTES_MAX;
use bft_core::service::{Batch, Operation as Admitted, ReplyBuffer, Service, Snapshot};
use bft_services::kv::{Kv, Operation, Prior, Refusal, Reply, VALUE_BYTES_MAX};

/// An operation that owns its bytes.
pub type Bytes = Vec<u8>;

/// The bytes of an operation.
pub fn op(operation: Operation<'_>) -> Bytes {
    operation.to_bytes().unwrap()
}

pub fn put(key: &[u8], value: &[u8]) -> Bytes {
    op(Operation::Put { key, value })
}

pub fn delete(key: &[u8]) -> Bytes {
    op(Operation::Delete { key })
}

/// Executes `operations` as the batch of `seq`; returns the replies and the digest of what was changed.
pub fn execute(service: &mut dyn Service, seq: u64, operations: &[Bytes]) -> (Vec<Bytes>, Digest) {
    execute_as(service, seq, operations, PublicKey::ZERO, seq)
}

/// The same for a client and an agreed time of the test's choice.
pub fn execute_as(
    service: &mut dyn Service,
    seq: u64,
    operations: &[Bytes],
    client: PublicKey,
    time_ns: u64,
) -> (Vec<Bytes>, Digest) {
    let admitted: Vec<_> = (0..)
        .zip(operations)
        .map(|(index, bytes)| Admitted { bytes, client, session: SessionId(1), req_no: RequestNo(1), index })
        .collect();
    let mut buffer = ReplyBuffer::default();
    let batch = Batch { seq: Seq(seq), time_ns, operations: &admitted };
    service.execute(&batch, &mut buffer.begin(admitted.len())).unwrap();
    let replies = (0..admitted.len()).map(|index| buffer.get(index).unwrap().unwrap().to_vec()).collect();
    (replies, buffer.delta())
}

pub fn chunks_of(image: &mut dyn Snapshot) -> Vec<Bytes> {
    let mut out = vec![0; CHUNK_BYTES_MAX];
    (0..image.chunks())
        .map(|index| {
            let len = image.read(index, &mut out).unwrap();
            out[..len].to_vec()
        })
        .collect()
}

pub fn chunks_at(service: &mut dyn Service, seq: u64) -> Vec<Bytes> {
    chunks_of(&mut *service.snapshot(Seq(seq)).unwrap())
}

pub fn restore(service: &mut dyn Service, seq: u64, chunks: &[Bytes]) {
    service.restore_begin(Seq(seq), chunks.len() as u32).unwrap();
    for (index, chunk) in (0..).zip(chunks) {
        service.restore_chunk(index, chunk).unwrap();
    }
    service.restore_finish().unwrap();
}

pub type Model = BTreeMap<Bytes, Bytes>;

/// What the operation must answer, as bytes; does to the map what it does to the state.
pub fn model(map: &mut Model, operation: &[u8]) -> Bytes {
    let prior = |known: bool| if known { Prior::Present } else { Prior::Absent };
    let mut out = Vec::new();
    let operation = match Operation::decode(operation) {
        Ok(operation) => operation,
        Err(refusal) => {
            Reply::Error(refusal).encode(&mut out);
            return out;
        }
    };
    match operation {
        Operation::Get { key } => Reply::Value(map.get(key).map(Vec::as_slice)).encode(&mut out),
        Operation::Put { key, value } => {
            let known = map.insert(key.to_vec(), value.to_vec()).is_some();
            Reply::Stored(prior(known)).encode(&mut out);
        }
        Operation::Delete { key } => Reply::Deleted(prior(map.remove(key).is_some())).encode(&mut out),
        Operation::Cas { key, expect, value } => {
            let present = map.get(key).cloned();
            if present.as_deref() == expect {
                map.insert(key.to_vec(), value.to_vec());
                Reply::Swapped.encode(&mut out);
            } else {
                Reply::Mismatch(present.as_deref()).encode(&mut out);
            }
        }
        Operation::Add { key, delta } => {
            let present = map.get(key).cloned().unwrap_or(vec![0; 8]);
            let sum = <[u8; 8]>::try_from(present)
                .map_err(|_| Refusal::NotACounter)
                .and_then(|bytes| i64::from_le_bytes(bytes).checked_add(delta).ok_or(Refusal::Overflow));
            match sum {
                Ok(sum) => {
                    map.insert(key.to_vec(), sum.to_le_bytes().to_vec());
                    Reply::Counter(sum).encode(&mut out);
                }
                Err(refusal) => Reply::Error(refusal).encode(&mut out),
            }
        }
        Operation::Count => Reply::Count(map.len() as u64).encode(&mut out),
        Operation::Append { key, value } => {
            let joined = [map.get(key).map_or(&[][..], Vec::as_slice), value].concat();
            if joined.len() > VALUE_BYTES_MAX {
                Reply::Error(Refusal::ValueTooLong).encode(&mut out);
            } else {
                Reply::Appended(joined.len() as u32).encode(&mut out);
                map.insert(key.to_vec(), joined);
            }
        }
    }
    out
}

/// A `kv` that holds exactly `map`, by the shortest history there is.
pub fn kv_of(map: &Model) -> Kv {
    let mut kv = Kv::new();
    let puts: Vec<_> = map.iter().map(|(key, value)| put(key, value)).collect();
    execute(&mut kv, 1, &puts);
    kv
}
