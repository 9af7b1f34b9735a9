//! Every operation has one effect or none, and every answer is the one that a sequential execution of the order gives
//! (I4, I5). Keeps a ledger of its own and replays the order on it.

use std::collections::{BTreeMap, BTreeSet};

use bft_core::client::Unknown;
use bft_core::door::{Execute, Executed};
use bft_core::ids::Seq;

use super::Verdict;
use crate::ledger::{Account, Entry, Order, answer};

/// The reference execution, and what clients were told.
#[derive(Default)]
pub struct ExactlyOnce {
    accounts: BTreeMap<u32, Account>,
    list: Vec<Entry>,
    executed: BTreeMap<Entry, (Seq, [u8; 24])>,
    /// By Seq: the results that the service must give, and how long the list is then.
    results: BTreeMap<Seq, (Vec<u8>, usize)>,
    done: BTreeSet<Entry>,
    never: BTreeSet<Entry>,
}

impl ExactlyOnce {
    /// Some replica executes a batch; the first time, the reference does.
    pub fn execute(&mut self, order: &Execute) -> Verdict {
        if self.results.contains_key(&order.seq) {
            return Ok(());
        }
        if let Some((last, _)) = self.results.last_key_value()
            && *last > order.seq
        {
            return Err(format!("executes Seq {}, which others left out before Seq {last}", order.seq));
        }
        let mut results = Vec::new();
        for index in &order.admitted {
            let request = &order.body.entries()[*index as usize];
            for operation in request.operations(order.body.bytes()) {
                let reply = self.apply(order.seq, operation)?;
                results.extend_from_slice(&(reply.len() as u32).to_le_bytes());
                results.extend_from_slice(&reply);
            }
        }
        self.results.insert(order.seq, (results, self.list.len()));
        Ok(())
    }

    fn apply(&mut self, seq: Seq, operation: &[u8]) -> Result<[u8; 24], String> {
        let Order { entry, amount } = Order::decode(operation).ok_or("executes what is no operation")?;
        let account = self.accounts.entry(entry.client).or_default();
        account.operations += 1;
        account.sum = account.sum.wrapping_add(amount);
        self.list.push(entry);
        let reply = answer(*account, self.list.len() as u64);
        if let Some((first, _)) = self.executed.insert(entry, (seq, reply)) {
            return Err(format!("{entry:?} is executed at Seq {first} and again at Seq {seq}"));
        }
        if self.never.contains(&entry) {
            return Err(format!("{entry:?} is executed at Seq {seq} after its client was told that it never would be"));
        }
        Ok(reply)
    }

    /// A replica's service executed a batch.
    pub fn executed(&self, seq: Seq, outcome: &Executed) -> Verdict {
        let right = self.results.get(&seq).is_some_and(|(results, _)| outcome.results == results.as_slice());
        if right { Ok(()) } else { Err(format!("the results of Seq {seq} are not those of the reference")) }
    }

    /// A client is told that an operation is done.
    pub fn done(&mut self, entry: Entry, seq: Seq, result: &[u8]) -> Verdict {
        let Some((at, reply)) = self.executed.get(&entry) else {
            return Err(format!("{entry:?} is called done and was executed nowhere"));
        };
        if *at != seq || reply != result {
            return Err(format!(
                "{entry:?} is answered for Seq {seq}, but the reference has it at Seq {at}, or another answer"
            ));
        }
        if !self.done.insert(entry) {
            return Err(format!("{entry:?} is called done twice"));
        }
        Ok(())
    }

    /// A client is told that an operation is done, without its result.
    pub fn executed_unseen(&self, entry: Entry, seq: Seq) -> Verdict {
        let right = self.executed.get(&entry).is_some_and(|(at, _)| *at == seq);
        if right { Ok(()) } else { Err(format!("{entry:?} is called executed at Seq {seq}, and was not")) }
    }

    /// A client is told that an operation was not executed and never will be.
    pub fn never(&mut self, entry: Entry) -> Verdict {
        self.never.insert(entry);
        match self.executed.get(&entry) {
            Some((seq, _)) => Err(format!("{entry:?} is called not executed, but it was, at Seq {seq}")),
            None => Ok(()),
        }
    }

    /// A client is told that nobody knows how an operation ends: by its own doing, or its session's end. Tables here hold
    /// every client's session, and its results, so that one which lives on never loses it: whoever tells it so has
    /// lost count of its Requests.
    pub fn unknown(&self, entry: Entry, reason: Unknown) -> Verdict {
        match reason {
            Unknown::Deadline | Unknown::Cancelled | Unknown::Closed => Ok(()),
            Unknown::SessionLost => Err(format!("{entry:?} goes down with its session, which nothing has ended")),
            Unknown::Unreadable => Err(format!("{entry:?} is answered by a quorum with what is no result")),
        }
    }

    /// What a replica's service holds after `executed`.
    pub fn state(&self, executed: Seq, entries: &[Entry]) -> Verdict {
        let len = self.results.range(..=executed).next_back().map_or(0, |(_, (_, len))| *len);
        if self.list.get(..len) == Some(entries) {
            return Ok(());
        }
        let held = entries.len();
        Err(format!("after Seq {executed} the service holds {held} operations, not the reference's {len}, or others"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::made;
    use super::*;

    fn after(batches: &[&[u64]]) -> (ExactlyOnce, Verdict) {
        let mut judge = ExactlyOnce::default();
        let verdict = (1..).zip(batches).try_for_each(|(seq, numbers)| {
            let orders: Vec<_> = numbers.iter().map(|number| made::order(*number)).collect();
            judge.execute(&made::execute(seq, &orders))
        });
        (judge, verdict)
    }

    #[test]
    fn a_batch_that_one_replica_executes_and_another_leaves_out_is_found() {
        let mut judge = ExactlyOnce::default();
        assert_eq!(judge.execute(&made::execute(1, &[made::order(1)])), Ok(()));
        assert_eq!(judge.execute(&made::execute(3, &[made::order(3)])), Ok(()));
        assert_eq!(judge.execute(&made::execute(1, &[made::order(1)])), Ok(()), "another replica, later");
        assert!(judge.execute(&made::execute(2, &[made::order(2)])).is_err());
    }

    #[test]
    fn c16_an_operation_that_is_executed_twice_is_found() {
        assert_eq!(after(&[&[1], &[2]]).1, Ok(()));
        assert!(after(&[&[1], &[2, 1]]).1.is_err());
        assert!(after(&[&[1, 1]]).1.is_err());
    }

    #[test]
    fn results_and_answers_must_be_those_of_the_reference() {
        let (mut judge, verdict) = after(&[&[1, 2]]);
        assert_eq!(verdict, Ok(()));
        let reply = |operations, sum, all| answer(Account { operations, sum }, all);
        let framed = |replies: &[[u8; 24]]| {
            let results: Vec<u8> = replies.iter().flat_map(|reply| [&[24, 0, 0, 0], &reply[..]].concat()).collect();
            Executed { results: results.into(), ..Executed::default() }
        };
        assert_eq!(judge.executed(Seq(1), &framed(&[reply(1, 11, 1), reply(2, 23, 2)])), Ok(()));
        assert!(judge.executed(Seq(1), &framed(&[reply(1, 11, 1), reply(2, 22, 2)])).is_err());
        assert!(judge.executed(Seq(2), &framed(&[])).is_err());
        assert!(judge.done(made::order(1).entry, Seq(1), &reply(2, 23, 2)).is_err());
        assert!(judge.done(made::order(1).entry, Seq(2), &reply(1, 11, 1)).is_err());
        assert_eq!(judge.done(made::order(1).entry, Seq(1), &reply(1, 11, 1)), Ok(()));
        assert!(judge.done(made::order(1).entry, Seq(1), &reply(1, 11, 1)).is_err(), "twice");
        assert!(judge.done(made::order(3).entry, Seq(1), &reply(1, 11, 1)).is_err(), "not executed");
    }

    #[test]
    fn an_operation_that_was_called_not_executed_stays_so() {
        let (mut judge, _) = after(&[&[1]]);
        assert!(judge.never(made::order(1).entry).is_err());
        assert_eq!(judge.never(made::order(2).entry), Ok(()));
        assert!(judge.execute(&made::execute(2, &[made::order(2)])).is_err());
    }

    #[test]
    fn a_session_that_is_lost_and_an_answer_that_is_none_are_found() {
        let (judge, _) = after(&[&[1]]);
        for fault in [Unknown::SessionLost, Unknown::Unreadable] {
            assert!(judge.unknown(made::order(1).entry, fault).is_err());
        }
        for own_doing in [Unknown::Deadline, Unknown::Cancelled, Unknown::Closed] {
            assert_eq!(judge.unknown(made::order(1).entry, own_doing), Ok(()));
        }
    }

    #[test]
    fn a_state_that_lacks_doubles_or_swaps_an_operation_is_found() {
        let (judge, _) = after(&[&[1, 2], &[3]]);
        let entries = |numbers: &[u64]| -> Vec<_> { numbers.iter().map(|number| made::order(*number).entry).collect() };
        assert_eq!(judge.state(Seq(1), &entries(&[1, 2])), Ok(()));
        assert_eq!(judge.state(Seq(2), &entries(&[1, 2, 3])), Ok(()));
        for wrong in [&[1, 2][..], &[1, 3, 2], &[1, 2, 3, 3]] {
            assert!(judge.state(Seq(2), &entries(wrong)).is_err());
        }
    }
}
