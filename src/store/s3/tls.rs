//! TLS: whom we trust, and who we are to a server that asks.
//!
//! Both sides end in rustls, which speaks TLS 1.2 and 1.3 and has no code for anything older, with
//! the ciphers of aws-lc. The SDK's own client cannot show a certificate: it calls
//! `with_no_client_auth` and takes no configuration of the caller's (its one door for that is a
//! build flag for the whole program). Where one is wanted, the same connection pool is therefore
//! built here.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::{HttpClient, RuntimeComponents, SharedHttpClient};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::store::{StoreConfig, StoreError, StoreFault};

/// How connections are made and kept.
#[derive(Debug)]
pub(super) struct Pool {
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// Unused connections kept.
    pub idle_max: usize,
}

/// The client for every request, also for those after credentials.
pub(super) fn http_client(
    config: &StoreConfig,
    pool: &Pool,
) -> Result<SharedHttpClient, StoreError> {
    let own = config.ca_file.as_deref().map(Authorities::read).transpose()?;
    if let (Some(certificate), Some(key)) = (&config.client_certificate, &config.client_key) {
        let tls = with_client_certificate(own, certificate, key)?;
        return Ok(SharedHttpClient::new(Authenticated::new(tls, pool)));
    }
    let mut trust = TrustStore::default();
    if let Some(own) = own {
        trust = trust.with_pem_certificate(own.pem);
    }
    let tls = TlsContext::builder().with_trust_store(trust).build().map_err(|error| {
        StoreError::caused(StoreFault::Invalid, "TLS cannot be set up on this machine", error)
    })?;
    // TCP_NODELAY is this client's default; without it each small request waits 40 ms.
    Ok(HttpBuilder::new()
        .pool_idle_timeout(pool.idle_timeout)
        .pool_max_idle_per_host(pool.idle_max)
        .tls_provider(Provider::rustls(CryptoMode::AwsLc))
        .tls_context(tls)
        .build_https())
}

fn unusable(key: &str, file: &Path, what: &str) -> impl Fn(&dyn std::fmt::Display) -> StoreError {
    let name = format!("{key} {}", file.display());
    let advice = format!("name a readable PEM file of {what}");
    move |error| StoreError::new(StoreFault::Settings, format!("{name}: {error}; {advice}"))
}

/// Certificates of `ca_file`, checked: the SDK would panic on a bad one.
struct Authorities {
    pem: Vec<u8>,
    roots: RootCertStore,
}

impl Authorities {
    fn read(file: &Path) -> Result<Self, StoreError> {
        let bad = unusable("ca_file", file, "certificates");
        let pem = std::fs::read(file).map_err(|error| bad(&error))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| bad(&error))?;
            roots.add(certificate).map_err(|error| bad(&error))?;
        }
        if roots.is_empty() {
            return Err(bad(&"no certificate in it"));
        }
        Ok(Self { pem, roots })
    }
}

/// What the SDK would set up, and the certificate.
fn with_client_certificate(
    own: Option<Authorities>,
    certificate: &Path,
    key: &Path,
) -> Result<ClientConfig, StoreError> {
    let bad = unusable("client_certificate", certificate, "a certificate and its authorities");
    let pem = std::fs::read(certificate).map_err(|error| bad(&error))?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| bad(&error))?;
    if chain.is_empty() {
        return Err(bad(&"no certificate in it"));
    }
    let bad = unusable("client_key", key, "the private key of client_certificate");
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(&error))?;
    let mut roots = own.map_or_else(RootCertStore::empty, |own| own.roots);
    // Unreadable ones of the machine are left out, as the SDK does: others may do.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| {
            StoreError::caused(StoreFault::Invalid, "TLS cannot be set up on this machine", error)
        })?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| bad(&error))
}

/// A client that shows a certificate where a server asks for one.
#[derive(Debug, Clone)]
struct Authenticated(Client<HttpsConnector<TcpConnector>, SdkBody>);

impl Authenticated {
    fn new(tls: ClientConfig, pool: &Pool) -> Self {
        let mut tcp = TcpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(pool.connect_timeout));
        // TLS is chosen by the URL.
        tcp.enforce_http(false);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let connector = https.enable_all_versions().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(pool.idle_timeout)
            .pool_max_idle_per_host(pool.idle_max)
            .build(connector);
        Self(client)
    }
}

impl HttpClient for Authenticated {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Authenticated {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => {
                return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into())));
            }
        };
        let answer = self.0.request(request);
        HttpConnectorFuture::new(async move {
            let answer =
                answer.await.map_err(|error: ClientError| ConnectorError::io(error.into()))?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}
