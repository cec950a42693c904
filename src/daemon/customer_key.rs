//! Keys of `sse-c` from their files: keyfiles like those of the volume, or 32 bytes as other tools
//! write them.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::crypto::{SecretBytes, SecretKey};
use crate::keys::{self, KeyError};
use crate::store::{CustomerKeys, ServerSideEncryption, StoreError, StoreFault};

/// Permission bits that give others any access.
const OTHERS: u32 = 0o077;

/// The keys whose files the configuration names.
pub(super) fn customer_keys(config: &ServerSideEncryption) -> Result<CustomerKeys, StoreError> {
    let load = |name: &str, path: &Path| {
        read(path).map_err(|error| {
            let file = path.display();
            let said = match error {
                KeyError::Read { source, .. } => format!("{file}: cannot be read: {source}"),
                KeyError::Malformed { .. } => format!(
                    "{file}: neither a keyfile nor 32 bytes; make one with `lidfs key generate`, or \
                     restore it from a copy"
                ),
                other => other.to_string(),
            };
            let text = format!("{name} of [store.server_side_encryption]: {said}");
            StoreError::new(StoreFault::Settings, text)
        })
    };
    let current = config.key_file.as_deref().map(|path| load("key_file", path));
    let previous = config.previous_key_file.as_deref();
    let previous = previous.map(|path| load("previous_key_file", path));
    Ok(CustomerKeys { current: current.transpose()?, previous: previous.transpose()? })
}

fn read(path: &Path) -> Result<SecretKey, KeyError> {
    match keys::load_keyfile(path) {
        Err(error @ KeyError::Malformed { .. }) => match bare(path) {
            Ok(Some(key)) => Ok(key),
            Ok(None) => Err(error),
            Err(source) => Err(KeyError::Read { path: path.to_owned(), source }),
        },
        other => other,
    }
}

/// A file that was found to be no keyfile. Its permissions are looked at again: it is opened anew.
fn bare(path: &Path) -> io::Result<Option<SecretKey>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.permissions().mode() & OTHERS != 0 {
        return Ok(None);
    }
    let mut bytes = SecretBytes::zeroed(SecretKey::LEN + 1);
    let mut len = 0;
    let mut file = file.take(bytes.len() as u64);
    loop {
        match file.read(&mut bytes.expose_mut()[len..])? {
            0 => break,
            more => len += more,
        }
    }
    Ok(bytes.expose()[..len].try_into().ok().map(SecretKey::copy_of))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn load(path: &Path) -> Result<SecretKey, String> {
        let config = ServerSideEncryption { key_file: Some(path.to_owned()), ..Default::default() };
        let keys = customer_keys(&config).map_err(|error| {
            assert_eq!(error.fault, StoreFault::Settings);
            error.to_string()
        })?;
        assert!(keys.previous.is_none());
        Ok(keys.current.expect("there is a file"))
    }

    fn write(path: &Path, bytes: &[u8], mode: u32) {
        let _ = fs::remove_file(path);
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_is_a_keyfile_or_32_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sse.key");
        let key = keys::generate_keyfile(&path).unwrap();
        assert_eq!(load(&path).unwrap().expose(), key.expose());
        write(&path, &[7; 32], 0o600);
        assert_eq!(load(&path).unwrap().expose(), &[7; 32]);
        for bytes in [&[7; 31][..], &[7; 33], &[]] {
            write(&path, bytes, 0o600);
            let said = load(&path).unwrap_err();
            assert!(said.contains("sse.key: neither a keyfile nor 32 bytes"), "{said}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_in_either_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sse.key");
        write(&path, &[7; 32], 0o640);
        let said = load(&path).unwrap_err();
        assert!(said.starts_with("key_file of [store.server_side_encryption]: "), "{said}");
        assert!(said.contains("chmod 600"), "{said}");
        let said = load(&dir.path().join("none")).unwrap_err();
        assert!(said.contains("none: cannot be read: "), "{said}");
    }
}
