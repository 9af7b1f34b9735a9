//! Keys in PEM: what other programs write is read, what is no Ed25519 secret is refused with the reason, and nothing
//! tells the secret.

mod common;

use bft_core::auth::keys::{KeyError, KeyNotUsable, SecretKey, certify_client};
use bft_core::auth::{Ed25519, Scheme};
use bft_core::ids::{Epoch, PublicKey};
use bft_core::limits::KEY_FILE_BYTES_MAX;
use bft_core::wire::message::ClientCertificate;
use common::{CLUSTER, TestCluster, scheme};

/// RFC 8410 §10.3, as OpenSSL writes it.
const RFC_8410: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";
/// Its public key, RFC 8410 §10.1.
const RFC_8410_PUBLIC: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

const P256: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgmAux6p5x8NE8W2L1
wUYmvU9RFDPUm/P/fsRaY1TjETShRANCAAR7mbKib+Lt34HvyGazIhyuy3mDYDpQ
xi6i3rmwhXMhKIdO4Wwc49Jm9Yw+JsnqwwxZ2DGljK/eqYXnEzhGbpMU
-----END PRIVATE KEY-----
";
const X25519: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VuBCIEIPigeAAiBOHolsP8s/hTIrF9q1+VaTBdcTlrlHNLKEBK
-----END PRIVATE KEY-----
";
const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgG4o2P0bvM/AICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEL+5QnpUyJ905+D8/acLpMoEQPqu
pnN7kK1z7BYCk9zQCfRIvdY0x7dCqPuihS1YewzADFGFUIiw8kaUkc99UJCHfIPT
jHdYCxaqoppyi5s3CQk=
-----END ENCRYPTED PRIVATE KEY-----
";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAzwFy4WIis35i+Z7wiTqg9pfk7xk2gU2ro1ZdJxtA2W4=
-----END PUBLIC KEY-----
";

fn refusal(text: &str) -> KeyError {
    SecretKey::from_pem(text).expect_err("no secret key")
}

#[test]
fn a_key_survives_its_file() {
    for fill in 0..32 {
        let key = SecretKey::from_entropy([fill; 32]);
        let pem = key.to_pem();
        let read = SecretKey::from_pem(&pem).unwrap();
        assert_eq!((read.as_bytes(), read.public_key()), (&[fill; 32], key.public_key()));
        assert_eq!(Ed25519::new(key.as_bytes(), [0; 32]).public_key(), key.public_key());
        assert_eq!(*read.to_pem(), *pem);
    }
}

#[test]
fn a_key_of_openssl_is_read_and_written_back_alike() {
    let key = SecretKey::from_pem(RFC_8410).unwrap();
    assert_eq!(key.public_key().to_string(), RFC_8410_PUBLIC);
    assert_eq!(*key.to_pem(), RFC_8410);
    assert!(SecretKey::from_pem(&RFC_8410.replace('\n', "\r\n")).is_ok(), "from another system");
}

#[test]
fn what_is_no_ed25519_secret_is_refused_with_the_reason() {
    assert_eq!(refusal(""), KeyError::NotPem);
    assert_eq!(refusal("d4ee72dbf913584ad5b6d8f1f769f8ad"), KeyError::NotPem);
    assert_eq!(refusal(ENCRYPTED), KeyError::Encrypted);
    assert_eq!(refusal(PUBLIC), KeyError::OtherBlock);
    assert_eq!(refusal(P256), KeyError::OtherAlgorithm("1.2.840.10045.2.1".into()));
    assert_eq!(refusal(X25519), KeyError::OtherAlgorithm("1.3.101.110".into()));
    assert_eq!(refusal(&"x".repeat(KEY_FILE_BYTES_MAX + 1)), KeyError::TooLong(KEY_FILE_BYTES_MAX + 1));
}

#[test]
fn x4_a_public_key_that_is_anothers_is_refused() {
    // PKCS#8 version 2: the public key beside the secret, in its last 32 bytes.
    let mut der = vec![0x30, 0x51, 2, 1, 1, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let key = SecretKey::from_entropy([5; 32]);
    der.extend_from_slice(key.as_bytes());
    der.extend_from_slice(&[0x81, 0x21, 0]);
    der.extend_from_slice(key.public_key().as_bytes());
    assert_eq!(SecretKey::from_pem(&pem(&der)).unwrap().as_bytes(), &[5; 32]);
    *der.last_mut().unwrap() ^= 1;
    assert_eq!(refusal(&pem(&der)), KeyError::PublicKeyDiffers);
}

#[test]
fn a_damaged_file_is_refused_and_never_panics() {
    for end in 0..RFC_8410.trim_end().len() {
        refusal(&RFC_8410[..end]);
    }
    for at in 0..RFC_8410.len() {
        for byte in [0, b'A', b'\n', b'-', b'=', 0x7f] {
            let mut bytes = RFC_8410.as_bytes().to_vec();
            bytes[at] = byte;
            // Another secret is all that a damaged file may give, if it gives one.
            if let Ok(key) = SecretKey::from_pem(std::str::from_utf8(&bytes).unwrap()) {
                assert_eq!(key.to_pem().lines().count(), 3);
            }
        }
    }
}

#[test]
fn nothing_tells_the_secret() {
    let key = SecretKey::from_pem(RFC_8410).unwrap();
    assert_eq!(format!("{key:?}"), "SecretKey(..)");
    let damaged = RFC_8410.replace("MC4C", "MC4D");
    let said = format!("{0} {0:?}", refusal(&damaged));
    assert!(!said.contains("INTuctv5") && !said.contains("d4ee72"), "{said}");
}

#[test]
fn a_certified_client_is_admitted_until_its_epoch_is_over() {
    let cluster = TestCluster::new();
    let verifier = cluster.verifier();
    let client = scheme("client").public_key();
    let certify = |epoch| certify_client(&cluster.authority, CLUSTER, client, Epoch(epoch)).unwrap();
    assert!(verifier.is_admitted(client, Some(&certify(3))), "in its last Epoch");
    assert!(verifier.is_admitted(client, Some(&certify(4))));
    assert!(!verifier.is_admitted(client, Some(&certify(2))), "expired");
    assert!(!verifier.is_admitted(client, None));
    assert!(!verifier.is_admitted(scheme("another").public_key(), Some(&certify(4))), "somebody else's");
    let longer = ClientCertificate { expires_epoch: Epoch(9), ..certify(2) };
    assert!(!verifier.is_admitted(client, Some(&longer)), "prolonged by the client");
    let own = certify_client(&scheme("client"), CLUSTER, client, Epoch(4)).unwrap();
    assert!(!verifier.is_admitted(client, Some(&own)), "by itself");
    let elsewhere = certify_client(&cluster.authority, bft_core::ids::ClusterId([1; 32]), client, Epoch(4)).unwrap();
    assert!(!verifier.is_admitted(client, Some(&elsewhere)), "x5: of another cluster");
}

#[test]
fn x6_no_weak_key_becomes_a_client() {
    let cluster = TestCluster::new();
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let weak = PublicKey(neutral);
    assert_eq!(certify_client(&cluster.authority, CLUSTER, weak, Epoch(9)), Err(KeyNotUsable(weak)));
    let bytes = bft_core::wire::canonical::client_certificate(CLUSTER, weak, Epoch(9));
    let certificate = ClientCertificate { expires_epoch: Epoch(9), signature: cluster.authority.sign(&bytes) };
    assert!(!cluster.verifier().is_admitted(weak, Some(&certificate)), "even if an authority signs for it");
}

/// `der` as the PEM of a secret key.
fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let is_padding = digit > chunk.len();
            let value = DIGITS[(bits >> (18 - 6 * digit)) as usize & 63];
            text.push(if is_padding { '=' } else { char::from(value) });
        }
    }
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}
