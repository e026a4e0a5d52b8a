//! How the process ends: 0 when the daemon did what was asked, 1 when not; 2, a wrong command line, is clap's. After
//! `branch-exec`, as the command did.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::failure::Failure;

/// `branch-exec` could not enter the branch.
pub(crate) const CANNOT_ENTER: u8 = 125;

/// The exit code of a run; its failure is told on standard error, in one line.
pub(crate) fn of(result: Result<u8, Failure>) -> ExitCode {
    let failure = match result {
        Ok(code) => return ExitCode::from(code),
        Err(failure) => failure,
    };
    // With standard error closed as well there is nobody left to tell.
    let _ = writeln!(io::stderr(), "agentfs-control-cli: {failure}");
    ExitCode::from(failure.exit_code())
}
