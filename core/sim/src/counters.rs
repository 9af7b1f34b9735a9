//! What happened in a run and in all runs together: counted, so that a fault that never struck is seen.

use bft_core::divergence::{Alarm, Finding};

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident: $need:ident = $name:literal,)*) => {
        /// How often each thing happened.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Counters {
            /// Adds another run's.
            pub fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }

            /// Name, count, and whether a campaign without it proves nothing.
            #[must_use]
            pub fn rows(&self) -> Vec<(&'static str, u64, Need)> {
                vec![$(($name, self.$field, Need::$need),)*]
            }
        }
    };
}

/// Whether a campaign of some length must have seen a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A campaign in which it never happened fails.
    Must,
    /// It may never happen.
    May,
}

counters! {
    /// Operations that a client was told are done.
    operations: Must = "operations",
    /// Steps of cores.
    steps: Must = "steps",
    /// Messages handed to the network.
    messages: Must = "messages",
    /// Messages that the network lost by chance.
    dropped: Must = "dropped",
    /// Messages that it lost at a partition.
    cut: Must = "cut off",
    /// Messages that it delivered twice.
    doubled: Must = "doubled",
    /// Messages that overtook an earlier one of their link.
    reordered: Must = "reordered",
    /// Partitions between two groups.
    partitions: Must = "partitions",
    /// Partitions that let messages through one way.
    one_way: Must = "one-way partitions",
    /// Processes that were killed.
    kills: Must = "kills",
    /// Processes that were stopped cleanly.
    stops: Must = "clean stops",
    /// Starts during which the power was lost.
    starts_cut_short: Must = "starts cut short",
    /// Power losses of single machines.
    power_losses: Must = "power losses",
    /// Power losses of all machines at once.
    power_losses_of_all: Must = "power losses of all",
    /// Processes that were not scheduled for a while.
    pauses: Must = "pauses",
    /// Primaries that were not scheduled until the others had left their view.
    dethroned: Must = "primaries paused",
    /// Clients that forgot everything and began anew with their key.
    client_restarts: Must = "client restarts",
    /// Steps of a wall clock.
    clock_jumps: Must = "clock jumps",
    /// Writes of which nothing was left.
    writes_lost: Must = "writes lost",
    /// Writes of which some sectors were left.
    writes_torn: Must = "writes torn",
    /// Replicas that started with what was on their disk.
    restarts: Must = "restarts",
    /// Of those, from a snapshot that the service had to restore.
    restarts_from_snapshot: Must = "restarts from a snapshot",
    /// VIEW-CHANGEs sent.
    view_changes: Must = "view changes",
    /// NEW-VIEWs sent.
    new_views: Must = "new views",
    /// Votes that waited for their record when their view was left.
    votes_cancelled: Must = "votes cancelled",
    /// Bodies sent to new primaries.
    bodies_sent: Must = "bodies fetched",
    /// Commit certificates that peers sent.
    certificates: Must = "certificates fetched",
    /// Snapshots written.
    snapshots: Must = "snapshots",
    /// Snapshots that became stable at a replica.
    snapshots_stable: Must = "stable snapshots",
    /// Cuts of a journal.
    journal_drops: Must = "journal cuts",
    /// Files of a journal that were used again.
    recycled: Must = "segments recycled",
    /// Bodies that had to be read back from a journal.
    loads: Must = "bodies loaded",
    /// Requests that were ordered and not admitted.
    refused: Must = "refused Requests",
    /// Comparisons of a disk with what its replica believes to be durable.
    audits: Must = "disk audits",
    /// Writes and flushes that failed and ended their process.
    io_errors: Must = "failed writes and flushes",
    /// Writes that ended early, and their process with them.
    short_writes: Must = "short writes",
    /// Disks that had no room for a while.
    disks_full: Must = "full disks",
    /// Snapshots that were begun anew for want of room.
    snapshots_put_off: Must = "snapshots put off",
    /// Segments whose file had to wait for room.
    segments_put_off: Must = "segments put off",
    /// Disks that were a hundred times as slow.
    slow_disks: Must = "disks a hundred times as slow",
    /// Disks on which a write went where another one belongs.
    misdirected: May = "misdirected writes",
    /// Journals in which a bit rotted.
    bits_rotted: May = "bits rotted",
    /// Journals that lost a file.
    files_lost: May = "files lost",
    /// Snapshots, named by a superblock, that were damaged.
    snapshots_spoilt: Must = "snapshots spoilt",
    /// Starts that found that, and have no state to go on from.
    states_lost: Must = "states lost",
    /// Replicas that have one again.
    states_found: Must = "states found again",
    /// Starts that found a journal damaged, and from which on the replica was silent.
    amnesias: Must = "starts after damage",
    /// Replicas that were silent after damage and vote again.
    voting_again: Must = "voting again",
    /// Disks that were put back to an earlier state of themselves.
    put_back: Must = "disks put back",
    /// Replicas that found that out by what others hold, and vote no more.
    learners: Must = "learners",
    /// Snapshots of others that a replica went on from.
    transfers: Must = "transfers",
    /// Pieces of snapshots that were fetched.
    chunks_fetched: Must = "chunks fetched",
    /// Pieces that an interrupted transfer had left and that were not fetched again.
    chunks_resumed: Must = "chunks resumed",
    /// Wrong pieces that liars gave.
    chunks_refused: Must = "bad chunks refused",
    /// Replicas that were struck in the middle of a transfer.
    transfers_cut: Must = "transfers interrupted",
    /// Replicas that were away for so long that their peers dropped what they lack.
    exiles: Must = "exiles",
    /// Lies of Byzantine replicas.
    lies: Must = "lies",
    /// Messages of villains that a correct replica refused.
    lies_refused: Must = "messages refused",
    /// Pieces of evidence that correct replicas told of, once in each life.
    evidence: Must = "evidence told",
    /// Misdeeds of clients.
    client_misdeeds: Must = "misdeeds of clients",
    /// Requests that a replica refused on the link that brought them.
    requests_refused: Must = "Requests refused",
    /// Batches at which a service drifted away from its twins.
    drifts: Must = "drifts",
    /// Replicas that went into quarantine, or differed again there.
    divergences: Must = "divergences",
    /// Reports that name the first Seq that differs.
    slots_named: Must = "first differing Seqs named",
    /// Reports that name the pieces of a snapshot that differ.
    pieces_named: May = "differing pieces named",
    /// Reports that name an interval only.
    intervals_named: May = "differing intervals named",
    /// States that were given up for an agreed one.
    repairs: Must = "repairs",
    /// Replicas that agreed again.
    quarantines_ended: Must = "quarantines ended",
    /// Runs that ended without a liveness phase, because more than F of the weight was faulty.
    liveness_left_out: May = "runs without liveness",
    /// Power losses at a point of a script.
    points: May = "points",
    /// Operations whose outcome a client could not learn.
    unknown: May = "unknown outcomes",
}

impl Counters {
    /// Counts what a report found out.
    pub fn count_finding(&mut self, alarm: &Alarm) {
        let Alarm::Diverged(report) = alarm else { return };
        match &report.finding {
            Finding::Slot(_) => self.slots_named += 1,
            Finding::Pieces { .. } => self.pieces_named += 1,
            Finding::Between { .. } => self.intervals_named += 1,
        }
    }
}
