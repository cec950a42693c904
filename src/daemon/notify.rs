//! What systemd is told (sd_notify(3)); nothing where it did not start us.

use std::time::Duration;

use sd_notify::NotifyState;

/// The mount answers.
pub(super) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub(super) fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// The end has begun.
pub(super) fn stopping(text: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(text)]);
}

/// The end takes longer: systemd waits for `time` from now at least.
pub(super) fn extend(time: Duration) {
    send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))]);
}

fn send(state: &[NotifyState<'_>]) {
    // Nothing depends on systemd's hearing it.
    let _ = sd_notify::notify(state);
}
