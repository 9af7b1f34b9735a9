//! From `host:port` to socket addresses. Numbers are read here; names go to the system's resolver, which blocks, and so
//! has a thread for as long as it takes.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex};

use super::signals;
use crate::completion::lock;

/// A question to the system's resolver.
pub(super) struct Lookup(Arc<Mutex<Option<io::Result<Vec<SocketAddr>>>>>);

/// Where an address leads.
pub(super) enum Resolved {
    At(Vec<SocketAddr>),
    Later(Lookup),
}

/// Begins to resolve `address`; `waker` tells when a [`Lookup`] has its answer.
pub(super) fn resolve(address: &str, waker: &Arc<mio::Waker>) -> io::Result<Resolved> {
    if let Ok(at) = address.parse() {
        return Ok(Resolved::At(vec![at]));
    }
    let answer = Arc::<Mutex<_>>::default();
    let (theirs, waker, address) = (Arc::clone(&answer), waker.clone(), address.to_owned());
    signals::spawn("bft-resolve", move || {
        let found = address.to_socket_addrs().map(Iterator::collect);
        *lock(&theirs) = Some(found);
        waker.wake().expect("an event descriptor can always be written");
    })?;
    Ok(Resolved::Later(Lookup(answer)))
}

impl Lookup {
    /// The answer, once it is there.
    pub(super) fn answer(&self) -> Option<io::Result<Vec<SocketAddr>>> {
        lock(&self.0).take()
    }
}
