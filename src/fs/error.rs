//! Why the file system refused: one variant for each errno that POSIX asks for.

use crate::base::ErrorKind;

/// Why an operation failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FsError {
    /// No entry of that name, or no such inode any more (`ENOENT`).
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken (`EEXIST`).
    #[error("the name exists already")]
    Exists,
    /// The operation needs a directory (`ENOTDIR`).
    #[error("not a directory")]
    NotDirectory,
    /// The operation does not work on a directory (`EISDIR`).
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries (`ENOTEMPTY`).
    #[error("directory not empty")]
    NotEmpty,
    /// A name of more than 255 bytes (`ENAMETOOLONG`).
    #[error("name longer than 255 bytes")]
    NameTooLong,
    /// The caller may not do this whatever the permission bits say (`EPERM`).
    #[error("operation not permitted")]
    NotPermitted,
    /// An argument is wrong (`EINVAL`).
    #[error("invalid argument")]
    Invalid,
    /// No such extended attribute (`ENODATA`).
    #[error("no such attribute")]
    NoData,
    /// No data or hole after that offset (`ENXIO`).
    #[error("no data beyond that offset")]
    BeyondEnd,
    /// An extended attribute larger than the bound (`E2BIG`).
    #[error("attribute too large")]
    TooBig,
    /// The file would exceed the largest size (`EFBIG`).
    #[error("file too large")]
    FileTooLarge,
    /// The inode has as many links as it may have (`EMLINK`).
    #[error("too many links")]
    TooManyLinks,
    /// The volume's bound is reached (`ENOSPC`).
    #[error("no space left on the volume")]
    NoSpace,
    /// The mount is read-only, or became so because another writer took over (`EROFS`).
    #[error("read-only mount")]
    ReadOnly,
    /// Not in this file system or of this kind (`EOPNOTSUPP`).
    #[error("operation not supported")]
    NotSupported,
    /// The store did not take or give data in time, or what it gave does not
    /// authenticate (`EIO`). The text has the cause.
    #[error("{message}")]
    Io {
        /// What the layer below said.
        message: String,
        /// What that layer's caller should do next.
        kind: ErrorKind,
    },
}

impl FsError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound | Self::NoData | Self::BeyondEnd => ErrorKind::NotFound,
            Self::Exists | Self::NotEmpty => ErrorKind::Conflict,
            Self::NotPermitted | Self::ReadOnly => ErrorKind::Denied,
            Self::NoSpace | Self::TooManyLinks => ErrorKind::Full,
            Self::NotDirectory
            | Self::IsDirectory
            | Self::NameTooLong
            | Self::Invalid
            | Self::TooBig
            | Self::FileTooLarge
            | Self::NotSupported => ErrorKind::Invalid,
            Self::Io { kind, .. } => *kind,
        }
    }

    /// An I/O error with the text of `source` and its causes.
    pub fn io(source: &dyn std::error::Error, kind: ErrorKind) -> Self {
        Self::Io { message: crate::store::sentence(source), kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{StoreError, StoreFault};

    #[test]
    fn what_the_store_says_ends_the_text() {
        let sdk = std::io::Error::other("hyper: dispatch failure");
        let fault = StoreError::caused(StoreFault::Unavailable, "s3://b: no answer", sdk);
        let source = std::sync::Arc::new(fault.into_object_store("S3", "packs/ab"));
        let error = crate::meta::MetaError::Unavailable { doing: "flushing", source };
        let text = FsError::io(&error, error.kind()).to_string();
        assert!(text.ends_with("(s3://b: no answer)"), "{text}");
        assert!(!text.contains("hyper") && !text.contains("Generic"), "{text}");
    }
}
