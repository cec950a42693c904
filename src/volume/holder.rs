//! Who holds a lease: a process on a machine, and whether it is still there.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// The holder of a lease, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Host name.
    pub host: String,
    /// `/etc/machine-id`; cloned machines may share it.
    pub machine_id: String,
    /// Random for each boot of a kernel.
    pub boot_id: String,
    /// Which process ids these are: containers of one machine have their own.
    pub pid_namespace: String,
    /// Process id.
    pub pid: u32,
    /// When the process started, in clock ticks after boot: tells it from a later one of the same id.
    pub pid_start: u64,
    /// Where the volume is mounted.
    pub mount_point: String,
}

/// Of the system's files nothing longer than this is of use.
const TEXT_BYTES_MAX: usize = 4096;

impl Holder {
    /// This process, with a mount at `mount_point`.
    pub fn this_process(mount_point: &str) -> Self {
        let pid_namespace = fs::read_link("/proc/self/ns/pid")
            .map(|link| link.to_string_lossy().into_owned())
            .unwrap_or_default();
        let pid_start = match process(std::process::id()) {
            Ok(Process::Running { start }) => start,
            _ => 0,
        };
        Self {
            host: line("/proc/sys/kernel/hostname"),
            machine_id: line("/etc/machine-id"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            pid_namespace,
            pid: std::process::id(),
            pid_start,
            mount_point: mount_point.to_owned(),
        }
    }

    /// Whether it is known to be gone. Only what ran under this very kernel and namespace can be
    /// known: anything else may be alive.
    pub(super) fn is_gone(&self) -> bool {
        let here = Self::this_process("");
        let comparable = !here.boot_id.is_empty()
            && !here.pid_namespace.is_empty()
            && self.machine_id == here.machine_id
            && self.boot_id == here.boot_id
            && self.pid_namespace == here.pid_namespace;
        if !comparable {
            return false;
        }
        match process(self.pid) {
            Ok(Process::Running { start }) => start != self.pid_start,
            Ok(Process::Ended) => true,
            // With hidepid, what is not there may only be hidden; then process 1 is hidden too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::exists("/proc/1/stat").unwrap_or(false)
            }
            Err(_) => false,
        }
    }
}

fn line(path: &str) -> String {
    // What cannot be read stays empty, and an empty id compares with nothing.
    let mut text = fs::read_to_string(path).unwrap_or_default();
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text.trim().to_owned()
}

enum Process {
    Running {
        start: u64,
    },
    /// A zombie: it will do nothing any more.
    Ended,
}

/// proc_pid_stat(5): the name may hold anything, so fields count from its last parenthesis.
fn process(pid: u32) -> io::Result<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    let stat = String::from_utf8_lossy(&stat);
    let unreadable = || io::Error::other("not the form of proc_pid_stat(5)");
    let (_, fields) = stat.rsplit_once(')').ok_or_else(unreadable)?;
    // Field 3 of the whole line, the state, is the first of these; the start time is field 22.
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next().ok_or_else(unreadable)?;
    let start = fields.nth(18).and_then(|field| field.parse().ok()).ok_or_else(unreadable)?;
    Ok(if matches!(state, "Z" | "X" | "x") { Process::Ended } else { Process::Running { start } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_describes_itself_and_is_there() {
        let me = Holder::this_process("/mnt");
        assert!(me.pid_start > 0 && !me.boot_id.is_empty() && !me.pid_namespace.is_empty());
        assert!(!me.is_gone());
        assert_eq!(
            serde_json::from_slice::<Holder>(&serde_json::to_vec(&me).unwrap()).unwrap(),
            me
        );
    }

    #[test]
    fn a_later_process_with_the_same_id_is_not_the_holder() {
        let me = Holder::this_process("/mnt");
        assert!(Holder { pid_start: me.pid_start + 1, ..me }.is_gone());
    }

    #[test]
    fn an_ended_process_of_this_machine_is_gone_even_before_its_parent_noticed() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = Holder { pid: child.id(), pid_start: 1, ..Holder::this_process("/mnt") };
        child.wait().unwrap();
        assert!(gone.is_gone());
    }

    #[test]
    fn of_another_machine_boot_or_container_nothing_is_known() {
        let dead = Holder { pid: u32::MAX, ..Holder::this_process("/mnt") };
        assert!(dead.is_gone());
        let other = || "other".to_owned();
        assert!(!Holder { machine_id: other(), ..dead.clone() }.is_gone());
        assert!(!Holder { boot_id: other(), ..dead.clone() }.is_gone());
        assert!(!Holder { pid_namespace: other(), ..dead }.is_gone());
    }
}
