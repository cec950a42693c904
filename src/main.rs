//! The command `lidfs`.
fn main() {}
