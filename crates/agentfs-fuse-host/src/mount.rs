//! Mounting and unmounting: by the kernel directly for root, by the setuid `fusermount3` for everybody else.

use std::ffi::CString;
use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use fuser::{Config, Filesystem, Session, SessionACL};
use rustix::fs::{CWD, FsWord, statfs};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// The source shown in `/proc/mounts`.
pub(crate) const SOURCE: &str = "agentfs";
/// `f_type` of a FUSE mount (`FUSE_SUPER_MAGIC`).
const FUSE_MAGIC: FsWord = 0x6573_5546;

/// How to mount.
pub(crate) struct Options {
    pub(crate) allow_other: bool,
    pub(crate) default_permissions: bool,
    /// Threads that receive requests.
    pub(crate) threads: usize,
}

impl Options {
    /// What the kernel is to do, in its words.
    fn flags(&self) -> impl Iterator<Item = &'static str> {
        let all = [(self.default_permissions, "default_permissions"), (self.allow_other, "allow_other")];
        all.into_iter().filter_map(|(wanted, word)| wanted.then_some(word))
    }
}

/// Is the daemon root's?
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes sure that `path` can be a mount point, and returns it absolute and without symlinks. A volume whose daemon
/// died is covered, never taken away first: what lies below it would be open to programs that think they are in it.
///
/// # Errors
/// One sentence that says why it cannot.
pub(crate) fn check_mount_point(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    if is_dead(path) {
        if is_root() {
            return dead_mount_point(path);
        }
        bail!(
            "{shown} is the mount point of a volume whose daemon is gone, which only root can cover: stop what works \
             in it, then unmount it (fusermount3 -u -z {shown})"
        )
    }
    let absolute = path.canonicalize().with_context(|| format!("the mount point {shown} cannot be used"))?;
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

/// Where a dead mount lies: it cannot be looked at itself.
pub(crate) fn dead_mount_point(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
        (Some(Ok(parent)), Some(name)) => Ok(parent.join(name)),
        _ => bail!("the dead mount at {} cannot be covered: name it by its own path", path.display()),
    }
}

/// Takes away the dead mounts at `path` that a volume covered, after its end.
pub(crate) fn clear_dead(path: &Path) {
    while is_dead(path) {
        if let Err(error) = unmount(path, Patience::None) {
            tracing::warn!(error = format!("{error:#}"), "a dead mount stays");
            break;
        }
    }
}

/// The device numbers of what is mounted at `path`, the uppermost last. Asks none of the filesystems.
pub(crate) fn devices_at(path: &Path) -> Vec<String> {
    mounts_at(path).into_iter().map(|(device, _)| device).collect()
}

/// The sources of what is mounted at `path`, as `/proc/mounts` has them.
pub(crate) fn sources_at(path: &Path) -> Vec<String> {
    mounts_at(path).into_iter().map(|(_, source)| source).collect()
}

/// The device numbers and sources of what is mounted at `path`, the uppermost last.
fn mounts_at(path: &Path) -> Vec<(String, String)> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let escaped: String = path.to_string_lossy().chars().map(escape).collect();
    let mounted = |line: &str| {
        // proc_pid_mountinfo(5): the fields before " - " vary in number.
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(2);
        let (device, at) = (place.next()?, place.nth(1)?);
        (at == escaped).then(|| (device.to_owned(), kind.split(' ').nth(1).unwrap_or_default().to_owned()))
    };
    table.lines().filter_map(mounted).collect()
}

/// As the kernel writes paths in its tables.
fn escape(c: char) -> String {
    match c {
        ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", u32::from(c)),
        c => c.to_string(),
    }
}

/// Is something mounted at `path` that nobody serves? Its attributes may still be cached: `statfs` always asks.
pub(crate) fn is_dead(path: &Path) -> bool {
    matches!(statfs(path), Err(Errno::NOTCONN | Errno::CONNABORTED))
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
    config.clone_fd = is_root();
    let device = if is_root() { mount_directly(mount, options)? } else { fusermount(mount, options)? };
    let acl = config.acl;
    Session::from_fd(filesystem, device, acl, config)
        .inspect_err(|_| {
            drop(unmount(mount, Patience::None));
        })
        .context("the kernel did not shake hands")
}

fn open_device() -> Result<OwnedFd> {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    Ok(device.context("cannot open /dev/fuse: is the module fuse loaded?")?.into())
}

/// Mounts as root. Set-user-id programs and devices work: a volume is as good as any other filesystem of root's.
fn mount_directly(mount: &Path, options: &Options) -> Result<OwnedFd> {
    if is_dead(mount) {
        // A device is for one mount.
        let device = open_device()?;
        match replace_dead(mount, options, &device) {
            Ok(()) => return Ok(device),
            Err(error) => tracing::info!(%error, "the dead mount is covered, and stays below"),
        }
    }
    let device = open_device()?;
    let mut data = format!("fd={},rootmode={:o},user_id=0,group_id=0", device.as_raw_fd(), libc::S_IFDIR);
    for flag in options.flags() {
        data = data + "," + flag;
    }
    let kind = format!("fuse.{SOURCE}");
    rustix::mount::mount(SOURCE, mount, kind.as_str(), MountFlags::empty(), Some(&*CString::new(data)?))
        .with_context(|| format!("cannot mount {}", mount.display()))?;
    Ok(device)
}

/// Mounts beneath the mount of a daemon that died and takes that away: at no time does anybody see what lies below, and dead
/// mounts do not pile up. Linux 6.5 or later.
fn replace_dead(mount: &Path, options: &Options, device: &OwnedFd) -> rustix::io::Result<()> {
    let made = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let words = [
        ("source", SOURCE.to_owned()),
        ("subtype", SOURCE.to_owned()),
        ("fd", device.as_raw_fd().to_string()),
        ("rootmode", format!("{:o}", libc::S_IFDIR)),
        ("user_id", "0".to_owned()),
        ("group_id", "0".to_owned()),
    ];
    for (key, value) in words {
        fsconfig_set_string(&made, key, value)?;
    }
    options.flags().try_for_each(|flag| fsconfig_set_flag(&made, flag))?;
    fsconfig_create(&made)?;
    let ours = fsmount(&made, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let beneath = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_BENEATH;
    move_mount(&ours, "", CWD, mount, beneath)?;
    rustix::mount::unmount(mount, UnmountFlags::DETACH)
}

/// Has `fusermount3` open the device and mount it; the descriptor comes back over a socket.
fn fusermount(mount: &Path, options: &Options) -> Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
    let mut words = vec![format!("fsname={SOURCE}"), format!("subtype={SOURCE}")];
    words.extend(options.flags().map(str::to_owned));
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
