//! Flags that every command with a volume has, and `-o` lists.

use std::path::PathBuf;

use super::{Exit, Failure};
use crate::config::{self, Config, Loaded, Override, Request, Size};
use crate::keys::KeySource;

/// Which configuration, and what of it is different this time.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct ConfigArgs {
    /// Config file (see config.example.toml)
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Options separated by commas; section.key=value overrides the config file
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(super) options: Vec<String>,
    /// Keyfile to open the volume with
    #[arg(long, value_name = "FILE", group = "secret")]
    pub(super) keyfile: Option<PathBuf>,
    /// Read the passphrase from this open file descriptor
    #[arg(long, value_name = "FD", group = "secret")]
    pub(super) passphrase_fd: Option<u32>,
    /// Ask for the words of a recovery sheet
    #[arg(long, group = "secret")]
    pub(super) recovery_words: bool,
    /// Read the words of a recovery sheet from this open file descriptor
    #[arg(long, value_name = "FD", group = "secret")]
    pub(super) recovery_words_fd: Option<u32>,
}

/// What stands in the configuration, the flags included.
pub(super) struct Resolved {
    /// The whole configuration.
    pub(super) config: Config,
    /// The file it came from.
    pub(super) file: Option<PathBuf>,
    /// Where the secret comes from, where a flag says so.
    pub(super) key: Option<KeySource>,
    /// Mount options that are not of the configuration.
    pub(super) mount_options: Vec<String>,
}

impl Resolved {
    /// Where the secret comes from.
    ///
    /// # Errors
    /// Nothing says so.
    pub(super) fn key_source(&self) -> Result<KeySource, Failure> {
        match &self.key {
            Some(source) => Ok(source.clone()),
            None => Ok(self.config.key.source()?),
        }
    }
}

impl ConfigArgs {
    /// Loads the configuration; `url` is the volume given as an argument.
    ///
    /// # Errors
    /// What is wrong with the file, a variable or a flag.
    pub(super) fn resolve(&self, url: Option<&str>) -> Result<Resolved, Failure> {
        let mut request = Request { file: self.config.clone(), overrides: Vec::new() };
        let mut mount_options = Vec::new();
        for option in self.options.iter().flat_map(|list| split(list)) {
            match meaning(&option) {
                Meaning::Config(file) => request.file = Some(file),
                Meaning::Override(change) => request.overrides.push(change),
                Meaning::Mount => mount_options.push(option),
            }
        }
        if let Some(url) = url {
            request.overrides.push(Override::new("volume URL", "volume", "url", url));
        }
        let Loaded { mut config, file } = config::load(&request)?;
        // At most one of them is given.
        let key = (self.keyfile.clone().map(KeySource::Keyfile))
            .or_else(|| self.passphrase_fd.map(KeySource::PassphraseFd))
            .or_else(|| self.recovery_words_fd.map(KeySource::RecoveryFd))
            .or_else(|| self.recovery_words.then_some(KeySource::RecoveryPrompt));
        make_absolute(&mut config)
            .map_err(|error| Failure::new(Exit::Failure, format!("current directory: {error}")))?;
        Ok(Resolved { config, file, key, mount_options })
    }

    /// As [`resolve`](Self::resolve), for a command that has no use for mount options.
    pub(super) fn resolve_without_mount(&self, url: Option<&str>) -> Result<Resolved, Failure> {
        let resolved = self.resolve(url)?;
        match resolved.mount_options.first() {
            None => Ok(resolved),
            Some(option) => Err(Failure::new(
                Exit::Usage,
                format!("-o {}: not section.key=value; see config.example.toml", name(option)),
            )),
        }
    }
}

/// A daemon leaves the directory that relative paths start from.
fn make_absolute(config: &mut Config) -> std::io::Result<()> {
    let paths = [
        &mut config.store.ca_file,
        &mut config.store.client_certificate,
        &mut config.store.client_key,
        &mut config.store.server_side_encryption.key_file,
        &mut config.store.server_side_encryption.previous_key_file,
        &mut config.key.keyfile,
        &mut config.state.dir,
        &mut config.log.file,
    ];
    for path in paths.into_iter().flatten() {
        *path = std::path::absolute(&path)?;
    }
    match &mut config.cache.disk {
        Some(dir) if dir.as_os_str() != "auto" => *dir = std::path::absolute(&dir)?,
        _ => {}
    }
    Ok(())
}

enum Meaning {
    /// A config file.
    Config(PathBuf),
    /// A value of the configuration.
    Override(Override),
    /// For the kernel, mount(8) or systemd.
    Mount,
}

/// Short names that fstab lines use, besides `section.key=value`.
fn meaning(option: &str) -> Meaning {
    let over = |section, key, value: &str| {
        Meaning::Override(Override::new(&format!("-o {}", name(option)), section, key, value))
    };
    match option.split_once('=') {
        Some(("config", file)) => Meaning::Config(file.into()),
        Some(("keyfile", value)) => over("key", "keyfile", value),
        Some((key @ ("endpoint" | "region" | "profile"), value)) => over("store", key, value),
        Some((name, value)) => match name.split_once('.') {
            Some((section, key)) if Config::SECTIONS.contains(&section) => {
                over(section, key, value)
            }
            _ => Meaning::Mount,
        },
        None if option == "allow_other" => over("mount", "allow_other", "true"),
        None if option == "ro" => over("mount", "read_only", "true"),
        None => Meaning::Mount,
    }
}

/// All of an option that may be told: its value may be a secret that was thought to belong there.
fn name(option: &str) -> &str {
    option.split_once('=').map_or(option, |(name, _)| name)
}

/// Splits at commas, except at those after a backslash.
fn split(list: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        let literal = match character {
            ',' => {
                items.push(String::new());
                continue;
            }
            '\\' => characters.next().unwrap_or('\\'),
            other => other,
        };
        if let Some(item) = items.last_mut() {
            item.push(literal);
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

/// Bytes a second that background work may move.
pub(super) fn size_per_second(text: &str) -> Result<Size, String> {
    match text.parse() {
        Ok(Size(0)) => Err("nothing would ever be done; leave it out for no limit".to_owned()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_split_at_commas_that_are_not_escaped() {
        assert_eq!(split("ro,,allow_other"), ["ro", "allow_other"]);
        assert_eq!(split(r"key.passphrase_command=a\,b,ro"), ["key.passphrase_command=a,b", "ro"]);
        assert_eq!(split(""), Vec::<String>::new());
    }

    #[test]
    fn options_of_the_configuration_are_told_from_those_of_the_kernel() {
        let args = ConfigArgs {
            options: vec![
                "noatime,_netdev,endpoint=https://s3.test,allow_other".to_owned(),
                "cache.memory=64 MiB,store.path_style=true,context=system_u:object_r:x".to_owned(),
            ],
            ..ConfigArgs::default()
        };
        let resolved = args.resolve(Some("s3://bucket/p")).unwrap();
        assert_eq!(resolved.mount_options, ["noatime", "_netdev", "context=system_u:object_r:x"]);
        assert_eq!(resolved.config.store.endpoint.as_deref(), Some("https://s3.test"));
        assert_eq!(resolved.config.store.path_style, Some(true));
        assert_eq!(resolved.config.cache.memory.to_string(), "64 MiB");
        assert!(resolved.config.mount.allow_other);
        assert!(args.resolve_without_mount(None).is_err());
    }

    #[test]
    fn a_wrong_value_names_the_option() {
        let args = ConfigArgs { options: vec!["cache.memory=big".into()], ..ConfigArgs::default() };
        let Err(failure) = args.resolve(None) else { panic!("accepted") };
        assert_eq!(failure.exit, Exit::Config);
        let said = "-o cache.memory: cache.memory: \"big\" is not a size such as";
        assert!(failure.message.starts_with(said), "{}", failure.message);
    }

    #[test]
    fn an_option_that_does_not_exist_is_told_without_its_value() {
        for option in ["key.passphrase=swordfish", "passphrase=swordfish"] {
            let args = ConfigArgs { options: vec![option.into()], ..ConfigArgs::default() };
            let Err(failure) = args.resolve_without_mount(None) else { panic!("accepted") };
            assert!(!failure.message.contains("swordfish"), "{}", failure.message);
            assert!(failure.message.contains("passphrase"), "{}", failure.message);
        }
    }

    #[test]
    fn a_rate_is_a_size_that_is_not_nothing() {
        assert_eq!(size_per_second("20 MiB"), Ok(Size(20 << 20)));
        assert!(size_per_second("0").is_err() && size_per_second("fast").is_err());
    }
}
