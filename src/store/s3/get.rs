//! Reading objects and their headers, with every length checked.
//!
//! ```text
//!   GET bytes=a-b --> |#####......|  broken after n bytes
//!   GET bytes=a+n-b, If-Match: its ETag --> |.....######|   resumed as long as more of it comes
//! ```

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::StorageClass;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, try_unfold};
use tokio::time::{sleep, timeout};

use super::Inner;
use super::encryption::{CustomerKey, encrypted, extensions, try_ways, with_customer_key};
use super::retry::{backoff, malformed, run};
use crate::store::object_store::path::Path;
use crate::store::object_store::{
    Attribute, Attributes, GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, Result,
};
use crate::store::{StoreError, StoreFault};

/// How often the rest of one body is asked for again without any of it coming.
const BODY_STUCK_MAX: u32 = 4;
/// How often in all.
const BODY_RESUMES_MAX: u32 = 40;
/// How long a body may stand still before its connection is given up.
const BODY_STALL: Duration = Duration::from_secs(20);

pub(super) async fn get(
    store: &Arc<Inner>,
    location: &Path,
    options: GetOptions,
) -> Result<GetResult> {
    if options.head {
        return head(store, location, Some(&options)).await;
    }
    let key = location.as_ref();
    if let Some(range) = &options.range {
        range.is_valid().map_err(|error| invalid_range(store, key, &error.to_string()))?;
    }
    let request = store
        .client
        .get_object()
        .bucket(&store.bucket)
        .key(key)
        .set_range(options.range.as_ref().map(header))
        .set_if_match(options.if_match.clone())
        .set_if_none_match(options.if_none_match.clone())
        .set_if_modified_since(options.if_modified_since.map(|at| SystemTime::from(at).into()))
        .set_if_unmodified_since(options.if_unmodified_since.map(|at| SystemTime::from(at).into()))
        .set_version_id(options.version.clone());
    let (outcome, way) = try_ways(store, |way| {
        let request = with_customer_key!(request.clone(), way.as_ref());
        async move { run(store, || request.clone().send()).await }
    })
    .await;
    if let (Err(failure), Some(GetRange::Suffix(_))) = (&outcome.result, &options.range)
        && failure.status == 416
    {
        return empty_suffix(store, location, &options).await;
    }
    let output = outcome.into_result(store, key)?;
    let (range, size) = returned(store, key, &output, options.range.as_ref())?;
    let meta = ObjectMeta {
        location: location.clone(),
        last_modified: modified(store, key, output.last_modified())?.into(),
        size,
        e_tag: output.e_tag().map(str::to_owned),
        version: output.version_id().map(str::to_owned),
    };
    let attributes = attributes_of_get(&output);
    let extensions = extensions(encrypted!(output));
    let body = Body {
        store: Arc::clone(store),
        key: key.to_owned(),
        e_tag: meta.e_tag.clone(),
        version: meta.version.clone(),
        left: range.clone(),
        stream: output.body,
        way,
        resumes: 0,
        stuck: 0,
    };
    Ok(GetResult {
        payload: GetResultPayload::Stream(body.into_stream()),
        meta,
        range,
        attributes,
        extensions,
    })
}

/// HEAD, under the same conditions as a read.
pub(super) async fn head(
    store: &Arc<Inner>,
    location: &Path,
    options: Option<&GetOptions>,
) -> Result<GetResult> {
    let key = location.as_ref();
    let options = options.cloned().unwrap_or_default();
    let request = store
        .client
        .head_object()
        .bucket(&store.bucket)
        .key(key)
        .set_if_match(options.if_match)
        .set_if_none_match(options.if_none_match)
        .set_if_modified_since(options.if_modified_since.map(|at| SystemTime::from(at).into()))
        .set_if_unmodified_since(options.if_unmodified_since.map(|at| SystemTime::from(at).into()))
        .set_version_id(options.version);
    let (outcome, _) = try_ways(store, |way| {
        let request = with_customer_key!(request.clone(), way.as_ref());
        async move { run(store, || request.clone().send()).await }
    })
    .await;
    let output = outcome.into_result(store, key)?;
    let size = output.content_length().and_then(|len| u64::try_from(len).ok());
    let size = size.ok_or_else(|| malformed(store, key, "HEAD without a length"))?;
    let range = match &options.range {
        None => 0..size,
        Some(range) => {
            range.as_range(size).map_err(|error| invalid_range(store, key, &error.to_string()))?
        }
    };
    Ok(GetResult {
        payload: GetResultPayload::Stream(futures::stream::empty().boxed()),
        meta: ObjectMeta {
            location: location.clone(),
            last_modified: modified(store, key, output.last_modified())?.into(),
            size,
            e_tag: output.e_tag().map(str::to_owned),
            version: output.version_id().map(str::to_owned),
        },
        range,
        attributes: attributes_of_head(&output),
        extensions: extensions(encrypted!(output)),
    })
}

/// S3 refuses the last n bytes of an empty object, and the last 0 bytes of any.
async fn empty_suffix(
    store: &Arc<Inner>,
    location: &Path,
    options: &GetOptions,
) -> Result<GetResult> {
    let found = head(store, location, Some(options)).await?;
    if found.range.is_empty() {
        return Ok(found);
    }
    Err(malformed(store, location.as_ref(), "416 to a range that exists"))
}

/// The part of the object in the body, and the size of the whole.
fn returned(
    store: &Inner,
    key: &str,
    output: &GetObjectOutput,
    asked: Option<&GetRange>,
) -> Result<(Range<u64>, u64)> {
    let len = output.content_length().and_then(|len| u64::try_from(len).ok());
    let len = len.ok_or_else(|| malformed(store, key, "GET without a length"))?;
    let Some(text) = output.content_range() else {
        // The whole object, which is wrong if a part was asked for.
        return match asked.map(|range| range.as_range(len)) {
            None => Ok((0..len, len)),
            Some(Ok(range)) if range == (0..len) => Ok((0..len, len)),
            Some(_) => Err(malformed(store, key, "a ranged GET with the whole object")),
        };
    };
    let bad = || malformed(store, key, &format!("a Content-Range of {text:?}"));
    let (range, size) = parse_content_range(text).ok_or_else(bad)?;
    let expected = match asked {
        None => 0..size,
        Some(asked) => asked.as_range(size).map_err(|_| bad())?,
    };
    if range != expected || range.end - range.start != len {
        return Err(bad());
    }
    Ok((range, size))
}

/// `bytes 2-5/10` is `(2..6, 10)` (RFC 9110, 14.4).
fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size) =
        (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, size.parse::<u64>().ok()?);
    (first <= last && last < size).then(|| (first..last + 1, size))
}

fn header(range: &GetRange) -> String {
    match range {
        GetRange::Bounded(range) => format!("bytes={}-{}", range.start, range.end - 1),
        GetRange::Offset(start) => format!("bytes={start}-"),
        GetRange::Suffix(len) => format!("bytes=-{len}"),
    }
}

fn invalid_range(store: &Inner, key: &str, said: &str) -> crate::store::object_store::Error {
    let text = format!("s3://{}/{key}: {said}", store.bucket);
    StoreError::new(StoreFault::Invalid, text).into_object_store("S3", key)
}

fn modified(store: &Inner, key: &str, at: Option<&DateTime>) -> Result<SystemTime> {
    at.and_then(|at| SystemTime::try_from(*at).ok())
        .ok_or_else(|| malformed(store, key, "without a time of modification"))
}

/// A body that knows how much of it is still to come.
struct Body {
    store: Arc<Inner>,
    key: String,
    e_tag: Option<String>,
    version: Option<String>,
    left: Range<u64>,
    stream: ByteStream,
    /// The key with which it came.
    way: Option<CustomerKey>,
    resumes: u32,
    /// Those since the last bytes came.
    stuck: u32,
}

impl Body {
    fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        try_unfold(self, Self::next).boxed()
    }

    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        while !self.left.is_empty() {
            let said = match timeout(BODY_STALL, self.stream.next()).await {
                Ok(Some(Ok(chunk))) if chunk.is_empty() => continue,
                Ok(Some(Ok(chunk))) => {
                    self.left.start += chunk.len() as u64;
                    self.stuck = 0;
                    if self.left.start > self.left.end {
                        return Err(malformed(&self.store, &self.key, "more than was asked for"));
                    }
                    return Ok(Some((chunk, self)));
                }
                Ok(Some(Err(error))) => error.to_string(),
                Ok(None) => "it ended early".to_owned(),
                Err(_) => format!("it stood still for {} s", BODY_STALL.as_secs()),
            };
            self.resume(&said).await?;
        }
        Ok(None)
    }

    async fn resume(&mut self, said: &str) -> Result<()> {
        self.resumes += 1;
        self.stuck += 1;
        let Self { store, key, .. } = &*self;
        if self.stuck > BODY_STUCK_MAX || self.resumes > BODY_RESUMES_MAX {
            let text = format!(
                "s3://{}/{key}: the body broke off {} bytes before its end ({said}), {} times; \
                 check the network",
                store.bucket,
                self.left.end - self.left.start,
                self.resumes
            );
            return Err(StoreError::new(StoreFault::Unavailable, text).into_object_store("S3", key));
        }
        sleep(backoff(self.stuck)).await;
        let rest = GetRange::Bounded(self.left.clone());
        let request = with_customer_key!(store.client.get_object(), self.way.as_ref())
            .bucket(&store.bucket)
            .key(key)
            .range(header(&rest))
            .set_if_match(self.e_tag.clone())
            .set_version_id(self.version.clone());
        let output = run(store, || request.clone().send()).await.into_result(store, key)?;
        // Some servers ignore the condition; a rest of another object must not be joined on.
        if output.e_tag() != self.e_tag.as_deref() {
            let text = format!("s3://{}/{key}: replaced while it was read", store.bucket);
            return Err(
                StoreError::new(StoreFault::Precondition, text).into_object_store("S3", key)
            );
        }
        returned(store, key, &output, Some(&rest))?;
        self.stream = output.body;
        Ok(())
    }
}

type Named<'a> = [(Attribute, Option<&'a str>); 6];

fn attributes(named: Named<'_>, metadata: Option<&HashMap<String, String>>) -> Attributes {
    let named = named.into_iter().filter_map(|(name, value)| Some((name, value?.to_owned())));
    let metadata = metadata.into_iter().flatten();
    named.chain(metadata.map(|(k, v)| (Attribute::Metadata(k.clone().into()), v.clone()))).collect()
}

fn attributes_of_get(output: &GetObjectOutput) -> Attributes {
    let named = [
        (Attribute::CacheControl, output.cache_control()),
        (Attribute::ContentDisposition, output.content_disposition()),
        (Attribute::ContentEncoding, output.content_encoding()),
        (Attribute::ContentLanguage, output.content_language()),
        (Attribute::ContentType, output.content_type()),
        (Attribute::StorageClass, output.storage_class().map(StorageClass::as_str)),
    ];
    attributes(named, output.metadata())
}

fn attributes_of_head(output: &HeadObjectOutput) -> Attributes {
    let named = [
        (Attribute::CacheControl, output.cache_control()),
        (Attribute::ContentDisposition, output.content_disposition()),
        (Attribute::ContentEncoding, output.content_encoding()),
        (Attribute::ContentLanguage, output.content_language()),
        (Attribute::ContentType, output.content_type()),
        (Attribute::StorageClass, output.storage_class().map(StorageClass::as_str)),
    ];
    attributes(named, output.metadata())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(parse_content_range("bytes 2-5/10"), Some((2..6, 10)));
        assert_eq!(parse_content_range("bytes 0-0/1"), Some((0..1, 1)));
        for bad in ["", "bytes */10", "bytes 5-2/10", "bytes 0-10/10", "bytes 0-1/*", "0-1/2"] {
            assert_eq!(parse_content_range(bad), None, "{bad:?}");
        }
        let all = format!("bytes 0-{0}/{0}", u64::MAX);
        assert_eq!(parse_content_range(&all), None);
    }

    #[test]
    fn ranges_are_written_with_their_last_byte() {
        assert_eq!(header(&GetRange::Bounded(2..6)), "bytes=2-5");
        assert_eq!(header(&GetRange::Offset(2)), "bytes=2-");
        assert_eq!(header(&GetRange::Suffix(4)), "bytes=-4");
    }
}
