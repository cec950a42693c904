//! `lidfs completions` and `lidfs man`

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::CommandFactory;

use super::{Exit, Failure};

/// Print the completions for a shell
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// Which shell
    shell: clap_complete::Shell,
}

/// Write the manual pages
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Directory to write them to
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn completions<C: CommandFactory>(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut C::command(), "lidfs", &mut text);
    io::Write::write_all(&mut io::stdout(), &text)
        .map_err(|error| Failure::new(Exit::Failure, format!("standard output: {error}")))
}

pub(super) fn man<C: CommandFactory>(args: &ManArgs) -> Result<(), Failure> {
    let dir = &args.dir;
    fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(C::command(), dir))
        .map_err(|error| Failure::new(Exit::Failure, format!("{}: {error}", dir.display())))
}
