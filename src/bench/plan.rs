//! What a measurement is going to do, and so to cost.

use std::time::Duration;

use super::noise::fresh_name;
use crate::base::{KIB, MIB};
use crate::data::PACK_BYTES_MAX;
use crate::store::probe::PROBE_DIR;

/// Requests at once, step by step.
pub const CONCURRENCY: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Workers of all steps together. Each moves the same.
const WORKERS: u64 = 63;
/// Fewest bytes of a measurement: some for each worker.
pub const SIZE_MIN: u64 = MIB;
/// Objects that a worker moves one after another in a step, if their size is not given.
const OBJECTS_EACH: u64 = 4;
const OBJECT_BYTES_MIN: u64 = 16 * KIB;

/// Bytes of an object or a file that counts as small.
const SMALL_BYTES: u64 = 4 * KIB;
/// Small requests of each kind.
const SAMPLES: usize = 100;
/// Small files that are made.
const FILES: u64 = 200;
/// Fsyncs that are waited for.
const FSYNCS: usize = 50;
/// When a step begins nothing more.
const STEP_TIME_MAX: Duration = Duration::from_secs(10);

/// What is asked of a store.
#[derive(Debug, Clone)]
pub struct StorePlan {
    /// How the names of all objects begin, below the volume.
    pub prefix: String,
    /// Bytes of an object of which the latency is measured.
    pub small_bytes: u64,
    /// Requests of each kind of which the latency is measured.
    pub samples: usize,
    /// Bytes of an object by which throughput is measured.
    pub object_bytes: u64,
    /// How many each worker moves in a step, either way.
    pub objects_each: u64,
    /// When a step begins nothing more.
    pub step_time_max: Duration,
}

impl StorePlan {
    /// For at most about `size` bytes either way, in objects of `object` bytes, or else such that each
    /// worker moves some, and none is larger than a pack.
    ///
    /// # Errors
    /// Why these sizes do not do, and which would.
    pub fn new(size: u64, object: Option<u64>, pack_bytes: u64) -> Result<Self, String> {
        if size < SIZE_MIN {
            return Err("too little to measure by; at least 1 MiB".to_owned());
        }
        let each = size / WORKERS;
        let object_bytes = match object {
            Some(0) => return Err("objects of no bytes measure nothing".to_owned()),
            Some(object) if object > PACK_BYTES_MAX => {
                return Err("objects of a volume are never larger than 64 MiB".to_owned());
            }
            Some(object) if object > each => {
                return Err(format!(
                    "objects of {object} bytes need a size of {} or more, for {WORKERS} requests",
                    object * WORKERS
                ));
            }
            Some(object) => object,
            None => {
                let whole = each / OBJECTS_EACH / OBJECT_BYTES_MIN * OBJECT_BYTES_MIN;
                whole.clamp(OBJECT_BYTES_MIN, pack_bytes.max(OBJECT_BYTES_MIN))
            }
        };
        Ok(Self {
            prefix: format!("{PROBE_DIR}/bench-{}", fresh_name()),
            small_bytes: SMALL_BYTES,
            samples: SAMPLES,
            object_bytes,
            objects_each: each / object_bytes,
            step_time_max: STEP_TIME_MAX,
        })
    }

    /// Bytes sent at most, and as many fetched.
    pub fn bytes(&self) -> u64 {
        WORKERS * self.objects_each * self.object_bytes + self.samples as u64 * self.small_bytes
    }

    /// Objects at most: each is written, read and deleted once.
    pub fn objects(&self) -> u64 {
        WORKERS * self.objects_each + self.samples as u64
    }

    /// Writes at most: the first of all, which opens a connection, counts for nothing.
    pub fn puts(&self) -> u64 {
        self.objects() + 1
    }

    /// Questions for sizes at most: one of each worker opens its connection.
    pub fn heads(&self) -> u64 {
        WORKERS + self.samples as u64
    }
}

/// What is asked of a mount.
#[derive(Debug, Clone)]
pub struct MountPlan {
    /// Bytes of the large file.
    pub bytes: u64,
    /// Bytes of a small file, and of what an fsync waits for.
    pub small_bytes: u64,
    /// Small files that are made.
    pub files: u64,
    /// Fsyncs that are waited for.
    pub fsyncs: usize,
    /// When a step begins nothing more.
    pub step_time_max: Duration,
}

impl MountPlan {
    /// With a file of `bytes`.
    pub fn new(bytes: u64) -> Self {
        Self {
            bytes,
            small_bytes: SMALL_BYTES,
            files: FILES,
            fsyncs: FSYNCS,
            step_time_max: STEP_TIME_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_stays_within_the_size_and_gives_every_worker_the_same() {
        assert_eq!(CONCURRENCY.iter().sum::<usize>() as u64, WORKERS);
        for size in [MIB, 5 * MIB, 256 * MIB, 4096 * MIB, 1 << 40] {
            let plan = StorePlan::new(size, None, 16 * MIB).unwrap();
            let small = plan.samples as u64 * plan.small_bytes;
            assert!(plan.bytes() <= size + small, "{size}: {plan:?}");
            assert!(plan.bytes() > size * 3 / 4, "{size}: {plan:?}");
            assert!(plan.object_bytes <= 16 * MIB && plan.objects_each > 0, "{size}: {plan:?}");
        }
        let plan = StorePlan::new(256 * MIB, None, 16 * MIB).unwrap();
        assert_eq!((plan.object_bytes, plan.objects_each), (1040 * KIB, 4));
        assert_eq!((plan.objects(), plan.heads()), (352, 163));
    }

    #[test]
    fn sizes_that_do_not_do_are_refused_with_those_that_would() {
        let told = |size, object| StorePlan::new(size, object, 16 * MIB).unwrap_err();
        assert!(told(MIB - 1, None).contains("at least 1 MiB"));
        assert!(told(256 * MIB, Some(0)).contains("no bytes"));
        assert!(told(1 << 40, Some(65 * MIB)).contains("64 MiB"));
        assert_eq!(
            told(256 * MIB, Some(16 * MIB)),
            "objects of 16777216 bytes need a size of 1056964608 or more, for 63 requests"
        );
        let plan = StorePlan::new(1008 * MIB, Some(16 * MIB), 8 * MIB).unwrap();
        assert_eq!((plan.object_bytes, plan.objects_each), (16 * MIB, 1));
    }

    #[test]
    fn names_are_fresh_and_below_the_place_of_probes() {
        let name = || StorePlan::new(MIB, None, MIB).unwrap().prefix;
        assert_ne!(name(), name());
        assert!(name().starts_with("probe/bench-"));
    }
}
