//! Block maps: what they say of files, packs and inline bytes.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::cursor::Cursor;
use super::{Check, CheckError, Fields, Problem, Repair};
use crate::base::{Inode, PackNumber};
use crate::crypto::{HEADER_LEN, TAG_LEN};
use crate::format::{FileKind, Fragment, Key, KeyKind, PAGE_BLOCKS, Page, Place};

/// A page of a file's block map, as the scan meets it.
struct Met {
    inode: Inode,
    number: u64,
    /// The size of the file; `None` if its record does not decode.
    size: Option<u64>,
}

/// Why bytes cannot be read, and from which pack.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    Unknown(PackNumber),
    Outside(PackNumber),
}

impl Check<'_> {
    /// Pages, against the inodes, the packs and the marks of inline bytes.
    pub(super) async fn block_maps(&mut self) -> Result<(), CheckError> {
        let mut marks = self.inline_marks().await?;
        let mut cursor = Cursor::of(self.meta, KeyKind::Page);
        while let Some((key, value)) = cursor.next().await? {
            self.report.records += 1;
            let Some([inode, number]) = Key::numbers(&key) else {
                self.unknown(key);
                continue;
            };
            let inode = Inode(inode);
            self.met(inode);
            let is_marked = marks.remove(&(inode, number));
            self.page(inode, number, &value, is_marked);
        }
        for (inode, page) in marks {
            let repair = Repair::Set(vec![(Key::inline(inode, page), None)]);
            self.report.add(Problem::StrayInlineMark { inode, page }, repair);
        }
        Ok(())
    }

    /// Marks of inline bytes. A mount holds them all in memory too.
    async fn inline_marks(&mut self) -> Result<BTreeSet<(Inode, u64)>, CheckError> {
        let mut marks = BTreeSet::new();
        let mut cursor = Cursor::of(self.meta, KeyKind::Inline);
        while let Some((key, _)) = cursor.next().await? {
            self.report.records += 1;
            match Key::numbers(&key) {
                Some([inode, page]) => {
                    marks.insert((Inode(inode), page));
                }
                None => self.unknown(key),
            }
        }
        Ok(marks)
    }

    fn page(&mut self, inode: Inode, number: u64, value: &Bytes, is_marked: bool) {
        let node = self.inodes.node(inode);
        let is_file = node.as_ref().is_some_and(|node| is_file(node.kind));
        let size = node.and_then(|node| node.kind.map(|_| node.size));
        let met = Met { inode, number, size };
        if !is_file {
            let keys = [Key::page(inode, number), Key::inline(inode, number)];
            let repair = Repair::Set(keys.into_iter().map(|key| (key, None)).collect());
            self.report.add(Problem::StrayPage { inode, page: number }, repair);
        }
        let page = match Page::decode(value) {
            Ok(page) => page,
            Err(error) => {
                if is_file {
                    let (from, to) = (self.offset(&met, 0), self.offset(&met, PAGE_BLOCKS));
                    self.report.add(Problem::DamagedPage { inode, from, to, error }, None);
                }
                self.has_damaged_page = true;
                if let Some(node) = self.inodes.node(inode) {
                    node.has_damaged_page = true;
                }
                return;
            }
        };
        let content = self.fragments(&met, &page, is_file);
        if let Some(node) = self.inodes.node(inode) {
            node.content = node.content.saturating_add(content);
        }
        if is_file {
            self.judge_page(&met, &page, is_marked);
        }
    }

    fn judge_page(&mut self, met: &Met, page: &Page, is_marked: bool) {
        let Met { inode, number, .. } = *met;
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
        if let Some(size) = met.size
            && self.end_of(met, page) > size
        {
            let repair = Repair::Cut { inode, page: number, size };
            self.report.add(Problem::BeyondEnd { inode, size }, repair);
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
            let problem = match why {
                Broken::Unknown(pack) => Problem::UnknownPack { inode, from, to, pack },
                Broken::Outside(pack) => Problem::OutsidePack { inode, from, to, pack },
            };
            self.report.add(problem, None);
        }
        content
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

    /// Bytes of content, once all pages are counted.
    pub(super) fn judge_content(&mut self) {
        for node in self.inodes.nodes.iter().filter(|node| node.kind == Some(FileKind::Regular)) {
            // A page that does not decode may hold the difference.
            let may_be = node.has_damaged_page && node.content < node.allocated;
            if node.content != node.allocated && !may_be {
                let (inode, found) = (node.inode, node.content);
                let fields = Fields { allocated: Some(found), ..Fields::default() };
                let problem = Problem::WrongAllocated { inode, recorded: node.allocated, found };
                self.report.add(problem, Repair::Inode(inode, fields));
            }
        }
    }
}

/// Whether an inode may have pages: a file, or what cannot be known not to be one.
fn is_file(kind: Option<FileKind>) -> bool {
    kind.is_none_or(|kind| kind == FileKind::Regular)
}
