//! Content: where the bytes of a range are, and the operations that change them.

use bytes::Bytes;

use super::core::{Attempt, Core, Tx};
use super::neighbours::SMALL_FILE_BLOCKS;
use super::{Allocate, CopyRange, FsError, WriteOrigin};
use crate::base::sabotage::{Bug, seeded};
use crate::base::{BlockIndex, ErrorKind, FILE_SIZE_MAX, Inode};
use crate::data::{BlockChange, ChunkRef, Extents, PackSeal, Piece, Span};
use crate::format::{FileKind, InodeRecord, Key, Page, Place, page_of};

/// Most bytes that one `copy_file_range` shares before it returns.
const COPY_BYTES_MAX: u64 = 64 << 20;

/// Where some bytes of a read come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// At hand.
    Memory(Bytes),
    /// A chunk in the bucket, from `skip` bytes into its content on.
    Chunk { chunk: ChunkRef, seal: PackSeal, skip: u32 },
}

/// How to answer a read: what is not named is zeros.
#[derive(Debug, Default)]
pub(super) struct ReadPlan {
    pub len: usize,
    /// Of a file that is worth fetching whole, with others like it.
    pub is_small_file: bool,
    /// Where in the answer, how many bytes, from where.
    pub parts: Vec<(usize, usize, Source)>,
}

impl ReadPlan {
    /// The chunks that are needed, each as often as it is used.
    pub fn chunks(&self) -> Vec<(ChunkRef, PackSeal)> {
        let chunk = |part: &(usize, usize, Source)| match &part.2 {
            Source::Chunk { chunk, seal, .. } => Some((*chunk, *seal)),
            Source::Memory(_) => None,
        };
        self.parts.iter().filter_map(chunk).collect()
    }

    /// Puts the answer together from the contents of [`chunks`](Self::chunks), in their order.
    pub fn assemble(self, contents: Vec<Bytes>) -> Result<Bytes, FsError> {
        let mut contents = contents.into_iter();
        let mut parts = Vec::with_capacity(self.parts.len());
        for (at, len, source) in self.parts {
            let bytes = match source {
                Source::Memory(bytes) => bytes,
                Source::Chunk { chunk, skip, .. } => {
                    let content = contents.next().unwrap_or_default();
                    let range = skip as usize..skip as usize + len;
                    if content.len() < range.end {
                        return Err(short_chunk(&chunk));
                    }
                    content.slice(range)
                }
            };
            if len == self.len {
                return Ok(bytes);
            }
            parts.push((at, bytes));
        }
        let mut answer = vec![0; self.len];
        for (at, bytes) in parts {
            answer[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(answer.into())
    }
}

fn short_chunk(chunk: &ChunkRef) -> FsError {
    let message = format!("pack {}: a block is shorter than the block map says", chunk.pack);
    FsError::Io { message, kind: ErrorKind::Corrupt }
}

/// Reads block maps page by page, decoding each once.
#[derive(Default)]
pub(super) struct Pages(Option<(Inode, u64, Page)>);

impl Pages {
    /// What a block shows through all layers; gaps are zeros.
    pub fn block(&mut self, core: &mut Core, inode: Inode, block: BlockIndex) -> Attempt<Extents> {
        let block_bytes = core.fixed.block_size.bytes() as u32;
        let mut spans = Extents::default();
        for group in core.groups() {
            match group.files.get(&inode).map(|edits| edits.change(block)) {
                Some(BlockChange::Edited(extents)) => spans = spans.over(extents),
                Some(BlockChange::Hole) => return Ok(spans),
                Some(BlockChange::Same) | None => {}
            }
        }
        if spans.covers(block_bytes) {
            return Ok(spans);
        }
        let (number, slot) = page_of(block);
        if !matches!(&self.0, Some((i, n, _)) if (*i, *n) == (inode, number)) {
            self.0 = Some((inode, number, core.page(inode, number)?));
        }
        let page = self.0.as_ref().map(|(_, _, page)| page.get(slot)).unwrap_or_default();
        Ok(spans.over(&Extents::from_fragments(page)))
    }
}

impl Core {
    /// How to read `len` bytes from `offset` on; nothing beyond the end of the file.
    pub fn plan_read(&mut self, inode: Inode, offset: u64, len: u64) -> Attempt<ReadPlan> {
        let record = self.inode(inode)?;
        if record.kind != FileKind::Regular {
            return Err(FsError::Invalid.into());
        }
        let end = offset.saturating_add(len).min(record.size);
        let mut plan = self.plan_range(inode, offset, end)?;
        plan.is_small_file = self.fixed.block_size.count(record.size) <= SMALL_FILE_BLOCKS;
        Ok(plan)
    }

    /// How to read the bytes `offset..end`, whatever the size of the file.
    pub fn plan_range(&mut self, inode: Inode, offset: u64, end: u64) -> Attempt<ReadPlan> {
        let len = end.saturating_sub(offset) as usize;
        let mut plan = ReadPlan { len, ..ReadPlan::default() };
        let mut pages = Pages::default();
        for (block, from, to) in blocks_of(self, offset, end) {
            let start = self.fixed.block_size.start(block);
            let spans = pages.block(self, inode, block)?;
            for span in spans.within(from, to) {
                let at = (start + u64::from(span.at) - offset) as usize;
                if let Some(source) = self.source(&span)? {
                    plan.parts.push((at, span.len as usize, source));
                }
            }
        }
        Ok(plan)
    }

    /// How to read the first `len` bytes of a block that shows `spans`.
    pub fn plan_spans(&mut self, spans: &Extents, len: u32) -> Attempt<ReadPlan> {
        let mut plan = ReadPlan { len: len as usize, ..ReadPlan::default() };
        for span in spans.within(0, len) {
            if let Some(source) = self.source(&span)? {
                plan.parts.push((span.at as usize, span.len as usize, source));
            }
        }
        Ok(plan)
    }

    /// Where a span's bytes come from; `None` for zeros.
    fn source(&mut self, span: &Span) -> Attempt<Option<Source>> {
        Ok(match &span.piece {
            Piece::Zero => None,
            Piece::Memory { .. } => span.memory().map(Source::Memory),
            Piece::Stored(Place::Inline(bytes)) => Some(Source::Memory(bytes.clone())),
            Piece::Stored(place) => Some(self.chunk_source(place)?),
        })
    }

    fn chunk_source(&mut self, place: &Place) -> Attempt<Source> {
        let (chunk, skip) = ChunkRef::from_place(place)
            .ok_or_else(|| super::core::missing("the pack of a block"))?;
        Ok(Source::Chunk { chunk, seal: self.pack_seal(chunk.pack)?, skip })
    }
}

/// The blocks that `from..to` touches, with the range inside each.
pub(super) fn blocks_of(
    core: &Core,
    from: u64,
    to: u64,
) -> impl Iterator<Item = (BlockIndex, u32, u32)> + use<> {
    let size = core.fixed.block_size;
    let (first, _) = size.split(from);
    let end = if from < to { size.count(to) } else { first.0 };
    (first.0..end).map(move |block| {
        let start = size.start(BlockIndex(block));
        let inner = |offset: u64| offset.clamp(start, start + size.bytes()) - start;
        (BlockIndex(block), inner(from) as u32, inner(to) as u32)
    })
}

impl Tx<'_> {
    /// The attributes of a file whose content is to be changed up to `end`.
    fn file(&mut self, inode: Inode, end: Option<u64>) -> Attempt<InodeRecord> {
        let record = self.inode(inode)?;
        match record.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(FsError::IsDirectory.into()),
            _ => return Err(FsError::Invalid.into()),
        }
        match end {
            Some(end) if end <= FILE_SIZE_MAX => Ok(record),
            _ => Err(FsError::FileTooLarge.into()),
        }
    }

    pub fn write(
        &mut self,
        inode: Inode,
        offset: u64,
        data: &[u8],
        origin: WriteOrigin,
    ) -> Attempt<u32> {
        self.change_content(data.len() as u64)?;
        let end = offset.checked_add(data.len() as u64);
        let mut record = self.file(inode, end)?;
        if data.is_empty() {
            return Ok(0);
        }
        self.claim_room(inode, offset, offset + data.len() as u64)?;
        let size = record.size.max(end.unwrap_or(offset));
        if !origin.from_cache {
            self.modified(&mut record);
        }
        if origin.kill_privileges {
            self.kill_privileges(inode, &mut record);
        }
        if size != record.size || !origin.from_cache || origin.kill_privileges {
            record.size = size;
            self.set_inode(inode, &record);
        }
        let (block_bytes, file_blocks) = (self.block_bytes(), self.fixed().block_size.count(size));
        let mut rest = data;
        for (block, from, to) in blocks_of(self.core(), offset, offset + data.len() as u64) {
            let (head, tail) = rest.split_at((to - from) as usize);
            self.expect_page(inode, block, file_blocks);
            self.group().edit(inode, block, block_bytes, |extents| extents.write(from, head));
            rest = tail;
        }
        Ok(data.len() as u32)
    }

    /// Counts the page of `block` into the batch of the open group.
    pub fn expect_page(&mut self, inode: Inode, block: BlockIndex, file_blocks: u64) {
        if self.group().is_new_page(inode, block) {
            let page = self.core().record(&Key::page(inode, page_of(block).0));
            let known_bytes = page.flatten().map_or(0, |bytes| bytes.len() as u64);
            self.group().expect_page(inode, block, file_blocks, known_bytes);
        }
    }

    fn block_bytes(&self) -> u32 {
        self.fixed().block_size.bytes() as u32
    }

    /// Sets the size of a file and writes its record back.
    pub fn truncate(&mut self, inode: Inode, record: &mut InodeRecord, size: u64) -> Attempt<()> {
        self.file(inode, Some(size))?;
        let old = record.size;
        record.size = size;
        self.set_inode(inode, record);
        if size < old {
            self.zero(inode, size, old, old);
        }
        if size == 0 {
            self.core().lost.forget(inode);
        }
        Ok(())
    }

    /// Makes `from..to` of a file of `size` bytes read as zeros, whole blocks as holes.
    fn zero(&mut self, inode: Inode, from: u64, to: u64, size: u64) {
        let block_size = self.fixed().block_size;
        let block_bytes = self.block_bytes();
        // Beyond the end there are only zeros: the last block is a hole too.
        let to = if to >= size { block_size.count(size) * block_size.bytes() } else { to };
        if from >= to {
            return;
        }
        let ((first, from_at), (last, to_at)) = (block_size.split(from), block_size.split(to));
        let file_blocks = block_size.count(size);
        let mut blank = |block, from: u32, to: u32| {
            self.expect_page(inode, block, file_blocks);
            let group = self.group();
            group.shrinks = true;
            group.edit(inode, block, block_bytes, |e| e.put(from, to - from, Piece::Zero));
        };
        if first == last {
            return blank(first, from_at, to_at);
        }
        if from_at > 0 {
            blank(first, from_at, block_bytes);
        }
        if to_at > 0 {
            blank(last, 0, to_at);
        }
        let whole = if from_at > 0 { BlockIndex(first.0 + 1) } else { first };
        self.group().make_hole(inode, whole, last);
    }

    pub fn fallocate(&mut self, inode: Inode, offset: u64, len: u64, how: Allocate) -> Attempt<()> {
        self.change()?;
        if len == 0 {
            return Err(FsError::Invalid.into());
        }
        let end = offset.checked_add(len);
        let mut record = self.file(inode, end)?;
        let (end, size) = (end.unwrap_or(u64::MAX), record.size);
        if matches!(how, Allocate::Reserve { .. }) {
            // Nothing is reserved; what cannot fit into the file and the rest of the quota is refused.
            self.claim_bytes((end - offset).saturating_sub(record.allocated))?;
        }
        let grows = matches!(
            how,
            Allocate::Reserve { keep_size: false } | Allocate::Zero { keep_size: false }
        );
        if grows {
            record.size = size.max(end);
        }
        self.modified(&mut record);
        self.kill_privileges(inode, &mut record);
        self.set_inode(inode, &record);
        if !matches!(how, Allocate::Reserve { .. }) {
            self.zero(inode, offset.min(size), end.min(size), size);
        }
        Ok(())
    }

    /// Shares blocks instead of copying bytes; gives back how many bytes it did.
    pub fn copy_range(&mut self, range: CopyRange) -> Attempt<u64> {
        // What is in memory alone is copied.
        self.change_content(range.len)?;
        let source = self.file(range.from, Some(0))?;
        let wanted = range.len.min(COPY_BYTES_MAX);
        let len = wanted.min(source.size.saturating_sub(range.from_offset));
        let end = range.to_offset.checked_add(len);
        let mut target = self.file(range.to, end)?;
        if len == 0 {
            return Ok(0);
        }
        self.claim_room(range.to, range.to_offset, range.to_offset + len)?;
        let parts = self.copied_spans(range, len)?;
        for (block, _, _, piece) in &parts {
            if let Piece::Stored(Place::Pack { pack, .. }) = piece
                && !seeded(Bug::ForgetReference)
            {
                self.set(Key::reference(*pack, range.to, *block), Some(Bytes::from_static(&[1])));
            }
        }
        self.modified(&mut target);
        // Whoever asks: the kernel leaves this to the file system and names no caller.
        self.kill_privileges(range.to, &mut target);
        target.size = target.size.max(end.unwrap_or(0));
        self.set_inode(range.to, &target);
        let block_bytes = self.block_bytes();
        let file_blocks = self.fixed().block_size.count(target.size);
        for (block, at, len, piece) in parts {
            if at == 0 && len == block_bytes && matches!(piece, Piece::Zero) {
                self.group().make_hole(range.to, block, BlockIndex(block.0 + 1));
                continue;
            }
            self.expect_page(range.to, block, file_blocks);
            self.group().edit(range.to, block, block_bytes, |extents| match piece {
                Piece::Memory { buffer, skip } => {
                    let bytes = (*buffer).as_ref();
                    extents.write(at, &bytes[skip as usize..(skip + len) as usize]);
                }
                // A copy that is counted, and goes to a pack if there is much of it.
                Piece::Stored(Place::Inline(bytes)) => extents.write(at, &bytes),
                other => extents.put(at, len, other),
            });
        }
        Ok(len)
    }

    /// What to lay where: block of the target, place in it, length, content.
    fn copied_spans(
        &mut self,
        range: CopyRange,
        len: u64,
    ) -> Attempt<Vec<(BlockIndex, u32, u32, Piece)>> {
        let size = self.fixed().block_size;
        let (mut parts, mut pages) = (Vec::new(), Pages::default());
        let end = range.from_offset + len;
        for (block, from, to) in blocks_of(self.core(), range.from_offset, end) {
            let start = size.start(block);
            let spans = pages.block(self.core(), range.from, block)?;
            for span in spans.filled(from, to) {
                let source = start + u64::from(span.at);
                let target = source - range.from_offset + range.to_offset;
                for (block, at, end) in blocks_of(self.core(), target, target + u64::from(span.len))
                {
                    let ahead = (size.start(block) + u64::from(at) - target) as u32;
                    let from = span.at + ahead;
                    if let Some(part) = span.slice(from, from + (end - at)) {
                        parts.push((block, at, part.len, part.piece));
                    }
                }
            }
        }
        Ok(parts)
    }
}
