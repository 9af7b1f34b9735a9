//! Many lives of one directory: records and superblocks, completions in any order, segments dropped and recycled, power
//! failures at any moment, and after each of them nothing durable is missing and nothing else has appeared.

use bft_core::ids::LogPosition;
use proptest::prelude::*;

use crate::disk::{Disk, Fate, Shell, vote};

#[derive(Clone, Copy, Debug)]
enum Step {
    Append(u16),
    Superblock,
    Submit,
    Complete(u8),
    /// Moves the journal's start, and drops segments when that is durable.
    Drop,
    Crash([u8; 6]),
    Stop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u16..6000).prop_map(Step::Append),
        1 => Just(Step::Superblock),
        6 => Just(Step::Submit),
        5 => any::<u8>().prop_map(Step::Complete),
        1 => Just(Step::Drop),
        1 => any::<[u8; 6]>().prop_map(Step::Crash),
        1 => Just(Step::Stop),
    ];
    prop::collection::vec(step, 1..120)
}

/// The shell, and what the superblocks said at which position.
struct Life {
    shell: Shell,
    superblocks: Vec<(LogPosition, u64)>,
    drop_when_durable: Option<(LogPosition, LogPosition)>,
    next_seq: u64,
}

impl Life {
    fn start(disk: Disk, next_seq: u64) -> Self {
        let shell = Shell::start(disk).unwrap_or_else(|error| panic!("{error}"));
        let superblocks = vec![(LogPosition(0), shell.superblock.instance)];
        Self { shell, superblocks, drop_when_durable: None, next_seq }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append(bytes) => {
                self.shell.append(vote(self.next_seq, usize::from(bytes)));
                self.next_seq += 1;
            }
            Step::Superblock => self.superblock(None),
            Step::Submit => self.shell.submit(),
            Step::Complete(which) => {
                if !self.shell.pending.is_empty() {
                    self.shell.complete(usize::from(which) % self.shell.pending.len());
                }
            }
            Step::Drop => self.drop(),
            Step::Crash(fates) => self.crash(&fates),
            Step::Stop => self.stop(),
        }
        let durable = self.shell.journal.durable();
        if let Some((_, cut)) = self.drop_when_durable.take_if(|(needs, _)| *needs <= durable) {
            self.shell.drop_below(cut);
        }
    }

    fn superblock(&mut self, journal_start: Option<LogPosition>) {
        let mut instance = 0;
        let at = self.shell.append_superblock(|superblock| {
            superblock.instance += 1;
            superblock.journal_start = journal_start.unwrap_or(superblock.journal_start);
            instance = superblock.instance;
        });
        self.superblocks.push((at, instance));
    }

    fn drop(&mut self) {
        let durable = self.shell.journal.durable();
        let start = LogPosition(self.shell.superblock.journal_start.0.max(durable.0.saturating_sub(4)));
        self.superblock(Some(start));
        self.drop_when_durable = Some((self.shell.last, start));
    }

    fn crash(&mut self, choices: &[u8]) {
        let choose = |(at, write): (usize, &crate::disk::Pending)| {
            let fates = Fate::all(write.bytes.len());
            let choice = usize::from(choices[at % choices.len()]);
            // Lost and whole as often as all tears together.
            if choice % 2 == 0 { fates[choice / 2 % 2] } else { fates[choice / 2 % fates.len()] }
        };
        let fates: Vec<Fate> = self.shell.pending.iter().enumerate().map(choose).collect();
        let next = Self::start(self.shell.crash(&fates), self.next_seq);
        self.check(&next);
        *self = next;
    }

    fn stop(&mut self) {
        self.shell.journal.close();
        self.shell.settle();
        let next = Self::start(self.shell.disk.clone(), self.next_seq);
        self.check(&next);
        *self = next;
    }

    /// `next` found what it may and must find.
    fn check(&self, next: &Self) {
        let instance = next.shell.superblock.instance;
        let (written_at, _) =
            *self.superblocks.iter().find(|(_, said)| *said == instance).expect("one that was written");
        let lost = self.superblocks.iter().find(|(at, _)| *at > written_at && *at <= self.shell.journal.durable());
        assert_eq!(lost, None, "a durable superblock is lost");

        let start = next.shell.superblock.journal_start;
        let expected: Vec<_> = self.shell.records.iter().filter(|(at, _)| *at >= start).cloned().collect();
        let found = &next.shell.records;
        assert!(expected.starts_with(found), "only what was appended, in order");
        let must = self.shell.journal.durable().max(written_at);
        let required = expected.iter().filter(|(at, _)| *at <= must).count();
        assert!(found.len() >= required, "{} found, {required} were durable or before the superblock", found.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn d17_nothing_durable_is_ever_missing_and_nothing_else_appears(steps in steps()) {
        let mut life = Life::start(Disk::new(), 1);
        for step in steps {
            life.step(step);
        }
        life.stop();
    }
}
