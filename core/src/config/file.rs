//! The TOML form of a cluster's configuration.
