//! What an opening engine will read, read before it asks.
//!
//! By itself the engine opens with one request after the other, and its first reads go table by table, block
//! by block. Much of it is known as soon as the newest manifest is:
//!
//! ```text
//!   look   LIST manifests | boundaries      then GET the newest manifest
//!          HEAD the log | GET small tables  in the background, while others still take the lease
//!   open   the same reads, from memory; then the fence, which is a write
//!          small tables go to the block cache, from memory
//! ```
//!
//! Why old answers do no harm: they count only until the first write of this engine, and it writes first a
//! manifest under the next number, on the condition that there is none, then its fence into the log
//! likewise. Both fail where somebody else was there in between, and the engine looks anew, as it does when
//! that happens between its own reads and its write. What it reads after a write (that it still owns the
//! newest manifest, that no boundary has passed it) is always asked of the store. Tables never change under
//! their name. A fence that this store has just created need not be read back to know that it is empty.
//! And they count for [`AGE_MAX`], on a machine that slept meanwhile, too: an hour later the name after the
//! end of the log may be free because garbage collection was there.
//!
//! On a store that ignores conditions it is this that keeps them ([`Ahead::look_before_creating`]).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{self, BoxFuture, FutureExt, Shared};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use slatedb::VersionedManifest;
use slatedb::manifest::SsTableView;
use slatedb::object_store::path::Path;
use slatedb::object_store::{
    Attributes, CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload,
    ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use super::PATH;
use crate::base::since_boot;

/// What was answered before that is asked again.
const AGE_MAX: Duration = Duration::from_secs(30);
/// Larger tables are read as they are needed.
const TABLE_BYTES_MAX: u64 = 2 << 20;
/// Of all tables together; the newest go first.
pub(super) const TABLES_BYTES_MAX: u64 = 8 << 20;
/// As many at a time as the engine's own requests.
const TABLES_MAX: usize = 32;
/// Places after the end of the log that the engine looks at to find it: powers of two.
const LOG_PLACES: u32 = 8;

/// A store that has answers ready while an engine opens.
#[derive(Clone)]
pub(super) struct Ahead {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
    /// Held by who creates an object, where the store would overwrite it.
    creating: Arc<OnceLock<tokio::sync::Mutex<Unsure>>>,
}

/// Names under which something was written without an answer. It may have arrived.
type Unsure = HashSet<Path>;

struct State {
    phase: Phase,
    /// When the first question was asked, in time since the machine was started.
    since: Duration,
    tables: HashMap<Path, Fetch>,
}

enum Phase {
    /// Nothing was written yet.
    Looking(Answers),
    /// The fence, once it is there.
    Fencing(Option<ObjectMeta>),
    Open,
}

/// What was asked and answered; `None` where nothing was there.
#[derive(Default)]
struct Answers {
    objects: HashMap<Path, Option<Whole>>,
    heads: HashMap<Path, Option<ObjectMeta>>,
    /// Each is given once: who asks again has found that it does not fit the rest.
    lists: HashMap<Option<Path>, Vec<ObjectMeta>>,
}

/// An object in memory.
#[derive(Clone)]
struct Whole {
    meta: ObjectMeta,
    attributes: Attributes,
    bytes: Bytes,
}

/// `None` if it could not be read: then whoever needs it asks himself.
type Fetch = Shared<BoxFuture<'static, Option<Whole>>>;

impl Whole {
    async fn of(result: GetResult) -> Result<Self> {
        let (meta, attributes) = (result.meta.clone(), result.attributes.clone());
        Ok(Self { meta, attributes, bytes: result.bytes().await? })
    }

    fn result(self, range: Range<u64>) -> Option<GetResult> {
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        let bytes = self.bytes.get(start..end).map(|part| self.bytes.slice_ref(part))?;
        Some(GetResult {
            payload: GetResultPayload::Stream(stream::once(future::ready(Ok(bytes))).boxed()),
            meta: self.meta,
            range,
            attributes: self.attributes,
            extensions: Extensions::new(),
        })
    }

    fn ranged(self, options: &GetOptions) -> Option<GetResult> {
        let len = self.bytes.len() as u64;
        let range = match &options.range {
            Some(range) => range.as_range(len).ok()?,
            None => 0..len,
        };
        self.result(range)
    }
}

impl Ahead {
    pub(super) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        let phase = Phase::Looking(Answers::default());
        let state = State { phase, since: since_boot(), tables: HashMap::new() };
        Self { inner, state: Arc::new(Mutex::new(state)), creating: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(state.phase, Phase::Looking(_)) {
            let now = since_boot();
            if now.saturating_sub(state.since) > AGE_MAX {
                (state.phase, state.since) = (Phase::Looking(Answers::default()), now);
            }
        }
        state
    }

    /// From now on an object is created only where none is, although the store does not see to that: by one
    /// after the other, who each look first. Whatever writes in this process does so through here; that no
    /// other does is what the config says of such a store.
    pub(super) fn look_before_creating(&self) {
        self.creating.get_or_init(tokio::sync::Mutex::default);
    }

    async fn create(
        &self,
        turn: &tokio::sync::Mutex<Unsure>,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let mut unsure = turn.lock().await;
        match self.inner.get(location).await {
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
            Ok(there) => {
                let (e_tag, version) = (there.meta.e_tag.clone(), there.meta.version.clone());
                let is_ours = unsure.contains(location)
                    && there.bytes().await? == Bytes::from(payload.clone());
                if is_ours {
                    unsure.remove(location);
                    return Ok(PutResult { e_tag, version, extensions: Extensions::new() });
                }
                let source = "it is there already".into();
                return Err(Error::AlreadyExists { path: location.to_string(), source });
            }
        }
        // Before, as whoever waits for it may give up.
        unsure.insert(location.clone());
        let opts = PutOptions { mode: PutMode::Overwrite, ..opts };
        let put = self.inner.put_opts(location, payload, opts).await?;
        unsure.remove(location);
        Ok(put)
    }

    /// How many manifests were listed that are at least this old.
    pub(super) fn manifests_older(&self, than: Duration) -> usize {
        let directory = Some(Path::from(format!("{PATH}/manifest")));
        match &self.state().phase {
            Phase::Looking(answers) => {
                let listed = answers.lists.get(&directory).into_iter().flatten();
                let age = |found: &&ObjectMeta| (chrono::Utc::now() - found.last_modified).to_std();
                listed.filter(|found| age(found).is_ok_and(|age| age > than)).count()
            }
            _ => 0,
        }
    }

    /// Asks for what forbids numbers of manifests and compactions: the engine does so after each of them.
    pub(super) async fn read_boundaries(&self) {
        let read = |name: &str| {
            let path = boundaries().join(format!("{name}.boundary"));
            // What fails here is asked again by who needs it.
            async move { drop(self.get(&path).await) }
        };
        future::join(read("manifest"), read("compactions")).await;
    }

    /// Looks for the end of the log of `manifest`, where the engine will.
    pub(super) async fn find_log(&self, manifest: &VersionedManifest) {
        let last = manifest.replay_after_wal_id();
        let places = (0..LOG_PLACES).filter_map(|power| last.checked_add(1 << power));
        future::join_all(places.map(|place| {
            let path = Path::from(format!("{PATH}/wal/{place:020}.sst"));
            async move { drop(self.head(&path).await) }
        }))
        .await;
    }

    /// Fetches small tables of `manifest` as soon as the returned future is driven; of no more than
    /// `bytes_max` together.
    pub(super) fn fetch_tables(
        &self,
        manifest: &VersionedManifest,
        bytes_max: u64,
    ) -> impl Future<Output = ()> + Send + use<> {
        let mut left = bytes_max;
        let small = manifest.all_sst_views().filter(|view| {
            let bytes = view.estimate_size();
            let fits = bytes <= TABLE_BYTES_MAX.min(left);
            left -= if fits { bytes } else { 0 };
            fits
        });
        let mut state = self.state();
        for view in small.take(TABLES_MAX) {
            let path = table_path(view);
            let (inner, at) = (Arc::clone(&self.inner), path.clone());
            let fetch = async move { Whole::of(inner.get(&at).await.ok()?).await.ok() };
            state.tables.insert(path, fetch.boxed().shared());
        }
        let fetches: Vec<_> = state.tables.values().cloned().collect();
        async move { drop(future::join_all(fetches).await) }
    }

    /// Whether this table is in memory; waits for one that is on its way.
    pub(super) async fn has_table(&self, view: &SsTableView) -> bool {
        let fetch = self.state().tables.get(&table_path(view)).cloned();
        match fetch {
            Some(fetch) => fetch.await.is_some(),
            None => false,
        }
    }

    /// The engine is open: whatever it asks from now on is asked of the store, but for tables.
    pub(super) fn opened(&self) {
        self.state().phase = Phase::Open;
    }

    /// Keeps tables no longer: those that are needed are in the block cache.
    pub(super) fn forget_tables(&self) {
        self.state().tables.clear();
    }

    /// No answer from before counts from here on.
    fn begin_write(&self) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Looking(_)) {
            state.phase = Phase::Fencing(None);
        }
    }

    fn record(&self, note: impl FnOnce(&mut Answers)) {
        if let Phase::Looking(answers) = &mut self.state().phase {
            note(answers);
        }
    }

    /// The answer, where it is known.
    fn known(&self, location: &Path, options: &GetOptions) -> Option<Result<GetResult>> {
        let state = self.state();
        match &state.phase {
            Phase::Looking(answers) if options.head => Some(
                answers
                    .heads
                    .get(location)?
                    .clone()
                    .map_or_else(|| Err(missing(location)), |meta| Ok(head(meta))),
            ),
            Phase::Looking(answers) => match answers.objects.get(location)? {
                Some(whole) => whole.clone().ranged(options).map(Ok),
                None => Some(Err(missing(location))),
            },
            Phase::Fencing(Some(fence)) if options.head && fence.location == *location => {
                Some(Ok(head(fence.clone())))
            }
            _ => None,
        }
    }

    /// A part of a table that is in memory. One on its way is not waited for: on a slow line
    /// the few bytes that are needed arrive sooner.
    fn table(&self, location: &Path, options: &GetOptions) -> Option<GetResult> {
        let state = self.state();
        let fetched = state.tables.get(location).filter(|_| !options.head)?.peek()?;
        fetched.clone()?.ranged(options)
    }
}

/// Where boundaries are. There need not be any.
fn boundaries() -> Path {
    Path::from(format!("{PATH}/gc"))
}

fn table_path(view: &SsTableView) -> Path {
    Path::from(format!("{PATH}/compacted/{}.sst", view.sst.id.value()))
}

fn missing(location: &Path) -> Error {
    Error::NotFound { path: location.to_string(), source: "it was not there".into() }
}

fn head(meta: ObjectMeta) -> GetResult {
    GetResult {
        payload: GetResultPayload::Stream(stream::empty().boxed()),
        range: 0..meta.size,
        meta,
        attributes: Attributes::new(),
        extensions: Extensions::new(),
    }
}

/// Whether a request depends on nothing but what is there.
fn is_plain(options: &GetOptions) -> bool {
    options.if_match.is_none()
        && options.if_none_match.is_none()
        && options.if_modified_since.is_none()
        && options.if_unmodified_since.is_none()
        && options.version.is_none()
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Ahead {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.begin_write();
        let is_fence = payload.content_length() == 0 && opts.mode == PutMode::Create;
        let put = match self.creating.get() {
            Some(turn) if opts.mode == PutMode::Create => {
                self.create(turn, location, payload, opts).await?
            }
            _ => self.inner.put_opts(location, payload, opts).await?,
        };
        if is_fence && let Phase::Fencing(fence) = &mut self.state().phase {
            *fence = Some(ObjectMeta {
                location: location.clone(),
                last_modified: chrono::Utc::now(),
                size: 0,
                e_tag: put.e_tag.clone(),
                version: put.version.clone(),
            });
        }
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.begin_write();
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if !is_plain(&options) {
            return self.inner.get_opts(location, options).await;
        }
        if let Some(answer) = self.known(location, &options) {
            return answer;
        }
        if let Some(table) = self.table(location, &options) {
            return Ok(table);
        }
        let is_looking = matches!(self.state().phase, Phase::Looking(_));
        let (is_head, is_part) = (options.head, options.range.is_some());
        let answer = self.inner.get_opts(location, options).await;
        if !is_looking || is_part {
            return answer;
        }
        let at = location.clone();
        match answer {
            Ok(result) if is_head => {
                let meta = result.meta.clone();
                self.record(|answers| drop(answers.heads.insert(at, Some(meta))));
                Ok(result)
            }
            Ok(result) => {
                let whole = Whole::of(result).await?;
                self.record(|answers| drop(answers.objects.insert(at, Some(whole.clone()))));
                let len = whole.bytes.len() as u64;
                whole.result(0..len).ok_or_else(|| missing(location))
            }
            Err(error) => {
                if matches!(error, Error::NotFound { .. }) {
                    self.record(|answers| {
                        if is_head {
                            answers.heads.insert(at, None);
                        } else if at.prefix_matches(&boundaries()) {
                            answers.objects.insert(at, None);
                        }
                    });
                }
                Err(error)
            }
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.begin_write();
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned();
        let recorded = match &mut self.state().phase {
            Phase::Looking(answers) => answers.lists.remove(&prefix),
            _ => return self.inner.list(prefix.as_ref()),
        };
        if let Some(found) = recorded {
            return stream::iter(found.into_iter().map(Ok)).boxed();
        }
        let (store, listing) = (self.clone(), self.inner.list(prefix.as_ref()));
        let listed = async move {
            let found: Vec<ObjectMeta> = listing.try_collect().await?;
            store.record(|answers| drop(answers.lists.insert(prefix, found.clone())));
            Ok::<_, Error>(stream::iter(found.into_iter().map(Ok)))
        };
        stream::once(listed).try_flatten().boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.begin_write();
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.begin_write();
        self.inner.rename_opts(from, to, options).await
    }
}

impl fmt::Display for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ahead({})", self.inner)
    }
}

impl fmt::Debug for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ahead").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use slatedb::object_store::memory::InMemory;

    use super::super::testing::TestStore;
    use super::*;
    use crate::store::StoreFault;
    use crate::store::faulty::{Fault, FaultyStore, Op, Rule};

    struct Bench {
        bucket: Arc<InMemory>,
        line: TestStore,
        ahead: Ahead,
    }

    impl Bench {
        fn new() -> Self {
            let bucket = Arc::new(InMemory::new());
            let line = TestStore::new(Arc::clone(&bucket));
            Self { bucket, ahead: Ahead::new(line.boxed()), line }
        }

        async fn read(&self, path: &Path) -> Option<Bytes> {
            match self.ahead.get(path).await {
                Ok(found) => Some(found.bytes().await.unwrap()),
                Err(Error::NotFound { .. }) => None,
                Err(error) => panic!("{error}"),
            }
        }

        async fn create(&self, path: &Path, bytes: &'static str) {
            let options = PutOptions::from(PutMode::Create);
            self.ahead.put_opts(path, bytes.into(), options).await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_answer_counts_until_our_first_write_and_no_longer() {
        let bench = Bench::new();
        let (boundary, manifest) =
            (boundaries().join("manifest.boundary"), Path::from("meta/manifest/1.manifest"));
        let log = Path::from("meta/wal/5.sst");
        bench.bucket.put(&manifest, "one".into()).await.unwrap();
        for _ in 0..3 {
            assert_eq!(bench.read(&manifest).await.unwrap(), "one");
            assert_eq!(bench.read(&boundary).await, None);
            assert!(bench.ahead.head(&log).await.is_err());
        }
        let asked = bench.line.requests();
        assert_eq!((asked.get, asked.head), (2, 1));

        bench.bucket.put(&boundary, "7".into()).await.unwrap();
        bench.bucket.put(&log, "written meanwhile".into()).await.unwrap();
        assert_eq!(bench.read(&boundary).await, None);
        bench.create(&Path::from("meta/manifest/2.manifest"), "two").await;
        assert_eq!(bench.read(&boundary).await.unwrap(), "7");
        assert!(bench.ahead.head(&log).await.unwrap().size > 0);
    }

    /// The engine reads again what does not fit together, until it does.
    #[tokio::test]
    async fn what_is_asked_again_because_it_did_not_fit_is_asked_of_the_store() {
        let bench = Bench::new();
        let dir = Path::from("meta/manifest");
        let list =
            async || bench.ahead.list(Some(&dir)).try_collect::<Vec<_>>().await.unwrap().len();
        let first = dir.clone().join("1.manifest");
        bench.bucket.put(&first, "one".into()).await.unwrap();
        assert_eq!(list().await, 1);
        bench.bucket.delete(&first).await.unwrap();
        assert_eq!(list().await, 1);
        assert_eq!(bench.read(&first).await, None);
        assert_eq!(list().await, 0);
        bench.bucket.put(&first, "one".into()).await.unwrap();
        assert_eq!(bench.read(&first).await.unwrap(), "one");
    }

    #[tokio::test]
    async fn an_old_answer_counts_no_longer() {
        let bench = Bench::new();
        let log = Path::from("meta/wal/5.sst");
        assert!(bench.ahead.head(&log).await.is_err());
        bench.bucket.put(&log, "written meanwhile".into()).await.unwrap();
        assert!(bench.ahead.head(&log).await.is_err());
        let slept = AGE_MAX + Duration::from_secs(1);
        let since = bench.ahead.state().since;
        bench.ahead.state().since = since.saturating_sub(slept);
        assert!(bench.ahead.head(&log).await.is_ok());
    }

    #[tokio::test]
    async fn a_table_that_is_on_its_way_holds_nobody_up() {
        let store = FaultyStore::new(InMemory::new());
        let ahead = Ahead::new(Arc::new(store.clone()));
        let at = Path::from("meta/compacted/table.sst");
        store.put(&at, "rows".into()).await.unwrap();
        store.faults().add(Rule::always(Fault::Stall).on(Op::Get).times(1));
        let (inner, path) = (Arc::clone(&ahead.inner), at.clone());
        let fetch = async move { Whole::of(inner.get(&path).await.ok()?).await.ok() };
        let fetch = fetch.boxed().shared();
        ahead.state().tables.insert(at.clone(), fetch.clone());
        let fetched = tokio::spawn(fetch);
        while store.faults().struck() == 0 {
            tokio::task::yield_now().await;
        }
        let part = async || ahead.get_range(&at, 1..3).await.unwrap();
        assert_eq!(part().await, "ow");
        store.faults().release();
        fetched.await.unwrap();
        // Now it is answered from memory.
        store.delete(&at).await.unwrap();
        assert_eq!(part().await, "ow");
    }

    /// Of many who create the same, on a store that would let each overwrite the other.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn where_conditions_are_ignored_one_creates_and_the_others_are_told() {
        let store = FaultyStore::new(InMemory::new());
        store.faults().ignore_conditions(true);
        let ahead = Ahead::new(Arc::new(store.clone()));
        ahead.look_before_creating();
        for number in 0..50 {
            let at = Path::from(format!("meta/manifest/{number}"));
            let create = |who: usize| {
                let (ahead, at) = (ahead.clone(), at.clone());
                tokio::spawn(async move {
                    let options = PutOptions::from(PutMode::Create);
                    ahead.put_opts(&at, who.to_string().into(), options).await
                })
            };
            let creates: Vec<_> = (0..8).map(create).collect();
            let mut made = Vec::new();
            for (who, create) in creates.into_iter().enumerate() {
                match create.await.unwrap() {
                    Ok(_) => made.push(who.to_string()),
                    Err(error) => assert!(matches!(error, Error::AlreadyExists { .. }), "{error}"),
                }
            }
            assert_eq!(made.len(), 1);
            let there = store.get(&at).await.unwrap().bytes().await.unwrap();
            assert_eq!(there, made[0].as_bytes());
        }
    }

    #[tokio::test]
    async fn where_conditions_are_ignored_what_is_sent_again_is_ours() {
        let store = FaultyStore::new(InMemory::new());
        store.faults().ignore_conditions(true);
        let ahead = Ahead::new(Arc::new(store.clone()));
        ahead.look_before_creating();
        let create = async |at: &Path, what: &'static str| {
            ahead.put_opts(at, what.into(), PutOptions::from(PutMode::Create)).await
        };
        let at = Path::from("meta/wal/1.sst");
        let lost = Fault::LoseAnswer(StoreFault::Unavailable);
        store.faults().add(Rule::always(lost).on(Op::Put).times(1));
        assert!(create(&at, "mine").await.is_err());
        // It did arrive. Others see that, and whoever sends it again has made it.
        assert!(matches!(create(&at, "yours").await, Err(Error::AlreadyExists { .. })));
        create(&at, "mine").await.unwrap();
        assert!(matches!(create(&at, "mine").await, Err(Error::AlreadyExists { .. })));
    }

    #[tokio::test]
    async fn a_fence_that_we_made_is_not_read_back_and_any_other_is() {
        let bench = Bench::new();
        let (ours, others) = (Path::from("meta/wal/5.sst"), Path::from("meta/wal/4.sst"));
        bench.bucket.put(&others, "".into()).await.unwrap();
        bench.create(&ours, "").await;
        for fence in [&ours, &others] {
            assert_eq!(bench.ahead.head(fence).await.unwrap().size, 0);
        }
        assert_eq!(bench.line.requests().head, 1);
        bench.ahead.opened();
        bench.ahead.head(&ours).await.unwrap();
        assert_eq!(bench.line.requests().head, 2);
    }
}
