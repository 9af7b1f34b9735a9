//! The handshake with an enemy at the other end, or in the middle.

use bft_core::config::Cipher;
use bft_core::hash::{Context, hash};
use bft_core::ids::{ClusterId, Digest, PublicKey, ReplicaId, Signature};
use bft_core::limits::HANDSHAKE_MESSAGE_BYTES;
use bft_core::wire::canonical::{Tag, signing_bytes};
use proptest::prelude::*;

use super::{
    ACCEPTOR_ENTROPY, CIPHERS, CLIENT, CONNECTOR_ENTROPY, EPOCH, Ends, Recipe, accept, connect, end, exchange, flights,
    meet, scheme,
};
use crate::identity::{Identity, Who};
use crate::noise::{Noise, Side};
use crate::preface::{self, Role};
use crate::{Handshake, LENGTH_BYTES, LinkError, LocalIdentity, PREFACE_BYTES};

/// What an enemy does to bytes.
type Change = fn(&mut Vec<u8>);
/// The same, where the length stays.
type ChangeInPlace = fn(&mut [u8]);

const CLUSTER: ClusterId = ClusterId([7; 32]);

/// What an honest replica makes of a connector that keeps to Noise and says in message 3 what `say` makes of the
/// handshake hash before it and of the own X25519 key.
fn say(role: Role, say: impl FnOnce(&[u8; 32], &[u8; 32]) -> Vec<u8>) -> Result<(), LinkError> {
    let recipe = Recipe::new(Cipher::AesGcm);
    let mut acceptor = accept(&recipe.replica(0));
    let preface = preface::encode(Cipher::AesGcm, role);
    let mut noise = Noise::new(Side::Connector, Cipher::AesGcm, &preface, CLUSTER, &CONNECTOR_ENTROPY);
    let mut first = preface.to_vec();
    noise.write(&[], &mut first).unwrap();
    acceptor.feed(&mut first.as_slice()).unwrap();
    noise.read(&acceptor.take_output()[LENGTH_BYTES..], LinkError::Forged).unwrap();
    let mut third = Vec::new();
    noise.write(&say(&noise.hash(), &noise.public()), &mut third).unwrap();
    acceptor.feed(&mut third.as_slice())?;
    assert!(acceptor.finished().is_some());
    Ok(())
}

/// The fields of an Identity, signed as they should be, by the key number `key`.
fn signed(fields: &[u8], key: u8, hash_before: &[u8; 32], public: &[u8; 32]) -> Vec<u8> {
    let digest = hash(Context::Link, &[hash_before, public, fields]);
    [fields, &scheme(key).sign(&signing_bytes(Tag::Link, CLUSTER, digest)).0].concat()
}

/// What comes of `change` to the fields of a client's Identity, signed all the same.
fn with_client_fields(change: impl FnOnce(&mut Vec<u8>)) -> Result<(), LinkError> {
    let mut fields = Recipe::new(Cipher::AesGcm).client(CLIENT).identity(1).encode();
    change(&mut fields);
    say(Role::Client, |hash_before, public| signed(&fields, CLIENT, hash_before, public))
}

fn with_replica_fields(change: impl FnOnce(&mut Identity)) -> Result<(), LinkError> {
    let mut identity = Recipe::new(Cipher::AesGcm).replica(2).identity(1);
    change(&mut identity);
    say(Role::Replica, |hash_before, public| signed(&identity.encode(), 2, hash_before, public))
}

#[test]
fn the_enemy_of_these_tests_can_do_it_right() {
    assert_eq!(with_client_fields(|_| ()), Ok(()));
    assert_eq!(with_replica_fields(|_| ()), Ok(()));
}

#[test]
fn identities_that_are_not_canonical_are_refused() {
    const REPLICA: usize = 33;
    const INSTANCE: usize = 75;
    const CERTIFICATE: usize = 93;
    let cases: [(&str, Change); 9] = [
        ("a byte too many", |fields| fields.push(0)),
        ("a byte too few", |fields| {
            fields.pop();
        }),
        ("role 0", |fields| fields[0] = 0),
        ("role 3", |fields| fields[0] = 3),
        ("a client with a replica's id", |fields| fields[REPLICA] = 1),
        ("a client with an instance", |fields| fields[INSTANCE] = 1),
        ("a certificate of one byte", |fields| {
            fields[CERTIFICATE] = 1;
            fields.push(7);
        }),
        ("a certificate that is not there", |fields| fields[CERTIFICATE] = 72),
        ("nothing", Vec::clear),
    ];
    for (name, change) in cases {
        let error = with_client_fields(change).expect_err(name);
        assert!(matches!(error, LinkError::Identity { .. }), "{name}: {error}");
        assert!(error.is_hostile());
    }
    let error = say(Role::Client, |_, _| vec![0; 10]).unwrap_err();
    assert_eq!(error, LinkError::Identity { what: "shorter than its signature" });
}

#[test]
fn replicas_must_be_who_they_say() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let key = |id: usize| recipe.config().members()[id].public_key;
    let wrong_key = LinkError::WrongKey { replica: ReplicaId(1), found: key(2), expected: key(1) };
    let as_replica =
        |id: u16| move |identity: &mut Identity| identity.who = Who::Replica { id: ReplicaId(id), instance: 1 };
    assert_eq!(with_replica_fields(as_replica(1)), Err(wrong_key), "right key, wrong id");
    let unknown = LinkError::UnknownReplica { replica: ReplicaId(4), members: 4 };
    assert_eq!(with_replica_fields(as_replica(4)), Err(unknown));
    let error = with_replica_fields(as_replica(0xffff)).unwrap_err();
    assert_eq!(error, LinkError::Identity { what: "a replica without an id" });
    let error = with_replica_fields(|identity| identity.version = 2).unwrap_err();
    assert_eq!(error, LinkError::Identity { what: "not the version that was chosen" });
    let error = with_replica_fields(|identity| identity.config_digest = Digest::ZERO).unwrap_err();
    assert!(matches!(error, LinkError::WrongConfig { theirs: Digest::ZERO, .. }));
    let error = with_replica_fields(|identity| identity.epoch = EPOCH.next()).unwrap_err();
    assert_eq!(error, LinkError::WrongEpoch { theirs: EPOCH.next(), ours: EPOCH });
    let error = with_replica_fields(|identity| identity.who = Who::Client { certificate: None }).unwrap_err();
    assert_eq!(error, LinkError::Identity { what: "not the role of the preface" });
    let stranger = with_replica_fields(|identity| identity.public_key = scheme(77).public_key()).unwrap_err();
    assert!(matches!(stranger, LinkError::BadSignature { .. }), "signed by another key than it shows");
}

#[test]
fn a_replica_with_a_certificate_is_malformed() {
    let mut fields = Recipe::new(Cipher::AesGcm).replica(2).identity(1).encode();
    let at = fields.len() - 4;
    fields[at] = 72;
    fields.extend_from_slice(&[0; 72]);
    let error = say(Role::Replica, |hash_before, public| signed(&fields, 2, hash_before, public)).unwrap_err();
    assert_eq!(error, LinkError::Identity { what: "a replica with a client's certificate" });
}

#[test]
fn d11_a_second_process_with_the_own_key_is_named() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let clone = LocalIdentity::new(recipe.config(), scheme(0), Who::Replica { id: ReplicaId(0), instance: 9 });
    let ends = meet(&clone, &recipe.replica(0), 1);
    assert!(matches!(ends.connector_error(), LinkError::WrongReplica { .. }));
    let identity = clone.identity(1);
    let error = say(Role::Replica, |hash_before, public| signed(&identity.encode(), 0, hash_before, public));
    assert_eq!(error, Err(LinkError::OwnIdentity { instance: 9 }));
}

#[test]
fn a1_an_identity_signed_for_another_handshake_is_charged_to_the_link() {
    let client = Recipe::new(Cipher::AesGcm).client(CLIENT);
    let (fields, public_key) = (client.identity(1).encode(), scheme(CLIENT).public_key());
    let refused = Err(LinkError::BadSignature { public_key });
    // A replica in the middle passes on what a client said to it.
    let relayed = say(Role::Client, |_, public| signed(&fields, CLIENT, &[9; 32], public));
    assert_eq!(relayed, refused, "another handshake hash");
    let relayed = say(Role::Client, |hash_before, _| signed(&fields, CLIENT, hash_before, &[9; 32]));
    assert_eq!(relayed, refused, "another X25519 key than Noise authenticated");
    let other_key = say(Role::Client, |hash_before, public| signed(&fields, CLIENT + 1, hash_before, public));
    assert_eq!(other_key, refused);
    let none = say(Role::Client, |_, _| [fields.as_slice(), &[0; 64]].concat());
    assert_eq!(none, refused);
    assert!(refused.is_err_and(|error| error.is_hostile()));
}

#[test]
fn x5_a_signature_for_another_cluster_or_purpose_is_refused() {
    let client = Recipe::new(Cipher::AesGcm).client(CLIENT);
    let (fields, public_key) = (client.identity(1).encode(), scheme(CLIENT).public_key());
    for (tag, cluster) in [(Tag::Link, ClusterId([8; 32])), (Tag::Join, CLUSTER), (Tag::Request, CLUSTER)] {
        let refused = say(Role::Client, |hash_before, public| {
            let digest = hash(Context::Link, &[hash_before, public, &fields]);
            [fields.as_slice(), &scheme(CLIENT).sign(&signing_bytes(tag, cluster, digest)).0].concat()
        });
        assert_eq!(refused, Err(LinkError::BadSignature { public_key }), "{tag:?}");
    }
}

#[test]
fn client_keys_of_small_order_are_refused_though_anybody_can_sign_for_them() {
    let mut one = [0; 32];
    one[0] = 1;
    let mut identity = Recipe::new(Cipher::AesGcm).client(CLIENT).identity(1);
    identity.public_key = PublicKey(one);
    let mut signature = Signature::ZERO;
    signature.0[..32].copy_from_slice(&one);
    let error = say(Role::Client, |_, _| [identity.encode().as_slice(), &signature.0].concat());
    assert_eq!(error, Err(LinkError::UnusableKey { public_key: PublicKey(one) }));
}

#[test]
fn no_byte_of_a_handshake_can_be_changed() {
    for cipher in CIPHERS {
        let recipe = Recipe::new(cipher);
        let (connector, acceptor) = (recipe.client(CLIENT), recipe.replica(0));
        let flights = flights(&connector, &acceptor, 0);
        for (flight, bytes) in flights.iter().enumerate() {
            for at in 0..bytes.len() {
                let ends = exchange(connect(&connector, 0), accept(&acceptor), |now, bytes| {
                    if now == flight {
                        bytes[at] ^= 1 << (at % 8);
                    }
                });
                let refused = if flight == 1 { &ends.connector } else { &ends.acceptor };
                assert!(refused.is_err(), "byte {at} of flight {flight}");
                assert!(ends.connector.is_err() || flight == 2, "byte {at} of flight {flight}");
            }
        }
    }
}

#[test]
fn no_end_of_a_handshake_can_be_cut_off() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let (connector, acceptor) = (recipe.client(CLIENT), recipe.replica(0));
    for (flight, bytes) in flights(&connector, &acceptor, 0).iter().enumerate() {
        for len in 0..bytes.len() {
            let ends = exchange(connect(&connector, 0), accept(&acceptor), |now, bytes| {
                if now == flight {
                    bytes.truncate(len);
                }
            });
            let refused = if flight == 1 { ends.connector_error() } else { ends.acceptor_error() };
            assert!(matches!(refused, LinkError::Closed { .. }), "{len} bytes of flight {flight}: {refused}");
        }
    }
}

fn with_preface(change: impl Fn(&mut [u8])) -> Ends {
    let recipe = Recipe::new(Cipher::AesGcm);
    exchange(connect(&recipe.client(CLIENT), 0), accept(&recipe.replica(0)), |flight, bytes| {
        if flight == 0 {
            change(&mut bytes[..PREFACE_BYTES]);
        }
    })
}

#[test]
fn o4_a_version_or_suite_or_role_cannot_be_talked_down() {
    // Every one of these suits the acceptor, so only the prologue tells that the connector never said it.
    let cases: [(&str, ChangeInPlace); 3] = [
        ("lowest version", |preface| preface[4] = 0),
        ("highest version", |preface| preface[6] = 9),
        ("role", |preface| preface[9] = 1),
    ];
    for (name, change) in cases {
        let ends = with_preface(change);
        assert_eq!(ends.connector_error(), LinkError::OtherCluster, "{name}");
        assert!(matches!(ends.acceptor_error(), LinkError::Closed { after: 2, .. }), "{name}");
    }
    let ends = with_preface(|preface| preface[8] = 2);
    assert_eq!(ends.acceptor_error(), LinkError::WrongSuite { theirs: 2, ours: 1 });
}

#[test]
fn prefaces_are_read_by_the_letter() {
    let refused = |change: fn(&mut [u8])| with_preface(change).acceptor_error();
    assert_eq!(refused(|preface| preface[..4].copy_from_slice(b"GET ")), LinkError::NotOurs { found: *b"GET " });
    let newer = refused(|preface| preface[4..8].copy_from_slice(&[2, 0, 3, 0]));
    assert_eq!(newer, LinkError::NoCommonVersion { theirs: 2..=3 });
    assert!(newer.to_string().contains("2 to 3") && !newer.is_hostile());
    let older = refused(|preface| preface[4..8].fill(0));
    assert_eq!(older, LinkError::NoCommonVersion { theirs: 0..=0 });
    let what = "the lowest version is above the highest";
    assert_eq!(refused(|preface| preface[4] = 2), LinkError::Preface { what });
    assert_eq!(refused(|preface| preface[8] = 9), LinkError::WrongSuite { theirs: 9, ours: 1 });
    for role in [0, 3] {
        let ends = with_preface(|preface| preface[9] = role);
        assert_eq!(ends.acceptor_error(), LinkError::Preface { what: "no such role" });
    }
    for at in 10..16 {
        let ends = with_preface(|preface| preface[at] = 1);
        assert_eq!(ends.acceptor_error(), LinkError::Preface { what: "reserved bytes are not zero" });
        assert!(ends.acceptor_error().is_hostile());
    }
}

#[test]
fn a_recorded_handshake_cannot_be_played_again() {
    for cipher in CIPHERS {
        let recipe = Recipe::new(cipher);
        let (client, replica) = (recipe.client(CLIENT), recipe.replica(0));
        let [first, second, third] = flights(&client, &replica, 0);
        let mut acceptor = Handshake::accept(replica, [3; 32]);
        acceptor.feed(&mut first.as_slice()).unwrap();
        assert_ne!(acceptor.take_output(), second);
        assert_eq!(acceptor.feed(&mut third.as_slice()), Err(LinkError::Forged));
        let mut connector = Handshake::connect(client, ReplicaId(0), [3; 32]);
        assert_eq!(connector.feed(&mut second.as_slice()), Err(LinkError::OtherCluster));
        assert!(end(acceptor).is_err() && end(connector).is_err());
    }
}

#[test]
fn messages_cannot_change_places() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let [first, second, third] = flights(&recipe.replica(1), &recipe.replica(0), 0);
    let mut acceptor = accept(&recipe.replica(0));
    acceptor.feed(&mut first.as_slice()).unwrap();
    assert_eq!(acceptor.feed(&mut second.as_slice()), Err(LinkError::Forged), "its own message, reflected");
    let mut connector = connect(&recipe.replica(1), 0);
    assert_eq!(connector.feed(&mut third.as_slice()), Err(LinkError::OtherCluster), "its own message, reflected");
    let mut acceptor = accept(&recipe.replica(0));
    acceptor.feed(&mut first.as_slice()).unwrap();
    let again = acceptor.feed(&mut &first[PREFACE_BYTES..]).unwrap_err();
    assert_eq!(again, LinkError::MessageLength { message: 3, len: 32, allowed: 64..=HANDSHAKE_MESSAGE_BYTES });
}

#[test]
fn early_data_is_refused() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let preface = preface::encode(Cipher::AesGcm, Role::Client);
    let mut noise = Noise::new(Side::Connector, Cipher::AesGcm, &preface, CLUSTER, &CONNECTOR_ENTROPY);
    let mut first = preface.to_vec();
    noise.write(b"buy now", &mut first).unwrap();
    let mut acceptor = accept(&recipe.replica(0));
    let error = acceptor.feed(&mut first.as_slice()).unwrap_err();
    assert_eq!(error, LinkError::EarlyData { bytes: 7 });
    assert!(error.is_hostile() && acceptor.take_output().is_empty());
}

#[test]
fn keys_of_small_order_are_refused() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let mut first = preface::encode(Cipher::AesGcm, Role::Client).to_vec();
    first.extend_from_slice(&[32, 0]);
    first.extend_from_slice(&[0; 32]);
    let mut acceptor = accept(&recipe.replica(0));
    assert_eq!(acceptor.feed(&mut first.as_slice()), Err(LinkError::SmallOrder));
    let mut second = vec![0; LENGTH_BYTES + 257];
    second[..LENGTH_BYTES].copy_from_slice(&257_u16.to_le_bytes());
    assert_eq!(connect(&recipe.client(CLIENT), 0).feed(&mut second.as_slice()), Err(LinkError::SmallOrder));
}

#[test]
fn mem2_lengths_are_checked_before_a_byte_is_taken() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let [first, ..] = flights(&recipe.client(CLIENT), &recipe.replica(0), 0);
    for (message, lengths) in [(1, vec![0, 1, 31]), (3, vec![0, 63, 4097, 65_535])] {
        let allowed = if message == 1 { 32..=32 } else { 64..=HANDSHAKE_MESSAGE_BYTES };
        let before = if message == 1 { &first[..PREFACE_BYTES] } else { &first };
        for len in lengths {
            let mut acceptor = accept(&recipe.replica(0));
            acceptor.feed(&mut &*before).unwrap();
            let bytes = [&(len as u16).to_le_bytes()[..], &[0; 100]].concat();
            let mut incoming = bytes.as_slice();
            let allowed = allowed.clone();
            assert_eq!(acceptor.feed(&mut incoming), Err(LinkError::MessageLength { message, len, allowed }));
            assert_eq!(incoming.len(), 100, "what follows the length stays where it is");
            assert_eq!(acceptor.held(), 0);
        }
    }
}

#[test]
fn mem2_a_peer_that_never_finishes_costs_one_message() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let [first, ..] = flights(&recipe.client(CLIENT), &recipe.replica(0), 0);
    let mut acceptor = accept(&recipe.replica(0));
    acceptor.feed(&mut first.as_slice()).unwrap();
    let mut bytes = vec![0; LENGTH_BYTES + HANDSHAKE_MESSAGE_BYTES];
    bytes[..LENGTH_BYTES].copy_from_slice(&(HANDSHAKE_MESSAGE_BYTES as u16).to_le_bytes());
    for byte in bytes[..bytes.len() - 1].chunks(1) {
        acceptor.feed(&mut &*byte).unwrap();
        assert!(acceptor.held() <= 2 * (LENGTH_BYTES + HANDSHAKE_MESSAGE_BYTES));
    }
    assert_eq!(acceptor.feed(&mut [0].as_slice()), Err(LinkError::Forged));
    assert_eq!(acceptor.held(), 0);
}

#[test]
fn an_error_is_final() {
    let recipe = Recipe::new(Cipher::AesGcm);
    let [first, _, third] = flights(&recipe.client(CLIENT), &recipe.replica(0), 0);
    let mut acceptor = accept(&recipe.replica(0));
    acceptor.feed(&mut first.as_slice()).unwrap();
    let mut forged = third.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(acceptor.feed(&mut forged.as_slice()), Err(LinkError::Forged));
    assert_eq!(acceptor.feed(&mut third.as_slice()), Err(LinkError::Forged), "even for the right one");
    drop(acceptor.take_output());
    assert!(acceptor.finished().is_none());
    assert_eq!(acceptor.closed(), Err(LinkError::Forged));
}

#[test]
#[should_panic(expected = "only a replica accepts")]
fn nobody_connects_to_a_client() {
    let _ = Handshake::accept(Recipe::new(Cipher::AesGcm).client(CLIENT), ACCEPTOR_ENTROPY);
}

#[test]
#[should_panic(expected = "no link to itself")]
fn a_replica_does_not_connect_to_itself() {
    let _ = connect(&Recipe::new(Cipher::AesGcm).replica(2), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mem2_arbitrary_bytes_never_make_a_link(bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 0..4_usize) {
        let recipe = Recipe::new(Cipher::AesGcm);
        let [first, ..] = flights(&recipe.client(CLIENT), &recipe.replica(0), 0);
        let honest = [0, 4, PREFACE_BYTES, first.len()][cut];
        let mut acceptor = accept(&recipe.replica(0));
        acceptor.feed(&mut &first[..honest]).unwrap();
        let _ = acceptor.feed(&mut bytes.as_slice());
        prop_assert!(acceptor.held() <= 2 * (LENGTH_BYTES + HANDSHAKE_MESSAGE_BYTES));
        drop(acceptor.take_output());
        prop_assert!(acceptor.finished().is_none());
    }

    #[test]
    fn what_decodes_as_an_identity_encodes_to_the_same_bytes(
        mut bytes in prop::collection::vec(any::<u8>(), 97..170), role in 0..4_u8, certificate in 0..3_usize,
    ) {
        bytes[0] = role;
        let len = [0_u32, 72, 9][certificate];
        bytes[93..97].copy_from_slice(&len.to_le_bytes());
        bytes.resize(97 + len as usize, 0);
        if role == 2 {
            bytes[33..35].fill(0xff);
            bytes[75..83].fill(0);
        }
        let decoded = Identity::decode(&bytes);
        prop_assert_eq!(decoded.is_ok(), certificate == 0 && role == 1 || certificate < 2 && role == 2);
        if let Ok(identity) = decoded {
            prop_assert_eq!(identity.encode(), bytes);
        }
    }
}
