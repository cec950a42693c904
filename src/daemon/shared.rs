//! What the tasks of a daemon share: the live mount, seen from outside.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::control::{Request, Response};
use super::pages::Pages;
use super::status::{
    ByteCounts, CacheStatus, HealthState, HealthStatus, RequestCounts, SCHEMA, SpaceStatus, Status,
    StoreStatus, VolumeStatus, WriteStatus,
};
use super::system;
use crate::data::BlockReader;
use crate::fs::{FileSystem, FsError, FsHealth};
use crate::fuse::{FuseError, FuseMount, Presence, Unmount};
use crate::gc::{Collector, GcError, GcFigures, GcPolicy, RekeyPolicy, Rekeyer};
use crate::meta::SlateReader;
use crate::store::measured::StoreMeter;
use crate::store::{StoreUrl, Trouble};

/// Most warnings kept; an outage must not fill memory.
const WARNINGS_MAX: usize = 16;

/// How the end of a mount went; `None` until it is over.
pub(super) type Ended = Option<Result<(), String>>;

/// A live mount.
pub(super) struct Shared {
    pub fs: FileSystem,
    pub mount: FuseMount,
    pub pages: Pages,
    pub reader: Arc<BlockReader>,
    /// `None` on a read-only mount.
    pub collector: Option<Arc<Collector>>,
    /// `None` on a read-only mount.
    pub rekeyer: Option<Arc<Rekeyer>>,
    /// How a rekey goes about it if nothing else is asked for.
    pub rekey_policy: RekeyPolicy,
    /// How long it keeps freed packs if nothing else is asked for.
    pub gc_keep: Duration,
    pub meter: Arc<StoreMeter>,
    pub trouble: Arc<Trouble>,
    pub url: StoreUrl,
    pub volume: String,
    pub mountpoint: PathBuf,
    pub pinned: bool,
    pub read_only: bool,
    /// What a read-only mount follows the writer with.
    pub follower: Option<Arc<SlateReader>>,
    pub started: Instant,
    pub warnings: Mutex<Vec<String>>,
    /// Ends what goes on beside the mount.
    pub stop: watch::Sender<bool>,
    /// Set once everything is stored, or could not be.
    pub ended: watch::Sender<Ended>,
}

impl Shared {
    /// Answers one request of the control socket.
    pub(super) async fn answer(self: Arc<Self>, request: Request) -> Response {
        match request {
            Request::Status => Response::Status(Box::new(self.status())),
            Request::Flush => match self.flush().await {
                Ok(()) => Response::Done,
                Err(message) => Response::Failed { message, busy: false },
            },
            Request::Unmount => self.unmount().await,
            Request::Collect { keep_seconds, compact_below } => {
                let keep = keep_seconds.map_or(self.gc_keep, Duration::from_secs);
                match self.collect(GcPolicy { keep, compact_below }).await {
                    Ok(figures) => Response::Collected(figures),
                    Err(message) => Response::Failed { message, busy: false },
                }
            }
            Request::Rekey { rate, keep_seconds } => {
                let rate = rate.or(self.rekey_policy.rate);
                let keep = keep_seconds.map_or(self.rekey_policy.keep, Duration::from_secs);
                match self.start_rekey(RekeyPolicy { rate, keep }) {
                    Ok(()) => Response::Done,
                    Err(message) => Response::Failed { message, busy: false },
                }
            }
        }
    }

    /// It goes on in the background, and after a crash in the next mount.
    fn start_rekey(&self, policy: RekeyPolicy) -> Result<(), String> {
        let Some(rekeyer) = self.rekeyer.clone().filter(|_| !self.is_fenced()) else {
            let place = self.mountpoint.display();
            return Err(format!("{place}: {}", GcError::Ended));
        };
        rekeyer.start(policy, self.stop.subscribe());
        Ok(())
    }

    /// Everything written so far is in the bucket on return.
    ///
    /// The kernel holds written pages that this process has not seen: it is
    /// asked for them first, as any process would ask.
    ///
    /// # Errors
    /// What was not stored, and why.
    pub(super) async fn flush(&self) -> Result<(), String> {
        if self.read_only {
            return Ok(());
        }
        let said = |what: &str| {
            let place = self.mountpoint.display();
            let next = if self.is_fenced() {
                String::new()
            } else {
                format!("; it stays mounted, and is tried again: see `lidfs status {place}`")
            };
            format!("{place}: not everything is in the bucket: {what}{next}")
        };
        self.write_back().await.map_err(|error| said(&error.to_string()))?;
        self.fs.flush().await.map_err(|error: FsError| said(&error.to_string()))
    }

    /// Has the kernel hand over what it holds, where it holds anything.
    async fn write_back(&self) -> io::Result<()> {
        match self.mount.presence() {
            Presence::Mounted => {
                self.pages.write_back().await?;
                if !system::syncfs_waits() {
                    self.mount.write_back_open().await;
                }
                Ok(())
            }
            // Its path belongs to another file system now.
            Presence::Detached => Err(io::Error::other(
                "it was unmounted lazily, or covered, and what the kernel holds of files that are still \
                 open cannot be asked for: close them",
            )),
            Presence::Over => Ok(()),
        }
    }

    /// Gives back space that nothing needs.
    async fn collect(&self, policy: GcPolicy) -> Result<GcFigures, String> {
        let place = self.mountpoint.display();
        let Some(collector) = &self.collector else {
            return Err(format!("{place}: {}", GcError::Ended));
        };
        // Written pages that the kernel still has may overwrite what is live now.
        self.write_back().await.map_err(|error| format!("{place}: {error}"))?;
        collector.collect(policy).await.map_err(|error| format!("{place}: {error}"))
    }

    async fn unmount(&self) -> Response {
        // A fenced mount can store nothing: then its end says what was left.
        if !self.is_fenced()
            && let Err(message) = self.flush().await
        {
            return Response::Failed { message, busy: false };
        }
        match self.mount.unmount(Unmount::IfIdle).await {
            Ok(()) => {}
            Err(error) => {
                let busy = matches!(error, FuseError::Busy { .. });
                return Response::Failed { message: error.to_string(), busy };
            }
        }
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|end| end.clone()) {
            Ok(Some(Ok(()))) => Response::Done,
            Ok(Some(Err(message))) => Response::Failed { message, busy: false },
            Ok(None) | Err(_) => Response::Failed {
                message: "the daemon ended before everything was stored; see its log".to_owned(),
                busy: false,
            },
        }
    }

    fn is_fenced(&self) -> bool {
        self.fs.status().health == FsHealth::Fenced
    }

    /// Adds a sentence to `status`; the oldest make room.
    pub(super) fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if !warnings.contains(&text) {
            if warnings.len() >= WARNINGS_MAX {
                warnings.remove(0);
            }
            warnings.push(text);
        }
    }

    /// How things stand; asks nobody but this process's memory.
    pub(super) fn status(&self) -> Status {
        let fs = self.fs.status();
        let cache = self.reader.stats();
        let store = self.meter.snapshot();
        let health = health(fs.health, self.trouble.lasting());
        let requests = RequestCounts {
            get: store.requests.get,
            put: store.requests.put,
            head: store.requests.head,
            list: store.requests.list,
            delete: store.requests.delete,
            copy: store.requests.copy,
        };
        let cost_usd = matches!(self.url, StoreUrl::S3 { .. }).then(|| requests.cost_usd());
        Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mountpoint: self.mountpoint.clone(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            read_only: fs.read_only,
            volume: VolumeStatus {
                url: self.url.to_string(),
                id: self.volume.clone(),
                commit: fs.last_commit,
                commit_age_ms: fs.last_commit_age_ms,
                pinned: self.pinned,
                inodes: fs.inodes,
                bytes: fs.bytes,
            },
            space: SpaceStatus {
                pack_bytes: fs.space.pack_bytes,
                dead_bytes: fs.space.dead_bytes(),
                freed_bytes: fs.space.freed_bytes,
                packs: fs.space.packs,
                freed_packs: fs.space.freed_packs,
                collected: self.collector.as_ref().map(|gc| gc.figures()).unwrap_or_default(),
            },
            health,
            rekey: self.rekeyer.as_ref().map(|rekeyer| rekeyer.figures()).unwrap_or_default(),
            write: WriteStatus {
                dirty_bytes: fs.dirty_bytes,
                uploading_bytes: fs.uploading_bytes,
                oldest_change_ms: fs.oldest_change_ms,
                lost_files: fs.lost_files,
            },
            store: StoreStatus {
                requests,
                bytes: ByteCounts { up: store.bytes_up, down: store.bytes_down },
                errors: store.errors,
                cost_usd,
            },
            cache: CacheStatus {
                hits: cache.hits,
                misses: cache.misses,
                disk_hits: cache.disk_hits,
                memory_bytes: cache.memory_bytes,
                disk_bytes: cache.disk_bytes,
            },
            warnings: self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// What the file system knows of its commits, and the store of its requests: these are repeated for
/// minutes before a commit fails, and a commit may fail without telling what the store said.
fn health(fs: FsHealth, trouble: Option<(Duration, String)>) -> HealthStatus {
    let failing = |seconds, message| HealthStatus {
        state: HealthState::Failing,
        failing_seconds: Some(seconds),
        message: Some(message),
    };
    match (fs, trouble) {
        (FsHealth::Fenced, _) => HealthStatus {
            state: HealthState::Fenced,
            failing_seconds: None,
            message: Some("another writer has taken the volume over: unmount".to_owned()),
        },
        (FsHealth::Ok, None) => {
            HealthStatus { state: HealthState::Ok, failing_seconds: None, message: None }
        }
        (FsHealth::Ok, Some((lasted, said))) => failing(lasted.as_secs(), said),
        (FsHealth::Failing { seconds, message }, None) => failing(seconds, message),
        (FsHealth::Failing { seconds, message }, Some((lasted, said))) => {
            failing(seconds.max(lasted.as_secs()), format!("{said}; {message}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble() -> (Duration, String) {
        (Duration::from_secs(40), "access denied".to_owned())
    }

    #[test]
    fn an_outage_is_told_before_any_commit_has_failed() {
        let told = health(FsHealth::Ok, Some(trouble()));
        assert_eq!(told.state, HealthState::Failing);
        assert_eq!(told.failing_seconds, Some(40));
        assert_eq!(told.message.as_deref(), Some("access denied"));
        assert_eq!(health(FsHealth::Ok, None).state, HealthState::Ok);
    }

    #[test]
    fn a_failing_commit_is_told_with_what_the_store_says() {
        let failing = FsHealth::Failing { seconds: 20, message: "not done within 20 s".to_owned() };
        let told = health(failing, Some(trouble()));
        assert_eq!(told.failing_seconds, Some(40));
        assert_eq!(told.message.as_deref(), Some("access denied; not done within 20 s"));
    }

    #[test]
    fn a_mount_that_was_overtaken_says_so_whatever_the_store_does() {
        assert_eq!(health(FsHealth::Fenced, Some(trouble())).state, HealthState::Fenced);
    }
}
