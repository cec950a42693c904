//! What a store says when it cannot: the fault for the caller, one clear line for the person.

use std::fs;
use std::time::Duration;

use futures::TryStreamExt;
use lidfs::store::object_store::path::Path;
use lidfs::store::object_store::{Error, ObjectStore, ObjectStoreExt};
use lidfs::store::{
    LocalStore, OpenStore, S3Config, S3Store, StoreConfig, StoreFault, classify, explain, open,
    probe,
};

use crate::support::servers::{Kind, Server, loader};

/// A store on the server's https port, with its certificate trusted.
pub async fn over_tls(server: &Server, bucket: &str) -> S3Store {
    let config = StoreConfig {
        endpoint: Some(server.var("RGW_HTTPS_URL").to_owned()),
        ca_file: Some(server.var("RGW_CERTIFICATE").into()),
        ..server.config()
    };
    S3Store::connect_with(S3Config::new(bucket, &config), server.loader()).await.unwrap()
}

#[track_caller]
fn assert_refusal(error: &Error, fault: StoreFault, words: &[&str]) {
    let said = explain(error);
    assert_eq!(classify(error), fault, "{said}");
    assert!(!said.contains('\n'), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[tokio::test]
async fn a_bucket_that_does_not_exist_is_named() {
    let store = Server::get(Kind::CephRgw).store("no-such-bucket-here").await;
    let path = Path::from("object");
    let words = ["no-such-bucket-here", "does not exist", "create it"];
    let error = store.get(&path).await.unwrap_err();
    assert_refusal(&error, StoreFault::NoBucket, &words);
    let error = store.put(&path, "x".into()).await.unwrap_err();
    assert_refusal(&error, StoreFault::NoBucket, &words);
    let error = store.list(None).try_collect::<Vec<_>>().await.unwrap_err();
    assert_refusal(&error, StoreFault::NoBucket, &words);
    assert_eq!(probe(&store, false).await.unwrap_err().fault(), Some(StoreFault::NoBucket));
}

#[tokio::test]
async fn wrong_and_insufficient_credentials_are_denied() {
    let server = Server::get(Kind::CephRgw);
    let bucket = server.new_bucket().await.bucket().to_owned();
    let config = S3Config::new(&bucket, &server.config());
    let path = Path::from("object");
    let key = server.var("AWS_ACCESS_KEY_ID");
    for credentials in [
        loader(key, "wrong"),
        loader("UNKNOWNACCESSKEY0000", "wrong"),
        loader(server.var("RGW_OTHER_ACCESS_KEY_ID"), server.var("RGW_OTHER_SECRET_ACCESS_KEY")),
    ] {
        let store = S3Store::connect_with(config.clone(), credentials).await.unwrap();
        for error in [
            store.put(&path, "x".into()).await.unwrap_err(),
            store.get(&path).await.unwrap_err(),
            store.head(&path).await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
            assert_refusal(&error, StoreFault::Denied, &["access denied", &bucket]);
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_unreachable_within_the_deadline() {
    // A port that was just free, and on which nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let config = StoreConfig {
        endpoint: Some(endpoint.clone()),
        deadline: Duration::from_millis(300),
        ..StoreConfig::default()
    };
    let config = S3Config::new("bucket", &config);
    let store = S3Store::connect_with(config, loader("key", "secret")).await.unwrap();
    let error = store.get(&Path::from("object")).await.unwrap_err();
    assert_refusal(&error, StoreFault::Unavailable, &[&endpoint, "refused", "check the network"]);
}

#[tokio::test]
async fn plain_http_to_another_machine_is_refused_before_anything_is_sent() {
    let config = StoreConfig {
        endpoint: Some("http://s3.example.com".to_owned()),
        ..StoreConfig::default()
    };
    let error = open(&"s3://bucket/prefix".parse().unwrap(), &config).await.unwrap_err();
    assert_eq!(error.source.fault, StoreFault::Insecure);
    assert!(error.to_string().contains("allow_http = true"), "{error}");
    let config = StoreConfig { allow_http: true, ..config };
    open(&"s3://bucket/prefix".parse().unwrap(), &config).await.unwrap();
}

#[tokio::test]
async fn an_unknown_certificate_is_not_trusted_until_it_is_named() {
    let server = Server::get(Kind::CephRgw);
    let bucket = server.new_bucket().await.bucket().to_owned();
    let config =
        StoreConfig { endpoint: Some(server.var("RGW_HTTPS_URL").to_owned()), ..server.config() };
    let config = S3Config::new(&bucket, &config);
    let store = S3Store::connect_with(config, server.loader()).await.unwrap();
    let error = store.put(&Path::from("object"), "x".into()).await.unwrap_err();
    assert_refusal(&error, StoreFault::Untrusted, &["not trusted", "ca_file"]);
    over_tls(&server, &bucket).await.put(&Path::from("object"), "x".into()).await.unwrap();
}

#[tokio::test]
async fn a_bad_ca_file_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let config = StoreConfig { ca_file: Some(file.clone()), ..StoreConfig::default() };
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for content in [None, Some(""), Some("no certificate"), Some(broken)] {
        if let Some(content) = content {
            fs::write(&file, content).unwrap();
        }
        let config = S3Config::new("bucket", &config);
        let error = S3Store::connect_with(config, loader("a", "b")).await.unwrap_err();
        assert_eq!(error.fault, StoreFault::Invalid);
        assert!(error.to_string().contains("ca.pem"), "{content:?}: {error}");
    }
}

#[tokio::test]
async fn leftovers_of_a_crash_in_a_local_store_are_never_objects() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    let mut upload = store.put_multipart(&Path::from("a/b")).await.unwrap();
    upload.put_part("half".into()).await.unwrap();
    // As after a crash: neither completed nor aborted nor dropped.
    std::mem::forget(upload);
    let store = LocalStore::open(dir.path()).unwrap();
    assert!(store.list(None).try_collect::<Vec<_>>().await.unwrap().is_empty());
    assert!(store.list_with_delimiter(None).await.unwrap().common_prefixes.is_empty());
    for name in [".lidfs-tmp/x", ".lidfs-lock"] {
        let error = store.put(&Path::from(name), "x".into()).await.unwrap_err();
        assert_eq!(classify(&error), StoreFault::Invalid);
    }
}

#[tokio::test]
async fn a_local_store_below_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    for root in [file.clone(), file.join("below")] {
        let error = LocalStore::open(&root).unwrap_err();
        assert_eq!(error.fault, StoreFault::NoBucket, "{error}");
    }
}

/// Set in the child of the next test, whose environment is otherwise empty.
const CHILD: &str = "LIDFS_TEST_CHILD";

#[tokio::test]
async fn credentials_that_nobody_has_are_missed_with_advice() {
    if std::env::var_os(CHILD).is_none() {
        let name = "refusals::credentials_that_nobody_has_are_missed_with_advice";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env_clear()
            .envs([(CHILD, "1"), ("HOME", "/nonexistent"), ("AWS_EC2_METADATA_DISABLED", "true")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    // Were anything sent, nobody would listen.
    let config =
        StoreConfig { endpoint: Some("http://127.0.0.1:9".to_owned()), ..StoreConfig::default() };
    let OpenStore { store, .. } =
        open(&"s3://bucket/prefix".parse().unwrap(), &config).await.unwrap();
    let error = store.get(&Path::from("object")).await.unwrap_err();
    assert_refusal(&error, StoreFault::NoCredentials, &["AWS_ACCESS_KEY_ID", "profile"]);
}

#[tokio::test]
async fn an_outage_is_told_while_a_request_is_still_repeated() {
    let config = StoreConfig {
        endpoint: Some("http://127.0.0.1:9".to_owned()),
        deadline: Duration::from_mins(1),
        ..StoreConfig::default()
    };
    let config = S3Config::new("bucket", &config);
    let store = S3Store::connect_with(config, loader("a", "b")).await.unwrap();
    let trouble = store.trouble();
    let request = tokio::spawn(async move { store.get(&Path::from("object")).await });
    let (lasted, said) = loop {
        if let Some(told) = trouble.lasting() {
            break told;
        }
        assert!(!request.is_finished(), "the request failed before any trouble was told");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(!request.is_finished() && lasted < Duration::from_mins(1), "{lasted:?}");
    assert!(said.starts_with("s3://bucket: http://127.0.0.1:9 does not serve"), "{said}");
    request.abort();
}
