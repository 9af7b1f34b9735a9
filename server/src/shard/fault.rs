//! Why links are closed, whose fault that is, and what the log says of it.

use std::net::IpAddr;

use bft_core::auth::Rejected;
use bft_core::ids::{Nanos, ReplicaId};
use bft_core::limits;
use bft_core::wire::archive::DecodeError;
use bft_core::wire::frame::FrameError;
use bft_link::{Duplicate, LinkError};

use super::{CLIENT_LINKS_MAX, REPLICA_SILENCE};
use crate::pace::OnceASecond;

/// Why a link is closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error(transparent)]
    Duplicate(#[from] Duplicate),
    #[error("a Request of a client whose key is not on this link")]
    ForeignKey,
    #[error("more than {} client keys on one link", limits::CLIENT_KEYS_PER_LINK)]
    TooManyKeys,
    #[error("more than {CLIENT_LINKS_MAX} links of clients")]
    TooManyLinks,
    #[error("its source is refused for a while")]
    Refused,
    #[error("the handshake took too long")]
    Slow,
    #[error("nothing came for {} s", REPLICA_SILENCE / limits::SECOND)]
    Silent,
    #[error("it does not read what it is sent")]
    Stuck,
}

impl Fault {
    /// Whether only an enemy does that.
    pub(super) fn is_hostile(&self) -> bool {
        match self {
            Self::Link(error) => error.is_hostile(),
            Self::Frame(_) | Self::Decode(_) | Self::Rejected(_) | Self::ForeignKey | Self::TooManyKeys => true,
            Self::Duplicate(_) | Self::TooManyLinks | Self::Refused | Self::Slow | Self::Silent | Self::Stuck => false,
        }
    }
}

/// Says why links are closed, once a second at most.
#[derive(Debug, Default)]
pub(super) struct Quiet(OnceASecond);

impl Quiet {
    pub(super) fn warn(&mut self, now: Nanos, address: Option<IpAddr>, replica: Option<ReplicaId>, fault: &Fault) {
        let Some(unsaid) = self.0.is_due(now) else { return };
        let replica = replica.map(|id| id.0);
        let address = address.map(|address| address.to_string());
        tracing::warn!(address, replica, unsaid, reason = %fault, "link closed");
    }
}
