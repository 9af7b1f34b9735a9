//! The journal's thread: writes what was handed in together, flushes once for all of it, and says so. Reads go behind
//! writes, one at a time.
//!
//! Kept here: a file is flushed after everything that was written to it, and before any of that is reported (D3); after the
//! first error nothing more is written (D2).

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use crate::error::ServerError;
use crate::io::doorbell::Doorbell;
use crate::io::journal::{Aim, Device, DiskError, Flight, Landed};
use crate::io::probe::WritePath;

/// The executor's end.
pub struct Writer {
    taken: Vec<Flight>,
    orders: Option<mpsc::Sender<Vec<Flight>>>,
    landed: mpsc::Receiver<Landed>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. It rings `bell`.
    pub fn start(way: WritePath, bell: Arc<Doorbell>) -> Self {
        let (orders, ordered) = mpsc::channel();
        let (done, landed) = mpsc::channel();
        let thread = std::thread::Builder::new().name("bft-journal".into());
        let desk = Desk { way, writes: Vec::new(), reads: VecDeque::new(), done, bell };
        let thread = thread.spawn(move || desk.serve(&ordered)).expect("the system has threads left");
        Self { taken: Vec::new(), orders: Some(orders), landed, thread: Some(thread) }
    }
}

impl Device for Writer {
    fn take(&mut self, flight: Flight) {
        self.taken.push(flight);
    }

    fn submit(&mut self) -> Result<(), ServerError> {
        if !self.taken.is_empty() {
            // A thread that is gone has left word why: `landed` says it.
            let _ = self.orders.as_ref().expect("taken only when dropped").send(std::mem::take(&mut self.taken));
        }
        Ok(())
    }

    fn landed(&mut self) -> Result<Option<Landed>, ServerError> {
        match self.landed.try_recv() {
            Ok(landed) => Ok(Some(landed)),
            Err(mpsc::TryRecvError::Empty) => Ok(None),
            Err(mpsc::TryRecvError::Disconnected) => Err(ServerError::ThreadEnded("journal")),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed there.
            let _ = thread.join();
        }
    }
}

/// The thread's end.
struct Desk {
    way: WritePath,
    writes: Vec<Flight>,
    reads: VecDeque<Flight>,
    done: mpsc::Sender<Landed>,
    bell: Arc<Doorbell>,
}

/// The thread is to end.
struct Over;

impl Desk {
    fn serve(mut self, ordered: &mpsc::Receiver<Vec<Flight>>) {
        while self.gather(ordered).and_then(|()| self.write()).and_then(|()| self.read()).is_ok() {}
    }

    /// Takes all there is; waits for something where there is nothing to do.
    fn gather(&mut self, ordered: &mpsc::Receiver<Vec<Flight>>) -> Result<(), Over> {
        if self.reads.is_empty() {
            let flights = ordered.recv().map_err(|_| Over)?;
            self.sort(flights);
        }
        while let Ok(flights) = ordered.try_recv() {
            self.sort(flights);
        }
        Ok(())
    }

    fn sort(&mut self, flights: Vec<Flight>) {
        for flight in flights {
            match flight.aim {
                Aim::Write(_) => self.writes.push(flight),
                Aim::Read { .. } => self.reads.push_back(flight),
            }
        }
    }

    fn write(&mut self) -> Result<(), Over> {
        if self.writes.is_empty() {
            return Ok(());
        }
        let mut writes = std::mem::take(&mut self.writes);
        let over = match self.write_all(&writes) {
            Ok(()) => {
                writes.drain(..).try_for_each(|flight| self.tell(Landed { outcome: Ok(flight.bytes.len()), flight }))
            }
            // Of the others nothing is told: nobody asks any more.
            Err((failed, outcome)) => self.tell(Landed { flight: writes.swap_remove(failed), outcome }).and(Err(Over)),
        };
        self.bell.ring();
        self.writes = writes;
        over
    }

    /// Makes all of them durable; otherwise which one failed, and how.
    fn write_all(&self, writes: &[Flight]) -> Result<(), (usize, Result<usize, DiskError>)> {
        for (place, flight) in writes.iter().enumerate() {
            match write_at(flight) {
                Ok(done) if done == flight.bytes.len() => {}
                outcome => return Err((place, outcome.map_err(DiskError::of("write")))),
            }
        }
        if self.way.is_synchronous() {
            return Ok(());
        }
        for (place, flight) in writes.iter().enumerate() {
            let is_flushed = writes[..place].iter().any(|earlier| Arc::ptr_eq(&earlier.file, &flight.file));
            if !is_flushed {
                flight.file.file.sync_data().map_err(|error| (place, Err(DiskError::of("flush")(error))))?;
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), Over> {
        let Some(mut flight) = self.reads.pop_front() else { return Ok(()) };
        let outcome = read_at(&mut flight).map_err(DiskError::of("read"));
        let told = self.tell(Landed { flight, outcome });
        self.bell.ring();
        told
    }

    fn tell(&self, landed: Landed) -> Result<(), Over> {
        self.done.send(landed).map_err(|_| Over)
    }
}

fn write_at(flight: &Flight) -> io::Result<usize> {
    uninterrupted(|| flight.file.file.write_at(&flight.bytes, flight.offset))
}

fn read_at(flight: &mut Flight) -> io::Result<usize> {
    uninterrupted(|| flight.file.file.read_at(&mut flight.bytes, flight.offset))
}

/// A signal that came before anything was done is no failure of the disk.
fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use bft_core::ids::LogPosition;
    use bft_core::journal::{BlockBuf, Extent, Ticket};

    use super::*;
    use crate::io::segments::JournalFile;

    fn file(path: &Path) -> Arc<JournalFile> {
        Arc::new(JournalFile { file: WritePath::Buffered.open(path).unwrap(), path: path.into() })
    }

    fn write(ticket: u64, file: &Arc<JournalFile>) -> Flight {
        let (aim, bytes) = (Aim::Write(Ticket(ticket)), BlockBuf::zeroed(4096));
        Flight { aim, bytes, file: file.clone(), offset: ticket * 4096 }
    }

    fn wait(writer: &mut Writer) -> Result<Landed, ServerError> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(landed) = writer.landed()? {
                return Ok(landed);
            }
            assert!(Instant::now() < until, "the thread does nothing");
            std::thread::yield_now();
        }
    }

    #[test]
    fn d2_after_a_failed_write_nothing_more_is_written_or_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 3 * 4096]).unwrap();
        let (good, full) = (file(&path), file(Path::new("/dev/full")));
        let mut writer = Writer::start(WritePath::Buffered, Arc::new(Doorbell::new().unwrap()));
        for flight in [write(0, &good), write(1, &full), write(2, &good)] {
            writer.take(flight);
        }
        writer.submit().unwrap();
        let landed = wait(&mut writer).unwrap();
        assert_eq!(landed.flight.aim, Aim::Write(Ticket(1)));
        assert_eq!(landed.outcome.unwrap_err().what, "write");
        writer.take(write(2, &good));
        writer.submit().unwrap();
        let ended = wait(&mut writer).unwrap_err();
        assert!(matches!(ended, ServerError::ThreadEnded("journal")), "{ended}");
        assert_eq!(std::fs::read(&path).unwrap()[2 * 4096..], [7; 4096]);
    }

    #[test]
    fn reads_go_behind_writes_and_files_are_free_when_they_have_landed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 3 * 4096]).unwrap();
        let good = file(&path);
        let mut writer = Writer::start(WritePath::Buffered, Arc::new(Doorbell::new().unwrap()));
        let extent = Extent { segment: 0, offset: 0, len: 100 };
        let aim = Aim::Read { at: LogPosition(1), extent };
        writer.take(Flight { aim, bytes: BlockBuf::zeroed(8192), file: good.clone(), offset: 4096 });
        writer.take(write(1, &good));
        writer.take(write(0, &good));
        writer.submit().unwrap();
        let written = [wait(&mut writer).unwrap(), wait(&mut writer).unwrap()];
        assert_eq!(written.map(|landed| landed.flight.aim), [Aim::Write(Ticket(1)), Aim::Write(Ticket(0))]);
        let landed = wait(&mut writer).unwrap();
        assert_eq!((landed.flight.aim, landed.outcome.unwrap()), (aim, 8192));
        assert!(landed.flight.bytes[..4096] == [0; 4096] && landed.flight.bytes[4096..] == [7; 4096]);
        drop(landed.flight.file);
        assert!(Arc::try_unwrap(good).is_ok(), "a file can be used again");
    }
}
