//! Checks of volumes that the file system has written.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::support::*;
use crate::base::{CommitNumber, Inode, MIB, PackNumber, Timestamp};
use crate::check::{Bucket, Means, Mended, Problem, Report, paths, repair};
use crate::format::{
    ACCESS_ACL_NAME, Counters, DirEntry, FileKind, FreedRecord, InodeRecord, Key, KeyKind,
    PackRecord,
};
use crate::fs::{CopyRange, RenameMode, XattrMode};
use crate::meta::{Batch, MetaRead as _, MetaStore as _, Record};
use crate::store::object_store::memory::InMemory;
use crate::store::object_store::{ObjectStore, ObjectStoreExt as _};

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

/// A small volume with something of everything, not mounted.
pub struct Sample {
    pub volume: TestVolume,
    pub dir: Inode,
    pub sub: Inode,
    /// In packs, with a second name.
    pub big: Inode,
    /// In its page.
    pub small: Inode,
}

pub type Changes = Vec<(Key, Option<Vec<u8>>)>;

impl Sample {
    pub async fn new() -> Self {
        Self::on(Arc::new(InMemory::new())).await
    }

    pub async fn on(store: Arc<dyn ObjectStore>) -> Self {
        let volume = TestVolume::on(store).await;
        let fs = volume.mount().await;
        let dir = mkdir(&fs, ROOT, "dir").await;
        let sub = mkdir(&fs, dir, "sub").await;
        let (small, _) = create(&fs, dir, "small").await;
        let (big, _) = create(&fs, sub, "big").await;
        write(&fs, big, 0, &big_content()).await;
        fs.link(big, ROOT, b"again").wait().await.unwrap();
        fs.flush().await.unwrap();
        write(&fs, small, 0, b"inline").await;
        let set = fs.setxattr(small, b"user.tag", b"x", XattrMode::Set, ROOT_CALLER);
        set.wait().await.unwrap();
        let copy = CopyRange { from: big, from_offset: 0, to: small, to_offset: 8192, len: 4096 };
        fs.copy_range(copy).wait().await.unwrap();
        fs.close().await.unwrap();
        volume.assert_clean().await;
        Self { volume, dir, sub, big, small }
    }

    pub async fn get(&self, key: &Key) -> Option<Bytes> {
        self.volume.meta.follow().get(key.as_bytes()).await.unwrap()
    }

    pub async fn inode(&self, inode: Inode) -> InodeRecord {
        InodeRecord::decode(&self.get(&Key::inode(inode)).await.unwrap()).unwrap()
    }

    pub async fn all(&self, kind: KeyKind) -> Vec<Record> {
        let (start, end) = Key::range_of(kind);
        self.volume.meta.follow().scan(&start, &end, 1000).await.unwrap()
    }

    /// Where an inode has its first name.
    pub async fn entry(&self, inode: Inode) -> (Key, DirEntry) {
        let entries = self.all(KeyKind::Entry).await;
        let mut decoded =
            entries.iter().map(|(key, value)| (key, DirEntry::decode(value).unwrap()));
        let names_it = |entry: &DirEntry| entry.target.is_some_and(|(named, _)| named == inode);
        let (key, entry) = decoded.find(|(_, entry)| names_it(entry)).unwrap();
        (Key::from_bytes(key), entry)
    }

    pub async fn pack(&self) -> (PackNumber, PackRecord) {
        let (key, value) = self.all(KeyKind::Pack).await.remove(0);
        (PackNumber(Key::number(&key, 0).unwrap()), PackRecord::decode(&value).unwrap())
    }

    pub async fn apply(&self, changes: Changes) {
        let meta = self.volume.meta.open();
        let mut batch = Batch::new();
        for (key, value) in changes {
            match value {
                Some(value) => batch.put(key.as_bytes().to_vec(), value),
                None => batch.delete(key.as_bytes().to_vec()),
            }
        }
        meta.apply(batch).await.unwrap();
        meta.close().await.unwrap();
    }

    pub fn means(&self) -> Means {
        let (store, packs) = (self.volume.store.clone(), self.volume.context.clone());
        Means {
            bucket: Some(Bucket { store, packs }),
            now: Timestamp { seconds: 1_700_000_000, nanos: 0 },
            commit_min: CommitNumber(0),
            owner: (0, 0),
        }
    }

    pub async fn repair(&self) -> Mended {
        repair(&self.volume.meta.open(), &self.volume.facts(), &self.means()).await.unwrap()
    }

    /// Damages the volume, mends it and leaves it clean; what was found.
    pub async fn mended(&self, changes: Changes) -> Vec<Problem> {
        self.apply(changes).await;
        let Mended { before, after, .. } = self.repair().await;
        assert!(after.is_clean(), "left: {:#?}\nbefore: {:#?}", after.findings, before.findings);
        self.volume.assert_clean().await;
        problems(&before)
    }

    /// What a check says of a damage that cannot be mended.
    pub async fn left(&self, changes: Changes) -> Vec<Problem> {
        self.apply(changes).await;
        problems(&self.repair().await.after)
    }

    /// Content and tree are as they were made.
    pub async fn assert_whole(&self) {
        let fs = self.volume.mount().await;
        let dir = lookup(&fs, ROOT, "dir").await.unwrap().inode;
        let sub = lookup(&fs, dir, "sub").await.unwrap().inode;
        let big = lookup(&fs, sub, "big").await.unwrap();
        assert_eq!((big.inode, big.record.nlink), (self.big, 2));
        assert_eq!(read_all(&fs, big.inode).await, big_content());
        let small = lookup(&fs, dir, "small").await.unwrap().inode;
        assert_eq!(read_all(&fs, small).await[..6], *b"inline");
        fs.close().await.unwrap();
        self.volume.assert_clean().await;
    }
}

pub fn problems(report: &Report) -> Vec<Problem> {
    report.findings.iter().map(|finding| finding.problem.clone()).collect()
}

pub fn big_content() -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..300_000).map(|_| next()).collect()
}

pub fn put_inode(inode: Inode, record: &InodeRecord) -> Changes {
    vec![(Key::inode(inode), Some(record.encode()))]
}

macro_rules! assert_found {
    ($problems:expr, $pattern:pat $(if $guard:expr)?) => {
        let problems: &[Problem] = $problems;
        assert!(problems.iter().any(|problem| matches!(problem, $pattern $(if $guard)?)), "{problems:#?}");
    };
}
pub(super) use assert_found;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_counts_are_counted_anew() {
    let sample = Sample::new().await;
    let record = sample.inode(sample.big).await;
    let wrong = InodeRecord { nlink: 7, allocated: 5, ..record };
    let found = sample.mended(put_inode(sample.big, &wrong)).await;
    assert_found!(&found, Problem::WrongLinks { recorded: 7, found: 2, .. });
    assert_found!(&found, Problem::WrongAllocated { recorded: 5, .. });

    let record = sample.inode(sample.dir).await;
    let wrong = InodeRecord { nlink: 9, entries: 0, parent: sample.sub, ..record };
    let found = sample.mended(put_inode(sample.dir, &wrong)).await;
    assert_found!(&found, Problem::WrongLinks { recorded: 9, found: 3, .. });
    assert_found!(&found, Problem::WrongEntries { recorded: 0, found: 2, .. });
    assert_found!(&found, Problem::WrongParent { .. });

    let (pack, record) = sample.pack().await;
    for live in [0, 1, record.live + 1] {
        let wrong = PackRecord { live, ..record.clone() };
        let found = sample.mended(vec![(Key::pack(pack), Some(wrong.encode()))]).await;
        assert_found!(&found, Problem::WrongLive { .. });
    }
    let record = sample.inode(sample.small).await;
    let mut wrong = record.clone();
    wrong.flags.0 = 6;
    let found = sample.mended(put_inode(sample.small, &wrong)).await;
    assert_found!(&found, Problem::WrongFlags { .. });
    sample.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_are_rebuilt_and_never_fall_behind_what_is_in_use() {
    let sample = Sample::new().await;
    let key = Key::counters();
    let right = Counters::decode(&sample.get(&key).await.unwrap()).unwrap();
    let wrong = Counters { next_inode: 2, inodes: 1, bytes: 9, next_pack: PackNumber(0), ..right };
    let found = sample.mended(vec![(key.clone(), Some(wrong.encode()))]).await;
    assert_eq!(found.len(), 4, "{found:#?}");
    for damage in [None, Some(b"no counters".to_vec())] {
        let found = sample.mended(vec![(key.clone(), damage)]).await;
        assert_eq!(found, [Problem::NoCounters]);
        let new = Counters::decode(&sample.get(&key).await.unwrap()).unwrap();
        assert!(
            new.next_inode > sample.small.0 && new.next_pack.writer() >= right.next_pack.writer()
        );
    }
    sample.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lost_its_name_is_found_under_lost_and_found() {
    let sample = Sample::new().await;
    let (small, dir) = (sample.entry(sample.small).await.0, sample.entry(sample.dir).await.0);
    let found = sample.mended(vec![(small, None), (dir, None)]).await;
    assert_found!(&found, Problem::Unreachable { .. });
    let fs = sample.volume.mount().await;
    let lost = lookup(&fs, ROOT, "lost+found").await.unwrap().inode;
    let file = lookup(&fs, lost, &format!("#{}", sample.small)).await.unwrap();
    assert_eq!(read_all(&fs, file.inode).await[..6], *b"inline");
    let dir = lookup(&fs, lost, &format!("#{}", sample.dir)).await.unwrap();
    assert_eq!(dir.record.parent, lost);
    let sub = lookup(&fs, dir.inode, "sub").await.unwrap().inode;
    assert_eq!(lookup(&fs, sub, "big").await.unwrap().inode, sample.big);
    fs.close().await.unwrap();
    let wanted = BTreeSet::from([sample.small, sample.sub]);
    let paths = paths(&sample.volume.meta.follow(), &wanted).await.unwrap();
    assert_eq!(paths[&sample.sub], format!("/lost+found/#{}/sub", sample.dir));
    assert_eq!(paths[&sample.small], format!("/lost+found/#{}", sample.small));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inode_for_which_no_name_is_free_stays_as_it_is() {
    let sample = Sample::new().await;
    let fs = sample.volume.mount().await;
    create(&fs, ROOT, "lost+found").await;
    let lost = mkdir(&fs, ROOT, "lost+found.1").await;
    create(&fs, lost, &format!("#{}", sample.sub)).await;
    for number in 1..=100 {
        create(&fs, lost, &format!("#{}.{number}", sample.sub)).await;
    }
    fs.close().await.unwrap();
    let left = sample.left(vec![(sample.entry(sample.sub).await.0, None)]).await;
    assert_found!(&left, Problem::Unreachable { .. });
    assert_eq!(sample.inode(sample.sub).await.parent, sample.dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_its_inode_keeps_its_content_its_names_and_attributes() {
    let sample = Sample::new().await;
    let xattr = Key::xattr(sample.small, b"user.tag");
    for inode in [sample.big, sample.small] {
        let found = sample.mended(vec![(Key::inode(inode), None)]).await;
        assert_found!(&found, Problem::MissingFile { .. });
        let only = |problem: &Problem| {
            matches!(problem, Problem::MissingFile { .. } | Problem::WrongCounter { .. })
        };
        assert!(found.iter().all(only), "{found:#?}");
        assert_eq!(sample.inode(inode).await.permissions, 0o600);
    }
    assert!(sample.get(&xattr).await.is_some());
    sample.assert_whole().await;

    let entry = sample.entry(sample.small).await.0;
    let found = sample.mended(vec![(Key::inode(sample.small), None), (entry, None)]).await;
    assert_found!(&found, Problem::MissingFile { .. });
    let fs = sample.volume.mount().await;
    let lost = lookup(&fs, ROOT, "lost+found").await.unwrap().inode;
    let file = lookup(&fs, lost, &format!("#{}", sample.small)).await.unwrap();
    assert_eq!(read_all(&fs, file.inode).await[..6], *b"inline");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_missing_inode_without_content_left_behind_is_removed() {
    for left_of_page in [None, Some(vec![1, 0])] {
        let sample = Sample::new().await;
        let (inode, page) = (Key::inode(sample.small), Key::page(sample.small, 0));
        // What it showed of the pack is not counted any more either.
        let (pack, record) = sample.pack().await;
        let record = PackRecord { live: record.live - 4096, ..record };
        let changes =
            vec![(inode, None), (page, left_of_page), (Key::pack(pack), Some(record.encode()))];
        let found = sample.mended(changes).await;
        assert_found!(&found, Problem::DanglingEntry { .. });
        assert_found!(&found, Problem::StrayXattr { .. });
        let fs = sample.volume.mount().await;
        let dir = lookup(&fs, ROOT, "dir").await.unwrap().inode;
        assert_eq!(list(&fs, dir).await, [".", "..", "sub"]);
        assert_eq!(read_all(&fs, sample.big).await, big_content());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_of_a_missing_inode_stays_and_frees_nothing() {
    let sample = Sample::new().await;
    let packs = sample.all(KeyKind::Pack).await;
    let page = Key::page(sample.big, 0);
    let changes = vec![(Key::inode(sample.big), None), (page.clone(), Some(vec![9]))];
    let left = sample.left(changes).await;
    assert!(matches!(left[..], [Problem::DamagedPage { from: 0, .. }]), "{left:#?}");
    assert_eq!(sample.left(Vec::new()).await, left);
    assert_eq!(sample.get(&page).await.unwrap(), vec![9]);
    assert_eq!(sample.all(KeyKind::Pack).await, packs);
    let fs = sample.volume.mount().await;
    let file = lookup(&fs, ROOT, "again").await.unwrap();
    assert_eq!((file.inode, file.record.nlink), (sample.big, 2));
    let read = fs.read(file.inode, crate::fs::Handle(0), 0, 4096).wait().await;
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inode_that_does_not_decode_or_is_no_file_any_more_and_lost_its_page_frees_nothing() {
    for inode_number in 0..2 {
        for is_fifo in [false, true] {
            let sample = Sample::new().await;
            let inode = [sample.big, sample.small][inode_number];
            let packs = sample.all(KeyKind::Pack).await;
            let record = InodeRecord { kind: FileKind::Fifo, ..sample.inode(inode).await };
            let record = if is_fifo { record.encode() } else { vec![77] };
            let changes = vec![(Key::inode(inode), Some(record)), (Key::page(inode, 0), None)];
            let left = sample.left(changes).await;
            assert_eq!(sample.left(Vec::new()).await, left);
            assert_eq!(sample.all(KeyKind::Pack).await, packs, "{left:#?}");
            if inode == sample.small {
                assert!(sample.get(&Key::inline(inode, 0)).await.is_some());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_lost_its_inode_and_a_page_frees_nothing_until_it_is_removed() {
    for record_of_pack in [None, Some(b"?".to_vec())] {
        let sample = Sample::new().await;
        let fs = sample.volume.mount().await;
        let (long, _) = create(&fs, ROOT, "long").await;
        let (first, second) = (big_content(), big_content());
        write(&fs, long, 0, &first).await;
        fs.flush().await.unwrap();
        write(&fs, long, 128 * sample.volume.block_size.bytes(), &second).await;
        fs.close().await.unwrap();
        let packs = sample.all(KeyKind::Pack).await;
        let mut changes = vec![(Key::inode(long), None), (Key::page(long, 1), None)];
        // The pack of the page that is missing.
        let (last, _) = packs.last().unwrap();
        changes.extend(record_of_pack.map(|record| (Key::from_bytes(last), Some(record))));
        for changes in [changes, Vec::new()] {
            let left = sample.left(changes).await;
            assert!(
                matches!(left[..], [Problem::MissingContent { inode, .. }] if inode == long),
                "{left:#?}"
            );
            assert_eq!(sample.all(KeyKind::Pack).await.len(), packs.len());
            assert!(sample.get(&Key::from_bytes(last)).await.is_some());
        }
        let fs = sample.volume.mount().await;
        assert_eq!(read_all(&fs, long).await, first);
        fs.unlink(ROOT, b"long").wait().await.unwrap();
        fs.close().await.unwrap();
        sample.mended(Vec::new()).await;
        assert!(sample.get(&Key::from_bytes(last)).await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_kind_and_content_contradict_each_other_nothing_is_thrown_away() {
    let sample = Sample::new().await;
    let record = sample.inode(sample.big).await;
    let wrong = InodeRecord { kind: FileKind::Directory, nlink: 2, parent: sample.sub, ..record };
    let found = sample.left(put_inode(sample.big, &wrong)).await;
    assert_found!(&found, Problem::StrayPage { .. });
    assert!(sample.get(&Key::page(sample.big, 0)).await.is_some());
    assert_eq!(sample.inode(sample.big).await.size, 300_000);

    let sample = Sample::new().await;
    let record = sample.inode(sample.dir).await;
    let wrong = InodeRecord { kind: FileKind::Fifo, ..record.clone() };
    let found = sample.left(put_inode(sample.dir, &wrong)).await;
    assert_found!(&found, Problem::WrongFields { .. });
    assert!(sample.get(&sample.entry(sample.sub).await.0).await.is_some());
    let (kind, parent) = (FileKind::Directory, ROOT);
    sample.mended(put_inode(sample.dir, &InodeRecord { kind, parent, ..record })).await;
    sample.assert_whole().await;

    let sample = Sample::new().await;
    let record = sample.inode(sample.small).await;
    let wrong = InodeRecord { target: b"dir/sub"[..].into(), ..record };
    let found = sample.left(put_inode(sample.small, &wrong)).await;
    assert_found!(&found, Problem::WrongFields { .. });
    assert_eq!(sample.inode(sample.small).await.target, wrong.target);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_that_mean_nothing_for_an_inodes_kind_are_cleared() {
    let sample = Sample::new().await;
    let record = sample.inode(sample.sub).await;
    let wrong = InodeRecord { size: 7, allocated: 7, ..record };
    let found = sample.mended(put_inode(sample.sub, &wrong)).await;
    assert_found!(&found, Problem::WrongFields { .. });
    let record = sample.inode(sample.big).await;
    let wrong = InodeRecord { parent: ROOT, entries: 3, ..record };
    assert_found!(&sample.mended(put_inode(sample.big, &wrong)).await, Problem::WrongFields { .. });
    sample.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_led_back_is_not_lost_to_what_else_is_removed_there() {
    let sample = Sample::new().await;
    let (key, entry) = sample.entry(sample.small).await;
    let tombstone = DirEntry { target: None, chained: false, name: Box::default() };
    for at_its_place in [tombstone.encode(), vec![0xff]] {
        let moved = Key::entry(sample.dir, 12_345);
        let changes: Changes =
            vec![(key.clone(), Some(at_its_place)), (moved, Some(entry.encode()))];
        assert_found!(&sample.mended(changes).await, Problem::MisplacedEntry { .. });
        sample.assert_whole().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_without_its_inode_keeps_its_names() {
    let sample = Sample::new().await;
    let found = sample.mended(vec![(Key::inode(sample.sub), None)]).await;
    assert_found!(&found, Problem::MissingDirectory { entries: 1, .. });
    sample.assert_whole().await;
    let found = sample.mended(vec![(Key::inode(ROOT), None)]).await;
    assert_found!(&found, Problem::MissingDirectory { inode: ROOT, .. });
    let fs = sample.volume.mount().await;
    assert!(lookup(&fs, ROOT, "dir").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_are_set_and_removed() {
    let sample = Sample::new().await;
    let mark = Some(vec![1]);
    let none = Inode(999);
    let found = sample.mended(vec![(Key::inline(sample.small, 0), None)]).await;
    assert_eq!(found, [Problem::UnmarkedInline { inode: sample.small, page: 0 }]);
    let stray: Changes = vec![
        (Key::inline(sample.big, 0), mark.clone()),
        (Key::inline(none, 3), mark.clone()),
        (Key::orphan(none), mark.clone()),
        (Key::orphan(sample.big), mark.clone()),
        (Key::xattr(none, b"user.x"), mark.clone()),
        (Key::reference(PackNumber(77), none, crate::base::BlockIndex(1)), mark.clone()),
        (Key::unswept(PackNumber(5 << 40)), Some(vec![2])),
        (Key::page(sample.big, 9), Some(vec![1, 0])),
        (Key::page(sample.dir, 0), Some(vec![1, 0])),
    ];
    let count = stray.len();
    // The numbers of inodes that are named must be below the next one.
    let found = sample.mended(stray).await;
    assert!(found.len() >= count, "{found:#?}");
    sample.assert_whole().await;
    let record = sample.inode(sample.small).await;
    let mut orphan = put_inode(sample.small, &InodeRecord { nlink: 0, ..record });
    orphan.push((sample.entry(sample.small).await.0, None));
    let found = sample.mended(orphan).await;
    assert_found!(&found, Problem::UnmarkedOrphan { .. });
    assert!(sample.get(&Key::orphan(sample.small)).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_led_back_to_their_places() {
    let sample = Sample::new().await;
    let (key, entry) = sample.entry(sample.small).await;
    let misplaced = Key::entry(sample.dir, 12_345);
    let moved: Changes = vec![(key.clone(), None), (misplaced, Some(entry.encode()))];
    assert_found!(&sample.mended(moved).await, Problem::MisplacedEntry { .. });
    let wrong = DirEntry { target: Some((sample.small, FileKind::Fifo)), ..entry.clone() };
    let found = sample.mended(vec![(key.clone(), Some(wrong.encode()))]).await;
    assert_found!(&found, Problem::WrongType { .. });

    let place = Key::number(key.as_bytes(), 1).unwrap();
    let chained = DirEntry { chained: true, ..entry.clone() };
    let twice: Changes = vec![
        (key.clone(), Some(chained.encode())),
        (Key::entry(sample.dir, place + 1), Some(entry.encode())),
    ];
    assert_found!(&sample.mended(twice).await, Problem::DoubleEntry { .. });
    let tombstone = DirEntry { target: None, chained: false, name: Box::default() };
    let loose = vec![(Key::entry(sample.dir, 99), Some(tombstone.encode()))];
    assert_found!(&sample.mended(loose).await, Problem::LooseTombstone { .. });
    let stray = vec![(Key::entry(sample.big, 99), Some(entry.encode()))];
    assert_found!(&sample.mended(stray).await, Problem::EntryOfNoDirectory { .. });
    sample.assert_whole().await;

    let impossible = DirEntry { name: b"a/b"[..].into(), ..entry };
    let found = sample.mended(vec![(key.clone(), Some(impossible.encode()))]).await;
    assert_found!(&found, Problem::ImpossibleName { .. });
    let fs = sample.volume.mount().await;
    let lost = lookup(&fs, ROOT, "lost+found").await.unwrap().inode;
    assert!(lookup(&fs, lost, &format!("#{}", sample.small)).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_does_not_decode_costs_its_name_alone() {
    let sample = Sample::new().await;
    let (key, _) = sample.entry(sample.small).await;
    let found = sample.mended(vec![(key, Some(vec![0xff]))]).await;
    assert_found!(&found, Problem::DamagedEntry { .. });
    let fs = sample.volume.mount().await;
    let dir = lookup(&fs, ROOT, "dir").await.unwrap().inode;
    assert_eq!(list(&fs, dir).await, [".", "..", "sub"]);
    let lost = lookup(&fs, ROOT, "lost+found").await.unwrap().inode;
    assert!(lookup(&fs, lost, &format!("#{}", sample.small)).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rings_and_second_names_of_directories_are_undone() {
    let sample = Sample::new().await;
    let (key, entry) = sample.entry(sample.dir).await;
    let inside = Key::entry(sample.sub, Key::number(key.as_bytes(), 1).unwrap());
    let second: Changes = vec![(inside.clone(), Some(entry.encode()))];
    assert_found!(&sample.mended(second).await, Problem::SecondName { .. });
    sample.assert_whole().await;
    let ring: Changes = vec![(key, None), (inside, Some(entry.encode()))];
    assert_found!(&sample.mended(ring).await, Problem::Ring { .. });
    let fs = sample.volume.mount().await;
    let lost = lookup(&fs, ROOT, "lost+found").await.unwrap().inode;
    assert_eq!(list(&fs, lost).await.len(), 3);
    assert_eq!(lookup(&fs, ROOT, "again").await.unwrap().inode, sample.big);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_packs_come_back_out_of_the_packs() {
    let sample = Sample::new().await;
    let (pack, record) = sample.pack().await;
    let key = Key::pack(pack);
    assert_found!(&sample.mended(vec![(key.clone(), None)]).await, Problem::UnknownPack { .. });
    let (_, rebuilt) = sample.pack().await;
    assert_eq!(PackRecord { birth: record.birth, ..rebuilt }, record);
    let garbled = vec![(key.clone(), Some(b"?".to_vec()))];
    assert_found!(&sample.mended(garbled).await, Problem::LostPack { .. });
    let freed = FreedRecord { epoch: record.epoch, size: record.size, freed: 1 };
    let freed = (Key::freed(CommitNumber(1), pack), Some(freed.encode()));
    for record in [None, Some(record.encode())] {
        let changes = vec![(key.clone(), record), freed.clone()];
        assert_found!(&sample.mended(changes).await, Problem::FreedInUse { .. });
    }
    sample.assert_whole().await;

    sample.volume.store.delete(&sample.volume.context.path(pack)).await.unwrap();
    let left = sample.left(vec![(key, None)]).await;
    let unreadable =
        Problem::UnknownPack { inode: sample.big, from: 0, to: 300_000, bytes: 300_000, pack };
    assert!(left.contains(&unreadable), "{left:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_is_told_by_its_bytes_and_frees_nothing() {
    let sample = Sample::new().await;
    let (pack, record) = sample.pack().await;
    let left = sample.left(vec![(Key::page(sample.big, 0), Some(vec![9]))]).await;
    assert_eq!(left.len(), 1, "{left:#?}");
    let to = 128 * sample.volume.block_size.bytes();
    assert!(
        matches!(left[0], Problem::DamagedPage { inode, from: 0, to: end, .. } if inode == sample.big && end == to)
    );
    assert_eq!(sample.pack().await, (pack, record));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_page_is_told_and_frees_nothing_until_the_file_is_removed() {
    let sample = Sample::new().await;
    let packs = sample.all(KeyKind::Pack).await;
    let mark = Problem::StrayInlineMark { inode: sample.small, page: 0 };
    let small = Problem::MissingContent { inode: sample.small, bytes: 6 + 4096 };
    let left = sample.left(vec![(Key::page(sample.small, 0), None)]).await;
    assert_eq!(left, [mark.clone(), small.clone()]);
    let big = Problem::MissingContent { inode: sample.big, bytes: 300_000 };
    let left = sample.left(vec![(Key::page(sample.big, 0), None)]).await;
    assert_eq!(left.len(), 3, "{left:#?}");
    assert!(left.contains(&mark) && left.contains(&small) && left.contains(&big));
    assert_eq!(sample.all(KeyKind::Pack).await, packs);

    let fs = sample.volume.mount().await;
    fs.unlink(ROOT, b"again").wait().await.unwrap();
    fs.unlink(sample.sub, b"big").wait().await.unwrap();
    fs.unlink(sample.dir, b"small").wait().await.unwrap();
    fs.close().await.unwrap();
    assert_found!(&sample.mended(Vec::new()).await, Problem::WrongLive { found: 0, .. });
    assert_eq!(sample.all(KeyKind::Pack).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_behind_the_end_is_shown_again() {
    let sample = Sample::new().await;
    let record = sample.inode(sample.big).await;
    let found = sample.mended(put_inode(sample.big, &InodeRecord { size: 5000, ..record })).await;
    assert_eq!(found, [Problem::BeyondEnd { inode: sample.big, size: 5000, end: 300_000 }]);
    sample.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_understood_is_left_alone() {
    let sample = Sample::new().await;
    let unknown = Key::from_bytes(b"Znew");
    let inode = Key::inode(sample.small);
    let changes = vec![(unknown.clone(), Some(vec![1])), (inode.clone(), Some(vec![77]))];
    let left = sample.left(changes).await;
    assert_eq!(left.len(), 2, "{left:#?}");
    assert!(sample.get(&unknown).await.is_some());
    assert_eq!(sample.get(&inode).await.unwrap(), vec![77]);
    let (entry, _) = sample.entry(sample.small).await;
    assert!(sample.get(&entry).await.is_some());
}
