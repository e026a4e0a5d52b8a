//! Operations as values: by path from small alphabets, so that they meet often.

use std::fmt;

use crate::{RenameMode, XattrMode};

/// The names a path is made of: short ones, the longest, and one that is no UTF-8.
pub const NAMES: [&[u8]; 7] = [b"a", b"b", b"c", b"d", b"e", &[b'n'; 255], b"\xff\xc0 \x01"];
/// Targets of symbolic links. Nobody follows them.
pub const TARGETS: [&[u8]; 7] = [b"a", b"/", b"../b", b"/etc/hostname", b"..", b"c/./d//", b"\xfe"];
/// Names of extended attributes.
pub const XATTRS: [&[u8]; 3] = [b"user.a", b"user.b", b"user.longer-name"];
/// How many files a driver keeps open.
pub const SLOTS: usize = 4;
/// The volume is set up to allow this many branches, `main` among them.
pub const MAX_BRANCHES: usize = 5;
/// The volume is set up to allow this many snapshots.
pub const MAX_SNAPSHOTS: usize = 6;
/// Permissions of the root directory of a new volume.
pub const ROOT_MODE: u16 = 0o755;

/// A path below the root, as indices into [`NAMES`]; never empty.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Path(Vec<u8>);

impl Path {
    /// A path of these names.
    pub fn new(last: u8, above: &[u8]) -> Path {
        Path(above.iter().copied().chain([last]).collect())
    }

    /// The names from the root to the last.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &'static [u8]> {
        self.0.iter().map(|index| NAMES[usize::from(*index) % NAMES.len()])
    }

    /// The last name.
    pub fn last(&self) -> &'static [u8] {
        self.names().last().expect("a path has a name")
    }

    /// The names of the directories above the last name.
    pub fn above(&self) -> impl Iterator<Item = &'static [u8]> {
        self.names().take(self.0.len() - 1)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: [&str; 7] = ["a", "b", "c", "d", "e", "<255n>", "<raw>"];
        let names: Vec<_> = self.0.iter().map(|index| SHOWN[usize::from(*index) % SHOWN.len()]).collect();
        f.write_str(&names.join("/"))
    }
}

/// The tree an operation works in. An index counts, modulo their number, those that live, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A branch.
    Branch(u8),
    /// A snapshot. With none alive the answer is `ENOENT`.
    Snapshot(u8),
}

/// One call.
///
/// A path is resolved without following symbolic links: one in the middle is `ENOTDIR` (as `openat` with
/// `O_DIRECTORY | O_NOFOLLOW` answers). Where two errors hold, the one that Linux checks first is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// By path. In snapshots only `Read`, `Stat`, `Readlink`, `Write` and `Chmod` are asked for.
    File(Place, FileOp),
    /// On the file that this slot (modulo [`SLOTS`]) keeps open; `EBADF` when it keeps none.
    Kept(u8, KeptOp),
    /// On branches and snapshots.
    Volume(VolumeOp),
}

/// What is done by path. Content is that of regular files: for directories the answer is `EISDIR`, for all others
/// `EINVAL` (a driver on real paths looks at the kind first: a pipe would block, a link be followed).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// `open(O_CREAT | O_EXCL)`, closed at once.
    CreateFile(Path, u16),
    /// `mkdir`.
    Mkdir(Path, u16),
    /// `mkfifo`.
    Mkfifo(Path, u16),
    /// `symlink`, to this index (modulo their number) of [`TARGETS`].
    Symlink(Path, u8),
    /// `link(old, new)`.
    Link(Path, Path),
    /// `unlink`.
    Unlink(Path),
    /// `rmdir`.
    Rmdir(Path),
    /// `renameat2(old, new, mode)`.
    Rename(Path, Path, RenameMode),
    /// Opens, writes [`pattern`]`(fill, offset, len)` at `offset`, closes. Answers [`Answer::Count`](super::Answer).
    Write {
        /// The file.
        path: Path,
        /// Where, in bytes.
        offset: u32,
        /// How many bytes, at least 1.
        len: u16,
        /// Chooses the bytes.
        fill: u8,
    },
    /// Opens, reads up to `len` bytes at `offset`, closes. Answers [`Answer::Data`](super::Answer).
    Read {
        /// The file.
        path: Path,
        /// Where, in bytes.
        offset: u32,
        /// How many bytes at most.
        len: u16,
    },
    /// Opens both, `copy_file_range` of up to `len` bytes, closes. Answers the count; `EINVAL` for two names of one file.
    Copy {
        /// The file to read.
        from: Path,
        /// Where in it, in bytes.
        from_at: u32,
        /// The file to write.
        to: Path,
        /// Where in it, in bytes.
        to_at: u32,
        /// How many bytes at most.
        len: u32,
    },
    /// `truncate`, to this size.
    Truncate(Path, u32),
    /// Opens with `O_TRUNC`, writes `pattern(fill, 0, len)` (nothing when 0), closes. Answers the count.
    OpenTruncate(Path, u16, u8),
    /// `fallocate(PUNCH_HOLE | KEEP_SIZE)` of so many bytes (at least 1) at this offset.
    Punch(Path, u32, u32),
    /// `fallocate` of so many bytes (at least 1) at this offset.
    Allocate {
        /// The file.
        path: Path,
        /// Where, in bytes.
        offset: u32,
        /// How many bytes, at least 1.
        len: u32,
        /// With `KEEP_SIZE`?
        keep_size: bool,
    },
    /// `chmod`; of a symbolic link `EOPNOTSUPP`.
    Chmod(Path, u16),
    /// `utimensat(AT_SYMLINK_NOFOLLOW)`: modified at these seconds and nanoseconds, the read time left as it is.
    SetTimes(Path, i64, u32),
    /// `lsetxattr` of this index (modulo their number) of [`XATTRS`] to `len` times `fill`; `EPERM` when it is
    /// neither a regular file nor a directory.
    SetXattr {
        /// The file.
        path: Path,
        /// Which attribute.
        name: u8,
        /// Bytes of the value.
        len: u16,
        /// What the value is made of.
        fill: u8,
        /// `XATTR_CREATE`, `XATTR_REPLACE` or neither.
        mode: XattrMode,
    },
    /// `lremovexattr`, with the rules of `SetXattr`.
    RemoveXattr(Path, u8),
    /// Opens to read, `fsync`s, closes.
    Fsync(Path),
    /// `readlink`; `EINVAL` when it is none.
    Readlink(Path),
    /// `lstat`. Answers [`Answer::Stat`](super::Answer).
    Stat(Path),
}

/// What is done with a file kept open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptOp {
    /// Closes what the slot keeps, if anything; then opens this, in a branch to read and write, in a snapshot to
    /// read, and keeps it when that succeeds.
    Open(Place, Path),
    /// Writes `pattern(fill, offset, len)` at the offset; `EBADF` in a snapshot.
    Write(u32, u16, u8),
    /// Reads up to so many bytes at the offset.
    Read(u32, u16),
    /// `ftruncate`; `EINVAL` in a snapshot, as the handle is not open to write.
    Truncate(u32),
    /// `fstat`.
    Stat,
    /// Closes it.
    Close,
}

/// What is done with branches and snapshots; they have no names but their places among those that live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeOp {
    /// Takes a snapshot of this branch. `ENOSPC` past [`MAX_SNAPSHOTS`].
    Snapshot(u8),
    /// Grows a branch from the present state of this branch, or from this snapshot. `ENOSPC` past [`MAX_BRANCHES`].
    Branch(Place),
    /// Deletes this branch, with force or without. `EPERM` for `main`; `EBUSY` while a file in it is kept open, or,
    /// without force, while snapshots of it or branches grown straight from it live.
    DeleteBranch(u8, bool),
    /// Deletes this snapshot. `EBUSY` while branches grown from it live or a file in it is kept open.
    DeleteSnapshot(u8),
}

/// The bytes a write puts at `offset`: they differ by `fill` and by where they lie, so that bytes from elsewhere show.
pub fn pattern(fill: u8, offset: u64, len: usize) -> Vec<u8> {
    let place = |at: u64| u8::try_from(at / 512 % 7).expect("below 7");
    (offset..).take(len).map(|at| fill.wrapping_add(place(at))).collect()
}

/// Which of `live` things an index means; `None` when there are none.
pub fn pick(index: u8, live: usize) -> Option<usize> {
    usize::from(index).checked_rem(live)
}
