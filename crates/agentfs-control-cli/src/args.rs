//! The command line: what scripts may rely on.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand, value_parser};

use crate::command::Colour;
use crate::output::Format;

/// Control a mounted AgentFS volume: its snapshots, its branches, and which process sees which branch.
///
/// A snapshot or a branch is given by its id or its name.
#[derive(Debug, Parser)]
#[command(name = "agentfs-control-cli", version, max_term_width = 100)]
pub(crate) struct Args {
    /// Where the volume is mounted; else the volume that the current directory is in.
    #[arg(long, value_name = "DIR", env = "AGENTFS_MOUNT", global = true)]
    pub(crate) mount: Option<PathBuf>,

    /// Print the answer as one line of JSON.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// How the answer is to be printed.
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::Text }
    }
}

/// One question to the daemon.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Command {
    /// Freeze what a branch holds now.
    SnapshotCreate {
        /// A name for the snapshot.
        #[arg(long)]
        name: Option<String>,
        /// The branch; else the one whose view the volume is seen in.
        #[arg(long)]
        branch: Option<String>,
        /// Return when a power cut could not take any of its content; the store's filesystem is synced for that.
        #[arg(long)]
        sync: bool,
        /// Take it also when files are written all the while past the daemon: these may be of no one moment in it.
        #[arg(long, conflicts_with = "sync")]
        allow_fuzzy: bool,
    },
    /// List all snapshots, oldest first.
    SnapshotList,
    /// Delete a snapshot.
    SnapshotDelete {
        #[command(flatten)]
        snapshot: SnapshotArg,
    },
    /// Give a snapshot another name.
    SnapshotRename {
        /// The snapshot.
        snapshot: String,
        /// Its new name.
        #[arg(value_name = "NEWNAME")]
        name: String,
    },
    /// Grow a branch from a snapshot or from another branch.
    BranchCreate {
        /// The snapshot or the branch it grows from.
        #[arg(long, visible_alias = "snapshot")]
        from: String,
        /// A name for the branch.
        #[arg(long)]
        name: Option<String>,
    },
    /// List all branches, oldest first.
    BranchList,
    /// Delete a branch. Its last state stays as a snapshot, so that undo brings it back, until the next is deleted.
    BranchDelete {
        #[command(flatten)]
        branch: BranchArg,
        /// Keep nothing of it: all that only it holds is free at once.
        #[arg(long)]
        now: bool,
        /// Delete it although snapshots of it or branches grown from it exist; they keep all they hold.
        #[arg(long)]
        force: bool,
    },
    /// Give a branch another name.
    BranchRename {
        /// The branch.
        branch: String,
        /// Its new name.
        #[arg(value_name = "NEWNAME")]
        name: String,
    },
    /// Show a branch to a process and to what it starts.
    BranchBind {
        /// The branch.
        #[arg(long)]
        branch: String,
        /// The process; else the one that started this command, as a rule the shell.
        #[arg(long, value_parser = value_parser!(u32).range(1..))]
        pid: Option<u32>,
    },
    /// Show a process the main branch again.
    BranchUnbind {
        /// The process; else the one that started this command, as a rule the shell.
        #[arg(long, value_parser = value_parser!(u32).range(1..))]
        pid: Option<u32>,
    },
    /// Tell which branch a process sees at the mount point, and why.
    Whoami {
        /// The process; else the one that started this command, as a rule the shell.
        #[arg(long, value_parser = value_parser!(u32).range(1..))]
        pid: Option<u32>,
    },
    /// Run a command in a branch: it sees the branch where the volume is mounted, and no other.
    ///
    /// Exits as the command does; with 125 when the branch cannot be entered, 126 when the command cannot be run, 127 when
    /// there is none. Without root this needs user namespaces: inside, other groups than your own are shown as nogroup,
    /// and programs such as sudo cannot become root.
    BranchExec(ExecArgs),
    /// Write what a branch changes out to the directory that the volume lies over.
    ///
    /// Nothing is written when somebody else has changed there what the branch changes, too. Each file is there as it was or
    /// as it is to be at any time; a run that was interrupted is finished by the next.
    Apply {
        /// The branch.
        branch: String,
        /// Write to this directory instead, which is as the one below was.
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// Also what is in directories called .git: where others commit meanwhile, that breaks a repository.
        #[arg(long)]
        with_git: bool,
        /// Also what .agentfsignore leaves out.
        #[arg(long)]
        all: bool,
    },
    /// Compare two trees, each a snapshot, a branch or `lower`, the directory that the volume lies over.
    ///
    /// Exits as diff does: with 0 when nothing differs, 1 when something does, 2 when they cannot be compared.
    Diff {
        /// The first.
        a: String,
        /// The second.
        b: String,
        /// Count the lines that differ, file by file.
        #[arg(long, conflicts_with = "patch")]
        stat: bool,
        /// Show them, as git apply takes them.
        #[arg(long, conflicts_with = "json")]
        patch: bool,
        /// Whether to use colours.
        #[arg(long, value_name = "WHEN", default_value = "auto")]
        color: Colour,
        /// Also what is in directories called .git.
        #[arg(long)]
        with_git: bool,
        /// Also what the second's .agentfsignore leaves out.
        #[arg(long)]
        all: bool,
        /// Only these, and what is below them; from the root of the trees on.
        #[arg(value_name = "PATH")]
        paths: Vec<OsString>,
    },
    /// Take what a branch or a snapshot changed over into another branch.
    ///
    /// What one side alone changed is taken, text that both changed is merged by lines; the rest conflicts, and then nothing is
    /// changed at all unless an option says how. The state before is kept as a snapshot. Exits with 1 on conflicts.
    Merge {
        /// What is merged.
        #[arg(value_name = "BRANCH|SNAPSHOT")]
        branch: String,
        /// The branch it is merged into; else the one that it grew from.
        #[arg(long, value_name = "BRANCH")]
        into: Option<String>,
        /// Say what would be done, and what conflicts, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// Where it conflicts keep what the branch has that is merged into.
        #[arg(long, group = "conflicts")]
        ours: bool,
        /// Where it conflicts take what is merged.
        #[arg(long, group = "conflicts")]
        theirs: bool,
        /// Where it conflicts leave both, text between markers.
        #[arg(long, group = "conflicts")]
        leave_markers: bool,
        /// Also directories called .git, each whole from what is merged.
        #[arg(long)]
        with_git: bool,
        /// Also what .agentfsignore leaves out.
        #[arg(long)]
        all: bool,
    },
    /// Put a branch back to a snapshot, all of it or some paths. The state before is kept as a snapshot.
    Restore {
        /// The branch.
        branch: String,
        /// The snapshot.
        #[arg(long, value_name = "SNAPSHOT")]
        from: String,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// Only these, and what is below them; from the root of the branch on.
        #[arg(value_name = "PATH")]
        paths: Vec<OsString>,
    },
    /// Undo the last merge or restore, or the deletion of a branch, while its snapshot is there.
    Undo,
    /// Show which branches and snapshots came from which, who is in them, and what was merged and restored.
    Log {
        /// Print the graph for Graphviz.
        #[arg(long, conflicts_with = "json")]
        dot: bool,
    },
    /// Delete old snapshots that nobody named: without --delete it only says which.
    #[command(group = clap::ArgGroup::new("which").required(true).multiple(true))]
    Prune {
        /// Of each branch keep so many of the newest.
        #[arg(long, value_name = "N", group = "which")]
        keep_last: Option<usize>,
        /// Keep those that are younger, as 12h or 30days.
        #[arg(long, value_name = "AGE", group = "which")]
        older_than: Option<humantime::Duration>,
        /// Also those with a name that somebody gave them.
        #[arg(long)]
        named: bool,
        /// Delete them.
        #[arg(long)]
        delete: bool,
    },
    /// Write a snapshot or a branch out, all of it.
    #[command(group = clap::ArgGroup::new("form").required(true))]
    Export {
        /// The snapshot or the branch.
        #[arg(value_name = "SNAPSHOT|BRANCH")]
        of: String,
        /// To this archive; - is standard output.
        #[arg(long, value_name = "FILE", group = "form")]
        tar: Option<PathBuf>,
        /// To this directory, which is new or empty, or left by an export of the same that was interrupted.
        #[arg(long, value_name = "DIR", group = "form")]
        dir: Option<PathBuf>,
        /// Also what .agentfsignore leaves out.
        #[arg(long)]
        all: bool,
    },
    /// Copy a directory into a branch; what is there beside stays.
    Import {
        /// The directory.
        dir: PathBuf,
        /// The branch.
        #[arg(long, default_value = "main")]
        branch: String,
        /// Also what .agentfsignore leaves out.
        #[arg(long)]
        all: bool,
    },
    /// Unmount the volume and end its daemon.
    Stop {
        /// Stop although processes are bound to branches or live in them; these lose the volume.
        #[arg(long)]
        force: bool,
    },
    /// Show the state of the volume and of its daemon: who sees which branch, and what each branch holds.
    Status {
        /// Show instead how often the kernel asked for which operation.
        #[arg(long)]
        requests: bool,
    },
}

/// What to run, and where.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct ExecArgs {
    /// The branch.
    #[arg(long)]
    pub(crate) branch: String,
    /// Grow the branch first; --branch is its name then.
    #[arg(long)]
    pub(crate) create: bool,
    /// The snapshot or branch it grows from; else the branch that is seen now.
    #[arg(long, requires = "create")]
    pub(crate) from: Option<String>,
    /// Delete the branch when the command has ended, snapshots and branches of it excepted.
    #[arg(long)]
    pub(crate) rm: bool,
    /// Let the command see the other branches and the snapshots too, under .agentfs.
    #[arg(long)]
    pub(crate) see_branches: bool,
    /// The command and its arguments.
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<OsString>,
}

/// A snapshot, bare or as an option.
#[derive(Debug, PartialEq, Eq, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SnapshotArg {
    /// The snapshot.
    #[arg(value_name = "SNAPSHOT")]
    bare: Option<String>,
    /// The snapshot, as an option.
    #[arg(long = "snapshot", value_name = "SNAPSHOT")]
    option: Option<String>,
}

impl SnapshotArg {
    /// Whichever was given; clap sees to it that one was.
    pub(crate) fn given(&self) -> &str {
        self.bare.as_deref().or(self.option.as_deref()).unwrap_or_default()
    }
}

/// A branch, bare or as an option.
#[derive(Debug, PartialEq, Eq, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct BranchArg {
    /// The branch.
    #[arg(value_name = "BRANCH")]
    bare: Option<String>,
    /// The branch, as an option.
    #[arg(long = "branch", value_name = "BRANCH")]
    option: Option<String>,
}

impl BranchArg {
    /// Whichever was given; clap sees to it that one was.
    pub(crate) fn given(&self) -> &str {
        self.bare.as_deref().or(self.option.as_deref()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let words = std::iter::once("agentfs-control-cli").chain(line.split_whitespace());
        Args::try_parse_from(words).map(|args| args.command)
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_branch_grows_from_exactly_one_thing() {
        let made = |from: &str| Command::BranchCreate { from: from.into(), name: Some("n".into()) };
        assert_eq!(parse("branch-create --from base --name n").unwrap(), made("base"));
        assert_eq!(parse("branch-create --snapshot snap --name n").unwrap(), made("snap"));
        assert!(parse("branch-create --name n").is_err());
        assert!(parse("branch-create --from a --snapshot b").is_err());
    }

    #[test]
    fn what_is_deleted_is_bare_or_an_option_but_not_both() {
        let of = |line| match parse(line).unwrap() {
            Command::SnapshotDelete { snapshot } => snapshot.given().to_owned(),
            Command::BranchDelete { branch, force, now } => format!("{} {force} {now}", branch.given()),
            other => panic!("{other:?}"),
        };
        assert_eq!(of("snapshot-delete one"), "one");
        assert_eq!(of("snapshot-delete --snapshot one"), "one");
        assert_eq!(of("branch-delete one --force"), "one true false");
        assert_eq!(of("branch-delete --branch one"), "one false false");
        assert_eq!(of("branch-delete one --now"), "one false true");
        for line in ["snapshot-delete", "snapshot-delete a --snapshot b", "branch-delete --force"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_pid_is_a_positive_number_or_absent() {
        assert_eq!(parse("branch-unbind --pid 7").unwrap(), Command::BranchUnbind { pid: Some(7) });
        assert_eq!(parse("branch-unbind").unwrap(), Command::BranchUnbind { pid: None });
        for line in ["branch-unbind --pid 0", "branch-unbind --pid x", "branch-bind --pid 7"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_is_run_may_have_options_of_its_own() {
        let run = |line| match parse(line).unwrap() {
            Command::BranchExec(args) => args,
            other => panic!("{other:?}"),
        };
        let args = run("branch-exec --branch b --create --from s -- make -j 4 --rm");
        assert_eq!(args.command, ["make", "-j", "4", "--rm"]);
        assert!(args.create && !args.rm && args.from.as_deref() == Some("s"));
        assert_eq!(run("branch-exec --branch b ls --json").command, ["ls", "--json"]);
        for line in ["branch-exec --branch b", "branch-exec ls", "branch-exec --branch b --from s ls"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn global_options_go_before_or_after_the_command() {
        for line in ["x --mount /m --json snapshot-list", "x snapshot-list --json --mount /m"] {
            let args = Args::try_parse_from(line.split_whitespace()).unwrap();
            assert_eq!(args.mount.as_deref(), Some("/m".as_ref()));
            assert!(matches!(args.format(), Format::Json));
        }
    }
}
