//! Paths of inodes, from the names in directories: for the user's terminal, never for a log.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::CheckError;
use super::cursor::Cursor;
use crate::base::Inode;
use crate::format::{DirEntry, InodeRecord, Key, KeyKind};
use crate::meta::{MetaRead, Record};

/// Directories between the root and a file that are followed.
const DEPTH_MAX: usize = 4096;

/// Where an inode has its name: the directory, and the name.
type Place = (Inode, Box<[u8]>);

/// A path for each of `inodes` that has one; control characters are escaped.
///
/// # Errors
/// [`CheckError::Meta`].
pub async fn paths(
    meta: &dyn MetaRead,
    inodes: &BTreeSet<Inode>,
) -> Result<BTreeMap<Inode, String>, CheckError> {
    let mut places = HashMap::new();
    if inodes.iter().any(|inode| *inode != Inode::ROOT) {
        let mut cursor = Cursor::of(meta, KeyKind::Entry);
        while let Some(record) = cursor.next().await? {
            if let Some((inode, place)) = named(&record).filter(|(named, _)| inodes.contains(named))
            {
                places.entry(inode).or_insert(place);
            }
        }
    }
    let mut paths = BTreeMap::new();
    for inode in inodes {
        if let Some(path) = path(meta, *inode, &mut places).await? {
            paths.insert(*inode, path);
        }
    }
    Ok(paths)
}

async fn path(
    meta: &dyn MetaRead,
    inode: Inode,
    places: &mut HashMap<Inode, Place>,
) -> Result<Option<String>, CheckError> {
    let (mut parts, mut at) = (Vec::new(), inode);
    while at != Inode::ROOT {
        let (holder, name) = match places.entry(at) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let Some(place) = place_of_directory(meta, at).await? else { return Ok(None) };
                unknown.insert(place)
            }
        };
        parts.push(shown(name));
        at = *holder;
        if parts.len() > DEPTH_MAX {
            return Ok(None);
        }
    }
    parts.reverse();
    Ok(Some(format!("/{}", parts.join("/"))))
}

/// The name of a directory in the one that its record names.
async fn place_of_directory(
    meta: &dyn MetaRead,
    inode: Inode,
) -> Result<Option<Place>, CheckError> {
    let value = meta.get(Key::inode(inode).as_bytes()).await?;
    let Some(record) = value.and_then(|value| InodeRecord::decode(&value).ok()) else {
        return Ok(None);
    };
    let mut cursor = Cursor::over(meta, Key::range_under(KeyKind::Entry, record.parent, 0));
    while let Some(record) = cursor.next().await? {
        if let Some((_, place)) = named(&record).filter(|(named, _)| *named == inode) {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

fn named((key, value): &Record) -> Option<(Inode, Place)> {
    let entry = DirEntry::decode(value).ok()?;
    Some((entry.target?.0, (Inode(Key::number(key, 0)?), entry.name)))
}

/// A name that does nothing to a terminal.
fn shown(name: &[u8]) -> String {
    let escape = |c: char| {
        if c.is_control() { c.escape_default().collect() } else { c.to_string() }
    };
    String::from_utf8_lossy(name).chars().map(escape).collect()
}
