//! Bugs seeded on purpose, to see that tests catch them.
//!
//! Each stands in the code as `if seeded(Bug::X)`. In a test build the variable `LIDFS_SABOTAGE` switches one on
//! by its name; in every other build `seeded` is the constant `false` and nothing is left of it.
//! `tests/bugs.sh` tries them all.

/// What goes wrong. The names are those of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A batch goes out before the packs that it names are stored.
    SkipPackBarrier,
    /// A commit is acknowledged before the log is flushed.
    AcknowledgeBeforeFlush,
    /// A flush waits for the group before the open one.
    AcknowledgeGroupBefore,
    /// A group goes out in two batches.
    TearGroup,
    /// A writer that was taken over takes its commits for done.
    IgnoreFence,
    /// Packs of all writers share numbers.
    ForgetWriterInPackNumber,
    /// The counters say that a pack more than there was is recorded.
    MiscountNextPack,
    /// An inode that loses its last name while open is not noted.
    ForgetOrphan,
    /// Pages under a hole stay as they are.
    KeepPagesUnderHole,
    /// Overwritten bytes still count as live.
    KeepLiveBytes,
    /// Who shares content of a pack is not noted.
    ForgetReference,
    /// A block is tidied though it changed meanwhile.
    TidyChangedBlock,
    /// What is cached stays as it was before a commit.
    KeepStaleRecord,
    /// A load that a commit overtook fills the cache.
    CacheOvertakenLoad,
    /// Packs are collected that a group frees which is not in the bucket.
    CollectUncommitted,
    /// Packs are collected however lately they were freed.
    CollectAtOnce,
    /// The record of a freed pack goes before the object.
    ForgetPackFirst,
    /// Packs in use count as orphans.
    SweepPacksInUse,
    /// Chunks are not bound to their object's path.
    DropPathFromAad,
    /// Every object has the same salt.
    ReuseSalt,
    /// A volume may be older than what this machine saw.
    SkipPinCheck,
}

/// Whether this process is to have `bug`.
#[cfg(test)]
pub(crate) fn seeded(bug: Bug) -> bool {
    use std::sync::LazyLock;
    static NAME: LazyLock<String> =
        LazyLock::new(|| std::env::var("LIDFS_SABOTAGE").unwrap_or_default());
    !NAME.is_empty() && *NAME == format!("{bug:?}")
}

/// Whether this process is to have `bug`: no.
#[cfg(not(test))]
pub(crate) const fn seeded(_: Bug) -> bool {
    false
}
