//! The services by the names that configurations give them.

use bft_core::service::Service;

use crate::kv::Kv;
use crate::null::Null;

/// The names.
pub const NAMES: [&str; 2] = ["kv", "null"];

/// The largest reply that `null` makes.
pub const NULL_REPLY_BYTES_MAX: usize = 64 * 1024;

/// Why there is no such service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoService {
    /// The name is none of ours.
    #[error("unknown service {0:?}; built in are kv and null")]
    Name(String),
    /// The service is told something that it does not understand.
    #[error("{name} cannot be told {config:?}: it takes {takes}")]
    Config {
        /// The service.
        name: &'static str,
        /// What it was told.
        config: String,
        /// What it could be told.
        takes: &'static str,
    },
}

/// A new service. `config`: nothing, or for `null`: `reply_bytes=N`, the size of its replies, which is 0 otherwise.
pub fn by_name(name: &str, config: &str) -> Result<Box<dyn Service>, NoService> {
    match name {
        "kv" if config.is_empty() => Ok(Box::new(Kv::new())),
        "kv" => Err(NoService::Config { name: "kv", config: config.into(), takes: "nothing" }),
        "null" => null_reply_bytes(config).map(|bytes| Box::new(Null::new(bytes)) as Box<dyn Service>).ok_or_else(|| {
            NoService::Config { name: "null", config: config.into(), takes: "reply_bytes=N, with N up to 65536" }
        }),
        other => Err(NoService::Name(other.into())),
    }
}

fn null_reply_bytes(config: &str) -> Option<usize> {
    if config.is_empty() {
        return Some(0);
    }
    let bytes = config.strip_prefix("reply_bytes=")?.parse().ok()?;
    (bytes <= NULL_REPLY_BYTES_MAX).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_their_words() {
        assert!(NAMES.iter().all(|name| by_name(name, "").is_ok()));
        assert!(by_name("null", "reply_bytes=65536").is_ok());
        let refused = |name, config| by_name(name, config).err().expect("refused").to_string();
        assert_eq!(refused("vk", ""), "unknown service \"vk\"; built in are kv and null");
        assert_eq!(refused("kv", "fast"), "kv cannot be told \"fast\": it takes nothing");
        let null = "it takes reply_bytes=N, with N up to 65536";
        assert_eq!(refused("null", "reply_bytes=65537"), format!("null cannot be told \"reply_bytes=65537\": {null}"));
        assert_eq!(refused("null", "x=1"), format!("null cannot be told \"x=1\": {null}"));
    }
}
