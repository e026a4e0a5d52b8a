//! The history of a store: every change of durable state as a record, handed to a journal before it takes effect.
//! On disk a log: frames of records, appended with one `write` before the change is answered, made durable in groups.

mod codec;
mod codec_edit;
mod codec_history;
mod codec_layers;
mod codec_lower;
mod doubt;
mod frame;
mod frame_writer;
mod head;
mod journal;
mod objects;
mod reader;
mod record;
mod writer;

pub use codec::{Adopt, NotARecord, decode, decode_edits, encode_edits};
pub use doubt::{forget_doubt, is_doubtful, note_doubt};
pub use frame_writer::FrameWriter;
pub use journal::{Journal, Recorder, Unrecorded};
pub use reader::{Damage, Log, NO_PIECE, has_lost, superseded};
pub use record::{Marks, Merge, NewBranch, NewSnapshot, Record, RootAttributes};
pub use writer::{LogWriter, Start};
