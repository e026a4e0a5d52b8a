//! The binary where there is no volume to talk to: its sentences and its exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};
use std::{fs, str};

/// Runs the binary in a directory, without a mount in the environment.
fn cli(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentfs-control-cli"));
    command.args(arguments).current_dir(directory).env_remove("AGENTFS_MOUNT").output().unwrap()
}

/// The one line of a failure that the daemon or the system reports.
fn failure(output: &Output) -> &str {
    let told = str::from_utf8(&output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(output.stdout.is_empty());
    assert_eq!(told.lines().count(), 1, "{told}");
    told.trim_end().strip_prefix("agentfs-control-cli: ").unwrap()
}

#[test]
fn a_directory_without_a_control_file_is_no_volume() {
    let directory = tempfile::tempdir().unwrap();
    let mount = directory.path().to_str().unwrap();
    let output = cli(directory.path(), &["--mount", mount, "snapshot-list"]);
    assert_eq!(failure(&output), format!("no AgentFS volume is mounted at {mount} (ENOENT)"));
}

#[test]
fn a_plain_file_in_the_place_of_the_control_file_is_no_volume() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join(".agentfs")).unwrap();
    fs::write(directory.path().join(".agentfs/control"), "").unwrap();
    let output = cli(directory.path(), &["status"]);
    assert!(failure(&output).ends_with("is not an AgentFS volume (ENOTTY)"));
}

#[test]
fn outside_a_volume_the_option_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let output = cli(directory.path(), &["branch-list", "--json"]);
    assert_eq!(failure(&output), "the current directory is in no AgentFS volume; name one with --mount");
}

#[test]
fn the_option_goes_before_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentfs-control-cli"));
        command.args(arguments).current_dir(directory.path()).env("AGENTFS_MOUNT", "from-env");
        failure(&command.output().unwrap()).to_owned()
    };
    assert!(run(&["snapshot-list"]).contains("mounted at from-env"));
    assert!(run(&["snapshot-list", "--mount", "from-option"]).contains("mounted at from-option"));
}

#[test]
fn a_wrong_command_line_exits_2() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["snapshot-delete"], &["branch-bind"], &["no-such-command"]] {
        assert_eq!(cli(directory.path(), arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn help_and_version_exit_0() {
    let directory = tempfile::tempdir().unwrap();
    for argument in ["--help", "--version"] {
        assert_eq!(cli(directory.path(), &[argument]).status.code(), Some(0));
    }
}
