//! How a process comes up from its disk: superblock and its repair, flush of everything, instance, scan, snapshot, core.
//! The same steps in the same order as in production; what a start writes may be cut short by the next power loss.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bft_core::config::ClusterConfig;
use bft_core::door::{Effects, Now};
use bft_core::ids::{Digest, LogPosition, ReplicaId, Seq};
use bft_core::journal::group::{GROUP_HEADER_BYTES, GroupHeader, Seal};
use bft_core::journal::segment::{Owner, SegmentHeader};
use bft_core::journal::superblock::Directory;
use bft_core::journal::{
    BLOCK_BYTES, Blocks, Damage, Record, Repair, ScanError, SegmentFile, Superblock, Tail, read_superblock, scan,
};
use bft_core::replica::{RecoverError, Replica, own_up};

use crate::cluster::Cluster;
use crate::counters::Counters;
use crate::disk::{Disk, FileName, Pending};
use crate::images;
use crate::options::Options;
use crate::points::{Moment, Operation, Plug};
use crate::rng::{Rng, Seed};

/// Why a disk cannot be read as it is.
#[derive(Debug)]
pub enum BootError {
    /// The scan says that what was durable is gone.
    Damage(Box<Damage>),
    /// Anything else: never the fault of a disk that kept its promises.
    Broken(String),
    /// The plug was pulled.
    Pulled,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damage(damage) => damage.fmt(f),
            Self::Broken(why) => f.write_str(why),
            Self::Pulled => f.write_str("the plug was pulled"),
        }
    }
}

/// What a start found and made.
pub struct Booted {
    /// The superblock, with the instance raised.
    pub superblock: Superblock,
    /// The journal's records.
    pub records: Vec<(LogPosition, Record)>,
    /// Where the journal goes on.
    pub tail: Tail,
    /// The snapshot that the superblock names, or what is wrong with it.
    pub snapshot: Option<Result<images::Read, String>>,
    /// What the scan found damaged: the superblock owns up to it.
    pub damage: Option<String>,
}

struct DiskBlocks<'a>(&'a Disk);

impl Blocks for DiskBlocks<'_> {
    fn segments(&mut self) -> io::Result<Vec<SegmentFile>> {
        let file = |name| match name {
            FileName::Segment(file) => Some(SegmentFile { file, bytes: self.0.len(name) as u32 }),
            FileName::Superblock
            | FileName::Chunk(..)
            | FileName::Clients(..)
            | FileName::Manifest(_)
            | FileName::Incoming(_) => None,
        };
        Ok(self.0.names().filter_map(file).collect())
    }

    fn read(&mut self, file: u32, offset: u32, out: &mut [u8]) -> io::Result<()> {
        let found = self.0.read_at(FileName::Segment(file), offset as usize, out);
        if found { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
    }
}

/// Makes the directory of a replica that never ran. It takes its name only when it is flushed.
pub fn format(disk: &mut Disk, cluster: &Cluster, me: ReplicaId, seed: Seed) {
    let mut rng = seed.child("directory").rng();
    let directory = Directory {
        cluster_id: cluster.config.cluster_id(),
        replica: me,
        public_key: cluster.replicas[me.index()].public_key(),
        epoch: cluster.config.epoch(),
        directory_id: *rng.bytes().first_chunk().expect("32 bytes have a front of 16"),
        directory_key: rng.bytes(),
    };
    let file = Superblock::first(&directory).encode_file();
    disk.create(FileName::Superblock, 0);
    disk.land(FileName::Superblock, Pending { offset: 0, bytes: file.to_vec() });
    disk.flush(FileName::Superblock);
}

/// Reads the superblock.
pub fn superblock_of(disk: &Disk) -> Result<(Superblock, Repair), String> {
    let file = disk.read(FileName::Superblock).ok_or("there is no superblock")?;
    read_superblock(&file).map_err(|damage| damage.to_string())
}

/// The snapshot that the superblock on stable storage names.
#[must_use]
pub fn durable_snapshot(disk: &Disk) -> Option<(Seq, Digest)> {
    let (superblock, _) = read_superblock(disk.read_durable(FileName::Superblock)?).ok()?;
    superblock.snapshot
}

/// Reads everything that a start needs, and writes what it must.
pub fn boot(disk: &mut Disk, config: &ClusterConfig, power: &mut Power<'_>) -> Result<Booted, BootError> {
    let (mut superblock, repair) = superblock_of(disk).map_err(BootError::Broken)?;
    for copy in &repair.copies {
        power.write(disk, Operation::Repair, *copy as usize * BLOCK_BYTES, &repair.block)?;
    }
    power.flush_all(disk)?;
    superblock.instance += 1;
    superblock.sequence += 1;
    write_superblock(disk, &superblock, power)?;
    let (records, tail, damage) = match records_of(disk, &superblock) {
        Ok((records, tail)) => (records, tail, None),
        Err(BootError::Damage(damage)) => {
            own_up(&mut superblock, &damage, config);
            write_superblock(disk, &superblock, power)?;
            let text = damage.to_string();
            (Vec::new(), *damage.fresh, Some(text))
        }
        Err(why @ (BootError::Broken(_) | BootError::Pulled)) => return Err(why),
    };
    let snapshot = superblock.snapshot.map(|(seq, root)| images::read(disk, seq, root));
    Ok(Booted { superblock, records, tail, snapshot, damage })
}

/// Two copies, a flush, the other two, a flush (D9).
fn write_superblock(disk: &mut Disk, superblock: &Superblock, power: &mut Power<'_>) -> Result<(), BootError> {
    let file = superblock.encode_file();
    let (front, back) = file.split_at(file.len() / 2);
    power.write(disk, Operation::FirstInstance, 0, front)?;
    power.write(disk, Operation::LastInstance, front.len(), back)
}

/// The power during a start: it may go at the points of a plug.
pub struct Power<'a> {
    /// The machine's plug.
    pub plug: &'a mut Plug,
    /// What a torn write leaves.
    pub rng: &'a mut Rng,
    /// When the process is started.
    pub now: u64,
}

impl Power<'_> {
    /// Writes over a part of the superblock and flushes it.
    fn write(&mut self, disk: &mut Disk, operation: Operation, offset: usize, bytes: &[u8]) -> Result<(), BootError> {
        let number = self.plug.begin(operation, self.now).ok_or(BootError::Pulled)?;
        let write = Pending { offset, bytes: bytes.to_vec() };
        if let Some(moment) = self.plug.submit(number) {
            disk.strike(FileName::Superblock, write, moment, self.rng);
            return Err(BootError::Pulled);
        }
        disk.land(FileName::Superblock, write);
        if self.plug.reaches(number, Moment::Cached) {
            return Err(BootError::Pulled);
        }
        disk.flush(FileName::Superblock);
        Ok(())
    }

    fn flush_all(&mut self, disk: &mut Disk) -> Result<(), BootError> {
        let number = self.plug.begin(Operation::FlushAll, self.now).ok_or(BootError::Pulled)?;
        disk.flush_all();
        if self.plug.submit(number).is_some() { Err(BootError::Pulled) } else { Ok(()) }
    }
}

/// Makes all copies of the superblock equal before anything else is written.
fn rewrite_copies(disk: &mut Disk, repair: &Repair) {
    for copy in &repair.copies {
        let offset = *copy as usize * BLOCK_BYTES;
        disk.land(FileName::Superblock, Pending { offset, bytes: repair.block.to_vec() });
        disk.flush(FileName::Superblock);
    }
}

/// A start that does not get far: the power goes while it writes. The next one must find its way all the same.
pub fn cut_short(disk: &mut Disk, rng: &mut Rng, counters: &mut Counters) {
    if rng.chance(500) {
        disk.flush_all();
        if let Ok((mut superblock, repair)) = superblock_of(disk) {
            rewrite_copies(disk, &repair);
            superblock.instance += 1;
            superblock.sequence += 1;
            let file = superblock.encode_file();
            let (front, back) = file.split_at(file.len() / 2);
            disk.land(FileName::Superblock, Pending { offset: 0, bytes: front.to_vec() });
            if rng.chance(500) {
                disk.flush(FileName::Superblock);
                disk.land(FileName::Superblock, Pending { offset: front.len(), bytes: back.to_vec() });
            }
        }
    }
    disk.power_lost(Vec::new(), rng, counters);
}

/// The records that a disk holds.
pub fn records_of(disk: &Disk, superblock: &Superblock) -> Result<(Vec<(LogPosition, Record)>, Tail), BootError> {
    let mut records = Vec::new();
    let tail = scan::<std::convert::Infallible>(superblock, &mut DiskBlocks(disk), &mut |at, record| {
        records.push((at, record));
        Ok(())
    });
    match tail {
        Ok(tail) => Ok((records, tail)),
        Err(ScanError::Damage(damage)) => Err(BootError::Damage(Box::new(damage))),
        Err(other) => Err(BootError::Broken(other.to_string())),
    }
}

/// Where the groups lie that the superblock says are durable, and whose records are still needed: a flipped bit in one of
/// these must be found. In the groups behind them it may look like a torn tail. Nobody reads what a former life left behind
/// the end that it came to: where its positions were given again, in the next segment.
#[must_use]
pub fn provable(disk: &Disk) -> Vec<(FileName, Range<usize>)> {
    let Ok((superblock, _)) = superblock_of(disk) else { return Vec::new() };
    let (owner, seal) = (Owner::of(&superblock), Seal::new(superblock.directory_key));
    let needed = superblock.journal_start..=superblock.durable_through;
    let files = disk.names().filter(|name| matches!(name, FileName::Segment(_)));
    let segments: Vec<_> = files
        .filter_map(|name| {
            let bytes = disk.read(name).expect("just listed");
            let header = SegmentHeader::decode(&owner, &seal, bytes.get(..BLOCK_BYTES)?)?;
            Some((name, bytes, header))
        })
        .collect();
    let mut provable = Vec::new();
    for (name, bytes, segment) in &segments {
        let next = segments.iter().find(|(_, _, header)| header.number == segment.number + 1);
        let is_read = |last| needed.contains(&last) && next.is_none_or(|(_, _, header)| last < header.first_position);
        for (offset, block) in (0..).step_by(BLOCK_BYTES).zip(bytes.chunks(BLOCK_BYTES)) {
            let group = GroupHeader::parse(&seal, block).filter(|group| group.segment == segment.number);
            if let Some(group) = group.filter(|group| group.records > 0 && is_read(group.last_position())) {
                provable.push((*name, offset..offset + GROUP_HEADER_BYTES + group.bytes as usize));
            }
        }
    }
    provable
}

/// The core of what was read.
pub fn recover(
    booted: &Booted,
    cluster: &Cluster,
    options: &Options,
    me: ReplicaId,
    now: Now,
    out: &mut Effects,
) -> Result<Replica, RecoverError> {
    let scheme = Arc::clone(&cluster.replicas[me.index()]);
    let (config, tuning) = (Arc::clone(&cluster.config), options.tuning.clone());
    let mut recovery = Replica::recover(config, me, scheme, tuning, booted.superblock.clone());
    match &booted.snapshot {
        Some(Ok(snapshot)) => recovery.snapshot(&snapshot.manifest, snapshot.clients.clone()),
        Some(Err(_)) => recovery.snapshot_lost(),
        None => {}
    }
    for (at, record) in &booted.records {
        recovery.record(*at, record.clone())?;
    }
    Ok(recovery.finish(now, booted.tail.last(), Seq(0), out))
}
