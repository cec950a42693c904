//! Every decoder of bytes that come from the bucket, each under its name: for unit tests and for `tests/fuzz`.
//!
//! A decoder must refuse or accept, never panic; and what it accepts, written out and read again, is the same.

use std::fmt::Debug;

use bytes::Bytes;

use crate::base::{
    BlockIndex, CommitNumber, Epoch, Inode, PackNumber, Timestamp, VolumeId, WriterEpoch,
};
use crate::crypto::{Binding, DataKey, DataKeys, ObjectKind, SecretKey};
use crate::format::{
    Counters, DirEntry, FileKind, FormatError, Fragment, FreedRecord, InodeFlags, InodeRecord, Key,
    KeyKind, PackDirectory, PackEntry, PackRecord, Page, Place, Space, UnsweptRecord, header,
};
use crate::keys::{open_whole, seal_whole};
use crate::{data, fs, keys, volume};

/// A decoder, and inputs that it accepts to start from.
pub struct Decoder {
    /// What it decodes.
    pub name: &'static str,
    /// Decodes any bytes; panics where it must not accept what it accepted.
    pub run: fn(&[u8]),
    /// Inputs to change.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const DECODERS: &[Decoder] = &[
    Decoder { name: "header", run: volume_header, seeds: header_seeds },
    Decoder { name: "sealed", run: sealed, seeds: || vec![vec![1; 40], vec![0; 9]] },
    Decoder {
        name: "keyring",
        run: |bytes| _ = volume::accepts_keyring(bytes),
        seeds: || vec![volume::example_keyring()],
    },
    Decoder {
        name: "keyfile",
        run: |bytes| drop(keys::parse_keyfile(bytes)),
        seeds: || {
            vec![b"# lidfs keyfile v1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n".to_vec()]
        },
    },
    Decoder { name: "key", run: record_key, seeds: key_seeds },
    Decoder {
        name: "inode",
        run: |bytes| stable(bytes, InodeRecord::decode, InodeRecord::encode),
        seeds: inode_seeds,
    },
    Decoder {
        name: "entry",
        run: |bytes| stable(bytes, DirEntry::decode, DirEntry::encode),
        seeds: entry_seeds,
    },
    Decoder {
        name: "page",
        run: |bytes| {
            stable(bytes, |bytes| Page::decode(&Bytes::copy_from_slice(bytes)), Page::encode);
        },
        seeds: page_seeds,
    },
    Decoder {
        name: "pack",
        run: |bytes| stable(bytes, PackRecord::decode, PackRecord::encode),
        seeds: pack_seeds,
    },
    Decoder {
        name: "freed",
        run: |bytes| stable(bytes, FreedRecord::decode, FreedRecord::encode),
        seeds: || vec![FreedRecord { epoch: Epoch(1), size: 1 << 24, freed: 1 << 31 }.encode()],
    },
    Decoder {
        name: "directory",
        run: |bytes| stable(bytes, PackDirectory::decode, PackDirectory::encode),
        seeds: directory_seeds,
    },
    Decoder {
        name: "unswept",
        run: |bytes| stable(bytes, UnsweptRecord::decode, |record| record.encode()),
        seeds: || vec![UnsweptRecord { to: WriterEpoch(7) }.encode()],
    },
    Decoder {
        name: "counters",
        run: |bytes| stable(bytes, Counters::decode, Counters::encode),
        seeds: counters_seeds,
    },
    Decoder {
        name: "acl",
        run: |bytes| _ = fs::accepts_acl(bytes),
        seeds: || vec![[&[2, 0, 0, 0][..], &[1, 0, 7, 0, 255, 255, 255, 255]].concat()],
    },
    Decoder {
        name: "chunk",
        run: |bytes| drop(data::expand(bytes)),
        seeds: || vec![data::example_compressed()],
    },
];

/// What decodes from `bytes` is the same after another round.
fn stable<T: PartialEq + Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, FormatError>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    let Ok(value) = decode(bytes) else { return };
    let again = decode(&encode(&value));
    assert_eq!(again.as_ref().ok(), Some(&value), "{again:?}");
}

fn volume_header(bytes: &[u8]) {
    if let Ok(signed) = header::Signed::parse(bytes) {
        assert_eq!(header::Signed::parse(&signed.to_file()).as_ref().ok(), Some(&signed));
    }
}

/// A sealed object opens only as it was sealed. The first byte says how the rest changes one.
fn sealed(bytes: &[u8]) {
    let Some((&how, rest)) = bytes.split_first() else { return };
    let key = DataKey { epoch: Epoch(1), key: SecretKey::from_bytes([7; 32]) };
    let keys = DataKeys::new(key.clone(), Vec::new());
    let binding = Binding { volume: VolumeId([3; 16]), kind: ObjectKind::Lease, path: "lease" };
    if how % 4 == 0 {
        assert!(open_whole(&keys, &binding, rest).is_err(), "nobody has the key");
        return;
    }
    let Ok(object) = seal_whole(&key, &binding, rest) else { return };
    let mut changed = object.clone();
    match how % 4 {
        1 => changed.truncate(usize::from(how) * object.len() / 256),
        2 => changed.extend_from_slice(rest),
        _ => {
            for (index, byte) in rest.iter().enumerate() {
                let at = (index * 37 + usize::from(how)) % object.len();
                changed[at] ^= byte;
            }
        }
    }
    let opened = open_whole(&keys, &binding, &changed);
    let plain = opened.as_ref().ok().map(crate::crypto::SecretBytes::expose);
    assert_eq!(plain, (changed == object).then_some(rest));
}

fn record_key(bytes: &[u8]) {
    let key = Key::from_bytes(bytes);
    assert_eq!(key.as_bytes(), bytes);
    let _ = (key.orphaned(), key.pack_number(), key.inline_page(), Key::xattr_name(bytes));
    let _ = (Key::numbers::<1>(bytes), Key::numbers::<2>(bytes), Key::numbers::<3>(bytes));
    let _ = (Key::number(bytes, 0), Key::number(bytes, 2));
}

fn header_seeds() -> Vec<Vec<u8>> {
    let base64 = |len| header::Base64(vec![5; len]);
    let slot = |id, unlock| header::Slot {
        id: header::SlotId([id; 8]),
        label: "desk".to_owned(),
        created: 1_700_000_000,
        unlock,
        wrapped: base64(144),
    };
    let (memory_kib, iterations, parallelism) = (262_144, 3, 4);
    let passphrase =
        header::Unlock::Passphrase { salt: base64(32), memory_kib, iterations, parallelism };
    let header = header::Header {
        lidfs: 1,
        features: Vec::new(),
        volume_id: VolumeId([1; 16]),
        created: 1_700_000_000,
        version: 3,
        params: header::VolumeParams::default(),
        slots: vec![slot(1, header::Unlock::Keyfile { salt: base64(32) }), slot(2, passphrase)],
        keyring: base64(200),
    };
    header::Signed::new(header, |_| [7; 32]).iter().map(header::Signed::to_file).collect()
}

fn key_seeds() -> Vec<Vec<u8>> {
    let keys = [
        Key::inode(Inode(3)),
        Key::entry(Inode(1), 77),
        Key::page(Inode(3), 2),
        Key::inline(Inode(3), 2),
        Key::xattr(Inode(3), b"user.a"),
        Key::orphan(Inode(9)),
        Key::pack(PackNumber(5)),
        Key::reference(PackNumber(5), Inode(3), BlockIndex(1)),
        Key::freed(CommitNumber(4), PackNumber(5)),
        Key::unswept(PackNumber(5)),
        Key::counters(),
    ];
    let ranges = KeyKind::ALL.map(|kind| Key::range_of(kind).1);
    keys.iter().map(|key| key.as_bytes().to_vec()).chain(ranges).collect()
}

fn inode_seeds() -> Vec<Vec<u8>> {
    let time = Timestamp { seconds: -1, nanos: 999_999_999 };
    let record = |kind, target: &[u8]| InodeRecord {
        kind,
        permissions: 0o644,
        uid: 1000,
        gid: 1000,
        nlink: 1,
        rdev: 0,
        size: target.len() as u64,
        allocated: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        parent: Inode(1),
        entries: 0,
        flags: InodeFlags(0),
        target: target.into(),
    };
    let kinds =
        [(FileKind::Regular, &b""[..]), (FileKind::Directory, b""), (FileKind::Symlink, b"target")];
    kinds.iter().map(|(kind, target)| record(*kind, target).encode()).collect()
}

fn entry_seeds() -> Vec<Vec<u8>> {
    let entry =
        |target, chained, name: &[u8]| DirEntry { target, chained, name: name.into() }.encode();
    let target = Some((Inode(5), FileKind::Regular));
    vec![entry(target, false, b"name"), entry(target, true, b"n"), entry(None, true, b"")]
}

fn page_seeds() -> Vec<Vec<u8>> {
    let mut page = Page::default();
    let stored = Place::Pack {
        pack: PackNumber(9),
        chunk: 3,
        offset: 4096,
        sealed_len: 1000,
        compressed: true,
        skip: 5,
    };
    page.set(0, vec![Fragment { at: 0, len: 4096, place: stored.clone() }]);
    let inline = Place::Inline(Bytes::from_static(b"inline"));
    page.set(
        9,
        vec![
            Fragment { at: 0, len: 6, place: inline },
            Fragment { at: 8, len: 100, place: stored },
        ],
    );
    vec![Page::default().encode(), page.encode()]
}

fn pack_seeds() -> Vec<Vec<u8>> {
    let record = PackRecord {
        epoch: Epoch(1),
        salt: [5; 32],
        size: 1 << 24,
        content: 1 << 25,
        live: 1 << 23,
        birth: CommitNumber(8),
    };
    vec![record.encode()]
}

fn directory_seeds() -> Vec<Vec<u8>> {
    let entry = PackEntry {
        inode: Inode(3),
        block: BlockIndex(2),
        at: 0,
        len: 4096,
        sealed_len: 1000,
        compressed: true,
    };
    vec![PackDirectory::default().encode(), PackDirectory { entries: vec![entry; 3] }.encode()]
}

fn counters_seeds() -> Vec<Vec<u8>> {
    let space = Space {
        packs: 1,
        pack_bytes: 1 << 30,
        content_bytes: 1 << 31,
        live_bytes: 5,
        freed_packs: 6,
        freed_bytes: 7,
    };
    let counters = Counters {
        commit: CommitNumber(8),
        next_inode: 9,
        inodes: 2,
        bytes: 77,
        next_pack: PackNumber(3),
        space,
    };
    vec![counters.encode()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One byte becomes another, one goes, some come.
    fn changed(seed: &[u8], changes: &[(usize, u8, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for (at, how, new) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at % bytes.len();
            match how % 3 {
                0 => bytes[at] ^= how | 1,
                1 => bytes.truncate(at),
                _ => drop(bytes.splice(at..at, new.iter().copied())),
            }
        }
        bytes
    }

    #[test]
    fn what_decoders_start_from_they_accept() {
        for decoder in DECODERS {
            assert!(!(decoder.seeds)().is_empty());
            for seed in (decoder.seeds)() {
                (decoder.run)(&seed);
            }
        }
        assert!(header::Signed::parse(&header_seeds()[0]).is_ok());
        assert!(inode_seeds().iter().all(|seed| InodeRecord::decode(seed).is_ok()));
        assert!(entry_seeds().iter().all(|seed| DirEntry::decode(seed).is_ok()));
        assert!(page_seeds().into_iter().all(|seed| Page::decode(&seed.into()).is_ok()));
        assert!(PackRecord::decode(&pack_seeds()[0]).is_ok());
        assert!(directory_seeds().iter().all(|seed| PackDirectory::decode(seed).is_ok()));
        assert!(Counters::decode(&counters_seeds()[0]).is_ok());
        assert!(volume::accepts_keyring(&volume::example_keyring()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_decoder_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            which in any::<prop::sample::Index>(),
            changes in prop::collection::vec(
                (any::<usize>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..20)), 1..5),
        ) {
            for decoder in DECODERS {
                (decoder.run)(&bytes);
                let seeds = (decoder.seeds)();
                (decoder.run)(&changed(&seeds[which.index(seeds.len())], &changes));
            }
        }
    }
}
