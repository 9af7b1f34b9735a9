//! Planted faults: each is a wrong variant of one line, chosen at run time, that the simulator or a test must catch
//! (TESTING §8). Without the feature `mutants` the macro is its right side and nothing else; `bftd` refuses to compile
//! with the feature.

macro_rules! mutants {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A planted fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Mutant {
            $($(#[$doc])* $variant,)*
        }

        impl Mutant {
            /// Every planted fault.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name under which `mutants.toml` records it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

mutants! {
    /// A quorum lacks one replica.
    M1QuorumTooSmall = "m1",
    /// A replica that votes twice counts twice.
    M2DuplicatesCounted = "m2",
    /// Votes count for whatever digest they name.
    M3VotesPooledOverDigests = "m3",
    /// The batch digest is not compared with the header and body.
    M5BodyNotCompared = "m5",
    /// COMMIT leaves before its certificate is durable.
    M10CommitBeforeCertificate = "m10",
    /// PREPARE leaves before its vote is durable.
    M11PrepareBeforeVote = "m11",
    /// VIEW-CHANGE does not wait until the promise is durable.
    M12PromiseNotWaitedFor = "m12",
    /// A VIEW-CHANGE leaves out the lowest slot that was prepared.
    M14LowestSlotLeftOut = "m14",
    /// A checkpoint is stable with a blocking set of votes.
    M21StableWithBlockingSet = "m21",
    /// Memory and journal are freed before the stable checkpoint is durable.
    M22CollectBeforeDurable = "m22",
    /// A session remembers only the highest number that ran; a lower one is taken for done.
    M25HighestNumberOnly = "m25",
    /// A client takes an answer that f replicas vouch for.
    M26AcceptedByFaulty = "m26",
    /// A client counts answers, not replicas.
    M27RepliesCountedTwice = "m27",
    /// A flush that fails is taken for done.
    M35FlushErrorIgnored = "m35",
    /// Damage inside the durable journal is cut off like a torn tail.
    M37DamageCutOff = "m37",
    /// Batch times may stand still.
    M46TimeStandsStill = "m46",
    /// Slots execute as they commit, in any order.
    M47ExecutedOutOfOrder = "m47",
    /// A replica whose journal was damaged votes before it may.
    M49DamagedVotesEarly = "m49",
    /// The leaf of a batch's tree leaves out the signature.
    M56LeafWithoutSignature = "m56",
    /// A later group in flight is taken as proof that an earlier one was durable.
    M58LaterGroupProves = "m58",
    /// A transferred piece is stored without being compared with the manifest.
    M60ChunkNotCompared = "m60",
    /// A replica that starts votes before a quorum has said what it holds of it.
    M62VotesUnasked = "m62",
}

/// Whether this build holds the planted faults.
pub const MUTANTS: bool = cfg!(feature = "mutants");

#[cfg(feature = "mutants")]
mod active {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Mutant;

    const NONE: u32 = u32::MAX;
    static ACTIVE: AtomicU32 = AtomicU32::new(NONE);

    /// Plants `mutant`, and only it, in the whole process.
    pub fn plant(mutant: Option<Mutant>) {
        ACTIVE.store(mutant.map_or(NONE, |mutant| mutant as u32), Ordering::Relaxed);
    }

    /// Whether `mutant` is planted.
    #[must_use]
    pub fn is_planted(mutant: Mutant) -> bool {
        ACTIVE.load(Ordering::Relaxed) == mutant as u32
    }
}

#[cfg(feature = "mutants")]
pub use active::{is_planted, plant};

/// `mutant!(Name, right, wrong)`: `right`, unless this build holds mutants and `Name` is planted.
#[cfg(feature = "mutants")]
#[macro_export]
macro_rules! mutant {
    ($name:ident, $right:expr, $wrong:expr) => {
        if $crate::mutants::is_planted($crate::mutants::Mutant::$name) { $wrong } else { $right }
    };
}

/// `mutant!(Name, right, wrong)`: `right`, unless this build holds mutants and `Name` is planted.
#[cfg(not(feature = "mutants"))]
#[macro_export]
macro_rules! mutant {
    ($name:ident, $right:expr, $wrong:expr) => {
        $right
    };
}
