//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Mounts an AgentFS volume and serves it until it is unmounted.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    /// What to do instead of mounting.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// Configuration, a JSON file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Directory that holds the volume [default: one named after the mount point, in the user's state directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,

    /// Lie over this directory: what is in it shows, and is never changed
    #[arg(long, value_name = "DIR")]
    pub(crate) lower: Option<PathBuf>,

    /// Let other users in, as permissions allow (unless root mounts: /etc/fuse.conf must say user_allow_other)
    #[arg(long)]
    pub(crate) allow_other: bool,

    /// Return as soon as the mount answers, and go on in the background
    #[arg(long)]
    pub(crate) background: bool,

    /// Start the daemon again when it dies; whoever opens files again goes on, in its branch (root only)
    #[arg(long)]
    pub(crate) supervise: bool,

    /// Tell a waiting parent on standard output how the start went
    #[arg(long, hide = true)]
    pub(crate) report_start: bool,

    /// The mount point, an existing directory
    #[arg(value_name = "MOUNT", required = true)]
    pub(crate) mount: Option<PathBuf>,
}

/// What can be done with a store that is not mounted.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look whether a store is sound: its log, trees, link counts, contents and accounts. Exits with 1 when it
    /// is not, with 2 when that cannot be said
    Check {
        /// The store, a directory that no daemon serves
        store: PathBuf,
        /// Mend what can be mended without guessing, and keep what is taken away beside the log
        #[arg(long)]
        repair: bool,
        /// Print the result as one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Gives a process of one's own a limit, for a daemon that may not
    #[command(hide = true)]
    MarkProcess { pid: u32, soft: u64 },
    /// Has files of a volume written out, for its daemon
    #[command(hide = true)]
    FlushFiles { mount: PathBuf, device: Option<String> },
}
