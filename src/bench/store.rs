//! A store, measured.
//!
//! ```text
//! small: PUT x n, GET x n, HEAD x n       one after another
//! for 1, 2, 4, ... workers:  HEAD         connections are open before the clock runs
//!                            PUT, GET     each worker one object after another
//!                            DELETE
//! ```
//!
//! Objects lie in the bucket's own storage class, not in that of packs: cheaper classes bill a deleted
//! object for a month and longer.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;

use super::error::Place;
use super::noise::Noise;
use super::{
    BenchError, CONCURRENCY, Latency, Progress, Stop, StoreLatency, StorePlan, StoreSpeed,
    StoreThroughput, Throughput,
};
use crate::store::object_store::path::Path;
use crate::store::object_store::{Error, ObjectStore, ObjectStoreExt, Result};
use crate::store::{StoreFault, StoreUrl, classify};

/// What one worker does with one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Put,
    Get,
    Head,
}

impl Task {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "PUT",
            Self::Get => "GET",
            Self::Head => "HEAD",
        }
    }
}

/// A failure, and in which step.
type Failed = (&'static str, Error);

/// Measures `store`, which is rooted at the volume at `url`. What it writes it removes, also when it
/// fails or is told to `stop`.
///
/// # Errors
/// [`BenchError::Store`], [`BenchError::NotRemoved`], [`BenchError::Interrupted`].
pub async fn measure_store(
    store: Arc<dyn ObjectStore>,
    url: &StoreUrl,
    plan: &StorePlan,
    stop: &Stop,
    progress: &Progress<'_>,
) -> Result<StoreSpeed, BenchError> {
    let trial = Arc::new(Trial {
        store,
        plan: plan.clone(),
        stop: stop.clone(),
        small: Noise::new(as_len(plan.small_bytes)),
        large: Noise::new(as_len(plan.object_bytes)),
        written: Mutex::default(),
    });
    let measured = trial.run(progress).await;
    progress("removing");
    let removed = trial.remove().await;
    let place = Box::new(Place { url: url.clone(), prefix: plan.prefix.clone() });
    match (measured, removed) {
        (Err((step, source)), removed) => {
            let (source, is_removed) = (Box::new(source), removed.is_ok());
            Err(BenchError::Store { place, step, source, is_removed })
        }
        (Ok(_), Err(source)) => Err(BenchError::NotRemoved { place, source: Box::new(source) }),
        (Ok(_), Ok(())) if stop.is_set() => Err(BenchError::Interrupted),
        (Ok((latency, throughput)), Ok(())) => Ok(StoreSpeed {
            url: url.to_string(),
            small_bytes: plan.small_bytes,
            object_bytes: plan.object_bytes,
            latency,
            throughput,
        }),
    }
}

struct Trial {
    store: Arc<dyn ObjectStore>,
    plan: StorePlan,
    stop: Stop,
    small: Noise,
    large: Noise,
    /// What is in the store, or may be.
    written: Mutex<BTreeSet<Path>>,
}

impl Trial {
    async fn run(
        self: &Arc<Self>,
        progress: &Progress<'_>,
    ) -> Result<(StoreLatency, StoreThroughput), Failed> {
        progress("small requests");
        let small = Arc::new(Pile::new("small", self.plan.samples, &self.plan.prefix));
        // The first request of all opens the connection.
        self.one(Task::Put, &small.paths[0], self.small.piece(0)).await.map_err(in_step("PUT"))?;
        let latency = StoreLatency {
            put: self.latency(Task::Put, &small).await?,
            get: self.latency(Task::Get, &small).await?,
            head: self.latency(Task::Head, &small).await?,
        };
        let mut throughput = StoreThroughput::default();
        for workers in CONCURRENCY {
            if self.stop.is_set() {
                break;
            }
            self.open_connections(workers, &small.paths[0]).await.map_err(in_step("HEAD"))?;
            let objects = workers * as_len(self.plan.objects_each);
            let pile = Arc::new(Pile::new(&format!("{workers}x"), objects, &self.plan.prefix));
            for (task, results) in
                [(Task::Put, &mut throughput.put), (Task::Get, &mut throughput.get)]
            {
                progress(&format!("{} of {workers} at once", task.name()));
                let result = self.throughput(task, workers, &pile).await;
                results.push(result.map_err(in_step(task.name()))?);
            }
            self.remove_of(&pile.prefix).await.map_err(in_step("DELETE"))?;
        }
        Ok((latency, throughput))
    }

    async fn latency(&self, task: Task, pile: &Pile) -> Result<Latency, Failed> {
        let (turns, began) = (pile.turns(task), Instant::now());
        let mut times = Vec::with_capacity(pile.paths.len());
        while let Some(number) = self.next(&turns, began) {
            let begun = Instant::now();
            let done = self.one(task, &pile.paths[number], self.small.piece(number)).await;
            done.map_err(in_step(task.name()))?;
            times.push(begun.elapsed());
            pile.note(task);
        }
        Ok(Latency::of(times))
    }

    /// Connections are opened by requests at the same time.
    async fn open_connections(self: &Arc<Self>, workers: usize, path: &Path) -> Result<()> {
        let mut asking = JoinSet::new();
        for _ in 0..workers {
            let (trial, path) = (Arc::clone(self), path.clone());
            asking.spawn(async move { trial.store.head(&path).await.map(drop) });
        }
        all_of(asking).await.map(drop)
    }

    async fn throughput(
        self: &Arc<Self>,
        task: Task,
        workers: usize,
        pile: &Arc<Pile>,
    ) -> Result<Throughput> {
        let mut working = JoinSet::new();
        let (turns, began) = (Arc::new(pile.turns(task)), Instant::now());
        for _ in 0..workers {
            let (trial, pile, turns) = (Arc::clone(self), Arc::clone(pile), Arc::clone(&turns));
            working.spawn(async move {
                let mut bytes = 0;
                while let Some(number) = trial.next(&turns, began) {
                    let piece = trial.large.piece(number);
                    let done = trial.one(task, &pile.paths[number], piece).await;
                    // Others need not go on.
                    bytes += done.inspect_err(|_| turns.end())?;
                    pile.note(task);
                }
                Ok(bytes)
            });
        }
        let bytes = all_of(working).await?;
        Ok(Throughput::new(workers, bytes.iter().sum(), began.elapsed()))
    }

    /// The next object's number, unless it is time to end.
    fn next(&self, turns: &Turns, began: Instant) -> Option<usize> {
        let is_over = self.stop.is_set() || began.elapsed() >= self.plan.step_time_max;
        if is_over { None } else { turns.take() }
    }

    /// The bytes that passed.
    async fn one(&self, task: Task, path: &Path, piece: Bytes) -> Result<u64> {
        match task {
            Task::Put => {
                // Whatever comes back: it may have landed.
                self.written().insert(path.clone());
                let len = piece.len() as u64;
                self.store.put(path, piece.into()).await.map(|_| len)
            }
            Task::Get => {
                let body = self.store.get(path).await?.into_stream();
                body.try_fold(0, async |sum, part| Ok(sum + part.len() as u64)).await
            }
            Task::Head => self.store.head(path).await.map(|_| 0),
        }
    }

    fn written(&self) -> MutexGuard<'_, BTreeSet<Path>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn remove(&self) -> Result<()> {
        self.remove_of(&self.plan.prefix).await
    }

    /// Tries all of which the name begins so; the first failure is the answer.
    async fn remove_of(&self, prefix: &str) -> Result<()> {
        let is_due = |path: &Path| path.as_ref().starts_with(prefix);
        let due: Vec<_> = self.written().iter().filter(|path| is_due(path)).cloned().collect();
        let ends = self.store.delete_stream(stream::iter(due).map(Ok).boxed());
        let ends: Vec<_> = ends.collect().await;
        let failed = ends
            .into_iter()
            .filter_map(Result::err)
            .find(|error| classify(error) != StoreFault::NotFound);
        if let Some(error) = failed {
            return Err(error);
        }
        self.written().retain(|path| !is_due(path));
        Ok(())
    }
}

/// Objects of one step.
struct Pile {
    prefix: String,
    paths: Vec<Path>,
    /// How many of them, from the first on, have certainly been written.
    present: AtomicUsize,
}

impl Pile {
    fn new(step: &str, count: usize, prefix: &str) -> Self {
        let prefix = format!("{prefix}-{step}-");
        let paths = (0..count).map(|number| Path::from(format!("{prefix}{number}"))).collect();
        Self { prefix, paths, present: AtomicUsize::new(0) }
    }

    /// Each object once: those that can be written, or those that are there.
    fn turns(&self, task: Task) -> Turns {
        let count = match task {
            Task::Put => self.paths.len(),
            Task::Get | Task::Head => self.present.load(Ordering::Relaxed),
        };
        Turns { next: AtomicUsize::new(0), count }
    }

    /// Numbers are taken in order, and each that was taken is finished: so their count tells which are there.
    fn note(&self, task: Task) {
        if task == Task::Put {
            self.present.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whose turn it is.
struct Turns {
    next: AtomicUsize,
    count: usize,
}

impl Turns {
    fn take(&self) -> Option<usize> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.count).then_some(number)
    }

    fn end(&self) {
        self.next.fetch_max(self.count, Ordering::Relaxed);
    }
}

fn in_step(step: &'static str) -> impl Fn(Error) -> Failed {
    move |error| (step, error)
}

/// Waits for all of them; the first failure is the answer.
async fn all_of<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut ends = Vec::new();
    while let Some(end) = tasks.join_next().await {
        let end = end.map_err(|error| Error::Generic { store: "bench", source: error.into() });
        ends.push(end.and_then(|end| end));
    }
    ends.into_iter().collect()
}

fn as_len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::FaultyStore;
    use crate::store::faulty::{Fault, Op, Rule};
    use crate::store::object_store::memory::InMemory;

    /// No step takes so long.
    const FOREVER: Duration = Duration::from_hours(1);
    const OTHER: &str = "packs/00/other";

    fn url() -> StoreUrl {
        "s3://bucket/volume".parse().unwrap()
    }

    fn plan() -> StorePlan {
        let plan = StorePlan::new(1 << 20, Some(4096), 1 << 20).unwrap();
        StorePlan { samples: 5, step_time_max: FOREVER, ..plan }
    }

    async fn names(store: &dyn ObjectStore) -> Vec<String> {
        let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
        listed.into_iter().map(|object| object.location.to_string()).collect()
    }

    /// A store with an object of somebody else, which must stay as it is.
    async fn store() -> (Arc<FaultyStore<InMemory>>, crate::store::faulty::Faults) {
        let store = FaultyStore::new(InMemory::new());
        let faults = store.faults();
        store.put(&Path::from(OTHER), Bytes::from_static(b"theirs").into()).await.unwrap();
        (Arc::new(store), faults)
    }

    async fn measure(
        store: &Arc<FaultyStore<InMemory>>,
        plan: &StorePlan,
        stop: &Stop,
        progress: &Progress<'_>,
    ) -> Result<StoreSpeed, BenchError> {
        let store: Arc<dyn ObjectStore> = Arc::clone(store) as _;
        measure_store(store, &url(), plan, stop, progress).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_planned_is_measured_and_nothing_stays() {
        let ((store, _), plan) = (store().await, plan());
        let speed = measure(&store, &plan, &Stop::default(), &|_| ()).await.unwrap();
        let StoreLatency { put, get, head } = speed.latency;
        assert_eq!([put.samples, get.samples, head.samples], [5; 3]);
        for steps in [&speed.throughput.put, &speed.throughput.get] {
            let moved: Vec<_> = steps.iter().map(|step| (step.concurrency, step.bytes)).collect();
            let each = plan.objects_each * plan.object_bytes;
            assert_eq!(moved, CONCURRENCY.map(|workers| (workers, workers as u64 * each)));
        }
        assert_eq!(speed.url, "s3://bucket/volume");
        assert_eq!(names(&*store).await, [OTHER]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_step_ends_when_its_time_is_over() {
        let (store, _) = store().await;
        let plan = StorePlan { step_time_max: Duration::ZERO, ..plan() };
        let speed = measure(&store, &plan, &Stop::default(), &|_| ()).await.unwrap();
        assert_eq!(speed.latency.put, Latency::default());
        assert_eq!(speed.throughput.get.iter().map(|step| step.bytes).sum::<u64>(), 0);
        assert_eq!(names(&*store).await, [OTHER]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_fails_midway_is_told_with_the_step_and_left_clean() {
        for (op, after, step) in
            [(Op::Put, 0, "PUT"), (Op::Put, 30, "PUT"), (Op::Get, 20, "GET"), (Op::Head, 7, "HEAD")]
        {
            let ((store, faults), plan) = (store().await, plan());
            // The write has landed, though its answer says otherwise.
            faults.add(
                Rule::always(Fault::LoseAnswer(StoreFault::Denied)).on(op).after(after).times(1),
            );
            let error = measure(&store, &plan, &Stop::default(), &|_| ()).await.unwrap_err();
            let said = error.to_string();
            assert!(said.starts_with(&format!("the store failed at {step}: ")), "{said}");
            assert!(!said.contains("may be left"), "{said}");
            assert_eq!(error.fault(), Some(StoreFault::Denied));
            assert_eq!(names(&*store).await, [OTHER], "{step} after {after}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_could_not_be_removed_is_told_by_its_name() {
        let ((store, faults), plan) = (store().await, plan());
        faults.add(Rule::always(Fault::Fail(StoreFault::Denied)).on(Op::Delete));
        let error = measure(&store, &plan, &Stop::default(), &|_| ()).await.unwrap_err();
        let said = error.to_string();
        let prefix = &plan.prefix;
        let left =
            format!("; objects whose names begin with s3://bucket/volume/{prefix} may be left");
        assert!(said.contains("at DELETE: ") && said.contains(&left), "{said}");
        let is_told = |name: &String| name == OTHER || name.starts_with(&plan.prefix);
        let left = names(&*store).await;
        assert!(left.len() > 1 && left.iter().all(is_told), "{left:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_outage_midway_says_what_may_be_left() {
        let ((store, faults), plan) = (store().await, plan());
        let strike = move |step: &str| {
            if step.starts_with("GET of 4") {
                faults.outage(true);
            }
        };
        let error = measure(&store, &plan, &Stop::default(), &strike).await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains("at GET: ") && said.contains(&plan.prefix), "{said}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_interruption_in_any_step_leaves_nothing() {
        for when in ["small", "PUT of 1 ", "GET of 2 ", "PUT of 32", "removing"] {
            let ((store, _), plan, stop) = (store().await, plan(), Stop::default());
            let handle = stop.clone();
            let strike = move |step: &str| {
                if step.starts_with(when) {
                    handle.set();
                }
            };
            let error = measure(&store, &plan, &stop, &strike).await.unwrap_err();
            assert!(matches!(error, BenchError::Interrupted), "{when}: {error}");
            assert_eq!(error.to_string(), "interrupted; what was written has been removed");
            assert_eq!(names(&*store).await, [OTHER], "{when}");
        }
    }
}
