//! Where a volume lives: `s3://bucket/prefix` or `file:///absolute/dir`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::base::ErrorKind;
use crate::store::object_store::path::Path as ObjectPath;

/// The address of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoreUrl {
    /// Objects of a bucket whose keys begin with `prefix/`, or all of them if it is empty.
    S3 {
        /// Name of the bucket, or alias or ARN of an access point.
        bucket: String,
        /// Without slashes at either end.
        prefix: String,
    },
    /// Files below a directory.
    File {
        /// Absolute.
        dir: PathBuf,
    },
}

/// Why a text is not the address of a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Neither `s3://` nor `file://`.
    #[error("{url}: unknown kind of store; write s3://bucket/prefix or file:///absolute/dir")]
    Scheme {
        /// What was given.
        url: String,
    },
    /// Empty or impossible bucket name.
    #[error(
        "{url}: {bucket:?} is not a bucket name (3 to 63 of a-z, 0-9, '.', '-'); \
         write s3://bucket/prefix"
    )]
    Bucket {
        /// What was given.
        url: String,
        /// The part taken for the bucket.
        bucket: String,
    },
    /// An ARN that is not of an access point.
    #[error(
        "{url}: not the ARN of an access point; write \
         s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/prefix, or s3://bucket/prefix"
    )]
    Arn {
        /// What was given.
        url: String,
    },
    /// A prefix that object keys cannot have.
    #[error("{url}: {reason}; use plain names separated by single slashes")]
    Prefix {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A relative directory, or a host name.
    #[error("{url}: not an absolute directory; write file:///absolute/dir (three slashes)")]
    Dir {
        /// What was given.
        url: String,
    },
    /// A query or fragment, which these addresses do not have.
    #[error("{url}: options after '?' or '#' are not known here; put them into [store]")]
    Options {
        /// What was given.
        url: String,
    },
}

impl UrlError {
    /// Always [`ErrorKind::Invalid`].
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// What S3 servers in the field accept, which is more than AWS gives out today.
fn is_bucket_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (3..=255).contains(&name.len())
        && name.bytes().all(inner)
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().next_back().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// The ARN of an access point at the beginning, which has one slash of its own, or two where it is
/// on an Outpost, and what follows. `None` if it is something else.
///
/// ```text
/// arn:aws:s3:eu-west-1:123456789012:accesspoint/name
/// arn:aws:s3::123456789012:accesspoint/alias.mrap
/// arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-1/accesspoint/name
/// ```
fn split_arn(text: &str) -> Option<(&str, &str)> {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    let &["arn", partition, service, region, account, resource] = parts.as_slice() else {
        return None;
    };
    let is_word = |word: &str| {
        word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let is_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    let head = match service {
        "s3" => resource.strip_prefix("accesspoint/")?,
        "s3-outposts" => {
            let (outpost, rest) = resource.strip_prefix("outpost/")?.split_once('/')?;
            is_word(outpost).then_some(rest)?.strip_prefix("accesspoint/")?
        }
        _ => return None,
    };
    let name = head.split('/').next().unwrap_or_default();
    let is_known = partition.starts_with("aws") && is_word(partition) && is_word(region);
    if !(is_known && is_account && is_bucket_name(name)) {
        return None;
    }
    let end = text.len() - head.len() + name.len();
    Some((&text[..end], text[end..].strip_prefix('/').unwrap_or_default()))
}

impl FromStr for StoreUrl {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let given = || url.to_owned();
        if let Some(rest) = url.strip_prefix("s3://") {
            if rest.contains(['?', '#']) {
                return Err(UrlError::Options { url: given() });
            }
            let is_arn = rest.starts_with("arn:");
            let (bucket, prefix) = if is_arn {
                split_arn(rest).ok_or_else(|| UrlError::Arn { url: given() })?
            } else {
                rest.split_once('/').unwrap_or((rest, ""))
            };
            if !is_arn && !is_bucket_name(bucket) {
                return Err(UrlError::Bucket { url: given(), bucket: bucket.to_owned() });
            }
            let prefix = prefix.trim_end_matches('/');
            let parsed = ObjectPath::parse(prefix)
                .map_err(|error| UrlError::Prefix { url: given(), reason: error.to_string() })?;
            // The parser forgives a leading slash; two addresses of one volume would confuse.
            if parsed.as_ref() != prefix {
                let reason = "an empty name in the prefix".to_owned();
                return Err(UrlError::Prefix { url: given(), reason });
            }
            return Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() });
        }
        if let Some(dir) = url.strip_prefix("file://") {
            let path = Path::new(dir);
            let is_plain = path.components().all(|part| part != std::path::Component::ParentDir);
            if !path.is_absolute() || !is_plain || dir.contains('\0') {
                return Err(UrlError::Dir { url: given() });
            }
            return Ok(Self::File { dir: path.components().collect() });
        }
        Err(UrlError::Scheme { url: given() })
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::File { dir } => write!(f, "file://{}", dir.display()),
        }
    }
}

impl TryFrom<String> for StoreUrl {
    type Error = UrlError;

    fn try_from(url: String) -> Result<Self, UrlError> {
        url.parse()
    }
}

impl<'de> serde::Deserialize<'de> for StoreUrl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for StoreUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_what_they_print() {
        for url in ["s3://bucket", "s3://my-bucket/a/b", "file:///srv/drive", "file:///"] {
            assert_eq!(url.parse::<StoreUrl>().unwrap().to_string(), url);
        }
        for (url, same) in [
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a/", "s3://bucket/a"),
            ("file:///srv//drive/", "file:///srv/drive"),
        ] {
            assert_eq!(url.parse::<StoreUrl>().unwrap().to_string(), same);
        }
    }

    #[test]
    fn access_points_are_buckets_with_slashes_in_their_names() {
        for (bucket, prefix) in [
            ("arn:aws:s3:eu-west-1:123456789012:accesspoint/name", ""),
            ("arn:aws:s3:eu-west-1:123456789012:accesspoint/name", "a/b"),
            ("arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/name", "a"),
            ("arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap", "a"),
            ("arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-1/accesspoint/name", "a/b"),
            ("name-abc123xyz-s3alias", "a"),
        ] {
            let url = format!("s3://{bucket}/{prefix}");
            let url = url.trim_end_matches('/');
            let parsed = url.parse::<StoreUrl>().unwrap();
            assert_eq!(parsed.to_string(), url);
            let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
            assert_eq!(parsed, StoreUrl::S3 { bucket, prefix });
        }
        for arn in [
            "arn:aws:s3:eu-west-1:123456789012:bucket/name",
            "arn:aws:s3:eu-west-1:1:accesspoint/name",
            "arn:aws:s3:eu-west-1:123456789012:accesspoint/",
            "arn:aws:s3-object-lambda:eu-west-1:123456789012:accesspoint/name",
            "arn:aws:s3:::name",
            "arn:",
        ] {
            let error = format!("s3://{arn}/prefix").parse::<StoreUrl>().unwrap_err();
            assert!(matches!(error, UrlError::Arn { .. }), "{error}");
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_the_right_reason() {
        let error = |url: &str| url.parse::<StoreUrl>().unwrap_err();
        for url in ["bucket/prefix", "/srv/drive", "https://host/bucket", "S3://bucket", ""] {
            assert!(matches!(error(url), UrlError::Scheme { .. }), "{url}");
        }
        for url in ["s3://", "s3:///prefix", "s3://ab", "s3://my bucket", "s3://user@host/x"] {
            assert!(matches!(error(url), UrlError::Bucket { .. }), "{url}");
        }
        for url in ["s3://bucket//a", "s3://bucket/a//b", "s3://bucket/a/../b"] {
            assert!(matches!(error(url), UrlError::Prefix { .. }), "{url}");
        }
        for url in ["file://", "file://srv/drive", "file://./x", "file:///srv/../etc"] {
            assert!(matches!(error(url), UrlError::Dir { .. }), "{url}");
        }
        assert!(matches!(error("s3://bucket/a?region=x"), UrlError::Options { .. }));
    }
}
