//! The operation that opens a session (PROTOCOL §5): canonical bytes, and the answer that tells what came of it.

use bytes::Bytes;

use super::canonical::{NotCanonical, Reader};
use super::message::ClientCertificate;
use crate::ids::{Digest, Epoch, Seq, SessionId, Signature};

/// The first byte of an opening.
const KIND: u8 = 1;

/// The one operation of a Request of session 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The client's session so far, 0 if none: it ends. Anything but the current one is refused (C11).
    pub replaces: SessionId,
    /// A Seq that the client learnt: bounds how long the opening can be replayed.
    pub at: Seq,
    /// Drawn at random for each opening: two lives of one client never share a session (C18).
    pub nonce: [u8; 32],
    /// Where the cluster asks for one.
    pub certificate: Option<ClientCertificate>,
}

impl Opening {
    /// The operation's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![KIND];
        out.extend_from_slice(&self.replaces.0.to_le_bytes());
        out.extend_from_slice(&self.at.0.to_le_bytes());
        out.extend_from_slice(&self.nonce);
        out.push(self.certificate.is_some().into());
        if let Some(certificate) = &self.certificate {
            out.extend_from_slice(&certificate.expires_epoch.0.to_le_bytes());
            out.extend_from_slice(&certificate.signature.0);
        }
        out
    }

    /// Reads what [`Self::encode`] wrote, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotCanonical> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != KIND {
            return Err(NotCanonical);
        }
        let (replaces, at, nonce) = (SessionId(reader.u64()?), Seq(reader.u64()?), reader.array()?);
        let certificate = match reader.u8()? {
            0 => None,
            1 => Some(ClientCertificate { expires_epoch: Epoch(reader.u64()?), signature: Signature(reader.array()?) }),
            _ => return Err(NotCanonical),
        };
        reader.end()?;
        Ok(Self { replaces, at, nonce, certificate })
    }
}

/// The results of an opening's answer: which opening, and a number whose meaning the code tells.
#[must_use]
pub fn opening_results(request: Digest, number: u64) -> Bytes {
    let mut out = Vec::with_capacity(40);
    out.extend_from_slice(&request.0);
    out.extend_from_slice(&number.to_le_bytes());
    Bytes::from(out)
}

/// What [`opening_results`] joined.
pub fn read_opening_results(results: &[u8]) -> Result<(Digest, u64), NotCanonical> {
    let mut reader = Reader::new(results);
    let read = (Digest(reader.array()?), reader.u64()?);
    reader.end()?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_round_trip_and_have_one_form() {
        let certificate = ClientCertificate { expires_epoch: Epoch(3), signature: Signature([5; 64]) };
        for certificate in [None, Some(certificate)] {
            let opening = Opening { replaces: SessionId(7), at: Seq(9), nonce: [4; 32], certificate };
            let bytes = opening.encode();
            assert_eq!(Opening::decode(&bytes), Ok(opening));
            assert!((0..bytes.len()).all(|end| Opening::decode(&bytes[..end]).is_err()));
            assert!(Opening::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }
}
