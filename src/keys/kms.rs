//! KMS slots: 32 random bytes that a key in AWS KMS encrypts.
//!
//! ```text
//! make:  random input --Encrypt(key, context)--> ciphertext, beside the key's ARN in the slot
//! open:  ciphertext --Decrypt(pinned ARN, context)--> input --HKDF--> KEK
//! move:  ciphertext --ReEncrypt(old ARN -> new ARN, context)--> ciphertext: nobody sees the input
//! context = {"app": "lidfs", "volume": volume id, "slot": slot id}
//! ```
//!
//! Opening is one request; afterwards nothing here is needed until the next one.
//!
//! Invariant: who can write the bucket decides nothing about which key is asked. The ARN
//! stands in the config; a slot of another key is passed over, KMS is told the ARN and
//! refuses a ciphertext of another key, and the ARN in its answer is compared. An alias
//! is never asked for opening, since somebody may point it at a key of theirs.
//!
//! The SDK's own copies of what it sends and gets are not wiped.

mod error;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{ConfigLoader, Region};
use aws_sdk_kms::Client;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};

pub use error::KmsError;

use super::slot::Place;
use super::{KeyError, SlotKind};
use crate::crypto::{SecretBytes, SecretKey, random_bytes};
use crate::format::header::{Base64, Unlock, is_kms_key_arn};
use crate::store::StoreFault;
use crate::store::s3::{check_endpoint, sdk_defaults, service_endpoint};

/// How long one operation may take with all its attempts.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long one attempt may take; KMS answers in some milliseconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Waits between attempts double from here, and are spread so that many machines do not come at once ...
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// ... to here.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The section `[key.kms]`: how to reach KMS, where the SDK's own settings do not say it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KmsConfig {
    /// Region of the key where only an alias is known; an ARN names its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Address of a KMS other than the region's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Profile whose credentials are used, whatever the bucket's are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

impl KmsConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether there is nothing to write out.
// Serde hands every field over by reference.
pub(super) fn is_default(config: &KmsConfig) -> bool {
    config.is_default()
}

/// A key in KMS as the user names it, and how to reach it.
#[derive(Debug, Clone)]
pub struct KmsKey {
    name: String,
    config: KmsConfig,
    /// What brings credentials: the SDK's own chain, but in tests.
    loader: fn() -> ConfigLoader,
}

/// What KMS made of a key's input.
struct Encrypted {
    key: String,
    ciphertext: Vec<u8>,
}

impl KmsKey {
    /// A key by its ARN, or by an alias: `alias/NAME`.
    pub fn new(name: &str, config: &KmsConfig) -> Self {
        Self { name: name.to_owned(), config: config.clone(), loader: sdk_defaults }
    }

    /// The same way to KMS, for another key.
    #[must_use]
    pub fn with_name(&self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self.clone() }
    }

    /// ARN or alias.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A slot's way to its key, and that key.
    ///
    /// # Errors
    /// [`KmsError`].
    pub(super) async fn new_slot(&self, place: Place) -> Result<(Unlock, SecretKey), KeyError> {
        let input = SecretKey::generate();
        let Encrypted { key, ciphertext } = self.encrypt(place, &input).await?;
        let salt = random_bytes::<32>();
        let kek = place.kek(SlotKind::Kms, &input, &salt);
        let salt = Base64(salt.to_vec());
        Ok((Unlock::Kms { key, ciphertext: Base64(ciphertext), salt }, kek))
    }

    /// The key of a slot whose ARN is the pinned one. One request.
    ///
    /// # Errors
    /// [`KmsError`].
    pub(super) async fn kek(
        &self,
        place: Place,
        ciphertext: &[u8],
        salt: &[u8],
    ) -> Result<SecretKey, KeyError> {
        let input = self.decrypt(place, ciphertext).await?;
        Ok(place.kek(SlotKind::Kms, &input, salt))
    }

    /// That the name is a full ARN, so that it can be compared with a slot's.
    ///
    /// # Errors
    /// [`KmsError::Alias`] with the ARN to write in its place, which KMS is asked for.
    pub(super) async fn expect_arn(&self) -> Result<(), KmsError> {
        if is_kms_key_arn(&self.name) {
            return Ok(());
        }
        let given = self.name.clone();
        match self.resolve().await {
            Ok(arn) => Err(KmsError::Alias { given, arn }),
            Err(source) => Err(KmsError::AliasUnknown { given, source: Box::new(source) }),
        }
    }

    /// Whether a ciphertext of `key` can be moved to this key by KMS itself.
    pub(super) fn is_in_region_of(&self, key: &str) -> bool {
        match (region_of(&self.name), &self.config.region) {
            (Some(region), _) => Some(region) == region_of(key),
            (None, Some(region)) => Some(region.as_str()) == region_of(key),
            (None, None) => true,
        }
    }

    async fn resolve(&self) -> Result<String, KmsError> {
        let call = self.call("DescribeKey").await?;
        let answer = call.run(|| call.client.describe_key().key_id(&self.name).send()).await?;
        let arn = answer.key_metadata().and_then(|key| key.arn());
        call.full_arn(arn)
    }

    async fn encrypt(&self, place: Place, input: &SecretKey) -> Result<Encrypted, KmsError> {
        let call = self.call("Encrypt").await?;
        let [app, volume, slot] = context(place);
        let answer = call
            .run(|| {
                let request = call.client.encrypt().key_id(&self.name);
                let request = request.plaintext(Blob::new(input.expose().as_slice()));
                let request = request.encryption_context(app.0, &app.1);
                let request = request.encryption_context(volume.0, &volume.1);
                request.encryption_context(slot.0, &slot.1).send()
            })
            .await?;
        let key = call.answering_key(answer.key_id())?;
        let ciphertext = answer.ciphertext_blob.ok_or_else(|| call.malformed("no ciphertext"))?;
        Ok(Encrypted { key, ciphertext: ciphertext.into_inner() })
    }

    async fn decrypt(&self, place: Place, ciphertext: &[u8]) -> Result<SecretKey, KmsError> {
        let call = self.call("Decrypt").await?;
        let [app, volume, slot] = context(place);
        let answer = call
            .run(|| {
                let request = call.client.decrypt().key_id(&self.name);
                let request = request.ciphertext_blob(Blob::new(ciphertext));
                let request = request.encryption_context(app.0, &app.1);
                let request = request.encryption_context(volume.0, &volume.1);
                request.encryption_context(slot.0, &slot.1).send()
            })
            .await?;
        let answered = call.answering_key(answer.key_id());
        let input = answer.plaintext.ok_or_else(|| call.malformed("no plaintext"))?;
        let input = SecretBytes::take(input.into_inner());
        answered?;
        let input = input.expose().try_into().map_err(|_| call.malformed("not 32 bytes"))?;
        Ok(SecretKey::copy_of(input))
    }

    /// A ciphertext of the key `from`, now of this key. The plaintext stays in KMS.
    pub(super) async fn take_over(
        &self,
        place: Place,
        from: &str,
        ciphertext: &[u8],
    ) -> Result<(String, Vec<u8>), KmsError> {
        let call = self.call("ReEncrypt").await?;
        let context = context(place);
        let answer = call
            .run(|| {
                let mut request = call.client.re_encrypt().source_key_id(from);
                request = request.destination_key_id(&self.name);
                for (name, value) in &context {
                    request = request.source_encryption_context(*name, value);
                    request = request.destination_encryption_context(*name, value);
                }
                request.ciphertext_blob(Blob::new(ciphertext)).send()
            })
            .await?;
        if answer.source_key_id() != Some(from) {
            return Err(call.other_key(from, answer.source_key_id()));
        }
        let key = call.answering_key(answer.key_id())?;
        let ciphertext = answer.ciphertext_blob.ok_or_else(|| call.malformed("no ciphertext"))?;
        Ok((key, ciphertext.into_inner()))
    }

    async fn call(&self, action: &'static str) -> Result<Call<'_>, KmsError> {
        // Before the credential chain, which may itself ask the network.
        if let Some(endpoint) = &self.config.endpoint {
            expect_private(endpoint)?;
        }
        let mut loader = (self.loader)()
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
            // Retries and the deadline are our own: the SDK's loop forgets the last cause.
            .retry_config(RetryConfig::disabled());
        // The ARN's region is the only one that has the key.
        if let Some(region) = region_of(&self.name).or(self.config.region.as_deref()) {
            loader = loader.region(Region::new(region.to_owned()));
        }
        if let Some(profile) = &self.config.profile {
            // The chain would prefer variables, which may be meant for the bucket.
            let credentials = ProfileFileCredentialsProvider::builder().profile_name(profile);
            loader = loader.profile_name(profile).credentials_provider(credentials.build());
        }
        let shared = loader.load().await;
        let endpoint = service_endpoint("KMS", self.config.endpoint.as_deref(), &shared);
        let Some(region) = shared.region() else {
            return Err(KmsError::NoRegion { key: self.name.clone() });
        };
        let mut place = format!("AWS KMS in {region}");
        let mut builder = aws_sdk_kms::config::Builder::from(&shared);
        if let Some(endpoint) = endpoint {
            expect_private(&endpoint)?;
            place.clone_from(&endpoint);
            builder = builder.endpoint_url(endpoint);
        }
        Ok(Call { key: &self.name, action, place, client: Client::from_conf(builder.build()) })
    }
}

/// What every ciphertext is bound to: it decrypts for this slot of this volume alone.
fn context(place: Place) -> [(&'static str, String); 3] {
    [
        ("app", "lidfs".to_owned()),
        ("volume", place.volume.to_string()),
        ("slot", place.slot.to_string()),
    ]
}

fn region_of(arn: &str) -> Option<&str> {
    arn.strip_prefix("arn:")?.split(':').nth(2).filter(|region| !region.is_empty())
}

/// Keys in the clear pass here: plain http reaches this machine alone.
fn expect_private(endpoint: &str) -> Result<(), KmsError> {
    match check_endpoint(endpoint, false) {
        Ok(_) => Ok(()),
        Err(error) if error.fault == StoreFault::Insecure => {
            Err(KmsError::Insecure { endpoint: endpoint.to_owned() })
        }
        Err(_) => Err(KmsError::Endpoint { endpoint: endpoint.to_owned() }),
    }
}

/// One operation on one key, as often as it has to be tried.
struct Call<'a> {
    key: &'a str,
    action: &'static str,
    /// Whom it is sent to, for messages.
    place: String,
    client: Client,
}

impl Call<'_> {
    async fn run<T, E, F>(&self, mut send: impl FnMut() -> F) -> Result<T, KmsError>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let end = Instant::now() + DEADLINE;
        let mut wait = BACKOFF_MIN;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let limit = end.min(Instant::now() + ATTEMPT_TIMEOUT);
            let failure = match timeout_at(limit, Box::pin(send())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => self.failure(&error, attempts),
                Err(_) => self.unreachable("no answer in time".to_owned(), attempts),
            };
            // Between half and the whole.
            let spread = u32::from(random_bytes::<1>()[0]) + 256;
            let pause = wait * spread / 512;
            if !failure.is_passing() || Instant::now() + pause >= end {
                return Err(failure);
            }
            tracing::debug!(attempts, ?pause, error = %failure, "request to KMS is tried again");
            sleep(pause).await;
            wait = BACKOFF_MAX.min(2 * wait);
        }
    }

    /// The ARN that an answer names, which must be the one asked for; of an alias, any key's.
    fn answering_key(&self, answered: Option<&str>) -> Result<String, KmsError> {
        if is_kms_key_arn(self.key) && answered != Some(self.key) {
            return Err(self.other_key(self.key, answered));
        }
        self.full_arn(answered)
    }

    fn full_arn(&self, arn: Option<&str>) -> Result<String, KmsError> {
        match arn {
            Some(arn) if is_kms_key_arn(arn) => Ok(arn.to_owned()),
            _ => Err(self.malformed("no full ARN of a key")),
        }
    }
}
