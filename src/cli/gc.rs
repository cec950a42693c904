//! `lidfs gc`

use std::path::PathBuf;
use std::time::Duration;

use super::progress::ask_with_progress;
use super::{Exit, Failure, target};
use crate::config::{Percent, Size};
use crate::daemon::{Request, Response};
use crate::gc::GcFigures;

/// Percentage for a collection that was asked for: more thorough than the background's.
const COMPACT_BELOW: Percent = Percent(95);

/// Give back now the space that deleted and overwritten files took
///
/// A mount does this by itself every now and then; this does not wait, and is more thorough.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The mount point; the volume must be mounted read-write
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Keep packs freed less than this long ago, for read-only mounts that are behind; "0s" if there
    /// are none; default: what the mount's configuration says
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    keep: Option<Duration>,
    /// Write packs anew of whose content less than this is live
    #[arg(long, value_name = "PERCENT", default_value_t = COMPACT_BELOW)]
    compact_below: Percent,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let entry = target::find(&args.mountpoint)?;
    let keep_seconds = args.keep.map(|keep| keep.as_secs());
    let request = Request::Collect { keep_seconds, compact_below: args.compact_below.0 };
    let Response::Collected(figures) = ask_with_progress(&entry, request, None)? else {
        return Err(Failure::new(
            Exit::Failure,
            "the daemon gave another answer than was asked for",
        ));
    };
    if args.json {
        let text = serde_json::to_string(&figures);
        println!("{}", text.map_err(|error| Failure::of(Exit::Failure, &error))?);
    } else {
        println!("{}", sentence(&figures));
    }
    Ok(())
}

fn sentence(figures: &GcFigures) -> String {
    let GcFigures { deleted_packs, orphans, compacted_packs, moved_blocks, .. } = figures;
    let deleted = Size(figures.deleted_bytes);
    let mut parts = vec![
        format!("deleted {deleted_packs} packs of {deleted} and {orphans} orphans"),
        format!("compacted {compacted_packs} packs, {moved_blocks} blocks written anew"),
    ];
    if figures.kept_packs > 0 {
        let kept = Size(figures.kept_bytes);
        parts.push(format!("{} packs of {kept} are kept for now", figures.kept_packs));
    }
    if figures.damaged_packs > 0 {
        parts.push(format!("{} packs are damaged: run lidfs scrub", figures.damaged_packs));
    }
    parts.join("; ")
}
