//! Called by mount(8): `mount.lidfs SOURCE DIR [-sfnv] [-o OPTIONS]`.
//!
//! `mount -t lidfs` runs `/sbin/mount.lidfs`, `mount -t fuse.lidfs` runs
//! `/sbin/mount.fuse.lidfs`; where only libfuse's `mount.fuse` is there, that runs
//! `lidfs SOURCE DIR -o OPTIONS`. SOURCE is a volume URL or a config file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Exit, Failure, mount};

/// The arguments as those of `lidfs mount`; `None` when mount(8) did not call.
pub(super) fn parse(argv: &[OsString]) -> Option<Result<mount::Args, Failure>> {
    let name = Path::new(argv.first()?).file_name()?.to_str()?;
    let is_helper = matches!(name, "mount.lidfs" | "mount.fuse.lidfs" | "mount.fuse3.lidfs");
    let is_source = argv.get(1).and_then(|word| word.to_str()).is_some_and(|word| {
        // No command has a slash in its name.
        word.contains('/') && !word.starts_with('-') && argv.len() > 2
    });
    (is_helper || is_source).then(|| arguments(&argv[1..]))
}

fn arguments(words: &[OsString]) -> Result<mount::Args, Failure> {
    let usage = || {
        Failure::new(
            Exit::Usage,
            "usage: mount.lidfs SOURCE DIRECTORY [-o OPTIONS]; SOURCE is a volume URL or a config file",
        )
    };
    let mut args = mount::Args::default();
    let mut places = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let text = word.to_str().ok_or_else(usage)?;
        match text {
            "-o" => {
                let list = words.next().and_then(|list| list.to_str()).ok_or_else(usage)?;
                args.config.options.push(list.to_owned());
            }
            // Type and namespace are mount(8)'s own business.
            "-t" | "-N" => {
                words.next();
            }
            _ if text.starts_with("-o") => args.config.options.push(text[2..].to_owned()),
            // sloppy, fake, no mtab, verbose
            _ if text.starts_with('-') && text[1..].chars().all(|flag| "sfnvrw".contains(flag)) => {
                args.read_only |= text.contains('r');
                args.fake |= text.contains('f');
            }
            _ if text.starts_with('-') => return Err(usage()),
            _ => places.push(text.to_owned()),
        }
    }
    let [source, dir] = <[String; 2]>::try_from(places).map_err(|_| usage())?;
    args.mountpoint = PathBuf::from(dir);
    if source.contains("://") {
        args.volume = Some(source);
    } else {
        args.config.config = Some(source.into());
    }
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Option<Result<mount::Args, Failure>> {
        parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_helper_takes_what_mount_8_gives_it() {
        let words = [
            "/sbin/mount.fuse.lidfs",
            "s3://b/p",
            "/mnt/x",
            "-o",
            "rw,_netdev",
            "-n",
            "-t",
            "lidfs",
        ];
        let args = parsed(&words).unwrap().unwrap();
        assert_eq!(args.place(), (Some("s3://b/p"), Path::new("/mnt/x")));
        assert_eq!(args.config.options, ["rw,_netdev"]);
        assert!(args.config.config.is_none());
    }

    #[test]
    fn a_config_file_stands_for_the_volume_in_it() {
        let args = parsed(&["mount.lidfs", "/etc/lidfs/a.toml", "/m", "-osuid,dev"]);
        let args = args.unwrap().unwrap();
        assert_eq!(args.config.config.as_deref(), Some(Path::new("/etc/lidfs/a.toml")));
        assert_eq!(args.config.options, ["suid,dev"]);
    }

    #[test]
    fn mount_f_tries_a_line_of_fstab_without_mounting() {
        let args = parsed(&["mount.lidfs", "s3://b/p", "/", "-fnv", "-o", "rw"]).unwrap().unwrap();
        assert!(args.fake && !args.read_only);
        let args = parsed(&["mount.lidfs", "s3://b/p", "/", "-rn"]).unwrap().unwrap();
        assert!(!args.fake && args.read_only);
    }

    #[test]
    fn the_generic_fuse_helper_calls_by_the_plain_name() {
        let args = parsed(&["lidfs", "s3://b/p", "/m", "-o", "rw"]).unwrap().unwrap();
        assert_eq!(args.place(), (Some("s3://b/p"), Path::new("/m")));
        for words in [&["lidfs", "mount", "s3://b/p", "/m"][..], &["lidfs", "status"], &["lidfs"]] {
            assert!(parsed(words).is_none(), "{words:?}");
        }
    }

    #[test]
    fn incomplete_calls_are_usage_errors() {
        for words in
            [&["mount.lidfs"][..], &["mount.lidfs", "s3://b"], &["mount.lidfs", "a", "b", "-x"]]
        {
            assert_eq!(parsed(words).unwrap().unwrap_err().exit, Exit::Usage, "{words:?}");
        }
    }
}
