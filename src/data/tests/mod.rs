//! Packs, reader and caches together, over a store in memory.

mod disk;
mod packs;
mod reading;
mod support;
