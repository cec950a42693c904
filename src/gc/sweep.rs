//! Orphans: packs that a writer stored for a group which it did not live to commit.
//!
//! Their numbers follow the last committed ones, so they are asked for by name, without listing the
//! bucket. A writer has at most [`PACKS_IN_FLIGHT_MAX`](crate::fs::PACKS_IN_FLIGHT_MAX) packs on their
//! way and takes numbers in order: as many absent numbers in a row are the end.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::try_join_all;

use super::{Collector, GcError, Relaxed};
use crate::base::sabotage::{Bug, seeded};
use crate::base::{ErrorKind, PackNumber, WriterEpoch};
use crate::crypto::OpenError;
use crate::data::{self, DataError};
use crate::fs::{FsError, PACKS_IN_FLIGHT_MAX, Unswept};
use crate::store::object_store::{self, ObjectStoreExt as _};

/// Numbers asked for at once; absent ones in a row that are the end.
const ABSENT_MAX: usize = 2 * PACKS_IN_FLIGHT_MAX;
/// An earlier writer that was taken over may still be storing its last packs for so long.
const SETTLED: Duration = Duration::from_mins(10);

impl Collector {
    /// Deletes the orphans of earlier writers.
    pub(super) async fn sweep(&self) -> Result<(), GcError> {
        for range in self.parts.fs.unswept().await? {
            // Once, before anything is deleted: what it does not name is an orphan for ever, while
            // a pack that is freed later must wait for its commit and for followers.
            let known = self.parts.fs.known_packs(range).await?;
            for writer in range.from.writer().0..range.to.0 {
                self.sweep_writer(range, WriterEpoch(writer), &known).await?;
            }
            if self.mounted.elapsed() >= SETTLED {
                self.parts.fs.swept(range).await?;
            }
        }
        Ok(())
    }

    async fn sweep_writer(
        &self,
        range: Unswept,
        writer: WriterEpoch,
        known: &HashSet<PackNumber>,
    ) -> Result<(), GcError> {
        let is_first = writer == range.from.writer();
        let first = if is_first { range.from.counter() } else { 0 };
        let (mut next, mut absent) = (first, 0);
        while absent < ABSENT_MAX {
            let batch: Vec<_> = (next..)
                .map_while(|counter| PackNumber::new(writer, counter))
                .take(ABSENT_MAX)
                .collect();
            if batch.is_empty() {
                return Ok(());
            }
            next += batch.len() as u64;
            let found = try_join_all(batch.iter().map(|pack| self.sweep_pack(*pack, known)));
            for is_there in found.await? {
                absent = if is_there { 0 } else { absent + 1 };
            }
        }
        Ok(())
    }

    /// Deletes a pack that the volume does not know; whether there is or was one.
    async fn sweep_pack(
        &self,
        pack: PackNumber,
        known: &HashSet<PackNumber>,
    ) -> Result<bool, GcError> {
        if known.contains(&pack) && !seeded(Bug::SweepPacksInUse) {
            return Ok(true);
        }
        let path = self.parts.packs.path(pack);
        match self.parts.store.head(&path).await {
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if !seeded(Bug::SweepPacksInUse) && self.is_shown(pack).await? {
            tracing::error!(
                "pack {pack} is without a record, though files show it or it cannot be read; it \
                 stays: run lidfs fsck --repair"
            );
            self.counts.damaged_packs.fetch_add(1, Relaxed);
            return Ok(true);
        }
        self.delete_objects(vec![path]).await?;
        self.counts.orphans.fetch_add(1, Relaxed);
        Ok(true)
    }

    /// Whether files show anything of a pack that the volume does not know: then its record is lost, by
    /// whatever damage, and deleting it would lose content too. Unreadable, it may be one of those.
    async fn is_shown(&self, pack: PackNumber) -> Result<bool, GcError> {
        let parts = &self.parts;
        let directory = async {
            let record = data::recover_record(&parts.store, &parts.packs, pack).await?;
            data::read_directory(&parts.store, &parts.packs, pack, &record).await
        };
        let directory = match directory.await {
            Ok(directory) => directory,
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(true),
            // A key is destroyed only when no file shows anything that it sealed.
            Err(DataError::Open { source: OpenError::UnknownEpoch { epoch, .. }, .. }) => {
                return Ok(epoch >= parts.packs.epoch_first());
            }
            Err(error) => return Err(FsError::io(&error, error.kind()).into()),
        };
        let owners = directory.entries.iter().map(|entry| (entry.inode, entry.block));
        let mut owners: BTreeSet<_> = owners.collect();
        owners.extend(parts.fs.references(pack).await?);
        for (inode, block) in owners {
            match parts.fs.shows(inode, block, pack).await {
                Ok(false) => {}
                Ok(true) => return Ok(true),
                // What a damaged page showed is not known; and it must not end every collection.
                Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Deletes objects; one that is not there counts as deleted.
    pub(super) async fn delete_objects(
        &self,
        paths: Vec<object_store::path::Path>,
    ) -> Result<(), GcError> {
        let paths = futures::stream::iter(paths.into_iter().map(Ok)).boxed();
        let mut results = self.parts.store.delete_stream(paths);
        while let Some(result) = results.next().await {
            match result {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
