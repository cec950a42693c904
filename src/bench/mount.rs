//! A mount, measured from outside, as programs use it.
//!
//! ```text
//! .lidfs-bench-<random>/  data: write, fsync | pages dropped, read
//!                         <n>:  create, write, close ... fsync of the directory
//!                         sync: (write 4 KiB, fsync) x n
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Advice as PageAdvice, fadvise};

use super::noise::{Noise, fresh_name};
use super::report::per_second;
use super::{
    BenchError, Latency, MountPlan, MountSpeed, Progress, ReadBack, SmallFiles, Stop, WriteThrough,
};
use crate::base::MIB;
use crate::daemon::{self, Entry, Request, Response, Status};

/// Bytes of one write or read of the large file.
const CALL_BYTES: usize = MIB as usize;
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

/// Measures the mount of `entry`, waiting for it on this thread. What it makes there it removes, also
/// when it fails or is told to `stop`.
///
/// # Errors
/// [`BenchError::Mount`], [`BenchError::ReadOnly`], [`BenchError::Interrupted`].
pub fn measure_mount(
    entry: &Entry,
    plan: &MountPlan,
    stop: &Stop,
    progress: &Progress<'_>,
) -> Result<MountSpeed, BenchError> {
    let fetched = || status(entry).map(|status| status.store.bytes.down);
    if status(entry)?.read_only {
        return Err(BenchError::ReadOnly { mountpoint: entry.mountpoint.clone() });
    }
    measure_dir(&entry.mountpoint, plan, stop, progress, &fetched)
}

/// As [`measure_mount`]; `fetched` tells what has come from the bucket so far.
fn measure_dir(
    mountpoint: &Path,
    plan: &MountPlan,
    stop: &Stop,
    progress: &Progress<'_>,
    fetched: &dyn Fn() -> Result<u64, BenchError>,
) -> Result<MountSpeed, BenchError> {
    let trial = Trial {
        dir: mountpoint.join(format!(".lidfs-bench-{}", fresh_name())),
        plan,
        stop,
        large: Noise::new(CALL_BYTES),
        small: Noise::new(usize::try_from(plan.small_bytes).unwrap_or(CALL_BYTES)),
    };
    let made = DirBuilder::new().mode(0o700).create(&trial.dir);
    made.map_err(at("make a directory", &trial.dir))?;
    let measured = trial.run(mountpoint, progress, fetched);
    progress("removing");
    let removed = fs::remove_dir_all(&trial.dir)
        .and_then(|()| File::open(mountpoint)?.sync_all())
        .map_err(at("remove what was measured; delete it", &trial.dir));
    let speed = measured?;
    removed?;
    if stop.is_set() { Err(BenchError::Interrupted) } else { Ok(speed) }
}

fn status(entry: &Entry) -> Result<Status, BenchError> {
    let failed = |source| BenchError::Mount {
        path: entry.mountpoint.clone(),
        step: "ask its daemon",
        source,
    };
    match daemon::ask(&entry.socket, Request::Status, Some(STATUS_TIMEOUT)).map_err(failed)? {
        Response::Status(status) => Ok(*status),
        _ => Err(failed(io::Error::other(
            "it answered something else; use the lidfs of its version",
        ))),
    }
}

fn at(step: &'static str, path: &Path) -> impl Fn(io::Error) -> BenchError + use<> {
    let path = path.to_owned();
    move |source| BenchError::Mount { path: path.clone(), step, source }
}

struct Trial<'a> {
    dir: PathBuf,
    plan: &'a MountPlan,
    stop: &'a Stop,
    large: Noise,
    small: Noise,
}

impl Trial<'_> {
    fn run(
        &self,
        mountpoint: &Path,
        progress: &Progress<'_>,
        fetched: &dyn Fn() -> Result<u64, BenchError>,
    ) -> Result<MountSpeed, BenchError> {
        let data = self.dir.join("data");
        progress("writing a file");
        let write = self.write(&data).map_err(at("write", &data))?;
        progress("reading it");
        let before = fetched()?;
        let mut read = self.read(&data).map_err(at("read", &data))?;
        read.fetched_bytes = fetched()?.saturating_sub(before);
        progress("making small files");
        let small_files = self.small_files().map_err(at("make files", &self.dir))?;
        progress("waiting for fsyncs");
        let sync = self.dir.join("sync");
        let fsync = self.fsyncs(&sync).map_err(at("fsync", &sync))?;
        Ok(MountSpeed { mountpoint: mountpoint.to_owned(), write, read, small_files, fsync })
    }

    fn is_over(&self, began: Instant) -> bool {
        self.stop.is_set() || began.elapsed() >= self.plan.step_time_max
    }

    fn write(&self, path: &Path) -> io::Result<WriteThrough> {
        let mut file = File::create_new(path)?;
        let (mut bytes, mut number, began) = (0, 0, Instant::now());
        while bytes < self.plan.bytes && !self.is_over(began) {
            let piece = self.large.piece(number);
            let len = (self.plan.bytes - bytes).min(piece.len() as u64);
            file.write_all(&piece[..usize::try_from(len).unwrap_or(piece.len())])?;
            bytes += len;
            number += 1;
        }
        let flush = Instant::now();
        file.sync_all()?;
        let whole = began.elapsed();
        Ok(WriteThrough {
            bytes,
            seconds: whole.as_secs_f64(),
            flush_seconds: flush.elapsed().as_secs_f64(),
            bytes_per_second: per_second(bytes, whole),
        })
    }

    fn read(&self, path: &Path) -> io::Result<ReadBack> {
        let mut file = File::open(path)?;
        // The kernel's pages. What the daemon itself keeps nobody can make it forget.
        fadvise(&file, 0, None, PageAdvice::DontNeed)?;
        let mut buffer = vec![0; CALL_BYTES];
        let (mut bytes, began) = (0, Instant::now());
        while !self.is_over(began) {
            match file.read(&mut buffer)? {
                0 => break,
                len => bytes += len as u64,
            }
        }
        let time = began.elapsed();
        Ok(ReadBack {
            bytes,
            seconds: time.as_secs_f64(),
            bytes_per_second: per_second(bytes, time),
            fetched_bytes: 0,
        })
    }

    fn small_files(&self) -> io::Result<SmallFiles> {
        let (mut files, began) = (0, Instant::now());
        while files < self.plan.files && !self.is_over(began) {
            let piece = self.small.piece(usize::try_from(files).unwrap_or_default());
            File::create_new(self.dir.join(files.to_string()))?.write_all(&piece)?;
            files += 1;
        }
        // One fsync of anything is one of everything.
        File::open(&self.dir)?.sync_all()?;
        let time = began.elapsed();
        Ok(SmallFiles {
            files,
            file_bytes: self.plan.small_bytes,
            seconds: time.as_secs_f64(),
            files_per_second: per_second(files, time),
        })
    }

    fn fsyncs(&self, path: &Path) -> io::Result<Latency> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.sync_all()?;
        let (mut times, began) = (Vec::new(), Instant::now());
        while times.len() < self.plan.fsyncs && !self.is_over(began) {
            let at = times.len() as u64 * self.plan.small_bytes;
            file.write_all_at(&self.small.piece(times.len()), at)?;
            let begun = Instant::now();
            file.sync_all()?;
            times.push(begun.elapsed());
        }
        Ok(Latency::of(times))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn plan() -> MountPlan {
        let plan = MountPlan::new(3 * MIB + 5);
        MountPlan { files: 7, fsyncs: 4, step_time_max: Duration::from_hours(1), ..plan }
    }

    fn is_empty(dir: &Path) -> bool {
        fs::read_dir(dir).unwrap().next().is_none()
    }

    #[test]
    fn everything_planned_is_measured_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let fetched = Cell::new(0);
        let fetched = || Ok(fetched.replace(fetched.get() + 1000));
        let speed = measure_dir(dir.path(), &plan(), &Stop::default(), &|_| (), &fetched).unwrap();
        assert_eq!((speed.write.bytes, speed.read.bytes), (3 * MIB + 5, 3 * MIB + 5));
        assert_eq!(speed.read.fetched_bytes, 1000);
        assert!(speed.write.flush_seconds <= speed.write.seconds);
        assert_eq!((speed.small_files.files, speed.fsync.samples), (7, 4));
        assert!(is_empty(dir.path()));
    }

    #[test]
    fn an_interruption_or_a_failure_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for when in ["writing", "reading", "making", "waiting", "removing"] {
            let stop = Stop::default();
            let handle = stop.clone();
            let strike = move |step: &str| {
                if step.starts_with(when) {
                    handle.set();
                }
            };
            let error = measure_dir(dir.path(), &plan(), &stop, &strike, &|| Ok(0)).unwrap_err();
            assert!(matches!(error, BenchError::Interrupted), "{when}: {error}");
            assert!(is_empty(dir.path()), "{when}");
        }
        let fetched = || Err(BenchError::ReadOnly { mountpoint: "/m".into() });
        let error = measure_dir(dir.path(), &plan(), &Stop::default(), &|_| (), &fetched);
        assert!(matches!(error, Err(BenchError::ReadOnly { .. })));
        assert!(is_empty(dir.path()));
    }

    #[test]
    fn a_place_that_takes_nothing_is_told_with_what_was_tried() {
        let missing = Path::new("/nonexistent/m");
        let error = measure_dir(missing, &plan(), &Stop::default(), &|_| (), &|| Ok(0));
        let said = error.unwrap_err().to_string();
        assert!(said.starts_with("/nonexistent/m/.lidfs-bench-"), "{said}");
        assert!(said.contains(": make a directory: No such file"), "{said}");
        let read_only = BenchError::ReadOnly { mountpoint: "/m".into() };
        assert_eq!(
            read_only.to_string(),
            "/m: mounted read-only, so nothing can be written there; measure its store alone with `lidfs bench CONFIG`"
        );
    }
}
