//! A header that another implementation wrote (`tests/vectors/make_header.py`): what version 1 is, for ever.

use super::*;
use crate::base::Epoch;
use crate::format::header::{from_base64, hex};
use crate::keys::{KeySource, Purpose};

const FILE: &[u8] = include_bytes!("../../../../tests/vectors/header.json");
const KEYS: &str = include_str!("../../../../tests/vectors/header_keys.json");

#[derive(serde::Deserialize)]
struct Expected {
    keyfile: String,
    passphrase: String,
    recovery_words: String,
    fingerprint: String,
    names_key: String,
    data_keys: std::collections::BTreeMap<u32, String>,
}

/// As a user gives them.
fn words(text: &str) -> Secret {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let fd = u32::try_from(file.as_raw_fd()).unwrap();
    KeySource::RecoveryFd(fd).secret(Purpose::Unlock).unwrap()
}

#[tokio::test]
async fn a_header_of_another_implementation_opens_to_the_keys_it_was_made_with() {
    let expected: Expected = serde_json::from_str(KEYS).unwrap();
    let keyfile: [u8; 32] = from_base64(expected.keyfile.as_bytes()).unwrap().try_into().unwrap();
    let passphrase = SecretBytes::copy_of(expected.passphrase.as_bytes());
    let secrets = [
        Secret::Keyfile(SecretKey::from_bytes(keyfile)),
        Secret::Passphrase(Passphrase::new(passphrase).unwrap()),
        words(&expected.recovery_words),
    ];
    let store = memory();
    put_header(&store, FILE.to_vec()).await;
    for secret in secrets {
        let volume = open(&store, &secret).await.unwrap();
        assert_eq!(volume.fingerprint().to_string(), expected.fingerprint);
        assert_eq!(hex(volume.names_key().expose()), expected.names_key);
        assert_eq!(volume.header_version(), 3);
        for (&epoch, key) in &expected.data_keys {
            let data_key = volume.data_keys().get(Epoch(epoch)).unwrap();
            assert_eq!(&hex(data_key.key.expose()), key);
        }
        assert_eq!(volume.data_keys().current().epoch, Epoch(2));
    }
}

#[test]
fn what_we_write_is_what_the_other_implementation_wrote() {
    let read = Signed::parse(FILE).unwrap();
    let written = Signed::new(read.header().clone(), |_| *read.mac()).unwrap();
    assert_eq!(String::from_utf8(written.to_file()), String::from_utf8(FILE.to_vec()));
}
