//! `lidfs fsck`: exit codes as fsck(8) has them.

use serde::Serialize;

use super::init::runtime;
use super::options::ConfigArgs;
use super::{Exit, Failure};
use crate::check::{Finding, Report};
use crate::daemon::{self, Checked};
use crate::keys::Purpose;

/// Check the metadata of a volume, and mend it if asked to
///
/// Names, inodes, links, block maps, packs and counters are compared with each other. Without --repair
/// nothing is changed, and the volume may be mounted: what is in the bucket is checked. Exit codes are
/// those of fsck(8): 0, clean; 1, everything found was mended; 4, problems are left; 8, the check could
/// not be done.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// The volume: s3://bucket/prefix or file:///absolute/dir; default: the config's
    #[arg(value_name = "URL")]
    volume: Option<String>,
    /// Mend what can be mended safely; the volume must not be mounted read-write
    #[arg(long)]
    repair: bool,
    /// With --repair: take a volume over that another process has mounted read-write; that mount turns
    /// read-only
    #[arg(long, requires = "repair")]
    takeover: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Json {
    records: u64,
    found: u64,
    left: u64,
    problems: Vec<Line>,
    warnings: Vec<String>,
}

/// One problem.
#[derive(Debug, Serialize)]
struct Line {
    problem: String,
    inode: Option<u64>,
    path: Option<String>,
    repairable: bool,
    left: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    // Where a check could not be done, fsck(8) has one code for all reasons.
    let checked = check(args)
        .map_err(|failure| Failure { exit: Exit::NotChecked, message: failure.message })?;
    if args.json {
        let text = serde_json::to_string_pretty(&json(&checked))
            .map_err(|error| Failure::of(Exit::NotChecked, &error))?;
        println!("{text}");
    } else {
        print(&checked);
    }
    for warning in &checked.warnings {
        eprintln!("warning: {warning}");
    }
    verdict(&checked)
}

fn check(args: &Args) -> Result<Checked, Failure> {
    let resolved = args.config.resolve_without_mount(args.volume.as_deref())?;
    let secret = resolved.key_source()?.secret(Purpose::Unlock)?;
    let config = &resolved.config;
    let checked = runtime()?.block_on(async {
        if args.repair {
            Box::pin(daemon::mend(config, &secret, args.takeover)).await
        } else {
            Box::pin(daemon::check(config, &secret)).await
        }
    })?;
    Ok(checked)
}

/// Code and last line.
fn verdict(checked: &Checked) -> Result<(), Failure> {
    let found = checked.before.count();
    let what_next = match &checked.after {
        _ if found == 0 => return Ok(()),
        Some(after) if after.is_clean() => {
            let message = format!("problems found: {found}, all mended");
            return Err(Failure::new(Exit::Failure, message));
        }
        Some(after) if checked.is_unfinished => {
            format!(", left: {}; it was too much for one go, run it again", after.count())
        }
        Some(after) => {
            let left = after.count();
            format!(", cannot be mended: {left}; restore what is lost from a copy")
        }
        None => match checked.before.repairable {
            0 => "; none can be mended, restore what is lost from a copy".to_owned(),
            some if some == found => {
                "; `lidfs fsck --repair` mends them, while nobody has the volume mounted".to_owned()
            }
            some => format!(
                "; `lidfs fsck --repair` mends {some}, while nobody has the volume mounted; restore what else is lost from a copy"
            ),
        },
    };
    Err(Failure::new(Exit::Uncorrected, format!("problems found: {found}{what_next}")))
}

/// What a repair made of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Mended,
    Left,
    /// The report of what is left does not hold all of it.
    Unknown,
}

fn outcome(finding: &Finding, after: &Report) -> Outcome {
    if after.findings.iter().any(|left| left.problem == finding.problem) {
        Outcome::Left
    } else if after.more > 0 {
        Outcome::Unknown
    } else {
        Outcome::Mended
    }
}

fn print(checked: &Checked) {
    let Checked { before, after, paths, .. } = checked;
    for (line, finding) in before.lines(paths).iter().zip(&before.findings) {
        let note = match after {
            Some(after) => match outcome(finding, after) {
                Outcome::Mended => " [mended]",
                Outcome::Unknown => " [mended, or among those that are not shown]",
                Outcome::Left if finding.repair.is_some() => " [not mended]",
                Outcome::Left => " [cannot be mended]",
            },
            None if finding.repair.is_some() => "",
            None => " [cannot be mended]",
        };
        println!("{line}{note}");
    }
    let shown = |finding: &Finding| before.findings.contains(finding);
    if let Some(after) = after {
        let lines = after.lines(paths);
        let new = lines.iter().zip(&after.findings).filter(|(_, finding)| !shown(finding));
        new.for_each(|(line, _)| println!("{line} [left]"));
    }
    if before.more > 0 {
        println!("and {} more", before.more);
    }
    let counted = &before.counted;
    println!(
        "{} records checked: {} inodes, {} packs",
        before.records, counted.inodes, counted.space.packs
    );
}

fn json(checked: &Checked) -> Json {
    let Checked { before, after, paths, .. } = checked;
    let last = after.as_ref().unwrap_or(before);
    let line = |finding: &Finding| {
        let inode = finding.problem.inode();
        Line {
            problem: finding.problem.to_string(),
            inode: inode.map(|inode| inode.0),
            path: inode.and_then(|inode| paths.get(&inode).cloned()),
            repairable: finding.repair.is_some(),
            left: outcome(finding, last) != Outcome::Mended,
        }
    };
    let new = last.findings.iter().filter(|finding| !before.findings.contains(finding));
    Json {
        records: before.records,
        found: before.count(),
        left: last.count(),
        problems: before.findings.iter().chain(new).map(line).collect(),
        warnings: checked.warnings.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::Inode;
    use crate::check::{Problem, Repair};

    #[test]
    fn json_tells_what_was_mended_and_what_is_left() {
        let inode = Inode(7);
        let lost = Problem::MissingContent { inode, bytes: 5 };
        let lost = Finding { problem: lost, repair: None };
        let wrong = Finding {
            problem: Problem::WrongLinks { inode: Inode(8), recorded: 1, found: 2 },
            repair: Some(Repair::Adopt(Inode(8))),
        };
        let before =
            Report { findings: vec![wrong, lost.clone()], records: 3, ..Report::default() };
        let after = Report { findings: vec![lost], ..Report::default() };
        let paths = BTreeMap::from([(inode, "/file".to_owned())]);
        let warnings = vec!["late".to_owned()];
        let checked = Checked { before, after: Some(after), is_unfinished: false, paths, warnings };
        let json = serde_json::to_value(json(&checked)).unwrap();
        assert_eq!((&json["found"], &json["left"]), (&2.into(), &1.into()));
        let problems = &json["problems"];
        assert_eq!(problems[0]["left"], false);
        assert_eq!(problems[0]["repairable"], true);
        assert_eq!(problems[1]["path"], "/file");
        assert_eq!(problems[1]["left"], true);
        assert_eq!(problems[2], serde_json::Value::Null);
        assert_eq!(json["warnings"][0], "late");
    }

    /// What a run says that found so much, left so much, and found a repair for so much.
    fn said(found: u64, left: Option<u64>, repairable: u64) -> (u8, String) {
        let report = |more, repairable| Report { more, repairable, ..Report::default() };
        let checked = Checked {
            before: report(found, repairable),
            after: left.map(|left| report(left, 0)),
            is_unfinished: false,
            paths: BTreeMap::new(),
            warnings: Vec::new(),
        };
        verdict(&checked).map_or_else(|f| (f.exit.code(), f.message), |()| (0, String::new()))
    }

    #[test]
    fn codes_are_those_of_fsck() {
        assert_eq!(said(0, None, 0).0, 0);
        assert_eq!(said(0, Some(0), 0).0, 0);
        assert_eq!(said(3, Some(0), 3).0, 1);
        assert_eq!(said(3, Some(1), 2).0, 4);
        assert_eq!(said(3, None, 3).0, 4);
        assert_eq!(Exit::NotChecked.code(), 8);
    }

    #[test]
    fn a_repair_that_was_too_long_for_one_go_says_to_run_it_again() {
        let (before, after) =
            (Report { more: 9, ..Report::default() }, Report { more: 3, ..Report::default() });
        let (paths, warnings) = (BTreeMap::new(), Vec::new());
        let checked = Checked { before, after: Some(after), is_unfinished: true, paths, warnings };
        let failure = verdict(&checked).unwrap_err();
        assert_eq!(failure.exit.code(), 4);
        assert!(failure.message.ends_with("run it again"), "{}", failure.message);
    }

    #[test]
    fn a_repair_is_advised_only_where_it_mends_something() {
        let advice = |repairable| said(3, None, repairable).1;
        assert!(advice(3).contains("--repair` mends them"), "{}", advice(3));
        assert!(advice(1).contains("--repair` mends 1,"), "{}", advice(1));
        assert!(!advice(0).contains("--repair"), "{}", advice(0));
    }

    #[test]
    fn what_the_report_of_what_is_left_does_not_hold_is_not_said_to_be_mended() {
        let problem = Problem::WrongLinks { inode: Inode(8), recorded: 1, found: 2 };
        let finding = Finding { problem, repair: None };
        let left = |findings: &[Finding], more| {
            let report = Report { findings: findings.to_vec(), more, ..Report::default() };
            outcome(&finding, &report)
        };
        assert_eq!(left(&[], 0), Outcome::Mended);
        assert_eq!(left(&[], 1), Outcome::Unknown);
        assert_eq!(left(std::slice::from_ref(&finding), 1), Outcome::Left);
    }
}
