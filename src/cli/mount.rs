//! `lidfs mount`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process;

use super::options::ConfigArgs;
use super::{Exit, Failure};
use crate::daemon::{self, Plan, Side, Starting};

/// Mount a volume
///
/// Returns when the mount answers; the mount goes on in the background.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(allow_missing_positional = true)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// The volume: s3://bucket/prefix or file:///absolute/dir; default: the config's
    #[arg(value_name = "URL", required = false)]
    pub(super) volume: Option<String>,
    /// An empty directory
    #[arg(value_name = "MOUNTPOINT", required = true)]
    pub(super) mountpoint: PathBuf,
    /// Stay in the foreground (for systemd: Type=notify)
    #[arg(short, long)]
    pub(super) foreground: bool,
    /// Change nothing; works beside another machine's writing mount
    #[arg(short, long)]
    pub(super) read_only: bool,
    /// Check the arguments only, as `mount -f` asks its helpers to.
    #[arg(skip)]
    pub(super) fake: bool,
    #[command(flatten)]
    pub(super) accepted: Accepted,
}

/// What a mount otherwise refuses.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(super) struct Accepted {
    /// Take the volume over from the mount that writes it now
    #[arg(long, conflicts_with = "read_only")]
    pub(super) takeover: bool,
    /// Mount although the bucket holds an older state, or another volume, than this machine saw last
    #[arg(long)]
    pub(super) accept_rollback: bool,
}

impl Args {
    /// Volume and mount point as given.
    #[cfg(test)]
    pub(super) fn place(&self) -> (Option<&str>, &Path) {
        (self.volume.as_deref(), &self.mountpoint)
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let resolved = args.config.resolve(args.volume.as_deref())?;
    let mut config = resolved.config.clone();
    config.mount.read_only |= args.read_only;
    config.url()?;
    let plan = Plan {
        mountpoint: mount_place(&args.mountpoint)?,
        key: resolved.key_source()?,
        mount_options: resolved.mount_options.clone(),
        takeover: args.accepted.takeover,
        accept_rollback: args.accepted.accept_rollback,
        config,
        config_file: resolved.file.as_deref().and_then(|file| std::path::absolute(file).ok()),
    };
    if args.fake {
        Ok(())
    } else if args.foreground {
        serve(&plan, Starting::foreground())
    } else {
        in_background(&plan, "", || Ok(()))
    }
}

/// The absolute path of the directory to mount at.
pub(super) fn mount_place(path: &Path) -> Result<PathBuf, Failure> {
    daemon::canonical(path).map_err(|error| {
        let path = path.display();
        Failure::new(
            Exit::Mountpoint,
            format!("mount point {path}: {error}; create the directory first"),
        )
    })
}

/// Mounts in a process of its own; says `greeting` when that answers.
///
/// `prepare` runs there first: this process must not start a runtime before it
/// forks, because the child would inherit one without its threads.
pub(super) fn in_background(
    plan: &Plan,
    greeting: &str,
    prepare: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let keep = plan.key.descriptor().and_then(|fd| i32::try_from(fd).ok());
    let forked = daemon::detach(keep.as_slice()).map_err(|error| {
        Failure::new(Exit::Failure, format!("no process for the mount: {error}"))
    })?;
    match forked {
        Side::Parent(Ok(answer)) if answer.exit == 0 => {
            let mut output = std::io::stdout().lock();
            // The mount is there also when nobody reads this.
            let _ = write!(output, "{}{greeting}", answer.text);
            Ok(())
        }
        Side::Parent(Ok(answer)) => {
            eprintln!("{}", answer.text);
            process::exit(i32::from(answer.exit))
        }
        Side::Parent(Err(message)) => Err(Failure::new(Exit::Failure, message)),
        Side::Child(starting) => match prepare() {
            Ok(()) => serve(plan, starting),
            Err(failure) => give_up(starting, failure),
        },
    }
}

/// Serves the mount in this process until it ends.
fn serve(plan: &Plan, mut starting: Starting) -> Result<(), Failure> {
    let Err(error) = daemon::run(plan, &mut starting) else { return Ok(()) };
    give_up(starting, error.into())
}

/// Ends this process with the parent's help, or fails where there is none.
fn give_up(starting: Starting, failure: Failure) -> Result<(), Failure> {
    if starting.failed(failure.exit.code(), &format!("lidfs: {}", failure.message)) {
        // The parent prints it.
        process::exit(i32::from(failure.exit.code()));
    }
    Err(failure)
}
