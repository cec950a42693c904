//! `lidfs status`: `docs/status.md` describes the JSON form.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::{Exit, Failure, target};
use crate::config::Size;
use crate::daemon::{self, HealthState, Status};
use crate::gc::{RekeyFigures, RekeyStage};

/// Show what is dirty, uploading, cached; requests and health
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The mount point; default: every mount of this user
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: Option<PathBuf>,
    /// JSON as docs/status.md describes it
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let statuses = match &args.mountpoint {
        Some(path) => vec![target::status(&target::find(path)?)?],
        None => daemon::all().iter().map(target::status).collect::<Result<_, _>>()?,
    };
    let text = if args.json {
        match (&args.mountpoint, statuses.first()) {
            (Some(_), Some(status)) => json(status)?,
            _ => json(&statuses)?,
        }
    } else if statuses.is_empty() {
        "no lidfs is mounted by this user\n".to_owned()
    } else {
        statuses.iter().map(render).collect::<Vec<_>>().join("\n")
    };
    print!("{text}");
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| Failure::of(Exit::Failure, &error))
}

fn render(status: &Status) -> String {
    let Status { volume, space, health, write, store, cache, .. } = status;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<10} {value}");
    };
    let mode = if status.read_only { "read-only" } else { "read-write" };
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_seconds));
    line(
        "mount",
        format!("{} ({mode}, process {}, up {uptime})", status.mountpoint.display(), status.pid),
    );
    let pinned = if volume.pinned { "pinned" } else { "first seen by this mount" };
    line("volume", format!("{} (id {}, {pinned})", volume.url, volume.id));
    line(
        "health",
        match &health.message {
            Some(message) if health.state != HealthState::Ok => {
                format!("{}: {message}", health.state.name())
            }
            _ => health.state.name().to_owned(),
        },
    );
    line(
        "content",
        format!("{} in {} inodes, commit {}", size(volume.bytes), volume.inodes, volume.commit),
    );
    line(
        "packs",
        format!(
            "{} in {} packs, of it dead {}; freed and kept for a while {}",
            size(space.pack_bytes),
            space.packs,
            size(space.dead_bytes),
            size(space.freed_bytes)
        ),
    );
    let age = write.oldest_change_ms.map(|ms| format!("; oldest change {ms} ms ago"));
    if status.rekey.stage != RekeyStage::None {
        let RekeyFigures { stage, epoch, bytes_left, error, .. } = &status.rekey;
        let left = format!("{}, epoch {epoch}, {} left", stage.name(), size(*bytes_left));
        let error = error.as_ref().map(|error| format!("; {error}"));
        line("rekey", left + &error.unwrap_or_default());
    }
    line(
        "dirty",
        format!(
            "{}, of it uploading {}{}",
            size(write.dirty_bytes),
            size(write.uploading_bytes),
            age.unwrap_or_default()
        ),
    );
    if write.lost_files > 0 {
        line("lost", format!("{} files lost written bytes: see the log", write.lost_files));
    }
    let requests = &store.requests;
    line(
        "requests",
        format!(
            "get {}, put {}, head {}, list {}, delete {}; failed {}",
            requests.get, requests.put, requests.head, requests.list, requests.delete, store.errors
        ),
    );
    if let Some(cost) = store.cost_usd {
        line("cost", format!("about {cost:.4} USD for these requests at Amazon's list price"));
    }
    line("traffic", format!("{} up, {} down", size(store.bytes.up), size(store.bytes.down)));
    line(
        "cache",
        format!(
            "{} hits, {} misses, {} of memory",
            cache.hits,
            cache.misses,
            size(cache.memory_bytes)
        ),
    );
    for warning in &status.warnings {
        line("warning", warning.clone());
    }
    text
}

/// For people: one decimal, unlike [`Size`], which is exact.
fn size(bytes: u64) -> String {
    if bytes < crate::base::KIB {
        return Size(bytes).to_string();
    }
    bytesize::ByteSize(bytes).display().iec().to_string()
}
