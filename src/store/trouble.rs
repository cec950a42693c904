//! What a store refuses or does not answer just now. Requests are repeated for minutes before anybody above learns that
//! anything is wrong; this tells meanwhile.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests that are repeated and then succeed are part of normal work; what lasts longer is not.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the attempts at a store's requests end: kept by the store, read by whoever tells of it.
#[derive(Debug, Default)]
pub struct Trouble {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    served: Option<Instant>,
    /// Since when, and what was said last.
    failing: Option<(Instant, String)>,
}

impl Trouble {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // What it holds is valid at every moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt was answered with what the store holds, be it that it holds nothing.
    pub(super) fn served(&self) {
        let mut state = self.state();
        state.served = Some(Instant::now());
        state.failing = None;
    }

    /// An attempt that was begun then failed.
    pub(super) fn failed(&self, begun: Instant, said: String) {
        let mut state = self.state();
        let since = match (&state.failing, state.served) {
            (Some((since, _)), _) => *since,
            // Another request was served while this one waited.
            (None, Some(served)) => begun.max(served),
            (None, None) => begun,
        };
        state.failing = Some((since, said));
    }

    /// For how long no attempt has succeeded, and what the last one met; nothing if that may pass
    /// unnoticed.
    pub fn lasting(&self) -> Option<(Duration, String)> {
        let state = self.state();
        let (since, said) = state.failing.as_ref()?;
        let lasted = since.elapsed();
        (lasted >= PATIENCE).then(|| (lasted, said.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ago(seconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn a_short_failure_is_not_told() {
        let trouble = Trouble::default();
        assert_eq!(trouble.lasting(), None);
        trouble.failed(ago(1), "503".to_owned());
        assert_eq!(trouble.lasting(), None);
    }

    #[test]
    fn a_lasting_one_is_told_from_its_first_attempt_with_its_last_words() {
        let trouble = Trouble::default();
        trouble.failed(ago(40), "timed out".to_owned());
        trouble.failed(ago(1), "connection refused".to_owned());
        let (lasted, said) = trouble.lasting().unwrap();
        assert_eq!((lasted.as_secs(), said.as_str()), (40, "connection refused"));
        trouble.served();
        assert_eq!(trouble.lasting(), None);
    }

    #[test]
    fn one_request_that_waited_in_vain_while_others_were_served_is_no_outage() {
        let trouble = Trouble::default();
        trouble.served();
        trouble.failed(ago(40), "timed out".to_owned());
        assert_eq!(trouble.lasting(), None);
    }
}
