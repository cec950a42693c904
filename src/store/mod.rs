//! Object stores and what decorates them.

pub use slatedb::object_store;
