//! Why a command did not do what it was asked: one sentence, and the errno where there is one.

use std::fmt;
use std::io;
use std::path::Path;

use agentfs_proto::ErrorReply;
use rustix::io::Errno;

use crate::output::shown;

/// What is printed when a command fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    sentence: String,
    errno: Option<u32>,
    code: Option<u8>,
}

impl Failure {
    /// A failure that no system call reported.
    pub(crate) fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), errno: None, code: None }
    }

    /// A failure with its errno.
    pub(crate) fn with_errno(sentence: impl Into<String>, errno: Errno) -> Self {
        Self { sentence: sentence.into(), errno: Some(errno.raw_os_error().unsigned_abs()), code: None }
    }

    /// A failure of the standard library; what it reports without an errno is told in words.
    pub(crate) fn io(sentence: &str, error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(errno) => Self::with_errno(sentence, errno),
            None => Self::new(format!("{sentence}: {error}")),
        }
    }

    /// The same, with what came of it.
    pub(crate) fn and(self, more: String) -> Self {
        Self { sentence: format!("{}; {more}", self.sentence), ..self }
    }

    /// The same, for a command that ends with this exit code then, unless with another already.
    pub(crate) fn or_exit(self, code: u8) -> Self {
        Self { code: self.code.or(Some(code)), ..self }
    }

    /// Returns whether a system call, or the daemon, answered this errno.
    pub(crate) fn is(&self, errno: Errno) -> bool {
        self.errno == Some(errno.raw_os_error().unsigned_abs())
    }

    /// What to exit with.
    pub(crate) fn exit_code(&self) -> u8 {
        self.code.unwrap_or(1)
    }

    /// The mount is still there, the daemon behind it is not.
    pub(crate) fn disconnected(volume: &Path) -> Self {
        let sentence = format!("the volume at {} is not mounted: its daemon is gone", volume.display());
        Self::with_errno(sentence, Errno::NOTCONN)
    }
}

impl From<ErrorReply> for Failure {
    fn from(reply: ErrorReply) -> Self {
        Self { sentence: shown(&reply.error), errno: reply.code, code: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A path or a daemon of bad will must not get control characters to a terminal.
        f.write_str(&shown(self.sentence.as_bytes()))?;
        match self.errno.map(|errno| (errno, symbol(errno))) {
            None => Ok(()),
            Some((_, Some(symbol))) => write!(f, " ({symbol})"),
            Some((errno, None)) => write!(f, " (errno {errno})"),
        }
    }
}

impl std::error::Error for Failure {}

/// The symbols of the errnos that the daemon and the kernel answer here.
const SYMBOLS: [(Errno, &str); 29] = [
    (Errno::PERM, "EPERM"),
    (Errno::NOENT, "ENOENT"),
    (Errno::SRCH, "ESRCH"),
    (Errno::INTR, "EINTR"),
    (Errno::IO, "EIO"),
    (Errno::BADF, "EBADF"),
    (Errno::AGAIN, "EAGAIN"),
    (Errno::NOMEM, "ENOMEM"),
    (Errno::ACCESS, "EACCES"),
    (Errno::BUSY, "EBUSY"),
    (Errno::EXIST, "EEXIST"),
    (Errno::NODEV, "ENODEV"),
    (Errno::NOTDIR, "ENOTDIR"),
    (Errno::ISDIR, "EISDIR"),
    (Errno::INVAL, "EINVAL"),
    (Errno::NFILE, "ENFILE"),
    (Errno::MFILE, "EMFILE"),
    (Errno::NOTTY, "ENOTTY"),
    (Errno::NOSPC, "ENOSPC"),
    (Errno::ROFS, "EROFS"),
    (Errno::NAMETOOLONG, "ENAMETOOLONG"),
    (Errno::NOSYS, "ENOSYS"),
    (Errno::NOTEMPTY, "ENOTEMPTY"),
    (Errno::OVERFLOW, "EOVERFLOW"),
    (Errno::OPNOTSUPP, "EOPNOTSUPP"),
    (Errno::CONNABORTED, "ECONNABORTED"),
    (Errno::NOTCONN, "ENOTCONN"),
    (Errno::STALE, "ESTALE"),
    (Errno::DQUOT, "EDQUOT"),
];

fn symbol(errno: u32) -> Option<&'static str> {
    let found = SYMBOLS.iter().find(|(known, _)| known.raw_os_error().unsigned_abs() == errno);
    found.map(|(_, symbol)| *symbol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errno_follows_the_sentence() {
        let told = |code| Failure::from(ErrorReply::new("no snapshot has the name x", code)).to_string();
        assert_eq!(told(Some(2)), "no snapshot has the name x (ENOENT)");
        assert_eq!(told(Some(9999)), "no snapshot has the name x (errno 9999)");
        assert_eq!(told(None), "no snapshot has the name x");
    }

    #[test]
    fn a_failure_is_one_harmless_line() {
        let told = Failure::from(ErrorReply { error: b"two\nlines\x1b[31m\xff".to_vec(), code: None });
        assert_eq!(told.to_string(), r"two\nlines\u{1b}[31m\xff");
        assert_eq!(Failure::new("a\nb").to_string(), r"a\nb");
    }
}
