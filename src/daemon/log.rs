//! The log: to standard error, or to a file of bounded size.
//!
//! Invariant: no file name, content or key ever reaches it. A panic is logged by
//! place; of its message only text that was written in the source.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::base::MIB;
use crate::config::{Log, LogFormat};

/// Size at which a log file is renamed to `FILE.old` and begun anew.
const LOG_BYTES_MAX: u64 = 8 * MIB;

/// Starts logging, to `file` or to standard error.
///
/// # Errors
/// The filter makes no sense, or the file cannot be opened.
pub(super) fn start(config: &Log, file: Option<&Path>) -> io::Result<()> {
    let level = std::env::var("LIDFS_LOG").unwrap_or_else(|_| config.level.clone());
    let wrong = |error: String| {
        let message = format!("LIDFS_LOG or log.level {level:?}: {error}");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    };
    Log::check(&level).map_err(wrong)?;
    let filter = EnvFilter::try_new(quiet(&level)).map_err(|error| wrong(error.to_string()))?;
    let writer = match file {
        Some(path) => Output::File(Mutex::new(LogFile::open(path)?)),
        None => Output::Terminal,
    };
    let ansi = matches!(writer, Output::Terminal) && io::IsTerminal::is_terminal(&io::stderr());
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(ansi);
    // A second start, in tests, leaves the first in place.
    let _ = match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}

/// Crates of the AWS SDK tell at INFO with which credentials they work. They are kept at WARN, unless
/// the filter names them (`aws_config=info`) or wants even less.
fn quiet(level: &str) -> String {
    let is_all = |part: &str| {
        ["info", "debug", "trace"].iter().any(|level| part.trim().eq_ignore_ascii_case(level))
    };
    if level.split(',').any(is_all) { format!("aws=warn,{level}") } else { level.to_owned() }
}

/// From now on every panic of this process is logged and sets the returned flag.
pub(super) fn watch_panics() -> watch::Receiver<bool> {
    let (set, flag) = watch::channel(false);
    std::panic::set_hook(Box::new(move |info| {
        tracing::error!(place = %place(info), message = message(info), "panic");
        set.send_replace(true);
    }));
    flag
}

fn place(info: &PanicHookInfo<'_>) -> String {
    info.location().map_or_else(|| "unknown".to_owned(), ToString::to_string)
}

/// A literal cannot hold anything of a user's; a formatted message can.
fn message<'a>(info: &PanicHookInfo<'a>) -> &'a str {
    info.payload().downcast_ref::<&'static str>().copied().unwrap_or("(not shown)")
}

enum Output {
    Terminal,
    File(Mutex<LogFile>),
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Box<dyn Write + 'a>;

    fn make_writer(&'a self) -> Self::Writer {
        match self {
            Self::Terminal => Box::new(io::stderr()),
            Self::File(file) => {
                Box::new(Guard(file.lock().unwrap_or_else(PoisonError::into_inner)))
            }
        }
    }
}

struct Guard<'a>(std::sync::MutexGuard<'a, LogFile>);

impl Write for Guard<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that starts over when it is full.
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    /// One call is one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes >= LOG_BYTES_MAX {
            let mut old = self.path.clone().into_os_string();
            old.push(".old");
            fs::rename(&self.path, old)?;
            *self = Self::open(&self.path.clone())?;
        }
        let written = self.file.write(line)?;
        self.bytes += written as u64;
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a log with this filter shows of an AWS crate and of ours.
    fn shown(level: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let writer = Output::File(Mutex::new(LogFile::open(&path).unwrap()));
        let log = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::try_new(quiet(level)).unwrap())
            .with_writer(writer)
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(log, || {
            tracing::info!(target: "aws_config::profile::credentials", "loaded AKIDEXAMPLE");
            tracing::warn!(target: "aws_smithy_runtime", "sdk warning");
            tracing::info!(target: "lidfs::daemon", "ours");
        });
        fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn credentials_that_the_sdk_tells_of_are_not_logged_unless_asked_for() {
        for level in ["info", "DEBUG", "trace", "info,lidfs::store=debug", "lidfs=debug,info"] {
            let log = shown(level);
            assert!(!log.contains("AKIDEXAMPLE"), "{level}: {log}");
            assert!(log.contains("sdk warning") && log.contains("ours"), "{level}: {log}");
        }
        assert!(shown("info,aws_config=info").contains("AKIDEXAMPLE"));
        assert!(shown("aws=debug,info").contains("AKIDEXAMPLE"));
        let log = shown("error");
        assert!(!log.contains("sdk warning") && !log.contains("ours"), "{log}");
    }

    #[test]
    fn a_log_file_that_is_full_starts_over_and_keeps_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/log");
        let mut log = LogFile::open(&path).unwrap();
        log.write(b"first\n").unwrap();
        log.bytes = LOG_BYTES_MAX;
        log.write(b"second\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second\n");
        assert_eq!(fs::read(dir.path().join("sub/log.old")).unwrap(), b"first\n");
    }
}
