//! The one place where an error of the file system becomes an errno.

use fuser::Errno;

use crate::fs::FsError;

/// The errno that the caller of the system call sees.
///
/// Exhaustive on purpose: a new variant must choose its errno here.
pub(super) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotDirectory => Errno::ENOTDIR,
        FsError::IsDirectory => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::NotPermitted => Errno::EPERM,
        FsError::Invalid => Errno::EINVAL,
        FsError::NoData => Errno::ENODATA,
        FsError::BeyondEnd => Errno::ENXIO,
        FsError::TooBig => Errno::E2BIG,
        FsError::FileTooLarge => Errno::EFBIG,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::NoSpace => Errno::ENOSPC,
        FsError::ReadOnly => Errno::EROFS,
        FsError::NotSupported => Errno::EOPNOTSUPP,
        FsError::Io { .. } => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn store_failure_is_an_io_error_and_a_missing_name_is_not() {
        let io = FsError::Io { message: "store gone".into(), kind: ErrorKind::Retry };
        assert_eq!(errno(&io).code(), libc::EIO);
        assert_eq!(errno(&FsError::NotFound).code(), libc::ENOENT);
        assert_eq!(errno(&FsError::NoData).code(), libc::ENODATA);
        assert_eq!(errno(&FsError::NotSupported).code(), libc::EOPNOTSUPP);
        assert_eq!(errno(&FsError::BeyondEnd).code(), libc::ENXIO);
    }
}
