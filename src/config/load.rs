//! Finds, reads and overrides the config file.

use std::env;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::{Config, ConfigError, Log, config_home};

/// Where every user's config is when none has one of their own.
const SYSTEM_FILE: &str = "/etc/lidfs/config.toml";

/// Prefix of the variables that override a key: `LIDFS_STORE_ENDPOINT` is `store.endpoint`.
const VARIABLE_PREFIX: &str = "LIDFS_";

/// One value from outside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The flag or variable that gave it, for messages.
    pub origin: String,
    /// Section of the file.
    pub section: String,
    /// Key in that section.
    pub key: String,
    /// The value as text; taken as a TOML value where a string does not fit.
    pub value: String,
}

impl Override {
    /// Value of `section.key`, given by `origin`.
    pub fn new(origin: &str, section: &str, key: &str, value: impl Into<String>) -> Self {
        Self {
            origin: origin.to_owned(),
            section: section.to_owned(),
            key: key.to_owned(),
            value: value.into(),
        }
    }
}

/// What to load.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// File named by `-c`.
    pub file: Option<PathBuf>,
    /// From flags; the last one wins.
    pub overrides: Vec<Override>,
}

/// A configuration and where it is from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What holds.
    pub config: Config,
    /// The file it came from, if there was one.
    pub file: Option<PathBuf>,
}

/// Loads the configuration: file, then variables, then flags.
///
/// A missing file is an error only where it was named; without any file the
/// defaults hold.
///
/// # Errors
/// [`ConfigError`], naming file, line and key, or the variable or flag.
pub fn load(request: &Request) -> Result<Loaded, ConfigError> {
    let named = request
        .file
        .clone()
        .or_else(|| env::var_os("LIDFS_CONFIG").filter(|name| !name.is_empty()).map(Into::into));
    let found = match named {
        Some(path) => Some(read(&path).map(|text| (path, text))?),
        None => first_of(&default_places())?,
    };
    let mut table = Table::new();
    if let Some((path, text)) = &found {
        parse::<Config>(path, text)?;
        table = parse(path, text)?;
    }
    let variables =
        variables(env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }));
    let mut config = to_config(&table).map_err(|error| ConfigError::Override {
        origin: "defaults".to_owned(),
        key: String::new(),
        message: error.message().to_owned(),
    })?;
    for change in variables.iter().chain(&request.overrides) {
        config = apply(&mut table, change)?;
    }
    let wrong =
        |place: &str, message| ConfigError::Value { message: format!("{place}: {message}") };
    let refused = |message| ConfigError::Value { message };
    config.store.check().map_err(refused)?;
    config.fs_config().check().map_err(|message| wrong("[write]", message))?;
    Log::check(&config.log.level).map_err(|message| wrong("log.level", message))?;
    Ok(Loaded { config, file: found.map(|(path, _)| path) })
}

/// Every file to try, in this order, when none is named.
pub(super) fn default_places() -> Vec<PathBuf> {
    let own = config_home().ok().map(|dir| dir.join("config.toml"));
    own.into_iter().chain([PathBuf::from(SYSTEM_FILE)]).collect()
}

fn first_of(places: &[PathBuf]) -> Result<Option<(PathBuf, String)>, ConfigError> {
    for path in places {
        match fs::read_to_string(path) {
            Ok(text) => return Ok(Some((path.clone(), text))),
            Err(error) if is_absence(&error) => {}
            Err(error) => return Err(unreadable(path, &error)),
        }
    }
    Ok(None)
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    ConfigError::Read { path: path.to_owned(), detail: error.to_string() }
}

/// Reads TOML text, with file, line and key in the error.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(
    path: &Path,
    text: &str,
) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().unwrap_or(Range { start: 0, end: 0 });
        let (line, key) = locate(text, at.start);
        let message = one_line(error.message());
        ConfigError::Line { path: path.to_owned(), line, key, message }
    })
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The line of byte `at`, from 1, and the `section.key` that it sets.
fn locate(text: &str, at: usize) -> (usize, String) {
    let before = text.get(..at).unwrap_or(text);
    let line_number = before.matches('\n').count() + 1;
    let section = text
        .lines()
        .take(line_number)
        .filter_map(|line| line.trim().strip_prefix('[')?.split(']').next())
        .last()
        .unwrap_or_default()
        .trim();
    let line = text.lines().nth(line_number - 1).unwrap_or_default().trim();
    let key = match line.split_once('=') {
        Some((key, _)) => key.trim(),
        None => "",
    };
    let name = [section, key].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    (line_number, name.join("."))
}

/// The overrides among environment variables: those of a known section.
fn variables(all: impl Iterator<Item = (String, String)>) -> Vec<Override> {
    let mut found = all
        .filter_map(|(name, value)| {
            let rest = name.strip_prefix(VARIABLE_PREFIX)?.to_lowercase();
            let (section, key) = rest.split_once('_')?;
            // A table in a section is one step more.
            let inner = Config::TABLES.iter().find_map(|(outer, table, keys)| {
                let key = key.strip_prefix(table)?.strip_prefix('_')?;
                let is_there = *outer == section && (keys.is_empty() || keys.contains(&key));
                is_there.then(|| format!("{table}.{key}"))
            });
            let key = inner.unwrap_or_else(|| key.to_owned());
            Config::SECTIONS.contains(&section).then(|| Override::new(&name, section, &key, value))
        })
        .collect::<Vec<_>>();
    found.sort_by(|a, b| a.origin.cmp(&b.origin));
    found
}

/// Sets one value in `table`; the configuration that then holds.
fn apply(table: &mut Table, change: &Override) -> Result<Config, ConfigError> {
    let wrong = |message: &str| ConfigError::Override {
        origin: change.origin.clone(),
        key: format!("{}.{}", change.section, change.key),
        message: one_line(message),
    };
    set(table, change, Value::String(change.value.clone()))
        .ok_or_else(|| wrong("is not a section"))?;
    match to_config(table) {
        Ok(config) => Ok(config),
        Err(error) => {
            // Numbers and booleans are not strings: read the text as TOML has it.
            let literal = toml::from_str::<Table>(&format!("value = {}", change.value));
            let value = literal.ok().and_then(|mut table| table.remove("value"));
            let message = error.message().to_owned();
            let Some(value) = value else { return Err(wrong(&message)) };
            set(table, change, value).ok_or_else(|| wrong(&message))?;
            to_config(table).map_err(|error| wrong(error.message()))
        }
    }
}

/// Puts `value` at its place; dots in the key lead into tables. `None` if one of them is none.
fn set(table: &mut Table, change: &Override, value: Value) -> Option<()> {
    let path = format!("{}.{}", change.section, change.key);
    let (tables, key) = path.rsplit_once('.')?;
    let mut at = table;
    for name in tables.split('.') {
        let inner = at.entry(name).or_insert_with(|| Value::Table(Table::new()));
        at = inner.as_table_mut()?;
    }
    at.insert(key.to_owned(), value);
    Some(())
}

fn to_config(table: &Table) -> Result<Config, toml::de::Error> {
    Config::deserialize(Value::Table(table.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let error = parse::<Config>(Path::new("lid.toml"), text).unwrap_err();
        error.to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file_and_line() {
        let text = wrong("[volume]\nurl = \"s3://b\"\n\n[log]\nlvel = \"info\"\n");
        assert!(text.starts_with("lid.toml:5: log.lvel: unknown field `lvel`"), "{text}");
        assert!(!text.contains('\n'));
    }

    #[test]
    fn an_unknown_section_is_named_with_its_file_and_line() {
        let text = wrong("[volme]\nurl = \"s3://b\"\n");
        assert!(text.starts_with("lid.toml:1: volme: unknown field `volme`"), "{text}");
    }

    #[test]
    fn a_bad_value_is_named_with_its_file_and_line() {
        let text = wrong("[log]\n# one of two\nformat = \"xml\"\n");
        assert!(text.starts_with("lid.toml:3: log.format: unknown variant `xml`"), "{text}");
    }

    #[test]
    fn text_that_is_no_toml_is_named_with_its_line() {
        let text = wrong("[log]\nlevel = \n");
        assert!(text.starts_with("lid.toml:2: log.level: "), "{text}");
        assert!(!text.contains('\n'));
    }

    #[test]
    fn a_variable_of_a_known_section_overrides_and_others_are_left_alone() {
        let of = |name: &str| (name.to_owned(), "x".to_owned());
        let names =
            ["LIDFS_LOG_LEVEL", "LIDFS_CONFIG", "LIDFS_LOG", "LIDFS_TEST_SEED", "HOME"].map(of);
        let found = variables(names.into_iter());
        assert_eq!(found, [Override::new("LIDFS_LOG_LEVEL", "log", "level", "x")]);
    }

    #[test]
    fn settings_of_a_table_inside_a_section_are_overridden_too() {
        let of = |name: &str| (name.to_owned(), "x".to_owned());
        let names = ["LIDFS_KEY_KMS_KEY", "LIDFS_KEY_KMS_REGION"].map(of);
        let found = variables(names.into_iter());
        let keys: Vec<_> = found.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(keys, ["kms_key", "kms.region"]);
        let mut table = Table::new();
        for change in &found {
            apply(&mut table, change).unwrap();
        }
        let change = Override::new("-o", "key", "kms.endpoint", "https://kms.test");
        let config = apply(&mut table, &change).unwrap();
        assert_eq!(config.key.kms.region.as_deref(), Some("x"));
        assert_eq!(config.key.kms.endpoint.as_deref(), Some("https://kms.test"));
        let change = Override::new("-o", "key", "kms.endpont", "x");
        assert!(apply(&mut table, &change).is_err());
    }

    #[test]
    fn overrides_take_strings_and_toml_values_and_name_themselves_when_wrong() {
        let mut table = Table::new();
        let config = apply(&mut table, &Override::new("-o", "log", "level", "debug")).unwrap();
        assert_eq!(config.log.level, "debug");
        let config = apply(&mut table, &Override::new("-o", "store", "path_style", "true"));
        assert!(config.is_ok());
        let change = Override::new("LIDFS_LOG_COLOR", "log", "color", "red");
        let text = apply(&mut table, &change).unwrap_err().to_string();
        assert!(text.starts_with("LIDFS_LOG_COLOR: log.color: unknown field `color`"), "{text}");
    }

    #[test]
    fn keys_of_a_table_in_a_section_can_be_overridden_too() {
        let name = "LIDFS_STORE_SERVER_SIDE_ENCRYPTION_BUCKET_KEY";
        let found = variables([(name.to_owned(), "true".to_owned())].into_iter());
        let key = "server_side_encryption.bucket_key";
        assert_eq!(found, [Override::new(name, "store", key, "true")]);
        let mut table = Table::new();
        let config = apply(&mut table, &found[0]).unwrap();
        assert_eq!(config.store.server_side_encryption.bucket_key, Some(true));
        let key = "server_side_encryption.encryption_context.drive";
        let config = apply(&mut table, &Override::new("-o", "store", key, "work")).unwrap();
        let encryption = config.store.server_side_encryption;
        assert_eq!(encryption.encryption_context["drive"], "work");
        assert_eq!(encryption.bucket_key, Some(true));
    }

    #[test]
    fn a_named_file_that_is_missing_is_an_error_and_a_missing_default_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none.toml");
        let request = Request { file: Some(missing.clone()), overrides: Vec::new() };
        assert!(matches!(load(&request), Err(ConfigError::Read { .. })));
        assert_eq!(first_of(&[missing]), Ok(None));
    }
}
