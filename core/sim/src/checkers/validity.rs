//! Nothing is executed that its client did not submit, byte for byte (I3).

use std::collections::{BTreeMap, BTreeSet};

use bft_core::door::Execute;
use bft_core::ids::PublicKey;

use super::Verdict;
use crate::ledger::{Entry, Order};

/// What was submitted, and by whom.
#[derive(Default)]
pub struct Validity {
    submitted: BTreeMap<Entry, (PublicKey, Vec<u8>)>,
    /// What a client signed under the same entry beside that.
    also: BTreeSet<(Entry, Vec<u8>)>,
}

impl Validity {
    /// A client submits an operation.
    pub fn submitted(&mut self, client: PublicKey, entry: Entry, bytes: &[u8]) {
        self.submitted.insert(entry, (client, bytes.to_vec()));
    }

    /// A hostile client signs an operation that its core never submitted, perhaps under an entry that it did.
    pub fn signed(&mut self, client: PublicKey, entry: Entry, bytes: Vec<u8>) {
        self.submitted.entry(entry).or_insert_with(|| (client, bytes.clone()));
        self.also.insert((entry, bytes));
    }

    /// A replica executes a batch.
    pub fn execute(&self, order: &Execute) -> Verdict {
        for index in &order.admitted {
            let request =
                order.body.entries().get(*index as usize).ok_or("admits a Request that is not in the body")?;
            for operation in request.operations(order.body.bytes()) {
                let entry = Order::decode(operation).map(|order| order.entry);
                let known = entry.and_then(|entry| self.submitted.get(&entry));
                let is_also = || entry.is_some_and(|entry| self.also.contains(&(entry, operation.to_vec())));
                let is_its = |(client, bytes): &(PublicKey, Vec<u8>)| {
                    *client == request.client && (bytes == operation || is_also())
                };
                if !known.is_some_and(is_its) {
                    return Err(format!("executes at Seq {} what {:?} never submitted", order.seq, request.client));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::made;
    use super::*;

    #[test]
    fn what_nobody_or_somebody_else_submitted_is_found() {
        let mut validity = Validity::default();
        let order = made::order(1);
        let execute = made::execute(1, &[order]);
        assert!(validity.execute(&execute).is_err());
        validity.submitted(PublicKey([9; 32]), order.entry, &order.encode(0));
        assert!(validity.execute(&execute).is_err(), "another client's");
        validity.submitted(made::CLIENT, order.entry, &order.encode(1));
        assert!(validity.execute(&execute).is_err(), "other bytes");
        validity.submitted(made::CLIENT, order.entry, &order.encode(0));
        assert_eq!(validity.execute(&execute), Ok(()));
        let mut beyond = execute;
        beyond.admitted.push(1);
        assert!(validity.execute(&beyond).is_err());
    }
}
