//! Exit codes and the one line that goes with them.

use std::error::Error;

use crate::base::ErrorKind;
use crate::bench::BenchError;
use crate::config::ConfigError;
use crate::daemon::DaemonError;
use crate::fs::FsError;
use crate::fuse::FuseError;
use crate::keys::{KeyError, KmsError};
use crate::meta::MetaError;
use crate::store::{self, ProbeError, RewriteError, StoreFault};
use crate::volume::{LeaseError, ObjectError, VolumeError};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// Failed for a reason that has no code of its own.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is wrong, or the keyfile that it names.
    Config = 3,
    /// `fsck` found what it did not mend, or `scrub` found damage.
    Uncorrected = 4,
    /// `fsck` could not check.
    NotChecked = 8,
    /// There is no volume, or no bucket.
    NoVolume = 10,
    /// Another writer holds the volume.
    Locked = 11,
    /// The key opens nothing here.
    WrongKey = 12,
    /// The volume was rolled back or tampered with.
    Tampered = 13,
    /// The store or KMS cannot be reached, refuses, or does not do what a volume needs.
    Unreachable = 14,
    /// The mount point is missing, busy, not empty or not mounted.
    Mountpoint = 15,
    /// `doctor --selftest`: a check failed.
    SelfTest = 16,
}

/// The codes as the help shows them.
pub const TABLE: &str = "\
Exit codes:
   0  success
   1  failure
   2  wrong command line
   3  wrong configuration, or unusable keyfile
   4  fsck: problems are left (1: all were mended); scrub: damage was found
   8  fsck: the check could not be done
  10  no such volume or bucket
  11  locked by another writer
  12  wrong key
  13  volume rolled back or tampered with
  14  store or KMS unreachable, refusing or unfit
  15  mount point problem
  16  doctor --selftest: a check failed";

impl Exit {
    /// The number for the shell.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// What went wrong: one line, and the code for the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What, where, what to do next.
    pub message: String,
}

impl Failure {
    /// A failure in its own words.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Of `error`, with its causes.
    pub fn of(exit: Exit, error: &(dyn Error + 'static)) -> Self {
        Self { exit, message: store::sentence(error) }
    }

    /// Says it on standard error.
    pub fn print(&self) {
        eprintln!("lidfs: {}", self.message);
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::of(Exit::Config, &error)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::of(key_exit(&error), &error)
    }
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Self {
        Self::of(volume_exit(&error), &error)
    }
}

impl From<store::OpenError> for Failure {
    fn from(error: store::OpenError) -> Self {
        Self::of(fault_exit(error.source.fault), &error)
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        Self::of(daemon_exit(&error), &error)
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        Self::of(bench_exit(&error), &error)
    }
}

fn bench_exit(error: &BenchError) -> Exit {
    match error {
        BenchError::Store { .. } | BenchError::NotRemoved { .. } => {
            error.fault().map_or(Exit::Unreachable, fault_exit)
        }
        BenchError::ReadOnly { .. } => Exit::Mountpoint,
        BenchError::Mount { .. } | BenchError::Interrupted => Exit::Failure,
    }
}

fn daemon_exit(error: &DaemonError) -> Exit {
    match error {
        DaemonError::Config(_) => Exit::Config,
        DaemonError::Open(error) => fault_exit(error.source.fault),
        DaemonError::Probe(error) => probe_exit(error),
        DaemonError::Volume { source, .. } => volume_exit(source),
        DaemonError::Key(error) => key_exit(error),
        DaemonError::Pin { source, .. } => kind_exit(source.kind()),
        DaemonError::Lease { source, .. } => lease_exit(source),
        DaemonError::Meta { source, .. } => meta_exit(source),
        DaemonError::Fs(error) => fs_exit(error),
        DaemonError::Rewrite { source, .. } => rewrite_exit(source),
        DaemonError::Check(error) => kind_exit(error.kind()),
        DaemonError::Fuse(error) => fuse_exit(error),
        DaemonError::AlreadyMounted { .. } => Exit::Mountpoint,
        DaemonError::Data(_)
        | DaemonError::System { .. }
        | DaemonError::Interrupted
        | DaemonError::Panicked
        | DaemonError::NotStored { .. } => Exit::Failure,
    }
}

fn fs_exit(error: &FsError) -> Exit {
    match error.kind() {
        // Taken over by another writer while it was being mounted.
        ErrorKind::Conflict => Exit::Locked,
        kind => kind_exit(kind),
    }
}

fn volume_exit(error: &VolumeError) -> Exit {
    match error {
        VolumeError::NoVolume => Exit::NoVolume,
        VolumeError::WrongKey { .. } | VolumeError::OtherKmsKey { .. } => Exit::WrongKey,
        VolumeError::Key(error) => key_exit(error),
        VolumeError::Object(error) => object_exit(error),
        other => kind_exit(other.kind()),
    }
}

fn lease_exit(error: &LeaseError) -> Exit {
    match error {
        LeaseError::Held { .. } | LeaseError::Contended | LeaseError::Lost { .. } => Exit::Locked,
        LeaseError::Object(error) => object_exit(error),
        other => kind_exit(other.kind()),
    }
}

fn key_exit(error: &KeyError) -> Exit {
    match error {
        // What the header asks for, not what the user gave.
        KeyError::TooWeak { .. } | KeyError::TooExpensive { .. } => Exit::Tampered,
        KeyError::Exists { .. }
        | KeyError::Write { .. }
        | KeyError::Argon2 { .. }
        | KeyError::Mismatch
        | KeyError::OtherKind { .. }
        | KeyError::Seal(_) => Exit::Failure,
        KeyError::Words { .. } => Exit::WrongKey,
        KeyError::Kms(error) => kms_exit(error),
        // Where the key comes from is set up wrong.
        _ => Exit::Config,
    }
}

fn kms_exit(error: &KmsError) -> Exit {
    match error.kind() {
        ErrorKind::Corrupt => Exit::Tampered,
        ErrorKind::Invalid => Exit::Config,
        // As with a store: not there, or it refuses.
        _ => Exit::Unreachable,
    }
}

fn fuse_exit(error: &FuseError) -> Exit {
    match error {
        FuseError::UnknownOption { .. } => Exit::Usage,
        FuseError::MountPointMissing { .. }
        | FuseError::MountPointNotDirectory { .. }
        | FuseError::MountPointNotEmpty { .. }
        | FuseError::MountPointBusy { .. }
        | FuseError::MountPoint { .. }
        | FuseError::Busy { .. } => Exit::Mountpoint,
        _ => Exit::Failure,
    }
}

fn object_exit(error: &ObjectError) -> Exit {
    match error {
        ObjectError::Store { source, .. } => fault_exit(store::classify(source)),
        other => kind_exit(other.kind()),
    }
}

fn probe_exit(error: &ProbeError) -> Exit {
    // A store that is unfit for a volume counts as one that is not there.
    error.fault().map_or(Exit::Unreachable, fault_exit)
}

fn rewrite_exit(error: &RewriteError) -> Exit {
    match error {
        RewriteError::Contended { .. } => Exit::Failure,
        error => error.fault().map_or(Exit::Unreachable, fault_exit),
    }
}

fn meta_exit(error: &MetaError) -> Exit {
    match error.kind() {
        // Another writer opened it at the same moment.
        ErrorKind::Conflict => Exit::Locked,
        kind => kind_exit(kind),
    }
}

fn fault_exit(fault: StoreFault) -> Exit {
    match fault {
        StoreFault::NoBucket => Exit::NoVolume,
        StoreFault::Insecure | StoreFault::Settings => Exit::Config,
        StoreFault::NotFound
        | StoreFault::AlreadyExists
        | StoreFault::Precondition
        | StoreFault::NotModified => Exit::Failure,
        StoreFault::NoCredentials
        | StoreFault::ExpiredCredentials
        | StoreFault::Denied
        | StoreFault::WrongRegion
        | StoreFault::ClockSkew
        | StoreFault::Untrusted
        | StoreFault::Unavailable
        | StoreFault::Full
        | StoreFault::Unsupported
        | StoreFault::Invalid
        | StoreFault::NotEncrypted
        | StoreFault::Malformed => Exit::Unreachable,
    }
}

fn kind_exit(kind: ErrorKind) -> Exit {
    match kind {
        ErrorKind::Retry => Exit::Unreachable,
        ErrorKind::Corrupt => Exit::Tampered,
        ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::Denied
        | ErrorKind::Full
        | ErrorKind::Invalid
        | ErrorKind::Bug => Exit::Failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_in_the_table_of_the_help() {
        let all = [
            Exit::Success,
            Exit::Failure,
            Exit::Usage,
            Exit::Config,
            Exit::Uncorrected,
            Exit::NotChecked,
            Exit::NoVolume,
            Exit::Locked,
            Exit::WrongKey,
            Exit::Tampered,
            Exit::Unreachable,
            Exit::Mountpoint,
            Exit::SelfTest,
        ];
        let listed: Vec<u8> = TABLE
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(listed, all.map(Exit::code));
    }

    #[test]
    fn errors_end_with_the_code_of_their_kind() {
        let exit = |failure: Failure| failure.exit.code();
        assert_eq!(exit(VolumeError::NoVolume.into()), 10);
        assert_eq!(exit(VolumeError::HeaderTampered.into()), 13);
        assert_eq!(exit(KeyError::NoSource.into()), 3);
        let exposed = KeyError::Exposed { path: "/k".into(), mode: 0o644 };
        assert_eq!(exit(VolumeError::Key(exposed).into()), 3);
        let wrong = VolumeError::WrongKey { kind: crate::keys::SlotKind::Keyfile, slots: 1 };
        assert_eq!(exit(wrong.into()), 12);
        let missing = ConfigError::Missing { key: "volume.url", advice: "set it" };
        assert_eq!(exit(missing.into()), 3);
        let busy = FuseError::MountPointBusy { path: "/m".into() };
        assert_eq!(exit(DaemonError::Fuse(busy).into()), 15);
    }

    #[test]
    fn a_measurement_ends_with_the_code_of_the_store_or_the_mount() {
        let failed = |fault| {
            let source =
                store::StoreError::new(fault, "s3://bucket/p: told").into_object_store("S3", "x");
            let (url, prefix) = ("s3://bucket/p".parse().unwrap(), "probe/bench-1".to_owned());
            Failure::from(BenchError::Store {
                place: Box::new(crate::bench::Place { url, prefix }),
                step: "PUT",
                source: Box::new(source),
                is_removed: false,
            })
        };
        assert_eq!(failed(StoreFault::NoBucket).exit.code(), 10);
        let failure = failed(StoreFault::Unavailable);
        assert_eq!(failure.exit.code(), 14);
        assert_eq!(
            failure.message,
            "the store failed at PUT: s3://bucket/p: told; objects whose names begin with \
             s3://bucket/p/probe/bench-1 may be left: delete them"
        );
        let read_only = BenchError::ReadOnly { mountpoint: "/m".into() };
        assert_eq!(Failure::from(read_only).exit.code(), 15);
        assert_eq!(Failure::from(BenchError::Interrupted).exit.code(), 1);
    }

    #[test]
    fn what_the_store_says_stands_without_the_words_of_the_layers_around_it() {
        let fault = store::StoreError::caused(
            StoreFault::Denied,
            "s3://b/p: access denied; check the credentials",
            std::io::Error::other("sdk"),
        );
        let source = fault.into_object_store("S3", "p/lidfs.json");
        let error = ObjectError::Store { object: "lidfs.json", action: "read", source };
        let failure = Failure::from(VolumeError::Object(error));
        assert_eq!(failure.exit, Exit::Unreachable);
        let whole = "lidfs.json: cannot be read: s3://b/p: access denied; check the credentials";
        assert_eq!(failure.message, whole);
    }
}
