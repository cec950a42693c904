//! Configuration of the SDK client: where, as whom, over which connections.

use std::net::IpAddr;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::ResponseChecksumValidation;
use aws_types::service_config::ServiceConfigKey;

use super::every_request::EveryRequest;
use super::tls::{self, Pool};
use crate::store::encryption::TABLE;
use crate::store::{CustomerKeys, StoreConfig, StoreError, StoreFault};

/// How connections are kept.
const POOL: Pool = Pool {
    connect_timeout: Duration::from_secs(5),
    // Longer than the commit interval, so that a quiet mount does not pay a TLS handshake for each
    // fsync.
    idle_timeout: Duration::from_mins(1),
    idle_max: 32,
};
/// Signing name where neither configuration nor environment has a region. S3-compatible servers
/// mostly do not care, and AWS answers a wrong one with the right one.
const REGION_DEFAULT: &str = "us-east-1";

/// Where the bucket is and how to talk to it.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// Name of the bucket, or alias or ARN of an access point.
    pub bucket: String,
    /// Everything else.
    pub store: StoreConfig,
    /// The keys of its `server_side_encryption`.
    pub keys: CustomerKeys,
}

impl S3Config {
    /// The S3 part of a `[store]` section, without keys.
    pub fn new(bucket: &str, config: &StoreConfig) -> Self {
        Self { bucket: bucket.to_owned(), store: config.clone(), keys: CustomerKeys::default() }
    }

    /// The path of a URL cannot hold an ARN.
    fn has_arn(&self) -> bool {
        self.bucket.starts_with("arn:")
    }

    /// What contradicts itself, before anything is sent anywhere.
    fn check(&self) -> Result<(), StoreError> {
        let settings = |text: String| StoreError::new(StoreFault::Settings, text);
        self.store.check().map_err(settings)?;
        for (key, is_set) in [
            ("path_style = true", self.store.path_style == Some(true)),
            ("accelerate", self.store.accelerate),
        ] {
            if is_set && self.has_arn() {
                let text = format!("[store]: {key} does not go with an access point; leave it out");
                return Err(settings(text));
            }
        }
        if self.store.accelerate && self.bucket.contains('.') {
            let text = "[store]: accelerate does not go with a bucket that has a dot in its name";
            return Err(settings(text.to_owned()));
        }
        Ok(())
    }

    /// Checks an endpoint before anything is sent to it; returns whether it uses TLS.
    fn check_endpoint(&self, endpoint: &str) -> Result<bool, StoreError> {
        let settings = |text: String| StoreError::new(StoreFault::Settings, text);
        self.store.check_endpoint(Some(endpoint)).map_err(settings)?;
        let is_tls = check_endpoint(endpoint, self.store.allow_http)?;
        if !is_tls && (self.keys.current.is_some() || self.keys.previous.is_some()) {
            let may = self.store.server_side_encryption.allow_http_on_loopback;
            if !(may && check_endpoint(endpoint, false).is_ok()) {
                let text = format!(
                    "endpoint {endpoint}: sse-c sends its key with every request, so plain http is \
                     refused; use https (tests against this machine: allow_http_on_loopback = true \
                     in {TABLE})"
                );
                return Err(StoreError::new(StoreFault::Insecure, text));
            }
        }
        Ok(is_tls)
    }
}

/// What the client turned out to talk to.
pub(super) struct Target {
    pub place: String,
    pub is_tls: bool,
    /// TLS, or within this machine.
    pub is_private: bool,
}

/// The SDK's own sources of credentials and settings, all of them.
pub(crate) fn defaults() -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::latest())
}

pub(super) async fn build(
    config: &S3Config,
    loader: ConfigLoader,
) -> Result<(Client, Target), StoreError> {
    // Before the credential chain, which may itself ask the network.
    config.check()?;
    if let Some(endpoint) = &config.store.endpoint {
        config.check_endpoint(endpoint)?;
    }
    let shared = load(config, loader).await?;
    let endpoint = service_endpoint("S3", config.store.endpoint.as_deref(), &shared);
    let is_tls = match &endpoint {
        Some(endpoint) => config.check_endpoint(endpoint)?,
        None => true,
    };
    let is_private =
        endpoint.as_deref().is_none_or(|endpoint| check_endpoint(endpoint, false).is_ok());
    let region = shared.region().map_or(REGION_DEFAULT, Region::as_ref);
    let place = endpoint.clone().unwrap_or_else(|| format!("AWS {region}"));
    let mut builder = aws_sdk_s3::config::Builder::from(&shared)
        .region(Region::new(region.to_owned()))
        .force_path_style(
            config.store.path_style.unwrap_or(endpoint.is_some() && !config.has_arn()),
        )
        // The ARN of an access point names the region it is in.
        .use_arn_region(true)
        .accelerate(config.store.accelerate)
        // Content is sealed and authenticated above; a CRC would find nothing more.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    // Left alone where not set: the profile may say so, too.
    if config.store.fips {
        builder = builder.use_fips(true);
    }
    if config.store.dual_stack {
        builder = builder.use_dual_stack(true);
    }
    if let Some(headers) = EveryRequest::new(&config.store)? {
        builder = builder.interceptor(headers);
    }
    Ok((Client::from_conf(builder.build()), Target { place, is_tls, is_private }))
}

async fn load(config: &S3Config, loader: ConfigLoader) -> Result<SdkConfig, StoreError> {
    let S3Config { store: config, .. } = config;
    let http = tls::http_client(config, &POOL)?;
    let mut loader = loader
        .http_client(http)
        .timeout_config(TimeoutConfig::builder().connect_timeout(POOL.connect_timeout).build())
        // Retries and deadlines are our own (`retry`): the SDK's loop forgets the last cause when
        // its time is up, and its token bucket stops retrying early in a long outage.
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(region) = &config.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(endpoint) = &config.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    Ok(loader.load().await)
}

/// The endpoint that the SDK would use for a service, in its own order, so that it can be checked first.
pub(crate) fn service_endpoint(
    service: &str,
    configured: Option<&str>,
    shared: &SdkConfig,
) -> Option<String> {
    let of_service = || {
        let key = ServiceConfigKey::builder()
            .service_id(service)
            .env("AWS_ENDPOINT_URL")
            .profile("endpoint_url")
            .build()
            .ok()?;
        shared.service_config()?.load_config(key)
    };
    configured
        .map(str::to_owned)
        .or_else(of_service)
        .or_else(|| shared.endpoint_url().map(str::to_owned))
}

/// Checks an endpoint before anything is sent to it; returns whether it uses TLS.
pub(crate) fn check_endpoint(endpoint: &str, allow_http: bool) -> Result<bool, StoreError> {
    let bad = |fault, text: String| Err(StoreError::new(fault, text));
    let Ok(uri) = endpoint.parse::<http::Uri>() else {
        let text = format!("endpoint {endpoint:?} is not a URL; write https://host[:port]");
        return bad(StoreFault::Invalid, text);
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    match uri.scheme_str() {
        Some("https") if !host.is_empty() => Ok(true),
        Some("http") if is_loopback(host) || (allow_http && !host.is_empty()) => Ok(false),
        Some("http") if !host.is_empty() => bad(
            StoreFault::Insecure,
            format!(
                "endpoint {endpoint}: plain http to another machine is refused; use https, or set \
                 allow_http = true in [store] if the network is trusted"
            ),
        ),
        _ => bad(
            StoreFault::Invalid,
            format!("endpoint {endpoint:?} is not a URL; write https://host[:port]"),
        ),
    }
}

fn is_loopback(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_reaches_only_this_machine_unless_allowed() {
        for endpoint in ["http://127.0.0.1:9000", "http://localhost:1", "http://[::1]:80"] {
            assert!(!check_endpoint(endpoint, false).unwrap(), "{endpoint}");
        }
        for endpoint in ["http://example.com", "http://10.0.0.1:9000", "http://localhost.evil.com"]
        {
            let error = check_endpoint(endpoint, false).unwrap_err();
            assert_eq!(error.fault, StoreFault::Insecure, "{endpoint}");
            assert!(error.to_string().contains("allow_http"));
            assert!(!check_endpoint(endpoint, true).unwrap(), "{endpoint}");
        }
        assert!(check_endpoint("https://example.com", false).unwrap());
    }

    #[test]
    fn an_endpoint_that_is_no_url_is_refused() {
        for endpoint in ["", "example.com", "ftp://example.com", "https://", "http://a b"] {
            let error = check_endpoint(endpoint, true).unwrap_err();
            assert_eq!(error.fault, StoreFault::Invalid, "{endpoint}");
        }
    }
}
