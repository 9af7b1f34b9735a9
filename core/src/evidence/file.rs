//! Evidence in a file: pieces one after the other, each behind a header of eight bytes, so that files can be joined with
//! nothing but `cat`.
//!
//! ```text
//! "BFTE" | len u32 | evidence in canonical bytes
//! ```

use super::Evidence;
use crate::wire::canonical::{NotCanonical, Reader};

const MAGIC: [u8; 4] = *b"BFTE";
const HEADER_BYTES: usize = 8;

/// Why bytes are no evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}, in piece {piece}, which begins at byte {at}")]
pub struct NotEvidence {
    /// Which piece, from 1.
    pub piece: usize,
    /// Where it begins.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// The file with this one piece.
#[must_use]
pub fn write_file(evidence: &Evidence) -> Vec<u8> {
    let bytes = evidence.encode();
    let len = u32::try_from(bytes.len()).expect("far below 4 GiB");
    [&MAGIC[..], &len.to_le_bytes(), &bytes].concat()
}

/// The pieces in a file, at least one. Says nothing about whether they hold.
pub fn read_file(bytes: &[u8]) -> Result<Vec<Evidence>, NotEvidence> {
    let mut reader = Reader::new(bytes);
    let mut found = Vec::new();
    while !reader.rest().is_empty() || found.is_empty() {
        let (piece, at) = (found.len() + 1, bytes.len() - reader.rest().len());
        found.push(read_piece(&mut reader).map_err(|what| NotEvidence { piece, at, what })?);
    }
    Ok(found)
}

fn read_piece(reader: &mut Reader<'_>) -> Result<Evidence, &'static str> {
    let header = reader.take(HEADER_BYTES).map_err(|NotCanonical| "it is cut short")?;
    if header[..4] != MAGIC {
        return Err("it does not begin with \"BFTE\": it is no evidence, or of another version");
    }
    let len = u32::from_le_bytes(header[4..].try_into().expect("four bytes"));
    let bytes = reader.take(len as usize).map_err(|NotCanonical| "it is cut short")?;
    Evidence::decode(bytes).map_err(|NotCanonical| "its bytes are not those of evidence of this version")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::{Proof, SignedVote};
    use crate::ids::{ClusterId, Digest, Epoch, Seq, Signature, View};
    use crate::wire::message::Ballot;

    fn evidence(seq: u64) -> Evidence {
        let ballot = Ballot { commitment: Digest([3; 32]), signature: Signature([4; 64]) };
        let vote = |digest| SignedVote { digest: Digest([digest; 32]), ballot };
        let proof = Proof::two_proposals(View(1), Seq(seq), vote(1), vote(2));
        Evidence { cluster: ClusterId([1; 32]), epoch: Epoch(2), proof }
    }

    #[test]
    fn files_are_joined_by_joining_their_bytes() {
        let one = write_file(&evidence(1));
        assert_eq!(read_file(&one), Ok(vec![evidence(1)]));
        let both = [one.clone(), write_file(&evidence(2))].concat();
        assert_eq!(read_file(&both), Ok(vec![evidence(1), evidence(2)]));
    }

    #[test]
    fn what_is_no_evidence_is_told_with_its_place() {
        let one = write_file(&evidence(1));
        let wrong = |bytes: &[u8]| read_file(bytes).map(|found| found.len());
        let error = |piece, at, what| Err(NotEvidence { piece, at, what });
        assert_eq!(wrong(b""), error(1, 0, "it is cut short"));
        for end in 1..one.len() {
            assert_eq!(wrong(&one[..end]), error(1, 0, "it is cut short"), "{end}");
            let second = [&one[..], &one[..end]].concat();
            assert_eq!(wrong(&second), error(2, one.len(), "it is cut short"));
        }
        let magic = "it does not begin with \"BFTE\": it is no evidence, or of another version";
        assert_eq!(wrong(&[&one[..], b"and something else"].concat()), error(2, one.len(), magic));
        let mut changed = one.clone();
        changed[8] = 9;
        assert_eq!(wrong(&changed), error(1, 0, "its bytes are not those of evidence of this version"));
        changed = one.clone();
        changed[4] -= 1;
        assert!(wrong(&changed).is_err());
        changed = one;
        changed[7] = 0xff;
        assert_eq!(wrong(&changed), error(1, 0, "it is cut short"), "a length that nothing is set aside for");
    }
}
