//! One connection.

use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use bft_core::ids::ReplicaId;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{SockRef, TcpKeepalive};

use crate::io::KEEPALIVE;

/// A connection, and what is known of what the kernel has for it. Dropped, it is closed.
pub struct Socket {
    stream: TcpStream,
    /// The replica that was dialled.
    pub dialled: Option<ReplicaId>,
    /// Sealed bytes that the kernel has not taken.
    rest: Vec<u8>,
    written: usize,
    /// The kernel takes no more: it will say when it does.
    pub is_full: bool,
    /// There may be something to read: it waits in the list of those.
    pub is_readable: bool,
    /// The other end has closed: there is an end to be read.
    pub is_closing: bool,
}

impl Socket {
    /// For a connection that was just made.
    pub fn new(stream: TcpStream, dialled: Option<ReplicaId>) -> io::Result<Self> {
        let socket = SockRef::from(&stream);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        let (rest, written) = (Vec::new(), 0);
        Ok(Self { stream, dialled, rest, written, is_full: false, is_readable: false, is_closing: false })
    }

    /// For a connection that another executor had.
    pub fn adopt(connection: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned, and the stream takes it over.
        Self::new(unsafe { TcpStream::from_raw_fd(connection.into_raw_fd()) }, None)
    }

    /// Has the kernel tell of it under `token`.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// The connection for another executor; the kernel tells nothing of it here any more.
    pub fn into_connection(mut self, registry: &Registry) -> io::Result<OwnedFd> {
        registry.deregister(&mut self.stream)?;
        // SAFETY: the stream gives its descriptor up, and has owned it.
        Ok(unsafe { OwnedFd::from_raw_fd(self.stream.into_raw_fd()) })
    }

    /// Reads what there is, as much as `buffer` takes; 0: the other end has closed.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }

    /// Where bytes to be written are put. Empty unless the kernel takes no more.
    pub fn rest(&mut self) -> &mut Vec<u8> {
        &mut self.rest
    }

    /// Gives the kernel what it takes of the rest now; `is_full` says whether that was all.
    pub fn write(&mut self) -> io::Result<()> {
        self.is_full = false;
        while self.written < self.rest.len() {
            match self.stream.write(&self.rest[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_full = true;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.written = 0;
        self.rest.clear();
        Ok(())
    }
}
