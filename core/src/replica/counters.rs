//! What happened in a replica, counted: for INFO, metrics and the simulator's summary.

use crate::ordering::pbft::Ignored;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since this replica started.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Names and counts.
            #[must_use]
            pub fn named(&self) -> Vec<(String, u64)> {
                vec![$((stringify!($name).to_string(), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Messages of peers.
    messages,
    /// Messages of peers that changed nothing, for whatever reason.
    ignored,
    /// Of those: what its signer contradicts.
    ignored_conflicting,
    /// Of those: kinds that this version knows and does not act on.
    ignored_not_acted_on,
    /// Primaries given up.
    suspected,
    /// Of those: for passing over a Request again and again.
    suspected_of_passing_over,
    /// Of those: for ordering again what was executed long ago.
    suspected_of_repeating,
    /// Pieces of evidence kept against others, those of former lives among them.
    evidence,
    /// Pieces of evidence that found no room.
    evidence_dropped,
    /// Views left, whoever began it.
    views_left,
    /// Views begun, with a NEW-VIEW.
    views_begun,
    /// Batches executed.
    batches,
    /// Requests executed or refused in order.
    requests,
    /// Operations that reached the service.
    operations,
    /// Requests that were ordered again after they had been executed.
    repeated,
    /// Requests refused in order.
    refused,
    /// Requests that found the pool full, and openings that found no session free.
    busy,
    /// How often this replica came to something else than a blocking set of others, or than it had signed, and went into
    /// quarantine, or stayed there.
    divergences,
    /// How often it went back to an agreed state to execute anew.
    repairs,
    /// How often it agreed again after that, and left quarantine.
    quarantines_ended,
    /// Checkpoints of which no quorum can agree: the service is not deterministic.
    nondeterminism,
    /// Stable checkpoints.
    checkpoints,
    /// Snapshots that became stable here.
    snapshots,
    /// Snapshots whose image was ordered: one more than written while one is under way.
    snapshots_begun,
    /// Snapshots whose files are on stable storage.
    snapshots_written,
    /// Commit certificates that came from a peer and were news.
    certificates_fetched,
    /// Commit certificates sent to peers.
    certificates_served,
    /// Batches read back from the journal to be executed.
    batches_loaded,
    /// Snapshots of others that were installed here.
    transfers,
    /// Pieces of snapshots that were fetched from peers, found right and stored.
    chunks_fetched,
    /// Bytes of those.
    chunk_bytes_fetched,
    /// Pieces that an earlier transfer had left on the disk, whole.
    chunks_resumed,
    /// Pieces that a peer gave and that were not what was asked for.
    chunks_refused,
    /// Pieces of snapshots sent to peers.
    chunks_served,
}

impl Counters {
    /// Counts a message that changed nothing.
    pub fn ignore(&mut self, ignored: Ignored) {
        self.ignored += 1;
        match ignored {
            Ignored::Conflicting => self.ignored_conflicting += 1,
            Ignored::NotActedOn => self.ignored_not_acted_on += 1,
            Ignored::OtherView
            | Ignored::Silent
            | Ignored::BelowWindow
            | Ignored::AboveWindow
            | Ignored::Duplicate
            | Ignored::OwnMessage
            | Ignored::ClockAhead
            | Ignored::MemoryFull
            | Ignored::NotInBeginning
            | Ignored::NotNeeded => {}
        }
    }
}
