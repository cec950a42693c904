//! The store's own encryption: what is asked for with which request, what is read under which key.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use lidfs::crypto::SecretKey;
use lidfs::store::object_store::path::Path;
use lidfs::store::object_store::{
    Attribute, Attributes, CopyOptions, GetOptions, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions,
};
use lidfs::store::{
    Bulk, CustomerKeys, Encrypted, EncryptionMode, ProbeError, RewriteError, Rewritten, S3Config,
    S3Store, StoreConfig, StoreFault, classify, explain, probe, probe_parts, rewrite,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::faults::{head, read_request};
use crate::support::servers::{Kind, Server, loader};

pub const NONE: &str = "";
pub const SSE_S3: &str = "mode = 'sse-s3'";
pub const SSE_KMS: &str = "mode = 'sse-kms'\nkms_key_id = 'test-key-1'";
pub const SSE_C: &str = "mode = 'sse-c'\nkey_file = '/k'";

/// Keys of one byte 32 times over.
pub fn keys(current: Option<u8>, previous: Option<u8>) -> CustomerKeys {
    let key = |byte: u8| SecretKey::from_bytes([byte; 32]);
    CustomerKeys { current: current.map(key), previous: previous.map(key) }
}

async fn connect(
    server: &Server,
    config: StoreConfig,
    bucket: &str,
    keys: CustomerKeys,
) -> S3Store {
    let config = S3Config { keys, ..S3Config::new(bucket, &config) };
    S3Store::connect_with(config, server.loader()).await.unwrap()
}

/// A store on a bucket of Ceph RGW over TLS, with this table of settings.
async fn ceph(bucket: &str, table: &str, keys: CustomerKeys) -> S3Store {
    let server = Server::get(Kind::CephRgw);
    let config = StoreConfig {
        endpoint: Some(server.var("RGW_HTTPS_URL").to_owned()),
        ca_file: Some(server.var("RGW_CERTIFICATE").into()),
        server_side_encryption: toml::from_str(table).unwrap(),
        ..server.config()
    };
    connect(&server, config, bucket, keys).await
}

/// The same on a new bucket.
pub async fn over_tls(table: &str, keys: CustomerKeys) -> S3Store {
    let bucket = Server::get(Kind::CephRgw).new_bucket_name().await;
    ceph(&bucket, table, keys).await
}

/// What the store tells of an object.
async fn mode(store: &S3Store, path: &Path) -> EncryptionMode {
    let options = GetOptions { head: true, ..GetOptions::default() };
    let found = store.get_opts(path, options).await.unwrap();
    found.extensions.get::<Encrypted>().unwrap().mode().unwrap()
}

async fn read(store: &S3Store, path: &Path) -> Result<bytes::Bytes, StoreFault> {
    let found = store.get(path).await.map_err(|error| classify(&error))?;
    Ok(found.bytes().await.unwrap())
}

#[tokio::test]
async fn objects_are_encrypted_as_asked_and_read_back_under_the_right_key_alone() {
    let bucket = Server::get(Kind::CephRgw).new_bucket_name().await;
    let (plain, ours, service) = (Path::from("plain"), Path::from("ours"), Path::from("service"));
    let none = ceph(&bucket, NONE, keys(None, None)).await;
    none.put(&plain, "plain".into()).await.unwrap();
    let sse_c = ceph(&bucket, SSE_C, keys(Some(1), None)).await;
    sse_c.put(&ours, "ours".into()).await.unwrap();
    let sse_kms = ceph(&bucket, SSE_KMS, keys(None, None)).await;
    sse_kms.put(&service, "service".into()).await.unwrap();
    assert_eq!(mode(&none, &plain).await, EncryptionMode::None);
    assert_eq!(mode(&sse_c, &ours).await, EncryptionMode::SseC);
    assert_eq!(mode(&none, &service).await, EncryptionMode::SseKms);

    // A store of any mode reads the others, with the key if it has it.
    assert_eq!(read(&sse_c, &plain).await.unwrap(), "plain");
    assert_eq!(read(&sse_c, &service).await.unwrap(), "service");
    assert!(read(&none, &ours).await.is_err());
    let other = ceph(&bucket, SSE_C, keys(Some(2), None)).await;
    let said = explain(&other.get(&ours).await.unwrap_err());
    assert!(said.contains("check key_file and previous_key_file"), "{said}");
    println!("{said}");
    let later = ceph(&bucket, SSE_C, keys(Some(2), Some(1))).await;
    assert_eq!(read(&later, &ours).await.unwrap(), "ours");
    let service_later = ceph(&bucket, SSE_KMS, keys(None, Some(1))).await;
    assert_eq!(read(&service_later, &ours).await.unwrap(), "ours");
    assert_eq!(mode(&service_later, &ours).await, EncryptionMode::SseC);
    // What the later store writes, it writes with its own key.
    later.put(&plain, "ours".into()).await.unwrap();
    assert!(read(&sse_c, &plain).await.is_err());
    assert_eq!(read(&later, &plain).await.unwrap(), "ours");
}

#[tokio::test]
async fn a_store_that_ignores_what_was_asked_for_is_refused_with_advice() {
    let server = Server::get(Kind::S3sFs);
    let bucket = server.new_bucket_name().await;
    for (table, keys) in [
        (SSE_S3, keys(None, None)),
        ("mode = 'sse-kms'", keys(None, None)),
        ("mode = 'sse-c'\nkey_file = '/k'\nallow_http_on_loopback = true", keys(Some(1), None)),
    ] {
        let config = StoreConfig {
            server_side_encryption: toml::from_str(table).unwrap(),
            ..server.config()
        };
        let store = connect(&server, config, &bucket, keys).await;
        let error = probe(&store, true).await.unwrap_err();
        assert!(matches!(error, ProbeError::NotEncrypted { .. }), "{table}: {error}");
        let said = error.to_string();
        for word in ["does not encrypt", "[store.server_side_encryption]", "it answers: none"] {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
        assert!(!said.contains('\n'), "{said}");
        println!("{said}");
        let left: Vec<_> = store.list(None).try_collect().await.unwrap();
        assert!(left.is_empty(), "{left:?}");
        // It tells nothing when an upload begins, so the whole object is looked at.
        let error = probe_parts(&store).await.unwrap_err();
        assert!(matches!(error, ProbeError::NotEncrypted { .. }), "{table}: {error}");
        let left: Vec<_> = store.list(None).try_collect().await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn keys_of_the_store_are_asked_for_and_told() {
    let server = Server::get(Kind::Moto);
    let bucket = server.new_bucket_name().await;
    let table = toml::from_str(SSE_S3).unwrap();
    let config = StoreConfig { server_side_encryption: table, ..server.config() };
    let store = connect(&server, config, &bucket, keys(None, None)).await;
    probe(&store, false).await.unwrap();
    let path = Path::from("object");
    store.put(&path, "content".into()).await.unwrap();
    assert_eq!(mode(&store, &path).await, EncryptionMode::SseS3);
}

async fn rewritten(store: &S3Store) -> Rewritten {
    rewrite(store, |_| true, None, &|_| {}).await.unwrap()
}

#[tokio::test]
async fn a_rewrite_changes_what_is_otherwise_and_nothing_else() {
    let bucket = Server::get(Kind::CephRgw).new_bucket_name().await;
    let none = ceph(&bucket, NONE, keys(None, None)).await;
    let paths: Vec<_> = (0..10).map(|number| Path::from(format!("dir/{number}"))).collect();
    let attributes = Attributes::from_iter([
        (Attribute::Metadata("name".into()), "value"),
        (Attribute::ContentType, "text/strange"),
    ]);
    for path in &paths {
        let options = PutOptions { attributes: attributes.clone(), ..PutOptions::default() };
        none.put_opts(path, path.to_string().into(), options).await.unwrap();
    }
    let mut upload = none.put_multipart(&paths[0]).await.unwrap();
    upload.put_part(vec![1; 5 << 20].into()).await.unwrap();
    upload.put_part(vec![2; 5].into()).await.unwrap();
    upload.complete().await.unwrap();

    let sse_c = ceph(&bucket, SSE_C, keys(Some(1), None)).await;
    let done = rewritten(&sse_c).await;
    assert_eq!((done.rewritten, done.unchanged, done.vanished), (10, 0, 0));
    assert_eq!(done.aim.mode(), Some(EncryptionMode::SseC));
    let done = rewritten(&sse_c).await;
    assert_eq!((done.rewritten, done.unchanged), (0, 10));
    let other_key = ceph(&bucket, SSE_C, keys(Some(2), Some(1))).await;
    assert_eq!(rewritten(&other_key).await.rewritten, 10);
    let sse_kms = ceph(&bucket, SSE_KMS, keys(None, Some(2))).await;
    assert_eq!(rewritten(&sse_kms).await.rewritten, 10);
    // By the key service, and so for everybody with access.
    for path in &paths {
        assert_eq!(mode(&none, path).await, EncryptionMode::SseKms);
    }
    assert_eq!(read(&none, &paths[0]).await.unwrap().len(), (5 << 20) + 5);
    for path in &paths[1..] {
        let found = none.get(path).await.unwrap();
        assert_eq!(found.attributes, attributes);
        assert_eq!(found.bytes().await.unwrap(), path.as_ref());
    }
    assert_eq!(rewritten(&none).await.rewritten, 10);
}

#[tokio::test]
async fn what_changes_during_a_rewrite_keeps_its_change_and_what_is_deleted_stays_deleted() {
    let store = over_tls(SSE_KMS, keys(None, None)).await;
    let none = ceph(store.bucket(), NONE, keys(None, None)).await;
    let (busy, gone) = (Path::from("busy"), Path::from("gone"));
    for round in 0..8 {
        none.put(&gone, vec![0; 1 << 20].into()).await.unwrap();
        let mut current = none.put(&busy, "0".into()).await.unwrap();
        let writes = async {
            for number in 1..=20 {
                let mode = PutMode::Update(current.into());
                current = match none.put_opts(&busy, number.to_string().into(), mode.into()).await {
                    Ok(put) => put,
                    // The rewrite came first: the content is still ours.
                    Err(error) => {
                        assert_eq!(classify(&error), StoreFault::Precondition, "{error}");
                        let found = none.get(&busy).await.unwrap();
                        let e_tag = found.meta.e_tag.clone();
                        let before = (number - 1).to_string();
                        assert_eq!(found.bytes().await.unwrap(), before, "a write was undone");
                        let version =
                            lidfs::store::object_store::UpdateVersion { e_tag, version: None };
                        let mode = PutMode::Update(version);
                        none.put_opts(&busy, number.to_string().into(), mode.into()).await.unwrap()
                    }
                };
            }
        };
        let deletes = async {
            tokio::time::sleep(Duration::from_millis(round)).await;
            none.delete(&gone).await.unwrap();
        };
        let rewrites = rewrite(&store, |_| true, None, &|_| {});
        let (done, (), ()) = tokio::join!(rewrites, writes, deletes);
        match done {
            Ok(_) | Err(RewriteError::Contended { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        assert_eq!(read(&none, &busy).await.unwrap(), "20");
        assert_eq!(read(&none, &gone).await.unwrap_err(), StoreFault::NotFound);
    }
}

#[tokio::test]
async fn a_rewrite_is_refused_where_it_could_undo_writes_or_there_is_no_encryption() {
    let memory = lidfs::store::object_store::memory::InMemory::new();
    let error = rewrite(&memory, |_| true, None, &|_| {}).await.unwrap_err();
    assert!(matches!(error, RewriteError::NotEncrypting), "{error}");
}

#[tokio::test]
async fn a_key_is_never_sent_over_plain_http() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    for (table, keys) in
        [(SSE_C, keys(Some(1), None)), ("previous_key_file = '/k'", keys(None, Some(1)))]
    {
        let config = StoreConfig {
            endpoint: Some(endpoint.clone()),
            allow_http: true,
            server_side_encryption: toml::from_str(table).unwrap(),
            ..StoreConfig::default()
        };
        let config = S3Config { keys, ..S3Config::new("bucket", &config) };
        let error = S3Store::connect_with(config, loader("a", "b")).await.unwrap_err();
        assert_eq!(error.fault, StoreFault::Insecure);
        assert!(error.to_string().contains("plain http is refused; use https"), "{error}");
        println!("{error}");
    }
    let connected = listener.accept().map(|_| ());
    assert_eq!(connected.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // Elsewhere the exception does not help.
    let config = StoreConfig {
        endpoint: Some("http://s3.example.com".to_owned()),
        allow_http: true,
        server_side_encryption: toml::from_str(&format!("{SSE_C}\nallow_http_on_loopback = true"))
            .unwrap(),
        ..StoreConfig::default()
    };
    let config = S3Config { keys: keys(Some(1), None), ..S3Config::new("bucket", &config) };
    let error = S3Store::connect_with(config, loader("a", "b")).await.unwrap_err();
    assert_eq!(error.fault, StoreFault::Insecure);
}

/// Answers whatever it is asked, tells of the encryption that is asked for, and keeps the requests.
async fn recorded(table: &str, keys: CustomerKeys) -> (S3Store, Arc<Mutex<Vec<String>>>) {
    scripted(table, keys, answer).await
}

/// Answers as `answer` says, and keeps the requests.
async fn scripted(
    table: &str,
    keys: CustomerKeys,
    answer: impl Fn(&str) -> String + Send + 'static,
) -> (S3Store, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config: StoreConfig = toml::from_str(table).unwrap();
    config.endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    config.server_side_encryption.allow_http_on_loopback = true;
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let request = read_request(&mut connection, true).await;
            let answer = answer(&request);
            seen.lock().unwrap().push(request);
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let config = S3Config { keys, ..S3Config::new("bucket", &config) };
    (S3Store::connect_with(config, loader("key", "secret")).await.unwrap(), requests)
}

fn answer(request: &str) -> String {
    let (head_of_request, _) = request.split_once("\r\n\r\n").unwrap();
    let mut more = "ETag: \"one\"\r\n".to_owned();
    for line in head_of_request.lines() {
        let told = line.starts_with("x-amz-server-side-encryption");
        if told && !line.starts_with("x-amz-server-side-encryption-customer-key:") {
            more.push_str(line);
            more.push_str("\r\n");
        }
    }
    let line = head_of_request.lines().next().unwrap();
    let body = if line.starts_with("HEAD") {
        return head("200 OK", 4, &more);
    } else if line.contains("list-type") {
        "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    } else if line.contains("?uploads") {
        "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>"
    } else if line.starts_with("POST") {
        "<CompleteMultipartUploadResult><ETag>\"two\"</ETag></CompleteMultipartUploadResult>"
    } else if head_of_request.contains("x-amz-copy-source") {
        "<CopyObjectResult><ETag>\"two\"</ETag></CopyObjectResult>"
    } else if line.starts_with("GET") {
        "0123"
    } else {
        ""
    };
    head("200 OK", body.len(), &more) + body
}

/// Every kind of request once, named.
async fn every_request(table: &str, keys: CustomerKeys) -> Vec<(&'static str, String)> {
    const NAMES: [&str; 9] =
        ["put", "create", "part", "complete", "copy", "get", "head", "list", "delete"];
    let (store, requests) = recorded(table, keys).await;
    let path = Path::from("object");
    let mut options = PutOptions::default();
    options.extensions.insert(Bulk);
    store.put_opts(&path, "body".into(), options).await.unwrap();
    let mut upload = store.put_multipart(&path).await.unwrap();
    upload.put_part("part".into()).await.unwrap();
    upload.complete().await.unwrap();
    store.copy_opts(&path, &Path::from("copy"), CopyOptions::default()).await.unwrap();
    store.get(&path).await.unwrap().bytes().await.unwrap();
    store.head(&path).await.unwrap();
    store.list(None).try_collect::<Vec<_>>().await.unwrap();
    store.delete(&path).await.unwrap();
    let requests = requests.lock().unwrap().clone();
    assert_eq!(requests.len(), NAMES.len(), "{requests:#?}");
    NAMES.into_iter().zip(requests).collect()
}

/// Each of `lines` must be in exactly those requests.
fn assert_sent(requests: &[(&str, String)], lines: &[&str], names: &[&str]) {
    for line in lines {
        let with: Vec<_> = requests
            .iter()
            .filter(|(_, request)| request.lines().any(|other| other == *line))
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(with, names, "{line}: {requests:#?}");
    }
}

#[tokio::test]
async fn a_key_of_ours_goes_with_every_request_that_needs_it() {
    let table = format!("[server_side_encryption]\n{SSE_C}");
    let requests = every_request(&table, keys(Some(1), None)).await;
    let lines = |prefix: &str| {
        [
            format!("x-amz-{prefix}server-side-encryption-customer-algorithm: AES256"),
            format!(
                "x-amz-{prefix}server-side-encryption-customer-key: \
                 AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
            ),
            format!(
                "x-amz-{prefix}server-side-encryption-customer-key-md5: 4Funlf7OsLF0HL+vKU+fkg=="
            ),
        ]
    };
    let own = lines("");
    let own = own.each_ref().map(String::as_str);
    assert_sent(&requests, &own, &["put", "create", "part", "complete", "copy", "get", "head"]);
    let source = lines("copy-source-");
    assert_sent(&requests, &source.each_ref().map(String::as_str), &["copy"]);
    assert!(requests.iter().all(|(_, request)| !request.contains("server-side-encryption: ")));
}

#[tokio::test]
async fn a_key_service_is_asked_for_where_objects_are_made() {
    for mode in ["sse-kms", "dsse-kms"] {
        let table = format!(
            "[server_side_encryption]\nmode = '{mode}'\nkms_key_id = 'alias/drive'\n\
             encryption_context = {{ drive = 'work' }}"
        );
        let requests = every_request(&table, keys(None, None)).await;
        let algorithm = if mode == "sse-kms" { "aws:kms" } else { "aws:kms:dsse" };
        let lines = [
            &format!("x-amz-server-side-encryption: {algorithm}"),
            "x-amz-server-side-encryption-aws-kms-key-id: alias/drive",
            // {"drive":"work"}
            "x-amz-server-side-encryption-context: eyJkcml2ZSI6IndvcmsifQ==",
        ];
        assert_sent(&requests, &lines, &["put", "create", "copy"]);
    }
    let table = "[server_side_encryption]\nmode = 'sse-kms'\nbucket_key = true";
    let requests = every_request(table, keys(None, None)).await;
    let line = "x-amz-server-side-encryption-bucket-key-enabled: true";
    assert_sent(&requests, &[line], &["put", "create", "copy"]);
}

#[tokio::test]
async fn nothing_of_it_is_sent_unless_asked_for() {
    let requests = every_request("", keys(None, None)).await;
    for (name, request) in &requests {
        for header in ["server-side", "owner", "payer", "storage-class"] {
            assert!(!request.contains(header), "{name}: {header}: {request}");
        }
    }
}

#[tokio::test]
async fn owner_and_payer_go_with_every_request_and_the_class_with_bulk_alone() {
    let table = "expected_bucket_owner = '123456789012'\nrequest_payer = true\n\
                 storage_class = 'GLACIER_IR'\nserver_side_encryption.mode = 'sse-s3'";
    let requests = every_request(table, keys(None, None)).await;
    let all = ["put", "create", "part", "complete", "copy", "get", "head", "list", "delete"];
    let lines = ["x-amz-expected-bucket-owner: 123456789012", "x-amz-request-payer: requester"];
    assert_sent(&requests, &lines, &all);
    let line = "x-amz-source-expected-bucket-owner: 123456789012";
    assert_sent(&requests, &[line], &["copy"]);
    assert_sent(&requests, &["x-amz-storage-class: GLACIER_IR"], &["put"]);
    let line = "x-amz-server-side-encryption: AES256";
    assert_sent(&requests, &[line], &["put", "create", "copy"]);
    // Unsigned, they would be anybody's to change.
    for (name, request) in &requests {
        let signed = request.lines().find(|line| line.starts_with("authorization")).unwrap();
        assert!(signed.contains("x-amz-expected-bucket-owner;"), "{name}: {signed}");
    }
}

/// As MinIO does it.
#[tokio::test]
async fn an_upload_whose_begin_tells_nothing_is_judged_by_the_whole_object() {
    let table = "server_side_encryption.mode = 'sse-s3'";
    for told in ["AES256", "aws:kms"] {
        let says = move |request: &str| match request.split(' ').next() {
            Some("HEAD") => head("200 OK", 4, &format!("x-amz-server-side-encryption: {told}\r\n")),
            _ => answer(&request.replace("x-amz-server-side-encryption", "x-other")),
        };
        let (store, _) = scripted(table, keys(None, None), says).await;
        let mut upload = store.put_multipart(&Path::from("object")).await.unwrap();
        upload.put_part("part".into()).await.unwrap();
        let completed = upload.complete().await;
        if told == "AES256" {
            completed.unwrap();
        } else {
            assert_eq!(classify(&completed.unwrap_err()), StoreFault::NotEncrypted);
        }
    }
}

#[tokio::test]
async fn an_upload_that_begins_with_another_encryption_is_given_up_before_its_parts() {
    let says =
        |request: &str| answer(&request.replace("encryption: AES256", "encryption: aws:kms"));
    let table = "server_side_encryption.mode = 'sse-s3'";
    let (store, requests) = scripted(table, keys(None, None), says).await;
    let error = store.put_multipart(&Path::from("object")).await.unwrap_err();
    assert_eq!(classify(&error), StoreFault::NotEncrypted);
    let requests = requests.lock().unwrap();
    let lines: Vec<_> = requests.iter().map(|request| request.lines().next().unwrap()).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].starts_with("DELETE") && lines[1].contains("uploadId=id"), "{lines:?}");
}

#[tokio::test]
async fn a_probe_in_parts_that_fails_leaves_no_upload_begun() {
    let says = |request: &str| match request.split(' ').next() {
        Some("PUT") => head("403 Forbidden", 0, ""),
        _ => answer(request),
    };
    let table = "server_side_encryption.mode = 'sse-s3'";
    let (store, requests) = scripted(table, keys(None, None), says).await;
    let error = probe_parts(&store).await.unwrap_err();
    assert_eq!(error.fault(), Some(StoreFault::Denied));
    let requests = requests.lock().unwrap();
    let given_up =
        |request: &String| request.starts_with("DELETE") && request.contains("uploadId=id");
    assert_eq!(requests.iter().filter(|request| given_up(request)).count(), 1, "{requests:#?}");
}

/// Some repeat headers of the request in what they say about it.
#[tokio::test]
async fn what_a_server_repeats_of_our_secrets_is_in_no_error() {
    let says = |request: &str| {
        let sent = request.lines().find(|line| line.contains("customer-key:")).unwrap_or_default();
        let body = format!(
            "<Error><Code>AccessDenied</Code><Message>no</Message><Sent>{sent}</Sent></Error>"
        );
        head("403 Forbidden", body.len(), &format!("x-repeated: {sent}\r\n")) + &body
    };
    let table = format!("[server_side_encryption]\n{SSE_C}");
    let (store, _) = scripted(&table, keys(Some(1), None), says).await;
    let path = Path::from("object");
    let put = store.put(&path, "body".into()).await.unwrap_err();
    let got = store.get(&path).await.unwrap_err();
    for error in [put, got] {
        assert_eq!(classify(&error), StoreFault::Denied);
        let said = format!("{error} {error:?} {error:#?}");
        assert!(!said.contains("AQEBAQEBAQEB") && !said.contains("[1, 1, 1"), "{said}");
    }
}

#[tokio::test]
async fn a_write_that_is_not_encrypted_as_asked_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = StoreConfig {
        endpoint: Some(format!("http://{}", listener.local_addr().unwrap())),
        server_side_encryption: toml::from_str(SSE_S3).unwrap(),
        ..StoreConfig::default()
    };
    tokio::spawn(async move {
        for told in ["x-amz-server-side-encryption: AES256\r\n", ""] {
            let (mut connection, _) = listener.accept().await.unwrap();
            read_request(&mut connection, true).await;
            let answer = head("200 OK", 0, &format!("ETag: \"one\"\r\n{told}"));
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let config = S3Config::new("bucket", &config);
    let store = S3Store::connect_with(config, loader("key", "secret")).await.unwrap();
    let path = Path::from("object");
    store.put(&path, "body".into()).await.unwrap();
    let error = store.put(&path, "body".into()).await.unwrap_err();
    assert_eq!(classify(&error), StoreFault::NotEncrypted);
    let said = explain(&error);
    assert!(said.contains("s3://bucket/object") && said.contains("mode = \"sse-s3\""), "{said}");
}

#[tokio::test]
async fn settings_that_contradict_the_bucket_are_refused() {
    let arn = "arn:aws:s3:eu-west-1:123456789012:accesspoint/name";
    for (bucket, table, word) in [
        (arn, "path_style = true", "access point"),
        (arn, "accelerate = true", "access point"),
        ("a.bucket", "accelerate = true", "dot"),
        ("bucket", "fips = true\nendpoint = 'https://localhost'", "fips"),
    ] {
        let config = S3Config::new(bucket, &toml::from_str(table).unwrap());
        let error = S3Store::connect_with(config, loader("a", "b")).await.unwrap_err();
        assert_eq!(error.fault, StoreFault::Settings, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}
