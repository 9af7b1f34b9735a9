//! When the faults have ended, everything that was submitted comes to its end, and all replicas to one state (I17).

use bft_core::ids::{Digest, ReplicaId, Seq};

use super::Verdict;

/// Where a replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who.
    pub replica: ReplicaId,
    /// The last Seq that its service executed.
    pub executed: Seq,
    /// The last Seq that somebody committed as far as it knows.
    pub idle: bool,
    /// The digest of its service's state.
    pub state: Digest,
}

/// Whether a run has come to its end: no client waits, and all replicas stand at one place, not before `done`, the last Seq
/// whose outcome a client was told. After a loss of all memories they can stand together where they will not stay.
#[must_use]
pub fn is_reached(standings: &[Standing], clients_waiting: usize, done: Seq) -> bool {
    let together = |standing: &Standing| standing.idle && standing.executed == standings[0].executed;
    clients_waiting == 0 && standings.iter().all(|standing| together(standing) && standing.executed >= done)
}

/// The verdict at the end of the liveness phase.
pub fn judge(standings: &[Standing], clients_waiting: usize, operations_waiting: usize) -> Verdict {
    if clients_waiting > 0 {
        return Err(format!("{clients_waiting} clients still wait for {operations_waiting} operations; {standings:?}"));
    }
    let Some(first) = standings.first() else { return Err("no replica is left".into()) };
    for standing in standings {
        if standing.executed != first.executed || !standing.idle {
            return Err(format!("{standing:?} and {first:?} do not come together"));
        }
        if standing.state != first.state {
            return Err(format!("after Seq {} the states differ: {standing:?}, {first:?}", standing.executed));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(replica: u16, executed: u64, state: u8) -> Standing {
        let (replica, executed, state) = (ReplicaId(replica), Seq(executed), Digest([state; 32]));
        Standing { replica, executed, idle: true, state }
    }

    #[test]
    fn replicas_that_stay_apart_are_found() {
        let equal = [standing(0, 9, 1), standing(1, 9, 1)];
        assert!(is_reached(&equal, 0, Seq(9)) && !is_reached(&equal, 1, Seq(9)));
        assert!(!is_reached(&equal, 0, Seq(10)), "what a client was told is still to be executed again");
        assert_eq!(judge(&equal, 0, 0), Ok(()));
        assert!(judge(&equal, 1, 3).is_err());
        let behind = [standing(0, 9, 1), standing(1, 8, 1)];
        assert!(!is_reached(&behind, 0, Seq(8)));
        assert!(judge(&behind, 0, 0).is_err());
        assert!(judge(&[standing(0, 9, 1), standing(1, 9, 2)], 0, 0).is_err());
        let busy = [standing(0, 9, 1), Standing { idle: false, ..standing(1, 9, 1) }];
        assert!(!is_reached(&busy, 0, Seq(9)));
        assert!(judge(&busy, 0, 0).is_err());
        assert!(judge(&[], 0, 0).is_err());
    }
}
