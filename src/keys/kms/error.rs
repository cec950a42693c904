//! What KMS refuses, in words: one line each, with what to do next.

use std::error::Error;

use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};

use super::Call;
use crate::base::ErrorKind;
use crate::store::s3::{chain, innermost, one_line};

/// Why KMS gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KmsError {
    /// A volume opens with the ARN alone.
    #[error(
        "kms_key {given:?} is an alias or a short name, which somebody may point at another key; a volume opens with the full ARN alone: write kms_key = \"{arn}\" in [key]"
    )]
    Alias {
        /// What the config says.
        given: String,
        /// What it should say.
        arn: String,
    },
    /// As [`Alias`](Self::Alias), and KMS does not tell the ARN.
    #[error(
        "kms_key {given:?} is no full key ARN, and a volume opens with that alone; it could not be looked up: {source}"
    )]
    AliasUnknown {
        /// What the config says.
        given: String,
        /// Why it was not resolved.
        source: Box<KmsError>,
    },
    /// Nothing says which region.
    #[error("KMS key {key}: no region; give the key's full ARN, or set region in [key.kms]")]
    NoRegion {
        /// The key.
        key: String,
    },
    /// Keys would cross the network in the clear.
    #[error(
        "KMS endpoint {endpoint}: plain http to another machine is refused, it would carry the key in the clear; use https"
    )]
    Insecure {
        /// The endpoint.
        endpoint: String,
    },
    /// Not a URL.
    #[error("KMS endpoint {endpoint:?} is not a URL; write https://host[:port] in [key.kms]")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
    },
    /// There are no credentials, or KMS does not know them.
    #[error(
        "KMS key {key}: no usable AWS credentials: {said}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile in [key.kms], or log in with `aws sso login`"
    )]
    NoCredentials {
        /// The key.
        key: String,
        /// What the SDK or KMS said.
        said: String,
    },
    /// Not allowed.
    #[error(
        "KMS key {key}: access denied for kms:{action} ({said}); allow it in the key's policy and to these credentials"
    )]
    Denied {
        /// The key.
        key: String,
        /// The operation.
        action: &'static str,
        /// What KMS said.
        said: String,
    },
    /// Switched off.
    #[error(
        "KMS key {key}: is disabled; enable it (aws kms enable-key), or open the volume with another key slot"
    )]
    Disabled {
        /// The key.
        key: String,
    },
    /// About to be gone for ever.
    #[error(
        "KMS key {key}: is to be deleted, and with it what it opens: cancel that now (aws kms cancel-key-deletion, then enable-key), or add another key slot"
    )]
    PendingDeletion {
        /// The key.
        key: String,
    },
    /// In another state in which it does nothing.
    #[error("KMS key {key}: its state allows no {action} ({said}); see aws kms describe-key")]
    State {
        /// The key.
        key: String,
        /// The operation.
        action: &'static str,
        /// What KMS said.
        said: String,
    },
    /// KMS does not know it.
    #[error(
        "KMS key {key}: not found at {place}; check the ARN in [key], its region and account, and whether the key was deleted"
    )]
    NotFound {
        /// The key.
        key: String,
        /// Who was asked.
        place: String,
    },
    /// Not the ciphertext that this volume and slot were given.
    #[error(
        "KMS key {key}: refuses the ciphertext in lidfs.json: it was changed, or made for another volume or slot; restore lidfs.json from a copy, and find out who writes this bucket"
    )]
    Tampered {
        /// The key.
        key: String,
    },
    /// A ciphertext of another key in the slot of this one.
    #[error(
        "KMS key {key}: the ciphertext in lidfs.json was made by another key; restore lidfs.json from a copy, and find out who writes this bucket"
    )]
    IncorrectKey {
        /// The key.
        key: String,
    },
    /// The answer is another key's.
    #[error(
        "KMS key {key}: {place} answered with key {found} instead; its answer is not used, check the endpoint in [key.kms]"
    )]
    OtherKey {
        /// The pinned key.
        key: String,
        /// Who answered.
        place: String,
        /// What the answer says.
        found: String,
    },
    /// A key for something else.
    #[error(
        "KMS key {key}: is not for encrypting ({said}); use a symmetric key (SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT)"
    )]
    Usage {
        /// The key.
        key: String,
        /// What KMS said.
        said: String,
    },
    /// Too many requests, to the end.
    #[error(
        "KMS key {key}: too many requests to {place} ({said}; attempts: {attempts}); try again later, or raise the account's quota"
    )]
    Throttled {
        /// The key.
        key: String,
        /// Who was asked.
        place: String,
        /// What KMS said.
        said: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// No answer.
    #[error(
        "KMS key {key}: {place} does not answer ({said}; attempts: {attempts}); check the network, and the endpoint in [key.kms]"
    )]
    Unreachable {
        /// The key.
        key: String,
        /// Who was asked.
        place: String,
        /// What was met.
        said: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The server is not the one it should be.
    #[error(
        "KMS key {key}: the certificate of {place} is not trusted ({said}); check the endpoint in [key.kms]"
    )]
    Untrusted {
        /// The key.
        key: String,
        /// Who was asked.
        place: String,
        /// What is wrong with it.
        said: String,
    },
    /// Refused for a reason of its own.
    #[error("KMS key {key}: {action} was refused: {said}")]
    Refused {
        /// The key.
        key: String,
        /// The operation.
        action: &'static str,
        /// What KMS said.
        said: String,
    },
    /// An answer that KMS does not give.
    #[error(
        "KMS key {key}: {place} gave an answer to {action} with {detail}; check the endpoint in [key.kms]"
    )]
    Malformed {
        /// The key.
        key: String,
        /// Who answered.
        place: String,
        /// The operation.
        action: &'static str,
        /// What is wrong with it.
        detail: &'static str,
    },
}

impl KmsError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Throttled { .. } | Self::Unreachable { .. } => ErrorKind::Retry,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::NoCredentials { .. }
            | Self::Denied { .. }
            | Self::Disabled { .. }
            | Self::PendingDeletion { .. }
            | Self::State { .. }
            | Self::Untrusted { .. }
            | Self::Refused { .. } => ErrorKind::Denied,
            Self::Tampered { .. }
            | Self::IncorrectKey { .. }
            | Self::OtherKey { .. }
            | Self::Malformed { .. } => ErrorKind::Corrupt,
            Self::Alias { .. }
            | Self::NoRegion { .. }
            | Self::Insecure { .. }
            | Self::Endpoint { .. }
            | Self::Usage { .. } => ErrorKind::Invalid,
            Self::AliasUnknown { source, .. } => source.kind(),
        }
    }

    /// Whether the same request may be answered a moment later.
    pub(super) fn is_passing(&self) -> bool {
        self.kind() == ErrorKind::Retry
    }
}

impl Call<'_> {
    pub(super) fn unreachable(&self, said: String, attempts: u32) -> KmsError {
        KmsError::Unreachable {
            key: self.key.to_owned(),
            place: self.place.clone(),
            said,
            attempts,
        }
    }

    pub(super) fn malformed(&self, detail: &'static str) -> KmsError {
        let (key, place) = (self.key.to_owned(), self.place.clone());
        KmsError::Malformed { key, place, action: self.action, detail }
    }

    pub(super) fn other_key(&self, key: &str, found: Option<&str>) -> KmsError {
        let found = one_line(found.unwrap_or("no name"));
        KmsError::OtherKey { key: key.to_owned(), place: self.place.clone(), found }
    }

    pub(super) fn failure<E>(&self, error: &SdkError<E, HttpResponse>, attempts: u32) -> KmsError
    where
        E: Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let SdkError::ServiceError(context) = error else {
            return self.without_answer(error, attempts);
        };
        let (status, meta) = (context.raw().status().as_u16(), context.err().meta());
        let code = one_line(meta.code().unwrap_or_default());
        let text = one_line(meta.message().unwrap_or_default());
        self.refusal(status, &code, &text, attempts)
    }

    fn refusal(&self, status: u16, code: &str, text: &str, attempts: u32) -> KmsError {
        let (key, place, action) = (self.key.to_owned(), self.place.clone(), self.action);
        let said = if text.is_empty() { code.to_owned() } else { format!("{code}: {text}") };
        match code {
            "AccessDeniedException" => KmsError::Denied { key, action, said },
            "NotFoundException" => KmsError::NotFound { key, place },
            "DisabledException" => KmsError::Disabled { key },
            "KMSInvalidStateException" if text.to_lowercase().contains("pending deletion") => {
                KmsError::PendingDeletion { key }
            }
            "KMSInvalidStateException" => KmsError::State { key, action, said },
            "InvalidCiphertextException" => KmsError::Tampered { key },
            "IncorrectKeyException" => KmsError::IncorrectKey { key },
            "InvalidKeyUsageException" => KmsError::Usage { key, said },
            "ExpiredToken"
            | "ExpiredTokenException"
            | "IncompleteSignatureException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "MissingAuthenticationTokenException"
            | "UnrecognizedClientException" => KmsError::NoCredentials { key, said },
            "LimitExceededException"
            | "RequestLimitExceeded"
            | "Throttling"
            | "ThrottlingException"
            | "TooManyRequestsException" => KmsError::Throttled { key, place, said, attempts },
            _ if status == 429 => KmsError::Throttled { key, place, said, attempts },
            _ if status >= 500 => self.unreachable(format!("{status} {said}"), attempts),
            _ => KmsError::Refused { key, action, said: format!("{status} {said}") },
        }
    }

    /// No credentials, no connection, or a broken one.
    fn without_answer(&self, error: &(dyn Error + 'static), attempts: u32) -> KmsError {
        let (key, place) = (self.key.to_owned(), self.place.clone());
        let said = innermost(error);
        let whole = chain(error).to_lowercase();
        if whole.contains("credential") {
            // What follows lists each source that the SDK has tried.
            let said = one_line(said.split(". Attempted:").next().unwrap_or_default());
            KmsError::NoCredentials { key, said }
        } else if whole.contains("certificate") {
            KmsError::Untrusted { key, place, said: one_line(&said) }
        } else {
            self.unreachable(one_line(&said), attempts)
        }
    }
}
