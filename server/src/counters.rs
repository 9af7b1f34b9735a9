//! What is counted where it happens, and read from elsewhere: one writer each, no locked instruction on the way.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread raises and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only one thread may.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct $name {
            $($(#[$field_doc])* pub $field: Counter,)*
        }

        impl $name {
            /// Names and numbers.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field.get()),)*]
            }
        }
    };
}

counters! {
    /// Of one shard.
    ShardCounters {
        /// Links whose handshake finished.
        links_up,
        /// Connections turned away before their handshake.
        links_refused,
        /// Handshakes that failed or took too long.
        handshakes_failed,
        /// Links closed because of what came over them.
        links_rejected,
        /// Frames taken.
        frames_received,
        /// Frames queued.
        frames_sent,
        /// Frames that a full send queue dropped.
        frames_dropped,
        /// Requests whose signature was checked.
        requests_checked,
        /// Forwarded Requests that a turn had no room for.
        forwards_dropped,
        /// Requests that were refused unchecked, because the pool was full.
        requests_unchecked_busy,
        /// Requests that were refused unchecked, because their client brought more than its rate.
        requests_over_rate,
        /// Requests whose signature is not valid.
        requests_bad_signature,
        /// Plaintext received.
        bytes_received,
        /// Bytes written to sockets.
        bytes_sent,
    }
}

counters! {
    /// Of the ordering executor.
    OrderingCounters {
        /// Turns of the loop.
        turns,
        /// Inputs of the core.
        steps,
        /// Records made durable.
        records,
        /// Groups written, each with a flush of its own.
        flushes,
        /// Bytes of those.
        journal_bytes,
        /// Batches given to the service.
        batches_executed,
        /// Requests in those.
        requests_executed,
        /// Frames that another shard's full queue dropped.
        shard_queue_full,
    }
}
