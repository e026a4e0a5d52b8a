//! The plan of a merge: what is to be done to a branch, what conflicts, and what must still hold when it is done.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::applied::{Applied, Other, SharedKeys};
use super::decide::{Data, Keys, Settled, Triple};
use super::{Conflict, ConflictKind, Labels, Policy, Step, Verb};
use crate::compare::{Node, Pair, Place, Sight, compare};
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::progress::Progress;
use crate::store::Content;
use crate::tree::{Entry, Inode, Meta, Replaces, Xattrs};
use crate::types::{InodeId, Name, ObjectId};

/// Is a path one of those?
pub type Chosen<'a> = &'a dyn Fn(&[u8]) -> bool;

/// What is to be merged.
pub struct Request<'a> {
    /// The state that both came from; that of `ours`, to make it all as `theirs`.
    pub base: &'a Sight,
    /// The branch that is merged into.
    pub ours: &'a Sight,
    /// What is merged.
    pub theirs: &'a Sight,
    /// What becomes of conflicts.
    pub policy: Policy,
    /// What the sides are called.
    pub labels: &'a Labels,
    /// Which of the other's changes are taken: told the paths a file has there, and had before, each if it has one.
    pub wanted: &'a dyn Fn(&Changed<'_>) -> Result<Wanted>,
    /// Which paths are taken as the other has them, whatever the branch has, where the two differ.
    pub whole: Option<Chosen<'a>>,
    /// Do taken files keep their times? Else they were changed just now.
    pub keeps_times: bool,
    /// A number for a file of the other: its own, if it is free.
    pub number: &'a dyn Fn(InodeId) -> Result<InodeId>,
    /// Is what comes out a state to merge from? Then it is, where the two conflict, like neither of them, so that what is merged
    /// from there conflicts, too.
    pub is_base: bool,
    /// How far it is.
    pub progress: &'a Progress,
}

/// A change of the other.
pub struct Changed<'a> {
    /// The paths before.
    pub before: Vec<Arc<[u8]>>,
    /// The paths there.
    pub after: Vec<Arc<[u8]>>,
    /// The file.
    pub pair: &'a Pair,
}

/// What is taken of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All.
    All,
    /// Nothing.
    Nothing,
    /// What is there after, as if it had not been before.
    After,
}

/// What must still hold of the branch when the plan is carried out.
#[derive(Clone, Debug)]
pub enum Guard {
    /// The inode is as it was.
    Inode(InodeId, Arc<Inode>),
    /// The name leads where it led.
    Name(InodeId, crate::types::Name, Option<Entry>),
    /// The directory has the names that it had.
    Names(InodeId, Arc<Inode>),
    /// The directory lies where it lay.
    Parent(InodeId, InodeId),
}

/// A file that is to be made.
#[derive(Clone, Debug)]
pub struct New {
    /// What it is; of a directory without names.
    pub inode: Inode,
    /// The object that is to be durable before.
    pub first: Vec<ObjectId>,
}

/// What is to be done to the branch.
#[derive(Default)]
pub struct Plan {
    /// What was found to conflict.
    pub conflicts: Vec<Conflict>,
    /// What is done, in the order of paths.
    pub steps: Vec<Step>,
    /// Files that are made, by number.
    pub new: BTreeMap<InodeId, New>,
    /// Names that go, and what they lead to.
    pub removed: BTreeMap<Place, Entry>,
    /// Names that come, and what they lead to.
    pub added: BTreeMap<Place, Entry>,
    /// Attributes that change.
    pub attributes: BTreeMap<InodeId, Attributes>,
    /// Files that continue others, as it turned out: no change by itself.
    pub learnt: Vec<(InodeId, Replaces)>,
    /// What must still hold.
    pub guards: Vec<Guard>,
    /// Paths in the lower directory of what goes and the branch does not have itself: it must, before.
    pub unowned: Vec<Arc<[u8]>>,
    /// What lost a name to something of the other.
    pub(super) cleared: Vec<Entry>,
    /// Can it not be carried out, whatever is done with conflicts?
    pub is_stuck: bool,
}

/// New attributes of a file.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner and group.
    pub owner: Option<(u32, u32)>,
    /// Extended attributes.
    pub xattrs: Option<Option<Arc<Xattrs>>>,
    /// Files that it continues, where it is learnt by the merge that it does.
    pub replaces: Option<Replaces>,
}

impl Plan {
    /// Is there nothing to do?
    pub fn is_empty(&self) -> bool {
        self.new.is_empty() && self.removed.is_empty() && self.added.is_empty() && self.attributes.is_empty()
    }
}

/// A merge being planned.
pub(super) struct Merging<'a> {
    pub(super) core: &'a FsCore,
    pub(super) ours: &'a Sight,
    pub(super) theirs: &'a Sight,
    pub(super) policy: Policy,
    pub(super) labels: &'a Labels,
    pub(super) base_keys: Keys,
    pub(super) our_keys: Keys,
    pub(super) their_keys: Keys,
    pub(super) conflicts: RefCell<Vec<Conflict>>,
    /// What is put beside something: a file of the other, beside which name.
    pub(super) beside: RefCell<Vec<(Node, Place)>>,
    pub(super) keeps_times: bool,
    pub(super) is_base: bool,
    pub(super) number: &'a dyn Fn(InodeId) -> Result<InodeId>,
    /// What the branch has of each directory of the base, where that differs: another inode, or nothing.
    pub(super) our_of: HashMap<InodeId, Option<InodeId>>,
    /// Files of the other that the branch also shows from the lower directory, where they were written out.
    pub(super) twins: HashMap<InodeId, InodeId>,
}

/// Plans a merge of `theirs`, all files that differ between `request.base` and `request.theirs`.
///
/// # Errors
/// What the store or the host answers, `Cancelled`.
pub fn plan(core: &FsCore, request: &Request<'_>, theirs: &[Pair]) -> Result<Plan> {
    let step = || request.progress.step();
    let ours = compare(request.base, request.ours, &step)?;
    let applied = match request.is_base || request.keeps_times {
        true => Applied::default(),
        false => Applied::between(request.base, request.ours, request.theirs)?,
    };
    if applied.len() > 0
        && let Some(plan) = plan_from(core, request, (&ours, theirs), applied)?
    {
        return Ok(plan);
    }
    let plan = plan_from(core, request, (&ours, theirs), Applied::default())?;
    Ok(plan.unwrap_or_default())
}

/// Plans a merge, with what was `applied` as a past that the two have in common. `None` when a file of the other would be missing
/// afterwards, of which nothing tells that it should: nothing is relied on then that was applied.
fn plan_from(
    core: &FsCore,
    request: &Request<'_>,
    (ours, theirs): (&[Pair], &[Pair]),
    mut applied: Applied,
) -> Result<Option<Plan>> {
    let step = || request.progress.step();
    let our_of = ours.iter().filter_map(|pair| Some((pair.a.as_ref()?.ino, pair.b.as_ref().map(|b| b.ino))));
    applied.find_twins(request.ours, ours);
    let our_of = our_of.chain(applied.our_directories()).collect();
    let mut shared = SharedKeys { base: Keys::new(), ours: keys(ours), theirs: keys(theirs) };
    applied.add_keys(&mut shared);
    let SharedKeys { base: base_keys, ours: our_keys, theirs: their_keys } = shared;
    let twins = applied.twins.clone();
    let merging = Merging { base_keys, our_keys, their_keys, our_of, twins, ..Merging::of(core, request) };
    let ours: HashMap<InodeId, &Pair> =
        ours.iter().filter_map(|pair| Some((pair.a.as_ref()?.ino, pair))).collect();
    let (mut settled, mut seen) = (Vec::new(), vec![false; applied.len()]);
    let sides = (request.ours, request.theirs);
    for pair in theirs {
        step()?;
        let Some(triple) = triple(request, &ours, pair)? else { continue };
        for triple in applied.correct(sides, triple, &mut seen)? {
            settled.extend(merging.decide(triple)?);
        }
    }
    for Other { paths: before, triple } in applied.others(sides, &seen)? {
        step()?;
        let pair = Pair { a: triple.base.clone(), b: triple.theirs.clone() };
        let after = triple.theirs.as_ref().map(|node| request.theirs.paths(node)).transpose()?;
        let changed = Changed { before, after: after.unwrap_or_default(), pair: &pair };
        if (request.wanted)(&changed)? != Wanted::Nothing {
            settled.extend(merging.decide(triple)?);
        }
    }
    for Pair { a, b } in whole(request)? {
        settled.extend(merging.decide(Triple { base: a.clone(), ours: a, theirs: b })?);
    }
    let mut plan = merging.plan_of(settled)?;
    if applied.len() > 0 && plan.conflicts.is_empty() && !merging.has_all_of(request, theirs, &plan)? {
        return Ok(None);
    }
    plan.learnt = applied.learnt(sides);
    Ok(Some(plan))
}

/// Where the two differ, of what is taken as the other has it.
fn whole(request: &Request<'_>) -> Result<Vec<Pair>> {
    let (mut found, Some(is_wanted)) = (Vec::new(), request.whole) else { return Ok(Vec::new()) };
    for pair in compare(request.ours, request.theirs, &|| request.progress.step())? {
        let mut is_whole = false;
        for (sight, node) in [(request.ours, &pair.a), (request.theirs, &pair.b)] {
            let paths = node.as_ref().map(|node| sight.paths(node)).transpose()?.unwrap_or_default();
            is_whole |= paths.iter().any(|path| is_wanted(path));
        }
        found.extend(is_whole.then_some(pair));
    }
    Ok(found)
}

/// Directories of a side that took the place of another.
fn keys(pairs: &[Pair]) -> Keys {
    let key = |pair: &Pair| {
        let (a, b) = (pair.a.as_ref()?, pair.b.as_ref()?);
        (a.is_directory() && a.ino != b.ino).then_some((b.ino, a.ino))
    };
    pairs.iter().filter_map(key).collect()
}

/// A change of the other, with what the branch has of the file; `None` when it is not wanted.
fn triple(request: &Request<'_>, ours: &HashMap<InodeId, &Pair>, pair: &Pair) -> Result<Option<Triple>> {
    let paths = |sight: &Sight, node: &Option<Node>| match node {
        Some(node) => sight.paths(node),
        None => Ok(Vec::new()),
    };
    let changed =
        Changed { before: paths(request.base, &pair.a)?, after: paths(request.theirs, &pair.b)?, pair };
    let (base, theirs) = match (request.wanted)(&changed)? {
        Wanted::Nothing => return Ok(None),
        Wanted::All => (pair.a.clone(), pair.b.clone()),
        Wanted::After => (None, pair.b.clone()),
    };
    // Looked up often: but for what both changed, the branch has what was there.
    let ours = match &base {
        Some(base) => match ours.get(&base.ino) {
            Some(pair) => pair.b.clone(),
            None => request.ours.node(base.ino, from(base).as_ref())?,
        },
        None if pair.a.is_some() => None,
        None => theirs.as_ref().map(|node| request.ours.node(node.ino, None)).transpose()?.flatten(),
    };
    Ok(Some(Triple { base, ours, theirs }))
}

/// Where a file was in the lower directory.
fn from(node: &Node) -> Option<Arc<[u8]>> {
    node.inode.lower.as_ref().map(|origin| origin.path.clone())
}

impl<'a> Merging<'a> {
    /// Nothing is known yet of what differs.
    pub(super) fn of(core: &'a FsCore, request: &Request<'a>) -> Merging<'a> {
        Merging {
            core,
            ours: request.ours,
            theirs: request.theirs,
            policy: request.policy,
            labels: request.labels,
            base_keys: Keys::new(),
            our_keys: Keys::new(),
            their_keys: Keys::new(),
            conflicts: RefCell::default(),
            beside: RefCell::default(),
            keeps_times: request.keeps_times,
            is_base: request.is_base,
            number: request.number,
            our_of: HashMap::new(),
            twins: HashMap::new(),
        }
    }

    /// Gives all that was decided its names, and makes it a plan.
    pub(super) fn plan_of(&self, settled: Vec<Settled>) -> Result<Plan> {
        let mut plan = Plan::default();
        let taken: HashSet<InodeId> =
            settled.iter().filter_map(|settled| Some(settled.ours.as_ref()?.ino)).collect();
        self.name(settled, &mut plan)?;
        self.guard(&taken, &mut plan)?;
        plan.conflicts = self.conflicts.take();
        plan.conflicts.sort();
        plan.conflicts.dedup();
        plan.steps.sort();
        plan.steps.dedup();
        Ok(plan)
    }

    /// Returns whether there is something after a plan wherever the other has something that it changed, or that the plan takes
    /// away from the branch.
    fn has_all_of(&self, request: &Request<'_>, theirs: &[Pair], plan: &Plan) -> Result<bool> {
        let mut paths = HashSet::new();
        for pair in theirs {
            let Some(node) = &pair.b else { continue };
            let before =
                pair.a.as_ref().map(|node| request.base.paths(node)).transpose()?.unwrap_or_default();
            let after = self.theirs.paths(node)?;
            let changed = Changed { before, after: after.clone(), pair };
            if (request.wanted)(&changed)? != Wanted::Nothing {
                paths.extend(after);
            }
        }
        for place in plan.removed.keys() {
            let path = self.ours.path_at(place)?;
            paths.extend(self.theirs.walk(&path)?.map(|_| path));
        }
        for path in paths {
            if !self.is_there(plan, &path)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns whether a path leads to something after a plan.
    fn is_there(&self, plan: &Plan, path: &[u8]) -> Result<bool> {
        let mut at = InodeId::ROOT;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            match self.occupant(plan, &(at, Name::new(part)?))? {
                Some(entry) => at = entry.ino(),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// What the plan relies on.
    fn guard(&self, taken: &HashSet<InodeId>, plan: &mut Plan) -> Result<()> {
        let own = |ino: &InodeId| self.ours.version.get(*ino).cloned();
        let inode =
            |ino: &InodeId| Some(Guard::Inode(*ino, own(ino).filter(|inode| inode.directory().is_none())?));
        plan.guards.extend(taken.iter().filter_map(inode));
        let attributes = plan.attributes.keys().filter_map(|ino| Some(Guard::Inode(*ino, own(ino)?)));
        plan.guards.extend(attributes.collect::<Vec<_>>());
        for place in plan.removed.keys().chain(plan.added.keys()) {
            let entry = self.ours.version.get(place.0).and_then(|inode| inode.directory()?.get(&place.1));
            plan.guards.push(Guard::Name(place.0, place.1.clone(), entry));
        }
        let stay: HashSet<InodeId> = plan.added.values().map(|added| added.ino()).collect();
        for ((dir, name), entry) in &plan.removed {
            if own(&entry.ino()).is_none() {
                plan.unowned.extend(self.ours.below(*dir, name));
            }
            let is_gone = !stay.contains(&entry.ino());
            let directory = own(&entry.ino()).filter(|inode| is_gone && inode.directory().is_some());
            plan.guards.extend(directory.map(|inode| Guard::Names(entry.ino(), inode)));
        }
        // A directory that is moved must not come to lie in itself.
        for (place, entry) in &plan.added {
            let is_moved =
                self.ours.version.get(entry.ino()).is_some_and(|inode| inode.directory().is_some());
            let mut at = place.0;
            while is_moved && at != InodeId::ROOT {
                let Some(parent) = self
                    .ours
                    .version
                    .get(at)
                    .and_then(|inode| inode.directory().map(|directory| directory.parent))
                else {
                    break;
                };
                plan.guards.push(Guard::Parent(at, parent));
                at = parent;
            }
        }
        Ok(())
    }

    /// The content and attributes of a file that takes over those of the other.
    pub(super) fn made(&self, settled: &Settled) -> Result<Option<New>> {
        let Some(model) = settled.theirs.as_ref().or(settled.ours.as_ref()) else { return Ok(None) };
        let ours = settled.ours.as_ref().map(|node| &node.inode);
        let mut inode = Inode::clone(&model.inode);
        let (mut first, mut is_ours) = (Vec::new(), false);
        match &settled.data {
            Data::Text(text) => {
                let (content, object) = self.core.store_bytes(text)?;
                inode.body = crate::tree::Body::File(content);
                first.extend(object);
                inode.meta.size = text.len() as u64;
                inode.meta.blocks = inode.meta.size.div_ceil(4096) * 8;
            }
            Data::Take => first.extend(inode.content().into_iter().flat_map(Content::unsynced)),
            Data::Keep => is_ours = ours.is_some(),
        }
        if let Some(ours) = ours {
            let Meta { mode, uid, gid, .. } = ours.meta;
            (inode.meta.mode, inode.meta.uid, inode.meta.gid) = (mode, uid, gid);
            inode.xattrs = ours.xattrs.clone();
        }
        if is_ours {
            return Ok(None);
        }
        inode.meta.mode = settled.mode.unwrap_or(inode.meta.mode);
        (inode.meta.uid, inode.meta.gid) = settled.owner.unwrap_or((inode.meta.uid, inode.meta.gid));
        inode.xattrs = settled.xattrs.clone().unwrap_or(inode.xattrs);
        self.core.own_below(&mut inode, &mut first)?;
        (inode.lower, inode.homes, inode.charge) = Default::default();
        // Of whoever merges next, one may have the file of one side, the other that of the other.
        let sides = [&settled.theirs, &settled.ours].into_iter().flatten();
        inode.replaces = Replaces::all(sides.flat_map(|node| node.inode.identities(node.ino)));
        let now = crate::types::Timestamp::now();
        inode.meta.times.ctime = now;
        if !self.keeps_times || matches!(settled.data, Data::Text(_)) {
            inode.meta.times.mtime = now;
        }
        Ok(Some(New { inode, first }))
    }

    pub(super) fn step(&self, plan: &mut Plan, verb: Verb, path: Arc<[u8]>) {
        plan.steps.push(Step { path, verb });
    }

    pub(super) fn clash(&self, kind: ConflictKind, path: Arc<[u8]>) {
        self.conflict(kind, path, None);
    }
}
