//! `check`: is a store that nobody serves sound? Looks at all of it and changes nothing.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use super::history::PastTree;
use super::recover::{LOG_IS_MISSING, LateJournal, Past};
use crate::config::Config;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::log;
use crate::store::{Content, Device, FileId, Store};
use crate::tree::{Directory, Fault, Version, check, visit_new};
use crate::types::{InodeId, Name, ObjectId, PackId};

/// What is wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The log lost records that were durable.
    Log(String),
    /// A tree does not hold together: which, and what.
    Tree(String, String),
    /// The content of a file is missing, short, long or changed: which file, and what.
    Content(String, String),
    /// Numbers, names or accounts contradict each other.
    Account(String),
}

impl Finding {
    /// Can it be mended without guessing?
    pub fn is_mendable(&self) -> bool {
        matches!(self, Finding::Tree(..))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Log(what) | Finding::Account(what) => f.write_str(what),
            Finding::Tree(which, what) => write!(f, "in {which}: {what}"),
            Finding::Content(file, what) => write!(f, "{file}: {what}"),
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What is worth knowing and no fault.
    pub notes: Vec<String>,
    /// Branches.
    pub branches: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// Files and directories, those that trees share counted once.
    pub inodes: usize,
    /// Objects and packs that something names.
    pub files: usize,
    /// Bytes of content that were read and compared with their checksums.
    pub verified: u64,
}

/// Looks at a whole store.
///
/// # Errors
/// What the device answers. What is wrong with the store is no error but a finding.
pub fn check_store(device: Arc<dyn Device>, config: Config) -> Result<Report> {
    let core = FsCore::bare(device, Arc::new(LateJournal::default()), config, None);
    let mut report = Report::default();
    match Past::read(&core) {
        Ok(past) => {
            let examined = Examination { past: &past, store: &core.store, report: &mut report };
            examined.run()?;
        }
        Err(error) if is_damage(&error) => report.findings.push(Finding::Log(error.to_string())),
        Err(error) => return Err(error),
    }
    Ok(report)
}

fn is_damage(error: &FsError) -> bool {
    matches!(error, FsError::Io(e) if e.kind() == io::ErrorKind::InvalidData)
}

struct Examination<'a> {
    past: &'a Past<'a>,
    store: &'a Store,
    report: &'a mut Report,
}

impl Examination<'_> {
    fn run(mut self) -> Result<()> {
        self.log()?;
        self.report.branches = self.past.history.branches.len();
        self.report.snapshots = self.past.history.snapshots.len();
        self.accounts();
        self.trees();
        self.extents();
        self.contents()?;
        self.unnamed()
    }

    fn found(&mut self, finding: Finding) {
        self.report.findings.push(finding);
    }

    fn log(&mut self) -> Result<()> {
        let log = &self.past.log;
        let damage = log.damage.as_ref().map(ToString::to_string);
        let stale = log.stale.clone();
        if let Some(damage) = damage {
            self.found(Finding::Log(damage));
            for piece in stale {
                self.found(Finding::Log(format!("piece {piece} of the log goes on from what is missing")));
            }
        }
        if log.checkpoint_damaged {
            self.found(Finding::Log("the checkpoint that the log begins with is not whole".into()));
        }
        if self.past.is_new {
            self.report.notes.push("the volume was never mounted: there is nothing in it".into());
        } else if self.past.log.len() == 0 && self.past.log.damage.is_none() {
            self.found(Finding::Log(LOG_IS_MISSING.into()));
        } else if !self.past.history.has_main() {
            self.found(Finding::Log("the log does not tell of the branch \"main\"".into()));
        }
        if !self.past.log.is_closed() && !self.past.is_new {
            self.report
                .notes
                .push("the volume was not closed; the next mount settles what was under way".into());
        }
        if log::has_lost(self.store.device())? {
            self.report
                .notes
                .push("damage to the log was found earlier; what it lost is kept in lost-* files".into());
        }
        Ok(())
    }

    /// Numbers that are taken once, names that are given once.
    fn accounts(&mut self) {
        for what in self.past.history.contradictions() {
            self.found(Finding::Account(what));
        }
    }

    /// Names, link counts, parents, and what can be reached.
    fn trees(&mut self) {
        let past = self.past;
        let mut last = None;
        for PastTree { name: tree, version, .. } in past.history.trees() {
            let mut inodes = 0;
            visit_new(last, version, &mut |_, _| inodes += 1);
            last = Some(version);
            self.report.inodes += inodes;
            let paths = Paths::of(version);
            for fault in check(version) {
                self.found(Finding::Tree(tree.clone(), paths.in_words(&fault)));
            }
        }
    }

    /// Extents of a pack lie in it and beside each other.
    fn extents(&mut self) {
        let mut places: Vec<_> = self.past.adopted.extents.values().map(|e| (e.place(), e.len)).collect();
        places.sort_unstable();
        places.dedup();
        let overlaps = |pair: &&[((PackId, u32), u32)]| match pair {
            // One that grew begins where it did before.
            [((a, start), len), ((b, next), _)] => {
                a == b && start != next && u64::from(*start) + u64::from(*len) > u64::from(*next)
            }
            _ => false,
        };
        if let Some([((pack, at), _), _]) = places.windows(2).find(overlaps) {
            self.found(Finding::Account(format!("two contents lie at byte {at} of pack {:x}", pack.0)));
        }
    }

    /// Every content that any tree has, once.
    fn contents(&mut self) -> Result<()> {
        let past = self.past;
        let (mut last, mut seen) = (None, HashSet::new());
        // Objects that are named in part, by many.
        let mut looked_at = HashSet::new();
        let (mut unsynced, lengths) = (HashSet::new(), past.history.settled_sizes());
        for past_tree in past.history.trees() {
            let (tree, version) = (&past_tree.name, past_tree.version);
            let mut wrong = Vec::new();
            visit_new(last, version, &mut |ino, inode| {
                let size = inode.meta.size;
                let told = match inode.content() {
                    Some(Content::Packed(extent)) => {
                        self.report.verified += u64::from(extent.len);
                        let read = extent.read().err().map(|error| error.to_string());
                        read.or_else(|| wrong_size(size, u64::from(extent.len)))
                    }
                    // What is behind the end of a file is cut off before it shows.
                    Some(Content::Whole(object)) => {
                        let least = if past_tree.is_dirty(ino) { 0 } else { size };
                        self.object(object.id, least, &mut unsynced)
                    }
                    Some(Content::Layered(layers)) => layers.owners().find_map(|owner| {
                        let id = owner.backing.id;
                        let least = lengths.get(&id).copied().unwrap_or(0);
                        if looked_at.insert(id) { self.object(id, least, &mut unsynced) } else { None }
                    }),
                    Some(Content::Hole | Content::Lower(_)) | None => None,
                };
                wrong.extend(told.map(|told| (ino, told)));
            });
            // What is dirty here, and may be short, may not be so in the next.
            if !past_tree.has_dirty() {
                last = Some(version);
            }
            let paths = Paths::of(version);
            for (ino, told) in wrong.into_iter().filter(|told| seen.insert(told.clone())) {
                let file = format!("{} in {tree}", paths.of_inode(ino));
                self.found(Finding::Content(file, told));
            }
        }
        if !unsynced.is_empty() {
            self.report.notes.push(format!(
                "{} contents were not synced before a power cut; the next mount puts zeros in their place",
                unsynced.len()
            ));
        }
        Ok(())
    }

    /// What is wrong with an object that is to have `least` bytes. After a power cut one that has not is noted.
    fn object(&self, id: ObjectId, least: u64, unsynced: &mut HashSet<ObjectId>) -> Option<String> {
        match self.store.device().open(FileId::Object(id)).and_then(|file| file.stat()) {
            Ok(stat) if stat.len >= least => None,
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Some(format!("its content, object {:x}, cannot be read: {e}", id.0))
            }
            _ if self.past.power_cut => {
                unsynced.insert(id);
                None
            }
            Ok(stat) => wrong_size(least, stat.len),
            Err(_) => Some(format!("its content, object {:x}, is missing", id.0)),
        }
    }

    /// What lies there and nothing names.
    fn unnamed(&mut self) -> Result<()> {
        let adopted = &self.past.adopted;
        let is_named = |id: &FileId| match id {
            FileId::Object(id) => adopted.objects.contains_key(id),
            FileId::Pack(id) => adopted.packs.contains_key(id),
            _ => true,
        };
        let (named, unnamed): (Vec<_>, Vec<_>) = self.store.files()?.into_iter().partition(is_named);
        self.report.files = named.len();
        if !unnamed.is_empty() {
            let count = unnamed.len();
            self.report
                .notes
                .push(format!("{count} files of content are named by nothing; the next mount deletes them"));
        }
        let next = self.past.history.marks.object;
        let is_early = |id: &&FileId| id.number().is_some_and(|number| number >= next);
        if let Some(id) = named.iter().find(is_early) {
            self.found(Finding::Account(format!("{id:?} has a number that was not given yet")));
        }
        Ok(())
    }
}

fn wrong_size(size: u64, len: u64) -> Option<String> {
    (size != len).then(|| format!("it says that it has {size} bytes, its content has {len}"))
}

/// Who holds each inode of a version, by which name: looked for once, when the first path is asked for.
struct Paths<'a> {
    version: &'a Version,
    holders: OnceCell<HashMap<InodeId, (InodeId, &'a Name)>>,
}

impl<'a> Paths<'a> {
    fn of(version: &'a Version) -> Paths<'a> {
        Paths { version, holders: OnceCell::new() }
    }

    fn holder(&self, ino: InodeId) -> Option<(InodeId, &'a Name)> {
        let holders = self.holders.get_or_init(|| {
            let mut holders = HashMap::new();
            for (dir, inode) in self.version.iter() {
                for (name, entry) in inode.directory().into_iter().flat_map(Directory::iter) {
                    holders.entry(entry.ino()).or_insert((dir, name));
                }
            }
            holders
        });
        holders.get(&ino).copied()
    }

    /// A path to an inode, and its number.
    fn of_inode(&self, ino: InodeId) -> String {
        let mut names: Vec<&Name> = Vec::new();
        let mut at = ino;
        while at != InodeId::ROOT && names.len() < 64 {
            let Some((dir, name)) = self.holder(at) else { return format!("inode {}", ino.0) };
            names.push(name);
            at = dir;
        }
        let shown = names.iter().rev().map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
        format!("/{} (inode {})", shown.collect::<Vec<_>>().join("/").escape_debug(), ino.0)
    }

    /// A fault, with paths.
    fn in_words(&self, fault: &Fault) -> String {
        let path = |ino: &InodeId| self.of_inode(*ino);
        match fault {
            Fault::DanglingEntry(dir, ino) => {
                format!("{} has a name that leads to inode {}, which is missing", path(dir), ino.0)
            }
            Fault::WrongKind(dir, ino, kind) => {
                format!("{} calls {} a {kind:?}, which it is not", path(dir), path(ino))
            }
            Fault::LinkCount(ino, says, has) => {
                format!("{} says that it has {says} links, and has {has}", path(ino))
            }
            Fault::WrongParent(dir, lies, says) => {
                format!("{} lies in {} and says that it lies in inode {}", path(dir), path(lies), says.0)
            }
            Fault::SecondName(dir, name, ino) => {
                let name = String::from_utf8_lossy(name.as_bytes());
                format!("{} has a second name, {:?}, for directory {}", path(dir), name, path(ino))
            }
            Fault::ContentBehindEnd(ino, size, end) => {
                format!("{} has {size} bytes, and content up to byte {end}", path(ino))
            }
            Fault::Unreachable(ino) => format!("inode {} has no name: nothing leads to it", ino.0),
        }
    }
}
