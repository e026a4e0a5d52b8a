//! Opening the volume to serve: its store, and the directory that it lies over.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentfs_core::{FsCore, HostFs, LowerTree, Memory, Unrecorded};
use agentfs_proto::names;
use anyhow::{Context, Result, bail};

use crate::config::{Backstore, DataPath, Settings};
use crate::mount;

/// The file in a store that says over which directory it lies.
const LOWER: &str = "lower";

/// Opens the volume that settings mean, before anything is mounted over the directory that it lies over.
///
/// # Errors
/// One sentence that says what went wrong.
pub(crate) fn open(settings: &Settings, mount: &Path) -> Result<FsCore> {
    let refuse = |lies_over: bool| match settings.data_path {
        // It would go on to show the sizes that files had when it saw them first.
        DataPath::WriteBack if lies_over => bail!(
            "the data path write-back cannot be used over another directory: the kernel would not see what others \
             change in it; use hybrid or exact"
        ),
        _ => Ok(()),
    };
    refuse(settings.lower.is_some())?;
    let Backstore::HostFs { root, prefer_reflinks } = &settings.backstore else {
        let device = Arc::new(Memory::default());
        let Some(lower) = &settings.lower else {
            return Ok(FsCore::new_volume(device, Arc::new(Unrecorded), settings.core.clone())?);
        };
        let tree = open_lower(lower, Vec::new(), mount)?.1;
        return Ok(FsCore::open_layered(device, settings.core.clone(), Some(tree))?.0);
    };
    let device = Arc::new(HostFs::open(root, *prefer_reflinks)?);
    let lower = match &settings.lower {
        Some(lower) => Some(lower.clone()),
        None => remembered(root)?,
    };
    refuse(lower.is_some())?;
    let lower = lower.map(|lower| open_lower(&lower, vec![root.clone()], mount)).transpose()?;
    let (place, tree) = lower.unzip();
    let opened = FsCore::open_layered(device, settings.core.clone(), tree);
    let (core, found) = opened.with_context(|| format!("the store {} cannot be opened", root.display()))?;
    if let Some(place) = place {
        if settings.clones_only && !(core.copies_at_once() && is_same_host(root, &place)?) {
            bail!(
                "overlay.materialization is \"clone-eager\", and the store {} cannot share blocks with {}: put it on the \
                 same filesystem, one that can (XFS, btrfs), or choose \"eager\"",
                root.display(),
                place.display()
            );
        }
        remember(root, &place)
            .with_context(|| format!("the store {} cannot be written to", root.display()))?;
    }
    tracing::info!(found.records, found.dirty, store = %root.display(), "opened");
    Ok(core)
}

/// Do two directories lie on one filesystem?
fn is_same_host(a: &Path, b: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata(a)?.dev() == fs::metadata(b)?.dev())
}

/// The directory that the volume lay over when it was mounted last.
fn remembered(store: &Path) -> Result<Option<PathBuf>> {
    use std::os::unix::ffi::OsStringExt;
    match fs::read(store.join(LOWER)) {
        Ok(path) => Ok(Some(PathBuf::from(std::ffi::OsString::from_vec(path)))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", store.join(LOWER).display())),
    }
}

fn remember(store: &Path, lower: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    if remembered(store)?.as_deref() == Some(lower) {
        return Ok(());
    }
    let draft = store.join("lower.new");
    fs::write(&draft, lower.as_os_str().as_bytes())?;
    fs::File::open(&draft)?.sync_all()?;
    Ok(fs::rename(draft, store.join(LOWER))?)
}

/// The directory below the mounts of daemons that died. What else is mounted there cannot be told from these.
fn beneath_dead(lower: &Path) -> Result<PathBuf> {
    let place = mount::dead_mount_point(lower)?;
    if mount::sources_at(&place).iter().any(|source| source != mount::SOURCE) {
        bail!(
            "the lower directory {0} is a mount point itself, and a daemon died over it: stop what works in it, unmount the \
             dead volume (umount -l {0}), and mount again",
            lower.display()
        );
    }
    Ok(place)
}

/// Takes the directory to lie over, in which `hidden` and the mount point are out of sight.
fn open_lower(lower: &Path, mut hidden: Vec<PathBuf>, mount: &Path) -> Result<(PathBuf, LowerTree)> {
    let shown = lower.display();
    let place = if mount::is_dead(lower) {
        beneath_dead(lower)
    } else {
        lower.canonicalize().with_context(|| format!("the lower directory {shown} cannot be read"))
    }?;
    for store in &hidden {
        if place.starts_with(store.canonicalize()?) {
            bail!("the lower directory {shown} lies inside the store: name another store");
        }
    }
    if mount != place && mount.starts_with(&place) {
        hidden.push(mount.to_owned());
    }
    let hidden: Vec<&Path> = hidden.iter().map(PathBuf::as_path).collect();
    let tree = LowerTree::open(&place, &hidden, &names::CLAIMED).with_context(|| {
        format!("the lower directory {shown} cannot be used: it must be a directory, on Linux 5.6 or later")
    })?;
    for name in tree.claimed_here() {
        if name == names::APPLY_DIRECTORY {
            tracing::warn!(
                lower = shown.to_string(),
                "an apply was interrupted: apply any branch to finish it"
            );
        } else {
            tracing::warn!(
                lower = shown.to_string(),
                name,
                "the lower directory has a name that is the volume's: it is hidden"
            );
        }
    }
    Ok((place, tree))
}
