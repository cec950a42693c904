//! The file system itself, without FUSE: names, attributes, content, commit groups.

mod error;
mod types;

pub use error::FsError;
pub use types::{
    Allocate, Attributes, Caller, Content, CopyRange, Handle, ListedEntry, NewNode, NewTime,
    Outcome, RenameMode, Seek, SetAttributes, Usage, WriteOrigin, XattrMode,
};
