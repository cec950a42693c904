//! Small sealed objects: header and one chunk, sealed and opened as a whole.

use crate::crypto::{
    Binding, DataKey, DataKeys, HEADER_LEN, OpenError, Opener, SealError, Sealer, SecretBytes,
};

/// The chunk has the length that the object has.
const CHUNK_SIZE_VARIABLE: u32 = 0;

/// Seals `plain` as an object of one chunk.
///
/// # Errors
/// Those of [`Sealer::seal`]; none for a plaintext that fits memory.
pub fn seal_whole(
    key: &DataKey,
    binding: &Binding<'_>,
    plain: &[u8],
) -> Result<Vec<u8>, SealError> {
    let mut sealer = Sealer::new(key, binding, CHUNK_SIZE_VARIABLE);
    let mut object = sealer.header().to_vec();
    sealer.seal(plain, true, &mut object)?;
    Ok(object)
}

/// Opens what [`seal_whole`] made.
///
/// # Errors
/// [`OpenError`]: another key, binding or object, or changed bytes.
pub fn open_whole(
    keys: &DataKeys,
    binding: &Binding<'_>,
    object: &[u8],
) -> Result<SecretBytes, OpenError> {
    let (header, chunk) = object
        .split_at_checked(HEADER_LEN)
        .ok_or_else(|| OpenError::NotSealed { path: binding.path.to_owned() })?;
    let opener = Opener::from_header(keys, binding, header)?;
    // Exact capacity: a vector that grows leaves copies of a secret behind.
    let mut plain = Vec::with_capacity(chunk.len());
    opener.open(0, true, chunk, &mut plain)?;
    Ok(SecretBytes::take(plain))
}
