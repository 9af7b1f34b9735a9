//! Replicas that attack: each is the twin of a correct core, whose messages a villain changes, withholds, delays or adds to
//! at the door. It owns its key and no other, and at most F of the weight is of its kind; where more than one is, all
//! follow the same strategy and know of one another. One file for each attack; what they share is in `means` and `said`.
//! A villain that did no harm in a run does not count for it: misdeeds are counted.

use std::str::FromStr;

use bft_core::ids::ReplicaId;
use bft_core::wire::message::Message;
use bft_core::wire::request::SignedRequest;

pub mod begins_two;
pub mod begins_wrongly;
pub mod begs;
pub mod boasts;
pub mod bursts;
pub mod censors;
pub mod checkpoints_two;
pub mod clients;
pub mod dates_ahead;
pub mod fast_and_slow;
pub mod floods_ahead;
pub mod forges_requests;
pub mod forgets_checkpoint;
pub mod forgets_prepared;
pub mod frames_others;
pub mod instead;
pub mod jumps;
pub mod leaves_gaps;
pub mod lying_backup;
pub mod lying_source;
pub mod means;
pub mod mutates;
pub mod own_view_change;
pub mod proposes_nothing;
pub mod proposes_two;
pub mod recalls_old_views;
pub mod replays_requests;
pub mod replies_only;
pub mod runs_away;
pub mod said;
pub mod shuffles_requests;
pub mod silent;
pub mod silent_to_some;
pub mod slow;
pub mod votes_two;
pub mod withholds_bodies;
pub mod withholds_commits;

use means::Means;
use said::Said;

/// What a villain does at its core's door. By default nothing: each changes what its attack is about.
pub trait Villain {
    /// A peer's message arrives; it has not been checked.
    fn hears(&mut self, _means: &mut Means, _from: ReplicaId, _message: &Message) -> Heard {
        Heard::Passed
    }

    /// Requests of clients arrive together; what is taken out never reaches the core.
    fn gathers(&mut self, _means: &mut Means, _requests: &mut Vec<SignedRequest>) {}

    /// What becomes of `message`, which the core sends to `peer`.
    fn to_peer(&mut self, _means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        said.truth(message);
    }

    /// What becomes of `message`, which the core sends to a client.
    fn to_client(&mut self, _means: &mut Means, message: Message, said: &mut Said) {
        said.truth(message);
    }
}

/// Whether the core gets what arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It does.
    Passed,
    /// It never hears of it.
    Ignored,
}

/// Where a villain sits, most of the time: an attack of primaries needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// Anywhere.
    Any,
    /// Where the first view has its primary.
    First,
    /// Where the second view has its primary; somebody sees to it that views end.
    Second,
    /// Anywhere; somebody sees to it that views end.
    Leaving,
}

/// How long a villain goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// To the end: with it, everything that clients submit is answered all the same.
    Always,
    /// Until the faults end: what it does slows the service down or denies it to somebody, which nobody is suspected for
    /// yet (PROTOCOL.md says what is promised).
    UntilHealed,
}

macro_rules! strategies {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $seat:ident, $lasts:ident, $make:expr;)*) => {
        /// What a villain is after.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Strategy {
            $($(#[$doc])* $variant,)*
        }

        impl Strategy {
            /// Every strategy.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// What the command line and `regressions/` call it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Where it sits.
            #[must_use]
            pub fn seat(self) -> Seat {
                match self {
                    $(Self::$variant => Seat::$seat,)*
                }
            }

            /// How long it goes on.
            #[must_use]
            pub fn lasts(self) -> Lasts {
                match self {
                    $(Self::$variant => Lasts::$lasts,)*
                }
            }

            fn make(self) -> Box<dyn Villain> {
                match self {
                    $(Self::$variant => Box::new($make),)*
                }
            }
        }
    };
}

strategies! {
    /// Lies about whatever it sends, now and then.
    LyingBackup = "lying-backup", Any, UntilHealed, lying_backup::LyingBackup;
    /// Gives peers that fetch a snapshot what is none.
    LyingSource = "lying-source", Any, Always, lying_source::LyingSource;
    /// Changes any field of any message.
    Mutates = "mutates", Leaving, Always, mutates::Mutates::default();
    /// Proposes one batch to some and another to the others.
    ProposesTwo = "proposes-two", First, Always, proposes_two::ProposesTwo::default();
    /// Votes for one batch here and for another there.
    VotesTwo = "votes-two", Any, Always, votes_two::VotesTwo;
    /// Signs two roots for one checkpoint or snapshot.
    CheckpointsTwo = "checkpoints-two", Any, Always, checkpoints_two::CheckpointsTwo;
    /// Begins its view with one set of VIEW-CHANGEs for some and with another for the others.
    BeginsTwo = "begins-two", Second, Always, begins_two::BeginsTwo::default();
    /// Says nothing.
    Silent = "silent", First, Always, silent::Silent;
    /// Says nothing to some.
    SilentToSome = "silent-to-some", First, Always, silent_to_some::SilentToSome::default();
    /// Answers clients and nobody else.
    RepliesOnly = "replies-only", First, Always, replies_only::RepliesOnly;
    /// Proposes just before it would be given up.
    Slow = "slow", First, UntilHealed, slow::Slow;
    /// Is quick and slow by turns.
    FastAndSlow = "fast-and-slow", First, Always, fast_and_slow::FastAndSlow;
    /// Never opens what it committed to.
    WithholdsCommits = "withholds-commits", Any, Always, withholds_commits::WithholdsCommits;
    /// Gives bodies to just enough.
    WithholdsBodies = "withholds-bodies", First, Always, withholds_bodies::WithholdsBodies;
    /// Holds everything back and says it at once.
    Bursts = "bursts", First, Always, bursts::Bursts;
    /// Says that nothing was prepared.
    ForgetsPrepared = "forgets-prepared", Leaving, Always, forgets_prepared::ForgetsPrepared;
    /// Names an old checkpoint, or none.
    ForgetsCheckpoint = "forgets-checkpoint", Leaving, Always, forgets_checkpoint::ForgetsCheckpoint::default();
    /// Names what was prepared in old views only.
    RecallsOldViews = "recalls-old-views", Leaving, Always, recalls_old_views::RecallsOldViews::default();
    /// Begins its view as it must not.
    BeginsWrongly = "begins-wrongly", Second, Always, begins_wrongly::BeginsWrongly::default();
    /// Asks for everything, again and again.
    Begs = "begs", Any, Always, begs::Begs;
    /// Says that it is far ahead.
    Boasts = "boasts", Any, Always, boasts::Boasts;
    /// Leaves places in the order out.
    LeavesGaps = "leaves-gaps", First, Always, leaves_gaps::LeavesGaps;
    /// Proposes at the end of the window and beyond.
    Jumps = "jumps", First, Always, jumps::Jumps::default();
    /// Proposes what was executed before.
    ReplaysRequests = "replays-requests", First, Always, replays_requests::ReplaysRequests::default();
    /// Proposes what no client signed.
    ForgesRequests = "forges-requests", First, Always, forges_requests::ForgesRequests::default();
    /// Dates its batches from the future.
    DatesAhead = "dates-ahead", First, Always, dates_ahead::DatesAhead::default();
    /// Never hears one client.
    Censors = "censors", First, Always, censors::Censors::default();
    /// Mixes up the Requests of clients.
    ShufflesRequests = "shuffles-requests", First, UntilHealed, shuffles_requests::ShufflesRequests::default();
    /// Proposes empty batches while Requests wait.
    ProposesNothing = "proposes-nothing", First, Always, proposes_nothing::ProposesNothing::default();
    /// Votes in views and Epochs to come.
    FloodsAhead = "floods-ahead", Any, Always, floods_ahead::FloodsAhead;
    /// Calls everybody to a view beyond all others.
    RunsAway = "runs-away", Any, Always, runs_away::RunsAway;
    /// Speaks in others' names.
    FramesOthers = "frames-others", Any, Always, frames_others::FramesOthers::default();
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|strategy| strategy.name() == text);
        found.copied().ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|strategy| strategy.name()).collect();
            format!("there is no villain {text}; there are: {}", known.join(", "))
        })
    }
}

/// A villain at the door of a core.
pub struct Twin {
    strategy: Strategy,
    means: Means,
    villain: Box<dyn Villain>,
    said: Said,
}

impl Twin {
    /// A villain with this strategy and these means.
    #[must_use]
    pub fn new(strategy: Strategy, means: Means) -> Self {
        Self { strategy, means, villain: strategy.make(), said: Said::default() }
    }

    /// What it is after.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// A peer's message arrives at `now`.
    pub fn hears(&mut self, now: u64, from: ReplicaId, message: &Message) -> Heard {
        self.means.now = now;
        self.villain.hears(&mut self.means, from, message)
    }

    /// Requests arrive at `now`.
    pub fn gathers(&mut self, now: u64, requests: &mut Vec<SignedRequest>) {
        self.means.now = now;
        self.villain.gathers(&mut self.means, requests);
    }

    /// What is said at `now` when the core sends `message` to `peer`.
    pub fn to_peer(&mut self, now: u64, peer: ReplicaId, message: Message) -> &mut Said {
        self.means.now = now;
        self.villain.to_peer(&mut self.means, peer, message, &mut self.said);
        &mut self.said
    }

    /// What is said at `now` when the core sends `message` to a client.
    pub fn to_client(&mut self, now: u64, message: Message) -> &mut Said {
        self.means.now = now;
        self.villain.to_client(&mut self.means, message, &mut self.said);
        &mut self.said
    }

    /// The misdeeds since this was last asked.
    pub fn take_misdeeds(&mut self) -> u64 {
        std::mem::take(&mut self.said.misdeeds) + std::mem::take(&mut self.means.misdeeds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::Oracle;
    use crate::options::{Fidelity, Options, Scene};
    use crate::run::run;
    use crate::trace::Trace;

    /// What a cluster says in which villains of weight `more` above F attack: the judge that finds it, seed by seed.
    fn judged(strategy: Strategy, more: u64, seeds: std::ops::Range<u64>) -> Vec<Option<Oracle>> {
        seeds
            .map(|seed| {
                let scene = Scene { villain: Some(strategy), ..Scene::default() };
                let mut options = Options::in_scene(seed, Fidelity::Ledger, scene);
                options.weights = vec![1; 4];
                options.villain_weight_max = 1 + more;
                run(options, Trace::quiet()).violation.map(|violation| violation.oracle)
            })
            .collect()
    }

    #[test]
    fn one_villain_too_many_is_more_than_the_protocol_bears_and_the_judges_see_it() {
        let broken = [Oracle::Agreement, Oracle::Assertion, Oracle::Divergence].map(Some);
        for strategy in [Strategy::ProposesTwo, Strategy::CheckpointsTwo] {
            let found = judged(strategy, 1, 0..6);
            assert!(found.iter().any(|oracle| broken.contains(oracle)), "{strategy:?}: {found:?}");
            assert_eq!(judged(strategy, 0, 0..2), [None, None], "{strategy:?} alone");
        }
    }

    #[test]
    fn names_are_unique_and_lead_back() {
        for strategy in Strategy::ALL {
            assert_eq!(strategy.name().parse(), Ok(*strategy));
        }
        let refused = "nobody".parse::<Strategy>().unwrap_err();
        assert!(refused.contains("lying-backup") && refused.contains("begins-two"), "{refused}");
    }
}
