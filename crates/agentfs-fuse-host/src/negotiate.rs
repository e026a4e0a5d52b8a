//! What is asked of the kernel when it connects, and what it grants.

use std::io;
use std::sync::{Arc, OnceLock};

use fuser::{InitFlags, KernelConfig};

/// What is asked for.
#[derive(Clone)]
pub(crate) struct Wishes {
    /// Largest write request, in bytes.
    pub(crate) max_write: u32,
    /// Requests the kernel may have under way in the background.
    pub(crate) max_background: u16,
    /// Is the kernel to check permissions, ACLs too? Asked for these, it checks all.
    pub(crate) permissions: bool,
    /// Is the kernel to read and write files of the store by itself? Filled with whether it does.
    pub(crate) passthrough: Option<Arc<OnceLock<bool>>>,
    /// What was settled without the kernel: told beside what it grants.
    pub(crate) settled: Vec<(&'static str, String)>,
    /// Is the kernel to keep what is written for a while? It excludes passthrough.
    pub(crate) write_back: bool,
    /// Filled with what was granted.
    pub(crate) granted: Arc<OnceLock<Vec<(&'static str, String)>>>,
}

/// Asked for where the kernel has them. Those that fuser 0.18.0 breaks are not among them, nor is `FUSE_ATOMIC_O_TRUNC`:
/// with it `open` cuts a file that is being executed before the kernel finds that it is (ETXTBSY).
const WANTED: [(&str, InitFlags); 12] = [
    // Without it the kernel asks for file capabilities before every write.
    ("handle_killpriv_v2", InitFlags::FUSE_HANDLE_KILLPRIV_V2),
    // All changes of a file come through its one node: its pages need no guessing by times.
    ("explicit_inval_data", InitFlags::FUSE_EXPLICIT_INVAL_DATA),
    // The kernel checks ACLs, as it does permissions; the umask is not taken off where a default ACL is inherited.
    ("posix_acl", InitFlags::FUSE_POSIX_ACL),
    ("dont_mask", InitFlags::FUSE_DONT_MASK),
    ("parallel_dirops", InitFlags::FUSE_PARALLEL_DIROPS),
    ("readdirplus", InitFlags::FUSE_DO_READDIRPLUS),
    ("readdirplus_auto", InitFlags::FUSE_READDIRPLUS_AUTO),
    ("cache_symlinks", InitFlags::FUSE_CACHE_SYMLINKS),
    ("async_dio", InitFlags::FUSE_ASYNC_DIO),
    ("direct_io_allow_mmap", InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP),
    ("splice_move", InitFlags::FUSE_SPLICE_MOVE),
    ("max_pages", InitFlags::FUSE_MAX_PAGES),
];

impl Wishes {
    /// Answers the kernel's greeting.
    pub(crate) fn negotiate(&self, config: &mut KernelConfig) -> io::Result<()> {
        let mut granted = self.settled.clone();
        let is_wanted = |flag: InitFlags| self.permissions || flag != InitFlags::FUSE_POSIX_ACL;
        for (name, flag) in WANTED.into_iter().filter(|(_, flag)| is_wanted(*flag)) {
            granted.push((name, config.add_capabilities(flag).is_ok().to_string()));
        }
        if let Some(passthrough) = &self.passthrough {
            // The store may not lie on a stacked filesystem itself, and one may be stacked on the volume.
            let is_granted = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
                && config.set_max_stack_depth(1).is_ok();
            let _ = passthrough.set(is_granted);
            granted.push(("passthrough", is_granted.to_string()));
        }
        if self.write_back {
            let is_granted = config.add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE).is_ok();
            granted.push(("writeback_cache", is_granted.to_string()));
        }
        let refused = |nearest: u32| io::Error::other(format!("the kernel takes at most {nearest}"));
        config.set_max_write(self.max_write).map_err(refused)?;
        config.set_max_background(self.max_background).map_err(|n| refused(n.into()))?;
        let threshold = (self.max_background / 4 * 3).max(1);
        config.set_congestion_threshold(threshold).map_err(|n| refused(n.into()))?;
        granted.push(("max_write", self.max_write.min(kernel_limit()).to_string()));
        granted.push(("max_background", self.max_background.to_string()));
        granted.push(("congestion_threshold", threshold.to_string()));
        for (name, value) in &granted {
            tracing::info!(name, value, "negotiated");
        }
        // A connection greets once.
        let _ = self.granted.set(granted);
        Ok(())
    }
}

/// The largest request the kernel makes, in bytes (`fs.fuse.max_pages_limit`; 1 MiB before it could be set).
fn kernel_limit() -> u32 {
    let pages = std::fs::read_to_string("/proc/sys/fs/fuse/max_pages_limit");
    let pages = pages.ok().and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(256);
    pages.saturating_mul(rustix::param::page_size() as u32)
}
