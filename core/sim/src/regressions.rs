//! Seeds that once failed, each in a file with a note of what it showed: `regressions/NNN.toml`. Replayed for ever.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::options::{Fidelity, Options, Scene};
use crate::run::run;
use crate::trace::Trace;

/// A seed that once failed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regression {
    /// The seed.
    pub seed: u64,
    /// Whether it failed with real signatures and the wire.
    #[serde(default)]
    pub full: bool,
    /// Who attacked, if that was given and not the seed's choice.
    pub villain: Option<String>,
    /// Which client attacked, if that was given and not the seed's choice.
    pub client: Option<String>,
    /// Which faults struck, if that was given and not the seed's choice.
    pub environment: Option<String>,
    /// One more fault that struck, if that was given.
    pub fault: Option<String>,
    /// What it showed.
    pub note: String,
}

impl Regression {
    fn scene(&self) -> Result<Scene, String> {
        Ok(Scene {
            villain: self.villain.as_deref().map(str::parse).transpose()?,
            client: self.client.as_deref().map(str::parse).transpose()?,
            environment: self.environment.as_deref().map(str::parse).transpose()?,
            fault: self.fault.as_deref().map(str::parse).transpose()?,
        })
    }
}

/// Where they lie.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions")
}

/// All of them, by file name.
pub fn all(directory: &Path) -> Result<Vec<(String, Regression)>, String> {
    let listed = std::fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut paths = Vec::new();
    for entry in listed {
        let path = entry.map_err(|error| format!("{}: {error}", directory.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<(String, Regression), String> {
    let in_file = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| in_file(&error))?;
    let regression = toml::from_str(&text).map_err(|error| in_file(&error))?;
    Ok((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), regression))
}

/// Replays one; an error says what it shows again.
pub fn replay(regression: &Regression) -> Result<(), String> {
    let fidelity = if regression.full { Fidelity::Full } else { Fidelity::Ledger };
    let report = run(Options::in_scene(regression.seed, fidelity, regression.scene()?), Trace::quiet());
    report.violation.map_or(Ok(()), |violation| Err(violation.to_string()))
}
