//! What programs do to files: workloads that end in every crash there can be.
//!
//! Each is a list of steps that follows from a seed. A test runs one of them with seed after seed until
//! its share of states is looked at.

use std::collections::VecDeque;

use super::explorer::{Step, tell};
use super::ops::{Fill, Op, Target};
use super::volume::ProofVolume;
use super::{Random, wanted};
use crate::base::{KIB, MIB};
use crate::data::Compression;
use crate::format::FileKind;
use crate::fs::tests::support::ROOT_CALLER;
use crate::fs::{Allocate, RenameMode, XattrMode};

/// Crash states of all workloads together.
const STATES: usize = 5_200;
const STATES_LONG: usize = 100_000;

type Workload = fn(&mut Script);

const WORKLOADS: &[(&str, Workload)] = &[
    ("editor", editor),
    ("database", database),
    ("git", git),
    ("backup", backup),
    ("tree", tree),
    ("content", content),
    ("garbage", garbage),
    ("succession", succession),
];

/// A workload as it is written down.
struct Script {
    random: Random,
    steps: Vec<Step>,
    /// For content: each write has its own.
    next_fill: u64,
}

fn path(path: impl Into<String>) -> Target {
    Target::Path(path.into())
}

impl Script {
    fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), steps: Vec::new(), next_fill: seed << 20 }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn run(&mut self, op: Op) {
        self.steps.push(Step::Do(op));
    }

    /// Lets the bucket catch up, more or less.
    fn pause(&mut self) {
        let ms = self.below(30);
        match self.below(4) {
            0 => self.steps.push(Step::Wait(ms)),
            1 => self.steps.push(Step::FsyncSoon),
            _ => {}
        }
    }

    fn fsync(&mut self) {
        let step = if self.random.once_in(3) { Step::FsyncSoon } else { Step::Fsync };
        self.steps.push(step);
    }

    fn make(&mut self, path: impl Into<String>, kind: FileKind) {
        let permissions = if kind == FileKind::Directory { 0o755 } else { 0o644 };
        self.run(Op::Make { path: path.into(), kind, permissions, caller: ROOT_CALLER });
    }

    fn create(&mut self, path: impl Into<String>) {
        self.make(path, FileKind::Regular);
    }

    fn mkdir(&mut self, path: impl Into<String>) {
        self.make(path, FileKind::Directory);
    }

    fn write(&mut self, target: Target, offset: u64, len: u64) {
        self.next_fill += 1;
        let fill = Fill { seed: self.next_fill, len: len as usize };
        self.run(Op::Write { target, offset, fill });
    }

    fn rename(&mut self, from: impl Into<String>, to: impl Into<String>) {
        self.run(Op::Rename { from: from.into(), to: to.into(), mode: RenameMode::Replace });
    }

    fn truncate(&mut self, target: Target, size: u64) {
        self.run(Op::Truncate { target, size, caller: ROOT_CALLER });
    }
}

/// Saves in a new file, which then takes the old one's name; some keep a backup, some write in place.
fn editor(script: &mut Script) {
    script.create("text");
    for round in 0..9 {
        let len = 100 + script.below(30 * KIB);
        match script.below(3) {
            0 => {
                script.truncate(path("text"), 0);
                script.write(path("text"), 0, len);
            }
            kind => {
                script.create("text.new");
                for part in 0..=script.below(3) {
                    script.write(path("text.new"), part * len, len);
                }
                script.run(Op::Chmod { target: path("text.new"), permissions: 0o600 + round });
                script.fsync();
                if kind == 1 {
                    script.rename("text", format!("text.{}~", round % 2));
                }
                script.rename("text.new", "text");
            }
        }
        script.pause();
        script.fsync();
    }
}

/// Pages are written in place, after what they were is in a journal.
fn database(script: &mut Script) {
    const PAGE: u64 = 4 * KIB;
    script.create("db");
    script.write(path("db"), 0, 20 * PAGE);
    script.steps.push(Step::Fsync);
    for _ in 0..7 {
        script.create("db-journal");
        let pages: Vec<_> = (0..=script.below(5)).map(|_| script.below(24)).collect();
        script.write(path("db-journal"), 0, 512 + pages.len() as u64 * (PAGE + 8));
        script.fsync();
        script.write(path("db-journal"), 0, 28);
        script.fsync();
        for page in pages {
            script.write(path("db"), page * PAGE, PAGE);
            script.pause();
        }
        script.fsync();
        match script.below(3) {
            0 => script.truncate(path("db-journal"), 0),
            1 => script.write(path("db-journal"), 0, 28),
            _ => {}
        }
        script.run(Op::Unlink("db-journal".to_owned()));
        script.pause();
    }
}

/// Many small objects under names that follow from their content, and references by lock files.
fn git(script: &mut Script) {
    for directory in ["git", "git/objects", "git/refs"] {
        script.mkdir(directory);
    }
    for commit in 0..6u64 {
        for _ in 0..=script.below(4) {
            let name = script.random.next();
            let directory = format!("git/objects/{:02x}", name % 4);
            script.mkdir(directory.clone());
            let temporary = format!("{directory}/tmp_{commit}");
            script.create(temporary.clone());
            let len = 50 + script.below(3 * KIB);
            script.write(path(temporary.clone()), 0, len);
            script.run(Op::Chmod { target: path(temporary.clone()), permissions: 0o444 });
            let object = format!("{directory}/{name:x}");
            if script.random.once_in(2) {
                script.run(Op::Link { from: path(temporary.clone()), to: object });
                script.run(Op::Unlink(temporary));
            } else {
                script.rename(temporary, object);
            }
            script.pause();
        }
        script.fsync();
        script.create("git/refs/main.lock");
        script.write(path("git/refs/main.lock"), 0, 41);
        script.fsync();
        script.rename("git/refs/main.lock", "git/refs/main");
        script.create("git/index.lock");
        let len = 200 + script.below(80 * KIB);
        script.write(path("git/index.lock"), 0, len);
        script.rename("git/index.lock", "git/index");
        script.fsync();
    }
}

/// A few large files, each written once and renamed into its place; old ones are pruned.
fn backup(script: &mut Script) {
    const SNAPSHOTS: u64 = 6;
    const SNAPSHOTS_KEPT: usize = 2;
    script.mkdir("repo");
    script.mkdir("repo/data");
    // One is larger than a pack.
    let large = script.below(SNAPSHOTS);
    let mut kept: VecDeque<Vec<String>> = VecDeque::new();
    for snapshot in 0..SNAPSHOTS {
        let mut files = Vec::new();
        for file in 0..=script.below(3) {
            let least = if snapshot == large && file == 0 { MIB } else { 50 * KIB };
            let len = least + script.below(200 * KIB);
            script.create("repo/tmp");
            let mut at = 0;
            while at < len {
                let part = (128 * KIB).min(len - at);
                script.write(path("repo/tmp"), at, part);
                at += part;
            }
            script.fsync();
            let name = format!("repo/data/{:x}", script.random.next());
            script.rename("repo/tmp", name.clone());
            files.push(name);
        }
        let index = format!("repo/index-{snapshot}");
        script.create(index.clone());
        script.write(path(index.clone()), 0, 5 * KIB);
        script.fsync();
        files.push(index);
        kept.push_back(files);
        if kept.len() > SNAPSHOTS_KEPT {
            for file in kept.pop_front().into_iter().flatten() {
                script.run(Op::Unlink(file));
                script.pause();
            }
            script.steps.push(Step::Collect);
        }
        script.pause();
    }
}

/// Directories that move, files with several names, files without any.
fn tree(script: &mut Script) {
    const DIRECTORIES: u64 = 4;
    for directory in 0..DIRECTORIES {
        script.mkdir(format!("d{directory}"));
    }
    for round in 0..45u64 {
        let (from, to) = (script.below(DIRECTORIES), script.below(DIRECTORIES));
        let (a, b) = (script.below(5), script.below(5));
        let (old, new) = (format!("d{from}/f{a}"), format!("d{to}/f{b}"));
        let modes = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
        match script.below(14) {
            0..=2 => {
                script.create(old.clone());
                script.write(path(old), 0, 10 + round);
            }
            3 => script.run(Op::Link { from: path(old), to: new }),
            4 => script.run(Op::Unlink(old)),
            5 => {
                let mode = modes[script.below(3) as usize];
                script.run(Op::Rename { from: old, to: new, mode });
            }
            6 => script.mkdir(format!("d{from}/sub{a}")),
            7 => script.rename(format!("d{from}/sub{a}"), format!("d{to}/sub{b}")),
            8 => script.run(Op::Rmdir(format!("d{from}/sub{a}"))),
            9 => {
                script.rename(format!("d{from}"), format!("d{to}/moved"));
                script.rename(format!("d{to}/moved"), format!("d{from}"));
            }
            10 => {
                script.run(Op::Open { slot: (a % 3) as usize, path: old.clone() });
                script.run(Op::Unlink(old));
                script.write(Target::Slot((a % 3) as usize), 5, 3000);
            }
            11 => {
                script.write(Target::Slot((a % 3) as usize), 0, 200);
                script.run(Op::Close((a % 3) as usize));
            }
            12 => {
                let (name, value) = ("user.tag".to_owned(), Fill { seed: round, len: 30 });
                script.run(Op::SetXattr { target: path(old), name, value, mode: XattrMode::Set });
            }
            _ => script.run(Op::Symlink { path: format!("d{from}/l{a}"), target: new }),
        }
        script.pause();
        if round % 6 == 5 {
            script.fsync();
        }
    }
}

/// Files that grow, shrink, get holes, and share what others have.
fn content(script: &mut Script) {
    for file in 0..3 {
        script.create(format!("f{file}"));
    }
    for round in 0..40 {
        let (file, other) = (script.below(3), script.below(3));
        let (target, from) = (path(format!("f{file}")), path(format!("f{other}")));
        let (offset, len) = (script.below(150 * KIB), 1 + script.below(40 * KIB));
        match script.below(8) {
            0..=2 => script.write(target, offset, len),
            3 => script.truncate(target, offset),
            4 => script.run(Op::Allocate { target, offset, len, how: Allocate::PunchHole }),
            5 => {
                let how = Allocate::Zero { keep_size: len.is_multiple_of(2) };
                script.run(Op::Allocate { target, offset, len, how });
            }
            _ if file != other => {
                let from_offset = script.below(100 * KIB);
                script.run(Op::Copy { from, from_offset, to: target, to_offset: offset, len });
            }
            _ => script.write(target, offset, 3 * len),
        }
        script.pause();
        if round % 5 == 4 {
            script.fsync();
        }
    }
}

/// Packs that come, become sparse, are compacted and go, while files change.
fn garbage(script: &mut Script) {
    for round in 0..24u64 {
        let file = format!("f{}", script.below(6));
        match script.below(6) {
            0..=2 => {
                script.create(file.clone());
                let (offset, len) = (script.below(20 * KIB), 60 * KIB + script.below(60 * KIB));
                script.write(path(file), offset, len);
            }
            3 => script.run(Op::Unlink(file)),
            4 => {
                let (from, to) = (path(file), path(format!("f{}", script.below(6))));
                script.run(Op::Copy {
                    from,
                    from_offset: 0,
                    to,
                    to_offset: 4 * KIB,
                    len: 30 * KIB,
                });
            }
            _ => {
                let size = script.below(30 * KIB);
                script.truncate(path(file), size);
            }
        }
        script.pause();
        if round % 2 == 1 {
            script.fsync();
        }
        if round % 3 == 2 {
            script.steps.push(Step::Collect);
            // Commits free packs while others are deleted.
            for _ in 0..3 {
                let ms = script.below(6);
                script.steps.push(Step::Wait(ms));
                let file = format!("f{}", script.below(6));
                script.run(Op::Unlink(file));
                script.steps.push(Step::FsyncSoon);
            }
        }
    }
    script.steps.push(Step::Fsync);
}

/// Machines that follow one another, in good order or not.
fn succession(script: &mut Script) {
    for round in 0..6u64 {
        for _ in 0..=script.below(5) {
            let file = format!("f{}", script.below(4));
            script.create(file.clone());
            let (offset, len) = (script.below(9 * KIB), 1 + script.below(90 * KIB));
            script.write(path(file.clone()), offset, len);
            if script.random.once_in(3) {
                script.run(Op::Unlink(file));
            }
            script.pause();
        }
        if script.random.once_in(2) {
            script.fsync();
        }
        if round % 3 == 1 {
            script.steps.push(Step::Collect);
        }
        script.steps.push(if script.random.once_in(3) { Step::Remount } else { Step::Takeover });
    }
    script.fsync();
}

fn steps(workload: Workload, seed: u64) -> Vec<Step> {
    let mut script = Script::new(seed);
    workload(&mut script);
    script.steps
}

fn volume(seed: u64, name: &str) -> ProofVolume {
    let block_bytes = if name == "backup" { 64 * KIB } else { 4 * KIB };
    let compression =
        if seed.is_multiple_of(2) { Compression::default() } else { Compression::None };
    ProofVolume::new(block_bytes, compression)
}

/// Looks at this workload's share of states, or at what `LIDFS_CRASH` asks for.
fn explore(name: &str) {
    let (_, workload) = WORKLOADS.iter().find(|(known, _)| *known == name).unwrap();
    let asked = std::env::var("LIDFS_CRASH").ok();
    if let Some(asked) = &asked {
        let mut parts = asked.splitn(3, ':');
        let wanted = parts.next() == Some(name);
        if wanted {
            let seed =
                parts.next().unwrap_or("1").parse().expect("LIDFS_CRASH=workload:seed[:state]");
            let story = tell(volume(seed, name), seed, &steps(*workload, seed));
            println!("crash states: {} of {asked}", story.check(name, seed, parts.next()));
        }
        return;
    }
    let share = wanted("LIDFS_CRASH_STATES", STATES, STATES_LONG).div_ceil(WORKLOADS.len());
    let (mut seed, mut states) = (0, 0);
    while states < share {
        seed += 1;
        let story = tell(volume(seed, name), seed, &steps(*workload, seed));
        states += story.check(name, seed, None);
    }
    println!("crash states: {states}, workload {name}, seeds 1 to {seed}, lost 0");
}

#[test]
fn an_editor_survives_every_crash() {
    explore("editor");
}

#[test]
fn a_database_survives_every_crash() {
    explore("database");
}

#[test]
fn git_survives_every_crash() {
    explore("git");
}

#[test]
fn a_backup_survives_every_crash() {
    explore("backup");
}

#[test]
fn a_changing_tree_survives_every_crash() {
    explore("tree");
}

#[test]
fn changing_content_survives_every_crash() {
    explore("content");
}

#[test]
fn collecting_garbage_survives_every_crash() {
    explore("garbage");
}

#[test]
fn machines_that_follow_one_another_survive_every_crash() {
    explore("succession");
}
