//! TLS with servers that OpenSSL plays: old versions, and such as want to know who we are.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path as FilePath;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use lidfs::store::object_store::path::Path;
use lidfs::store::object_store::{Error, ObjectStoreExt};
use lidfs::store::{S3Config, S3Store, StoreConfig, StoreFault, classify, explain};
use tempfile::TempDir;

use crate::support::servers::loader;

/// What every such server has for `GET /bucket/object`: these are whole answers.
const OBJECT: &str = "HTTP/1.0 200 OK\r\nContent-Length: 4\r\nETag: \"one\"\r\n\
                      Last-Modified: Sat, 21 Nov 2026 12:00:00 GMT\r\n\r\n0123";
/// Versions before 1.2 need hashes that OpenSSL itself holds for too weak.
const WEAK: [&str; 2] = ["-cipher", "ALL:@SECLEVEL=0"];

fn openssl(dir: &FilePath, args: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command
}

/// A directory with an authority, and certificates of it for a server and a client.
fn authority() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = openssl(dir.path(), args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"];
    let files = |name: &str| [format!("{name}.key"), format!("{name}.pem")];
    let make = |name: &str, more: &[&str]| {
        let [key, pem] = files(name);
        let subject = format!("/CN={name}");
        let mut args = new.to_vec();
        args.extend(["-subj", &subject, "-keyout", &key, "-out", &pem]);
        args.extend(more);
        run(&args);
    };
    make("ca", &["-addext", "keyUsage=critical,keyCertSign"]);
    let leaf =
        ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE"];
    make("server", &[&leaf[..], &["-addext", "subjectAltName=IP:127.0.0.1"]].concat());
    make("client", &[&leaf[..], &["-addext", "extendedKeyUsage=clientAuth"]].concat());
    fs::create_dir(dir.path().join("bucket")).unwrap();
    // The path with its query, as the SDK asks for it.
    fs::write(dir.path().join("bucket/object?x-id=GetObject"), OBJECT).unwrap();
    dir
}

struct TlsServer {
    child: Child,
    /// Kept: what the server says later must not end it.
    _said: Lines<BufReader<ChildStdout>>,
    port: u16,
}

impl TlsServer {
    fn start(dir: &FilePath, more: &[&str]) -> Self {
        let files = ["-cert", "server.pem", "-key", "server.key"];
        let args = [&["s_server", "-accept", "127.0.0.1:0", "-HTTP"], &files[..], more].concat();
        let mut command = openssl(dir, &args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let place = said.find_map(|line| line.unwrap().strip_prefix("ACCEPT ").map(str::to_owned));
        let place = place.expect("openssl s_server does not listen");
        let port = place.rsplit(':').next().unwrap().parse().unwrap();
        Self { child, _said: said, port }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn get(
    dir: &FilePath,
    server: &TlsServer,
    config: StoreConfig,
) -> Result<bytes::Bytes, Error> {
    let config = StoreConfig {
        endpoint: Some(format!("https://127.0.0.1:{}", server.port)),
        ca_file: Some(dir.join("ca.pem")),
        deadline: Duration::from_secs(10),
        ..config
    };
    let config = S3Config::new("bucket", &config);
    let store = S3Store::connect_with(config, loader("a", "b")).await.unwrap();
    store.get(&Path::from("object")).await?.bytes().await
}

/// The version that OpenSSL's own client agrees on.
fn version(dir: &FilePath, server: &TlsServer, more: &[&str]) -> String {
    let connect = format!("127.0.0.1:{}", server.port);
    let mut args = vec!["s_client", "-connect", &connect];
    args.extend(more);
    let output = openssl(dir, &args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.lines().find(|line| line.starts_with("New, "));
    line.unwrap_or(&said).to_owned()
}

#[tokio::test]
async fn versions_before_1_2_are_refused() {
    let dir = authority();
    let old = [&["-tls1_1"], &WEAK[..]].concat();
    let server = TlsServer::start(dir.path(), &old);
    let agreed = version(dir.path(), &server, &old);
    assert!(agreed.starts_with("New, ") && !agreed.contains("NONE"), "{agreed}");
    let error = get(dir.path(), &server, StoreConfig::default()).await.unwrap_err();
    assert_eq!(classify(&error), StoreFault::Untrusted);
    let said = explain(&error);
    assert!(said.contains("does not speak TLS 1.2 or 1.3"), "{said}");
    println!("{said}");
    for new in ["-tls1_2", "-tls1_3"] {
        let server = TlsServer::start(dir.path(), &[new]);
        let body = get(dir.path(), &server, StoreConfig::default()).await.unwrap();
        assert_eq!(body, "0123", "{new}");
    }
}

#[tokio::test]
async fn a_server_that_asks_who_we_are_is_shown_the_certificate() {
    let dir = authority();
    let asks = ["-CAfile", "ca.pem", "-Verify", "1", "-verify_return_error"];
    let ours = StoreConfig {
        client_certificate: Some(dir.path().join("client.pem")),
        client_key: Some(dir.path().join("client.key")),
        ..StoreConfig::default()
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let server = TlsServer::start(dir.path(), &[&asks[..], &[version]].concat());
        let body = get(dir.path(), &server, ours.clone()).await.unwrap();
        assert_eq!(body, "0123", "{version}");
        let error = get(dir.path(), &server, StoreConfig::default()).await.unwrap_err();
        let said = explain(&error);
        println!("{version}: {said}");
        assert_eq!(classify(&error), StoreFault::Untrusted, "{said}");
        assert!(said.contains("client_certificate in [store]"), "{said}");
    }
    // Whom we trust is the same as without a certificate of ours, and so is the lowest version.
    let server = TlsServer::start(dir.path(), &[&["-tls1_1"], &WEAK[..]].concat());
    let error = get(dir.path(), &server, ours.clone()).await.unwrap_err();
    assert_eq!(classify(&error), StoreFault::Untrusted, "{error}");
    let other = authority();
    let server = TlsServer::start(other.path(), &[]);
    let error = get(dir.path(), &server, ours).await.unwrap_err();
    assert_eq!(classify(&error), StoreFault::Untrusted);
    assert!(explain(&error).contains("not trusted"), "{error}");
}

#[tokio::test]
async fn a_bad_certificate_or_key_of_ours_is_refused_with_its_name() {
    let dir = authority();
    let path = |name: &str| Some(dir.path().join(name));
    for (certificate, key, word) in [
        ("none.pem", "client.key", "client_certificate"),
        ("client.key", "client.key", "no certificate in it"),
        ("client.pem", "client.pem", "client_key"),
        ("client.pem", "server.key", "client_key"),
    ] {
        let config = StoreConfig {
            client_certificate: path(certificate),
            client_key: path(key),
            ..StoreConfig::default()
        };
        let config = S3Config::new("bucket", &config);
        let error = S3Store::connect_with(config, loader("a", "b")).await.unwrap_err();
        assert_eq!(error.fault, StoreFault::Settings);
        assert!(error.to_string().contains(word), "{certificate}, {key}: {error}");
        println!("{error}");
    }
}
