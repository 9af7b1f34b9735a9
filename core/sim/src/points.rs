//! Points: the moments around every operation of a replica on its disk, numbered over all lives of the replica, and the
//! plug that is pulled at some of them. Here: how points are named and noticed. What a cut leaves on the disk is in
//! `disk`, who else loses power and when everybody comes back in `run`, which points there are in `crash_points`.
//!
//! A plug draws no chance and changes nothing before its first point: up to there a run is the run without it.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

/// What a replica does with its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// A group of records is written behind the last one.
    Group,
    /// The first group of a segment, in a file that was made for it.
    NewSegment,
    /// The first group of a segment, in a file that held another.
    RecycledSegment,
    /// The first two copies of the superblock.
    FirstCopies,
    /// The other two.
    LastCopies,
    /// A chunk of a snapshot, as a file.
    Chunk,
    /// The client table of a snapshot.
    Clients,
    /// The manifest of a snapshot.
    Manifest,
    /// The folder of a snapshot is flushed.
    Folder,
    /// It gets its name.
    Rename,
    /// Its name is flushed.
    Name,
    /// Snapshots that nobody needs are removed.
    Removal,
    /// A transfer begins: pieces of other snapshots are removed.
    Begin,
    /// A piece that came from a peer is written.
    Piece,
    /// And flushed, with its name.
    PieceName,
    /// The pieces are put into the folder of their snapshot.
    Assembly,
    /// The manifest that came with them.
    AssemblyManifest,
    /// The folder is flushed, and gets its name.
    AssemblyRename,
    /// Its name is flushed.
    AssemblyName,
    /// The pieces are removed: their snapshot is installed.
    Clear,
    /// A start makes a copy of the superblock equal to the others.
    Repair,
    /// A start flushes what it is going to read.
    FlushAll,
    /// A start writes its instance number into the first two copies.
    FirstInstance,
    /// And into the other two.
    LastInstance,
}

impl Operation {
    /// Every kind.
    pub const ALL: [Self; 24] = [
        Self::Group,
        Self::NewSegment,
        Self::RecycledSegment,
        Self::FirstCopies,
        Self::LastCopies,
        Self::Chunk,
        Self::Clients,
        Self::Manifest,
        Self::Folder,
        Self::Rename,
        Self::Name,
        Self::Removal,
        Self::Begin,
        Self::Piece,
        Self::PieceName,
        Self::Assembly,
        Self::AssemblyManifest,
        Self::AssemblyRename,
        Self::AssemblyName,
        Self::Clear,
        Self::Repair,
        Self::FlushAll,
        Self::FirstInstance,
        Self::LastInstance,
    ];

    /// The moments around it that can be told apart.
    #[must_use]
    pub fn moments(self) -> &'static [Moment] {
        match self {
            Self::Group | Self::NewSegment | Self::RecycledSegment | Self::FirstCopies | Self::LastCopies => {
                &Moment::ALL
            }
            // What lies in a folder without a name is thrown away by the next start, whatever it is.
            Self::Chunk | Self::Clients | Self::Manifest | Self::Folder => &[Moment::Before, Moment::Complete],
            Self::Begin | Self::Piece | Self::Assembly | Self::AssemblyManifest | Self::Clear => {
                &[Moment::Before, Moment::Complete]
            }
            Self::PieceName => &[Moment::Before, Moment::Unheard, Moment::After],
            Self::Rename | Self::AssemblyRename => &[Moment::Before, Moment::Lost, Moment::Complete],
            Self::Name | Self::AssemblyName => &[Moment::Before, Moment::Unheard, Moment::After],
            Self::Removal => &[Moment::Before, Moment::Torn, Moment::Complete],
            // Before it is done, what was written and not flushed has any fate.
            Self::FlushAll => &[Moment::Before, Moment::Complete],
            // A start says nothing to anybody.
            Self::Repair | Self::FirstInstance | Self::LastInstance => {
                &[Moment::Before, Moment::Lost, Moment::Torn, Moment::Complete, Moment::Cached]
            }
        }
    }
}

/// When, seen from one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// The power goes before it is submitted.
    Before,
    /// It goes before the operation is complete, and nothing of it is left.
    Lost,
    /// The same, and some sectors of it are left.
    Torn,
    /// The same, and all of it is left.
    Complete,
    /// The process is killed, and the machine runs on: the bytes are in the cache and not flushed.
    Cached,
    /// The write is complete and its flush fails: the shell ends the process, the machine runs on.
    Failed,
    /// The power goes when it is complete, and before anybody heard of it.
    Unheard,
    /// The power goes when everything that waited for it has left.
    After,
}

impl Moment {
    /// Every moment, in order.
    pub const ALL: [Self; 8] =
        [Self::Before, Self::Lost, Self::Torn, Self::Complete, Self::Cached, Self::Failed, Self::Unheard, Self::After];

    fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Lost => "lost",
            Self::Torn => "torn",
            Self::Complete => "complete",
            Self::Cached => "cached",
            Self::Failed => "failed",
            Self::Unheard => "unheard",
            Self::After => "after",
        }
    }
}

/// A moment of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// The operation's number among those of its replica, from 0.
    pub operation: usize,
    /// When.
    pub moment: Moment,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.operation, self.moment.name())
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no point: give a number and a moment, like 12:torn");
        let (operation, name) = text.split_once(':').ok_or_else(wrong)?;
        let operation = operation.parse().map_err(|_| wrong())?;
        let moment = Moment::ALL.into_iter().find(|moment| moment.name() == name).ok_or_else(wrong)?;
        Ok(Self { operation, moment })
    }
}

/// Cuts the power of one machine at its points, which are given in the order of their operations.
#[derive(Clone, Debug, Default)]
pub struct Plug {
    points: VecDeque<Point>,
    begun: usize,
    /// Everything that was begun, and when, where somebody wants to know.
    log: Option<Vec<(Operation, u64)>>,
    pulled: Option<Point>,
}

impl Plug {
    /// A plug that is pulled at these points, and that keeps a list of what it saw.
    #[must_use]
    pub fn at(points: &[Point]) -> Self {
        Self { points: points.iter().copied().collect(), begun: 0, log: Some(Vec::new()), pulled: None }
    }

    /// An operation is about to be submitted; its number. `None`: the power goes before.
    pub fn begin(&mut self, operation: Operation, now: u64) -> Option<usize> {
        let number = self.begun;
        self.begun += 1;
        self.log.iter_mut().for_each(|log| log.push((operation, now)));
        if self.reaches(number, Moment::Before) { None } else { Some(number) }
    }

    /// An operation is under way. `Some`: the power goes, and this is what is left of it.
    pub fn submit(&mut self, number: usize) -> Option<Moment> {
        [Moment::Lost, Moment::Torn, Moment::Complete].into_iter().find(|moment| self.reaches(number, *moment))
    }

    /// Whether the power goes at this moment of an operation.
    pub fn reaches(&mut self, number: usize, moment: Moment) -> bool {
        let here = Point { operation: number, moment };
        if self.pulled.is_none() {
            self.pulled = self.points.pop_front_if(|point| *point == here);
        }
        self.pulled == Some(here)
    }

    /// Whether the power is gone, and nobody has acted on it.
    #[must_use]
    pub fn is_pulled(&self) -> bool {
        self.pulled.is_some()
    }

    /// Where it was pulled; from now on the power is there again.
    pub fn put_back(&mut self) -> Option<Point> {
        self.pulled.take()
    }

    /// Points that were not reached yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.points.len()
    }

    /// What was begun, and when.
    #[must_use]
    pub fn log(&self) -> &[(Operation, u64)] {
        self.log.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plug_is_pulled_at_its_points_and_nowhere_else() {
        let mut plug = Plug::at(&["1:torn".parse().unwrap(), "2:before".parse().unwrap()]);
        assert_eq!(plug.begin(Operation::Group, 10), Some(0));
        assert_eq!(plug.submit(0), None);
        assert!(!plug.reaches(0, Moment::After));
        assert_eq!(plug.begin(Operation::Chunk, 20), Some(1));
        assert_eq!(plug.submit(1), Some(Moment::Torn));
        assert!(plug.is_pulled() && plug.left() == 1);
        assert_eq!(plug.put_back(), Some(Point { operation: 1, moment: Moment::Torn }));
        assert_eq!(plug.begin(Operation::Name, 30), None);
        assert_eq!(plug.log(), [(Operation::Group, 10), (Operation::Chunk, 20), (Operation::Name, 30)]);
        assert_eq!(Plug::default().begin(Operation::Group, 1), Some(0));
    }

    #[test]
    fn points_are_read_as_they_are_written() {
        for moment in Moment::ALL {
            let point = Point { operation: 17, moment };
            assert_eq!(point.to_string().parse(), Ok(point));
        }
        for wrong in ["", "17", "17:", "x:torn", "17:Torn"] {
            assert!(wrong.parse::<Point>().is_err(), "{wrong}");
        }
        assert!(Operation::ALL.iter().all(|operation| operation.moments().is_sorted()));
    }
}
