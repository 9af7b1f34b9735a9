//! The handshake of a link, and the sealed records after it.

use std::sync::Arc;

use bft_core::config::{Cipher, ClusterConfig, ProtocolParams};
use bft_core::ids::ReplicaId;
use bft_link::{Channel, Handshake, LocalIdentity, Peer};

use crate::cast::Cast;
use crate::feed::Feed;

const CONNECTOR_ENTROPY: [u8; 32] = [1; 32];
const ACCEPTOR_ENTROPY: [u8; 32] = [2; 32];

/// Who meets: a connecting client or replica, and replica 0.
fn ends(cast: &Cast, choices: u8) -> (LocalIdentity, LocalIdentity) {
    let config = sealed_with(&cast.config, if choices & 1 == 0 { Cipher::AesGcm } else { Cipher::ChaChaPoly });
    let replica = |id: u16, instance| {
        let scheme = cast.replicas[usize::from(id)].clone();
        LocalIdentity::replica(config.clone(), scheme, ReplicaId(id), instance).expect("a member with its key")
    };
    let connector = if choices & 2 == 0 {
        LocalIdentity::client(config.clone(), cast.client.clone(), None).expect("every client is admitted")
    } else {
        replica(3, 5)
    };
    (connector, replica(0, 9))
}

fn sealed_with(config: &ClusterConfig, cipher: Cipher) -> Arc<ClusterConfig> {
    let params = ProtocolParams { cipher, ..config.params().clone() };
    let (id, epoch, admission) = (config.cluster_id(), config.epoch(), config.admission());
    Arc::new(
        ClusterConfig::new(id, epoch, params, admission, config.members().to_vec()).expect("only the cipher is new"),
    )
}

fn handshakes(choices: u8) -> (Handshake, Handshake) {
    let (connector, acceptor) = ends(crate::wire::cast(), choices);
    let connector = Handshake::connect(connector, ReplicaId(0), CONNECTOR_ENTROPY);
    (connector, Handshake::accept(acceptor, ACCEPTOR_ENTROPY))
}

/// Choices, then changes of a genuine handshake, or bytes in the place of one of its flights. Whoever receives what was
/// changed gets no link out of it; without a change both get one, to each other.
pub fn handshake(data: &[u8]) {
    let mut feed = Feed::new(data);
    let choices = feed.u8();
    let (mut connector, mut acceptor) = handshakes(choices);
    // 3: nobody meddles.
    let changed = feed.choice(4);
    let mut is_changed = false;
    for flight in 0..3 {
        let (from, to) = if flight == 1 { (&mut acceptor, &mut connector) } else { (&mut connector, &mut acceptor) };
        let genuine = from.take_output();
        let mut bytes = genuine.clone();
        if flight == changed {
            meddle(&mut bytes, choices, feed);
            // What comes after a side's last message is a record for it; after the first one it is no message 3.
            is_changed = !bytes.starts_with(&genuine) || flight == 0 && bytes.len() > genuine.len();
        }
        give(to, &bytes, usize::from(choices >> 4) * 7);
    }
    let (ends, expected) = ((connector.finished(), acceptor.finished()), !is_changed);
    let receiver = if changed == 1 { ends.0.is_some() } else { ends.1.is_some() };
    assert_eq!(receiver, expected, "flight {changed} was changed: {is_changed}");
    if let (Some((of_connector, _)), Some((of_acceptor, _))) = ends {
        assert_eq!(of_connector.handshake_hash, of_acceptor.handshake_hash);
        assert_eq!(of_connector.replica, Some(ReplicaId(0)));
    }
}

/// Changes bytes, or puts others in their place.
fn meddle(bytes: &mut Vec<u8>, choices: u8, mut feed: Feed<'_>) {
    match choices >> 2 & 3 {
        0 => *bytes = feed.rest().to_vec(),
        1 => bytes.truncate(feed.choice(bytes.len() + 1)),
        2 => bytes.extend_from_slice(feed.rest()),
        _ => {
            while !feed.is_empty() {
                let at = feed.choice(bytes.len());
                bytes[at] ^= feed.u8();
            }
        }
    }
}

/// Feeds `bytes` in pieces of `piece`; 0: at once. An error is final.
fn give(to: &mut Handshake, bytes: &[u8], piece: usize) {
    let piece = if piece == 0 { bytes.len().max(1) } else { piece };
    for mut part in bytes.chunks(piece) {
        if let Err(error) = to.feed(&mut part) {
            assert_eq!(to.feed(&mut &[0][..]), Err(error), "an error is final");
            return;
        }
    }
}

fn channels(choices: u8) -> ((Peer, Channel), (Peer, Channel)) {
    let (mut connector, mut acceptor) = handshakes(choices);
    give(&mut acceptor, &connector.take_output(), 0);
    give(&mut connector, &acceptor.take_output(), 0);
    give(&mut acceptor, &connector.take_output(), 0);
    let met = (connector.finished(), acceptor.finished());
    (met.0.expect("nobody meddled"), met.1.expect("nobody meddled"))
}

/// Choices, how a plaintext is cut into records, changes of the sealed bytes. Only a prefix of what was sealed is ever
/// opened; all of it where nothing was changed.
pub fn record(data: &[u8]) {
    let mut feed = Feed::new(data);
    let choices = feed.u8();
    let ((_, mut sender), (_, mut receiver)) = channels(choices);
    let plain: Vec<u8> = (0..feed.choice(3000)).map(|at| at as u8).collect();
    let mut sealed = Vec::new();
    for piece in plain.chunks(feed.choice(1500) + 1) {
        sender.seal(piece, &mut sealed);
    }
    let genuine = sealed.clone();
    let piece = feed.choice(sealed.len() + 1) + 1;
    if sealed.is_empty() {
        sealed = feed.rest().to_vec();
    } else {
        meddle(&mut sealed, choices, feed);
    }
    let mut opened = Vec::new();
    let mut outcome = Ok(());
    for part in sealed.chunks(piece) {
        outcome = receiver.open(part, &mut opened);
        if outcome.is_err() {
            assert_eq!(receiver.open(&[0; 40], &mut opened), outcome, "an error is final");
            break;
        }
    }
    assert!(plain.starts_with(&opened), "only what was sealed, in its order");
    if sealed == genuine {
        assert_eq!((outcome, receiver.closed(), opened.len()), (Ok(()), Ok(()), plain.len()));
    } else if !sealed.starts_with(&genuine) {
        assert!(opened.len() < plain.len());
    }
}

/// The flights of the genuine handshake that `choices` stands for.
#[must_use]
pub fn flights(choices: u8) -> [Vec<u8>; 3] {
    let (mut connector, mut acceptor) = handshakes(choices);
    let first = connector.take_output();
    give(&mut acceptor, &first, 0);
    let second = acceptor.take_output();
    give(&mut connector, &second, 0);
    [first, second, connector.take_output()]
}
