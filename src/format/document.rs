//! Holds `FORMAT.md` to the code: its examples are what we write, and read as it says.
//!
//! A block that is tagged `hex NAME` holds bytes; on each line two spaces end them and begin a remark.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;

use super::header::{Signed, Unlock, hex, unhex};
use super::{
    Counters, DirEntry, FileKind, FormatError, Fragment, FreedRecord, InodeFlags, InodeRecord, Key,
    OrphanRecord, PackDirectory, PackEntry, PackRecord, Page, Place, Space, UnsweptRecord, Writer,
    pack_path,
};
use crate::base::{
    BlockIndex, CommitNumber, Epoch, Inode, PackNumber, Timestamp, VolumeId, WriterEpoch,
};
use crate::crypto::{Binding, DataKey, DataKeys, HEADER_LEN, ObjectKind, Opener, SecretKey};

const DOCUMENT: &str = include_str!("FORMAT.md");
const HEADER: &[u8] = include_bytes!("../../tests/vectors/header.json");
const KEYS: &str = include_str!("../../tests/vectors/header_keys.json");

/// The examples by name.
fn examples() -> BTreeMap<&'static str, Vec<u8>> {
    let mut examples = BTreeMap::new();
    let mut blocks = DOCUMENT.split("\n```hex ");
    blocks.next();
    for block in blocks {
        let (name, rest) = block.split_once('\n').unwrap();
        let (body, _) = rest.split_once("\n```").unwrap_or_else(|| panic!("{name} has no end"));
        let digits = body.lines().map(|line| line.split("  ").next().unwrap_or_default());
        let digits: String = digits.collect::<String>().split_whitespace().collect();
        let bytes = digits.as_bytes().chunks(2).map(|pair| unhex::<1>(pair).expect(name)[0]);
        let twice = examples.insert(name, bytes.collect());
        assert!(twice.is_none(), "{name} stands there twice");
    }
    examples
}

/// The example called `name`, which must be `bytes`.
fn expect(name: &str, bytes: &[u8]) {
    let examples = examples();
    let found =
        examples.get(name).unwrap_or_else(|| panic!("FORMAT.md lacks {name}: {}", hex(bytes)));
    assert_eq!(hex(found), hex(bytes), "FORMAT.md, example {name}");
}

/// The example called `name`: `encoded`, which must read back as `value`.
fn expect_value<T: Debug + PartialEq>(
    name: &str,
    value: &T,
    encoded: &[u8],
    decode: impl FnOnce(&Bytes) -> Result<T, FormatError>,
) {
    expect(name, encoded);
    let example = Bytes::from(examples().remove(name).unwrap());
    assert_eq!(decode(&example).as_ref(), Ok(value), "FORMAT.md, example {name}");
}

fn array<const N: usize>(digits: &str) -> [u8; N] {
    unhex(digits.as_bytes()).unwrap()
}

/// The keys that the vectors of the header were made with.
fn vector(pointer: &str) -> String {
    let keys: serde_json::Value = serde_json::from_str(KEYS).unwrap();
    keys.pointer(pointer).unwrap().as_str().unwrap().to_owned()
}

fn names_key() -> SecretKey {
    SecretKey::from_bytes(array(&vector("/names_key")))
}

fn data_key() -> DataKey {
    DataKey { epoch: Epoch(2), key: SecretKey::from_bytes(array(&vector("/data_keys/2"))) }
}

fn volume() -> VolumeId {
    Signed::parse(HEADER).unwrap().header().volume_id
}

const INODE: Inode = Inode(300);
const PACK: PackNumber = PackNumber(3 << 40 | 5);
const TIME: Timestamp = Timestamp { seconds: 1_700_000_000, nanos: 500_000_000 };

#[test]
fn integers_are_as_documented() {
    let mut out = Writer::default();
    out.varint(300);
    expect("varint", &out.finish());
}

#[test]
fn keys_are_as_documented() {
    assert_eq!(PackNumber::new(WriterEpoch(3), 5), Some(PACK));
    expect("key B", Key::page(INODE, 1).as_bytes());
    expect("key D", Key::entry(Inode::ROOT, name_hash(b"notes.txt")).as_bytes());
    expect("key F", Key::freed(CommitNumber(9), PACK).as_bytes());
    expect("key I", Key::inode(INODE).as_bytes());
    expect("key L", Key::inline(INODE, 1).as_bytes());
    expect("key O", Key::orphan(INODE).as_bytes());
    expect("key P", Key::pack(PACK).as_bytes());
    expect("key R", Key::reference(PACK, INODE, BlockIndex(2)).as_bytes());
    expect("key S", Key::counters().as_bytes());
    expect("key U", Key::unswept(PACK).as_bytes());
    expect("key X", Key::xattr(INODE, b"user.tag").as_bytes());
}

/// As section 6.3 says.
fn name_hash(name: &[u8]) -> u64 {
    let mac = names_key().mac(&[b"lidfs/name", name]);
    let head = u64::from_le_bytes(mac[..8].try_into().unwrap());
    (head >> 2).max(16)
}

fn inode() -> InodeRecord {
    InodeRecord {
        kind: FileKind::Regular,
        permissions: 0o644,
        uid: 1000,
        gid: 1000,
        nlink: 1,
        rdev: 0,
        size: 70_000,
        allocated: 70_000,
        atime: TIME,
        mtime: TIME,
        ctime: TIME,
        btime: TIME,
        parent: Inode(0),
        entries: 0,
        flags: InodeFlags(InodeFlags::XATTRS),
        target: Box::default(),
    }
}

#[test]
fn inodes_and_entries_are_as_documented() {
    let file = inode();
    expect_value("inode", &file, &file.encode(), |bytes| InodeRecord::decode(bytes));
    let link = InodeRecord {
        kind: FileKind::Symlink,
        permissions: 0o777,
        size: 9,
        allocated: 0,
        flags: InodeFlags::default(),
        target: b"notes.txt"[..].into(),
        ..inode()
    };
    expect_value("inode of a symbolic link", &link, &link.encode(), |bytes| {
        InodeRecord::decode(bytes)
    });
    let target = Some((INODE, FileKind::Regular));
    let entry = DirEntry { target, chained: false, name: b"notes.txt"[..].into() };
    expect_value("entry", &entry, &entry.encode(), |bytes| DirEntry::decode(bytes));
    let tombstone = DirEntry { target: None, chained: true, name: Box::default() };
    expect_value("tombstone", &tombstone, &tombstone.encode(), |bytes| DirEntry::decode(bytes));
    expect("orphan", &OrphanRecord.encode());
    let unswept = UnsweptRecord { to: WriterEpoch(4) };
    expect_value("unswept", &unswept, &unswept.encode(), |bytes| UnsweptRecord::decode(bytes));
}

fn packed(at: u32, len: u32, chunk: (u32, u32, u32), skip: u32) -> Fragment {
    let (chunk, offset, sealed_len) = chunk;
    let compressed = sealed_len < len;
    Fragment {
        at,
        len,
        place: Place::Pack { pack: PACK, chunk, offset, sealed_len, skip, compressed },
    }
}

#[test]
fn block_maps_are_as_documented() {
    let mut page = Page::default();
    page.set(0, vec![packed(0, 65_536, (0, 96, 1_040), 0)]);
    page.set(1, vec![packed(0, 4_464, (1, 1_136, 4_480), 0)]);
    let inline = Place::Inline(Bytes::from_static(b"hello"));
    let middle = Fragment { at: 100, len: 5, place: inline };
    let whole = (7, 9_000, 516);
    page.set(9, vec![packed(0, 100, whole, 0), middle, packed(105, 395, whole, 105)]);
    expect_value("page", &page, &page.encode(), Page::decode);
}

#[test]
fn packs_are_as_documented() {
    let mut salt = [0; 32];
    salt.iter_mut().zip(0..).for_each(|(byte, value)| *byte = value);
    let record = PackRecord {
        epoch: Epoch(2),
        salt,
        size: 9_700,
        content: 70_000,
        live: 65_536,
        birth: CommitNumber(8),
    };
    expect_value("pack", &record, &record.encode(), |bytes| PackRecord::decode(bytes));
    let freed = FreedRecord { epoch: Epoch(2), size: 9_700, freed: 1_700_000_000 };
    expect_value("freed pack", &freed, &freed.encode(), |bytes| FreedRecord::decode(bytes));

    let mac = names_key().mac(&[&PACK.0.to_le_bytes()]);
    expect("pack name", &mac[..16]);
    let path = pack_path(mac[..16].first_chunk().unwrap());
    assert!(DOCUMENT.contains(&path), "{path}");

    let object = examples().remove("pack object").expect("FORMAT.md lacks the pack object");
    let keys = DataKeys::new(data_key(), Vec::new());
    let binding = Binding { volume: volume(), kind: ObjectKind::Pack, path: &path };
    let opener = Opener::from_header(&keys, &binding, &object).unwrap();
    assert_eq!(opener.chunk_size(), 0);
    let (rest, trailer) = object.split_last_chunk::<8>().unwrap();
    assert_eq!(trailer[..4], [2, 0, 0, 0], "chunks before the directory");
    let start = rest.len() - usize::from(trailer[4]);
    let mut plain = Vec::new();
    opener.open(2, true, &rest[start..], &mut plain).unwrap();
    let entry = |block, at, len| PackEntry {
        inode: INODE,
        block: BlockIndex(block),
        at,
        len,
        sealed_len: len + 16,
        compressed: false,
    };
    let directory = PackDirectory { entries: vec![entry(0, 0, 5), entry(1, 7, 6)] };
    assert_eq!(plain, directory.encode());
    expect_value("directory", &directory, &directory.encode(), |bytes| {
        PackDirectory::decode(bytes)
    });
    let mut content = Vec::new();
    opener.open(0, false, &object[96..117], &mut content).unwrap();
    opener.open(1, false, &object[117..139], &mut content).unwrap();
    assert_eq!(content, b"hellolidfs!");
}

#[test]
fn counters_are_as_documented() {
    let counters = Counters {
        commit: CommitNumber(9),
        next_inode: 301,
        inodes: 12,
        bytes: 70_000,
        next_pack: crate::base::PackNumber(6),
        space: Space {
            packs: 1,
            pack_bytes: 9_700,
            content_bytes: 70_000,
            live_bytes: 65_536,
            freed_packs: 0,
            freed_bytes: 0,
        },
    };
    expect_value("counters", &counters, &counters.encode(), |bytes| Counters::decode(bytes));
}

fn prefixed(parts: &[&[u8]]) -> Vec<u8> {
    let prefix = |part: &&[u8]| [&(part.len() as u64).to_le_bytes()[..], part].concat();
    parts.iter().flat_map(prefix).collect()
}

fn open_whole(key: DataKey, kind: ObjectKind, path: &str, object: &[u8]) -> Vec<u8> {
    let keys = DataKeys::new(key, Vec::new());
    let binding = Binding { volume: volume(), kind, path };
    let (header, chunk) = object.split_at(HEADER_LEN);
    let mut plain = Vec::new();
    let opener = Opener::from_header(&keys, &binding, header).unwrap();
    opener.open(0, true, chunk, &mut plain).unwrap();
    plain
}

#[test]
fn the_way_from_a_keyfile_to_the_data_keys_is_as_documented() {
    let signed = Signed::parse(HEADER).unwrap();
    let (header, id) = (signed.header(), volume().0);
    let keyfile = super::header::from_base64(vector("/keyfile").as_bytes()).unwrap();
    expect("keyfile", &keyfile);
    let slot = &header.slots[0];
    let Unlock::Keyfile { salt } = &slot.unlock else { panic!("the first slot is a keyfile's") };

    let info: [&[u8]; 5] = [b"lidfs/v1", b"slot", b"keyfile", &id, &slot.id.0];
    expect("slot info", &prefixed(&info));
    let keyfile = SecretKey::from_bytes(keyfile.try_into().unwrap());
    let kek = keyfile.derive(&salt.0, &info);
    expect("slot key", kek.expose());

    for (at, kind) in [(2, "KMS"), (3, "recovery")] {
        let slot = &header.slots[at];
        let (vector_name, salt, kind_name) = match &slot.unlock {
            Unlock::Kms { salt, .. } => ("/kms_input", salt, b"kms".as_slice()),
            Unlock::Recovery { salt } => ("/recovery", salt, b"recovery".as_slice()),
            other => panic!("{other:?}"),
        };
        let input = super::header::from_base64(vector(vector_name).as_bytes()).unwrap();
        expect(&format!("{kind} input"), &input);
        let info: [&[u8]; 5] = [b"lidfs/v1", b"slot", kind_name, &id, &slot.id.0];
        let kek = SecretKey::from_bytes(input.try_into().unwrap()).derive(&salt.0, &info);
        // "KMS input", "KMS slot key", "recovery input", "recovery slot key"
        expect(&format!("{kind} slot key"), kek.expose());
    }
    let words = vector("/recovery_words");
    let words: Vec<&str> = words.split(' ').take(4).collect();
    assert!(DOCUMENT.contains(&format!("`{}`", words.join(" "))));

    let zero = |key| DataKey { epoch: Epoch(0), key };
    let path = format!("slot/{}", slot.id);
    let volume_key = open_whole(zero(kek), ObjectKind::Slot, &path, &slot.wrapped.0);
    expect("volume key", &volume_key);
    let volume_key = SecretKey::from_bytes(volume_key.try_into().unwrap());

    let root = |purpose: &[u8]| volume_key.derive(&id, &[b"lidfs/v1", purpose]);
    expect("header key", root(b"header").expose());
    expect("header mac", &root(b"header").mac(&[signed.signed()]));
    assert!(root(b"header").verify_mac(&[signed.signed()], signed.mac()));
    expect("fingerprint", &root(b"fingerprint").expose()[..8]);
    assert_eq!(hex(&root(b"fingerprint").expose()[..8]), vector("/fingerprint"));
    let keyring = root(b"keyring");
    let keyring = open_whole(zero(keyring), ObjectKind::Keyring, "keyring", &header.keyring.0);
    expect("keyring", &keyring);
    let names = names_key().derive(&id, &[b"lidfs/v1", b"names fingerprint"]);
    expect("names fingerprint", &names.expose()[..16]);
    expect("name hash", &name_hash(b"notes.txt").to_be_bytes());
}

#[test]
fn a_sealed_object_is_as_documented() {
    let object = examples().remove("sealed lease").expect("FORMAT.md lacks the sealed lease");
    let plain = open_whole(data_key(), ObjectKind::Lease, "lease", &object);
    let plain = String::from_utf8(plain).unwrap();
    assert!(DOCUMENT.contains(&format!("```json\n{plain}\n```")), "{plain}");
    let info: [&[u8]; 6] = [b"lidfs/v1", &[2], &[1], &volume().0, &2u32.to_le_bytes(), b"lease"];
    expect("object info", &prefixed(&info));
}

#[test]
fn every_example_is_looked_at() {
    let looked_at: Vec<&str> = include_str!("document.rs").split('"').collect();
    for name in examples().keys() {
        assert!(looked_at.contains(name), "no test here reads the example {name}");
    }
}
