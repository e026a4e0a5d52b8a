//! A volume's life: open the store, mount, serve, unmount.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;

use agentfs_core::{BranchId, FsCore};
use anyhow::{Context, Result, bail};
use fuser::BackgroundSession;

use crate::adapter::{Adapter, Passthrough};
use crate::awake::Awake;
use crate::config::{Backstore, DataPath, Settings};
use crate::control::{Control, Identity, Parts};
use crate::flusher::Flusher;
use crate::housekeeping;
use crate::metrics::Metrics;
use crate::mount::{self, Options};
use crate::negotiate::Wishes;
use crate::notices::Notices;
use crate::processes::Bindings;
use crate::readers::Readers;
use crate::service;
use crate::signals::{self, Termination};
use crate::views::{Caching, PidView, Synthetic};
use crate::volume;
use crate::write_pool::WritePool;

/// Threads that receive requests, at least: some may wait for the disk below, one must be left to answer.
const MIN_THREADS: usize = 8;
/// Of these are never writing.
const ANSWERING: usize = 2;

/// A mounted volume.
pub(crate) struct Host {
    core: Arc<FsCore>,
    session: BackgroundSession,
    mount: PathBuf,
    place: Place,
    termination: Termination,
}

/// What is known of the mount without asking it.
struct Place {
    /// Its device number.
    device: Option<String>,
    /// Does it lie over the mount of a daemon that died?
    covers_dead: bool,
}

impl Host {
    /// Opens the store and mounts it at `mount`, a checked mount point.
    ///
    /// # Errors
    /// One sentence that says what went wrong; nothing is left mounted then.
    pub(crate) fn start(settings: &Settings, mount: PathBuf) -> Result<Host> {
        refuse_store_under_mount(&settings.backstore, &mount)?;
        let termination = signals::hold()?;
        let core = Arc::new(volume::open(settings, &mount)?);
        housekeeping::start(&core)?;
        service::watch(&core)?;
        let adapter = adapter(settings, core.clone(), &mount)?;
        let (bindings, caching) = (adapter.bindings.clone(), adapter.caching.clone());
        let flusher = adapter.flusher.clone();
        let threads = threads();
        let options = Options {
            allow_other: settings.allow_other,
            default_permissions: settings.default_permissions,
            threads,
        };
        let covers_dead = mount::is_dead(&mount);
        let session = mount::mount(adapter, &mount, &options)?;
        caching.connect(Arc::new(Notices::new(session.as_fd().try_clone_to_owned()?)))?;
        let session = session.spawn().context("cannot start serving")?;
        let place = Place { device: mount::devices_at(&mount).pop(), covers_dead };
        if let Err(error) = flusher.start(place.device.as_deref()) {
            tracing::warn!(%error, "the process that has files written out is started when it is needed");
        }
        housekeeping::watch_processes(&bindings, &caching)?;
        if let Some(Err(error)) = place.device.as_deref().filter(|_| mount::is_root()).map(read_ahead) {
            tracing::info!(%error, "the kernel reads ahead as far as it likes");
        }
        // That it answers is for others to see: a daemon that waits for itself when it is killed never ends.
        Ok(Host { core, session, mount, place, termination })
    }

    /// Serves until the volume is unmounted, by a signal or by others.
    ///
    /// # Errors
    /// When serving failed.
    pub(crate) fn run(self) -> Result<()> {
        let mount = self.mount.clone();
        let to_stop = mount.clone();
        self.termination.listen(move |times| stop(&to_stop, times))?;
        let served = self.session.join();
        service::stopping();
        let closed = self.core.close();
        let still_there = self.place.device.is_some_and(|own| mount::devices_at(&mount).contains(&own));
        if self.place.covers_dead && !still_there {
            mount::clear_dead(&mount);
        }
        match served {
            // So ends a connection that was aborted, and now and then the last request of one that was unmounted.
            Err(e) if e.raw_os_error() == Some(libc::ECONNABORTED) => {
                if still_there {
                    bail!("the connection was aborted");
                }
            }
            served => served.context("serving failed")?,
        }
        closed.context("what was done last may not be durable")
    }
}

/// The kernel looks 128 KiB ahead otherwise: a large file that the host has to fetch comes at three quarters of the rate.
const READ_AHEAD_KIB: u32 = 8192;

/// Has the kernel read further ahead in files that come through the daemon.
fn read_ahead(device: &str) -> std::io::Result<()> {
    std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), READ_AHEAD_KIB.to_string())
}

/// Threads that receive requests.
fn threads() -> usize {
    processors().max(MIN_THREADS)
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Unmounts; when the volume is in use, takes it out of sight and lets those inside finish. Asked a second time, ends at once.
fn stop(mount: &Path, times: usize) {
    if times > 1 {
        tracing::warn!("asked twice to stop: programs that still use the volume lose it");
        std::process::exit(1);
    }
    let stopped = mount::unmount(mount, mount::Patience::Some).and_then(|done| {
        if !done {
            tracing::warn!(mount = %mount.display(), "the volume is in use: it is unmounted, and served to those inside until they leave");
            mount::unmount(mount, mount::Patience::None)?;
        }
        Ok(())
    });
    if let Err(error) = stopped {
        tracing::error!(error = format!("{error:#}"), "cannot unmount");
    }
}

fn refuse_store_under_mount(backstore: &Backstore, mount: &Path) -> Result<()> {
    let Backstore::HostFs { root, .. } = backstore else { return Ok(()) };
    let absolute = std::path::absolute(root)?;
    let existing = absolute.ancestors().find_map(|path| path.canonicalize().ok());
    if existing.is_some_and(|path| path.starts_with(mount)) {
        bail!(
            "the store {} lies inside the mount point: the mount would hide it; name another",
            root.display()
        );
    }
    Ok(())
}

fn adapter(settings: &Settings, core: Arc<FsCore>, mount: &Path) -> Result<Adapter> {
    let metrics = Arc::new(Metrics::new());
    let granted = Arc::new(OnceLock::new());
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let store = match &settings.backstore {
        Backstore::Memory => "memory".to_owned(),
        Backstore::HostFs { root, .. } => root.display().to_string().chars().take(1024).collect(),
    };
    let write_back = settings.data_path == DataPath::WriteBack;
    let identity = Identity { owner: owner.0, store, granted: granted.clone() };
    let root = match &settings.backstore {
        Backstore::Memory => None,
        // The daemon may leave the directory that it was started from.
        Backstore::HostFs { root, .. } => Some(std::path::absolute(root)?),
    };
    let find = |id: BranchId| core.find_branch(&id.to_string()).ok();
    let bindings = Bindings::open(root.as_deref(), settings.core.boot, find).context(
        "the bindings of an earlier daemon cannot be read: which process sees which branch is not known",
    )?;
    let bindings = Arc::new(bindings);
    let pid_view = Arc::new(PidView::new(core.clone(), bindings.clone()));
    if let Err(error) = pid_view.hold_mounts(mount) {
        tracing::warn!(%error, "it cannot be told what is mounted in the volume: a process in a branch can take it away");
    }
    let caching = Caching::new(settings.ttl, core.clone(), bindings.clone(), pid_view.clone());
    let flusher = Arc::new(Flusher::new(mount));
    let parts = Parts {
        core: core.clone(),
        metrics: metrics.clone(),
        bindings: bindings.clone(),
        caching: caching.clone(),
        pid_view: pid_view.clone(),
        flusher: flusher.clone(),
    };
    // The kernel takes files from root only.
    let has_files = matches!(settings.backstore, Backstore::HostFs { .. }) && owner.0 == 0;
    let is_hybrid = settings.data_path == DataPath::Hybrid;
    let passthrough = (is_hybrid && has_files).then(|| Arc::new(OnceLock::new()));
    if write_back {
        agentfs_core::kernel_stamps_begin();
    } else if passthrough.is_some() {
        agentfs_core::kernel_stamps_are_possible();
    }
    let (awake, how) = awake(settings);
    Ok(Adapter {
        awake,
        readers: Readers::new(threads(), processors()),
        passthrough: Passthrough::new(passthrough.clone().unwrap_or_default()),
        synthetic: Synthetic::new(core.clone(), owner),
        control: Control::start(parts, identity)?,
        bindings,
        pid_view,
        caching,
        flusher,
        pool: WritePool::start(settings.write_threads, threads() - ANSWERING, settings.trace_writes)?,
        metrics,
        wishes: Wishes {
            max_write: settings.max_write,
            max_background: settings.max_background,
            permissions: settings.default_permissions,
            passthrough,
            write_back,
            settled: vec![("data_path", settings.data_path.name().to_owned()), ("kept_awake", how)],
            granted,
        },
        core,
    })
}

/// What keeps the processors awake in bursts of requests, and how that is told.
fn awake(settings: &Settings) -> (Option<Arc<Awake>>, String) {
    if !settings.keep_awake {
        return (None, "never".to_owned());
    }
    match Awake::start() {
        Ok(awake) => (Some(awake), "in bursts".to_owned()),
        Err(error) => (None, format!("never: {error}")),
    }
}
