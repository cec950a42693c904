//! The volume header `lidfs.json`: the one object of a volume that is not sealed.
//!
//! ```text
//! {                                            \
//!   "lidfs": 1,                                 |
//!   "features": [],                             |  signed: every byte of the file
//!   "volume_id": "8d0f...",                     |  but the last 80
//!   ...                                         |
//!   "keyring": "TElERlMB..."                   /
//! ,\n  "mac": "<64 hexadecimal digits>"\n}\n      the last 80 bytes
//! ```
//!
//! The file is one JSON document, so `jq` reads it; but what is authenticated
//! are bytes, not values, so nothing has to be brought into a canonical form:
//! cut off the last 80 bytes, and what remains is what the MAC is over. The 80
//! bytes have the fixed form above (`,\n  "mac": "`, 64 lowercase digits,
//! `"\n}\n`), and what remains plus `}` is a JSON object with exactly the fields
//! of [`Header`].
//!
//! Invariant: [`Signed::parse`] reads the same bytes that [`Signed::signed`]
//! gives to the MAC; nothing read from a header counts before that MAC verified.
//! A header that says less than this build needs or more than it knows is
//! refused: a field may only be added together with a feature flag.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::{BlockSize, ErrorKind, KIB, VolumeId};

/// Format version that this build writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// Feature flags that this build understands: one for each kind of slot that came later.
pub const FEATURES_KNOWN: &[&str] = &[FEATURE_KMS, FEATURE_RECOVERY];
/// Some slot is opened by a key service.
const FEATURE_KMS: &str = "kms";
/// Some slot is opened by recovery words.
const FEATURE_RECOVERY: &str = "recovery";
/// Longest header in bytes: a hostile one must not exhaust memory.
pub const HEADER_BYTES_MAX: u64 = 1024 * KIB;
/// Most key slots of a volume.
pub const SLOTS_MAX: usize = 32;
/// Longest label of a slot in bytes.
pub const LABEL_BYTES_MAX: usize = 64;
/// Longest name of a KMS key, as KMS has it.
pub const KMS_KEY_BYTES_MAX: usize = 2048;
/// Longest ciphertext that KMS gives or takes.
pub const KMS_CIPHERTEXT_BYTES_MAX: usize = 6144;

/// Most characters of one text of a header in a message.
const TOLD_CHARS_MAX: usize = 200;
/// Most unknown features in a message.
const UNKNOWN_TOLD_MAX: usize = 8;
const MAC_LEN: usize = 32;
const TAIL_START: &[u8] = b",\n  \"mac\": \"";
const TAIL_END: &[u8] = b"\"\n}\n";
const TAIL_LEN: usize = TAIL_START.len() + 2 * MAC_LEN + TAIL_END.len();

/// What a volume header says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Format version, [`FORMAT_VERSION`].
    pub lidfs: u32,
    /// What a reader must understand beyond the format version.
    pub features: Vec<String>,
    /// Identity of the volume, from birth to death.
    #[serde(with = "text")]
    pub volume_id: VolumeId,
    /// When the volume was made, in seconds since 1970.
    pub created: i64,
    /// Counts the changes of this header, from 1.
    pub version: u64,
    /// What was chosen at `init`.
    pub params: VolumeParams,
    /// The ways to the volume key: 1 to [`SLOTS_MAX`].
    pub slots: Vec<Slot>,
    /// The sealed keyring.
    pub keyring: Base64,
}

/// What is chosen for a volume at `init` and stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeParams {
    /// Base64 in one block of a file.
    #[serde(with = "block_size")]
    pub block_size: BlockSize,
    /// How blocks are compressed unless the mount says otherwise.
    #[serde(with = "text")]
    pub compression: Compression,
}

impl Default for VolumeParams {
    fn default() -> Self {
        Self {
            block_size: crate::base::BLOCK_SIZE_DEFAULT,
            compression: Compression::Zstd { level: 1 },
        }
    }
}

/// How blocks are compressed: written `none` or `zstd:LEVEL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// With zstd, where it helps.
    Zstd {
        /// 1 (fast) to 19 (small).
        level: u8,
    },
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Zstd { level } => write!(f, "zstd:{level}"),
        }
    }
}

impl FromStr for Compression {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORMS: &str = "compression is `none` or `zstd:LEVEL` with a level from 1 to 19";
        if text == "none" {
            return Ok(Self::None);
        }
        let digits = text.strip_prefix("zstd:").ok_or(FORMS)?;
        let level: u8 = digits.parse().map_err(|_| FORMS)?;
        // One spelling for each level: no sign, no leading zero.
        if (1..=19).contains(&level) && level.to_string() == digits {
            Ok(Self::Zstd { level })
        } else {
            Err(FORMS)
        }
    }
}

/// One way to the volume key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Names the slot; part of what its key is bound to.
    #[serde(with = "text")]
    pub id: SlotId,
    /// The user's words for it.
    pub label: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// What unlocks it, and how.
    pub unlock: Unlock,
    /// The volume key, sealed under the key that `unlock` leads to.
    pub wrapped: Base64,
}

/// What unlocks a slot. A further kind comes with a feature flag ([`Header::set_slot_features`]),
/// so that older builds say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Unlock {
    /// A file of 32 random bytes.
    Keyfile {
        /// Salt of the derivation.
        salt: Base64,
    },
    /// A passphrase, stretched with Argon2id (RFC 9106, version 0x13).
    Passphrase {
        /// Salt of Argon2id and of the derivation after it.
        salt: Base64,
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes over the memory.
        iterations: u32,
        /// Lanes.
        parallelism: u32,
    },
    /// 32 random bytes that AWS KMS encrypted: feature `kms`.
    Kms {
        /// The key's full ARN.
        key: String,
        /// What KMS made of the bytes.
        ciphertext: Base64,
        /// Salt of the derivation.
        salt: Base64,
    },
    /// 32 random bytes on paper, as words: feature `recovery`.
    Recovery {
        /// Salt of the derivation.
        salt: Base64,
    },
}

impl Unlock {
    /// The feature flag of this kind of slot.
    fn feature(&self) -> Option<&'static str> {
        match self {
            Self::Keyfile { .. } | Self::Passphrase { .. } => None,
            Self::Kms { .. } => Some(FEATURE_KMS),
            Self::Recovery { .. } => Some(FEATURE_RECOVERY),
        }
    }
}

impl Header {
    /// Brings the feature flags of slots in line with the slots that are there.
    pub fn set_slot_features(&mut self) {
        let needed = [FEATURE_KMS, FEATURE_RECOVERY];
        self.features.retain(|feature| !needed.contains(&feature.as_str()));
        let has = |feature| self.slots.iter().any(|slot| slot.unlock.feature() == Some(feature));
        let there = needed.into_iter().filter(|feature| has(feature)).map(str::to_owned);
        let there: Vec<_> = there.collect();
        self.features.extend(there);
    }
}

/// Whether a text is the full ARN of a KMS key, and nothing that moves a terminal's cursor:
/// `arn:PARTITION:kms:REGION:ACCOUNT:key/ID`.
pub fn is_kms_key_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let &["arn", partition, "kms", region, account, key] = parts.as_slice() else { return false };
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= KMS_KEY_BYTES_MAX
        && [partition, region, account].into_iter().all(word)
        && key.strip_prefix("key/").is_some_and(word)
}

/// Identity of a slot: 8 random bytes, written as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotId(pub [u8; 8]);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for SlotId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        unhex(text.as_bytes()).map(Self).ok_or("a slot id is 16 lowercase hexadecimal digits")
    }
}

/// Binary data, written in base64 (RFC 4648 section 4, with padding).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&to_base64(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        from_base64(text.as_bytes())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("not base64 with padding"))
    }
}

/// Base64 in base64 as every text of this format has it.
pub fn to_base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The bytes of strict base64: padding required, no white space.
pub fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// A serde field whose text is what `Display` and `FromStr` say.
pub(crate) mod text {
    use super::{Deserialize, Deserializer, FromStr, Serializer, fmt};

    pub fn serialize<T: fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn deserialize<'de, T, D: Deserializer<'de>>(from: D) -> Result<T, D::Error>
    where
        T: FromStr + fmt::Display,
    {
        let text = String::deserialize(from)?;
        match text.parse::<T>() {
            Ok(value) if value.to_string() == text => Ok(value),
            _ => Err(serde::de::Error::custom(format!("{text:?} is not of its form"))),
        }
    }
}

mod block_size {
    use super::{BlockSize, Deserialize, Deserializer, Serializer};

    // Serde hands every field over by reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub fn serialize<S: Serializer>(value: &BlockSize, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.bytes())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BlockSize, D::Error> {
        BlockSize::new(u64::deserialize(from)?).ok_or_else(|| {
            serde::de::Error::custom("block_size is not a power of two from 4 KiB to 1 MiB")
        })
    }
}

/// A header with the bytes that its MAC is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    header: Header,
    bytes: Vec<u8>,
    mac: [u8; MAC_LEN],
}

impl Signed {
    /// Writes a header out, with the MAC that `mac` makes of its bytes.
    ///
    /// # Errors
    /// [`HeaderError`] when the header is one that [`Signed::parse`] would refuse.
    pub fn new(
        header: Header,
        mac: impl FnOnce(&[u8]) -> [u8; MAC_LEN],
    ) -> Result<Self, HeaderError> {
        let mut signed = serde_json::to_vec_pretty(&header).map_err(HeaderError::malformed)?;
        // Two bytes: the end of the object comes after the MAC.
        signed.truncate(signed.len() - b"\n}".len());
        check(&header, signed.len() + TAIL_LEN)?;
        let mac = mac(&signed);
        Ok(Self { header, bytes: signed, mac })
    }

    /// Reads a header, which proves nothing yet.
    ///
    /// # Errors
    /// [`HeaderError`]: not a header, from a later version, or not well-formed.
    pub fn parse(file: &[u8]) -> Result<Self, HeaderError> {
        if file.len() as u64 > HEADER_BYTES_MAX {
            return Err(HeaderError::TooLarge { bytes: file.len() as u64 });
        }
        check_version(file)?;
        let (signed, mac) = split(file).ok_or_else(|| HeaderError::Malformed {
            detail: "it does not end with its MAC in the fixed form; was it edited or reformatted?"
                .to_owned(),
        })?;
        let mut object = signed.to_vec();
        object.push(b'}');
        let header: Header = serde_json::from_slice(&object).map_err(HeaderError::malformed)?;
        check(&header, file.len())?;
        Ok(Self { header, bytes: signed.to_vec(), mac })
    }

    /// What it says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The bytes that the MAC is over.
    pub fn signed(&self) -> &[u8] {
        &self.bytes
    }

    /// The MAC beside them.
    pub fn mac(&self) -> &[u8; MAC_LEN] {
        &self.mac
    }

    /// The file: what is stored as `lidfs.json`.
    pub fn to_file(&self) -> Vec<u8> {
        let mut file = self.bytes.clone();
        file.extend_from_slice(TAIL_START);
        file.extend_from_slice(hex(&self.mac).as_bytes());
        file.extend_from_slice(TAIL_END);
        file
    }
}

/// The part of a header that every version has in the same place.
#[derive(Deserialize)]
struct Preamble {
    lidfs: u32,
    #[serde(default)]
    features: Vec<String>,
}

/// Version and features come before all else, so that a later format is not called damage.
fn check_version(file: &[u8]) -> Result<(), HeaderError> {
    let not_a_header = |detail: String| HeaderError::NotAHeader { detail };
    // The reader would take an array for a structure.
    if file.first() != Some(&b'{') {
        return Err(not_a_header("it does not begin with {".to_owned()));
    }
    let preamble: Preamble = serde_json::from_slice(file)
        .map_err(|error| not_a_header(printable(&error.to_string())))?;
    if preamble.lidfs != FORMAT_VERSION {
        return Err(HeaderError::UnknownVersion { version: preamble.lidfs });
    }
    let unknown: Vec<_> = preamble
        .features
        .into_iter()
        .filter(|feature| !FEATURES_KNOWN.contains(&feature.as_str()))
        .take(UNKNOWN_TOLD_MAX)
        .map(|feature| printable(&feature))
        .collect();
    if unknown.is_empty() { Ok(()) } else { Err(HeaderError::UnknownFeatures { unknown }) }
}

fn split(file: &[u8]) -> Option<(&[u8], [u8; MAC_LEN])> {
    let (signed, tail) = file.split_at_checked(file.len().checked_sub(TAIL_LEN)?)?;
    let digits = tail.strip_prefix(TAIL_START)?.strip_suffix(TAIL_END)?;
    Some((signed, unhex(digits)?))
}

fn check(header: &Header, file_len: usize) -> Result<(), HeaderError> {
    if file_len as u64 > HEADER_BYTES_MAX {
        return Err(HeaderError::TooLarge { bytes: file_len as u64 });
    }
    let malformed = |detail: &str| Err(HeaderError::Malformed { detail: detail.to_owned() });
    if header.slots.is_empty() {
        return malformed("it has no key slot");
    }
    if header.slots.len() > SLOTS_MAX {
        return malformed("it has more than 32 key slots");
    }
    if header.version == 0 {
        return malformed("its version is 0");
    }
    for (at, slot) in header.slots.iter().enumerate() {
        if header.slots[..at].iter().any(|earlier| earlier.id == slot.id) {
            return malformed("two slots have the same id");
        }
        if !label_is_valid(&slot.label) {
            return malformed("a slot's label is longer than 64 bytes or has control characters");
        }
        if slot.unlock.feature().is_some_and(|needed| !header.features.iter().any(|f| f == needed))
        {
            return malformed("a slot is of a kind that is not among the features");
        }
        if let Unlock::Kms { key, ciphertext, .. } = &slot.unlock {
            if !is_kms_key_arn(key) {
                return malformed("a KMS slot names no full key ARN");
            }
            if ciphertext.0.len() > KMS_CIPHERTEXT_BYTES_MAX {
                return malformed("the ciphertext of a KMS slot is longer than KMS makes any");
            }
        }
    }
    Ok(())
}

/// Whether a slot may be called so: at most [`LABEL_BYTES_MAX`] bytes, nothing that moves a terminal's cursor.
pub fn label_is_valid(label: &str) -> bool {
    label.len() <= LABEL_BYTES_MAX && !label.chars().any(char::is_control)
}

/// A text with words of a header that nobody has proven yet, for people: short, and without
/// anything that moves a terminal's cursor.
fn printable(text: &str) -> String {
    let escape = |char: char| if char.is_control() { '\u{fffd}' } else { char };
    text.chars().take(TOLD_CHARS_MAX).map(escape).collect()
}

/// Bytes in lowercase hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Exactly `N` bytes in lowercase digits: one spelling for each value.
pub fn unhex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

/// Why a file is not a volume header that this build reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Something else altogether.
    #[error(
        "not a lidfs header ({detail}); check the volume URL, or restore lidfs.json from a copy"
    )]
    NotAHeader {
        /// What the JSON reader met.
        detail: String,
    },
    /// Written by a later format.
    #[error("format version {version} is unknown, this build reads version 1; update lidfs")]
    UnknownVersion {
        /// What the header says.
        version: u32,
    },
    /// The volume uses what this build does not know.
    #[error("the volume uses features that this build does not know: {}; update lidfs", unknown.join(", "))]
    UnknownFeatures {
        /// Their names.
        unknown: Vec<String>,
    },
    /// Of this version, but not as this version writes it.
    #[error("damaged lidfs header: {detail}; restore lidfs.json from a copy")]
    Malformed {
        /// What is wrong.
        detail: String,
    },
    /// Beyond [`HEADER_BYTES_MAX`].
    #[error(
        "a lidfs header of {bytes} bytes is more than the 1 MiB allowed; restore lidfs.json from a copy"
    )]
    TooLarge {
        /// Its length.
        bytes: u64,
    },
}

impl HeaderError {
    fn malformed(error: impl fmt::Display) -> Self {
        Self::Malformed { detail: printable(&error.to_string()) }
    }

    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownVersion { .. } | Self::UnknownFeatures { .. } => ErrorKind::Invalid,
            Self::NotAHeader { .. } | Self::Malformed { .. } | Self::TooLarge { .. } => {
                ErrorKind::Corrupt
            }
        }
    }
}

#[cfg(test)]
mod tests;
