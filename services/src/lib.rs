//! The services that come with `bft`, and the bytes that they speak: [`kv::Kv`], a store of keys and values, and
//! [`null::Null`], which answers without doing anything. Both hold their state in memory and get it back from the
//! library's snapshot; a service of your own implements [`bft_core::service::Service`] in the same way.
#![forbid(unsafe_code)]

pub mod kv;
pub mod named;
pub mod null;
