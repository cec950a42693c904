//! `lidfs init`

use super::options::ConfigArgs;
use super::{Exit, Failure};
use crate::config::Config;
use crate::daemon;
use crate::keys::{NewSlot, Purpose};

/// Make a volume in an empty prefix of a bucket
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// The volume: s3://bucket/prefix or file:///absolute/dir; default: the config's
    #[arg(value_name = "URL")]
    volume: Option<String>,
    /// Words for the first key slot
    #[arg(long, default_value = "first key")]
    label: String,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let resolved = args.config.resolve_without_mount(args.volume.as_deref())?;
    let config = &resolved.config;
    let url = config.url()?;
    let secret = resolved.key_source()?.secret(Purpose::Create)?;
    let slot = NewSlot { secret, label: args.label.clone() };
    let made = runtime()?.block_on(daemon::create(config, slot))?;
    println!("made volume {} at {url}, key fingerprint {}", made.id(), made.fingerprint());
    if let Some(arn) = made.slots().into_iter().find_map(|slot| slot.kms_key)
        && config.key.kms_key.as_ref() != Some(&arn)
    {
        println!("to open it, write into [key]: kms_key = \"{arn}\"");
    }
    println!(
        "keep the key safe, and a copy of it elsewhere: without it nobody can read the volume"
    );
    if let Some(warning) = customer_key_warning(config) {
        println!("{warning}");
    }
    Ok(())
}

/// What must be known of a key that the server never keeps.
pub(super) fn customer_key_warning(config: &Config) -> Option<String> {
    let encryption = &config.store.server_side_encryption;
    let file = encryption.key_file.as_ref()?.display();
    Some(format!(
        "keep {file} safe, too, and a copy of it elsewhere: the server never keeps this key (sse-c), \
         and without it nobody can read the objects: losing it loses the data"
    ))
}

/// A small runtime for a command that asks the store a few things.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failure, format!("no runtime: {error}")))
}
