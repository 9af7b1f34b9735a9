//! Replays every file of every corpus, and holds the seeds against the formats.

use std::fs;
use std::path::{Path, PathBuf};

use bft_fuzz::mutate::{Draw, mutate};
use bft_fuzz::{TARGETS, Target, seeds};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// The files of a corpus, by name.
fn files(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(corpus(target)).unwrap_or_else(|error| panic!("the corpus of {target}: {error}"));
    let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    let mut files: Vec<_> = entries.map(|entry| read(entry.unwrap())).collect();
    files.sort();
    files
}

/// A panic in `body` is told with what it was given.
fn hold((target, body): Target, what: &str, bytes: &[u8]) {
    let ended = std::panic::catch_unwind(|| body(bytes));
    assert!(ended.is_ok(), "{target} does not hold for {what}: {bytes:02x?}");
}

#[test]
fn every_file_of_every_corpus_holds() {
    for target in TARGETS {
        let files = files(target.0);
        assert!(!files.is_empty(), "{} has no corpus", target.0);
        files.iter().for_each(|(name, bytes)| hold(target, name, bytes));
    }
}

#[test]
fn every_corpus_holds_the_genuine_encodings_of_today() {
    for (target, _) in TARGETS {
        let files: Vec<_> = files(target).into_iter().filter(|(name, _)| name.starts_with("seed-")).collect();
        let mut seeds = seeds::of(target);
        seeds.sort();
        assert!(files == seeds, "{target}: a format changed; write its seeds with `cargo run -p bft-fuzz --bin seeds`");
    }
}

#[test]
fn no_corpus_has_grown_out_of_proportion() {
    let total: usize = TARGETS.iter().flat_map(|(target, _)| files(target)).map(|(_, bytes)| bytes.len()).sum();
    assert!(total < 1 << 20, "the corpora have {total} bytes: minimise them");
}

/// A little search in every run of the tests: the mutations that the test on a live replica uses.
#[test]
fn mutations_of_the_seeds_hold() {
    let mut draw = Draw::new(1);
    for target in TARGETS {
        for (name, seed) in seeds::of(target.0) {
            for round in 0..8 {
                let mut bytes = seed.clone();
                mutate(&mut draw, &mut bytes);
                hold(target, &format!("{name}, mutation {round}"), &bytes);
            }
        }
    }
}
