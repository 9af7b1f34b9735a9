//! The hashes of the protocol: BLAKE3 in key-derivation mode, one context a purpose, so that a digest of one kind of
//! object can never be taken for a digest of another (PROTOCOL §2).

use std::sync::LazyLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

use crate::ids::Digest;

macro_rules! contexts {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What a hash is for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Context { $($(#[$doc])* $variant,)* }

        const NAMES: &[&str] = &[$(concat!("bftd v1 ", $name),)*];
    };
}

contexts! {
    /// A client's Request, without its signature.
    Request = "req",
    /// The bytes of a Request's operations.
    Operations = "ops",
    /// One operation, in a report.
    Operation = "op",
    /// A leaf of a batch's Merkle tree: request digest ‖ signature.
    Leaf = "leaf",
    /// An inner node of any Merkle tree.
    Node = "node",
    /// A batch header.
    Batch = "batch",
    /// The empty batch that a view change fills gaps with.
    Null = "null",
    /// The chain over all batches.
    Chain = "chain",
    /// The chain over all replies and deltas.
    Exec = "exec",
    /// Replies of a Request, and the tree over those of a batch.
    Reply = "reply",
    /// What a service says that a batch changed.
    Delta = "delta",
    /// Signed bytes of a PRE-PREPARE.
    PrePrepare = "pp",
    /// Signed bytes of a PREPARE.
    Prepare = "prepare",
    /// Signed bytes of a VIEW-CHANGE.
    ViewChange = "vc",
    /// Signed bytes of a NEW-VIEW.
    NewView = "nv",
    /// Signed bytes of a CHECKPOINT, and its root.
    Checkpoint = "ckpt",
    /// Signed bytes of a SNAPSHOT, and its root.
    Snapshot = "snap",
    /// A chunk of a snapshot.
    Chunk = "chunk",
    /// The client table inside a snapshot.
    Clients = "clients",
    /// A cluster configuration.
    Config = "config",
    /// The secret that COMMIT nonces are derived from, and the nonces.
    CommitNonce = "commit-nonce",
    /// The commitment to a COMMIT nonce.
    Opening = "opening",
    /// What the identity in a handshake signs.
    Link = "link",
    /// A client's certificate.
    ClientCertificate = "client-cert",
    /// The nonces of a client's openings.
    Session = "session",
    /// The secret seed of batch verification, and its coefficients.
    BatchCoefficients = "batch-coefficients",
}

static KEYS: LazyLock<Vec<ContextKey>> =
    LazyLock::new(|| NAMES.iter().map(|name| hash_derive_key_context(name)).collect());

/// A hash being fed.
#[derive(Clone)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// An empty hash for `context`.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self(blake3::Hasher::new_from_context_key(&KEYS[context as usize]))
    }

    /// Feeds `bytes`. Lengths are not marked: fixed-width fields, or a length before them.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// Feeds eight bytes, little endian.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.update(&value.to_le_bytes())
    }

    /// The digest of what was fed.
    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.finish().fmt(f)
    }
}

/// The digest of `parts`, one after the other.
#[must_use]
pub fn hash(context: Context, parts: &[&[u8]]) -> Digest {
    let mut hasher = Hasher::new(context);
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

/// The Merkle root over `leaves`, left-packed: a node without a right sibling moves up unchanged. `ZERO` for no leaf.
/// The number of leaves is not in the root: whoever uses it binds the count beside it.
#[must_use]
pub fn merkle_root(leaves: impl IntoIterator<Item = Digest>) -> Digest {
    // One pending root per level: as a binary counter, so no level is ever held whole.
    let mut levels: [Option<Digest>; 64] = [None; 64];
    for leaf in leaves {
        let mut carry = leaf;
        for level in &mut levels {
            match level.take() {
                Some(left) => carry = hash(Context::Node, &[&left.0, &carry.0]),
                None => {
                    *level = Some(carry);
                    break;
                }
            }
        }
    }
    levels.into_iter().flatten().reduce(|right, left| node(&left, &right)).unwrap_or(Digest::ZERO)
}

/// What leads from leaf `index` of the tree over `leaves` to its root: of each level the sibling, where there is one.
#[must_use]
pub fn merkle_path(leaves: Vec<Digest>, mut index: usize) -> Vec<Digest> {
    assert!(index < leaves.len(), "a path begins at a leaf");
    let mut level = leaves;
    let mut path = Vec::new();
    while level.len() > 1 {
        path.extend(level.get(index ^ 1));
        let parent = |pair: &[Digest]| match pair {
            [left, right] => node(left, right),
            alone => alone[0],
        };
        level = level.chunks(2).map(parent).collect();
        index /= 2;
    }
    path
}

/// The root of a tree of `count` leaves in which `leaf` has the place `index` and `path` leads up from there; `None`:
/// there is no such place, or the path of another length.
#[must_use]
pub fn merkle_root_from(leaf: Digest, index: u32, count: u32, path: &[Digest]) -> Option<Digest> {
    let (mut index, mut width) = (u64::from(index), u64::from(count));
    if index >= width {
        return None;
    }
    let mut at = leaf;
    let mut path = path.iter();
    while width > 1 {
        if index % 2 == 1 {
            at = node(path.next()?, &at);
        } else if index + 1 < width {
            at = node(&at, path.next()?);
        }
        (index, width) = (index / 2, width.div_ceil(2));
    }
    path.next().is_none().then_some(at)
}

fn node(left: &Digest, right: &Digest) -> Digest {
    hash(Context::Node, &[&left.0, &right.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_leads_from_its_leaf_to_the_root_and_from_nowhere_else() {
        let leaf = |i: u8| hash(Context::Leaf, &[&[i]]);
        for count in 1..=40 {
            let leaves: Vec<_> = (0..count).map(leaf).collect();
            let root = Some(merkle_root(leaves.clone()));
            for index in 0..count {
                let path = merkle_path(leaves.clone(), index.into());
                let from = |at: u8, of: u8, path: &[Digest]| merkle_root_from(leaf(index), at.into(), of.into(), path);
                assert_eq!(from(index, count, &path), root);
                assert_ne!(merkle_root_from(leaf(count), index.into(), count.into(), &path), root, "another leaf");
                assert!((0..count).all(|other| other == index || from(other, count, &path) != root));
                assert_eq!(from(count, count, &path), None, "no such leaf");
                assert_eq!(from(index, count, &[&path[..], &[leaf(0)]].concat()), None, "too long");
                assert!(path.is_empty() || from(index, count, &path[1..]) != root);
            }
        }
    }

    #[test]
    fn contexts_separate() {
        assert_ne!(hash(Context::Prepare, &[b"x"]), hash(Context::PrePrepare, &[b"x"]));
        assert_eq!(hash(Context::Leaf, &[b"ab", b"c"]), Digest(blake3::derive_key("bftd v1 leaf", b"abc")));
    }

    #[test]
    fn merkle_root_is_the_left_packed_tree() {
        let leaf = |i: u8| hash(Context::Leaf, &[&[i]]);
        let node = |a: Digest, b: Digest| hash(Context::Node, &[&a.0, &b.0]);
        assert_eq!(merkle_root([]), Digest::ZERO);
        assert_eq!(merkle_root([leaf(0)]), leaf(0));
        assert_eq!(merkle_root([leaf(0), leaf(1)]), node(leaf(0), leaf(1)));
        let three = node(node(leaf(0), leaf(1)), leaf(2));
        assert_eq!(merkle_root((0..3).map(leaf)), three);
        let five = node(node(node(leaf(0), leaf(1)), node(leaf(2), leaf(3))), leaf(4));
        assert_eq!(merkle_root((0..5).map(leaf)), five);
    }
}
