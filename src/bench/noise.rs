//! Random bytes to be stored, without holding as many as are stored.
//!
//! Each piece is cut from one buffer at a place of its own. Pieces so differ at every block, and neither
//! compression nor a store that keeps equal blocks once makes them smaller.

use bytes::Bytes;

use crate::crypto::random_bytes;

/// How far apart pieces begin: a prime, so that no two share blocks of any usual size.
const STRIDE: usize = 4099;
/// Pieces that differ; more begin anew.
const PIECES: usize = 256;
const STEP: usize = 4096;

/// Where pieces are cut from.
#[derive(Debug, Clone)]
pub(super) struct Noise {
    bytes: Bytes,
    len: usize,
}

impl Noise {
    /// For pieces of `len` bytes.
    pub(super) fn new(len: usize) -> Self {
        let total = len + PIECES * STRIDE;
        let mut bytes = Vec::with_capacity(total + STEP);
        while bytes.len() < total {
            bytes.extend_from_slice(&random_bytes::<STEP>());
        }
        Self { bytes: bytes.into(), len }
    }

    /// Shares the buffer.
    pub(super) fn piece(&self, number: usize) -> Bytes {
        let start = number % PIECES * STRIDE;
        self.bytes.slice(start..start + self.len)
    }
}

/// A name that nobody else uses.
pub(super) fn fresh_name() -> String {
    format!("{:016x}", u64::from_le_bytes(random_bytes()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn pieces_have_their_length_and_no_block_in_common() {
        let noise = Noise::new(3 * 4096);
        let pieces: Vec<Bytes> = (0..PIECES).map(|number| noise.piece(number)).collect();
        assert!(pieces.iter().all(|piece| piece.len() == 3 * 4096));
        let blocks: HashSet<&[u8]> = pieces.iter().flat_map(|piece| piece.chunks(4096)).collect();
        assert_eq!(blocks.len(), 3 * PIECES);
        assert_eq!(noise.piece(PIECES), pieces[0]);
    }
}
