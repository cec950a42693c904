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
        self.decrypt(nonce, aad, &mut out[start..], *tag).inspect_err(|_| out.truncate(start))
    }

    /// Makes ciphertext and tag in `bytes` the plaintext, in place; on error nothing is left of them.
    pub(super) fn open_in_place(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        bytes: &mut Vec<u8>,
    ) -> Result<(), Forged> {
        let (ciphertext, tag) = bytes.split_last_chunk_mut::<TAG_LEN>().ok_or(Forged)?;
        let (len, opened) = (ciphertext.len(), self.decrypt(nonce, aad, ciphertext, *tag));
        bytes.truncate(if opened.is_ok() { len } else { 0 });
        opened
    }

    /// The tag is checked before anything is decrypted.
    fn decrypt(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &mut [u8],
        tag: [u8; TAG_LEN],
    ) -> Result<(), Forged> {
        let (nonce, tag) = (Nonce::<Aes256Gcm>::from(nonce), Tag::<Aes256Gcm>::from(tag));
        let opened = self.0.decrypt_inout_detached(&nonce, aad, ciphertext.into(), &tag);
        opened.map_err(|_| Forged)
    }
}
