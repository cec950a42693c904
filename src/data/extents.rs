//! What a block of a file is made of while it is being changed: sorted, disjoint spans.
//!
//! ```text
//! an edit:   | memory | (gap: as below) | zero | stored | (gap) |
//! below it:  |            fragments of the block map            |
//! ```
//!
//! A gap shows the layer below: the group that is being committed, then the
//! block map. Cutting and laying one list over another are all there is:
//! writing, truncating, punching, sharing and reading are these two.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::format::{Fragment, Place};

/// Spans of written bytes that an edit keeps apart before it joins them.
const MEMORY_SPANS_MAX: usize = 16;

/// Written bytes that are not in the bucket yet.
///
/// Changed in place only while one span owns them; a packer that claims them
/// holds a second reference, so what it seals cannot change under it.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    claimed: AtomicBool,
}

impl Buffer {
    fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { bytes, claimed: AtomicBool::new(false) })
    }

    /// Marks the bytes as being packed or not.
    fn set_claimed(&self, claimed: bool) {
        self.claimed.store(claimed, Ordering::Relaxed);
    }

    /// Whether a packer has them.
    pub fn is_claimed(&self) -> bool {
        self.claimed.load(Ordering::Relaxed)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Bytes of a [`Buffer`], kept alive without a copy.
struct Shared(Arc<Buffer>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// What a span shows.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Zeros.
    Zero,
    /// Written bytes, from `skip` on.
    Memory {
        /// The bytes.
        buffer: Arc<Buffer>,
        /// Bytes of the buffer before the span's first.
        skip: u32,
    },
    /// Bytes that lie in the bucket, or inline in the block map.
    Stored(Place),
}

/// A run of bytes inside one block.
#[derive(Debug, Clone)]
pub struct Span {
    /// First byte, counted from the start of the block.
    pub at: u32,
    /// Length in bytes; at least 1.
    pub len: u32,
    /// What it shows.
    pub piece: Piece,
}

impl Span {
    /// One past the last byte.
    pub fn end(&self) -> u32 {
        self.at + self.len
    }

    /// The part inside `from..to`.
    pub fn slice(&self, from: u32, to: u32) -> Option<Self> {
        let (start, end) = (self.at.max(from), self.end().min(to));
        if start >= end {
            return None;
        }
        let piece = match &self.piece {
            Piece::Zero => Piece::Zero,
            Piece::Memory { buffer, skip } => {
                Piece::Memory { buffer: buffer.clone(), skip: skip + start - self.at }
            }
            Piece::Stored(place) => {
                let whole = Fragment { at: self.at, len: self.len, place: place.clone() };
                Piece::Stored(whole.slice(start, end)?.place)
            }
        };
        Some(Self { at: start, len: end - start, piece })
    }

    /// Written bytes of this span; `None` if it is of another kind.
    pub fn memory(&self) -> Option<Bytes> {
        match &self.piece {
            Piece::Memory { buffer, skip } => {
                let range = *skip as usize..(*skip + self.len) as usize;
                Some(Bytes::from_owner(Shared(buffer.clone())).slice(range))
            }
            _ => None,
        }
    }
}

impl From<&Fragment> for Span {
    fn from(fragment: &Fragment) -> Self {
        let piece = Piece::Stored(fragment.place.clone());
        Self { at: fragment.at, len: fragment.len, piece }
    }
}

/// Written bytes that a packer has taken on.
#[derive(Debug)]
pub struct Claim {
    /// First byte, counted from the start of the block.
    pub at: u32,
    buffer: Arc<Buffer>,
    skip: u32,
    end: u32,
}

impl Claim {
    /// The bytes.
    pub fn content(&self) -> Bytes {
        let range = self.skip as usize..self.end as usize;
        Bytes::from_owner(Shared(self.buffer.clone())).slice(range)
    }

    /// Gives the bytes back to be claimed again.
    pub fn release(&self) {
        self.buffer.set_claimed(false);
    }
}

/// Sorted, disjoint spans of one block.
#[derive(Debug, Clone, Default)]
pub struct Extents {
    spans: Vec<Span>,
}

impl Extents {
    /// A block that shows only zeros, whatever lies below.
    pub fn zero(block_bytes: u32) -> Self {
        Self { spans: vec![Span { at: 0, len: block_bytes, piece: Piece::Zero }] }
    }

    /// The spans of a block of the block map.
    pub fn from_fragments(fragments: &[Fragment]) -> Self {
        Self { spans: fragments.iter().map(Span::from).collect() }
    }

    /// The spans, in order.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The spans, in order, to be changed in what they show.
    pub fn spans_mut(&mut self) -> &mut [Span] {
        &mut self.spans
    }

    /// The parts of the spans inside `from..to`, in order.
    pub fn within(&self, from: u32, to: u32) -> impl Iterator<Item = Span> {
        self.spans.iter().filter_map(move |span| span.slice(from, to))
    }

    /// The parts inside `from..to`, with zeros in the gaps.
    pub fn filled(&self, from: u32, to: u32) -> Vec<Span> {
        let mut filled = Self::default();
        filled.put(from, to.saturating_sub(from), Piece::Zero);
        let inside = Self { spans: self.within(from, to).collect() };
        inside.over(&filled).spans
    }

    /// Makes `from..to` a gap.
    pub fn cut(&mut self, from: u32, to: u32) {
        if from >= to || self.spans.iter().all(|span| span.end() <= from || span.at >= to) {
            return;
        }
        let old = std::mem::take(&mut self.spans);
        for span in old {
            if span.end() <= from || span.at >= to {
                self.spans.push(span);
            } else {
                self.spans.extend(span.slice(0, from));
                self.spans.extend(span.slice(to, u32::MAX));
            }
        }
    }

    /// Shows `piece` at `at..at + len` in place of what was there.
    pub fn put(&mut self, at: u32, len: u32, piece: Piece) {
        if len == 0 {
            return;
        }
        self.cut(at, at + len);
        let place = self.spans.partition_point(|span| span.at < at);
        self.spans.insert(place, Span { at, len, piece });
    }

    /// Writes `data` at `at`.
    pub fn write(&mut self, at: u32, data: &[u8]) {
        if data.is_empty() || self.overwrite(at, data) || self.append(at, data) {
            return;
        }
        self.put(
            at,
            data.len() as u32,
            Piece::Memory { buffer: Buffer::new(data.to_vec()), skip: 0 },
        );
        let memory = self.spans.iter().filter(|s| matches!(s.piece, Piece::Memory { .. }));
        if memory.count() > MEMORY_SPANS_MAX {
            self.join_memory();
        }
    }

    /// Writes `data` at `at` where there are gaps.
    pub fn fill(&mut self, at: u32, data: &[u8]) {
        let mut below = Self::default();
        below.write(at, data);
        *self = self.over(&below);
    }

    /// Changes bytes in place where one span that nobody shares has them all.
    fn overwrite(&mut self, at: u32, data: &[u8]) -> bool {
        let end = at + data.len() as u32;
        let Some(span) = self.spans.iter_mut().find(|s| s.at <= at && end <= s.end()) else {
            return false;
        };
        let start = at - span.at;
        let Piece::Memory { buffer, skip } = &mut span.piece else { return false };
        let Some(buffer) = Arc::get_mut(buffer) else { return false };
        let start = (*skip + start) as usize;
        buffer.bytes[start..start + data.len()].copy_from_slice(data);
        true
    }

    /// Grows the span that ends at `at`, if nobody shares its bytes.
    fn append(&mut self, at: u32, data: &[u8]) -> bool {
        let place = self.spans.partition_point(|span| span.end() < at);
        let Some(span) = self.spans.get_mut(place).filter(|span| span.end() == at) else {
            return false;
        };
        let len = span.len;
        let Piece::Memory { buffer, skip } = &mut span.piece else { return false };
        let Some(buffer) = Arc::get_mut(buffer) else { return false };
        buffer.bytes.truncate((*skip + len) as usize);
        buffer.bytes.extend_from_slice(data);
        self.cut(at, at + data.len() as u32);
        self.spans[place].len += data.len() as u32;
        true
    }

    /// Joins neighbouring spans of unclaimed written bytes, so that each run is one chunk.
    pub fn join_memory(&mut self) {
        let old = std::mem::take(&mut self.spans);
        for span in old {
            if let Some(last) = self.spans.last_mut()
                && last.end() == span.at
                && let Some(joined) = join(last, &span)
            {
                *last = joined;
            } else {
                self.spans.push(span);
            }
        }
    }

    /// Claims all unclaimed written bytes for a packer, each span for itself: together never
    /// more than the block.
    pub fn claim(&mut self) -> Vec<Claim> {
        self.join_memory();
        let mut claims: Vec<Claim> = Vec::new();
        for span in &mut self.spans {
            let (at, len) = (span.at, span.len);
            let Piece::Memory { buffer, skip } = &mut span.piece else { continue };
            if claims.iter().any(|claim| Arc::ptr_eq(&claim.buffer, buffer)) {
                // A hole has cut the buffer in two: this part gets one of its own.
                let range = *skip as usize..(*skip + len) as usize;
                (*buffer, *skip) = (Buffer::new(buffer.bytes[range].to_vec()), 0);
            }
            if !buffer.is_claimed() {
                buffer.set_claimed(true);
                claims.push(Claim { at, buffer: buffer.clone(), skip: *skip, end: *skip + len });
            }
        }
        claims
    }

    /// Shows `place` wherever bytes of `claim` are still shown.
    pub fn replace(&mut self, claim: &Claim, place: &Place) {
        for span in &mut self.spans {
            let Piece::Memory { buffer, skip } = &span.piece else { continue };
            if !Arc::ptr_eq(buffer, &claim.buffer) {
                continue;
            }
            let mut place = place.clone();
            if let Place::Pack { skip: into, .. } = &mut place {
                *into += skip - claim.skip;
            }
            span.piece = Piece::Stored(place);
        }
    }

    /// These spans, with those of `below` in the gaps.
    #[must_use]
    pub fn over(&self, below: &Self) -> Self {
        let mut result = below.clone();
        for span in &self.spans {
            result.cut(span.at, span.end());
        }
        result.spans.extend(self.spans.iter().cloned());
        result.spans.sort_by_key(|span| span.at);
        result
    }

    /// Whether both show the same bytes at the same places, as far as places tell.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |(a, b): (&Span, &Span)| {
            let pieces = match (&a.piece, &b.piece) {
                (Piece::Zero, Piece::Zero) => true,
                (Piece::Stored(a), Piece::Stored(b)) => a == b,
                (
                    Piece::Memory { buffer: a, skip: a_skip },
                    Piece::Memory { buffer: b, skip: b_skip },
                ) => Arc::ptr_eq(a, b) && a_skip == b_skip,
                _ => false,
            };
            pieces && (a.at, a.len) == (b.at, b.len)
        };
        self.spans.len() == other.spans.len() && self.spans.iter().zip(&other.spans).all(same)
    }

    /// Whether no byte of `0..len` is a gap.
    pub fn covers(&self, len: u32) -> bool {
        let mut end = 0;
        for span in &self.spans {
            if span.at > end {
                break;
            }
            end = span.end();
        }
        end >= len
    }

    /// Written bytes that are not in the bucket.
    pub fn memory_bytes(&self) -> u64 {
        let memory = self.spans.iter().filter(|s| matches!(s.piece, Piece::Memory { .. }));
        memory.map(|span| u64::from(span.len)).sum()
    }

    /// Bytes that are not zeros, wherever they lie.
    pub fn content_bytes(&self) -> u64 {
        let content = self.spans.iter().filter(|span| !matches!(span.piece, Piece::Zero));
        content.map(|span| u64::from(span.len)).sum()
    }

    /// Written bytes that no packer has claimed.
    pub fn unclaimed_bytes(&self) -> u64 {
        let unclaimed = self.spans.iter().filter(
            |span| matches!(&span.piece, Piece::Memory { buffer, .. } if !buffer.is_claimed()),
        );
        unclaimed.map(|span| u64::from(span.len)).sum()
    }

    /// As fragments of the block map: zeros become holes, inline neighbours one.
    /// `None` while written bytes are left.
    pub fn to_fragments(&self) -> Option<Vec<Fragment>> {
        let mut fragments: Vec<Fragment> = Vec::with_capacity(self.spans.len());
        for span in &self.spans {
            let place = match &span.piece {
                Piece::Zero => continue,
                Piece::Memory { .. } => return None,
                Piece::Stored(place) => place.clone(),
            };
            if let (Some(last), Place::Inline(tail)) = (fragments.last_mut(), &place)
                && last.end() == span.at
                && let Place::Inline(head) = &last.place
            {
                last.place = Place::Inline([&head[..], &tail[..]].concat().into());
                last.len += span.len;
            } else {
                fragments.push(Fragment { at: span.at, len: span.len, place });
            }
        }
        Some(fragments)
    }
}

fn join(left: &Span, right: &Span) -> Option<Span> {
    let unclaimed =
        |span: &Span| matches!(&span.piece, Piece::Memory { buffer, .. } if !buffer.is_claimed());
    if !unclaimed(left) || !unclaimed(right) {
        return None;
    }
    let bytes = [&left.memory()?[..], &right.memory()?[..]].concat();
    let len = bytes.len() as u32;
    Some(Span { at: left.at, len, piece: Piece::Memory { buffer: Buffer::new(bytes), skip: 0 } })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: usize = 256;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u32, Vec<u8>),
        Zero(u32, u32),
        Claim,
        Join,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let write =
            (0..BLOCK as u32, prop::collection::vec(1u8.., 1..64)).prop_map(|(at, mut data)| {
                data.truncate(BLOCK - at as usize);
                Step::Write(at, data)
            });
        let zero = (0..BLOCK as u32, 1..BLOCK as u32)
            .prop_map(|(at, len)| Step::Zero(at, len.min(BLOCK as u32 - at)));
        prop::collection::vec(
            prop_oneof![6 => write, 2 => zero, 1 => Just(Step::Claim), 1 => Just(Step::Join)],
            1..40,
        )
    }

    fn show(extents: &Extents, below: &[u8]) -> Vec<u8> {
        let mut out = below.to_vec();
        let mut end = 0;
        for span in extents.spans() {
            assert!(span.at >= end && span.len > 0, "sorted and disjoint");
            end = span.end();
            let target = &mut out[span.at as usize..span.end() as usize];
            match span.memory() {
                Some(bytes) => target.copy_from_slice(&bytes),
                None => target.fill(0),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn edits_show_what_a_plain_array_shows(steps in steps(), split in 0usize..40) {
            let mut plain = vec![255u8; BLOCK];
            let (mut lower, mut upper) = (Extents::default(), Extents::default());
            let mut claimed = Vec::new();
            for (index, step) in steps.into_iter().enumerate() {
                let edit = if index < split { &mut lower } else { &mut upper };
                match step {
                    Step::Write(at, data) => {
                        plain[at as usize..at as usize + data.len()].copy_from_slice(&data);
                        edit.write(at, &data);
                    }
                    Step::Zero(at, len) => {
                        plain[at as usize..(at + len) as usize].fill(0);
                        edit.put(at, len, Piece::Zero);
                    }
                    Step::Claim => for claim in edit.claim() {
                        let content = claim.content().to_vec();
                        claimed.push((claim, content));
                    },
                    Step::Join => edit.join_memory(),
                }
            }
            let both = show(&upper, &show(&lower, &[255; BLOCK]));
            prop_assert_eq!(&both, &plain);
            prop_assert_eq!(&show(&upper.over(&lower), &[255; BLOCK]), &plain);
            for (claim, bytes) in claimed {
                prop_assert_eq!(&claim.content()[..], &bytes[..], "claimed bytes never change");
            }
        }
    }

    #[test]
    fn appended_bytes_stay_one_span() {
        let mut extents = Extents::default();
        for at in 0..100 {
            extents.write(at, &[at as u8]);
        }
        assert_eq!(extents.spans().len(), 1);
        assert_eq!(extents.memory_bytes(), 100);
        assert!(extents.covers(100) && !extents.covers(101));
    }

    #[test]
    fn inline_neighbours_become_one_fragment_and_zeros_a_hole() {
        let mut extents = Extents::zero(64);
        let inline = |text: &'static [u8]| Piece::Stored(Place::Inline(Bytes::from_static(text)));
        extents.put(0, 2, inline(b"ab"));
        extents.put(2, 3, inline(b"cde"));
        let fragments = extents.to_fragments().unwrap();
        assert_eq!(fragments.len(), 1);
        assert_eq!(fragments[0].place, Place::Inline(Bytes::from_static(b"abcde")));
    }
}
