//! Executable models of the two parts whose correctness is an argument rather than a check: why agreement survives a
//! change of view (`agreement`, M1), and why replicas come to a view together (`synchroniser`, M2). `search` looks at their
//! states, `plan` says which and how far, and `binding` holds them to the code: the real core walks with them, step by
//! step. What is modelled and what is not: docs/models.md.
#![forbid(unsafe_code)]

pub mod agreement;
pub mod binding;
pub mod plan;
pub mod search;
pub mod synchroniser;
