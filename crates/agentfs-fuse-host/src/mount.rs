//! Mounting and unmounting: by the kernel directly for root, by the setuid `fusermount3` for everybody else.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use fuser::{Config, Filesystem, MountOption, Session, SessionACL};
use rustix::fs::{FsWord, statfs};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// The source shown in `/proc/mounts`.
const SOURCE: &str = "agentfs";
/// `f_type` of a FUSE mount (`FUSE_SUPER_MAGIC`).
const FUSE_MAGIC: FsWord = 0x6573_5546;

/// How to mount.
pub(crate) struct Options {
    pub(crate) allow_other: bool,
    pub(crate) default_permissions: bool,
    /// Threads that receive requests.
    pub(crate) threads: usize,
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes sure that `path` can be a mount point, and returns it absolute and without symlinks.
///
/// # Errors
/// One sentence that says why it cannot.
pub(crate) fn check_mount_point(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let absolute = match path.canonicalize() {
        Ok(absolute) => absolute,
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            bail!(
                "{shown} is the mount point of a volume whose daemon is gone: unmount it first (umount -l {shown})"
            )
        }
        Err(e) => return Err(e).context(format!("the mount point {shown} cannot be used")),
    };
    if !absolute.is_dir() {
        bail!("the mount point {shown} is not a directory");
    }
    if let Ok(mounted) = statfs(&absolute)
        && mounted.f_type == FUSE_MAGIC
        && is_mount_root(&absolute)
    {
        bail!("something is mounted at {shown} already: unmount it first");
    }
    Ok(absolute)
}

/// Is something mounted at `path` that nobody serves?
pub(crate) fn is_dead(path: &Path) -> bool {
    path.metadata().is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}

/// Is `path` where a filesystem begins?
fn is_mount_root(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| path.symlink_metadata().map(|meta| meta.dev()).ok();
    path.parent().is_none_or(|parent| device(parent) != device(path))
}

/// Mounts `filesystem` at `mount` and shakes hands with the kernel.
///
/// # Errors
/// One sentence that says what refused, and the remedy where it is known.
pub(crate) fn mount<F: Filesystem>(filesystem: F, mount: &Path, options: &Options) -> Result<Session<F>> {
    let mut config = Config::default();
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads);
    config.mount_options = vec![MountOption::FSName(SOURCE.into()), MountOption::Subtype(SOURCE.into())];
    if options.default_permissions {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    if is_root() {
        // The defaults are nosuid and nodev; a volume is as good as any other filesystem of root's.
        config.mount_options.extend([MountOption::Suid, MountOption::Dev]);
        config.clone_fd = true;
        return Session::new(filesystem, mount, &config)
            .with_context(|| format!("cannot mount {}", mount.display()));
    }
    let device = fusermount(mount, options)?;
    let acl = config.acl;
    Session::from_fd(filesystem, device, acl, config)
        .inspect_err(|_| {
            drop(unmount(mount, Patience::None));
        })
        .context("the kernel did not shake hands")
}

/// Has `fusermount3` open the device and mount it; the descriptor comes back over a socket.
fn fusermount(mount: &Path, options: &Options) -> Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
    let mut words = vec![format!("fsname={SOURCE}"), format!("subtype={SOURCE}")];
    words.extend(options.default_permissions.then(|| "default_permissions".to_owned()));
    words.extend(options.allow_other.then(|| "allow_other".to_owned()));
    let mut command = Command::new("fusermount3");
    command.arg("-o").arg(words.join(",")).arg("--").arg(mount);
    command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string()).stdin(Stdio::null());
    let output = command.output().context("fusermount3 cannot be run: install the package fuse3")?;
    drop(theirs);
    if !output.status.success() {
        bail!("{}", explained(String::from_utf8_lossy(&output.stderr).trim()));
    }
    receive_descriptor(&ours).context("fusermount3 sent no descriptor")
}

/// What `fusermount3` says, with the remedy where there is one.
fn explained(words: &str) -> String {
    let remedy = if words.contains("failed to open /dev/fuse") {
        " (your user needs read and write access to /dev/fuse)"
    } else if words.contains("user_allow_other") {
        " (without root, --allow-other needs the line user_allow_other in /etc/fuse.conf)"
    } else {
        ""
    };
    format!("{words}{remedy}")
}

fn receive_descriptor(socket: &UnixStream) -> Result<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut messages = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut messages, RecvFlags::CMSG_CLOEXEC)?;
    for message in messages.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message
            && let Some(device) = descriptors.into_iter().next()
        {
            return Ok(device);
        }
    }
    bail!("no descriptor in the message")
}

/// What to do with a mount that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Take it out of sight; those inside go on until they leave.
    None,
    /// Leave it.
    Some,
}

/// Unmounts; false when it is in use and was left.
///
/// # Errors
/// When it cannot be unmounted for another reason.
pub(crate) fn unmount(mount: &Path, patience: Patience) -> Result<bool> {
    if !is_root() {
        return fusermount_unmount(mount, patience);
    }
    let flags = if patience == Patience::Some { UnmountFlags::empty() } else { UnmountFlags::DETACH };
    match rustix::mount::unmount(mount, flags) {
        Ok(()) => Ok(true),
        Err(Errno::BUSY) => Ok(false),
        Err(e) => Err(e).context(format!("cannot unmount {}", mount.display())),
    }
}

fn fusermount_unmount(mount: &Path, patience: Patience) -> Result<bool> {
    let mut command = Command::new("fusermount3");
    command.arg("-u").args((patience == Patience::None).then_some("-z")).arg("--").arg(mount);
    let output = command.output().context("fusermount3 cannot be run: install the package fuse3")?;
    let words = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(true),
        false if words.contains("busy") => Ok(false),
        false => bail!("fusermount3 refused: {}", words.trim()),
    }
}
