//! One connection: glommio's stream, read by one task, written where the bytes are sealed and, when the kernel takes no
//! more, by another.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::task::Poll;

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use socket2::{SockRef, TcpKeepalive};

use super::wake::Notice;
use crate::io::KEEPALIVE;

/// A connection.
pub struct Socket {
    stream: RefCell<TcpStream>,
    /// Sealed bytes that the kernel has not taken.
    rest: RefCell<Vec<u8>>,
    written: Cell<usize>,
    /// The kernel takes no more: the writing task waits for it.
    pub is_full: Cell<bool>,
    /// Wakes the writing task.
    pub writer: Notice,
    /// The link is closed.
    pub is_closed: Cell<bool>,
}

impl Socket {
    /// For a connection that was just made.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        let socket = Self {
            stream: RefCell::new(stream),
            rest: RefCell::default(),
            written: Cell::new(0),
            is_full: Cell::new(false),
            writer: Notice::default(),
            is_closed: Cell::new(false),
        };
        socket.with_fd(|fd| {
            let socket = SockRef::from(&fd);
            socket.set_tcp_nodelay(true)?;
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
        })?;
        Ok(socket)
    }

    /// For a connection that another executor had.
    pub fn adopt(connection: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned, and the stream takes it over.
        Self::new(unsafe { TcpStream::from_raw_fd(connection.into_raw_fd()) })
    }

    /// The same connection for another executor; this one must read no more.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.with_fd(|fd| fd.try_clone_to_owned())
    }

    /// Where the other end is.
    pub fn peer_address(&self) -> io::Result<IpAddr> {
        let address = self.with_fd(|fd| Ok(rustix::net::getpeername(fd)?))?;
        let address = address.map(SocketAddr::try_from).transpose()?;
        address.map(|address| address.ip()).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Reads into `buffer`, `most` bytes of it; 0: the other end has closed.
    pub async fn read(&self, buffer: &RefCell<Vec<u8>>, most: usize) -> io::Result<usize> {
        poll_fn(|context| {
            let mut stream = self.stream.borrow_mut();
            Pin::new(&mut *stream).poll_read(context, &mut buffer.borrow_mut()[..most])
        })
        .await
    }

    /// Where bytes to be written are put. Empty unless the kernel takes no more.
    pub fn rest(&self) -> std::cell::RefMut<'_, Vec<u8>> {
        self.rest.borrow_mut()
    }

    /// Gives the kernel what it takes of the rest now. `Ok(true)`: all of it.
    pub fn write_now(&self) -> io::Result<bool> {
        let mut rest = self.rest.borrow_mut();
        let mut written = self.written.get();
        while written < rest.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match self.with_fd(|fd| Ok(send(fd, &rest[written..], flags)?)) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.written.set(written);
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.written.set(0);
        rest.clear();
        Ok(true)
    }

    /// Waits until the kernel has taken the rest.
    pub async fn write_rest(&self) -> io::Result<()> {
        poll_fn(|context| {
            let mut rest = self.rest.borrow_mut();
            while self.written.get() < rest.len() {
                let mut stream = self.stream.borrow_mut();
                match Pin::new(&mut *stream).poll_write(context, &rest[self.written.get()..]) {
                    Poll::Ready(Ok(count)) => self.written.set(self.written.get() + count),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            self.written.set(0);
            rest.clear();
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Ends both tasks of the connection.
    pub fn close(&self) {
        self.is_closed.set(true);
        self.writer.give();
        // Wakes the reading task; where the connection is gone already, it has woken by itself.
        let _ = self.with_fd(|fd| Ok(shutdown(fd, Shutdown::Both)?));
    }

    fn with_fd<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        // SAFETY: the stream has the descriptor open as long as it lives, and `self` holds it.
        act(unsafe { BorrowedFd::borrow_raw(self.stream.borrow().as_raw_fd()) })
    }
}
