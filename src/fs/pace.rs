//! How much may wait to be committed: no more than the line takes away in the time that somebody is ready to wait.
//!
//! ```text
//! bytes |        ____            a quick commit of much: twice as much may wait
//!       |    ___|    |
//!       |___|        |___        a commit that took too long: less, in proportion
//!       +------------------> commits
//! ```
//!
//! Everybody waits for whole groups, so what a program streams delays what another one makes safe.
//! While somebody waits, the bound follows [`WAIT`]; else [`LONGEST`], for a slow line, on which the
//! bytes that the kernel hands over must find room before their deadline.

use std::time::{Duration, Instant};

use crate::base::MIB;

/// How long the commit of a group may take that somebody waits for. He may come while the one before is on its way.
const WAIT: Duration = Duration::from_millis(400);
/// How long any other may take.
const LONGEST: Duration = Duration::from_secs(20);
/// The bound before anything is known of the line, unless packs are larger.
const BEGIN: u64 = 32 * MIB;
/// A store that takes longer to answer is in trouble, not far away.
const ANSWERS_MAX: Duration = Duration::from_secs(2);
/// How long after somebody has waited for a commit others are expected to.
const EXPECTED: Duration = Duration::from_secs(10);
/// A small change finds room beyond the bound for content, up to this part of it more: a file that is streamed must not hold up another
/// one's few bytes.
const RESERVE: u64 = 4;
/// Content of one write that counts as small.
pub(super) const SMALL_BYTES_MAX: u64 = 64 << 10;

/// The bound on dirty bytes.
#[derive(Debug)]
pub(super) struct Pace {
    min: u64,
    max: u64,
    bound: u64,
    /// What a commit takes however little there is: the shortest one of few bytes.
    answers: Option<Duration>,
    /// When somebody last waited for a commit.
    waited: Option<Instant>,
}

impl Pace {
    /// Between a quarter of a pack and what leaves room for small changes below `max`; at first two packs, and not less
    /// than [`BEGIN`].
    pub fn new(pack_bytes: u64, max: u64) -> Self {
        let max = max - max / (RESERVE + 1);
        Self {
            min: (pack_bytes / 4).min(max),
            max,
            bound: max.min(BEGIN.max(2 * pack_bytes)),
            answers: None,
            waited: None,
        }
    }

    /// So much may be dirty before content has to wait.
    pub fn bound(&self) -> u64 {
        self.bound
    }

    /// So much before small changes have to wait too.
    pub fn bound_of_small(&self) -> u64 {
        self.bound + self.bound / RESERVE
    }

    /// A group of `bytes` is in the bucket, `took` after it was closed; somebody waited for it, or nobody.
    pub fn committed(&mut self, bytes: u64, took: Duration, is_wanted: bool, now: Instant) {
        if is_wanted {
            self.waited = Some(now);
        }
        if bytes < self.min {
            // So little tells of the store's answers, not of the line.
            self.answers = Some(self.answers.map_or(took, |least| least.min(took)));
            return;
        }
        let took = took.saturating_sub(self.answers.unwrap_or_default().min(ANSWERS_MAX));
        let is_expected =
            self.waited.is_some_and(|at| now.saturating_duration_since(at) < EXPECTED);
        let may_take = if is_expected { WAIT } else { LONGEST };
        if took > may_take {
            let fits =
                u128::from(bytes.min(self.bound)) * may_take.as_millis() / took.as_millis().max(1);
            self.bound = u64::try_from(fits).unwrap_or(u64::MAX).clamp(self.min, self.bound);
        } else if took < may_take / 2 && bytes >= self.bound / 2 {
            self.bound = (self.bound * 2).min(self.max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: u64 = 16 * MIB;
    const MAX: u64 = 128 * MIB;

    /// Commits groups as large as the bound over a line; gives what each took.
    fn commits(
        pace: &mut Pace,
        bytes_per_second: u64,
        is_wanted: bool,
        count: usize,
    ) -> Vec<Duration> {
        let mut now = Instant::now();
        let commit = |_| {
            let bytes = pace.bound();
            let took = Duration::from_millis(50 + bytes * 1000 / bytes_per_second);
            now += took;
            pace.committed(bytes, took, is_wanted, now);
            took
        };
        (0..count).map(commit).collect()
    }

    #[test]
    fn as_much_as_may_be_waits_on_a_fast_line() {
        let mut pace = Pace::new(PACK, MAX);
        assert_eq!(pace.bound(), 32 * MIB);
        commits(&mut pace, 100 * MIB, false, 2);
        assert_eq!(pace.bound_of_small(), MAX);
    }

    #[test]
    fn who_waits_does_not_wait_for_long() {
        let mut pace = Pace::new(PACK, MAX);
        commits(&mut pace, 20 * MIB, false, 5);
        assert_eq!(pace.bound_of_small(), MAX);
        let took = commits(&mut pace, 20 * MIB, true, 50);
        assert!(took[2..].iter().all(|took| *took < Duration::from_millis(500)), "{took:?}");
        assert!(pace.bound() >= 4 * MIB);
    }

    #[test]
    fn the_bound_grows_again_when_nobody_waits() {
        let mut pace = Pace::new(PACK, MAX);
        commits(&mut pace, 20 * MIB, true, 10);
        let mut now = Instant::now() + EXPECTED * 2;
        while pace.bound_of_small() < MAX {
            let before = pace.bound();
            pace.committed(before, Duration::from_secs(3), false, now);
            assert!(pace.bound() > before);
            now += Duration::from_secs(3);
        }
    }

    #[test]
    fn a_slow_line_gets_what_it_can_carry() {
        let mut pace = Pace::new(PACK, MAX);
        commits(&mut pace, MIB / 2, false, 5);
        assert!((4 * MIB..=10 * MIB).contains(&pace.bound()), "{}", pace.bound());
        assert_eq!(pace.bound_of_small(), pace.bound() * 5 / 4);
    }

    #[test]
    fn a_group_of_few_bytes_tells_nothing_and_an_outage_leaves_some_room() {
        let mut pace = Pace::new(PACK, MAX);
        pace.committed(4096, Duration::from_hours(1), true, Instant::now());
        assert_eq!(pace.bound(), 32 * MIB);
        pace.committed(32 * MIB, Duration::from_hours(1), true, Instant::now());
        assert_eq!(pace.bound(), 4 * MIB);
    }

    #[test]
    fn a_distant_store_on_a_fast_line_is_no_slow_line() {
        let mut pace = Pace::new(PACK, MAX);
        let (now, answers) = (Instant::now(), Duration::from_millis(450));
        pace.committed(4096, answers, true, now);
        for _ in 0..10 {
            pace.committed(pace.bound(), answers + Duration::from_millis(50), true, now);
        }
        assert_eq!(pace.bound_of_small(), MAX);
    }
}
