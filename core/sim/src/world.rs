//! What all machines and clients of a run share: time, the queue of what is to come, links, judges and books.

use std::sync::Arc;

use bft_core::ids::{LinkId, LogPosition, ReplicaId, View};
use bft_core::journal::Ticket;
use bft_core::wire::message::Message;

use crate::carriage;
use crate::checkers::{Checks, Oracle};
use crate::cluster::Cluster;
use crate::counters::Counters;
use crate::coverage::Seen;
use crate::network::{Network, Node};
use crate::options::Options;
use crate::queue::{Queue, Turn};
use crate::rng::Seed;
use crate::trace::Trace;

/// A process's number among the lives of its machine or client: what belonged to an earlier one is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Life(pub u64);

/// Something that happens to a machine.
#[derive(Debug)]
pub enum ToMachine {
    /// A peer's message arrives, in whatever life.
    Message {
        /// Whose.
        from: ReplicaId,
        /// What.
        message: Message,
    },
    /// A client's message arrives on its link.
    FromClient {
        /// The link.
        link: LinkId,
        /// What.
        message: Message,
    },
    /// The process is started.
    Start,
    /// Something of one life.
    InLife(Life, InLife),
}

/// Something that happens to a process.
#[derive(Debug)]
pub enum InLife {
    /// The link to a life of a peer came up or went down.
    Peer {
        /// Who.
        peer: ReplicaId,
        /// Its life.
        life: Life,
        /// Which of the two.
        state: bft_core::door::LinkState,
    },
    /// A client's link came up.
    ClientUp {
        /// The client.
        client: usize,
        /// Its life.
        life: Life,
    },
    /// A client's link went down.
    ClientDown(LinkId),
    /// Requests have been gathered.
    Gathered,
    /// A write of the journal has landed in the cache.
    Landed(Ticket),
    /// A write of the journal is flushed.
    Flushed(Ticket),
    /// The core hears now what is durable.
    Durable,
    /// The execution thread is done with its job.
    JobDone,
    /// The snapshot thread takes its next step.
    SnapshotStep,
    /// A record has been read back.
    Loaded(LogPosition),
    /// A villain says now what it held back.
    Say {
        /// To whom.
        peer: ReplicaId,
        /// What.
        message: Message,
    },
    /// Time is up, if nobody set another time meanwhile.
    Deadline {
        /// Which setting of the deadline this is.
        generation: u64,
    },
}

/// Something that happens to a client.
#[derive(Debug)]
pub enum ToClient {
    /// It submits.
    Wake,
    /// A replica's message arrives.
    Message {
        /// Whose.
        from: ReplicaId,
        /// What.
        message: Message,
    },
    /// A link came up.
    LinkUp {
        /// To whom.
        replica: ReplicaId,
        /// To which machine.
        machine: Node,
        /// What the replica calls it.
        link: LinkId,
    },
    /// A link went down.
    LinkDown {
        /// To whom.
        replica: ReplicaId,
        /// To which machine.
        machine: Node,
        /// What the replica called it.
        link: LinkId,
    },
    /// Time is up, if nobody set another time meanwhile.
    Deadline {
        /// Which setting of the deadline this is.
        generation: u64,
    },
}

/// Something that happens.
#[derive(Debug)]
pub enum Event {
    /// To a machine.
    Machine(Node, ToMachine),
    /// To a life of a client.
    Client(usize, Life, ToClient),
    /// A fault strikes.
    Strike,
    /// A machine loses its power, because another one did a little earlier.
    PowerLoss(Node),
    /// The script goes on.
    Scripted,
    /// The faults end.
    EndOfFaults,
    /// A replica that was away is looked at.
    Watch {
        /// Who.
        replica: ReplicaId,
        /// How often from now on.
        looks: u32,
    },
    /// A disk is compared with what its replica believes.
    Audit,
    /// Has the run come to its end?
    Poll,
}

/// Who leads while a round of a script lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    /// The highest view that somebody was in when the round began.
    pub since: View,
    /// The view of the leader.
    pub view: View,
}

/// The shared part of a run.
pub struct World {
    /// Nanoseconds since the beginning.
    pub now: u64,
    /// What is to come.
    pub queue: Queue<Event>,
    /// Links.
    pub network: Network,
    /// Judges.
    pub checks: Checks,
    /// What happened.
    pub trace: Trace,
    /// How often.
    pub counters: Counters,
    /// What reached replicas in which status.
    pub seen: Seen,
    /// What the seed chose.
    pub options: Arc<Options>,
    /// Who is who.
    pub cluster: Cluster,
    /// Where a script says who leads.
    pub led: Option<Led>,
    next_link: LinkId,
}

impl World {
    /// A world in which nothing has happened.
    #[must_use]
    pub fn new(options: Options, trace: Trace) -> Self {
        let cluster = Cluster::new(&options);
        let nodes = options.machines() + options.clients.len();
        let rng = Seed::root(options.seed).child("network").rng();
        Self {
            now: 0,
            queue: Queue::default(),
            network: Network::new(options.network.clone(), nodes, rng),
            checks: Checks::new(
                &cluster.config,
                Arc::clone(&cluster.witness),
                cluster.villains,
                &options.script.doubled,
            ),
            trace,
            counters: Counters::default(),
            seen: Seen::default(),
            options: Arc::new(options),
            cluster,
            led: None,
            next_link: LinkId(1),
        }
    }

    /// How many replicas there are.
    #[must_use]
    pub fn n(&self) -> usize {
        self.options.weights.len()
    }

    /// A client's end of its links.
    #[must_use]
    pub fn client_node(&self, client: usize) -> Node {
        Node(self.options.machines() + client)
    }

    /// The machines that act under the name of a replica: one, or two.
    pub fn machines_of(&self, replica: ReplicaId) -> impl Iterator<Item = Node> + use<> {
        let doubled = self.options.script.doubled.iter().position(|doubled| *doubled == replica);
        let second = doubled.map(|nth| Node(self.n() + nth));
        std::iter::once(Node(replica.index())).chain(second)
    }

    /// `event` happens `delay` nanoseconds from now.
    pub fn after(&mut self, delay: u64, event: Event) {
        self.queue.push(self.now + delay, Turn::First, event);
    }

    /// `event` happens at `at`, after everything else of that instant.
    pub fn deadline(&mut self, at: u64, event: Event) {
        self.queue.push(at.max(self.now), Turn::Last, event);
    }

    /// A new link.
    pub fn draw_link(&mut self) -> LinkId {
        let link = self.next_link;
        self.next_link = link.next();
        link
    }

    /// A message leaves `from` for a replica.
    pub fn send_to_replica(
        &mut self,
        from: Node,
        to: ReplicaId,
        message: Message,
        arrive: impl Fn(Message) -> ToMachine,
    ) {
        if self.led.is_some_and(|led| led.loses(&message)) {
            return;
        }
        let mut machines = self.machines_of(to);
        let first = machines.next().expect("every replica has a machine");
        for second in machines {
            self.send_to_machine(from, second, message.clone(), &arrive);
        }
        self.send_to_machine(from, first, message, arrive);
    }

    /// A message leaves `from` for a machine.
    pub fn send_to_machine(&mut self, from: Node, to: Node, message: Message, arrive: impl Fn(Message) -> ToMachine) {
        let arrivals = self.network.send(self.now, from, to, &mut self.counters);
        let Some(first) = arrivals.first else { return };
        let message = self.carry(message);
        if let Some(second) = arrivals.second {
            self.queue.push(second, Turn::First, Event::Machine(to, arrive(message.clone())));
        }
        self.queue.push(first, Turn::First, Event::Machine(to, arrive(message)));
    }

    /// An answer leaves `from` for a life of a client.
    pub fn send_to_client(&mut self, from: (Node, ReplicaId), client: usize, life: Life, message: Message) {
        let (node, from) = from;
        let to = self.client_node(client);
        let arrivals = self.network.send(self.now, node, to, &mut self.counters);
        let Some(first) = arrivals.first else { return };
        let message = self.carry(message);
        if let Some(second) = arrivals.second {
            let message = message.clone();
            self.queue.push(second, Turn::First, Event::Client(client, life, ToClient::Message { from, message }));
        }
        self.queue.push(first, Turn::First, Event::Client(client, life, ToClient::Message { from, message }));
    }

    fn carry(&mut self, message: Message) -> Message {
        match carriage::carry(message, self.options.fidelity, &self.cluster.config) {
            Ok(message) => message,
            Err((message, text)) => {
                self.checks.report(Oracle::Assertion, text);
                message
            }
        }
    }
}

impl Led {
    /// Whether a message proposes in another view, or begins one that nobody has been in.
    fn loses(self, message: &Message) -> bool {
        match message {
            Message::PrePrepare(proposal) => proposal.position.view != self.view,
            Message::NewView(new_view) => new_view.view != self.view && new_view.view > self.since,
            Message::Request(_)
            | Message::Reply(_)
            | Message::Busy(_)
            | Message::InfoQuery { .. }
            | Message::Info(_)
            | Message::ClientJoin(_)
            | Message::Prepare(_)
            | Message::Commit(_)
            | Message::Checkpoint(_)
            | Message::Snapshot(_)
            | Message::ViewChange(_)
            | Message::Status(_)
            | Message::FetchSlot(_)
            | Message::Slot(_)
            | Message::FetchBody(_)
            | Message::Body(_)
            | Message::FetchLog(_)
            | Message::Log(_)
            | Message::FetchManifest(_)
            | Message::Manifest(_)
            | Message::FetchChunk(_)
            | Message::Chunk(_)
            | Message::FetchTrail(_)
            | Message::Trail(_)
            | Message::Evidence(_) => false,
        }
    }
}
