//! The attack: a replica that leaves a view and names what was prepared in earlier ones instead of what was prepared in
//! the last.

use std::collections::BTreeMap;

use bft_core::ids::{ReplicaId, Seq};
use bft_core::wire::message::{Message, PreparedCertificate, ViewChange};

use super::means::Means;
use super::said::Said;
use super::{Villain, own_view_change};

/// Seqs that are remembered: more than any window has.
const REMEMBERED_MAX: usize = 128;

/// Names old certificates only.
#[derive(Default)]
pub struct RecallsOldViews {
    /// By Seq: the certificate of the lowest view that was ever named here.
    oldest: BTreeMap<Seq, PreparedCertificate>,
}

impl RecallsOldViews {
    fn note(&mut self, own: &ViewChange) {
        for certificate in &own.prepared {
            self.oldest.entry(certificate.position.seq).or_insert_with(|| certificate.clone());
        }
        while self.oldest.len() > REMEMBERED_MAX {
            self.oldest.pop_first();
        }
    }
}

impl Villain for RecallsOldViews {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        if let Message::ViewChange(own) = &message
            && own.replica == means.me
        {
            self.note(own);
        }
        let oldest = &self.oldest;
        own_view_change::say(means, message, said, |own| {
            let Some(last) = own.prepared.iter().map(|certificate| certificate.position.view).max() else {
                return false;
            };
            own.prepared.retain_mut(|certificate| {
                if certificate.position.view == last
                    && let Some(old) = oldest.get(&certificate.position.seq)
                {
                    *certificate = old.clone();
                }
                certificate.position.view < last
            });
            true
        });
    }
}
