//! Names: looking up, making, linking, renaming, removing.
//!
//! An entry stands at the keyed hash of its name, or behind it where that
//! place was taken (see [`DirEntry`]).

use super::core::{Attempt, Stop, Tx};
use super::{Attributes, FsError, Handle, NewNode, RenameMode};
use crate::base::sabotage::{Bug, seeded};
use crate::base::{ErrorKind, Inode, NAME_LEN_MAX, Timestamp};
use crate::format::{
    DirEntry, FileKind, InodeFlags, InodeRecord, Key, OrphanRecord, SETGID, name_hash,
};

/// Most hard links to one inode: what a signed 32-bit `st_nlink` holds.
const LINKS_MAX: u32 = i32::MAX as u32;

/// Directories between the root and any other are no more than this: parents that go on longer
/// form a ring.
const DEPTH_MAX: usize = 1 << 16;

/// A name's entry and its place.
struct Found {
    place: u64,
    entry: DirEntry,
    inode: Inode,
    kind: FileKind,
}

/// Where a new entry goes.
struct Free {
    place: u64,
    /// What stands there: nothing, or a tombstone that may be chained.
    chained: bool,
    /// Entries on the way there, to be marked as chained.
    unchained: Vec<(u64, DirEntry)>,
}

impl Free {
    fn at(place: u64, chained: bool) -> Self {
        Self { place, chained, unchained: Vec::new() }
    }
}

enum Search {
    Found(Found),
    Free(Free),
}

fn check_name(name: &[u8]) -> Result<(), FsError> {
    match name {
        b"" | b"." | b".." => Err(FsError::Invalid),
        _ if name.len() > NAME_LEN_MAX => Err(FsError::NameTooLong),
        _ if name.contains(&b'/') || name.contains(&0) => Err(FsError::Invalid),
        _ => Ok(()),
    }
}

impl Tx<'_> {
    fn entry(&mut self, parent: Inode, place: u64) -> Attempt<Option<DirEntry>> {
        let bytes = self.get(&Key::entry(parent, place))?;
        Ok(bytes.map(|bytes| DirEntry::decode(&bytes)).transpose()?)
    }

    fn search(&mut self, parent: Inode, name: &[u8]) -> Attempt<Search> {
        let mut place = name_hash(&self.fixed().names, name);
        let mut tombstone = None;
        loop {
            let Some(entry) = self.entry(parent, place)? else {
                return Ok(Search::Free(tombstone.unwrap_or(Free::at(place, false))));
            };
            match entry.target {
                Some((inode, kind)) if *entry.name == *name => {
                    return Ok(Search::Found(Found { place, entry, inode, kind }));
                }
                None if tombstone.is_none() => tombstone = Some(Free::at(place, entry.chained)),
                _ => {}
            }
            if !entry.chained {
                let mut free = Free::at(place + 1, false);
                free.unchained.push((place, entry));
                return Ok(Search::Free(tombstone.unwrap_or(free)));
            }
            place += 1;
        }
    }

    /// Moves on from a place that turns out to be taken by a name of another hash.
    fn skip_taken(&mut self, parent: Inode, free: &mut Free) -> Attempt<()> {
        while !free.unchained.is_empty()
            && let Some(entry) = self.entry(parent, free.place)?
        {
            if entry.target.is_none() {
                free.chained = entry.chained;
                break;
            }
            if !entry.chained {
                free.unchained.push((free.place, entry));
            }
            free.place += 1;
        }
        Ok(())
    }

    fn find(&mut self, parent: Inode, name: &[u8]) -> Attempt<Option<Found>> {
        if name.len() > NAME_LEN_MAX {
            return Err(FsError::NameTooLong.into());
        }
        match self.search(parent, name)? {
            Search::Found(found) => Ok(Some(found)),
            Search::Free(_) => Ok(None),
        }
    }

    fn add_entry(&mut self, parent: Inode, name: &[u8], target: (Inode, FileKind)) -> Attempt<()> {
        let mut free = match self.search(parent, name)? {
            Search::Found(_) => return Err(FsError::Exists.into()),
            Search::Free(free) => free,
        };
        self.skip_taken(parent, &mut free)?;
        for (place, mut entry) in free.unchained {
            entry.chained = true;
            self.set(Key::entry(parent, place), Some(entry.encode().into()));
        }
        let entry = DirEntry { target: Some(target), chained: free.chained, name: name.into() };
        self.set(Key::entry(parent, free.place), Some(entry.encode().into()));
        Ok(())
    }

    fn point_entry(&mut self, parent: Inode, found: &Found, target: (Inode, FileKind)) {
        let entry = DirEntry { target: Some(target), ..found.entry.clone() };
        self.set(Key::entry(parent, found.place), Some(entry.encode().into()));
    }

    fn remove_entry(&mut self, parent: Inode, found: &Found) {
        let tombstone = DirEntry { target: None, chained: true, name: Box::default() };
        let value = found.entry.chained.then(|| tombstone.encode().into());
        self.set(Key::entry(parent, found.place), value);
    }

    /// The attributes of a directory that still has a name.
    fn live_directory(&mut self, inode: Inode) -> Attempt<InodeRecord> {
        let record = self.directory(inode)?;
        if record.nlink == 0 { Err(FsError::NotFound.into()) } else { Ok(record) }
    }

    pub fn lookup(&mut self, parent: Inode, name: &[u8]) -> Attempt<Attributes> {
        self.directory(parent)?;
        let found = self.find(parent, name)?.ok_or(FsError::NotFound)?;
        let attributes = self.attributes(found.inode)?;
        self.opened().looked_up(found.inode);
        Ok(attributes)
    }

    pub fn make(&mut self, node: &NewNode) -> Attempt<Attributes> {
        self.change()?;
        check_name(&node.name)?;
        let mut parent = self.live_directory(node.parent)?;
        if self.find(node.parent, &node.name)?.is_some() {
            return Err(FsError::Exists.into());
        }
        let inherited = self.inherited_acls(node, &parent)?;
        let inode = self.new_inode();
        let mut record = new_record(node, &parent, self.now);
        record.permissions = inherited.permissions;
        for (name, value) in inherited.acls {
            record.flags.set(InodeFlags::XATTRS | InodeFlags::of_xattr(name), true);
            self.set(Key::xattr(inode, name), Some(value));
        }
        self.set_inode(inode, &record);
        self.add_entry(node.parent, &node.name, (inode, node.kind))?;
        parent.entries = parent.entries.saturating_add(1);
        parent.nlink = parent.nlink.saturating_add(u32::from(record.is_directory()));
        self.touch_directory(node.parent, parent);
        self.opened().looked_up(inode);
        Ok(Attributes { inode, record, blocks: 0 })
    }

    pub fn create(&mut self, node: &NewNode) -> Attempt<(Attributes, Handle)> {
        let attributes = self.make(node)?;
        let handle = self.opened().open(attributes.inode);
        Ok((attributes, handle))
    }

    /// Writes back a directory whose entries changed.
    fn touch_directory(&mut self, inode: Inode, mut record: InodeRecord) {
        record.mtime = self.now;
        record.ctime = self.now;
        self.set_inode(inode, &record);
    }

    pub fn unlink(&mut self, parent: Inode, name: &[u8]) -> Attempt<()> {
        self.change()?;
        let mut directory = self.directory(parent)?;
        let found = self.find(parent, name)?.ok_or(FsError::NotFound)?;
        if found.kind == FileKind::Directory {
            return Err(FsError::IsDirectory.into());
        }
        self.remove_entry(parent, &found);
        directory.entries = directory.entries.saturating_sub(1);
        self.touch_directory(parent, directory);
        self.drop_link(found.inode)
    }

    pub fn rmdir(&mut self, parent: Inode, name: &[u8]) -> Attempt<()> {
        self.change()?;
        let mut directory = self.directory(parent)?;
        let found = self.find(parent, name)?.ok_or(FsError::NotFound)?;
        if found.kind != FileKind::Directory {
            return Err(FsError::NotDirectory.into());
        }
        if self.inode(found.inode)?.entries > 0 {
            return Err(FsError::NotEmpty.into());
        }
        self.remove_entry(parent, &found);
        directory.entries = directory.entries.saturating_sub(1);
        directory.nlink = directory.nlink.saturating_sub(1);
        self.touch_directory(parent, directory);
        self.drop_link(found.inode)
    }

    /// Takes a name from an inode (the only one, if it is a directory); without any it is an orphan.
    fn drop_link(&mut self, inode: Inode) -> Attempt<()> {
        let mut record = self.inode(inode)?;
        record.nlink = if record.is_directory() { 0 } else { record.nlink.saturating_sub(1) };
        record.ctime = self.now;
        self.set_inode(inode, &record);
        if record.nlink == 0 {
            self.make_orphan(inode);
        }
        Ok(())
    }

    pub fn link(&mut self, inode: Inode, parent: Inode, name: &[u8]) -> Attempt<Attributes> {
        self.change()?;
        check_name(name)?;
        let mut directory = self.live_directory(parent)?;
        let mut record = self.inode(inode)?;
        if record.is_directory() {
            return Err(FsError::NotPermitted.into());
        }
        if record.nlink == 0 {
            return Err(FsError::NotFound.into());
        }
        if record.nlink >= LINKS_MAX {
            return Err(FsError::TooManyLinks.into());
        }
        self.add_entry(parent, name, (inode, record.kind))?;
        record.nlink += 1;
        record.ctime = self.now;
        self.set_inode(inode, &record);
        directory.entries = directory.entries.saturating_add(1);
        self.touch_directory(parent, directory);
        let attributes = self.attributes(inode)?;
        self.opened().looked_up(inode);
        Ok(attributes)
    }

    pub fn rename(
        &mut self,
        from: (Inode, &[u8]),
        to: (Inode, &[u8]),
        mode: RenameMode,
    ) -> Attempt<()> {
        self.change()?;
        check_name(from.1)?;
        check_name(to.1)?;
        self.directory(from.0)?;
        self.live_directory(to.0)?;
        let source = self.find(from.0, from.1)?.ok_or(FsError::NotFound)?;
        let target = self.find(to.0, to.1)?;
        self.check_ancestry(&source, to.0, from.0)?;
        match (target, mode) {
            (Some(_), RenameMode::NoReplace) => Err(FsError::Exists.into()),
            (None, RenameMode::Exchange) => Err(FsError::NotFound.into()),
            (Some(target), _) if target.inode == source.inode => Ok(()),
            (Some(target), RenameMode::Exchange) => {
                self.check_ancestry(&target, from.0, to.0)?;
                self.exchange(from.0, &source, to.0, &target)
            }
            (target, _) => self.move_entry(from.0, &source, to, target.as_ref()),
        }
    }

    /// Refuses to move a directory into itself or one of its descendants.
    fn check_ancestry(&mut self, moved: &Found, into: Inode, out_of: Inode) -> Attempt<()> {
        if moved.kind != FileKind::Directory || into == out_of {
            return Ok(());
        }
        let mut inode = into;
        for _ in 0..DEPTH_MAX {
            if inode == Inode::ROOT {
                return Ok(());
            }
            if inode == moved.inode {
                return Err(FsError::Invalid.into());
            }
            inode = self.inode(inode)?.parent;
        }
        Err(endless_parents(into).into())
    }

    fn move_entry(
        &mut self,
        from: Inode,
        source: &Found,
        (to, name): (Inode, &[u8]),
        target: Option<&Found>,
    ) -> Attempt<()> {
        let is_directory = source.kind == FileKind::Directory;
        let replaced_directory = match target {
            Some(target) => self.check_replace(is_directory, target)?,
            None => false,
        };
        self.remove_entry(from, source);
        match target {
            Some(target) => {
                self.point_entry(to, target, (source.inode, source.kind));
                self.drop_link(target.inode)?;
            }
            None => self.add_entry(to, name, (source.inode, source.kind))?,
        }
        let subdirectory = u32::from(is_directory);
        let mut parent = self.directory(from)?;
        parent.entries = parent.entries.saturating_sub(1);
        parent.nlink = parent.nlink.saturating_sub(subdirectory);
        self.touch_directory(from, parent);
        let mut parent = self.directory(to)?;
        parent.entries = parent.entries.saturating_add(u64::from(target.is_none()));
        parent.nlink = shifted(parent.nlink, subdirectory, u32::from(replaced_directory));
        self.touch_directory(to, parent);
        self.moved(source, to)
    }

    /// Whether `target` may give way; tells whether it is a directory.
    fn check_replace(&mut self, by_directory: bool, target: &Found) -> Attempt<bool> {
        match (by_directory, target.kind == FileKind::Directory) {
            (false, true) => Err(FsError::IsDirectory.into()),
            (true, false) => Err(FsError::NotDirectory.into()),
            (true, true) if self.inode(target.inode)?.entries > 0 => Err(FsError::NotEmpty.into()),
            (_, directory) => Ok(directory),
        }
    }

    fn exchange(&mut self, from: Inode, source: &Found, to: Inode, target: &Found) -> Attempt<()> {
        self.point_entry(from, source, (target.inode, target.kind));
        self.point_entry(to, target, (source.inode, source.kind));
        let directories = |found: &Found| u32::from(found.kind == FileKind::Directory);
        let mut parent = self.directory(from)?;
        parent.nlink = shifted(parent.nlink, directories(target), directories(source));
        self.touch_directory(from, parent);
        let mut parent = self.directory(to)?;
        parent.nlink = shifted(parent.nlink, directories(source), directories(target));
        self.touch_directory(to, parent);
        self.moved(source, to)?;
        self.moved(target, from)
    }

    /// A moved inode: its change time, and a directory's parent.
    fn moved(&mut self, found: &Found, to: Inode) -> Attempt<()> {
        let mut record = self.inode(found.inode)?;
        record.ctime = self.now;
        if record.is_directory() {
            record.parent = to;
        }
        self.set_inode(found.inode, &record);
        Ok(())
    }

    fn make_orphan(&mut self, inode: Inode) {
        if seeded(Bug::ForgetOrphan) {
            return;
        }
        self.set(Key::orphan(inode), Some(OrphanRecord.encode().into()));
    }
}

/// A count of links after some came and some went; damaged counts stay within their type.
fn shifted(links: u32, come: u32, gone: u32) -> u32 {
    links.saturating_add(come).saturating_sub(gone)
}

fn endless_parents(from: Inode) -> FsError {
    let message = format!(
        "metadata is damaged: the parents of directory {} do not lead to the root within {DEPTH_MAX} \
         steps; run lidfs fsck",
        from.0
    );
    FsError::Io { message, kind: ErrorKind::Corrupt }
}

fn new_record(node: &NewNode, parent: &InodeRecord, now: Timestamp) -> InodeRecord {
    let is_directory = node.kind == FileKind::Directory;
    let inherits_group = parent.permissions & SETGID != 0;
    InodeRecord {
        kind: node.kind,
        permissions: node.permissions,
        uid: node.caller.uid,
        gid: if inherits_group { parent.gid } else { node.caller.gid },
        nlink: if is_directory { 2 } else { 1 },
        rdev: node.rdev,
        size: node.target.len() as u64,
        allocated: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        parent: if is_directory { node.parent } else { Inode(0) },
        entries: 0,
        flags: InodeFlags::default(),
        target: node.target.clone(),
    }
}

impl From<Stop> for FsError {
    /// For a stop in a place that neither loads nor waits.
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Fail(error) => error,
            Stop::Load(_) | Stop::Room | Stop::Space => Self::Io {
                message: "an operation stopped where it cannot be resumed".into(),
                kind: ErrorKind::Bug,
            },
        }
    }
}
