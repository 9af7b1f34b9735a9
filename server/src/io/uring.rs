//! The driver on io_uring: glommio's executors for sockets and timers, a ring of our own for the journal.

mod bell;
mod executor;
mod node;
mod ring;
mod socket;
mod wake;

use std::net::TcpListener;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use crate::Pin;
use crate::error::{IoUringRefused, ServerError};
use crate::io::host::Core;
use crate::io::mesh::{Place, ToCore};
use executor::Executor;
pub use ring::Ring;

/// Memory that each of an executor's rings registers; its files are read by other means.
const IO_MEMORY: usize = 64 * 1024;
/// Entries of each of an executor's three rings: locked memory is scarce.
const RING_DEPTH: usize = 128;

/// Runs the core on an executor on this thread, until it is stopped or fails.
pub fn run_core(place: Place, listener: Option<TcpListener>, core: Core<'_>) -> Result<(), ServerError> {
    let executor = make_executor(&place)?;
    executor.run(async { node::run(Executor::new(place, None), listener, core).await })
}

/// Runs a shard on an executor on this thread, until the core tells it to end.
pub fn run_shard(place: Place, listener: Option<TcpListener>, core: ToCore) -> Result<(), ServerError> {
    let executor = make_executor(&place)?;
    executor.run(async { Executor::new(place, Some(core)).run_shard(listener).await })
}

fn make_executor(place: &Place) -> Result<LocalExecutor, ServerError> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let placement = match place.pin {
        Pin::Pinned => Placement::Fixed(usize::from(place.setup.index) % cpus),
        Pin::Free => Placement::Unbound,
    };
    let builder = LocalExecutorBuilder::new(placement).io_memory(IO_MEMORY).ring_depth(RING_DEPTH);
    builder.make().map_err(|error| {
        let source = std::io::Error::other(error.to_string());
        IoUringRefused { what: "the executor's rings", source }.into()
    })
}
