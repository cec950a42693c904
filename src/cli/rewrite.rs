//! `lidfs rewrite`

use super::Failure;
use super::init::{customer_key_warning, runtime};
use super::options::{ConfigArgs, size_per_second};
use super::progress::WorkBar;
use crate::check::Progress;
use crate::config::Size;
use crate::daemon;
use crate::store::{RewriteProgress, Rewritten};

/// Write every object anew as [store.server_side_encryption] now says
///
/// Only objects that the store encrypts otherwise; their bytes stay the same. Works beside a mount,
/// which must have been started with the new configuration. What is interrupted goes on where it was.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// The volume: s3://bucket/prefix; default: the config's
    #[arg(value_name = "URL")]
    volume: Option<String>,
    /// Bytes to rewrite a second at most, such as "20 MiB"; default: as fast as possible
    #[arg(long, value_name = "SIZE", value_parser = size_per_second)]
    rate: Option<Size>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let resolved = args.config.resolve_without_mount(args.volume.as_deref())?;
    let config = &resolved.config;
    if let Some(warning) = customer_key_warning(config) {
        println!("{warning}");
    }
    let bar = WorkBar::new();
    let show = |RewriteProgress { bytes, bytes_total }: RewriteProgress| {
        bar.show(Progress { bytes, bytes_total, faulty: 0 });
    };
    let rate = args.rate.as_ref().map(|rate| rate.0);
    let done = runtime()?.block_on(daemon::rewrite(config, rate, &show));
    bar.end();
    println!("{}", sentence(&done?));
    Ok(())
}

fn sentence(done: &Rewritten) -> String {
    let Rewritten { aim, rewritten, unchanged, vanished, .. } = done;
    format!(
        "{rewritten} objects ({}) written anew, {unchanged} were so already, {vanished} were \
         deleted meanwhile; server-side encryption: {aim}",
        Size(done.bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Encrypted;

    #[test]
    fn the_end_tells_what_was_done_and_how_the_store_encrypts_now() {
        let aim = Encrypted { algorithm: Some("AES256".to_owned()), ..Encrypted::default() };
        let done = Rewritten { aim, rewritten: 3, bytes: 5 << 20, unchanged: 2, vanished: 1 };
        assert_eq!(
            sentence(&done),
            "3 objects (5 MiB) written anew, 2 were so already, 1 were deleted meanwhile; \
             server-side encryption: sse-s3"
        );
    }
}
