//! The messages of the AgentFS control file: what a client and the daemon say to each other.
//!
//! A client opens `<mount>/.agentfs/control` and exchanges one [`frame`] with the ioctl of [`ioctl`]:
//! the buffer goes in with a [`Request`] and comes back with a [`Response`]. This crate knows bytes only;
//! it opens nothing, and decides nothing about snapshots or branches.
#![forbid(unsafe_code)]

mod change_token;
pub mod error;
pub mod frame;
pub mod ids;
pub mod ioctl;
pub mod limits;
pub mod names;
pub mod page;
pub mod record;
pub mod request;
pub mod response;
pub mod result;

pub use change_token::change_token;
pub use error::{DecodeError, ErrorReply};
pub use frame::{Frame, FrameError};
pub use page::{Page, PageEntry};
pub use request::Request;
pub use response::Response;
