//! The command line: one file per command, exit codes in `exit.rs`.
//!
//! ```text
//! argv --> mount helper (argv[0], or SOURCE DIR) --> mount
//!     '--> command ------------------------------> its file --> text or JSON, exit code
//! ```
//!
//! Invariant: what fails says so on one line of standard error - what, where,
//! what to do next - and with the exit code of its kind.

mod bench;
mod demo;
mod doctor;
mod exit;
mod finding;
mod flush;
mod fsck;
mod gc;
mod helper;
mod init;
mod key;
mod mount;
mod options;
mod progress;
mod rekey;
mod rewrite;
mod scrub;
mod selftest;
mod sheet;
mod shell;
mod status;
mod target;
mod umount;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

pub use exit::{Exit, Failure};

/// Mounts an S3 bucket as an encrypted POSIX drive.
///
/// Everything that leaves this machine or touches its disk is sealed first.
#[derive(Debug, Parser)]
#[command(name = "lidfs", version, after_help = exit::TABLE, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Init(init::Args),
    Mount(mount::Args),
    Umount(umount::Args),
    Flush(flush::Args),
    Status(status::Args),
    Gc(gc::Args),
    Key(key::Args),
    Fsck(fsck::Args),
    Scrub(scrub::Args),
    Rewrite(rewrite::Args),
    Doctor(doctor::Args),
    Bench(bench::Args),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
}

/// A moment in seconds since 1970, as people read it.
fn date(seconds: i64) -> String {
    u64::try_from(seconds)
        .ok()
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .map_or_else(|| "-".to_owned(), |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// Runs the command in `argv` and tells how it ended.
pub fn main(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let outcome = match helper::parse(&argv) {
        Some(Ok(args)) => mount::run(&args),
        Some(Err(failure)) => Err(failure),
        None => match Cli::try_parse_from(&argv) {
            Ok(cli) => run(cli.command),
            Err(error) => return usage(&error),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.exit.code())
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Mount(args) => mount::run(&args),
        Command::Umount(args) => umount::run(&args),
        Command::Flush(args) => flush::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Gc(args) => gc::run(&args),
        Command::Key(args) => key::run(args),
        Command::Fsck(args) => fsck::run(&args),
        Command::Scrub(args) => scrub::run(&args),
        Command::Rewrite(args) => rewrite::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions(args) => shell::completions::<Cli>(&args),
        Command::Man(args) => shell::man::<Cli>(&args),
    }
}

/// Help and version are asked for; anything else is a usage error, told on one line.
fn usage(error: &clap::Error) -> ExitCode {
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !error.use_stderr() || is_help {
        // A closed standard output leaves nobody to tell.
        let _ = error.print();
    } else {
        Failure::new(Exit::Usage, one_line(&error.render().to_string())).print();
    }
    if error.use_stderr() { ExitCode::from(Exit::Usage.code()) } else { ExitCode::SUCCESS }
}

/// What is wrong and how it is used, of clap's paragraphs.
fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let (wrong, rest) = text.split_once("Usage: ").unwrap_or((text, ""));
    let usage = rest.lines().next().unwrap_or_default();
    // Tips come in a paragraph of their own.
    let wrong = wrong.split("\n\n").next().unwrap_or_default();
    let wrong = wrong.split_whitespace().collect::<Vec<_>>().join(" ");
    if usage.is_empty() { wrong } else { format!("{wrong}; usage: {usage} (more with --help)") }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mount_takes_a_volume_and_a_mount_point_or_only_the_latter() {
        let parse = |words: &[&str]| {
            let cli = Cli::try_parse_from(["lidfs", "mount"].iter().chain(words)).unwrap();
            let Command::Mount(args) = cli.command else { panic!("not mount") };
            args
        };
        let args = parse(&["s3://b/p", "/m", "-o", "ro,allow_other", "--takeover"]);
        assert_eq!(args.place(), (Some("s3://b/p"), "/m".as_ref()));
        assert!(args.accepted.takeover);
        assert_eq!(parse(&["-c", "x.toml", "/m"]).place(), (None, "/m".as_ref()));
    }

    #[test]
    fn a_usage_error_is_one_line_with_the_usage() {
        let error = Cli::try_parse_from(["lidfs", "mount", "--no-such-option"]).unwrap_err();
        let text = one_line(&error.render().to_string());
        assert!(text.contains("--no-such-option") && text.contains("usage: lidfs mount"), "{text}");
        assert!(!text.contains('\n'));
    }

    #[test]
    fn a_secret_cannot_be_an_argument() {
        for words in [["--passphrase", "x"], ["--key", "x"], ["--password", "x"]] {
            let argv = ["lidfs", "mount"].into_iter().chain(words).chain(["/m"]);
            assert!(Cli::try_parse_from(argv).is_err(), "{words:?}");
        }
    }
}
