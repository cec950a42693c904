//! What sealing promises, and the published vectors it stands on.

mod promises;
