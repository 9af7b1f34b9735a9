//! Writes the seeds of every corpus: `cargo run --release -p bft-fuzz --bin seeds`. What else lies in a corpus stays.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::Path;

use bft_fuzz::{TARGETS, seeds};

fn main() -> io::Result<()> {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, _) in TARGETS {
        let corpus = corpora.join(target);
        fs::create_dir_all(&corpus)?;
        for entry in fs::read_dir(&corpus)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("seed-") {
                fs::remove_file(entry.path())?;
            }
        }
        let seeds = seeds::of(target);
        for (name, bytes) in &seeds {
            fs::write(corpus.join(name), bytes)?;
        }
        println!("{target}: {} seeds", seeds.len());
    }
    Ok(())
}
