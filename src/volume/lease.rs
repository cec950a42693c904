//! The lease: which mount writes to the volume.
//!
//! ```text
//! acquire --> heartbeat every 30 s --> release
//!    |             '-> Lost: somebody else took it over
//!    '-> Held: by whom, and how long ago it last gave a sign
//! ```
//!
//! A sealed object `lease` (kind Lease, one chunk) holds the record as JSON. It
//! is free when it is absent or released, when its last heartbeat is 90 s old,
//! or when its holder was a process of this machine that ended.
//!
//! It is a courtesy: it tells people who writes, and stops a second mount before
//! it disturbs the first. Clocks may differ and a store may lack conditional
//! writes, so nothing's safety rests on it: that is the metadata engine's fence.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Holder;
use super::object::{Found, ObjectError, SmallObject, Written};
use crate::base::{Clock, ErrorKind, KIB, VolumeId, WriterEpoch};
use crate::crypto::{Binding, DataKeys, ObjectKind, SealError, random_bytes};
use crate::format::header::hex;
use crate::keys::{open_whole, seal_whole};
use crate::store::object_store::ObjectStore;

/// How often a holder gives a sign of life.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);
/// A lease without a sign for so long is free: two heartbeats may get lost.
pub const LEASE_AGE_MAX: Duration = Duration::from_secs(90);
/// Longest sealed lease in bytes.
const LEASE_BYTES_MAX: u64 = 64 * KIB;
/// How often a write starts over because somebody else was faster.
const ATTEMPTS_MAX: usize = 8;
/// Name of the lease below the volume's prefix.
pub const LEASE_NAME: &str = "lease";

/// What the object says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Random for each acquisition: tells mine from another's.
    id: String,
    holder: Holder,
    /// 0 until the metadata engine has given one.
    writer_epoch: u32,
    /// In seconds since 1970, as all times here.
    acquired: i64,
    heartbeat: i64,
    released: bool,
}

impl Record {
    fn age(&self, clock: &dyn Clock) -> Duration {
        // A sign from the future comes from a clock that differs: as good as one just now.
        let seconds = clock.now().seconds.saturating_sub(self.heartbeat);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    fn is_free(&self, clock: &dyn Clock) -> bool {
        self.released || self.age(clock) >= LEASE_AGE_MAX || self.holder.is_gone()
    }
}

/// Where a lease lies and what it is sealed with.
#[derive(Clone)]
pub struct LeaseSite {
    object: SmallObject,
    volume: VolumeId,
    keys: DataKeys,
    clock: Arc<dyn Clock>,
}

impl LeaseSite {
    /// The lease of the volume in `store`, which is rooted at the volume's prefix.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        volume: VolumeId,
        keys: DataKeys,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let object = SmallObject { store, name: LEASE_NAME, bytes_max: LEASE_BYTES_MAX };
        Self { object, volume, keys, clock }
    }

    /// Who holds the lease, and how long ago that last gave a sign; `None` when it is free.
    ///
    /// # Errors
    /// [`LeaseError::Unreadable`], [`LeaseError::Object`].
    pub async fn holder(&self) -> Result<Option<(Holder, Duration)>, LeaseError> {
        let Some(found) = self.object.read().await? else { return Ok(None) };
        let record = self.open(&found)?;
        let age = record.age(&*self.clock);
        Ok((!record.is_free(&*self.clock)).then_some((record.holder, age)))
    }

    fn binding(&self) -> Binding<'static> {
        Binding { volume: self.volume, kind: ObjectKind::Lease, path: LEASE_NAME }
    }

    fn open(&self, found: &Found) -> Result<Record, LeaseError> {
        let plain = open_whole(&self.keys, &self.binding(), &found.bytes)
            .map_err(|error| LeaseError::Unreadable { detail: error.to_string() })?;
        serde_json::from_slice(plain.expose())
            .map_err(|error| LeaseError::Unreadable { detail: error.to_string() })
    }

    fn seal(&self, record: &Record) -> Result<Bytes, LeaseError> {
        let plain = serde_json::to_vec(record)
            .map_err(|error| LeaseError::Unreadable { detail: error.to_string() })?;
        Ok(seal_whole(&self.keys.current(), &self.binding(), &plain)?.into())
    }
}

/// A lease held by this process.
pub struct Lease {
    site: LeaseSite,
    record: Record,
    found: Found,
    replaced: Option<Holder>,
    was_free: bool,
}

impl Lease {
    /// Takes the lease for a mount of this process at `mount_point`; with `takeover` even from its holder.
    ///
    /// To be called by the process that serves the mount: the record names the caller, and a daemon's
    /// parent that ended would look like a holder that is gone.
    ///
    /// # Errors
    /// [`LeaseError::Held`], [`LeaseError::Unreadable`] (not with `takeover`), or the store's.
    pub async fn acquire(
        site: LeaseSite,
        mount_point: &str,
        takeover: bool,
    ) -> Result<Self, LeaseError> {
        let now = site.clock.now().seconds;
        let record = Record {
            id: hex(&random_bytes::<16>()),
            holder: Holder::this_process(mount_point),
            writer_epoch: 0,
            acquired: now,
            heartbeat: now,
            released: false,
        };
        let sealed = site.seal(&record)?;
        let mut current = site.object.read().await?;
        let mut was_free = true;
        for _ in 0..ATTEMPTS_MAX {
            let mut replaced = None;
            if let Some(found) = &current {
                match site.open(found) {
                    Ok(held) if held.is_free(&*site.clock) => {}
                    Ok(held) if takeover => (was_free, replaced) = (false, Some(held.holder)),
                    Ok(held) => return Err(LeaseError::held(held, &*site.clock)),
                    Err(_) if takeover => was_free = false,
                    Err(error) => return Err(error),
                }
            }
            match site.object.replace(current.as_ref(), sealed.clone()).await? {
                Written::Done(found) => {
                    return Ok(Self { site, record, found, replaced, was_free });
                }
                Written::Lost(now_there) => (was_free, current) = (false, now_there),
            }
        }
        Err(LeaseError::Contended)
    }

    /// Whom a takeover took the lease from.
    pub fn replaced(&self) -> Option<&Holder> {
        self.replaced.as_ref()
    }

    /// Whether it was free when it was read, and nobody else wrote it until it was ours.
    pub fn was_free(&self) -> bool {
        self.was_free
    }

    /// The holder as others see it.
    pub fn holder(&self) -> &Holder {
        &self.record.holder
    }

    /// Tells the next heartbeat which epoch the metadata engine gave to this writer.
    pub fn set_writer_epoch(&mut self, epoch: WriterEpoch) {
        self.record.writer_epoch = epoch.0;
    }

    /// Gives a sign of life, every [`HEARTBEAT_INTERVAL`].
    ///
    /// # Errors
    /// [`LeaseError::Lost`]: somebody else holds the lease now; do not write any more. Any other
    /// error says nothing about that: try again at the next interval.
    pub async fn heartbeat(&mut self) -> Result<(), LeaseError> {
        self.record.heartbeat = self.site.clock.now().seconds;
        self.write().await
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// As [`heartbeat`](Self::heartbeat); the lease then becomes free by its age.
    pub async fn release(&mut self) -> Result<(), LeaseError> {
        self.record.heartbeat = self.site.clock.now().seconds;
        self.record.released = true;
        self.write().await
    }

    /// Writes the record over our own last one, and over nobody else's.
    async fn write(&mut self) -> Result<(), LeaseError> {
        let sealed = self.site.seal(&self.record)?;
        let mut expected = Some(self.found.clone());
        for _ in 0..ATTEMPTS_MAX {
            match self.site.object.replace(expected.as_ref(), sealed.clone()).await? {
                Written::Done(found) => {
                    self.found = found;
                    return Ok(());
                }
                Written::Lost(Some(found)) => {
                    let there = self.site.open(&found)?;
                    if there.id != self.record.id {
                        return Err(LeaseError::Lost { by: Box::new(there.holder) });
                    }
                    expected = Some(found);
                }
                // Deleted by somebody: ours still, as nobody else took it.
                Written::Lost(None) => expected = None,
            }
        }
        Err(LeaseError::Contended)
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("record", &self.record).finish_non_exhaustive()
    }
}

/// Why the lease is not ours.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// Another mount holds it.
    #[error("volume is mounted read-write by {} (process {}, at {}), last sign of life {} s ago; unmount it there, or use --takeover", holder.host, holder.pid, holder.mount_point, age.as_secs())]
    Held {
        /// Which.
        holder: Box<Holder>,
        /// Since its last heartbeat.
        age: Duration,
        /// When it took the lease, in seconds since 1970.
        acquired: i64,
        /// Its writer epoch; 0 when it had none yet.
        writer_epoch: WriterEpoch,
    },
    /// Another mount took it from us.
    #[error("the write mount was taken over by {} (process {}, at {}); this mount is read-only now, unmount it", by.host, by.pid, by.mount_point)]
    Lost {
        /// Which.
        by: Box<Holder>,
    },
    /// The object is not one that the volume's keys sealed.
    #[error(
        "lease: cannot be read: {detail}; make sure that nothing else is mounted, then use --takeover"
    )]
    Unreadable {
        /// Why.
        detail: String,
    },
    /// Others write it again and again.
    #[error("lease: others keep taking it; find out which machines mount this volume")]
    Contended,
    /// The store failed.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Nothing can be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl LeaseError {
    fn held(record: Record, clock: &dyn Clock) -> Self {
        Self::Held {
            age: record.age(clock),
            acquired: record.acquired,
            writer_epoch: WriterEpoch(record.writer_epoch),
            holder: Box::new(record.holder),
        }
    }

    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Held { .. } | Self::Lost { .. } | Self::Contended => ErrorKind::Conflict,
            Self::Unreadable { .. } => ErrorKind::Corrupt,
            Self::Object(error) => error.kind(),
            Self::Seal(error) => error.kind(),
        }
    }
}

#[cfg(test)]
mod tests;
