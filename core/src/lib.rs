//! The protocol of `bft` as a pure state machine: no clock, socket, file, thread or randomness. Everything comes in
//! through [`door::Input`], everything goes out through [`door::Effects`]; who carries them out is outside
//! (`bft-server` in production, `bft-sim` in the simulator, your own loop if you embed this crate).
#![forbid(unsafe_code)]

pub mod auth;
pub mod client;
pub mod config;
pub mod divergence;
pub mod door;
pub mod evidence;
pub mod execution;
pub mod hash;
pub mod ids;
pub mod journal;
pub mod limits;
pub mod mutants;
pub mod ordering;
pub mod quorum;
pub mod replica;
pub mod service;
pub mod snapshot;
pub mod wire;
