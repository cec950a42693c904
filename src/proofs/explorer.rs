//! Runs a workload, and opens the volume anew after every crash that could have come.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt as _;
use tokio::runtime::{Builder, Runtime};

use super::bucket::{Bucket, Event, Log, Recorder};
use super::dump::dump;
use super::ops::{Driver, Op};
use super::reference::Reference;
use super::states::{Moment, State, states};
use super::volume::{Mounted, Pace, ProofVolume};
use crate::base::PackNumber;
use crate::fs::FsError;
use crate::gc::{GcFigures, GcPolicy};
use crate::store::object_store::ObjectStore;
use crate::store::object_store::path::Path;

/// Collects everything, however lately it was freed.
pub(super) const COLLECT_ALL: GcPolicy = GcPolicy { keep: Duration::ZERO, compact_below: 80 };

/// What a workload does next.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Do(Op),
    /// Waits until everything is stored.
    Fsync,
    /// Goes on while everything is being stored.
    FsyncSoon,
    /// Lets time pass, in milliseconds.
    Wait(u64),
    /// Collects garbage meanwhile.
    Collect,
    /// Unmounts and mounts.
    Remount,
    /// Another machine mounts, while this one still writes.
    Takeover,
}

/// What a workload left: the requests, and the tree after each operation.
pub(super) struct Story {
    pub volume: ProofVolume,
    pub log: Log,
    pub trees: Vec<String>,
}

/// On one thread and a clock that runs ahead when nobody works: quick, and nearly the same each time.
pub(super) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Which machine writes, and how much of what the one before it did the volume has.
#[derive(Debug, Default)]
struct Succession {
    writer: usize,
    acknowledged: usize,
    kept: usize,
    broken: Option<String>,
}

struct Run {
    volume: ProofVolume,
    recorder: Arc<Recorder>,
    store: Arc<dyn ObjectStore>,
    mounted: Mounted,
    driver: Driver,
    reference: Reference,
    /// As it was after each operation.
    past: Vec<Reference>,
    trees: Vec<String>,
    succession: Arc<Mutex<Succession>>,
    /// Those that were taken over, still at work.
    zombies: Vec<Driver>,
}

/// Runs `steps`.
pub(super) fn tell(volume: ProofVolume, seed: u64, steps: &[Step]) -> Story {
    runtime().block_on(async {
        let recorder = Recorder::new(seed);
        let store: Arc<dyn ObjectStore> = Arc::new(Bucket(recorder.clone()));
        volume.format(&store).await;
        let mounted = volume.mount(&store, Pace::Busy).await.unwrap();
        recorder.note(Event::Ready);
        let driver = Driver::new(mounted.fs.clone());
        let reference = Reference::new();
        let trees = vec![reference.dump()];
        let past = vec![reference.clone()];
        let (succession, zombies) = (Arc::default(), Vec::new());
        let mut run = Run {
            volume,
            recorder,
            store,
            mounted,
            driver,
            reference,
            past,
            trees,
            succession,
            zombies,
        };
        for step in steps {
            run.step(step).await;
        }
        run.end().await
    })
}

impl Run {
    fn last(&self) -> usize {
        self.trees.len() - 1
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Do(op) => self.operate(op).await,
            Step::Fsync => {
                let last = self.last();
                self.mounted.fs.flush().await.unwrap();
                self.acknowledge(last);
            }
            Step::FsyncSoon => self.fsync_soon(),
            Step::Wait(ms) => tokio::time::sleep(Duration::from_millis(*ms)).await,
            Step::Collect => {
                let collector = self.mounted.collector.clone();
                tokio::spawn(async move { drop(collector.collect(COLLECT_ALL).await) });
            }
            Step::Remount => {
                self.mounted.fs.close().await.unwrap();
                self.acknowledge(self.last());
                self.mount().await;
                let found = dump(&self.mounted.fs).await.unwrap();
                assert_eq!(found, self.trees[self.last()]);
                self.reference.remounted();
            }
            Step::Takeover => self.take_over().await,
        }
    }

    fn acknowledge(&self, operation: usize) {
        self.recorder.note(Event::Acknowledged(operation));
        let mut succession = self.succession.lock().unwrap();
        succession.acknowledged = succession.acknowledged.max(operation);
    }

    async fn operate(&mut self, op: &Op) {
        self.recorder.note(Event::Began(self.trees.len()));
        let got = self.driver.run(op).await;
        self.reference.judge(op, &got).unwrap();
        self.trees.push(self.reference.dump());
        self.past.push(self.reference.clone());
    }

    fn fsync_soon(&self) {
        let (fs, last, recorder) = (self.mounted.fs.clone(), self.last(), self.recorder.clone());
        let succession = self.succession.clone();
        let writer = succession.lock().unwrap().writer;
        tokio::spawn(async move {
            if fs.flush().await.is_err() {
                return;
            }
            let mut succession = succession.lock().unwrap();
            if succession.writer == writer {
                recorder.note(Event::Acknowledged(last));
                succession.acknowledged = succession.acknowledged.max(last);
            } else if succession.writer > writer + 1 || last > succession.kept {
                let kept = succession.kept;
                succession.broken = Some(format!(
                    "a writer that was taken over acknowledged {last}, of which {kept} are there"
                ));
            }
        });
    }

    async fn mount(&mut self) {
        self.mounted = self.volume.mount(&self.store, Pace::Busy).await.unwrap();
        let older = std::mem::replace(&mut self.driver, Driver::new(self.mounted.fs.clone()));
        self.zombies.push(older);
    }

    /// The volume is what it was at some moment between the last acknowledgement and now; from there it goes on.
    async fn take_over(&mut self) {
        self.mount().await;
        let found = dump(&self.mounted.fs).await.unwrap();
        let kept = self.trees.iter().rposition(|tree| *tree == found);
        let kept = kept.expect("what another machine finds is what was there at some moment");
        {
            let mut succession = self.succession.lock().unwrap();
            assert!(
                kept >= succession.acknowledged,
                "another machine finds less than was acknowledged"
            );
            succession.writer += 1;
            succession.kept = kept;
        }
        self.reference = self.past[kept].clone();
        self.reference.remounted();
        // An operation of its own, which the new machine found stored.
        self.recorder.note(Event::Began(self.trees.len()));
        self.acknowledge(self.trees.len());
        self.trees.push(found);
        self.past.push(self.reference.clone());
    }

    async fn end(self) -> Story {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let found = dump(&self.mounted.fs).await.unwrap();
        assert_eq!(found, self.trees[self.last()], "the mounted volume differs from the reference");
        let broken = self.succession.lock().unwrap().broken.take();
        assert_eq!(broken, None);
        Story { volume: self.volume, log: self.recorder.take(), trees: self.trees }
    }
}

impl Story {
    /// Opens the volume as each crash leaves it; gives back how many there were.
    pub fn check(&self, name: &str, seed: u64, only: Option<&str>) -> usize {
        let mut states = states(&self.log, seed);
        if let Some(only) = only {
            states.retain(|state| state.name == only);
        }
        for (index, state) in states.iter().enumerate() {
            if let Err(problem) = runtime().block_on(self.check_state(state, index)) {
                panic!("LIDFS_CRASH={name}:{seed}:{} fails: {problem}", state.name);
            }
        }
        states.len()
    }

    async fn check_state(&self, state: &State, index: usize) -> Result<(), String> {
        let store: Arc<dyn ObjectStore> = Arc::new(state.bucket.fork());
        let engine = self.volume.engine(&store, Pace::Calm).await?;
        self.volume.check_records(&engine).await?;
        let mounted = self.volume.mount_on(&store, engine).await?;
        let found = dump(&mounted.fs).await.map_err(|error| format!("reading: {error}"))?;
        for Moment { acknowledged, began } in state.moments {
            if !self.trees[acknowledged..=began].contains(&found) {
                return Err(self.difference(acknowledged, began, &found));
            }
        }
        // It may not change what is found, and the records must fit together again.
        if self.check_space(&mounted, &store).await? || index.is_multiple_of(8) {
            self.volume.check_records(&mounted.meta).await?;
            let after =
                dump(&mounted.fs).await.map_err(|error| format!("reading again: {error}"))?;
            if after != found {
                return Err(format!("collecting garbage changed\n{found}into\n{after}"));
            }
        }
        Ok(())
    }

    fn difference(&self, acknowledged: usize, began: usize, found: &str) -> String {
        let at = self.trees.iter().position(|tree| tree == found);
        let range = format!("operations {acknowledged} to {began}");
        match at {
            Some(at) => format!("found the tree after operation {at}, wanted one of {range}"),
            None => format!(
                "found a tree that never was, wanted one of {range}\n--- after {acknowledged}\n{}--- found\n{found}",
                self.trees[acknowledged]
            ),
        }
    }

    /// Once everything is collected, the packs in the bucket are those that records tell of.
    /// Gives whether there was anything to collect.
    async fn check_space(
        &self,
        mounted: &Mounted,
        store: &Arc<dyn ObjectStore>,
    ) -> Result<bool, String> {
        let (mut difference, mut is_changed) = (String::new(), false);
        // The last commit of a collection may have freed a pack more.
        for _ in 0..2 {
            let collected = mounted.collector.collect(COLLECT_ALL).await;
            let figures = collected.map_err(|error| format!("gc: {error}"))?;
            is_changed |= figures != GcFigures::default();
            let list = store.list(Some(&Path::from("packs")));
            let objects = list.map_ok(|object| object.location).try_collect().await;
            let objects: BTreeSet<Path> = objects.map_err(|error| format!("listing: {error}"))?;
            let recorded =
                self.recorded(mounted).await.map_err(|error| format!("packs: {error}"))?;
            if objects == recorded {
                return Ok(is_changed);
            }
            let leaked = objects.difference(&recorded).count();
            let missing = recorded.difference(&objects).count();
            difference = format!(
                "{leaked} packs leaked, {missing} are missing: {:?} {figures:?}",
                mounted.fs.status().space
            );
        }
        Err(difference)
    }

    /// Packs that have a record.
    async fn recorded(&self, mounted: &Mounted) -> Result<BTreeSet<Path>, FsError> {
        let (mut recorded, mut from) = (BTreeSet::new(), PackNumber(0));
        loop {
            let packs = mounted.fs.packs(from).await?;
            let Some((last, _)) = packs.last() else { return Ok(recorded) };
            from = PackNumber(last.0 + 1);
            recorded.extend(packs.iter().map(|(pack, _)| self.volume.packs.path(*pack)));
        }
    }
}
