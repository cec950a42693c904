//! Configuration of the SDK client: where, as whom, over which connections.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::ResponseChecksumValidation;
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_types::service_config::ServiceConfigKey;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::store::{StoreConfig, StoreError, StoreFault};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept. Longer than the commit interval, so that a quiet mount
/// does not pay a TLS handshake for each fsync.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Unused connections kept.
const IDLE_CONNECTIONS_MAX: usize = 32;
/// Signing name where neither configuration nor environment has a region. S3-compatible servers
/// mostly do not care, and AWS answers a wrong one with the right one.
const REGION_DEFAULT: &str = "us-east-1";

/// Where the bucket is and how to talk to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Config {
    /// Name of the bucket, or alias of an access point.
    pub bucket: String,
    /// See [`StoreConfig::endpoint`].
    pub endpoint: Option<String>,
    /// See [`StoreConfig::region`].
    pub region: Option<String>,
    /// See [`StoreConfig::profile`].
    pub profile: Option<String>,
    /// See [`StoreConfig::path_style`].
    pub path_style: Option<bool>,
    /// See [`StoreConfig::allow_http`].
    pub allow_http: bool,
    /// See [`StoreConfig::ca_file`].
    pub ca_file: Option<PathBuf>,
    /// See [`StoreConfig::deadline`].
    pub deadline: Duration,
}

impl S3Config {
    /// The S3 part of a `[store]` section.
    pub fn new(bucket: &str, config: &StoreConfig) -> Self {
        Self {
            bucket: bucket.to_owned(),
            endpoint: config.endpoint.clone(),
            region: config.region.clone(),
            profile: config.profile.clone(),
            path_style: config.path_style,
            allow_http: config.allow_http,
            ca_file: config.ca_file.clone(),
            deadline: config.deadline,
        }
    }
}

/// What the client turned out to talk to.
pub(super) struct Target {
    pub place: String,
    pub is_tls: bool,
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
    if let Some(endpoint) = &config.endpoint {
        check_endpoint(endpoint, config.allow_http)?;
    }
    let shared = load(config, loader).await?;
    let endpoint = service_endpoint("S3", config.endpoint.as_deref(), &shared);
    let is_tls = match &endpoint {
        Some(endpoint) => check_endpoint(endpoint, config.allow_http)?,
        None => true,
    };
    let region = shared.region().map_or(REGION_DEFAULT, Region::as_ref);
    let place = endpoint.clone().unwrap_or_else(|| format!("AWS {region}"));
    let mut builder = aws_sdk_s3::config::Builder::from(&shared)
        .region(Region::new(region.to_owned()))
        .force_path_style(config.path_style.unwrap_or(endpoint.is_some()))
        // Content is sealed and authenticated above; a CRC would find nothing more.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    Ok((Client::from_conf(builder.build()), Target { place, is_tls }))
}

async fn load(config: &S3Config, loader: ConfigLoader) -> Result<SdkConfig, StoreError> {
    let mut trust = TrustStore::default();
    if let Some(file) = &config.ca_file {
        trust = trust.with_pem_certificate(read_certificates(file)?);
    }
    let tls = TlsContext::builder().with_trust_store(trust).build().map_err(|error| {
        StoreError::caused(StoreFault::Invalid, "TLS cannot be set up on this machine", error)
    })?;
    // TCP_NODELAY is this client's default; without it each small request waits 40 ms.
    let http = HttpBuilder::new()
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .tls_provider(Provider::rustls(CryptoMode::AwsLc))
        .tls_context(tls)
        .build_https();
    let mut loader = loader
        .http_client(http)
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
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

/// Reads and checks a PEM file: the TLS library would panic on a bad one.
fn read_certificates(file: &Path) -> Result<Vec<u8>, StoreError> {
    let name = file.display();
    let bad = |error: Box<dyn std::error::Error + Send + Sync>| {
        let text = format!("ca_file {name}: {error}; name a readable PEM file of certificates");
        StoreError::caused(StoreFault::Invalid, text, error)
    };
    let pem = std::fs::read(file).map_err(|error| bad(error.into()))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| bad(error.to_string().into()))?;
        roots.add(certificate).map_err(|error| bad(error.into()))?;
    }
    if roots.is_empty() {
        return Err(bad("no certificate in it".into()));
    }
    Ok(pem)
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
