//! Block maps: what they say of files, packs and inline bytes.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::cursor::Cursor;
use super::tables::Node;
use super::{Check, CheckError, Fields, Problem, Repair};
use crate::base::{FILE_SIZE_MAX, Inode, PackNumber};
use crate::crypto::{HEADER_LEN, TAG_LEN};
use crate::format::{FileKind, FormatError, Fragment, Key, KeyKind, PAGE_BLOCKS, Page, Place};

/// A page of a file's block map, as the scan meets it.
struct Met {
    inode: Inode,
    number: u64,
}

/// An inode without a record, and what its pages show.
struct Lost {
    inode: Inode,
    content: u64,
    /// One past the last byte.
    end: u64,
    /// Pages without blocks.
    empty: Vec<u64>,
    /// Pages that do not decode: what they show is not known.
    damaged: Vec<u64>,
}

impl Lost {
    fn new(inode: Inode) -> Self {
        Self { inode, content: 0, end: 0, empty: Vec::new(), damaged: Vec::new() }
    }
}

/// Why bytes cannot be read, and from which pack.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    Unknown(PackNumber),
    Outside(PackNumber),
}

/// What a file shows of packs without a record, as far as its pages were met.
pub(super) struct Unread {
    inode: Inode,
    from: u64,
    to: u64,
    bytes: u64,
    pack: PackNumber,
}

impl Check<'_> {
    /// Pages, against the inodes, the packs and the marks of inline bytes.
    pub(super) async fn block_maps(&mut self) -> Result<(), CheckError> {
        let mut marks = self.inline_marks().await?;
        let mut cursor = Cursor::of(self.meta, KeyKind::Page);
        let mut lost: Vec<Lost> = Vec::new();
        while let Some(([inode, number], value)) = self.next(&mut cursor).await? {
            let met = Met { inode: Inode(inode), number };
            self.met(met.inode);
            if self.unread.as_ref().is_some_and(|unread| unread.inode != met.inode) {
                self.leave_unread();
            }
            let is_marked = marks.remove(&(met.inode, number));
            if let Some(kind) = self.inodes.node(met.inode).map(|node| node.kind) {
                self.page(&met, kind, &value, is_marked);
                continue;
            }
            if lost.last().is_none_or(|lost| lost.inode != met.inode) {
                lost.push(Lost::new(met.inode));
            }
            if let Some(lost) = lost.last_mut() {
                self.lost_page(&met, &value, is_marked, lost);
            }
        }
        self.leave_unread();
        for lost in lost {
            self.judge_lost(&lost);
        }
        for (inode, page) in marks {
            let mut repair = Some(Repair::Set(vec![(Key::inline(inode, page), None)]));
            if let Some(node) = self.inodes.node(inode).filter(|node| node.may_lack_content()) {
                // It stays as a witness of the page.
                node.has_stray_mark = true;
                repair = None;
            }
            self.report.add(Problem::StrayInlineMark { inode, page }, repair);
        }
        Ok(())
    }

    /// Marks of inline bytes. A mount holds them all in memory too.
    async fn inline_marks(&mut self) -> Result<BTreeSet<(Inode, u64)>, CheckError> {
        let mut marks = BTreeSet::new();
        let mut cursor = Cursor::of(self.meta, KeyKind::Inline);
        while let Some(([inode, page], _)) = self.next(&mut cursor).await? {
            marks.insert((Inode(inode), page));
        }
        Ok(marks)
    }

    /// A page of an inode of `kind`, or of one whose record does not decode.
    fn page(&mut self, met: &Met, kind: Option<FileKind>, value: &Bytes, is_marked: bool) {
        let Met { inode, number } = *met;
        let is_file = kind.is_none_or(|kind| kind == FileKind::Regular);
        let (shown, end) = match Page::decode(value) {
            Ok(page) => {
                let (content, end) = (self.fragments(met, &page, is_file), self.end_of(met, &page));
                if is_file {
                    self.judge_page(met, &page, is_marked);
                }
                (content, end)
            }
            Err(error) => {
                self.has_damaged_page = true;
                if is_file {
                    self.damaged_page(met, error);
                }
                if let Some(node) = self.inodes.node(inode) {
                    node.has_damaged_page = true;
                }
                (u64::from(!is_file), 0)
            }
        };
        if !is_file {
            // With content in it, the inode's kind may be what is wrong.
            let repair = (shown == 0).then(|| remove_page(met));
            self.report.add(Problem::StrayPage { inode, page: number }, repair);
        }
        if let Some(node) = self.inodes.node(inode) {
            node.content = node.content.saturating_add(shown);
            node.end = node.end.max(end);
        }
    }

    /// A page of an inode without a record.
    fn lost_page(&mut self, met: &Met, value: &Bytes, is_marked: bool, lost: &mut Lost) {
        match Page::decode(value) {
            Ok(page) if !page.is_empty() => {
                lost.content = lost.content.saturating_add(self.fragments(met, &page, true));
                lost.end = lost.end.max(self.end_of(met, &page));
                self.judge_page(met, &page, is_marked);
            }
            Ok(_) => lost.empty.push(met.number),
            Err(error) => {
                self.has_damaged_page = true;
                lost.damaged.push(met.number);
                if lost.inode != Inode::ROOT {
                    let to = self.damaged_page(met, error);
                    lost.end = lost.end.max(to);
                }
            }
        }
    }

    /// Tells of a page that does not decode; one past the last byte that it may show.
    fn damaged_page(&mut self, met: &Met, error: FormatError) -> u64 {
        let (from, to) = (self.offset(met, 0), self.offset(met, PAGE_BLOCKS));
        self.report.add(Problem::DamagedPage { inode: met.inode, from, to, error }, None);
        to
    }

    /// An inode without a record, once all pages are counted: if they show content, or may, it is a
    /// file.
    fn judge_lost(&mut self, lost: &Lost) {
        let Lost { inode, content, end, ref empty, ref damaged } = *lost;
        let may_have_content = content > 0 || !damaged.is_empty();
        if may_have_content && inode != Inode::ROOT {
            self.missing.insert(inode);
            // Pages may be lost as well as the inode. What packs count and nothing shows may be
            // theirs: as long as the file counts it too, no pack is freed for it.
            let lack = self.packs.lack();
            self.has_missing_content |= lack > 0;
            let (size, allocated) = (end.min(FILE_SIZE_MAX), content.saturating_add(lack));
            let repair = Repair::MakeFile { inode, size, allocated: allocated.min(FILE_SIZE_MAX) };
            self.report.add(Problem::MissingFile { inode, bytes: content }, repair);
            return;
        }
        for number in empty.iter().chain(damaged).copied() {
            let repair = (!may_have_content).then(|| remove_page(&Met { inode, number }));
            self.report.add(Problem::StrayPage { inode, page: number }, repair);
        }
    }

    fn judge_page(&mut self, met: &Met, page: &Page, is_marked: bool) {
        let Met { inode, number } = *met;
        if page.is_empty() {
            let repair = Repair::Set(vec![(Key::page(inode, number), None)]);
            self.report.add(Problem::EmptyPage { inode, page: number }, repair);
        }
        let has_inline = page.inline_bytes() > 0;
        let key = Key::inline(inode, number);
        if has_inline && !is_marked {
            let repair = Repair::Set(vec![(key, Some(Bytes::from_static(&[1])))]);
            self.report.add(Problem::UnmarkedInline { inode, page: number }, repair);
        } else if is_marked && !has_inline {
            let repair = Repair::Set(vec![(key, None)]);
            self.report.add(Problem::StrayInlineMark { inode, page: number }, repair);
        }
    }

    /// Counts the fragments of a page; how many bytes they show.
    fn fragments(&mut self, met: &Met, page: &Page, is_file: bool) -> u64 {
        let inode = met.inode;
        let (mut content, mut open): (u64, Option<(Broken, u64, u64)>) = (0, None);
        let mut broken = Vec::new();
        for (slot, fragments) in page.blocks() {
            let (from, to) = self.block(met, slot);
            if fragments.last().is_some_and(|last| u64::from(last.end()) > to - from) {
                self.report.add(Problem::FragmentOutside { inode, from, to }, None);
            }
            for fragment in fragments {
                content += u64::from(fragment.len);
                let Some(why) = self.count(fragment) else { continue };
                let start = from.saturating_add(u64::from(fragment.at));
                let end = start.saturating_add(u64::from(fragment.len));
                match &mut open {
                    Some((last, _, until)) if *last == why && *until == start => *until = end,
                    _ => broken.extend(open.replace((why, start, end))),
                }
            }
        }
        broken.extend(open);
        for (why, from, to) in broken.into_iter().filter(|_| is_file) {
            match why {
                Broken::Unknown(pack) => self.unread(inode, pack, from, to),
                Broken::Outside(pack) => {
                    self.report.add(Problem::OutsidePack { inode, from, to, pack }, None);
                }
            }
        }
        content
    }

    /// Bytes of a file in a pack without a record: told once for the whole file.
    fn unread(&mut self, inode: Inode, pack: PackNumber, from: u64, to: u64) {
        let first = Unread { inode, from, to, bytes: 0, pack };
        let unread = self.unread.get_or_insert(first);
        unread.to = to;
        unread.bytes = unread.bytes.saturating_add(to.saturating_sub(from));
    }

    /// All pages of a file were met.
    fn leave_unread(&mut self) {
        if let Some(unread) = self.unread.take() {
            let Unread { inode, from, to, bytes, pack } = unread;
            let problem = Problem::UnknownPack { inode, from, to, bytes, pack };
            self.report.add(problem, None);
        }
    }

    /// Counts one fragment into its pack; why it cannot be read, if so.
    fn count(&mut self, fragment: &Fragment) -> Option<Broken> {
        let Place::Pack { pack: number, offset, sealed_len, skip, compressed, .. } = fragment.place
        else {
            return None;
        };
        let bytes = u64::from(fragment.len);
        let Some(pack) = self.packs.pack(number) else {
            *self.packs.unknown.entry(number).or_default() += bytes;
            return Some(Broken::Unknown(number));
        };
        pack.shown = pack.shown.saturating_add(bytes);
        if pack.damage.is_some() {
            return Some(Broken::Unknown(number));
        }
        let sealed = u64::from(sealed_len);
        let content = sealed.saturating_sub(TAG_LEN as u64);
        let fits = offset as usize >= HEADER_LEN
            && u64::from(offset) + sealed <= pack.size
            && content > 0
            && (compressed || u64::from(skip) + bytes <= content);
        (!fits).then_some(Broken::Outside(number))
    }

    /// First byte of a block of the page, and one past its last.
    fn block(&self, met: &Met, slot: u8) -> (u64, u64) {
        let from = self.offset(met, u64::from(slot));
        (from, from.saturating_add(self.facts.block_size.bytes()))
    }

    /// First byte of a block, counted from the start of the page.
    fn offset(&self, met: &Met, slot: u64) -> u64 {
        let block = met.number.saturating_mul(PAGE_BLOCKS).saturating_add(slot);
        self.facts.block_size.bytes().saturating_mul(block)
    }

    /// One past the last byte that a page shows.
    fn end_of(&self, met: &Met, page: &Page) -> u64 {
        let last = page.blocks().last();
        let last = last.and_then(|(slot, fragments)| Some((slot, fragments.last()?.end())));
        last.map_or(0, |(slot, end)| self.block(met, slot).0.saturating_add(u64::from(end)))
    }

    /// Bytes of content and sizes, once all pages are counted.
    pub(super) fn judge_content(&mut self) {
        let packs_lack = self.packs.lack() > 0;
        for node in &self.inodes.nodes {
            if node.kind != Some(FileKind::Regular) {
                // What it counts is not known, or it may have been a file.
                self.has_missing_content |=
                    packs_lack && (node.kind.is_none() || node.lacks_content());
                continue;
            }
            let Node { inode, size, end, content: found, allocated: recorded, .. } = *node;
            if end > size {
                // Rather too much than too little: what was cut off may come back, nothing is lost.
                let fields = Fields { size: Some(end), ..Fields::default() };
                let repair = (end <= FILE_SIZE_MAX).then_some(Repair::Inode(inode, fields));
                self.report.add(Problem::BeyondEnd { inode, size, end }, repair);
            }
            if node.lacks_content() && node.has_damaged_page {
                // That page may hold the difference.
            } else if node.lacks_content() && (packs_lack || node.has_stray_mark) {
                // Not a wrong count: what counts the other end lacks something too.
                self.has_missing_content = true;
                let bytes = recorded - found;
                self.report.add(Problem::MissingContent { inode, bytes }, None);
            } else if found != recorded {
                let fields = Fields { allocated: Some(found), ..Fields::default() };
                let problem = Problem::WrongAllocated { inode, recorded, found };
                self.report.add(problem, Repair::Inode(inode, fields));
            }
        }
    }
}

fn remove_page(met: &Met) -> Repair {
    let keys = [Key::page(met.inode, met.number), Key::inline(met.inode, met.number)];
    Repair::Set(keys.into_iter().map(|key| (key, None)).collect())
}
