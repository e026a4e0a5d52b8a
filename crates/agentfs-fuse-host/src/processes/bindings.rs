//! The bindings: which mark means which branch. Kept in a file of the store, as processes outlive a daemon; they do not
//! outlive a boot.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, io};

use agentfs_core::{BranchId, BranchInfo, FsError, Result, ViewId};
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use serde::{Deserialize, Serialize};

use super::binding::{Binding, Bound, Kind, no_view, refusal};
use super::descent::Descent;
use super::mark::{Carried, Mark, carried};
use super::proc;
use super::unmarked::Unmarked;

/// A mark that so many looks at all processes in a row have not found is carried by nobody: one look may miss a process
/// that is just being replaced by its child.
const MISSES: u32 = 3;
/// Bindings that are remembered after their end, in case a process was missed all the same.
const MAX_ENDED: usize = 10_000;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    boot: String,
    bindings: Vec<Binding>,
}

#[derive(Default)]
pub(super) struct Table {
    pub(super) known: HashMap<Mark, Binding>,
    /// Whom the members of marks that are not ours count to.
    foreign: HashMap<Mark, Option<Mark>>,
    /// Ended with their last process; one that was missed revives its own.
    ended: HashMap<Mark, Binding>,
    /// In how many looks in a row nobody carried it.
    misses: HashMap<Mark, u32>,
    /// Views that processes are bound to, but main's.
    views: HashSet<ViewId>,
    /// Of those that an earlier daemon gave mounts: these went with it.
    stranded: HashSet<Mark>,
}

/// All bindings of a volume.
#[derive(Default)]
pub(crate) struct Bindings {
    table: RwLock<Table>,
    /// Held by whoever binds, unbinds or deletes branches.
    changing: Mutex<()>,
    /// Does anybody see another branch than main at the mount point?
    active: AtomicBool,
    /// How often it could not be told who asked.
    unknown_callers: AtomicU64,
    /// Who is a member of a binding without its mark.
    pub(super) descent: Arc<Descent>,
    /// What was found of processes that carry no mark, by thread.
    pub(super) unmarked: RwLock<HashMap<u32, Unmarked>>,
    /// What it was found for: each change of a binding begins another.
    pub(super) generation: AtomicU64,
    file: Option<PathBuf>,
    boot: String,
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Bindings {
    /// Those of an earlier daemon on this boot; `find` knows the branches.
    ///
    /// # Errors
    /// When the file cannot be read or understood: whose processes see which branch would be unknown.
    pub(crate) fn open(
        store: Option<&Path>,
        boot: u128,
        find: impl Fn(BranchId) -> Option<BranchInfo>,
    ) -> io::Result<Bindings> {
        let boot = format!("{boot:032x}");
        // A file of another boot says nothing, and may have been cut off by the end of that.
        let file = store.map(|store| store.join(format!("bindings-{boot}.json")));
        for old in store.into_iter().flat_map(|store| fs::read_dir(store).into_iter().flatten().flatten()) {
            let named = old.file_name().to_string_lossy().starts_with("bindings-");
            if named && Some(old.path()) != file {
                let _ = fs::remove_file(old.path());
            }
        }
        let bindings = Bindings { file, boot, ..Bindings::default() };
        let saved: Saved = match bindings.file.as_deref().map(fs::read) {
            None => Saved::default(),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => Saved::default(),
            Some(read) => serde_json::from_slice(&read?)?,
        };
        if saved.boot == bindings.boot {
            let mut table = bindings.write();
            for mut binding in saved.bindings {
                // Bound to what is gone, it gets errors.
                binding.view = find(binding.branch).map_or_else(no_view, |info| info.view);
                // The mounts of `branch-exec` went with the daemon that served them.
                if binding.kind == Kind::Exec {
                    table.stranded.insert(binding.mark);
                }
                table.known.insert(binding.mark, binding);
            }
            bindings.refresh(&mut table);
            drop(table);
            bindings.note_members();
        }
        Ok(bindings)
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write()
    }

    /// Keeps others from binding, unbinding and deleting branches meanwhile.
    pub(crate) fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock()
    }

    fn refresh(&self, table: &mut Table) {
        let shows = |binding: &&Binding| binding.kind == Kind::Bound && binding.view != ViewId::MAIN;
        table.views = table.known.values().filter(shows).map(|binding| binding.view).collect();
        self.active.store(!table.views.is_empty(), Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Has the kernel tell who descends from those that are members of a binding now.
    fn note_members(&self) {
        if self.read().known.is_empty() {
            return;
        }
        self.descent.begin(true);
        for pid in proc::all() {
            if let Ok(Some(binding)) = self.standing(pid) {
                self.descent.note([(pid, binding.mark)]);
            }
        }
    }

    /// Is any process bound to another branch than main?
    pub(crate) fn any(&self) -> bool {
        self.active.load(Ordering::SeqCst)
    }

    /// Is any process bound to this view's branch?
    pub(crate) fn shows(&self, view: ViewId) -> bool {
        self.any() && self.read().views.contains(&view)
    }

    /// How often it could not be told who asked.
    pub(crate) fn unknown_callers(&self) -> u64 {
        self.unknown_callers.load(Ordering::Relaxed)
    }

    /// What a process or thread sees at the mount point.
    ///
    /// # Errors
    /// `UnknownCaller` while bindings exist and it cannot be told who asks.
    pub(crate) fn view_of(&self, tid: u32) -> Result<ViewId> {
        if !self.any() {
            return Ok(ViewId::MAIN);
        }
        let mut binding = self.standing(tid).inspect_err(|_| {
            self.unknown_callers.fetch_add(1, Ordering::Relaxed);
        })?;
        let table = self.read();
        while let Some(exec) = binding.as_ref().filter(|binding| binding.kind == Kind::Exec) {
            binding = exec.outer.and_then(|outer| table.known.get(&outer)).cloned();
        }
        Ok(binding.map_or(ViewId::MAIN, |binding| binding.view))
    }

    /// The binding that a process or thread is a member of.
    ///
    /// # Errors
    /// `UnknownCaller` when there is no such one here.
    pub(crate) fn standing(&self, tid: u32) -> Result<Option<Binding>> {
        match carried(tid).ok_or(FsError::UnknownCaller)? {
            Carried::Mark(mark) => self.meaning(mark, tid),
            Carried::Nothing | Carried::OwnLimit if self.read().known.is_empty() => Ok(None),
            Carried::Nothing => self.of_unmarked(tid, false),
            Carried::OwnLimit => self.of_unmarked(tid, true),
        }
    }

    fn meaning(&self, mark: Mark, tid: u32) -> Result<Option<Binding>> {
        {
            let table = self.read();
            if let Some(binding) = table.known.get(&mark) {
                return Ok(Some(binding.clone()));
            }
            let of = proc::process_of(tid).and_then(|process| self.descent.of(process));
            if let Some(binding) = of.and_then(|mark| table.known.get(&mark)) {
                return Ok(Some(binding.clone()));
            }
            if let Some(foreign) = table.foreign.get(&mark) {
                return Ok(foreign.and_then(|mark| table.known.get(&mark)).cloned());
            }
        }
        let mut table = self.write();
        if let Some(binding) = table.ended.remove(&mark) {
            table.known.insert(mark, binding.clone());
            self.refresh(&mut table);
            return Ok(Some(binding));
        }
        drop(table);
        // Another volume's: all that carry it descend from one process, so its ancestors are theirs.
        let binding = self.of_ancestors(tid)?;
        if binding.is_none() && self.may_be_orphan(proc::process_of(tid).unwrap_or(tid), true)? {
            return Err(FsError::UnknownCaller);
        }
        self.write().foreign.insert(mark, binding.as_ref().map(|binding| binding.mark));
        Ok(binding)
    }

    /// The nearest binding of a process's ancestors, as far as they live.
    pub(super) fn of_ancestors(&self, tid: u32) -> Result<Option<Binding>> {
        let process = proc::process_of(tid).ok_or(FsError::UnknownCaller)?;
        Ok(proc::parents(process).find_map(|pid| match carried(pid) {
            Some(Carried::Mark(mark)) => self.read().known.get(&mark).cloned(),
            _ => None,
        }))
    }

    /// Is this process the one that the binding was given to?
    pub(crate) fn is_own(binding: &Binding, pid: u32) -> bool {
        binding.pid == pid && proc::stat(pid).is_some_and(|stat| stat.started == binding.started)
    }

    /// A binding for a process, not known to anybody yet.
    ///
    /// # Errors
    /// `UnknownVersion` when the process is gone.
    pub(crate) fn prepare(&self, pid: u32, kind: Kind, branch: &BranchInfo) -> Result<Binding> {
        let gone = || FsError::UnknownVersion(format!("there is no process {pid}"));
        let started = proc::stat(pid).ok_or_else(gone)?.started;
        // Whatever a process without parents was, it is bound now.
        let standing = match (self.standing(pid), carried(pid)) {
            (_, None) => return Err(gone()),
            (standing, Some(_)) => standing.unwrap_or_default(),
        };
        if let Some(Carried::Mark(mark)) = carried(pid)
            && standing.as_ref().is_none_or(|binding| binding.mark != mark)
        {
            return Err(FsError::Refused(format!(
                "process {pid} is, or was, bound in another volume, and a process can be bound in one: use one that was \
                 started elsewhere, or end that binding for good (prlimit --pid {pid} --rttime=unlimited)"
            )));
        }
        let outer = standing.map(|binding| binding.mark);
        let (branch, view) = (branch.id, branch.view);
        let namespace = (kind == Kind::Exec).then(|| proc::mount_namespace(pid)).flatten();
        let (mark, since_ms) = (Mark::fresh(), now_ms());
        Ok(Binding { mark, kind, branch, view, pid, started, since_ms, outer, namespace })
    }

    /// From now on the mark means this.
    ///
    /// # Errors
    /// When that cannot be written down; nothing has changed then.
    pub(crate) fn put(&self, binding: Binding) -> Result<()> {
        let mut table = self.write();
        let (mark, before) = (binding.mark, table.known.insert(binding.mark, binding));
        if let Err(error) = self.save(&table) {
            match before {
                Some(before) => table.known.insert(mark, before),
                None => table.known.remove(&mark),
            };
            return Err(FsError::Io(error));
        }
        self.refresh(&mut table);
        Ok(())
    }

    /// The mark means nothing after all: it was given to nobody.
    pub(crate) fn withdraw(&self, mark: Mark) {
        let mut table = self.write();
        table.known.remove(&mark);
        self.refresh(&mut table);
        if let Err(error) = self.save(&table) {
            tracing::warn!(%error, "a binding that was withdrawn is still written down");
        }
    }

    /// Gives the mark to the process and to all that descend from it and carry what it carried before, through `set`.
    /// Bindings of their own that they have, or another volume's, lie within it from now on.
    ///
    /// # Errors
    /// When the process is gone or may not be marked; nobody carries the mark then.
    pub(crate) fn spread(&self, binding: &Binding, set: impl Fn(u32, u64) -> io::Result<()>) -> Result<()> {
        let before = carried(binding.pid);
        if let Err(error) = set(binding.pid, binding.mark.value()) {
            // In the mounts of a `branch-exec`, it lives in the branch all the same.
            if binding.kind == Kind::Exec {
                self.descent.begin(false);
                self.descent.note([(binding.pid, binding.mark)]);
            }
            return Err(refusal(binding.pid, &error));
        }
        // Who is forked from now on by a member is one; who was forked before is found by the next look.
        loop {
            let mut found = false;
            for pid in proc::tree(binding.pid) {
                let carries = carried(pid);
                if carries == before && carries.is_some() && set(pid, binding.mark.value()).is_ok() {
                    found = true;
                } else if let Some(Carried::Mark(inner)) = carries {
                    self.enclose(inner, binding);
                }
            }
            if !found {
                break;
            }
        }
        self.descent.begin(false);
        // Who is bound to another branch within this keeps that, with those that lost its mark.
        let mark_of = |pid: u32| match carried(pid)? {
            Carried::Mark(mark) => Some((pid, mark)),
            _ => Some((pid, self.of_ancestors(pid).ok()??.mark)),
        };
        self.descent.note(proc::tree(binding.pid).into_iter().filter_map(mark_of));
        self.generation.fetch_add(1, Ordering::SeqCst);
        // Bindings that lie within this one now.
        let table = self.read();
        if table.known.values().any(|inner| inner.outer == Some(binding.mark)) {
            self.save(&table).map_err(FsError::Io)?;
        }
        Ok(())
    }

    /// A mark found below the process of another binding: what it lies in is that now.
    fn enclose(&self, inner: Mark, binding: &Binding) {
        if inner == binding.mark {
            return;
        }
        let mut table = self.write();
        match table.known.get_mut(&inner) {
            Some(known) if known.outer == binding.outer => known.outer = Some(binding.mark),
            Some(_) => {}
            None => {
                table.foreign.insert(inner, Some(binding.mark));
            }
        }
    }

    /// A branch is gone: who still is bound to it gets errors, whatever its view comes to show.
    pub(crate) fn branch_gone(&self, branch: BranchId) {
        let mut table = self.write();
        let Table { known, ended, .. } = &mut *table;
        for binding in known.values_mut().chain(ended.values_mut()).filter(|b| b.branch == branch) {
            binding.view = no_view();
        }
        self.refresh(&mut table);
    }

    fn save(&self, table: &Table) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let saved = Saved { boot: self.boot.clone(), bindings: table.known.values().cloned().collect() };
        let draft = file.with_extension("new");
        let mut out = fs::File::create(&draft)?;
        out.write_all(&serde_json::to_vec(&saved)?)?;
        // It need not outlive a power cut: the processes do not.
        fs::rename(&draft, file)
    }

    /// The living processes that are bound to a branch, or live in one.
    pub(crate) fn living(&self) -> Vec<Bound> {
        if self.read().known.is_empty() {
            return Vec::new();
        }
        let shows = |binding: &Binding| binding.kind == Kind::Exec || binding.view != ViewId::MAIN;
        let namespaces = self.namespaces();
        let member = |pid: u32| {
            proc::stat(pid)?;
            let standing = self.standing(pid).ok().flatten().filter(shows);
            // Who is in the mounts of a `branch-exec` lives in its branch, whatever it carries.
            let inside = || {
                let mark = namespaces.get(&proc::mount_namespace(pid)?)?;
                self.read().known.get(mark).cloned()
            };
            let binding = standing.or_else(|| if namespaces.is_empty() { None } else { inside() })?;
            Some(Bound { pid, command: proc::command(pid), binding })
        };
        proc::all().into_iter().filter_map(member).collect()
    }

    /// The mount namespaces of `branch-exec`, for members that nobody tells of: others may get their numbers.
    fn namespaces(&self) -> HashMap<u64, Mark> {
        let table = self.read();
        let is_told = self.descent.is_told();
        let asked = |binding: &&Binding| !is_told || table.stranded.contains(&binding.mark);
        let asked = table.known.values().filter(asked);
        asked.filter_map(|binding| Some((binding.namespace?, binding.mark))).collect()
    }

    /// The living processes whose branch was mounted by an earlier daemon, that died: all they ask of it fails.
    pub(crate) fn stranded(&self) -> Vec<Bound> {
        if self.read().stranded.is_empty() {
            return Vec::new();
        }
        let mut living = self.living();
        let table = self.read();
        living.retain(|bound| table.stranded.contains(&bound.binding.mark));
        living
    }

    /// Ends the bindings whose last process has ended. To be called every few seconds, and soon again when it answers true:
    /// then the processes of some were not found, and it takes more looks to be sure.
    pub(crate) fn sweep(&self) -> bool {
        if self.read().known.is_empty() {
            self.descent.forget_all();
            self.unmarked.write().clear();
            return false;
        }
        self.descent.sweep();
        self.unmarked.write().retain(|_, known| known.lives());
        let mut carried_by_some: HashSet<Mark> = HashSet::new();
        let namespaces = self.namespaces();
        for pid in proc::all().into_iter().filter(|pid| proc::stat(*pid).is_some()) {
            match carried(pid) {
                Some(Carried::Mark(mark)) => drop(carried_by_some.insert(mark)),
                _ => carried_by_some.extend(self.standing(pid).ok().flatten().map(|binding| binding.mark)),
            }
            if !namespaces.is_empty() {
                let inside = proc::mount_namespace(pid).and_then(|namespace| namespaces.get(&namespace));
                carried_by_some.extend(inside);
            }
        }
        let _changing = self.change();
        let mut table = self.write();
        let held: HashSet<Mark> = table
            .known
            .values()
            .filter_map(|binding| binding.outer)
            .chain(table.foreign.values().flatten().copied())
            .chain(carried_by_some.iter().copied())
            .collect();
        let marks = table.known.keys().filter(|mark| !held.contains(*mark));
        let foreign = table.foreign.keys().filter(|mark| !carried_by_some.contains(*mark));
        let missed: Vec<Mark> = marks.chain(foreign).copied().collect();
        table.misses.retain(|mark, _| missed.contains(mark));
        let mut over = false;
        for mark in missed {
            let misses = table.misses.entry(mark).or_insert(0);
            *misses += 1;
            if *misses >= MISSES {
                table.misses.remove(&mark);
                table.foreign.remove(&mark);
                if table.ended.len() >= MAX_ENDED {
                    table.ended.clear();
                }
                if let Some(binding) = table.known.remove(&mark) {
                    table.ended.insert(mark, binding);
                }
                self.descent.forget(mark);
                table.stranded.remove(&mark);
                over = true;
            }
        }
        if over {
            self.refresh(&mut table);
            if let Err(error) = self.save(&table) {
                tracing::warn!(%error, "bindings that have ended are still written down");
            }
        }
        !table.misses.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(pid: u32, branch: u128, view: u32) -> Binding {
        let (mark, kind, branch, view) = (Mark::fresh(), Kind::Bound, BranchId(branch), ViewId(view));
        Binding { mark, kind, branch, view, pid, started: 0, since_ms: 0, outer: None, namespace: None }
    }

    #[test]
    fn who_is_unknown_is_refused_while_anybody_is_bound_and_never_counts_as_main() {
        let bindings = Bindings::default();
        assert_eq!(bindings.view_of(0).unwrap(), ViewId::MAIN);
        bindings.put(binding(1, 5, 3)).unwrap();
        assert!(bindings.shows(ViewId(3)) && !bindings.shows(ViewId(4)));
        assert!(matches!(bindings.view_of(0), Err(FsError::UnknownCaller)));
        assert!(matches!(bindings.view_of(u32::MAX), Err(FsError::UnknownCaller)));
        assert_eq!(bindings.unknown_callers(), 2);
        assert_eq!(bindings.view_of(std::process::id()).unwrap(), ViewId::MAIN);
    }

    #[test]
    fn who_limits_itself_is_main_only_when_older_than_all_that_are_bound() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        super::super::mark::set(child.id(), 300_000).unwrap();
        let started = proc::stat(child.id()).unwrap().started;
        let bindings = Bindings::default();
        bindings.put(Binding { started: started + 1, ..binding(1, 5, 3) }).unwrap();
        assert_eq!(bindings.view_of(child.id()).unwrap(), ViewId::MAIN);
        bindings.put(Binding { started, ..binding(1, 5, 3) }).unwrap();
        assert!(matches!(bindings.view_of(child.id()), Err(FsError::UnknownCaller)));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_is_in_its_branch_for_the_next_daemon_too_and_in_none_when_that_is_gone() {
        let store = tempfile::tempdir().unwrap();
        let info = |id: BranchId| BranchInfo {
            id,
            name: None,
            origin: agentfs_core::Origin::Empty,
            created: agentfs_core::Timestamp::default(),
            view: ViewId(7),
        };
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let open = |boot, there: bool| {
            Bindings::open(Some(store.path()), boot, |id| there.then(|| info(id))).unwrap()
        };
        let bindings = open(1, true);
        let given = bindings.prepare(child.id(), Kind::Bound, &info(BranchId(5))).unwrap();
        bindings.put(given.clone()).unwrap();
        bindings.spread(&given, super::super::mark::set).unwrap();
        assert_eq!(bindings.view_of(child.id()).unwrap(), ViewId(7));
        assert_eq!(open(1, true).view_of(child.id()).unwrap(), ViewId(7));
        assert_eq!(open(1, false).view_of(child.id()).unwrap(), no_view());
        assert!(!open(2, true).any(), "another boot has other processes");
        bindings.branch_gone(BranchId(5));
        assert_eq!(bindings.view_of(child.id()).unwrap(), no_view());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!((0..MISSES).map(|_| bindings.sweep()).last() == Some(false) && !bindings.any());
    }
}
