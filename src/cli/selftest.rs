//! `lidfs doctor --selftest`: what a timer asks again and again, without a question and beside a mount.
//!
//! ```text
//! transport -> volume (header, pin) -> slots -> sealing -> server side -> pin -> lease
//!
//! sealing: PUT a sealed probe; GET the raw object: sealed, and no plaintext in it; a flipped bit
//!          and another name are refused; it opens to what went in; DELETE, GET finds nothing
//! ```
//!
//! Invariant: nothing of the volume is changed. The probe stands under a fresh name below
//! [`PROBE_DIR`], which nothing reads, and a probe that was left behind is a finding.

use super::finding::{Finding, Verdict};
use super::options::Resolved;
use super::{Failure, date};
use crate::base::SystemClock;
use crate::crypto::{Binding, DataKeys, HEADER_LEN, ObjectKind, TAG_LEN, random_bytes};
use crate::daemon::Storage;
use crate::keys::{self, KeySource, Purpose, Secret};
use crate::store::object_store::path::Path as ObjectPath;
use crate::store::object_store::{Error, GetOptions, ObjectStore, ObjectStoreExt};
use crate::store::probe::PROBE_DIR;
use crate::store::{Encrypted, EncryptionMode, Transport, explain, sentence};
use crate::volume::{HEADER_NAME, LeaseSite, SlotInfo, SlotTrial, Volume};
use std::sync::Arc;

/// Plain words, and as often as fills some blocks: what a store shows that does not get sealed bytes.
const PHRASE: &str = "lidfs self-test, not sealed ";
const PHRASES: usize = 256;
/// Of the phrase so much in a row cannot be in ciphertext by chance.
const TELLTALE_LEN: usize = 12;

/// Every check that needs the store, which was reached before.
pub(super) async fn findings(resolved: &Resolved, storage: &Storage) -> Vec<Finding> {
    let mut findings = vec![transport(&storage.transport, resolved.config.store.allow_http)];
    let (secret, volume) = match open(resolved, storage).await {
        Ok(opened) => opened,
        Err(failure) => {
            findings.push(Finding::new("volume", Verdict::Fail, failure.message));
            return findings;
        }
    };
    let detail = format!("the key opens volume {}, its header is authentic", volume.id());
    findings.push(Finding::new("volume", Verdict::Ok, detail));
    findings.extend(volume.try_slots(&secret).await.into_iter().map(|(slot, trial)| {
        let kind = slot.kind == secret.kind();
        judge_slot(&slot, trial, kind)
    }));
    let (sealed, probe) = sealing(&*storage.store, &volume).await;
    findings.push(sealed);
    let header = encryption_of(&*storage.store, HEADER_NAME).await;
    let asked = resolved.config.store.server_side_encryption.mode;
    findings.push(server_side(asked, probe.as_ref(), header.as_ref()));
    findings.push(pin(storage, &volume));
    findings.push(lease(storage, &volume).await);
    findings
}

/// Without `allow_http` plain http is refused but to this machine.
fn transport(transport: &Transport, allow_http: bool) -> Finding {
    match transport {
        Transport::Local => Finding::new("tls", Verdict::Ok, "not needed: a local directory"),
        Transport::Tls(place) => Finding::new(
            "tls",
            Verdict::Ok,
            format!("requests to {place} went through TLS, its certificate was accepted"),
        ),
        Transport::Plain(place) if !allow_http => {
            Finding::new("tls", Verdict::Ok, format!("not needed: {place} is this machine"))
        }
        Transport::Plain(place) => Finding::new(
            "tls",
            Verdict::Warn,
            format!(
                "{place} is plain http: content is sealed, but the network sees signatures and access pattern"
            ),
        ),
    }
}

/// Opens the volume with what the configuration names, and asks nobody.
async fn open(resolved: &Resolved, storage: &Storage) -> Result<(Secret, Volume), Failure> {
    let source = resolved.key_source()?;
    if source == KeySource::Prompt {
        return Err(Failure::new(
            super::Exit::Config,
            "a self-test asks no questions; set keyfile or passphrase_command in [key]",
        ));
    }
    let secret = source.secret(Purpose::Unlock)?;
    let pin = storage.pin()?;
    let volume = storage.open(&secret, pin.as_ref()).await?;
    Ok((secret, volume))
}

fn judge_slot(slot: &SlotInfo, trial: SlotTrial, is_of_kind: bool) -> Finding {
    let SlotInfo { id, kind, label, created, .. } = slot;
    let (verdict, answer) = match trial {
        SlotTrial::Opened => (Verdict::Ok, "opens".to_owned()),
        SlotTrial::OtherSecret if is_of_kind => {
            (Verdict::Ok, format!("not verified: another {} opens it", kind.name()))
        }
        SlotTrial::OtherSecret => (Verdict::Ok, format!("not verified: needs a {}", kind.name())),
        SlotTrial::OtherKey => (
            Verdict::Fail,
            "opens, but what is in it is not this volume's key; remove it (lidfs key remove)"
                .to_owned(),
        ),
        SlotTrial::Refused(error) => (Verdict::Fail, sentence(&error)),
    };
    let label = if label.is_empty() { String::new() } else { format!(" {label:?}") };
    let detail = format!("{id} {}{label} of {}: {answer}", kind.name(), date(*created));
    Finding::new("slot", verdict, detail)
}

/// Writes a sealed probe and looks at what the store made of it, and how it says to have encrypted that.
async fn sealing(store: &dyn ObjectStore, volume: &Volume) -> (Finding, Option<Encrypted>) {
    let name = format!("{PROBE_DIR}/{:032x}", u128::from_le_bytes(random_bytes()));
    let path = ObjectPath::from(name.as_str());
    let binding = Binding { volume: volume.id(), kind: ObjectKind::Probe, path: &name };
    let found = round_trip(store, &path, &volume.data_keys(), &binding).await;
    let encrypted = encryption_of(store, &name).await;
    // Whatever was found comes first, but a probe does not stay.
    let removed = remove(store, &path).await;
    let finding = match found.and_then(|detail| removed.map(|()| detail)) {
        Ok(detail) => Finding::new("sealing", Verdict::Ok, detail),
        Err(detail) => Finding::new("sealing", Verdict::Fail, format!("{name}: {detail}")),
    };
    (finding, encrypted)
}

/// How the store says to have encrypted an object; `None` where it says nothing of the kind, as a directory.
async fn encryption_of(store: &dyn ObjectStore, name: &str) -> Option<Encrypted> {
    let options = GetOptions { head: true, ..GetOptions::default() };
    let answer = store.get_opts(&ObjectPath::from(name), options).await.ok()?;
    answer.extensions.get::<Encrypted>().cloned()
}

/// The store's own encryption as the objects have it, of what is new and of what was there before.
fn server_side(
    asked: EncryptionMode,
    probe: Option<&Encrypted>,
    header: Option<&Encrypted>,
) -> Finding {
    let name = "server-side";
    let (Some(probe), Some(header)) = (probe, header) else {
        return match asked {
            EncryptionMode::None => Finding::new(name, Verdict::Ok, "the store tells of none"),
            _ => Finding::new(
                name,
                Verdict::Fail,
                format!("mode = \"{asked}\", but the store does not tell how it encrypts"),
            ),
        };
    };
    if asked == EncryptionMode::None {
        let detail = format!("none asked for; the store tells of {probe}");
        return Finding::new(name, Verdict::Ok, detail);
    }
    if probe.mode() != Some(asked) {
        let detail = format!("mode = \"{asked}\", but a new object is stored with {probe}");
        return Finding::new(name, Verdict::Fail, detail);
    }
    if header.mode() != Some(asked) {
        let detail = format!(
            "new objects are stored with {probe}, but {HEADER_NAME} with {header}: run lidfs rewrite"
        );
        return Finding::new(name, Verdict::Warn, detail);
    }
    Finding::new(
        name,
        Verdict::Ok,
        format!("new objects and {HEADER_NAME} are stored with {probe}"),
    )
}

async fn round_trip(
    store: &dyn ObjectStore,
    path: &ObjectPath,
    keys: &DataKeys,
    binding: &Binding<'_>,
) -> Result<String, String> {
    let plain = PHRASE.repeat(PHRASES).into_bytes();
    let sealed = keys::seal_whole(&keys.current(), binding, &plain).map_err(|e| sentence(&e))?;
    store.put(path, sealed.into()).await.map_err(|e| said("written", &e))?;
    let answer = store.get(path).await.map_err(|e| said("read", &e))?;
    let raw = answer.bytes().await.map_err(|e| said("read", &e))?;
    examine(&raw, keys, binding, &plain)?;
    Ok(format!(
        "a probe of {} bytes lay in the store as {} sealed bytes of epoch {}, opened, and was removed",
        plain.len(),
        raw.len(),
        keys.current().epoch.0
    ))
}

/// Holds the object as the store has it to what it must be: sealed, for this place, and `plain`.
fn examine(raw: &[u8], keys: &DataKeys, binding: &Binding<'_>, plain: &[u8]) -> Result<(), String> {
    let telltale = &plain[..TELLTALE_LEN.min(plain.len())];
    if raw.windows(TELLTALE_LEN).any(|window| window == telltale) {
        return Err("the store has it in the clear; do not write to this volume".to_owned());
    }
    if raw.len() != HEADER_LEN + plain.len() + TAG_LEN {
        return Err(format!("the store has {} bytes of it, not what was written", raw.len()));
    }
    match keys::open_whole(keys, binding, raw) {
        Ok(opened) if opened.expose() == plain => {}
        Ok(_) => return Err("it opens to other bytes than went in".to_owned()),
        Err(error) => return Err(sentence(&error)),
    }
    let mut flipped = raw.to_vec();
    flipped[HEADER_LEN] ^= 1;
    let elsewhere = Binding { path: "probe/elsewhere", ..*binding };
    if keys::open_whole(keys, binding, &flipped).is_ok()
        || keys::open_whole(keys, &elsewhere, raw).is_ok()
    {
        return Err(
            "a changed or renamed object opens: this lidfs does not authenticate".to_owned()
        );
    }
    Ok(())
}

/// Deletes the probe, and sees that it is gone.
async fn remove(store: &dyn ObjectStore, path: &ObjectPath) -> Result<(), String> {
    match store.delete(path).await {
        Ok(()) | Err(Error::NotFound { .. }) => {}
        Err(error) => return Err(said("removed", &error)),
    }
    match store.head(path).await {
        Err(Error::NotFound { .. }) => Ok(()),
        Ok(_) => Err("is still there after it was removed; delete it".to_owned()),
        Err(error) => Err(said("looked for", &error)),
    }
}

fn said(action: &str, error: &Error) -> String {
    format!("cannot be {action}: {}", explain(error))
}

/// The volume opened, so what is pinned of its header holds.
fn pin(storage: &Storage, volume: &Volume) -> Finding {
    match storage.pin() {
        Ok(Some(pin)) => Finding::new(
            "pin",
            Verdict::Ok,
            format!(
                "this machine knows header version {} and commit {}; the header is version {}, a mount compares commits",
                pin.header_version,
                pin.commit.0,
                volume.header_version()
            ),
        ),
        Ok(None) => Finding::new(
            "pin",
            Verdict::Warn,
            "this machine has not mounted the volume yet, so an older state of the bucket would not be noticed",
        ),
        Err(error) => Finding::new("pin", Verdict::Fail, sentence(&error)),
    }
}

async fn lease(storage: &Storage, volume: &Volume) -> Finding {
    let store = Arc::clone(&storage.store);
    let site = LeaseSite::new(store, volume.id(), volume.data_keys(), Arc::new(SystemClock));
    match site.holder().await {
        Ok(None) => Finding::new("lease", Verdict::Ok, "free: nobody writes to the volume"),
        Ok(Some((holder, age))) => Finding::new(
            "lease",
            Verdict::Ok,
            format!(
                "held by {} (process {}, at {}), last sign of life {} s ago",
                holder.host,
                holder.pid,
                holder.mount_point,
                age.as_secs()
            ),
        ),
        Err(error) => Finding::new("lease", Verdict::Fail, sentence(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, VolumeId};
    use crate::config::Config;
    use crate::crypto::{DataKey, SecretKey};
    use crate::daemon;
    use crate::keys::{KeyError, NewSlot, SlotKind};
    use crate::volume::Volume;

    const NAME: &str = "probe/00";

    fn data_keys() -> DataKeys {
        DataKeys::new(DataKey { epoch: Epoch(1), key: SecretKey::from_bytes([5; 32]) }, Vec::new())
    }

    fn binding() -> Binding<'static> {
        Binding { volume: VolumeId([3; 16]), kind: ObjectKind::Probe, path: NAME }
    }

    #[test]
    fn the_encryption_of_new_and_old_objects_is_held_to_what_is_asked() {
        let told = |algorithm: &str| Encrypted {
            algorithm: Some(algorithm.to_owned()),
            ..Encrypted::default()
        };
        let (kms, none) = (told("aws:kms"), Encrypted::default());
        let judge = |asked, probe, header| {
            let Finding { verdict, detail, .. } = server_side(asked, probe, header);
            (verdict, detail)
        };
        let asked = EncryptionMode::SseKms;
        let (verdict, detail) = judge(asked, Some(&kms), Some(&kms));
        assert_eq!(verdict, Verdict::Ok, "{detail}");
        let (verdict, detail) = judge(asked, Some(&kms), Some(&none));
        assert!(verdict == Verdict::Warn && detail.contains("lidfs rewrite"), "{detail}");
        let (verdict, detail) = judge(asked, Some(&none), Some(&none));
        assert!(verdict == Verdict::Fail && detail.contains("mode = \"sse-kms\""), "{detail}");
        assert_eq!(judge(asked, None, None).0, Verdict::Fail);
        let asked = EncryptionMode::None;
        assert_eq!(judge(asked, None, None).0, Verdict::Ok);
        let (verdict, detail) = judge(asked, Some(&kms), Some(&kms));
        assert!(verdict == Verdict::Ok && detail.contains("sse-kms"), "{detail}");
    }

    fn refusal(raw: &[u8], plain: &[u8]) -> String {
        examine(raw, &data_keys(), &binding(), plain).unwrap_err()
    }

    #[test]
    fn what_a_store_may_not_do_to_a_probe_is_told() {
        let plain = PHRASE.repeat(PHRASES).into_bytes();
        let sealed = keys::seal_whole(&data_keys().current(), &binding(), &plain).unwrap();
        assert_eq!(examine(&sealed, &data_keys(), &binding(), &plain), Ok(()));

        let in_the_clear = [&sealed[..HEADER_LEN], &plain, &[0; TAG_LEN]].concat();
        let clear = "the store has it in the clear; do not write to this volume";
        assert_eq!(refusal(&in_the_clear, &plain), clear);
        assert_eq!(refusal(&plain, &plain), clear);
        assert_eq!(
            refusal(&sealed[..200], &plain),
            "the store has 200 bytes of it, not what was written"
        );
        let mut changed = sealed.clone();
        changed[500] ^= 1;
        assert!(refusal(&changed, &plain).contains("probe/00"), "{}", refusal(&changed, &plain));
        let other = plain.iter().map(u8::to_ascii_uppercase).collect::<Vec<_>>();
        let other = keys::seal_whole(&data_keys().current(), &binding(), &other).unwrap();
        assert_eq!(refusal(&other, &plain), "it opens to other bytes than went in");
    }

    #[test]
    fn plain_http_over_a_network_is_worth_a_warning() {
        let verdict = |way, allow_http| transport(&way, allow_http).verdict;
        let place = || "http://s3.test".to_owned();
        assert_eq!(verdict(Transport::Plain(place()), true), Verdict::Warn);
        assert_eq!(verdict(Transport::Plain(place()), false), Verdict::Ok);
        assert_eq!(verdict(Transport::Tls(place()), true), Verdict::Ok);
        assert_eq!(verdict(Transport::Local, false), Verdict::Ok);
    }

    #[test]
    fn a_slot_that_cannot_be_tried_is_told_apart_from_one_that_fails() {
        let slot = SlotInfo {
            id: crate::format::header::SlotId([1; 8]),
            kind: SlotKind::Passphrase,
            label: "paper".to_owned(),
            created: 0,
            strength: String::new(),
            kms_key: None,
        };
        let said = |trial, of_kind| {
            let Finding { verdict, detail, .. } = judge_slot(&slot, trial, of_kind);
            (verdict, detail.split_once(": ").unwrap().1.to_owned())
        };
        assert_eq!(said(SlotTrial::Opened, true), (Verdict::Ok, "opens".to_owned()));
        let needs = "not verified: needs a passphrase".to_owned();
        assert_eq!(said(SlotTrial::OtherSecret, false), (Verdict::Ok, needs));
        let another = "not verified: another passphrase opens it".to_owned();
        assert_eq!(said(SlotTrial::OtherSecret, true), (Verdict::Ok, another));
        assert_eq!(said(SlotTrial::OtherKey, true).0, Verdict::Fail);
        assert_eq!(said(SlotTrial::Refused(KeyError::Empty), true).0, Verdict::Fail);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_new_volume_passes_and_no_probe_stays() {
        let dir = tempfile::tempdir().unwrap();
        let keyfile = dir.path().join("key");
        let secret = Secret::Keyfile(keys::generate_keyfile(&keyfile).unwrap());
        let mut config = Config::default();
        let url = format!("file://{}", dir.path().join("volume").display());
        config.volume.url = Some(url.parse().unwrap());
        config.state.dir = Some(dir.path().join("state"));
        config.key.keyfile = Some(keyfile);
        let slot = NewSlot { secret: secret.clone(), label: String::new() };
        let _: Volume = daemon::create(&config, slot).await.unwrap();
        let (storage, mut volume) = daemon::open_volume(&config, &secret).await.unwrap();
        let other = Secret::Keyfile(SecretKey::generate());
        let other = NewSlot { secret: other, label: "other".to_owned() };
        volume.add_slot(&other, &SystemClock).await.unwrap();

        let resolved = Resolved { config, file: None, key: None, mount_options: Vec::new() };
        let findings = findings(&resolved, &storage).await;
        let names: Vec<_> = findings.iter().map(|finding| finding.check).collect();
        let all = ["tls", "volume", "slot", "slot", "sealing", "server-side", "pin", "lease"];
        assert_eq!(names, all);
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{findings:?}");
        assert!(
            findings[3].detail.ends_with("not verified: another keyfile opens it"),
            "{findings:?}"
        );
        let probes = std::fs::read_dir(dir.path().join("volume").join(PROBE_DIR));
        assert_eq!(probes.map_or(0, Iterator::count), 0);

        // The lease is not sealed by anybody with the key.
        storage.store.put(&ObjectPath::from("lease"), vec![7; 200].into()).await.unwrap();
        let findings = super::findings(&resolved, &storage).await;
        let lease = findings.last().unwrap();
        assert_eq!((lease.check, lease.verdict), ("lease", Verdict::Fail), "{findings:?}");
    }
}
