//! The commands, one file each; what `run` and `local` have in common is in `measure`.

pub mod catch_up;
pub mod floors;
pub mod kills;
pub mod local;
pub mod measure;
pub mod replica;
pub mod run;
pub mod transfer;
pub mod villains;
