//! The history of a store: every change of durable state as a record, handed to a journal before it
//! takes effect. What the journal does with it is its own affair.

mod journal;
mod record;

pub use journal::{Journal, Recorder, Unrecorded};
pub use record::{NewBranch, NewSnapshot, Record};
