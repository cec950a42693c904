//! From the SDK's errors to ours: one line each, with what to do next.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::Inner;
use crate::store::{StoreError, StoreFault};

/// One failed attempt, before it is known whether there will be another. The SDK's own error is not kept:
/// it holds the whole answer, in which a server may repeat a key or a token of the request.
#[derive(Debug)]
pub(super) struct Failure {
    pub fault: StoreFault,
    /// S3's own error code, empty if there was none (every HEAD, for example).
    pub code: String,
    pub status: u16,
    /// Worth another attempt.
    pub is_passing: bool,
    /// The server may have carried the request out all the same.
    pub is_ambiguous: bool,
    message: String,
}

impl Failure {
    /// An attempt that took too long, in words.
    pub fn timed_out(message: String) -> Self {
        Self {
            fault: StoreFault::Unavailable,
            code: String::new(),
            status: 0,
            is_passing: true,
            is_ambiguous: true,
            message,
        }
    }

    pub fn from_sdk<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        match error {
            SdkError::ServiceError(context) => {
                let (raw, meta) = (context.raw(), context.err().meta());
                let answer = Answer {
                    status: raw.status().as_u16(),
                    code: meta.code().unwrap_or_default().to_owned(),
                    text: meta.message().unwrap_or_default().to_owned(),
                    region: raw.headers().get("x-amz-bucket-region").map(str::to_owned),
                    date: raw.headers().get("date").map(str::to_owned),
                };
                Self::from_answer(answer)
            }
            SdkError::ResponseError(_) => Self {
                fault: StoreFault::Unavailable,
                code: String::new(),
                status: 0,
                is_passing: true,
                is_ambiguous: true,
                message: format!("unreadable answer: {}", innermost(error)),
            },
            _ => Self::from_dispatch(error),
        }
    }

    /// The server answered, with a refusal.
    fn from_answer(answer: Answer) -> Self {
        let fault = answer.fault();
        let is_server_fault = answer.status >= 500 && fault == StoreFault::Unavailable;
        let is_throttled = matches!(answer.status, 408 | 409 | 429)
            || matches!(answer.code.as_str(), "RequestTimeout" | "SlowDown" | "Throttling");
        Self {
            fault,
            is_passing: is_server_fault || is_throttled,
            is_ambiguous: is_server_fault,
            message: answer.describe(),
            code: answer.code,
            status: answer.status,
        }
    }

    /// No answer: no credentials, no connection, or a broken one.
    fn from_dispatch(error: &(dyn Error + 'static)) -> Self {
        let cause = innermost(error);
        let whole = chain(error).to_lowercase();
        let (fault, message) = if whole.contains("credential") {
            // What follows lists each source that the SDK has tried, in its own words, in many lines.
            let cause = cause.split(". Attempted:").next().unwrap_or(&cause);
            (StoreFault::NoCredentials, format!("no usable AWS credentials: {cause}"))
        } else if whole.contains("certificaterequired") {
            let said = "the server wants a certificate of ours; name one as client_certificate in \
                        [store]";
            (StoreFault::Untrusted, said.to_owned())
        } else if whole.contains("handshakefailure") {
            // So OpenSSL asks for one in TLS 1.2.
            let said = format!(
                "the server refuses the TLS handshake: {cause}; if it wants a certificate of ours, \
                 name one as client_certificate in [store]"
            );
            (StoreFault::Untrusted, said)
        } else if whole.contains("protocolversion") || whole.contains("peer is incompatible") {
            let said = format!(
                "the server does not speak TLS 1.2 or 1.3: {cause}; nothing older is used: update it"
            );
            (StoreFault::Untrusted, said)
        } else if whole.contains("certificate") {
            let said = format!(
                "the server's certificate is not trusted: {cause}; if it is the right server, name \
                 its authority's certificate in ca_file of [store]"
            );
            (StoreFault::Untrusted, said)
        } else {
            (StoreFault::Unavailable, cause)
        };
        let is_passing = fault == StoreFault::Unavailable;
        Self {
            fault,
            code: String::new(),
            status: 0,
            is_passing,
            is_ambiguous: is_passing,
            message,
        }
    }

    /// Says more about what may be done.
    pub fn advise(&mut self, text: &str) {
        self.message = format!("{}; {text}", self.message.trim_end_matches('.'));
    }

    /// The error for the caller. `attempts` counts this one.
    pub fn into_error(self, store: &Inner, key: &str, attempts: u32) -> StoreError {
        let message = self.describe(store, key, attempts);
        StoreError::new(self.fault, message)
    }

    /// What went wrong and what to do about it. Without a key it is said of the bucket.
    pub fn describe(&self, store: &Inner, key: &str, attempts: u32) -> String {
        let Inner { bucket, place, .. } = store;
        let said = &self.message;
        let object = format!("s3://{bucket}/{key}");
        let object = object.trim_end_matches('/');
        let text = match self.fault {
            StoreFault::NoBucket => format!(
                "bucket {bucket:?} does not exist at {place}: create it, or correct the volume's url"
            ),
            StoreFault::NoCredentials => format!(
                "s3://{bucket}: {said}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a \
                 profile in [store], or log in with `aws sso login`"
            ),
            StoreFault::ExpiredCredentials => format!(
                "s3://{bucket}: the temporary credentials have expired ({said}); get new ones"
            ),
            StoreFault::Denied => format!(
                "{object}: access denied by {place} ({said}); check the credentials and \
                 what the bucket's policy allows them"
            ),
            StoreFault::WrongRegion => {
                format!(
                    "bucket {bucket:?} is not in the region asked ({said}); set region in [store]"
                )
            }
            StoreFault::ClockSkew => format!(
                "{place} refuses requests because this machine's clock is wrong ({said}); set the \
                 clock, or start a time service"
            ),
            StoreFault::Untrusted => format!("{place}: {said}"),
            StoreFault::Unavailable => format!(
                "{object}: {place} does not serve the request ({said}; attempts: \
                 {attempts}); check the network and the endpoint in [store]"
            ),
            _ => format!("{object}: {said}"),
        };
        one_line(&text)
    }
}

/// What the server said when it refused.
struct Answer {
    status: u16,
    code: String,
    text: String,
    region: Option<String>,
    date: Option<String>,
}

impl Answer {
    fn fault(&self) -> StoreFault {
        match self.code.as_str() {
            "NoSuchBucket" => return StoreFault::NoBucket,
            "NoSuchKey" | "NoSuchVersion" | "NoSuchUpload" | "NotFound" => {
                return StoreFault::NotFound;
            }
            "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" | "ExpiredTokenException" => {
                return StoreFault::ExpiredCredentials;
            }
            "RequestTimeTooSkewed" | "RequestExpired" => return StoreFault::ClockSkew,
            "PermanentRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException" => return StoreFault::WrongRegion,
            "NotImplemented" => return StoreFault::Unsupported,
            "RequestTimeout" | "SlowDown" | "Throttling" => return StoreFault::Unavailable,
            "QuotaExceeded" | "XMinioStorageFull" => return StoreFault::Full,
            _ => {}
        }
        match self.status {
            301 | 307 => StoreFault::WrongRegion,
            304 => StoreFault::NotModified,
            401 | 403 => StoreFault::Denied,
            404 => StoreFault::NotFound,
            412 => StoreFault::Precondition,
            // A HEAD has no body to name the code; S3 answers so from another region.
            400 if self.code.is_empty() && self.region.is_some() => StoreFault::WrongRegion,
            501 => StoreFault::Unsupported,
            507 => StoreFault::Full,
            408 | 409 | 429 | 500.. => StoreFault::Unavailable,
            _ => StoreFault::Invalid,
        }
    }

    fn describe(&self) -> String {
        let mut said = format!("{} {}", self.status, self.code).trim_end().to_owned();
        if !self.text.is_empty() {
            said = format!("{said}: {}", self.text);
        }
        match (self.fault(), &self.region, &self.date) {
            (StoreFault::WrongRegion, Some(region), _) => format!("{said}; it is in {region}"),
            (StoreFault::ClockSkew, _, Some(date)) => format!("{said}; there it is {date}"),
            _ => said,
        }
    }
}

/// The text of the last cause: the layers above it only repeat that there is one.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// An error with all its causes.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// Servers put line breaks into their messages, and hostile ones whatever moves a terminal's cursor;
/// ours are one plain line.
pub(crate) fn one_line(text: &str) -> String {
    let breaks = |char: char| char.is_whitespace() || char.is_control();
    let words = text.split(breaks).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Answer {
        Answer { status, code: code.into(), text: "said".into(), region: None, date: None }
    }

    #[test]
    fn refusals_are_told_apart() {
        for (status, code, fault) in [
            (404, "NoSuchBucket", StoreFault::NoBucket),
            (404, "NoSuchKey", StoreFault::NotFound),
            (404, "", StoreFault::NotFound),
            (403, "AccessDenied", StoreFault::Denied),
            (403, "SignatureDoesNotMatch", StoreFault::Denied),
            (403, "RequestTimeTooSkewed", StoreFault::ClockSkew),
            (400, "ExpiredToken", StoreFault::ExpiredCredentials),
            (301, "PermanentRedirect", StoreFault::WrongRegion),
            (400, "AuthorizationHeaderMalformed", StoreFault::WrongRegion),
            (412, "PreconditionFailed", StoreFault::Precondition),
            (304, "", StoreFault::NotModified),
            (409, "ConditionalRequestConflict", StoreFault::Unavailable),
            (416, "InvalidRange", StoreFault::Invalid),
            (501, "NotImplemented", StoreFault::Unsupported),
            (503, "SlowDown", StoreFault::Unavailable),
            (500, "InternalError", StoreFault::Unavailable),
        ] {
            assert_eq!(answer(status, code).fault(), fault, "{status} {code}");
        }
    }

    #[test]
    fn only_passing_faults_are_tried_again() {
        let failure = |status, code| Failure::from_answer(answer(status, code));
        for (status, code) in [(500, ""), (503, "SlowDown"), (409, ""), (400, "RequestTimeout")] {
            assert!(failure(status, code).is_passing, "{status} {code}");
        }
        for (status, code) in [(403, ""), (404, ""), (412, ""), (501, "NotImplemented")] {
            assert!(!failure(status, code).is_passing, "{status} {code}");
        }
        assert!(failure(500, "").is_ambiguous && !failure(409, "").is_ambiguous);
    }

    #[test]
    fn what_a_server_says_is_told_on_one_line_without_control_characters() {
        assert_eq!(one_line(" no\r\n  entry\u{1b}[2J \u{7}\tnow\n"), "no entry [2J now");
    }

    #[test]
    fn missing_credentials_are_told_without_the_list_of_what_was_tried() {
        let said = "no credentials found in chain. Attempted:\n  Environment: variable not set";
        let failure = Failure::from_dispatch(&std::io::Error::other(said));
        assert_eq!(failure.fault, StoreFault::NoCredentials);
        let message = "no usable AWS credentials: no credentials found in chain";
        assert_eq!(failure.message, message);
    }
}
