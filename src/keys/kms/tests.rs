//! What lidfs asks of KMS, and what it makes of each answer, with a server that answers what it is told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use aws_sdk_kms::config::Credentials;
use serde_json::{Value, json};

use super::*;
use crate::base::{ErrorKind, VolumeId};
use crate::format::header::{Header, Signed, Slot, SlotId, from_base64, to_base64};
use crate::keys::{NewSlot, Secret, move_to_key, unwrap, wrap};

const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const OTHER_ARN: &str =
    "arn:aws:kms:eu-central-1:111122223333:key/mrk-00000000000000000000000000000000";
const VOLUME: VolumeId = VolumeId([3; 16]);

fn test_loader() -> ConfigLoader {
    sdk_defaults().credentials_provider(Credentials::new("key", "secret", None, None, "test"))
}

/// Each answer in turn: status and JSON. The last one is given for ever.
struct FakeKms {
    endpoint: String,
    /// Operation and body of each request.
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl FakeKms {
    fn answering(answers: Vec<(u16, Value)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut answers = answers.into_iter().peekable();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut operation, mut length, mut line) = (String::new(), 0, String::new());
                while reader.read_line(&mut line).unwrap() > 2 {
                    let (name, value) = line.split_once(':').unwrap_or((&line, ""));
                    match name.to_lowercase().as_str() {
                        "x-amz-target" => operation = value.trim().replace("TrentService.", ""),
                        "content-length" => length = value.trim().parse().unwrap(),
                        _ => {}
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let request = serde_json::from_slice(&body).unwrap();
                seen.lock().unwrap().push((operation, request));
                let (status, answer) = answers.next().unwrap();
                if answers.peek().is_none() {
                    answers = vec![(status, answer.clone())].into_iter().peekable();
                }
                let answer = answer.to_string();
                let head = format!(
                    "HTTP/1.1 {status} x\r\nContent-Type: application/x-amz-json-1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                    answer.len()
                );
                stream.write_all((head + &answer).as_bytes()).unwrap();
            }
        });
        Self { endpoint, asked }
    }

    fn refusing(status: u16, code: &str, message: &str) -> Self {
        Self::answering(vec![(status, json!({"__type": code, "message": message}))])
    }

    fn key(&self, name: &str) -> KmsKey {
        let config = KmsConfig {
            endpoint: Some(self.endpoint.clone()),
            region: Some("eu-central-1".to_owned()),
            profile: None,
        };
        KmsKey { loader: test_loader, ..KmsKey::new(name, &config) }
    }

    fn secret(&self, name: &str) -> Secret {
        Secret::Kms(self.key(name))
    }

    fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().unwrap().clone()
    }
}

fn encrypted(key: &str) -> (u16, Value) {
    (200, json!({"KeyId": key, "CiphertextBlob": to_base64(b"blob of KMS")}))
}

fn decrypted(key: &str, input: &[u8]) -> (u16, Value) {
    (200, json!({"KeyId": key, "Plaintext": to_base64(input)}))
}

/// A slot as `wrap` makes it, and the input that was sent to KMS for it.
async fn slot() -> (Slot, Vec<u8>) {
    let kms = FakeKms::answering(vec![encrypted(ARN)]);
    let new = NewSlot { secret: kms.secret(ARN), label: "cloud".to_owned() };
    let slot = wrap(VOLUME, &SecretKey::from_bytes([5; 32]), &new, 0).await.unwrap();
    let asked = kms.asked();
    let [(operation, request)] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!((operation.as_str(), &request["KeyId"]), ("Encrypt", &json!(ARN)));
    let context =
        json!({"app": "lidfs", "volume": VOLUME.to_string(), "slot": slot.id.to_string()});
    assert_eq!(request["EncryptionContext"], context);
    let input = from_base64(request["Plaintext"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(input.len(), 32);
    (slot, input)
}

async fn refusal(kms: &FakeKms) -> KmsError {
    let (slot, _) = slot().await;
    match unwrap(VOLUME, &slot, &kms.secret(ARN)).await {
        Err(KeyError::Kms(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_slot_opens_with_one_request_that_names_key_and_context() {
    let (slot, input) = slot().await;
    let Unlock::Kms { key, ciphertext, .. } = &slot.unlock else { panic!() };
    assert_eq!((key.as_str(), ciphertext.0.as_slice()), (ARN, b"blob of KMS".as_slice()));
    let kms = FakeKms::answering(vec![decrypted(ARN, &input)]);
    let opened = unwrap(VOLUME, &slot, &kms.secret(ARN)).await.unwrap().unwrap();
    assert_eq!(opened.expose(), &[5; 32]);
    let asked = kms.asked();
    let [(operation, request)] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!((operation.as_str(), &request["KeyId"]), ("Decrypt", &json!(ARN)));
    assert_eq!(request["EncryptionContext"]["slot"], json!(slot.id.to_string()));
    assert_eq!(request["CiphertextBlob"], json!(to_base64(b"blob of KMS")));
    // Another input opens nothing.
    let kms = FakeKms::answering(vec![decrypted(ARN, &[0; 32])]);
    assert!(unwrap(VOLUME, &slot, &kms.secret(ARN)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_slot_of_another_key_is_passed_over_without_a_request() {
    let (slot, input) = slot().await;
    let kms = FakeKms::answering(vec![decrypted(OTHER_ARN, &input)]);
    assert!(unwrap(VOLUME, &slot, &kms.secret(OTHER_ARN)).await.unwrap().is_none());
    assert!(kms.asked().is_empty());
}

#[tokio::test]
async fn the_key_that_answers_must_be_the_one_that_was_asked() {
    let (_, input) = slot().await;
    for answer in [decrypted(OTHER_ARN, &input), (200, json!({"Plaintext": to_base64(&input)}))] {
        let error = refusal(&FakeKms::answering(vec![answer])).await;
        assert!(matches!(error, KmsError::OtherKey { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    let kms = FakeKms::answering(vec![encrypted(OTHER_ARN)]);
    let new = NewSlot { secret: kms.secret(ARN), label: String::new() };
    let error = wrap(VOLUME, &SecretKey::generate(), &new, 0).await.unwrap_err();
    assert!(matches!(error, KeyError::Kms(KmsError::OtherKey { .. })), "{error}");
    let error = refusal(&FakeKms::answering(vec![decrypted(ARN, &input[1..])])).await;
    assert!(matches!(error, KmsError::Malformed { .. }), "{error}");
}

#[tokio::test]
async fn an_alias_makes_slots_of_its_key_and_opens_none() {
    let kms = FakeKms::answering(vec![encrypted(ARN)]);
    let new = NewSlot { secret: kms.secret("alias/drive"), label: String::new() };
    let slot = wrap(VOLUME, &SecretKey::generate(), &new, 0).await.unwrap();
    assert!(matches!(&slot.unlock, Unlock::Kms { key, .. } if key == ARN));
    let kms =
        FakeKms::answering(vec![(200, json!({"KeyMetadata": {"KeyId": "1234", "Arn": ARN}}))]);
    let error = unwrap(VOLUME, &slot, &kms.secret("alias/drive")).await.unwrap_err().to_string();
    assert!(error.contains(&format!("write kms_key = \"{ARN}\" in [key]")), "{error}");
    assert_eq!(kms.asked()[0].0, "DescribeKey");
    let kms = FakeKms::refusing(400, "NotFoundException", "no");
    let error = unwrap(VOLUME, &slot, &kms.secret("alias/drive")).await.unwrap_err().to_string();
    assert!(error.contains("no full key ARN") && error.contains("not found at"), "{error}");
}

#[tokio::test]
async fn each_refusal_has_a_message_and_is_not_tried_again() {
    for (code, message, said) in [
        ("AccessDeniedException", "not authorized", "access denied for kms:Decrypt"),
        ("DisabledException", "is disabled", "is disabled; enable it"),
        ("KMSInvalidStateException", "arn is pending deletion.", "is to be deleted"),
        ("KMSInvalidStateException", "is pending import", "its state allows no Decrypt"),
        ("NotFoundException", "", "not found at http://127.0.0.1"),
        ("InvalidCiphertextException", "", "refuses the ciphertext in lidfs.json"),
        ("IncorrectKeyException", "", "was made by another key"),
        ("InvalidKeyUsageException", "HMAC", "is not for encrypting"),
        ("UnrecognizedClientException", "", "no usable AWS credentials"),
        ("ExpiredTokenException", "", "no usable AWS credentials"),
        ("SomethingElse", "x\u{1b}[2J\ny", "Decrypt was refused: 400 SomethingElse: x [2J y"),
    ] {
        let kms = FakeKms::refusing(400, code, message);
        let error = refusal(&kms).await;
        let text = error.to_string();
        assert!(text.contains(said) && text.contains(ARN), "{code}: {text}");
        assert!(!text.contains(char::is_control) && !error.is_passing(), "{text}");
        assert_eq!(kms.asked().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    let (slot, input) = slot().await;
    let busy = |status, code: &str| (status, json!({"__type": code, "message": "later"}));
    let kms = FakeKms::answering(vec![
        busy(400, "ThrottlingException"),
        busy(500, "KMSInternalException"),
        decrypted(ARN, &input),
    ]);
    assert!(unwrap(VOLUME, &slot, &kms.secret(ARN)).await.unwrap().is_some());
    assert_eq!(kms.asked().len(), 3);
}

#[tokio::test]
async fn who_never_answers_is_given_up_in_the_end() {
    let (slot, _) = slot().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let kms = FakeKms { endpoint, asked: Arc::default() };
    tokio::time::pause();
    let error = unwrap(VOLUME, &slot, &kms.secret(ARN)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry);
    assert!(error.to_string().contains("does not answer"), "{error}");
}

#[tokio::test]
async fn a_slot_moves_to_another_key_without_its_input() {
    let (slot, input) = slot().await;
    let moved = json!({
        "KeyId": OTHER_ARN, "SourceKeyId": ARN, "CiphertextBlob": to_base64(b"another blob"),
    });
    let kms = FakeKms::answering(vec![(200, moved), decrypted(OTHER_ARN, &input)]);
    let moved = move_to_key(VOLUME, &slot, &kms.key(OTHER_ARN)).await.unwrap().unwrap();
    assert_eq!((moved.id, &moved.wrapped), (slot.id, &slot.wrapped));
    let opened = unwrap(VOLUME, &moved, &kms.secret(OTHER_ARN)).await.unwrap().unwrap();
    assert_eq!(opened.expose(), &[5; 32]);
    let (operation, request) = &kms.asked()[0];
    assert_eq!(operation, "ReEncrypt");
    assert_eq!(request["SourceKeyId"], json!(ARN));
    assert_eq!(request["SourceEncryptionContext"], request["DestinationEncryptionContext"]);
    let far = "arn:aws:kms:us-east-1:111122223333:key/1234";
    assert!(move_to_key(VOLUME, &slot, &kms.key(far)).await.unwrap().is_none());
}

#[tokio::test]
async fn keys_do_not_cross_the_network_in_the_clear() {
    let key = |endpoint: &str| {
        let config = KmsConfig { endpoint: Some(endpoint.to_owned()), ..KmsConfig::default() };
        KmsKey { loader: test_loader, ..KmsKey::new(ARN, &config) }
    };
    let place = Place { volume: VOLUME, slot: SlotId([1; 8]) };
    for endpoint in ["http://kms.example.com", "http://10.0.0.1:8080"] {
        let error = key(endpoint).decrypt(place, b"x").await.unwrap_err();
        assert!(matches!(error, KmsError::Insecure { .. }), "{error}");
    }
    let error = key("kms.example.com").decrypt(place, b"x").await.unwrap_err();
    assert!(matches!(error, KmsError::Endpoint { .. }), "{error}");
}

/// `tests/vectors/make_header.py` stands in for KMS: it knows the input.
#[tokio::test]
async fn the_slot_of_another_implementation_opens() {
    let file = include_bytes!("../../../tests/vectors/header.json");
    let keys = include_str!("../../../tests/vectors/header_keys.json");
    let keys: Value = serde_json::from_str(keys).unwrap();
    let of = |name: &str| from_base64(keys[name].as_str().unwrap().as_bytes()).unwrap();
    let signed = Signed::parse(file).unwrap();
    let header: &Header = signed.header();
    let is_kms = |slot: &&Slot| matches!(slot.unlock, Unlock::Kms { .. });
    let slot = header.slots.iter().find(is_kms).unwrap();
    let Unlock::Kms { key, ciphertext, .. } = &slot.unlock else { panic!() };
    assert_eq!(to_base64(&ciphertext.0), to_base64(&of("kms_ciphertext")));
    let kms = FakeKms::answering(vec![decrypted(key, &of("kms_input"))]);
    let opened = unwrap(header.volume_id, slot, &kms.secret(key)).await.unwrap().unwrap();
    assert_eq!(opened.expose().as_slice(), of("volume_key"));
}
