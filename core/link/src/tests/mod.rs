//! Tests of links: a cluster to have them in, and the handshake of two sides with somebody in the middle.

use std::sync::Arc;

use bft_core::auth::{Ed25519, Scheme};
use bft_core::config::{Admission, Cipher, ClusterConfig, Member, ProtocolParams};
use bft_core::ids::{ClusterId, Epoch, PublicKey, ReplicaId};
use bft_core::wire::canonical::client_certificate;
use bft_core::wire::message::ClientCertificate;

use crate::identity::Who;
use crate::{Channel, Handshake, LinkError, LocalIdentity, Peer};

mod channel;
mod handshake;
mod hostile;

const CIPHERS: [Cipher; 2] = [Cipher::AesGcm, Cipher::ChaChaPoly];
const REPLICAS: u8 = 4;
const AUTHORITY: u8 = 200;
const CLIENT: u8 = 100;
const EPOCH: Epoch = Epoch(3);
const CONNECTOR_ENTROPY: [u8; 32] = [1; 32];
const ACCEPTOR_ENTROPY: [u8; 32] = [2; 32];

/// The scheme with the secret key number `key`. Replicas have 0 to 3.
fn scheme(key: u8) -> Arc<dyn Scheme> {
    Arc::new(Ed25519::new(&[key; 32], [0; 32]))
}

/// What a configuration is made of.
#[derive(Clone)]
struct Recipe {
    cluster: u8,
    epoch: Epoch,
    cipher: Cipher,
    admission: Admission,
    members: u8,
    view_timeout: u64,
}

impl Recipe {
    fn new(cipher: Cipher) -> Self {
        let view_timeout = ProtocolParams::default().view_timeout;
        Self { cluster: 7, epoch: EPOCH, cipher, admission: Admission::Any, members: REPLICAS, view_timeout }
    }

    fn certified(mut self) -> Self {
        self.admission = Admission::Certified(scheme(AUTHORITY).public_key());
        self
    }

    fn config(&self) -> Arc<ClusterConfig> {
        let params =
            ProtocolParams { cipher: self.cipher, view_timeout: self.view_timeout, ..ProtocolParams::default() };
        let member = |key| Member { weight: 1, public_key: scheme(key).public_key(), address: format!("r{key}:1") };
        let members = (0..self.members).map(member).collect();
        let cluster = ClusterId([self.cluster; 32]);
        Arc::new(ClusterConfig::new(cluster, self.epoch, params, self.admission, members).unwrap())
    }

    fn replica(&self, id: u8) -> LocalIdentity {
        LocalIdentity::replica(self.config(), scheme(id), ReplicaId(id.into()), u64::from(id) + 10).unwrap()
    }

    fn client(&self, key: u8) -> LocalIdentity {
        LocalIdentity::client(self.config(), scheme(key), self.certificate(key, self.epoch)).unwrap()
    }

    /// A client that does not look whether it would be admitted.
    fn bold_client(&self, key: u8, certificate: Option<ClientCertificate>) -> LocalIdentity {
        LocalIdentity::new(self.config(), scheme(key), Who::Client { certificate })
    }

    fn certificate(&self, key: u8, expires_epoch: Epoch) -> Option<ClientCertificate> {
        match self.admission {
            Admission::Any => None,
            Admission::Certified(_) => {
                Some(certificate(ClusterId([self.cluster; 32]), scheme(key).public_key(), expires_epoch))
            }
        }
    }
}

fn certificate(cluster: ClusterId, client: PublicKey, expires_epoch: Epoch) -> ClientCertificate {
    let signature = scheme(AUTHORITY).sign(&client_certificate(cluster, client, expires_epoch));
    ClientCertificate { expires_epoch, signature }
}

/// How a handshake ended for each side.
struct Ends {
    connector: Result<(Peer, Channel), LinkError>,
    acceptor: Result<(Peer, Channel), LinkError>,
}

impl Ends {
    fn connector_error(&self) -> LinkError {
        self.connector.as_ref().err().cloned().expect("the connector has a link")
    }

    fn acceptor_error(&self) -> LinkError {
        self.acceptor.as_ref().err().cloned().expect("the acceptor has a link")
    }

    fn both(self) -> ((Peer, Channel), (Peer, Channel)) {
        let connector = self.connector.unwrap_or_else(|error| panic!("connector: {error}"));
        let acceptor = self.acceptor.unwrap_or_else(|error| panic!("acceptor: {error}"));
        (connector, acceptor)
    }
}

/// A handshake over a wire that somebody can reach: `meddle` sees flight 0 (preface and message 1), 1 and 2.
fn exchange(mut connector: Handshake, mut acceptor: Handshake, mut meddle: impl FnMut(usize, &mut Vec<u8>)) -> Ends {
    for flight in 0..3 {
        let (from, to) = if flight == 1 { (&mut acceptor, &mut connector) } else { (&mut connector, &mut acceptor) };
        let mut bytes = from.take_output();
        meddle(flight, &mut bytes);
        // The error, if any, is asked for in the end.
        let _ = to.feed(&mut bytes.as_slice());
    }
    Ends { connector: end(connector), acceptor: end(acceptor) }
}

fn end(mut handshake: Handshake) -> Result<(Peer, Channel), LinkError> {
    match handshake.finished() {
        Some(finished) => Ok(finished),
        None => Err(handshake.closed().expect_err("neither finished nor failed")),
    }
}

fn connect(local: &LocalIdentity, wanted: u8) -> Handshake {
    Handshake::connect(local.clone(), ReplicaId(wanted.into()), CONNECTOR_ENTROPY)
}

fn accept(local: &LocalIdentity) -> Handshake {
    Handshake::accept(local.clone(), ACCEPTOR_ENTROPY)
}

/// A handshake of two sides that nobody meddles with.
fn meet(connector: &LocalIdentity, acceptor: &LocalIdentity, wanted: u8) -> Ends {
    exchange(connect(connector, wanted), accept(acceptor), |_, _| ())
}

/// The three flights of a handshake.
fn flights(connector: &LocalIdentity, acceptor: &LocalIdentity, wanted: u8) -> [Vec<u8>; 3] {
    let mut flights = [const { Vec::new() }; 3];
    exchange(connect(connector, wanted), accept(acceptor), |flight, bytes| flights[flight] = bytes.clone()).both();
    flights
}

/// Both ends of the link of a client to a replica.
fn channels(cipher: Cipher) -> (Channel, Channel) {
    let recipe = Recipe::new(cipher);
    let ((_, connector), (_, acceptor)) = meet(&recipe.client(CLIENT), &recipe.replica(0), 0).both();
    (connector, acceptor)
}
