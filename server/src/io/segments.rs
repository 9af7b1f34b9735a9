//! The files of the journal's segments: written full of zeros ahead of need on a thread of their own, used, and used
//! again. A file's name says nothing about the segment in it; block 0 does.
//!
//! Kept here: a file handed out as new is of full length, which is what the configuration says now, flushed, and so is its
//! name; at most `SPARES_MAX` unused files are kept.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::data_dir::{flush_folder, is_disk_full};
use crate::error::ServerError;
use crate::io::doorbell::Doorbell;
use crate::io::probe::WritePath;

/// Unused files that are made ahead.
const SPARES: usize = 1;
/// Unused files that are kept when the journal gives back more.
const SPARES_MAX: usize = 2;
/// How long the maker waits before it tries a full disk again.
const FULL_DISK_RETRY: Duration = Duration::from_secs(1);
/// Written at a time when a file is made.
const ZEROS: usize = 1 << 20;

/// One file of the journal, open for whoever carries its blocks.
#[derive(Debug)]
pub struct JournalFile {
    /// The file.
    pub file: File,
    /// Where it lies.
    pub path: PathBuf,
}

impl JournalFile {
    /// Whether it is as long as a new segment's file.
    fn is_of(&self, segment_bytes: u32) -> Result<bool, ServerError> {
        let metadata = self.file.metadata().map_err(failed("look at", &self.path))?;
        Ok(metadata.len() == u64::from(segment_bytes))
    }

    fn remove(&self) -> Result<(), ServerError> {
        fs::remove_file(&self.path).map_err(failed("remove", &self.path))
    }
}

/// All of them.
pub struct Segments {
    way: WritePath,
    segment_bytes: u32,
    in_use: BTreeMap<u32, Arc<JournalFile>>,
    spares: Vec<JournalFile>,
    maker: Maker,
}

impl Segments {
    /// `in_use`: the files that hold segments which the journal still needs, by segment number; `unused`: all others in
    /// `folder`. Makes the first spare at once if there is none.
    pub fn open(
        folder: &Path,
        way: WritePath,
        segment_bytes: u32,
        in_use: Vec<(u32, PathBuf)>,
        unused: Vec<PathBuf>,
        bell: Arc<Doorbell>,
    ) -> Result<Self, ServerError> {
        let names = in_use.iter().map(|(_, path)| path).chain(&unused);
        let mut next_name = names.filter_map(|path| file_number(path)).max().map_or(0, |last| last + 1);
        let mut spares = Vec::new();
        for path in unused {
            let file = open(way, path)?;
            if spares.len() < SPARES_MAX && file.is_of(segment_bytes)? {
                spares.push(file);
            } else {
                file.remove()?;
            }
        }
        let mut opened = BTreeMap::new();
        for (number, path) in in_use {
            opened.insert(number, Arc::new(open(way, path)?));
        }
        if spares.is_empty() {
            spares.push(open(way, make(folder, segment_bytes, next_name)?)?);
            next_name += 1;
        }
        let folder = folder.to_owned();
        let maker = Maker::start(next_name, bell, move |name| make(&folder, segment_bytes, name));
        let mut segments = Self { way, segment_bytes, in_use: opened, spares, maker };
        segments.order_spares();
        Ok(segments)
    }

    /// The file of segment `number`; with `is_new`, an unused one that becomes it. `None`: none is ready yet.
    pub fn file(&mut self, number: u32, is_new: bool) -> Result<Option<Arc<JournalFile>>, ServerError> {
        if is_new && !self.in_use.contains_key(&number) {
            self.collect()?;
            let Some(spare) = self.spares.pop() else { return Ok(None) };
            self.in_use.insert(number, Arc::new(spare));
            self.order_spares();
        }
        Ok(Some(self.in_use.get(&number).expect("the journal writes to segments that it has begun").clone()))
    }

    /// The file of a segment that is there.
    #[must_use]
    pub fn existing(&self, number: u32) -> Option<Arc<JournalFile>> {
        self.in_use.get(&number).cloned()
    }

    /// Whether a file is waited for that the disk has no room for.
    #[must_use]
    pub fn lacks_room(&self) -> bool {
        self.maker.lacks_room.load(Ordering::Relaxed)
    }

    /// The journal needs this segment no more: its file may become another.
    pub fn recycle(&mut self, number: u32) -> Result<(), ServerError> {
        let file = self.in_use.remove(&number).expect("the journal gives back what it has");
        match Arc::try_unwrap(file) {
            Ok(file) if self.spares.len() < SPARES_MAX && file.is_of(self.segment_bytes)? => self.spares.push(file),
            Ok(file) => file.remove()?,
            // A read of it is under way: the file goes when that ends.
            Err(file) => file.remove()?,
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<(), ServerError> {
        while let Some(made) = self.maker.poll()? {
            self.spares.push(open(self.way, made)?);
        }
        Ok(())
    }

    fn order_spares(&mut self) {
        while self.spares.len() + self.maker.ordered < SPARES {
            self.maker.order();
        }
    }
}

fn open(way: WritePath, path: PathBuf) -> Result<JournalFile, ServerError> {
    let file = way.open(&path).map_err(failed("open", &path))?;
    Ok(JournalFile { file, path })
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServerError {
    let path = path.to_owned();
    move |source| ServerError::JournalIo { what, path, source }
}

/// The paths of all segment files in `folder`.
pub fn segment_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if file_number(&path).is_some() {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

fn file_number(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_suffix(".seg")?.parse().ok()
}

/// Makes files.
struct Maker {
    orders: Option<mpsc::Sender<()>>,
    made: mpsc::Receiver<Result<PathBuf, ServerError>>,
    ordered: usize,
    lacks_room: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Makes the file of this name.
type Make = dyn FnMut(u32) -> Result<PathBuf, ServerError> + Send;

impl Maker {
    fn start(
        mut next_name: u32,
        bell: Arc<Doorbell>,
        mut make: impl FnMut(u32) -> Result<PathBuf, ServerError> + Send + 'static,
    ) -> Self {
        let (orders, ordered) = mpsc::channel();
        let (done, made) = mpsc::channel();
        let lacks_room = Arc::new(AtomicBool::new(false));
        let told = lacks_room.clone();
        let thread = std::thread::Builder::new().name("bft-segments".into());
        let thread = thread.spawn(move || {
            while let Ok(()) = ordered.recv() {
                let made = make_when_there_is_room(&mut make, next_name, &ordered, &told);
                let Some(made) = made else { return };
                next_name += 1;
                if done.send(made).is_err() {
                    return;
                }
                bell.ring();
            }
        });
        let thread = Some(thread.expect("the system has threads left"));
        Self { orders: Some(orders), made, ordered: 0, lacks_room, thread }
    }

    fn order(&mut self) {
        // Where the thread is gone, `poll` says so.
        let _ = self.orders.as_ref().expect("taken only when dropped").send(());
        self.ordered += 1;
    }

    fn poll(&mut self) -> Result<Option<PathBuf>, ServerError> {
        match self.made.try_recv() {
            Ok(made) => {
                self.ordered -= 1;
                made.map(Some)
            }
            Err(mpsc::TryRecvError::Empty) => Ok(None),
            Err(mpsc::TryRecvError::Disconnected) => Err(ServerError::ThreadEnded("segments")),
        }
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed there.
            let _ = thread.join();
        }
    }
}

/// On a full disk the journal goes on to the end of its segment, and then waits: nothing that was promised is lost, and
/// an operator can make room. `None`: stopped meanwhile.
fn make_when_there_is_room(
    make: &mut Make,
    name: u32,
    ordered: &mpsc::Receiver<()>,
    lacks_room: &AtomicBool,
) -> Option<Result<PathBuf, ServerError>> {
    loop {
        match make(name) {
            Err(ServerError::JournalIo { path, source, .. }) if is_disk_full(&source) => {
                tracing::error!(path = %path.display(), %source, "no room for the journal: free some, it is tried again");
                // What there is of it takes room itself. Where it can not be removed, making it again says so.
                let _ = fs::remove_file(&path);
                lacks_room.store(true, Ordering::Relaxed);
                // Only one file is ordered at a time: what ends this wait early is the end of everything.
                match ordered.recv_timeout(FULL_DISK_RETRY) {
                    Ok(()) | Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                }
            }
            made => {
                lacks_room.store(false, Ordering::Relaxed);
                return Some(made);
            }
        }
    }
}

fn make(folder: &Path, segment_bytes: u32, name: u32) -> Result<PathBuf, ServerError> {
    let path = folder.join(format!("{name:08}.seg"));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed("create", &path))?;
    let zeros = vec![0; ZEROS];
    let mut left = segment_bytes as usize;
    while left > 0 {
        let part = left.min(ZEROS);
        file.write_all(&zeros[..part]).map_err(failed("write", &path))?;
        left -= part;
    }
    file.sync_all().and_then(|()| flush_folder(folder)).map_err(failed("flush", &path))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Segments {
        /// From now on there is no room for another file, until the flag that this gives is set.
        pub fn fill_disk(&mut self, folder: &Path) -> Arc<AtomicBool> {
            let (folder, segment_bytes) = (folder.to_owned(), self.segment_bytes);
            let has_room = Arc::new(AtomicBool::new(false));
            let is_made = has_room.clone();
            let bell = Arc::new(Doorbell::new().unwrap());
            self.maker = Maker::start(100, bell, move |name| {
                let path = folder.join(format!("{name:08}.seg"));
                if is_made.load(Ordering::Relaxed) {
                    return make(&folder, segment_bytes, name);
                }
                Err(failed("write", &path)(io::ErrorKind::StorageFull.into()))
            });
            has_room
        }
    }

    fn open_in(folder: &Path, in_use: Vec<(u32, PathBuf)>, unused: Vec<PathBuf>) -> Segments {
        let bell = Arc::new(Doorbell::new().unwrap());
        Segments::open(folder, WritePath::Buffered, 8192, in_use, unused, bell).unwrap()
    }

    fn wait_for(segments: &mut Segments, number: u32) -> Arc<JournalFile> {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(file) = segments.file(number, true).unwrap() {
                return file;
            }
            assert!(std::time::Instant::now() < deadline, "no spare was made");
            std::thread::yield_now();
        }
    }

    #[test]
    fn d8_files_are_made_ahead_and_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut segments = open_in(dir.path(), vec![], vec![]);
        let first = segments.file(1, true).unwrap().expect("the first spare is made at once");
        assert_eq!(fs::read(&first.path).unwrap(), vec![0; 8192]);
        let second = wait_for(&mut segments, 2);
        let path = first.path.clone();
        assert_ne!(path, second.path);
        drop(first);
        segments.recycle(1).unwrap();
        let again = wait_for(&mut segments, 3);
        let other = wait_for(&mut segments, 4);
        assert!(again.path == path || other.path == path, "the file of segment 1 is used again");
    }

    #[test]
    fn what_an_earlier_run_left_is_used_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let name = |number: u32| dir.path().join(format!("{number:08}.seg"));
        fs::write(name(3), vec![0; 8192]).unwrap();
        fs::write(name(4), vec![0; 100]).unwrap();
        fs::write(name(5), vec![1; 8192]).unwrap();
        let files = segment_files(dir.path()).unwrap();
        assert_eq!(files, [name(3), name(4), name(5)]);
        let mut segments = open_in(dir.path(), vec![(7, name(5))], vec![name(3), name(4)]);
        assert!(!name(4).exists(), "it was being made when the process ended");
        assert_eq!(segments.existing(7).unwrap().path, name(5));
        assert_eq!(segments.file(8, true).unwrap().unwrap().path, name(3));
        assert_eq!(wait_for(&mut segments, 9).path, name(6), "no name is given twice");
    }

    #[test]
    fn d8_a_file_of_another_size_is_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let name = |number: u32| dir.path().join(format!("{number:08}.seg"));
        for (number, bytes) in [(1, 4096), (2, 12_288), (3, 8192)] {
            fs::write(name(number), vec![1; bytes]).unwrap();
        }
        let in_use = [1, 2, 3].map(|number| (number, name(number))).to_vec();
        let mut segments = open_in(dir.path(), in_use, vec![]);
        (1..=3).for_each(|number| segments.recycle(number).unwrap());
        assert!(!name(1).exists() && !name(2).exists(), "they were written when segment_bytes said something else");
        let handed_out: Vec<_> = (4..7).map(|number| wait_for(&mut segments, number)).collect();
        assert!(handed_out.iter().all(|file| fs::metadata(&file.path).unwrap().len() == 8192));
        assert!(handed_out.iter().any(|file| file.path == name(3)), "this one is as long as they are now");
    }
}
