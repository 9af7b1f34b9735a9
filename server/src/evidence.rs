//! Evidence, as people find it: a line in the log, and a file that `bftd audit` reads on any machine. The journal holds it
//! too; these are copies, written on the snapshot thread, and a copy that can not be written stops nothing.
//!
//! ```text
//! evidence/<kind>-<replica>-<epoch>-<view>-<seq>.evidence
//! ```
//!
//! Kept here: a file with that name is whole; there are no more than the core keeps pieces.

use std::io;
use std::path::PathBuf;

use bft_core::evidence::file::write_file;
use bft_core::evidence::{Accusation, Accused};
use bft_core::ids::Nanos;

use crate::data_dir::write_whole;
use crate::pace::OnceASecond;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct EvidenceFolder(PathBuf);

impl EvidenceFolder {
    /// The folder at `root`, which is made with the first file in it.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self(root)
    }

    /// The file of what is told of `accused`.
    #[must_use]
    pub fn path(&self, accused: &Accused) -> PathBuf {
        let Accused { replica, kind, epoch, view, seq } = accused;
        self.0.join(format!("{}-{replica}-{epoch}-{view}-{seq}.evidence", kind.name()))
    }

    /// Writes a piece, unless it is there. Where that fails the log says so.
    pub fn keep(&self, accusation: &Accusation) {
        let path = self.path(&accusation.accused);
        match self.write(accusation) {
            Ok(()) => tracing::info!(path = %path.display(), "evidence is kept: bftd audit checks it"),
            Err(error) => tracing::error!(
                path = %path.display(),
                %error,
                "evidence can not be written there; it is in the journal, and is written at the next start"
            ),
        }
    }

    fn write(&self, accusation: &Accusation) -> io::Result<()> {
        let path = self.path(&accusation.accused);
        if path.exists() { Ok(()) } else { write_whole(&path, &write_file(&accusation.evidence)) }
    }
}

/// Says of whom there is evidence, once a second at most.
#[derive(Debug, Default)]
pub struct Telling(OnceASecond);

impl Telling {
    /// One more piece.
    pub fn tell(&mut self, now: Nanos, accused: &Accused) {
        let Some(unsaid) = self.0.is_due(now) else { return };
        let Accused { replica, kind, view, seq, .. } = accused;
        let (replica, view, seq) = (replica.0, view.0, seq.0);
        tracing::error!(replica, kind = kind.name(), view, seq, unsaid, "evidence: {}", kind.describe());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use bft_core::evidence::file::read_file;
    use bft_core::evidence::{Evidence, EvidenceKind, Proof, SignedVote};
    use bft_core::ids::{ClusterId, Digest, Epoch, ReplicaId, Seq, Signature, View};
    use bft_core::limits::SECOND;
    use bft_core::wire::message::Ballot;

    use super::*;

    fn accusation(seq: u64) -> Accusation {
        let ballot = Ballot { commitment: Digest([3; 32]), signature: Signature([4; 64]) };
        let vote = |digest| SignedVote { digest: Digest([digest; 32]), ballot };
        let proof = Proof::two_prepares(ReplicaId(2), View(1), Seq(seq), vote(1), vote(2));
        let evidence = Evidence { cluster: ClusterId([1; 32]), epoch: Epoch(0), proof };
        let (replica, kind) = (ReplicaId(2), EvidenceKind::TwoPrepares);
        let accused = Accused { replica, kind, epoch: Epoch(0), view: View(1), seq: Seq(seq) };
        Accusation { accused, evidence: Arc::new(evidence) }
    }

    #[test]
    fn a2_evidence_is_written_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let folder = EvidenceFolder::new(dir.path().join("evidence"));
        let piece = accusation(7);
        folder.keep(&piece);
        let path = dir.path().join("evidence/E2-2-0-1-7.evidence");
        assert_eq!(read_file(&fs::read(&path).unwrap()), Ok(vec![Evidence::clone(&piece.evidence)]));
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        folder.keep(&piece);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written);
        // What a crash left half written is in nobody's way.
        fs::write(dir.path().join("evidence/E2-2-0-1-8.part"), b"half").unwrap();
        folder.keep(&accusation(8));
        let names: Vec<_> =
            fs::read_dir(dir.path().join("evidence")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(names.len() == 2 && names.iter().all(|name| name.to_str().unwrap().ends_with(".evidence")));
    }

    #[test]
    fn a2_where_evidence_can_not_be_written_the_replica_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let occupied = dir.path().join("evidence");
        fs::write(&occupied, b"a file").unwrap();
        EvidenceFolder::new(occupied.clone()).keep(&accusation(7));
        assert_eq!(fs::read(&occupied).unwrap(), b"a file");
    }

    #[test]
    fn evidence_is_told_once_a_second_at_most() {
        let mut telling = Telling::default();
        for now in 0..10 {
            telling.tell(Nanos(SECOND + now), &accusation(now).accused);
        }
        assert_eq!(telling.0.is_due(Nanos(2 * SECOND - 1)), None);
        assert_eq!(telling.0.is_due(Nanos(2 * SECOND)), Some(10), "one was told, and ten were not");
    }
}
