//! S3 and what speaks its protocol, through the AWS SDK: its whole credential chain, its TLS.
//!
//! ```text
//!   S3Store (trait) -> retry::run -> one SDK request -> connection pool -> server
//!                        ^   |
//!                        +---+  own loop: jitter, one deadline, last cause kept
//! ```
//!
//! * **Checksums.** Bodies are handed to the SDK in one piece. For those it sends the CRC-32 as a
//!   plain header; only for streams would it use a trailer, which Ceph RGW (411, 400) and others
//!   refuse. So AWS verifies what it stores and everybody else can ignore one header.
//! * **Signing.** Over https the payload is unsigned: TLS and the CRC protect it, and SHA-256
//!   over every pack would cost more than sealing it. Over plain http it is signed.
//! * **Conditional puts** answer for the caller's own write: when an attempt of unknown outcome is
//!   followed by a failed condition, the object is read back and compared with what was sent.
//!   Sealed objects carry a fresh salt, so equal bytes mean that our write is the one that landed.
//! * **Stalled uploads** are noticed by the connection taking no more of the body, and sent again on
//!   another one, long before the time is over that a slow network may take for all of it.
//! * **Reads** check the length of every body, and resume a broken one where it stopped, tied to
//!   the same `ETag`.

mod client;
mod encryption;
mod errors;
mod every_request;
mod get;
mod list;
mod multipart;
mod outgoing;
mod put;
mod retry;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_config::ConfigLoader;
use aws_sdk_s3::Client;
use futures::StreamExt;
use futures::stream::BoxStream;

pub use client::S3Config;
// For what else the SDK talks to.
pub(crate) use client::{check_endpoint, defaults as sdk_defaults, service_endpoint};
use encryption::Encryption;
pub(crate) use errors::{chain, innermost, one_line};

use crate::store::object_store::path::Path;
use crate::store::object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use crate::store::{PackStorageClass, StoreError, Transport, Trouble};

/// A bucket as an object store. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct S3Store {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    bucket: String,
    /// For messages: the endpoint, or the region's name if it is AWS itself.
    place: String,
    deadline: Duration,
    is_tls: bool,
    /// Nobody can change a payload on its way, so that it needs no signature of its own; its checksum it has.
    is_private: bool,
    /// Set once the server is seen to compare `If-Match` with the quotes included (Ceph RGW 16).
    wants_bare_etags: AtomicBool,
    trouble: Arc<Trouble>,
    encryption: Encryption,
    /// Of objects that are marked as [`Bulk`](crate::store::Bulk).
    bulk_class: Option<PackStorageClass>,
}

impl S3Store {
    /// Reads the SDK's configuration and prepares a client. Sends nothing to the store.
    ///
    /// # Errors
    /// Settings that contradict each other; plain http to another machine without `allow_http`, or
    /// with a customer's key; an endpoint that is no URL; unreadable certificates.
    pub async fn connect(config: S3Config) -> Result<Self, StoreError> {
        Self::connect_with(config, client::defaults()).await
    }

    /// As [`S3Store::connect`], with a loader that brings credentials of its own.
    ///
    /// # Errors
    /// The same.
    pub async fn connect_with(config: S3Config, loader: ConfigLoader) -> Result<Self, StoreError> {
        let encryption = Encryption::new(&config.store.server_side_encryption, &config.keys)?;
        let (client, target) = client::build(&config, loader).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                client,
                bucket: config.bucket,
                place: target.place,
                deadline: config.store.deadline,
                is_tls: target.is_tls,
                is_private: target.is_private,
                wants_bare_etags: AtomicBool::new(false),
                trouble: Arc::default(),
                encryption,
                bulk_class: config.store.storage_class,
            }),
        })
    }

    /// The SDK client, for what is not about objects: the bucket's own settings.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// What it refuses or does not answer just now.
    pub fn trouble(&self) -> Arc<Trouble> {
        Arc::clone(&self.inner.trouble)
    }

    /// How requests travel to it.
    pub fn transport(&self) -> Transport {
        let place = self.inner.place.clone();
        if self.inner.is_tls { Transport::Tls(place) } else { Transport::Plain(place) }
    }

    /// Name of the bucket.
    pub fn bucket(&self) -> &str {
        &self.inner.bucket
    }
}

impl Inner {
    /// An `If-Match` value in the form this server compares.
    fn if_match(&self, e_tag: &str) -> String {
        if self.wants_bare_etags.load(Ordering::Relaxed) {
            e_tag.trim_matches('"').to_owned()
        } else {
            e_tag.to_owned()
        }
    }
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{} at {}", self.inner.bucket, self.inner.place)
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        put::put(&self.inner, location, payload.into(), opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        multipart::start(&self.inner, location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        get::get(&self.inner, location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        list::delete(Arc::clone(&self.inner), locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        list::list(Arc::clone(&self.inner), prefix, None).boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        list::list(Arc::clone(&self.inner), prefix, Some(offset)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        list::list_with_delimiter(&self.inner, prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        put::copy(&self.inner, from, to, &options).await
    }
}
