//! The journal's own ring, apart from the executor's: writes go out linked to their flush, several at a time; completions
//! ring the executor's bell.
//!
//! Kept here: memory that the kernel may still read or fill is neither moved nor freed (see `Drop`); the flush behind a
//! write that failed or was short is cancelled (D3).

use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, cqueue, opcode, types};

use crate::error::{IoUringRefused, ServerError};
use crate::io::doorbell::Doorbell;
use crate::io::journal::{Aim, Device, DiskError, Flight, Landed};
use crate::io::probe::WritePath;

/// Entries of the ring: far more than groups in flight, superblocks and reads need.
const ENTRIES: u32 = 64;
/// Tags the completion of a flush; the rest of the tag is the flight's place.
const FLUSH: u64 = 1 << 63;

/// A flight that the kernel has.
struct Airborne {
    flight: Flight,
    /// Completions that are still to come.
    left: u8,
    moved: Result<usize, DiskError>,
    flushed: Result<(), DiskError>,
}

impl Airborne {
    /// The flush behind a write that was not whole is cancelled, and says nothing.
    fn land(self) -> Landed {
        let len = self.flight.bytes.len();
        let outcome = self.moved.and_then(|moved| if moved == len { self.flushed.map(|()| moved) } else { Ok(moved) });
        Landed { flight: self.flight, outcome }
    }
}

/// The ring.
pub struct Ring {
    ring: IoUring,
    way: WritePath,
    flights: Vec<Option<Airborne>>,
    is_pushed: bool,
}

impl Ring {
    /// A ring that rings `bell`.
    pub fn new(way: WritePath, bell: &Doorbell) -> Result<Self, ServerError> {
        let refused = |what| move |source| ServerError::from(IoUringRefused { what, source });
        let ring = IoUring::new(ENTRIES).map_err(refused("io_uring_setup for the journal"))?;
        ring.submitter().register_eventfd(bell.event().as_raw_fd()).map_err(refused("IORING_REGISTER_EVENTFD"))?;
        Ok(Self { ring, way, flights: Vec::new(), is_pushed: false })
    }

    fn free_place(&mut self) -> usize {
        self.flights.iter().position(Option::is_none).unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        })
    }

    /// Notes what the kernel says; the flight, if that was the last of it.
    fn complete(&mut self, entry: &cqueue::Entry) -> Option<Landed> {
        let is_flush = entry.user_data() & FLUSH != 0;
        let place = &mut self.flights[(entry.user_data() & !FLUSH) as usize];
        let airborne = place.as_mut().expect("a completion belongs to a flight");
        let result = u32::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
        if is_flush {
            airborne.flushed = result.map(drop).map_err(DiskError::of("flush"));
        } else {
            let what = match airborne.flight.aim {
                Aim::Write(_) => "write",
                Aim::Read { .. } => "read",
            };
            airborne.moved = result.map(|moved| moved as usize).map_err(DiskError::of(what));
        }
        airborne.left -= 1;
        // Also a failed one is over when its last entry is: nobody waits for it in vain.
        let is_over = airborne.left == 0;
        let landed = if is_over { place.take() } else { None };
        landed.map(Airborne::land)
    }

    fn next_entry(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }
}

impl Device for Ring {
    fn take(&mut self, mut flight: Flight) {
        let place = self.free_place();
        let tag = place as u64;
        let len = u32::try_from(flight.bytes.len()).expect("blocks lie in one segment");
        let (first, flush) = match flight.aim {
            Aim::Write(_) => {
                self.way.entries(&flight.file.file, (flight.bytes.as_ptr(), len), flight.offset, (tag, tag | FLUSH))
            }
            Aim::Read { .. } => {
                let fd = types::Fd(flight.file.file.as_raw_fd());
                let read = opcode::Read::new(fd, flight.bytes.as_mut_ptr(), len).offset(flight.offset).build();
                (read.user_data(tag), None)
            }
        };
        let left = 1 + u8::from(flush.is_some());
        self.flights[place] = Some(Airborne { flight, left, moved: Ok(0), flushed: Ok(()) });
        for entry in std::iter::once(first).chain(flush) {
            // SAFETY: the flight keeps the memory and the file until the completions of all its entries are seen; `bytes`
            // owns its memory on the heap, so moving the flight does not move it.
            unsafe { self.ring.submission().push(&entry) }.expect("the ring holds more than may be in flight");
        }
        self.is_pushed = true;
    }

    fn submit(&mut self) -> Result<(), ServerError> {
        if std::mem::take(&mut self.is_pushed) {
            let failed = |error| ServerError::Executor(format!("io_uring_enter for the journal: {error}"));
            self.ring.submit().map_err(failed)?;
        }
        Ok(())
    }

    fn landed(&mut self) -> Result<Option<Landed>, ServerError> {
        while let Some(entry) = self.next_entry() {
            if let Some(landed) = self.complete(&entry) {
                return Ok(Some(landed));
            }
        }
        Ok(None)
    }
}

impl Drop for Ring {
    /// The kernel may still use the memory of what is in flight: it is waited for, and given up where that fails.
    fn drop(&mut self) {
        while self.flights.iter().any(Option::is_some) {
            if self.ring.submit_and_wait(1).is_err() {
                std::mem::forget(std::mem::take(&mut self.flights));
                return;
            }
            while let Some(entry) = self.next_entry() {
                drop(self.complete(&entry));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bft_core::journal::{BlockBuf, Ticket};

    use super::*;
    use crate::io::segments::JournalFile;

    #[test]
    fn d3_a_write_that_the_kernel_cuts_short_is_told_as_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 8192]).unwrap();
        let file = Arc::new(JournalFile { file: WritePath::Buffered.open(&path).unwrap(), path });
        let mut ring = Ring::new(WritePath::Buffered, &Doorbell::new().unwrap()).unwrap();
        let aim = Aim::Write(Ticket(1));
        let mut bytes = BlockBuf::with_capacity(8192);
        bytes.put_zeros(4096);
        ring.take(Flight { aim, bytes, file, offset: 0 });
        // The kernel is given half of what the flight expects.
        ring.flights[0].as_mut().unwrap().flight.bytes.put_zeros(4096);
        ring.submit().unwrap();
        let landed = loop {
            if let Some(landed) = ring.landed().unwrap() {
                break landed;
            }
            std::thread::yield_now();
        };
        assert_eq!((landed.flight.aim, landed.flight.bytes.len()), (aim, 8192));
        assert!(matches!(landed.outcome, Ok(4096)), "{:?}", landed.outcome);
    }
}
