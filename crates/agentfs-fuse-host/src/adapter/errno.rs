//! The errno of each error of the core. One table, no wildcard: a new error must say here what it is to callers.

use agentfs_core::FsError;
use fuser::Errno;

pub(crate) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound | FsError::UnknownVersion(_) => Errno::ENOENT,
        FsError::Stale | FsError::Changed(_) => Errno::ESTALE,
        FsError::Cancelled => Errno::ECANCELED,
        FsError::BadHandle => Errno::EBADF,
        FsError::Exists | FsError::NameTaken(_) => Errno::EEXIST,
        FsError::NotDirectory => Errno::ENOTDIR,
        FsError::IsDirectory => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::InvalidArgument(_) | FsError::BadName(_) => Errno::EINVAL,
        FsError::CrossBranch => Errno::EXDEV,
        FsError::ReadOnly => Errno::EROFS,
        FsError::NotPermitted | FsError::Refused(_) => Errno::EPERM,
        FsError::UnknownCaller => Errno::EACCES,
        FsError::Unsupported(_) => Errno::EOPNOTSUPP,
        FsError::NoAttribute => Errno::ENODATA,
        FsError::AttributeTooLarge => Errno::E2BIG,
        FsError::NoData => Errno::ENXIO,
        FsError::FileTooLarge => Errno::EFBIG,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::Contended => Errno::EAGAIN,
        FsError::TooManyHandles => Errno::ENFILE,
        FsError::QuotaExceeded => Errno::EDQUOT,
        FsError::VolumeFull => Errno::ENOSPC,
        FsError::LimitReached(_) => Errno::ENOSPC,
        FsError::Busy(_) => Errno::EBUSY,
        FsError::Io(error) | FsError::Unwritten(_, error) => {
            error.raw_os_error().map_or(Errno::EIO, Errno::from_i32)
        }
    }
}
