//! From a log of requests to the buckets that a crash may leave.
//!
//! ```text
//! requests    a ----|        | is where it takes effect
//!             b   ------|
//!             c       ------|
//!             ^   ^ ^  ^    ^
//! ```
//!
//! A crash may come at any moment. Whatever had taken effect is in the bucket; each request on its way is
//! lost, or takes effect though nobody is told. The moment just before an effect has the most requests on their
//! way and the most acknowledged, so only those moments are looked at.

use std::collections::HashMap;

use super::Random;
use super::bucket::{Event, Log};
use crate::store::object_store::memory::InMemory;

/// With more requests than this on their way, some of the outcomes are drawn instead of trying all.
const ON_THE_WAY_MAX: usize = 4;

/// A bucket after a crash, and what may be found in it.
pub(super) struct State {
    /// Effects before the crash, and the requests that took effect besides.
    pub name: String,
    pub bucket: InMemory,
    /// It is the same bucket at several moments: what was promised at the first and at the last must hold.
    pub moments: [Moment; 2],
}

/// What a client knew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Nothing before this operation may be missing.
    pub acknowledged: usize,
    /// Nothing after this operation may be there.
    pub began: usize,
}

/// Every state, each bucket once.
pub(super) fn states(log: &Log, seed: u64) -> Vec<State> {
    let mut found = States { log, all: Vec::new(), met: HashMap::new(), random: Random::new(seed) };
    let bucket = InMemory::new();
    let (mut ready, mut effects) = (false, Vec::new());
    let (mut on_the_way, mut now) = (Vec::new(), Moment { acknowledged: 0, began: 0 });
    for event in &log.events {
        match *event {
            Event::Ready => ready = true,
            Event::Asked(request) => on_the_way.push(request),
            Event::Began(operation) => now.began = operation,
            Event::Acknowledged(operation) => now.acknowledged = now.acknowledged.max(operation),
            Event::Done(request) => {
                if ready {
                    found.add(&bucket, &effects, &on_the_way, now);
                }
                on_the_way.retain(|other| *other != request);
                if log.requests[request].apply(&bucket).is_ok() {
                    effects.push(request);
                }
            }
        }
    }
    found.add(&bucket, &effects, &on_the_way, now);
    found.all
}

struct States<'a> {
    log: &'a Log,
    all: Vec<State>,
    met: HashMap<Vec<usize>, usize>,
    random: Random,
}

impl States<'_> {
    fn add(&mut self, bucket: &InMemory, effects: &[usize], on_the_way: &[usize], now: Moment) {
        for subset in self.subsets(on_the_way.len()) {
            let bucket = bucket.fork();
            let (mut applied, mut besides) = (effects.to_vec(), Vec::new());
            for (index, request) in on_the_way.iter().enumerate() {
                if subset & 1 << index != 0 && self.log.requests[*request].apply(&bucket).is_ok() {
                    applied.push(*request);
                    besides.push(request.to_string());
                }
            }
            applied.sort_unstable();
            let next = self.all.len();
            let index = *self.met.entry(applied).or_insert(next);
            if index == next {
                let name = format!("{}+{}", effects.len(), besides.join(","));
                self.all.push(State { name, bucket, moments: [now; 2] });
            } else {
                self.all[index].moments[1] = now;
            }
        }
    }

    /// Which of `count` requests took effect: one bit each.
    fn subsets(&mut self, count: usize) -> Vec<u64> {
        if count <= ON_THE_WAY_MAX {
            return (0..1 << count).collect();
        }
        let all = (1 << count) - 1;
        let drawn = (2..1 << ON_THE_WAY_MAX).map(|_| self.random.next() & all);
        [0, all].into_iter().chain(drawn).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::bucket::{Change, Request};
    use super::*;

    #[test]
    fn each_outcome_of_requests_on_their_way_is_one_bucket() {
        let put = |name: &str| Request {
            path: name.into(),
            change: Change::Put(
                name.to_owned().into(),
                crate::store::object_store::PutOptions::default(),
            ),
        };
        let requests = vec![put("a"), put("b"), put("c")];
        let events = vec![
            Event::Ready,
            Event::Asked(0),
            Event::Asked(1),
            Event::Began(1),
            Event::Done(1),
            Event::Acknowledged(1),
            Event::Asked(2),
            Event::Done(0),
            Event::Done(2),
        ];
        let states = states(&Log { requests, events }, 1);
        let known = |state: &State| state.moments[1].acknowledged;
        let names: Vec<_> =
            states.iter().map(|state| (state.name.as_str(), known(state))).collect();
        let expected = [("0+", 0), ("0+0", 0), ("0+1", 1), ("0+0,1", 1), ("1+2", 1), ("1+0,2", 1)];
        assert_eq!(names, expected);
    }
}
