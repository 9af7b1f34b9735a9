//! Replicas that lie: each wraps a correct core and changes what leaves it. At most F of the weight does.

pub mod lying_backup;
pub mod lying_source;
