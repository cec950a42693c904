//! Keyfiles: 32 random bytes that only their owner can read.
//!
//! ```text
//! # lidfs keyfile v1: whoever reads this can read the drive; keep it secret, keep a copy
//! mCbq...  (44 characters of base64)
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::slot::Place;
use super::{KeyError, SlotKind};
use crate::crypto::{SecretKey, random_bytes};
use crate::format::header::{Base64, Unlock, from_base64, to_base64};

const MAGIC: &str = "# lidfs keyfile v1";
const EXPLANATION: &str = ": whoever reads this can read the drive; keep it secret, keep a copy";
/// Longest keyfile in bytes; ours have about 130.
const KEYFILE_BYTES_MAX: usize = 1024;
/// Characters of a key in base64.
const KEY_TEXT_LEN: usize = 44;
/// Permission bits that give others any access.
const OTHERS: u32 = 0o077;

/// Writes a new keyfile, readable by its owner alone, and returns its key.
///
/// # Errors
/// [`KeyError::Exists`]: an existing file is never overwritten, as it may be the only way to a
/// volume. [`KeyError::Write`].
pub fn generate(path: &Path) -> Result<SecretKey, KeyError> {
    let failed = |source| KeyError::Write { path: path.to_owned(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(
        |error| match error.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
            _ => failed(error),
        },
    )?;
    let key = SecretKey::generate();
    let base64 = Zeroizing::new(to_base64(key.expose()));
    let text = Zeroizing::new(format!("{MAGIC}{EXPLANATION}\n{}\n", *base64));
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_parent(path));
    if let Err(error) = written {
        // Half a keyfile must not pass for one; that the disk is failing is already being reported.
        let _ = std::fs::remove_file(path);
        return Err(failed(error));
    }
    Ok(key)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

/// Reads a keyfile.
///
/// # Errors
/// [`KeyError`]: unreadable, no regular file, readable or writable by group or world, or not a keyfile.
pub fn load(path: &Path) -> Result<SecretKey, KeyError> {
    // Errors name the path, and errors are kept in journals.
    if ends_with_key(path) {
        return Err(KeyError::NotAPath);
    }
    let failed = |source| KeyError::Read { path: path.to_owned(), source };
    // Without waiting: to open a fifo must not hang.
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    // Of the open file, not of the path: that cannot be exchanged in between.
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(KeyError::NotRegular { path: path.to_owned() });
    }
    let mode = found.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    // Capacity for all that is read: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(KEYFILE_BYTES_MAX + 2));
    file.take(KEYFILE_BYTES_MAX as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    parse(&text).ok_or_else(|| KeyError::Malformed { path: path.to_owned() })
}

/// The base64 of a key that was taken for a relative path.
fn ends_with_key(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    let Some(begin) = text.len().checked_sub(KEY_TEXT_LEN) else { return false };
    from_base64(&text[begin..]).is_some_and(|key| Zeroizing::new(key).len() == SecretKey::LEN)
}

pub(crate) fn parse(text: &[u8]) -> Option<SecretKey> {
    if text.len() > KEYFILE_BYTES_MAX {
        return None;
    }
    let text = text.strip_prefix(MAGIC.as_bytes())?;
    let end = text.iter().position(|&byte| byte == b'\n')?;
    if !matches!(text[0], b':' | b' ' | b'\n' | b'\r') {
        return None;
    }
    let key = Zeroizing::new(from_base64(text[end + 1..].trim_ascii())?);
    key.as_slice().try_into().ok().map(SecretKey::copy_of)
}

pub(super) fn new_slot(place: Place, key: &SecretKey) -> (Unlock, SecretKey) {
    let salt = random_bytes::<32>();
    (Unlock::Keyfile { salt: Base64(salt.to_vec()) }, kek(place, key, &salt))
}

pub(super) fn kek(place: Place, key: &SecretKey, salt: &[u8]) -> SecretKey {
    place.kek(SlotKind::Keyfile, key, salt)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn with_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_generated_keyfile_is_private_and_loads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drive.key");
        let key = generate(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(load(&path).unwrap().expose(), key.expose());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# lidfs keyfile v1"));
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn a_key_in_place_of_the_path_is_not_repeated() {
        // With the directory in front that a relative path gets.
        for key in [
            "mCbqOMHoXcZnLqoAIm3fKm6g4jB0Dk4mBQ7J3PVqZxk=",
            "/CbqO/HoXcZnL+oAIm3fKm6g4jB0Dk4mBQ7J3PVqZxk=",
        ] {
            let error = load(&Path::new("/root").join(key)).unwrap_err();
            let said = "`keyfile` in [key] is a key itself, not the path of the file that holds it; name the file";
            assert_eq!(error.to_string(), said);
        }
        let other = load(Path::new("/nowhere/mCbqOMHoXcZnLqoAIm3fKm6g4jB0Dk4mBQ7J3PVqZxk.key"));
        assert!(matches!(other, Err(KeyError::Read { .. })));
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drive.key");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(generate(&path), Err(KeyError::Exists { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn any_access_for_group_or_world_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drive.key");
        generate(&path).unwrap();
        for mode in [0o640, 0o604, 0o644, 0o620, 0o602, 0o610, 0o601, 0o666, 0o777] {
            with_mode(&path, mode);
            let error = load(&path).unwrap_err();
            assert!(matches!(error, KeyError::Exposed { .. }), "{mode:o}: {error}");
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())));
        }
        for mode in [0o600, 0o400] {
            with_mode(&path, mode);
            assert!(load(&path).is_ok());
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(load(dir.path()), Err(KeyError::NotRegular { .. })));
        let fifo = dir.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        with_mode(&fifo, 0o600);
        assert!(matches!(load(&fifo), Err(KeyError::NotRegular { .. })));
        assert!(matches!(load(Path::new("/nonexistent")), Err(KeyError::Read { .. })));
    }

    #[test]
    fn only_the_exact_format_is_a_keyfile() {
        let key = to_base64(&[7; 32]);
        let good = [
            format!("{MAGIC}{EXPLANATION}\n{key}\n"),
            format!("{MAGIC}\n{key}"),
            format!("{MAGIC} of the desk\r\n{key}\r\n"),
        ];
        for text in good {
            assert_eq!(parse(text.as_bytes()).unwrap().expose(), &[7; 32], "{text:?}");
        }
        let bad = [
            String::new(),
            key.clone(),
            MAGIC.to_owned(),
            format!("{MAGIC}\n"),
            format!("{MAGIC}1\n{key}\n"),
            format!("# lidfs keyfile v2\n{key}\n"),
            format!("{MAGIC}\n{key}\n{key}\n"),
            format!("{MAGIC}\n{}\n", to_base64(&[7; 31])),
            format!("{MAGIC}\n{}\n", to_base64(&[7; 33])),
            format!("{MAGIC}\n{}\n", key.trim_end_matches('=')),
            format!("{MAGIC}\n{key}\n{}", " ".repeat(KEYFILE_BYTES_MAX)),
        ];
        for text in bad {
            assert!(parse(text.as_bytes()).is_none(), "{text:?}");
        }
    }
}
