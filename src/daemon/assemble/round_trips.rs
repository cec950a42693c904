//! How long opening takes where nothing but requests takes time: in round trips.
//!
//! Time is the runtime's own and stands still while anything runs; each request takes one second of it.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::super::open::create_in;
use super::*;
use crate::base::Inode;
use crate::config::Config;
use crate::format::FileKind;
use crate::fs::{Caller, NewNode, WriteOrigin};
use crate::keys::{self, KeySource, NewSlot, Secret};
use crate::store::object_store::memory::InMemory;
use crate::store::object_store::path::Path;
use crate::store::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result,
};

const ROUND_TRIP: Duration = Duration::from_secs(1);

/// A bucket behind a slow line, and what was asked of it since the last look.
#[derive(Debug, Clone)]
struct Line {
    bucket: Arc<InMemory>,
    ignores_conditions: bool,
    asked: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Line {
    async fn ask(&self, what: &str, location: &impl fmt::Display) {
        self.asked.lock().unwrap().push((Instant::now(), format!("{what} {location}")));
        tokio::time::sleep(ROUND_TRIP).await;
    }

    /// Forgets and returns what was asked, with the round that it was asked in.
    fn take(&self, since: Instant) -> Vec<(u64, String)> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.into_iter().map(|(at, what)| ((at - since).as_secs() + 1, what)).collect()
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line")
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Line {
    async fn put_opts(
        &self,
        at: &Path,
        body: PutPayload,
        mut opts: PutOptions,
    ) -> Result<PutResult> {
        self.ask("PUT", at).await;
        if self.ignores_conditions {
            opts.mode = PutMode::Overwrite;
        }
        self.bucket.put_opts(at, body, opts).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.ask("POST", at).await;
        self.bucket.put_multipart_opts(at, opts).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.ask(if options.head { "HEAD" } else { "GET" }, at).await;
        self.bucket.get_opts(at, options).await
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.ask("GET", at).await;
        self.bucket.get_ranges(at, ranges).await
    }

    fn delete_stream(
        &self,
        all: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let line = self.clone();
        let deleted = self.bucket.delete_stream(all);
        deleted
            .and_then(move |at| {
                let line = line.clone();
                async move {
                    line.ask("DELETE", &at).await;
                    Ok(at)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (line, listing) = (self.clone(), self.bucket.list(prefix));
        let prefix = prefix.map(ToString::to_string).unwrap_or_default();
        let asked = async move {
            line.ask("LIST", &prefix).await;
            Ok::<_, Error>(listing)
        };
        stream::once(asked).try_flatten().boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        let later =
            self.list(prefix).try_filter(move |meta| std::future::ready(meta.location > offset));
        later.boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.ask("LIST", &prefix.map(ToString::to_string).unwrap_or_default()).await;
        self.bucket.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.ask("COPY", from).await;
        self.bucket.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.ask("COPY", from).await;
        self.bucket.rename_opts(from, to, options).await
    }
}

/// A machine with a bucket.
struct Machine {
    dir: tempfile::TempDir,
    line: Line,
    plan: Plan,
}

/// A mount that no kernel sees.
struct Mounted<'a> {
    opening: Opening<'a>,
    parts: Parts,
}

impl Machine {
    async fn new() -> Self {
        Self::on(false).await
    }

    async fn on(ignores_conditions: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        let url = format!("file://{}", dir.path().join("unused").display());
        config.volume.url = Some(url.parse().unwrap());
        config.state.dir = Some(dir.path().join("state"));
        config.store.single_machine = ignores_conditions;
        let keyfile = dir.path().join("key");
        let key = keys::generate_keyfile(&keyfile).unwrap();
        let plan = Plan {
            mountpoint: dir.path().to_owned(),
            config,
            key: KeySource::Keyfile(keyfile),
            mount_options: Vec::new(),
            config_file: None,
            takeover: false,
            accept_rollback: false,
        };
        let (bucket, asked) = (Arc::new(InMemory::new()), Arc::default());
        let line = Line { bucket, ignores_conditions, asked };
        let machine = Self { dir, line, plan };
        let storage = machine.storage().await;
        let slot = NewSlot { secret: Secret::Keyfile(key), label: String::new() };
        Box::pin(create_in(&storage, &machine.plan.config, slot)).await.unwrap();
        machine
    }

    /// As if started anew, with the same bucket.
    fn again(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan {
            mountpoint: dir.path().to_owned(),
            config: self.plan.config.clone(),
            key: self.plan.key.clone(),
            mount_options: Vec::new(),
            config_file: None,
            takeover: false,
            accept_rollback: false,
        };
        Self { dir, line: self.line.clone(), plan }
    }

    async fn storage(&self) -> Storage {
        let mut storage = open_storage(&self.plan.config).await.unwrap();
        storage.store = Arc::new(self.line.clone());
        storage
    }

    async fn mount(&self) -> Mounted<'_> {
        let (mut opening, _) = open_in(&self.plan, self.storage().await).await.unwrap();
        let parts = opening.open_fs(Handle::current()).await.unwrap();
        Mounted { opening, parts }
    }
}

impl Mounted<'_> {
    async fn write(&self, name: &str, content: &[u8]) {
        let node = NewNode {
            parent: Inode::ROOT,
            name: name.as_bytes().into(),
            kind: FileKind::Regular,
            permissions: 0o644,
            umask: 0,
            caller: Caller { uid: 0, gid: 0 },
            rdev: 0,
            target: Box::default(),
        };
        let fs = &self.parts.fs;
        let (made, handle) = fs.create(node).wait().await.unwrap();
        let origin = WriteOrigin { from_cache: false, kill_privileges: false };
        for (at, part) in content.chunks(1 << 20).enumerate() {
            fs.write(made.inode, (at << 20) as u64, part, origin).wait().await.unwrap();
        }
        fs.release(made.inode, handle);
    }

    async fn read(&self, name: &str, len: u32) -> Bytes {
        let fs = &self.parts.fs;
        let found = fs.lookup(Inode::ROOT, name.as_bytes()).wait().await.unwrap();
        let handle = fs.open(found.inode).wait().await.unwrap();
        fs.read(found.inode, handle, 0, len).wait().await.unwrap()
    }

    async fn unmount(mut self) {
        self.parts.fs.close().await.unwrap();
        self.opening.give_back().await;
    }
}

/// Bytes that do not get smaller by compression.
fn content(len: usize) -> Vec<u8> {
    let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    let numbers = std::iter::successors(Some(1_u64), next);
    numbers.flat_map(|number| number.to_be_bytes().into_iter().take(4)).take(len).collect()
}

#[tokio::test(start_paused = true)]
async fn from_a_cold_mount_to_the_first_byte_it_is_few_round_trips() {
    let mut machine = Machine::new().await;
    let first = content(3 << 20);
    let mounted = machine.mount().await;
    mounted.write("file", &first).await;
    mounted.unmount().await;
    for (read_only, most) in [(false, 10), (true, 7)] {
        machine.plan.config.mount.read_only = read_only;
        machine.plan.config.cache.disk = Some(machine.dir.path().join(format!("{read_only}")));
        let started = Instant::now();
        machine.line.take(started);
        let mounted = machine.mount().await;
        let opened = started.elapsed().as_secs();
        let read = mounted.read("file", 4096).await;
        let rounds = started.elapsed().as_secs();
        assert_eq!(read, first[..4096]);
        for (round, what) in machine.line.take(started) {
            println!("{round:4} {what}");
        }
        println!(
            "read-only {read_only}: open after {opened} round trips, first byte after {rounds}"
        );
        assert!(rounds <= most, "{rounds} round trips with read_only = {read_only}");
        mounted.unmount().await;
    }
}

impl Machine {
    /// Requests that `work` makes on a mount that has just been opened.
    async fn requests_of(&self, work: impl AsyncFnOnce(&Mounted<'_>)) -> Vec<(u64, String)> {
        let mounted = self.mount().await;
        // What opening leaves to the background is done.
        tokio::time::sleep(120 * ROUND_TRIP).await;
        let started = Instant::now();
        self.line.take(started);
        work(&mounted).await;
        let made = self.line.take(started);
        mounted.unmount().await;
        made
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_of_2000_files_is_listed_cold_in_few_requests() {
    const FILES: usize = 2000;
    let machine = Machine::new().await;
    let mounted = machine.mount().await;
    for number in 0..FILES {
        mounted.write(&format!("file {number}"), b"little").await;
    }
    mounted.unmount().await;
    let made = machine
        .requests_of(async |mounted| {
            let (mut offset, mut files) = (0, 0);
            loop {
                let page = mounted.parts.fs.readdir(Inode::ROOT, offset, 100, true).wait().await;
                let page = page.unwrap();
                let Some(last) = page.last() else { break };
                offset = last.offset;
                files += page.iter().filter(|entry| entry.kind == FileKind::Regular).count();
            }
            assert_eq!(files, FILES);
        })
        .await;
    assert!(made.len() <= 6, "{made:#?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_disk_cache_holds_is_read_without_a_request_after_a_remount() {
    let mut machine = Machine::new().await;
    let bytes = content(3 << 20);
    let mounted = machine.mount().await;
    mounted.write("file", &bytes).await;
    mounted.unmount().await;
    machine.plan.config.cache.disk = Some(machine.dir.path().join("disk"));
    let read = async |mounted: &Mounted<'_>| {
        assert_eq!(mounted.read("file", 3 << 20).await, bytes);
    };
    assert!(!machine.requests_of(read).await.is_empty());
    let made = machine.requests_of(read).await;
    assert!(made.is_empty(), "{made:#?}");
}

#[tokio::test(start_paused = true)]
async fn what_another_mount_leaves_between_our_look_and_our_lease_stays() {
    for ignores_conditions in [false, true] {
        let machine = Machine::on(ignores_conditions).await;
        let mounted = machine.mount().await;
        mounted.write("first", b"1").await;
        mounted.unmount().await;
        let (mut opening, _) = open_in(&machine.plan, machine.storage().await).await.unwrap();
        let other = machine.again();
        let theirs = other.mount().await;
        theirs.write("second", b"2").await;
        theirs.unmount().await;

        let started = Instant::now();
        machine.line.take(started);
        let parts = opening.open_fs(Handle::current()).await.unwrap();
        let asked = machine.line.take(started);
        let is_look =
            |(_, what): &(u64, String)| what.starts_with("LIST") && what.contains("meta/manifest");
        // With conditions it is the first write that finds out.
        let looks_again = asked.iter().any(is_look);
        assert!(looks_again || !ignores_conditions, "the old look was used: {asked:#?}");
        let ours = Mounted { opening, parts };
        ours.write("third", b"3").await;
        ours.unmount().await;
        let mounted = machine.mount().await;
        for (name, content) in [("first", "1"), ("second", "2"), ("third", "3")] {
            assert_eq!(mounted.read(name, 9).await, content, "{ignores_conditions}");
        }
        mounted.unmount().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_when_the_key_is_wrong_or_the_volume_is_gone() {
    let mut machine = Machine::new().await;
    assert!(machine.storage().await.pin().unwrap().is_some());
    let started = Instant::now();
    let refused = async |machine: &Machine| {
        machine.line.take(started);
        assert!(open_in(&machine.plan, machine.storage().await).await.is_err());
        let asked = machine.line.take(started);
        assert!(asked.iter().all(|(_, what)| !what.starts_with("PUT")), "{asked:#?}");
    };
    let right = machine.plan.key.clone();
    let wrong = machine.dir.path().join("wrong");
    keys::generate_keyfile(&wrong).unwrap();
    machine.plan.key = KeySource::Keyfile(wrong);
    refused(&machine).await;
    machine.plan.key = right;
    machine.line.bucket.delete(&Path::from("lidfs.json")).await.unwrap();
    refused(&machine).await;
}
