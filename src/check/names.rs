//! Names found, added and removed as the file system does it, through records that are being edited.

use super::CheckError;
use super::cursor::Cursor;
use super::edit::Edit;
use crate::base::Inode;
use crate::crypto::SecretKey;
use crate::format::{DirEntry, FileKind, Key, KeyKind, name_hash};

impl Edit<'_> {
    /// The entry at a place; `None` where there is none. One that does not decode counts as a tombstone.
    async fn entry(&self, holder: Inode, place: u64) -> Result<Option<DirEntry>, CheckError> {
        let tombstone = || DirEntry { target: None, chained: true, name: Box::default() };
        let value = self.get(&Key::entry(holder, place)).await?;
        Ok(value.map(|value| DirEntry::decode(&value).unwrap_or_else(|_| tombstone())))
    }

    fn set_entry(&mut self, holder: Inode, place: u64, entry: &DirEntry) {
        self.set(Key::entry(holder, place), Some(entry.encode().into()));
    }

    /// What a name leads to.
    pub async fn find(
        &self,
        names: &SecretKey,
        holder: Inode,
        name: &[u8],
    ) -> Result<Option<(Inode, FileKind)>, CheckError> {
        let mut place = name_hash(names, name);
        while let Some(entry) = self.entry(holder, place).await? {
            if entry.target.is_some() && *entry.name == *name {
                return Ok(entry.target);
            }
            if !entry.chained {
                break;
            }
            place += 1;
        }
        Ok(None)
    }

    /// Adds a name; whether it was free.
    pub async fn add(
        &mut self,
        names: &SecretKey,
        holder: Inode,
        name: &[u8],
        target: (Inode, FileKind),
    ) -> Result<bool, CheckError> {
        let mut place = name_hash(names, name);
        let (mut tombstone, mut unchained) = (None, Vec::new());
        while let Some(entry) = self.entry(holder, place).await? {
            if entry.target.is_some() && *entry.name == *name {
                return Ok(false);
            }
            if entry.target.is_none() && tombstone.is_none() {
                tombstone = Some((place, entry.chained));
            }
            if !entry.chained {
                if tombstone.is_some() {
                    break;
                }
                unchained.push((place, entry));
            }
            place += 1;
        }
        let (place, chained) = tombstone.unwrap_or((place, false));
        for (place, entry) in unchained.into_iter().filter(|(before, _)| *before < place) {
            self.set_entry(holder, place, &DirEntry { chained: true, ..entry });
        }
        self.set_entry(
            holder,
            place,
            &DirEntry { target: Some(target), chained, name: name.into() },
        );
        Ok(true)
    }

    /// Takes an entry away and gives it back; its chain stays whole.
    pub async fn unlink(
        &mut self,
        holder: Inode,
        place: u64,
    ) -> Result<Option<DirEntry>, CheckError> {
        let Some(entry) = self.entry(holder, place).await? else { return Ok(None) };
        if entry.chained {
            let tombstone = DirEntry { target: None, chained: true, name: Box::default() };
            self.set_entry(holder, place, &tombstone);
        } else {
            self.set(Key::entry(holder, place), None);
        }
        Ok(Some(entry))
    }

    /// Takes all names of `inode` in `holder` away, but for `keep`.
    pub async fn unlink_names(
        &mut self,
        holder: Inode,
        inode: Inode,
        keep: usize,
    ) -> Result<(), CheckError> {
        let mut cursor = Cursor::over(self.stored(), Key::range_under(KeyKind::Entry, holder, 0));
        let mut kept = 0;
        while let Some((key, _)) = cursor.next().await? {
            let Some([_, place]) = Key::numbers(&key) else { continue };
            let entry = self.entry(holder, place).await?;
            let names_it =
                entry.is_some_and(|entry| entry.target.is_some_and(|(named, _)| named == inode));
            if !names_it {
                continue;
            }
            if kept < keep {
                kept += 1;
            } else {
                self.unlink(holder, place).await?;
            }
        }
        Ok(())
    }

    /// Moves an entry to where its hash leads; a name that is there already is dropped.
    pub async fn replace(
        &mut self,
        names: &SecretKey,
        holder: Inode,
        place: u64,
    ) -> Result<(), CheckError> {
        let removed = self.unlink(holder, place).await?;
        if let Some(DirEntry { target: Some(target), name, .. }) = removed {
            self.add(names, holder, &name, target).await?;
        }
        Ok(())
    }

    /// Gives an entry the right type.
    pub async fn retype(
        &mut self,
        holder: Inode,
        place: u64,
        kind: FileKind,
    ) -> Result<(), CheckError> {
        let Some(entry) = self.entry(holder, place).await? else { return Ok(()) };
        let Some((inode, _)) = entry.target else { return Ok(()) };
        self.set_entry(holder, place, &DirEntry { target: Some((inode, kind)), ..entry });
        Ok(())
    }
}
