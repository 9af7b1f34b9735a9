//! One replica that this side dials: one link for each pair, for ever.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bft_core::ids::{Nanos, ReplicaId};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::io::doorbell::Doorbell;
use crate::io::redial::{CONNECT_TIMEOUT, Redial, look_up};

/// Who is dialled, and how far that is.
pub struct Dial {
    /// Whom.
    pub peer: ReplicaId,
    address: String,
    token: Token,
    state: State,
    redial: Redial,
    /// When the present attempt began.
    begun: Nanos,
}

enum State {
    /// For the time to dial again.
    Waiting { until: Nanos },
    /// For a name to be looked up.
    LookingUp(mpsc::Receiver<Option<SocketAddr>>),
    /// For the other end.
    Connecting { stream: TcpStream, address: SocketAddr, until: Nanos },
    /// The connection is there.
    Connected,
}

/// What there is of a connection.
enum Attempt {
    Pending,
    Made(TcpStream),
    Failed,
}

impl Dial {
    /// Dials `peer` at once. The kernel tells of its connection under `token`.
    pub fn new(peer: ReplicaId, address: String, token: Token) -> Self {
        let state = State::Waiting { until: Nanos(0) };
        Self { peer, address, token, state, redial: Redial::default(), begun: Nanos(0) }
    }

    /// Does what can be done now; gives the connection once it is made.
    pub fn turn(&mut self, now: Nanos, registry: &Registry, bell: &Arc<Doorbell>) -> Option<TcpStream> {
        let attempt = match &mut self.state {
            State::Waiting { until } if now < *until => Attempt::Pending,
            State::Waiting { .. } => self.begin(now, registry, bell),
            State::LookingUp(answer) => match answer.try_recv() {
                Err(mpsc::TryRecvError::Empty) => Attempt::Pending,
                Ok(Some(address)) => self.connect(now, registry, address),
                Ok(None) | Err(mpsc::TryRecvError::Disconnected) => self.unknown(),
            },
            State::Connecting { .. } => self.look(now),
            State::Connected => Attempt::Pending,
        };
        match attempt {
            Attempt::Pending => None,
            Attempt::Failed => {
                self.lost(now);
                None
            }
            Attempt::Made(mut stream) => match registry.deregister(&mut stream) {
                Ok(()) => Some(stream),
                Err(_) => {
                    self.lost(now);
                    None
                }
            },
        }
    }

    /// The connection is lost, or what was made of it.
    pub fn lost(&mut self, now: Nanos) {
        let wait = self.redial.after(now.since(self.begun));
        self.state = State::Waiting { until: now.after(nanos(wait)) };
    }

    /// When there is something to do, whatever comes.
    pub fn deadline(&self) -> Option<Nanos> {
        match &self.state {
            State::Waiting { until } | State::Connecting { until, .. } => Some(*until),
            State::LookingUp(_) | State::Connected => None,
        }
    }

    fn begin(&mut self, now: Nanos, registry: &Registry, bell: &Arc<Doorbell>) -> Attempt {
        self.begun = now;
        if let Ok(address) = self.address.parse() {
            return self.connect(now, registry, address);
        }
        let (answer, answered) = mpsc::channel();
        let (address, bell) = (self.address.clone(), bell.clone());
        let thread = std::thread::Builder::new().name("bft-look-up".into()).spawn(move || {
            // Where the executor is gone nobody waits for it.
            let _ = answer.send(look_up(&address));
            bell.ring();
        });
        match thread {
            Ok(_) => {
                self.state = State::LookingUp(answered);
                Attempt::Pending
            }
            Err(_) => self.unknown(),
        }
    }

    fn unknown(&self) -> Attempt {
        tracing::debug!(replica = self.peer.0, "its address is not known");
        Attempt::Failed
    }

    fn connect(&mut self, now: Nanos, registry: &Registry, address: SocketAddr) -> Attempt {
        let begun = TcpStream::connect(address).and_then(|mut stream| {
            registry.register(&mut stream, self.token, Interest::WRITABLE)?;
            Ok(stream)
        });
        match begun {
            Ok(stream) => {
                let until = now.after(nanos(CONNECT_TIMEOUT));
                self.state = State::Connecting { stream, address, until };
                Attempt::Pending
            }
            Err(error) => self.failed(address, &error),
        }
    }

    /// Whether the other end has answered.
    fn look(&mut self, now: Nanos) -> Attempt {
        let State::Connecting { stream, address, until } = &self.state else { unreachable!("the caller has seen it") };
        let answer = match stream.take_error() {
            Ok(None) => stream.peer_addr().map(drop),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        match answer {
            Ok(()) => match std::mem::replace(&mut self.state, State::Connected) {
                State::Connecting { stream, .. } => Attempt::Made(stream),
                State::Waiting { .. } | State::LookingUp(_) | State::Connected => unreachable!("just seen there"),
            },
            Err(error) if error.kind() == io::ErrorKind::NotConnected && now < *until => Attempt::Pending,
            Err(error) => self.failed(*address, &error),
        }
    }

    fn failed(&self, resolved: SocketAddr, error: &io::Error) -> Attempt {
        tracing::debug!(replica = self.peer.0, %resolved, %error, "not connected");
        Attempt::Failed
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("waits of seconds fit")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use bft_core::limits::SECOND;
    use mio::{Events, Poll};

    use super::*;

    /// Turns `dial` until it has a connection, or waits to dial again.
    fn outcome(dial: &mut Dial, now: Nanos) -> Option<TcpStream> {
        let (mut poll, bell) = (Poll::new().unwrap(), Arc::new(Doorbell::new().unwrap()));
        let mut events = Events::with_capacity(8);
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(stream) = dial.turn(now, poll.registry(), &bell) {
                return Some(stream);
            }
            if matches!(dial.state, State::Waiting { .. }) {
                return None;
            }
            assert!(Instant::now() < until, "nothing comes of it");
            poll.poll(&mut events, Some(Duration::from_millis(1))).unwrap();
        }
    }

    fn dial(address: String) -> Dial {
        Dial::new(ReplicaId(3), address, Token(1))
    }

    #[test]
    fn addresses_and_names_are_dialled_once_until_the_connection_is_lost() {
        let listener = TcpListener::bind(look_up("localhost:0").unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        for name in [address.to_string(), format!("localhost:{}", address.port())] {
            let mut dial = dial(name);
            let stream = outcome(&mut dial, Nanos(7)).expect("somebody listens");
            assert_eq!(listener.accept().unwrap().1, stream.local_addr().unwrap());
            let (poll, bell) = (Poll::new().unwrap(), Arc::new(Doorbell::new().unwrap()));
            assert!(dial.turn(Nanos(10 * SECOND), poll.registry(), &bell).is_none() && dial.deadline().is_none());
            dial.lost(Nanos(10 * SECOND));
            let again = dial.deadline().expect("it is dialled again");
            assert!(again > Nanos(10 * SECOND) && again <= Nanos(10 * SECOND + 20_000_000), "{again:?}");
            assert!(dial.turn(Nanos(again.0 - 1), poll.registry(), &bell).is_none(), "and not before");
            assert!(outcome(&mut dial, again).is_some());
            listener.accept().unwrap();
        }
    }

    #[test]
    fn who_does_not_listen_and_who_is_not_known_are_dialled_again() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for name in [closed.to_string(), "no address".into()] {
            let mut dial = dial(name);
            assert!(outcome(&mut dial, Nanos(7)).is_none());
            assert!(dial.deadline().is_some_and(|at| at > Nanos(7)));
        }
    }
}
