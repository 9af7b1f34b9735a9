//! A simulated disk: files of bytes, of which some are on stable storage and some are not. What a write that was not
//! flushed leaves behind after a power loss is chance: nothing, all of it, or some of its sectors. Who writes when, and
//! how long it takes, is the host's business.

use std::collections::BTreeMap;
use std::ops::Range;

use bft_core::ids::{Digest, Seq};
use bft_core::journal::BLOCK_BYTES;

use crate::counters::Counters;
use crate::points::Moment;
use crate::rng::Rng;

/// What a disk writes as a whole or not at all.
pub const SECTOR: usize = 512;

/// The files of a replica's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileName {
    /// Four copies of a block.
    Superblock,
    /// A file of the journal; which segment it holds, its block 0 says.
    Segment(u32),
    /// A chunk of the service's state in a snapshot.
    Chunk(Seq, u32),
    /// A piece of the client table in a snapshot.
    Clients(Seq, u32),
    /// A snapshot's manifest.
    Manifest(Seq),
    /// A piece of a snapshot that is being transferred, under its digest.
    Incoming(Digest),
}

impl FileName {
    /// The snapshot that the file belongs to.
    #[must_use]
    pub fn snapshot(self) -> Option<Seq> {
        match self {
            Self::Superblock | Self::Segment(_) | Self::Incoming(_) => None,
            Self::Chunk(seq, _) | Self::Clients(seq, _) | Self::Manifest(seq) => Some(seq),
        }
    }
}

/// Bytes on their way to a file.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Where from.
    pub offset: usize,
    /// What.
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct File {
    /// On stable storage.
    durable: Vec<u8>,
    /// Landed in the cache, in this order, and not flushed.
    dirty: Vec<Pending>,
    /// Whether the directory entry is on stable storage.
    linked: bool,
}

impl File {
    fn len(&self) -> usize {
        let dirty = self.dirty.iter().map(|write| write.offset + write.bytes.len()).max().unwrap_or(0);
        self.durable.len().max(dirty)
    }
}

fn apply(to: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[offset..end].copy_from_slice(bytes);
}

/// The disk of one replica.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: BTreeMap<FileName, File>,
    /// Folders of snapshots that are not on stable storage under their own name.
    unnamed: BTreeMap<Seq, Folder>,
}

/// How far the folder of a snapshot has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Folder {
    /// It is being filled; a start removes it.
    Unfinished,
    /// It has its name, which may be lost.
    Named,
}

impl Disk {
    /// Makes `name` a file of `len` zeros; its directory entry is not durable before the file is flushed.
    pub fn create(&mut self, name: FileName, len: usize) {
        self.files.insert(name, File { durable: vec![0; len], dirty: Vec::new(), linked: false });
    }

    /// Whether there is such a file.
    #[must_use]
    pub fn exists(&self, name: FileName) -> bool {
        self.files.contains_key(&name)
    }

    /// Its names, ascending.
    pub fn names(&self) -> impl Iterator<Item = FileName> {
        self.files.keys().copied()
    }

    /// The length of a file.
    #[must_use]
    pub fn len(&self, name: FileName) -> usize {
        self.files.get(&name).map_or(0, File::len)
    }

    /// A write reached the cache: reads see it, a power loss may not leave it.
    pub fn land(&mut self, name: FileName, write: Pending) {
        self.files.entry(name).or_default().dirty.push(write);
    }

    /// Everything that landed in the file is on stable storage, its directory entry too.
    pub fn flush(&mut self, name: FileName) {
        let file = self.files.entry(name).or_default();
        for write in file.dirty.drain(..) {
            apply(&mut file.durable, write.offset, &write.bytes);
        }
        file.linked = true;
    }

    /// Everything that landed in the file is on stable storage; its directory entry is not yet.
    pub fn flush_bytes(&mut self, name: FileName) {
        let is_linked = self.files.get(&name).is_some_and(|file| file.linked);
        self.flush(name);
        self.files.entry(name).or_default().linked = is_linked;
    }

    /// The folder of a snapshot is going to be filled: what an earlier life left under its name goes.
    pub fn begin_folder(&mut self, seq: Seq) {
        self.remove_snapshot(seq);
        self.unnamed.insert(seq, Folder::Unfinished);
    }

    /// The folder of a snapshot is flushed: the entries of its files are on stable storage.
    pub fn flush_folder(&mut self, seq: Seq) {
        self.snapshot_files(seq).into_iter().for_each(|name| self.flush(name));
    }

    /// The folder of a snapshot gets its name.
    pub fn name_folder(&mut self, seq: Seq) {
        self.unnamed.insert(seq, Folder::Named);
    }

    /// The names of all snapshots are on stable storage, but of those that have none.
    pub fn flush_names(&mut self) {
        self.unnamed.retain(|_, folder| *folder == Folder::Unfinished);
    }

    /// The names of snapshots that are not on stable storage are lost, and the snapshots with them.
    pub fn forget_names(&mut self) {
        for seq in std::mem::take(&mut self.unnamed).into_keys() {
            self.remove_snapshot(seq);
        }
    }

    /// Removes a snapshot.
    pub fn remove_snapshot(&mut self, seq: Seq) {
        self.snapshot_files(seq).into_iter().for_each(|name| self.remove(name));
        self.unnamed.remove(&seq);
    }

    /// The files of a snapshot.
    #[must_use]
    pub fn snapshot_files(&self, seq: Seq) -> Vec<FileName> {
        self.names().filter(|name| name.snapshot() == Some(seq)).collect()
    }

    /// What a start does with folders that a former life did not finish.
    fn remove_unfinished(&mut self) {
        let unfinished = self.unnamed.extract_if(.., |_, folder| *folder == Folder::Unfinished);
        for (seq, _) in unfinished.collect::<Vec<_>>() {
            self.remove_snapshot(seq);
        }
    }

    /// Flushes every file, as a start does with what it has read.
    pub fn flush_all(&mut self) {
        let names: Vec<_> = self.names().collect();
        names.into_iter().for_each(|name| self.flush(name));
    }

    /// Removes a file.
    pub fn remove(&mut self, name: FileName) {
        self.files.remove(&name);
    }

    /// The bytes of a file that are on stable storage, if its directory entry is.
    #[must_use]
    pub fn read_durable(&self, name: FileName) -> Option<&[u8]> {
        self.files.get(&name).filter(|file| file.linked).map(|file| file.durable.as_slice())
    }

    /// The bytes of a file as a reader sees them.
    #[must_use]
    pub fn read(&self, name: FileName) -> Option<Vec<u8>> {
        let file = self.files.get(&name)?;
        let mut bytes = file.durable.clone();
        file.dirty.iter().for_each(|write| apply(&mut bytes, write.offset, &write.bytes));
        Some(bytes)
    }

    /// The bytes of a file from `offset` on, as a reader sees them. False if it ends before.
    #[must_use]
    pub fn read_at(&self, name: FileName, offset: usize, out: &mut [u8]) -> bool {
        let Some(file) = self.files.get(&name) else { return false };
        if file.len() < offset + out.len() {
            return false;
        }
        let kept = file.durable.get(offset..).unwrap_or_default();
        let kept = &kept[..kept.len().min(out.len())];
        out[..kept.len()].copy_from_slice(kept);
        out[kept.len()..].fill(0);
        for write in &file.dirty {
            overlay(write, offset, out);
        }
        true
    }

    /// What the disk would hold if everything that was not flushed were lost.
    #[must_use]
    pub fn durable_image(&self) -> Self {
        let is_named = |name: &FileName| name.snapshot().is_none_or(|seq| !self.unnamed.contains_key(&seq));
        let files = self.files.iter().filter(|(name, file)| file.linked && is_named(name));
        let image = |file: &File| File { durable: file.durable.clone(), dirty: Vec::new(), linked: true };
        Self { files: files.map(|(name, file)| (*name, image(file))).collect(), unnamed: BTreeMap::new() }
    }

    /// The process ends, the machine runs on: what was under way lands, in part or not at all; what landed stays.
    pub fn process_killed(&mut self, under_way: Vec<(FileName, Pending)>, rng: &mut Rng, counters: &mut Counters) {
        for (name, write) in under_way {
            for part in remains(write, rng, counters) {
                self.land(name, part);
            }
        }
        self.remove_unfinished();
    }

    /// The power is about to go in the middle of a write: this is what is left of it on stable storage, whatever becomes
    /// of the rest.
    pub fn strike(&mut self, name: FileName, write: Pending, moment: Moment, rng: &mut Rng) {
        let parts = match moment {
            Moment::Complete => vec![write],
            Moment::Torn => tear(write, rng),
            Moment::Before | Moment::Lost | Moment::Cached | Moment::Failed | Moment::Unheard | Moment::After => {
                Vec::new()
            }
        };
        let file = self.files.entry(name).or_default();
        for part in parts {
            apply(&mut file.durable, part.offset, &part.bytes);
        }
        file.linked |= moment == Moment::Complete;
    }

    /// The power goes: of everything that was not flushed, each write by itself is lost, complete or torn.
    pub fn power_lost(&mut self, under_way: Vec<(FileName, Pending)>, rng: &mut Rng, counters: &mut Counters) {
        for (name, write) in under_way {
            self.files.entry(name).or_default().dirty.push(write);
        }
        self.remove_unfinished();
        for (seq, _) in std::mem::take(&mut self.unnamed) {
            if rng.chance(500) {
                self.remove_snapshot(seq);
            }
        }
        self.files.retain(|_, file| file.linked || rng.chance(500));
        for file in self.files.values_mut() {
            for write in std::mem::take(&mut file.dirty) {
                for part in remains(write, rng, counters) {
                    apply(&mut file.durable, part.offset, &part.bytes);
                }
            }
            file.linked = true;
        }
    }

    /// A flush fails: what it was for is clean in the cache and lost, but for what reached the disk before.
    pub fn flush_failed(&mut self, name: FileName, rng: &mut Rng, counters: &mut Counters) {
        let file = self.files.entry(name).or_default();
        for write in std::mem::take(&mut file.dirty) {
            for part in remains(write, rng, counters) {
                apply(&mut file.durable, part.offset, &part.bytes);
            }
        }
    }

    /// Bytes of one place lie where others belong, and their own place was never written.
    pub fn misdirect(&mut self, (from, to): (FileName, FileName), (range, at): (Range<usize>, usize)) {
        let source = self.files.get_mut(&from).expect("went astray where there is a file");
        let bytes = source.durable[range.clone()].to_vec();
        source.durable[range].fill(0);
        let file = self.files.get_mut(&to).expect("went astray to where there is a file");
        let end = (at + bytes.len()).min(file.durable.len());
        file.durable[at..end].copy_from_slice(&bytes[..end - at]);
    }

    /// Flips one bit of what is on stable storage.
    pub fn rot(&mut self, name: FileName, byte: usize, bit: u8) {
        let file = self.files.get_mut(&name).expect("rots where there is a file");
        file.durable[byte] ^= 1 << (bit % 8);
    }
}

fn overlay(write: &Pending, offset: usize, out: &mut [u8]) {
    let start = write.offset.max(offset);
    let end = (write.offset + write.bytes.len()).min(offset + out.len());
    if start < end {
        out[start - offset..end - offset].copy_from_slice(&write.bytes[start - write.offset..end - write.offset]);
    }
}

/// What is left of a write that was not flushed.
fn remains(write: Pending, rng: &mut Rng, counters: &mut Counters) -> Vec<Pending> {
    match rng.below(4) {
        0 => {
            counters.writes_lost += 1;
            Vec::new()
        }
        1 => vec![write],
        _ => {
            counters.writes_torn += 1;
            tear(write, rng)
        }
    }
}

/// Some of a write, in units of a sector or of a block.
fn tear(write: Pending, rng: &mut Rng) -> Vec<Pending> {
    let unit = rng.pick(&[SECTOR, BLOCK_BYTES]);
    let units = (0..).step_by(unit).zip(write.bytes.chunks(unit));
    if rng.chance(500) {
        // A front part: the disk was cut off in the middle.
        let kept = rng.below(write.bytes.len().div_ceil(unit).max(1) as u64) as usize * unit;
        return vec![Pending { offset: write.offset, bytes: write.bytes[..kept].to_vec() }];
    }
    // Any of its units: a disk may write them in whatever order suits it.
    units
        .filter(|_| rng.chance(500))
        .map(|(at, bytes)| Pending { offset: write.offset + at, bytes: bytes.to_vec() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

    const NAME: FileName = FileName::Segment(0);

    fn write(offset: usize, byte: u8, len: usize) -> Pending {
        Pending { offset, bytes: vec![byte; len] }
    }

    #[test]
    fn what_is_flushed_stays_and_what_is_not_comes_in_every_shape() {
        let (mut lost, mut whole, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let mut disk = Disk::default();
            disk.create(NAME, 12288);
            disk.land(NAME, write(0, 1, 4096));
            disk.flush(NAME);
            disk.land(NAME, write(4096, 2, 8192));
            disk.power_lost(Vec::new(), &mut Seed::root(seed).rng(), &mut Counters::default());
            let bytes = disk.read(NAME).expect("its entry was flushed");
            assert!(bytes[..4096].iter().all(|byte| *byte == 1));
            match bytes[4096..].iter().filter(|byte| **byte == 2).count() {
                0 => lost += 1,
                8192 => whole += 1,
                part => {
                    assert!(part % SECTOR == 0);
                    torn += 1;
                }
            }
        }
        assert!(lost > 20 && whole > 20 && torn > 40, "{lost} {whole} {torn}");
    }

    #[test]
    fn d22_bytes_of_a_killed_process_are_read_and_may_still_be_lost() {
        let mut disk = Disk::default();
        disk.create(NAME, 4096);
        disk.flush(NAME);
        disk.land(NAME, write(0, 3, 4096));
        disk.process_killed(Vec::new(), &mut Seed::root(1).rng(), &mut Counters::default());
        let mut out = [0; 16];
        assert!(disk.read_at(NAME, 100, &mut out) && out == [3; 16]);
        assert_eq!(disk.durable_image().read(NAME), Some(vec![0; 4096]));
        assert!(!disk.read_at(NAME, 4090, &mut out), "past the end");
    }

    #[test]
    fn d2_what_a_failed_flush_was_for_is_neither_read_nor_kept() {
        let gone = (0..100).filter(|seed| {
            let mut disk = Disk::default();
            disk.create(NAME, 4096);
            disk.flush(NAME);
            disk.land(NAME, write(0, 7, 4096));
            disk.flush_failed(NAME, &mut Seed::root(*seed).rng(), &mut Counters::default());
            assert_eq!(disk.read(NAME), disk.durable_image().read(NAME), "nothing waits in the cache any more");
            disk.read(NAME) == Some(vec![0; 4096])
        });
        assert!((15..60).contains(&gone.count()));
    }

    #[test]
    fn d5_a_write_that_goes_astray_is_missing_in_one_place_and_spoils_another() {
        let mut disk = Disk::default();
        disk.create(NAME, 8192);
        disk.land(NAME, write(0, 1, 4096));
        disk.land(NAME, write(4096, 2, 4096));
        disk.flush(NAME);
        disk.misdirect((NAME, NAME), (4096..8192, 0));
        assert_eq!(disk.read(NAME), Some([[2; 4096], [0; 4096]].concat()));
    }

    #[test]
    fn d9_a_file_whose_entry_was_not_flushed_may_be_gone() {
        let gone = (0..100).filter(|seed| {
            let mut disk = Disk::default();
            disk.create(NAME, 4096);
            disk.power_lost(Vec::new(), &mut Seed::root(*seed).rng(), &mut Counters::default());
            !disk.exists(NAME)
        });
        assert!((20..80).contains(&gone.count()));
    }
}
