//! Who the villains are, and where each belongs: as the program says that runs them. This one knows nothing of them.

use std::path::PathBuf;
use std::process::Command;

use bft_core::ids::View;
use bft_server::children::Program;
use serde_json::Value;

use crate::exit::{Failure, Reason};

/// The program, where nobody names another: beside this one.
const PROGRAM: &str = "bft-villain";

/// One villain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Villain {
    /// What it is called.
    pub name: String,
    /// Which replica it is.
    pub place: Place,
    /// What else happens.
    pub scene: Scene,
    /// What its harm is made of.
    pub harm: Harm,
}

/// Which replica a villain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The primary of view 0.
    Primary,
    /// That of view 1.
    Next,
    /// A backup of both.
    Backup,
}

/// What else happens in the cluster, with a villain or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// Nothing.
    Quiet,
    /// The primary is stopped until another view has begun.
    ViewsEnd,
    /// A backup is away for so long that it needs a snapshot.
    Absence,
}

/// What a villain's harm is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Lies, silence, delays.
    Lies,
    /// More than it has to say.
    Flood,
}

impl Place {
    /// The first view that it leads, or would.
    pub fn view(self) -> View {
        match self {
            Self::Primary => View(0),
            Self::Next => View(1),
            Self::Backup => View(2),
        }
    }

    /// In reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Next => "next",
            Self::Backup => "backup",
        }
    }
}

impl Scene {
    /// In reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::ViewsEnd => "views-end",
            Self::Absence => "absence",
        }
    }
}

impl Harm {
    /// The part of the throughput without it that a cluster should keep.
    pub fn aim(self) -> f64 {
        match self {
            Self::Lies => 0.5,
            Self::Flood => 0.8,
        }
    }
}

/// The program that runs villains.
pub struct Cast {
    path: PathBuf,
}

impl Cast {
    /// The program at `path`, or the one beside this.
    pub fn new(path: Option<PathBuf>) -> Result<Self, Failure> {
        let beside = || std::env::current_exe().map(|own| own.with_file_name(PROGRAM));
        let path = path.map_or_else(beside, Ok);
        let path =
            path.map_err(|error| Failure::new(Reason::Unavailable, format!("where this program is: {error}")))?;
        Ok(Self { path })
    }

    /// Those named, or all.
    pub fn villains(&self, only: &[String]) -> Result<Vec<Villain>, Failure> {
        let output = Command::new(&self.path).args(["list", "--output", "json"]).output();
        let output = output.map_err(|error| self.unusable(&error.to_string()))?;
        if !output.status.success() {
            return Err(self.unusable(String::from_utf8_lossy(&output.stderr).trim()));
        }
        let all = parse(&output.stdout).ok_or_else(|| self.unusable("it does not list its villains"))?;
        if let Some(unknown) = only.iter().find(|name| all.iter().all(|villain| villain.name != **name)) {
            let known: Vec<_> = all.iter().map(|villain| &*villain.name).collect();
            let what = format!("--only {unknown}: there is no such villain; there are: {}", known.join(", "));
            return Err(Failure::new(Reason::Usage, what));
        }
        Ok(all.into_iter().filter(|villain| only.is_empty() || only.contains(&villain.name)).collect())
    }

    /// What runs a replica with this villain.
    pub fn program(&self, villain: &Villain) -> Program {
        let arguments = ["run", "--villain", &villain.name].iter().map(Into::into).collect();
        Program { path: self.path.clone(), arguments }
    }

    fn unusable(&self, why: &str) -> Failure {
        let what = format!(
            "--villain-program {}: {why}. It is built by cargo build --release -p {PROGRAM}",
            self.path.display()
        );
        Failure::new(Reason::Unavailable, what)
    }
}

fn parse(list: &[u8]) -> Option<Vec<Villain>> {
    let list: Value = serde_json::from_slice(list).ok()?;
    list.as_array()?.iter().map(one).collect()
}

fn one(object: &Value) -> Option<Villain> {
    let place = match object["place"].as_str()? {
        "primary" => Place::Primary,
        "next" => Place::Next,
        "backup" => Place::Backup,
        _ => return None,
    };
    let scene = match object["scene"].as_str()? {
        "quiet" => Scene::Quiet,
        "views-end" => Scene::ViewsEnd,
        "absence" => Scene::Absence,
        _ => return None,
    };
    let harm = match object["harm"].as_str()? {
        "lies" => Harm::Lies,
        "flood" => Harm::Flood,
        _ => return None,
    };
    Some(Villain { name: object["name"].as_str()?.into(), place, scene, harm })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_understood_whole_or_not_at_all() {
        let list = br#"[{"name": "a", "place": "next", "scene": "views-end", "harm": "flood"}]"#;
        let villain = Villain { name: "a".into(), place: Place::Next, scene: Scene::ViewsEnd, harm: Harm::Flood };
        assert_eq!(parse(list), Some(vec![villain]));
        for list in ["[{}]", "{}", "no", r#"[{"name": "a", "place": "here", "scene": "quiet", "harm": "lies"}]"#] {
            assert_eq!(parse(list.as_bytes()), None, "{list}");
        }
    }
}
