//! The headers of the store's own encryption: sent with requests, read from answers.
//!
//! ```text
//!   write   mode, key ids        --> the answer must tell of the same mode, or the write is an error
//!   read    sse-c: the key of now, on refusal the previous one, on refusal none
//!           others: none, on refusal the previous key
//! ```
//!
//! So a volume in the midst of a rewrite can be read whole. A refusal costs a request more each
//! time; nothing else is tried where no customer key is configured.

use std::future::Future;
use std::sync::Arc;

use aws_sdk_s3::types::ServerSideEncryption as Algorithm;
use md5::{Digest, Md5};

use super::Inner;
use super::retry::Outcome;
use crate::crypto::SecretKey;
use crate::format::header::to_base64;
use crate::store::encryption::TABLE;
use crate::store::object_store::{Extensions, Result};
use crate::store::{
    CustomerKeys, Encrypted, EncryptionMode, ServerSideEncryption, StoreError, StoreFault,
};

/// A customer's key.
#[derive(Clone)]
pub(super) struct CustomerKey {
    key: SecretKey,
    md5: String,
}

impl CustomerKey {
    fn new(key: &SecretKey) -> Self {
        Self { key: key.clone(), md5: to_base64(&Md5::digest(key.expose())) }
    }

    /// For a header: from here on it lies in the memory of the SDK and the connection, not locked.
    pub fn base64(&self) -> String {
        to_base64(self.key.expose())
    }

    pub fn md5(&self) -> String {
        self.md5.clone()
    }
}

/// What every write asks for, and what reads can try.
pub(super) struct Encryption {
    mode: EncryptionMode,
    pub kms_key_id: Option<String>,
    pub bucket_key: Option<bool>,
    /// JSON in base64.
    pub context: Option<String>,
    customer_key: Option<CustomerKey>,
    /// In this order.
    ways: Vec<Option<CustomerKey>>,
}

impl Encryption {
    pub fn new(config: &ServerSideEncryption, keys: &CustomerKeys) -> Result<Self, StoreError> {
        let settings = |text: String| StoreError::new(StoreFault::Settings, text);
        config.check().map_err(settings)?;
        let (current, previous) =
            (keys.current.as_ref().map(CustomerKey::new), keys.previous.as_ref());
        if (config.mode == EncryptionMode::SseC) != current.is_some() {
            return Err(settings(format!("{TABLE}: the key of mode = \"sse-c\" was not read")));
        }
        let previous = previous.map(|key| Some(CustomerKey::new(key)));
        let ways = match &current {
            Some(key) => [Some(key.clone())].into_iter().chain(previous).chain([None]).collect(),
            None => [None].into_iter().chain(previous).collect(),
        };
        let context = if config.encryption_context.is_empty() {
            None
        } else {
            let json = serde_json::to_vec(&config.encryption_context)
                .map_err(|error| settings(format!("{TABLE}: encryption_context: {error}")))?;
            Some(to_base64(&json))
        };
        Ok(Self {
            mode: config.mode,
            kms_key_id: config.kms_key_id.clone(),
            bucket_key: config.bucket_key,
            context,
            customer_key: current,
            ways,
        })
    }

    pub fn algorithm(&self) -> Option<Algorithm> {
        match self.mode {
            EncryptionMode::None | EncryptionMode::SseC => None,
            EncryptionMode::SseS3 => Some(Algorithm::Aes256),
            EncryptionMode::SseKms => Some(Algorithm::AwsKms),
            EncryptionMode::DsseKms => Some(Algorithm::AwsKmsDsse),
        }
    }

    /// The key of writes.
    pub fn customer_key(&self) -> Option<&CustomerKey> {
        self.customer_key.as_ref()
    }

    /// Whether an object stands as writes ask for it.
    fn is_as_asked(&self, found: &Encrypted) -> bool {
        let is_key = match (&self.customer_key, &found.customer_key_md5) {
            (Some(key), Some(md5)) => *md5 == key.md5,
            (None, None) => true,
            _ => false,
        };
        // Only a whole name of a key comes back as it was sent: aliases and ids become one.
        let is_kms_key = match (&self.kms_key_id, &found.kms_key_id) {
            (Some(asked), Some(told)) if asked.contains(":key/") => asked == told,
            _ => true,
        };
        self.mode == EncryptionMode::None
            || (found.mode() == Some(self.mode) && is_key && is_kms_key)
    }

    /// Whether the answer to the begin of an upload tells anything to check. Some stores (MinIO) tell how
    /// they encrypt only with the whole object.
    pub fn is_told(&self, found: &Encrypted) -> bool {
        self.mode == EncryptionMode::None || found.mode() != Some(EncryptionMode::None)
    }

    /// The answer to a write, which must tell what was asked for. It is handed on to the caller.
    pub fn check(&self, store: &Inner, key: &str, found: Encrypted) -> Result<Extensions> {
        if self.is_as_asked(&found) {
            return Ok(extensions(found));
        }
        let Inner { bucket, place, .. } = store;
        let mode = self.mode;
        let text = format!(
            "s3://{bucket}/{key}: {place} stored it without the encryption asked for (mode = \
             \"{mode}\"; it answers: {found}); use a store that has it, or another mode in {TABLE}"
        );
        Err(StoreError::new(StoreFault::NotEncrypted, text).into_object_store("S3", key))
    }
}

/// Hands on how an object is encrypted.
pub(super) fn extensions(found: Encrypted) -> Extensions {
    let mut extensions = Extensions::default();
    extensions.insert(found);
    extensions
}

/// Sends a read with one key after another, while it is refused as a wrong one would be. Returns
/// also the key that served. If none does, the first refusal counts.
pub(super) async fn try_ways<T, F, Fut>(
    store: &Arc<Inner>,
    send: F,
) -> (Outcome<T>, Option<CustomerKey>)
where
    F: Fn(Option<CustomerKey>) -> Fut,
    Fut: Future<Output = Outcome<T>>,
{
    let mut first: Option<Outcome<T>> = None;
    for way in &store.encryption.ways {
        let outcome = send(way.clone()).await;
        let is_refused =
            outcome.result.as_ref().is_err_and(|failure| matches!(failure.status, 400 | 403));
        if !is_refused || store.encryption.ways.len() == 1 {
            return (outcome, way.clone());
        }
        first.get_or_insert(outcome);
    }
    match first {
        Some(mut outcome) => {
            if let Err(failure) = &mut outcome.result {
                failure.advise(&format!("check key_file and previous_key_file in {TABLE}"));
            }
            (outcome, None)
        }
        // There is always a way.
        None => (send(None).await, None),
    }
}

/// Puts a customer's key, if there is one, on a request.
macro_rules! with_customer_key {
    ($request:expr, $key:expr) => {{
        let key: Option<&$crate::store::s3::encryption::CustomerKey> = $key;
        $request
            .set_sse_customer_algorithm(key.map(|_| "AES256".to_owned()))
            .set_sse_customer_key(key.map(|key| key.base64()))
            .set_sse_customer_key_md5(key.map(|key| key.md5()))
    }};
}

/// Puts what every write asks for on a request that makes an object.
macro_rules! with_encryption {
    ($request:expr, $store:expr) => {{
        let encryption = &$store.encryption;
        let request = $request
            .set_server_side_encryption(encryption.algorithm())
            .set_ssekms_key_id(encryption.kms_key_id.clone())
            .set_bucket_key_enabled(encryption.bucket_key)
            .set_ssekms_encryption_context(encryption.context.clone());
        $crate::store::s3::encryption::with_customer_key!(request, encryption.customer_key())
    }};
}

/// How the object is encrypted that an answer is about.
macro_rules! encrypted {
    ($output:expr) => {{
        let output = &$output;
        $crate::store::Encrypted {
            algorithm: output.server_side_encryption().map(|it| it.as_str().to_owned()),
            kms_key_id: output.ssekms_key_id().map(str::to_owned),
            bucket_key: output.bucket_key_enabled().unwrap_or(false),
            customer_key_md5: output
                .sse_customer_algorithm()
                .map(|_| output.sse_customer_key_md5().unwrap_or_default().to_owned()),
        }
    }};
}

pub(super) use {encrypted, with_customer_key, with_encryption};

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(current: Option<u8>, previous: Option<u8>) -> CustomerKeys {
        let key = |byte: u8| SecretKey::from_bytes([byte; 32]);
        CustomerKeys { current: current.map(key), previous: previous.map(key) }
    }

    fn encryption(text: &str, keys: &CustomerKeys) -> Encryption {
        Encryption::new(&toml::from_str(text).unwrap(), keys).unwrap()
    }

    fn found(algorithm: Option<&str>, md5: Option<&str>, key: Option<&str>) -> Encrypted {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Encrypted {
            algorithm: owned(algorithm),
            kms_key_id: owned(key),
            bucket_key: false,
            customer_key_md5: owned(md5),
        }
    }

    #[test]
    fn keys_are_sent_in_base64_with_their_md5() {
        // printf '\1%.0s' {1..32} | openssl md5 -binary | base64
        let key = CustomerKey::new(&SecretKey::from_bytes([1; 32]));
        assert_eq!(key.base64(), "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
        assert_eq!(key.md5(), "4Funlf7OsLF0HL+vKU+fkg==");
    }

    #[test]
    fn a_context_is_sent_as_json_in_base64() {
        let text = "mode = 'sse-kms'\nencryption_context.b = 'x'\nencryption_context.a = 'y'";
        let context = encryption(text, &keys(None, None)).context;
        assert_eq!(context, Some(to_base64(br#"{"a":"y","b":"x"}"#)));
    }

    #[test]
    fn reads_try_the_key_of_now_then_the_previous_one_then_none() {
        let ways = |text: &str, keys: &CustomerKeys| {
            let ways = encryption(text, keys).ways;
            ways.into_iter().map(|way| way.map(|key| key.key.expose()[0])).collect::<Vec<_>>()
        };
        assert_eq!(ways("", &keys(None, None)), [None]);
        assert_eq!(ways("mode = 'sse-kms'", &keys(None, Some(2))), [None, Some(2)]);
        let customer = "mode = 'sse-c'\nkey_file = '/k'";
        assert_eq!(ways(customer, &keys(Some(1), None)), [Some(1), None]);
        assert_eq!(ways(customer, &keys(Some(1), Some(2))), [Some(1), Some(2), None]);
        assert!(Encryption::new(&toml::from_str(customer).unwrap(), &keys(None, None)).is_err());
    }

    #[test]
    fn only_the_mode_and_key_asked_for_pass() {
        let (none, s3) = (found(None, None, None), found(Some("AES256"), None, None));
        let kms = |key| found(Some("aws:kms"), None, Some(key));
        let customer = |md5| found(None, Some(md5), None);
        let nothing = encryption("", &keys(None, None));
        for any in [&none, &s3, &kms("k"), &customer("x")] {
            assert!(nothing.is_as_asked(any));
        }
        let asked = encryption("mode = 'sse-s3'", &keys(None, None));
        assert!(
            asked.is_as_asked(&s3) && !asked.is_as_asked(&none) && !asked.is_as_asked(&kms("k"))
        );
        let asked = encryption("mode = 'sse-kms'\nkms_key_id = 'alias/x'", &keys(None, None));
        assert!(asked.is_as_asked(&kms("arn:aws:kms:r:1:key/9")) && !asked.is_as_asked(&s3));
        let text = "mode = 'sse-kms'\nkms_key_id = 'arn:aws:kms:r:1:key/9'";
        let asked = encryption(text, &keys(None, None));
        assert!(asked.is_as_asked(&kms("arn:aws:kms:r:1:key/9")));
        assert!(!asked.is_as_asked(&kms("arn:aws:kms:r:1:key/8")));
        let asked = encryption("mode = 'sse-c'\nkey_file = '/k'", &keys(Some(1), None));
        assert!(asked.is_as_asked(&customer("4Funlf7OsLF0HL+vKU+fkg==")));
        assert!(!asked.is_as_asked(&customer("other")) && !asked.is_as_asked(&none));
    }
}
