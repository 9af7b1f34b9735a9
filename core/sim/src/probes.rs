//! Small direct checks of single rules of bft-core, for planted faults that no run can show while no primary lies. Each
//! holds for the core as it is.

/// A check by its name; an error says what is wrong.
pub type Probe = fn() -> Result<(), String>;

/// Every probe.
pub const PROBES: &[(&str, Probe)] = &[];
