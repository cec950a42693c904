//! Byte layouts and key codecs: pure, no I/O. `FORMAT.md` beside this file is the specification.

mod block;
mod codec;
#[cfg(test)]
mod document;
pub mod header;
mod inode;
mod key;
mod pack;
mod record;

pub use block::{Fragment, PAGE_BLOCKS, Page, Place, page_of};
pub use codec::{FormatError, Reader, Writer};
pub use inode::{
    ACCESS_ACL_NAME, DEFAULT_ACL_NAME, FileKind, InodeFlags, InodeRecord, SETGID, SETUID, STICKY,
};
pub use key::{Key, KeyKind};
pub use pack::{FreedRecord, PackDirectory, PackEntry, PackRecord, pack_path};
pub use record::{
    Counters, DirEntry, HASH_MIN, NUMBER_MAX, OrphanRecord, Space, UnsweptRecord, name_hash,
};
