//! What a replica that starts asks its peers, and what they answer (PROTOCOL §11, D11): whether they hold something under
//! its signature that its disk does not know of. What becomes of the answers is in `replica/handshake.rs`.
//!
//! ```text
//! RECALL    epoch u64 | start u64 | view u64 | 0, or 1: begun | through u64 | stable u64 | count u16 × voted u64 | the same count × certified u64
//! RECALLED  epoch u64 | start u64 | 0: nothing
//!                                 | 1 | replica u16 | view u64 | seq u64 | digest 32 | commitment 32 | signature 64 | 0, or 1 and a nonce 32
//!                                 | 2 | VIEW-CHANGE
//!                                 | 3 | NEW-VIEW
//! ```
//!
//! Kept here: whether something signed is missing is one function of the question and of what is shown, so that who asks
//! and who answers never differ about it.

use std::sync::Arc;

use super::canonical::{NotCanonical, Reader};
use super::message::{Ballot, NewView, Position, ViewChange};
use crate::config::ClusterConfig;
use crate::ids::{Digest, Epoch, ReplicaId, Seq, Signature, View};
use crate::limits::WINDOW_MAX;

/// Words of the largest map.
const WORDS_MAX: usize = (WINDOW_MAX / 64) as usize;

/// What a replica remembered to have signed when it started. Bit i of a map is Seq `stable + 1 + i`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recall {
    /// The configuration.
    pub epoch: Epoch,
    /// Tells this start from every other of this replica.
    pub start: u64,
    /// The highest view that it promised or came to.
    pub view: View,
    /// Whether that began for it.
    pub phase: Phase,
    /// What it signed for a slot up to here it may have dropped, or lost to damage that it owns up to.
    pub through: Seq,
    /// The last stable checkpoint, h.
    pub stable: Seq,
    /// For which slots of the window it voted in `view`.
    pub voted: Vec<u64>,
    /// Of which it had a prepared certificate in `view`.
    pub certified: Vec<u64>,
}

/// How far a replica is in its view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It goes to the view.
    Going,
    /// The view began.
    Begun,
}

/// An answer to [`Recall`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recalled {
    /// The configuration.
    pub epoch: Epoch,
    /// Of the question.
    pub start: u64,
    /// Something that the asker signed and, by its question, does not know of.
    pub held: Option<Held>,
}

/// Something signed, as it is shown to its signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// A PRE-PREPARE or PREPARE; with the nonce, a COMMIT.
    Vote {
        /// Who voted: as the primary of the view, or as a backup.
        replica: ReplicaId,
        /// For what.
        position: Position,
        /// Its commitment and signature.
        ballot: Ballot,
        /// What its COMMIT opened.
        nonce: Option<Digest>,
    },
    /// A VIEW-CHANGE.
    ViewChange(Arc<ViewChange>),
    /// A NEW-VIEW.
    NewView(Arc<NewView>),
}

impl Held {
    /// Whose signature it bears.
    #[must_use]
    pub fn signer(&self, config: &ClusterConfig) -> ReplicaId {
        match self {
            Self::Vote { replica, .. } => *replica,
            Self::ViewChange(message) => message.replica,
            Self::NewView(message) => config.primary(message.view),
        }
    }

    /// Its view, and its Seq; 0 where it is about none.
    #[must_use]
    pub fn place(&self) -> (View, Seq) {
        match self {
            Self::Vote { position, .. } => (position.view, position.seq),
            Self::ViewChange(message) => (message.view, Seq(0)),
            Self::NewView(message) => (message.view, Seq(0)),
        }
    }
}

impl Recall {
    /// Whether who asks this once signed `held`, which bears its signature, and does not know of it: its disk is not the
    /// one that it signed with. Everything that it signs is durable first (P1 to P4), so only a slot that its checkpoint
    /// or its damage covers, and a view that it has left since, say nothing.
    #[must_use]
    pub fn lacks(&self, held: &Held) -> bool {
        match held {
            Held::Vote { position, nonce, .. } => self.lacks_vote(position.view, position.seq, nonce.is_some()),
            Held::ViewChange(message) => message.view > self.view,
            Held::NewView(message) => {
                message.view > self.view || (message.view == self.view && self.phase == Phase::Going)
            }
        }
    }

    fn lacks_vote(&self, view: View, seq: Seq, is_opened: bool) -> bool {
        let says_something = seq > self.through && view >= self.view;
        let map = if is_opened { &self.certified } else { &self.voted };
        says_something && (view != self.view || !self.has(map, seq))
    }

    fn has(&self, map: &[u64], seq: Seq) -> bool {
        let index = seq.0.checked_sub(self.stable.0).and_then(|ahead| ahead.checked_sub(1));
        let word = |index: u64| map.get(usize::try_from(index / 64).ok()?).map(|word| word >> (index % 64) & 1);
        index.and_then(word) == Some(1)
    }

    /// In canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self { epoch, start, view, phase, through, stable, voted, certified } = self;
        assert!(voted.len() == certified.len() && voted.len() <= WORDS_MAX, "both are maps of the window");
        let mut out = Vec::with_capacity(64 + 16 * voted.len());
        for field in [epoch.0, *start, view.0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.push((*phase == Phase::Begun).into());
        for field in [through.0, stable.0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&(voted.len() as u16).to_le_bytes());
        for word in voted.iter().chain(certified) {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// Reads one that fills `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotCanonical> {
        let mut reader = Reader::new(bytes);
        let (epoch, start, view) = (Epoch(reader.u64()?), reader.u64()?, View(reader.u64()?));
        let phase = if read_flag(&mut reader)? { Phase::Begun } else { Phase::Going };
        let (through, stable) = (Seq(reader.u64()?), Seq(reader.u64()?));
        let words = usize::from(reader.u16()?);
        if words > WORDS_MAX {
            return Err(NotCanonical);
        }
        let mut map = || (0..words).map(|_| reader.u64()).collect::<Result<Vec<_>, _>>();
        let (voted, certified) = (map()?, map()?);
        reader.end()?;
        Ok(Self { epoch, start, view, phase, through, stable, voted, certified })
    }
}

impl Recalled {
    /// In canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes_at_most());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.start.to_le_bytes());
        match &self.held {
            None => out.push(0),
            Some(Held::Vote { replica, position, ballot, nonce }) => {
                assert_eq!(position.epoch, self.epoch, "votes of this Epoch are held");
                out.push(1);
                out.extend_from_slice(&replica.0.to_le_bytes());
                out.extend_from_slice(&position.view.0.to_le_bytes());
                out.extend_from_slice(&position.seq.0.to_le_bytes());
                out.extend_from_slice(&position.digest.0);
                out.extend_from_slice(&ballot.commitment.0);
                out.extend_from_slice(&ballot.signature.0);
                out.push(nonce.is_some().into());
                nonce.iter().for_each(|nonce| out.extend_from_slice(&nonce.0));
            }
            Some(Held::ViewChange(message)) => {
                out.push(2);
                out.extend_from_slice(&message.encode());
            }
            Some(Held::NewView(message)) => {
                out.push(3);
                out.extend_from_slice(&message.encode());
            }
        }
        out
    }

    /// What it takes in canonical bytes, at most.
    #[must_use]
    pub fn bytes_at_most(&self) -> usize {
        const FIXED: usize = 256;
        match &self.held {
            None | Some(Held::Vote { .. }) => FIXED,
            Some(Held::ViewChange(message)) => FIXED + message.bytes_at_most(),
            Some(Held::NewView(message)) => FIXED + message.bytes_at_most(),
        }
    }

    /// Reads one that fills `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotCanonical> {
        let mut reader = Reader::new(bytes);
        let (epoch, start) = (Epoch(reader.u64()?), reader.u64()?);
        let held = match reader.u8()? {
            0 => {
                reader.end()?;
                None
            }
            1 => {
                let held = read_vote(&mut reader, epoch)?;
                reader.end()?;
                Some(held)
            }
            2 => Some(Held::ViewChange(Arc::new(ViewChange::decode(reader.rest())?))),
            3 => Some(Held::NewView(Arc::new(NewView::decode(reader.rest())?))),
            _ => return Err(NotCanonical),
        };
        Ok(Self { epoch, start, held })
    }
}

fn read_vote(reader: &mut Reader<'_>, epoch: Epoch) -> Result<Held, NotCanonical> {
    let replica = ReplicaId(reader.u16()?);
    let (view, seq, digest) = (View(reader.u64()?), Seq(reader.u64()?), Digest(reader.array()?));
    let ballot = Ballot { commitment: Digest(reader.array()?), signature: Signature(reader.array()?) };
    let nonce = if read_flag(reader)? { Some(Digest(reader.array()?)) } else { None };
    Ok(Held::Vote { replica, position: Position { epoch, view, seq, digest }, ballot, nonce })
}

fn read_flag(reader: &mut Reader<'_>) -> Result<bool, NotCanonical> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(NotCanonical),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recall() -> Recall {
        Recall {
            epoch: Epoch(3),
            start: 7,
            view: View(2),
            phase: Phase::Begun,
            through: Seq(10),
            stable: Seq(8),
            // Seqs 11 and 12 are voted for, 11 is certified.
            voted: vec![0b1100],
            certified: vec![0b0100],
        }
    }

    fn vote(view: u64, seq: u64, nonce: Option<Digest>) -> Held {
        let position = Position { epoch: Epoch(3), view: View(view), seq: Seq(seq), digest: Digest([1; 32]) };
        let ballot = Ballot { commitment: Digest([2; 32]), signature: Signature([3; 64]) };
        Held::Vote { replica: ReplicaId(1), position, ballot, nonce }
    }

    fn view_change(view: u64) -> Arc<ViewChange> {
        let (certificate, prepared) = (None, Vec::new());
        let (epoch, replica, signature) = (Epoch(3), ReplicaId(1), Signature([4; 64]));
        Arc::new(ViewChange { epoch, view: View(view), replica, certificate, prepared, signature })
    }

    fn new_view(view: u64) -> Held {
        let view_changes = vec![view_change(view)];
        let signature = Signature([5; 64]);
        Held::NewView(Arc::new(NewView { epoch: Epoch(3), view: View(view), view_changes, signature }))
    }

    #[test]
    fn d19_what_was_dropped_lost_or_left_says_nothing_and_everything_else_that_is_missing_does() {
        let opened = Some(Digest([6; 32]));
        let known =
            [vote(2, 9, None), vote(2, 10, opened), vote(9, 10, opened), vote(1, 12, opened), vote(0, 900, None)];
        assert!(known.iter().all(|held| !recall().lacks(held)), "up to H_dmg, or of a view that it left");
        assert!(!recall().lacks(&vote(2, 11, opened)) && !recall().lacks(&vote(2, 12, None)), "it knows of these");
        let unknown =
            [vote(2, 13, None), vote(2, 12, opened), vote(2, 900, None), vote(3, 11, None), vote(2, u64::MAX, None)];
        assert!(unknown.iter().all(|held| recall().lacks(held)));
        assert!(
            recall().lacks(&Held::ViewChange(view_change(3))) && !recall().lacks(&Held::ViewChange(view_change(2)))
        );
        assert!(recall().lacks(&new_view(3)) && !recall().lacks(&new_view(2)));
        let going = Recall { phase: Phase::Going, ..recall() };
        assert!(going.lacks(&new_view(2)) && !going.lacks(&new_view(1)));
        let at_the_end = Recall { stable: Seq(u64::MAX), ..recall() };
        assert!(at_the_end.lacks(&vote(2, u64::MAX, None)), "no map reaches there");
    }

    #[test]
    fn what_was_encoded_is_read_and_nothing_else() {
        let bytes = recall().encode();
        assert_eq!(Recall::decode(&bytes), Ok(recall()));
        assert!((0..bytes.len()).all(|end| Recall::decode(&bytes[..end]).is_err()), "no cut is read");
        assert!(Recall::decode(&[&bytes[..], b"x"].concat()).is_err());
        let held = [None, Some(vote(2, 5, None)), Some(vote(2, 5, Some(Digest([6; 32])))), Some(new_view(2))];
        for held in held.into_iter().chain([Some(Held::ViewChange(view_change(4)))]) {
            let answer = Recalled { epoch: Epoch(3), start: 7, held };
            let bytes = answer.encode();
            assert!(bytes.len() <= answer.bytes_at_most());
            assert_eq!(Recalled::decode(&bytes).as_ref(), Ok(&answer));
            assert!((0..bytes.len()).all(|end| Recalled::decode(&bytes[..end]).is_err()), "no cut is read");
            assert!(Recalled::decode(&[&bytes[..], b"x"].concat()).is_err());
        }
    }
}
