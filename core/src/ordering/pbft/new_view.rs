//! Where a new view begins: a pure function of the VIEW-CHANGEs of a quorum, the same at its primary and at everyone who
//! checks it (compute_o of PROTOCOL §8, after Castro and Liskov, OSDI'99 §4.4).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{Digest, Seq, View};
use crate::wire::message::{BatchHeader, BatchId, Checkpoint, ViewChange};

/// How a view begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beginning {
    /// The last Seq of the highest stable checkpoint among the VIEW-CHANGEs: nothing up to it is ordered again.
    pub stable: Seq,
    /// Its certificate; `None`: no checkpoint is stable yet.
    pub certificate: Option<Checkpoint>,
    /// What must be proposed at each Seq after it, without a gap: O.
    pub order: BTreeMap<Seq, Chosen>,
}

/// The batch that a view must begin with at one Seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// D.
    pub digest: Digest,
    /// Its header; [`BatchHeader::NULL`] where nothing was prepared.
    pub header: BatchHeader,
}

/// Two batches are prepared at one Seq in one view: more are faulty than the configuration allows for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwoPrepared {
    /// The Seq.
    pub seq: Seq,
    /// The view.
    pub view: View,
}

impl Beginning {
    /// What `view_changes`, valid and of a quorum, make of a view. `null` is the digest of the null batch.
    pub fn of(view_changes: &[Arc<ViewChange>], null: Digest) -> Result<Self, TwoPrepared> {
        let certificates = view_changes.iter().map(|message| message.certificate.as_ref());
        let rank = |certificate: &Option<&Checkpoint>| certificate.map(|sc| sc.seq);
        let certificate =
            crate::mutant!(M18LowestCheckpoint, certificates.max_by_key(rank), certificates.min_by_key(rank)).flatten();
        let stable = certificate.map_or(Seq(0), |certificate| certificate.seq);
        let mut highest: BTreeMap<Seq, (View, Chosen)> = BTreeMap::new();
        let prepared = view_changes.iter().flat_map(|message| &message.prepared);
        for certificate in prepared.filter(|certificate| certificate.position.seq > stable) {
            let BatchId { seq, digest } = certificate.position.batch();
            let view = certificate.position.view;
            let chosen = (view, Chosen { digest, header: certificate.header });
            let known = highest.entry(seq).or_insert(chosen);
            if known.0 == view && known.1.digest != digest {
                return Err(TwoPrepared { seq, view });
            }
            if crate::mutant!(M16FirstCertificateChosen, known.0 < view, false) {
                *known = chosen;
            }
        }
        let last = highest.last_key_value().map_or(stable, |(seq, _)| *seq);
        let gap = Chosen { digest: null, header: BatchHeader::NULL };
        let at = |seq| (seq, highest.get(&seq).map_or(gap, |(_, chosen)| *chosen));
        let is_filled = |seq: &Seq| crate::mutant!(M17GapsStayOpen, *seq > stable, highest.contains_key(seq));
        let order = (stable.0 + 1..=last.0).map(Seq).filter(is_filled).map(at).collect();
        Ok(Self { stable, certificate: certificate.cloned(), order })
    }

    /// The last Seq that the VIEW-CHANGEs decide about: new proposals come after it.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.order.last_key_value().map_or(self.stable, |(seq, _)| *seq)
    }

    /// Whether `digest` may be proposed at `seq`: what the view must begin with, and nothing else up to its end; the null
    /// batch nowhere else.
    #[must_use]
    pub fn allows(&self, seq: Seq, digest: Digest, null: Digest) -> bool {
        match self.order.get(&seq) {
            Some(chosen) => chosen.digest == digest,
            None => seq > self.last() && digest != null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, ReplicaId, Signature};
    use crate::wire::message::{Ballot, Position, PreparedCertificate};

    const NULL: Digest = Digest([0xff; 32]);

    fn prepared(view: u64, seq: u64, batch: u8) -> PreparedCertificate {
        let digest = Digest([batch; 32]);
        PreparedCertificate {
            position: Position { epoch: Epoch(0), view: View(view), seq: Seq(seq), digest },
            header: BatchHeader { time_ns: u64::from(batch), ..BatchHeader::NULL },
            proposal: Ballot { commitment: Digest::ZERO, signature: Signature::ZERO },
            prepares: Vec::new(),
        }
    }

    fn view_change(replica: u16, stable: u64, prepared: Vec<PreparedCertificate>) -> Arc<ViewChange> {
        let seq = Seq(stable);
        let checkpoint = Checkpoint {
            epoch: Epoch(0),
            seq,
            root: Digest([stable as u8; 32]),
            epoch_end: Seq(0),
            signatures: Vec::new(),
        };
        Arc::new(ViewChange {
            epoch: Epoch(0),
            view: View(9),
            replica: ReplicaId(replica),
            certificate: (stable > 0).then_some(checkpoint),
            prepared,
            signature: Signature::ZERO,
        })
    }

    fn order(beginning: &Beginning) -> Vec<(u64, Digest)> {
        beginning.order.iter().map(|(seq, chosen)| (seq.0, chosen.digest)).collect()
    }

    #[test]
    fn v3_gaps_are_filled_with_null_and_nothing_below_the_highest_checkpoint_comes_back() {
        let view_changes = [
            view_change(0, 0, vec![prepared(0, 3, 3), prepared(0, 5, 5)]),
            view_change(1, 4, vec![prepared(0, 5, 5), prepared(0, 7, 7)]),
            view_change(2, 4, vec![]),
        ];
        let beginning = Beginning::of(&view_changes, NULL).unwrap();
        assert_eq!(beginning.stable, Seq(4));
        assert_eq!(order(&beginning), [(5, Digest([5; 32])), (6, NULL), (7, Digest([7; 32]))]);
        assert_eq!(beginning.order[&Seq(6)].header, BatchHeader::NULL);
        assert_eq!(beginning.last(), Seq(7));
        let nothing = Beginning::of(&[view_change(0, 0, vec![]), view_change(1, 4, vec![])], NULL).unwrap();
        assert_eq!((nothing.last(), nothing.order.len()), (Seq(4), 0));
    }

    #[test]
    fn v2_the_certificate_of_the_highest_view_wins_whoever_brings_it() {
        let (old, new) = (prepared(1, 1, 1), prepared(3, 1, 3));
        for (first, second) in [(&old, &new), (&new, &old)] {
            let view_changes = [view_change(0, 0, vec![first.clone()]), view_change(1, 0, vec![second.clone()])];
            assert_eq!(order(&Beginning::of(&view_changes, NULL).unwrap()), [(1, Digest([3; 32]))]);
        }
    }

    #[test]
    fn v5_two_batches_prepared_in_one_view_are_never_chosen_between() {
        let view_changes = [view_change(0, 0, vec![prepared(2, 1, 1)]), view_change(1, 0, vec![prepared(2, 1, 9)])];
        assert_eq!(Beginning::of(&view_changes, NULL), Err(TwoPrepared { seq: Seq(1), view: View(2) }));
    }
}
