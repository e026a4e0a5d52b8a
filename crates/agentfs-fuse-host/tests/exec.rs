//! `branch-exec`: a command in a branch, where the volume is mounted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use agentfs_proto::Response;
use agentfs_proto::request::{BranchDelete, BranchList, BranchRename};
use support::agents::{Agent, cli, cli_of, has_python};
use support::{Volume, can_mount, code};

/// A volume with a directory and two branches, where branches can be entered; says why not.
fn volume() -> Option<Volume> {
    if !can_mount() {
        return None;
    }
    let v = Volume::mount();
    fs::create_dir_all(v.path("d/deep")).unwrap();
    fs::write(v.path("d/f"), "main").unwrap();
    for branch in ["a", "b"] {
        v.grow_branch("main", branch);
        fs::write(v.branch(branch).join("d/f"), branch).unwrap();
    }
    let probe = exec(&v, &v.root(), &["--branch", "a", "--", "true"]);
    if probe.status.code() == Some(125) {
        println!("SKIPPED: {}", String::from_utf8_lossy(&probe.stderr));
        return None;
    }
    assert!(probe.status.success(), "{probe:?}");
    Some(v)
}

fn exec(v: &Volume, dir: &Path, words: &[&str]) -> Output {
    cli_of(v).arg("branch-exec").args(words).current_dir(dir).output().unwrap()
}

/// What a shell script says in a branch.
fn said(v: &Volume, branch: &str, script: &str) -> String {
    let output = exec(v, &v.path("d"), &["--branch", branch, "--", "sh", "-c", script]);
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_command_is_where_it_was_and_who_it_was_in_the_branch() {
    let Some(v) = volume() else { return };
    let here = v.path("d");
    let ids = || {
        let output = Command::new("sh").args(["-c", "id -u; id -g"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(said(&v, "a", "pwd; cat f"), format!("{}\na", here.display()));
    assert_eq!(said(&v, "b", "cat f; cat ../d/f"), "bb");
    assert_eq!(said(&v, "a", "id -u; id -g"), ids());
    said(&v, "a", "echo -n new > made; chmod 600 made; rm f");
    assert_eq!(fs::read_to_string(v.branch("a").join("d/made")).unwrap(), "new");
    let meta = fs::metadata(v.branch("a").join("d/made")).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.uid()), (0o600, rustix::process::geteuid().as_raw()));
    assert!(!v.path("d/made").exists());
    assert_eq!(fs::read_to_string(v.path("d/f")).unwrap(), "main");
    // From outside of the volume, too.
    let output = exec(&v, Path::new("/"), &["--branch", "b", "--", "cat", v.path("d/f").to_str().unwrap()]);
    assert_eq!(output.stdout, b"b");
    // By its id, and where a directory is missing in the branch.
    fs::create_dir(v.path("of-main")).unwrap();
    let output = exec(&v, &v.path("of-main"), &["--branch", "a", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("of-main") && told.lines().count() == 1, "{told}");
}

#[test]
fn exit_codes_and_signals_are_the_commands() {
    let Some(v) = volume() else { return };
    let ended = |words: &[&str]| exec(&v, &v.root(), words).status;
    for rm in [&[][..], &["--create", "--rm"]] {
        let words =
            |name: &'static str, rest: &[&'static str]| [&["--branch", name][..], rm, &["--"], rest].concat();
        let name = if rm.is_empty() { "a" } else { "brief" };
        assert_eq!(ended(&words(name, &["sh", "-c", "exit 7"])).code(), Some(7));
        assert_eq!(ended(&words(name, &["no-such-command"])).code(), Some(127));
        assert_eq!(ended(&words(name, &["/etc/passwd"])).code(), Some(126));
        let killed = ended(&words(name, &["sh", "-c", "kill -KILL $$"]));
        assert!(killed.signal() == Some(9) || killed.code() == Some(137), "{killed:?}");
    }
    assert_eq!(ended(&["--branch", "nowhere", "--", "true"]).code(), Some(125));
    assert_eq!(ended(&["--branch", "a"]).code(), Some(2));
    // A signal reaches the command also when somebody waits for it.
    for rm in [&[][..], &["--create", "--rm"]] {
        let mut command = cli_of(&v);
        command.args(["branch-exec", "--branch", if rm.is_empty() { "a" } else { "brief" }]).args(rm);
        let ready = v.store().with_file_name("ready");
        let script = format!("trap 'exit 42' TERM; : > {}; while :; do sleep 0.05; done", ready.display());
        let mut child = command.args(["--", "sh", "-c", &script]).spawn().unwrap();
        let begun = Instant::now();
        while !ready.exists() {
            assert!(begun.elapsed().as_secs() < 20, "the command does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        fs::remove_file(&ready).unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = support::wait(&mut child, Duration::from_secs(20)).expect("the signal is not handed on");
        assert_eq!(ended.code(), Some(42));
    }
    match v.ask(BranchList { after: None }) {
        Response::BranchList(page) => {
            assert_eq!(page.entries.len(), 3, "branches that were to be deleted are");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn others_are_out_of_sight_unless_asked_for_and_it_nests() {
    let Some(v) = volume() else { return };
    assert_eq!(said(&v, "a", "ls -A ../.agentfs"), "control\n");
    assert_eq!(said(&v, "a", "ls -A .."), "d\n", "what is in the branch");
    let output = exec(&v, &v.root(), &["--branch", "a", "--see-branches", "--", "ls", ".agentfs/branches/"]);
    let mut seen: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    seen.sort();
    assert_eq!(seen, ["a", "b", "main"]);
    let cli = cli().display().to_string();
    // An agent grows a branch of what it sees, works there, looks into a third, and comes back.
    let script = format!(
        "echo -n in-a > f
         {cli} branch-exec --branch inner --create -- sh -c 'cat f; echo -n in-inner > f; cat f;
             {cli} branch-exec --branch b -- cat f; {cli} branch-exec --branch a -- cat f;
             {cli} branch-exec --branch main -- cat f; {cli} whoami | cut -f 3,4'
         cat f; {cli} whoami | cut -f 3,4; {cli} snapshot-create --name of-a > /dev/null"
    );
    assert_eq!(said(&v, "a", &script), "in-ain-innerbin-amaininner\texec\nin-aa\texec\n");
    assert_eq!(fs::read_to_string(v.branch("inner").join("d/f")).unwrap(), "in-inner");
    assert_eq!(fs::read_to_string(v.snapshot("of-a").join("d/f")).unwrap(), "in-a", "of its own branch");
}

#[test]
fn a_branch_that_is_lived_in_is_renamed_but_not_deleted() {
    let Some(v) = volume() else { return };
    if !has_python() {
        return;
    }
    let mut agent = Agent::enter(&v, "a", &v.path("d/deep"));
    let here = v.path("d/deep");
    assert_eq!(agent.text("os.getcwd()"), here.to_str().unwrap());
    for n in 0..20 {
        let name = |n: usize| if n == 0 { "a".to_owned() } else { format!("a{n}") };
        let rename = BranchRename { branch: name(n).into(), name: name(n + 1).into() };
        assert!(matches!(v.ask(rename), Response::BranchRename(_)));
        // Others look at it by its new name.
        assert_eq!(fs::read_to_string(v.branch(&name(n + 1)).join("d/f")).unwrap(), "a");
        assert_eq!(agent.text("os.getcwd()"), here.to_str().unwrap());
        agent.value(&format!("write('../f{n}', 'still') or os.mkdir('x') or os.rmdir('x')"));
        assert_eq!(code(&v.ask(BranchDelete { branch: name(n + 1).into(), force: true })), libc::EBUSY);
    }
    drop(agent);
    assert!(matches!(v.ask(BranchDelete { branch: "a20".into(), force: true }), Response::BranchDelete(_)));
}

/// Runs `branch-exec` without the right to mount, after what the script does to the machine; what it says.
fn refused(v: &Volume, unshare: &str, script: &str, chroot: &str) -> Option<String> {
    let drop = "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin";
    let line =
        format!("{script} && exec {drop} {chroot} \"$0\" --mount \"$1\" branch-exec --branch a -- true");
    let mut command = Command::new("timeout");
    command
        .args(["20", "unshare"])
        .args(unshare.split(' '))
        .args(["sh", "-c", &line])
        .arg(cli())
        .arg(v.root());
    let output = command.output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    // The tools' own words, where they may not prepare it.
    if !words.contains("agentfs-control-cli:") {
        println!("SKIPPED: {words}");
        return None;
    }
    assert_eq!(output.status.code(), Some(125), "{words}");
    assert!(output.stdout.is_empty() && words.lines().count() == 1, "{words}");
    Some(words)
}

#[test]
fn what_the_machine_forbids_is_said_with_the_remedy() {
    let Some(v) = volume() else { return };
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can take from this machine what branch-exec needs");
        return;
    }
    if let Some(words) = refused(&v, "-U -r", "echo 0 > /proc/sys/user/max_user_namespaces", "") {
        assert!(words.contains("no user namespaces") && words.contains("sysctl -w"), "{words}");
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let root = elsewhere.path().display();
    if let Some(words) = refused(&v, "-m", &format!("mount --rbind / {root}"), &format!("chroot {root}")) {
        assert!(words.contains("CAP_SYS_ADMIN") && words.contains("branch-bind works"), "{words}");
    }
    // Nothing was left behind.
    assert_eq!(said(&v, "a", "cat f"), "a");
}
