//! One method for each of the kernel's requests.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use agentfs_core::{CreateMode, FallocateFlags, FileKind, FsError, HandleId, Seek, SetAttr, ViewId};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, TimeOrNow, WriteFlags,
};

use super::caller::caller;
use super::errno::errno;
use super::{Adapter, attr, reply, route};
use crate::metrics::Request;
use crate::views::{ListingNumber, Node, NodeId};

fn handle(fh: FileHandle) -> HandleId {
    HandleId(fh.0)
}

#[allow(clippy::too_many_arguments, reason = "fuser's signatures")]
impl Filesystem for Adapter {
    fn init(&mut self, _req: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        self.wishes.negotiate(config)
    }

    fn lookup(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.serve(Request::Lookup, || {
            let keep = self.caching.hold();
            reply::entry(reply, self.find(req, &keep, parent, name));
        });
    }

    fn forget(&self, _req: &fuser::Request, ino: INodeNo, nlookup: u64) {
        self.heed(Request::Forget, || self.forget_node(NodeId::from(ino), nlookup));
    }

    fn getattr(&self, req: &fuser::Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.serve(Request::Getattr, || {
            let keep = self.caching.hold();
            reply::attr(reply, |attr| keep.attr(ino.into(), attr), self.attributes(req, ino));
        });
    }

    fn setattr(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode: mode.map(attr::permissions),
            uid,
            gid,
            size,
            atime: atime.map(attr::set_time),
            mtime: mtime.map(attr::set_time),
            ctime: ctime.map(attr::exact_time),
        };
        self.serve(Request::Setattr, || self.set_attributes(req, ino, set, reply));
    }

    fn readlink(&self, _req: &fuser::Request, ino: INodeNo, reply: ReplyData) {
        self.serve(Request::Readlink, || match NodeId::from(ino).node() {
            Node::Tree(view, ino) => reply::data(reply, self.core.readlink(view, ino)),
            Node::Special(view, special) => reply::data(reply, self.synthetic.readlink(view, special)),
            Node::Private(..) | Node::Shared(_) => reply.error(Errno::EINVAL),
        });
    }

    fn mknod(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.serve(Request::Mknod, || {
            let kind =
                attr::kind_of_mode(mode).ok_or(FsError::InvalidArgument("mknod of an unknown kind of file"));
            let keep = self.caching.hold();
            let made = kind.and_then(|kind| {
                let (mode, umask) = (attr::permissions(mode), attr::permissions(umask));
                self.make(req, &keep, (parent, name), CreateMode { kind, mode, umask, rdev })
            });
            reply::entry(reply, made);
        });
    }

    fn mkdir(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.serve(Request::Mkdir, || {
            let what = CreateMode {
                kind: FileKind::Directory,
                mode: attr::permissions(mode),
                umask: attr::permissions(umask),
                rdev: 0,
            };
            let keep = self.caching.hold();
            reply::entry(reply, self.make(req, &keep, (parent, name), what));
        });
    }

    fn unlink(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(Request::Unlink, || {
            let place = self.place(req, parent, name);
            reply::empty(reply, place.and_then(|(view, dir, name)| self.core.unlink(view, dir, &name)));
        });
    }

    fn rmdir(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(Request::Rmdir, || reply::empty(reply, self.remove_directory(req, parent, name)));
    }

    fn symlink(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.serve(Request::Symlink, || {
            let keep = self.caching.hold();
            let made = self.place(req, parent, name).and_then(|place| {
                let target = target.as_os_str().as_bytes();
                let attr = self.core.symlink(place.0, place.1, &place.2, target, caller(req))?;
                Ok(self.tell(&keep, parent, &place, attr))
            });
            reply::entry(reply, made);
        });
    }

    fn rename(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.serve(Request::Rename, || {
            let mode = route::rename_mode(flags, caller(req));
            let (from, to) = ((parent, name), (newparent, newname));
            reply::empty(reply, mode.and_then(|mode| self.move_name(req, from, to, mode)));
        });
    }

    fn link(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.serve(Request::Link, || {
            let keep = self.caching.hold();
            reply::entry(reply, self.add_name(req, &keep, ino, (newparent, newname)));
        });
    }

    fn open(&self, req: &fuser::Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.serve(Request::Open, || match NodeId::from(ino).node() {
            Node::Tree(view, tree_ino) => {
                match self.core.open(
                    view,
                    tree_ino,
                    route::open_mode(flags.0, self.wishes.write_back),
                    caller(req),
                ) {
                    Ok(handle) => self.answer_open(req, (ino.into(), handle), flags, reply),
                    Err(error) => reply.error(errno(&error)),
                }
            }
            Node::Private(..) | Node::Shared(_) => reply.error(Errno::EISDIR),
            Node::Special(..) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
        });
    }

    fn create(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.serve(Request::Create, || {
            let mode = (attr::permissions(mode), attr::permissions(umask));
            let keep = self.caching.hold();
            let made = self.place(req, parent, name).and_then(|(view, dir, name)| {
                let (attr, handle) = self.core.create_open(
                    view,
                    dir,
                    &name,
                    mode,
                    route::open_mode(flags, self.wishes.write_back),
                    caller(req),
                )?;
                self.core.remember(view, attr.ino);
                Ok((view, attr, handle))
            });
            reply::created(reply, keep.created((parent.into(), name.as_bytes())), made);
        });
    }

    fn read(
        &self,
        _req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.serve(Request::Read, || match NodeId::from(ino).node() {
            Node::Tree(..) => route::with_buffer(size as usize, |buf| {
                let read = self.core.read(handle(fh), offset, buf);
                reply::data(reply, read.map(|len| buf.get(..len).unwrap_or_default()));
            }),
            Node::Private(..) | Node::Shared(_) => reply.error(Errno::EISDIR),
            Node::Special(..) => reply.data(&[]),
        });
    }

    fn write(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let how = self.writing(req, ino, write_flags);
        let handle = handle(fh);
        self.serve(Request::Write, || {
            if !self.core.write_may_copy(handle)
                && let Some(_writing) = self.pool.here(data.len())
            {
                return reply::written(reply, self.core.write(handle, offset, data, how));
            }
            let (core, bytes) = (self.core.clone(), data.to_vec());
            self.pool.submit(data.len(), move || {
                reply::written(reply, core.write(handle, offset, &bytes, how));
            });
        });
    }

    fn flush(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.serve(Request::Flush, || reply.ok());
    }

    fn release(
        &self,
        _req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(Request::Release, || match NodeId::from(ino).node() {
            Node::Tree(..) => reply::empty(reply, self.close(ino.into(), handle(fh))),
            Node::Private(..) | Node::Shared(_) | Node::Special(..) => reply.ok(),
        });
    }

    fn fsync(&self, req: &fuser::Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.serve(Request::Fsync, || self.sync(req, handle(fh), datasync, reply));
    }

    fn opendir(&self, _req: &fuser::Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.serve(Request::Opendir, || {
            let keep = self.caching.hold();
            self.pid_view.opened(ino.into(), true);
            let cached = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
            match keep.listing(ino.into()) {
                ListingNumber::NONE => reply.opened(FileHandle(0), FopenFlags::empty()),
                number => reply.opened(FileHandle(number.0), cached),
            }
        });
    }

    fn readdir(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.serve(Request::Readdir, || {
            let keep = self.caching.hold();
            self.list(req, &keep, (ino, fh), offset, reply);
        });
    }

    fn readdirplus(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.serve(Request::Readdirplus, || {
            let keep = self.caching.hold();
            self.list_plus(req, &keep, (ino, fh), offset, reply);
        });
    }

    fn releasedir(
        &self,
        _req: &fuser::Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.serve(Request::Releasedir, || {
            self.pid_view.opened(ino.into(), false);
            reply.ok();
        });
    }

    fn fsyncdir(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let (core, dir) = (self.core.clone(), self.tree(req, ino));
        self.serve(Request::Fsyncdir, || {
            self.pool.submit(0, move || match dir {
                Ok((_, dir)) => reply::empty(reply, core.fsync_directory(dir)),
                Err(_) => reply.ok(), // the volume's own directories are made of what the log says
            });
        });
    }

    fn statfs(&self, req: &fuser::Request, ino: INodeNo, reply: ReplyStatfs) {
        // The volume's own directories are in no branch.
        let view = self.tree(req, ino).map_or(ViewId::MAIN, |(view, _)| view);
        self.serve(Request::Statfs, || reply::statfs(reply, self.core.statfs(view)));
    }

    fn setxattr(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.serve(Request::Setxattr, || {
            reply::empty(reply, self.set_xattr(req, ino, name, value, flags));
        });
    }

    fn getxattr(&self, req: &fuser::Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.serve(Request::Getxattr, || {
            reply::xattr(reply, size, self.xattr(req, ino, name));
        });
    }

    fn listxattr(&self, req: &fuser::Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.serve(Request::Listxattr, || {
            reply::xattr(reply, size, self.xattr_names(req, ino));
        });
    }

    fn removexattr(&self, req: &fuser::Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(Request::Removexattr, || {
            reply::empty(reply, self.remove_xattr(req, ino, name));
        });
    }

    fn access(&self, _req: &fuser::Request, _ino: INodeNo, _mask: fuser::AccessFlags, reply: ReplyEmpty) {
        // The kernel checks by itself; so answered, it asks once.
        self.serve(Request::Access, || reply.error(Errno::ENOSYS));
    }

    fn ioctl(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.serve(Request::Ioctl, || {
            self.control.ioctl(NodeId::from(ino), (req.pid(), caller(req)), cmd, in_data, reply)
        });
    }

    fn fallocate(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (core, caller) = (self.core.clone(), self.changer(req, ino));
        self.serve(Request::Fallocate, || {
            self.pool.submit(0, move || {
                let mode = FallocateFlags::from_bits_retain(mode as u32);
                reply::empty(reply, core.allocate(handle(fh), mode, offset, length, caller));
            });
        });
    }

    fn lseek(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.serve(Request::Lseek, || {
            if self.wishes.write_back {
                return reply.error(Errno::ENOSYS); // only the kernel knows what it keeps
            }
            let what = if whence == libc::SEEK_DATA { Seek::Data } else { Seek::Hole };
            let offset = u64::try_from(offset).map_err(|_| FsError::NoData);
            reply::offset(reply, offset.and_then(|offset| self.core.seek(handle(fh), what, offset)));
        });
    }

    fn copy_file_range(
        &self,
        req: &fuser::Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (core, caller) = (self.core.clone(), self.changer(req, ino_out));
        let (from, to) = ((handle(fh_in), offset_in), (handle(fh_out), offset_out));
        self.serve(Request::CopyFileRange, || {
            self.pool.submit(0, move || {
                let copied = core.copy_range(from, to, len, caller);
                reply::written(reply, copied.map(|bytes| bytes as usize));
            });
        });
    }
}
