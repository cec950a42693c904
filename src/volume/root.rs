//! What is derived from a volume key.

use std::fmt;
use std::str::FromStr;

use crate::base::{Epoch, VolumeId};
use crate::crypto::{DataKey, SecretKey};
use crate::format::header::{hex, unhex};

const CONTEXT: &[u8] = b"lidfs/v1";
/// The keyring knows no epochs: a rotated volume key seals it anew.
const KEYRING_EPOCH: Epoch = Epoch(0);

/// What people and pins know a volume key by: 8 bytes that tell nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 8]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        unhex(text.as_bytes()).map(Self).ok_or("a fingerprint is 16 lowercase hexadecimal digits")
    }
}

/// A volume key with what follows from it.
#[derive(Clone)]
pub(super) struct RootKeys {
    volume_key: SecretKey,
    header: SecretKey,
    keyring: DataKey,
    fingerprint: Fingerprint,
}

impl RootKeys {
    pub(super) fn new(volume: VolumeId, volume_key: SecretKey) -> Self {
        let derive = |purpose: &[u8]| volume_key.derive(&volume.0, &[CONTEXT, purpose]);
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(&derive(b"fingerprint").expose()[..8]);
        Self {
            header: derive(b"header"),
            keyring: DataKey { epoch: KEYRING_EPOCH, key: derive(b"keyring") },
            fingerprint: Fingerprint(fingerprint),
            volume_key,
        }
    }

    /// What slots wrap.
    pub(super) fn volume_key(&self) -> &SecretKey {
        &self.volume_key
    }

    pub(super) fn keyring_key(&self) -> &DataKey {
        &self.keyring
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(super) fn header_mac(&self, signed: &[u8]) -> [u8; 32] {
        self.header.mac(&[signed])
    }

    pub(super) fn header_verifies(&self, signed: &[u8], mac: &[u8; 32]) -> bool {
        self.header.verify_mac(&[signed], mac)
    }
}
