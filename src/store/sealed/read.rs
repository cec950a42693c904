//! Reading: from plaintext ranges to sealed ranges and back.
//!
//! ```text
//! range asked --> chunks it touches --> one GET of them, with the header when that is near
//!                                            |            (else from the cache, or a second GET)
//!                                            v
//!                     stream: header? | part of a chunk | chunk | chunk ...
//!                                            v  opened in batches
//!                     stream of plaintext, trimmed to the range
//! ```
//!
//! A header belongs to the body it was read with, or to one with the same ETag:
//! an object may be overwritten between two requests. A server that lies about
//! ETags gains nothing, because a header of another object opens no chunk.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use futures::try_join;
use lru::LruCache;

use super::geometry::{CHUNK, HEADER, SEALED_CHUNK, chunk_start, chunks, plain_len, sealed_suffix};
use super::{INLINE_MAX, STORE, SealedStore, forged, passing, wrong_length};
use crate::crypto::{OpenError, Opener, TAG_LEN};
use crate::store::object_store::path::Path;
use crate::store::object_store::{
    Error, GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt as _,
    Result,
};
use crate::store::{StoreFault, fault};

/// Most headers kept; about 1 KiB each.
const HEADERS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// A range that starts before this byte is fetched from the header on: fewer bytes than a second request costs.
const NEAR: u64 = 64 * 1024;
/// Chunks opened at a time: 1 MiB.
const BATCH_CHUNKS: u64 = 64;
/// How often a read begins anew when the object is overwritten meanwhile.
const ATTEMPTS: usize = 4;

/// Openers of objects read before, each with the ETag of the object it is for.
pub(super) struct Headers(Mutex<LruCache<Path, (String, Opener)>>);

impl Default for Headers {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(HEADERS_MAX)))
    }
}

impl Headers {
    fn get(&self, location: &Path) -> Option<(String, Opener)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(location).cloned()
    }

    fn put(&self, location: &Path, e_tag: Option<&str>, opener: &Opener) {
        if let Some(e_tag) = e_tag {
            let entry = (e_tag.to_owned(), opener.clone());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).put(location.clone(), entry);
        }
    }
}

impl SealedStore {
    /// The object or a range of it, as plaintext.
    pub(super) async fn read(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(range) = &options.range {
            range.is_valid().map_err(invalid_range)?;
        }
        for _ in 0..ATTEMPTS {
            if let Some(result) = self.try_read(location, &options).await? {
                return Ok(result);
            }
        }
        Err(passing(format!(
            "object {location}: overwritten {ATTEMPTS} times while it was read; read it again"
        )))
    }

    /// The head of an object that claims to be empty: proven to be so, or an error.
    pub(super) async fn proven_empty(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> Result<GetResult> {
        let options = GetOptions { head: false, range: None, ..options };
        let mut result = self.read(location, options).await?;
        let nothing = GetResultPayload::Stream(stream::empty().boxed());
        // It may have been overwritten with more since: then its size claims nothing unread.
        if let GetResultPayload::Stream(mut body) = std::mem::replace(&mut result.payload, nothing)
            && result.meta.size == 0
        {
            while body.try_next().await?.is_some() {}
        }
        Ok(result)
    }

    /// `None` when the header found is not of the same version of the object as the body.
    async fn try_read(&self, location: &Path, options: &GetOptions) -> Result<Option<GetResult>> {
        let known = self.headers.get(location);
        let asked = sealed_range(options.range.as_ref(), known.is_some());
        let far = asked.as_ref().and_then(start).is_some_and(|start| start > 0);
        let body = async {
            let get = GetOptions { range: asked.clone(), ..options.clone() };
            match self.inner.get_opts(location, get).await {
                Ok(result) => Ok(result),
                Err(error) => Err(self.too_short(location, asked.as_ref(), error).await),
            }
        };
        let (result, fetched) = if far && known.is_none() {
            let (body, header) = try_join!(body, self.fetch_header(location, options))?;
            (body, Some(header))
        } else {
            (body.await?, None)
        };

        let GetResult { payload: _, meta, range: sealed, attributes: _, extensions: _ } = &result;
        let len = plain_len(meta.size).ok_or_else(|| wrong_length(meta))?;
        let plain = match &options.range {
            Some(range) => range.as_range(len).map_err(|error| match start(range) {
                Some(start) if start >= len => {
                    let wanted = chunk_start(start / CHUNK);
                    let (path, len) = (location.to_string(), meta.size);
                    forged(OpenError::TooShort { path, len, wanted })
                }
                _ => invalid_range(error),
            })?,
            None => 0..len,
        };
        let (sealed, mut meta) = (sealed.clone(), meta.clone());
        let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
        let mut body = Body::new(location, sealed.start, result.into_stream());
        let opener = if sealed.start == 0 {
            let opener = self.opener(location, &body.take(HEADER as usize).await?).await?;
            self.headers.put(location, meta.e_tag.as_deref(), &opener);
            opener
        } else {
            let known = known.filter(|(e_tag, _)| meta.e_tag.as_ref() == Some(e_tag));
            let (e_tag, opener) = match (known, fetched) {
                (Some((e_tag, opener)), _) => (Some(e_tag), opener),
                (None, Some(fetched)) => fetched,
                (None, None) => self.fetch_header(location, options).await?,
            };
            if e_tag != meta.e_tag {
                return Ok(None);
            }
            opener
        };
        meta.size = len;
        let payload = if plain.is_empty() && len > 0 {
            stream::empty().boxed()
        } else {
            body.skip_to(chunk_start(plain.start / CHUNK)).await?;
            body.open(opener, plain.clone(), len)
        };
        Ok(Some(GetResult {
            payload: GetResultPayload::Stream(payload),
            meta,
            range: plain,
            attributes,
            extensions,
        }))
    }

    /// What to say of a failed read: that the object ends before its range, where that is so. The
    /// metadata engine would ask for ever.
    async fn too_short(&self, location: &Path, asked: Option<&GetRange>, error: Error) -> Error {
        let Some(wanted) = asked.and_then(start) else { return error };
        let is_other = match fault::find(&error) {
            Some(said) => said.fault != StoreFault::Invalid,
            None => !matches!(error, Error::Generic { .. }),
        };
        if is_other {
            return error;
        }
        match self.inner.head(location).await {
            Ok(meta) if meta.size <= wanted => {
                forged(OpenError::TooShort { path: location.to_string(), len: meta.size, wanted })
            }
            _ => error,
        }
    }

    /// A request for the header alone, and the ETag it came with.
    pub(super) async fn fetch_header(
        &self,
        location: &Path,
        options: &GetOptions,
    ) -> Result<(Option<String>, Opener)> {
        let get = GetOptions {
            range: Some(GetRange::Bounded(0..HEADER)),
            version: options.version.clone(),
            extensions: options.extensions.clone(),
            ..GetOptions::default()
        };
        let result = self.inner.get_opts(location, get).await?;
        let e_tag = result.meta.e_tag.clone();
        let opener = self.opener(location, &result.bytes().await?).await?;
        self.headers.put(location, e_tag.as_deref(), &opener);
        Ok((e_tag, opener))
    }

    async fn opener(&self, location: &Path, header: &[u8]) -> Result<Opener> {
        let open = || Opener::from_header(&self.keys, &self.binding(location), header);
        match (open(), &self.loader) {
            // The volume is being rekeyed elsewhere.
            (Err(OpenError::UnknownEpoch { .. }), Some(loader)) => {
                loader.load_keys().await;
                open()
            }
            (opened, _) => opened,
        }
        .map_err(forged)
    }
}

/// What to ask of the store below: whole chunks, from the header on if that is near and not known.
fn sealed_range(plain: Option<&GetRange>, header_known: bool) -> Option<GetRange> {
    let start_of = |plain: u64| match chunk_start(plain / CHUNK) {
        start if start <= NEAR && !header_known => 0,
        start => start,
    };
    Some(match plain? {
        GetRange::Bounded(range) => {
            let end = chunk_start(range.end.saturating_sub(1) / CHUNK + 1);
            GetRange::Bounded(start_of(range.start)..end)
        }
        GetRange::Offset(start) => GetRange::Offset(start_of(*start)),
        GetRange::Suffix(len) => GetRange::Suffix(sealed_suffix(*len)),
    })
}

/// First byte of a range that has one.
fn start(range: &GetRange) -> Option<u64> {
    match range {
        GetRange::Bounded(range) => Some(range.start),
        GetRange::Offset(start) => Some(*start),
        GetRange::Suffix(_) => None,
    }
}

fn invalid_range(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: STORE, source: Box::new(source) }
}

/// The sealed bytes of an answer as they come in.
struct Body {
    location: Path,
    /// Place in the object of the first byte not yet taken.
    at: u64,
    buffer: BytesMut,
    stream: BoxStream<'static, Result<Bytes>>,
}

impl Body {
    fn new(location: &Path, at: u64, stream: BoxStream<'static, Result<Bytes>>) -> Self {
        Self { location: location.clone(), at, buffer: BytesMut::new(), stream }
    }

    /// Reads until `len` bytes are in the buffer.
    async fn fill(&mut self, len: usize) -> Result<()> {
        while self.buffer.len() < len {
            match self.stream.try_next().await? {
                Some(bytes) if self.buffer.is_empty() => self.buffer = bytes.into(),
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => {
                    return Err(passing(format!(
                        "object {}: the answer ended {} bytes early; read it again",
                        self.location,
                        len - self.buffer.len()
                    )));
                }
            }
        }
        Ok(())
    }

    async fn take(&mut self, len: usize) -> Result<Bytes> {
        self.fill(len).await?;
        self.at += len as u64;
        Ok(self.buffer.split_to(len).freeze())
    }

    /// Drops what stands before byte `place` of the object.
    async fn skip_to(&mut self, place: u64) -> Result<()> {
        let distance = place.checked_sub(self.at).ok_or_else(|| {
            passing(format!(
                "object {}: the store answered from byte {} on instead of {place}; read it again",
                self.location, self.at
            ))
        })?;
        self.take(distance as usize).await.map(drop)
    }

    /// Opens the chunks of `plain`, of an object of `len` bytes of plaintext, from the first one on.
    fn open(
        self,
        opener: Opener,
        plain: Range<u64>,
        len: u64,
    ) -> BoxStream<'static, Result<Bytes>> {
        let state = Opening {
            body: self,
            opener,
            next: plain.start / CHUNK,
            last: plain.end.saturating_sub(1) / CHUNK,
            plain,
            len,
        };
        stream::try_unfold(state, |mut state| async move {
            Ok(state.step().await?.map(|bytes| (bytes, state)))
        })
        .boxed()
    }
}

/// A body on its way to plaintext.
struct Opening {
    body: Body,
    opener: Opener,
    /// Next chunk to open.
    next: u64,
    /// Last chunk wanted.
    last: u64,
    /// Plaintext range wanted.
    plain: Range<u64>,
    /// Plaintext length of the whole object.
    len: u64,
}

impl Opening {
    /// Sealed length of a chunk of this object.
    fn sealed_len(&self, chunk: u64) -> usize {
        let plain = (self.len - chunk * CHUNK).min(CHUNK);
        plain as usize + TAG_LEN
    }

    /// The next plaintext, as many whole chunks as have arrived, up to one batch.
    async fn step(&mut self) -> Result<Option<Bytes>> {
        if self.next > self.last {
            return self.finish().await;
        }
        self.body.fill(self.sealed_len(self.next)).await?;
        let (first, mut sealed) = (self.next, 0);
        while self.next <= self.last && self.next - first < BATCH_CHUNKS {
            let more = self.sealed_len(self.next);
            if sealed + more > self.body.buffer.len() {
                break;
            }
            sealed += more;
            self.next += 1;
        }
        let sealed = self.body.take(sealed).await?;
        let (opener, chunk_count) = (self.opener.clone(), chunks(self.len));
        let opened = if sealed.len() > INLINE_MAX {
            let job = move || open_chunks(&opener, first, chunk_count, &sealed);
            tokio::task::spawn_blocking(job).await??
        } else {
            open_chunks(&opener, first, chunk_count, &sealed)?
        };
        let base = first * CHUNK;
        let start = self.plain.start.max(base) - base;
        let end = self.plain.end.min(base + opened.len() as u64) - base;
        Ok(Some(opened.slice(start as usize..end as usize)))
    }

    /// Reads the answer to its end, so that its connection can be used again.
    async fn finish(&mut self) -> Result<Option<Bytes>> {
        let mut rest = self.body.buffer.len();
        while rest == 0 {
            match self.body.stream.try_next().await? {
                Some(bytes) => rest += bytes.len(),
                None => return Ok(None),
            }
        }
        Err(passing(format!(
            "object {}: the store sent more than it announced; read it again",
            self.body.location
        )))
    }
}

/// Opens neighbouring chunks, the first one being chunk `first` of `chunk_count`.
fn open_chunks(opener: &Opener, first: u64, chunk_count: u64, sealed: &[u8]) -> Result<Bytes> {
    let mut plain = Vec::with_capacity(sealed.len());
    for (index, chunk) in (first..).zip(sealed.chunks(SEALED_CHUNK as usize)) {
        opener.open(index, index + 1 == chunk_count, chunk, &mut plain).map_err(forged)?;
    }
    Ok(plain.into())
}
