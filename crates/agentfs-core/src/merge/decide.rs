//! One file, as it was and as each side has it: what becomes of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::plan::Merging;
use super::text::{self, is_text};
use super::{Conflict, ConflictKind, Policy};
use crate::compare::{Node, Place};
use crate::error::{FsError, Result};
use crate::tree::{Inode, Xattrs};
use crate::types::{InodeId, Name};

/// A file as it was, as the branch has it that is merged into, and as the other has it.
#[derive(Clone, Debug)]
pub(super) struct Triple {
    pub(super) base: Option<Node>,
    pub(super) ours: Option<Node>,
    pub(super) theirs: Option<Node>,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// What it held.
    Keep,
    /// What the other has.
    Take,
    /// Lines of both.
    Text(Vec<u8>),
}

/// What becomes of a file.
#[derive(Clone, Debug)]
pub(super) struct Settled {
    pub(super) ours: Option<Node>,
    pub(super) theirs: Option<Node>,
    pub(super) data: Data,
    pub(super) mode: Option<u16>,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) xattrs: Option<Option<Arc<Xattrs>>>,
    /// Names that go.
    pub(super) remove: Vec<Place>,
    /// Names that come, in directories of the other.
    pub(super) add: Vec<Place>,
    /// A directory that the other deleted: it goes when nothing is left in it.
    pub(super) goes_empty: bool,
    /// Was it made by the other?
    pub(super) is_new: bool,
}

impl Settled {
    pub(super) fn of(ours: Option<Node>, theirs: Option<Node>) -> Settled {
        Settled {
            ours,
            theirs,
            data: Data::Keep,
            mode: None,
            owner: None,
            xattrs: None,
            remove: Vec::new(),
            add: Vec::new(),
            goes_empty: false,
            is_new: false,
        }
    }

    /// Is it about this inode of the branch?
    pub(super) fn is_of(&self, ino: InodeId) -> bool {
        self.ours.as_ref().is_some_and(|ours| ours.ino == ino)
    }

    /// Is anything to be done?
    pub(super) fn is_nothing(&self) -> bool {
        self.data == Data::Keep
            && self.mode.is_none()
            && self.owner.is_none()
            && self.xattrs.is_none()
            && self.remove.is_empty()
            && self.add.is_empty()
            && !self.goes_empty
    }
}

/// How directories of one side are called in the base: those that took the place of another by that one's number.
pub(super) type Keys = HashMap<InodeId, InodeId>;

fn keyed(keys: &Keys, places: &[Place]) -> Vec<Place> {
    let key = |(dir, name): &Place| (keys.get(dir).copied().unwrap_or(*dir), name.clone());
    let mut keyed: Vec<Place> = places.iter().map(key).collect();
    keyed.sort();
    keyed
}

/// Takes what one side alone changed. `None` when both did, and differently.
fn three_way<T: PartialEq>(base: T, ours: T, theirs: T) -> Option<Option<T>> {
    if theirs == base || theirs == ours {
        Some(None)
    } else if ours == base {
        Some(Some(theirs))
    } else {
        None
    }
}

impl Merging<'_> {
    /// What becomes of one file.
    pub(super) fn decide(&self, triple: Triple) -> Result<Option<Settled>> {
        let settled = match triple {
            Triple { theirs: None, ours: None, .. } => return Ok(None),
            Triple { base: Some(base), ours: Some(ours), theirs: None } => self.deleted(&base, ours)?,
            Triple { base: Some(base), ours: None, theirs: Some(theirs) } => {
                self.brought_back(&base, theirs)?
            }
            Triple { base: Some(base), ours: Some(ours), theirs: Some(theirs) } => {
                Some(self.changed(&base, ours, theirs)?)
            }
            Triple { base: None, ours: None, theirs: Some(theirs) } => Some(added(theirs)),
            Triple { base: None, ours: Some(ours), theirs: Some(theirs) } => {
                self.made_by_both(ours, theirs)?
            }
            Triple { base: None, ours: Some(_), theirs: None } => None,
        };
        Ok(settled.filter(|settled| !settled.is_nothing()))
    }

    /// The other deleted it.
    fn deleted(&self, base: &Node, ours: Node) -> Result<Option<Settled>> {
        let mut settled = Settled::of(Some(ours.clone()), None);
        if ours.is_directory() {
            settled.goes_empty = true;
            return Ok(Some(settled));
        }
        let is_moved = self.is_moved(base, &ours, &self.our_keys);
        let is_edited = !self.is_alike(&base.inode, &ours.inode)?;
        if is_edited || is_moved {
            let kind = if is_edited { ConflictKind::EditDelete } else { ConflictKind::RenameDelete };
            self.conflict(kind, self.our_path(&ours)?, None);
            if self.is_base {
                settled.data = self.neither();
                return Ok(Some(settled));
            }
            if self.policy != Policy::Theirs {
                return Ok(None);
            }
        }
        settled.remove = ours.places;
        Ok(Some(settled))
    }

    fn is_moved(&self, base: &Node, side: &Node, keys: &Keys) -> bool {
        let is_base = base.ino == side.ino && base.places == side.places;
        !is_base && keyed(keys, &side.places) != keyed(&self.base_keys, &base.places)
    }

    /// It was deleted, and the other changed it.
    fn brought_back(&self, base: &Node, theirs: Node) -> Result<Option<Settled>> {
        if theirs.is_directory() {
            return Ok(None); // it comes back with what is in it
        }
        let is_edited = !self.is_alike(&base.inode, &theirs.inode)?;
        if !is_edited && !self.is_moved(base, &theirs, &self.their_keys) {
            return Ok(None);
        }
        let kind = if is_edited { ConflictKind::EditDelete } else { ConflictKind::RenameDelete };
        let path = self.theirs.paths(&theirs)?.into_iter().next().unwrap_or_default();
        self.conflict(kind, path, None);
        if self.is_base {
            return Ok(Some(Settled { data: self.neither(), ..added(theirs) }));
        }
        Ok(matches!(self.policy, Policy::Theirs | Policy::Markers).then(|| added(theirs)))
    }

    /// Both have it, and did not when they were the same.
    fn made_by_both(&self, ours: Node, theirs: Node) -> Result<Option<Settled>> {
        if self.is_alike(&ours.inode, &theirs.inode)? {
            return Ok(None);
        }
        self.conflict(ConflictKind::AddAdd, self.our_path(&ours)?, None);
        let mut settled = Settled::of(Some(ours.clone()), Some(theirs.clone()));
        if self.is_base && !ours.is_directory() {
            settled.data = self.neither();
        } else if self.policy == Policy::Theirs {
            settled.data = if ours.is_directory() { Data::Keep } else { Data::Take };
            settled.take_attributes(&theirs.inode);
        }
        Ok(Some(settled))
    }

    /// Both have it still.
    fn changed(&self, base: &Node, ours: Node, theirs: Node) -> Result<Settled> {
        let mut settled = Settled::of(Some(ours.clone()), Some(theirs.clone()));
        self.merge_data(&mut settled, base, &ours, &theirs)?;
        self.merge_attributes(&mut settled, base, &ours, &theirs)?;
        self.merge_places(&mut settled, base, &ours, &theirs)?;
        Ok(settled)
    }

    fn merge_data(&self, settled: &mut Settled, base: &Node, ours: &Node, theirs: &Node) -> Result<()> {
        let same = |a: &Inode, b: &Inode| self.core.is_same_body(a, b);
        if same(&base.inode, &theirs.inode)? || same(&ours.inode, &theirs.inode)? {
            return Ok(());
        }
        if same(&base.inode, &ours.inode)? {
            settled.data = Data::Take;
            return Ok(());
        }
        let merged = self.merge_text(Some(&base.inode), &ours.inode, &theirs.inode)?;
        if let Some(merged) = &merged
            && !merged.is_conflict
        {
            settled.data = Data::Text(merged.text.clone());
            return Ok(());
        }
        let is_kind = ours.inode.kind() != theirs.inode.kind();
        let kind = if is_kind { ConflictKind::Type } else { ConflictKind::EditEdit };
        self.conflict(kind, self.our_path(ours)?, None);
        settled.data = match (self.policy, merged) {
            (Policy::Refuse, _) => Data::Keep,
            (_, Some(merged)) => Data::Text(merged.text),
            (Policy::Theirs, None) => Data::Take,
            (Policy::Ours, None) => Data::Keep,
            (Policy::Markers, None) if self.is_base => self.neither(),
            (Policy::Markers, None) => {
                self.beside(theirs, &ours.places);
                Data::Keep
            }
        };
        Ok(())
    }

    /// The lines of three texts, or `None` when they are none. Without a base both were made from nothing.
    pub(super) fn merge_text(
        &self,
        base: Option<&Inode>,
        ours: &Inode,
        theirs: &Inode,
    ) -> Result<Option<text::Merged>> {
        let read = |inode: &Inode| match self.core.read_all(inode, text::MAX_TEXT) {
            Ok(bytes) => Ok(Some(bytes).filter(|bytes| inode.content().is_some() && is_text(bytes))),
            Err(FsError::FileTooLarge) => Ok(None),
            Err(error) => Err(error),
        };
        let base = base.map_or(Ok(Some(Vec::new())), read)?;
        let (Some(base), Some(ours), Some(theirs)) = (base, read(ours)?, read(theirs)?) else {
            return Ok(None);
        };
        Ok(Some(text::merge(&base, &ours, &theirs, self.policy, self.labels)))
    }

    fn merge_attributes(&self, settled: &mut Settled, base: &Node, ours: &Node, theirs: &Node) -> Result<()> {
        let (b, o, t) = (&base.inode, &ours.inode, &theirs.inode);
        let is_theirs = self.policy == Policy::Theirs;
        settled.mode = match three_way(b.meta.mode, o.meta.mode, t.meta.mode) {
            Some(mode) => mode,
            None => {
                self.conflict(ConflictKind::Mode, self.our_path(ours)?, None);
                if self.is_base { Some(b.meta.mode) } else { is_theirs.then_some(t.meta.mode) }
            }
        };
        let owner = |inode: &Inode| (inode.meta.uid, inode.meta.gid);
        settled.owner = match three_way(owner(b), owner(o), owner(t)) {
            Some(owner) => owner,
            None => {
                self.conflict(ConflictKind::Owner, self.our_path(ours)?, None);
                if self.is_base { Some(owner(b)) } else { is_theirs.then(|| owner(t)) }
            }
        };
        let (merged, is_conflict) = merge_xattrs(b, o, t, is_theirs);
        if is_conflict {
            self.conflict(ConflictKind::Xattr, self.our_path(ours)?, None);
        }
        let of = |inode: &Inode| inode.xattrs.as_deref().cloned().unwrap_or_default();
        let (before, merged) = (of(o), if self.is_base && is_conflict { of(b) } else { merged });
        if merged != before {
            settled.xattrs = Some((!merged.is_empty()).then(|| Arc::new(merged)));
        }
        Ok(())
    }

    fn merge_places(&self, settled: &mut Settled, base: &Node, ours: &Node, theirs: &Node) -> Result<()> {
        let is_base = base.ino == ours.ino && base.places == ours.places;
        let was = keyed(if is_base { &self.our_keys } else { &self.base_keys }, &base.places);
        let (own, new) = (keyed(&self.our_keys, &ours.places), keyed(&self.their_keys, &theirs.places));
        if new == was || new == own {
            return Ok(());
        }
        let key = |keys: &Keys, place: &Place| keyed(keys, std::slice::from_ref(place)).pop();
        let is_in =
            |set: &[Place], key: Option<Place>| key.is_some_and(|key| set.binary_search(&key).is_ok());
        let is_set = !ours.is_directory() && [&was, &own, &new].iter().any(|places| places.len() != 1);
        if own != was && !is_set {
            let other = self.theirs.paths(theirs)?.into_iter().next();
            self.conflict(ConflictKind::RenameRename, self.our_path(ours)?, other);
            if self.is_base {
                settled.remove = ours.places.clone();
                let dirs = theirs.places.first().map(|place| place.0);
                let name = Name::new(format!(".{}", crate::types::SnapshotId::generate()).as_bytes())?;
                settled.add = dirs.map(|dir| (dir, name)).into_iter().collect();
                return Ok(());
            }
            if self.policy != Policy::Theirs {
                return Ok(());
            }
        }
        let is_taken = own == was || !is_set;
        settled.remove = ours.places.clone();
        settled.remove.retain(|place| {
            let key = key(&self.our_keys, place);
            !is_in(&new, key.clone()) && (is_taken || is_in(&was, key))
        });
        settled.add = theirs.places.clone();
        settled.add.retain(|place| {
            let key = key(&self.their_keys, place);
            !is_in(&own, key.clone()) && (is_taken || !is_in(&was, key))
        });
        Ok(())
    }

    /// Content that no file has.
    pub(super) fn neither(&self) -> Data {
        Data::Text(format!("\0{}", crate::types::SnapshotId::generate()).into_bytes())
    }

    /// Has a file the same content and attributes at both sides?
    pub(super) fn is_alike(&self, a: &Inode, b: &Inode) -> Result<bool> {
        Ok(a.has_attributes_of(b) && self.core.is_same_body(a, b)?)
    }

    pub(super) fn our_path(&self, node: &Node) -> Result<Arc<[u8]>> {
        Ok(self.ours.paths(node)?.into_iter().next().unwrap_or_default())
    }

    pub(super) fn conflict(&self, kind: ConflictKind, path: Arc<[u8]>, other: Option<Arc<[u8]>>) {
        self.conflicts.borrow_mut().push(Conflict { path, kind, other });
    }

    /// What the other has is put beside what the branch has.
    pub(super) fn beside(&self, theirs: &Node, places: &[Place]) {
        let place = places.first().cloned();
        self.beside.borrow_mut().extend(place.map(|place| (theirs.clone(), place)));
    }
}

impl Settled {
    pub(super) fn take_attributes(&mut self, inode: &Inode) {
        self.mode = Some(inode.meta.mode);
        self.owner = Some((inode.meta.uid, inode.meta.gid));
        self.xattrs = Some(inode.xattrs.clone());
    }
}

/// A file that the other made.
pub(super) fn added(theirs: Node) -> Settled {
    let add = theirs.places.clone();
    Settled { add, is_new: true, data: Data::Take, ..Settled::of(None, Some(theirs)) }
}

/// Each attribute by itself. Did both change one differently?
fn merge_xattrs(base: &Inode, ours: &Inode, theirs: &Inode, is_theirs: bool) -> (Xattrs, bool) {
    let of = |inode: &Inode| inode.xattrs.as_deref().cloned().unwrap_or_default();
    let (base, mut merged, theirs) = (of(base), of(ours), of(theirs));
    let names: BTreeMap<Box<[u8]>, ()> =
        base.keys().chain(theirs.keys()).map(|name| (name.clone(), ())).collect();
    let mut is_conflict = false;
    for name in names.into_keys() {
        let theirs = theirs.get(&name).cloned();
        let taken = match three_way(base.get(&name).cloned(), merged.get(&name).cloned(), theirs.clone()) {
            Some(taken) => taken,
            None => {
                is_conflict = true;
                is_theirs.then_some(theirs)
            }
        };
        match taken {
            Some(Some(value)) => drop(merged.insert(name, value)),
            Some(None) => drop(merged.remove(&name)),
            None => {}
        }
    }
    (merged, is_conflict)
}
