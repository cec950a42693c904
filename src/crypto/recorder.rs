//! Remembers every (key, nonce) that tests seal with, and panics when one seals two different things.
//!
//! Part of test builds only. Sealing the same bytes again under the same key and
//! nonce gives the same ciphertext and harms nothing, so it passes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

type Hash = [u8; 32];

static SEEN: Mutex<Option<HashMap<Hash, Hash>>> = Mutex::new(None);

/// Notes one sealing.
pub(super) fn record(key: &Hash, nonce: &[u8; 12], aad: &[u8], plain: &[u8]) {
    let place = Sha256::new().chain_update(key).chain_update(nonce).finalize().into();
    let what: Hash = Sha256::new()
        .chain_update((aad.len() as u64).to_le_bytes())
        .chain_update(aad)
        .chain_update(plain)
        .finalize()
        .into();
    let before = SEEN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_default()
        .insert(place, what);
    assert!(before.is_none_or(|before| before == what), "a key and nonce sealed two plaintexts");
}

/// How many different (key, nonce) pairs were seen so far.
pub(crate) fn count() -> usize {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, HashMap::len)
}
