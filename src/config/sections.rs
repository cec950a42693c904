//! The sections of the file, and the whole.
//!
//! `[store]` and `[key]` are the own configs of those parts. The other parts
//! take plain numbers; their sections stand here, as people write them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Shares, cache_home, state_home};
use crate::base::{BLOCK_SIZE_DEFAULT, BlockSize, GIB, KIB, MIB};
use crate::format::header::{Compression, VolumeParams};
use crate::fs::FsConfig;
use crate::gc::{GcPolicy, RekeyPolicy};
use crate::keys;
use crate::store::{StoreConfig, StoreUrl};

/// The whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Which volume.
    pub volume: VolumeSection,
    /// How to reach it.
    pub store: StoreConfig,
    /// What opens it.
    pub key: keys::Config,
    /// What of it is kept on this machine.
    pub cache: Cache,
    /// Where this machine remembers it.
    pub state: State,
    /// How it is written.
    pub write: Write,
    /// When space that nothing needs comes back.
    pub gc: Gc,
    /// How it is shown.
    pub mount: Mount,
    /// What is told about it.
    pub log: Log,
}

impl Config {
    /// Names of the sections.
    pub const SECTIONS: [&str; 9] =
        ["volume", "store", "key", "cache", "state", "write", "gc", "mount", "log"];

    /// Sections that have a table of their own, its name, and its keys where not every name is one of
    /// them: `LIDFS_KEY_KMS_REGION` is `key.kms.region`, and `LIDFS_KEY_KMS_KEY` is `key.kms_key`.
    pub const TABLES: [(&str, &str, &[&str]); 2] = [
        ("store", "server_side_encryption", &[]),
        ("key", "kms", &["region", "endpoint", "profile"]),
    ];

    /// The volume's address.
    ///
    /// # Errors
    /// [`ConfigError::Missing`].
    pub fn url(&self) -> Result<&StoreUrl, ConfigError> {
        self.volume.url.as_ref().ok_or(ConfigError::Missing {
            key: "volume.url",
            advice: "give a volume URL (s3://bucket/prefix or file:///absolute/dir), or -c CONFIG",
        })
    }
}

impl Config {
    /// Who may hold how much of the memory for content.
    pub fn shares(&self) -> Shares {
        Shares::new(&self.cache, &self.write)
    }

    /// What the file system is told.
    pub fn fs_config(&self) -> FsConfig {
        let (write, shares) = (&self.write, self.shares());
        FsConfig {
            commit_interval: write.commit_interval,
            dirty_bytes_max: shares.dirty_bytes,
            packs_in_flight: shares.packs_in_flight,
            quota_bytes: write.quota.map(|quota| quota.0),
            pack_bytes: write.pack_size.0,
            deadline: write.deadline,
            ..FsConfig::default()
        }
    }
}

/// `[volume]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VolumeSection {
    /// `s3://bucket/prefix` or `file:///absolute/dir`.
    pub url: Option<StoreUrl>,
}

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Memory for content; [`Shares`](super::Shares) says how it is divided.
    pub memory: Size,
    /// Directory for sealed content; none without it.
    pub disk: Option<PathBuf>,
    /// Disk space for it.
    pub disk_size: Size,
}

impl Default for Cache {
    fn default() -> Self {
        Self { memory: Size(512 * MIB), disk: None, disk_size: Size(10 * GIB) }
    }
}

impl Cache {
    /// The directory for sealed content where `disk = "auto"`, or the one that is named.
    ///
    /// # Errors
    /// [`ConfigError::NoHome`].
    pub fn disk_dir(&self) -> Result<Option<PathBuf>, ConfigError> {
        match &self.disk {
            Some(dir) if dir.as_os_str() == "auto" => cache_home().map(Some),
            other => Ok(other.clone()),
        }
    }
}

/// `[state]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// Directory for freshness pins and logs.
    pub dir: Option<PathBuf>,
}

impl State {
    /// The directory that is named, or the XDG one.
    ///
    /// # Errors
    /// [`ConfigError::NoHome`].
    pub fn directory(&self) -> Result<PathBuf, ConfigError> {
        self.dir.clone().map_or_else(state_home, Ok)
    }
}

/// `[write]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Write {
    /// Bytes in one block; counts at `init` only.
    pub block_size: VolumeBlockSize,
    /// How blocks are compressed; counts at `init` only.
    pub compression: CompressionName,
    /// Size of the objects that content is packed into.
    pub pack_size: Size,
    /// Most bytes written and not yet in the bucket: writers wait beyond.
    pub dirty_max: Size,
    /// Bytes of content that the volume may hold.
    pub quota: Option<Size>,
    /// Longest time until a change is in the bucket without `fsync`.
    #[serde(with = "duration")]
    pub commit_interval: Duration,
    /// How long an operation waits for the store before it fails.
    #[serde(with = "duration")]
    pub deadline: Duration,
}

impl Default for Write {
    fn default() -> Self {
        Self {
            block_size: VolumeBlockSize(BLOCK_SIZE_DEFAULT),
            compression: CompressionName(VolumeParams::default().compression),
            pack_size: Size(FsConfig::default().pack_bytes),
            dirty_max: Size(FsConfig::default().dirty_bytes_max),
            quota: None,
            commit_interval: FsConfig::default().commit_interval,
            deadline: FsConfig::default().deadline,
        }
    }
}

impl Write {
    /// What `init` fixes for a volume's life.
    pub fn volume_params(&self) -> VolumeParams {
        VolumeParams { block_size: self.block_size.0, compression: self.compression.0 }
    }
}

/// `[gc]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gc {
    /// Time between two collections.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Freed packs are kept this long for read-only mounts.
    #[serde(with = "duration")]
    pub keep: Duration,
    /// Packs of whose content less than this many percent is live are written anew.
    pub compact_below: Percent,
    /// Most bytes a second that a rekey seals anew; default: no bound.
    pub rekey_rate: Option<Size>,
}

impl Default for Gc {
    fn default() -> Self {
        let GcPolicy { keep, compact_below } = GcPolicy::default();
        Self {
            interval: Duration::from_mins(10),
            keep,
            compact_below: Percent(compact_below),
            rekey_rate: None,
        }
    }
}

impl Gc {
    /// What the collector is told.
    pub fn policy(&self) -> GcPolicy {
        GcPolicy { keep: self.keep, compact_below: self.compact_below.0 }
    }

    /// What a rekey is told that goes on by itself.
    pub fn rekey_policy(&self) -> RekeyPolicy {
        RekeyPolicy { rate: self.rekey_rate.map(|rate| rate.0), keep: self.keep }
    }
}

/// `[mount]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mount {
    /// Users other than the one who mounts may use it.
    pub allow_other: bool,
    /// Nothing can be changed through this mount.
    pub read_only: bool,
    /// Shown as the owner of everything.
    pub uid: Option<u32>,
    /// Shown as the group of everything.
    pub gid: Option<u32>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter by module.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
    /// The file; without it standard error, or in the background a file below `state.dir`.
    pub file: Option<PathBuf>,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text, file: None }
    }
}

impl Log {
    /// What is wrong with a level or filter: every part of it must end with a level.
    ///
    /// A word that is no level would be taken for the name of a module, and a typing
    /// mistake would so switch the log off.
    pub fn check(level: &str) -> Result<(), String> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        for part in level.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let word = part.rsplit_once('=').map_or(part, |(_, word)| word).trim();
            if !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)) {
                let levels = LEVELS.join(", ");
                return Err(format!("{word:?} is not one of {levels}"));
            }
        }
        Ok(())
    }
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A number of bytes, written as `256 MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")]
            .into_iter()
            .find(|(unit, _)| self.0 != 0 && self.0.is_multiple_of(*unit));
        match unit {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<ByteSize>()
            .map(|size| Self(size.as_u64()))
            .map_err(|_| format!("{text:?} is not a size such as \"256 MiB\""))
    }
}

/// Bytes in a block: a [`Size`] that a volume can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeBlockSize(pub BlockSize);

impl fmt::Display for VolumeBlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Size(self.0.bytes()).fmt(f)
    }
}

impl FromStr for VolumeBlockSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size: Size = text.parse()?;
        BlockSize::new(size.0)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a power of two from 4 KiB to 1 MiB"))
    }
}

/// A share, written as `50 %`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(pub u8);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim_end().parse();
        let percent = number.ok().filter(|percent| *percent <= 100);
        percent.map(Self).ok_or_else(|| format!("{text:?} is not a percentage such as \"50 %\""))
    }
}

/// How blocks are compressed: `none` or `zstd:LEVEL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressionName(pub Compression);

impl fmt::Display for CompressionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CompressionName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Reads and writes a value as the text that people write.
macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(Size, VolumeBlockSize, CompressionName, Percent);

/// Durations as people write them: `5 s`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        match humantime::parse_duration(&text) {
            Ok(value) if !value.is_zero() => Ok(value),
            _ => Err(D::Error::custom(format!("{text:?} is not a duration such as \"5 s\""))),
        }
    }

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../config.example.toml");

    /// The example with every commented-out setting of an option that has no default left out.
    #[test]
    fn the_example_file_holds_the_defaults() {
        let config: Config = toml::from_str(EXAMPLE).unwrap();
        assert_eq!(config, Config::default());
    }

    #[test]
    fn the_example_file_names_every_key() {
        let whole = EXAMPLE.replace("\n#: ", "\n");
        let config: Config = toml::from_str(&whole).unwrap();
        let written = toml::to_string(&config).unwrap();
        // What is still absent after all settings are uncommented is missing from the example.
        for key in written.lines().filter_map(|line| Some(line.split_once(" = ")?.0)) {
            let named = |line: &str| line.split_once(" = ").is_some_and(|(name, _)| name == key);
            assert!(whole.lines().any(named), "{key}");
        }
        assert!(config.volume.url.is_some() && config.cache.disk.is_some());
        assert!(config.state.dir.is_some() && config.log.file.is_some());
        assert!(config.write.quota.is_some());
        assert!(config.mount.uid.is_some() && config.mount.gid.is_some());
        let encryption = config.store.server_side_encryption;
        assert!(encryption.key_file.is_some() && encryption.previous_key_file.is_some());
        assert!(encryption.kms_key_id.is_some() && encryption.bucket_key.is_some());
        assert!(!encryption.encryption_context.is_empty());
        let StoreConfig { client_certificate, client_key, storage_class, .. } = config.store;
        assert!(client_certificate.is_some() && client_key.is_some() && storage_class.is_some());
        let StoreConfig { endpoint, region, profile, path_style, ca_file, .. } = config.store;
        assert!(config.store.expected_bucket_owner.is_some());
        assert!(endpoint.is_some() && region.is_some() && profile.is_some());
        assert!(path_style.is_some() && ca_file.is_some());
        let keys::Config { keyfile, passphrase_command, recovery_command, kms_key, kms } =
            config.key;
        assert!(keyfile.is_some() && passphrase_command.is_some());
        assert!(recovery_command.is_some() && kms_key.is_some());
        assert!(kms.region.is_some() && kms.endpoint.is_some() && kms.profile.is_some());
    }

    #[test]
    fn sections_are_those_of_the_struct() {
        let text = toml::to_string(&Config::default()).unwrap();
        for section in Config::SECTIONS {
            let bare = ["volume", "key", "state"].contains(&section);
            assert!(bare || text.contains(&format!("[{section}]")), "{section}");
            toml::from_str::<Config>(&format!("[{section}]\n")).unwrap();
        }
    }

    #[test]
    fn a_log_level_with_a_typing_mistake_is_refused() {
        for good in ["info", "WARN", "off", "info,lidfs::store=debug", "lidfs=trace"] {
            assert_eq!(Log::check(good), Ok(()), "{good}");
        }
        for bad in ["inof", "info,lidfs::store", "lidfs::store=debgu"] {
            assert!(Log::check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_durations_read_as_people_write_them() {
        for text in ["256 MiB", "10 GiB", "4 KiB", "1 B"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        let write: Write =
            toml::from_str("commit_interval = \"1m 5s\"\nblock_size = \"128KiB\"").unwrap();
        assert_eq!(write.commit_interval, Duration::from_secs(65));
        assert_eq!(write.volume_params().block_size.bytes(), 128 * KIB);
        for bad in ["block_size = \"3 KiB\"", "dirty_max = \"much\"", "deadline = \"0 s\""] {
            assert!(toml::from_str::<Write>(bad).is_err(), "{bad}");
        }
    }
}
