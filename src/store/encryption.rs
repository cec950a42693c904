//! The store's own encryption, beneath ours: which kind is asked for, and with which key.
//!
//! ```text
//!   none       nothing is asked for: the bucket's own default rules
//!   sse-s3     keys of the store
//!   sse-kms    a key of the key service; dsse-kms: two layers of it
//!   sse-c      a key of ours, sent with every request and kept by nobody else
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::crypto::SecretKey;

/// A kind of encryption by the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EncryptionMode {
    /// Nothing is asked for.
    #[default]
    None,
    /// Keys that the store keeps.
    SseS3,
    /// A key in the key service.
    SseKms,
    /// The same, in two layers.
    DsseKms,
    /// A key of ours.
    SseC,
}

impl fmt::Display for EncryptionMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::SseS3 => "sse-s3",
            Self::SseKms => "sse-kms",
            Self::DsseKms => "dsse-kms",
            Self::SseC => "sse-c",
        })
    }
}

/// The table `[store.server_side_encryption]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSideEncryption {
    /// What every write asks for.
    pub mode: EncryptionMode,
    /// Id, ARN or alias of the key of `sse-kms` and `dsse-kms`; without it the store's default one.
    pub kms_key_id: Option<String>,
    /// Whether `sse-kms` derives keys from one for the bucket; without it as the bucket says.
    pub bucket_key: Option<bool>,
    /// The key of `sse-c`: a keyfile, or 32 bytes.
    pub key_file: Option<PathBuf>,
    /// Another key of `sse-c`, only to read what was written with it.
    pub previous_key_file: Option<PathBuf>,
    /// Send keys of `sse-c` over plain http to this machine: for tests.
    pub allow_http_on_loopback: bool,
    /// What `sse-kms` and `dsse-kms` bind their keys to.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub encryption_context: BTreeMap<String, String>,
}

impl ServerSideEncryption {
    /// What does not go together, in words.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), String> {
        use EncryptionMode::{DsseKms, SseC, SseKms};
        let mode = self.mode;
        let is_kms = matches!(mode, SseKms | DsseKms);
        let wrong = |text: String| Err(format!("{TABLE}: {text}"));
        if mode == SseC && self.key_file.is_none() {
            return wrong(
                "mode = \"sse-c\" needs key_file; make one with `lidfs key generate FILE`".into(),
            );
        }
        if mode != SseC && self.key_file.is_some() {
            return wrong(format!(
                "key_file goes with mode = \"sse-c\", not {mode}; to read what was written with \
                 that key, name it as previous_key_file"
            ));
        }
        for (key, is_set) in [
            ("kms_key_id", self.kms_key_id.is_some()),
            ("bucket_key", self.bucket_key.is_some()),
            ("encryption_context", !self.encryption_context.is_empty()),
        ] {
            if is_set && !is_kms {
                return wrong(format!("{key} goes with mode = \"sse-kms\" or \"dsse-kms\""));
            }
        }
        if mode == DsseKms && self.bucket_key.is_some() {
            return wrong("bucket_key goes with mode = \"sse-kms\" alone".into());
        }
        if self.kms_key_id.as_deref().is_some_and(str::is_empty) {
            return wrong("kms_key_id is empty; leave it out for the store's default key".into());
        }
        Ok(())
    }
}

/// As the table is called in messages.
pub(super) const TABLE: &str = "[store.server_side_encryption]";

/// The keys that the configuration names by their files.
#[derive(Debug, Clone, Default)]
pub struct CustomerKeys {
    /// Of `key_file`.
    pub current: Option<SecretKey>,
    /// Of `previous_key_file`.
    pub previous: Option<SecretKey>,
}

/// How an object is encrypted, as the store tells with an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encrypted {
    /// `AES256`, `aws:kms` or `aws:kms:dsse`.
    pub algorithm: Option<String>,
    /// The key in the key service.
    pub kms_key_id: Option<String>,
    /// Whether a key for the bucket stands between.
    pub bucket_key: bool,
    /// The MD5 of a customer's key, in base64, where the algorithm of one was told.
    pub customer_key_md5: Option<String>,
}

impl Encrypted {
    /// Which kind that is; `None` if it is one that we do not know.
    pub fn mode(&self) -> Option<EncryptionMode> {
        match (&self.customer_key_md5, self.algorithm.as_deref()) {
            (Some(_), _) => Some(EncryptionMode::SseC),
            (None, None) => Some(EncryptionMode::None),
            (None, Some("AES256")) => Some(EncryptionMode::SseS3),
            (None, Some("aws:kms")) => Some(EncryptionMode::SseKms),
            (None, Some("aws:kms:dsse")) => Some(EncryptionMode::DsseKms),
            (None, Some(_)) => None,
        }
    }
}

impl fmt::Display for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.mode(), &self.kms_key_id) {
            (None, _) => write!(f, "{:?}", self.algorithm.as_deref().unwrap_or_default()),
            (Some(mode), None) => mode.fmt(f),
            (Some(mode), Some(key)) => write!(f, "{mode} with the key {key:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Result<(), String> {
        toml::from_str::<ServerSideEncryption>(text).unwrap().check()
    }

    #[test]
    fn what_goes_together_is_accepted() {
        for text in [
            "",
            "mode = 'none'",
            "mode = 'sse-s3'",
            "mode = 'sse-s3'\nprevious_key_file = '/k'",
            "mode = 'sse-kms'",
            "mode = 'sse-kms'\nkms_key_id = 'alias/x'\nbucket_key = true\nencryption_context.a = 'b'",
            "mode = 'dsse-kms'\nkms_key_id = 'x'",
            "mode = 'sse-c'\nkey_file = '/k'\nprevious_key_file = '/p'",
        ] {
            assert_eq!(table(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_contradicts_is_refused_and_named() {
        for (text, word) in [
            ("mode = 'sse-c'", "key_file"),
            ("key_file = '/k'", "previous_key_file"),
            ("mode = 'sse-s3'\nkms_key_id = 'x'", "kms_key_id"),
            ("mode = 'sse-c'\nkey_file = '/k'\nbucket_key = false", "bucket_key"),
            ("encryption_context.a = 'b'", "encryption_context"),
            ("mode = 'dsse-kms'\nbucket_key = true", "bucket_key"),
            ("mode = 'sse-kms'\nkms_key_id = ''", "kms_key_id"),
        ] {
            let said = table(text).unwrap_err();
            assert!(said.starts_with("[store.server_side_encryption]: "), "{said}");
            assert!(said.contains(word), "{text}: {said}");
        }
        assert!(toml::from_str::<ServerSideEncryption>("mode = 'aes'").is_err());
    }

    #[test]
    fn answers_are_told_apart() {
        let of = |algorithm: &str| Encrypted {
            algorithm: Some(algorithm.to_owned()),
            ..Encrypted::default()
        };
        assert_eq!(Encrypted::default().mode(), Some(EncryptionMode::None));
        for (algorithm, mode) in [
            ("AES256", Some(EncryptionMode::SseS3)),
            ("aws:kms", Some(EncryptionMode::SseKms)),
            ("aws:kms:dsse", Some(EncryptionMode::DsseKms)),
            ("aws:other", None),
        ] {
            assert_eq!(of(algorithm).mode(), mode);
        }
        let customer = Encrypted { customer_key_md5: Some("x".into()), ..Encrypted::default() };
        assert_eq!(customer.to_string(), "sse-c");
        let kms = Encrypted { kms_key_id: Some("k".into()), ..of("aws:kms") };
        assert_eq!(kms.to_string(), "sse-kms with the key \"k\"");
    }
}
