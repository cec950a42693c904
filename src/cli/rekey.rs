//! `lidfs key rekey`

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::options::size_per_second;
use super::progress::RekeyBar;
use super::{Exit, Failure, target};
use crate::config::Size;
use crate::daemon::{Entry, Request};
use crate::gc::{RekeyFigures, RekeyStage};

/// How often the daemon is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(250);

/// Seal everything anew with a new data key, then destroy the old one
///
/// Everything stays readable and writable meanwhile. What is begun goes on after a crash, with the next
/// mount. Whoever kept copies of old objects together with the old key can still read those.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The mount point; the volume must be mounted read-write
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Seal no more bytes a second than this, such as "20 MiB"; default: what the mount's configuration says
    #[arg(long, value_name = "SIZE", value_parser = size_per_second)]
    rate: Option<Size>,
    /// Keep old packs this long for read-only mounts that are behind; "0s" if there are none; default:
    /// what the mount's configuration says. The old key is destroyed after that
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    keep: Option<Duration>,
    /// Do not wait until it is done; `lidfs status` tells how far it is
    #[arg(long)]
    background: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let entry = target::find(&args.mountpoint)?;
    let rate = args.rate.as_ref().map(|rate| rate.0);
    let keep_seconds = args.keep.map(|keep| keep.as_secs());
    target::ask(&entry, Request::Rekey { rate, keep_seconds }, None)?;
    if args.background {
        println!("begun; `lidfs status {}` tells how far it is", args.mountpoint.display());
        return Ok(());
    }
    let done = wait(&entry)?;
    println!(
        "rekeyed: everything is sealed with the key of epoch {}, and older keys are destroyed",
        done.epoch
    );
    Ok(())
}

/// Until it is done.
fn wait(entry: &Entry) -> Result<RekeyFigures, Failure> {
    let bar = RekeyBar::new();
    let mut told = None;
    loop {
        let figures = target::status(entry)?.rekey;
        bar.show(&figures);
        match figures.stage {
            RekeyStage::Done => {
                bar.end();
                return Ok(figures);
            }
            RekeyStage::None => {
                bar.end();
                return Err(Failure::new(Exit::Failure, "the rekey was not begun; see the log"));
            }
            _ => {}
        }
        if figures.error.is_some() && figures.error != told {
            bar.say(&format!(
                "lidfs: {}; it is tried again",
                figures.error.as_deref().unwrap_or_default()
            ));
            told = figures.error;
        }
        thread::sleep(INTERVAL);
    }
}
