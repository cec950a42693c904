//! What is wrong with the configuration, and where.

use std::path::PathBuf;

use crate::base::ErrorKind;

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A config file was named, and cannot be read.
    #[error("config file {}: cannot be read: {detail}; check the path after -c or in LIDFS_CONFIG", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// A line of the file is wrong.
    #[error("{}:{line}: {}{message}; config.example.toml shows every key", path.display(), prefix(key))]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// `section.key`, or empty where the line is not TOML at all.
        key: String,
        /// What is wrong there.
        message: String,
    },
    /// A variable or flag that overrides the file is wrong.
    #[error("{origin}: {key}: {message}; config.example.toml shows every key")]
    Override {
        /// The variable or flag.
        origin: String,
        /// `section.key`.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// Values that cannot be, or do not go together.
    #[error("{message}; config.example.toml has values that work")]
    Value {
        /// Section or key, and why.
        message: String,
    },
    /// A value that the command cannot do without.
    #[error("{key} is not set: {advice}")]
    Missing {
        /// `section.key`.
        key: &'static str,
        /// How to set it.
        advice: &'static str,
    },
    /// Neither `HOME` nor the XDG variable that would take its place is set.
    #[error("no home directory: set HOME, or {variable}, or {key} in the config")]
    NoHome {
        /// The XDG variable.
        variable: &'static str,
        /// The key that makes it needless.
        key: &'static str,
    },
}

fn prefix(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

impl ConfigError {
    /// What the caller does next: correct the configuration.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } => ErrorKind::NotFound,
            Self::Line { .. }
            | Self::Override { .. }
            | Self::Value { .. }
            | Self::Missing { .. }
            | Self::NoHome { .. } => ErrorKind::Invalid,
        }
    }
}
