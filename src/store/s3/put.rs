//! Writing whole objects: unconditional, create, update, copy.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::types::{MetadataDirective, StorageClass};
use bytes::Bytes;

use super::encryption::{CustomerKey, encrypted, try_ways, with_encryption};
use super::errors::Failure;
use super::retry::{Outcome, run, upload};
use super::{Inner, get};
use crate::store::object_store::path::Path;
use crate::store::object_store::{
    Attribute, Attributes, CopyMode, CopyOptions, Error, Extensions, GetOptions, PutMode,
    PutOptions, PutResult, Result,
};
use crate::store::{Bulk, Encrypted, StoreError, StoreFault};

/// Headers of an object besides its bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Headers {
    pub cache_control: Option<String>,
    pub content_disposition: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_type: Option<String>,
    pub storage_class: Option<StorageClass>,
    pub metadata: Option<HashMap<String, String>>,
}

impl Headers {
    /// The storage class of bulk objects is decided here, and nowhere else.
    pub fn new(store: &Inner, attributes: &Attributes, extensions: &Extensions) -> Result<Self> {
        let mut headers = Self::default();
        if extensions.get::<Bulk>().is_some() {
            let class = store.bulk_class.map(|class| StorageClass::from(class.name()));
            headers.storage_class = class;
        }
        for (name, value) in attributes {
            let value = value.to_string();
            match name {
                Attribute::CacheControl => headers.cache_control = Some(value),
                Attribute::ContentDisposition => headers.content_disposition = Some(value),
                Attribute::ContentEncoding => headers.content_encoding = Some(value),
                Attribute::ContentLanguage => headers.content_language = Some(value),
                Attribute::ContentType => headers.content_type = Some(value),
                Attribute::StorageClass => {
                    headers.storage_class = Some(StorageClass::from(value.as_str()));
                }
                Attribute::Metadata(key) => {
                    headers.metadata.get_or_insert_default().insert(key.to_string(), value);
                }
                other => {
                    let text = format!("attribute {other:?} is not known to the S3 store");
                    return Err(
                        StoreError::new(StoreFault::Unsupported, text).into_object_store("S3", "")
                    );
                }
            }
        }
        Ok(headers)
    }
}

pub(super) async fn put(
    store: &Arc<Inner>,
    location: &Path,
    body: Bytes,
    opts: PutOptions,
) -> Result<PutResult> {
    let headers = Headers::new(store, &opts.attributes, &opts.extensions)?;
    let tags = opts.tags.encoded().to_owned();
    let object = Object { store, key: location.as_ref(), body, headers, tags };
    match opts.mode {
        PutMode::Overwrite => {
            let outcome = object.send(&Condition::None).await;
            answer(store, object.key, &outcome.into_result(store, object.key)?)
        }
        PutMode::Create => object.put_if(Condition::Absent, location).await,
        PutMode::Update(version) => {
            let Some(e_tag) = version.e_tag else {
                let text = format!("{location}: an update needs the ETag it replaces");
                return Err(StoreError::new(StoreFault::Invalid, text)
                    .into_object_store("S3", location.as_ref()));
            };
            object.put_if(Condition::Is(e_tag), location).await
        }
    }
}

#[derive(Debug, Clone)]
enum Condition {
    None,
    Absent,
    Is(String),
}

/// What is to be written.
struct Object<'a> {
    store: &'a Arc<Inner>,
    key: &'a str,
    body: Bytes,
    headers: Headers,
    tags: String,
}

impl Object<'_> {
    async fn send(&self, condition: &Condition) -> Outcome<PutObjectOutput> {
        let Self { store, key, body, headers, tags } = self;
        let if_match = match condition {
            Condition::Is(e_tag) => Some(store.if_match(e_tag)),
            Condition::None | Condition::Absent => None,
        };
        let if_none_match = matches!(condition, Condition::Absent).then(|| "*".to_owned());
        upload(store, body, |outgoing| {
            let headers = headers.clone();
            let request = with_encryption!(store.client.put_object(), store)
                .bucket(&store.bucket)
                .key(*key)
                .set_cache_control(headers.cache_control)
                .set_content_disposition(headers.content_disposition)
                .set_content_encoding(headers.content_encoding)
                .set_content_language(headers.content_language)
                .set_content_type(headers.content_type)
                .set_storage_class(headers.storage_class)
                .set_metadata(headers.metadata)
                .set_tagging((!tags.is_empty()).then(|| tags.clone()))
                .set_if_match(if_match.clone())
                .set_if_none_match(if_none_match.clone())
                .body(body.clone().into())
                .customize()
                .interceptor(outgoing);
            async {
                if store.is_private {
                    request.disable_payload_signing().send().await
                } else {
                    request.send().await
                }
            }
        })
        .await
    }

    /// A conditional put whose answer is about this very write.
    async fn put_if(&self, condition: Condition, location: &Path) -> Result<PutResult> {
        let mut outcome = self.send(&condition).await;
        if let (Err(failure), Condition::Is(e_tag)) = (&outcome.result, &condition)
            && failure.fault == StoreFault::Precondition
            && self.learns_bare_etags(e_tag, location).await?
        {
            outcome = self.send(&condition).await;
        }
        let (attempts, is_ambiguous) = (outcome.attempts, outcome.is_ambiguous);
        match outcome.result {
            Ok(output) => answer(self.store, self.key, &output),
            Err(failure) => match refused(&condition, &failure) {
                None => Err(failure
                    .into_error(self.store, self.key, attempts)
                    .into_object_store("S3", self.key)),
                Some(fault) => {
                    if is_ambiguous && let Some(own) = self.read_back(location).await? {
                        return Ok(own);
                    }
                    let mut error = failure.into_error(self.store, self.key, attempts);
                    error.fault = fault;
                    Err(error.into_object_store("S3", self.key))
                }
            },
        }
    }

    /// Whether the object is, byte for byte, what we sent: then the lost answer was a success.
    async fn read_back(&self, location: &Path) -> Result<Option<PutResult>> {
        let found = match get::get(self.store, location, GetOptions::default()).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if found.meta.size != self.body.len() as u64 {
            return Ok(None);
        }
        let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
        let encrypted = found.extensions.get::<Encrypted>().cloned().unwrap_or_default();
        if found.bytes().await? != self.body {
            return Ok(None);
        }
        let extensions = self.store.encryption.check(self.store, self.key, encrypted)?;
        Ok(Some(PutResult { e_tag, version, extensions }))
    }

    /// Ceph RGW 16 compares `If-Match` without taking the quotes off, so that an `ETag` as S3
    /// writes it never matches. If the object still has the very `ETag` that was refused, this is
    /// such a server, and from now on it gets them bare.
    async fn learns_bare_etags(&self, e_tag: &str, location: &Path) -> Result<bool> {
        if !e_tag.starts_with('"') || self.store.wants_bare_etags.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match get::head(self.store, location, None).await {
            Ok(found) if found.meta.e_tag.as_deref() == Some(e_tag) => {
                self.store.wants_bare_etags.store(true, Ordering::Relaxed);
                Ok(true)
            }
            Ok(_) | Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The fault that a refusal means under a condition; `None` if it is about something else.
fn refused(condition: &Condition, failure: &Failure) -> Option<StoreFault> {
    match (condition, failure.fault) {
        (Condition::Absent, StoreFault::Precondition | StoreFault::NotModified) => {
            Some(StoreFault::AlreadyExists)
        }
        (Condition::Is(_), StoreFault::Precondition | StoreFault::NotFound) => {
            Some(StoreFault::Precondition)
        }
        _ => None,
    }
}

fn answer(store: &Inner, key: &str, output: &PutObjectOutput) -> Result<PutResult> {
    Ok(PutResult {
        e_tag: output.e_tag().map(str::to_owned),
        version: output.version_id().map(str::to_owned),
        extensions: store.encryption.check(store, key, encrypted!(output))?,
    })
}

/// Copies on the server. `Create` looks first and is not atomic: S3 has no condition for the
/// target of a copy that servers in the field agree on, and nothing here relies on one.
pub(super) async fn copy(
    store: &Arc<Inner>,
    from: &Path,
    to: &Path,
    options: &CopyOptions,
) -> Result<()> {
    if options.mode == CopyMode::Create {
        match get::head(store, to, None).await {
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
            Ok(_) => {
                let text = format!("s3://{}/{to}: exists already", store.bucket);
                return Err(StoreError::new(StoreFault::AlreadyExists, text)
                    .into_object_store("S3", to.as_ref()));
            }
        }
    }
    let request = with_encryption!(store.client.copy_object(), store)
        .bucket(&store.bucket)
        .key(to.as_ref())
        .metadata_directive(MetadataDirective::Copy)
        .copy_source(copy_source(&store.bucket, from.as_ref()));
    let (outcome, _) = try_ways(store, |way| {
        let request = request
            .clone()
            .set_copy_source_sse_customer_algorithm(way.as_ref().map(|_| "AES256".to_owned()))
            .set_copy_source_sse_customer_key(way.as_ref().map(CustomerKey::base64))
            .set_copy_source_sse_customer_key_md5(way.as_ref().map(CustomerKey::md5));
        async move { run(store, || request.clone().send()).await }
    })
    .await;
    let output = outcome.into_result(store, from.as_ref())?;
    store.encryption.check(store, to.as_ref(), encrypted!(output)).map(drop)
}

/// Objects of an access point are named below its ARN.
fn copy_source(bucket: &str, key: &str) -> String {
    let between = if bucket.starts_with("arn:") { "/object/" } else { "/" };
    format!("{bucket}{between}{}", encode(key))
}

/// The copy source is a header that holds a URL path, which the SDK leaves to its user.
fn encode(key: &str) -> String {
    use std::fmt::Write as _;
    key.bytes().fold(String::with_capacity(key.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_sources_are_encoded_as_a_url_path() {
        assert_eq!(encode("a/b-c_d.e~f"), "a/b-c_d.e~f");
        assert_eq!(encode("a b+c%d\u{e9}"), "a%20b%2Bc%25d%C3%A9");
        assert_eq!(copy_source("bucket", "a/b"), "bucket/a/b");
        let arn = "arn:aws:s3:eu-west-1:123456789012:accesspoint/name";
        assert_eq!(copy_source(arn, "a/b"), format!("{arn}/object/a/b"));
    }
}
