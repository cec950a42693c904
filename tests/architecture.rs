//! Holds the house to its plan: who may import whom, which crate lives in which room, how files look.
//!
//! ```text
//! src/**/*.rs --code_only--> code without comments and texts --tokens--> paths --> arrows, crates
//! ```
//!
//! The scan is textual: it knows `use` trees, paths inside code, and inline modules, and needs no
//! compiler. A rule that a file must break is changed here, in the tables, with the reason beside it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Top-level modules, highest first. An arrow runs from one rank to a lower one, never up and never
/// sideways: modules of one rank do not know each other.
const LAYERS: &[&[&str]] = &[
    // Tests of whole volumes without a kernel: part of no program.
    &["proofs"],
    // Every decoder, for tests: part of no program.
    &["fuzzing"],
    &["cli"],
    &["bench"],
    &["daemon"],
    &["config"],
    &["fuse", "gc"],
    &["fs"],
    &["snapshot", "check"],
    &["data"],
    &["meta"],
    &["volume"],
    &["keys"],
    &["bucket"],
    &["store"],
    &["format"],
    &["crypto"],
    &["base"],
];

/// Everything in `src`.
const ANYWHERE: &[&str] = &[""];

/// Crates of `[dependencies]`, each with the rooms it may be used in: paths below `src`, or their beginnings.
const CRATES: &[(&str, &[&str])] = &[
    ("bytes", ANYWHERE),
    ("serde", ANYWHERE),
    ("thiserror", ANYWHERE),
    ("tracing", ANYWHERE),
    // Not in format and crypto, which are pure.
    ("async-trait", &["proofs/", "daemon/", "fuse/", "fs/", "data/", "meta/", "volume/", "store/"]),
    (
        "futures",
        &[
            "proofs/", "bench/", "daemon/", "fuse/", "gc/", "fs/", "check/", "data/", "meta/",
            "volume/", "store/",
        ],
    ),
    (
        "tokio",
        &[
            "proofs/", "cli/", "bench/", "daemon/", "fuse/", "gc/", "fs/", "check/", "data/",
            "meta/", "volume/", "keys/", "store/",
        ],
    ),
    (
        "serde_json",
        &[
            "cli/",
            "bench/report.rs",
            "daemon/",
            "check/",
            "volume/",
            "keys/",
            "store/",
            "format/",
            "crypto/tests/",
        ],
    ),
    ("libc", &["daemon/", "config/", "fuse/", "data/", "keys/", "crypto/"]),
    ("lru", &["fs/", "data/", "store/"]),
    // Ciphers and keys.
    ("aes-gcm", &["crypto/"]),
    ("hkdf", &["crypto/"]),
    ("hmac", &["crypto/"]),
    ("subtle", &["crypto/"]),
    // Pins are files named by a hash.
    ("sha2", &["crypto/", "volume/pin.rs"]),
    // In the store for names of temporary files, jitter and probes: nothing that is secret.
    ("getrandom", &["crypto/", "store/"]),
    ("zeroize", &["crypto/", "keys/", "cli/sheet.rs"]),
    ("argon2", &["keys/"]),
    ("rpassword", &["keys/"]),
    ("bip39", &["keys/recovery.rs"]),
    ("aws-sdk-kms", &["keys/kms"]),
    // The picture of recovery words.
    ("qrcode", &["cli/"]),
    ("base64", &["format/"]),
    // Object stores.
    ("aws-config", &["store/", "keys/kms"]),
    ("aws-sdk-s3", &["store/", "bucket/"]),
    ("aws-smithy-http-client", &["store/"]),
    ("aws-smithy-runtime-api", &["store/s3/tls.rs"]),
    ("hyper-rustls", &["store/s3/tls.rs"]),
    ("hyper-util", &["store/s3/tls.rs"]),
    ("rustls-native-certs", &["store/s3/tls.rs"]),
    // What SSE-C names keys by; protects nothing.
    ("md5", &["store/s3/encryption.rs"]),
    ("aws-types", &["store/"]),
    ("http", &["store/"]),
    ("http-body", &["store/"]),
    ("rustls", &["store/"]),
    // The width of a terminal; pages that the kernel drops; time that a machine slept.
    (
        "rustix",
        &[
            "base/clock.rs",
            "cli/bench/",
            "bench/mount.rs",
            "config/identity",
            "daemon/",
            // Writes past the page cache.
            "data/disk_cache",
            "fuse/",
            "store/local",
        ],
    ),
    // The engine. `store` hands its object_store on to all; its tests run the engine on a sealed store.
    ("slatedb", &["meta/", "store/mod.rs", "store/sealed/tests.rs"]),
    // The mark on errors that the engine must not retry.
    ("slatedb-common", &["meta/", "store/sealed/"]),
    ("uuid", &["meta/"]),
    ("chrono", &["meta/"]),
    ("zstd", &["data/"]),
    ("fuser", &["fuse/"]),
    // Settings and commands.
    (
        "toml",
        &["cli/", "config/", "store/config.rs", "store/encryption.rs", "store/s3/encryption.rs"],
    ),
    ("humantime", &["cli/", "config/", "store/config.rs"]),
    ("bytesize", &["cli/", "config/"]),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/"]),
    ("clap_mangen", &["cli/"]),
    ("indicatif", &["cli/"]),
    // The program's allocator.
    ("mimalloc", &["main.rs"]),
    ("sd-notify", &["daemon/"]),
    ("tracing-subscriber", &["daemon/"]),
];

/// The files with unsafe code.
const UNSAFE: &[&str] = &[
    // mmap, mlock, madvise.
    "crypto/memory.rs",
    // What std has no interface for: fork, sessions, limits, unmounting, ids of this process.
    "daemon/system.rs",
    // System calls as programs make them, to try a mount.
    "fuse/tests.rs",
];

const LINES_MAX: usize = 800;

/// A source file below `src`.
struct Source {
    /// Below `src`, with slashes.
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The top-level module it is part of; `None` for `lib.rs` and `main.rs`.
    fn room(&self) -> Option<&str> {
        let first = self.path.split('/').next().unwrap_or_default();
        let name = first.strip_suffix(".rs").unwrap_or(first);
        (!matches!(name, "lib" | "main")).then_some(name)
    }

    /// How many modules deep it is: 1 for `fs/mod.rs`, 2 for `fs/core.rs`.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        if self.room().is_none() {
            0
        } else if self.path.ends_with("/mod.rs") {
            parts - 1
        } else {
            parts
        }
    }

    fn paths(&self) -> Vec<PathUse> {
        paths(&tokens(&code_only(&self.text)), self.depth())
    }
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<Source>) {
        let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix("src").unwrap().to_str().unwrap();
                found.push(Source::new(below, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    // Cargo runs tests in the package's directory.
    let mut found = Vec::new();
    walk(Path::new("src"), &mut found);
    assert!(found.len() > 50, "the scan found only {} files", found.len());
    found
}

/// The code with every comment, text and character made blank; lines stay where they are.
fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = blank_until(&chars, at);
        if end > at {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// The end of the comment or literal that begins at `at`; `at` itself if none does.
fn blank_until(chars: &[char], at: usize) -> usize {
    let next = |offset: usize| chars.get(at + offset).copied().unwrap_or_default();
    let after_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match chars[at] {
        '/' if next(1) == '/' => {
            at + chars[at..].iter().position(|c| *c == '\n').unwrap_or(chars.len() - at)
        }
        '/' if next(1) == '*' => end_of_block_comment(chars, at),
        '"' => end_of_text(chars, at),
        'r' if !after_word && matches!(next(1), '"' | '#') => end_of_raw_text(chars, at),
        'b' if !after_word && next(1) == 'r' && matches!(next(2), '"' | '#') => {
            end_of_raw_text(chars, at + 1)
        }
        // A character, not a lifetime.
        '\'' if next(1) == '\\' => {
            let close = chars[at + 3..].iter().position(|c| *c == '\'');
            close.map_or(chars.len(), |close| at + 3 + close + 1)
        }
        '\'' if next(2) == '\'' => at + 3,
        _ => at,
    }
}

fn end_of_block_comment(chars: &[char], at: usize) -> usize {
    let (mut end, mut depth) = (at, 0);
    while end < chars.len() {
        match (chars[end], chars.get(end + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                end += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                end += 2;
                if depth == 0 {
                    break;
                }
            }
            _ => end += 1,
        }
    }
    end.min(chars.len())
}

fn end_of_text(chars: &[char], at: usize) -> usize {
    let mut end = at + 1;
    while end < chars.len() && chars[end] != '"' {
        end += if chars[end] == '\\' { 2 } else { 1 };
    }
    (end + 1).min(chars.len())
}

fn end_of_raw_text(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        // A raw identifier.
        return at;
    }
    let close: Vec<char> = std::iter::once('"').chain(vec!['#'; hashes]).collect();
    let body = at + hashes + 2;
    let found = chars[body..].windows(close.len()).position(|window| window == close);
    found.map_or(chars.len(), |found| body + found + close.len())
}

/// A word, `::`, or one other character, with its line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

impl Token {
    fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

fn tokens(code: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            let len = if word(first) {
                rest.find(|c: char| !word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push(Token { text: rest[..len].to_owned(), line: number + 1 });
            rest = rest[len..].trim_start();
        }
    }
    tokens
}

/// A path in the code, resolved as far as the crate's root.
#[derive(Debug, PartialEq, Eq)]
struct PathUse {
    line: usize,
    target: Target,
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// A top-level module of this crate.
    Room(String),
    /// Whatever else a path begins with: a crate, or something local.
    Name(String),
}

fn paths(tokens: &[Token], file_depth: usize) -> Vec<PathUse> {
    let mut found = Vec::new();
    // Brace depths at which inline modules began.
    let (mut braces, mut modules) = (0, Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let text = |offset: usize| tokens.get(at + offset).map_or("", |token| token.text.as_str());
        let depth = file_depth + modules.len();
        match text(0) {
            "{" => braces += 1,
            "}" => {
                braces -= 1;
                modules.pop_if(|began| *began == braces);
            }
            "mod" if text(2) == "{" => modules.push(braces),
            "use" => {
                at = use_tree(tokens, at + 1, &mut Vec::new(), depth, &mut found);
                continue;
            }
            _ if begins_path(tokens, at) => {
                let mut segments = vec![text(0)];
                while text(2 * segments.len() - 1) == "::" {
                    segments.push(text(2 * segments.len()));
                }
                found.extend(resolve(&segments, depth, tokens[at].line));
                at += 2 * segments.len() - 1;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

fn begins_path(tokens: &[Token], at: usize) -> bool {
    let before = at.checked_sub(1).map_or("", |before| tokens[before].text.as_str());
    tokens[at].is_word()
        && !matches!(before, "::" | ".")
        && tokens.get(at + 1).is_some_and(|token| token.text == "::")
}

/// Reads one tree of a `use`, whose path so far is `prefix`; the place after it.
fn use_tree<'a>(
    tokens: &'a [Token],
    mut at: usize,
    prefix: &mut Vec<&'a str>,
    depth: usize,
    found: &mut Vec<PathUse>,
) -> usize {
    let base = prefix.len();
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "::" => at += 1,
            "as" => at += 2,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = use_tree(tokens, at, prefix, depth, found);
                    at += usize::from(tokens.get(at).is_some_and(|token| token.text == ","));
                }
                prefix.truncate(base);
                return at + 1;
            }
            "*" => {
                prefix.push("*");
                at += 1;
            }
            _ if token.is_word() => {
                prefix.push(&token.text);
                at += 1;
            }
            _ => break,
        }
    }
    let line = tokens.get(at.saturating_sub(1)).map_or(0, |token| token.line);
    found.extend(resolve(prefix, depth, line));
    prefix.truncate(base);
    at
}

fn resolve(segments: &[&str], depth: usize, line: usize) -> Option<PathUse> {
    let supers = segments.iter().take_while(|segment| **segment == "super").count();
    let target = match *segments.first()? {
        "crate" => Target::Room((*segments.get(1)?).to_owned()),
        "super" if supers >= depth => Target::Room((*segments.get(supers)?).to_owned()),
        "self" | "super" => return None,
        name => Target::Name(name.to_owned()),
    };
    Some(PathUse { line, target })
}

fn rank(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

fn wrong_arrows(source: &Source) -> Vec<String> {
    let Some(from) = source.room() else { return Vec::new() };
    let Some(from_rank) = rank(from) else {
        let at = &source.path;
        return vec![format!("src/{at}:1: module `{from}` has no place in LAYERS; give it one")];
    };
    let mut problems = Vec::new();
    for PathUse { line, target } in source.paths() {
        let Target::Room(to) = target else { continue };
        let place = format!("src/{}:{line}: `{from}`", source.path);
        match rank(&to) {
            _ if to == from => {}
            None => problems.push(format!(
                "{place} names `crate::{to}`, which is no module; import from the module itself"
            )),
            Some(to_rank) if to_rank <= from_rank => problems.push(format!(
                "{place} imports `{to}`, which is not below it; move what both need down, or hand it in \
                 from above"
            )),
            Some(_) => {}
        }
    }
    problems
}

fn code_name(crate_name: &str) -> String {
    crate_name.replace('-', "_")
}

fn crates_out_of_their_rooms(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    for PathUse { line, target } in source.paths() {
        let Target::Name(name) = target else { continue };
        let Some((name, rooms)) = CRATES.iter().find(|(known, _)| code_name(known) == name) else {
            continue;
        };
        if !rooms.iter().any(|room| source.path.starts_with(room)) {
            problems.push(format!(
                "src/{}:{line}: crate `{name}` may be used in {rooms:?} alone; use what those \
                 modules offer",
                source.path
            ));
        }
    }
    problems
}

/// Names in the section `[dependencies]`.
fn dependencies(cargo_toml: &str) -> Vec<&str> {
    let section = cargo_toml.lines().skip_while(|line| line.trim() != "[dependencies]").skip(1);
    section
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('=').map(|(name, _)| name.trim()))
        .collect()
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn imports_run_downward_only() {
    assert_none(&sources().iter().flat_map(wrong_arrows).collect::<Vec<_>>());
}

#[test]
fn third_party_crates_stay_in_their_rooms() {
    assert_none(&sources().iter().flat_map(crates_out_of_their_rooms).collect::<Vec<_>>());
}

#[test]
fn every_dependency_has_a_room_and_a_user() {
    let cargo_toml = fs::read_to_string("Cargo.toml").unwrap();
    let declared = dependencies(&cargo_toml);
    assert!(declared.len() > 20, "Cargo.toml was not understood");
    let sources = sources();
    let used: BTreeSet<String> = sources
        .iter()
        .flat_map(Source::paths)
        .filter_map(|path| match path.target {
            Target::Name(name) => Some(name),
            Target::Room(_) => None,
        })
        .collect();
    let mut problems = Vec::new();
    for name in &declared {
        let Some((_, rooms)) = CRATES.iter().find(|(known, _)| known == name) else {
            problems.push(format!(
                "Cargo.toml: `{name}` has no room; add it to CRATES in tests/architecture.rs"
            ));
            continue;
        };
        // A crate whose rooms are still to be built cannot have a user.
        let built = sources.iter().any(|s| rooms.iter().any(|room| s.path.starts_with(room)));
        if built && !used.contains(&code_name(name)) {
            problems.push(format!("Cargo.toml: nobody uses `{name}`; remove it"));
        }
    }
    let unknown = CRATES.iter().filter(|(name, _)| !declared.contains(name));
    problems.extend(unknown.map(|(name, _)| {
        format!(
            "tests/architecture.rs: CRATES names `{name}`, which Cargo.toml does not; remove it"
        )
    }));
    assert_none(&problems);
}

#[test]
fn files_are_short_and_open_with_what_they_are_for() {
    let mut problems = Vec::new();
    for Source { path, text } in sources() {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            problems.push(format!(
                "src/{path}:{lines}: more than {LINES_MAX} lines; split it by subject"
            ));
        }
        if !text.starts_with("//! ") {
            problems.push(format!("src/{path}:1: does not open with `//!`; say what it is for"));
        }
    }
    assert_none(&problems);
}

#[test]
fn lib_lists_the_modules_in_the_order_of_the_layers() {
    let lib = fs::read_to_string("src/lib.rs").unwrap();
    let tokens = tokens(&code_only(&lib));
    let modules = tokens.windows(3).filter(|window| window[1].text == "mod");
    let listed: Vec<_> = modules.map(|window| window[2].text.as_str()).collect();
    let planned = LAYERS.iter().copied().flatten().copied();
    let expected: Vec<_> = planned.filter(|module| listed.contains(module)).collect();
    assert_eq!(listed, expected, "src/lib.rs: bring the modules into the order of LAYERS");
    assert!(listed.len() > 8, "src/lib.rs was not understood");
}

#[test]
fn unsafe_code_stands_in_the_named_files_alone() {
    let sources = sources();
    let unsafe_line = |source: &Source| {
        let tokens = tokens(&code_only(&source.text));
        tokens.iter().find(|token| token.text == "unsafe").map(|token| token.line)
    };
    let mut problems = Vec::new();
    for source in &sources {
        let (path, listed) = (&source.path, UNSAFE.contains(&source.path.as_str()));
        match unsafe_line(source) {
            Some(line) if !listed => problems.push(format!(
                "src/{path}:{line}: unsafe code; use a safe interface (rustix), or add the file to UNSAFE \
                 with the reason"
            )),
            None if listed => problems.push(format!("src/{path}:1: no unsafe code; remove it from UNSAFE")),
            _ => {}
        }
    }
    assert_none(&problems);
}

/// Lines at which `check` finds something in a file at `path`.
fn lines_found(check: fn(&Source) -> Vec<String>, path: &str, text: &str) -> Vec<String> {
    let source = Source::new(path, text);
    let line = |problem: &String| problem.split(':').nth(1).unwrap_or_default().to_owned();
    check(&source).iter().map(line).collect()
}

#[test]
fn the_scan_finds_planted_arrows_and_is_not_misled() {
    let found = |path, text| lines_found(wrong_arrows, path, text);
    assert_eq!(found("store/mod.rs", "\nuse crate::fs::FileSystem;"), ["2"]);
    assert_eq!(
        found("store/mod.rs", "use crate::{base::Inode,\n meta::{Batch, Record}};"),
        ["2", "2"]
    );
    assert_eq!(found("store/url.rs", "fn f() {\n crate::volume::open();\n}"), ["2"]);
    assert_eq!(found("store/mod.rs", "use super::data::Chunk;"), ["1"]);
    assert_eq!(found("store/url.rs", "use super::super::data::Chunk;"), ["1"]);
    assert_eq!(found("snapshot/mod.rs", "use crate::check::Report;"), ["1"]);
    assert_eq!(
        found("fs/core.rs", "#[cfg(test)]\nmod tests {\n use crate::fuse::Session;\n}"),
        ["3"]
    );
    assert_eq!(found("fs/core.rs", "pub use crate::nowhere::Thing;"), ["1"]);
    assert_eq!(found("attic/mod.rs", ""), ["1"]);

    let nothing: [&str; 0] = [];
    let harmless = [
        "use crate::store::object_store;",
        "//! See [`x`](crate::fuse).\n/* crate::cli::run /* crate::fs */ */",
        "const A: &str = \"crate::fuse::x\"; const C: char = '\"'; const B: &str = r#\"crate::cli::\"\"#;",
        "const C: &[u8] = br\"crate::cli::\"; const D: &str = \"\\\"crate::cli::\";",
        "fn f<'a>(x: &'a str) { let c = '\\''; let d = 'x'; crate::base::f(x, c, d) }",
        "mod tests {\n use super::super::core;\n mod deep { use super::super::super::core; }\n}",
    ];
    for text in harmless {
        assert_eq!(found("fs/core.rs", text), nothing, "{text}");
    }
}

#[test]
fn the_scan_finds_planted_crates_and_is_not_misled() {
    let found = |path, text| lines_found(crates_out_of_their_rooms, path, text);
    assert_eq!(found("fs/core.rs", "use fuser::Request;"), ["1"]);
    assert_eq!(found("fs/core.rs", "fn f() -> slatedb::Error { aes_gcm::f() }"), ["1", "1"]);
    assert_eq!(found("format/key.rs", "use {std::fmt,\ntokio::sync::Notify};"), ["2"]);
    assert_eq!(found("crypto/gcm.rs", "#[tokio::test]\nasync fn f() {}"), ["1"]);
    assert_eq!(found("store/sealed/mod.rs", "use slatedb;"), ["1"]);
    let nothing: [&str; 0] = [];
    assert_eq!(found("crypto/gcm.rs", "use aes_gcm::Aes256Gcm;"), nothing);
    assert_eq!(
        found("fs/core.rs", "use super::http::x; // fuser::Request\nself.http::<u8>()"),
        nothing
    );
}
