//! What people are told when replicas that executed the same order differ: typed, and as the text of a file. What is
//! compared with what, and what a replica does about it, is in `replica/quarantine.rs` (PROTOCOL §7).
//!
//! Kept here: a report calls certain only what follows from a root that a blocking set signed; lists in it are bounded.

use std::fmt::{self, Write as _};

use crate::ids::{Digest, Epoch, PublicKey, ReplicaId, RequestNo, Seq, SessionId};

/// Something that somebody should look at. The replica goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// This replica differed from a blocking set of others and is in quarantine: what is known of why.
    Diverged(Box<Report>),
    /// So many came to so many roots that no quorum can agree any more: the service is not deterministic.
    Nondeterminism(Box<Disagreement>),
}

/// What was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Order and replies up to a Seq.
    Checkpoint,
    /// The image of the state at a Seq.
    Snapshot,
    /// A checkpoint that was executed again after a start, with the one that was signed before.
    Replay,
    /// A snapshot that was written again after a start, with the one that was signed before.
    ReplayedSnapshot,
}

impl What {
    /// What files and logs call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Snapshot => "snapshot",
            Self::Replay => "replay",
            Self::ReplayedSnapshot => "replayed-snapshot",
        }
    }
}

/// What a replica found out about its difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which replica this is.
    pub replica: ReplicaId,
    /// Its configuration.
    pub epoch: Epoch,
    /// What was compared.
    pub what: What,
    /// Of which Seq.
    pub seq: Seq,
    /// What this replica came to.
    pub here: Digest,
    /// What a blocking set came to, or this replica when it first executed that Seq; `None`: nobody agrees on anything yet.
    pub there: Option<Digest>,
    /// Who signed which root of that Seq, as far as this replica heard, itself included.
    pub roots: Vec<(ReplicaId, Digest)>,
    /// How often this replica had differed before, since it was last in order.
    pub repeated: u32,
    /// What differs.
    pub finding: Finding,
}

/// What differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// This Seq is the first.
    Slot(Box<SlotDiffers>),
    /// Something in `(after, through]`; why no more is known.
    Between {
        /// Up to here there was agreement, as far as was compared.
        after: Seq,
        /// Here there was none.
        through: Seq,
        /// Why it is not named.
        why: Unnamed,
    },
    /// All replies and deltas agree; the state does not, in these pieces of the snapshot.
    Pieces {
        /// Numbers of the service's chunks, ascending.
        chunks: Vec<u32>,
        /// Numbers of the pieces of the client table, ascending.
        clients: Vec<u32>,
        /// How many more differ than are listed.
        more: u32,
    },
}

/// Why the first Seq that differs is not named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unnamed {
    /// Nobody gave what could be compared.
    NoAnswer,
    /// It lies further back than anybody keeps what could be compared.
    TooOld,
    /// This replica's own steps are gone: its state came from others meanwhile.
    NotKept,
    /// What it comes to now is what the others have; what it signed before was not.
    SignedWrongly,
}

impl Unnamed {
    fn describe(self) -> &'static str {
        match self {
            Self::NoAnswer => "no peer gave, in time, what a signed root proves",
            Self::TooOld => "it lies further back than steps are kept",
            Self::NotKept => "this replica no longer has its own steps",
            Self::SignedWrongly => "it comes to what the others have now, but had signed something else",
        }
    }
}

/// The first Seq at which the execution differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotDiffers {
    /// The Seq.
    pub seq: Seq,
    /// The batch's digest, the same here and there.
    pub batch: Digest,
    /// Here.
    pub here: Came,
    /// There.
    pub there: Came,
    /// What the batch holds; `None`: the journal does not keep it any more.
    pub operations: Option<Operations>,
}

/// What executing a batch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    /// The chain over everything up to it.
    pub exec: Digest,
    /// The root over its replies.
    pub reply_root: Digest,
    /// What the service said that it changed.
    pub delta: Digest,
}

/// The operations of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Operations {
    /// The first of them, in their order.
    pub listed: Vec<OperationTold>,
    /// How many more there are.
    pub more: u64,
}

/// One operation. Its bytes are not told: they may be nobody's business, and a digest tells whether it is the one meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationTold {
    /// Whose.
    pub client: PublicKey,
    /// In which session.
    pub session: SessionId,
    /// In which Request.
    pub req_no: RequestNo,
    /// The how manieth there.
    pub index: u32,
    /// How long.
    pub bytes: u32,
    /// `H_op` of its bytes.
    pub digest: Digest,
}

/// No quorum can agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// Who tells it.
    pub replica: ReplicaId,
    /// Its configuration.
    pub epoch: Epoch,
    /// At which checkpoint.
    pub seq: Seq,
    /// Who signed which root.
    pub roots: Vec<(ReplicaId, Digest)>,
}

impl Alarm {
    /// The name of its file: one for each thing that happened, however often it is told.
    #[must_use]
    pub fn file_name(&self) -> String {
        match self {
            Self::Diverged(report) => {
                let Report { epoch, what, seq, repeated, .. } = &**report;
                format!("{}-{epoch}-{seq}-{repeated}.toml", what.name())
            }
            Self::Nondeterminism(disagreement) => {
                format!("nondeterminism-{}-{}.toml", disagreement.epoch, disagreement.seq)
            }
        }
    }

    /// The text of its file: TOML, for people and programs.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let written = match self {
            Self::Diverged(report) => report.write(&mut out),
            Self::Nondeterminism(disagreement) => disagreement.write(&mut out),
        };
        written.expect("a String takes everything");
        out
    }
}

impl Report {
    fn write(&self, out: &mut String) -> fmt::Result {
        let Self { replica, epoch, what, seq, here, there, roots, repeated, finding } = self;
        writeln!(
            out,
            "# This replica executed the same order as the others and came to something else. It has stopped"
        )?;
        writeln!(out, "# answering and voting, goes back to an agreed state and comes back when it agrees again.")?;
        writeln!(out, "# What to do: docs/operations.md, \"A replica in quarantine\".")?;
        writeln!(out, "kind = \"{}\"\nversion = \"{}\"", what.name(), env!("CARGO_PKG_VERSION"))?;
        writeln!(out, "replica = {replica}\nepoch = {epoch}\nseq = {seq}\nrepeated = {repeated}")?;
        writeln!(out, "here = \"{here}\"")?;
        if let Some(there) = there {
            writeln!(out, "there = \"{there}\"")?;
        }
        finding.write(out)?;
        write_roots(out, roots)
    }
}

impl Finding {
    /// In one line.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Slot(slot) => {
                let SlotDiffers { seq, here, there, .. } = &**slot;
                let replies = here.reply_root != there.reply_root;
                let what = match (replies, here.delta != there.delta) {
                    (true, true) => "replies and delta",
                    (true, false) => "replies",
                    (false, _) => "delta",
                };
                format!("the first Seq that differs is {seq}: its {what}")
            }
            Self::Between { after, through, why } => {
                format!("the first Seq that differs is above {after} and at most {through}: {}", why.describe())
            }
            Self::Pieces { chunks, clients, more } => {
                let (chunks, clients) = (chunks.len(), clients.len());
                format!(
                    "all replies and deltas agree, the state does not: {chunks} chunks, {clients} pieces of the client \
                     table, and {more} more"
                )
            }
        }
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "finding = \"{}\"", self.describe())?;
        match self {
            Self::Slot(slot) => slot.write(out),
            Self::Between { after, through, .. } => {
                writeln!(out, "differs_above = {after}\ndiffers_through = {through}")
            }
            Self::Pieces { chunks, clients, more } => {
                writeln!(out, "chunks = {chunks:?}\nclients = {clients:?}\nmore_pieces = {more}")
            }
        }
    }
}

impl SlotDiffers {
    fn write(&self, out: &mut String) -> fmt::Result {
        let Self { seq, batch, here, there, operations } = self;
        writeln!(out, "differs_at = {seq}\nbatch = \"{batch}\"")?;
        for (name, came) in [("here", here), ("there", there)] {
            let Came { exec, reply_root, delta } = came;
            writeln!(
                out,
                "exec_{name} = \"{exec}\"\nreply_root_{name} = \"{reply_root}\"\ndelta_{name} = \"{delta}\""
            )?;
        }
        let Some(Operations { listed, more }) = operations else {
            return writeln!(out, "operations = \"the journal does not keep this batch any more\"");
        };
        writeln!(out, "more_operations = {more}\noperations = [")?;
        for OperationTold { client, session, req_no, index, bytes, digest } in listed {
            write!(out, "  {{ client = \"{client}\", session = {session}, req_no = {req_no}, index = {index}, ")?;
            writeln!(out, "bytes = {bytes}, digest = \"{digest}\" }},")?;
        }
        writeln!(out, "]")
    }
}

impl Disagreement {
    fn write(&self, out: &mut String) -> fmt::Result {
        let Self { replica, epoch, seq, roots } = self;
        writeln!(
            out,
            "# So many replicas came to so many roots that no quorum can agree on this checkpoint: the service is"
        )?;
        writeln!(out, "# not deterministic. What to do: docs/operations.md, \"A replica in quarantine\".")?;
        writeln!(out, "kind = \"nondeterminism\"\nversion = \"{}\"", env!("CARGO_PKG_VERSION"))?;
        writeln!(out, "replica = {replica}\nepoch = {epoch}\nseq = {seq}")?;
        write_roots(out, roots)
    }
}

fn write_roots(out: &mut String, roots: &[(ReplicaId, Digest)]) -> fmt::Result {
    writeln!(out, "\n[roots]")?;
    roots.iter().try_for_each(|(replica, root)| writeln!(out, "replica_{replica} = \"{root}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(finding: Finding) -> Alarm {
        Alarm::Diverged(Box::new(Report {
            replica: ReplicaId(2),
            epoch: Epoch(3),
            what: What::Checkpoint,
            seq: Seq(128),
            here: Digest([1; 32]),
            there: Some(Digest([2; 32])),
            roots: vec![(ReplicaId(0), Digest([2; 32])), (ReplicaId(2), Digest([1; 32]))],
            repeated: 1,
            finding,
        }))
    }

    fn came(byte: u8) -> Came {
        Came { exec: Digest([byte; 32]), reply_root: Digest([9; 32]), delta: Digest([byte + 1; 32]) }
    }

    #[test]
    fn k4_a_report_is_toml_and_says_what_was_found() {
        let told = OperationTold {
            client: PublicKey([7; 32]),
            session: SessionId(5),
            req_no: RequestNo(6),
            index: 0,
            bytes: 11,
            digest: Digest([8; 32]),
        };
        let operations = Some(Operations { listed: vec![told; 2], more: 3 });
        let slot = SlotDiffers { seq: Seq(77), batch: Digest([4; 32]), here: came(5), there: came(6), operations };
        let alarm = report(Finding::Slot(Box::new(slot)));
        assert_eq!(alarm.file_name(), "checkpoint-3-128-1.toml");
        let read: toml::Table = alarm.text().parse().expect("TOML");
        assert_eq!(read["differs_at"].as_integer(), Some(77));
        assert_eq!(read["finding"].as_str(), Some("the first Seq that differs is 77: its delta"));
        assert_eq!(read["operations"].as_array().map(Vec::len), Some(2));
        assert_eq!(read["roots"]["replica_2"].as_str(), Some("01".repeat(32).as_str()));

        let why = Unnamed::TooOld;
        let read: toml::Table =
            report(Finding::Between { after: Seq(8), through: Seq(16), why }).text().parse().expect("TOML");
        assert_eq!((read["differs_above"].as_integer(), read["differs_through"].as_integer()), (Some(8), Some(16)));
        let pieces = Finding::Pieces { chunks: vec![3, 9], clients: vec![0], more: 0 };
        let read: toml::Table = report(pieces).text().parse().expect("TOML");
        assert_eq!(read["chunks"].as_array().map(Vec::len), Some(2));
        let roots = vec![(ReplicaId(0), Digest([2; 32]))];
        let none = Disagreement { replica: ReplicaId(0), epoch: Epoch(3), seq: Seq(8), roots };
        let none = Alarm::Nondeterminism(Box::new(none));
        let read: toml::Table = none.text().parse().expect("TOML");
        assert_eq!((none.file_name().as_str(), read["seq"].as_integer()), ("nondeterminism-3-8.toml", Some(8)));
    }
}
