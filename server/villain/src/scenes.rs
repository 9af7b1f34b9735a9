//! Where each villain belongs, for whoever sets up a cluster to see what it does: its seat, what else must happen so that
//! it can act, and whether it is a flood.

use bft_cli::exit::Failure;
use bft_cli::output::{self, Output};
use bft_sim::villains::{Seat, Strategy};
use serde_json::{Value, json};

/// List the villains, and where each belongs
#[derive(clap::Args)]
pub struct Args {
    /// How to tell
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Which replica of a cluster a villain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The primary of view 0.
    Primary,
    /// That of view 1.
    Next,
    /// A backup of both.
    Backup,
}

/// What else happens in the cluster, with a villain or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// Nothing.
    Quiet,
    /// Primaries are stopped until another view has begun.
    ViewsEnd,
    /// A backup is away for so long that it needs a snapshot.
    Absence,
}

/// What a villain's harm is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// Lies, or what it does not say, or says late.
    Lies,
    /// It says more than it has to, so that the others work for nothing.
    Flood,
}

fn place(strategy: Strategy) -> Place {
    match strategy.seat() {
        Seat::First => Place::Primary,
        // Who lies about its past does so in its VIEW-CHANGE, which its own NEW-VIEW always holds.
        Seat::Second | Seat::Leaving => Place::Next,
        Seat::Any => Place::Backup,
    }
}

fn scene(strategy: Strategy) -> Scene {
    match (strategy, strategy.seat()) {
        (Strategy::LyingSource, _) => Scene::Absence,
        (_, Seat::Second | Seat::Leaving) => Scene::ViewsEnd,
        (_, Seat::First | Seat::Any) => Scene::Quiet,
    }
}

fn harm(strategy: Strategy) -> Harm {
    let floods = [Strategy::Begs, Strategy::FloodsAhead, Strategy::FramesOthers, Strategy::RunsAway];
    if floods.contains(&strategy) { Harm::Flood } else { Harm::Lies }
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Next => "next",
            Self::Backup => "backup",
        }
    }
}

impl Scene {
    fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::ViewsEnd => "views-end",
            Self::Absence => "absence",
        }
    }
}

impl Harm {
    fn name(self) -> &'static str {
        match self {
            Self::Lies => "lies",
            Self::Flood => "flood",
        }
    }
}

/// Lists them.
pub fn list(args: &Args) -> Result<(), Failure> {
    match args.output {
        Output::Json => output::line(&Value::from_iter(Strategy::ALL.iter().map(|one| object(*one))).to_string()),
        Output::Text => Strategy::ALL.iter().try_for_each(|one| {
            let (place, scene, harm) = (place(*one).name(), scene(*one).name(), harm(*one).name());
            output::line(&format!("{:<20} {place:<8} {scene:<10} {harm}", one.name()))
        }),
    }
}

fn object(strategy: Strategy) -> Value {
    json!({
        "name": strategy.name(),
        "place": place(strategy).name(),
        "scene": scene(strategy).name(),
        "harm": harm(strategy).name(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_attacks_as_a_primary_is_one_and_who_needs_a_view_to_end_gets_that() {
        let told = |strategy| (place(strategy), scene(strategy), harm(strategy));
        assert_eq!(told(Strategy::ProposesTwo), (Place::Primary, Scene::Quiet, Harm::Lies));
        assert_eq!(told(Strategy::BeginsTwo), (Place::Next, Scene::ViewsEnd, Harm::Lies));
        assert_eq!(told(Strategy::LyingSource), (Place::Backup, Scene::Absence, Harm::Lies));
        assert_eq!(told(Strategy::Begs), (Place::Backup, Scene::Quiet, Harm::Flood));
        assert_eq!(object(Strategy::Begs)["harm"], "flood");
    }
}
