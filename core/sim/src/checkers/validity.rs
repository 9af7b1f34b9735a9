//! Nothing is executed that its client did not submit, byte for byte (I3).

use std::collections::BTreeMap;

use bft_core::door::Execute;
use bft_core::ids::PublicKey;

use super::Verdict;
use crate::ledger::{Entry, Order};

/// What was submitted, and by whom.
#[derive(Default)]
pub struct Validity {
    submitted: BTreeMap<Entry, (PublicKey, Vec<u8>)>,
}

impl Validity {
    /// A client submits an operation.
    pub fn submitted(&mut self, client: PublicKey, entry: Entry, bytes: &[u8]) {
        self.submitted.insert(entry, (client, bytes.to_vec()));
    }

    /// A replica executes a batch.
    pub fn execute(&self, order: &Execute) -> Verdict {
        for index in &order.admitted {
            let request =
                order.body.entries().get(*index as usize).ok_or("admits a Request that is not in the body")?;
            for operation in request.operations(order.body.bytes()) {
                let known = Order::decode(operation).and_then(|order| self.submitted.get(&order.entry));
                if !known.is_some_and(|(client, bytes)| *client == request.client && bytes == operation) {
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
