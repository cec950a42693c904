//! Which settings the figures speak for.
//!
//! Each rule is one function: figures and configuration in, advice out if there is something to gain. Only
//! settings that exist, and each with its reason, so that its owner can judge.

use std::time::Duration;

use super::report::{Advice, MountSpeed, StoreSpeed};
use crate::base::MIB;
use crate::config::{Config, Size};
use crate::data::PACK_BYTES_MAX;
use crate::fs::PACKS_IN_FLIGHT_MAX;
use crate::store::StoreUrl;

/// A store from which answers take so long is far away.
const FAR_MS: f64 = 50.0;
/// So far that a detour through the nearest edge of AWS pays.
const VERY_FAR_MS: f64 = 150.0;
/// From here on what is asked for again is better kept on disk.
const DISTANT_MS: f64 = 20.0;
/// Part of a pack's time on its way that waiting may take.
const WAITING_MAX: f64 = 0.2;
/// Objects that tell how long sending takes.
const OBJECT_MIN: u64 = MIB;
/// Part of a wait by which it varies.
const WAITING_NOISE: f64 = 0.1;
/// Packs that fit into what may be dirty: as many as are on their way, and the next ones.
const PACKS_DIRTY: u64 = 2 * PACKS_IN_FLIGHT_MAX as u64;
/// Memory in all for each byte that may be dirty.
const MEMORY_FOR_DIRTY: u64 = 4;
/// A request with all its retries should have so many times what one takes.
const DEADLINE_TIMES: f64 = 10.0;
/// A mount that writes less than this part of what the store takes is held up by something else.
const MOUNT_PART: f64 = 0.5;

/// What to change in `config`, most effective first.
pub fn advise(
    config: &Config,
    url: &StoreUrl,
    store: Option<&StoreSpeed>,
    mount: Option<&MountSpeed>,
) -> Vec<Advice> {
    let is_remote = matches!(url, StoreUrl::S3 { .. });
    let mut advice = Vec::new();
    let pack_bytes = store.filter(|_| is_remote).and_then(|store| pack_size(config, store));
    if let Some(store) = store.filter(|_| is_remote) {
        advice.extend(nearer(config, store));
        advice.extend(accelerate(config, store));
        advice.extend(pack_bytes.map(|(bytes, waiting)| larger_packs(config, bytes, waiting)));
    }
    let pack_bytes = pack_bytes.map_or(config.write.pack_size.0, |(bytes, _)| bytes);
    advice.extend(more_dirty(config, pack_bytes));
    if let Some(store) = store.filter(|_| is_remote) {
        advice.extend(more_memory(config, pack_bytes, store));
        advice.extend(disk_cache(config, store));
        advice.extend(longer_deadline(config, store));
    }
    if let (Some(store), Some(mount)) = (store, mount) {
        advice.extend(without_quota(config, store, mount));
    }
    advice
}

/// No setting makes a way shorter but the one that says where it leads.
fn nearer(config: &Config, store: &StoreSpeed) -> Option<Advice> {
    let ms = store.latency.put.p50_ms;
    if ms < FAR_MS {
        return None;
    }
    let (setting, present, what) = match &config.store.endpoint {
        Some(endpoint) => ("store.endpoint", Some(endpoint.clone()), "a server"),
        None => ("store.region", config.store.region.clone(), "a bucket in a region"),
    };
    Some(Advice {
        setting: setting.to_owned(),
        present,
        value: None,
        why: format!(
            "half of the small writes take {ms:.0} ms or more, and every fsync waits for at least one; {what} \
             near this machine would shorten it (the volume has to be copied there)"
        ),
    })
}

fn accelerate(config: &Config, store: &StoreSpeed) -> Option<Advice> {
    let own = &config.store;
    let is_possible = own.endpoint.is_none() && own.path_style != Some(true) && !own.fips;
    let ms = store.latency.put.p50_ms;
    (ms >= VERY_FAR_MS && is_possible && !own.accelerate).then(|| Advice {
        setting: "store.accelerate".to_owned(),
        present: Some("false".to_owned()),
        value: Some("true".to_owned()),
        why: format!(
            "at {ms:.0} ms for a small write, requests through the nearest edge of AWS are faster if the bucket \
             stays where it is; the bucket must allow it, and it costs"
        ),
    })
}

/// The size at which a pack's time on its way is sending rather than waiting, and the part that waiting
/// has now; `None` if that is little.
fn pack_size(config: &Config, store: &StoreSpeed) -> Option<(u64, f64)> {
    let present = config.write.pack_size.0;
    let step = store.throughput.put.iter().find(|step| step.concurrency == PACKS_IN_FLIGHT_MAX)?;
    let waiting = store.latency.put.p50_ms / 1000.0;
    let each = step.bytes_per_second / f64_of(PACKS_IN_FLIGHT_MAX as u64);
    // Small objects do not tell how long sending takes.
    if each <= 0.0 || waiting <= 0.0 || store.object_bytes < OBJECT_MIN {
        return None;
    }
    // What an object took beside the wait: less than some of that cannot be told from it.
    let object = f64_of(store.object_bytes);
    let per_byte = ((object / each) - waiting).max(waiting * WAITING_NOISE) / object;
    let part = |bytes: u64| waiting / (waiting + per_byte * f64_of(bytes));
    let mut bytes = present;
    while part(bytes) > WAITING_MAX && bytes < PACK_BYTES_MAX {
        bytes = (bytes * 2).min(PACK_BYTES_MAX);
    }
    (bytes > present).then_some((bytes, part(present)))
}

fn larger_packs(config: &Config, bytes: u64, waiting: f64) -> Advice {
    Advice {
        setting: "write.pack_size".to_owned(),
        present: Some(config.write.pack_size.to_string()),
        value: Some(Size(bytes).to_string()),
        why: format!(
            "at most {PACKS_IN_FLIGHT_MAX} packs are on their way at once, and {:.0} % of their time is waiting for the \
             store's answer; larger ones wait less",
            waiting * 100.0
        ),
    }
}

fn more_dirty(config: &Config, pack_bytes: u64) -> Option<Advice> {
    let present = config.write.dirty_max.0;
    let enough = PACKS_DIRTY * pack_bytes;
    (present < enough).then(|| Advice {
        setting: "write.dirty_max".to_owned(),
        present: Some(config.write.dirty_max.to_string()),
        value: Some(Size(enough).to_string()),
        why: format!(
            "while {PACKS_IN_FLIGHT_MAX} packs of {} are on their way there is no room for the next ones, and writers wait; \
             this is memory that the mount may take",
            Size(pack_bytes)
        ),
    })
}

fn more_memory(config: &Config, pack_bytes: u64, store: &StoreSpeed) -> Option<Advice> {
    let present = config.cache.memory;
    let enough = MEMORY_FOR_DIRTY * PACKS_DIRTY * pack_bytes;
    let ms = store.latency.get.p50_ms;
    (present.0 < enough && ms >= DISTANT_MS).then(|| Advice {
        setting: "cache.memory".to_owned(),
        present: Some(present.to_string()),
        value: Some(Size(enough).to_string()),
        why: format!(
            "a request takes {ms:.0} ms, which packs on their way at once and reading ahead hide; a quarter of this memory \
             is for what is written, and three eighths for what is read"
        ),
    })
}

fn disk_cache(config: &Config, store: &StoreSpeed) -> Option<Advice> {
    let ms = store.latency.get.p50_ms;
    (config.cache.disk.is_none() && ms >= DISTANT_MS).then(|| Advice {
        setting: "cache.disk".to_owned(),
        present: None,
        value: Some("auto".to_owned()),
        why: format!(
            "a read takes {ms:.0} ms, and what has left memory is fetched again; a disk cache (sealed) keeps it"
        ),
    })
}

fn longer_deadline(config: &Config, store: &StoreSpeed) -> Option<Advice> {
    let latency = &store.latency;
    let slowest = [latency.put, latency.get, latency.head].map(|each| each.max_ms);
    let seconds = slowest.into_iter().fold(0.0, f64::max) / 1000.0;
    let present = config.store.deadline;
    let enough = Duration::from_secs_f64(seconds * DEADLINE_TIMES);
    (present < enough).then(|| Advice {
        setting: "store.deadline".to_owned(),
        present: Some(duration(present)),
        value: Some(duration(Duration::from_mins(enough.as_secs() / 60 + 1))),
        why: format!(
            "the slowest small request took {seconds:.1} s, so that few repetitions of one that fails fit in"
        ),
    })
}

fn without_quota(config: &Config, store: &StoreSpeed, mount: &MountSpeed) -> Option<Advice> {
    let quota = config.write.quota?;
    let step = store.throughput.put.iter().find(|step| step.concurrency == PACKS_IN_FLIGHT_MAX)?;
    let is_slow = mount.write.bytes_per_second < MOUNT_PART * step.bytes_per_second;
    is_slow.then(|| Advice {
        setting: "write.quota".to_owned(),
        present: Some(quota.to_string()),
        value: None,
        why: "the mount writes less than half of what the store takes; with a quota each write comes to lidfs \
              at once, which is slower: leave it out if you can"
            .to_owned(),
    })
}

/// As in the config file.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds != 0 && seconds.is_multiple_of(60) {
        format!("{}m", seconds / 60)
    } else {
        format!("{seconds}s")
    }
}

// Exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn f64_of(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        CONCURRENCY, Latency, ReadBack, SmallFiles, StoreLatency, StoreThroughput, Throughput,
        WriteThrough,
    };

    fn latency(ms: f64) -> Latency {
        Latency { samples: 100, p50_ms: ms, p90_ms: ms, p99_ms: ms, max_ms: ms }
    }

    /// A store that answers after `ms` and takes `mib` a second from each worker.
    fn store(ms: f64, mib: f64) -> StoreSpeed {
        let object_bytes = MIB;
        let seconds = ms / 1000.0 + 1.0 / mib;
        let step = |workers: usize| {
            Throughput::new(
                workers,
                object_bytes * workers as u64,
                Duration::from_secs_f64(seconds),
            )
        };
        let steps = CONCURRENCY.map(step).to_vec();
        StoreSpeed {
            url: String::new(),
            small_bytes: 4096,
            object_bytes,
            latency: StoreLatency { put: latency(ms), get: latency(ms), head: latency(ms) },
            throughput: StoreThroughput { put: steps.clone(), get: steps },
        }
    }

    fn mount(mib: u32) -> MountSpeed {
        let bytes_per_second = f64::from(mib) * f64_of(MIB);
        MountSpeed {
            mountpoint: "/m".into(),
            write: WriteThrough { bytes_per_second, ..WriteThrough::default() },
            read: ReadBack::default(),
            small_files: SmallFiles::default(),
            fsync: Latency::default(),
        }
    }

    fn remote() -> StoreUrl {
        "s3://bucket/p".parse().unwrap()
    }

    /// `setting: value` of each.
    fn told(config: &Config, store: &StoreSpeed, mount: Option<&MountSpeed>) -> Vec<String> {
        let advice = advise(config, &remote(), Some(store), mount);
        let line =
            |each: &Advice| format!("{} {}", each.setting, each.value.as_deref().unwrap_or("-"));
        advice.iter().map(line).collect()
    }

    #[test]
    fn a_store_nearby_with_the_defaults_needs_no_change() {
        assert_eq!(told(&Config::default(), &store(2.0, 40.0), Some(&mount(100))), [""; 0]);
        let file: StoreUrl = "file:///tmp/bucket".parse().unwrap();
        assert_eq!(advise(&Config::default(), &file, Some(&store(80.0, 5.0)), None), []);
        assert_eq!(advise(&Config::default(), &remote(), None, Some(&mount(1))), []);
    }

    #[test]
    fn a_far_store_is_told_by_the_setting_that_says_where_it_is() {
        let mut config = Config::default();
        let far = store(80.0, 40.0);
        assert_eq!(told(&config, &far, None), ["store.region -", "cache.disk auto"]);
        config.store.endpoint = Some("https://s3.test".to_owned());
        config.cache.disk = Some("auto".into());
        let advice = advise(&config, &remote(), Some(&far), None);
        assert_eq!(advice.len(), 1);
        assert_eq!(advice[0].setting, "store.endpoint");
        assert_eq!(advice[0].present.as_deref(), Some("https://s3.test"));
        assert!(advice[0].why.starts_with("half of the small writes take 80 ms or more"));
    }

    #[test]
    fn acceleration_is_for_endpoints_of_aws_that_are_very_far() {
        let mut config = Config::default();
        config.cache.disk = Some("auto".into());
        let far = store(200.0, 10.0);
        assert_eq!(told(&config, &far, None), ["store.region -", "store.accelerate true"]);
        config.store.path_style = Some(true);
        assert_eq!(told(&config, &far, None), ["store.region -"]);
        config.store.path_style = None;
        config.store.accelerate = true;
        assert_eq!(told(&config, &far, None), ["store.region -"]);
    }

    #[test]
    fn packs_that_mostly_wait_are_too_small_and_larger_ones_need_room() {
        let mut config = Config::default();
        config.write.pack_size = Size(MIB);
        config.write.dirty_max = Size(16 * MIB);
        // 40 ms of waiting beside 25 ms of sending; at 8 MiB it is 40 beside 200.
        let slow = store(40.0, 40.0);
        config.cache.disk = Some("auto".into());
        assert_eq!(told(&config, &slow, None), ["write.pack_size 8 MiB", "write.dirty_max 64 MiB"]);
        let advice = advise(&config, &remote(), Some(&slow), None);
        assert!(
            advice[0].why.contains("4 packs are on their way") && advice[0].why.contains("62 %")
        );
        // However fast: no more than a pack may have.
        config.cache.disk = Some("auto".into());
        let fast = store(40.0, 4000.0);
        assert_eq!(told(&config, &fast, None)[0], "write.pack_size 64 MiB");
    }

    #[test]
    fn objects_too_small_to_tell_speak_for_no_pack_size() {
        let mut config = Config::default();
        config.cache.disk = Some("auto".into());
        let mut few = store(40.0, 40_000.0);
        assert_eq!(told(&config, &few, None)[0], "write.pack_size 64 MiB");
        few.object_bytes = MIB - 1;
        assert_eq!(told(&config, &few, None), [""; 0]);
    }

    #[test]
    fn memory_for_dirty_data_and_for_reading_ahead() {
        let mut config = Config::default();
        config.write.dirty_max = Size(64 * MIB);
        assert_eq!(told(&config, &store(2.0, 40.0), None), ["write.dirty_max 128 MiB"]);
        let mut config = Config::default();
        config.cache.memory = Size(32 * MIB);
        assert_eq!(told(&config, &store(2.0, 40.0), None), [""; 0]);
        let distant = store(30.0, 40.0);
        assert_eq!(told(&config, &distant, None), ["cache.memory 512 MiB", "cache.disk auto"]);
    }

    #[test]
    fn a_deadline_leaves_room_for_repetitions() {
        let mut config = Config::default();
        let mut slow = store(2.0, 40.0);
        slow.latency.head.max_ms = 9000.0;
        assert_eq!(told(&config, &slow, None), ["store.deadline 2m"]);
        config.store.deadline = Duration::from_mins(2);
        assert_eq!(told(&config, &slow, None), [""; 0]);
        assert_eq!([90, 120].map(|seconds| duration(Duration::from_secs(seconds))), ["90s", "2m"]);
    }

    #[test]
    fn a_quota_is_told_where_the_mount_stays_far_behind_the_store() {
        let mut config = Config::default();
        config.write.quota = Some(Size(1 << 40));
        let nearby = store(2.0, 40.0);
        assert_eq!(told(&config, &nearby, Some(&mount(30))), ["write.quota -"]);
        assert_eq!(told(&config, &nearby, Some(&mount(120))), [""; 0]);
        config.write.quota = None;
        assert_eq!(told(&config, &nearby, Some(&mount(30))), [""; 0]);
    }

    #[test]
    fn only_settings_that_exist_are_named() {
        let mut known = Vec::new();
        let mut section = "";
        for line in include_str!("../../config.example.toml").lines() {
            let line = line.trim_start_matches("#: ");
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']');
            } else if let Some((key, _)) = line.split_once(" = ") {
                known.push(format!("{section}.{key}"));
            }
        }
        let mut config = Config::default();
        config.write.pack_size = Size(MIB);
        config.write.dirty_max = Size(4 * MIB);
        config.write.quota = Some(Size(1 << 40));
        config.cache.memory = Size(MIB);
        config.store.deadline = Duration::from_secs(1);
        let far = store(200.0, 10.0);
        let mut named = told(&config, &far, Some(&mount(1)));
        config.store.endpoint = Some("https://s3.test".to_owned());
        named.extend(told(&config, &far, None));
        let settings: std::collections::BTreeSet<_> =
            named.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(settings.len(), 9, "{settings:?}");
        for setting in settings {
            assert!(known.iter().any(|each| each == setting), "{setting}");
        }
    }
}
