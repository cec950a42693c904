//! `lidfs key`

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::init::runtime;
use super::options::{ConfigArgs, Resolved};
use super::sheet::Sheet;
use super::{Exit, Failure, date};
use crate::base::{Clock, SystemClock};
use crate::config::Config;
use crate::crypto::SecretKey;
use crate::daemon::{self, Storage};
use crate::format::header::SlotId;
use crate::keys::{self, KeySource, NewSlot, Purpose, Secret, SlotKind};
use crate::volume::{Holders, SlotInfo, SlotUses, Volume};

/// Make keyfiles; list, add, rotate and remove what opens a volume
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
    ///
    /// `last used` is when this machine opened the volume with that slot: it is kept beside the freshness
    /// pins, since other machines' uses would cost each of their mounts a request.
    List(ListArgs),
    /// Add a key slot to a volume, opened with a key it has
    Add(AddArgs),
    /// Wrap the volume key anew for one slot, or make a new volume key
    ///
    /// Neither takes away what was learnt before: whoever had the volume key, or has a copy of an old
    /// lidfs.json and its secret, still reads what he could read, and what is written under the same data keys.
    Rotate(RotateArgs),
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
struct ListArgs {
    #[command(flatten)]
    volumed: Volumed,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// A secret for a slot.
#[derive(Debug, clap::Args)]
struct NewSecret {
    /// A keyfile, made by `lidfs key generate`
    #[arg(long, value_name = "FILE", group = "new")]
    new_keyfile: Option<PathBuf>,
    /// Ask for a new passphrase
    #[arg(long, group = "new")]
    new_passphrase: bool,
    /// Read the new passphrase from this open file descriptor
    #[arg(long, value_name = "FD", group = "new")]
    new_passphrase_fd: Option<u32>,
    /// A symmetric key in AWS KMS, by its ARN or alias; [key.kms] says how to reach it
    #[arg(long, value_name = "ARN", group = "new")]
    kms_key: Option<String>,
    /// Words for paper: they are shown once, with a QR code
    #[arg(long, group = "new")]
    recovery: bool,
    /// Write the sheet with the recovery words to this file, too
    #[arg(long, value_name = "FILE", requires = "recovery")]
    svg: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    #[command(flatten)]
    volumed: Volumed,
    #[command(flatten)]
    new: NewSecret,
    /// Words for the new slot
    #[arg(long, default_value = "")]
    label: String,
}

#[derive(Debug, clap::Args)]
struct RotateArgs {
    #[command(flatten)]
    volumed: Volumed,
    /// Id of the slot to wrap anew; without a new secret the one that opens it gets a new salt
    #[arg(long, value_name = "ID", required_unless_present = "volume_key")]
    slot: Option<String>,
    /// Make a new volume key, wrapped for the slots whose secrets are given and for those in KMS
    #[arg(long, conflicts_with_all = ["slot", "new"])]
    volume_key: bool,
    #[command(flatten)]
    new: NewSecret,
    // clap drops a requirement whose fulfilment would conflict, so the conflict is named, too.
    /// With --volume-key: keep the slot of this keyfile (repeatable)
    #[arg(long, value_name = "FILE", requires = "volume_key", conflicts_with = "slot")]
    with_keyfile: Vec<PathBuf>,
    /// With --volume-key: keep the slot of the passphrase in this file descriptor (repeatable)
    #[arg(long, value_name = "FD", requires = "volume_key", conflicts_with = "slot")]
    with_passphrase_fd: Vec<u32>,
    /// With --volume-key: keep the slot of the recovery words in this file descriptor (repeatable)
    #[arg(long, value_name = "FD", requires = "volume_key", conflicts_with = "slot")]
    with_recovery_words_fd: Vec<u32>,
    /// With --volume-key: remove the slots whose secrets are not given
    #[arg(long, requires = "volume_key", conflicts_with = "slot")]
    drop_others: bool,
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
        Command::List(args) => list(&args),
        Command::Add(args) => add(&args),
        Command::Rotate(args) if args.volume_key => rotate_volume_key(&args),
        Command::Rotate(args) => rotate_slot(&args),
        Command::Remove(args) => remove(&args),
        Command::Rekey(args) => super::rekey::run(&args),
    }
}

impl Volumed {
    fn resolve(&self) -> Result<Resolved, Failure> {
        self.config.resolve_without_mount(self.volume.as_deref())
    }
}

/// An open volume, and what opened it.
struct Opened {
    storage: Storage,
    volume: Volume,
    secret: Secret,
}

async fn open(resolved: &Resolved) -> Result<Opened, Failure> {
    let secret = resolved.key_source()?.secret(Purpose::Unlock)?;
    let config: &Config = &resolved.config;
    let (storage, volume) = daemon::open_volume(config, &secret).await?;
    Ok(Opened { storage, volume, secret })
}

impl Opened {
    fn slot(&self, id: &str) -> Result<SlotInfo, Failure> {
        let slot = self.volume.slots().into_iter().find(|slot| slot.id.to_string() == id);
        slot.ok_or_else(|| {
            let message = format!("there is no key slot {id}; `lidfs key list` shows them");
            Failure::new(Exit::Usage, message)
        })
    }

    fn remember(&self) -> Result<(), Failure> {
        Ok(self.storage.remember(&self.volume)?)
    }
}

impl NewSecret {
    /// Where the secret comes from; `None`: it is new words.
    fn source(&self, config: &Config) -> Option<KeySource> {
        let kms = |key: &String| KeySource::Kms(key.clone(), config.key.kms.clone());
        (self.new_keyfile.clone().map(KeySource::Keyfile))
            .or_else(|| self.new_passphrase_fd.map(KeySource::PassphraseFd))
            .or_else(|| self.kms_key.as_ref().map(kms))
            .or_else(|| (!self.recovery).then_some(KeySource::Prompt))
    }

    fn is_given(&self) -> bool {
        self.new_keyfile.is_some()
            || self.new_passphrase_fd.is_some()
            || self.new_passphrase
            || self.kms_key.is_some()
            || self.recovery
    }

    /// The secret, and the paper for it if it goes there.
    fn secret<'a>(
        &'a self,
        config: &Config,
        label: &'a str,
    ) -> Result<(Secret, Option<Paper<'a>>), Failure> {
        if let Some(source) = self.source(config) {
            return Ok((source.secret(Purpose::Create)?, None));
        }
        let key = SecretKey::generate();
        let paper = Paper::new(&key, label, self.svg.as_deref())?;
        Ok((Secret::Recovery(key), Some(paper)))
    }
}

/// A recovery sheet, and the empty file that waits for it: a sheet that cannot be written is no slot.
struct Paper<'a> {
    sheet: Sheet<'a>,
    file: Option<(&'a Path, File)>,
}

impl<'a> Paper<'a> {
    fn new(key: &SecretKey, label: &'a str, svg: Option<&'a Path>) -> Result<Self, Failure> {
        let sheet = Sheet::new(key, label)?;
        let create = |path: &'a Path| {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            file.map(|file| (path, file)).map_err(|error| unwritten(path, &error))
        };
        Ok(Self { sheet, file: svg.map(create).transpose()? })
    }

    fn print(mut self, opened: &Opened, slot: SlotId) -> Result<(), Failure> {
        self.sheet.volume = opened.volume.id().to_string();
        self.sheet.url = opened.storage.url.to_string();
        self.sheet.slot = slot;
        self.sheet.made = SystemClock.now().seconds;
        println!("{}", *self.sheet.text());
        let Some((path, mut file)) = self.file else { return Ok(()) };
        let svg = self.sheet.svg();
        let written = file.write_all(svg.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(|error| unwritten(path, &error))?;
        println!("wrote {}; print it, then delete it", path.display());
        Ok(())
    }

    /// Nothing came of it.
    fn discard(self) {
        if let Some((path, _)) = self.file {
            // What failed is already being reported.
            let _ = fs::remove_file(path);
        }
    }
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    let path = path.display();
    Failure::new(Exit::Failure, format!("recovery sheet {path}: {error}; choose another path"))
}

fn add(args: &AddArgs) -> Result<(), Failure> {
    let resolved = args.volumed.resolve()?;
    runtime()?.block_on(async {
        let mut opened = open(&resolved).await?;
        let (secret, paper) = args.new.secret(&resolved.config, &args.label)?;
        let new = NewSlot { secret, label: args.label.clone() };
        let id = match opened.volume.add_slot(&new, &SystemClock).await {
            Ok(id) => id,
            Err(error) => {
                paper.into_iter().for_each(Paper::discard);
                return Err(error.into());
            }
        };
        println!("added key slot {id}");
        tell_arn(&opened.volume, id);
        paper.map_or(Ok(()), |paper| paper.print(&opened, id))?;
        opened.remember()
    })
}

/// What a config has to name for opening a KMS slot.
fn tell_arn(volume: &Volume, id: SlotId) {
    let slot = volume.slots().into_iter().find(|slot| slot.id == id);
    if let Some(arn) = slot.and_then(|slot| slot.kms_key) {
        println!("it opens with this in [key]: kms_key = \"{arn}\"");
    }
}

fn rotate_slot(args: &RotateArgs) -> Result<(), Failure> {
    let resolved = args.volumed.resolve()?;
    runtime()?.block_on(async {
        let mut opened = open(&resolved).await?;
        let slot = opened.slot(args.slot.as_deref().unwrap_or_default())?;
        let (secret, mut paper) = if args.new.is_given() {
            args.new.secret(&resolved.config, &slot.label)?
        } else {
            (same_secret(&opened, &slot, &resolved.config)?, None)
        };
        // New words are on paper before the old ones open nothing any more.
        let printed = paper.take_if(|_| secret.kind() == slot.kind);
        let is_printed = printed.is_some();
        printed.map_or(Ok(()), |paper| paper.print(&opened, slot.id))?;
        if let Err(error) = opened.volume.rotate_slot(slot.id, &secret, &SystemClock).await {
            paper.into_iter().for_each(Paper::discard);
            if is_printed {
                println!("the sheet may be void: try it with `lidfs key list --recovery-words` before you keep it, and keep the old one");
            }
            return Err(error.into());
        }
        println!("rotated key slot {}; with a copy of the old lidfs.json its old secret still opens the volume as it was wrapped then", slot.id);
        tell_arn(&opened.volume, slot.id);
        opened.remember()
    })
}

/// The secret that a slot has, for another salt.
fn same_secret(opened: &Opened, slot: &SlotInfo, config: &Config) -> Result<Secret, Failure> {
    if let Some(arn) = &slot.kms_key {
        return Ok(KeySource::Kms(arn.clone(), config.key.kms.clone()).secret(Purpose::Unlock)?);
    }
    if slot.id == opened.volume.opened_by() {
        return Ok(opened.secret.clone());
    }
    let message = format!(
        "key slot {} was opened by another secret than the one given; open the volume with its own, or give it a new {}",
        slot.id, slot.kind
    );
    Err(Failure::new(Exit::Usage, message))
}

fn rotate_volume_key(args: &RotateArgs) -> Result<(), Failure> {
    let resolved = args.volumed.resolve()?;
    runtime()?.block_on(async {
        let mut opened = open(&resolved).await?;
        let mut secrets = vec![opened.secret.clone()];
        let keyfiles = args.with_keyfile.iter().cloned().map(KeySource::Keyfile);
        let passphrases = args.with_passphrase_fd.iter().copied().map(KeySource::PassphraseFd);
        let words = args.with_recovery_words_fd.iter().copied().map(KeySource::RecoveryFd);
        for source in keyfiles.chain(passphrases).chain(words) {
            secrets.push(source.secret(Purpose::Unlock)?);
        }
        let (kms, drop_others) = (&resolved.config.key.kms, args.drop_others);
        let holders = Holders { secrets: &secrets, kms, drop_others };
        // What is remembered from before may not yet know the volume by what survives a new key.
        opened.remember()?;
        let dropped = opened.volume.rotate_volume_key(&holders).await?;
        println!("the volume key is new, with fingerprint {}", opened.volume.fingerprint());
        for slot in dropped {
            println!("dropped key slot {} ({}) {}", slot.id, slot.kind, slot.label);
        }
        println!("data keys stay: who had the old volume key and old objects still reads what he could read");
        opened.remember()
    })
}

fn remove(args: &RemoveArgs) -> Result<(), Failure> {
    let resolved = args.volumed.resolve()?;
    runtime()?.block_on(async {
        let mut opened = open(&resolved).await?;
        let slot = opened.slot(&args.slot)?;
        opened.volume.remove_slot(slot.id).await?;
        println!("removed key slot {}; who opened the volume with it before may have kept the volume's key", slot.id);
        opened.remember()
    })
}

/// A slot in the answer of `lidfs key list --json`.
#[derive(Serialize)]
struct Listed {
    id: String,
    kind: &'static str,
    label: String,
    /// Made or last rotated, in seconds since 1970.
    created: i64,
    age_s: i64,
    strength: String,
    /// By this machine, in seconds since 1970.
    last_used: Option<i64>,
}

impl Listed {
    fn new(slot: SlotInfo, uses: &SlotUses, now: i64) -> Self {
        let SlotInfo { id, kind, label, created, strength, .. } = slot;
        let kind: SlotKind = kind;
        Self {
            id: id.to_string(),
            kind: kind.name(),
            label,
            created,
            age_s: now.saturating_sub(created).max(0),
            strength,
            last_used: uses.of(id),
        }
    }

    fn print(&self) {
        let used = self.last_used.map_or_else(|| "-".to_owned(), date);
        println!(
            "{:<18} {:<11} {:<21} {:<8} {used:<21} {}  {}",
            self.id,
            self.kind,
            date(self.created),
            age(self.age_s),
            self.strength,
            self.label
        );
    }
}

/// How old something is, in its largest unit.
fn age(seconds: i64) -> String {
    let units = [(365 * 86_400, "y"), (86_400, "d"), (3_600, "h"), (60, "min")];
    let unit = units.into_iter().find(|(unit, _)| seconds >= *unit);
    unit.map_or_else(|| format!("{seconds} s"), |(unit, name)| format!("{} {name}", seconds / unit))
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let resolved = args.volumed.resolve()?;
    let opened = runtime()?.block_on(open(&resolved))?;
    let uses = opened.storage.pins.slot_uses(&opened.storage.location);
    let now = SystemClock.now().seconds;
    let slots = opened.volume.slots().into_iter().map(|slot| Listed::new(slot, &uses, now));
    let slots: Vec<_> = slots.collect();
    if args.json {
        let text = serde_json::to_string_pretty(&slots)
            .map_err(|error| Failure::new(Exit::Failure, format!("no JSON: {error}")))?;
        println!("{text}");
        return Ok(());
    }
    println!(
        "{:<18} {:<11} {:<21} {:<8} {:<21} strength, label",
        "id", "kind", "made", "age", "last used (here)"
    );
    slots.iter().for_each(Listed::print);
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn parses(line: &str) -> bool {
        Line::try_parse_from(std::iter::once("key").chain(line.split(' '))).is_ok()
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for good in [
            "add --recovery --svg x.svg",
            "add --kms-key alias/x --label cloud",
            "rotate --slot 0000000000000000",
            "rotate --slot 0000000000000000 --new-keyfile k",
            "rotate --volume-key --with-keyfile a --with-keyfile b --drop-others",
            "list --json s3://bucket/drive",
        ] {
            assert!(parses(good), "{good}");
        }
        for bad in [
            "add --svg x.svg",
            "add --recovery --new-keyfile k",
            "rotate",
            "rotate --volume-key --slot 0000000000000000",
            "rotate --volume-key --new-keyfile k",
            "rotate --slot 0000000000000000 --drop-others",
            "rotate --slot 0000000000000000 --with-keyfile k",
        ] {
            assert!(!parses(bad), "{bad}");
        }
    }

    #[test]
    fn ages_are_told_in_their_largest_unit() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (3_599, "59 min"),
            (86_399, "23 h"),
            (86_400, "1 d"),
            (800 * 86_400, "2 y"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }
}
