//! The driver without io_uring: for each shard an event loop on epoll (mio), and a thread that writes the journal. What a
//! turn does is the same as on a ring; a durable write takes two hops between threads more.

mod dial;
mod socket;
mod sockets;
mod writer;

use std::net::TcpListener;

use crate::Pin;
use crate::clock;
use crate::error::ServerError;
use crate::io::cores::Cores;
use crate::io::host::{Core, Host, Local, Progress};
use crate::io::mesh::{Place, ToCore};
use sockets::{Room, Sockets};
pub use writer::Writer;

/// Runs the core on this thread, until it is stopped or fails.
pub fn run_core(place: Place, listener: Option<TcpListener>, core: Core<'_>) -> Result<(), ServerError> {
    if place.pin == Pin::Pinned {
        core.cores.pin(place.setup.index.into())?;
    }
    let brim = place.setup.brim.clone();
    let mut host = Host::new(Sockets::open(place, listener)?, brim, core);
    let outcome = serve(&mut host);
    let ended = host.end();
    outcome.and(ended)
}

/// Runs a shard on this thread, until the core tells it to end.
pub fn run_shard(place: Place, listener: Option<TcpListener>, mut core: ToCore) -> Result<(), ServerError> {
    let cores = Cores::of_this_thread()?;
    if place.pin == Pin::Pinned {
        cores.pin(place.setup.index.into())?;
    }
    let mut sockets = Sockets::open(place, listener)?;
    while !core.is_over() {
        let now = clock::now().mono;
        sockets.adopt(now);
        sockets.with_shard(|shard| core.exchange(now, shard));
        sockets.flush();
        sockets.wait(None, if core.is_full() { Room::None } else { Room::Some })?;
    }
    Ok(())
}

fn serve(host: &mut Host<'_, Sockets>) -> Result<(), ServerError> {
    host.begin()?;
    loop {
        let most = host.wait_max();
        host.local().wait(most, Room::Some)?;
        if host.turn()? == Progress::Over {
            return Ok(());
        }
    }
}
