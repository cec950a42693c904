//! `lidfs doctor`

use std::path::Path;
use std::time::Duration;

use super::finding::{Finding, Verdict, show};
use super::init::runtime;
use super::options::{ConfigArgs, Resolved};
use super::{Exit, Failure, selftest};
use crate::base::{Clock, MIB, SystemClock, Timestamp};
use crate::config::is_root;
use crate::crypto::random_bytes;
use crate::daemon::{self, DaemonError, Storage};
use crate::keys::{self, KeySource};
use crate::store::object_store::path::Path as ObjectPath;
use crate::store::object_store::{Error, ObjectStore, ObjectStoreExt, PutPayload};
use crate::store::probe::PROBE_DIR;
use crate::store::{StoreUrl, explain, sentence};
use crate::volume::HEADER_NAME;

/// Keys, each on a page of its own, need less than this.
const MEMORY_LOCK_BYTES: u64 = MIB;
/// S3 servers refuse requests from a clock that is 15 minutes off.
const CLOCK_SKEW_MAX: Duration = Duration::from_mins(15);
/// From here on it is worth a word: times of files would be wrong.
const CLOCK_SKEW_WARN: Duration = Duration::from_secs(10);

/// Check that machine, configuration, key and store are set up right
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// The volume: s3://bucket/prefix or file:///absolute/dir; default: the config's
    #[arg(value_name = "URL")]
    volume: Option<String>,
    /// Test the volume itself: a sealed probe, key slots, freshness pin, lease. Asks nothing, works
    /// beside a mount, and ends with exit code 16 if a check fails
    #[arg(long)]
    selftest: bool,
    /// The findings as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    // A timer's self-test is no mount: it runs without /dev/fuse.
    let mut findings = if args.selftest { secrets() } else { machine() };
    match args.config.resolve_without_mount(args.volume.as_deref()) {
        Ok(resolved) => {
            let file = resolved
                .file
                .as_deref()
                .map_or("none, the defaults hold".into(), Path::to_string_lossy);
            findings.push(Finding::new("config", Verdict::Ok, file));
            findings.push(key(&resolved));
            if resolved.config.url().is_ok() {
                findings.extend(runtime()?.block_on(store(&resolved, args.selftest)));
            } else {
                let detail = "no volume is named, so no store was tried; give a URL or -c CONFIG";
                let verdict = if args.selftest { Verdict::Fail } else { Verdict::Warn };
                findings.push(Finding::new("store", verdict, detail));
            }
        }
        Err(failure) => findings.push(Finding::new("config", Verdict::Fail, failure.message)),
    }
    show(&findings, args.json)?;
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Fail).count();
    match failed {
        0 => Ok(()),
        _ => Err(Failure::new(
            if args.selftest { Exit::SelfTest } else { Exit::Failure },
            format!("{failed} of {} checks failed; see above", findings.len()),
        )),
    }
}

fn machine() -> Vec<Finding> {
    let mut findings = vec![fuse_device(), mount_right()];
    findings.extend(secrets());
    findings
}

/// What keeps secrets in memory.
fn secrets() -> Vec<Finding> {
    vec![memory_lock(), core_dumps()]
}

fn fuse_device() -> Finding {
    match daemon::open_fuse_device() {
        Ok(_) => Finding::new("fuse", Verdict::Ok, "/dev/fuse opens"),
        Err(error) => Finding::new(
            "fuse",
            Verdict::Fail,
            format!(
                "/dev/fuse: {error}; load the module (modprobe fuse), or give the container the device"
            ),
        ),
    }
}

fn mount_right() -> Finding {
    let helper = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|dir| dir.join("fusermount3")).find(|path| path.is_file())
    });
    match helper {
        _ if is_root() => Finding::new("mount", Verdict::Ok, "as root, without a helper"),
        Some(path) => Finding::new("mount", Verdict::Ok, path.display().to_string()),
        None => Finding::new(
            "mount",
            Verdict::Fail,
            "fusermount3 is not in PATH; install the package fuse3, or mount as root",
        ),
    }
}

fn memory_lock() -> Finding {
    match daemon::memory_lock_limit() {
        Some(bytes) if bytes < MEMORY_LOCK_BYTES && !is_root() => Finding::new(
            "memory lock",
            Verdict::Warn,
            format!(
                "only {bytes} bytes may be locked, so keys may be swapped out; raise `ulimit -l` to 1024"
            ),
        ),
        _ => Finding::new("memory lock", Verdict::Ok, "keys stay out of swap"),
    }
}

fn core_dumps() -> Finding {
    match daemon::disable_core_dumps() {
        Ok(()) => Finding::new("core dumps", Verdict::Ok, "off for lidfs"),
        Err(error) => {
            Finding::new("core dumps", Verdict::Fail, format!("cannot be switched off: {error}"))
        }
    }
}

fn key(resolved: &Resolved) -> Finding {
    match resolved.key_source() {
        Ok(KeySource::Keyfile(path)) => match keys::load_keyfile(&path) {
            Ok(_) => {
                Finding::new("key", Verdict::Ok, format!("{}, for its owner alone", path.display()))
            }
            Err(error) => Finding::new("key", Verdict::Fail, sentence(&error)),
        },
        Ok(KeySource::Kms(key, _)) => {
            Finding::new("key", Verdict::Ok, format!("KMS {key}, tried with the volume"))
        }
        Ok(source) => {
            let kind = source.kind();
            Finding::new("key", Verdict::Ok, format!("of kind {kind} (not asked for here)"))
        }
        Err(failure) => Finding::new("key", Verdict::Fail, failure.message),
    }
}

async fn store(resolved: &Resolved, is_selftest: bool) -> Vec<Finding> {
    let storage = match daemon::open_storage(&resolved.config).await {
        Ok(storage) => storage,
        Err(error) => return vec![Finding::new("store", Verdict::Fail, sentence(&error))],
    };
    let probed = probe(&storage).await;
    let is_reachable = probed.verdict != Verdict::Fail;
    let mut findings = vec![probed];
    if is_reachable {
        findings.push(clock(&storage).await);
        if is_selftest {
            findings.extend(selftest::findings(resolved, &storage).await);
        } else {
            findings.push(volume(resolved, &storage).await);
        }
    }
    findings
}

async fn probe(storage: &Storage) -> Finding {
    match storage.probe().await {
        Ok(report) if !report.conditional_create => Finding::new(
            "store",
            Verdict::Warn,
            "works, but has no conditional writes: only one single machine may mount the volume",
        ),
        Ok(_) => {
            Finding::new("store", Verdict::Ok, format!("{} does what a volume needs", storage.url))
        }
        Err(error) => Finding::new("store", Verdict::Fail, sentence(&error)),
    }
}

/// Compares this machine's clock with the time the server gives to a new object.
async fn clock(storage: &Storage) -> Finding {
    if let StoreUrl::File { .. } = storage.url {
        return Finding::new("clock", Verdict::Ok, "the store has this machine's own");
    }
    match skew(&*storage.store).await {
        Ok(skew) if skew >= CLOCK_SKEW_MAX => Finding::new(
            "clock",
            Verdict::Fail,
            format!(
                "{} s away from the server's; set it (timedatectl set-ntp true)",
                skew.as_secs()
            ),
        ),
        Ok(skew) if skew >= CLOCK_SKEW_WARN => Finding::new(
            "clock",
            Verdict::Warn,
            format!(
                "{} s away from the server's; set it (timedatectl set-ntp true)",
                skew.as_secs()
            ),
        ),
        Ok(skew) => Finding::new(
            "clock",
            Verdict::Ok,
            format!("within {} s of the server's", skew.as_secs() + 1),
        ),
        Err(error) => {
            Finding::new("clock", Verdict::Warn, format!("not compared: {}", explain(&error)))
        }
    }
}

async fn skew(store: &dyn ObjectStore) -> Result<Duration, Error> {
    let name = u128::from_le_bytes(random_bytes::<16>());
    let path = ObjectPath::from(format!("{PROBE_DIR}/{name:032x}"));
    store.put(&path, PutPayload::from_static(b"clock")).await?;
    let head = store.head(&path).await;
    let here = SystemClock.now();
    store.delete(&path).await?;
    let there = Timestamp { seconds: head?.last_modified.timestamp(), nanos: 0 };
    Ok(Duration::from_secs(here.seconds.abs_diff(there.seconds)))
}

/// Opens the volume where that takes no question.
async fn volume(resolved: &Resolved, storage: &Storage) -> Finding {
    match storage.store.head(&ObjectPath::from(HEADER_NAME)).await {
        Err(Error::NotFound { .. }) => {
            return Finding::new(
                "volume",
                Verdict::Warn,
                format!("none at {} yet; make one with `lidfs init`", storage.url),
            );
        }
        Err(error) => return Finding::new("volume", Verdict::Fail, sentence(&error)),
        Ok(_) => {}
    }
    match resolved.key_source() {
        Ok(source @ (KeySource::Keyfile(_) | KeySource::Kms(..))) => {
            match open(storage, &source).await {
                Ok(id) => Finding::new("volume", Verdict::Ok, format!("the key opens {id}")),
                Err(failure) => Finding::new("volume", Verdict::Fail, failure.message),
            }
        }
        _ => Finding::new("volume", Verdict::Ok, "there; not opened, which would ask for the key"),
    }
}

async fn open(storage: &Storage, source: &KeySource) -> Result<String, Failure> {
    let secret = source.secret(keys::Purpose::Unlock)?;
    let pin = storage.pin()?;
    let volume = storage.open(&secret, pin.as_ref()).await.map_err(|error: DaemonError| error)?;
    Ok(format!("volume {}", volume.id()))
}
