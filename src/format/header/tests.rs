//! What a header reads, and what it refuses.

use super::*;

fn example() -> Header {
    Header {
        lidfs: 1,
        features: vec![],
        volume_id: VolumeId(*b"0123456789abcdef"),
        created: 1_700_000_000,
        version: 3,
        params: VolumeParams::default(),
        slots: vec![
            Slot {
                id: SlotId([1; 8]),
                label: "desk".to_owned(),
                created: 1_700_000_000,
                unlock: Unlock::Keyfile { salt: Base64(vec![1; 32]) },
                wrapped: Base64(vec![2; 144]),
            },
            Slot {
                id: SlotId([2; 8]),
                label: String::new(),
                created: 1_700_000_001,
                unlock: Unlock::Passphrase {
                    salt: Base64(vec![3; 32]),
                    memory_kib: 262_144,
                    iterations: 3,
                    parallelism: 4,
                },
                wrapped: Base64(vec![4; 144]),
            },
        ],
        keyring: Base64(vec![5; 200]),
    }
}

fn file(header: &Header) -> String {
    String::from_utf8(Signed::new(header.clone(), |_| [0xab; 32]).unwrap().to_file()).unwrap()
}

fn refusal(text: &str) -> HeaderError {
    Signed::parse(text.as_bytes()).unwrap_err()
}

#[test]
fn a_header_reads_back_with_the_bytes_that_were_signed() {
    let written = Signed::new(example(), |_| [7; 32]).unwrap();
    let read = Signed::parse(&written.to_file()).unwrap();
    assert_eq!(read, written);
    assert_eq!(read.header(), &example());
    assert_eq!(read.signed(), &written.to_file()[..written.to_file().len() - 80]);
}

#[test]
fn the_file_is_plain_json_with_the_mac_as_its_last_field() {
    let text = file(&example());
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["lidfs"], 1);
    assert_eq!(value["mac"], "ab".repeat(32));
    assert_eq!(value["params"]["block_size"], 65_536);
    assert_eq!(value["params"]["compression"], "zstd:1");
    assert_eq!(value["slots"][1]["unlock"]["kind"], "passphrase");
    assert_eq!(value["slots"][0]["id"], "0101010101010101");
}

#[test]
fn later_versions_and_unknown_features_are_named_even_where_the_rest_is_unknown() {
    assert_eq!(refusal("{\"lidfs\": 2}"), HeaderError::UnknownVersion { version: 2 });
    let features = "\"features\": [\"kms\", \"x\", \"y\"]";
    let text = file(&example()).replace("\"features\": []", features);
    let unknown = vec!["x".into(), "y".into()];
    assert_eq!(refusal(&text), HeaderError::UnknownFeatures { unknown });
    assert!(refusal(&text).to_string().contains("x, y"));
}

#[test]
fn what_is_not_a_header_is_called_so() {
    for text in ["", "{}", "[1]", "<html>", "{\"lidfs\": \"1\"}", "{\"lidfs\": -1}"] {
        assert!(matches!(refusal(text), HeaderError::NotAHeader { .. }), "{text}");
    }
}

#[test]
fn a_reformatted_or_extended_file_is_refused() {
    let text = file(&example());
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let changed = [
        value.to_string(),
        format!("{text}\n"),
        text.replace("\n}\n", "\n}"),
        text.replace("abab\"\n}\n", "ABAB\"\n}\n"),
        text.replace("\"created\"", "\"more\": 1,\n  \"created\""),
        text.replacen("\"version\": 3", "\"version\": 3,\n  \"version\": 4", 1),
        text.replacen("\"version\": 3", "\"version\": 3,\n  \"mac\": \"\"", 1),
        text.replacen("\"salt\"", "\"pepper\": 1,\n        \"salt\"", 1),
        text.replacen("\"version\": 3", "\"version\": 0", 1),
        text.replace("0202020202020202", "0101010101010101"),
        text.replace("desk", "\\u001b[2J"),
        text.replace("desk", &"x".repeat(65)),
        text.replace("\"keyfile\"", "\"kms\""),
        text.replace("65536", "65537"),
        text.replace("zstd:1", "zstd:01"),
        text.replace("\"3031", "\"3X31"),
    ];
    for text in changed {
        let error = refusal(&text);
        assert!(
            matches!(error, HeaderError::Malformed { .. } | HeaderError::NotAHeader { .. }),
            "{error} for {text}"
        );
    }
}

#[test]
fn a_hostile_header_puts_neither_control_characters_nor_volumes_into_messages() {
    let text = file(&example());
    let long = "x".repeat(100_000);
    let hostile = [
        text.replace("\"created\"", "\"\\u001b]0;owned\\u0007\": 1,\n  \"created\""),
        text.replace("\"keyfile\"", "\"\\u001b[2J\""),
        text.replacen("\"created\"", &format!("\"{long}\": 1,\n  \"created\""), 1),
        text.replace("\"features\": []", "\"features\": [\"\\u001b[2J\"]"),
        text.replace("\"features\": []", &format!("\"features\": [\"{long}\"]")),
        text.replace("\"features\": []", &format!("\"features\": [\"{}\"]", "\",\"".repeat(9_999))),
    ];
    for text in hostile {
        let said = refusal(&text).to_string();
        assert!(!said.contains(char::is_control) && said.len() < 2_000, "{said:?}");
    }
}

#[test]
fn slots_and_size_are_bounded() {
    let mut header = example();
    header.slots = (0..=SLOTS_MAX as u8)
        .map(|n| Slot { id: SlotId([n; 8]), ..example().slots[0].clone() })
        .collect();
    assert!(Signed::new(header.clone(), |_| [0; 32]).is_err());
    header.slots.clear();
    assert!(Signed::new(header.clone(), |_| [0; 32]).is_err());
    header = example();
    header.keyring = Base64(vec![0; HEADER_BYTES_MAX as usize]);
    assert!(matches!(Signed::new(header, |_| [0; 32]), Err(HeaderError::TooLarge { .. })));
    let long = vec![b' '; HEADER_BYTES_MAX as usize + 1];
    assert!(matches!(Signed::parse(&long), Err(HeaderError::TooLarge { .. })));
}

#[test]
fn bad_input_never_panics() {
    let text = file(&example()).into_bytes();
    for cut in 0..text.len() {
        assert!(Signed::parse(&text[..cut]).is_err());
        let mut bent = text.clone();
        bent[cut] ^= 0x80;
        assert!(Signed::parse(&bent).is_err());
    }
}

#[test]
fn compression_reads_back_what_it_prints() {
    for level in 1..=19 {
        let zstd = Compression::Zstd { level };
        assert_eq!(zstd.to_string().parse(), Ok(zstd));
    }
    assert_eq!("none".parse(), Ok(Compression::None));
    for text in ["zstd", "zstd:0", "zstd:20", "zstd:+1", "lz4", ""] {
        assert!(text.parse::<Compression>().is_err(), "{text}");
    }
}

fn with_kms_slot(key: &str, ciphertext: usize) -> Header {
    let mut header = example();
    header.slots[1].unlock = Unlock::Kms {
        key: key.to_owned(),
        ciphertext: Base64(vec![1; ciphertext]),
        salt: Base64(vec![3; 32]),
    };
    header
}

const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab";

#[test]
fn slots_of_later_kinds_come_with_their_feature_and_leave_with_it() {
    let mut header = with_kms_slot(ARN, 160);
    assert!(Signed::new(header.clone(), |_| [0; 32]).is_err());
    header.slots[0].unlock = Unlock::Recovery { salt: Base64(vec![1; 32]) };
    header.set_slot_features();
    assert_eq!(header.features, ["kms", "recovery"]);
    let text = file(&header);
    assert_eq!(Signed::parse(text.as_bytes()).unwrap().header(), &header);
    let error = refusal(&text.replace("\"recovery\"\n  ]", "\"kms\"\n  ]"));
    assert!(error.to_string().contains("not among the features"), "{error}");
    header.slots.remove(0);
    header.set_slot_features();
    assert_eq!(header.features, ["kms"]);
    header.slots = example().slots;
    header.set_slot_features();
    assert!(header.features.is_empty());
}

#[test]
fn a_kms_slot_names_a_full_arn_and_has_no_more_than_kms_gives() {
    let longest = format!("arn:aws:kms:r:1:key/{}", "x".repeat(KMS_KEY_BYTES_MAX - 20));
    for (key, ciphertext) in [(ARN, KMS_CIPHERTEXT_BYTES_MAX), (&longest, 1)] {
        let mut header = with_kms_slot(key, ciphertext);
        header.set_slot_features();
        assert!(Signed::new(header, |_| [0; 32]).is_ok(), "{key}");
    }
    let long = format!("{longest}x");
    for (key, ciphertext) in [
        (ARN, KMS_CIPHERTEXT_BYTES_MAX + 1),
        (&long, 1),
        ("alias/drive", 1),
        ("arn:aws:kms:eu-central-1:111122223333:alias/drive", 1),
        ("arn:aws:kms::111122223333:key/1", 1),
        ("arn:aws:kms:eu-central-1:111122223333:key/", 1),
        ("arn:aws:kms:eu-central-1:111122223333:key/1\u{1b}[2J", 1),
        ("arn:aws:s3:eu-central-1:111122223333:key/1", 1),
    ] {
        let mut header = with_kms_slot(key, ciphertext);
        header.set_slot_features();
        assert!(Signed::new(header, |_| [0; 32]).is_err(), "{key}");
    }
}
