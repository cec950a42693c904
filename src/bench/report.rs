//! What was measured. `docs/bench.md` describes the JSON form.
//!
//! Invariant: within one [`SCHEMA`] fields are added, never renamed, retyped or removed.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// Version of the JSON form.
pub const SCHEMA: u32 = 1;

/// Everything that was measured, and what it speaks for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of this program.
    pub version: String,
    /// `None` if it was not measured.
    pub store: Option<StoreSpeed>,
    /// `None` if it was not measured.
    pub mount: Option<MountSpeed>,
    /// What to change, most effective first. Empty also where the configuration is not known.
    pub advice: Vec<Advice>,
}

/// How fast a store is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoreSpeed {
    /// The volume's address.
    pub url: String,
    /// Bytes in an object of `latency`.
    pub small_bytes: u64,
    /// Bytes in an object of `throughput`.
    pub object_bytes: u64,
    /// How long a request takes, one at a time.
    pub latency: StoreLatency,
    /// How much passes, by requests at once.
    pub throughput: StoreThroughput,
}

/// Latency by kind of request.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StoreLatency {
    /// Until the store has confirmed a small object.
    pub put: Latency,
    /// Until all of it has arrived.
    pub get: Latency,
    /// Until its size is known.
    pub head: Latency,
}

/// Throughput by direction.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StoreThroughput {
    /// To the store.
    pub put: Vec<Throughput>,
    /// From the store.
    pub get: Vec<Throughput>,
}

/// How long something takes: percentiles by nearest rank, in milliseconds; 0 without samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// How often it was tried.
    pub samples: usize,
    /// Half took no longer.
    pub p50_ms: f64,
    /// Nine of ten took no longer.
    pub p90_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// None took longer.
    pub max_ms: f64,
}

impl Latency {
    /// Of single times, in any order.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent| percentile(&times, percent).as_secs_f64() * 1000.0;
        Self {
            samples: times.len(),
            p50_ms: at(50),
            p90_ms: at(90),
            p99_ms: at(99),
            max_ms: at(100),
        }
    }
}

/// The smallest of `sorted` that `percent` of them do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// What passed in which time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Throughput {
    /// Requests at once.
    pub concurrency: usize,
    /// What passed.
    pub bytes: u64,
    /// From the first request's begin to the last one's end.
    pub seconds: f64,
    /// One through the other.
    pub bytes_per_second: f64,
}

impl Throughput {
    /// One through the other.
    pub fn new(concurrency: usize, bytes: u64, time: Duration) -> Self {
        Self {
            concurrency,
            bytes,
            seconds: time.as_secs_f64(),
            bytes_per_second: per_second(bytes, time),
        }
    }
}

/// 0 if there was no time.
// Exact up to 2^53 bytes.
#[allow(clippy::cast_precision_loss)]
pub(super) fn per_second(count: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// How fast a mount is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MountSpeed {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// A large file, written from front to end.
    pub write: WriteThrough,
    /// The same file, read from front to end.
    pub read: ReadBack,
    /// Many small files.
    pub small_files: SmallFiles,
    /// Until 4 KiB of a file are in the bucket.
    pub fsync: Latency,
}

/// A file written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct WriteThrough {
    /// What was written.
    pub bytes: u64,
    /// Until all of it was in the bucket.
    pub seconds: f64,
    /// Part of it: after the last byte was written.
    pub flush_seconds: f64,
    /// Bytes by all seconds.
    pub bytes_per_second: f64,
}

/// A file read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ReadBack {
    /// What was read.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// One through the other.
    pub bytes_per_second: f64,
    /// What the mount fetched from the bucket meanwhile: the rest was in its caches.
    pub fetched_bytes: u64,
}

/// Small files made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct SmallFiles {
    /// How many.
    pub files: u64,
    /// Bytes in each.
    pub file_bytes: u64,
    /// Until all of them were in the bucket.
    pub seconds: f64,
    /// One through the other.
    pub files_per_second: f64,
}

/// A setting to change, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// As in the config file: `section.key`.
    pub setting: String,
    /// What it is now; `None` where it is not set.
    pub present: Option<String>,
    /// What to set it to; `None` where only its owner can know.
    pub value: Option<String>,
    /// Why, in one sentence.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(times: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        times.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let of_hundred = Latency::of(millis((1..=100).rev()));
        let expected =
            Latency { samples: 100, p50_ms: 50.0, p90_ms: 90.0, p99_ms: 99.0, max_ms: 100.0 };
        assert_eq!(of_hundred, expected);
        let of_three = Latency::of(millis([30, 10, 20]));
        let expected =
            Latency { samples: 3, p50_ms: 20.0, p90_ms: 30.0, p99_ms: 30.0, max_ms: 30.0 };
        assert_eq!(of_three, expected);
        assert_eq!(Latency::of(millis([7])).p50_ms.to_bits(), 7.0_f64.to_bits());
        assert_eq!(Latency::of(Vec::new()), Latency::default());
    }

    #[test]
    fn throughput_without_time_is_none() {
        let two = Throughput::new(4, 1 << 20, Duration::from_millis(500));
        assert_eq!(two.bytes_per_second.to_bits(), f64::from(2 << 20).to_bits());
        assert_eq!(Throughput::new(1, 9, Duration::ZERO).bytes_per_second.to_bits(), 0);
    }

    #[test]
    fn the_json_form_is_the_one_that_is_documented() {
        let report = Report {
            schema: SCHEMA,
            version: "1".to_owned(),
            store: Some(StoreSpeed {
                url: "s3://b/p".to_owned(),
                small_bytes: 4096,
                object_bytes: 1 << 20,
                latency: StoreLatency::default(),
                throughput: StoreThroughput {
                    put: vec![Throughput::new(1, 1, Duration::from_secs(1))],
                    get: vec![Throughput::new(1, 1, Duration::from_secs(1))],
                },
            }),
            mount: Some(MountSpeed {
                mountpoint: "/m".into(),
                write: WriteThrough::default(),
                read: ReadBack::default(),
                small_files: SmallFiles::default(),
                fsync: Latency::default(),
            }),
            advice: vec![Advice {
                setting: "write.pack_size".to_owned(),
                present: None,
                value: None,
                why: String::new(),
            }],
        };
        let mut fields = Vec::new();
        leaves("", &serde_json::to_value(&report).unwrap(), &mut fields);
        let documented = include_str!("../../docs/bench.md");
        for field in &fields {
            assert!(documented.contains(&format!("`{field}`")), "docs/bench.md lacks `{field}`");
        }
        // The other way round: nothing is described that is not there.
        let rows = documented.lines().filter_map(|line| line.strip_prefix("| `"));
        let cells = rows.filter_map(|row| row.split(" |").next());
        let mut named: Vec<&str> =
            cells.flat_map(|cell| cell.split("`, `")).map(|name| name.trim_matches('`')).collect();
        named.sort_unstable();
        fields.sort_unstable();
        assert_eq!(named, fields);
    }

    /// Paths of everything that is no table; of a list, that of its items.
    fn leaves(path: &str, value: &serde_json::Value, found: &mut Vec<String>) {
        let below =
            |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match value {
            serde_json::Value::Object(fields) => {
                for (key, value) in fields {
                    leaves(&below(key), value, found);
                }
            }
            serde_json::Value::Array(items) => {
                for item in items {
                    leaves(&format!("{path}[]"), item, found);
                }
            }
            _ => found.push(path.to_owned()),
        }
    }
}
