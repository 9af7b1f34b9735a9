//! Whether the pool of Requests is full, said by the ordering executor and asked by the shards: what would be refused
//! anyway costs no signature check. Only advice: the core refuses by itself what has no room.

use std::sync::atomic::{AtomicBool, Ordering};

/// Reached a little before the pool is full, and left when a quarter of it is free.
#[derive(Debug, Default)]
pub struct Brim(AtomicBool);

impl Brim {
    /// The pool holds `used` of at most `room` bytes.
    pub fn look(&self, used: usize, room: usize) {
        if used >= room - room / 16 {
            self.0.store(true, Ordering::Relaxed);
        } else if used <= room - room / 4 {
            self.0.store(false, Ordering::Relaxed);
        }
    }

    /// Whether more Requests have no room.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brim_is_left_later_than_it_is_reached() {
        let brim = Brim::default();
        let look = |used| {
            brim.look(used, 1600);
            brim.is_reached()
        };
        assert!(!look(1499) && look(1500) && look(1201) && !look(1200) && !look(1499));
    }
}
