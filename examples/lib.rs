//! Complete small programs on top of the bft crates: each file beside this one is one. This library is empty: cargo wants a target to hang the programs on.
