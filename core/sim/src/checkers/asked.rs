//! Who has started signs nothing before a quorum, itself among it, has said in this life what it holds under its signature
//! (D11); and whoever is a learner votes no more, and in its next lives signs nothing at all. Counts the answers that
//! arrive, and asks no core.

use std::collections::BTreeMap;

use bft_core::config::ClusterConfig;
use bft_core::ids::ReplicaId;
use bft_core::quorum::ReplicaSet;
use bft_core::wire::message::Message;

use super::{Verdict, is_quorum, weights_of};

/// Whose word a message is.
type Signer = Box<dyn Fn(&Message) -> Option<ReplicaId>>;

/// What each replica asked in its present life, and who has answered.
pub struct Asked {
    weights: Vec<u64>,
    signer: Signer,
    lives: BTreeMap<ReplicaId, Questions>,
    learners: ReplicaSet,
    /// Those of them that became one in their present life: what is not a vote may still be on its way.
    lately: ReplicaSet,
}

#[derive(Default)]
struct Questions {
    start: Option<u64>,
    answered: ReplicaSet,
}

impl Asked {
    /// Nobody has started yet.
    #[must_use]
    pub fn new(config: &std::sync::Arc<ClusterConfig>) -> Self {
        let of_view = std::sync::Arc::clone(config);
        let signer = move |message: &Message| match message {
            Message::PrePrepare(proposal) => Some(of_view.primary(proposal.position.view)),
            Message::Prepare(vote) => Some(vote.replica),
            Message::Commit(vote) => Some(vote.replica),
            Message::ViewChange(message) => Some(message.replica),
            Message::Checkpoint(vote) if vote.signatures.len() == 1 => Some(vote.signatures[0].0),
            Message::Snapshot(vote) if vote.signatures.len() == 1 => Some(vote.signatures[0].0),
            _ => None,
        };
        let (learners, lately) = (ReplicaSet::EMPTY, ReplicaSet::EMPTY);
        Self { weights: weights_of(config), signer: Box::new(signer), lives: BTreeMap::new(), learners, lately }
    }

    /// A life begins; `is_learner`: its superblock says that it is one.
    pub fn starts(&mut self, replica: ReplicaId, is_learner: bool) {
        self.lives.insert(replica, Questions::default());
        self.learners.remove(replica);
        self.lately.remove(replica);
        if is_learner {
            self.learners.insert(replica);
        }
    }

    /// It votes no more.
    pub fn learns(&mut self, replica: ReplicaId) {
        self.learners.insert(replica);
        self.lately.insert(replica);
    }

    /// A message arrives.
    pub fn hears(&mut self, replica: ReplicaId, from: ReplicaId, message: &Message) {
        let life = self.lives.entry(replica).or_default();
        if let Message::Recalled(answer) = message
            && life.start == Some(answer.start)
        {
            life.answered.insert(from);
        }
    }

    /// A message leaves.
    pub fn released(&mut self, replica: ReplicaId, message: &Message) -> Verdict {
        let life = self.lives.entry(replica).or_default();
        if let Message::Recall(question) = message {
            life.start = Some(question.start);
        }
        if (self.signer)(message) != Some(replica) {
            return Ok(());
        }
        let kind = message.kind();
        if self.learners.contains(replica) {
            if message.voted_in().is_none() && self.lately.contains(replica) {
                return Ok(());
            }
            return Err(format!("{replica:?} is a learner and signs a {kind:?}"));
        }
        if !is_quorum(&self.weights, life.answered.with(replica).iter()) {
            return Err(format!("{replica:?} signs a {kind:?} when only {:?} have answered it", life.answered));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bft_core::ids::{Epoch, Seq, View};
    use bft_core::wire::message::Prepare;
    use bft_core::wire::recall::{Phase, Recall, Recalled};

    use super::super::made;
    use super::*;

    const ME: ReplicaId = ReplicaId(1);

    fn question(start: u64) -> Message {
        let (epoch, view, phase, zero) = (Epoch(0), View(0), Phase::Begun, Seq(0));
        let (voted, certified) = (vec![0], vec![0]);
        Message::Recall(Recall { epoch, start, view, phase, through: zero, stable: zero, voted, certified })
    }

    fn answer(start: u64) -> Message {
        Message::Recalled(Recalled { epoch: Epoch(0), start, held: None })
    }

    #[test]
    fn d11_a_vote_before_the_answers_of_a_quorum_is_found() {
        let mut judge = Asked::new(&made::cluster().config);
        let vote = Message::Prepare(Prepare { position: made::position(1, 1), replica: ME, ballot: made::ballot() });
        judge.starts(ME, false);
        assert_eq!(judge.released(ME, &question(7)), Ok(()));
        judge.hears(ME, ReplicaId(0), &answer(7));
        judge.hears(ME, ReplicaId(0), &answer(7));
        judge.hears(ME, ReplicaId(2), &answer(6));
        assert!(judge.released(ME, &vote).is_err(), "the answer of one, and one to another question");
        assert_eq!(judge.released(ReplicaId(0), &vote), Ok(()), "passed on by another");
        judge.hears(ME, ReplicaId(2), &answer(7));
        assert_eq!(judge.released(ME, &vote), Ok(()));
        judge.starts(ME, false);
        assert!(judge.released(ME, &vote).is_err(), "the next life asks again");
    }

    #[test]
    fn d11_a_learner_that_votes_is_found() {
        let mut judge = Asked::new(&made::cluster().config);
        let vote = Message::Prepare(Prepare { position: made::position(1, 1), replica: ME, ballot: made::ballot() });
        judge.starts(ME, false);
        judge.released(ME, &question(7)).unwrap();
        [0, 2].into_iter().for_each(|peer| judge.hears(ME, ReplicaId(peer), &answer(7)));
        judge.learns(ME);
        assert!(judge.released(ME, &vote).is_err());
        judge.starts(ME, true);
        assert!(judge.released(ME, &vote).is_err(), "its superblock says so");
    }
}
