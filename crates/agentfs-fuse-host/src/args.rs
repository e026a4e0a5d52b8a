//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Mounts an AgentFS volume and serves it until it is unmounted.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Args {
    /// Configuration, a JSON file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Directory that holds the volume [default: one named after the mount point, in the user's state directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,

    /// Let other users in, as permissions allow (unless root mounts: /etc/fuse.conf must say user_allow_other)
    #[arg(long)]
    pub(crate) allow_other: bool,

    /// Return as soon as the mount answers, and go on in the background
    #[arg(long)]
    pub(crate) background: bool,

    /// Tell a waiting parent on standard output how the start went
    #[arg(long, hide = true)]
    pub(crate) report_start: bool,

    /// The mount point, an existing directory
    #[arg(value_name = "MOUNT")]
    pub(crate) mount: PathBuf,
}
