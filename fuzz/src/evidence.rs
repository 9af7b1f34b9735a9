//! Evidence: whoever holds a file of it may have made it up.

use std::sync::LazyLock;

use bft_core::auth::Verifier;
use bft_core::evidence::Evidence;
use bft_core::evidence::file::{read_file, write_file};

use crate::cast::scheme;
use crate::wire::cast;

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| Verifier::new(cast().config.clone(), scheme(200)));

/// One piece, then the same bytes as a file. What decodes is its own encoding, and the verdict on it ends and names a
/// member; a file is its pieces, one after the other.
pub fn evidence(data: &[u8]) {
    if let Ok(piece) = Evidence::decode(data) {
        assert_eq!(piece.encode(), data, "one piece has one encoding");
        assert!(data.len() <= piece.bytes_at_most());
        if let Ok(accused) = piece.verify(&VERIFIER) {
            assert_eq!(accused, piece.accused(&cast().config));
            assert!(cast().config.member(accused.replica).is_some());
        }
    }
    match read_file(data) {
        Ok(pieces) => assert_eq!(pieces.iter().flat_map(write_file).collect::<Vec<_>>(), data),
        Err(error) => assert!(error.at <= data.len() && error.piece > 0),
    }
}
