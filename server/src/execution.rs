//! The service's side of the house: batches, images and restores in the order in which the core gave them, on a thread
//! of its own, or on the executor itself where one core is granted. How a batch is run is in [`bft_core::execution`].
//!
//! Kept here: the service is entered by one thread at a time, in Seq order; an image is taken between the batch it was
//! asked for and the next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use bft_core::door::{Effects, Execute, Executed, SnapshotOrder};
use bft_core::execution::execute;
use bft_core::ids::Seq;
use bft_core::service::{ReplyBuffer, Service, ServiceFault};

use crate::error::ServerError;
use crate::io::doorbell::Doorbell;
use crate::snapshots::{SnapshotFolder, SnapshotJob, SnapshotThread};

/// Orders that may wait for the execution thread. One batch is outstanding at a time, and few other orders come between
/// two.
const ORDERS_MAX: usize = 64;

/// What the service is to do.
#[derive(Debug)]
pub enum Order {
    /// Run a batch.
    Execute(Execute),
    /// Hand out the image after the last batch, for the files of a snapshot.
    Snapshot(SnapshotOrder),
    /// A snapshot is agreed on.
    SnapshotStable(Seq),
    /// Restore from the files of a snapshot.
    Install(Seq),
    /// Hand out the image after the last batch, for its digest.
    Digest,
}

/// What it did.
#[derive(Debug)]
pub enum Done {
    /// Ran a batch.
    Executed {
        /// At which Seq.
        seq: Seq,
        /// What came of it.
        outcome: Executed,
    },
    /// Restored from the snapshot of a Seq.
    Installed(Seq),
}

/// What one step wants of the service, in the order that the contract of [`Effects`] gives it.
pub fn take_orders(effects: &mut Effects, orders: &mut VecDeque<Order>) {
    orders.extend(effects.install.take().map(Order::Install));
    // The image is of the state before the batch that the same step may hand out.
    orders.extend(effects.snapshot.take().map(Order::Snapshot));
    orders.extend(effects.execute.drain(..).map(Order::Execute));
    orders.extend(effects.snapshot_stable.take().map(Order::SnapshotStable));
}

/// The service and what belongs to running it.
pub struct Execution {
    service: Box<dyn Service>,
    buffer: ReplyBuffer,
    files: SnapshotFolder,
    snapshots: Arc<SnapshotThread>,
    executed: Seq,
}

impl Execution {
    /// `service` was opened and holds the state at `executed`.
    #[must_use]
    pub fn new(
        service: Box<dyn Service>,
        files: SnapshotFolder,
        snapshots: Arc<SnapshotThread>,
        executed: Seq,
    ) -> Self {
        Self { service, buffer: ReplyBuffer::default(), files, snapshots, executed }
    }

    /// Does it; `None` where nobody waits for the answer.
    pub fn carry_out(&mut self, order: Order) -> Result<Option<Done>, ServerError> {
        match order {
            Order::Execute(batch) => {
                assert!(batch.seq > self.executed, "batches come in Seq order, each once");
                let outcome = execute(self.service.as_mut(), &batch, &mut self.buffer)?;
                self.executed = batch.seq;
                Ok(Some(Done::Executed { seq: batch.seq, outcome }))
            }
            Order::Snapshot(order) => {
                // Batches without an operation for the service do not come here.
                assert!(order.seq >= self.executed, "an image is asked for before the next batch");
                self.executed = order.seq;
                let image = self.service.snapshot(order.seq)?;
                self.snapshots.submit(SnapshotJob::Write { image, order });
                Ok(None)
            }
            Order::SnapshotStable(seq) => {
                self.service.snapshot_stable(seq);
                Ok(None)
            }
            Order::Install(seq) => {
                let manifest = self.files.restore(seq, self.service.as_mut())?;
                self.snapshots.submit(SnapshotJob::Restored(manifest));
                self.executed = seq;
                Ok(Some(Done::Installed(seq)))
            }
            Order::Digest => {
                let image = self.service.snapshot(self.executed)?;
                self.snapshots.submit(SnapshotJob::Digest { image, at: self.executed });
                Ok(None)
            }
        }
    }
}

/// Where the ordering executor sends orders.
pub enum ExecutionHandle {
    /// The service runs on the executor itself.
    Inline(Box<Execution>),
    /// It has a thread.
    Thread(ExecutionThread),
}

impl ExecutionHandle {
    /// Gives an order. Its answer comes back at once, or through [`Self::poll`].
    pub fn order(&mut self, order: Order) -> Result<Option<Done>, ServerError> {
        match self {
            Self::Inline(execution) => execution.carry_out(order),
            Self::Thread(thread) => {
                thread.order(order);
                Ok(None)
            }
        }
    }

    /// The next answer of the thread.
    pub fn poll(&mut self) -> Result<Option<Done>, ServerError> {
        match self {
            Self::Inline(_) => Ok(None),
            Self::Thread(thread) => match thread.done.pop() {
                Ok(answer) => answer.map(Some),
                Err(rtrb::PopError::Empty) if thread.done.is_abandoned() => Err(ServerError::ThreadEnded("execution")),
                Err(rtrb::PopError::Empty) => Ok(None),
            },
        }
    }
}

/// A thread that runs the service.
pub struct ExecutionThread {
    orders: Option<rtrb::Producer<Order>>,
    done: rtrb::Consumer<Result<Done, ServerError>>,
    thread: Option<JoinHandle<()>>,
}

impl ExecutionThread {
    /// Starts it; `bell` is rung when an answer waits.
    #[must_use]
    pub fn start(execution: Execution, bell: Arc<Doorbell>) -> Self {
        let (orders, waiting) = rtrb::RingBuffer::new(ORDERS_MAX);
        let (answers, done) = rtrb::RingBuffer::new(ORDERS_MAX);
        let thread = std::thread::Builder::new().name("bft-execution".into());
        let thread = thread.spawn(move || run(execution, waiting, answers, &bell));
        Self { orders: Some(orders), done, thread: Some(thread.expect("the system has threads left")) }
    }

    fn order(&mut self, order: Order) {
        let orders = self.orders.as_mut().expect("taken only when dropped");
        orders.push(order).expect("the core keeps one batch outstanding, so few orders wait");
        self.thread.as_ref().expect("taken only when dropped").thread().unpark();
    }
}

impl Drop for ExecutionThread {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there has been printed there.
            let _ = thread.join();
        }
    }
}

fn run(
    mut execution: Execution,
    mut orders: rtrb::Consumer<Order>,
    mut answers: rtrb::Producer<Result<Done, ServerError>>,
    bell: &Doorbell,
) {
    // Rings also when the service panics: the executor then finds the queue abandoned.
    struct RingAtEnd<'a>(&'a Doorbell);
    impl Drop for RingAtEnd<'_> {
        fn drop(&mut self) {
            self.0.ring();
        }
    }
    let _at_end = RingAtEnd(bell);
    loop {
        let Ok(order) = orders.pop() else {
            if orders.is_abandoned() {
                return;
            }
            std::thread::park();
            continue;
        };
        let is_failed = match execution.carry_out(order).transpose() {
            None => continue,
            Some(answer) => {
                let is_failed = answer.is_err();
                answers.push(answer).expect("no more answers than orders");
                is_failed
            }
        };
        bell.ring();
        if is_failed {
            return;
        }
    }
}

impl From<ServiceFault> for ServerError {
    fn from(fault: ServiceFault) -> Self {
        Self::Service(fault)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bft_core::service::{Batch, Replies, Snapshot};
    use bft_core::wire::request::Body;

    use super::*;

    /// Fails, or panics, when it is told that a snapshot is stable.
    struct Fragile {
        fault: fn() -> Result<Box<dyn Snapshot>, ServiceFault>,
    }

    impl Service for Fragile {
        fn open(&mut self) -> Result<Seq, ServiceFault> {
            Ok(Seq(0))
        }

        fn execute(&mut self, _: &Batch<'_>, _: &mut Replies<'_>) -> Result<(), ServiceFault> {
            unreachable!("nothing is admitted in these tests")
        }

        fn query(&mut self, _: &[u8], _: &mut Replies<'_>) -> Result<(), ServiceFault> {
            Ok(())
        }

        fn snapshot(&mut self, _: Seq) -> Result<Box<dyn Snapshot>, ServiceFault> {
            (self.fault)()
        }

        fn restore_begin(&mut self, _: Seq, _: u32) -> Result<(), ServiceFault> {
            Ok(())
        }

        fn restore_chunk(&mut self, _: u32, _: &[u8]) -> Result<(), ServiceFault> {
            Ok(())
        }

        fn restore_finish(&mut self) -> Result<(), ServiceFault> {
            Ok(())
        }

        fn restore_abort(&mut self) {}
    }

    fn on_thread(fault: fn() -> Result<Box<dyn Snapshot>, ServiceFault>) -> (tempfile::TempDir, ExecutionHandle) {
        let dir = tempfile::tempdir().unwrap();
        let files = SnapshotFolder::open(dir.path().to_owned()).unwrap();
        let snapshots = Arc::new(SnapshotThread::start(files.clone(), None, |_| {}));
        let execution = Execution::new(Box::new(Fragile { fault }), files, snapshots, Seq(0));
        let thread = ExecutionThread::start(execution, Arc::new(Doorbell::new().unwrap()));
        (dir, ExecutionHandle::Thread(thread))
    }

    fn batch(seq: u64) -> Order {
        let body = Arc::new(Body::default());
        Order::Execute(Execute { seq: Seq(seq), time_ns: seq, body, admitted: Vec::new() })
    }

    fn wait(handle: &mut ExecutionHandle) -> Result<Done, ServerError> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(done) = handle.poll()? {
                return Ok(done);
            }
            assert!(Instant::now() < until, "the thread says nothing");
            std::thread::yield_now();
        }
    }

    #[test]
    fn k5_the_image_comes_before_the_batch_that_the_same_step_hands_out() {
        let mut effects = Effects::default();
        effects.execute.push(Execute { seq: Seq(9), time_ns: 9, body: Arc::default(), admitted: vec![0] });
        effects.snapshot = Some(SnapshotOrder { seq: Seq(8), clients: Arc::default() });
        let mut orders = VecDeque::new();
        take_orders(&mut effects, &mut orders);
        let is_image_then_batch = matches!(orders.make_contiguous(), [Order::Snapshot(image), Order::Execute(batch)]
            if image.seq == Seq(8) && batch.seq == Seq(9));
        assert!(is_image_then_batch, "{orders:?}");
    }

    #[test]
    fn s6_batches_come_back_in_their_order() {
        let (_dir, mut handle) = on_thread(|| Err(ServiceFault("not asked for".into())));
        for seq in [1, 2, 5] {
            assert!(handle.order(batch(seq)).unwrap().is_none());
        }
        for expected in [1, 2, 5] {
            let done = wait(&mut handle).unwrap();
            assert!(matches!(done, Done::Executed { seq: Seq(seq), .. } if seq == expected), "{done:?}");
        }
    }

    #[test]
    fn a_fault_of_the_service_is_said_and_its_panic_is_noticed() {
        let (_dir, mut handle) = on_thread(|| Err(ServiceFault("out of paper".into())));
        handle.order(Order::Digest).unwrap();
        let error = wait(&mut handle).unwrap_err();
        assert!(matches!(&error, ServerError::Service(fault) if fault.0 == "out of paper"), "{error}");

        let (_dir, mut handle) = on_thread(|| panic!("a service with a bug: this is expected in the output"));
        handle.order(Order::Digest).unwrap();
        let error = wait(&mut handle).unwrap_err();
        assert!(matches!(error, ServerError::ThreadEnded("execution")), "{error}");
    }
}
