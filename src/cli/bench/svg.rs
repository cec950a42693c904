//! The picture as a page in SVG.

use std::fmt::Write as _;

use super::chart::{Chart, Group, figure, wrapped};
use super::picture::{Section, change, no_advice, sections};
use crate::bench::Report;
use crate::cli::sheet::escaped;

const WIDTH: usize = 800;
const MARGIN: usize = 30;
/// Where bars begin, and how long the longest is.
const BARS: usize = 160;
const BAR_LONGEST: f64 = 540.0;
const BAR_HEIGHT: usize = 12;
const LINE: usize = 18;
/// Characters of small text that fit beside each other.
const COLUMNS: usize = 105;
/// One a group, told apart also without colours by their names.
const COLOURS: [&str; 3] = ["#2a6f97", "#5b8e3e", "#b5651d"];

/// Everything, from top to bottom.
struct Page {
    body: String,
    y: usize,
}

/// A page with all of `report`.
pub(super) fn page(report: &Report, is_configured: bool) -> String {
    let mut page = Page { body: String::new(), y: MARGIN };
    page.line(MARGIN, 22, &format!("lidfs bench {}", report.version));
    for Section { title, charts } in sections(report) {
        page.y += LINE;
        page.text(17, &title);
        for chart in &charts {
            page.chart(chart);
        }
    }
    page.y += LINE;
    if report.advice.is_empty() {
        page.text(13, no_advice(is_configured));
    } else {
        page.text(17, "settings to change");
        for advice in &report.advice {
            page.text(13, &change(advice));
            page.text(12, &advice.why);
        }
    }
    let (body, height) = (page.body, page.y + MARGIN);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

impl Page {
    fn line(&mut self, x: usize, size: usize, text: &str) {
        let (y, text) = (self.y, escaped(text));
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\">{text}</text>");
        self.y += LINE;
    }

    /// In as many lines as it needs.
    fn text(&mut self, size: usize, text: &str) {
        for line in wrapped(text, 0, COLUMNS).lines() {
            self.line(MARGIN, size, line);
        }
    }

    fn chart(&mut self, chart: &Chart) {
        self.y += LINE / 2;
        self.text(14, &chart.title);
        let most = chart.most();
        for (Group { name, bars }, colour) in chart.groups.iter().zip(COLOURS.iter().cycle()) {
            for (number, (label, value)) in bars.iter().enumerate() {
                let name = if number == 0 { name } else { "" };
                self.bar(&format!("{name} {label}"), *value, most, colour);
            }
        }
        for note in &chart.notes {
            self.text(12, note);
        }
    }

    fn bar(&mut self, label: &str, value: f64, most: f64, colour: &str) {
        let length = if most > 0.0 { (value / most * BAR_LONGEST).max(1.0) } else { 1.0 };
        let (y, top, left) = (self.y, self.y - BAR_HEIGHT + 2, BARS - 10);
        #[allow(clippy::cast_precision_loss)] // A few hundred.
        let after = BARS as f64 + length + 6.0;
        let (label, value) = (escaped(label.trim()), figure(value));
        let _ = write!(
            self.body,
            "<text x=\"{left}\" y=\"{y}\" font-size=\"12\" text-anchor=\"end\">{label}</text>\n\
             <rect x=\"{BARS}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{colour}\"/>\n\
             <text x=\"{after:.1}\" y=\"{y}\" font-size=\"12\">{value}</text>\n"
        );
        self.y += LINE;
    }
}

#[cfg(test)]
mod tests {
    use super::super::picture::tests::report;
    use super::*;

    #[test]
    fn text_of_others_is_no_markup() {
        let svg = page(&report("s3://b/<script>&amp"), true);
        assert!(svg.contains("s3://b/&lt;script&gt;&amp;amp") && !svg.contains("<script"), "{svg}");
    }

    #[test]
    fn every_figure_has_a_bar_on_the_page() {
        let svg = page(&report("s3://b/p"), true);
        // Nine latencies, four throughputs, two files, three fsyncs, and the page itself.
        assert_eq!(svg.matches("<rect").count(), 9 + 4 + 2 + 3 + 1);
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(svg.starts_with("<?xml") && svg.ends_with("</svg>\n"));
        let height: usize =
            svg.split("height=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
        let lowest = svg.split(" y=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        assert!(lowest.map(|y| y.parse::<usize>().unwrap()).max().unwrap() < height);
        assert!(svg.contains(&format!("width=\"{BAR_LONGEST:.1}\"")));
    }

    #[test]
    fn figures_of_nothing_still_make_a_page() {
        let mut report = report("s3://b/p");
        report.store = None;
        report.advice.clear();
        report.mount.as_mut().unwrap().fsync = crate::bench::Latency::default();
        let svg = page(&report, false);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(svg.contains("give the config of the mount"));
    }
}
