//! The attack: a primary that proposes the Requests of a client's window in another order than they came, some of them much
//! later.

use bft_core::wire::request::SignedRequest;

use super::Villain;
use super::means::Means;

/// Requests that are held back at most.
const HELD_BACK_MAX: usize = 16;

/// Mixes up what it gets.
#[derive(Default)]
pub struct ShufflesRequests {
    held_back: Vec<SignedRequest>,
}

impl Villain for ShufflesRequests {
    fn gathers(&mut self, means: &mut Means, requests: &mut Vec<SignedRequest>) {
        means.misdeed();
        requests.append(&mut self.held_back);
        for end in (1..requests.len()).rev() {
            requests.swap(end, means.rng.below(end as u64 + 1) as usize);
        }
        let keep = requests.len().div_ceil(2).max(requests.len().saturating_sub(HELD_BACK_MAX));
        self.held_back = requests.split_off(keep);
    }
}
