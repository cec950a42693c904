//! Repairs of volumes that are cut short, meet a failing store or any damage; and checks beside a writer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;

use super::check::{Changes, Sample, assert_found, big_content, problems, put_inode};
use super::support::*;
use crate::base::{Inode, MIB, PackNumber};
use crate::check::{Mended, Problem, fsck, fsck_beside, repair};
use crate::format::{Counters, FileKind, InodeRecord, Key, KeyKind};
use crate::meta::{
    Batch, Checkpoint, CheckpointId, MemoryMeta, MemoryVolume, MetaError, MetaRead, MetaStore,
    Record,
};
use crate::store::faulty::{Fault, Op, Rule};
use crate::store::object_store::ObjectStoreExt as _;
use crate::store::object_store::memory::InMemory;
use crate::store::{FaultyStore, StoreFault};

const ROOT: Inode = Inode::ROOT;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_the_store_refuses_stays_as_it_is_and_the_rest_is_mended() {
    let store = FaultyStore::new(InMemory::new());
    let faults = store.faults();
    let sample = Sample::on(Arc::new(store)).await;
    let fs = sample.volume.mount().await;
    let (other, _) = create(&fs, ROOT, "other").await;
    write(&fs, other, 0, &big_content()).await;
    fs.close().await.unwrap();
    let packs = sample.all(KeyKind::Pack).await;
    let (refused, wanted) = (Key::from_bytes(&packs[0].0), Key::from_bytes(&packs[1].0));
    let (pack, _) = sample.pack().await;
    let path = sample.volume.context.path(pack).to_string();
    faults.add(Rule::always(Fault::Fail(StoreFault::Denied)).path(path));
    let left = sample.left(vec![(refused, None), (wanted.clone(), None)]).await;
    assert_found!(&left, Problem::UnreadPack { pack: unread, .. } if *unread == pack);
    assert!(sample.get(&wanted).await.is_some(), "{left:#?}");
    // Where it gives nothing at all, that is no finding.
    faults.add(Rule::always(Fault::Fail(StoreFault::Denied)).on(Op::Head));
    let facts = sample.volume.facts();
    let error = repair(&sample.volume.meta.open(), &facts, &sample.means()).await.unwrap_err();
    assert_eq!(error.kind(), crate::base::ErrorKind::Denied, "{error}");
    faults.clear();
    sample.mended(Vec::new()).await;
    sample.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_mended_hides_nothing_that_can_be_however_much_it_is() {
    let sample = Sample::new().await;
    let unknown =
        |number: u64| Key::from_bytes(&[b"Z".to_vec(), number.to_be_bytes().to_vec()].concat());
    let record = sample.inode(sample.big).await;
    // What is unknown sorts before it, and after it.
    let early =
        |number: u64| Key::from_bytes(&[b"A".to_vec(), number.to_be_bytes().to_vec()].concat());
    let mut changes: Changes =
        (0..6000).flat_map(|n| [(unknown(n), Some(vec![1])), (early(n), Some(vec![1]))]).collect();
    changes.extend(put_inode(sample.big, &InodeRecord { nlink: 7, ..record }));
    sample.apply(changes).await;
    let Mended { before, after, is_unfinished } = sample.repair().await;
    assert_eq!((before.count(), before.repairable), (12_001, 1));
    assert_eq!((after.count(), after.repairable, is_unfinished), (12_000, 0, false));
    assert_eq!(sample.inode(sample.big).await.nlink, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_without_packs_is_told_once_a_file() {
    let sample = Sample::new().await;
    let fs = sample.volume.mount().await;
    for at in 0..4 {
        write(&fs, sample.big, 2 * at * MIB, &big_content()).await;
        fs.flush().await.unwrap();
    }
    fs.close().await.unwrap();
    let packs = sample.all(KeyKind::Pack).await;
    assert!(packs.len() > 2);
    let mut changes = Changes::new();
    for (key, _) in packs {
        let pack = PackNumber(Key::number(&key, 0).unwrap());
        sample.volume.store.delete(&sample.volume.context.path(pack)).await.unwrap();
        changes.push((Key::from_bytes(&key), None));
    }
    let left = sample.left(changes).await;
    let told = left.iter().filter(|problem| matches!(problem, Problem::UnknownPack { .. }));
    let told: Vec<_> = told.collect();
    assert_eq!(told.len(), 2, "big and small: {told:#?}");
    assert_found!(&left, Problem::UnknownPack { bytes: 1_200_000, .. });
}

/// A reader that moves on to the next state as the last record of a check is read.
struct Moving {
    volume: MemoryVolume,
    left: AtomicUsize,
}

impl Moving {
    /// A file without a name is made, all at once.
    async fn step(&self) {
        let Some(left) = self.left.load(Relaxed).checked_sub(1) else { return };
        self.left.store(left, Relaxed);
        let meta = self.volume.open();
        let value = meta.get(Key::counters().as_bytes()).await.unwrap().unwrap();
        let mut counters = Counters::decode(&value).unwrap();
        let value = meta.get(Key::inode(ROOT).as_bytes()).await.unwrap().unwrap();
        let root = InodeRecord::decode(&value).unwrap();
        let (kind, inode) = (FileKind::Regular, Inode(counters.next_inode));
        let orphan = InodeRecord { kind, nlink: 0, parent: Inode(0), entries: 0, ..root };
        counters.next_inode += 1;
        counters.inodes += 1;
        let mut batch = Batch::new();
        batch.put(Key::inode(inode).as_bytes().to_vec(), orphan.encode());
        batch.put(Key::orphan(inode).as_bytes().to_vec(), vec![1]);
        batch.put(Key::counters().as_bytes().to_vec(), counters.encode());
        meta.apply(batch).await.unwrap();
        meta.flush().await.unwrap();
    }
}

#[async_trait]
impl MetaRead for Moving {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        if *key == *Key::counters().as_bytes() {
            self.step().await;
        }
        self.volume.follow().get(key).await
    }

    async fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Record>, MetaError> {
        self.volume.follow().scan(start, end, limit).await
    }

    fn version(&self) -> u64 {
        self.volume.follow().version()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_moves_on_while_it_is_checked_is_checked_again_and_not_for_ever() {
    let sample = Sample::new().await;
    let (volume, facts) = (sample.volume.meta.clone(), sample.volume.facts());
    let moving = |steps| Moving { volume: volume.clone(), left: AtomicUsize::new(steps) };
    let two_states = fsck(&moving(1), &facts).await.unwrap();
    assert_found!(&problems(&two_states), Problem::WrongCounter { .. });
    let report = fsck_beside(&moving(3), &facts).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
    let error = fsck_beside(&moving(usize::MAX), &facts).await.unwrap_err();
    assert_eq!(error.kind(), crate::base::ErrorKind::Retry, "{error}");
}

/// A writer that dies at its batch number `left`.
struct Dying {
    meta: MemoryMeta,
    left: AtomicUsize,
}

#[async_trait]
impl MetaRead for Dying {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        self.meta.get(key).await
    }

    async fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Record>, MetaError> {
        self.meta.scan(start, end, limit).await
    }

    fn version(&self) -> u64 {
        self.meta.version()
    }
}

#[async_trait]
impl MetaStore for Dying {
    async fn apply(&self, batch: Batch) -> Result<(), MetaError> {
        let left = self.left.load(Relaxed).checked_sub(1).ok_or(MetaError::Fenced)?;
        self.left.store(left, Relaxed);
        self.meta.apply(batch).await
    }

    async fn flush(&self) -> Result<(), MetaError> {
        self.meta.flush().await
    }

    async fn close(&self) -> Result<(), MetaError> {
        self.meta.close().await
    }

    async fn checkpoint(
        &self,
        name: &str,
        lifetime: Option<Duration>,
    ) -> Result<CheckpointId, MetaError> {
        self.meta.checkpoint(name, lifetime).await
    }

    async fn delete_checkpoint(&self, id: CheckpointId) -> Result<(), MetaError> {
        self.meta.delete_checkpoint(id).await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, MetaError> {
        self.meta.checkpoints().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_that_is_cut_short_anywhere_is_finished_by_the_next_one() {
    let mut rounds = 0;
    loop {
        let sample = Sample::new().await;
        let (small, entry) = sample.entry(sample.small).await;
        let dir = sample.inode(sample.dir).await;
        sample
            .apply(vec![
                (small, None),
                (Key::entry(sample.dir, 12_345), Some(entry.encode())),
                (Key::inode(sample.big), None),
                (Key::inode(sample.dir), Some(InodeRecord { nlink: 9, ..dir }.encode())),
                (Key::pack(sample.pack().await.0), None),
                (Key::counters(), None),
            ])
            .await;
        let dying = Dying { meta: sample.volume.meta.open(), left: AtomicUsize::new(rounds) };
        let result = repair(&dying, &sample.volume.facts(), &sample.means()).await;
        let is_cut = result.is_err();
        let Mended { after, .. } = sample.repair().await;
        assert!(after.is_clean(), "cut after {rounds} batches: {:#?}", after.findings);
        sample.assert_whole().await;
        if !is_cut {
            break;
        }
        rounds += 1;
    }
    assert!(rounds >= 3, "{rounds} batches");
}

/// What must be as before whatever else was damaged: block maps, and what inodes say of content.
fn kept(all: &[Record], hit: &BTreeSet<Bytes>) -> Vec<(Bytes, String)> {
    let is_hit = |key: &Key| hit.contains(key.as_bytes());
    let mut kept = Vec::new();
    for (key, value) in all.iter().filter(|(key, _)| !hit.contains(key)) {
        if key[0] == b'B' {
            kept.push((key.clone(), format!("{value:?}")));
        } else if key[0] == b'I' {
            let record = InodeRecord::decode(value).unwrap();
            let inode = Inode(Key::number(key, 0).unwrap());
            // A damaged block map may have an end that is not the file's.
            let size = (!is_hit(&Key::page(inode, 0))).then_some(record.size);
            let InodeRecord { kind, permissions, uid, mtime, target, .. } = record;
            let facts = (kind, permissions, uid, mtime, target, size);
            kept.push((key.clone(), format!("{facts:?}")));
        }
    }
    kept
}

/// Damages some records at random, mends, and mends again.
async fn random_damage(damages: Vec<(prop::sample::Index, Option<(prop::sample::Index, u8)>)>) {
    let sample = Sample::new().await;
    let everything = async || sample.volume.meta.follow().scan(&[0], &[0xff], 1000).await.unwrap();
    let all = everything().await;
    let (mut changes, mut hit) = (Vec::new(), BTreeSet::new());
    for (which, flip) in damages {
        let (key, value) = which.get(&all);
        let value = flip.map(|(at, bits)| {
            let mut value = value.to_vec();
            let at = at.index(value.len());
            value[at] ^= bits;
            value
        });
        hit.insert(key.clone());
        changes.push((Key::from_bytes(key), value));
    }
    sample.apply(changes).await;
    let first = sample.repair().await.after;
    let after = everything().await;
    let wanted = kept(&all, &hit);
    let keys: BTreeSet<_> = wanted.iter().map(|(key, _)| key.clone()).collect();
    let after: Vec<_> = after.into_iter().filter(|(key, _)| keys.contains(key)).collect();
    assert_eq!(kept(&after, &hit), wanted);
    let again = sample.repair().await;
    assert_eq!(problems(&again.before), problems(&first));
    assert_eq!(problems(&again.after), problems(&first));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_is_mended_as_far_as_it_can_be_in_one_go(
        damages in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::option::of((any::<prop::sample::Index>(), 1u8..))),
            1..6,
        )
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(random_damage(damages));
    }
}
