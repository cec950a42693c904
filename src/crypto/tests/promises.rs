//! What sealed objects promise, case by case.

use proptest::prelude::*;

use super::super::*;
use crate::base::{Epoch, ErrorKind, VolumeId};

const VOLUME: VolumeId = VolumeId(*b"volume-0volume-0");

fn binding(path: &str) -> Binding<'_> {
    Binding { volume: VOLUME, kind: ObjectKind::Pack, path }
}

fn keys() -> DataKeys {
    let key = |epoch, byte| DataKey { epoch: Epoch(epoch), key: SecretKey::from_bytes([byte; 32]) };
    DataKeys::new(key(2, 22), vec![key(1, 11)])
}

/// Header and sealed chunks.
fn seal(binding: &Binding<'_>, chunk_size: u32, chunks: &[&[u8]]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut sealer = Sealer::new(&keys().current(), binding, chunk_size);
    let sealed = chunks
        .iter()
        .enumerate()
        .map(|(index, plain)| {
            let mut out = Vec::new();
            sealer.seal(plain, index + 1 == chunks.len(), &mut out).unwrap();
            out
        })
        .collect();
    (sealer.header().to_vec(), sealed)
}

fn open_error(binding: &Binding<'_>, header: &[u8]) -> OpenError {
    Opener::from_header(&keys(), binding, header).unwrap_err()
}

#[test]
fn chunks_open_in_any_order_and_append_to_what_is_there() {
    let binding = binding("packs/00/a");
    let (header, sealed) = seal(&binding, 0, &[b"one", b"", b"three"]);
    let opener = Opener::from_header(&keys(), &binding, &header).unwrap();
    assert_eq!(opener.header()[..], header[..]);
    let mut out = b"before ".to_vec();
    opener.open(2, true, &sealed[2], &mut out).unwrap();
    opener.open(1, false, &sealed[1], &mut out).unwrap();
    opener.open(0, false, &sealed[0], &mut out).unwrap();
    assert_eq!(out, b"before threeone");
}

#[test]
fn an_opener_made_from_kept_parts_has_the_same_header_and_opens_the_same_chunks() {
    let binding = binding("packs/00/a");
    let mut sealer = Sealer::new(&keys().current(), &binding, 0);
    let mut sealed = Vec::new();
    sealer.seal(b"block", true, &mut sealed).unwrap();
    let opener = Opener::from_parts(&keys(), &binding, Epoch(2), 0, &sealer.salt()).unwrap();
    assert_eq!(opener.header(), sealer.header());
    let mut out = Vec::new();
    opener.open(0, true, &sealed, &mut out).unwrap();
    assert_eq!(out, b"block");
    let other = Opener::from_parts(&keys(), &binding, Epoch(2), 0, &[0; 32]).unwrap();
    assert!(other.open(0, true, &sealed, &mut out).is_err());
    assert!(Opener::from_parts(&keys(), &binding, Epoch(9), 0, &[0; 32]).is_err());
}

#[test]
fn objects_of_an_older_epoch_still_open() {
    let binding = binding("x");
    let mut sealer = Sealer::new(&keys().get(Epoch(1)).unwrap(), &binding, 0);
    let mut sealed = Vec::new();
    sealer.seal(b"old", true, &mut sealed).unwrap();
    let opener = Opener::from_header(&keys(), &binding, sealer.header()).unwrap();
    opener.open(0, true, &sealed, &mut Vec::new()).unwrap();
}

#[test]
fn each_wrong_header_has_an_error_of_its_own() {
    let here = binding("packs/00/a");
    let (header, _) = seal(&here, 0, &[b"x"]);
    let bent = |at: usize, byte: u8| {
        let mut header = header.clone();
        header[at] = byte;
        open_error(&here, &header)
    };
    assert!(matches!(bent(0, b'X'), OpenError::NotSealed { .. }));
    assert!(matches!(open_error(&here, &header[..95]), OpenError::NotSealed { .. }));
    assert!(matches!(open_error(&here, b""), OpenError::NotSealed { .. }));
    assert!(matches!(bent(5, 2), OpenError::UnknownVersion { version: 2, .. }));
    assert!(matches!(bent(6, 7), OpenError::UnknownSuite { suite: 7, .. }));
    assert!(matches!(bent(7, 3), OpenError::WrongKind { found: 3, .. }));
    assert!(matches!(bent(8, 9), OpenError::UnknownEpoch { epoch: Epoch(9), .. }));
    assert!(matches!(bent(8, 1), OpenError::WrongKey { .. }));
    assert!(matches!(bent(12, 0), OpenError::OtherVolume { .. }));
    assert!(matches!(bent(40, 0), OpenError::WrongKey { .. }));
    assert!(matches!(bent(95, header[95] ^ 1), OpenError::WrongKey { .. }));
    assert!(matches!(open_error(&binding("packs/00/b"), &header), OpenError::WrongKey { .. }));
    assert_eq!(bent(40, 0).kind(), ErrorKind::Corrupt);
    assert_eq!(bent(8, 9).kind(), ErrorKind::Denied);
}

#[test]
fn a_changed_chunk_size_in_the_header_is_found_at_the_first_chunk() {
    let binding = binding("meta/x");
    let (mut header, sealed) = seal(&binding, 0, &[b"x"]);
    header[28] = 1;
    let opener = Opener::from_header(&keys(), &binding, &header).unwrap();
    assert!(matches!(
        opener.open(0, true, &sealed[0], &mut Vec::new()),
        Err(OpenError::ForgedChunk { index: 0, .. })
    ));
}

#[test]
fn a_chunk_opens_neither_elsewhere_nor_cut_nor_bent_nor_with_the_wrong_last_mark() {
    let binding = binding("packs/00/a");
    let (header, sealed) = seal(&binding, 0, &[b"first", b"other", b"final"]);
    let (_, of_twin) = seal(&binding, 0, &[b"first", b"other", b"final"]);
    let opener = Opener::from_header(&keys(), &binding, &header).unwrap();
    let mut out = b"kept".to_vec();
    let mut refused = |index, is_last, bytes: &[u8]| {
        let error = opener.open(index, is_last, bytes, &mut out).unwrap_err();
        assert!(matches!(error, OpenError::ForgedChunk { index: found, .. } if found == index));
        assert_eq!(out, b"kept");
        let mut in_place = bytes.to_vec();
        let error = opener.open_in_place(index, is_last, &mut in_place).unwrap_err();
        assert!(matches!(error, OpenError::ForgedChunk { index: found, .. } if found == index));
        assert!(in_place.is_empty());
    };
    refused(1, false, &sealed[0]);
    refused(0, true, &sealed[0]);
    refused(2, false, &sealed[2]);
    refused(0, false, &of_twin[0]);
    refused(1 << 32, false, &sealed[0]);
    for len in 0..sealed[0].len() {
        refused(0, false, &sealed[0][..len]);
    }
    for bit in 0..sealed[0].len() * 8 {
        let mut bent = sealed[0].clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        refused(0, false, &bent);
    }
}

#[test]
fn a_sealer_refuses_more_after_the_last_chunk_and_chunks_that_do_not_fit() {
    let binding = binding("meta/x");
    let mut out = Vec::new();
    let mut sealer = Sealer::new(&keys().current(), &binding, 4);
    assert!(matches!(sealer.seal(b"12345", true, &mut out), Err(SealError::ChunkLength { .. })));
    assert!(matches!(sealer.seal(b"123", false, &mut out), Err(SealError::ChunkLength { .. })));
    assert!(out.is_empty());
    sealer.seal(b"1234", false, &mut out).unwrap();
    sealer.seal(b"12", true, &mut out).unwrap();
    assert!(matches!(sealer.seal(b"", true, &mut out), Err(SealError::Finished { .. })));
    assert_eq!(out.len(), 4 + 2 + 2 * TAG_LEN);
}

#[test]
fn sealing_the_same_bytes_twice_gives_nothing_in_common() {
    let binding = binding("packs/00/a");
    let before = recorder::count();
    let (header, sealed) = seal(&binding, 0, &[b"same bytes, same name"]);
    let (twin_header, twin_sealed) = seal(&binding, 0, &[b"same bytes, same name"]);
    assert_ne!(header[32..64], twin_header[32..64]);
    assert_ne!(header[64..], twin_header[64..]);
    assert_ne!(sealed, twin_sealed);
    assert!(recorder::count() >= before + 2);
}

#[test]
#[should_panic(expected = "a key and nonce sealed two plaintexts")]
fn the_recorder_stops_a_test_that_uses_a_salt_twice() {
    for plain in [b"one", b"two"] {
        let key = DataKey { epoch: Epoch(1), key: SecretKey::from_bytes([0xee; 32]) };
        let mut sealer = Sealer::with_salt(&key, &binding("x"), 0, [1; 32]);
        sealer.seal(plain, true, &mut Vec::new()).unwrap();
    }
}

#[test]
fn nothing_printable_holds_a_key() {
    let sealer = Sealer::new(&keys().current(), &binding("meta/x"), 4);
    let opener = Opener::from_header(&keys(), &binding("meta/x"), sealer.header()).unwrap();
    assert!(format!("{sealer:?} {opener:?}").contains("meta/x"));
}

proptest! {
    #[test]
    fn any_chunks_come_back(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8)) {
        let binding = binding("packs/ff/any");
        let parts: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let (header, sealed) = seal(&binding, 0, &parts);
        let opener = Opener::from_header(&keys(), &binding, &header).unwrap();
        for (index, (plain, sealed)) in chunks.iter().zip(&sealed).enumerate() {
            let mut out = Vec::new();
            opener.open(index as u64, index + 1 == chunks.len(), sealed, &mut out).unwrap();
            prop_assert_eq!(&out, plain);
            let mut in_place = sealed.clone();
            opener.open_in_place(index as u64, index + 1 == chunks.len(), &mut in_place).unwrap();
            prop_assert_eq!(&in_place, plain);
        }
    }

    #[test]
    fn arbitrary_headers_never_open_and_never_panic(header in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Opener::from_header(&keys(), &binding("x"), &header).is_err());
    }
}
