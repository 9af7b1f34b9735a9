//! A replica that differs from the others, as people find it: lines in the log that say what to do, and a file for each report,
//! written on the snapshot thread. A file that can not be written stops nothing.
//!
//! ```text
//! divergence/<what>-<epoch>-<seq>-<times before>.toml
//! divergence/nondeterminism-<epoch>-<seq>.toml
//! ```
//!
//! Kept here: a file with such a name is whole; there are no more than [`FILES_MAX`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bft_core::divergence::{Alarm, Report};
use bft_core::replica::{InQuarantine, QuarantinePhase};

use crate::data_dir::write_whole;

/// Reports that are kept: the first ones, which tell most. What comes after them is in the log only.
const FILES_MAX: usize = 256;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct DivergenceFolder(PathBuf);

impl DivergenceFolder {
    /// The folder at `root`, which is made with the first file in it.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self(root)
    }

    /// Writes a report, unless it is there. Where that fails the log says so, and says what the report does.
    pub fn keep(&self, alarm: &Alarm) {
        let path = self.0.join(alarm.file_name());
        match self.write(&path, alarm) {
            Ok(true) => tracing::error!(path = %path.display(), "a report of the divergence is kept there"),
            Ok(false) => {}
            Err(error) => {
                let report = alarm.text();
                tracing::error!(path = %path.display(), %error, report, "the report can not be written there; here it is");
            }
        }
    }

    /// Says whether it was written now.
    fn write(&self, path: &Path, alarm: &Alarm) -> io::Result<bool> {
        if path.exists() {
            return Ok(false);
        }
        let kept = if self.0.exists() { fs::read_dir(&self.0)?.count() } else { 0 };
        if kept >= FILES_MAX {
            return Err(io::Error::other(format!("{kept} reports are there already: read them, and remove them")));
        }
        write_whole(path, alarm.text().as_bytes()).map(|()| true)
    }
}

/// Says in the log what an alarm is about.
pub fn tell(alarm: &Alarm) {
    match alarm {
        Alarm::Diverged(report) => {
            let Report { what, seq, here, there, finding, repeated, .. } = &**report;
            let there = there.map(|there| there.to_string());
            tracing::error!(
                what = what.name(), seq = seq.0, %here, there, repeated, finding = finding.describe(),
                "this replica came to something else than the others. If others of them do so too, the service is not \
                 deterministic; if only this one ever does, suspect its memory and disk"
            );
        }
        Alarm::Nondeterminism(disagreement) => {
            let (seq, roots) = (disagreement.seq.0, &disagreement.roots);
            tracing::error!(
                seq,
                ?roots,
                "no quorum can agree on this checkpoint: the service is not deterministic. The order goes on until the window \
                 is full; stop all replicas, mend the service and restore a backup of the last agreed snapshot"
            );
        }
    }
}

/// Watches a replica's quarantine and says in the log what becomes of it.
#[derive(Debug, Default)]
pub struct QuarantineWatch(Option<InQuarantine>);

impl QuarantineWatch {
    /// Where it is now.
    pub fn look(&mut self, now: Option<InQuarantine>) {
        if self.0 == now {
            return;
        }
        self.0 = now;
        let Some(InQuarantine { phase, through, repeated }) = now else {
            return tracing::info!("this replica agrees with the others again: it answers and votes");
        };
        let through = through.0;
        match phase {
            QuarantinePhase::Stopped => tracing::error!(
                through,
                repeated,
                "this replica is in quarantine: it neither answers nor votes, and goes back to an agreed snapshot. It goes on by \
                 itself, later each time it differs again; where no snapshot is agreed on yet, start it again"
            ),
            QuarantinePhase::Executing => tracing::warn!(
                through,
                repeated,
                "this replica is in quarantine: it executes from an agreed state on, and votes again when it agrees at a later \
                 checkpoint than this"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use bft_core::divergence::Disagreement;
    use bft_core::ids::{Digest, Epoch, ReplicaId, Seq};

    use super::*;

    fn alarm(seq: u64) -> Alarm {
        let roots = vec![(ReplicaId(0), Digest([1; 32])), (ReplicaId(1), Digest([2; 32]))];
        Alarm::Nondeterminism(Box::new(Disagreement { replica: ReplicaId(0), epoch: Epoch(0), seq: Seq(seq), roots }))
    }

    #[test]
    fn k4_a_report_is_written_once_and_whole_and_there_are_not_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("divergence");
        let folder = DivergenceFolder::new(root.clone());
        folder.keep(&alarm(8));
        let path = root.join("nondeterminism-0-8.toml");
        assert_eq!(fs::read_to_string(&path).unwrap(), alarm(8).text());
        fs::write(&path, "read by somebody").unwrap();
        folder.keep(&alarm(8));
        assert_eq!(fs::read_to_string(&path).unwrap(), "read by somebody", "it is not written again");
        for seq in 0..FILES_MAX as u64 + 8 {
            folder.keep(&alarm(100 + seq));
        }
        assert_eq!(fs::read_dir(&root).unwrap().count(), FILES_MAX);
    }

    #[test]
    fn k4_where_a_report_can_not_be_written_the_replica_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let occupied = dir.path().join("divergence");
        fs::write(&occupied, b"a file").unwrap();
        DivergenceFolder::new(occupied.clone()).keep(&alarm(8));
        assert_eq!(fs::read(&occupied).unwrap(), b"a file");
    }
}
