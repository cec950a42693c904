//! Passphrases: stretched with Argon2id (RFC 9106, version 0x13).

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroizing;

use super::slot::Place;
use super::{KeyError, SlotKind};
use crate::base::{GIB, KIB, MIB};
use crate::crypto::{SecretBytes, SecretKey, random_bytes};
use crate::format::header::{Base64, Unlock};

/// Longest passphrase in bytes.
pub const PASSPHRASE_BYTES_MAX: usize = 4096;

/// What Argon2id is told to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
}

impl Cost {
    /// What new slots take: about half a second of one core.
    pub const DEFAULT: Self =
        Self { memory_kib: (256 * MIB / KIB) as u32, iterations: 3, parallelism: 4 };
    /// Less than this is refused: whoever can write the bucket could otherwise hand out a header
    /// that makes guessing cheap.
    pub const FLOOR: Self =
        Self { memory_kib: (64 * MIB / KIB) as u32, iterations: 3, parallelism: 1 };
    /// More than this is refused: a header must not exhaust the machine that reads it.
    pub const CEILING: Self =
        Self { memory_kib: (GIB / KIB) as u32, iterations: 16, parallelism: 16 };

    /// Whether every figure is at most that of `other`.
    fn within(self, other: Self) -> bool {
        self.memory_kib <= other.memory_kib
            && self.iterations <= other.iterations
            && self.parallelism <= other.parallelism
    }

    fn least(self, other: Self) -> Self {
        Self {
            memory_kib: self.memory_kib.min(other.memory_kib),
            iterations: self.iterations.min(other.iterations),
            parallelism: self.parallelism.min(other.parallelism),
        }
    }

    fn check(self, floor: Self) -> Result<(), KeyError> {
        if !floor.within(self) {
            return Err(KeyError::TooWeak { cost: self });
        }
        if !self.within(Self::CEILING) {
            return Err(KeyError::TooExpensive { cost: self });
        }
        Ok(())
    }
}

/// A passphrase, as the bytes that were given: no normal form is applied.
#[derive(Debug, Clone)]
pub struct Passphrase {
    bytes: Arc<SecretBytes>,
    cost: Cost,
}

impl Passphrase {
    /// A passphrase that new slots stretch at [`Cost::DEFAULT`].
    ///
    /// # Errors
    /// [`KeyError::Empty`], [`KeyError::TooLong`].
    pub fn new(bytes: SecretBytes) -> Result<Self, KeyError> {
        Self::with_cost(bytes, Cost::DEFAULT)
    }

    /// A passphrase that new slots stretch at `cost`, and that also opens slots as weak as `cost`.
    ///
    /// Less than [`Cost::FLOOR`] is for tests alone; nothing that a user sets leads here.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_cost(bytes: SecretBytes, cost: Cost) -> Result<Self, KeyError> {
        match bytes.len() {
            0 => Err(KeyError::Empty),
            1..=PASSPHRASE_BYTES_MAX => Ok(Self { bytes: Arc::new(bytes), cost }),
            _ => Err(KeyError::TooLong),
        }
    }
}

pub(super) async fn new_slot(
    place: Place,
    passphrase: &Passphrase,
) -> Result<(Unlock, SecretKey), KeyError> {
    let salt = random_bytes::<32>();
    let cost = passphrase.cost;
    let kek = kek(place, passphrase, &salt, cost).await?;
    let Cost { memory_kib, iterations, parallelism } = cost;
    let salt = Base64(salt.to_vec());
    Ok((Unlock::Passphrase { salt, memory_kib, iterations, parallelism }, kek))
}

/// The key of a slot. Runs on a thread of its own: it takes long and much memory.
pub(super) async fn kek(
    place: Place,
    passphrase: &Passphrase,
    salt: &[u8],
    cost: Cost,
) -> Result<SecretKey, KeyError> {
    cost.check(passphrase.cost.least(Cost::FLOOR))?;
    let (bytes, argon_salt) = (Arc::clone(&passphrase.bytes), salt.to_vec());
    let stretched = tokio::task::spawn_blocking(move || stretch(bytes.expose(), &argon_salt, cost))
        .await
        .map_err(|error| KeyError::Argon2 { detail: error.to_string() })??;
    Ok(place.kek(SlotKind::Passphrase, &stretched, salt))
}

fn stretch(passphrase: &[u8], salt: &[u8], cost: Cost) -> Result<SecretKey, KeyError> {
    let failed = |error: argon2::Error| KeyError::Argon2 { detail: error.to_string() };
    let Cost { memory_kib, iterations, parallelism } = cost;
    let params =
        Params::new(memory_kib, iterations, parallelism, Some(SecretKey::LEN)).map_err(failed)?;
    let mut memory = Zeroizing::new(Vec::new());
    let blocks = params.block_count();
    memory.try_reserve_exact(blocks).map_err(|_| KeyError::Argon2 {
        detail: format!("no memory for the {} MiB it needs", u64::from(memory_kib) * KIB / MIB),
    })?;
    memory.resize(blocks, Block::new());
    let mut out = Zeroizing::new([0; SecretKey::LEN]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, out.as_mut_slice(), memory.as_mut_slice())
        .map_err(failed)?;
    Ok(SecretKey::copy_of(&out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretching_gives_what_other_implementations_give() {
        // From the tests of the reference implementation (phc-winner-argon2).
        let cost = Cost { memory_kib: 1 << 16, iterations: 2, parallelism: 1 };
        let key = stretch(b"password", b"somesalt", cost).unwrap();
        let hex = key.expose().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        assert_eq!(hex, "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7");
    }

    #[test]
    fn a_cost_outside_floor_and_ceiling_is_refused() {
        let weak = Cost { memory_kib: 64 * 1024 - 1, ..Cost::FLOOR };
        assert!(matches!(weak.check(Cost::FLOOR), Err(KeyError::TooWeak { .. })));
        let weak = Cost { iterations: 2, ..Cost::DEFAULT };
        assert!(matches!(weak.check(Cost::FLOOR), Err(KeyError::TooWeak { .. })));
        for dear in [
            Cost { memory_kib: 1024 * 1024 + 1, ..Cost::DEFAULT },
            Cost { iterations: 17, ..Cost::DEFAULT },
            Cost { parallelism: 17, ..Cost::DEFAULT },
            Cost { memory_kib: u32::MAX, iterations: u32::MAX, parallelism: u32::MAX },
        ] {
            assert!(matches!(dear.check(Cost::FLOOR), Err(KeyError::TooExpensive { .. })));
        }
        for fit in [Cost::FLOOR, Cost::DEFAULT, Cost::CEILING] {
            assert!(fit.check(Cost::FLOOR).is_ok());
        }
    }

    #[test]
    fn a_dear_passphrase_does_not_raise_the_floor_for_other_slots() {
        assert_eq!(Cost::CEILING.least(Cost::FLOOR), Cost::FLOOR);
    }

    #[test]
    fn empty_and_endless_passphrases_are_refused() {
        let bytes = |len| SecretBytes::take(vec![b'x'; len]);
        assert!(matches!(Passphrase::new(bytes(0)), Err(KeyError::Empty)));
        assert!(matches!(Passphrase::new(bytes(PASSPHRASE_BYTES_MAX + 1)), Err(KeyError::TooLong)));
        assert!(Passphrase::new(bytes(PASSPHRASE_BYTES_MAX)).is_ok());
    }
}
