//! Where `kv` keeps its entries: a trie over the BLAKE3 hash of the key, four bits a level from the top, whose leaves
//! are small buckets sorted by (hash, key). Nodes are shared by counted references and copied on the first write after
//! they were shared, so an image of the whole state is one more reference to the root, and a write after it copies one
//! path.
//!
//! Why a trie: it has no moment of growth, because one full bucket splits at a time, and keys that were chosen to meet
//! in one bucket only make it split deeper. How the trie happens to be cut depends on its history; nothing outside this
//! file can see it, because all that leaves it is sums, maxima and entries in order over ranges of the hash.
//!
//! Invariants: a branch holds more than [`BUCKET_MIN`] entries; a bucket holds at most [`BUCKET_MAX`] unless it lies at
//! the lowest level; `changed` of a node is at least the Seq of the last write, or removal, in its range of the hash.

use std::cmp::Ordering;
use std::hint::black_box;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bft_core::ids::Seq;

use super::entry::{Entry, Key, chunk_bytes};
use super::format::Prior;

/// Entries at which a bucket splits.
const BUCKET_MAX: usize = 32;
/// Entries at which a branch becomes a bucket again: far enough below, so that no key going in and out makes work.
const BUCKET_MIN: u64 = 16;
/// Children of a branch, 2^[`LEVEL_BITS`].
const FANOUT: usize = 16;
const LEVEL_BITS: u32 = 4;
/// Where the bits of the hash are used up.
const DEPTH_MAX: u32 = u64::BITS / LEVEL_BITS;

/// All entries. A clone is an image: it costs one counter and stays what it is.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: Node,
}

#[derive(Clone, Debug)]
enum Node {
    Branch(Arc<Branch>),
    Bucket(Arc<Bucket>),
}

#[derive(Clone, Debug)]
struct Branch {
    changed: Seq,
    keys: u64,
    bytes: u64,
    children: [Node; FANOUT],
}

#[derive(Clone, Debug)]
struct Bucket {
    changed: Seq,
    entries: Vec<Entry>,
}

/// A bucket, or as much of it as lies in a range.
struct Slice<'a> {
    changed: Seq,
    entries: &'a [Entry],
}

/// What lies wholly in a range.
enum Part<'a> {
    Branch(&'a Branch),
    Slice(Slice<'a>),
}

impl Tree {
    /// No entries; `at` is the Seq since when.
    pub(super) fn new(at: Seq) -> Self {
        Self { root: Node::bucket(at, Vec::new()) }
    }

    /// The number of entries.
    pub(super) fn keys(&self) -> u64 {
        self.root.keys()
    }

    /// The bytes that the entries take in chunks.
    pub(super) fn bytes(&self) -> u64 {
        self.root.bytes()
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: Key<'_>) -> Option<&[u8]> {
        let mut node = &self.root;
        let mut depth = 0;
        let bucket = loop {
            match node {
                Node::Branch(branch) => node = &branch.children[slot(key.hash, depth)],
                Node::Bucket(bucket) => break bucket,
            }
            depth += 1;
        };
        let index = bucket.find(key).ok()?;
        Some(bucket.entries[index].value())
    }

    /// Sets an entry, encoded as [`super::format::put_entry`] does it.
    pub(super) fn put(&mut self, key: Key<'_>, entry: &[u8], now: Seq) -> Prior {
        let replaced = self.root.put(0, key, entry, now);
        if replaced.is_some() { Prior::Present } else { Prior::Absent }
    }

    /// Takes `key` out.
    pub(super) fn remove(&mut self, key: Key<'_>, now: Seq) -> Prior {
        // Looked for first: nothing is copied for a key that is not there.
        if self.get(key).is_none() {
            return Prior::Absent;
        }
        self.root.remove(0, key, now);
        Prior::Present
    }

    /// Walks to the buckets of some hashes side by side, so that the waits for memory overlap and what comes after finds
    /// them in the cache. Changes nothing.
    pub(super) fn warm<const N: usize>(&self, hashes: &[u64; N]) {
        let mut nodes = [&self.root; N];
        for depth in 0..DEPTH_MAX {
            let mut done = true;
            for (node, hash) in nodes.iter_mut().zip(hashes) {
                if let Node::Branch(branch) = *node {
                    *node = &branch.children[slot(*hash, depth)];
                    done = false;
                }
            }
            if done {
                break;
            }
        }
        for node in nodes {
            if let Node::Bucket(bucket) = node {
                black_box(bucket.entries.get(bucket.entries.len() / 2).map(Entry::hash));
            }
        }
    }

    /// The bytes that the entries in `range` take in chunks.
    pub(super) fn bytes_in(&self, range: &RangeInclusive<u64>) -> u64 {
        let mut bytes = 0;
        self.root.visit(0, 0, range, &mut |part| {
            bytes += match part {
                Part::Branch(branch) => branch.bytes,
                Part::Slice(slice) => slice.entries.iter().map(Entry::chunk_bytes).sum(),
            }
        });
        bytes
    }

    /// No write, and no removal, has touched `range` after this Seq.
    pub(super) fn changed_in(&self, range: &RangeInclusive<u64>) -> Seq {
        let mut changed = Seq(0);
        self.root.visit(0, 0, range, &mut |part| {
            changed = changed.max(match part {
                Part::Branch(branch) => branch.changed,
                Part::Slice(slice) => slice.changed,
            });
        });
        changed
    }

    /// Calls `take` with every entry in `range`, ascending by (hash, key).
    pub(super) fn for_each_in<'a>(&'a self, range: &RangeInclusive<u64>, take: &mut dyn FnMut(&'a Entry)) {
        self.root.visit(0, 0, range, &mut |part| match part {
            Part::Branch(branch) => branch.for_each(take),
            Part::Slice(slice) => slice.entries.iter().for_each(&mut *take),
        });
    }
}

fn slot(hash: u64, depth: u32) -> usize {
    (hash >> (u64::BITS - LEVEL_BITS * (depth + 1))) as usize % FANOUT
}

impl Node {
    fn bucket(changed: Seq, entries: Vec<Entry>) -> Self {
        Self::Bucket(Arc::new(Bucket { changed, entries }))
    }

    /// Sorted entries as a bucket or, where that would be too full, as branches. Every child takes over `changed`, the
    /// empty ones too: the entry that was removed last may have been theirs.
    fn build(depth: u32, changed: Seq, entries: Vec<Entry>) -> Self {
        if entries.len() <= BUCKET_MAX || depth == DEPTH_MAX {
            return Self::bucket(changed, entries);
        }
        let keys = entries.len() as u64;
        let bytes = entries.iter().map(Entry::chunk_bytes).sum();
        let mut parts: [Vec<Entry>; FANOUT] = Default::default();
        for entry in entries {
            parts[slot(entry.hash(), depth)].push(entry);
        }
        let empty = Self::bucket(changed, Vec::new());
        let children =
            parts.map(|part| if part.is_empty() { empty.clone() } else { Self::build(depth + 1, changed, part) });
        Self::Branch(Arc::new(Branch { changed, keys, bytes, children }))
    }

    fn keys(&self) -> u64 {
        match self {
            Self::Branch(branch) => branch.keys,
            Self::Bucket(bucket) => bucket.entries.len() as u64,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Branch(branch) => branch.bytes,
            Self::Bucket(bucket) => bucket.entries.iter().map(Entry::chunk_bytes).sum(),
        }
    }

    /// Returns what the former entry of the key took in a chunk, if there was one.
    fn put(&mut self, depth: u32, key: Key<'_>, entry: &[u8], now: Seq) -> Option<u64> {
        match self {
            Self::Branch(branch) => Arc::make_mut(branch).put(depth, key, entry, now),
            Self::Bucket(bucket) => {
                let bucket = Arc::make_mut(bucket);
                let replaced = bucket.put(key, entry, now);
                if bucket.entries.len() > BUCKET_MAX && depth < DEPTH_MAX {
                    *self = Self::build(depth, now, std::mem::take(&mut bucket.entries));
                }
                replaced
            }
        }
    }

    /// Takes out an entry that is there, and returns what it took in a chunk.
    fn remove(&mut self, depth: u32, key: Key<'_>, now: Seq) -> u64 {
        match self {
            Self::Bucket(bucket) => Arc::make_mut(bucket).remove(key, now),
            Self::Branch(branch) => {
                let branch = Arc::make_mut(branch);
                let removed = branch.remove(depth, key, now);
                if branch.keys <= BUCKET_MIN {
                    let mut entries = Vec::with_capacity(BUCKET_MAX);
                    branch.for_each(&mut |entry| entries.push(entry.clone()));
                    *self = Self::bucket(now, entries);
                }
                removed
            }
        }
    }

    /// Calls `take` with the largest parts that lie wholly in `range`, ascending. `base` is the lowest hash of this
    /// node.
    fn visit<'a>(&'a self, depth: u32, base: u64, range: &RangeInclusive<u64>, take: &mut dyn FnMut(Part<'a>)) {
        match self {
            Self::Bucket(bucket) => take(Part::Slice(bucket.slice(range))),
            Self::Branch(branch) => {
                if *range.start() <= base && last_hash(base, depth) <= *range.end() {
                    return take(Part::Branch(branch));
                }
                for (index, child) in branch.children.iter().enumerate() {
                    let base = base + ((index as u64) << (u64::BITS - LEVEL_BITS * (depth + 1)));
                    if base <= *range.end() && *range.start() <= last_hash(base, depth + 1) {
                        child.visit(depth + 1, base, range, take);
                    }
                }
            }
        }
    }
}

/// The highest hash of a node at `depth` whose lowest is `base`.
fn last_hash(base: u64, depth: u32) -> u64 {
    base | u64::MAX.checked_shr(LEVEL_BITS * depth).unwrap_or(0)
}

impl Branch {
    fn put(&mut self, depth: u32, key: Key<'_>, entry: &[u8], now: Seq) -> Option<u64> {
        let replaced = self.children[slot(key.hash, depth)].put(depth + 1, key, entry, now);
        match replaced {
            Some(bytes) => self.bytes -= bytes,
            None => self.keys += 1,
        }
        self.bytes += chunk_bytes(entry.len());
        self.changed = now;
        replaced
    }

    fn remove(&mut self, depth: u32, key: Key<'_>, now: Seq) -> u64 {
        let removed = self.children[slot(key.hash, depth)].remove(depth + 1, key, now);
        self.keys -= 1;
        self.bytes -= removed;
        self.changed = now;
        removed
    }

    fn for_each<'a>(&'a self, take: &mut dyn FnMut(&'a Entry)) {
        for child in &self.children {
            match child {
                Node::Branch(branch) => branch.for_each(take),
                Node::Bucket(bucket) => bucket.entries.iter().for_each(&mut *take),
            }
        }
    }
}

impl Bucket {
    fn put(&mut self, key: Key<'_>, bytes: &[u8], now: Seq) -> Option<u64> {
        self.changed = now;
        match self.find(key) {
            Ok(index) => {
                let entry = &mut self.entries[index];
                let former = entry.chunk_bytes();
                entry.set(bytes);
                Some(former)
            }
            Err(index) => {
                self.entries.insert(index, Entry::new(key.hash, bytes));
                None
            }
        }
    }

    fn remove(&mut self, key: Key<'_>, now: Seq) -> u64 {
        self.changed = now;
        let index = self.find(key).expect("only an entry that is there is removed");
        self.entries.remove(index).chunk_bytes()
    }

    fn find(&self, key: Key<'_>) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| match entry.hash().cmp(&key.hash) {
            Ordering::Equal => entry.key().cmp(key.bytes),
            other @ (Ordering::Less | Ordering::Greater) => other,
        })
    }

    fn slice(&self, range: &RangeInclusive<u64>) -> Slice<'_> {
        let start = self.entries.partition_point(|entry| entry.hash() < *range.start());
        let end = self.entries.partition_point(|entry| entry.hash() <= *range.end());
        Slice { changed: self.changed, entries: &self.entries[start..end] }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::entry::fill;
    use super::*;

    impl Tree {
        /// Puts an entry where its key would not belong: no test can find keys whose hashes meet.
        pub(in super::super) fn put_with_hash(&mut self, hash: u64, bytes: &[u8], value: &[u8], now: Seq) -> Prior {
            self.put(Key { hash, bytes }, fill(&mut Vec::new(), bytes, value), now)
        }

        fn put_key(&mut self, key: u64, value: &[u8], now: Seq) {
            let key = key.to_le_bytes();
            self.put(Key::new(&key), fill(&mut Vec::new(), &key, value), now);
        }

        /// Checks the invariants of this file.
        pub(in super::super) fn check(&self) {
            self.root.check(0, 0);
        }
    }

    fn order(entry: &Entry) -> (u64, &[u8]) {
        (entry.hash(), entry.key())
    }

    impl Node {
        fn changed(&self) -> Seq {
            match self {
                Self::Branch(branch) => branch.changed,
                Self::Bucket(bucket) => bucket.changed,
            }
        }

        fn check(&self, depth: u32, base: u64) {
            match self {
                Self::Bucket(bucket) => {
                    assert!(bucket.entries.len() <= BUCKET_MAX || depth == DEPTH_MAX);
                    assert!(bucket.entries.windows(2).all(|pair| order(&pair[0]) < order(&pair[1])));
                    let within = base..=last_hash(base, depth);
                    assert!(bucket.entries.iter().all(|entry| within.contains(&entry.hash())));
                }
                Self::Branch(branch) => {
                    assert!(branch.keys > BUCKET_MIN);
                    assert_eq!(branch.keys, branch.children.iter().map(Node::keys).sum::<u64>());
                    assert_eq!(branch.bytes, branch.children.iter().map(Node::bytes).sum::<u64>());
                    assert!(branch.children.iter().all(|child| child.changed() <= branch.changed));
                    for (index, child) in branch.children.iter().enumerate() {
                        child.check(depth + 1, base + ((index as u64) << (60 - 4 * depth)));
                    }
                }
            }
        }

        /// How many nodes of this tree `other` does not share, and how many there are.
        fn unshared(&self, other: &Self) -> (u64, u64) {
            match (self, other) {
                (Self::Branch(a), Self::Branch(b)) => {
                    let mut sum = (u64::from(!Arc::ptr_eq(a, b)), 1);
                    for (a, b) in a.children.iter().zip(&b.children) {
                        let (unshared, all) = a.unshared(b);
                        sum = (sum.0 + unshared, sum.1 + all);
                    }
                    sum
                }
                (Self::Bucket(a), Self::Bucket(b)) => (u64::from(!Arc::ptr_eq(a, b)), 1),
                (Self::Branch(_), Self::Bucket(_)) | (Self::Bucket(_), Self::Branch(_)) => (1, 1),
            }
        }
    }

    #[test]
    fn k8_an_image_of_a_million_keys_is_one_reference_and_a_write_after_it_copies_one_path() {
        let mut tree = Tree::new(Seq(0));
        for key in 0..1_000_000u64 {
            tree.put_key(key, b"value", Seq(1));
        }
        let Node::Branch(root) = &tree.root else { panic!("a million keys are no bucket") };
        assert_eq!(Arc::strong_count(root), 1);
        let image = tree.clone();
        let Node::Branch(root) = &tree.root else { panic!("a million keys are no bucket") };
        assert_eq!(Arc::strong_count(root), 2);
        let (unshared, nodes) = tree.root.unshared(&image.root);
        assert_eq!(unshared, 0);
        assert!(nodes > 50_000, "{nodes} nodes");

        tree.put_key(7, b"other", Seq(2));
        let (unshared, _) = tree.root.unshared(&image.root);
        assert!((2..=8).contains(&unshared), "one path of a trie of {nodes} nodes, not {unshared}");
        tree.put_key(7, b"again", Seq(3));
        assert_eq!(tree.root.unshared(&image.root).0, unshared, "the path is copied once");
        let seven = 7u64.to_le_bytes();
        assert_eq!(image.get(Key::new(&seven)), Some(&b"value"[..]));
        assert_eq!(tree.get(Key::new(&seven)), Some(&b"again"[..]));
    }

    #[test]
    fn keys_that_meet_in_one_place_only_make_it_deeper() {
        let mut tree = Tree::new(Seq(0));
        for n in 0..1000u64 {
            tree.put_with_hash(0xabcd_ef01_0000_0000 | n, &n.to_le_bytes(), b"", Seq(1));
        }
        tree.check();
        for n in 0..1000u64 {
            assert_eq!(tree.get(Key { hash: 0xabcd_ef01_0000_0000 | n, bytes: &n.to_le_bytes() }), Some(&b""[..]));
        }
        for n in 0..1000u64 {
            assert_eq!(
                tree.remove(Key { hash: 0xabcd_ef01_0000_0000 | n, bytes: &n.to_le_bytes() }, Seq(2)),
                Prior::Present
            );
            tree.check();
        }
        assert!(matches!(&tree.root, Node::Bucket(bucket) if bucket.entries.is_empty()));
    }

    #[test]
    fn keys_of_one_hash_are_told_apart() {
        let mut tree = Tree::new(Seq(0));
        for n in 0..100u8 {
            assert_eq!(tree.put_with_hash(42, &[n], &[n], Seq(1)), Prior::Absent);
        }
        tree.check();
        assert_eq!(tree.put_with_hash(42, &[7], b"new", Seq(2)), Prior::Present);
        assert_eq!(tree.get(Key { hash: 42, bytes: &[7] }), Some(&b"new"[..]));
        assert_eq!(tree.get(Key { hash: 42, bytes: &[8] }), Some(&[8][..]));
        assert_eq!(tree.get(Key { hash: 42, bytes: b"other" }), None);
        assert_eq!(tree.keys(), 100);
    }

    #[test]
    fn ranges_see_sums_and_the_last_removal() {
        let mut tree = Tree::new(Seq(0));
        for n in 0..256u64 {
            tree.put_with_hash(n << 56, &[n as u8], b"four", Seq(1));
        }
        let all = 0..=u64::MAX;
        let upper = 0x80 << 56..=u64::MAX;
        let sliver = 0x12 << 56..=0x34 << 56;
        assert_eq!(tree.bytes(), 256 * (4 + 2 + 1 + 4));
        assert_eq!(tree.bytes_in(&all), tree.bytes());
        assert_eq!(tree.bytes_in(&upper), tree.bytes() / 2);
        assert_eq!(tree.bytes_in(&sliver), 0x23 * 11);
        let mut seen = Vec::new();
        tree.for_each_in(&sliver, &mut |entry| seen.push(entry.key()[0]));
        assert_eq!(seen, (0x12..=0x34).collect::<Vec<u8>>());

        tree.remove(Key { hash: 0x20 << 56, bytes: &[0x20] }, Seq(9));
        assert_eq!(tree.changed_in(&sliver), Seq(9));
        assert_eq!(tree.changed_in(&upper), Seq(1));
        for n in (0..255u64).filter(|n| n % 16 != 0) {
            tree.remove(Key { hash: n << 56, bytes: &[n as u8] }, Seq(10));
        }
        tree.check();
        assert!(matches!(&tree.root, Node::Bucket(bucket) if bucket.entries.len() == 16), "merged by the last removal");
        assert_eq!(tree.changed_in(&(0x20 << 56..=0x20 << 56)), Seq(10), "a merged bucket answers for all it took");
    }

    #[test]
    fn a_bucket_that_splits_remembers_what_was_removed_from_it() {
        let mut tree = Tree::new(Seq(0));
        let lonely = 0x5 << 60;
        tree.put_with_hash(lonely, b"lonely", b"", Seq(1));
        for n in 0..BUCKET_MAX as u64 - 1 {
            tree.put_with_hash(n, &[n as u8], b"", Seq(2));
        }
        tree.remove(Key { hash: lonely, bytes: b"lonely" }, Seq(5));
        for n in 0..2u64 {
            tree.put_with_hash(100 + n, &[100 + n as u8], b"", Seq(6));
        }
        tree.check();
        assert!(matches!(tree.root, Node::Branch(_)));
        assert!(tree.changed_in(&(lonely..=lonely)) >= Seq(5));
    }
}
