//! Clients that attack: each is the twin of a production client, whose Requests a strategy changes, sends elsewhere or adds
//! to. It holds its own key and no other, and what it signed it may ask for; nobody waits for its answers. The others must
//! get theirs all the same. What it sends of its own is bounded for each run.

use std::str::FromStr;

use bft_core::door::To;
use bft_core::wire::message::Message;
use bft_core::wire::request::SignedRequest;

pub mod churns_sessions;
pub mod floods;
pub mod forges_signatures;
pub mod means;
pub mod never_acks;
pub mod overflows_window;
pub mod replays;
pub mod sends_to_one;
pub mod two_bodies;

use means::ClientMeans;

/// Misdeeds of a run, at most: floods end.
const MISDEEDS_MAX: u64 = 2_000;

/// What a hostile client does with a Request that its core sends.
pub trait HostileClient {
    /// Says with [`ClientMeans::truth`] and [`ClientMeans::lie`] what leaves instead.
    fn sends(&mut self, means: &mut ClientMeans, to: To, request: SignedRequest);
}

macro_rules! strategies {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $make:expr;)*) => {
        /// What a hostile client is after.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ClientStrategy {
            $($(#[$doc])* $variant,)*
        }

        impl ClientStrategy {
            /// Every strategy.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// What the command line and `regressions/` call it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            fn make(self) -> Box<dyn HostileClient> {
                match self {
                    $(Self::$variant => Box::new($make),)*
                }
            }
        }
    };
}

strategies! {
    /// Signs two bodies under one number.
    TwoBodies = "two-bodies", two_bodies::TwoBodies;
    /// Sends each Request to one replica.
    SendsToOne = "sends-to-one", sends_to_one::SendsToOne;
    /// Uses numbers beyond its window.
    OverflowsWindow = "overflows-window", overflows_window::OverflowsWindow;
    /// Never acknowledges an answer.
    NeverAcks = "never-acks", never_acks::NeverAcks;
    /// Sends far more than it may have under way.
    Floods = "floods", floods::Floods;
    /// Sends what is not signed, or not by whom it says.
    ForgesSignatures = "forges-signatures", forges_signatures::ForgesSignatures;
    /// Opens one session after the other.
    ChurnsSessions = "churns-sessions", churns_sessions::ChurnsSessions::default();
    /// Sends Requests of former sessions, and of another cluster.
    Replays = "replays", replays::Replays::default();
}

impl FromStr for ClientStrategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|strategy| strategy.name() == text);
        found.copied().ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|strategy| strategy.name()).collect();
            format!("there is no hostile client {text}; there are: {}", known.join(", "))
        })
    }
}

/// A strategy at the door of a client.
pub struct ClientTwin {
    means: ClientMeans,
    strategy: Box<dyn HostileClient>,
}

impl ClientTwin {
    /// A client with this strategy and these means.
    #[must_use]
    pub fn new(strategy: ClientStrategy, means: ClientMeans) -> Self {
        Self { means, strategy: strategy.make() }
    }

    /// What leaves when the core sends `message`: read it from the means.
    pub fn sends(&mut self, to: To, message: Message) -> &mut ClientMeans {
        match message {
            Message::Request(request) if self.means.all_misdeeds() < MISDEEDS_MAX => {
                self.strategy.sends(&mut self.means, to, request);
            }
            other => self.means.truth(to, other),
        }
        &mut self.means
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for strategy in ClientStrategy::ALL {
            assert_eq!(strategy.name().parse(), Ok(*strategy));
        }
        assert!("nobody".parse::<ClientStrategy>().unwrap_err().contains("churns-sessions"));
    }
}
