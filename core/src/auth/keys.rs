//! Secret keys as they lie in files (PKCS#8 in PEM, RFC 8410) and what an authority signs with one. No file is opened
//! here, and no entropy drawn: both come from the caller.

use std::fmt;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{self, DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use zeroize::{Zeroize, Zeroizing};

use super::{Scheme, is_usable_key};
use crate::ids::{ClusterId, Epoch, PublicKey};
use crate::limits::KEY_FILE_BYTES_MAX;
use crate::wire::canonical;
use crate::wire::message::ClientCertificate;

/// Why a text is no secret key. Never holds any of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Too long to be one key.
    #[error("{0} bytes is too long for a key: a PKCS#8 key in PEM has less than {KEY_FILE_BYTES_MAX}")]
    TooLong(usize),
    /// Not PEM at all.
    #[error("no line \"-----BEGIN PRIVATE KEY-----\": the key must be PKCS#8 in PEM")]
    NotPem,
    /// Sealed with a password.
    #[error("the key is encrypted: decrypt it first, for instance with `openssl pkcs8`")]
    Encrypted,
    /// A public key, a certificate, or a secret key in another form.
    #[error("a PEM block of another kind: expected \"PRIVATE KEY\" (PKCS#8)")]
    OtherBlock,
    /// A key of another algorithm; its object identifier.
    #[error("a key of another algorithm (object identifier {0}): expected Ed25519, 1.3.101.112")]
    OtherAlgorithm(String),
    /// The public key in the file is not that of the secret key.
    #[error("the public key in the file does not belong to its secret key: the file is damaged or forged")]
    PublicKeyDiffers,
    /// Cut short, or damaged otherwise.
    #[error("not a well-formed PKCS#8 key: the file is damaged")]
    Damaged,
}

/// The 32-byte seed of an Ed25519 key. Wiped when dropped, and never printed.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl SecretKey {
    /// A new key of 32 bytes that the caller drew from the system's entropy.
    #[must_use]
    pub fn from_entropy(mut entropy: [u8; 32]) -> Self {
        let key = Self(Zeroizing::new(entropy));
        entropy.zeroize();
        key
    }

    /// Reads the first PEM block of `text`, which must be an Ed25519 key in PKCS#8. A public key beside it must be its.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        if text.len() > KEY_FILE_BYTES_MAX {
            return Err(KeyError::TooLong(text.len()));
        }
        match block_label(text) {
            None => return Err(KeyError::NotPem),
            Some("PRIVATE KEY") => {}
            Some("ENCRYPTED PRIVATE KEY") => return Err(KeyError::Encrypted),
            Some(_) => return Err(KeyError::OtherBlock),
        }
        let pair = KeypairBytes::from_pkcs8_pem(text).map_err(|error| refusal(&error))?;
        let key = Self(Zeroizing::new(pair.secret_key));
        match &pair.public_key {
            Some(public_key) if public_key.0 != key.public_key().0 => Err(KeyError::PublicKeyDiffers),
            Some(_) | None => Ok(key),
        }
    }

    /// The key as PKCS#8 in PEM, without the public key: the form that every OpenSSL reads.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        KeypairBytes { secret_key: *self.0, public_key: None }
            .to_pkcs8_pem(LineEnding::LF)
            .expect("a key of 32 bytes always encodes")
    }

    /// The public key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(SigningKey::from_bytes(&self.0).verifying_key().to_bytes())
    }

    /// The seed, for [`super::Ed25519::new`].
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// A key that nobody should be admitted with: it does not decode, is not canonical, of small order, or has torsion (X6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the public key {0} is not usable: it is no canonical point of the prime-order group")]
pub struct KeyNotUsable(pub PublicKey);

/// Admits `client` to `cluster` up to and with `expires_epoch`, in the name of the client authority that `authority`
/// signs for.
pub fn certify_client(
    authority: &dyn Scheme,
    cluster: ClusterId,
    client: PublicKey,
    expires_epoch: Epoch,
) -> Result<ClientCertificate, KeyNotUsable> {
    if !is_usable_key(&client) {
        return Err(KeyNotUsable(client));
    }
    let signature = authority.sign(&canonical::client_certificate(cluster, client, expires_epoch));
    Ok(ClientCertificate { expires_epoch, signature })
}

/// What the first PEM block says it is.
fn block_label(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("-----BEGIN ")?;
    after.split_once("-----").map(|(label, _)| label)
}

fn refusal(error: &pkcs8::Error) -> KeyError {
    if let pkcs8::Error::PublicKey(pkcs8::spki::Error::OidUnknown { oid }) = error {
        return KeyError::OtherAlgorithm(oid.to_string());
    }
    KeyError::Damaged
}
