//! What a store refuses or does not answer just now. Requests are repeated for minutes before anybody above learns that
//! anything is wrong; this tells meanwhile.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests that are repeated and then succeed are part of normal work; what lasts longer is not.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the attempts at a store's requests end: kept by the store, read by whoever tells of it.
#[derive(Debug, Default)]
pub struct Trouble {
    uploads: Lane,
    others: Lane,
}

/// A store may serve reads and refuse what is written, for want of room or of leave: success with the
/// one says nothing of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    /// Requests that send content.
    Uploads,
    /// All others.
    Others,
}

#[derive(Debug, Default)]
struct Lane(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    served: Option<Instant>,
    failing: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    /// When the first attempt of the row began, or the last good answer came if that was later.
    since: Instant,
    /// When the last one failed, and with what.
    last: Instant,
    said: String,
}

impl Lane {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // What it holds is valid at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lasting(&self) -> Option<(Duration, String)> {
        let state = self.state();
        let failing = state.failing.as_ref()?;
        let is_lasting = failing.last.duration_since(failing.since) >= PATIENCE;
        is_lasting.then(|| (failing.since.elapsed(), failing.said.clone()))
    }
}

impl Trouble {
    fn lane(&self, traffic: Traffic) -> &Lane {
        match traffic {
            Traffic::Uploads => &self.uploads,
            Traffic::Others => &self.others,
        }
    }

    /// An attempt was answered with what the store holds, be it that it holds nothing.
    pub(super) fn served(&self, traffic: Traffic) {
        let mut state = self.lane(traffic).state();
        state.served = Some(Instant::now());
        state.failing = None;
    }

    /// An attempt that was begun then failed.
    pub(super) fn failed(&self, traffic: Traffic, begun: Instant, said: String) {
        let mut state = self.lane(traffic).state();
        // Another request may have been served while this one waited.
        let begun = state.served.map_or(begun, |served| begun.max(served));
        let since = state.failing.as_ref().map_or(begun, |failing| failing.since.min(begun));
        state.failing = Some(Failing { since, last: Instant::now(), said });
    }

    /// For how long attempts have failed in a row, and what the last one met; nothing if that may pass
    /// unnoticed.
    pub fn lasting(&self) -> Option<(Duration, String)> {
        let lanes = [&self.uploads, &self.others];
        lanes.iter().filter_map(|lane| lane.lasting()).max_by_key(|(lasted, _)| *lasted)
    }
}

#[cfg(test)]
mod tests {
    use super::Traffic::{Others, Uploads};
    use super::*;

    fn ago(seconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn a_short_failure_is_not_told() {
        let trouble = Trouble::default();
        assert_eq!(trouble.lasting(), None);
        trouble.failed(Others, ago(1), "503".to_owned());
        assert_eq!(trouble.lasting(), None);
    }

    #[test]
    fn a_lasting_one_is_told_from_its_first_attempt_with_its_last_words() {
        let trouble = Trouble::default();
        trouble.failed(Others, ago(30), "timed out".to_owned());
        // One that had waited for longer.
        trouble.failed(Others, ago(40), "timed out".to_owned());
        trouble.failed(Others, ago(1), "connection refused".to_owned());
        let (lasted, said) = trouble.lasting().unwrap();
        assert_eq!((lasted.as_secs(), said.as_str()), (40, "connection refused"));
        trouble.served(Others);
        assert_eq!(trouble.lasting(), None);
    }

    #[test]
    fn one_refusal_does_not_become_an_outage_by_growing_old() {
        let trouble = Trouble::default();
        trouble.failed(Others, ago(1), "access denied".to_owned());
        trouble.others.state().failing.as_mut().unwrap().since = ago(60);
        trouble.others.state().failing.as_mut().unwrap().last = ago(59);
        assert_eq!(trouble.lasting(), None);
    }

    #[test]
    fn one_request_that_waited_in_vain_while_others_were_served_is_no_outage() {
        let trouble = Trouble::default();
        trouble.served(Others);
        trouble.failed(Others, ago(40), "timed out".to_owned());
        assert_eq!(trouble.lasting(), None);
    }

    #[test]
    fn a_store_that_serves_reads_and_refuses_writes_is_told_of() {
        let trouble = Trouble::default();
        trouble.failed(Uploads, ago(40), "quota exceeded".to_owned());
        trouble.served(Others);
        assert_eq!(trouble.lasting().unwrap().1, "quota exceeded");
    }
}
