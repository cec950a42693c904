//! Large objects in parts. The object appears whole, when the upload is completed, or never.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;

use super::encryption::{encrypted, with_customer_key, with_encryption};
use super::put::Headers;
use super::retry::{malformed, run, upload};
use super::{Inner, get};
use crate::store::object_store::path::Path;
use crate::store::object_store::{
    Extensions, MultipartUpload, PutMultipartOptions, PutPayload, PutResult, Result, UploadPart,
};
use crate::store::{Encrypted, StoreError, StoreFault};

pub(super) async fn start(
    store: &Arc<Inner>,
    location: &Path,
    opts: PutMultipartOptions,
) -> Result<Box<dyn MultipartUpload>> {
    let headers = Headers::new(store, &opts.attributes, &opts.extensions)?;
    let tags = opts.tags.encoded();
    let request = with_encryption!(store.client.create_multipart_upload(), store)
        .bucket(&store.bucket)
        .key(location.as_ref())
        // Said outright, because the parts carry one and AWS wants to know which.
        .checksum_algorithm(ChecksumAlgorithm::Crc32)
        .set_cache_control(headers.cache_control)
        .set_content_disposition(headers.content_disposition)
        .set_content_encoding(headers.content_encoding)
        .set_content_language(headers.content_language)
        .set_content_type(headers.content_type)
        .set_storage_class(headers.storage_class)
        .set_metadata(headers.metadata)
        .set_tagging((!tags.is_empty()).then(|| tags.to_owned()));
    let outcome = run(store, || request.clone().send()).await;
    let output = outcome.into_result(store, location.as_ref())?;
    let told = encrypted!(output);
    let Some(id) = output.upload_id else {
        return Err(malformed(store, location.as_ref(), "an upload without its id"));
    };
    let mut upload = Upload {
        store: Arc::clone(store),
        location: location.clone(),
        id,
        is_told: store.encryption.is_told(&told),
        started: 0,
        bytes: 0,
        parts: Arc::default(),
    };
    // Before any part of it is sent.
    if upload.is_told
        && let Err(error) = store.encryption.check(store, location.as_ref(), told)
    {
        if let Err(error) = upload.abort().await {
            tracing::debug!(%error, "an upload that was refused stays begun");
        }
        return Err(error);
    }
    Ok(Box::new(upload))
}

/// An upload that is neither completed nor aborted stays at the server, invisible but paid for,
/// until the bucket's lifecycle rule removes it.
struct Upload {
    store: Arc<Inner>,
    location: Path,
    id: String,
    /// How the store encrypts it is known, and as asked.
    is_told: bool,
    started: i32,
    bytes: u64,
    parts: Arc<Mutex<Vec<CompletedPart>>>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "upload of s3://{}/{}", self.store.bucket, self.location)
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        // Numbered in the order of the calls, however the uploads overtake each other.
        self.started += 1;
        self.bytes += data.content_length() as u64;
        let part = Part {
            store: Arc::clone(&self.store),
            key: self.location.to_string(),
            id: self.id.clone(),
            number: self.started,
            body: data.into(),
        };
        let parts = Arc::clone(&self.parts);
        Box::pin(async move {
            let part = part.send().await?;
            parts.lock().unwrap_or_else(PoisonError::into_inner).push(part);
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        if self.started == 0 {
            // The protocol wants at least one part.
            self.put_part(PutPayload::default()).await?;
        }
        let key = self.location.as_ref();
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        parts.sort_by_key(CompletedPart::part_number);
        if parts.len() != usize::try_from(self.started).unwrap_or(usize::MAX) {
            let text = format!("{key}: upload completed before all its parts were stored");
            return Err(StoreError::new(StoreFault::Invalid, text).into_object_store("S3", key));
        }
        // With the customer's key, because the parts carry checksums.
        let complete = self.store.client.complete_multipart_upload();
        let request = with_customer_key!(complete, self.store.encryption.customer_key())
            .bucket(&self.store.bucket)
            .key(key)
            .upload_id(&self.id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        let outcome = run(&self.store, || request.clone().send()).await;
        // The answer to an earlier attempt was lost, and the upload is over.
        let is_over = outcome.is_ambiguous
            && outcome.result.as_ref().is_err_and(|failure| failure.code == "NoSuchUpload");
        if is_over {
            let found = self.look().await?;
            if found.0 == self.bytes {
                return Ok(found.1);
            }
        }
        let output = outcome.into_result(&self.store, key)?;
        match output.e_tag {
            Some(e_tag) if self.is_told && !e_tag.is_empty() => Ok(PutResult {
                e_tag: Some(e_tag),
                version: output.version_id,
                extensions: Extensions::default(),
            }),
            // Ceph RGW 16 leaves it empty.
            _ => Ok(self.look().await?.1),
        }
    }

    async fn abort(&mut self) -> Result<()> {
        let request = self
            .store
            .client
            .abort_multipart_upload()
            .bucket(&self.store.bucket)
            .key(self.location.as_ref())
            .upload_id(&self.id);
        let outcome = run(&self.store, || request.clone().send()).await;
        match &outcome.result {
            Err(failure) if failure.fault == StoreFault::NotFound => Ok(()),
            _ => outcome.into_result(&self.store, self.location.as_ref()).map(drop),
        }
    }
}

impl Upload {
    /// Size and version of what is there now, which must be encrypted as asked.
    async fn look(&self) -> Result<(u64, PutResult)> {
        let found = get::head(&self.store, &self.location, None).await?;
        let told = found.extensions.get::<Encrypted>().cloned().unwrap_or_default();
        let extensions = self.store.encryption.check(&self.store, self.location.as_ref(), told)?;
        let (e_tag, version) = (found.meta.e_tag, found.meta.version);
        Ok((found.meta.size, PutResult { e_tag, version, extensions }))
    }
}

struct Part {
    store: Arc<Inner>,
    key: String,
    id: String,
    number: i32,
    body: Bytes,
}

impl Part {
    async fn send(self) -> Result<CompletedPart> {
        let Self { store, key, id, number, body } = self;
        let outcome = upload(&store, &body, |outgoing| {
            let part = store.client.upload_part();
            let request = with_customer_key!(part, store.encryption.customer_key())
                .bucket(&store.bucket)
                .key(&key)
                .upload_id(&id)
                .part_number(number)
                .checksum_algorithm(ChecksumAlgorithm::Crc32)
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
        .await;
        let output = outcome.into_result(&store, &key)?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(output.e_tag)
            .set_checksum_crc32(output.checksum_crc32)
            .build())
    }
}
