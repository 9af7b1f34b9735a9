//! The handshake between honest sides: who learns what, every way the bytes may be cut, the same bytes for ever, and
//! the mistakes of operators.

use bft_core::auth::Verifier;
use bft_core::config::{Admission, Cipher};
use bft_core::hash::{Context, hash};
use bft_core::ids::{ClusterId, Epoch, ReplicaId};

use super::{
    ACCEPTOR_ENTROPY, AUTHORITY, CIPHERS, CLIENT, CONNECTOR_ENTROPY, EPOCH, REPLICAS, Recipe, accept, certificate,
    connect, end, exchange, flights, meet, scheme,
};
use crate::{Channel, Handshake, LinkError, LocalIdentity, Role, check_join, join, sealed_len};

fn talk(from: &mut Channel, to: &mut Channel, text: &[u8]) {
    let (mut wire, mut heard) = (Vec::new(), Vec::new());
    from.seal(text, &mut wire);
    to.open(&wire, &mut heard).unwrap();
    assert_eq!(heard, text);
}

#[test]
fn replicas_meet() {
    for cipher in CIPHERS {
        let recipe = Recipe::new(cipher);
        let ((peer_of_2, mut at_2), (peer_of_0, mut at_0)) = meet(&recipe.replica(2), &recipe.replica(0), 0).both();
        assert_eq!((peer_of_2.replica, peer_of_2.instance), (Some(ReplicaId(0)), 10));
        assert_eq!((peer_of_0.replica, peer_of_0.instance), (Some(ReplicaId(2)), 12));
        for peer in [&peer_of_0, &peer_of_2] {
            let id = peer.replica.unwrap();
            assert_eq!(peer.public_key, recipe.config().member(id).unwrap().public_key);
            assert_eq!((peer.role, peer.epoch, peer.version), (Role::Replica, EPOCH, 1));
            assert_eq!((peer.certificate, peer.features), (None, 0));
        }
        assert_eq!(peer_of_0.handshake_hash, peer_of_2.handshake_hash);
        talk(&mut at_2, &mut at_0, b"to the acceptor");
        talk(&mut at_0, &mut at_2, b"to the connector");
    }
}

#[test]
fn a_client_meets_a_replica() {
    for cipher in CIPHERS {
        for recipe in [Recipe::new(cipher), Recipe::new(cipher).certified()] {
            let ((server, mut at_client), (client, mut at_server)) =
                meet(&recipe.client(CLIENT), &recipe.replica(3), 3).both();
            assert_eq!((server.role, server.replica), (Role::Replica, Some(ReplicaId(3))));
            assert_eq!((client.role, client.replica, client.instance), (Role::Client, None, 0));
            assert_eq!(client.public_key, scheme(CLIENT).public_key());
            assert_eq!(client.certificate, recipe.certificate(CLIENT, EPOCH));
            talk(&mut at_client, &mut at_server, b"question");
            talk(&mut at_server, &mut at_client, b"answer");
        }
    }
}

#[test]
fn the_channel_names_its_protocol() {
    let names = CIPHERS.map(|cipher| super::channels(cipher).0.name());
    assert_eq!(names, ["Noise_XX_25519_AESGCM_SHA256", "Noise_XX_25519_ChaChaPoly_SHA256"]);
}

#[test]
fn handshakes_may_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Handshake>();
    is_send::<Channel>();
}

#[test]
fn the_output_must_be_taken_before_the_channel() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let [_, second, _] = flights(&recipe.replica(1), &recipe.replica(0), 0);
    let mut connector = connect(&recipe.replica(1), 0);
    assert!(!connector.take_output().is_empty() && connector.take_output().is_empty());
    connector.feed(&mut second.as_slice()).unwrap();
    assert!(connector.finished().is_none(), "message 3 is still to be sent");
    assert!(!connector.take_output().is_empty());
    assert!(connector.finished().is_some() && connector.finished().is_none());
    assert_eq!(connector.closed(), Ok(()));
}

/// Feeds `pieces` one after the other; what is left of the last one when the handshake has finished.
fn feed_all<'a>(handshake: &mut Handshake, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut left = Vec::new();
    for piece in pieces {
        let mut incoming = piece;
        handshake.feed(&mut incoming).unwrap();
        left.extend_from_slice(incoming);
    }
    left
}

#[test]
fn mem2_every_split_of_the_bytes_is_the_same() {
    for cipher in CIPHERS {
        let recipe = Recipe::new(cipher).certified();
        let (client, replica) = (recipe.client(CLIENT), recipe.replica(0));
        let [first, second, third] = flights(&client, &replica, 0);
        // Records may follow at once.
        let to_acceptor = [first.as_slice(), &third, b"records"].concat();
        for at in 0..=to_acceptor.len() {
            let (front, back) = to_acceptor.split_at(at);
            let mut acceptor = accept(&replica);
            let left = feed_all(&mut acceptor, [front, back]);
            assert_eq!(acceptor.take_output(), second, "split at {at}");
            assert_eq!(left, b"records", "split at {at}");
            assert!(acceptor.finished().is_some(), "split at {at}");
        }
        let to_connector = [second.as_slice(), b"records"].concat();
        for at in 0..=to_connector.len() {
            let (front, back) = to_connector.split_at(at);
            let mut connector = connect(&client, 0);
            assert_eq!(connector.take_output(), first);
            assert_eq!(feed_all(&mut connector, [front, back]), b"records", "split at {at}");
            assert_eq!(connector.take_output(), third, "split at {at}");
            assert!(connector.finished().is_some(), "split at {at}");
        }
        let (mut acceptor, mut connector) = (accept(&replica), connect(&client, 0));
        feed_all(&mut acceptor, to_acceptor.chunks(1));
        feed_all(&mut connector, to_connector.chunks(1));
        assert_eq!([connector.take_output(), acceptor.take_output()], [[first, third].concat(), second]);
        assert!(acceptor.finished().is_some() && connector.finished().is_some());
    }
}

#[test]
fn the_same_entropy_gives_the_same_bytes_and_other_entropy_others() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let (connector, acceptor) = (recipe.replica(1), recipe.replica(0));
    let run = |ours, theirs| {
        let mut seen = [const { Vec::new() }; 3];
        let connecting = Handshake::connect(connector.clone(), ReplicaId(0), ours);
        let accepting = Handshake::accept(acceptor.clone(), theirs);
        let ends = exchange(connecting, accepting, |flight, bytes| seen[flight] = bytes.clone());
        let ((peer, _), _) = ends.both();
        (seen, peer.handshake_hash)
    };
    let (usual, hash) = run(CONNECTOR_ENTROPY, ACCEPTOR_ENTROPY);
    assert_eq!((usual.clone(), hash), run(CONNECTOR_ENTROPY, ACCEPTOR_ENTROPY));
    let (other_connector, hash_1) = run([3; 32], ACCEPTOR_ENTROPY);
    let (other_acceptor, hash_2) = run(CONNECTOR_ENTROPY, [3; 32]);
    assert!((0..3).all(|flight| other_connector[flight] != usual[flight]));
    assert_eq!(other_acceptor[0], usual[0]);
    assert!((1..3).all(|flight| other_acceptor[flight] != usual[flight]));
    assert!(hash != hash_1 && hash != hash_2 && hash_1 != hash_2);
}

#[test]
fn one_entropy_never_gives_a_key_twice() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let [first, ..] = flights(&recipe.replica(1), &recipe.replica(0), 0);
    let ephemeral = &first[16 + 2..];
    let preface = first[..16].try_into().unwrap();
    let side = crate::noise::Side::Connector;
    let noise =
        crate::noise::Noise::new(side, Cipher::AesGcm, preface, recipe.config().cluster_id(), &CONNECTOR_ENTROPY);
    assert_ne!(noise.public().as_slice(), ephemeral, "the static key and the ephemeral one");
}

/// The bytes of a handshake and of the first records are part of the wire version: another value here is another
/// version.
#[test]
fn handshake_bytes_are_frozen() {
    let frozen = [
        (Cipher::AesGcm, "a182418c2d19c6b489685a6702a374be1fe7dd47ef41c42372a2035b71b1c483"),
        (Cipher::ChaChaPoly, "f6d5ca4d710589c874b50d0b4657fa2b0678a40f5ff4379e8427405f5326571b"),
    ];
    for (cipher, expected) in frozen {
        let recipe = Recipe::new(cipher).certified();
        let (client, replica) = (recipe.client(CLIENT), recipe.replica(0));
        let flights = flights(&client, &replica, 0);
        assert_eq!(flights.each_ref().map(Vec::len), [16 + 2 + 32, 2 + 32 + 48 + 161 + 16, 2 + 48 + 161 + 72 + 16]);
        let preface = [b"BFT1\x01\0\x01\0".as_slice(), &[cipher as u8, 2, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(flights[0][..16], preface);
        let ((peer, mut at_client), (_, mut at_replica)) = meet(&client, &replica, 0).both();
        let mut records = Vec::new();
        at_client.seal(b"to the replica", &mut records);
        at_replica.seal(b"to the client", &mut records);
        let transcript = [flights.concat(), records, peer.handshake_hash.to_vec()].concat();
        assert_eq!(hash(Context::Link, &[&transcript]).to_string(), expected, "{cipher:?}");
    }
}

#[test]
fn identity_bytes_are_frozen() {
    let recipe = Recipe::new(Cipher::AesGcm).certified();
    let config = recipe.config();
    let certificate = recipe.certificate(CLIENT, EPOCH).unwrap();
    let replica = [
        &[1_u8][..],
        &scheme(2).public_key().0,
        &[2, 0],
        &[3, 0, 0, 0, 0, 0, 0, 0],
        &config.digest().0,
        &[12, 0, 0, 0, 0, 0, 0, 0],
        &[1, 0],
        &[0; 8],
        &[0; 4],
    ];
    assert_eq!(recipe.replica(2).identity(1).encode(), replica.concat());
    let client = [
        &[2_u8][..],
        &scheme(CLIENT).public_key().0,
        &[0xff, 0xff],
        &[3, 0, 0, 0, 0, 0, 0, 0],
        &config.digest().0,
        &[0; 8],
        &[1, 0],
        &[0; 8],
        &[72, 0, 0, 0],
        &[3, 0, 0, 0, 0, 0, 0, 0],
        &certificate.signature.0,
    ];
    assert_eq!(recipe.client(CLIENT).identity(1).encode(), client.concat());
}

#[test]
fn x5_another_cluster_is_refused() {
    for cipher in CIPHERS {
        let recipe = Recipe::new(cipher);
        let other = Recipe { cluster: 8, ..recipe.clone() };
        let ends = meet(&recipe.replica(1), &other.replica(0), 0);
        assert_eq!(ends.connector_error(), LinkError::OtherCluster);
        assert!(ends.connector_error().to_string().contains("cluster_id"));
        assert!(matches!(ends.acceptor_error(), LinkError::Closed { after: 2, .. }));
        assert!(!ends.connector_error().is_hostile() && !ends.acceptor_error().is_hostile());
    }
}

#[test]
fn o2_another_configuration_of_the_epoch_is_refused() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let other = Recipe { view_timeout: recipe.view_timeout + 1, ..recipe.clone() };
    let (ours, theirs) = (recipe.config().digest(), other.config().digest());
    let ends = meet(&recipe.replica(1), &other.replica(0), 0);
    assert_eq!(ends.connector_error(), LinkError::WrongConfig { theirs, ours });
    assert!(!ends.connector_error().is_hostile());
    let certified = recipe.clone().certified();
    let ends = meet(&certified.client(CLIENT), &recipe.replica(0), 0);
    assert_eq!(
        ends.connector_error(),
        LinkError::WrongConfig { theirs: ours, ours: certified.config().digest() },
        "clients compare it too"
    );
}

#[test]
fn o2_another_epoch_is_refused_by_name() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let later = Recipe { epoch: Epoch(4), ..recipe.clone() };
    let error = meet(&recipe.replica(1), &later.replica(0), 0).connector_error();
    assert_eq!(error, LinkError::WrongEpoch { theirs: Epoch(4), ours: EPOCH });
    assert!(!error.is_hostile());
}

#[test]
fn o2_another_cipher_is_refused_before_anything_is_sealed() {
    let (ours, theirs) = (Recipe::new(Cipher::AesGcm), Recipe::new(Cipher::ChaChaPoly));
    let ends = meet(&theirs.replica(1), &ours.replica(0), 0);
    assert_eq!(ends.acceptor_error(), LinkError::WrongSuite { theirs: 2, ours: 1 });
    assert!(matches!(ends.connector_error(), LinkError::Closed { after: 1, .. }));
    assert!(!ends.acceptor_error().is_hostile());
}

#[test]
fn o2_a_replica_with_the_key_of_another_does_not_start() {
    let config = Recipe::new(Cipher::AesGcm).config();
    let key = |id: u16| config.members()[usize::from(id)].public_key;
    let error = LocalIdentity::replica(config.clone(), scheme(1), ReplicaId(2), 1).err();
    assert_eq!(error, Some(LinkError::WrongKey { replica: ReplicaId(2), found: key(1), expected: key(2) }));
    let error = LocalIdentity::replica(config, scheme(1), ReplicaId(4), 1).err();
    assert_eq!(error, Some(LinkError::UnknownReplica { replica: ReplicaId(4), members: REPLICAS.into() }));
}

#[test]
fn o2_an_address_that_leads_to_another_replica_is_refused() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let (wanted, reached) = (ReplicaId(0), ReplicaId(2));
    let ends = meet(&recipe.client(CLIENT), &recipe.replica(2), 0);
    assert_eq!(ends.connector_error(), LinkError::WrongReplica { wanted, reached });
    let ends = meet(&recipe.replica(2), &recipe.replica(2), 0);
    assert_eq!(ends.connector_error(), LinkError::WrongReplica { wanted, reached }, "to itself");
    assert!(!ends.connector_error().is_hostile());
}

#[test]
fn clients_without_a_valid_certificate_are_refused() {
    let recipe = Recipe::new(Cipher::AesGcm).certified();
    let cluster = recipe.config().cluster_id();
    let client = scheme(CLIENT).public_key();
    let foreign = scheme(AUTHORITY + 1).sign(&[0; 80]);
    let mut forged = certificate(cluster, client, EPOCH);
    forged.signature = foreign;
    let cases = [
        (None, LinkError::NoCertificate { client }),
        (
            Some(certificate(cluster, client, Epoch(2))),
            LinkError::CertificateExpired { client, expired: Epoch(2), epoch: EPOCH },
        ),
        (Some(certificate(cluster, scheme(CLIENT + 1).public_key(), EPOCH)), LinkError::BadCertificate { client }),
        (Some(certificate(ClusterId([9; 32]), client, EPOCH)), LinkError::BadCertificate { client }),
        (Some(forged), LinkError::BadCertificate { client }),
    ];
    for (shown, expected) in cases {
        let ends = meet(&recipe.bold_client(CLIENT, shown), &recipe.replica(0), 0);
        assert_eq!(ends.acceptor_error(), expected);
        assert!(!expected.is_hostile());
        let refused_at_home = LocalIdentity::client(recipe.config(), scheme(CLIENT), shown).err();
        assert_eq!(refused_at_home, Some(expected), "before it connects anywhere");
    }
    let later = recipe.bold_client(CLIENT, Some(certificate(cluster, client, Epoch(9))));
    meet(&later, &recipe.replica(0), 0).both();
}

#[test]
fn further_client_keys_join_by_the_handshake_hash() {
    let recipe = Recipe::new(Cipher::AesGcm).certified();
    let config = recipe.config();
    let verifier = Verifier::new(config.clone(), scheme(0));
    let ((peer, _), _) = meet(&recipe.client(CLIENT), &recipe.replica(0), 0).both();
    let (key, hash) = (CLIENT + 1, peer.handshake_hash);
    let shown = recipe.certificate(key, EPOCH);
    let joined = join(&*scheme(key), shown, &hash, config.cluster_id());
    assert_eq!(check_join(&config, &verifier, &hash, &joined), Ok(()));

    let public_key = joined.public_key;
    let bad_signature = Err(LinkError::BadSignature { public_key });
    let mut other_link = hash;
    other_link[31] ^= 1;
    assert_eq!(check_join(&config, &verifier, &other_link, &joined), bad_signature, "replayed on another link");
    let elsewhere = join(&*scheme(key), shown, &hash, ClusterId([9; 32]));
    assert_eq!(check_join(&config, &verifier, &hash, &elsewhere), bad_signature, "made for another cluster");
    let stolen = bft_core::wire::message::ClientJoin { public_key: scheme(CLIENT).public_key(), ..joined };
    assert!(check_join(&config, &verifier, &hash, &stolen).unwrap_err().is_hostile(), "of another key");
    let bare = join(&*scheme(key), None, &hash, config.cluster_id());
    assert_eq!(check_join(&config, &verifier, &hash, &bare), Err(LinkError::NoCertificate { client: public_key }));
    let over = join(&*scheme(key), recipe.certificate(key, Epoch(2)), &hash, config.cluster_id());
    let expired = LinkError::CertificateExpired { client: public_key, expired: Epoch(2), epoch: EPOCH };
    assert_eq!(check_join(&config, &verifier, &hash, &over), Err(expired));
}

#[test]
fn a_certificate_in_a_cluster_of_any_key_is_only_shown() {
    let recipe = Recipe::new(Cipher::AesGcm);
    assert_eq!(recipe.admission, Admission::Any);
    let shown = Some(certificate(ClusterId([9; 32]), scheme(1).public_key(), Epoch(0)));
    let (_, (client, _)) = meet(&recipe.bold_client(CLIENT, shown), &recipe.replica(0), 0).both();
    assert_eq!(client.certificate, shown);
}

#[test]
fn what_a_closed_connection_means_depends_on_how_far_it_came() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let [first, ..] = flights(&recipe.replica(1), &recipe.replica(0), 0);
    let after = |bytes: &[u8]| {
        let mut acceptor = accept(&recipe.replica(0));
        acceptor.feed(&mut &*bytes).unwrap();
        match acceptor.closed() {
            Err(LinkError::Closed { after, .. }) => after,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([after(&[]), after(&first[..20]), after(&first)], [0, 0, 2]);
    let mut acceptor = accept(&recipe.replica(0));
    acceptor.feed(&mut first.as_slice()).unwrap();
    assert!(end(acceptor).err().unwrap().to_string().contains("another cluster_id"));
}

#[test]
fn the_size_of_sealed_bytes_is_known_before() {
    for (plain, sealed) in [(0, 0), (1, 19), (65_519, 65_537), (65_520, 65_520 + 36), (200_000, 200_000 + 72)] {
        assert_eq!(sealed_len(plain), sealed);
    }
}
