//! CLIENT-JOIN: further client keys on a link that a client opened, each proved by a signature over the handshake hash
//! of that link. How many a link may have is `limits::CLIENT_KEYS_PER_LINK`, counted by the shell.

use bft_core::auth::{Scheme, Verifier};
use bft_core::config::ClusterConfig;
use bft_core::ids::{ClusterId, Digest};
use bft_core::wire::canonical::{SigningBytes, Tag, signing_bytes};
use bft_core::wire::message::{ClientCertificate, ClientJoin};

use crate::error::LinkError;
use crate::identity::check_admitted;

/// Brings the key of `scheme` to the link with `handshake_hash`.
#[must_use]
pub fn join(
    scheme: &dyn Scheme,
    certificate: Option<ClientCertificate>,
    handshake_hash: &[u8; 32],
    cluster: ClusterId,
) -> ClientJoin {
    let signature = scheme.sign(&signed_bytes(cluster, handshake_hash));
    ClientJoin { public_key: scheme.public_key(), certificate, signature }
}

/// Whether the key of `join` is admitted, and its holder made it for the link with `handshake_hash`.
pub fn check_join(
    config: &ClusterConfig,
    verifier: &Verifier,
    handshake_hash: &[u8; 32],
    join: &ClientJoin,
) -> Result<(), LinkError> {
    let ClientJoin { public_key, certificate, signature } = *join;
    if !verifier.is_signed(public_key, signed_bytes(config.cluster_id(), handshake_hash), signature) {
        return Err(LinkError::BadSignature { public_key });
    }
    check_admitted(config, verifier, public_key, certificate.as_ref())
}

fn signed_bytes(cluster: ClusterId, handshake_hash: &[u8; 32]) -> SigningBytes {
    signing_bytes(Tag::Join, cluster, Digest(*handshake_hash))
}
