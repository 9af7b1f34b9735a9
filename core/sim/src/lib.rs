//! The simulator: whole clusters, their clients and their faults in one thread, in virtual time, from one seed. The cores,
//! the journal and the clients are those of production; clocks, links, disks, entropy and signatures are simulated, and
//! judges that share none of the core's decisions watch everything that goes in and out. See `bft-sim --help`.
//!
//! * `options` and `environments` say what a seed chooses, `run` plays it, `checkers` judge it, `counters` and `trace` record it;
//! * `replica` (on `disk`, `boot`, `images`), `client`, `network` and `faults` are the parts of the play, `villains` its
//!   enemies;
//! * `campaign`, `matrix` (on `coverage`), `crash_points`, `twins`, `mutants` and `regressions` are what the commands do;
//!   `script` is what two of them write out instead of drawing it, `points` where a script cuts the power.
#![forbid(unsafe_code)]
#![allow(
    clippy::result_large_err,
    clippy::large_enum_variant,
    reason = "messages move as values here: boxes would cost more"
)]

pub mod boot;
pub mod campaign;
pub mod carriage;
pub mod checkers;
pub mod client;
pub mod cluster;
pub mod counters;
pub mod coverage;
pub mod crash_points;
pub mod disk;
pub mod environments;
pub mod faults;
pub mod images;
pub mod ledger;
pub mod matrix;
pub mod mutants;
pub mod network;
pub mod options;
pub mod points;
pub mod pool;
pub mod probes;
pub mod queue;
pub mod regressions;
pub mod replica;
pub mod rng;
pub mod run;
pub mod scheme;
pub mod script;
pub mod trace;
pub mod twins;
pub mod villains;
pub mod world;
