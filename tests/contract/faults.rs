//! Broken connections and lost answers, from a server that follows a script.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use lidfs::store::object_store::path::Path;
use lidfs::store::object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use lidfs::store::{S3Config, S3Store, StoreConfig, StoreFault, classify};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::servers::loader;

/// One scripted exchange: what the request must contain, and what the server does then.
struct Exchange {
    expects: &'static str,
    then: Then,
}

enum Then {
    Answer(String),
    HangUp,
    /// Reads nothing after the request's head, sends this much of an answer and stays.
    Stay(String),
}

fn exchange(expects: &'static str, answer: impl Into<String>) -> Exchange {
    Exchange { expects, then: Then::Answer(answer.into()) }
}

fn hang_up(expects: &'static str) -> Exchange {
    Exchange { expects, then: Then::HangUp }
}

fn stay(expects: &'static str, answer: impl Into<String>) -> Exchange {
    Exchange { expects, then: Then::Stay(answer.into()) }
}

pub fn head(status: &str, len: usize, more: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {len}\r\nLast-Modified: Sat, 21 Nov 2026 12:00:00 \
         GMT\r\nConnection: close\r\n{more}\r\n"
    )
}

/// Each connection is one exchange. Returns the store and what was not as the script said.
async fn scripted(script: Vec<Exchange>) -> (S3Store, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let wrong = Arc::new(Mutex::new(vec!["the script was not played to its end".to_owned()]));
    let seen = Arc::clone(&wrong);
    tokio::spawn(async move {
        let mut staying = Vec::new();
        for Exchange { expects, then } in script {
            let (mut connection, _) = listener.accept().await.unwrap();
            let request = read_request(&mut connection, !matches!(then, Then::Stay(_))).await;
            if !request.contains(expects) {
                seen.lock().unwrap().push(format!("{expects:?} is not in {request}"));
            }
            if let Then::Answer(answer) | Then::Stay(answer) = &then {
                connection.write_all(answer.as_bytes()).await.unwrap();
            }
            if let Then::Stay(_) = then {
                staying.push(connection);
            }
        }
        seen.lock().unwrap().remove(0);
        std::future::pending::<()>().await;
    });
    let config = StoreConfig {
        endpoint: Some(endpoint),
        deadline: Duration::from_secs(10),
        ..StoreConfig::default()
    };
    let config = S3Config::new("bucket", &config);
    (S3Store::connect_with(config, loader("key", "secret")).await.unwrap(), wrong)
}

pub async fn read_request(connection: &mut TcpStream, with_body: bool) -> String {
    let mut request = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let len = connection.read(&mut buffer).await.unwrap();
        request.extend_from_slice(&buffer[..len]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            assert_ne!(len, 0, "request broke off: {text}");
            continue;
        };
        let wanted = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, len)| len.parse().unwrap());
        if !with_body || body.len() >= wanted || len == 0 {
            return text;
        }
    }
}

#[track_caller]
fn assert_played(wrong: &Mutex<Vec<String>>) {
    assert_eq!(*wrong.lock().unwrap(), [""; 0]);
}

const TAG: &str = "ETag: \"one\"\r\n";

async fn get(store: &S3Store) -> Result<bytes::Bytes, Error> {
    store.get(&Path::from("object")).await?.bytes().await
}

#[tokio::test]
async fn a_body_that_breaks_off_is_resumed_where_it_stopped() {
    let rest = format!("{TAG}Content-Range: bytes 4-9/10\r\n");
    let (store, wrong) = scripted(vec![
        exchange("GET /bucket/object", head("200 OK", 10, TAG) + "0123"),
        exchange("range: bytes=4-9", head("206 Partial Content", 6, &rest) + "456789"),
    ])
    .await;
    assert_eq!(get(&store).await.unwrap(), "0123456789");
    assert_played(&wrong);
}

#[tokio::test]
async fn a_body_that_breaks_off_again_and_again_is_read_as_long_as_it_moves_on() {
    let mut script = vec![exchange("GET /bucket/object", head("200 OK", 10, TAG) + "0")];
    for from in 1..10_usize {
        let range = format!("{TAG}Content-Range: bytes {from}-9/10\r\n");
        let answer = head("206 Partial Content", 10 - from, &range);
        let expects = format!("range: bytes={from}-9").leak();
        script.push(exchange(expects, format!("{answer}{from}")));
    }
    let (store, wrong) = scripted(script).await;
    assert_eq!(get(&store).await.unwrap(), "0123456789");
    assert_played(&wrong);
}

#[tokio::test]
async fn the_rest_of_another_object_is_never_joined_on() {
    let rest = "ETag: \"two\"\r\nContent-Range: bytes 4-9/10\r\n";
    let (store, wrong) = scripted(vec![
        exchange("GET /bucket/object", head("200 OK", 10, TAG) + "0123"),
        exchange("if-match: \"one\"", head("206 Partial Content", 6, rest) + "XXXXXX"),
    ])
    .await;
    assert_eq!(classify(&get(&store).await.unwrap_err()), StoreFault::Precondition);
    assert_played(&wrong);
}

#[tokio::test]
async fn a_body_that_always_breaks_off_is_an_error_after_a_few_times() {
    let rest = format!("{TAG}Content-Range: bytes 4-9/10\r\n");
    let mut script = vec![exchange("GET", head("200 OK", 10, TAG) + "0123")];
    for _ in 0..4 {
        script.push(exchange("bytes=4-9", head("206 Partial Content", 6, &rest)));
    }
    let (store, wrong) = scripted(script).await;
    assert_eq!(classify(&get(&store).await.unwrap_err()), StoreFault::Unavailable);
    assert_played(&wrong);
}

#[tokio::test]
async fn an_answer_to_another_range_is_refused() {
    let other = format!("{TAG}Content-Range: bytes 0-3/10\r\n");
    let (store, _) =
        scripted(vec![exchange("bytes=2-5", head("206 Partial Content", 4, &other) + "0123")])
            .await;
    let error = store.get_range(&Path::from("object"), 2..6).await.unwrap_err();
    assert_eq!(classify(&error), StoreFault::Malformed);
}

#[tokio::test]
async fn a_whole_object_in_place_of_a_range_is_refused() {
    let (store, _) = scripted(vec![exchange("bytes=2-5", head("200 OK", 4, TAG) + "0123")]).await;
    assert!(store.get_range(&Path::from("object"), 2..6).await.is_err());
}

#[tokio::test]
async fn passing_faults_are_tried_again() {
    let busy = "<Error><Code>SlowDown</Code></Error>";
    let (store, wrong) = scripted(vec![
        exchange("GET", head("503 Slow Down", busy.len(), "") + busy),
        hang_up("GET"),
        exchange("GET", head("500 Internal Server Error", 0, "")),
        exchange("GET", head("200 OK", 4, TAG) + "0123"),
    ])
    .await;
    assert_eq!(get(&store).await.unwrap(), "0123");
    assert_played(&wrong);
}

async fn create(store: &S3Store, body: &'static str) -> Result<Option<String>, Error> {
    let opts = PutOptions::from(PutMode::Create);
    let put = store.put_opts(&Path::from("object"), body.into(), opts).await;
    put.map(|put| put.e_tag)
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_succeeds_if_its_bytes_are_there() {
    let (store, wrong) = scripted(vec![
        hang_up("if-none-match: *"),
        exchange("if-none-match: *", head("412 Precondition Failed", 0, "")),
        exchange("GET", head("200 OK", 4, TAG) + "mine"),
    ])
    .await;
    assert_eq!(create(&store, "mine").await.unwrap().as_deref(), Some("\"one\""));
    assert_played(&wrong);
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_refused_if_anothers_bytes_are_there() {
    let (store, wrong) = scripted(vec![
        hang_up("if-none-match: *"),
        exchange("if-none-match: *", head("412 Precondition Failed", 0, "")),
        exchange("GET", head("200 OK", 4, TAG) + "his!"),
    ])
    .await;
    let error = create(&store, "mine").await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
    assert_played(&wrong);
}

#[tokio::test]
async fn a_create_refused_at_once_is_not_read_back() {
    let (store, wrong) =
        scripted(vec![exchange("if-none-match: *", head("412 Precondition Failed", 0, ""))]).await;
    let error = create(&store, "mine").await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
    assert_played(&wrong);
}

#[tokio::test]
async fn a_conflict_between_two_conditional_writes_is_tried_again() {
    let busy = "<Error><Code>ConditionalRequestConflict</Code></Error>";
    let (store, wrong) = scripted(vec![
        exchange("if-none-match: *", head("409 Conflict", busy.len(), "") + busy),
        exchange("if-none-match: *", head("200 OK", 0, TAG)),
    ])
    .await;
    assert_eq!(create(&store, "mine").await.unwrap().as_deref(), Some("\"one\""));
    assert_played(&wrong);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_body_that_is_not_answered_is_soon_sent_again() {
    let (store, wrong) = scripted(vec![
        stay("GET /bucket/object", ""),
        exchange("GET /bucket/object", head("200 OK", 4, TAG) + "0123"),
    ])
    .await;
    let began = tokio::time::Instant::now();
    assert_eq!(get(&store).await.unwrap(), "0123");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_played(&wrong);
}

/// A network that swallows packets says nothing: only that nothing moves shows it.
#[tokio::test(start_paused = true)]
async fn an_upload_that_stands_still_is_sent_again_on_another_connection() {
    let (store, wrong) = scripted(vec![
        stay("PUT /bucket/object", ""),
        stay("content-length: 16777216", head("200 OK", 0, TAG)),
    ])
    .await;
    let began = tokio::time::Instant::now();
    let body = bytes::Bytes::from(vec![7; 16 << 20]);
    store.put(&Path::from("object"), body.into()).await.unwrap();
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
    assert_played(&wrong);
}

#[tokio::test]
async fn a_large_body_arrives_whole() {
    let body = "0123456789".repeat(30_000) + "the end";
    let whole = format!("\r\n\r\n{body}").leak();
    let (store, wrong) = scripted(vec![exchange(whole, head("200 OK", 0, TAG))]).await;
    store.put(&Path::from("object"), body.into()).await.unwrap();
    assert_played(&wrong);
}

#[tokio::test]
async fn keys_that_no_path_can_name_hide_no_others_in_a_listing() {
    let contents = ["dir//x", "dir/./x", "dir/folder/", "dir/object"].map(|key| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-11-21T12:00:00Z</LastModified>\
             <Size>4</Size></Contents>"
        )
    });
    let body = format!(
        "<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>",
        contents.concat()
    );
    let answer = || exchange("list-type=2", head("200 OK", body.len(), "") + &body);
    let (store, wrong) = scripted(vec![answer(), answer()]).await;
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    let level = store.list_with_delimiter(None).await.unwrap().objects;
    for found in [listed, level] {
        let names: Vec<_> = found.iter().map(|meta| meta.location.as_ref()).collect();
        assert_eq!(names, ["dir/object"]);
    }
    assert_played(&wrong);
}

#[tokio::test]
async fn a_body_carries_its_checksum_as_a_plain_header() {
    let (store, wrong) =
        scripted(vec![exchange("x-amz-checksum-crc32: ", head("200 OK", 0, TAG))]).await;
    store.put(&Path::from("object"), "body".into()).await.unwrap();
    assert_played(&wrong);
}

#[tokio::test]
async fn refusals_of_region_clock_and_token_say_what_to_do() {
    for (status, code, more, fault, word) in [
        (
            "301 Moved Permanently",
            "PermanentRedirect",
            "x-amz-bucket-region: eu-west-1\r\n",
            StoreFault::WrongRegion,
            "it is in eu-west-1",
        ),
        ("403 Forbidden", "RequestTimeTooSkewed", "", StoreFault::ClockSkew, "clock"),
        ("400 Bad Request", "ExpiredToken", "", StoreFault::ExpiredCredentials, "expired"),
    ] {
        let body = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
        let answer = head(status, body.len(), more) + &body;
        let (store, wrong) = scripted(vec![exchange("GET", answer)]).await;
        let error = get(&store).await.unwrap_err();
        assert_eq!(classify(&error), fault, "{error}");
        assert!(lidfs::store::explain(&error).contains(word), "{error}");
        assert_played(&wrong);
    }
}
