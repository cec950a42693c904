//! Records on their way from the engine to the record cache.
//!
//! A commit may change a record while an older value of it is still being
//! loaded; the loader then must not remember what it got. Each load has a
//! ticket, and a commit makes all tickets of its records void.

use std::collections::HashMap;

use crate::base::sabotage::{Bug, seeded};
use crate::format::Key;

/// One load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
struct Loads {
    count: usize,
    /// Tickets below are void.
    valid_from: Ticket,
}

/// The loads under way.
#[derive(Debug, Default)]
pub(super) struct Loading {
    keys: HashMap<Key, Loads>,
    next: u64,
}

impl Loading {
    /// A load of `key` begins.
    pub fn begin(&mut self, key: &Key) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        let loads = self.keys.entry(key.clone());
        loads.or_insert(Loads { count: 0, valid_from: ticket }).count += 1;
        ticket
    }

    /// A load ends. Whether its value is still the last committed one.
    pub fn end(&mut self, key: &Key, ticket: Ticket) -> bool {
        let Some(loads) = self.keys.get_mut(key) else { return false };
        let valid = ticket >= loads.valid_from || seeded(Bug::CacheOvertakenLoad);
        loads.count -= 1;
        if loads.count == 0 {
            self.keys.remove(key);
        }
        valid
    }

    /// Anything may have changed.
    pub fn all_changed(&mut self) {
        let next = Ticket(self.next);
        self.keys.values_mut().for_each(|loads| loads.valid_from = next);
    }

    /// A commit changed `key`.
    pub fn changed(&mut self, key: &Key) {
        let next = Ticket(self.next);
        if let Some(loads) = self.keys.get_mut(key) {
            loads.valid_from = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Inode;

    #[test]
    fn a_load_that_a_commit_overtook_is_void_and_a_later_one_is_not() {
        let (mut loading, key) = (Loading::default(), Key::inode(Inode(5)));
        let old = loading.begin(&key);
        loading.changed(&key);
        let new = loading.begin(&key);
        assert!(!loading.end(&key, old));
        assert!(loading.end(&key, new));
        assert!(loading.keys.is_empty());
    }
}
