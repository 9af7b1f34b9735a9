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
    /// Votes count in whatever view they were cast.
    M4VotesPooledOverViews = "m4",
    /// The batch digest is not compared with the header and body.
    M5BodyNotCompared = "m5",
    /// Any member may propose, not the primary of the view alone.
    M6ProposalOfAnybody = "m6",
    /// A second proposal for a Seq and view is voted for too.
    M7SecondProposalAccepted = "m7",
    /// The primary proposes beyond the window.
    M8WindowNotHeld = "m8",
    /// A proposal of the next window is dropped, and not kept until the window is there.
    M9EarlyProposalDropped = "m9",
    /// COMMIT leaves before its certificate is durable.
    M10CommitBeforeCertificate = "m10",
    /// PREPARE leaves before its vote is durable.
    M11PrepareBeforeVote = "m11",
    /// VIEW-CHANGE does not wait until the promise is durable.
    M12PromiseNotWaitedFor = "m12",
    /// A replica on its way to a view votes in it before it has begun.
    M13VotesOnTheWay = "m13",
    /// A VIEW-CHANGE leaves out the lowest slot that was prepared.
    M14LowestSlotLeftOut = "m14",
    /// A VIEW-CHANGE names the first certificate of a slot, not that of the highest view.
    M15FirstCertificateNamed = "m15",
    /// A view begins with the first certificate of a slot, not with that of the highest view.
    M16FirstCertificateChosen = "m16",
    /// Gaps between the batches that a view begins with stay gaps.
    M17GapsStayOpen = "m17",
    /// A view begins above the lowest checkpoint of its VIEW-CHANGEs, not above the highest.
    M18LowestCheckpoint = "m18",
    /// What the new primary proposes is not compared with what its view begins with.
    M19BeginningNotCompared = "m19",
    /// The votes in a VIEW-CHANGE's certificates may be unsigned.
    M20CertificateUnsigned = "m20",
    /// A checkpoint is stable with a blocking set of votes.
    M21StableWithBlockingSet = "m21",
    /// Memory and journal are freed before the stable checkpoint is durable.
    M22CollectBeforeDurable = "m22",
    /// A snapshot's root leaves out the client table.
    M23ClientsOutsideRoot = "m23",
    /// A number that was acknowledged, and whose answer is forgotten, runs again.
    M24AcknowledgedRunsAgain = "m24",
    /// A session remembers only the highest number that ran; a lower one is taken for done.
    M25HighestNumberOnly = "m25",
    /// A client takes an answer that f replicas vouch for.
    M26AcceptedByFaulty = "m26",
    /// A client counts answers, not replicas.
    M27RepliesCountedTwice = "m27",
    /// A VIEW-CHANGE is sent once.
    M28ViewChangeSentOnce = "m28",
    /// The time that a primary gets does not grow while views fail.
    M29TimeoutsStayShort = "m29",
    /// One replica moves all others to its view.
    M30JoinsOne = "m30",
    /// A replica that nobody follows goes from view to view.
    M31RunsAway = "m31",
    /// A Request that comes after its execution is waited for.
    M32WaitsForExecuted = "m32",
    /// A manifest is not compared with the root that was signed.
    M33ManifestNotCompared = "m33",
    /// A transferred piece may be any piece of the manifest, whatever index it names.
    M34IndexNotCompared = "m34",
    /// A flush that fails is taken for done.
    M35FlushErrorIgnored = "m35",
    /// A flush runs beside the write that it is for.
    M36FlushBesideWrite = "m36",
    /// Damage inside the durable journal is cut off like a torn tail.
    M37DamageCutOff = "m37",
    /// The name of a snapshot is not flushed.
    M38NameNotFlushed = "m38",
    /// Who is claimed to have signed is blamed for what nobody signed.
    M39ClaimedSignerBlamed = "m39",
    /// Proposals beyond the window are kept without a bound.
    M44EarlyWithoutBound = "m44",
    /// Many signatures at once are judged without the cofactor.
    M45BatchWithoutCofactor = "m45",
    /// Batch times may stand still.
    M46TimeStandsStill = "m46",
    /// Slots execute as they commit, in any order.
    M47ExecutedOutOfOrder = "m47",
    /// The nonce of a COMMIT is the same for every batch at its place.
    M48NonceOfAnyBatch = "m48",
    /// A replica whose journal was damaged votes before it may.
    M49DamagedVotesEarly = "m49",
    /// Who has committed a batch already does not vote for it again in the next view.
    M50CommittedNotVotedFor = "m50",
    /// A primary that starts again makes its NEW-VIEW anew.
    M51NewViewMadeAnew = "m51",
    /// A checkpoint that execution comes to again is signed again, whatever its root is.
    M52CheckpointSignedAgain = "m52",
    /// The window moves before the stable checkpoint is durable.
    M53WindowBeforeDurable = "m53",
    /// Every step sets the timer anew.
    M54TimerSetByEveryStep = "m54",
    /// A number whose answer was a refusal can not be acknowledged.
    M55RefusedNotSeen = "m55",
    /// The leaf of a batch's tree leaves out the signature.
    M56LeafWithoutSignature = "m56",
    /// A snapshot that comes due while another one is written is left out.
    M57PointSkipped = "m57",
    /// A later group in flight is taken as proof that an earlier one was durable.
    M58LaterGroupProves = "m58",
    /// A transferred piece is stored without being compared with the manifest.
    M60ChunkNotCompared = "m60",
    /// A replica that starts votes before a quorum has said what it holds of it.
    M62VotesUnasked = "m62",
    /// A replica that went back to an agreed state signs another root where it had signed one.
    M64SignsWhereDisowned = "m64",
    /// A primary stays in its view, whoever has left it.
    M65PrimaryNeverLeaves = "m65",
    /// Who lost its state goes on from nothing as if it were that state.
    M66ExecutesWithoutState = "m66",
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
