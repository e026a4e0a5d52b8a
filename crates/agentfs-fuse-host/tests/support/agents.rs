//! Processes that tests bind to branches and have do things, and the command line that binds them.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use agentfs_proto::Response;
use agentfs_proto::request::BranchBind;
use serde_json::Value;

use super::{DAEMON, Volume, ask_at};

/// Set in the run that shows that each test fails when nobody is bound.
pub const UNBOUND: &str = "AGENTFS_TEST_BINDS_NOBODY";

/// The command line's binary, which the workspace's tests have built.
pub fn cli() -> PathBuf {
    let cli = Path::new(DAEMON).with_file_name("agentfs-control-cli");
    assert!(cli.exists(), "no {}: build the workspace first", cli.display());
    cli
}

/// The command line, asked about a volume.
pub fn cli_of(v: &Volume) -> Command {
    let mut command = Command::new(cli());
    command.arg("--mount").arg(v.root()).stdin(Stdio::null());
    command
}

/// Runs the command line; false with what it said when it fails.
pub fn told(command: &mut Command) -> (bool, String) {
    let output: Output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Has Python? If not, says what is skipped.
pub fn has_python() -> bool {
    let has = Command::new("python3").arg("-V").output().is_ok_and(|output| output.status.success());
    if !has {
        println!("SKIPPED: python3 is not installed");
    }
    has
}

/// A process that does what it is told.
pub struct Agent {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agents/agent.py")
}

impl Agent {
    /// One that nobody has bound, in a directory.
    pub fn start(dir: &Path) -> Agent {
        let mut command = Command::new("python3");
        // What cargo makes in a branch is looked for there.
        command.env_remove("CARGO_TARGET_DIR");
        command.arg(script());
        Agent::spawn(command, dir)
    }

    /// One that lives in a branch.
    pub fn enter(v: &Volume, branch: &str, dir: &Path) -> Agent {
        let mut command = cli_of(v);
        command.args(["branch-exec", "--branch", branch, "--", "python3"]).arg(script());
        Agent::spawn(command, dir)
    }

    /// One that is bound to a branch.
    pub fn bound(v: &Volume, branch: &str, dir: &Path) -> Agent {
        let agent = Agent::start(dir);
        agent.bind(v, branch);
        agent
    }

    fn spawn(mut command: Command, dir: &Path) -> Agent {
        // What is executed here must not be taken for another test's.
        command.current_dir(dir).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let requests = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut agent = Agent { child, requests, answers };
        // A process that is about to become another is not there yet.
        assert_eq!(agent.value("1 + 1"), 2);
        agent
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Binds it, unless this is the run that binds nobody.
    pub fn bind(&self, v: &Volume, branch: &str) {
        if std::env::var_os(UNBOUND).is_some() {
            return;
        }
        let response = v.ask(BranchBind { branch: branch.into(), pid: Some(self.pid()) });
        assert!(matches!(response, Response::BranchBind(_)), "{response:?}");
    }

    /// Tells it something and does not wait.
    pub fn tell(&mut self, code: &str) {
        writeln!(self.requests, "{}", Value::from(code)).unwrap();
    }

    /// Waits for the answer.
    pub fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("the agent ended: {line:?}"))
    }

    pub fn ask(&mut self, code: &str) -> Value {
        self.tell(code);
        self.answer()
    }

    /// What it answers; what fails is a failure of the test.
    pub fn value(&mut self, code: &str) -> Value {
        let answer = self.ask(code);
        answer.get("value").unwrap_or_else(|| panic!("{code}: {answer:#}")).clone()
    }

    /// The value of the answer to what it was told.
    pub fn answered(&mut self) -> Value {
        let answer = self.answer();
        answer.get("value").unwrap_or_else(|| panic!("{answer:#}")).clone()
    }

    pub fn text(&mut self, code: &str) -> String {
        self.value(code).as_str().unwrap_or_else(|| panic!("{code} is no text")).to_owned()
    }

    /// The errno of what must fail.
    pub fn errno(&mut self, code: &str) -> i64 {
        let answer = self.ask(code);
        answer.get("errno").and_then(Value::as_i64).unwrap_or_else(|| panic!("{code}: {answer:#}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each of these tests of the same file fails when nobody is bound.
pub fn assert_each_fails_when_nobody_is_bound(names: &[&str]) {
    if !super::can_mount() || !has_python() || std::env::var_os(UNBOUND).is_some() {
        return;
    }
    for name in names {
        let mut run = Command::new("timeout");
        run.args(["-s", "KILL", "100"]).arg(std::env::current_exe().unwrap());
        run.args(["--exact", "--show-output", name]);
        let (passed, said) = told(run.env(UNBOUND, "1").env("AGENTFS_STRESS_SECONDS", "2"));
        assert!(said.contains("running 1 test"), "there is no {name}");
        let skipped = said.contains("SKIPPED");
        assert!(skipped || (!passed && said.contains("FAILED")), "{name} passes without a binding:\n{said}");
    }
}

/// No complaints?
pub fn assert_none(wrong: &Value) {
    assert_eq!(wrong.as_array().map(Vec::len), Some(0), "{wrong:#}");
}

/// What the daemon answers to a request at the mount point.
pub fn ask(v: &Volume, request: impl Into<agentfs_proto::Request>) -> Response {
    ask_at(&v.path(".agentfs/control"), request.into())
}

/// Runs the command line, which succeeds; what it printed.
pub fn succeeds(v: &Volume, args: &[&str]) -> String {
    let (done, words) = told(cli_of(v).args(args));
    assert!(done, "{args:?}: {words}\n{}", v.log());
    words
}

/// The same, and it fails.
pub fn fails(v: &Volume, args: &[&str]) -> String {
    let (done, words) = told(cli_of(v).args(args));
    assert!(!done, "{args:?}: {words}");
    words
}
