//! `lidfs key`

use std::path::PathBuf;

use super::init::runtime;
use super::options::{ConfigArgs, Resolved};
use super::{Exit, Failure, date};
use crate::base::SystemClock;
use crate::config::Config;
use crate::daemon::{self, Storage};
use crate::keys::{self, KeySource, NewSlot, Purpose, SlotKind};
use crate::volume::{SlotInfo, Volume};

/// Make keyfiles; list, add and remove what opens a volume
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a new keyfile
    Generate {
        /// Where to write it; nothing is overwritten
        #[arg(value_name = "PATH")]
        path: PathBuf,
    },
    /// Show the key slots of a volume
    List(Volumed),
    /// Add a key slot to a volume, opened with a key it has
    Add(AddArgs),
    /// Remove a key slot from a volume
    Remove(RemoveArgs),
    Rekey(super::rekey::Args),
}

#[derive(Debug, clap::Args)]
struct Volumed {
    #[command(flatten)]
    config: ConfigArgs,
    /// The volume: s3://bucket/prefix or file:///absolute/dir; default: the config's
    #[arg(value_name = "URL")]
    volume: Option<String>,
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    #[command(flatten)]
    volumed: Volumed,
    /// Keyfile to add, made by `lidfs key generate`; without it a new passphrase is asked for
    #[arg(long, value_name = "FILE", conflicts_with = "new_passphrase_fd")]
    new_keyfile: Option<PathBuf>,
    /// Read the new passphrase from this open file descriptor
    #[arg(long, value_name = "FD")]
    new_passphrase_fd: Option<u32>,
    /// Words for the new slot
    #[arg(long, default_value = "")]
    label: String,
}

#[derive(Debug, clap::Args)]
struct RemoveArgs {
    #[command(flatten)]
    volumed: Volumed,
    /// Id of the slot, as `lidfs key list` shows it
    #[arg(long, value_name = "ID")]
    slot: String,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Generate { path } => {
            keys::generate_keyfile(&path)?;
            println!(
                "wrote {}; keep a copy of it elsewhere: without it nobody can read the volume",
                path.display()
            );
            Ok(())
        }
        Command::List(args) => {
            let resolved = args.resolve()?;
            let (_, volume) = runtime()?.block_on(open(&resolved))?;
            println!("{:<18} {:<11} {:<21} label", "id", "kind", "made");
            volume.slots().iter().for_each(print_slot);
            Ok(())
        }
        Command::Add(args) => add(&args),
        Command::Remove(args) => remove(&args),
        Command::Rekey(args) => super::rekey::run(&args),
    }
}

impl Volumed {
    fn resolve(&self) -> Result<Resolved, Failure> {
        self.config.resolve_without_mount(self.volume.as_deref())
    }
}

async fn open(resolved: &Resolved) -> Result<(Storage, Volume), Failure> {
    let secret = resolved.key_source()?.secret(Purpose::Unlock)?;
    let config: &Config = &resolved.config;
    Ok(daemon::open_volume(config, &secret).await?)
}

fn add(args: &AddArgs) -> Result<(), Failure> {
    let resolved = args.volumed.resolve()?;
    let source = match (&args.new_keyfile, args.new_passphrase_fd) {
        (Some(path), _) => KeySource::Keyfile(path.clone()),
        (None, Some(fd)) => KeySource::PassphraseFd(fd),
        (None, None) => KeySource::Prompt,
    };
    runtime()?.block_on(async {
        let (storage, mut volume) = open(&resolved).await?;
        let new = NewSlot { secret: source.secret(Purpose::Create)?, label: args.label.clone() };
        let id = volume.add_slot(&new, &SystemClock).await?;
        println!("added key slot {id}");
        Ok(storage.remember(&volume)?)
    })
}

fn remove(args: &RemoveArgs) -> Result<(), Failure> {
    let resolved = args.volumed.resolve()?;
    runtime()?.block_on(async {
        let (storage, mut volume) = open(&resolved).await?;
        let slot = volume.slots().into_iter().find(|slot| slot.id.to_string() == args.slot);
        let Some(slot) = slot else {
            let message = format!("there is no key slot {}; `lidfs key list` shows them", args.slot);
            return Err(Failure::new(Exit::Usage, message));
        };
        volume.remove_slot(slot.id).await?;
        println!("removed key slot {}; who opened the volume with it before may have kept the volume's key", slot.id);
        Ok(storage.remember(&volume)?)
    })
}

fn print_slot(slot: &SlotInfo) {
    let kind: SlotKind = slot.kind;
    let made = date(slot.created);
    println!("{:<18} {:<11} {made:<21} {}", slot.id.to_string(), kind.name(), slot.label);
}
