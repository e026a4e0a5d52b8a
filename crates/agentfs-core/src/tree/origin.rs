//! What a file that came from the lower directory was there.

use std::sync::Arc;

use crate::store::Identity;
use crate::types::Timestamp;

/// Where a file lies in the lower directory that a volume lies over. A directory shows what is there, but for the names that
/// it has itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The path, from the lower directory on.
    pub path: Arc<[u8]>,
    /// Which file of the host it was.
    pub identity: Identity,
    /// When it was last changed there. Of the root: what changed in the lower directory later is not what this version
    /// relies on; `None` in `main`, which shows it as it is.
    pub since: Option<Timestamp>,
    /// Of a directory, what its attributes are there, as far as the version relies on that. Of a file, its change token;
    /// until format 5 of the store, also of what a file made here took the place of.
    pub base: u64,
}
