//! Object stores, and what is wrapped around them.
//!
//! The seam is [`object_store::ObjectStore`], in the version the metadata engine uses.

pub mod sealed;

pub use sealed::SealedStore;
pub use slatedb::object_store;
