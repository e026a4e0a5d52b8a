//! The errno that each error of the core must reach a program as.

use rustix::io::Errno;

use crate::FsError;

/// The Linux error of a core error.
pub fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound | FsError::UnknownVersion(_) => Errno::NOENT,
        FsError::Stale | FsError::Changed(_) => Errno::STALE,
        FsError::Cancelled => Errno::CANCELED,
        FsError::BadHandle => Errno::BADF,
        FsError::Exists | FsError::NameTaken(_) => Errno::EXIST,
        FsError::NotDirectory => Errno::NOTDIR,
        FsError::IsDirectory => Errno::ISDIR,
        FsError::NotEmpty => Errno::NOTEMPTY,
        FsError::NameTooLong => Errno::NAMETOOLONG,
        FsError::InvalidArgument(_) | FsError::BadName(_) => Errno::INVAL,
        FsError::CrossBranch => Errno::XDEV,
        FsError::ReadOnly => Errno::ROFS,
        FsError::NotPermitted | FsError::Refused(_) => Errno::PERM,
        FsError::Unsupported(_) => Errno::OPNOTSUPP,
        FsError::NoAttribute => Errno::NODATA,
        FsError::AttributeTooLarge => Errno::TOOBIG,
        FsError::NoData => Errno::NXIO,
        FsError::FileTooLarge => Errno::FBIG,
        FsError::TooManyLinks => Errno::MLINK,
        FsError::Contended => Errno::AGAIN,
        FsError::TooManyHandles => Errno::NFILE,
        FsError::QuotaExceeded => Errno::DQUOT,
        FsError::VolumeFull => Errno::NOSPC,
        FsError::LimitReached(_) => Errno::NOSPC,
        FsError::Busy(_) => Errno::BUSY,
        FsError::UnknownCaller => Errno::ACCESS,
        FsError::Io(error) | FsError::Unwritten(_, error) => Errno::from_io_error(error).unwrap_or(Errno::IO),
    }
}
