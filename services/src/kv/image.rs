//! How the state of `kv` is cut into chunks, and the image that is read while execution goes on.
//!
//! The cut is a function of the entries alone. The state is divided into `max(1, ceil(bytes / GROUP_BYTES))` groups by
//! linear hashing: group i takes the hashes whose first bits, read backwards, are i, so that the groups are one range
//! of the hash each, and one group more splits one group and leaves the others, and their numbers, alone. Chunk i is
//! group i. A group that is too large for a chunk (large values, or keys chosen to meet) is halved until every piece
//! fits; its first piece keeps the group's number and the others follow behind the last group.
//!
//! ```text
//! chunk   version u8 = 1 | entries, ascending by (hash, key)
//! entry   length u32 | key length u16 | key | value          (the length counts what follows it)
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};

use bft_core::ids::Seq;
use bft_core::limits::{CHUNK_BYTES_MAX, KIB};
use bft_core::service::{ServiceFault, Snapshot};
use bft_core::wire::canonical::Reader;

use super::format::{KEY_BYTES_MAX, VALUE_BYTES_MAX, read_entry};
use super::tree::Tree;

/// The mean size of a group. Some groups are twice as large as others, and small entries vary by a few percent.
const GROUP_BYTES: u64 = 256 * KIB as u64;
/// The version of the form of a chunk.
const VERSION: u8 = 1;
/// What the entries of one chunk may take.
const PIECE_BYTES_MAX: u64 = CHUNK_BYTES_MAX as u64 - 1;
/// Snapshots whose layout is remembered: the library compares with the one or two before.
const REMEMBERED: usize = 8;

const _: () = assert!(6 + KEY_BYTES_MAX as u64 + VALUE_BYTES_MAX as u64 <= PIECE_BYTES_MAX, "a chunk holds any entry");

/// The entries of one chunk: those whose hash is in a range, or one part of those that have a single hash.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    range: RangeInclusive<u64>,
    /// Which one, when a chunk does not hold all entries of a single hash; otherwise 0.
    part: u32,
}

/// Which entries are in which chunk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    groups: u64,
    /// The first piece of each group that is too large for one chunk.
    first: BTreeMap<u64, Piece>,
    /// The other pieces of those groups.
    rest: Vec<Piece>,
}

/// Computed by the first who asks: the snapshot thread, as a rule.
type LazyLayout = Arc<OnceLock<Layout>>;

/// The layouts of the last snapshots. Without them nobody could say whether a chunk's number means the same entries as
/// before.
#[derive(Clone, Debug, Default)]
pub(super) struct History(VecDeque<(Seq, LazyLayout)>);

/// The state at a Seq. Shares with the live state whatever was not written since.
#[derive(Debug)]
pub(super) struct Image {
    tree: Tree,
    layout: LazyLayout,
    history: History,
}

impl History {
    /// The state was restored to `at`, in chunks of this layout.
    pub(super) fn starting(at: Seq, layout: Layout) -> Self {
        Self(VecDeque::from([(at, Arc::new(OnceLock::from(layout)))]))
    }

    /// An image of `tree` at `at`, which is remembered.
    pub(super) fn image(&mut self, tree: &Tree, at: Seq) -> Image {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        let layout = LazyLayout::default();
        self.0.push_back((at, Arc::clone(&layout)));
        Image { tree: tree.clone(), layout, history: self.clone() }
    }

    fn at(&self, at: Seq) -> Option<&Layout> {
        self.0.iter().rev().find(|(seq, _)| *seq == at).and_then(|(_, layout)| layout.get())
    }
}

impl Image {
    fn layout(&self) -> &Layout {
        self.layout.get_or_init(|| Layout::of(&self.tree))
    }
}

impl Snapshot for Image {
    fn chunks(&self) -> u32 {
        self.layout().chunks()
    }

    fn unchanged_since(&self, index: u32, earlier: Seq) -> bool {
        let Some(piece) = self.layout().piece(index) else { return false };
        let former = self.history.at(earlier).and_then(|layout| layout.piece(index));
        former.as_ref() == Some(&piece) && self.tree.changed_in(&piece.range) <= earlier
    }

    fn read(&mut self, index: u32, out: &mut [u8]) -> Result<usize, ServiceFault> {
        let layout = self.layout();
        let piece = layout
            .piece(index)
            .ok_or_else(|| ServiceFault(format!("kv: chunk {index} was asked for; there are {}", layout.chunks())))?;
        let mut chunk = ChunkWriter { out, len: 0 };
        chunk.put(&[VERSION])?;
        let mut written = Ok(());
        piece.for_each(&self.tree, &mut |entry| {
            if written.is_ok() {
                written = chunk.put(&(entry.len() as u32).to_le_bytes()).and_then(|()| chunk.put(entry));
            }
        });
        written.map(|()| chunk.len)
    }
}

struct ChunkWriter<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl ChunkWriter<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ServiceFault> {
        let end = self.len + bytes.len();
        let room = self.out.len();
        let place = self.out.get_mut(self.len..end);
        let place = place.ok_or_else(|| ServiceFault(format!("kv: a chunk does not fit the {room} bytes given")))?;
        place.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }
}

/// Calls `put` with every entry of a chunk; says what is wrong with the chunk otherwise.
pub(super) fn read_chunk<'a>(
    bytes: &'a [u8],
    mut put: impl FnMut(&'a [u8]) -> Result<(), String>,
) -> Result<(), String> {
    let mut reader = Reader::new(bytes);
    let ends_early = |_| "it ends inside an entry".to_owned();
    match reader.u8() {
        Ok(VERSION) => {}
        Ok(version) => return Err(format!("its form has version {version}, and this kv reads version {VERSION}")),
        Err(_) => return Err("it is empty".into()),
    }
    while !reader.rest().is_empty() {
        let len = reader.u32().map_err(ends_early)?;
        let entry = reader.take(len as usize).map_err(ends_early)?;
        read_entry(entry).map_err(|refusal| format!("it has an entry that no operation makes: {refusal}"))?;
        put(entry)?;
    }
    Ok(())
}

impl Layout {
    pub(super) fn of(tree: &Tree) -> Self {
        let groups = tree.bytes().div_ceil(GROUP_BYTES).max(1);
        let mut layout = Self { groups, first: BTreeMap::new(), rest: Vec::new() };
        for group in 0..groups {
            let range = group_range(group, groups);
            if tree.bytes_in(&range) > PIECE_BYTES_MAX {
                let before = layout.rest.len();
                cut(tree, range, &mut layout.rest);
                layout.first.insert(group, layout.rest.remove(before));
            }
        }
        layout
    }

    /// Whether entries with these hashes lie in that chunk.
    pub(super) fn holds(&self, index: u32, lowest: u64, highest: u64) -> bool {
        self.piece(index).is_some_and(|piece| piece.range.contains(&lowest) && piece.range.contains(&highest))
    }

    pub(super) fn chunks(&self) -> u32 {
        u32::try_from(self.groups + self.rest.len() as u64).expect("2^32 chunks are a pebibyte")
    }

    fn piece(&self, index: u32) -> Option<Piece> {
        let index = u64::from(index);
        if let Some(beyond) = index.checked_sub(self.groups) {
            return self.rest.get(beyond as usize).cloned();
        }
        let whole = || Piece { range: group_range(index, self.groups), part: 0 };
        Some(self.first.get(&index).cloned().unwrap_or_else(whole))
    }
}

/// The hashes of group `group` of `groups`.
fn group_range(group: u64, groups: u64) -> RangeInclusive<u64> {
    let level = groups.ilog2();
    let split = groups - (1 << level);
    let bits = if group < split || group >= 1 << level { level + 1 } else { level };
    let Some(rest) = u64::BITS.checked_sub(bits).filter(|rest| *rest < u64::BITS) else { return 0..=u64::MAX };
    let first = (group.reverse_bits() >> rest) << rest;
    first..=first | ((1 << rest) - 1)
}

/// Appends the pieces of `range`, each of them not empty and small enough for a chunk.
fn cut(tree: &Tree, range: RangeInclusive<u64>, out: &mut Vec<Piece>) {
    let bytes = tree.bytes_in(&range);
    if bytes == 0 {
        return;
    }
    if bytes <= PIECE_BYTES_MAX {
        return out.push(Piece { range, part: 0 });
    }
    let (first, last) = range.clone().into_inner();
    if first == last {
        let parts = single_hash_parts(tree, &range, &mut |_, _| {});
        return out.extend((0..parts).map(|part| Piece { range: range.clone(), part }));
    }
    let middle = first + (last - first) / 2;
    cut(tree, first..=middle, out);
    cut(tree, middle + 1..=last, out);
}

/// Fills parts with the entries of a single hash, ascending by key, each part as full as it goes. Returns their number.
fn single_hash_parts<'a>(tree: &'a Tree, range: &RangeInclusive<u64>, take: &mut dyn FnMut(u32, &'a [u8])) -> u32 {
    let (mut part, mut filled) = (0, 0);
    tree.for_each_in(range, &mut |entry| {
        if filled + entry.chunk_bytes() > PIECE_BYTES_MAX {
            part += 1;
            filled = 0;
        }
        filled += entry.chunk_bytes();
        take(part, entry.bytes());
    });
    part + 1
}

impl Piece {
    fn for_each<'a>(&self, tree: &'a Tree, take: &mut dyn FnMut(&'a [u8])) {
        if self.range.start() == self.range.end() {
            single_hash_parts(tree, &self.range, &mut |part, entry| {
                if part == self.part {
                    take(entry);
                }
            });
        } else {
            tree.for_each_in(&self.range, &mut |entry| take(entry.bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::fill;
    use super::*;

    fn chunks_of(tree: &Tree) -> Vec<Vec<u8>> {
        let mut image = History::default().image(tree, Seq(1));
        let mut out = vec![0; CHUNK_BYTES_MAX];
        (0..image.chunks())
            .map(|index| {
                let len = image.read(index, &mut out).unwrap();
                out[..len].to_vec()
            })
            .collect()
    }

    fn entries_of(chunks: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        for chunk in chunks {
            read_chunk(chunk, |entry| {
                entries.push(entry.to_vec());
                Ok(())
            })
            .unwrap();
        }
        entries.sort();
        entries
    }

    #[test]
    fn groups_cover_every_hash_once() {
        for groups in 1..=130u64 {
            let mut ranges: Vec<_> = (0..groups).map(|group| group_range(group, groups)).collect();
            ranges.sort_by_key(|range| *range.start());
            assert_eq!(*ranges[0].start(), 0);
            assert_eq!(*ranges[ranges.len() - 1].end(), u64::MAX);
            for pair in ranges.windows(2) {
                assert_eq!(*pair[0].end() + 1, *pair[1].start(), "{groups} groups");
            }
        }
    }

    #[test]
    fn one_group_more_splits_one_and_leaves_the_others() {
        for groups in 1..=130u64 {
            let moved = (0..groups).filter(|group| group_range(*group, groups) != group_range(*group, groups + 1));
            assert_eq!(moved.count(), 1, "{groups} groups");
        }
    }

    #[test]
    fn keys_that_meet_in_one_group_are_cut_into_pieces_that_fit() {
        let mut tree = Tree::new(Seq(0));
        for n in 0..40u64 {
            tree.put_with_hash(0x00ff_ff00_0000_0000 + n, &[n as u8], &vec![n as u8; VALUE_BYTES_MAX], Seq(1));
        }
        let chunks = chunks_of(&tree);
        assert!(chunks.len() > 32 + 8, "32 groups and the pieces of one: {}", chunks.len());
        let expected: Vec<_> =
            (0..40u8).map(|n| fill(&mut Vec::new(), &[n], &vec![n; VALUE_BYTES_MAX]).to_vec()).collect();
        assert_eq!(entries_of(&chunks), expected);
        let empty = chunks.iter().filter(|chunk| chunk.len() == 1).count();
        assert_eq!(empty, 31, "no piece is empty; groups may be");
    }

    #[test]
    fn keys_of_one_hash_are_cut_too() {
        let mut tree = Tree::new(Seq(0));
        for n in 0..13u8 {
            tree.put_with_hash(5, &[n], &vec![n; VALUE_BYTES_MAX], Seq(1));
        }
        tree.put_with_hash(6, b"neighbour", b"", Seq(1));
        let chunks = chunks_of(&tree);
        let entries: Vec<_> = chunks.iter().map(|chunk| entries_of(std::slice::from_ref(chunk)).len()).collect();
        assert_eq!(entries.iter().sum::<usize>(), 14);
        assert_eq!(entries[tree_groups(&tree)..], [5, 3, 1], "five large values fill a chunk: {entries:?}");
        assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES_MAX));
    }

    fn tree_groups(tree: &Tree) -> usize {
        Layout::of(tree).groups as usize
    }

    #[test]
    fn chunks_that_no_kv_wrote_are_named() {
        let put = |_: &[u8]| Ok(());
        assert_eq!(read_chunk(b"", put).unwrap_err(), "it is empty");
        assert_eq!(read_chunk(b"\x02", put).unwrap_err(), "its form has version 2, and this kv reads version 1");
        assert_eq!(read_chunk(b"\x01\x02\0\0", put).unwrap_err(), "it ends inside an entry");
        assert_eq!(read_chunk(b"\x01\x05\0\0\0ab", put).unwrap_err(), "it ends inside an entry");
        let long = [b"\x01\x04\0\0\0\x05\0ab".as_slice()].concat();
        assert_eq!(read_chunk(&long, put).unwrap_err(), "it has an entry that no operation makes: malformed operation");
        assert_eq!(read_chunk(b"\x01\x03\0\0\0\x01\0k", put), Ok(()));
    }
}
