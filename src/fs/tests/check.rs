//! Checks of volumes that the file system has written.

use bytes::Bytes;

use super::support::*;
use crate::base::{Inode, MIB};
use crate::format::{ACCESS_ACL_NAME, FileKind};
use crate::fs::{CopyRange, RenameMode, XattrMode};

const ROOT: Inode = Inode::ROOT;

/// An ACL with one named user, as `setfacl` hands it over.
fn acl() -> Bytes {
    let mut value = 2u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, permissions, id) in
        [(1u16, 7u16, none), (2, 6, 1000), (4, 5, none), (16, 7, none), (32, 5, none)]
    {
        value.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        value.extend(id.to_le_bytes());
    }
    value.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_committed_is_clean() {
    let volume = TestVolume::new().await;
    volume.assert_clean().await;
    let fs = volume.mount().await;
    let dir = mkdir(&fs, ROOT, "dir").await;
    let sub = mkdir(&fs, dir, "sub").await;
    let (big, _) = create(&fs, sub, "big").await;
    write(&fs, big, 0, &vec![7; 3 * MIB as usize + 17]).await;
    let (small, _) = create(&fs, ROOT, "small").await;
    write(&fs, small, 5000, b"inline").await;
    fs.flush().await.unwrap();
    volume.assert_clean().await;

    fs.link(small, dir, b"again").wait().await.unwrap();
    fs.make(node(ROOT, "pipe", FileKind::Fifo)).wait().await.unwrap();
    let link = crate::fs::NewNode {
        target: b"dir/sub".as_slice().into(),
        ..node(ROOT, "link", FileKind::Symlink)
    };
    fs.make(link).wait().await.unwrap();
    for (name, value) in [(b"user.tag".as_slice(), Bytes::from("x")), (ACCESS_ACL_NAME, acl())] {
        fs.setxattr(small, name, &value, XattrMode::Set, ROOT_CALLER).wait().await.unwrap();
    }
    let (copy, _) = create(&fs, ROOT, "copy").await;
    let range = CopyRange { from: big, from_offset: 100, to: copy, to_offset: 5, len: 70_000 };
    fs.copy_range(range).wait().await.unwrap();
    fs.flush().await.unwrap();
    volume.assert_clean().await;

    fs.rename(dir, b"sub", ROOT, b"moved", RenameMode::Replace).wait().await.unwrap();
    fs.setattr(big, resize(10_000)).wait().await.unwrap();
    fs.flush().await.unwrap();
    fs.setattr(big, resize(1 << 40)).wait().await.unwrap();
    fs.removexattr(small, ACCESS_ACL_NAME, ROOT_CALLER).wait().await.unwrap();
    // Open without a name.
    fs.unlink(ROOT, b"copy").wait().await.unwrap();
    fs.flush().await.unwrap();
    volume.assert_clean().await;

    fs.unlink(sub, b"big").wait().await.unwrap();
    fs.rmdir(ROOT, b"moved").wait().await.unwrap();
    fs.flush().await.unwrap();
    drop(fs);
    // A crash leaves orphans, and the next mount takes them back.
    volume.assert_clean().await;
    let fs = volume.mount().await;
    fs.reclaim_unreferenced().await.unwrap();
    fs.close().await.unwrap();
    volume.assert_clean().await;
}
