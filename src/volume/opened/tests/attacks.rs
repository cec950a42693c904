//! What somebody with the bucket but without a key can try.

use super::*;
use crate::base::{BlockSize, CommitNumber, ErrorKind, KIB};
use crate::format::header::{Base64, Compression, Header, HeaderError, Slot, SlotId, Unlock};
use crate::keys::{self, KeyError};
use crate::volume::PinError;
use crate::volume::keyring::Keyring;

/// Changes the header as it stands, leaving the MAC it has.
async fn forge(store: &Store, edit: impl FnOnce(&mut Header)) {
    let signed = header(store).await;
    let mut forged = signed.header().clone();
    edit(&mut forged);
    assert_ne!(&forged, signed.header(), "the forgery must change something");
    put_header(store, Signed::new(forged, |_| *signed.mac()).unwrap().to_file()).await;
}

/// Refused when opened with the first of two keyfiles, with this error.
async fn forged_is(edit: impl FnOnce(&mut Header), expected: impl Fn(&VolumeError) -> bool) {
    let store = memory();
    create(&store, &[keyfile(1), keyfile(2)]).await.unwrap();
    forge(&store, edit).await;
    let error = open(&store, &keyfile(1)).await.unwrap_err();
    assert!(expected(&error), "{error:?}");
}

fn tampered(error: &VolumeError) -> bool {
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    matches!(error, VolumeError::HeaderTampered)
}

fn wrong_key(error: &VolumeError) -> bool {
    matches!(error, VolumeError::WrongKey { .. })
}

#[tokio::test]
async fn every_changed_field_is_noticed() {
    forged_is(|header| header.volume_id.0[0] ^= 1, wrong_key).await;
    forged_is(|header| header.created += 1, tampered).await;
    forged_is(|header| header.version += 1, tampered).await;
    forged_is(|header| header.params.block_size = BlockSize::new(4 * KIB).unwrap(), tampered).await;
    forged_is(|header| header.params.compression = Compression::None, tampered).await;
    forged_is(|header| header.keyring.0[100] ^= 1, tampered).await;
    forged_is(|header| header.keyring.0.clear(), tampered).await;
    // The slot that is opened.
    forged_is(|header| header.slots[0].id.0[0] ^= 1, wrong_key).await;
    forged_is(|header| header.slots[0].label.push('x'), tampered).await;
    forged_is(|header| header.slots[0].created += 1, tampered).await;
    forged_is(|header| header.slots[0].wrapped.0[120] ^= 1, wrong_key).await;
    forged_is(|header| header.slots[0].wrapped.0.truncate(50), wrong_key).await;
    let salt = Base64(vec![0; 32]);
    let unlock = Unlock::Keyfile { salt };
    forged_is(|header| header.slots[0].unlock = unlock.clone(), wrong_key).await;
    // The one beside it.
    forged_is(|header| header.slots[1].id.0[0] ^= 1, tampered).await;
    forged_is(|header| header.slots[1].label.push('x'), tampered).await;
    forged_is(|header| header.slots[1].created += 1, tampered).await;
    forged_is(|header| header.slots[1].wrapped.0[120] ^= 1, tampered).await;
    forged_is(|header| header.slots[1].unlock = unlock, tampered).await;
    forged_is(|header| header.slots.truncate(1), tampered).await;
    forged_is(|header| header.slots.reverse(), tampered).await;
}

#[tokio::test]
async fn no_single_changed_byte_of_the_file_goes_unnoticed() {
    let store = memory();
    create(&store, &[keyfile(1), passphrase("x")]).await.unwrap();
    let file = header_file(&store).await;
    for at in 0..file.len() {
        // Both stay within what digits, base64 and labels allow, where the byte was of these.
        for other in [b'0', b'A'] {
            if file[at] == other {
                continue;
            }
            let mut bent = file.clone();
            bent[at] = other;
            put_header(&store, bent).await;
            assert!(open(&store, &keyfile(1)).await.is_err(), "byte {at} changed to {other}");
        }
    }
    put_header(&store, file).await;
    open(&store, &keyfile(1)).await.unwrap();
}

#[tokio::test]
async fn a_forged_mac_is_noticed() {
    let store = memory();
    create(&store, &[keyfile(1)]).await.unwrap();
    let header = header(&store).await.header().clone();
    put_header(&store, Signed::new(header, |_| [0; 32]).unwrap().to_file()).await;
    assert!(tampered(&open(&store, &keyfile(1)).await.unwrap_err()));
}

#[tokio::test]
async fn what_a_later_build_wrote_is_refused_by_name() {
    let store = memory();
    create(&store, &[keyfile(1)]).await.unwrap();
    let text = String::from_utf8(header_file(&store).await).unwrap();
    put_header(&store, text.replace("\"lidfs\": 1", "\"lidfs\": 2").into_bytes()).await;
    let error = open(&store, &keyfile(1)).await.unwrap_err();
    assert!(matches!(error, VolumeError::Header(HeaderError::UnknownVersion { version: 2 })));
    let later = text.replace("\"features\": []", "\"features\": [\"shared-blocks\"]");
    put_header(&store, later.into_bytes()).await;
    let error = open(&store, &keyfile(1)).await.unwrap_err();
    assert!(matches!(error, VolumeError::Header(HeaderError::UnknownFeatures { .. })));
    assert!(error.to_string().contains("shared-blocks"));
    put_header(&store, b"hello".to_vec()).await;
    let error = open(&store, &keyfile(1)).await.unwrap_err();
    assert!(matches!(error, VolumeError::Header(HeaderError::NotAHeader { .. })));
    put_header(&store, vec![b'x'; 1024 * 1024 + 1]).await;
    let error = open(&store, &keyfile(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn weakened_or_inflated_stretching_is_refused_before_it_runs() {
    let store = memory();
    let secret = Secret::Passphrase(Passphrase::new(SecretBytes::copy_of(b"x")).unwrap());
    create(&store, &[passphrase("x")]).await.unwrap();
    let weak = open(&store, &secret).await.unwrap_err();
    assert!(matches!(weak, VolumeError::Key(KeyError::TooWeak { .. })), "{weak}");
    assert_eq!(weak.kind(), ErrorKind::Corrupt);
    forge(&store, |header| {
        let Unlock::Passphrase { memory_kib, iterations, parallelism, .. } =
            &mut header.slots[0].unlock
        else {
            panic!("the one slot is a passphrase's");
        };
        (*memory_kib, *iterations, *parallelism) = (u32::MAX, u32::MAX, u32::MAX);
    })
    .await;
    let dear = open(&store, &secret).await.unwrap_err();
    assert!(matches!(dear, VolumeError::Key(KeyError::TooExpensive { .. })), "{dear}");
}

#[tokio::test]
async fn a_planted_slot_opens_nothing() {
    let store = memory();
    let volume = create(&store, &[keyfile(1)]).await.unwrap();
    let own_key = SecretKey::generate();
    let planted: Slot =
        keys::wrap(volume.id(), &own_key, &slot(keyfile(66), "planted"), CREATED).await.unwrap();
    forge(&store, |header| header.slots.push(planted)).await;
    assert!(tampered(&open(&store, &keyfile(1)).await.unwrap_err()));
    assert!(tampered(&open(&store, &keyfile(66)).await.unwrap_err()));
}

#[tokio::test]
async fn a_slot_opens_in_its_own_volume_and_place_alone() {
    let (ours, theirs) = (memory(), memory());
    create(&ours, &[keyfile(1)]).await.unwrap();
    create(&theirs, &[keyfile(1)]).await.unwrap();
    let stolen = header(&ours).await.header().slots[0].clone();
    forge(&theirs, |header| header.slots = vec![stolen.clone()]).await;
    assert!(wrong_key(&open(&theirs, &keyfile(1)).await.unwrap_err()));
    let renamed = Slot { id: SlotId([7; 8]), ..stolen };
    forge(&ours, |header| header.slots = vec![renamed]).await;
    assert!(wrong_key(&open(&ours, &keyfile(1)).await.unwrap_err()));
}

#[tokio::test]
async fn a_removed_slot_put_back_is_noticed() {
    let store = memory();
    let mut volume = create(&store, &[keyfile(1), keyfile(2)]).await.unwrap();
    let removed = header(&store).await.header().slots[1].clone();
    volume.remove_slot(removed.id).await.unwrap();
    forge(&store, |header| header.slots.push(removed)).await;
    assert!(tampered(&open(&store, &keyfile(2)).await.unwrap_err()));
    assert!(tampered(&open(&store, &keyfile(1)).await.unwrap_err()));
}

#[tokio::test]
async fn another_keyring_is_noticed_even_one_that_the_same_key_sealed() {
    let store = memory();
    let volume = create(&store, &[keyfile(1)]).await.unwrap();
    let (_, other) = Keyring::create(volume.id(), volume.root.keyring_key()).unwrap();
    forge(&store, |header| header.keyring = Base64(other)).await;
    assert!(tampered(&open(&store, &keyfile(1)).await.unwrap_err()));
}

#[tokio::test]
async fn an_authentic_header_with_a_foreign_keyring_gives_no_keys() {
    let (store, elsewhere) = (memory(), memory());
    let volume = create(&store, &[keyfile(1)]).await.unwrap();
    create(&elsewhere, &[keyfile(1)]).await.unwrap();
    let mut mixed = header(&store).await.header().clone();
    mixed.keyring = header(&elsewhere).await.header().keyring.clone();
    let signed = Signed::new(mixed, |signed| volume.root.header_mac(signed)).unwrap();
    put_header(&store, signed.to_file()).await;
    let error = open(&store, &keyfile(1)).await.unwrap_err();
    assert!(matches!(error, VolumeError::Keyring { source: Some(_) }), "{error}");
}

#[tokio::test]
async fn an_old_header_is_refused_by_whoever_saw_a_newer_one() {
    let store = memory();
    let mut volume = create(&store, &[keyfile(1), keyfile(2)]).await.unwrap();
    let old = header_file(&store).await;
    let lost = volume.slots()[1].id;
    volume.remove_slot(lost).await.unwrap();
    let pin = volume.pin(CommitNumber(0));
    put_header(&store, old).await;
    let error = Volume::open(Arc::clone(&store), &keyfile(1), Some(&pin)).await.unwrap_err();
    assert!(matches!(error, VolumeError::Pin(PinError::RolledBack { seen: 1, known: 2, .. })));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let error = volume.add_slot(&slot(keyfile(3), ""), &StoppedClock).await.unwrap_err();
    assert!(matches!(error, VolumeError::HeaderReplaced));
}

#[tokio::test]
async fn another_volume_in_the_place_of_the_pinned_one_is_refused() {
    let (ours, theirs) = (memory(), memory());
    let mut volume = create(&ours, &[keyfile(1)]).await.unwrap();
    create(&theirs, &[keyfile(1)]).await.unwrap();
    let pin = volume.pin(CommitNumber(0));
    put_header(&ours, header_file(&theirs).await).await;
    let error = Volume::open(Arc::clone(&ours), &keyfile(1), Some(&pin)).await.unwrap_err();
    assert!(matches!(error, VolumeError::Pin(PinError::OtherVolume { .. })));
    let error = volume.add_slot(&slot(keyfile(3), ""), &StoppedClock).await.unwrap_err();
    assert!(matches!(error, VolumeError::KeyChanged));
}

#[tokio::test]
async fn another_volume_key_under_the_pinned_id_is_refused() {
    let store = memory();
    let mut pin = create(&store, &[keyfile(1)]).await.unwrap().pin(CommitNumber(0));
    pin.fingerprint.0[0] ^= 1;
    let error = Volume::open(Arc::clone(&store), &keyfile(1), Some(&pin)).await.unwrap_err();
    assert!(matches!(error, VolumeError::Pin(PinError::OtherKey { .. })));
}
