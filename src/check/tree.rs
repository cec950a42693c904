//! The tree: every directory in one other, every inode with the names it counts.

use bytes::Bytes;

use super::tables::Node;
use super::{Check, Fields, Problem, Repair};
use crate::base::Inode;
use crate::format::{FileKind, Key};

/// How far a directory has been followed upwards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    /// On the way that is being followed.
    Here,
    Done,
}

impl Check<'_> {
    /// Finds directories that no way leads to.
    pub(super) fn judge_tree(&mut self) {
        let mut marks = vec![Mark::New; self.inodes.dirs.len()];
        let mut way = Vec::new();
        for start in 0..marks.len() {
            let mut next = Some(start);
            while let Some(at) = next {
                match marks[at] {
                    Mark::Done => break,
                    Mark::Here => {
                        self.ring(at);
                        break;
                    }
                    Mark::New => {}
                }
                marks[at] = Mark::Here;
                way.push(at);
                let dir = &self.inodes.dirs[at];
                // A directory without a record is made anew, one that cannot be read stays.
                next = match dir.holder {
                    _ if dir.inode == Inode::ROOT => None,
                    Some(holder) => self.inodes.dir_index(holder),
                    None => None,
                };
            }
            for at in way.drain(..) {
                marks[at] = Mark::Done;
            }
        }
    }

    fn ring(&mut self, at: usize) {
        let dir = &self.inodes.dirs[at];
        if let (inode, Some(holder)) = (dir.inode, dir.holder) {
            let repair = Repair::UnlinkNames { holder, inode, keep: 0 };
            self.report.add(Problem::Ring { inode, holder }, repair);
        }
    }

    /// Links, names, parents and orphans.
    pub(super) fn judge_links(&mut self) {
        let report = &mut self.report;
        let mut dirs = self.inodes.dirs.iter().peekable();
        for node in &self.inodes.nodes {
            let (inode, mut fields) = (node.inode, Fields::default());
            let dir = dirs.next_if(|dir| dir.inode == inode);
            let mut wrong = Vec::new();
            let links = match (node.kind, dir) {
                (None, _) => continue,
                (Some(FileKind::Directory), Some(dir)) => {
                    let has_name = dir.holder.is_some() || inode == Inode::ROOT;
                    let is_empty_orphan = node.nlink == 0 && dir.names == 0;
                    if !has_name && !is_empty_orphan {
                        report.add(Problem::Unreachable { inode }, Repair::Adopt(inode));
                        continue;
                    }
                    if dir.names != dir.entries {
                        let (recorded, found) = (dir.entries, dir.names);
                        wrong.push(Problem::WrongEntries { inode, recorded, found });
                        fields.entries = Some(found);
                    }
                    let parent = if inode == Inode::ROOT { Some(inode) } else { dir.holder };
                    if let Some(found) = parent.filter(|parent| *parent != dir.parent) {
                        wrong.push(Problem::WrongParent { inode, recorded: dir.parent, found });
                        fields.parent = Some(found);
                    }
                    if has_name { dir.subdirectories.saturating_add(2) } else { 0 }
                }
                _ if node.names == 0 && node.nlink > 0 => {
                    report.add(Problem::Unreachable { inode }, Repair::Adopt(inode));
                    continue;
                }
                _ => node.names,
            };
            if node.nlink != links {
                let recorded = node.nlink;
                wrong.push(Problem::WrongLinks { inode, recorded, found: links });
                fields.nlink = Some(links);
            }
            for problem in wrong {
                report.add(problem, Repair::Inode(inode, fields));
            }
            if let Some((problem, value)) = wrong_mark(node, links) {
                report.add(problem, Repair::Set(vec![(Key::orphan(inode), value)]));
            }
        }
    }
}

/// An orphan record that is missing or one too many, and what has to stand there.
fn wrong_mark(node: &Node, links: u32) -> Option<(Problem, Option<Bytes>)> {
    let inode = node.inode;
    match (links, node.is_marked) {
        (0, false) => Some((Problem::UnmarkedOrphan { inode }, Some(Bytes::from_static(&[1])))),
        (1.., true) => Some((Problem::StrayOrphanMark { inode }, None)),
        _ => None,
    }
}
