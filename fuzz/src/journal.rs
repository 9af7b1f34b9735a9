//! What lies on the disk: journal, superblock, records. Not the doing of an enemy, but of a disk, of a crash, or of
//! somebody who copies files: whatever it is, it is told from what was written, and never read as something else.

use std::collections::BTreeMap;
use std::io;
use std::sync::LazyLock;

use bft_core::door::{Persist, Place};
use bft_core::ids::{LogPosition, Seq};
use bft_core::journal::block::BlockBuf;
use bft_core::journal::group::Seal;
use bft_core::journal::record::{Committed, Vote};
use bft_core::journal::superblock::Directory;
use bft_core::journal::{
    BLOCK_BYTES, Blocks, Journal, JournalOptions, Record, SUPERBLOCK_FILE_BYTES, ScanError, SegmentFile, Superblock,
    Tail, Target, read_record, read_superblock, scan as scan_journal,
};
use bft_core::wire::message::{CommitCertificate, CommittedSlot, Message, PrePrepare, PreparedCertificate};
use bytes::Bytes;

use crate::cast::Cast;
use crate::feed::Feed;

const OPTIONS: JournalOptions =
    JournalOptions { segment_bytes: 24 << 10, group_bytes_max: 6 << 10, flushes_in_flight: 2 };

/// Where a group's check lies.
const CHECK: std::ops::Range<usize> = 48..64;

#[derive(Clone)]
struct Disk {
    files: BTreeMap<u32, Vec<u8>>,
    superblock: Vec<u8>,
}

impl Blocks for Disk {
    fn segments(&mut self) -> io::Result<Vec<SegmentFile>> {
        Ok(self.files.iter().map(|(file, bytes)| SegmentFile { file: *file, bytes: bytes.len() as u32 }).collect())
    }

    fn read(&mut self, file: u32, offset: u32, out: &mut [u8]) -> io::Result<()> {
        let bytes = &self.files[&file][offset as usize..];
        out.copy_from_slice(&bytes[..out.len()]);
        Ok(())
    }
}

/// A journal as it was written, and what is in it.
struct Written {
    disk: Disk,
    records: Vec<(LogPosition, Record)>,
}

/// How a journal's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By a crash, with nothing under way.
    Crash,
    /// With the mark of a clean stop.
    Stop,
}

static WRITTEN: LazyLock<[Written; 4]> = LazyLock::new(|| {
    [(0, End::Crash), (3, End::Crash), (9, End::Crash), (9, End::Stop)].map(|(rounds, end)| write(rounds, end))
});

/// Records of every kind, `count` times.
fn records(count: usize) -> Vec<Record> {
    let cast = Cast::fixed();
    (1..=count as u64)
        .flat_map(|seq| cast.messages(Seq(seq)).into_iter().flat_map(move |it| of_message(seq, it)))
        .collect()
}

/// What a replica writes down about a message.
fn of_message(seq: u64, message: Message) -> Vec<Record> {
    if let Message::PrePrepare(PrePrepare { position, ballot: proposal, header, body }) = message {
        vec![Record::Vote(Vote { position, proposal, header, body: Some(body.bytes().clone()) })]
    } else if let Message::Slot(CommittedSlot { certificate, body }) = message {
        let CommitCertificate { position, header, proposal, commits, .. } = (*certificate).clone();
        let prepares = commits.into_iter().map(|(replica, ballot, _)| (replica, ballot)).collect();
        let body = seq.is_multiple_of(2).then(|| body.bytes().clone());
        vec![
            Record::Cert(PreparedCertificate { position, header, proposal, prepares }),
            Record::Committed(Committed { certificate, body }),
        ]
    } else if let Message::Checkpoint(checkpoint) = message {
        let (epoch, seq, root) = (checkpoint.epoch, checkpoint.seq, checkpoint.root);
        let votes = [Record::CkptVote { epoch, seq, root }, Record::SnapVote { epoch, seq, root }];
        votes.into_iter().chain([Record::Stable(checkpoint)]).collect()
    } else if let Message::Snapshot(vote) = message {
        vec![Record::SnapStable(vote)]
    } else if let Message::Evidence(evidence) = message {
        vec![Record::Evidence(evidence)]
    } else {
        Vec::new()
    }
}

fn write(rounds: usize, end: End) -> Written {
    let first = Superblock::first(&Directory {
        cluster_id: Cast::fixed().config.cluster_id(),
        replica: Cast::fixed().speaker,
        public_key: Cast::fixed().replicas[3].public_key(),
        epoch: Cast::fixed().config.epoch(),
        directory_id: [4; 16],
        directory_key: [5; 32],
    });
    let mut disk = Disk { files: BTreeMap::new(), superblock: first.encode_file().to_vec() };
    let tail = scan_journal::<()>(&first, &mut disk, &mut |_, _| Ok(())).expect("an empty journal");
    let mut journal = Journal::new(&first, tail, OPTIONS);
    let mut written = Vec::new();
    let mut superblock = first;
    for (position, record) in (1..).map(LogPosition).zip(records(rounds)) {
        let place = if position.0.is_multiple_of(13) {
            superblock.sequence += 1;
            superblock.promised = superblock.promised.next();
            Place::Superblock(Box::new(superblock.clone()))
        } else {
            written.push((position, record.clone()));
            Place::Journal(record)
        };
        journal.append(Persist { position, place });
        settle(&mut journal, &mut disk);
    }
    if end == End::Stop {
        journal.close();
        settle(&mut journal, &mut disk);
    }
    Written { disk, records: written }
}

fn settle(journal: &mut Journal, disk: &mut Disk) {
    while let Some(write) = journal.next_write() {
        match write.target {
            Target::Segment { number, offset, .. } => {
                let blank = || vec![0; OPTIONS.segment_bytes as usize];
                let file = disk.files.entry(number).or_insert_with(blank);
                file[offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
            }
            Target::Superblock { copies } => {
                disk.superblock[copies[0] as usize * BLOCK_BYTES..][..write.bytes.len()].copy_from_slice(&write.bytes);
            }
        }
        journal.written(write.ticket);
    }
}

/// What was done to a disk, beyond what disks do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sealed {
    /// Nothing: every check is as it was written.
    Not,
    /// A check was made to fit: only a program with the directory's key does that.
    Anew,
}

/// Which journal, then what happens to its files. A scan gives the records that were written up to some place, damage, or
/// an error; where it gives a place to go on, the journal goes on there and reads back what it then wrote.
pub fn scan(data: &[u8]) {
    let mut feed = Feed::new(data);
    let Written { disk, records } = &WRITTEN[usize::from(feed.u8()) % WRITTEN.len()];
    let mut disk = disk.clone();
    let mut sealed = Sealed::Not;
    // Each costs the reading of a block: bounded, so that an input is quick.
    for _ in 0..64 {
        if feed.is_empty() {
            break;
        }
        if harm(&mut disk, &mut feed) == Sealed::Anew {
            sealed = Sealed::Anew;
        }
    }
    let Ok((superblock, _)) = read_superblock(&disk.superblock) else { return };
    let mut found = Vec::new();
    let outcome = scan_journal::<()>(&superblock, &mut disk, &mut |at, record| {
        found.push((at, record));
        Ok(())
    });
    if sealed == Sealed::Not {
        assert!(records.starts_with(&found), "only what was written, in its order");
    }
    match outcome {
        Ok(tail) if sealed == Sealed::Not => goes_on(disk, superblock, tail, found),
        Err(ScanError::Damage(damage)) => assert!(damage.durable_through > damage.last_good),
        Ok(_) | Err(ScanError::Io(_) | ScanError::Twice(..) | ScanError::Record { .. } | ScanError::Refused { .. }) => {
        }
    }
}

fn goes_on(mut disk: Disk, superblock: Superblock, tail: Tail, mut expected: Vec<(LogPosition, Record)>) {
    let mut files = std::mem::take(&mut disk.files);
    for (file, number) in tail.files() {
        disk.files.insert(*number, files.remove(file).expect("the scan saw it"));
    }
    let position = tail.last().next();
    let mut journal = Journal::new(&superblock, tail, OPTIONS);
    let record = expected.first().map_or_else(|| records(1).remove(0), |(_, record)| record.clone());
    expected.push((position, record.clone()));
    journal.append(Persist { position, place: Place::Journal(record) });
    settle(&mut journal, &mut disk);
    assert_eq!(journal.durable(), position);
    let mut found = Vec::new();
    let again = scan_journal::<()>(&superblock, &mut disk, &mut |at, record| {
        found.push((at, record));
        Ok(())
    });
    again.expect("what was cut off does not come back");
    assert_eq!(found, expected, "what was read, and what was written then");
}

/// One thing that happens to a disk.
fn harm(disk: &mut Disk, feed: &mut Feed<'_>) -> Sealed {
    let kind = feed.u8() % 12;
    if kind == 0 || kind == 1 {
        let at = feed.choice(disk.superblock.len());
        disk.superblock[at] ^= feed.u8();
        return Sealed::Not;
    }
    if kind == 2 {
        return rewrite_superblock(disk, feed);
    }
    let names: Vec<_> = disk.files.keys().copied().collect();
    let Some(name) = names.get(feed.choice(names.len().max(1))).copied() else {
        disk.files.insert(u32::from(feed.u8()), feed.take(BLOCK_BYTES).to_vec());
        return Sealed::Not;
    };
    let file = disk.files.get_mut(&name).expect("just listed");
    let blocks = (file.len() / BLOCK_BYTES).max(1);
    let (block, in_block) = (feed.choice(blocks), feed.choice(BLOCK_BYTES));
    let at = (block * BLOCK_BYTES + in_block).min(file.len().saturating_sub(1));
    match kind {
        3 | 4 => file.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= feed.u8()),
        5 => {
            let len = usize::from(feed.u8() % 64);
            let bytes = feed.take(len);
            file.iter_mut().skip(at).zip(bytes).for_each(|(byte, new)| *byte = *new);
        }
        6 => file.iter_mut().skip(block * BLOCK_BYTES).take(BLOCK_BYTES).for_each(|byte| *byte = 0),
        7 => {
            let from = feed.choice(blocks) * BLOCK_BYTES;
            let copied: Vec<_> = file.iter().skip(from).take(BLOCK_BYTES).copied().collect();
            file.iter_mut().skip(block * BLOCK_BYTES).zip(copied).for_each(|(byte, new)| *byte = new);
        }
        8 => drop(disk.files.remove(&name)),
        9 => file.truncate(block * BLOCK_BYTES),
        10 => {
            let copy = file.clone();
            disk.files.insert(u32::from(feed.u8()), copy);
        }
        _ => return seal_anew(file, block * BLOCK_BYTES, feed),
    }
    Sealed::Not
}

/// Another superblock, in order by itself: its positions are whatever the input says.
fn rewrite_superblock(disk: &mut Disk, feed: &mut Feed<'_>) -> Sealed {
    if let Ok((mut superblock, _)) = read_superblock(&disk.superblock) {
        let position =
            |feed: &mut Feed<'_>| LogPosition(if feed.u8().is_multiple_of(4) { feed.u64() } else { feed.u8().into() });
        superblock.journal_start = position(feed);
        superblock.durable_through = position(feed);
        disk.superblock = superblock.encode_file().to_vec();
    }
    Sealed::Anew
}

/// Changes a byte of a group's header or records, and makes the check fit.
fn seal_anew(file: &mut [u8], start: usize, feed: &mut Feed<'_>) -> Sealed {
    let Some(group) = file.get_mut(start..) else { return Sealed::Anew };
    let bytes = group.get(8..12).map_or(0, |field| u32::from_le_bytes(field.try_into().expect("four bytes")) as usize);
    let Some(group) = group.get_mut(..CHECK.end + bytes.min(BLOCK_BYTES)) else { return Sealed::Anew };
    // The magic stays: without it there is no group.
    let at = 4 + feed.choice(group.len() - 4);
    group[at] ^= feed.u8();
    let bytes = u32::from_le_bytes(group[8..12].try_into().expect("four bytes")) as usize;
    if let Some(records) = group.get(CHECK.end..CHECK.end + bytes) {
        let check = Seal::new([5; 32]).check(&[&group[..CHECK.start], records]);
        group[CHECK].copy_from_slice(&check.0);
    }
    Sealed::Anew
}

/// A superblock's file, or a record. What reads encodes to the bytes that it was read from.
pub fn disk(data: &[u8]) {
    let mut feed = Feed::new(data);
    if feed.u8().is_multiple_of(2) {
        let bytes = Bytes::copy_from_slice(feed.rest());
        if let Ok(record) = read_record(&bytes) {
            let mut out = BlockBuf::with_capacity(record.encoded_len());
            record.encode(&mut out);
            assert_eq!(out.len(), record.encoded_len());
            assert_eq!(&out[..bytes.len()], &bytes[..]);
            assert!(out[bytes.len()..].iter().all(|byte| *byte == 0));
        }
        return;
    }
    superblock(feed);
}

/// A copy that the input gives, sealed, as all four copies but for what the rest of the input changes.
fn superblock(mut feed: Feed<'_>) {
    let length = feed.choice(BLOCK_BYTES - 15);
    let mut copy = feed.take(length).to_vec();
    copy.resize(BLOCK_BYTES - 16, 0);
    // Where the key lies that the copy is sealed with.
    let key = copy[68..100].try_into().expect("32 bytes");
    let check = Seal::new(key).check(&[&copy]);
    copy.extend_from_slice(&check.0);
    let mut file = copy.repeat(4);
    while !feed.is_empty() {
        let at = feed.choice(SUPERBLOCK_FILE_BYTES);
        file[at] ^= feed.u8();
    }
    if let Ok((superblock, repair)) = read_superblock(&file) {
        let encoded = superblock.encode_file();
        assert_eq!(&encoded[..BLOCK_BYTES], &repair.block[..]);
        for at in repair.copies {
            file[at as usize * BLOCK_BYTES..][..BLOCK_BYTES].copy_from_slice(&repair.block);
        }
        assert_eq!(file, encoded[..], "repaired, all four are the one that was chosen");
    }
}

/// The bytes of one record of each kind, without padding.
#[must_use]
pub fn record_bytes() -> Vec<Vec<u8>> {
    let encode = |record: &Record| {
        let mut out = BlockBuf::with_capacity(record.encoded_len());
        record.encode(&mut out);
        let len = u32::from_le_bytes(out[4..8].try_into().expect("four bytes")) as usize;
        out[..32 + len].to_vec()
    };
    records(2).iter().map(encode).collect()
}

/// One copy of the superblock of the longest journal, without its check and the zeros before that.
///
/// # Panics
/// Never: it was just written.
#[must_use]
pub fn superblock_bytes() -> Vec<u8> {
    let (superblock, _) = read_superblock(&WRITTEN[2].disk.superblock).expect("just written");
    let copy = &superblock.encode_file()[..BLOCK_BYTES - 16];
    let used = copy.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    copy[..used].to_vec()
}
