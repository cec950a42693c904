//! AES-256-GCM (NIST SP 800-38D) with a 96-bit nonce and a 128-bit tag: the one place that names the cipher's crate.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut, Key, KeyInit, Nonce, Tag};

/// Bytes of the tag behind each chunk's ciphertext.
pub const TAG_LEN: usize = 16;
/// Bytes of a nonce.
pub(super) const NONCE_LEN: usize = 12;

/// The cipher with its key schedule, which is wiped when dropped.
pub(super) struct Cipher(Aes256Gcm);

/// More plaintext or associated data than one nonce may seal (64 GiB).
pub(super) struct TooLong;

/// Not what was sealed with this key, nonce and associated data.
#[derive(Debug)]
pub(super) struct Forged;

impl Cipher {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(Aes256Gcm::new(<&Key<Aes256Gcm>>::from(key)))
    }

    /// Appends ciphertext and tag to `out`, which stays unchanged on error.
    pub(super) fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), TooLong> {
        let start = out.len();
        out.reserve(plain.len() + TAG_LEN);
        out.extend_from_slice(plain);
        let nonce = Nonce::<Aes256Gcm>::from(nonce);
        let Ok(tag) = self.0.encrypt_inout_detached(&nonce, aad, (&mut out[start..]).into()) else {
            out.truncate(start);
            return Err(TooLong);
        };
        out.extend_from_slice(&tag);
        Ok(())
    }

    /// Appends the plaintext of `sealed` (ciphertext and tag) to `out`, which stays unchanged on error.
    ///
    /// The tag is checked before anything is decrypted.
    pub(super) fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        sealed: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Forged> {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Forged)?;
        let start = out.len();
        out.extend_from_slice(ciphertext);
        let (nonce, tag) = (Nonce::<Aes256Gcm>::from(nonce), Tag::<Aes256Gcm>::from(*tag));
        self.0.decrypt_inout_detached(&nonce, aad, (&mut out[start..]).into(), &tag).map_err(|_| {
            out.truncate(start);
            Forged
        })
    }
}
