//! `lidfs scrub`

use serde::Serialize;

use super::init::runtime;
use super::options::{ConfigArgs, size_per_second};
use super::progress::ScrubBar;
use super::{Exit, Failure, date};
use crate::check::{DamagedFile, DamagedObject, Fault, FaultyPack, Scrubbed};
use crate::config::Size;
use crate::daemon;
use crate::keys::Purpose;
use crate::volume::LEASE_NAME;

/// Fetch and authenticate every byte of a volume
///
/// Header, keys, all objects of the metadata, all packs. Damaged files are listed with the byte ranges
/// that cannot be read. Changes nothing, and works beside a mount. What is interrupted goes on where it
/// was. Exit code 4: damage was found.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// The volume: s3://bucket/prefix or file:///absolute/dir; default: the config's
    #[arg(value_name = "URL")]
    volume: Option<String>,
    /// Bytes to fetch a second at most, such as "20 MiB"; default: as fast as possible
    #[arg(long, value_name = "SIZE", value_parser = size_per_second)]
    rate: Option<Size>,
    /// Begin anew instead of where the last scrub was interrupted
    #[arg(long)]
    restart: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Json<'a> {
    metadata_objects: u64,
    damaged_objects: Vec<JsonObject<'a>>,
    records: u64,
    damaged_records: u64,
    packs: u64,
    bytes: u64,
    resumed: bool,
    /// When it began, if it went on where an earlier one was interrupted.
    resumed_since: Option<String>,
    metadata: &'a Option<String>,
    faulty_packs: &'a [FaultyPack],
    damaged_files: Vec<JsonFile<'a>>,
}

/// One damaged object of the metadata.
#[derive(Debug, Serialize)]
struct JsonObject<'a> {
    name: &'a str,
    why: &'a str,
}

/// One damaged file.
#[derive(Debug, Serialize)]
struct JsonFile<'a> {
    inode: u64,
    path: &'a Option<String>,
    /// First byte, and one past the last.
    ranges: Vec<[u64; 2]>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let resolved = args.config.resolve_without_mount(args.volume.as_deref())?;
    let secret = resolved.key_source()?.secret(Purpose::Unlock)?;
    let bar = ScrubBar::new();
    let rate = args.rate.as_ref().map(|rate| rate.0);
    let show = |progress| bar.show(progress);
    let work = daemon::scrub(&resolved.config, &secret, rate, args.restart, &show);
    let found = runtime()?.block_on(work);
    bar.end();
    let found = found?;
    if args.json {
        let text = serde_json::to_string_pretty(&json(&found))
            .map_err(|error| Failure::of(Exit::Failure, &error))?;
        println!("{text}");
    } else {
        print(&found);
    }
    verdict(&found)
}

/// Code and last line.
fn verdict(found: &Scrubbed) -> Result<(), Failure> {
    if found.is_clean() {
        return Ok(());
    }
    let mut parts = Vec::new();
    let mut count = |what: &str, number: usize| {
        if number > 0 {
            parts.push(format!("{what}: {number}"));
        }
    };
    count("damaged objects of the metadata", found.objects.damaged.len());
    count(
        "records that do not decode",
        usize::try_from(found.damaged_records).unwrap_or(usize::MAX),
    );
    count("packs with faults", found.faulty.len());
    count("files that cannot be read whole", found.files.len());
    if found.metadata.is_some() {
        parts.push("not all metadata can be read".to_owned());
    }
    let advice = advice(found);
    Err(Failure::new(Exit::Uncorrected, format!("{}; {advice}", parts.join(", "))))
}

/// What to do about what was found.
fn advice(found: &Scrubbed) -> &'static str {
    let has = |is_it: fn(&Fault) -> bool| {
        found.faulty.iter().flat_map(|faulty| &faulty.faults).any(is_it)
    };
    let is_lease = |damaged: &DamagedObject| damaged.name == LEASE_NAME;
    if !found.is_readable() {
        "restore those objects or the whole volume from a copy"
    } else if has(|fault| matches!(fault, Fault::Unreadable { .. })) {
        "see why the store refuses what cannot be read, and restore what else is damaged from a copy"
    } else if found.damaged_records > 0 || has(|fault| matches!(fault, Fault::Record)) {
        "run `lidfs fsck`, and restore what it cannot mend from a copy"
    } else if !found.files.is_empty() {
        "restore those files from a copy"
    } else if has(|fault| matches!(fault, Fault::Reference { .. } | Fault::Unlisted { .. })) {
        "run `lidfs fsck`"
    } else if found.objects.damaged.iter().any(is_lease) {
        "no file needs what is damaged; if nobody has the volume mounted, mount it with --takeover"
    } else {
        "no file needs what is damaged"
    }
}

fn print(found: &Scrubbed) {
    for DamagedObject { name, why } in &found.objects.damaged {
        println!("{name}: {why}");
    }
    if let Some(metadata) = &found.metadata {
        println!("{metadata}");
    }
    for FaultyPack { pack, faults } in &found.faulty {
        for fault in faults {
            println!("pack {pack}: {fault}");
        }
    }
    for DamagedFile { inode, path, ranges } in &found.files {
        let path = path.clone().unwrap_or_else(|| format!("inode {inode}, without a name"));
        for range in ranges {
            println!("{path}: bytes {} to {} cannot be read", range.start, range.end);
        }
    }
    let resumed = found.resumed.map(|began| format!(", part of it since {}", date(began)));
    let resumed = resumed.unwrap_or_default();
    println!(
        "{} objects of the metadata, {} records and {} packs ({}) read{resumed}",
        found.objects.count,
        found.records,
        found.packs,
        Size(found.bytes)
    );
}

fn json(found: &Scrubbed) -> Json<'_> {
    let objects = found.objects.damaged.iter();
    Json {
        metadata_objects: found.objects.count,
        damaged_objects: objects
            .map(|DamagedObject { name, why }| JsonObject { name, why })
            .collect(),
        records: found.records,
        damaged_records: found.damaged_records,
        packs: found.packs,
        bytes: found.bytes,
        resumed: found.resumed.is_some(),
        resumed_since: found.resumed.map(date),
        metadata: &found.metadata,
        faulty_packs: &found.faulty,
        damaged_files: found
            .files
            .iter()
            .map(|damaged| JsonFile {
                inode: damaged.inode.0,
                path: &damaged.path,
                ranges: damaged.ranges.iter().map(|range| [range.start, range.end]).collect(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_ends_with_a_code_of_its_own_and_says_what_to_do() {
        let said = |found: &Scrubbed| {
            let failure = verdict(found).unwrap_err();
            assert_eq!(failure.exit.code(), 4);
            failure.message
        };
        let mut found = Scrubbed::default();
        assert!(verdict(&found).is_ok());
        found.faulty.push(FaultyPack { pack: 1, faults: vec![Fault::Header] });
        assert_eq!(said(&found), "packs with faults: 1; no file needs what is damaged");
        let inode = crate::base::Inode(2);
        found.files.push(DamagedFile { inode, path: None, ranges: vec![0..1, 5..7] });
        assert!(said(&found).ends_with("restore those files from a copy"));
        found.metadata = Some("?".to_owned());
        assert!(said(&found).contains("not all metadata can be read"));
    }

    #[test]
    fn advice_fits_what_was_found() {
        let pack = |fault| FaultyPack { pack: 1, faults: vec![fault] };
        let of = |fault| advice(&Scrubbed { faulty: vec![pack(fault)], ..Scrubbed::default() });
        assert_eq!(of(Fault::Directory), "no file needs what is damaged");
        assert_eq!(of(Fault::Unlisted { bytes: 1 }), "run `lidfs fsck`");
        assert!(of(Fault::Record).starts_with("run `lidfs fsck`"));
        assert!(of(Fault::Unreadable { why: String::new() }).starts_with("see why the store"));
        let mut found = Scrubbed { damaged_records: 1, ..Scrubbed::default() };
        assert!(!found.is_clean() && advice(&found).starts_with("run `lidfs fsck`"));
        found.damaged_records = 0;
        let (name, why) = (LEASE_NAME.to_owned(), String::new());
        found.objects.damaged.push(DamagedObject { name, why });
        assert!(advice(&found).ends_with("--takeover"));
    }
}
