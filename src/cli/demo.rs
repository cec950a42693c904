//! `lidfs demo`: a drive in one command.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::init::runtime;
use super::mount::{in_background, mount_place};
use super::{Exit, Failure};
use crate::config::{self, Config};
use crate::daemon::{self, Plan};
use crate::keys::{self, KeySource, NewSlot, Purpose};
use crate::store::StoreUrl;
use crate::volume::HEADER_NAME;

/// Mount an encrypted drive that needs no server
///
/// The first run makes a bucket in a local directory and a key; later ones open them again.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to mount; made if it does not exist
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Directory that stands in for a bucket; default: below the XDG data directory
    #[arg(long, value_name = "DIR")]
    bucket: Option<PathBuf>,
}

/// Where the demo keeps its things.
struct Place {
    bucket: PathBuf,
    key: PathBuf,
    config: PathBuf,
}

impl Place {
    fn new(bucket: Option<&Path>) -> Result<Self, Failure> {
        let (home, bucket) = if let Some(dir) = bucket {
            let dir = std::path::absolute(dir).map_err(|error| failed(dir, &error))?;
            // The key must not lie in the bucket that it protects.
            let mut home = dir.clone().into_os_string();
            home.push(".lidfs");
            (PathBuf::from(home), dir)
        } else {
            let home = config::data_home()?.join("demo");
            let bucket = home.join("bucket");
            (home, bucket)
        };
        private_dir(&home)?;
        private_dir(&bucket)?;
        Ok(Self { bucket, key: home.join("key"), config: home.join("config.toml") })
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let place = Place::new(args.bucket.as_deref())?;
    fs::create_dir_all(&args.mountpoint).or_else(|error| match error.kind() {
        // Also what a mount is answered with whose daemon died: `mount` sees to that.
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotConnected => Ok(()),
        _ => Err(failed(&args.mountpoint, &error)),
    })?;
    let config = write_config(&place)?;
    let is_new = !place.bucket.join(HEADER_NAME).exists();
    let mountpoint = mount_place(&args.mountpoint)?;
    let greeting = greeting(&place, &mountpoint, is_new);
    let plan = Plan {
        mountpoint,
        key: KeySource::Keyfile(place.key.clone()),
        mount_options: Vec::new(),
        takeover: false,
        accept_rollback: false,
        config: config.clone(),
        config_file: Some(place.config.clone()),
    };
    in_background(&plan, &greeting, || if is_new { make(&place, &config) } else { Ok(()) })
}

fn make(place: &Place, config: &Config) -> Result<(), Failure> {
    if !place.key.exists() {
        keys::generate_keyfile(&place.key)?;
    }
    let secret = KeySource::Keyfile(place.key.clone()).secret(Purpose::Create)?;
    let slot = NewSlot { secret, label: "demo".to_owned() };
    runtime()?.block_on(daemon::create(config, slot))?;
    Ok(())
}

/// The demo's configuration, written out for `lidfs mount -c` and for reading.
fn write_config(place: &Place) -> Result<Config, Failure> {
    let mut config = Config::default();
    config.volume.url = Some(StoreUrl::File { dir: place.bucket.clone() });
    config.key.keyfile = Some(place.key.clone());
    let text = format!(
        "# Made by `lidfs demo`.\n[volume]\nurl = {}\n\n[key]\nkeyfile = {}\n",
        quoted(&format!("file://{}", place.bucket.display())),
        quoted(&place.key.display().to_string()),
    );
    fs::write(&place.config, text).map_err(|error| failed(&place.config, &error))?;
    Ok(config)
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn greeting(place: &Place, mountpoint: &Path, is_new: bool) -> String {
    let (bucket, key, config) =
        (place.bucket.display(), place.key.display(), place.config.display());
    let mountpoint = mountpoint.display();
    let made = if is_new { "a new one, with a new key" } else { "the one made before" };
    format!(
        "  drive    {mountpoint}    write files here\n  \
           bucket   {bucket}    ({made}) everything lies here, sealed\n  \
           key      {key}    without it the bucket is noise\n  \
           config   {config}\n\
         \n  \
           lidfs status {mountpoint}\n  \
           lidfs umount {mountpoint}    returns when everything is in the bucket\n"
    )
}

fn private_dir(dir: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| failed(dir, &error))
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failure, format!("{}: {error}; choose another place", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_config_reads_back_as_the_one_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(Some(&dir.path().join("a \"b\" c"))).unwrap();
        let config = write_config(&place).unwrap();
        let text = fs::read_to_string(&place.config).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
        assert!(!place.key.starts_with(&place.bucket));
    }
}
