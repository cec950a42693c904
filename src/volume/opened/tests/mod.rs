//! Volumes against real stores: made, opened, changed by several, and attacked.

mod attacks;
mod slots;
mod vector;

use std::sync::Arc;

use crate::base::{Clock, Timestamp};
use crate::crypto::{SecretBytes, SecretKey};
use crate::format::header::{Signed, VolumeParams};
use crate::keys::{Cost, NewSlot, Passphrase, Secret};
use crate::store::object_store::local::LocalFileSystem;
use crate::store::object_store::memory::InMemory;
use crate::store::object_store::path::Path;
use crate::store::object_store::{ObjectStore, ObjectStoreExt};

use super::{HEADER_NAME, Volume};
use crate::volume::VolumeError;

/// Far below what users get: tests are not to wait for Argon2.
const COST_OF_TESTS: Cost = Cost { memory_kib: 64, iterations: 1, parallelism: 1 };
const CREATED: i64 = 1_700_000_000;

struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: CREATED, nanos: 0 }
    }
}

type Store = Arc<dyn ObjectStore>;

fn memory() -> Store {
    Arc::new(InMemory::new())
}

/// The plain local store has no conditional replacement.
fn without_conditions() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    (dir, Arc::new(store))
}

fn keyfile(byte: u8) -> Secret {
    Secret::Keyfile(SecretKey::from_bytes([byte; 32]))
}

fn passphrase(text: &str) -> Secret {
    let bytes = SecretBytes::copy_of(text.as_bytes());
    Secret::Passphrase(Passphrase::with_cost(bytes, COST_OF_TESTS).unwrap())
}

fn slot(secret: Secret, label: &str) -> NewSlot {
    NewSlot { secret, label: label.to_owned() }
}

async fn create(store: &Store, secrets: &[Secret]) -> Result<Volume, VolumeError> {
    let slots: Vec<_> = secrets.iter().map(|secret| slot(secret.clone(), "")).collect();
    Volume::create(Arc::clone(store), VolumeParams::default(), &slots, &StoppedClock).await
}

async fn open(store: &Store, secret: &Secret) -> Result<Volume, VolumeError> {
    Volume::open(Arc::clone(store), secret, None).await
}

async fn header_file(store: &Store) -> Vec<u8> {
    store.get(&Path::from(HEADER_NAME)).await.unwrap().bytes().await.unwrap().to_vec()
}

async fn put_header(store: &Store, file: Vec<u8>) {
    store.put(&Path::from(HEADER_NAME), file.into()).await.unwrap();
}

async fn header(store: &Store) -> Signed {
    Signed::parse(&header_file(store).await).unwrap()
}
