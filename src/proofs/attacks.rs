//! What whoever holds the bucket can do to a small volume: bits flipped in every byte, objects cut, grown, deleted,
//! swapped, copied over one another, put back as they were. Each time the volume is opened anew and all of it is read.
//!
//! It is refused, or as it was: never anything else. Only an old state of the whole opens, and its commit is older
//! than the one that a machine's pin remembers.

use std::sync::Arc;

use futures::TryStreamExt as _;

use super::dump::dump;
use super::explorer::runtime;
use super::ops::{Driver, Fill, Op, Target};
use super::volume::{Mounted, Pace, ProofVolume};
use super::{Random, wanted};
use crate::base::{CommitNumber, KIB};
use crate::crypto;
use crate::data::Compression;
use crate::format::FileKind;
use crate::fs::tests::support::ROOT_CALLER;
use crate::store::object_store::memory::InMemory;
use crate::store::object_store::path::Path;
use crate::store::object_store::{Attributes, ObjectStore, ObjectStoreExt as _, PutOptions};

/// One byte of so many is attacked; in a long run each.
const EVERY: usize = 11;
/// Tests that share the bytes.
const SHARDS: usize = 2;
/// One pair of objects of so many is swapped; in a long run each.
const PAIRS_EVERY: usize = 5;

/// An object as it is stored.
#[derive(Clone)]
struct Object {
    path: Path,
    bytes: Vec<u8>,
    attributes: Attributes,
}

/// A volume, and what it showed after each of its commits.
struct Victim {
    volume: ProofVolume,
    bucket: InMemory,
    objects: Vec<Object>,
    /// Objects of the bucket when half of the commits were made.
    older: Vec<Object>,
    trees: Vec<String>,
    commit: CommitNumber,
}

/// What became of the attacks.
#[derive(Debug, Default)]
struct Tally {
    refused: usize,
    harmless: usize,
    /// The volume is what it once was: a pin tells.
    rolled_back: usize,
}

impl Tally {
    fn print(&self, what: &str) {
        let Self { refused, harmless, rolled_back } = self;
        let attacks = refused + harmless + rolled_back;
        println!(
            "attacks: {attacks}, {what}, refused {refused}, harmless {harmless}, told by the pin {rolled_back}, undetected 0"
        );
        println!("sealings: {}, each (key, nonce) for one plaintext", crypto::recorded_sealings());
    }
}

async fn objects(bucket: &InMemory) -> Vec<Object> {
    let listed: Vec<_> = bucket.list(None).try_collect().await.unwrap();
    let mut objects = Vec::new();
    for meta in listed {
        let got = bucket.get(&meta.location).await.unwrap();
        let attributes = got.attributes.clone();
        let bytes = got.bytes().await.unwrap().to_vec();
        objects.push(Object { path: meta.location, bytes, attributes });
    }
    objects.sort_by(|a, b| a.path.cmp(&b.path));
    objects
}

async fn put(bucket: &InMemory, path: &Path, object: &Object) {
    let options = PutOptions { attributes: object.attributes.clone(), ..PutOptions::default() };
    bucket.put_opts(path, object.bytes.clone().into(), options).await.unwrap();
}

fn write(name: &str, offset: u64, fill: Fill) -> Op {
    Op::Write { target: Target::Path(name.to_owned()), offset, fill }
}

impl Victim {
    /// Packs and inline bytes, tables and logs of the metadata, things that were overwritten and removed.
    async fn new() -> Self {
        let volume = ProofVolume::new(4 * KIB, Compression::default());
        let bucket = InMemory::new();
        let store: Arc<dyn ObjectStore> = Arc::new(bucket.clone());
        volume.format(&store).await;
        let (mut trees, mut older, mut commit) = (Vec::new(), Vec::new(), CommitNumber(0));
        for round in 0..4u64 {
            let mounted = volume.mount(&store, Pace::Calm).await.unwrap();
            if round == 0 {
                trees.push(dump(&mounted.fs).await.unwrap());
            }
            let mut driver = Driver::new(mounted.fs.clone());
            for op in Self::changes(round) {
                driver.run(&op).await.unwrap();
            }
            mounted.fs.flush().await.unwrap();
            trees.push(dump(&mounted.fs).await.unwrap());
            commit = mounted.fs.committed();
            // The last mount is killed: its log is replayed by whoever opens the volume.
            if round < 3 {
                mounted.fs.close().await.unwrap();
            }
            if round == 1 {
                older = objects(&bucket).await;
            }
        }
        let bucket = bucket.fork();
        let objects = objects(&bucket).await;
        Self { volume, bucket, objects, older, trees, commit }
    }

    fn changes(round: u64) -> Vec<Op> {
        let make =
            |path: String, kind| Op::Make { path, kind, permissions: 0o750, caller: ROOT_CALLER };
        let (big, small) = (format!("big{round}"), format!("d{round}/small"));
        let mut ops = vec![
            make(format!("d{round}"), FileKind::Directory),
            make(small.clone(), FileKind::Regular),
            make(big.clone(), FileKind::Regular),
            Op::Symlink { path: format!("link{round}"), target: small.clone() },
            write(&small, 0, Fill { seed: 4 * round + 1, len: 60 }),
            // More than a commit keeps inline, of which compression leaves little.
            write(&big, 0, Fill { seed: 4 * round, len: 70 * KIB as usize }),
            write(&big, 9000, Fill { seed: 4 * round + 3, len: 300 }),
        ];
        if let Some(before) = round.checked_sub(1) {
            ops.push(write(&format!("d{before}/small"), 10, Fill { seed: 4 * round + 2, len: 20 }));
            ops.push(Op::Unlink(format!("link{before}")));
        }
        ops
    }

    async fn open(&self, bucket: InMemory) -> Result<(Mounted, String), String> {
        let store: Arc<dyn ObjectStore> = Arc::new(bucket);
        let mounted = self.volume.mount(&store, Pace::Calm).await?;
        let tree = dump(&mounted.fs).await.map_err(|error| error.to_string())?;
        Ok((mounted, tree))
    }

    /// Opens the volume from `bucket`, and says what is wrong if the attack had its way.
    async fn judge(&self, bucket: InMemory, tally: &mut Tally) -> Result<(), String> {
        let Ok((mounted, tree)) = self.open(bucket).await else {
            tally.refused += 1;
            return Ok(());
        };
        match self.trees.iter().rposition(|known| *known == tree) {
            Some(at) if at + 1 == self.trees.len() => tally.harmless += 1,
            Some(_) if mounted.fs.committed() < self.commit => tally.rolled_back += 1,
            Some(at) => {
                return Err(format!("the state after commit {at} opens as if it were the last"));
            }
            None => return Err(format!("it opens and shows\n{tree}")),
        }
        Ok(())
    }

    /// As [`judge`](Self::judge), after `change`.
    fn attack(&self, what: &str, tally: &mut Tally, change: impl AsyncFnOnce(&InMemory)) {
        let judged = runtime().block_on(async {
            let bucket = self.bucket.fork();
            change(&bucket).await;
            self.judge(bucket, tally).await
        });
        if let Err(problem) = judged {
            panic!("{what}: {problem}");
        }
    }
}

fn flip_bits(shard: usize) {
    let victim = runtime().block_on(Victim::new());
    let every = wanted("LIDFS_FLIP_EVERY", EVERY, 1);
    let (mut tally, mut random) = (Tally::default(), Random::new(shard as u64));
    let bytes: usize = victim.objects.iter().map(|object| object.bytes.len()).sum();
    let mut number = 0;
    for object in &victim.objects {
        for at in 0..object.bytes.len() {
            number += 1;
            // The phase differs from object to object, so that no field is always left out.
            if number % (SHARDS * every) != shard * every {
                continue;
            }
            let mut changed = object.clone();
            changed.bytes[at] ^= 1 << random.below(8);
            let what = format!("a bit of byte {at} of {}", object.path);
            victim.attack(&what, &mut tally, async |bucket| {
                put(bucket, &object.path, &changed).await;
            });
        }
    }
    let count = victim.objects.len();
    // Objects that the engine has done with, and will delete, are nobody's business.
    assert!(tally.refused > 0, "{tally:?}");
    tally.print(&format!("bits flipped in {bytes} bytes of {count} objects, shard {shard}"));
}

#[test]
fn no_flipped_bit_is_taken_for_the_truth_1() {
    flip_bits(0);
}

#[test]
fn no_flipped_bit_is_taken_for_the_truth_2() {
    flip_bits(1);
}

#[test]
fn no_object_is_taken_for_another_or_for_what_it_once_was() {
    let victim = runtime().block_on(Victim::new());
    let mut tally = Tally::default();
    victim.attack("nothing", &mut tally, async |_| {});
    assert_eq!(tally.harmless, 1);
    let (every, mut pair) = (wanted("LIDFS_PAIRS_EVERY", PAIRS_EVERY, 1), 0);
    for object in &victim.objects {
        let path = &object.path;
        for len in [0, 1, object.bytes.len() / 2, object.bytes.len().saturating_sub(1)] {
            let mut cut = object.clone();
            cut.bytes.truncate(len);
            let what = format!("{path} cut to {len} bytes");
            victim.attack(&what, &mut tally, async |bucket| put(bucket, path, &cut).await);
        }
        let mut grown = object.clone();
        grown.bytes.extend_from_slice(&object.bytes[..object.bytes.len().min(100)]);
        victim.attack(&format!("{path} grown"), &mut tally, async |bucket| {
            put(bucket, path, &grown).await;
        });
        let bare = Object { attributes: Attributes::default(), ..object.clone() };
        victim.attack(&format!("{path} without its attributes"), &mut tally, async |bucket| {
            put(bucket, path, &bare).await;
        });
        victim.attack(&format!("{path} deleted"), &mut tally, async |bucket| {
            bucket.delete(path).await.unwrap();
        });
        for other in victim.objects.iter().filter(|other| other.path != *path) {
            pair += 1;
            if pair % every != 0 {
                continue;
            }
            let what = format!("{} put in the place of {path}", other.path);
            victim.attack(&what, &mut tally, async |bucket| put(bucket, path, other).await);
            if other.path > *path {
                let what = format!("{} and {path} swapped", other.path);
                victim.attack(&what, &mut tally, async |bucket| {
                    put(bucket, path, other).await;
                    put(bucket, &other.path, object).await;
                });
            }
        }
    }
    for old in &victim.older {
        let what = format!("{} put back as it was", old.path);
        victim.attack(&what, &mut tally, async |bucket| put(bucket, &old.path, old).await);
    }
    victim.attack("everything put back as it was", &mut tally, async |bucket| {
        for object in &victim.objects {
            bucket.delete(&object.path).await.unwrap();
        }
        for old in &victim.older {
            put(bucket, &old.path, old).await;
        }
    });
    assert!(tally.rolled_back > 0 && tally.refused > 0, "{tally:?}");
    let count = victim.objects.len();
    tally.print(&format!("cut, grown, deleted, swapped, put back: {count} objects"));
}
