//! Secrets in memory: 32-byte keys, and byte strings such as a passphrase.
//!
//! Both live in [`LockedPages`], are wiped when the last holder drops them, and
//! print as `SecretKey(..)` and `SecretBytes(..)`.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroize;

use super::memory::LockedPages;

/// Bytes from the operating system's generator.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill_random(&mut bytes);
    bytes
}

fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes)
        .expect("Linux has getrandom(2), which cannot fail once the system is up");
}

/// A 256-bit key. Clones share the same locked page.
#[derive(Clone)]
pub struct SecretKey(Arc<LockedPages>);

impl SecretKey {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// A fresh key from the operating system's generator.
    pub fn generate() -> Self {
        Self::fill(fill_random)
    }

    /// Takes over `bytes` and wipes this copy of them; the caller's own copies are the caller's to wipe.
    pub fn from_bytes(mut bytes: [u8; Self::LEN]) -> Self {
        let key = Self::copy_of(&bytes);
        bytes.zeroize();
        key
    }

    /// Copies `bytes` straight into locked memory; the source remains the caller's to wipe.
    pub fn copy_of(bytes: &[u8; Self::LEN]) -> Self {
        Self::fill(|page| page.copy_from_slice(bytes))
    }

    /// A key that `write` puts straight into locked memory (32 zero bytes to begin with).
    pub(super) fn fill(write: impl FnOnce(&mut [u8])) -> Self {
        let mut page = LockedPages::new(Self::LEN);
        write(page.bytes_mut());
        Self(Arc::new(page))
    }

    /// The key itself, to hand to a cipher.
    pub fn expose(&self) -> &[u8; Self::LEN] {
        self.0.bytes().first_chunk().expect("a key's page is made with 32 bytes and never shrinks")
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// A secret of any length: a passphrase, a decoded keyfile, an unwrapped blob.
pub struct SecretBytes(LockedPages);

impl SecretBytes {
    /// `len` zero bytes, to be written through [`expose_mut`](Self::expose_mut).
    pub fn zeroed(len: usize) -> Self {
        Self(LockedPages::new(len))
    }

    /// Moves `bytes` into locked memory and wipes the source, its spare capacity included.
    pub fn take(mut bytes: Vec<u8>) -> Self {
        let secret = Self::copy_of(&bytes);
        bytes.zeroize();
        secret
    }

    /// Copies `bytes`; the source remains the caller's to wipe.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut pages = LockedPages::new(bytes.len());
        pages.bytes_mut().copy_from_slice(bytes);
        Self(pages)
    }

    /// The secret itself.
    pub fn expose(&self) -> &[u8] {
        self.0.bytes()
    }

    /// The secret itself, to be filled in place.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.expose().len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

impl From<String> for SecretBytes {
    fn from(text: String) -> Self {
        Self::take(text.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_never_print_their_bytes() {
        let key = SecretKey::from_bytes([0x5a; 32]);
        assert_eq!(format!("{key:?} {:#?}", key.clone()), "SecretKey(..) SecretKey(..)");
        assert_eq!(format!("{:?}", SecretBytes::from("hunter2".to_owned())), "SecretBytes(..)");
    }

    #[test]
    fn a_key_gives_back_its_bytes_and_outlives_its_clones() {
        let key = SecretKey::from_bytes([7; 32]);
        drop(key.clone());
        assert_eq!(key.expose(), &[7; 32]);
    }

    #[test]
    fn generated_keys_and_salts_differ() {
        assert_ne!(SecretKey::generate().expose(), SecretKey::generate().expose());
        assert_ne!(random_bytes::<32>(), random_bytes::<32>());
    }

    #[test]
    fn secret_bytes_keep_any_length() {
        for len in [0, 1, 31, 4096, 5000] {
            let secret = SecretBytes::take(vec![9; len]);
            assert_eq!((secret.expose(), secret.len()), (&vec![9; len][..], len));
            assert_eq!(secret.is_empty(), len == 0);
        }
    }
}
