//! Names: where what was decided comes to lie in the branch, and what is in its way there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::decide::{Data, Settled};
use super::plan::{Attributes, Merging, New, Plan};
use super::{ConflictKind, Policy, Verb};
use crate::compare::{Node, Place};
use crate::error::{FsError, Result};
use crate::store::Charged;
use crate::tree::{Body, Directory, Entry, Homes, Inode, Replaces};
use crate::types::{FileKind, InodeId, MAX_NAME_LEN, Name, Timestamp};

/// Directories of the other, by their keys: what they are in the branch, if anything.
type Found = HashMap<InodeId, Option<InodeId>>;

/// What there is for a file where it is to lie.
enum Room {
    /// A name.
    At(Place),
    /// The file, or one like it.
    There,
    /// Something else, which stays.
    None,
}

fn entry(node: &Node) -> Entry {
    Entry::new(node.ino, node.inode.kind())
}

impl Merging<'_> {
    /// Plans the names of all that was decided. What cannot come to lie where it is to stays where it is, and may be in the way
    /// of others then: all is planned anew with that.
    pub(super) fn name(&self, mut settled: Vec<Settled>, plan: &mut Plan) -> Result<()> {
        loop {
            let mut attempt = Plan::default();
            let Some(stays) = self.name_once(&settled, &mut attempt)? else {
                *plan = attempt;
                return Ok(());
            };
            let mut is_new = false;
            for settled in settled.iter_mut().filter(|settled| settled.is_of(stays)) {
                is_new |= settled.goes_empty || !settled.remove.is_empty() || !settled.add.is_empty();
                settled.goes_empty = false;
                settled.remove.clear();
                settled.add.clear();
            }
            if !is_new {
                *plan = Plan { is_stuck: true, ..attempt };
                return Ok(());
            }
        }
    }

    /// `Some` when an inode of the branch has to stay where it is.
    fn name_once(&self, settled: &[Settled], plan: &mut Plan) -> Result<Option<InodeId>> {
        for settled in settled {
            let Some(ours) = &settled.ours else { continue };
            plan.removed.extend(settled.remove.iter().map(|place| (place.clone(), entry(ours))));
        }
        self.empty_directories(settled, plan)?;
        let mut found = Found::new();
        let mut ordered: Vec<(usize, &Settled)> = Vec::new();
        for settled in settled {
            let path = settled.theirs.as_ref().map(|node| self.theirs.paths(node)).transpose()?;
            let length = path.and_then(|paths| paths.first().map(|path| path.len())).unwrap_or(0);
            // What is there already before what is new: it may make room.
            ordered.push((if settled.is_new { length + (1 << 20) } else { length }, settled));
        }
        ordered.sort_by_key(|(length, _)| *length);
        for (_, settled) in ordered {
            if !self.place(settled, plan, &mut found)? {
                return Ok(settled.ours.as_ref().map(|ours| ours.ino));
            }
        }
        let beside = self.beside.borrow().clone();
        for (theirs, place) in beside {
            let place = self.free_beside(plan, &place)?;
            let made = self.put_new(&super::decide::added(theirs), &[place], plan)?;
            if let Some(new) = made.and_then(|ino| plan.new.get_mut(&ino)) {
                new.inode.replaces = Replaces::default(); // it is another file
            }
        }
        self.place_cleared(plan, &mut found)?;
        match self.circle(plan)? {
            Some(stays) => Ok(Some(stays)),
            None => self.full_directory(plan),
        }
    }

    /// What made room for something of the other and has no other name lies where the other has it, if that has it still.
    fn place_cleared(&self, plan: &mut Plan, found: &mut Found) -> Result<()> {
        for cleared in std::mem::take(&mut plan.cleared) {
            let known = match plan.new.get(&cleared.ino()) {
                Some(new) => {
                    Some(Node { ino: cleared.ino(), inode: new.inode.clone().into(), places: Vec::new() })
                }
                None => self.ours.node(cleared.ino(), None)?,
            };
            let Some(known) = known else { continue };
            let has_name = known.places.iter().any(|place| !plan.removed.contains_key(place))
                || plan.added.values().any(|added| added.ino() == known.ino);
            let Some(theirs) = self.their_node(&known)?.filter(|_| !has_name) else { continue };
            for (dir, name) in &theirs.places {
                let Some(dir) = self.directory(*dir, plan, found)? else { continue };
                let mut place = (dir, name.clone());
                if self.occupant(plan, &place)?.is_some() {
                    place = self.free_beside(plan, &place)?;
                }
                let path = self.theirs.paths(&theirs)?.into_iter().next().unwrap_or_default();
                self.step(plan, Verb::Move, path);
                plan.added.insert(place, entry(&known));
            }
        }
        Ok(())
    }

    /// What the other has of a file of the branch, if it has not deleted it.
    fn their_node(&self, ours: &Node) -> Result<Option<Node>> {
        if ours.is_directory() {
            return Ok(None); // it comes back with what is in it
        }
        for identity in [ours.ino].into_iter().chain(ours.inode.identities(ours.ino)) {
            let from = ours.inode.lower.as_ref().map(|origin| origin.path.clone());
            if let Some(theirs) = self.theirs.node(identity, from.as_ref())? {
                return Ok(Some(theirs).filter(|theirs| !theirs.places.is_empty()));
            }
        }
        Ok(None)
    }

    /// Directories that the other deleted go when nothing is left in them.
    fn empty_directories(&self, settled: &[Settled], plan: &mut Plan) -> Result<()> {
        let mut going = Vec::new();
        for node in
            settled.iter().filter(|settled| settled.goes_empty).filter_map(|settled| settled.ours.as_ref())
        {
            going.push((self.our_path(node)?, node));
        }
        // What is in a directory before the directory.
        going.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        for (path, node) in going {
            if self.has_nothing_left(node.ino, plan)? {
                plan.removed.extend(node.places.iter().map(|place| (place.clone(), entry(node))));
                self.step(plan, Verb::Delete, path);
            }
        }
        Ok(())
    }

    /// Do all its names go? Of those that come it says nothing.
    fn has_nothing_left(&self, dir: InodeId, plan: &Plan) -> Result<bool> {
        let left = |name: &Name| !plan.removed.contains_key(&(dir, name.clone()));
        Ok(!self.ours.entries(dir)?.iter().any(|(name, _)| left(name)))
    }

    /// What a name leads to when the plan is carried out so far.
    pub(super) fn occupant(&self, plan: &Plan, place: &Place) -> Result<Option<Entry>> {
        if let Some(entry) = plan.added.get(place) {
            return Ok(Some(*entry));
        }
        if plan.removed.contains_key(place) {
            return Ok(None);
        }
        self.ours.entry(place.0, None, &place.1)
    }

    /// False when what the branch has cannot come to lie where it is to.
    fn place(&self, settled: &Settled, plan: &mut Plan, found: &mut Found) -> Result<bool> {
        let Some(theirs) = &settled.theirs else {
            let Some(ours) = &settled.ours else { return Ok(true) };
            if settled.data != Data::Keep {
                self.put_changed(settled, ours, Vec::new(), plan)?;
                return Ok(true);
            }
            if settled.remove.is_empty() {
                return Ok(true);
            }
            let path = self.our_path(ours)?;
            self.step(plan, Verb::Delete, path);
            return Ok(true);
        };
        if settled.is_new && theirs.is_directory() {
            self.directory(theirs.ino, plan, found)?;
            return Ok(true);
        }
        let mut places = Vec::new();
        for (dir, name) in &settled.add {
            let room = match self.directory(*dir, plan, found)? {
                Some(dir) => self.make_room(settled, theirs, (dir, name.clone()), plan)?,
                None => Room::None,
            };
            match room {
                Room::At(place) => places.push(place),
                Room::There => {}
                Room::None if settled.ours.is_some() => return Ok(false),
                Room::None => {}
            }
        }
        match &settled.ours {
            None => self.put_new(settled, &places, plan).map(|_| ())?,
            Some(ours) => self.put_changed(settled, ours, places, plan)?,
        }
        Ok(true)
    }

    /// Puts a file of the other under these names.
    fn put_new(&self, settled: &Settled, places: &[Place], plan: &mut Plan) -> Result<Option<InodeId>> {
        let (Some(theirs), false) = (&settled.theirs, places.is_empty()) else { return Ok(None) };
        let Some(mut new) = self.made(settled)? else { return Ok(None) };
        let ino = self.fresh(theirs.ino, plan)?;
        new.inode.replaces = new.inode.replaces.without(ino);
        for path in self.theirs.paths(theirs)? {
            self.step(plan, Verb::Add, path);
        }
        let kind = new.inode.kind();
        plan.new.insert(ino, new);
        plan.added.extend(places.iter().map(|place| (place.clone(), Entry::new(ino, kind))));
        Ok(Some(ino))
    }

    /// Gives a file of the branch its new names, its new content, or its new attributes.
    fn put_changed(&self, settled: &Settled, ours: &Node, places: Vec<Place>, plan: &mut Plan) -> Result<()> {
        let is_moved = !places.is_empty();
        if !places.is_empty() || (!settled.remove.is_empty() && settled.add.is_empty()) {
            let theirs =
                settled.theirs.iter().map(|node| self.theirs.paths(node)).collect::<Result<Vec<_>>>()?;
            theirs.into_iter().flatten().for_each(|path| self.step(plan, Verb::Move, path));
        }
        if let Some(new) = self.made(settled)? {
            // Who has it open keeps what it was: a fresh one takes its place.
            let ino = (self.number)(InodeId(0))?;
            let kept = ours.places.iter().filter(|place| !plan.removed.contains_key(place));
            let names: Vec<Place> = kept.cloned().chain(places).collect();
            let verb = if settled.data == Data::Take { Verb::Take } else { Verb::Merge };
            let path = self.our_path(ours)?;
            self.step(plan, verb, path);
            plan.removed.extend(ours.places.iter().map(|place| (place.clone(), entry(ours))));
            plan.added.extend(names.into_iter().map(|place| (place, Entry::new(ino, new.inode.kind()))));
            plan.new.insert(ino, new);
            return Ok(());
        }
        plan.added.extend(places.into_iter().map(|place| (place, entry(ours))));
        let Settled { mode, owner, xattrs, .. } = settled.clone();
        let has_attributes = mode.is_some() || owner.is_some() || xattrs.is_some();
        if has_attributes {
            let path = self.our_path(ours)?;
            self.step(plan, Verb::Take, path);
        }
        // What took another's place in one of the two, and lies elsewhere now, could not be told by its place any more.
        let replaces = is_moved.then(|| self.learnt(settled, ours)).flatten();
        if has_attributes || replaces.is_some() {
            if self.ours.version.get(ours.ino).is_none() {
                plan.unowned.extend(ours.inode.lower.as_ref().map(|origin| origin.path.clone()));
            }
            plan.attributes.insert(ours.ino, Attributes { mode, owner, xattrs, replaces });
        }
        Ok(())
    }

    /// The files that one of the branch continues, if the other has it by a name that is not known here.
    fn learnt(&self, settled: &Settled, ours: &Node) -> Option<Replaces> {
        let theirs = settled.theirs.as_ref().filter(|theirs| !theirs.is_directory())?;
        let own: Vec<InodeId> = ours.inode.identities(ours.ino).collect();
        let is_new = theirs.inode.identities(theirs.ino).any(|identity| !own.contains(&identity));
        is_new.then(|| Replaces::all(own.into_iter().chain(theirs.inode.identities(theirs.ino))))
    }

    /// A name for a file of the other; what is in its way goes, or the file gets another name, or none.
    fn make_room(&self, settled: &Settled, theirs: &Node, place: Place, plan: &mut Plan) -> Result<Room> {
        let Some(there) = self.occupant(plan, &place)? else { return Ok(Room::At(place)) };
        if settled.ours.as_ref().is_some_and(|ours| ours.ino == there.ino()) {
            return Ok(Room::There);
        }
        if self.twins.get(&theirs.ino) == Some(&there.ino()) && !plan.added.contains_key(&place) {
            self.clear(&place, there, plan)?;
            return Ok(Room::At(place));
        }
        let known = self.ours.node(there.ino(), None)?.filter(|_| !plan.added.contains_key(&place));
        let is_directory = there.kind() == FileKind::Directory;
        let kind = match (&known, is_directory || theirs.is_directory()) {
            (_, true) => ConflictKind::DirectoryFile,
            (Some(known), false) if settled.is_new => {
                if self.is_alike(&known.inode, &theirs.inode)? {
                    return Ok(Room::There);
                }
                ConflictKind::AddAdd
            }
            _ => ConflictKind::RenameAdd,
        };
        let path = self.theirs.paths(theirs)?.into_iter().next().unwrap_or_default();
        self.clash(kind, path);
        // What the plan has put there itself lies where the other has it then.
        let is_movable = known.is_some() || plan.new.contains_key(&there.ino()) && !is_directory;
        match (self.policy, known) {
            (Policy::Theirs, _) if is_movable => {
                self.clear(&place, there, plan)?;
                Ok(Room::At(place))
            }
            (Policy::Markers, known) => {
                if let Some(known) = known.filter(|_| kind == ConflictKind::AddAdd) {
                    let text = self.merge_text(None, &known.inode, &theirs.inode)?;
                    let text = text.map(|text| Data::Text(text.text));
                    if let Some(data) = text.or_else(|| self.is_base.then(|| self.neither())) {
                        let ours = Node { places: vec![place.clone()], ..known };
                        let marked =
                            Settled { data, ..Settled::of(Some(ours.clone()), Some(theirs.clone())) };
                        self.put_changed(&marked, &ours, Vec::new(), plan)?;
                        return Ok(Room::There);
                    }
                }
                Ok(Room::At(self.free_beside(plan, &place)?))
            }
            _ => Ok(Room::None),
        }
    }

    /// What a name leads to goes, with all that is in it.
    fn clear(&self, place: &Place, there: Entry, plan: &mut Plan) -> Result<()> {
        plan.cleared.push(there);
        if plan.added.remove(place).is_none() {
            plan.removed.insert(place.clone(), there);
        }
        if there.kind() == FileKind::Directory {
            for (name, inner) in self.ours.entries(there.ino())? {
                self.clear(&(there.ino(), name), inner, plan)?;
            }
        }
        Ok(())
    }

    /// The directory of the branch that a directory of the other is, made where there is none. `None` when something else
    /// is in its way.
    fn directory(&self, dir: InodeId, plan: &mut Plan, found: &mut Found) -> Result<Option<InodeId>> {
        let key = self.their_keys.get(&dir).copied().unwrap_or(dir);
        if let Some(known) = found.get(&key) {
            return Ok(*known);
        }
        let own = match self.our_of.get(&key) {
            Some(ours) => *ours,
            None => self.ours.node(key, self.theirs.beneath(dir).as_ref())?.map(|node| node.ino),
        };
        let ours = match own {
            Some(ours) => Some(ours),
            None => self.make_directory(dir, plan, found)?,
        };
        found.insert(key, ours);
        Ok(ours)
    }

    fn make_directory(&self, dir: InodeId, plan: &mut Plan, found: &mut Found) -> Result<Option<InodeId>> {
        let node = self.theirs.node(dir, self.theirs.beneath(dir).as_ref())?.ok_or(FsError::Stale)?;
        let (parent, name) = node.places.first().cloned().ok_or(FsError::Stale)?;
        let Some(parent) = self.directory(parent, plan, found)? else { return Ok(None) };
        let mut place = (parent, name);
        let path = self.theirs.path(dir)?;
        if let Some(there) = self.occupant(plan, &place)? {
            if there.kind() == FileKind::Directory {
                self.unify(there.ino(), &node, &path, plan)?;
                return Ok(Some(there.ino()));
            }
            self.clash(ConflictKind::DirectoryFile, path.clone());
            match self.policy {
                Policy::Theirs => self.clear(&place, there, plan)?,
                Policy::Markers => place = self.free_beside(plan, &place)?,
                Policy::Refuse | Policy::Ours => return Ok(None),
            }
        }
        let replaces = Replaces::all(node.inode.identities(node.ino));
        let (homes, charge) = (Homes::default(), Charged::default());
        let mut inode = Inode { lower: None, homes, replaces, charge, ..(*node.inode).clone() };
        inode.body = Body::Directory(Directory::new(place.0));
        inode.meta.nlink = 2;
        inode.meta.times.ctime = Timestamp::now();
        let ino = self.fresh(node.ino, plan)?;
        inode.replaces = inode.replaces.without(ino);
        plan.new.insert(ino, New { inode, first: Vec::new() });
        plan.added.insert(place, Entry::new(ino, FileKind::Directory));
        self.step(plan, Verb::Add, path);
        Ok(Some(ino))
    }

    /// Both made a directory of the same name: it is one.
    fn unify(&self, ours: InodeId, theirs: &Node, path: &Arc<[u8]>, plan: &mut Plan) -> Result<()> {
        let Some(known) = self.ours.node(ours, None)? else { return Ok(()) };
        let (a, b) = (&known.inode, &theirs.inode);
        if self.is_alike(a, b)? {
            return Ok(());
        }
        let is_mode = a.meta.mode != b.meta.mode;
        let is_owner = (a.meta.uid, a.meta.gid) != (b.meta.uid, b.meta.gid);
        for (is, kind) in [
            (is_mode, ConflictKind::Mode),
            (is_owner, ConflictKind::Owner),
            (a.xattrs != b.xattrs, ConflictKind::Xattr),
        ] {
            if is {
                self.clash(kind, path.clone());
            }
        }
        if self.policy == Policy::Theirs {
            let mut settled = Settled::of(None, None);
            settled.take_attributes(b);
            let Settled { mode, owner, xattrs, .. } = settled;
            plan.attributes.insert(ours, Attributes { mode, owner, xattrs, replaces: None });
        }
        Ok(())
    }

    /// A number for what is made: that which the other has for it, if nothing has it here.
    fn fresh(&self, theirs: InodeId, plan: &Plan) -> Result<InodeId> {
        let is_taken = self.ours.version.get(theirs).is_some() || plan.new.contains_key(&theirs);
        (self.number)(if is_taken || theirs.is_lower() { InodeId(0) } else { theirs })
    }

    /// A free name like this one, which says whose it is.
    fn free_beside(&self, plan: &Plan, (dir, name): &Place) -> Result<Place> {
        let label: String =
            self.labels.theirs.chars().map(|c| if c == '/' || c.is_control() { '-' } else { c }).collect();
        for turn in 0_u32.. {
            let tail = if turn == 0 { format!("~{label}") } else { format!("~{label}~{turn}") };
            let room = MAX_NAME_LEN.saturating_sub(tail.len());
            let head = name.as_bytes().get(..name.as_bytes().len().min(room)).unwrap_or_default();
            let tail = tail.as_bytes().get(..tail.len().min(MAX_NAME_LEN - 1)).unwrap_or_default();
            let place = (*dir, Name::new(&[head, tail].concat())?);
            if self.occupant(plan, &place)?.is_none() {
                return Ok(place);
            }
        }
        Err(FsError::Exists)
    }

    /// A directory that would come to lie in itself, as each side moved another.
    fn circle(&self, plan: &Plan) -> Result<Option<InodeId>> {
        // Those that are made among them: one may be moved into such a one.
        let placed: HashMap<InodeId, InodeId> = plan
            .added
            .iter()
            .filter(|(_, entry)| entry.kind() == FileKind::Directory)
            .map(|(place, entry)| (entry.ino(), place.0))
            .collect();
        let lies = |at: InodeId| self.ours.version.get(at).and_then(|inode| Some(inode.directory()?.parent));
        for (ino, into) in placed.iter().filter(|(ino, _)| !plan.new.contains_key(ino)) {
            let (mut at, mut steps) = (*into, 0);
            while at != InodeId::ROOT && at != *ino && steps < 1 << 16 {
                let Some(parent) = placed.get(&at).copied().or_else(|| lies(at)) else { break };
                at = parent;
                steps += 1;
            }
            if at == *ino || steps == 1 << 16 {
                let node = self.ours.node(*ino, None)?.ok_or(FsError::Stale)?;
                self.clash(ConflictKind::RenameRename, self.our_path(&node)?);
                return Ok(Some(*ino));
            }
        }
        Ok(None)
    }

    /// A directory that goes, and in which something stays or comes.
    fn full_directory(&self, plan: &Plan) -> Result<Option<InodeId>> {
        let stay: HashSet<InodeId> = plan.added.values().map(|added| added.ino()).collect();
        let filled: HashSet<InodeId> = plan.added.keys().map(|place| place.0).collect();
        for entry in plan.removed.values() {
            let is_gone = entry.kind() == FileKind::Directory && !stay.contains(&entry.ino());
            if is_gone && (filled.contains(&entry.ino()) || !self.has_nothing_left(entry.ino(), plan)?) {
                return Ok(Some(entry.ino()));
            }
        }
        Ok(None)
    }
}
