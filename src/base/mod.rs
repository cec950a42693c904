//! What every layer shares: ids, kinds of error, time, sizes.

mod clock;
mod error;
mod ids;
pub(crate) mod sabotage;
mod sizes;

pub use clock::{Clock, SystemClock, Timestamp, since_boot};
pub use error::ErrorKind;
pub use ids::{BlockIndex, CommitNumber, Epoch, Inode, PackNumber, VolumeId, WriterEpoch};
pub use sizes::{BLOCK_SIZE_DEFAULT, BlockSize, FILE_SIZE_MAX, GIB, KIB, MIB, NAME_LEN_MAX};
