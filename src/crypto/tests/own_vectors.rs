//! Our own vectors, made by `tests/vectors/make.py`, which shares no code with us.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::super::*;
use super::{hex, hex_array};
use crate::base::{Epoch, VolumeId};

#[derive(Deserialize)]
struct Vectors {
    objects: Vec<Object>,
    refused: Vec<Refused>,
    derivations: Vec<Derivation>,
}

/// What an object is bound to, and its key.
#[derive(Deserialize)]
struct Context {
    name: String,
    kind: String,
    volume: String,
    path: String,
    epoch: u32,
    key: String,
}

#[derive(Deserialize)]
struct Object {
    #[serde(flatten)]
    context: Context,
    chunk_size: u32,
    salt: String,
    plain: Vec<Plain>,
    sealed_sha256: String,
    sealed: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Plain {
    Hex { hex: String },
    Fill { fill: u8, len: usize },
}

#[derive(Deserialize)]
struct Refused {
    #[serde(flatten)]
    context: Context,
    header: String,
    index: u64,
    is_last: bool,
    chunk: String,
    error: String,
}

#[derive(Deserialize)]
struct Derivation {
    key: String,
    salt: String,
    parts: Vec<String>,
    derived: String,
    mac: String,
}

impl Context {
    fn binding(&self) -> Binding<'_> {
        let kind = match self.kind.as_str() {
            "keyring" => ObjectKind::Keyring,
            "lease" => ObjectKind::Lease,
            "metadata" => ObjectKind::Metadata,
            "pack" => ObjectKind::Pack,
            "slot" => ObjectKind::Slot,
            "probe" => ObjectKind::Probe,
            other => panic!("unknown kind {other}"),
        };
        Binding { volume: VolumeId(hex_array(&self.volume)), kind, path: &self.path }
    }

    fn key(&self) -> DataKey {
        DataKey { epoch: Epoch(self.epoch), key: SecretKey::from_bytes(hex_array(&self.key)) }
    }

    fn keys(&self) -> DataKeys {
        DataKeys::new(self.key(), vec![])
    }
}

impl Plain {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Hex { hex: digits } => hex(digits),
            Self::Fill { fill, len } => vec![*fill; *len],
        }
    }
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../../../tests/vectors/sealed.json")).unwrap()
}

#[test]
fn every_kind_of_object_seals_to_the_bytes_of_its_vector_and_opens_again() {
    let mut kinds = std::collections::HashSet::new();
    for object in vectors().objects {
        let (context, salt) = (&object.context, hex_array(&object.salt));
        let (binding, name) = (context.binding(), &context.name);
        kinds.insert(binding.kind);
        let plain: Vec<Vec<u8>> = object.plain.iter().map(Plain::bytes).collect();

        let mut sealer = Sealer::with_salt(&context.key(), &binding, object.chunk_size, salt);
        let (mut sealed, mut ends) = (sealer.header().to_vec(), vec![HEADER_LEN]);
        for (index, chunk) in plain.iter().enumerate() {
            sealer.seal(chunk, index + 1 == plain.len(), &mut sealed).unwrap();
            ends.push(sealed.len());
        }
        if let Some(expected) = &object.sealed {
            assert_eq!(sealed, hex(expected), "{name}");
        }
        assert_eq!(Sha256::digest(&sealed)[..], hex(&object.sealed_sha256), "{name}");

        let keys = context.keys();
        let opener = Opener::from_header(&keys, &binding, &sealed).unwrap();
        assert_eq!(opener.chunk_size(), object.chunk_size);
        for (index, chunk) in plain.iter().enumerate() {
            let mut out = Vec::new();
            let bytes = &sealed[ends[index]..ends[index + 1]];
            opener.open(index as u64, index + 1 == plain.len(), bytes, &mut out).unwrap();
            assert_eq!(&out, chunk, "{name}");
        }
    }
    assert_eq!(kinds.len(), 6, "each kind has a vector");
}

#[test]
fn every_forgery_of_the_vectors_is_refused_with_its_error() {
    for case in vectors().refused {
        let (binding, keys) = (case.context.binding(), case.context.keys());
        let opened = Opener::from_header(&keys, &binding, &hex(&case.header)).and_then(|opener| {
            opener.open(case.index, case.is_last, &hex(&case.chunk), &mut Vec::new())
        });
        let error = opened.expect_err(&case.context.name);
        let found = format!("{error:?}");
        assert!(found.starts_with(&case.error), "{}: {found}", case.context.name);
    }
}

#[test]
fn derived_keys_and_macs_are_those_of_the_vectors() {
    for case in vectors().derivations {
        let key = SecretKey::from_bytes(hex_array(&case.key));
        let parts: Vec<Vec<u8>> = case.parts.iter().map(|part| hex(part)).collect();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        assert_eq!(key.derive(&hex(&case.salt), &parts).expose()[..], hex(&case.derived));
        assert_eq!(key.mac(&parts)[..], hex(&case.mac));
        assert!(key.verify_mac(&parts, &hex(&case.mac)));
    }
}
