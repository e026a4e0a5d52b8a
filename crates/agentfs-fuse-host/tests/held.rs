//! What is mounted in the volume stays mounted, whatever processes in other branches look up there; and who loses the mark
//! of a binding on the way (`su`, `sudo`, PAM) stays in its branch.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::agents::cli;
use support::{Volume, can_mount, is_root, run};

/// Runs a script in a shell that is bound to a branch; what it printed.
fn bound(v: &Volume, branch: &str, script: &str) -> String {
    let line = format!(
        "\"$C\" --mount \"$M\" branch-bind --branch {branch} --pid $$ >/dev/null || exit 9\n{script}"
    );
    let mut command = Command::new("timeout");
    command.args(["60", "sh", "-c", &line]).env("C", cli()).env("M", v.root()).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_ne!(output.status.code(), Some(9), "it could not be bound: {}", v.log());
    assert_ne!(output.status.code(), Some(124), "it hangs: {script}");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
}

fn is_mounted(at: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().any(|line| line.split(' ').nth(1) == at.to_str())
}

/// Something mounted for the time of a test.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(at: std::path::PathBuf) -> Mounted {
        fs::create_dir_all(&at).unwrap();
        run(Path::new("/"), "mount", &["-t", "tmpfs", "none", at.to_str().unwrap()]);
        fs::write(at.join("t"), "mounted").unwrap();
        Mounted(at)
    }

    fn assert_there(&self, after: &str) {
        assert!(is_mounted(&self.0), "{after} took the mount at {} away", self.0.display());
        if self.0.is_dir() {
            assert_eq!(fs::read_to_string(self.0.join("t")).unwrap(), "mounted", "{after}");
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn what_is_mounted_stays_whatever_a_branch_has_there() {
    if !can_mount() || !is_root("mounting in the volume") {
        return;
    }
    let v = Volume::mount();
    for what in ["missing", "file", "other-mode", "same", "deep"] {
        fs::create_dir_all(v.path(what).join("in/deeper")).unwrap();
    }
    fs::create_dir_all(v.path("gone/in/it")).unwrap();
    v.grow_branch("main", "b");
    let b = v.branch("b");
    fs::remove_dir_all(b.join("gone")).unwrap();
    fs::remove_dir_all(b.join("missing")).unwrap();
    fs::remove_dir_all(b.join("file")).unwrap();
    fs::write(b.join("file"), "a file").unwrap();
    run(&b, "chmod", &["700", "other-mode"]);
    fs::write(b.join("same/of-b"), "").unwrap();
    run(&b, "chmod", &["711", "deep/in"]);
    let mounts: Vec<Mounted> = ["missing", "file", "other-mode", "same", "deep/in/deeper", "gone/in/it"]
        .map(|at| Mounted::tmpfs(v.path(at)))
        .into_iter()
        .collect();
    let all = |after: &str| mounts.iter().for_each(|mount| mount.assert_there(after));
    for script in [
        "stat \"$M\"/gone/in; stat \"$M\"/gone/in/it; ls -R \"$M\"/gone",
        "stat \"$M\"/* \"$M\"/deep/in \"$M\"/deep/in/deeper/t",
        "ls -l \"$M\" \"$M\"/deep \"$M\"/deep/in",
        "find \"$M\" -maxdepth 4",
        "chmod 750 \"$M\"/deep/in; chmod 750 \"$M\"/deep; chmod 750 \"$M\"/same",
        "mv \"$M\"/deep \"$M\"/moved; rmdir \"$M\"/other-mode \"$M\"/same \"$M\"/deep/in; mv \"$M\"/same \"$M\"/deep/",
        "mkdir \"$M\"/missing; touch \"$M\"/missing; ln -s x \"$M\"/missing; mv \"$M\"/file \"$M\"/f2",
        "cd \"$M\"/deep && stat in && ls -la . && cat ../same/t",
    ] {
        bound(&v, "b", script);
        all(script);
    }
    // The mount is everybody's who sees it, and what is beside it is the branch's.
    assert_eq!(bound(&v, "b", "cat \"$M\"/same/t"), "mounted");
    fs::write(b.join("beside"), "of b").unwrap();
    fs::write(v.path("beside"), "of main").unwrap();
    assert_eq!(bound(&v, "b", "cat \"$M\"/beside"), "of b");
    assert!(bound(&v, "b", "rmdir \"$M\"/same; echo $?").contains('1'));
    // Merged, restored and undone beside it.
    for args in [&["merge", "b", "--theirs"][..], &["undo"]] {
        let _ = support::agents::told(support::agents::cli_of(&v).args(args));
        all(&args.join(" "));
        bound(&v, "b", "ls -lR \"$M\"");
        fs::read_dir(v.root()).unwrap().for_each(drop);
        all(&args.join(" "));
    }
    drop(mounts);
    // What is free again is the branch's again.
    assert_eq!(bound(&v, "b", "cat \"$M\"/file"), "a file");
    assert_eq!(bound(&v, "b", "ls \"$M\"/same"), "in\nof-b");
}

#[test]
fn what_is_mounted_after_a_binding_and_on_a_file_stays() {
    if !can_mount() || !is_root("mounting in the volume") {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("f"), "of main").unwrap();
    v.grow_branch("main", "b");
    fs::write(v.branch("b").join("f"), "of b").unwrap();
    let source = tempfile::NamedTempFile::new().unwrap();
    fs::write(source.path(), "mounted").unwrap();
    let script = "while [ ! -e \"$M/.agentfs/../go\" ] && [ ! -e \"$GO\" ]; do sleep 0.02; done; cat \"$M\"/f; ls -l \"$M\"; stat \"$M\"/late";
    let go = tempfile::tempdir().unwrap();
    let script = script.replace("$GO", go.path().join("go").to_str().unwrap());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| bound(&v, "b", &script));
        std::thread::sleep(Duration::from_millis(300));
        let late = Mounted::tmpfs(v.path("late"));
        run(
            Path::new("/"),
            "mount",
            &["--bind", source.path().to_str().unwrap(), v.path("f").to_str().unwrap()],
        );
        let file = Mounted(v.path("f"));
        fs::write(go.path().join("go"), "").unwrap();
        let told = running.join().unwrap();
        assert!(told.starts_with("mounted"), "{told}");
        late.assert_there("a look by one that was bound before");
        assert!(is_mounted(&file.0), "a look took the mount of a file away");
    });
    assert_eq!(bound(&v, "b", "cat \"$M\"/f"), "of b");
}

fn has(program: &str) -> bool {
    let has = Command::new(program).arg("--version").output().is_ok();
    if !has {
        println!("SKIPPED: {program} is not installed");
    }
    has
}

#[test]
fn who_loses_the_mark_stays_in_its_branch() {
    if !can_mount() || !is_root("becoming another user") {
        return;
    }
    let v = Volume::mount_with(&["--allow-other"], &[]);
    fs::write(v.path("who"), "main").unwrap();
    run(&v.root(), "chmod", &["777", "."]);
    v.grow_branch("main", "b");
    fs::write(v.branch("b").join("who"), "branch").unwrap();
    let reset = "prlimit --rttime=unlimited --pid $$";
    for (program, through) in [
        ("su", "su -c"),
        ("su", "su nobody -s /bin/sh -c"),
        ("runuser", "runuser -u nobody -- sh -c"),
        ("sudo", "sudo -n sh -c"),
        ("setpriv", "setpriv --reuid=65534 sh -c"),
        ("setsid", "setsid -w sh -c"),
    ] {
        if has(program) {
            assert_eq!(bound(&v, "b", &format!("{through} \"cat $M/who\"")), "branch", "{through}");
        }
    }
    // Its own doing, and that of those that it starts: only `branch-unbind` is leaving.
    assert_eq!(bound(&v, "b", &format!("{reset}; cat \"$M\"/who")), "branch");
    assert_eq!(bound(&v, "b", &format!("sh -c '{reset}; cat \"$M\"/who'")), "branch");
    let unbind =
        "\"$C\" --mount \"$M\" branch-unbind --pid $$ >/dev/null; cat \"$M\"/who; su -c \"cat $M/who\"";
    assert_eq!(bound(&v, "b", unbind), "mainmain");
    // Deleted under nobody.
    let held = "su -c 'exec sleep 5' & sleep 0.3; \"$C\" --mount \"$M\" branch-delete b --force --now; kill %1 2>/dev/null; pkill -P $! 2>/dev/null";
    assert!(bound(&v, "b", held).contains("in use by"));
}

#[test]
fn one_whose_parents_ended_stays_in_its_branch_and_the_daemons_of_others_in_main() {
    if !can_mount() || !is_root("hearing of processes") {
        return;
    }
    let v = Volume::mount_with(&["--allow-other"], &[]);
    fs::write(v.path("who"), "main").unwrap();
    v.grow_branch("main", "b");
    fs::write(v.branch("b").join("who"), "branch").unwrap();
    let out = tempfile::tempdir().unwrap();
    let place = |name: &str| out.path().join(name);
    // Without its limit, without its session, without its parents.
    let orphan = |name: &str| {
        let to = place(name).display().to_string();
        format!(
            "setsid sh -c '(prlimit --rttime=unlimited --pid $(exec sh -c \"echo \\$PPID\"); setsid sh -c \"sleep 0.4; cat $M/who >{to}.new; mv {to}.new {to}\" >/dev/null 2>&1 &)'"
        )
    };
    let read = |name: &str| {
        let begun = Instant::now();
        while !place(name).exists() && begun.elapsed() < Duration::from_secs(15) {
            std::thread::sleep(Duration::from_millis(10));
        }
        fs::read_to_string(place(name)).unwrap_or_default()
    };
    bound(&v, "b", &format!("{}; sleep 0.1", orphan("bound")));
    // The same by one that is not bound, while another is.
    let mut other = Command::new("sh");
    let line = format!("{}; sleep 0.1", orphan("main"));
    std::thread::scope(|scope| {
        let running = scope.spawn(|| bound(&v, "b", "sleep 1.5"));
        std::thread::sleep(Duration::from_millis(200));
        assert!(other.args(["-c", &line]).env("M", v.root()).status().unwrap().success());
        assert_eq!(read("main").trim(), "main");
        running.join().unwrap();
    });
    assert_eq!(read("bound").trim(), "branch");
}

#[test]
fn a_hard_limit_keeps_from_binding_with_its_reason_and_from_exec_not() {
    if !can_mount() || !is_root("setting a hard limit") {
        return;
    }
    let v = Volume::mount();
    v.grow_branch("main", "b");
    fs::write(v.branch("b").join("of-b"), "").unwrap();
    let line = "prlimit --rttime=1000000:1000000 --pid $$; \"$C\" --mount \"$M\" branch-bind --branch b --pid $$; \
                \"$C\" --mount \"$M\" branch-exec --branch b -- ls \"$M\"";
    let mut command = Command::new("sh");
    let output = command.args(["-c", line]).env("C", cli()).env("M", v.root()).output().unwrap();
    let told = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned();
    assert!(told.contains("hard limit") && told.contains("RLIMIT_RTTIME"), "{told}");
    assert!(told.contains("of-b"), "{told}");
    // Who lives there is known by its mounts.
    let line = "prlimit --rttime=1000000:1000000 --pid $$; exec \"$C\" --mount \"$M\" branch-exec --branch b -- sleep 20";
    let mut inside = Command::new("sh");
    let mut inside = inside.args(["-c", line]).env("C", cli()).env("M", v.root()).spawn().unwrap();
    let delete = || support::agents::told(support::agents::cli_of(&v).args(["branch-delete", "b", "--now"]));
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..3 {
        let (done, told) = delete();
        assert!(!done && told.contains("in use by"), "{told}");
        std::thread::sleep(Duration::from_secs(3));
    }
    inside.kill().unwrap();
    inside.wait().unwrap();
    assert!(delete().0);
}

#[test]
fn what_is_mounted_through_another_mount_of_the_volume_stays() {
    if !can_mount() || !is_root("mounting in the volume") {
        return;
    }
    let v = Volume::mount();
    v.grow_branch("main", "b");
    fs::create_dir_all(v.path("in/side")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let bind = |from: &Path, at: &str| {
        let to = elsewhere.path().join(at);
        fs::create_dir(&to).unwrap();
        run(Path::new("/"), "mount", &["--bind", from.to_str().unwrap(), to.to_str().unwrap()]);
        Mounted(to)
    };
    let (part, whole) = (bind(&v.path("in"), "part"), bind(&v.root(), "whole"));
    fs::create_dir(v.path("other")).unwrap();
    let mounts = [Mounted::tmpfs(part.0.join("side")), Mounted::tmpfs(whole.0.join("other"))];
    for script in ["ls -lR \"$M\"; stat \"$M\"/in/side \"$M\"/other", "mkdir \"$M\"/in \"$M\"/other"] {
        bound(&v, "b", script);
        mounts.iter().for_each(|mount| mount.assert_there(script));
    }
    drop(mounts);
    drop((part, whole));
}

/// Orphans that carry no mark: of one whose first thread ended, of one that a thread made another program of, and one of a
/// parent that is a member of another binding.
#[test]
fn orphans_stay_in_their_branch_whatever_their_threads_and_adoptive_parents_do() {
    if !can_mount() || !is_root("hearing of processes") || !has("python3") {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("who"), "main").unwrap();
    for branch in ["b", "other"] {
        v.grow_branch("main", branch);
        fs::write(v.branch(branch).join("who"), branch).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("orphan.py");
    fs::write(&program, ORPHAN).unwrap();
    let of = |kind: &str| {
        let script = format!("C=\"$C\" M=\"$M\" timeout 20 python3 {} {kind}", program.display());
        bound(&v, if kind == "adopted" { "other" } else { "b" }, &script)
    };
    for kind in ["plain", "exec", "leader", "adopted"] {
        assert_eq!(of(kind), "b", "{kind}");
    }
}

const ORPHAN: &str = r#"
import ctypes, os, resource, subprocess, sys, threading, time
kind, mount = sys.argv[1], os.environ["M"]
out, into = os.pipe()
os.set_inheritable(into, True)
if kind == "adopted":
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans become children of this one
child = os.fork()
if child == 0:
    if kind == "adopted":
        subprocess.run([os.environ["C"], "--mount", mount, "branch-bind", "--branch", "b", "--pid", str(os.getpid())], stdout=subprocess.DEVNULL, check=True)
    if os.fork():
        os._exit(0)
    os.setsid()
    resource.setrlimit(resource.RLIMIT_RTTIME, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    time.sleep(0.3)
    line = ["sh", "-c", f"sleep 0.3; cat {mount}/who >&{into}"]
    def run():
        time.sleep(0.2)
        if kind == "exec":
            os.execvp("sh", line)
        subprocess.run(line, pass_fds=[into])
        os._exit(0)
    if kind in ("exec", "leader"):
        threading.Thread(target=run).start()
        if kind == "leader":
            ctypes.CDLL(None).syscall(60, 0)  # exit, of this thread only
        time.sleep(5)
    run()
os.waitpid(child, 0)
os.close(into)
print(os.read(out, 100).decode())
"#;

#[test]
fn a_daemon_with_few_descriptors_knows_many_processes() {
    if !can_mount() || !is_root("hearing of processes") {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("who"), "main").unwrap();
    v.grow_branch("main", "b");
    let pid = v.pid().as_raw_nonzero().to_string();
    run(Path::new("/"), "prlimit", &["--pid", &pid, "--nofile=256:256"]);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| bound(&v, "b", "sleep 8"));
        std::thread::sleep(Duration::from_millis(300));
        let line = "for i in $(seq 600); do cat \"$M\"/who >/dev/null || echo $i; done";
        let output = Command::new("sh").args(["-c", line]).env("M", v.root()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()), "");
        running.join().unwrap();
    });
}
