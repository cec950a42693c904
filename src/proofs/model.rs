//! Sequences of any operations against the reference, with commits, collections, remounts and crashes in between.
//!
//! They run on the engine in memory, which is quick, and every answer is compared. What failed once is a
//! test of its own below.

use std::cell::Cell;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::dump::dump;
use super::explorer::{COLLECT_ALL, runtime};
use super::ops::{Driver, Fill, Op, SLOTS, Target};
use super::reference::Reference;
use super::wanted;
use crate::base::SystemClock;
use crate::format::FileKind;
use crate::fs::tests::support::{ROOT_CALLER, TestVolume};
use crate::fs::{Allocate, Caller, FileSystem, RenameMode, Seek, XattrMode};
use crate::gc::{Collector, GcParts};

const CASES: usize = 1_000;
const CASES_LONG: usize = 40_000;
/// Sequences are tried by so many tests at once.
const SHARDS: usize = 4;
const EVENTS_MAX: usize = 90;

const DIRECTORIES: &[&str] = &["d", "s", "d/e", "s/e"];
const FILES: &[&str] = &["a", "b", "d/a", "d/b", "s/a", "d/e/a", "s/e/a"];

#[derive(Debug, Clone)]
enum Event {
    Do(Op),
    /// Waits until everything is stored.
    Flush,
    /// Goes on while everything is being stored.
    Commit,
    Collect,
    Remount,
    Crash,
    /// Reads everything.
    Compare,
}

struct Play {
    volume: TestVolume,
    driver: Driver,
    collector: Arc<Collector>,
    reference: Reference,
    /// As it was after each operation since the last one that is surely stored.
    past: Vec<(Reference, String)>,
    tally: Tally,
}

/// Operations that were carried out, and those that were refused as they had to be.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    done: usize,
    refused: usize,
}

async fn mount(volume: &TestVolume) -> (FileSystem, Arc<Collector>) {
    let (fs, meta, reader) = volume.mount_with_parts().await;
    let (packs, store) = (volume.context.clone(), volume.store.clone());
    let parts =
        GcParts { fs: fs.clone(), meta, packs, reader, store, clock: Arc::new(SystemClock) };
    (fs, Arc::new(Collector::new(parts)))
}

impl Play {
    async fn new() -> Self {
        let volume = TestVolume::new().await;
        let (fs, collector) = mount(&volume).await;
        let reference = Reference::new();
        let past = vec![(reference.clone(), reference.dump())];
        let driver = Driver::new(fs);
        Self { volume, driver, collector, reference, past, tally: Tally::default() }
    }

    fn stored(&mut self) {
        self.past.drain(..self.past.len() - 1);
    }

    async fn compare(&self) -> Result<(), String> {
        let found = dump(&self.driver.fs).await.map_err(|error| format!("reading: {error}"))?;
        let expected = self.reference.dump();
        if found == expected { Ok(()) } else { Err(format!("found\n{found}expected\n{expected}")) }
    }

    async fn event(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Do(op) => {
                let got = self.driver.run(op).await;
                self.reference.judge(op, &got)?;
                let count =
                    if got.is_ok() { &mut self.tally.done } else { &mut self.tally.refused };
                *count += 1;
                self.past.push((self.reference.clone(), self.reference.dump()));
            }
            Event::Flush => {
                self.driver.fs.flush().await.map_err(|error| format!("flush: {error}"))?;
                self.stored();
            }
            Event::Commit => {
                let fs = self.driver.fs.clone();
                tokio::spawn(async move { fs.flush().await });
                tokio::task::yield_now().await;
            }
            Event::Collect => {
                let collected = self.collector.collect(COLLECT_ALL).await;
                collected.map_err(|error| format!("gc: {error}"))?;
                self.stored();
            }
            Event::Remount => {
                self.driver.fs.close().await.map_err(|error| format!("close: {error}"))?;
                self.mount().await;
                self.reference.remounted();
                self.compare().await?;
                self.past = vec![(self.reference.clone(), self.reference.dump())];
            }
            Event::Crash => self.crash().await?,
            Event::Compare => self.compare().await?,
        }
        Ok(())
    }

    async fn mount(&mut self) {
        let (fs, collector) = mount(&self.volume).await;
        self.driver = Driver::new(fs);
        self.collector = collector;
    }

    /// The volume is what it was at some moment since it was last stored for sure.
    async fn crash(&mut self) -> Result<(), String> {
        self.mount().await;
        let found =
            dump(&self.driver.fs).await.map_err(|error| format!("after a crash: {error}"))?;
        let Some(kept) = self.past.iter().rposition(|(_, tree)| *tree == found) else {
            return Err(format!("after a crash a tree that never was\n{found}"));
        };
        self.reference = self.past[kept].0.clone();
        self.reference.remounted();
        self.past = vec![(self.reference.clone(), found)];
        Ok(())
    }

    async fn end(mut self) -> Result<Tally, String> {
        self.compare().await?;
        self.event(&Event::Collect).await?;
        self.compare().await?;
        self.volume.assert_clean().await;
        self.event(&Event::Remount).await?;
        self.volume.assert_clean().await;
        Ok(self.tally)
    }
}

fn play(events: &[Event]) -> Result<Tally, String> {
    runtime().block_on(async {
        let mut play = Play::new().await;
        let directories = DIRECTORIES.iter().map(|path| (path, FileKind::Directory, 0o755));
        let files = FILES.iter().step_by(2).map(|path| (path, FileKind::Regular, 0o644));
        let beginning = directories.chain(files).map(|(path, kind, permissions)| {
            Event::Do(make((*path).to_owned(), kind, permissions, ROOT_CALLER))
        });
        for event in beginning.collect::<Vec<_>>().iter().chain(events) {
            play.event(event).await.map_err(|problem| format!("{event:?}: {problem}"))?;
        }
        play.end().await
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        40 => select(vec!["a", "b", "c"]).prop_map(str::to_owned),
        1 => Just("n".repeat(255)),
        1 => Just("n".repeat(256)),
    ]
}

/// Mostly one of a few, so that operations meet what others left.
fn file_path() -> impl Strategy<Value = String> {
    prop_oneof![15 => select(FILES).prop_map(str::to_owned), 1 => path()]
}

fn directory_path() -> impl Strategy<Value = String> {
    prop_oneof![15 => select(DIRECTORIES).prop_map(str::to_owned), 1 => path()]
}

/// Of anything, or of nothing.
fn path() -> impl Strategy<Value = String> {
    let any = prop::collection::vec(name(), 1..4).prop_map(|names| names.join("/"));
    prop_oneof![
        5 => select(FILES).prop_map(str::to_owned),
        4 => select(DIRECTORIES).prop_map(str::to_owned),
        1 => any,
    ]
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![4 => path().prop_map(Target::Path), 1 => (0..SLOTS).prop_map(Target::Slot)]
}

fn file_target() -> impl Strategy<Value = Target> {
    prop_oneof![
        12 => file_path().prop_map(Target::Path),
        2 => (0..SLOTS).prop_map(Target::Slot),
        1 => target(),
    ]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![10 => 0..60_000u64, 4 => (0..16u64).prop_map(|block| block * 4096), 1 => Just(u64::MAX - 5)]
}

fn fill() -> impl Strategy<Value = Fill> {
    let len = prop_oneof![1..300usize, 1..9000usize, Just(4096), Just(0), 60_000..140_000usize];
    (any::<u64>(), len).prop_map(|(seed, len)| Fill { seed, len })
}

fn caller() -> impl Strategy<Value = Caller> {
    prop_oneof![3 => Just(0), 1 => Just(1000)].prop_map(|id| Caller { uid: id, gid: id })
}

fn permissions() -> impl Strategy<Value = u16> {
    select(vec![0o644, 0o755, 0o600, 0o2755, 0o4755, 0o6711, 0o1777, 0o2644])
}

fn make(path: String, kind: FileKind, permissions: u16, caller: Caller) -> Op {
    Op::Make { path, kind, permissions, caller }
}

fn names_op() -> impl Strategy<Value = Op> {
    let kinds =
        select(vec![FileKind::Regular, FileKind::Directory, FileKind::Fifo, FileKind::Socket]);
    let modes = select(vec![
        RenameMode::Replace,
        RenameMode::Replace,
        RenameMode::NoReplace,
        RenameMode::Exchange,
    ]);
    prop_oneof![
        5 => (file_path(), permissions(), caller()).prop_map(|(path, permissions, caller)| make(path, FileKind::Regular, permissions, caller)),
        3 => (directory_path(), permissions(), caller()).prop_map(|(path, permissions, caller)| make(path, FileKind::Directory, permissions, caller)),
        1 => (path(), kinds, permissions(), caller()).prop_map(|(path, kind, permissions, caller)| make(path, kind, permissions, caller)),
        1 => (path(), path()).prop_map(|(path, target)| Op::Symlink { path, target }),
        3 => (file_target(), file_path()).prop_map(|(from, to)| Op::Link { from, to }),
        2 => file_path().prop_map(Op::Unlink),
        1 => directory_path().prop_map(Op::Rmdir),
        4 => (path(), path(), modes).prop_map(|(from, to, mode)| Op::Rename { from, to, mode }),
        3 => (0..SLOTS, file_path()).prop_map(|(slot, path)| Op::Open { slot, path }),
        1 => (0..SLOTS).prop_map(Op::Close),
        1 => path().prop_map(Op::ReadLink),
        1 => (target(), 1..5usize).prop_map(|(target, page)| Op::List { target, page }),
    ]
}

fn content_op() -> impl Strategy<Value = Op> {
    let how = select(vec![
        Allocate::PunchHole,
        Allocate::Zero { keep_size: true },
        Allocate::Zero { keep_size: false },
        Allocate::Reserve { keep_size: false },
        Allocate::Reserve { keep_size: true },
    ]);
    let seek = select(vec![Seek::Data, Seek::Hole]);
    prop_oneof![
        6 => (file_target(), offset(), fill()).prop_map(|(target, offset, fill)| Op::Write { target, offset, fill }),
        2 => (file_target(), offset(), caller()).prop_map(|(target, size, caller)| Op::Truncate { target, size, caller }),
        2 => (file_target(), offset(), 0..20_000u64, how).prop_map(|(target, offset, len, how)| Op::Allocate { target, offset, len, how }),
        3 => (file_target(), offset(), file_target(), offset(), 0..40_000u64).prop_map(
            |(from, from_offset, to, to_offset, len)| Op::Copy { from, from_offset, to, to_offset, len }),
        2 => (file_target(), offset(), 0..80_000u32).prop_map(|(target, offset, len)| Op::Read { target, offset, len }),
        1 => (file_target(), offset(), seek).prop_map(|(target, offset, what)| Op::Seek { target, offset, what }),
    ]
}

fn attributes_op() -> impl Strategy<Value = Op> {
    let name = || {
        let known = vec!["user.a", "user.b", "trusted.t", "security.capability", "other.name"];
        prop_oneof![9 => select(known).prop_map(str::to_owned), 1 => Just(format!("user.{}", "n".repeat(255)))]
    };
    let modes = select(vec![XattrMode::Set, XattrMode::Create, XattrMode::Replace]);
    prop_oneof![
        2 => (target(), permissions()).prop_map(|(target, permissions)| Op::Chmod { target, permissions }),
        1 => (target(), 0..3u32, 0..3u32).prop_map(|(target, uid, gid)| Op::Chown { target, uid, gid }),
        3 => (target(), name(), fill(), modes).prop_map(|(target, name, value, mode)| Op::SetXattr { target, name, value, mode }),
        1 => (target(), name()).prop_map(|(target, name)| Op::RemoveXattr { target, name }),
        1 => (target(), name()).prop_map(|(target, name)| Op::GetXattr { target, name }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        40 => names_op().prop_map(Event::Do),
        40 => content_op().prop_map(Event::Do),
        15 => attributes_op().prop_map(Event::Do),
        4 => Just(Event::Flush),
        4 => Just(Event::Commit),
        1 => Just(Event::Collect),
        1 => Just(Event::Remount),
        2 => Just(Event::Crash),
        1 => Just(Event::Compare),
    ]
}

/// Tries a share of the sequences; `LIDFS_MODEL_SEED` gives others.
fn explore(shard: usize) {
    let cases = wanted("LIDFS_MODEL_CASES", CASES, CASES_LONG).div_ceil(SHARDS);
    let first = wanted("LIDFS_MODEL_SEED", 1, 1);
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&(first * SHARDS + shard).to_le_bytes());
    let config = Config {
        cases: cases as u32,
        // That a seeded bug is found is enough.
        max_shrink_iters: if std::env::var_os("LIDFS_SABOTAGE").is_some() { 0 } else { 400 },
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let sequences = prop::collection::vec(event(), 1..EVENTS_MAX);
    let (done, refused) = (Cell::new(0), Cell::new(0));
    let result = runner.run(&sequences, |events| {
        let tally = play(&events).map_err(TestCaseError::fail)?;
        done.set(done.get() + tally.done);
        refused.set(refused.get() + tally.refused);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("LIDFS_MODEL_SEED={first}: {failure}"));
    let (done, refused) = (done.get(), refused.get());
    println!(
        "sequences: {cases}, seed {first}, shard {shard}, operations {done} and {refused} refused, wrong 0"
    );
}

#[test]
fn any_sequence_of_operations_does_as_the_reference_1() {
    explore(0);
}

#[test]
fn any_sequence_of_operations_does_as_the_reference_2() {
    explore(1);
}

#[test]
fn any_sequence_of_operations_does_as_the_reference_3() {
    explore(2);
}

#[test]
fn any_sequence_of_operations_does_as_the_reference_4() {
    explore(3);
}
