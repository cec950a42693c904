//! What holds while nobody attacks.

use super::*;
use crate::base::{BlockSize, CommitNumber, Epoch, ErrorKind, KIB};
use crate::format::header::{Compression, SLOTS_MAX, SlotId};
use crate::keys::{self, SlotKind};
use crate::store::faulty::{Fault, FaultyStore, Op, Rule};
use crate::store::{LoadKeys as _, StoreFault};
use crate::volume::{Holders, SlotTrial};

#[tokio::test]
async fn a_new_volume_opens_with_each_of_its_keys_and_gives_the_same_keys() {
    let store = memory();
    let params = VolumeParams {
        block_size: BlockSize::new(128 * KIB).unwrap(),
        compression: Compression::None,
    };
    let slots = [slot(keyfile(1), "desk"), slot(passphrase("correct horse"), "head")];
    let made = Volume::create(Arc::clone(&store), params, &slots, &StoppedClock).await.unwrap();
    for secret in [keyfile(1), passphrase("correct horse")] {
        let opened = open(&store, &secret).await.unwrap();
        assert_eq!(opened.id(), made.id());
        assert_eq!(opened.params(), params);
        assert_eq!(opened.created(), CREATED);
        assert_eq!(opened.fingerprint(), made.fingerprint());
        assert_eq!(opened.header_version(), 1);
        assert_eq!(opened.names_key().expose(), made.names_key().expose());
        let (ours, theirs) = (opened.data_keys().current(), made.data_keys().current());
        assert_eq!((ours.epoch, ours.key.expose()), (Epoch(1), theirs.key.expose()));
    }
    let listed: Vec<_> = made.slots().into_iter().map(|slot| (slot.kind, slot.label)).collect();
    assert_eq!(
        listed,
        [(SlotKind::Keyfile, "desk".to_owned()), (SlotKind::Passphrase, "head".to_owned())]
    );
}

#[tokio::test]
async fn a_passphrase_at_the_cost_that_users_get_opens() {
    let store = memory();
    let secret = || {
        let bytes = SecretBytes::copy_of(b"correct horse");
        Secret::Passphrase(Passphrase::new(bytes).unwrap())
    };
    create(&store, &[secret()]).await.unwrap();
    open(&store, &secret()).await.unwrap();
}

#[tokio::test]
async fn two_volumes_share_no_key_even_with_the_same_keyfile() {
    let (one, two) = (memory(), memory());
    let one = create(&one, &[keyfile(1)]).await.unwrap();
    let two = create(&two, &[keyfile(1)]).await.unwrap();
    assert_ne!(one.id(), two.id());
    assert_ne!(one.fingerprint(), two.fingerprint());
    assert_ne!(one.names_key().expose(), two.names_key().expose());
    assert_ne!(one.data_keys().current().key.expose(), two.data_keys().current().key.expose());
}

#[tokio::test]
async fn every_slot_is_tried_and_one_with_a_foreign_volume_key_is_told() {
    let store = memory();
    let mut volume = create(&store, &[keyfile(1), keyfile(2)]).await.unwrap();
    let foreign = SecretKey::generate();
    let planted = keys::wrap(volume.id(), &foreign, &slot(keyfile(1), ""), CREATED).await.unwrap();
    let changed = volume.change(|header, _, _| {
        header.slots.push(planted.clone());
        Ok(())
    });
    changed.await.unwrap();
    let trials = volume.try_slots(&keyfile(1)).await;
    let trials: Vec<_> = trials.into_iter().map(|(_, trial)| trial).collect();
    let expected =
        matches!(trials[..], [SlotTrial::Opened, SlotTrial::OtherSecret, SlotTrial::OtherKey]);
    assert!(expected, "{trials:?}");
}

#[tokio::test]
async fn no_key_stands_in_the_header() {
    let store = memory();
    let volume = create(&store, &[keyfile(1), passphrase("correct horse")]).await.unwrap();
    let file = header_file(&store).await;
    let text = String::from_utf8(file.clone()).unwrap();
    let secrets: [[u8; 32]; 4] = [
        [1; 32],
        *volume.names_key().expose(),
        *volume.data_keys().current().key.expose(),
        *volume.root.volume_key().expose(),
    ];
    for secret in secrets {
        assert!(!file.windows(32).any(|window| window == secret));
        assert!(!text.contains(&crate::format::header::to_base64(&secret)));
        assert!(!text.contains(&crate::format::header::hex(&secret)));
    }
    assert!(!text.contains("horse"));
    assert!(!format!("{volume:?}").contains("SecretKey"));
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_says_what_was_tried() {
    let store = memory();
    create(&store, &[keyfile(1), keyfile(2)]).await.unwrap();
    let error = open(&store, &keyfile(3)).await.unwrap_err();
    assert!(matches!(error, VolumeError::WrongKey { kind: SlotKind::Keyfile, slots: 2 }));
    assert_eq!(error.kind(), ErrorKind::Denied);
    let error = open(&store, &passphrase("x")).await.unwrap_err();
    assert!(matches!(error, VolumeError::WrongKey { kind: SlotKind::Passphrase, slots: 0 }));
    assert!(error.to_string().contains("no passphrase slot"));
}

#[tokio::test]
async fn where_there_is_no_volume_none_opens() {
    let error = open(&memory(), &keyfile(1)).await.unwrap_err();
    assert!(matches!(error, VolumeError::NoVolume));
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_volume_is_made_in_an_empty_prefix_alone_and_with_a_key() {
    let store = memory();
    assert!(matches!(create(&store, &[]).await, Err(VolumeError::NoSlots)));
    let many = vec![keyfile(1); SLOTS_MAX + 1];
    assert!(matches!(create(&store, &many).await, Err(VolumeError::SlotsFull)));
    store.put(&Path::from("photos/cat.jpg"), "x".into()).await.unwrap();
    let error = create(&store, &[keyfile(1)]).await.unwrap_err();
    assert!(matches!(&error, VolumeError::PrefixNotEmpty { found } if found == "photos/cat.jpg"));
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn what_a_probe_left_behind_does_not_hinder_a_new_volume() {
    let store = memory();
    store.put(&Path::from("probe/0123"), "noise".into()).await.unwrap();
    create(&store, &[keyfile(1)]).await.unwrap();
    open(&store, &keyfile(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_make_a_volume_at_once_one_wins_and_the_other_says_so() {
    let store = memory();
    let makers = (1..=4).map(|byte| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { (byte, create(&store, &[keyfile(byte)]).await) })
    });
    let mut winners = Vec::new();
    for maker in futures::future::join_all(makers).await {
        match maker.unwrap() {
            (byte, Ok(volume)) => winners.push((byte, volume)),
            (_, Err(error)) => assert!(matches!(error, VolumeError::PrefixNotEmpty { .. })),
        }
    }
    assert_eq!(winners.len(), 1);
    let (byte, volume) = &winners[0];
    assert_eq!(open(&store, &keyfile(*byte)).await.unwrap().id(), volume.id());
}

async fn keys_come_and_go(store: Store) {
    let mut volume = create(&store, &[keyfile(1)]).await.unwrap();
    let first = volume.slots()[0].id;
    assert!(matches!(volume.remove_slot(first).await, Err(VolumeError::LastSlot { .. })));
    let id = volume.add_slot(&slot(passphrase("x"), "second"), &StoppedClock).await.unwrap();
    assert_eq!(volume.header_version(), 2);
    assert_eq!(open(&store, &passphrase("x")).await.unwrap().header_version(), 2);
    volume.remove_slot(first).await.unwrap();
    assert_eq!(volume.header_version(), 3);
    assert!(matches!(open(&store, &keyfile(1)).await, Err(VolumeError::WrongKey { .. })));
    let opened = open(&store, &passphrase("x")).await.unwrap();
    assert_eq!(opened.names_key().expose(), volume.names_key().expose());
    assert_eq!(opened.slots(), volume.slots());
    assert!(matches!(volume.remove_slot(id).await, Err(VolumeError::LastSlot { .. })));
    let unknown = SlotId([0; 8]);
    assert!(matches!(volume.remove_slot(unknown).await, Err(VolumeError::NoSlot { .. })));
    assert_eq!(volume.header_version(), 3);
}

#[tokio::test]
async fn keys_are_added_and_removed_but_never_the_last() {
    keys_come_and_go(memory()).await;
}

#[tokio::test]
async fn keys_are_added_and_removed_where_the_store_has_no_conditional_replacement() {
    let (_dir, store) = without_conditions();
    keys_come_and_go(store).await;
}

#[tokio::test]
async fn a_handle_that_missed_a_change_builds_on_it() {
    let store = memory();
    let mut one = create(&store, &[keyfile(1)]).await.unwrap();
    let mut two = open(&store, &keyfile(1)).await.unwrap();
    one.add_slot(&slot(keyfile(2), ""), &StoppedClock).await.unwrap();
    two.add_slot(&slot(keyfile(3), ""), &StoppedClock).await.unwrap();
    assert_eq!((two.header_version(), two.slots().len()), (3, 3));
    for byte in 1..=3 {
        open(&store, &keyfile(byte)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_added_at_the_same_time_are_all_there() {
    let store = memory();
    create(&store, &[keyfile(0)]).await.unwrap();
    let adders = (1..=8).map(|byte| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut volume = open(&store, &keyfile(0)).await.unwrap();
            volume.add_slot(&slot(keyfile(byte), ""), &StoppedClock).await.unwrap();
        })
    });
    for adder in futures::future::join_all(adders).await {
        adder.unwrap();
    }
    for byte in 0..=8 {
        assert_eq!(open(&store, &keyfile(byte)).await.unwrap().header_version(), 9);
    }
}

/// A change whose answer is lost, and another's change on top of it before it is read back.
async fn overtaken(change: impl AsyncFnOnce(&mut Volume) + Send) -> Volume {
    let inner = memory();
    create(&inner, &[keyfile(1), keyfile(2)]).await.unwrap();
    let store = FaultyStore::new(Arc::clone(&inner));
    let faults = store.faults();
    let mut one = open(&(Arc::new(store) as Store), &keyfile(1)).await.unwrap();
    faults.add(Rule::always(Fault::LoseAnswer(StoreFault::Precondition)).on(Op::Put).times(1));
    faults.add(Rule::always(Fault::Stall).on(Op::Get).after(1).times(1));
    let other = async {
        while faults.struck() < 2 {
            tokio::task::yield_now().await;
        }
        let mut two = open(&inner, &keyfile(1)).await.unwrap();
        two.add_slot(&slot(keyfile(4), ""), &StoppedClock).await.unwrap();
        faults.release();
    };
    futures::future::join(change(&mut one), other).await;
    one
}

#[tokio::test]
async fn a_key_added_with_its_answer_lost_below_anothers_change_is_there_once() {
    let volume = overtaken(async |volume| {
        volume.add_slot(&slot(keyfile(3), "mine"), &StoppedClock).await.unwrap();
    })
    .await;
    assert_eq!(volume.slots().iter().filter(|slot| slot.label == "mine").count(), 1);
    assert_eq!(volume.slots().len(), 4);
}

#[tokio::test]
async fn a_key_removed_with_its_answer_lost_below_anothers_change_is_gone() {
    let volume = overtaken(async |volume| {
        let second = volume.slots()[1].id;
        volume.remove_slot(second).await.unwrap();
        assert!(matches!(volume.remove_slot(second).await, Err(VolumeError::NoSlot { .. })));
    })
    .await;
    assert_eq!(volume.slots().len(), 2);
}

#[tokio::test]
async fn slots_run_out_with_an_error_and_labels_are_kept_short() {
    let store = memory();
    let mut volume = create(&store, &vec![keyfile(1); SLOTS_MAX]).await.unwrap();
    let error = volume.add_slot(&slot(keyfile(2), ""), &StoppedClock).await.unwrap_err();
    assert!(matches!(error, VolumeError::SlotsFull));
    assert_eq!(error.kind(), ErrorKind::Full);
    let long = slot(keyfile(2), &"x".repeat(65));
    let error = volume.add_slot(&long, &StoppedClock).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_volume_and_its_pin_agree() {
    let store = memory();
    let volume = create(&store, &[keyfile(1)]).await.unwrap();
    let pin = volume.pin(CommitNumber(7));
    let opened = Volume::open(Arc::clone(&store), &keyfile(1), Some(&pin)).await.unwrap();
    pin.check(&opened.pin(CommitNumber(7))).unwrap();
    assert!(pin.check(&opened.pin(CommitNumber(6))).is_err());
}

fn words(byte: u8) -> Secret {
    Secret::Recovery(SecretKey::from_bytes([byte; 32]))
}

#[tokio::test]
async fn a_slot_wrapped_anew_opens_with_its_new_secret_alone() {
    let store = memory();
    let mut volume = create(&store, &[keyfile(1), passphrase("old"), words(3)]).await.unwrap();
    let ids: Vec<_> = volume.slots().iter().map(|slot| slot.id).collect();
    for (at, old, new) in [
        (0, keyfile(1), keyfile(2)),
        (1, passphrase("old"), passphrase("new")),
        (2, words(3), words(4)),
    ] {
        let before = header_file(&store).await;
        volume.rotate_slot(ids[at], &new, &StoppedClock).await.unwrap();
        assert!(matches!(open(&store, &old).await, Err(VolumeError::WrongKey { .. })));
        let opened = open(&store, &new).await.unwrap();
        assert_eq!((opened.opened_by(), opened.fingerprint()), (ids[at], volume.fingerprint()));
        assert_ne!(before, header_file(&store).await);
    }
    assert_eq!(volume.header_version(), 4);
    // The same secret with another salt.
    let wrapped = header(&store).await.header().slots[0].clone();
    volume.rotate_slot(ids[0], &keyfile(2), &StoppedClock).await.unwrap();
    let again = header(&store).await.header().slots[0].clone();
    assert_ne!((wrapped.unlock, wrapped.wrapped), (again.unlock, again.wrapped));
    open(&store, &keyfile(2)).await.unwrap();
    let error = volume.rotate_slot(ids[0], &words(1), &StoppedClock).await.unwrap_err();
    assert!(error.to_string().contains("cannot be rotated to a recovery"), "{error}");
    let error = volume.rotate_slot(SlotId([0; 8]), &words(1), &StoppedClock).await.unwrap_err();
    assert!(matches!(error, VolumeError::NoSlot { .. }));
}

async fn rotated(store: Store) {
    let secrets = [keyfile(1), passphrase("x"), words(3)];
    let mut volume = create(&store, &secrets).await.unwrap();
    let old = open(&store, &keyfile(1)).await.unwrap();
    let pin = old.pin(CommitNumber(7));
    let kms = crate::keys::KmsConfig::default();
    let holders = Holders { secrets: &secrets[..2], kms: &kms, drop_others: false };
    let error = volume.rotate_volume_key(&holders).await.unwrap_err();
    assert!(matches!(&error, VolumeError::WouldDrop { slots } if slots.len() == 1), "{error}");
    assert!(error.to_string().contains("(recovery)"), "{error}");
    assert_eq!(header(&store).await.header().version, 1);

    let holders = Holders { secrets: &secrets, kms: &kms, drop_others: false };
    assert_eq!(volume.rotate_volume_key(&holders).await.unwrap(), []);
    assert_ne!(volume.fingerprint(), old.fingerprint());
    for secret in &secrets {
        let opened = Volume::open(Arc::clone(&store), secret, Some(&pin)).await.unwrap();
        assert_eq!(opened.fingerprint(), volume.fingerprint());
        assert_eq!(opened.header_version(), 2);
        assert_eq!(opened.names_key().expose(), old.names_key().expose());
        let (ours, theirs) = (opened.data_keys().current(), old.data_keys().current());
        assert_eq!(ours.key.expose(), theirs.key.expose());
    }
    let dropping = Holders { secrets: &secrets[..1], kms: &kms, drop_others: true };
    let dropped = volume.rotate_volume_key(&dropping).await.unwrap();
    assert_eq!(dropped.len(), 2);
    open(&store, &keyfile(1)).await.unwrap();
    assert!(matches!(open(&store, &words(3)).await, Err(VolumeError::WrongKey { .. })));
    volume.add_slot(&slot(words(5), ""), &StoppedClock).await.unwrap();
    open(&store, &words(5)).await.unwrap();
}

#[tokio::test]
async fn a_new_volume_key_opens_with_the_secrets_at_hand_and_leaves_all_other_keys() {
    rotated(memory()).await;
}

#[tokio::test]
async fn a_new_volume_key_is_made_where_the_store_has_no_conditional_replacement() {
    let (_dir, store) = without_conditions();
    rotated(store).await;
}

#[tokio::test]
async fn a_new_volume_key_whose_answer_is_lost_holds() {
    let inner = memory();
    create(&inner, &[keyfile(1)]).await.unwrap();
    let store = FaultyStore::new(Arc::clone(&inner));
    let faults = store.faults();
    let mut volume = open(&(Arc::new(store) as Store), &keyfile(1)).await.unwrap();
    faults.add(Rule::always(Fault::LoseAnswer(StoreFault::Precondition)).on(Op::Put).times(1));
    let (kms, secrets) = (crate::keys::KmsConfig::default(), [keyfile(1)]);
    let holders = Holders { secrets: &secrets, kms: &kms, drop_others: false };
    volume.rotate_volume_key(&holders).await.unwrap();
    assert_eq!(volume.header_version(), 2);
    let opened = open(&inner, &keyfile(1)).await.unwrap();
    assert_eq!(opened.fingerprint(), volume.fingerprint());
    volume.add_slot(&slot(keyfile(2), ""), &StoppedClock).await.unwrap();
}

#[tokio::test]
async fn keys_of_an_epoch_that_somebody_else_began_are_not_destroyed() {
    let store = memory();
    let mut late = create(&store, &[keyfile(1)]).await.unwrap();
    assert_eq!(late.begin_epoch().await.unwrap(), Epoch(2));
    let mut other = open(&store, &keyfile(1)).await.unwrap();
    other.retire_epochs(Epoch(2)).await.unwrap();
    assert_eq!(other.begin_epoch().await.unwrap(), Epoch(3));
    let error = late.retire_epochs(Epoch(2)).await.unwrap_err();
    assert!(matches!(error, VolumeError::OtherEpoch), "{error}");
    let now = open(&store, &keyfile(1)).await.unwrap();
    assert_eq!(now.epochs(), [Epoch(2), Epoch(3)]);
}

#[tokio::test]
async fn an_older_header_brings_no_old_keys_back_to_an_open_volume() {
    let store = memory();
    let mut volume = create(&store, &[keyfile(1)]).await.unwrap();
    let loader = volume.key_loader();
    let first = header_file(&store).await;
    volume.begin_epoch().await.unwrap();
    let both = header_file(&store).await;
    let path = Path::from(HEADER_NAME);
    store.put(&path, first.clone().into()).await.unwrap();
    loader.load_keys().await;
    assert_eq!(volume.data_keys().epochs(), [Epoch(1), Epoch(2)]);
    assert!(matches!(volume.refresh().await, Err(VolumeError::HeaderReplaced)));
    store.put(&path, both.clone().into()).await.unwrap();
    volume.retire_epochs(Epoch(2)).await.unwrap();
    store.put(&path, both.into()).await.unwrap();
    loader.load_keys().await;
    assert_eq!(volume.data_keys().epochs(), [Epoch(2)]);
}
