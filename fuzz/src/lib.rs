//! Hostile bytes. For each door through which bytes come in that somebody else made there is a *target*: a function that
//! takes any bytes and panics if what must hold for every input does not. Three things call them: libFuzzer (the crate in
//! `targets/`), `tests/corpora.rs`, which replays everything in `corpus/` in every run of the tests, and `bin/seeds.rs`,
//! which writes the genuine encodings that a search starts from.
//!
//! Not here: hostile bytes against a running replica (`server/bftd/tests/hostile.rs`), which takes [`cast`] and
//! [`mutate`] from here. How to run a search, and what was found: `docs/hostile-input.md`.
//!
//! Kept here: a target is a function of its bytes alone, so that a finding is a file.
#![forbid(unsafe_code)]

pub mod cast;
pub mod evidence;
pub mod feed;
pub mod files;
pub mod journal;
pub mod link;
pub mod mutate;
pub mod seeds;
pub mod state;
pub mod wire;

/// A target's name, which is also the name of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 10] = [
    ("frame", wire::frame),
    ("message", wire::message),
    ("evidence", evidence::evidence),
    ("handshake", link::handshake),
    ("record", link::record),
    ("journal", journal::scan),
    ("disk", journal::disk),
    ("snapshot", state::snapshot),
    ("kv", state::kv),
    ("config", files::config),
];
