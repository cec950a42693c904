//! One sealed object: a header and its chunks.
//!
//! ```text
//! | header (96 B) | ciphertext 0 | tag 0 | ciphertext 1 | tag 1 | ... | ciphertext n | tag n |
//!
//! object key (32 B) || commitment (32 B) = HKDF-SHA256(
//!     ikm = data key of the epoch, salt = salt of the header,
//!     info = "lidfs/v1", kind u8, suite u8, volume id, epoch u32, path: each after its length as u64)
//! chunk i = AES-256-GCM(
//!     key = object key, nonce = 4 zero bytes || i as u64 big-endian,
//!     aad = SHA-256(header) || length of path u32 || path || i u64 || is last u8 || plaintext length u64)
//! ```
//!
//! Integers are little-endian unless said otherwise. Every object has a salt of
//! its own and so a key of its own, which is what makes a counter nonce safe.
//! A chunk opens at its own place of its own object only; the mark on the last
//! one shows a cut, the commitment a swapped or renamed object.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::derive::{hkdf_sha256, length_prefixed};
use super::gcm::{Cipher, NONCE_LEN, TAG_LEN};
use super::header::{self, Binding, Fields, HEADER_LEN, SALT_LEN, SUITE};
use super::{DataKey, DataKeys, OpenError, SealError, SecretKey, random_bytes};
use crate::base::Epoch;
use crate::base::sabotage::{Bug, seeded};

/// Chunk size of metadata objects: fixed, so that offsets map by arithmetic.
pub const METADATA_CHUNK: u32 = 16 * 1024;
/// Most chunks of one object; far below what one GCM key may seal.
const CHUNKS_MAX: u64 = 1 << 32;
/// First part of every object key's derivation.
const CONTEXT: &[u8] = b"lidfs/v1";
/// What follows the path in a chunk's associated data: index, last mark, length.
const AAD_TAIL_LEN: usize = 8 + 1 + 8;

/// Object key and commitment, not yet split.
type KeyMaterial = Zeroizing<[u8; 64]>;

fn key_material(
    key: &SecretKey,
    epoch: Epoch,
    binding: &Binding<'_>,
    salt: &[u8; SALT_LEN],
) -> KeyMaterial {
    let info = length_prefixed(&[
        CONTEXT,
        &[binding.kind as u8],
        &[SUITE],
        &binding.volume.0,
        &epoch.0.to_le_bytes(),
        binding.path.as_bytes(),
    ]);
    let mut material = Zeroizing::new([0; 64]);
    hkdf_sha256(key.expose(), salt, &info, material.as_mut_slice());
    material
}

fn commitment_of(material: &KeyMaterial) -> [u8; 32] {
    let mut commitment = [0; 32];
    commitment.copy_from_slice(&material[32..]);
    commitment
}

/// An object's cipher, and what its chunks have in common.
struct Object {
    cipher: Cipher,
    header: [u8; HEADER_LEN],
    chunk_size: u32,
    /// SHA-256(header) || length of path || path.
    aad_head: Vec<u8>,
    path: String,
    /// Names the key to the recorder without being it.
    #[cfg(test)]
    key_hash: [u8; 32],
}

impl Object {
    fn new(material: &KeyMaterial, fields: &Fields, binding: &Binding<'_>) -> Self {
        let header = fields.encode(binding);
        let mut aad_head = Vec::with_capacity(32 + 4 + binding.path.len());
        aad_head.extend_from_slice(&Sha256::digest(header));
        aad_head.extend_from_slice(&(binding.path.len() as u32).to_le_bytes());
        if !seeded(Bug::DropPathFromAad) {
            aad_head.extend_from_slice(binding.path.as_bytes());
        }
        let key = material.first_chunk().expect("64 bytes of material begin with the key's 32");
        Self {
            cipher: Cipher::new(key),
            header,
            chunk_size: fields.chunk_size,
            aad_head,
            path: binding.path.to_owned(),
            #[cfg(test)]
            key_hash: Sha256::digest(&material[..32]).into(),
        }
    }

    fn aad(&self, index: u64, is_last: bool, plain_len: usize) -> Vec<u8> {
        let mut aad = Vec::with_capacity(self.aad_head.len() + AAD_TAIL_LEN);
        aad.extend_from_slice(&self.aad_head);
        aad.extend_from_slice(&index.to_le_bytes());
        aad.push(u8::from(is_last));
        aad.extend_from_slice(&(plain_len as u64).to_le_bytes());
        aad
    }
}

fn nonce(index: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&index.to_be_bytes());
    nonce
}

/// Seals one object once, from its first chunk to its last.
///
/// It is not `Clone`: its counter is what keeps nonces apart.
pub struct Sealer {
    object: Object,
    salt: [u8; SALT_LEN],
    next: u64,
    finished: bool,
}

impl Sealer {
    /// A sealer for an object with a fresh salt. `chunk_size` 0 lets every chunk have its own length.
    pub fn new(key: &DataKey, binding: &Binding<'_>, chunk_size: u32) -> Self {
        let salt = if seeded(Bug::ReuseSalt) { [7; SALT_LEN] } else { random_bytes() };
        Self::with_salt(key, binding, chunk_size, salt)
    }

    /// Sealing twice with one salt is what must never happen, so only vectors choose theirs.
    pub(super) fn with_salt(
        key: &DataKey,
        binding: &Binding<'_>,
        chunk_size: u32,
        salt: [u8; SALT_LEN],
    ) -> Self {
        let material = key_material(&key.key, key.epoch, binding, &salt);
        let fields =
            Fields { epoch: key.epoch, chunk_size, salt, commitment: commitment_of(&material) };
        Self { object: Object::new(&material, &fields, binding), salt, next: 0, finished: false }
    }

    /// What stands in front of the first chunk.
    pub fn header(&self) -> &[u8; HEADER_LEN] {
        &self.object.header
    }

    /// This object's salt, to be kept where [`Opener::from_parts`] is to work.
    pub fn salt(&self) -> [u8; SALT_LEN] {
        self.salt
    }

    /// Appends ciphertext and tag of the next chunk to `out`.
    ///
    /// # Errors
    /// [`SealError`]: after the last chunk, past 2^32 chunks, or at a length that the chunk size
    /// does not allow. `out` is then unchanged.
    pub fn seal(
        &mut self,
        plain: &[u8],
        is_last: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let path = || self.object.path.clone();
        if self.finished {
            return Err(SealError::Finished { path: path() });
        }
        if self.next >= CHUNKS_MAX {
            return Err(SealError::TooManyChunks { path: path() });
        }
        let chunk_size = self.object.chunk_size;
        let full = chunk_size as usize;
        if chunk_size != 0 && (plain.len() > full || (plain.len() < full && !is_last)) {
            return Err(SealError::ChunkLength { path: path(), len: plain.len(), chunk_size });
        }
        let nonce = nonce(self.next);
        let aad = self.object.aad(self.next, is_last, plain.len());
        #[cfg(test)]
        super::recorder::record(&self.object.key_hash, &nonce, &aad, plain);
        self.object.cipher.seal(nonce, &aad, plain, out).map_err(|_| SealError::ChunkLength {
            path: path(),
            len: plain.len(),
            chunk_size,
        })?;
        self.next += 1;
        self.finished = is_last;
        Ok(())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("path", &self.object.path)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// Opens chunks of one object, in any order. A clone shares the same key.
#[derive(Clone)]
pub struct Opener(Arc<Object>);

impl Opener {
    /// An opener from the first [`HEADER_LEN`] bytes of an object (what follows them is not looked at).
    ///
    /// # Errors
    /// Each case of [`OpenError`] but those of chunks: no sealed object, unknown version or suite,
    /// another kind or volume, no key for the epoch, or a commitment that does not fit.
    pub fn from_header(
        keys: &DataKeys,
        binding: &Binding<'_>,
        header: &[u8],
    ) -> Result<Self, OpenError> {
        let header = header
            .first_chunk()
            .ok_or_else(|| OpenError::NotSealed { path: binding.path.to_owned() })?;
        let fields = Fields::decode(binding, header)?;
        let material = Self::material(keys, binding, fields.epoch, &fields.salt)?;
        if !bool::from(material[32..].ct_eq(&fields.commitment)) {
            return Err(OpenError::WrongKey { path: binding.path.to_owned() });
        }
        Ok(Self(Arc::new(Object::new(&material, &fields, binding))))
    }

    /// An opener without the object's header, from what was kept of it elsewhere.
    ///
    /// A wrong part shows when the first chunk is opened.
    ///
    /// # Errors
    /// [`OpenError::UnknownEpoch`].
    pub fn from_parts(
        keys: &DataKeys,
        binding: &Binding<'_>,
        epoch: Epoch,
        chunk_size: u32,
        salt: &[u8; SALT_LEN],
    ) -> Result<Self, OpenError> {
        let material = Self::material(keys, binding, epoch, salt)?;
        let fields =
            Fields { epoch, chunk_size, salt: *salt, commitment: commitment_of(&material) };
        Ok(Self(Arc::new(Object::new(&material, &fields, binding))))
    }

    fn material(
        keys: &DataKeys,
        binding: &Binding<'_>,
        epoch: Epoch,
        salt: &[u8; SALT_LEN],
    ) -> Result<KeyMaterial, OpenError> {
        let key = keys
            .get(epoch)
            .ok_or_else(|| OpenError::UnknownEpoch { path: binding.path.to_owned(), epoch })?;
        Ok(key_material(&key.key, epoch, binding, salt))
    }

    /// The object's header.
    pub fn header(&self) -> &[u8; HEADER_LEN] {
        &self.0.header
    }

    /// What the header says of the key: its epoch and the salt.
    pub fn seal(&self) -> (Epoch, [u8; SALT_LEN]) {
        header::seal_of(&self.0.header)
    }

    /// The header's chunk size; 0 if every chunk has its own length.
    pub fn chunk_size(&self) -> u32 {
        self.0.chunk_size
    }

    /// Appends the plaintext of chunk `index` to `out`. `sealed` is exactly that chunk: ciphertext and tag.
    ///
    /// # Errors
    /// [`OpenError::ForgedChunk`]: these are not the bytes that were sealed at this place, or
    /// `is_last` is wrong. `out` is then unchanged.
    pub fn open(
        &self,
        index: u64,
        is_last: bool,
        sealed: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), OpenError> {
        let aad = self.aad(index, is_last, sealed.len())?;
        self.0.cipher.open(nonce(index), &aad, sealed, out).map_err(|_| self.forged(index))
    }

    /// As [`open`](Self::open), where the chunk stands: `bytes` hold it, and then its plaintext.
    ///
    /// # Errors
    /// As there. `bytes` are then empty.
    pub fn open_in_place(
        &self,
        index: u64,
        is_last: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<(), OpenError> {
        let opened = self.aad(index, is_last, bytes.len()).and_then(|aad| {
            let opened = self.0.cipher.open_in_place(nonce(index), &aad, bytes);
            opened.map_err(|_| self.forged(index))
        });
        opened.inspect_err(|_| bytes.clear())
    }

    fn aad(&self, index: u64, is_last: bool, sealed_len: usize) -> Result<Vec<u8>, OpenError> {
        let plain_len = sealed_len.checked_sub(TAG_LEN).filter(|_| index < CHUNKS_MAX);
        let plain_len = plain_len.ok_or_else(|| self.forged(index))?;
        Ok(self.0.aad(index, is_last, plain_len))
    }

    fn forged(&self, index: u64) -> OpenError {
        OpenError::ForgedChunk { path: self.0.path.clone(), index }
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("path", &self.0.path)
            .field("chunk_size", &self.0.chunk_size)
            .finish_non_exhaustive()
    }
}
