//! Key derivation and authentication codes on top of SHA-256.
//!
//! HKDF is RFC 5869, HMAC is RFC 2104. Parts are joined unambiguously: each one
//! is preceded by its length as a `u64`, little-endian, so that ("ab", "c") and
//! ("a", "bc") give different results.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::SecretKey;

/// HKDF-SHA256: extract from `ikm` and `salt`, expand with `info` to fill `out` (at most 8,160 bytes).
pub(super) fn hkdf_sha256(ikm: &[u8], salt: &[u8], info: &[u8], out: &mut [u8]) {
    Hkdf::<Sha256>::new(Some(salt), ikm)
        .expand(info, out)
        .expect("HKDF-SHA256 gives up to 255 x 32 bytes, and no caller asks for more than 64");
}

/// Joins parts so that no two lists of parts give the same bytes.
pub(super) fn length_prefixed(parts: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(parts.iter().map(|part| 8 + part.len()).sum());
    for part in parts {
        joined.extend_from_slice(&(part.len() as u64).to_le_bytes());
        joined.extend_from_slice(part);
    }
    joined
}

impl SecretKey {
    /// A key for one purpose: HKDF-SHA256 with this key as input, `salt`, and the length-prefixed `info`.
    #[must_use]
    pub fn derive(&self, salt: &[u8], info: &[&[u8]]) -> SecretKey {
        let info = length_prefixed(info);
        SecretKey::fill(|out| hkdf_sha256(self.expose(), salt, &info, out))
    }

    /// HMAC-SHA256 over the length-prefixed `parts`.
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.hmac(parts).finalize().into_bytes().into()
    }

    /// Whether `mac` is the whole of [`mac`](Self::mac) over `parts`, compared in constant time.
    pub fn verify_mac(&self, parts: &[&[u8]], mac: &[u8]) -> bool {
        self.hmac(parts).verify_slice(mac).is_ok()
    }

    fn hmac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut hmac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.expose())
            .expect("HMAC takes a key of any length (RFC 2104)");
        for part in parts {
            hmac.update(&(part.len() as u64).to_le_bytes());
            hmac.update(part);
        }
        hmac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_a_border_between_parts_changes_key_and_mac() {
        let key = SecretKey::from_bytes([1; 32]);
        assert_ne!(key.mac(&[b"ab", b"c"]), key.mac(&[b"a", b"bc"]));
        assert_ne!(key.mac(&[b"", b"a"]), key.mac(&[b"a", b""]));
        assert_ne!(
            key.derive(b"s", &[b"ab", b"c"]).expose(),
            key.derive(b"s", &[b"a", b"bc"]).expose()
        );
        assert_ne!(key.derive(b"s", &[b"a"]).expose(), key.derive(b"t", &[b"a"]).expose());
    }

    /// HMAC and HKDF keep nothing of a key but such states.
    #[test]
    fn states_of_hashes_are_wiped_when_dropped() {
        fn wiped<T: zeroize::ZeroizeOnDrop>() {}
        wiped::<Sha256>();
    }

    #[test]
    fn a_mac_verifies_whole_and_unchanged_only() {
        let key = SecretKey::generate();
        let mac = key.mac(&[b"header"]);
        assert!(key.verify_mac(&[b"header"], &mac));
        assert!(!key.verify_mac(&[b"header"], &mac[..31]));
        assert!(!key.verify_mac(&[b"header"], &[]));
        assert!(!key.verify_mac(&[b"Header"], &mac));
        assert!(!SecretKey::generate().verify_mac(&[b"header"], &mac));
        for bit in 0..256 {
            let mut bent = mac;
            bent[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.verify_mac(&[b"header"], &bent));
        }
    }
}
