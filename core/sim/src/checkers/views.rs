//! Who comes to a view, and what it begins with (I10, I12, PROTOCOL §8). Nobody correct runs ahead of what a quorum has come
//! to (V8); a view begins with what its VIEW-CHANGEs make of it (V2-V5), computed here anew; up to its end nobody correct
//! votes for anything else in it (V4), and its primary makes one NEW-VIEW, ever (S9).

use std::collections::BTreeMap;
use std::sync::Arc;

use bft_core::config::ClusterConfig;
use bft_core::hash::{Context, hash};
use bft_core::ids::{Digest, ReplicaId, Seq, View};
use bft_core::ordering::pbft::Pbft;
use bft_core::quorum::ReplicaSet;
use bft_core::wire::message::{BatchHeader, Message, NewView, Position};

use super::{Verdict, is_quorum, weights_of};

/// What a view begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Beginning {
    stable: Seq,
    order: BTreeMap<Seq, Digest>,
}

impl Beginning {
    /// Seq by Seq from the highest checkpoint to the last certificate: the batch that was prepared in the highest view, or
    /// the null batch.
    fn of(new_view: &NewView, null: Digest) -> Self {
        let messages = || new_view.view_changes.iter();
        let stable = messages().filter_map(|message| Some(message.certificate.as_ref()?.seq)).max().unwrap_or_default();
        let prepared = || messages().flat_map(|message| &message.prepared).map(|certificate| certificate.position);
        let last = prepared().map(|at| at.seq).max().unwrap_or_default();
        let order = (stable.0 + 1..=last.0).map(Seq).map(|seq| {
            let highest = prepared().filter(|at| at.seq == seq).max_by_key(|at| at.view);
            (seq, highest.map_or(null, |at| at.digest))
        });
        Self { stable, order: order.collect() }
    }

    fn allows(&self, seq: Seq, digest: Digest, null: Digest) -> bool {
        let last = self.order.last_key_value().map_or(self.stable, |(seq, _)| *seq);
        match self.order.get(&seq) {
            Some(batch) => *batch == digest,
            None => seq > last && digest != null,
        }
    }
}

/// The views of one replica.
#[derive(Clone, Debug, Default)]
struct Stand {
    /// The highest view that it ever went to.
    reached: View,
    /// The view whose beginning was looked at last.
    begun: Option<View>,
    beginnings: BTreeMap<View, Beginning>,
    /// The NEW-VIEWs that it made.
    made: BTreeMap<View, Digest>,
}

/// The views of all replicas.
pub struct Views {
    config: Arc<ClusterConfig>,
    weights: Vec<u64>,
    null: Digest,
    /// Who may say anything.
    faulty: ReplicaSet,
    stands: Vec<Stand>,
}

impl Views {
    /// All are in the first view.
    #[must_use]
    pub fn new(config: &Arc<ClusterConfig>, faulty: ReplicaSet) -> Self {
        Self {
            weights: weights_of(config),
            null: BatchHeader::NULL.digest(config.cluster_id(), config.epoch()),
            faulty,
            stands: vec![Stand::default(); config.n()],
            config: Arc::clone(config),
        }
    }

    /// A replica starts with a promise on its disk. After damage it may be one view beyond the one that it was in.
    pub fn recovered(&mut self, replica: ReplicaId, promised: View) {
        let stand = &mut self.stands[replica.index()];
        stand.reached = stand.reached.max(promised);
        stand.begun = None;
    }

    /// What a replica was is no longer on its disk: where it stands binds nobody.
    pub fn put_back(&mut self, replica: ReplicaId) {
        self.faulty.insert(replica);
    }

    /// Where a replica is after a step.
    pub fn stands(&mut self, replica: ReplicaId, ordering: &Pbft) -> Verdict {
        let view = ordering.view();
        self.comes_to(replica, view)?;
        let stand = &mut self.stands[replica.index()];
        let Some(new_view) = ordering.new_view().filter(|_| ordering.is_normal() && stand.begun != Some(view)) else {
            return Ok(());
        };
        stand.begun = Some(view);
        let expected = Beginning::of(new_view, self.null);
        let found = ordering.beginning();
        let order = found.order.iter().map(|(seq, chosen)| (*seq, chosen.digest)).collect();
        let found = Beginning { stable: found.stable, order };
        if found != expected {
            return Err(format!("begins {view:?} with {found:?}, its VIEW-CHANGEs say {expected:?}"));
        }
        stand.beginnings.insert(view, expected);
        Ok(())
    }

    /// A message leaves a replica.
    pub fn released(&mut self, replica: ReplicaId, message: &Message) -> Verdict {
        if let Message::PrePrepare(proposal) = message {
            self.votes(replica, &proposal.position)
        } else if let Message::Prepare(vote) = message {
            self.votes(replica, &vote.position)
        } else if let Message::NewView(message) = message {
            self.makes(replica, message)
        } else {
            Ok(())
        }
    }

    /// Whoever comes to a view first has been in the one before it, and a quorum with it; but from a primary that is proved
    /// to lie everybody may go on alone.
    fn comes_to(&mut self, replica: ReplicaId, view: View) -> Verdict {
        let is_there = self.is_at(view);
        let stand = &mut self.stands[replica.index()];
        if view <= stand.reached {
            return Ok(());
        }
        stand.reached = view;
        let Some(before) = view.0.checked_sub(1).map(View).filter(|before| *before > View(0)) else { return Ok(()) };
        let is_led_by_liar = self.faulty.contains(self.config.primary(before));
        if !is_there.is_empty() || is_led_by_liar {
            return Ok(());
        }
        let there = self.is_at(before);
        if is_quorum(&self.weights, there.iter().chain(self.faulty.iter())) {
            return Ok(());
        }
        Err(format!("goes on to {view:?}, and only {there:?} have come to {before:?}"))
    }

    fn is_at(&self, view: View) -> ReplicaSet {
        let stands = self.config.replicas().zip(&self.stands);
        let correct = stands.filter(|(replica, _)| !self.faulty.contains(*replica));
        correct.filter(|(_, stand)| stand.reached >= view).map(|(replica, _)| replica).collect()
    }

    fn votes(&self, replica: ReplicaId, at: &Position) -> Verdict {
        let beginning = self.stands[replica.index()].beginnings.get(&at.view);
        let is_allowed = match beginning {
            Some(beginning) => beginning.allows(at.seq, at.digest, self.null),
            None => at.view == View(0),
        };
        if is_allowed {
            return Ok(());
        }
        Err(format!("votes for {:?} at Seq {} in {:?}, which began with {beginning:?}", at.digest, at.seq, at.view))
    }

    fn makes(&mut self, replica: ReplicaId, message: &NewView) -> Verdict {
        if self.config.primary(message.view) != replica {
            return Ok(());
        }
        let content = hash(Context::NewView, &[&message.encode()]);
        let first = *self.stands[replica.index()].made.entry(message.view).or_insert(content);
        if first == content { Ok(()) } else { Err(format!("makes two NEW-VIEWs of {:?}", message.view)) }
    }
}

#[cfg(test)]
mod tests {
    use bft_core::ids::{Epoch, Signature};
    use bft_core::wire::message::{Ballot, Prepare, PreparedCertificate, ViewChange};

    use super::super::made;
    use super::*;

    fn views(faulty: &[u16]) -> Views {
        Views::new(&made::cluster().config, faulty.iter().copied().map(ReplicaId).collect())
    }

    fn new_view(prepared: &[(u64, u64, u8)]) -> NewView {
        let ballot = Ballot { commitment: Digest::ZERO, signature: Signature::ZERO };
        let certificate = |(view, seq, digest): &(u64, u64, u8)| PreparedCertificate {
            position: Position { view: View(*view), ..made::position(*seq, *digest) },
            header: BatchHeader::default(),
            proposal: ballot,
            prepares: Vec::new(),
        };
        let view_change = |certified| {
            Arc::new(ViewChange {
                epoch: Epoch(0),
                view: View(5),
                replica: ReplicaId(0),
                certificate: None,
                prepared: vec![certificate(certified)],
                signature: Signature::ZERO,
            })
        };
        let view_changes = prepared.iter().map(view_change).collect();
        NewView { epoch: Epoch(0), view: View(5), view_changes, signature: Signature::ZERO }
    }

    #[test]
    fn v8_who_goes_on_alone_is_found() {
        let mut alone = views(&[]);
        assert_eq!(alone.comes_to(ReplicaId(0), View(1)), Ok(()), "anybody may give up the first primary");
        assert!(alone.comes_to(ReplicaId(0), View(2)).is_err());
        assert!(views(&[]).comes_to(ReplicaId(0), View(7)).is_err());
        let mut followed = views(&[]);
        let all = [0, 1, 2].map(ReplicaId);
        assert!(all.into_iter().all(|replica| followed.comes_to(replica, View(1)) == Ok(())));
        assert_eq!(followed.comes_to(ReplicaId(0), View(2)), Ok(()));
        assert_eq!(followed.comes_to(ReplicaId(3), View(2)), Ok(()), "it follows");
        assert!(followed.comes_to(ReplicaId(3), View(3)).is_err(), "two are not enough");
    }

    #[test]
    fn v5_a_view_begins_with_the_certificate_of_the_highest_view_and_nothing_else_is_voted_for() {
        let mut judge = views(&[]);
        let beginning = Beginning::of(&new_view(&[(3, 1, 3), (4, 1, 4), (0, 3, 9)]), judge.null);
        let batches: Vec<_> = beginning.order.values().copied().collect();
        assert_eq!(batches, [Digest([4; 32]), judge.null, Digest([9; 32])]);
        judge.stands[0].beginnings.insert(View(5), beginning);
        let mut vote = |seq, digest| {
            let position = Position { view: View(5), ..made::position(seq, digest) };
            let prepare = Prepare { position, replica: ReplicaId(0), ballot: made::ballot() };
            judge.released(ReplicaId(0), &Message::Prepare(prepare)).is_ok()
        };
        assert!(vote(1, 4) && !vote(1, 3) && !vote(2, 7) && vote(3, 9) && vote(4, 7));
        let elsewhere = Prepare { position: made::position(1, 1), replica: ReplicaId(1), ballot: made::ballot() };
        assert_eq!(judge.released(ReplicaId(1), &Message::Prepare(elsewhere)), Ok(()), "the first view");
        let mut unbegun = made::position(1, 1);
        unbegun.view = View(5);
        let unbegun = Prepare { position: unbegun, replica: ReplicaId(1), ballot: made::ballot() };
        assert!(judge.released(ReplicaId(1), &Message::Prepare(unbegun)).is_err(), "it never began there");
    }

    #[test]
    fn s9_a_second_new_view_of_one_primary_is_found() {
        let mut judge = views(&[]);
        let primary = judge.config.primary(View(5));
        let other = ReplicaId((primary.0 + 1) % 4);
        let mut made = |by, prepared: &[(u64, u64, u8)]| {
            judge.released(by, &Message::NewView(Arc::new(new_view(prepared)))).is_ok()
        };
        assert!(made(primary, &[(0, 1, 1)]) && made(primary, &[(0, 1, 1)]));
        assert!(made(other, &[(0, 1, 2)]), "it passes on what somebody else made");
        assert!(!made(primary, &[(0, 1, 2)]));
    }
}
