//! Bars for figures, as many columns wide as there are.
//!
//! ```text
//! latency of requests, in ms
//!   PUT   p50     3.10 ████▌
//!         p90     5.20 ███████
//! ```

use std::fmt::Write as _;
use std::io::IsTerminal as _;

/// Columns where nobody says.
const WIDTH_DEFAULT: usize = 80;
const WIDTH_MIN: usize = 40;
/// Longer bars are not easier to compare.
const WIDTH_MAX: usize = 100;
/// What stands before a bar.
const LEFT: usize = 22;
const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// Figures that can be compared with each other.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Chart {
    /// What they are, and their unit.
    pub(super) title: String,
    /// From top to bottom.
    pub(super) groups: Vec<Group>,
    /// What is to be said of them, below.
    pub(super) notes: Vec<String>,
}

/// Figures of one kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Group {
    pub(super) name: String,
    /// Label and figure.
    pub(super) bars: Vec<(String, f64)>,
}

impl Chart {
    /// The figure that has the longest bar.
    pub(super) fn most(&self) -> f64 {
        let all = self.groups.iter().flat_map(|group| &group.bars);
        all.map(|(_, value)| *value).fold(0.0, f64::max)
    }

    /// Lines for a terminal.
    pub(super) fn text(&self, look: &Look) -> String {
        let (mut text, most) = (wrapped(&self.title, 0, look.width), self.most());
        for Group { name, bars } in &self.groups {
            for (number, (label, value)) in bars.iter().enumerate() {
                let name = if number == 0 { name.as_str() } else { "" };
                let bar = look.bar(*value, most);
                // Writing to a string cannot fail.
                let _ = writeln!(text, "  {name:<6}{label:>4} {:>8} {bar}", figure(*value));
            }
        }
        for note in &self.notes {
            text += &wrapped(note, 2, look.width);
        }
        text
    }
}

/// Three digits, or as many as it has before the point.
pub(super) fn figure(value: f64) -> String {
    let places = usize::from(value < 10.0) + usize::from(value < 100.0);
    format!("{value:.places$}")
}

/// How bars are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) width: usize,
    /// With parts of characters.
    pub(super) is_unicode: bool,
}

impl Look {
    /// As the terminal is, and its language.
    pub(super) fn of_terminal() -> Self {
        let stdout = std::io::stdout();
        let columns = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok());
        let columns = columns.flatten().map_or(0, |size| usize::from(size.ws_col));
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty());
        Self::new(columns, locale.as_deref())
    }

    fn new(columns: usize, locale: Option<&str>) -> Self {
        let width = if columns == 0 { WIDTH_DEFAULT } else { columns };
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        let is_unicode = locale.contains("utf-8") || locale.contains("utf8");
        Self { width: width.clamp(WIDTH_MIN, WIDTH_MAX), is_unicode }
    }

    /// As much of the room as `value` is of `most`; something for anything.
    // Both are small.
    #[allow(clippy::cast_precision_loss, clippy::cast_sign_loss)]
    fn bar(&self, value: f64, most: f64) -> String {
        if value <= 0.0 || most <= 0.0 {
            return String::new();
        }
        let room = self.width.saturating_sub(LEFT);
        let eighths = ((value / most * (room * 8) as f64).round() as usize).clamp(1, room * 8);
        if !self.is_unicode {
            return "#".repeat(eighths.div_ceil(8));
        }
        let mut bar = "█".repeat(eighths / 8);
        bar.extend((eighths % 8).checked_sub(1).map(|part| EIGHTHS[part]));
        bar
    }
}

/// Lines of at most `width` columns, each after `indent` blanks. A longer word has a line of its own.
pub(super) fn wrapped(text: &str, indent: usize, width: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        if let Some(line) = lines.last_mut() {
            if line.is_empty() {
                line.push_str(word);
                continue;
            }
            if indent + line.chars().count() + 1 + word.chars().count() <= width {
                line.push(' ');
                line.push_str(word);
                continue;
            }
        }
        lines.push(word.to_owned());
    }
    let indent = " ".repeat(indent);
    lines.iter().flat_map(|line| [indent.as_str(), line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let bar = |label: &str, value| (label.to_owned(), value);
        Chart {
            title: "latency, in ms".to_owned(),
            groups: vec![
                Group { name: "PUT".to_owned(), bars: vec![bar("p50", 3.1), bar("p99", 124.0)] },
                Group { name: "HEAD".to_owned(), bars: vec![bar("p50", 0.001), bar("p99", 0.0)] },
            ],
            notes: vec!["of 100 requests".to_owned()],
        }
    }

    #[test]
    fn bars_are_as_long_as_their_figures_and_the_longest_ends_at_the_edge() {
        let text = chart().text(&Look { width: 40, is_unicode: true });
        assert_eq!(
            text,
            "latency, in ms\n  \
             PUT    p50     3.10 ▌\n         \
             p99      124 ██████████████████\n  \
             HEAD   p50     0.00 ▏\n         \
             p99     0.00 \n  \
             of 100 requests\n"
        );
        let text = chart().text(&Look { width: 40, is_unicode: false });
        assert!(text.is_ascii() && text.contains("p99      124 ##################\n"), "{text}");
        assert!(text.contains("p50     3.10 #\n"), "{text}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [40, 41, 60, 80, 99, 100] {
            for is_unicode in [true, false] {
                let text = chart().text(&Look { width, is_unicode });
                let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
                assert_eq!(longest, width);
            }
        }
    }

    #[test]
    fn width_and_language_come_from_the_terminal_within_bounds() {
        let look = |columns, locale| {
            let Look { width, is_unicode } = Look::new(columns, locale);
            (width, is_unicode)
        };
        assert_eq!(look(0, None), (80, false));
        assert_eq!(look(3, Some("C")), (40, false));
        assert_eq!(look(90, Some("de_DE.UTF-8")), (90, true));
        assert_eq!(look(1000, Some("C.utf8")), (100, true));
    }

    #[test]
    fn figures_have_the_places_that_matter() {
        let told = [0.0, 0.123, 9.994, 12.345, 999.4, 12_345.6].map(figure);
        assert_eq!(told, ["0.00", "0.12", "9.99", "12.3", "999", "12346"]);
    }

    #[test]
    fn words_are_not_cut() {
        assert_eq!(wrapped("one two three", 2, 9), "  one two\n  three\n");
        assert_eq!(wrapped("one extraordinary", 0, 6), "one\nextraordinary\n");
    }
}
