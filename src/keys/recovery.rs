//! Recovery words: 256 random bits on paper.
//!
//! ```text
//! 32 bytes ‖ first byte of SHA-256(them)  =  264 bits  =  24 words of 11 bits    (BIP-39, English)
//! ```
//!
//! They are as strong as a keyfile, so nothing is stretched. Each word is known
//! by its first four letters; the checksum finds 255 of 256 other mistakes, and
//! what it does not find opens no slot.

use bip39::{Error, Language, Mnemonic};
use zeroize::Zeroizing;

use super::slot::Place;
use super::{KeyError, SlotKind};
use crate::crypto::{SecretBytes, SecretKey, random_bytes};
use crate::format::header::{Base64, Unlock};

/// How many words there are.
pub const WORDS: usize = 24;
/// Longest text with words in it: the longest word of the list has 8 letters, but people number and wrap them.
const TEXT_BYTES_MAX: usize = 4096;

/// The words of a key, in small letters, with single spaces between them.
///
/// # Errors
/// [`KeyError::Words`]: never for a key of 32 bytes.
pub fn words(key: &SecretKey) -> Result<SecretBytes, KeyError> {
    let mnemonic = Mnemonic::from_entropy(key.expose()).map_err(|_| unlike_words())?;
    let mnemonic = Zeroizing::new(mnemonic);
    let mut text = Zeroizing::new(String::with_capacity(TEXT_BYTES_MAX));
    for (at, word) in mnemonic.words().enumerate() {
        if at > 0 {
            text.push(' ');
        }
        text.push_str(word);
    }
    Ok(SecretBytes::copy_of(text.as_bytes()))
}

fn unlike_words() -> KeyError {
    KeyError::Words { detail: "they are not text".to_owned() }
}

/// The key of words as people type them: capital letters, numbers before the words and any white
/// space are taken.
///
/// # Errors
/// [`KeyError::Words`], which tells the place of a word that is none, and never a word.
pub fn parse(text: &SecretBytes) -> Result<SecretKey, KeyError> {
    let wrong = |detail: String| KeyError::Words { detail };
    let text = std::str::from_utf8(text.expose()).map_err(|_| unlike_words())?;
    let mut plain = Zeroizing::new(String::with_capacity(TEXT_BYTES_MAX + 1));
    let is_number = |word: &str| word.trim_end_matches(['.', ')', ':']).parse::<u8>().is_ok();
    let mut count = 0;
    for word in text.split_whitespace().filter(|word| !is_number(word)) {
        count += 1;
        if count > 1 {
            plain.push(' ');
        }
        let begun = plain.len();
        plain.push_str(word);
        plain[begun..].make_ascii_lowercase();
        if Language::English.find_word(&plain[begun..]).is_none() {
            return Err(wrong(format!(
                "word {count} is not in the list of words; look for a mistyped letter"
            )));
        }
    }
    if count != WORDS {
        return Err(wrong(format!("there are {WORDS} words, not {count}")));
    }
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, &plain).map_err(|error| {
        wrong(match error {
            Error::InvalidChecksum => {
                "each is in the list, but the checksum is wrong: one is another word than on the sheet, or two are exchanged".to_owned()
            }
            _ => "they are not of the form that is on the sheet".to_owned(),
        })
    })?;
    let (entropy, length) = Zeroizing::new(mnemonic).to_entropy_array();
    let entropy = Zeroizing::new(entropy);
    let key = entropy.get(..length).and_then(|key| key.try_into().ok());
    key.map(SecretKey::copy_of).ok_or_else(unlike_words)
}

pub(super) fn new_slot(place: Place, key: &SecretKey) -> (Unlock, SecretKey) {
    let salt = random_bytes::<32>();
    (Unlock::Recovery { salt: Base64(salt.to_vec()) }, kek(place, key, &salt))
}

pub(super) fn kek(place: Place, key: &SecretKey, salt: &[u8]) -> SecretKey {
    place.kek(SlotKind::Recovery, key, salt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(key: &SecretKey) -> String {
        String::from_utf8(words(key).unwrap().expose().to_vec()).unwrap()
    }

    fn parsed(text: &str) -> Result<SecretKey, KeyError> {
        parse(&SecretBytes::copy_of(text.as_bytes()))
    }

    #[test]
    fn words_are_those_of_bip_39() {
        // Vectors of the BIP (trezor/python-mnemonic, vectors.json).
        let zeros = format!("{}art", "abandon ".repeat(23));
        assert_eq!(text(&SecretKey::from_bytes([0; 32])), zeros);
        let ones = format!("{}vote", "zoo ".repeat(23));
        assert_eq!(text(&SecretKey::from_bytes([0xff; 32])), ones);
        assert_eq!(parsed(&ones).unwrap().expose(), &[0xff; 32]);
    }

    #[test]
    fn words_read_back_as_people_type_them() {
        let key = SecretKey::generate();
        let text = text(&key);
        assert!(text.len() < TEXT_BYTES_MAX);
        let numbered = text.split(' ').enumerate();
        let numbered: Vec<_> = numbered.map(|(at, word)| format!("{}. {word}", at + 1)).collect();
        let numbered = numbered.join("\n");
        for typed in [text.clone(), text.to_uppercase(), numbered, text.replace(' ', " \t\r\n ")] {
            assert_eq!(parsed(&typed).unwrap().expose(), key.expose());
        }
    }

    #[test]
    fn a_mistake_is_told_by_place_or_checksum_and_without_the_words() {
        let text = text(&SecretKey::from_bytes([7; 32]));
        let words: Vec<&str> = text.split(' ').collect();
        let with = |at: usize, word: &str| {
            let mut words = words.clone();
            words[at] = word;
            parsed(&words.join(" ")).unwrap_err().to_string()
        };
        assert!(with(6, "lidfs").contains("word 7 is not in the list"));
        assert!(!with(6, "lidfs").contains("lidfs "));
        // Of the last word's 11 bits 8 are the checksum.
        let last = if words[23] == "zoo" { "abandon" } else { "zoo" };
        assert!(with(23, last).contains("checksum"), "{}", with(23, last));
        let short = parsed(&words[..23].join(" ")).unwrap_err().to_string();
        assert!(short.contains("24 words, not 23"), "{short}");
        for said in [with(6, "lidfs"), with(23, last), short] {
            assert!(words.iter().filter(|word| word.len() > 5).all(|word| !said.contains(*word)));
        }
        assert!(parse(&SecretBytes::copy_of(&[0xff, 0xfe])).is_err());
    }
}
