//! What programs store through `mmap` is written out before a snapshot is taken: or that fails, by name, and the programs are
//! told of it as well.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use agentfs_proto::Response;
use agentfs_proto::request::{BranchSnapshot, FuzzySnapshot};
use support::{Volume, ask_open, can_mount, code, is_root, run};

/// A program that makes a file of 16 MB with nothing in it, stores into it through `mmap`, and says what `msync` answers
/// when it is asked.
const PROGRAM: &str = "
import mmap, os, sys
file = open(sys.argv[1], 'w+b')
file.truncate(16 << 20)
mapped = mmap.mmap(file.fileno(), 0)
for line in sys.stdin:
    if line == 'sync\\n':
        try:
            mapped.flush()
            print(0, flush=True)
        except OSError as error:
            print(error.errno, flush=True)
    else:
        at, size = map(int, line.split())
        mapped[at:at + size] = b's' * size
        print(0, flush=True)
";

struct Program {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Program {
    fn start(path: &Path) -> Option<Program> {
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = command.spawn() else {
            println!("SKIPPED: python3 is not installed");
            return None;
        };
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Some(Program { child, to, from })
    }

    /// What it answers to a line.
    fn told(&mut self, line: &str) -> i32 {
        writeln!(self.to, "{line}").unwrap();
        let mut answer = String::new();
        self.from.read_line(&mut answer).unwrap();
        answer.trim().parse().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a test mounted; it goes with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn mount_tmpfs(at: &Path, options: &str) -> Mounted {
    run(Path::new("/"), "mount", &["-t", "tmpfs", "-o", options, "tmpfs", at.to_str().unwrap()]);
    Mounted(at.to_owned())
}

fn snapshot(name: &str) -> BranchSnapshot {
    BranchSnapshot { branch: "main".into(), name: Some(name.into()) }
}

fn words(response: Response) -> String {
    match response {
        Response::Error(error) => String::from_utf8(error.error).unwrap(),
        other => panic!("no error: {other:?}"),
    }
}

#[test]
fn a_snapshot_fails_when_what_was_stored_has_no_room_and_the_program_is_told_too() {
    if !can_mount() || !is_root("mounting a small tmpfs for a store") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _small = mount_tmpfs(dir.path(), "size=4m");
    let store = dir.path().join("store");
    let v = Volume::mount_storeless(&["--store", store.to_str().unwrap()]);
    fs::write(v.path("kept"), "kept").unwrap();
    let Some(mut program) = Program::start(&v.path("sparse")) else { return };
    assert_eq!(program.told(&format!("0 {}", 12 << 20)), 0);
    let refused = v.ask(snapshot("s"));
    assert_eq!(code(&refused), libc::ENOSPC);
    assert!(words(refused).contains("\"sparse\""));
    assert_eq!(program.told("sync"), libc::ENOSPC, "the program was to be told of it");
    drop(program);
    fs::remove_file(v.path("sparse")).unwrap();
    v.take_snapshot("main", "s");
    assert_eq!(fs::read_to_string(v.snapshot("s").join("kept")).unwrap(), "kept");
}

/// Kills the daemon's only child.
fn kill_helper(v: &Volume) {
    let threads = fs::read_dir(format!("/proc/{}/task", v.pid().as_raw_nonzero())).unwrap();
    let children: String =
        threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).unwrap()).collect();
    assert_eq!(children.split_whitespace().count(), 1, "{children:?}");
    run(Path::new("/"), "kill", &["-KILL", children.trim()]);
}

#[test]
fn another_process_writes_files_out_when_the_first_was_killed() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    let Some(mut program) = Program::start(&v.path("sparse")) else { return };
    for n in 0..3 {
        assert_eq!(program.told(&format!("{} 10", n * 1_000_000)), 0);
        let name = format!("s{n}");
        v.take_snapshot("main", &name);
        let frozen = fs::read(v.snapshot(&name).join("sparse")).unwrap();
        assert_eq!(frozen[n * 1_000_000..][..11], *b"ssssssssss\0");
        kill_helper(&v);
    }
}

#[test]
fn what_is_mounted_in_the_volume_keeps_no_snapshot_from_being_right() {
    if !can_mount() || !is_root("mounting something over .agentfs") {
        return;
    }
    let v = Volume::mount();
    let Some(mut program) = Program::start(&v.path("sparse")) else { return };
    let control = File::open(v.path(".agentfs/control")).unwrap();
    assert_eq!(program.told("0 10"), 0);
    {
        let _over = mount_tmpfs(&v.path(".agentfs"), "size=1m");
        fs::write(v.path(".agentfs/control"), "not the volume's").unwrap();
        let refused = ask_open(&control, snapshot("s").into());
        assert_eq!(code(&refused), libc::EBUSY, "{refused:?}");
        let words = words(refused);
        assert!(words.contains("\"sparse\"") && words.contains("mounted over"), "{words}");
        let fuzzy = FuzzySnapshot { branch: "main".into(), name: Some("fuzzy".into()) };
        assert!(matches!(ask_open(&control, fuzzy.into()), Response::FuzzySnapshot(_)));
    }
    v.take_snapshot("main", "s");
    for name in ["s", "fuzzy"] {
        assert_eq!(fs::read(v.snapshot(name).join("sparse")).unwrap()[..11], *b"ssssssssss\0", "{name}");
    }
}

/// The kernel looks at errors only, and takes a part of a write for all of it.
#[test]
fn what_msync_said_is_there_is_there_when_the_store_is_nearly_full() {
    if !can_mount() || !is_root("mounting a small tmpfs for a store") {
        return;
    }
    let (mut kept, mut refused) = (0, 0);
    for step in 0..14 {
        let dir = tempfile::tempdir().unwrap();
        let _small = mount_tmpfs(dir.path(), "size=4m");
        let store = dir.path().join("store");
        let v = Volume::mount_storeless(&["--store", store.to_str().unwrap()]);
        let Some(mut program) = Program::start(&v.path("sparse")) else { return };
        let len = 2_600_000 + step * 100_000;
        assert_eq!(program.told(&format!("0 {len}")), 0);
        match program.told("sync") {
            0 => {
                v.take_snapshot("main", "s");
                // Another file to the kernel: it has no pages of it.
                let bytes = fs::read(v.snapshot("s").join("sparse")).unwrap();
                assert_eq!(bytes.iter().position(|byte| *byte != b's'), Some(len), "of {len}");
                kept += 1;
            }
            error => {
                assert_eq!(error, libc::ENOSPC);
                refused += 1;
            }
        }
    }
    println!("{kept} kept, {refused} refused");
    assert!(kept > 0 && refused > 0);
}
