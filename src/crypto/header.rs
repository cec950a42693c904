//! The header in front of every sealed object.
//!
//! ```text
//! offset  length  field
//!      0       5  magic "LIDFS"
//!      5       1  format version: 1
//!      6       1  suite: 1 = HKDF-SHA256 + AES-256-GCM
//!      7       1  kind (ObjectKind)
//!      8       4  data key epoch, u32
//!     12      16  volume id
//!     28       4  chunk size in bytes, u32; 0 = chunks of variable length
//!     32      32  salt
//!     64      32  commitment to the object key
//!     96
//! ```
//!
//! Integers are little-endian. Nothing in it is secret. The commitment proves
//! every field but the chunk size, and each chunk's tag proves the whole header.

use std::fmt;

use super::OpenError;
use crate::base::{Epoch, VolumeId};

/// Bytes of a header.
pub const HEADER_LEN: usize = 96;
/// Bytes of a salt.
pub const SALT_LEN: usize = 32;

const MAGIC: &[u8; 5] = b"LIDFS";
const VERSION: u8 = 1;
/// HKDF-SHA256 for keys, AES-256-GCM for chunks.
pub(super) const SUITE: u8 = 1;

const AT_VERSION: usize = 5;
const AT_SUITE: usize = 6;
const AT_KIND: usize = 7;
const AT_EPOCH: usize = 8;
const AT_VOLUME: usize = 12;
const AT_CHUNK_SIZE: usize = 28;
const AT_SALT: usize = 32;
const AT_COMMITMENT: usize = 64;

/// What an object is for. The number stands in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// The data keys by epoch.
    Keyring = 1,
    /// Who holds the write mount.
    Lease = 2,
    /// An object of the metadata database.
    Metadata = 3,
    /// File content.
    Pack = 4,
    /// A key slot's sealed part.
    Slot = 5,
    /// Written and read back to learn what a store can do.
    Probe = 6,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keyring => "keyring",
            Self::Lease => "lease",
            Self::Metadata => "metadata object",
            Self::Pack => "pack",
            Self::Slot => "key slot",
            Self::Probe => "probe",
        })
    }
}

/// What an object is bound to besides its bytes: it opens nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// The volume it belongs to.
    pub volume: VolumeId,
    /// What it is for.
    pub kind: ObjectKind,
    /// Its name below the volume's prefix.
    pub path: &'a str,
}

/// The fields of a header besides those a [`Binding`] gives.
#[derive(Clone, Copy)]
pub(super) struct Fields {
    pub(super) epoch: Epoch,
    pub(super) chunk_size: u32,
    pub(super) salt: [u8; SALT_LEN],
    pub(super) commitment: [u8; 32],
}

impl Fields {
    pub(super) fn encode(&self, binding: &Binding<'_>) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[..AT_VERSION].copy_from_slice(MAGIC);
        header[AT_VERSION] = VERSION;
        header[AT_SUITE] = SUITE;
        header[AT_KIND] = binding.kind as u8;
        header[AT_EPOCH..AT_VOLUME].copy_from_slice(&self.epoch.0.to_le_bytes());
        header[AT_VOLUME..AT_CHUNK_SIZE].copy_from_slice(&binding.volume.0);
        header[AT_CHUNK_SIZE..AT_SALT].copy_from_slice(&self.chunk_size.to_le_bytes());
        header[AT_SALT..AT_COMMITMENT].copy_from_slice(&self.salt);
        header[AT_COMMITMENT..].copy_from_slice(&self.commitment);
        header
    }

    /// Reads a header that must be of this binding. Proves nothing yet: that is the commitment's part.
    pub(super) fn decode(
        binding: &Binding<'_>,
        header: &[u8; HEADER_LEN],
    ) -> Result<Self, OpenError> {
        let path = || binding.path.to_owned();
        if &array::<5>(header, 0) != MAGIC {
            return Err(OpenError::NotSealed { path: path() });
        }
        if header[AT_VERSION] != VERSION {
            return Err(OpenError::UnknownVersion { path: path(), version: header[AT_VERSION] });
        }
        if header[AT_SUITE] != SUITE {
            return Err(OpenError::UnknownSuite { path: path(), suite: header[AT_SUITE] });
        }
        if header[AT_KIND] != binding.kind as u8 {
            return Err(OpenError::WrongKind {
                path: path(),
                expected: binding.kind,
                found: header[AT_KIND],
            });
        }
        let volume = VolumeId(array(header, AT_VOLUME));
        if volume != binding.volume {
            return Err(OpenError::OtherVolume {
                path: path(),
                expected: binding.volume,
                found: volume,
            });
        }
        Ok(Self {
            epoch: Epoch(u32::from_le_bytes(array(header, AT_EPOCH))),
            chunk_size: u32::from_le_bytes(array(header, AT_CHUNK_SIZE)),
            salt: array(header, AT_SALT),
            commitment: array(header, AT_COMMITMENT),
        })
    }
}

/// Epoch and salt of a header.
pub(super) fn seal_of(header: &[u8; HEADER_LEN]) -> (Epoch, [u8; SALT_LEN]) {
    (Epoch(u32::from_le_bytes(array(header, AT_EPOCH))), array(header, AT_SALT))
}

/// The `N` bytes at a fixed place of a header.
fn array<const N: usize>(header: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&header[at..at + N]);
    field
}
