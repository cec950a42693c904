//! The recovery sheet: words and a picture of them, to be printed and put away.
//!
//! ```text
//! terminal:  title, volume, 24 numbered words, QR code in half blocks
//! --svg:     the same as a page, in small and black
//! ```
//!
//! The QR code holds the words in capital letters, which it packs most tightly.

use std::fmt::Write;

use qrcode::render::unicode::Dense1x2;
use qrcode::{Color, EcLevel, QrCode};
use zeroize::Zeroizing;

use super::{Exit, Failure, date};
use crate::crypto::{SecretBytes, SecretKey};
use crate::format::header::SlotId;
use crate::keys;

/// Light modules around a QR code (ISO/IEC 18004).
const QUIET_ZONE: usize = 4;
/// Words beside each other.
const COLUMNS: usize = 4;
/// A page of A4, in tenths of a millimetre.
const PAGE: (usize, usize) = (2100, 2970);
const MARGIN: usize = 200;
/// Edge of the picture on the page.
const PICTURE: usize = 900;
/// Longer than any sheet, so that no copy of one is left behind by a text that grew.
const SHEET_BYTES: usize = 256 * 1024;

/// What a sheet says besides the words.
pub(super) struct Sheet<'a> {
    pub(super) volume: String,
    pub(super) url: String,
    pub(super) slot: SlotId,
    pub(super) label: &'a str,
    pub(super) made: i64,
    words: SecretBytes,
    code: QrCode,
}

impl<'a> Sheet<'a> {
    /// The sheet of a key, not yet of a slot.
    pub(super) fn new(key: &SecretKey, label: &'a str) -> Result<Self, Failure> {
        let words = keys::recovery_words(key)?;
        let capital = Zeroizing::new(words.expose().to_ascii_uppercase());
        let code = QrCode::with_error_correction_level(capital.as_slice(), EcLevel::M)
            .map_err(|error| Failure::new(Exit::Failure, format!("no QR code: {error}")))?;
        let (volume, url) = (String::new(), String::new());
        Ok(Self { volume, url, slot: SlotId([0; 8]), label, made: 0, words, code })
    }

    fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        let words = self.words.expose().split(|byte| *byte == b' ');
        (1..).zip(words.map(|word| std::str::from_utf8(word).unwrap_or_default()))
    }

    fn facts(&self) -> [String; 3] {
        let label = if self.label.is_empty() { "-" } else { self.label };
        [
            format!("volume {} at {}", self.volume, self.url),
            format!("key slot {}, {label}, made {}", self.slot, date(self.made)),
            "Who has this sheet can read the drive. Mount with --recovery-words and type the words."
                .to_owned(),
        ]
    }

    /// For the terminal, or a printer behind it.
    pub(super) fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(SHEET_BYTES));
        text.push_str("lidfs recovery sheet\n\n");
        for line in self.facts() {
            text.push_str(&line);
            text.push('\n');
        }
        for (number, word) in self.words() {
            let before = if number % COLUMNS == 1 { "\n" } else { "" };
            // Writing to a String cannot fail.
            let _ = write!(text, "{before}{number:>4}. {word:<9}");
        }
        let picture = Zeroizing::new(self.code.render::<Dense1x2>().build());
        text.push_str("\n\n");
        text.push_str(&picture);
        text.push('\n');
        text
    }

    /// One page.
    pub(super) fn svg(&self) -> Zeroizing<String> {
        let mut svg = Zeroizing::new(String::with_capacity(SHEET_BYTES));
        let (width, height) = PAGE;
        // Writing to a String cannot fail.
        let _ = write!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"210mm\" height=\"297mm\" viewBox=\"0 0 {width} {height}\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
             <text x=\"{MARGIN}\" y=\"260\" font-family=\"sans-serif\" font-size=\"70\">lidfs recovery sheet</text>\n"
        );
        for (line, text) in self.facts().iter().enumerate() {
            let y = 340 + 45 * line;
            let text = escaped(text);
            let _ = writeln!(
                svg,
                "<text x=\"{MARGIN}\" y=\"{y}\" font-family=\"sans-serif\" font-size=\"32\">{text}</text>"
            );
        }
        for (number, word) in self.words() {
            let (row, column) = ((number - 1) / COLUMNS, (number - 1) % COLUMNS);
            let (x, y) = (MARGIN + 430 * column, 560 + 90 * row);
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{y}\" font-family=\"monospace\" font-size=\"52\">{number}. {word}</text>"
            );
        }
        let modules = self.code.width() + 2 * QUIET_ZONE;
        let (left, top) = ((width - PICTURE) / 2, 1150);
        let _ = write!(
            svg,
            "<svg x=\"{left}\" y=\"{top}\" width=\"{PICTURE}\" height=\"{PICTURE}\" viewBox=\"0 0 {modules} {modules}\" shape-rendering=\"crispEdges\"><path d=\""
        );
        let colors = self.code.to_colors();
        for (at, _) in colors.iter().enumerate().filter(|(_, color)| **color == Color::Dark) {
            let (x, y) = (at % self.code.width() + QUIET_ZONE, at / self.code.width() + QUIET_ZONE);
            let _ = write!(svg, "M{x} {y}h1v1h-1z");
        }
        svg.push_str("\"/></svg>\n</svg>\n");
        svg
    }
}

/// For the text of an XML element. Control characters, which XML 1.0 does not know, become question marks.
pub(super) fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace(|c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'), "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_has_every_word_and_no_markup_of_others() {
        let key = SecretKey::from_bytes([0; 32]);
        let mut sheet = Sheet::new(&key, "<b>&amp").unwrap();
        sheet.url = "s3://bucket/drive".to_owned();
        let (text, svg) = (sheet.text(), sheet.svg());
        assert_eq!(text.matches("abandon").count(), 23);
        assert!(text.contains("24. art") && text.contains("s3://bucket/drive"));
        assert_eq!(svg.matches("abandon").count(), 23);
        assert!(svg.contains("&lt;b&gt;&amp;amp") && !svg.contains("<b>"));
        assert!(text.len() < SHEET_BYTES && svg.len() < SHEET_BYTES);
    }

    #[test]
    fn text_of_others_is_valid_xml() {
        assert_eq!(escaped("a<b>&c\u{1}\n\u{ffff}é\"'"), "a&lt;b&gt;&amp;c???é\"'");
    }

    #[test]
    fn the_picture_has_the_finder_pattern_in_its_quiet_zone() {
        let sheet = Sheet::new(&SecretKey::from_bytes([7; 32]), "").unwrap();
        let svg = sheet.svg();
        for at in 4..11 {
            assert!(svg.contains(&format!("M{at} 4h1v1h-1z")), "{at}");
        }
        assert!(!svg.contains("M11 4h1") && !svg.contains("M3 "));
    }
}
