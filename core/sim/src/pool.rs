//! Work spread over threads: each item is taken once, results come back as they are done.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// Does `work` for every item on `jobs` threads; `on_done` gets what came of each, in whatever order.
pub fn spread<T: Sync, R: Send>(
    jobs: usize,
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
    mut on_done: impl FnMut(&T, R),
) {
    let (next, work) = (AtomicUsize::new(0), &work);
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        for _ in 0..jobs.max(1) {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if send.send((item, work(item))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for (item, result) in receive {
            on_done(item, result);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once() {
        let items: Vec<u32> = (0..100).collect();
        let mut seen = Vec::new();
        spread(
            3,
            &items,
            |item| item * 2,
            |item, doubled| {
                assert_eq!(doubled, item * 2);
                seen.push(*item);
            },
        );
        seen.sort_unstable();
        assert_eq!(seen, items);
    }
}
