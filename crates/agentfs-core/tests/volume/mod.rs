//! A volume whose files are made, written and read by path.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod large;

use std::collections::BTreeSet;

use agentfs_core::{Caller, CreateMode, FileKind, FsCore, InodeId, Name, OpenMode, RenameMode, ViewId};

pub struct Volume(pub FsCore);

pub fn name(name: &str) -> Name {
    Name::new(name.as_bytes()).unwrap()
}

/// All bytes of a file.
pub fn bytes_of(core: &FsCore, view: ViewId, ino: InodeId) -> Vec<u8> {
    let mut bytes = vec![0xAA; core.getattr(view, ino).unwrap().size as usize];
    let handle = core.open(view, ino, OpenMode::Read, Caller::ROOT).unwrap();
    let read = core.read(handle, 0, &mut bytes).unwrap();
    core.release(handle).unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

impl Volume {
    pub fn view(&self, branch: &str) -> ViewId {
        self.0.find_branch(branch).unwrap().view
    }

    pub fn find(&self, branch: &str, path: &str) -> Option<InodeId> {
        let step = |at: Option<InodeId>, part: &str| {
            Some(self.0.lookup(self.view(branch), at?, &name(part)).unwrap()?.ino)
        };
        path.split('/').filter(|part| !part.is_empty()).fold(Some(InodeId::ROOT), step)
    }

    fn place<'a>(&self, branch: &str, path: &'a str) -> (InodeId, &'a str) {
        let (above, last) = path.rsplit_once('/').unwrap_or(("", path));
        (self.find(branch, above).unwrap(), last)
    }

    pub fn make(&self, branch: &str, path: &str, kind: FileKind) -> InodeId {
        let (dir, last) = self.place(branch, path);
        let what = CreateMode { kind, mode: 0o755, umask: 0, rdev: 0 };
        self.0.create(self.view(branch), dir, &name(last), what, Caller::ROOT).unwrap().ino
    }

    pub fn put(&self, branch: &str, path: &str, text: &str) {
        let ino = self.find(branch, path).unwrap_or_else(|| self.make(branch, path, FileKind::File));
        let handle = self.0.open(self.view(branch), ino, OpenMode::Truncate, Caller::ROOT).unwrap();
        self.0.write(handle, 0, text.as_bytes(), false).unwrap();
        self.0.release(handle).unwrap();
    }

    /// Writes a file as editors do: another one, which takes its place.
    pub fn save(&self, branch: &str, path: &str, text: &str) {
        self.put(branch, "draft~", text);
        self.rename(branch, "draft~", path);
    }

    pub fn rename(&self, branch: &str, from: &str, to: &str) {
        let ((from_dir, from), (to_dir, to)) = (self.place(branch, from), self.place(branch, to));
        let (from, to) = ((from_dir, &name(from)), (to_dir, &name(to)));
        self.0.rename(self.view(branch), from, to, RenameMode::Replace).unwrap();
    }

    /// Writes to a file that is there, and closes it.
    pub fn write_at(&self, branch: &str, path: &str, offset: u64, bytes: &[u8]) {
        let (view, ino) = (self.view(branch), self.find(branch, path).unwrap());
        let handle = self.0.open(view, ino, OpenMode::Write, Caller::ROOT).unwrap();
        assert_eq!(self.0.write(handle, offset, bytes, false).unwrap(), bytes.len());
        self.0.release(handle).unwrap();
    }

    pub fn bytes(&self, branch: &str, path: &str) -> Option<Vec<u8>> {
        let view = self.view(branch);
        let ino = self.find(branch, path)?;
        Some(bytes_of(&self.0, view, ino))
    }

    pub fn remove(&self, branch: &str, path: &str) {
        let (dir, last) = self.place(branch, path);
        self.0.unlink(self.view(branch), dir, &name(last)).unwrap();
    }

    pub fn link(&self, branch: &str, from: &str, to: &str) {
        let (dir, last) = self.place(branch, to);
        self.0.link(self.view(branch), self.find(branch, from).unwrap(), dir, &name(last)).unwrap();
    }

    pub fn text(&self, branch: &str, path: &str) -> Option<String> {
        let bytes = self.bytes(branch, path)?;
        Some(String::from_utf8(bytes).unwrap())
    }

    /// The names in the root.
    pub fn names(&self, branch: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let listed = self.0.readdir(self.view(branch), InodeId::ROOT, 2, |entry| {
            names.insert(String::from_utf8(entry.name.to_vec()).unwrap());
            true
        });
        listed.unwrap();
        names
    }
}
