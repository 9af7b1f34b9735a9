//! A simulated disk: files of bytes, of which some are on stable storage and some are not. What a write that was not
//! flushed leaves behind after a power loss is chance: nothing, all of it, or some of its sectors. Who writes when, and
//! how long it takes, is the host's business.

use std::collections::BTreeMap;

use bft_core::ids::{Digest, Seq};

use crate::counters::Counters;
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
        let files = self.files.iter().filter(|(_, file)| file.linked);
        let image = |file: &File| File { durable: file.durable.clone(), dirty: Vec::new(), linked: true };
        Self { files: files.map(|(name, file)| (*name, image(file))).collect() }
    }

    /// The process ends, the machine runs on: what was under way lands, in part or not at all; what landed stays.
    pub fn process_killed(&mut self, under_way: Vec<(FileName, Pending)>, rng: &mut Rng, counters: &mut Counters) {
        for (name, write) in under_way {
            for part in remains(write, rng, counters) {
                self.land(name, part);
            }
        }
    }

    /// The power goes: of everything that was not flushed, each write by itself is lost, complete or torn.
    pub fn power_lost(&mut self, under_way: Vec<(FileName, Pending)>, rng: &mut Rng, counters: &mut Counters) {
        for (name, write) in under_way {
            self.files.entry(name).or_default().dirty.push(write);
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
        2 => {
            // A front part: the disk was cut off in the middle.
            counters.writes_torn += 1;
            let sectors = write.bytes.len().div_ceil(SECTOR) as u64;
            let kept = (rng.below(sectors.max(1)) as usize * SECTOR).min(write.bytes.len());
            vec![Pending { offset: write.offset, bytes: write.bytes[..kept].to_vec() }]
        }
        _ => {
            // Any of its sectors: a disk may write them in whatever order suits it.
            counters.writes_torn += 1;
            let sectors = (0..).step_by(SECTOR).zip(write.bytes.chunks(SECTOR));
            sectors
                .filter(|_| rng.chance(500))
                .map(|(at, sector)| Pending { offset: write.offset + at, bytes: sector.to_vec() })
                .collect()
        }
    }
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
            disk.create(NAME, 8192);
            disk.land(NAME, write(0, 1, 4096));
            disk.flush(NAME);
            disk.land(NAME, write(4096, 2, 4096));
            disk.power_lost(Vec::new(), &mut Seed::root(seed).rng(), &mut Counters::default());
            let bytes = disk.read(NAME).expect("its entry was flushed");
            assert!(bytes[..4096].iter().all(|byte| *byte == 1));
            match bytes[4096..].iter().filter(|byte| **byte == 2).count() {
                0 => lost += 1,
                4096 => whole += 1,
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
