//! Three-way merge of trees: what one side changed since the two were the same is done to the other. Files are followed by
//! their inodes, so that a change meets its file wherever the other side moved it. Plans only: nothing here changes a branch.

mod applied;
mod decide;
mod emit;
mod naming;
mod paths;
mod plan;
mod text;

pub use applied::is_applied;
pub use emit::emit;
pub use paths::{plan_paths, touched};
pub use plan::{Changed, Plan, Request, Wanted, plan};
pub use text::Labels;

use std::sync::Arc;

/// Why a change cannot be taken over without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConflictKind {
    /// Both changed the content, or the target of a link.
    EditEdit,
    /// One changed what the other deleted.
    EditDelete,
    /// One moved what the other deleted.
    RenameDelete,
    /// Both moved it, to different places.
    RenameRename,
    /// One moved something to where the other made something.
    RenameAdd,
    /// Both made something there.
    AddAdd,
    /// Both made something else of it.
    Type,
    /// Both changed the permissions.
    Mode,
    /// Both changed the owner or the group.
    Owner,
    /// Both changed an extended attribute.
    Xattr,
    /// A directory of one lies where the other has something else.
    DirectoryFile,
}

/// A change that cannot be taken over without asking.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Conflict {
    /// The path, in the branch that is merged into where it has one.
    pub path: Arc<[u8]>,
    /// Why.
    pub kind: ConflictKind,
    /// Another path that it is about.
    pub other: Option<Arc<[u8]>>,
}

/// What becomes of conflicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing is merged.
    Refuse,
    /// Where it conflicts it stays as the branch has it that is merged into.
    Ours,
    /// Where it conflicts it is as the other has it.
    Theirs,
    /// Text has both, between markers; of other files that of the other lies beside.
    Markers,
}

/// What is done to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// It is new.
    Add,
    /// It is as the other has it.
    Take,
    /// It has the lines of both.
    Merge,
    /// It is elsewhere.
    Move,
    /// It is gone.
    Delete,
}

/// Something that a merge does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Step {
    /// The path.
    pub path: Arc<[u8]>,
    /// What is done.
    pub verb: Verb,
}
