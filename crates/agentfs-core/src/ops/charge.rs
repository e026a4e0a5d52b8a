//! What is charged to whom, where there are quotas: room is reserved before something is written, and what is there is charged
//! for as long as it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::branch::Branch;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::OpenFile;
use crate::store::{
    Account, BLOCK, Backing, Charge, Content, Extent, Object, ObjectFile, Quota, Space, Unit,
};
use crate::tree::{Inode, Version, visit_new};
use crate::types::{Epoch, InodeId, ObjectId, ViewId};

impl FsCore {
    fn account_of(&self, branch: &Branch) -> Option<Arc<Account>> {
        self.quotas.as_ref().and_then(|_| branch.account())
    }

    /// An object holds what the host says, for which this was `reserved`. The caller holds a permit.
    pub(super) fn charge_object(
        &self,
        branch: &Branch,
        (backing, open): (&Backing, &dyn ObjectFile),
        reserved: Option<&Charge>,
    ) -> Result<()> {
        if let Some(account) = self.account_of(branch) {
            backing.holds(&account, open.stat()?.blocks * 512, reserved);
        }
        Ok(())
    }

    /// Room for a stretch of an object that a branch writes to, and how many of its bytes fit.
    ///
    /// # Errors
    /// As `reserve_range` of the account.
    pub(super) fn reserve_range(
        &self,
        branch: &Branch,
        (backing, open): (&Backing, &dyn ObjectFile),
        range: (u64, u64),
        is_whole: bool,
    ) -> Result<(Option<Charge>, u64)> {
        match self.account_of(branch) {
            Some(account) => {
                let missing = |stretch| backing.missing(open, stretch);
                let (charge, fits) = patiently(branch, || account.reserve_range(range, is_whole, missing))?;
                Ok((Some(charge), fits))
            }
            None => Ok((None, range.1)),
        }
    }

    /// Room for a copy of the first `keep` bytes of a file.
    ///
    /// # Errors
    /// As [`Account::reserve`].
    pub(super) fn reserve_copy(&self, file: &OpenFile, keep: u64) -> Result<Option<Charge>> {
        let branch = file.tree.branch()?;
        let Some(account) = self.account_of(branch) else { return Ok(None) };
        let (size, blocks) = file.tree.with_inode(file.ino, |inode| (inode.meta.size, inode.meta.blocks))?;
        let bytes = size.min(keep).next_multiple_of(BLOCK).min(blocks * 512);
        patiently(branch, || account.reserve(Unit::Bytes, bytes, old_small(file, &account))).map(Some)
    }

    /// Room for a small file that is to have `size` bytes, in place of those that it has; and who is to be charged.
    ///
    /// # Errors
    /// As [`Account::reserve`].
    pub(super) fn reserve_small(
        &self,
        file: &OpenFile,
        branch: &Branch,
        size: u64,
    ) -> Result<Option<(Arc<Account>, Charge)>> {
        let Some(account) = self.account_of(branch) else { return Ok(None) };
        let bytes = size.next_multiple_of(BLOCK);
        let charge = patiently(branch, || account.reserve(Unit::Bytes, bytes, old_small(file, &account)))?;
        Ok(Some((account, charge)))
    }

    /// Room for content that is no branch's own.
    ///
    /// # Errors
    /// As [`Account::reserve`].
    pub(super) fn reserve_shared(&self, bytes: u64) -> Result<Option<Charge>> {
        let quotas = self.quotas.as_ref();
        quotas.map(|quotas| quotas.shared.reserve(Unit::Bytes, bytes.next_multiple_of(BLOCK), 0)).transpose()
    }

    /// Content of a small file that is no branch's own.
    pub(super) fn charge_shared(&self, extent: &Extent, reserved: Option<&Charge>) {
        if let Some(quotas) = &self.quotas {
            extent.charge(&quotas.shared, reserved);
        }
    }

    /// Makes content that is no branch's own of an object.
    ///
    /// # Errors
    /// What the store answers.
    pub(super) fn adopt_shared(
        &self,
        id: ObjectId,
        open: &dyn ObjectFile,
        reserved: Option<&Charge>,
    ) -> Result<Arc<Object>> {
        // No branch is ever in this epoch.
        let object = self.store.adopt(id, Epoch(0));
        if let Some(quotas) = &self.quotas {
            object.backing().holds(&quotas.shared, open.stat()?.blocks * 512, reserved);
        }
        Ok(object)
    }

    /// A volume was opened: charges all there is. What a snapshot has is no branch's own, nor is an object that a branch does
    /// not write to any more.
    ///
    /// # Errors
    /// What the store answers.
    pub(super) fn charge_all(&self) -> Result<()> {
        let Some(quotas) = &self.quotas else { return Ok(()) };
        let catalog = self.catalog.read();
        let (mut known, mut last) = (HashMap::new(), None);
        for (_, frozen) in catalog.all_snapshots().chain(catalog.all_points()) {
            let version = frozen.version()?;
            visit_new(last.as_ref(), &version, &mut |ino, inode| {
                charge(ino, inode, &quotas.shared, &mut known, |_| &quotas.shared);
            });
            last = Some(version);
        }
        for (_, branch) in catalog.all_branches() {
            let Some(account) = branch.account() else { continue };
            let (version, epoch) = (branch.read(Version::clone), branch.epoch());
            let of = |backing: &Backing| if backing.epoch() == epoch { &account } else { &quotas.shared };
            visit_new(last.as_ref(), &version, &mut |ino, inode| {
                charge(ino, inode, &account, &mut known, of)
            });
        }
        Ok(())
    }

    /// What is charged: to a branch, by id or name, or else to the volume. `None` where there are no quotas.
    ///
    /// # Errors
    /// `UnknownVersion`.
    pub fn charged(&self, branch: Option<&str>) -> Result<Option<Quota>> {
        let Some(quotas) = &self.quotas else { return Ok(None) };
        let account = match branch {
            Some(branch) => self.catalog.read().branch(branch)?.1.account(),
            None => None,
        };
        let (account, is_branch) = (account.as_ref().unwrap_or(&quotas.shared), branch.is_some());
        let held = |unit| account.told(unit, is_branch).0;
        Ok(Some(Quota { bytes: held(Unit::Bytes), inodes: held(Unit::Inodes) }))
    }

    /// The room in the filesystem that holds the store, and in the quotas of a view.
    ///
    /// # Errors
    /// What the store answers.
    pub fn statfs(&self, view: ViewId) -> Result<Space> {
        let mut space = self.store.device().space()?;
        let Some(quotas) = &self.quotas else { return Ok(space) };
        let branch = self.views.get(view).ok().and_then(|tree| tree.branch().ok()?.account());
        let account = branch.as_ref().unwrap_or(&quotas.shared);
        let block = u64::from(space.block_size.max(1));
        for is_branch in [true, false] {
            let (held, quota) = account.told(Unit::Bytes, is_branch);
            space.blocks = space.blocks.min(quota / block);
            space.free = space.free.min(quota.saturating_sub(held) / block);
            let (held, quota) = account.told(Unit::Inodes, is_branch);
            space.files = space.files.min(quota);
            space.files_free = space.files_free.min(quota.saturating_sub(held));
        }
        space.available = space.available.min(space.free);
        Ok(space)
    }
}

/// How often it is asked again at once: others may have reserved more for a moment than they take.
const TURNS: u32 = 3;
/// And how often after that, and how far apart, for room that was just given back: what was deleted is there until the kernel
/// has told that it forgets it.
const PATIENT_TURNS: u32 = 25;
const PAUSE: Duration = Duration::from_millis(2);

fn patiently<T>(branch: &Branch, reserve: impl Fn() -> Result<T>) -> Result<T> {
    for turn in 0..TURNS + PATIENT_TURNS {
        match reserve() {
            Err(FsError::QuotaExceeded | FsError::VolumeFull) if turn < TURNS => thread::yield_now(),
            Err(FsError::QuotaExceeded | FsError::VolumeFull) if branch.has_orphans() => thread::sleep(PAUSE),
            reserved => return reserved,
        }
    }
    reserve()
}

/// What goes when a small file gets other content, in bytes that are charged to this account: nobody else has it then.
fn old_small(file: &OpenFile, account: &Arc<Account>) -> u64 {
    match file.tree.content(file.ino) {
        Ok(Content::Packed(old)) => old.charged_to(account),
        _ => 0,
    }
}

/// Charges an inode, and what it holds. The same inode in other versions is charged once.
fn charge<'a>(
    ino: InodeId,
    inode: &Inode,
    account: &Arc<Account>,
    known: &mut HashMap<InodeId, Arc<Charge>>,
    of: impl Fn(&Backing) -> &'a Arc<Account>,
) {
    match known.get(&ino) {
        _ if ino == InodeId::ROOT => {} // it came with the branch
        Some(charge) => inode.charge.begin(charge.clone()),
        None => {
            inode.charge.set(account, Unit::Inodes, 1, None);
            known.extend(inode.charge.get().map(|charge| (ino, charge.clone())));
        }
    }
    match inode.content() {
        Some(Content::Packed(extent)) => extent.charge(account, None),
        Some(Content::Whole(object)) => {
            object.backing().holds(of(object.backing()), inode.meta.blocks * 512, None);
        }
        Some(Content::Layered(layers)) => {
            for owner in layers.owners() {
                if let Some(bytes) = owner.backing.named_parts() {
                    owner.backing.holds(of(&owner.backing), bytes, None);
                }
            }
        }
        Some(Content::Hole | Content::Lower(_)) | None => {}
    }
}
