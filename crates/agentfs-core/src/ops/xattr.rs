//! Extended attributes.

use std::sync::Arc;

use super::create::SGID;
use crate::branch::Draft;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::tree::{ACCESS, Acl, DEFAULT, Inode, Xattrs};
use crate::types::{Caller, InodeId, Timestamp, ViewId};

/// Largest value in bytes (`XATTR_SIZE_MAX`).
const MAX_VALUE: usize = 65_536;

/// What must hold for an attribute to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Nothing.
    Any,
    /// It is not there yet (`XATTR_CREATE`).
    Create,
    /// It is there (`XATTR_REPLACE`).
    Replace,
}

fn check_namespace(name: &[u8]) -> Result<()> {
    let known = [&b"user."[..], b"trusted.", b"security."];
    if known.contains(&name) {
        return Err(FsError::InvalidArgument("an extended attribute needs a name in its namespace"));
    }
    if is_acl(name) || known.iter().any(|prefix| name.starts_with(prefix)) {
        return Ok(());
    }
    Err(FsError::Unsupported("extended attributes are kept in user, trusted and security, and POSIX ACLs"))
}

/// Is it the name under which an ACL is kept?
pub fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

/// Most bytes of all names of a file (`XATTR_LIST_MAX`): more could be set and never listed.
const MAX_NAMES: usize = 65_536;
/// Most bytes of all names and values of a file: each change of one writes them all.
const MAX_TOTAL: usize = 1 << 20;

fn check_room(xattrs: &Xattrs) -> Result<()> {
    let names: usize = xattrs.keys().map(|name| name.len() + 1).sum();
    let values: usize = xattrs.values().map(|value| value.len()).sum();
    if names > MAX_NAMES || names + values > MAX_TOTAL { Err(FsError::no_space()) } else { Ok(()) }
}

/// These are all extended attributes of a file from now on.
fn keep(draft: &mut Draft<'_>, ino: InodeId, xattrs: Xattrs) -> Result<()> {
    check_room(&xattrs)?;
    draft.set_xattrs(ino, xattrs);
    draft.meta(ino)?.times.ctime = Timestamp::now();
    Ok(())
}

impl FsCore {
    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `Exists` or `NoAttribute` as `mode` demands, `AttributeTooLarge`, `Unsupported` outside the namespaces user,
    /// trusted and security, `ReadOnly`, `Stale`.
    pub fn setxattr(
        &self,
        view: ViewId,
        ino: InodeId,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        check_namespace(name)?;
        if is_acl(name) {
            return self.set_acl(view, ino, name, value, Caller::ROOT);
        }
        if value.len() > MAX_VALUE {
            return Err(FsError::AttributeTooLarge);
        }
        self.change_xattrs(view, ino, |xattrs| {
            match (mode, xattrs.contains_key(name)) {
                (XattrMode::Create, true) => return Err(FsError::Exists),
                (XattrMode::Replace, false) => return Err(FsError::NoAttribute),
                _ => {}
            }
            xattrs.insert(name.into(), value.into());
            Ok(())
        })
    }

    /// Sets the ACL that is checked, with the permission bits that it means, or the default one of a directory.
    /// Who is no member of the file's group leaves no sgid there.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none, `NotPermitted` for a default ACL of a file, `ReadOnly`, `Stale`.
    pub fn set_acl(
        &self,
        view: ViewId,
        ino: InodeId,
        name: &[u8],
        value: &[u8],
        caller: Caller,
    ) -> Result<()> {
        let mut acl = Acl::parse(value)?;
        self.copy_up(view, ino)?;
        self.change(view, |draft| {
            let inode = draft.inode(ino)?;
            let mut xattrs = draft.xattrs(ino)?;
            xattrs.insert(name.into(), value.into());
            if name == ACCESS {
                let meta = draft.meta(ino)?;
                let taken = if caller.is_member { 0o777 } else { 0o777 | SGID };
                meta.mode = meta.mode & !taken | acl.mode();
                if acl.is_minimal() {
                    xattrs.remove(name);
                }
            } else if inode.directory().is_none() {
                return Err(FsError::NotPermitted);
            }
            keep(draft, ino, xattrs)
        })
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `Unsupported`, `ReadOnly`, `Stale`.
    pub fn removexattr(&self, view: ViewId, ino: InodeId, name: &[u8]) -> Result<()> {
        check_namespace(name)?;
        self.change_xattrs(view, ino, |xattrs| match xattrs.remove(name) {
            // A file always has an ACL: what its permission bits say.
            None if !is_acl(name) => Err(FsError::NoAttribute),
            _ => Ok(()),
        })
    }

    fn change_xattrs(
        &self,
        view: ViewId,
        ino: InodeId,
        change: impl FnOnce(&mut Xattrs) -> Result<()>,
    ) -> Result<()> {
        self.copy_up(view, ino)?;
        self.change(view, |draft| {
            let mut xattrs = draft.xattrs(ino)?;
            change(&mut xattrs)?;
            keep(draft, ino, xattrs)
        })
    }

    /// Reads an inode with its extended attributes, also of the lower directory.
    fn with_xattrs<T>(&self, view: ViewId, ino: InodeId, f: impl FnOnce(&Inode) -> T) -> Result<T> {
        let tree = self.views.get(view)?;
        let Some((lower, since)) = tree.lower().filter(|_| tree.own_inode(ino).is_none()) else {
            return tree.with_inode(ino, f);
        };
        let mut inode = lower.inode(ino, since)?;
        let path = lower.path_of(ino).ok_or(FsError::Stale)?;
        lower.dress(&mut inode, &path);
        Ok(f(&inode))
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `Unsupported`, `Stale`.
    pub fn getxattr(&self, view: ViewId, ino: InodeId, name: &[u8]) -> Result<Arc<[u8]>> {
        check_namespace(name)?;
        self.with_xattrs(view, ino, |inode| {
            let value = inode.xattrs.as_ref().and_then(|xattrs| xattrs.get(name));
            value.cloned().ok_or(FsError::NoAttribute)
        })?
    }

    /// The names of all extended attributes.
    ///
    /// # Errors
    /// `Stale`.
    pub fn listxattr(&self, view: ViewId, ino: InodeId) -> Result<Vec<Box<[u8]>>> {
        self.with_xattrs(view, ino, |inode| {
            inode.xattrs.as_ref().map(|xattrs| xattrs.keys().cloned().collect()).unwrap_or_default()
        })
    }
}
