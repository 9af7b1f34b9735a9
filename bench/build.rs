//! What a report tells about the build: the commit, the compiler, the profile. `unknown` where it is not to be had, as
//! in a source archive.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // HEAD itself changes with a checkout, its log with every commit.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = said("git", &["rev-parse", "--path-format=absolute", "--git-path", name]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    tell("BFT_BENCH_COMMIT", said("git", &["rev-parse", "--short=12", "HEAD"]));
    tell("BFT_BENCH_RUSTC", said(&variable("RUSTC"), &["--version"]));
    let flags = variable("CARGO_ENCODED_RUSTFLAGS").replace('\x1f', " ");
    tell("BFT_BENCH_PROFILE", Some(format!("opt-level {}, {}", variable("OPT_LEVEL"), profile_folder())));
    tell("BFT_BENCH_RUSTFLAGS", Some(flags));
}

/// Cargo tells `release` for every profile that inherits from it; its output folder has the profile's own name.
fn profile_folder() -> String {
    let out = variable("OUT_DIR");
    let mut parents = std::path::Path::new(&out).ancestors().skip(3);
    let name = parents.next().and_then(|folder| folder.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| variable("PROFILE"))
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn tell(name: &str, value: Option<String>) {
    println!("cargo::rustc-env={name}={}", value.unwrap_or_else(|| "unknown".into()));
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_string())
}
