//! Empty on purpose: glommio names this crate and uses nothing of it.
