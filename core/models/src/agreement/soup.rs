//! What anybody can make of the messages there are: certificates, and beginnings of views. Byzantine replicas add their
//! signatures to everything.

use super::{Agreement, Fault, Order, Placed, Prepared, REPLICAS, Replicas, SLOTS, State, Value, View};

impl Agreement {
    /// Values that may be in messages, null among them.
    pub(super) fn all_values(&self) -> impl Iterator<Item = Value> + use<> {
        (0..=self.values).map(Value)
    }

    /// Whether the primary of `view` proposed `value` at `slot` to anybody.
    pub(super) fn is_proposed(&self, state: &State, view: View, slot: usize, value: Value) -> bool {
        let primary = view.primary();
        self.byzantine.has(primary) || state.votes[primary].has(view, slot, value)
    }

    /// Whose votes for this anybody can have.
    pub(super) fn voters(&self, state: &State, view: View, slot: usize, value: Value) -> Replicas {
        let voted = (0..REPLICAS).filter(|replica| state.votes[*replica].has(view, slot, value));
        voted.fold(self.byzantine, Replicas::with)
    }

    /// Whether a prepared certificate can be made.
    pub(super) fn is_certifiable(&self, state: &State, view: View, slot: usize, value: Value) -> bool {
        self.is_proposed(state, view, slot, value)
            && self.voters(state, view, slot, value).with(view.primary()).len() >= self.quorum()
    }

    /// Whether a commit certificate can be made.
    #[must_use]
    pub fn is_committable(&self, state: &State, view: View, slot: usize, value: Value) -> bool {
        let opened = |replica: &usize| {
            state.commits[*replica].has(view, slot, value) && state.votes[*replica].has(view, slot, value)
        };
        let openers = (0..REPLICAS).filter(opened).fold(self.byzantine, Replicas::with);
        openers.len() >= self.quorum() && self.is_proposed(state, view, slot, value)
    }

    /// Everything that can be shown to be committed at `slot`.
    pub(super) fn committed(&self, state: &State, slot: usize) -> impl Iterator<Item = Placed> {
        let places = self.views().flat_map(|view| self.all_values().map(move |value| Placed { view, value }));
        places.filter(move |at| self.is_committable(state, at.view, slot, at.value))
    }

    /// Every O that a valid NEW-VIEW for `view` can have whose VIEW-CHANGEs are there, that of `member` among them.
    pub(super) fn orders(&self, state: &State, view: View, member: Option<usize>) -> Vec<Order> {
        let said: Vec<Vec<Prepared>> = (0..REPLICAS).map(|replica| self.said(state, view, replica)).collect();
        let mut orders = Vec::new();
        for bits in 0..1u8 << REPLICAS {
            let members = Replicas(bits);
            let whole = (0..REPLICAS).all(|replica| !members.has(replica) || !said[replica].is_empty());
            if whole && members.len() == self.quorum() && member.is_none_or(|member| members.has(member)) {
                self.combine(&said, members, &mut Vec::new(), &mut orders);
            }
        }
        orders
    }

    /// What the VIEW-CHANGE of `replica` for `view` can say.
    fn said(&self, state: &State, view: View, replica: usize) -> Vec<Prepared> {
        if !self.byzantine.has(replica) {
            let sent = state.view_changes.iter().filter(|sent| sent.from == replica && sent.view == view);
            return sent.map(|sent| sent.prepared).collect();
        }
        self.slots().fold(vec![[None; SLOTS]], |said, slot| {
            let certificates = self.certificates(state, view, slot);
            let choices = std::iter::once(None).chain(certificates.into_iter().map(Some));
            let with = |choice| {
                said.iter().map(move |prepared: &Prepared| {
                    let mut prepared = *prepared;
                    prepared[slot] = choice;
                    prepared
                })
            };
            choices.flat_map(with).collect()
        })
    }

    fn certificates(&self, state: &State, below: View, slot: usize) -> Vec<Placed> {
        let views = self.views().filter(|view| *view < below);
        let places = views.flat_map(|view| self.all_values().map(move |value| Placed { view, value }));
        places.filter(|at| self.is_certifiable(state, at.view, slot, at.value)).collect()
    }

    /// Takes one thing that each of `members` said, in every way, and adds what follows from it.
    fn combine(&self, said: &[Vec<Prepared>], members: Replicas, taken: &mut Vec<Prepared>, orders: &mut Vec<Order>) {
        let Some((first, rest)) = said.split_first() else {
            return self.begin_with(taken, orders);
        };
        let others = Replicas(members.0 >> 1);
        if !members.has(0) {
            return self.combine(rest, others, taken, orders);
        }
        for prepared in first {
            taken.push(*prepared);
            self.combine(rest, others, taken, orders);
            taken.pop();
        }
    }

    /// compute_o (PROTOCOL §8), without checkpoints.
    fn begin_with(&self, view_changes: &[Prepared], orders: &mut Vec<Order>) {
        let Some(last) = self.slots().rev().find(|slot| view_changes.iter().any(|said| said[*slot].is_some())) else {
            return add(orders, [None; SLOTS]);
        };
        let mut made = vec![[None; SLOTS]];
        for slot in 0..=last {
            let chosen = self.chosen(view_changes.iter().filter_map(|said| said[slot]));
            let with = |value: &Value| {
                let value = *value;
                made.iter().map(move |order: &Order| {
                    let mut order = *order;
                    order[slot] = Some(value);
                    order
                })
            };
            made = chosen.iter().flat_map(with).collect();
        }
        made.into_iter().for_each(|order| add(orders, order));
    }

    /// What may be chosen among these certificates. Nothing, where two of the same view contradict each other: the core
    /// halts.
    fn chosen(&self, certificates: impl Iterator<Item = Placed> + Clone) -> Vec<Value> {
        let Some(highest) = certificates.clone().map(|at| at.view).max() else { return vec![Value::NULL] };
        let counts = |at: &Placed| at.view == highest || self.has(Fault::AnyCertificate);
        let mut chosen: Vec<Value> = certificates.filter(counts).map(|at| at.value).collect();
        chosen.sort_unstable();
        chosen.dedup();
        let is_contradiction = chosen.len() > 1 && !self.has(Fault::AnyCertificate);
        if is_contradiction { Vec::new() } else { chosen }
    }
}

fn add(orders: &mut Vec<Order>, order: Order) {
    if !orders.contains(&order) {
        orders.push(order);
    }
}
