//! What comes over a link: of every message the well-formed one passes, and with any one field changed it is refused
//! for the right reason.

mod certificates;
mod checking;
mod checkpoints;
#[path = "../common/mod.rs"]
mod common;
mod kinds;
mod requests;
mod view_changes;
mod votes;
