//! Which process sees which branch. A binding is a mark that the process carries and its children inherit; see `mark`.

mod binding;
mod bindings;
mod descent;
mod mark;
mod proc;
mod unmarked;

pub(crate) use binding::{Binding, Bound, Kind};
pub(crate) use bindings::Bindings;
pub(crate) use mark::set as set_mark;
pub(crate) use proc::{namespace_differs, owner, process_of, uids, watch};
