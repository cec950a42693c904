//! What went wrong in a store, in words for people and in kinds for callers.
//!
//! Stores speak [`object_store::Error`], whose variants are too few to act on: a missing bucket,
//! wrong credentials and a broken network would all be `Generic`. Ours therefore carry a
//! [`StoreError`] as their source; [`classify`] finds it again through any number of decorators.

use std::error::Error;

use crate::base::ErrorKind;
use crate::store::object_store;

/// Why a store operation failed, by what can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreFault {
    /// No such object.
    NotFound,
    /// A conditional create found an object in its place.
    AlreadyExists,
    /// A conditional update or read found another version.
    Precondition,
    /// A conditional read found the version the caller has already.
    NotModified,
    /// The bucket itself, or the directory of a local store, does not exist.
    NoBucket,
    /// No source of credentials had any.
    NoCredentials,
    /// Temporary credentials are past their end.
    ExpiredCredentials,
    /// Credentials are known to the store but do not suffice, or are wrong.
    Denied,
    /// The bucket is in another region.
    WrongRegion,
    /// This machine's clock and the store's are too far apart.
    ClockSkew,
    /// Plain http to another machine, which the configuration does not allow.
    Insecure,
    /// The server's certificate is not trusted.
    Untrusted,
    /// Network or server fault that outlasted all retries.
    Unavailable,
    /// No space left.
    Full,
    /// The store does not know this operation.
    Unsupported,
    /// The request cannot be met as it is, such as a range past the end.
    Invalid,
    /// Settings that contradict each other, or name what is not usable.
    Settings,
    /// A write landed without the store's own encryption that was asked for.
    NotEncrypted,
    /// The answer contradicts itself or the request.
    Malformed,
}

impl StoreFault {
    /// A refusal that is part of normal work, and so no error of the store.
    pub fn is_answer(self) -> bool {
        matches!(
            self,
            Self::NotFound | Self::AlreadyExists | Self::Precondition | Self::NotModified
        )
    }

    /// What the caller does next.
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::NotFound | Self::NoBucket => ErrorKind::NotFound,
            Self::AlreadyExists | Self::Precondition | Self::NotModified => ErrorKind::Conflict,
            Self::NoCredentials | Self::ExpiredCredentials | Self::Denied | Self::Untrusted => {
                ErrorKind::Denied
            }
            Self::Unavailable => ErrorKind::Retry,
            Self::Full => ErrorKind::Full,
            Self::Malformed => ErrorKind::Corrupt,
            Self::WrongRegion
            | Self::ClockSkew
            | Self::Insecure
            | Self::Unsupported
            | Self::Invalid
            | Self::Settings
            | Self::NotEncrypted => ErrorKind::Invalid,
        }
    }
}

/// The source inside every [`object_store::Error`] of our own stores: one line for people.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// The kind of fault.
    pub fault: StoreFault,
    /// What happened, where, and what to do next.
    pub message: String,
    /// The cause below, if there is one.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl StoreError {
    /// A fault without a cause below it.
    pub fn new(fault: StoreFault, message: impl Into<String>) -> Self {
        Self { fault, message: message.into(), source: None }
    }

    /// A fault with its cause.
    pub fn caused(
        fault: StoreFault,
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { fault, message: message.into(), source: Some(source.into()) }
    }

    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        self.fault.kind()
    }

    /// Wraps it the way users of the trait expect it: the variant carries the meaning.
    pub fn into_object_store(self, store: &'static str, path: &str) -> object_store::Error {
        use object_store::Error as E;
        let (path, fault) = (path.to_owned(), self.fault);
        let source = Box::new(self);
        match fault {
            StoreFault::NotFound => E::NotFound { path, source },
            StoreFault::AlreadyExists => E::AlreadyExists { path, source },
            StoreFault::Precondition => E::Precondition { path, source },
            StoreFault::NotModified => E::NotModified { path, source },
            StoreFault::Denied => E::PermissionDenied { path, source },
            StoreFault::NoCredentials | StoreFault::ExpiredCredentials => {
                E::Unauthenticated { path, source }
            }
            StoreFault::Unsupported => E::NotSupported { source },
            // Not `NotFound` for a missing bucket: the metadata engine would read that as "no
            // such database yet" and create one.
            StoreFault::NoBucket
            | StoreFault::WrongRegion
            | StoreFault::ClockSkew
            | StoreFault::Insecure
            | StoreFault::Untrusted
            | StoreFault::Unavailable
            | StoreFault::Full
            | StoreFault::Invalid
            | StoreFault::Settings
            | StoreFault::NotEncrypted
            | StoreFault::Malformed => E::Generic { store, source },
        }
    }
}

/// Our own error in `error` or its causes: what to tell of an error of a layer above.
pub fn find<'a>(mut error: &'a (dyn Error + 'static)) -> Option<&'a StoreError> {
    loop {
        if let Some(found) = error.downcast_ref::<StoreError>() {
            return Some(found);
        }
        // `io::Error::source` skips the wrapped error itself.
        error = match error.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref()?,
            None => error.source()?,
        };
    }
}

/// Tells what kind of fault an error of any store is.
pub fn classify(error: &object_store::Error) -> StoreFault {
    use object_store::Error as E;
    if let Some(found) = find(error) {
        return found.fault;
    }
    match error {
        E::NotFound { .. } => StoreFault::NotFound,
        E::AlreadyExists { .. } => StoreFault::AlreadyExists,
        E::Precondition { .. } => StoreFault::Precondition,
        E::NotModified { .. } => StoreFault::NotModified,
        E::PermissionDenied { .. } => StoreFault::Denied,
        E::Unauthenticated { .. } => StoreFault::NoCredentials,
        E::NotSupported { .. } | E::NotImplemented { .. } => StoreFault::Unsupported,
        E::InvalidPath { .. } | E::UnknownConfigurationKey { .. } => StoreFault::Invalid,
        _ => StoreFault::Unavailable,
    }
}

/// The one line to show a person: our own text, without the trait's wrapping.
pub fn explain(error: &object_store::Error) -> String {
    find(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_found_again_through_wrapping() {
        let inner = StoreError::new(StoreFault::NoBucket, "no bucket").into_object_store("S3", "k");
        assert_eq!(classify(&inner), StoreFault::NoBucket);
        let outer = object_store::Error::Generic { store: "outer", source: Box::new(inner) };
        assert_eq!(classify(&outer), StoreFault::NoBucket);
        assert_eq!(explain(&outer), "no bucket");
        let io = std::io::Error::other(outer);
        let io = object_store::Error::Generic { store: "io", source: Box::new(io) };
        assert_eq!(classify(&io).kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_missing_bucket_never_looks_like_a_missing_object() {
        let error = StoreError::new(StoreFault::NoBucket, "x").into_object_store("S3", "k");
        assert!(!matches!(error, object_store::Error::NotFound { .. }));
    }

    #[test]
    fn errors_of_foreign_stores_are_classified_by_variant() {
        let error = object_store::Error::Generic { store: "memory", source: "x".into() };
        assert_eq!(classify(&error), StoreFault::Unavailable);
        let error = object_store::Error::AlreadyExists { path: "k".into(), source: "x".into() };
        assert_eq!(classify(&error), StoreFault::AlreadyExists);
    }
}
