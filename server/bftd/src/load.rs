//! The demo's load: what it consists of (`mix`), who drives it (`driver`), and what must be true of the counters when
//! it has stopped (`audit`).

pub mod audit;
pub mod driver;
pub mod mix;
