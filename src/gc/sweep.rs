//! Orphans: packs that a writer stored for a group which it did not live to commit.
//!
//! Their numbers follow the last committed ones, so they are asked for by name, without listing the
//! bucket. A writer has at most [`PACKS_IN_FLIGHT_MAX`](crate::fs::PACKS_IN_FLIGHT_MAX) packs on their
//! way and takes numbers in order: as many absent numbers in a row are the end.

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::try_join_all;

use super::{Collector, GcError, Relaxed};
use crate::base::{CommitNumber, PackNumber, WriterEpoch};
use crate::fs::{PACKS_IN_FLIGHT_MAX, Unswept};
use crate::store::object_store::{self, ObjectStoreExt as _};

/// Numbers asked for at once; absent ones in a row that are the end.
const ABSENT_MAX: usize = 2 * PACKS_IN_FLIGHT_MAX;
/// An earlier writer that was taken over may still be storing its last packs for so long.
const SETTLED: Duration = Duration::from_mins(10);

impl Collector {
    /// Deletes the orphans of earlier writers.
    pub(super) async fn sweep(&self) -> Result<(), GcError> {
        let ranges = self.parts.fs.unswept().await?;
        if ranges.is_empty() {
            return Ok(());
        }
        let freed = self.freed().await?;
        for range in ranges {
            for writer in range.from.writer().0..range.to.0 {
                self.sweep_writer(range, WriterEpoch(writer), &freed).await?;
            }
            if self.mounted.elapsed() >= SETTLED {
                self.parts.fs.swept(range).await?;
            }
        }
        Ok(())
    }

    /// Packs that are freed already: they are deleted in their time.
    async fn freed(&self) -> Result<HashSet<PackNumber>, GcError> {
        let (mut all, mut from) = (HashSet::new(), CommitNumber(0));
        loop {
            let page = self.parts.fs.freed_packs(from).await?;
            let Some(last) = page.last() else { return Ok(all) };
            from = CommitNumber(last.commit.0 + 1);
            all.extend(page.iter().map(|freed| freed.pack));
        }
    }

    async fn sweep_writer(
        &self,
        range: Unswept,
        writer: WriterEpoch,
        freed: &HashSet<PackNumber>,
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
            let found = try_join_all(batch.iter().map(|pack| self.sweep_pack(*pack, freed)));
            for is_there in found.await? {
                absent = if is_there { 0 } else { absent + 1 };
            }
        }
        Ok(())
    }

    /// Deletes a pack if no record tells of it; whether there was one.
    async fn sweep_pack(
        &self,
        pack: PackNumber,
        freed: &HashSet<PackNumber>,
    ) -> Result<bool, GcError> {
        if freed.contains(&pack) || self.parts.fs.is_pack_in_use(pack).await? {
            return Ok(true);
        }
        let path = self.parts.packs.path(pack);
        match self.parts.store.head(&path).await {
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.delete_objects(vec![path]).await?;
        self.counts.orphans.fetch_add(1, Relaxed);
        Ok(true)
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
