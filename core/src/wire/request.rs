//! A client's Request in canonical bytes, and the body of a batch: Requests one after the other behind a table of
//! offsets. Parsing borrows from the received buffer and computes the digests; signatures are checked in `auth`.
//!
//! ```text
//! Request    client_pk 32 | session u64 | req_no u64 | ack u64 | flags u32 | count u32 | count × (len u32 | bytes) | signature 64
//! body       empty, or: count u32 | count × end offset u32, counted from the end of the table | Requests
//! ```

use std::ops::Range;

use bytes::Bytes;

use super::canonical::Reader;
use super::message::{BatchHeader, Code};
use crate::hash::{Context, Hasher, hash, merkle_root};
use crate::ids::{ClusterId, Digest, Epoch, PublicKey, RequestNo, SessionId, Signature};

/// Bytes of a Request around its operations.
pub const REQUEST_FIXED_BYTES: usize = 32 + 8 + 8 + 8 + 4 + 4 + 64;

/// The Request closes its session; its operations do not reach the service.
pub const FLAG_CLOSE: u32 = 1;

/// Why bytes are no Request or no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RequestMalformed {
    /// Shorter than its fields, or a length that passes its end.
    #[error("cut short")]
    Short,
    /// Bytes after the signature.
    #[error("trailing bytes")]
    Trailing,
    /// No operation, or more than the cluster allows.
    #[error("an operation count outside its bounds")]
    Operations,
    /// Longer than the cluster allows.
    #[error("too long")]
    Long,
    /// A flag that means nothing.
    #[error("unknown flags")]
    Flags,
    /// An offset table that is not ascending, not dense or not of `count` entries.
    #[error("a malformed offset table")]
    Offsets,
    /// More Requests than the cluster allows in a batch.
    #[error("too many Requests")]
    Requests,
    /// The same client, session and number twice in one batch.
    #[error("one Request twice in a batch")]
    Twice,
}

/// What bounds a Request and a body: from the cluster's configuration.
#[derive(Clone, Copy, Debug)]
pub struct RequestBounds {
    /// Bytes of an encoded Request.
    pub request_bytes: usize,
    /// Operations in a Request.
    pub operations: usize,
    /// Requests in a body.
    pub requests: usize,
    /// Bytes of a body.
    pub body_bytes: usize,
}

impl From<&crate::config::ProtocolParams> for RequestBounds {
    fn from(params: &crate::config::ProtocolParams) -> Self {
        Self {
            request_bytes: params.request_bytes_max as usize,
            operations: params.request_operations_max as usize,
            requests: params.batch_requests_max as usize,
            body_bytes: params.batch_bytes_max as usize,
        }
    }
}

/// The fixed fields and digests of one Request, and where its bytes lie in the buffer beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestEntry {
    /// The whole Request.
    pub bytes: Range<u32>,
    /// The client.
    pub client: PublicKey,
    /// Its session; 0 for an opening.
    pub session: SessionId,
    /// The number in the session; 0 for an opening.
    pub req_no: RequestNo,
    /// Every number up to this one is finished for the client.
    pub ack: RequestNo,
    /// 0, or [`FLAG_CLOSE`].
    pub flags: u32,
    /// Operations in it.
    pub operations: u32,
    /// `H_ops(flags ‖ operations)`: with client, session and number, what makes it this Request and no other.
    pub content: Digest,
    /// `H_req(client_pk, session, req_no, ack, flags, content)`: what the client signed, within the cluster.
    pub digest: Digest,
    /// `H_leaf(digest ‖ signature)`: its leaf in the batch.
    pub leaf: Digest,
    /// The client's signature.
    pub signature: Signature,
}

impl RequestEntry {
    /// Parses the Request that `buffer[start..end]` is.
    pub fn parse(buffer: &[u8], bytes: Range<u32>, bounds: RequestBounds) -> Result<Self, RequestMalformed> {
        let request = &buffer[bytes.start as usize..bytes.end as usize];
        if request.len() > bounds.request_bytes {
            return Err(RequestMalformed::Long);
        }
        let mut reader = Reader::new(request);
        let short = |_| RequestMalformed::Short;
        let client = PublicKey(reader.array().map_err(short)?);
        let session = SessionId(reader.u64().map_err(short)?);
        let req_no = RequestNo(reader.u64().map_err(short)?);
        let ack = RequestNo(reader.u64().map_err(short)?);
        let flags = reader.u32().map_err(short)?;
        let operations = reader.u32().map_err(short)?;
        if flags & !FLAG_CLOSE != 0 {
            return Err(RequestMalformed::Flags);
        }
        if operations == 0 || operations as usize > bounds.operations {
            return Err(RequestMalformed::Operations);
        }
        let first = request.len() - reader.rest().len();
        for _ in 0..operations {
            let len = reader.u32().map_err(short)?;
            reader.take(len as usize).map_err(short)?;
        }
        let last = request.len() - reader.rest().len();
        let signature = Signature(reader.array().map_err(short)?);
        reader.end().map_err(|_| RequestMalformed::Trailing)?;
        let content = hash(Context::Operations, &[&flags.to_le_bytes(), &request[first..last]]);
        let digest = request_digest(client, session, req_no, ack, flags, content);
        let leaf = crate::mutant!(
            M56LeafWithoutSignature,
            hash(Context::Leaf, &[&digest.0, &signature.0]),
            hash(Context::Leaf, &[&digest.0])
        );
        Ok(Self { bytes, client, session, req_no, ack, flags, operations, content, digest, leaf, signature })
    }

    /// The operations of the Request, which lies in `buffer`.
    pub fn operations<'a>(&self, buffer: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = &buffer[self.bytes.start as usize + 64..self.bytes.end as usize - 64];
        (0..self.operations).map(move |_| {
            let (len, tail) = rest.split_first_chunk::<4>().expect("checked when parsed");
            let (operation, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
            rest = tail;
            operation
        })
    }

    /// What makes it this Request: client, session, number.
    #[must_use]
    pub fn key(&self) -> (PublicKey, SessionId, RequestNo) {
        (self.client, self.session, self.req_no)
    }
}

/// `r`, what identifies a Request; the signature is not part of it (X3).
fn request_digest(
    client: PublicKey,
    session: SessionId,
    req_no: RequestNo,
    ack: RequestNo,
    flags: u32,
    content: Digest,
) -> Digest {
    let mut hasher = Hasher::new(Context::Request);
    hasher.update(&client.0).u64(session.0).u64(req_no.0).u64(ack.0).update(&flags.to_le_bytes()).update(&content.0);
    hasher.finish()
}

/// Encodes a Request; `sign` gets the Request's digest and gives the client's signature.
pub fn encode_request<'a>(
    client: PublicKey,
    session: SessionId,
    req_no: RequestNo,
    ack: RequestNo,
    flags: u32,
    operations: impl ExactSizeIterator<Item = &'a [u8]>,
    sign: impl FnOnce(Digest) -> Signature,
) -> Bytes {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(&client.0);
    out.extend_from_slice(&session.0.to_le_bytes());
    out.extend_from_slice(&req_no.0.to_le_bytes());
    out.extend_from_slice(&ack.0.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    let count = u32::try_from(operations.len()).expect("bounded by the cluster's configuration");
    out.extend_from_slice(&count.to_le_bytes());
    let first = out.len();
    for operation in operations {
        let len = u32::try_from(operation.len()).expect("bounded by the cluster's configuration");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(operation);
    }
    let content = hash(Context::Operations, &[&flags.to_le_bytes(), &out[first..]]);
    let signature = sign(request_digest(client, session, req_no, ack, flags, content));
    out.extend_from_slice(&signature.0);
    Bytes::from(out)
}

/// A Request and its parsed fields, as it came from a link. Says nothing about the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRequest {
    /// The Request, a slice of the buffer it was received in.
    pub bytes: Bytes,
    /// Its fields; `entry.bytes` is the whole of `bytes`.
    pub entry: RequestEntry,
}

impl SignedRequest {
    /// Parses a REQUEST's payload.
    pub fn parse(bytes: Bytes, bounds: RequestBounds) -> Result<Self, RequestMalformed> {
        let len = u32::try_from(bytes.len()).map_err(|_| RequestMalformed::Long)?;
        let entry = RequestEntry::parse(&bytes, 0..len, bounds)?;
        Ok(Self { bytes, entry })
    }

    /// The Request's operations.
    pub fn operations(&self) -> impl Iterator<Item = &[u8]> {
        self.entry.operations(&self.bytes)
    }
}

/// The body of a batch, parsed. Says nothing about signatures.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Body {
    bytes: Bytes,
    entries: Vec<RequestEntry>,
}

impl Body {
    /// Parses a body. A function of the bytes and the bounds alone (C10).
    pub fn parse(bytes: Bytes, bounds: RequestBounds) -> Result<Self, RequestMalformed> {
        if bytes.len() > bounds.body_bytes {
            return Err(RequestMalformed::Long);
        }
        let count = match bytes.first_chunk::<4>() {
            None if bytes.is_empty() => return Ok(Self::default()),
            None => return Err(RequestMalformed::Offsets),
            Some(count) => u32::from_le_bytes(*count) as usize,
        };
        if count == 0 || count > bounds.requests {
            return Err(RequestMalformed::Requests);
        }
        let base = 4 + 4 * count;
        let table = bytes.get(4..base).ok_or(RequestMalformed::Offsets)?;
        let mut start = base as u32;
        let mut entries = Vec::with_capacity(count);
        for end in table.chunks_exact(4) {
            let end = u32::from_le_bytes(end.try_into().expect("four bytes"));
            let end = end.checked_add(base as u32).ok_or(RequestMalformed::Offsets)?;
            if end < start || end as usize > bytes.len() {
                return Err(RequestMalformed::Offsets);
            }
            entries.push(RequestEntry::parse(&bytes, start..end, bounds)?);
            start = end;
        }
        if start as usize != bytes.len() {
            return Err(RequestMalformed::Trailing);
        }
        let mut keys: Vec<_> = entries.iter().map(RequestEntry::key).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(RequestMalformed::Twice);
        }
        Ok(Self { bytes, entries })
    }

    /// Joins Requests that were parsed before into a body.
    #[must_use]
    pub fn join(requests: &[SignedRequest]) -> Self {
        if requests.is_empty() {
            return Self::default();
        }
        let total: usize = requests.iter().map(|request| request.bytes.len()).sum();
        let base = 4 + 4 * requests.len();
        let mut out = Vec::with_capacity(base + total);
        out.extend_from_slice(&(requests.len() as u32).to_le_bytes());
        let mut end = 0u32;
        for request in requests {
            end += request.bytes.len() as u32;
            out.extend_from_slice(&end.to_le_bytes());
        }
        let mut entries = Vec::with_capacity(requests.len());
        for request in requests {
            let start = out.len() as u32;
            out.extend_from_slice(&request.bytes);
            entries.push(RequestEntry { bytes: start..out.len() as u32, ..request.entry.clone() });
        }
        Self { bytes: Bytes::from(out), entries }
    }

    /// What a body of these Requests takes, beyond the Requests.
    #[must_use]
    pub fn overhead(requests: usize) -> usize {
        4 + 4 * requests
    }

    /// The bytes, as they travel and lie in the journal.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The Requests, in the order of execution.
    #[must_use]
    pub fn entries(&self) -> &[RequestEntry] {
        &self.entries
    }

    /// The Requests, each in memory of its own: one of them does not keep the whole body.
    pub fn requests(&self) -> impl Iterator<Item = SignedRequest> {
        self.entries.iter().map(|entry| {
            let bytes = &self.bytes[entry.bytes.start as usize..entry.bytes.end as usize];
            let bytes = Bytes::copy_from_slice(bytes);
            let entry = RequestEntry { bytes: 0..entry.bytes.end - entry.bytes.start, ..entry.clone() };
            SignedRequest { bytes, entry }
        })
    }

    /// The header of the batch that this body makes at `time_ns`.
    #[must_use]
    pub fn header(&self, time_ns: u64) -> BatchHeader {
        BatchHeader {
            time_ns,
            count: self.entries.len() as u32,
            body_len: self.bytes.len() as u32,
            merkle_root: merkle_root(self.entries.iter().map(|entry| entry.leaf)),
            flags: 0,
        }
    }
}

impl BatchHeader {
    /// The header of the null batch, which fills a gap that a view change found: all zero, without a body.
    pub const NULL: Self = Self { time_ns: 0, count: 0, body_len: 0, merkle_root: Digest::ZERO, flags: 0 };

    /// D of the batch under this header.
    #[must_use]
    pub fn digest(&self, cluster: ClusterId, epoch: Epoch) -> Digest {
        if *self == Self::NULL {
            return hash(Context::Null, &[&epoch.0.to_le_bytes(), &cluster.0]);
        }
        let mut hasher = Hasher::new(Context::Batch);
        hasher.u64(epoch.0).update(&cluster.0).update(&self.bytes());
        hasher.finish()
    }
}

/// The digest that answers to one Request agree in: `H_reply(code ‖ results)`.
#[must_use]
pub fn result_digest(code: Code, results: &[u8]) -> Digest {
    hash(Context::Reply, &[&(code as u16).to_le_bytes(), results])
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: RequestBounds =
        RequestBounds { request_bytes: 4096, operations: 8, requests: 16, body_bytes: 1 << 16 };

    fn request(req_no: u64, operations: &[&[u8]]) -> SignedRequest {
        let sign = |digest: Digest| Signature([digest.0[0]; 64]);
        let (session, ack) = (SessionId(9), RequestNo(req_no - 1));
        let bytes =
            encode_request(PublicKey([3; 32]), session, RequestNo(req_no), ack, 0, operations.iter().copied(), sign);
        SignedRequest::parse(bytes, BOUNDS).unwrap()
    }

    #[test]
    fn a_request_parses_to_what_was_encoded() {
        let request = request(7, &[b"one", b"", b"three"]);
        assert_eq!(request.operations().collect::<Vec<_>>(), [&b"one"[..], b"", b"three"]);
        assert_eq!((request.entry.req_no, request.entry.ack), (RequestNo(7), RequestNo(6)));
    }

    #[test]
    fn x3_the_signature_is_not_part_of_the_identity_but_of_the_leaf() {
        let request = request(7, &[b"one"]);
        let mut bytes = request.bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let other = SignedRequest::parse(Bytes::from(bytes), BOUNDS).unwrap();
        assert_eq!(request.entry.digest, other.entry.digest);
        assert_ne!(request.entry.leaf, other.entry.leaf, "c15: one D is one string of bytes");
    }

    #[test]
    fn every_cut_and_every_excess_of_a_request_is_refused() {
        let bytes = request(1, &[b"abc", b"d"]).bytes;
        for end in 0..bytes.len() {
            assert!(SignedRequest::parse(bytes.slice(..end), BOUNDS).is_err(), "cut at {end}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(SignedRequest::parse(Bytes::from(longer), BOUNDS), Err(RequestMalformed::Trailing));
    }

    #[test]
    fn a_body_parses_to_what_was_joined_and_nothing_else_parses() {
        let requests = [request(1, &[b"a"]), request(2, &[b"bb", b"c"]), request(3, &[b""])];
        let body = Body::join(&requests);
        assert_eq!(Body::parse(body.bytes().clone(), BOUNDS), Ok(body.clone()));
        for (entry, request) in body.entries().iter().zip(&requests) {
            assert!(entry.operations(body.bytes()).eq(request.operations()));
        }
        for end in 1..body.bytes().len() {
            assert!(Body::parse(body.bytes().slice(..end), BOUNDS).is_err(), "cut at {end}");
        }
        assert_eq!(Body::parse(Bytes::new(), BOUNDS), Ok(Body::default()));
        let twice = Body::join(&[requests[0].clone(), requests[0].clone()]);
        assert_eq!(Body::parse(twice.bytes().clone(), BOUNDS), Err(RequestMalformed::Twice));
    }
}
