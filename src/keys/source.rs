//! Where the user's secret comes from: a file, a command, a descriptor, a prompt.
//!
//! Never from an argument or the environment, which other processes can read.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    KeyError, KmsConfig, KmsKey, PASSPHRASE_BYTES_MAX, Passphrase, Secret, SlotKind, keyfile, kms,
    recovery,
};
use crate::crypto::SecretBytes;

/// Longest time for a command: it may have to ask a person.
const COMMAND_DEADLINE: Duration = Duration::from_mins(5);

/// The section `[key]` of the config file. At most one source is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A file made by `lidfs key generate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyfile: Option<PathBuf>,
    /// A shell command that prints the passphrase on its standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase_command: Option<String>,
    /// A shell command that prints the recovery words on its standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_command: Option<String>,
    /// The full ARN of a key in AWS KMS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    /// How to reach KMS; names no source by itself.
    #[serde(skip_serializing_if = "kms::is_default")]
    pub kms: KmsConfig,
}

impl Config {
    /// The source that the config names; a prompt where it names none and there is a terminal.
    ///
    /// # Errors
    /// [`KeyError::TwoSources`], [`KeyError::NoSource`].
    pub fn source(&self) -> Result<KeySource, KeyError> {
        let keyfile = self.keyfile.clone().map(KeySource::Keyfile);
        let passphrase = self.passphrase_command.clone().map(KeySource::PassphraseCommand);
        let recovery = self.recovery_command.clone().map(KeySource::RecoveryCommand);
        let kms = self.kms_key.clone().map(|key| KeySource::Kms(key, self.kms.clone()));
        let mut named = [keyfile, passphrase, recovery, kms].into_iter().flatten();
        match (named.next(), named.next()) {
            (Some(_), Some(_)) => Err(KeyError::TwoSources),
            (Some(source), None) => Ok(source),
            (None, _) if File::open("/dev/tty").is_ok() => Ok(KeySource::Prompt),
            (None, _) => Err(KeyError::NoSource),
        }
    }
}

/// Where the secret comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A keyfile.
    Keyfile(PathBuf),
    /// What a shell command prints, less one newline at its end.
    PassphraseCommand(String),
    /// What an open file descriptor gives until its end, less one newline. A file or pipe, not a socket.
    PassphraseFd(u32),
    /// What the user types at the terminal, without echo.
    Prompt,
    /// A key in KMS, by its ARN or alias, and how to reach KMS.
    Kms(String, KmsConfig),
    /// Recovery words that a shell command prints.
    RecoveryCommand(String),
    /// Recovery words that an open file descriptor gives until its end.
    RecoveryFd(u32),
    /// Recovery words that the user types at the terminal, without echo.
    RecoveryPrompt,
}

/// A command may hold a secret of its own, so it is not printed.
impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Keyfile(path) => f.debug_tuple("Keyfile").field(path).finish(),
            Self::PassphraseCommand(_) => f.write_str("PassphraseCommand(..)"),
            Self::PassphraseFd(fd) => f.debug_tuple("PassphraseFd").field(fd).finish(),
            Self::Prompt => f.write_str("Prompt"),
            Self::Kms(key, _) => f.debug_tuple("Kms").field(key).finish(),
            Self::RecoveryCommand(_) => f.write_str("RecoveryCommand(..)"),
            Self::RecoveryFd(fd) => f.debug_tuple("RecoveryFd").field(fd).finish(),
            Self::RecoveryPrompt => f.write_str("RecoveryPrompt"),
        }
    }
}

/// What a passphrase is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To open what exists.
    Unlock,
    /// For a new slot: a prompt asks twice.
    Create,
}

impl KeySource {
    /// The kind of slot that its secret opens.
    pub fn kind(&self) -> SlotKind {
        match self {
            Self::Keyfile(_) => SlotKind::Keyfile,
            Self::PassphraseCommand(_) | Self::PassphraseFd(_) | Self::Prompt => {
                SlotKind::Passphrase
            }
            Self::Kms(..) => SlotKind::Kms,
            Self::RecoveryCommand(_) | Self::RecoveryFd(_) | Self::RecoveryPrompt => {
                SlotKind::Recovery
            }
        }
    }

    /// The descriptor that a process which opens this must keep.
    pub fn descriptor(&self) -> Option<u32> {
        match self {
            Self::PassphraseFd(fd) | Self::RecoveryFd(fd) => Some(*fd),
            _ => None,
        }
    }

    /// Fetches the secret. Blocks: a command or a person may take minutes. KMS is asked only when a
    /// slot is opened or made.
    ///
    /// # Errors
    /// [`KeyError`], naming the source.
    pub fn secret(&self, purpose: Purpose) -> Result<Secret, KeyError> {
        let passphrase = |bytes| Passphrase::new(bytes).map(Secret::Passphrase);
        let words = |text: SecretBytes| recovery::parse(&text).map(Secret::Recovery);
        match self {
            Self::Keyfile(path) => keyfile::load(path).map(Secret::Keyfile),
            Self::PassphraseCommand(command) => {
                passphrase(from_command("passphrase_command", command, COMMAND_DEADLINE)?)
            }
            Self::PassphraseFd(fd) => passphrase(from_fd(*fd)?),
            Self::Prompt => passphrase(from_prompt(purpose)?),
            Self::Kms(key, config) => Ok(Secret::Kms(KmsKey::new(key, config))),
            Self::RecoveryCommand(command) => {
                words(from_command("recovery_command", command, COMMAND_DEADLINE)?)
            }
            Self::RecoveryFd(fd) => words(from_fd(*fd)?),
            Self::RecoveryPrompt => words(ask("Recovery words: ")?),
        }
    }
}

fn ask(prompt: &str) -> Result<SecretBytes, KeyError> {
    rpassword::prompt_password(prompt)
        .map(SecretBytes::from)
        .map_err(|source| KeyError::Input { place: "the terminal".to_owned(), source })
}

fn from_prompt(purpose: Purpose) -> Result<SecretBytes, KeyError> {
    match purpose {
        Purpose::Unlock => ask("Passphrase: "),
        Purpose::Create => {
            let first = ask("New passphrase: ")?;
            if first.is_empty() {
                return Err(KeyError::Empty);
            }
            let second = ask("Once more: ")?;
            if first.expose() == second.expose() { Ok(first) } else { Err(KeyError::Mismatch) }
        }
    }
}

fn from_fd(fd: u32) -> Result<SecretBytes, KeyError> {
    let failed = |source| KeyError::Input { place: format!("file descriptor {fd}"), source };
    let read = if fd == 0 {
        read_passphrase(io::stdin().lock())
    } else {
        // A second opening of the same pipe or file, which needs no raw descriptor.
        read_passphrase(File::open(format!("/proc/self/fd/{fd}")).map_err(failed)?)
    };
    read.map_err(failed)
}

/// Reads to the end or just past the bound (which [`Passphrase::new`] then refuses).
fn read_passphrase(from: impl Read) -> io::Result<SecretBytes> {
    let newline = 1;
    let most = PASSPHRASE_BYTES_MAX + newline + 1;
    // Capacity for all that is read: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(most + 1));
    from.take(most as u64).read_to_end(&mut text)?;
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    Ok(SecretBytes::copy_of(line.strip_suffix(b"\r").unwrap_or(line)))
}

/// Runs the command that the config calls `name`.
fn from_command(
    name: &'static str,
    command: &str,
    deadline: Duration,
) -> Result<SecretBytes, KeyError> {
    let failed = |detail: String| KeyError::Command { name, detail };
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("/bin/sh: {error}")))?;
    let Some(output) = child.stdout.take() else {
        return Err(failed("it has no output".to_owned()));
    };
    let (send, receive) = mpsc::sync_channel(1);
    // It ends when the command closes its output, at the latest when that is killed.
    std::thread::spawn(move || send.send(read_passphrase(output)));
    let passphrase = match receive.recv_timeout(deadline) {
        Ok(Ok(passphrase)) => passphrase,
        Ok(Err(error)) => return Err(failed(stop(child, &format!("its output: {error}")))),
        Err(_) => {
            return Err(failed(stop(child, &format!("no answer within {} s", deadline.as_secs()))));
        }
    };
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(passphrase) } else { Err(failed(status.to_string())) }
}

fn stop(mut child: Child, why: &str) -> String {
    // It may have ended by itself by now, which is as good.
    let _ = child.kill();
    let _ = child.wait();
    why.to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;

    fn command(text: &str) -> Result<String, KeyError> {
        from_command("passphrase_command", text, COMMAND_DEADLINE)
            .map(|secret| String::from_utf8(secret.expose().to_vec()).unwrap())
    }

    #[test]
    fn the_config_names_one_source() {
        let config: Config = serde_json::from_str(r#"{"keyfile": "/k"}"#).unwrap();
        assert_eq!(config.source().unwrap(), KeySource::Keyfile("/k".into()));
        let config: Config = serde_json::from_str(r#"{"passphrase_command": "pass x"}"#).unwrap();
        let source = config.source().unwrap();
        assert_eq!(source, KeySource::PassphraseCommand("pass x".to_owned()));
        assert!(!format!("{source:?}").contains("pass x"));
        let config: Config = serde_json::from_str(r#"{"recovery_command": "lpr x"}"#).unwrap();
        assert_eq!(config.source().unwrap().kind(), SlotKind::Recovery);
        assert!(!format!("{:?}", config.source().unwrap()).contains("lpr"));
        let text = r#"{"kms_key": "alias/x", "kms": {"region": "eu-central-1"}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.source().unwrap(), KeySource::Kms("alias/x".to_owned(), config.kms));
        for both in [
            r#"{"keyfile": "/k", "passphrase_command": "x"}"#,
            r#"{"keyfile": "/k", "kms_key": "x"}"#,
            r#"{"recovery_command": "/k", "kms_key": "x"}"#,
        ] {
            let both: Config = serde_json::from_str(both).unwrap();
            assert!(matches!(both.source(), Err(KeyError::TwoSources)));
        }
        assert!(serde_json::from_str::<Config>(r#"{"passphrase": "x"}"#).is_err());
    }

    #[test]
    fn a_command_gives_its_output_less_one_newline() {
        assert_eq!(command("echo 'correct horse '").unwrap(), "correct horse ");
        assert_eq!(command("printf 'a\\n\\n'").unwrap(), "a\n");
        assert_eq!(command("printf x; true").unwrap(), "x");
    }

    #[test]
    fn a_failing_silent_or_endless_command_gives_no_passphrase() {
        assert!(matches!(command("echo x; exit 3"), Err(KeyError::Command { .. })));
        let source = KeySource::PassphraseCommand("true".to_owned());
        assert!(matches!(source.secret(Purpose::Unlock), Err(KeyError::Empty)));
        let source = KeySource::PassphraseCommand("yes 2>/dev/null; true".to_owned());
        assert!(matches!(source.secret(Purpose::Unlock), Err(KeyError::TooLong)));
        let slow = from_command("passphrase_command", "exec sleep 600", Duration::from_millis(50));
        assert!(matches!(slow, Err(KeyError::Command { .. })));
    }

    #[test]
    fn a_descriptor_is_read_to_its_end() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"two words\n").unwrap();
        let fd = u32::try_from(file.as_raw_fd()).unwrap();
        assert_eq!(from_fd(fd).unwrap().expose(), b"two words");
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"from a pipe").unwrap();
        drop(writer);
        let fd = u32::try_from(reader.as_raw_fd()).unwrap();
        assert_eq!(from_fd(fd).unwrap().expose(), b"from a pipe");
        assert!(matches!(from_fd(1_000_000), Err(KeyError::Input { .. })));
    }
}
