//! Which link of a replica counts when there are several (D11). A replica's instance is raised and flushed at every
//! start, so a higher one has the disk's word that the older process is gone, and two live links with the same one are
//! two processes with the same disk.

use bft_core::ids::{LinkId, ReplicaId};

/// Why a further link of a replica is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Duplicate {
    /// A lower instance than one that was here before. If nothing of that was heard for longer than a replica is ever
    /// silent, the disk may have been put back and no other process be left: [`Instances::forget`] the higher one and ask
    /// again. What such a replica may do is decided by what others hold of it, at its start.
    #[error(
        "replica {replica} comes with instance {instance} after {highest} was here: an older process that still runs, \
         or a disk put back to an older state"
    )]
    Stale {
        /// Which replica.
        replica: ReplicaId,
        /// What it comes with.
        instance: u64,
        /// What was here.
        highest: u64,
    },
    /// The same instance over another link. If that one is dead and this side has not noticed yet (nothing has come
    /// over it for longer than a replica is ever silent), end it with [`Instances::down`] and ask again.
    #[error("replica {replica} comes a second time with instance {instance}: two processes on copies of one disk")]
    ClonedDisk {
        /// Which replica.
        replica: ReplicaId,
        /// What it comes with.
        instance: u64,
        /// The link that has it already.
        older: LinkId,
    },
}

/// The highest instance of each replica, and the link that has it.
#[derive(Clone, Debug)]
pub struct Instances {
    known: Vec<Known>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    highest: u64,
    link: Option<LinkId>,
}

impl Instances {
    /// Nothing known yet of `members` replicas.
    #[must_use]
    pub fn new(members: usize) -> Self {
        Self { known: vec![Known::default(); members] }
    }

    /// `replica` comes with `instance` over `link`. If it may, `link` counts from now on, and the link given back, if
    /// any, is to be ended.
    pub fn up(&mut self, replica: ReplicaId, instance: u64, link: LinkId) -> Result<Option<LinkId>, Duplicate> {
        let known = &mut self.known[replica.index()];
        if instance < known.highest {
            return Err(Duplicate::Stale { replica, instance, highest: known.highest });
        }
        if let Some(older) = known.link
            && instance == known.highest
        {
            return Err(Duplicate::ClonedDisk { replica, instance, older });
        }
        let older = known.link.replace(link);
        known.highest = instance;
        Ok(older)
    }

    /// No link of `replica` counts, and no instance of it is higher than the next.
    pub fn forget(&mut self, replica: ReplicaId) {
        assert!(self.is_away(replica), "who is here is not forgotten");
        self.known[replica.index()] = Known::default();
    }

    /// Whether no link of `replica` counts.
    #[must_use]
    pub fn is_away(&self, replica: ReplicaId) -> bool {
        self.known[replica.index()].link.is_none()
    }

    /// `link` of `replica` has ended. Nothing happens if another one counts by now.
    pub fn down(&mut self, replica: ReplicaId, link: LinkId) {
        let known = &mut self.known[replica.index()];
        if known.link == Some(link) {
            known.link = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: ReplicaId = ReplicaId(1);

    #[test]
    fn d11_a_higher_instance_ends_the_older_link() {
        let mut instances = Instances::new(4);
        assert_eq!(instances.up(R, 1, LinkId(10)), Ok(None));
        assert_eq!(instances.up(R, 2, LinkId(11)), Ok(Some(LinkId(10))));
        assert_eq!(instances.up(ReplicaId(2), 1, LinkId(12)), Ok(None), "each replica by itself");
    }

    #[test]
    fn d11_an_equal_instance_on_a_second_link_is_a_cloned_disk() {
        let mut instances = Instances::new(4);
        assert_eq!(instances.up(R, 5, LinkId(10)), Ok(None));
        let cloned = Duplicate::ClonedDisk { replica: R, instance: 5, older: LinkId(10) };
        assert_eq!(instances.up(R, 5, LinkId(11)), Err(cloned));
        assert_eq!(instances.up(R, 5, LinkId(12)), Err(cloned), "the first one stays");
        instances.down(R, LinkId(10));
        assert_eq!(instances.up(R, 5, LinkId(13)), Ok(None), "a link that comes again is none");
    }

    #[test]
    fn d11_a_lower_instance_never_comes_back() {
        let mut instances = Instances::new(4);
        assert_eq!(instances.up(R, 5, LinkId(10)), Ok(None));
        instances.down(R, LinkId(10));
        let stale = Duplicate::Stale { replica: R, instance: 4, highest: 5 };
        assert_eq!(instances.up(R, 4, LinkId(11)), Err(stale));
    }

    #[test]
    fn d11_a_disk_that_was_put_back_is_let_in_when_the_newer_process_is_forgotten() {
        let mut instances = Instances::new(4);
        assert_eq!(instances.up(R, 5, LinkId(10)), Ok(None));
        assert!(!instances.is_away(R));
        instances.down(R, LinkId(10));
        assert!(instances.is_away(R));
        instances.forget(R);
        assert_eq!(instances.up(R, 4, LinkId(11)), Ok(None));
        assert_eq!(instances.up(R, 5, LinkId(12)), Ok(Some(LinkId(11))), "should the newer one come again, it counts");
    }

    #[test]
    fn d11_the_end_of_a_replaced_link_leaves_the_newer_one() {
        let mut instances = Instances::new(4);
        assert_eq!(instances.up(R, 1, LinkId(10)), Ok(None));
        assert_eq!(instances.up(R, 2, LinkId(11)), Ok(Some(LinkId(10))));
        instances.down(R, LinkId(10));
        let cloned = Duplicate::ClonedDisk { replica: R, instance: 2, older: LinkId(11) };
        assert_eq!(instances.up(R, 2, LinkId(12)), Err(cloned));
    }
}
