//! What the figures of a report are drawn as, and the words around them.

use std::fmt::Write as _;

use super::chart::{Chart, Group, Look, figure, wrapped};
use super::size;
use crate::base::MIB;
use crate::bench::{Advice, Latency, MountSpeed, Report, StoreSpeed, Throughput};
use crate::config::Size;

/// A part of the picture.
pub(super) struct Section {
    pub(super) title: String,
    pub(super) charts: Vec<Chart>,
}

pub(super) fn sections(report: &Report) -> Vec<Section> {
    let store = report.store.as_ref().map(store);
    let mount = report.mount.as_ref().map(mount);
    store.into_iter().chain(mount).collect()
}

fn store(speed: &StoreSpeed) -> Section {
    let StoreSpeed { latency, throughput, .. } = speed;
    let group = |name: &str, bars| Group { name: name.to_owned(), bars };
    let latency = Chart {
        title: format!("latency of {}, one request at a time, in ms", Size(speed.small_bytes)),
        groups: vec![
            group("PUT", percentiles(&latency.put)),
            group("GET", percentiles(&latency.get)),
            group("HEAD", percentiles(&latency.head)),
        ],
        notes: Vec::new(),
    };
    let steps = |steps: &[Throughput]| {
        steps
            .iter()
            .map(|step| (step.concurrency.to_string(), mib(step.bytes_per_second)))
            .collect()
    };
    let throughput = Chart {
        title: format!(
            "throughput in MiB/s, by requests at once, objects of {}",
            Size(speed.object_bytes)
        ),
        groups: vec![group("PUT", steps(&throughput.put)), group("GET", steps(&throughput.get))],
        notes: Vec::new(),
    };
    Section { title: format!("store {}", speed.url), charts: vec![latency, throughput] }
}

fn mount(speed: &MountSpeed) -> Section {
    let MountSpeed { write, read, small_files, fsync, .. } = speed;
    let bar = |bytes_per_second| vec![(String::new(), mib(bytes_per_second))];
    let sequential = Chart {
        title: "one large file, in MiB/s".to_owned(),
        groups: vec![
            Group { name: "write".to_owned(), bars: bar(write.bytes_per_second) },
            Group { name: "read".to_owned(), bars: bar(read.bytes_per_second) },
        ],
        notes: vec![
            format!(
                "written: {} until they were in the bucket, {} s of it in the fsync at the end",
                size(write.bytes),
                figure(write.flush_seconds)
            ),
            format!(
                "read: {}, for which {} came from the bucket",
                size(read.bytes),
                size(read.fetched_bytes)
            ),
            format!(
                "{} small files made and in the bucket in {} s: {} a second",
                small_files.files,
                figure(small_files.seconds),
                figure(small_files.files_per_second)
            ),
        ],
    };
    let fsync = Chart {
        title: "fsync after 4 KiB, in ms".to_owned(),
        groups: vec![Group { name: "fsync".to_owned(), bars: percentiles(fsync) }],
        notes: Vec::new(),
    };
    let title = format!("mount {}", speed.mountpoint.display());
    Section { title, charts: vec![sequential, fsync] }
}

fn percentiles(latency: &Latency) -> Vec<(String, f64)> {
    let Latency { p50_ms, p90_ms, p99_ms, .. } = *latency;
    [("p50", p50_ms), ("p90", p90_ms), ("p99", p99_ms)]
        .map(|(name, ms)| (name.to_owned(), ms))
        .into()
}

// Exact.
#[allow(clippy::cast_precision_loss)]
fn mib(bytes: f64) -> f64 {
    bytes / MIB as f64
}

/// A setting as it would stand in a config file, and then why.
pub(super) fn change(advice: &Advice) -> String {
    let Advice { setting, present, value, .. } = advice;
    let present = present.as_deref().unwrap_or("not set");
    match value {
        Some(value) => format!("{setting} = {value} (now: {present})"),
        None => format!("{setting} (now: {present})"),
    }
}

/// What is said where there is no advice.
pub(super) fn no_advice(is_configured: bool) -> &'static str {
    if is_configured {
        "settings: by these figures none needs to be changed"
    } else {
        "settings: give the config of the mount with -c to be told which to change"
    }
}

/// For the terminal.
pub(super) fn text(report: &Report, is_configured: bool, look: &Look) -> String {
    let mut text = String::new();
    for Section { title, charts } in sections(report) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{}", wrapped(&title, 0, look.width));
        for chart in charts {
            let _ = write!(text, "\n{}", chart.text(look));
        }
    }
    text.push('\n');
    if report.advice.is_empty() {
        text += &wrapped(no_advice(is_configured), 0, look.width);
        return text;
    }
    text.push_str("settings to change\n");
    for advice in &report.advice {
        text += &wrapped(&change(advice), 2, look.width);
        text += &wrapped(&advice.why, 6, look.width);
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::{ReadBack, SCHEMA, SmallFiles, StoreLatency, StoreThroughput, WriteThrough};

    pub(in crate::cli::bench) fn report(url: &str) -> Report {
        let latency = Latency::of([1, 2, 30].map(Duration::from_millis).into());
        let steps = [1, 32].map(|at_once| {
            Throughput::new(at_once, MIB * at_once as u64, Duration::from_millis(100))
        });
        Report {
            schema: SCHEMA,
            version: "0".to_owned(),
            store: Some(StoreSpeed {
                url: url.to_owned(),
                small_bytes: 4096,
                object_bytes: MIB,
                latency: StoreLatency { put: latency, get: latency, head: latency },
                throughput: StoreThroughput { put: steps.to_vec(), get: steps.to_vec() },
            }),
            mount: Some(MountSpeed {
                mountpoint: "/m".into(),
                write: WriteThrough {
                    bytes: MIB,
                    bytes_per_second: 5e6,
                    ..WriteThrough::default()
                },
                read: ReadBack { bytes: MIB, bytes_per_second: 9e6, ..ReadBack::default() },
                small_files: SmallFiles::default(),
                fsync: latency,
            }),
            advice: vec![Advice {
                setting: "cache.disk".to_owned(),
                present: None,
                value: Some("auto".to_owned()),
                why: "a read takes 30 ms, and what has left memory is fetched again".to_owned(),
            }],
        }
    }

    #[test]
    fn the_text_has_every_part_within_the_width() {
        for width in [40, 80, 100] {
            let text = text(&report("s3://b/p"), true, &Look { width, is_unicode: true });
            for part in ["store s3://b/p", "mount /m", "PUT", "fsync", "(now: not set)"] {
                assert!(text.contains(part), "{part}: {text}");
            }
            let too_long = text.lines().find(|line| line.chars().count() > width);
            assert_eq!(too_long, None, "{width}");
        }
    }

    #[test]
    fn no_advice_has_its_reason() {
        let look = Look { width: 80, is_unicode: false };
        let report = Report { advice: Vec::new(), ..report("s3://b/p") };
        assert!(
            text(&report, true, &look).ends_with("by these figures none needs to be changed\n")
        );
        assert!(text(&report, false, &look).contains("give the config of the mount with -c"));
    }
}
