//! `lidfs flush`

use std::path::PathBuf;
use std::time::Duration;

use super::progress::ask_with_progress;
use super::{Failure, target};
use crate::daemon::Request;

/// Return when everything written so far is in the bucket
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The mount point
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Give up waiting after this time, such as "2 min"; default: never
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let entry = target::find(&args.mountpoint)?;
    ask_with_progress(&entry, Request::Flush, args.timeout)?;
    Ok(())
}
