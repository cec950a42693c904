//! Writing whole objects: unconditional, create, update, copy.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::types::{MetadataDirective, StorageClass};
use bytes::Bytes;

use super::errors::Failure;
use super::retry::{Outcome, run, upload};
use super::{Inner, get};
use crate::store::object_store::path::Path;
use crate::store::object_store::{
    Attribute, Attributes, CopyMode, CopyOptions, Error, Extensions, GetOptions, PutMode,
    PutOptions, PutResult, Result,
};
use crate::store::{StoreError, StoreFault};

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
    pub fn new(attributes: &Attributes) -> Result<Self> {
        let mut headers = Self::default();
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
    let headers = Headers::new(&opts.attributes)?;
    let tags = opts.tags.encoded().to_owned();
    let object = Object { store, key: location.as_ref(), body, headers, tags };
    match opts.mode {
        PutMode::Overwrite => {
            let outcome = object.send(&Condition::None).await;
            outcome.into_result(store, object.key).map(|output| answer(&output))
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
            let request = store
                .client
                .put_object()
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
                if store.is_tls {
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
            Ok(output) => Ok(answer(&output)),
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
        let is_ours = found.bytes().await? == self.body;
        Ok(is_ours.then(|| PutResult { e_tag, version, extensions: Extensions::default() }))
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

fn answer(output: &PutObjectOutput) -> PutResult {
    PutResult {
        e_tag: output.e_tag().map(str::to_owned),
        version: output.version_id().map(str::to_owned),
        extensions: Extensions::default(),
    }
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
    let request = store
        .client
        .copy_object()
        .bucket(&store.bucket)
        .key(to.as_ref())
        .metadata_directive(MetadataDirective::Copy)
        .copy_source(format!("{}/{}", store.bucket, encode(from.as_ref())));
    let outcome = run(store, || request.clone().send()).await;
    outcome.into_result(store, from.as_ref()).map(drop)
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
    }
}
