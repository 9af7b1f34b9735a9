//! The client of a BFT cluster. A [`Client`] is one key and one session with the cluster; behind it one thread owns the
//! links to all replicas and drives [`bft_core::client::ClientCore`], where the protocol is. Tagged
//! [`Client::submit`] and [`Client::poll`] are the primitive; futures ([`Client::send`]) and the blocking
//! [`Client::call`] stand beside them.
//!
//! ```no_run
//! use std::time::Duration;
//! use bft_client::{Client, ClientConfig, Completions, Outcome};
//!
//! let config = ClientConfig::load("client.toml".as_ref())?;
//! let client = Client::open(config, Completions::Futures)?;
//! match client.call(b"operation", Duration::from_secs(5)) {
//!     Outcome::Done { seq, result } => println!("executed at {seq}: {result:?}"),
//!     other => println!("{other:?}"),
//! }
//! client.close(Duration::from_secs(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Kept here: every operation that was taken completes exactly once, also when the client is closed, dropped or broken;
//! queues are bounded; nothing but [`Client::call`], [`Client::poll`], [`Client::query_info`] and [`Client::close`]
//! waits, and those only on the caller's thread.
#![forbid(unsafe_op_in_unsafe_fn)]

mod client;
mod completion;
mod config;
mod inbox;
mod net;

pub use bft_core::client::{NotSent, Outcome, Rejected, Unknown};
pub use bft_files::ConfigError;
pub use client::{Client, LinkReport, OpenError, OperationKind, Submit, SubmitError};
pub use completion::{BatchCallback, Completion, Completions, Pending, SessionReport, Wait};
pub use config::{ClientConfig, SessionStart};
