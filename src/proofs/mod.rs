//! Tests of whole volumes, without a kernel: the layers from `gc` down to sealed objects, as a mount puts them
//! together.
//!
//! ```text
//! workloads --ops--> mounted volume --requests--> recording bucket --log--> every crash --> opened anew
//!      `-------ops--> reference --text after each operation-----------------------------> compared
//! model: ops of any kind on both, with commits, crashes and collections in between
//! attacks: a bucket changed by whoever holds it --> opened anew --> refused, or as it was
//! ```
//!
//! | variable | meaning |
//! |---|---|
//! | `LIDFS_LONG=1` | 100,000 crash states and 40,000 sequences instead of 5,200 and 1,000 |
//! | `LIDFS_CRASH_STATES=n`, `LIDFS_MODEL_CASES=n` | as many |
//! | `LIDFS_FLIP_EVERY=n`, `LIDFS_PAIRS_EVERY=n` | attacks: a bit in every n-th byte, every n-th pair of objects; 11 and 5, in a long run 1 |
//! | `LIDFS_CRASH=workload:seed[:state]` | that workload with that seed, and of it only that state, as a failure names them |
//! | `LIDFS_SABOTAGE=name` | with that bug seeded (`base::sabotage`); `tests/bugs.sh` tries them all |
//!
//! A failing state prints what to set to meet it again. Requests may overlap a little differently then, since
//! salts are fresh each time: give the seed alone if the state is another one.

mod attacks;
mod bucket;
mod dump;
mod explorer;
mod model;
mod ops;
mod reading;
mod reference;
mod states;
mod volume;
mod workloads;

/// Numbers that follow from a seed (SplitMix64).
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `times`.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// How many of something to try: by its own variable, or as many as a long run is worth.
fn wanted(variable: &str, usual: usize, long: usize) -> usize {
    let number = std::env::var(variable).ok().and_then(|text| text.parse().ok());
    let is_long = std::env::var("LIDFS_LONG").is_ok_and(|text| text == "1");
    number.unwrap_or(if is_long { long } else { usual })
}
