//! Real mounts for tests: each volume has a daemon, a store and a mount point of its own, and takes all of them along
//! when it is dropped. Nothing waits for ever: what hangs is killed.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod agents;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use agentfs_proto::{Request, Response, frame, ioctl};
use tempfile::TempDir;

pub const DAEMON: &str = env!("CARGO_BIN_EXE_agentfs-fuse-host");
const PATIENCE: Duration = Duration::from_secs(20);

/// Can this machine mount? If not, says why; the test then ends.
pub fn can_mount() -> bool {
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    let helper =
        rustix::process::geteuid().is_root() || Command::new("fusermount3").arg("-V").output().is_ok();
    match device {
        Ok(_) if helper => return true,
        Ok(_) => println!("SKIPPED: mounting without root needs fusermount3 (package fuse3)"),
        Err(error) => println!("SKIPPED: mounting needs /dev/fuse: {error}"),
    }
    false
}

/// Is this root? If not, says what is skipped.
pub fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: {what} needs root");
    }
    root
}

/// Is the kernel told to keep what is written, for a while? Then says what of a test cannot hold there.
pub fn is_write_back(what: &str) -> bool {
    let is = std::env::var("AGENTFS_FUSE_DATA_PATH").is_ok_and(|path| path == "write-back");
    if is {
        println!("SKIPPED in the write-back mode: {what}");
    }
    is
}

/// A mounted volume.
pub struct Volume {
    dir: TempDir,
    daemon: Child,
}

impl Volume {
    pub fn mount() -> Volume {
        Volume::mount_with(&[], &[])
    }

    /// Mounts with more words on the command line and variables in the environment.
    pub fn mount_with(args: &[&str], env: &[(&str, &str)]) -> Volume {
        Volume::start(true, args, env)
    }

    /// Mounts without naming a store.
    pub fn mount_storeless(args: &[&str]) -> Volume {
        Volume::start(false, args, &[])
    }

    /// Mounts on a directory that is there, `mnt` in this one.
    pub fn mount_over(dir: TempDir, args: &[&str]) -> Volume {
        let daemon = Volume::spawn(dir.path(), true, args, &[]);
        let mut volume = Volume { dir, daemon };
        volume.wait_until_mounted();
        volume
    }

    /// Has another user mount, to whom the directory is given.
    pub fn mount_as(uid: u32, args: &[&str]) -> Volume {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("mnt");
        std::fs::create_dir(&mount).unwrap();
        for path in [dir.path(), &mount] {
            std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
        }
        let id = uid.to_string();
        let before = ["--reuid", &id, "--regid", &id, "--clear-groups"];
        let daemon = Volume::spawn_as(&before, dir.path(), true, args, &[]);
        let volume = Volume { dir, daemon };
        let begun = Instant::now();
        // Not even root looks inside.
        while !volume.is_mounted() {
            assert!(begun.elapsed() < PATIENCE, "no mount: {}", volume.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        volume
    }

    fn start(store: bool, args: &[&str], env: &[(&str, &str)]) -> Volume {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        let daemon = Volume::spawn(dir.path(), store, args, env);
        let mut volume = Volume { dir, daemon };
        volume.wait_until_mounted();
        volume
    }

    fn spawn(dir: &Path, store: bool, args: &[&str], env: &[(&str, &str)]) -> Child {
        Volume::spawn_as(&[], dir, store, args, env)
    }

    fn spawn_as(who: &[&str], dir: &Path, store: bool, args: &[&str], env: &[(&str, &str)]) -> Child {
        let log = std::fs::File::create(dir.join("log")).unwrap();
        // A test that is killed, because it hangs, takes its daemon along: nobody waits for that one any more.
        let mut command = Command::new("setpriv");
        command.args(who).args(["--pdeathsig", "KILL", DAEMON]);
        if store {
            command.arg("--store").arg(dir.join("store"));
        }
        command.args(args).arg(dir.join("mnt"));
        command.envs(env.iter().copied()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().unwrap()
    }

    fn wait_until_mounted(&mut self) {
        let begun = Instant::now();
        // Of a dead mount some may be in the kernel's cache: only a daemon says how large it is.
        while rustix::fs::statfs(self.path(".agentfs/control")).is_err() {
            let ended = self.daemon.try_wait().unwrap();
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "no mount: {ended:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub fn branch(&self, name: &str) -> PathBuf {
        self.path(".agentfs/branches").join(name)
    }

    pub fn snapshot(&self, name: &str) -> PathBuf {
        self.path(".agentfs/snapshots").join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.daemon)
    }

    /// Sends a request to the control file of the main view.
    pub fn ask(&self, request: impl Into<Request>) -> Response {
        ask_at(&self.path(".agentfs/control"), request.into())
    }

    /// Takes a snapshot of a branch.
    pub fn take_snapshot(&self, branch: &str, name: &str) -> String {
        let request =
            agentfs_proto::request::BranchSnapshot { branch: branch.into(), name: Some(name.into()) };
        match self.ask(request) {
            Response::BranchSnapshot(reply) => String::from_utf8(reply.snapshot.id).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Grows a branch.
    pub fn grow_branch(&self, from: &str, name: &str) -> String {
        let request = agentfs_proto::request::BranchCreate { from: from.into(), name: Some(name.into()) };
        match self.ask(request) {
            Response::BranchCreate(reply) => String::from_utf8(reply.branch.id).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// How often the kernel asked for an operation.
    pub fn requests(&self, operation: &str) -> u64 {
        match self.ask(agentfs_proto::request::RequestCounts { after: None }) {
            Response::RequestCounts(page) => {
                assert!(page.next.is_none());
                page.entries.iter().filter(|c| c.operation == operation.as_bytes()).map(|c| c.count).sum()
            }
            other => panic!("{other:?}"),
        }
    }

    /// Asks the daemon to end and waits for it.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).unwrap();
        wait(&mut self.daemon, PATIENCE).unwrap_or_else(|| panic!("the daemon does not end:\n{}", self.log()))
    }

    /// Kills the daemon, as a crash would. Its dead mount stays, and fails whoever uses it.
    pub fn kill(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    /// Mounts the store of a volume that has ended again, at the same place. What a kill left is covered; only root
    /// can do that: others take it away first.
    pub fn remount(&mut self) {
        assert!(self.daemon.try_wait().unwrap().is_some(), "the daemon of before has not ended");
        if self.is_mounted() && !rustix::process::geteuid().is_root() {
            let status = Command::new("fusermount3").args(["-u", "-z"]).arg(self.root()).status();
            assert!(status.unwrap().success());
        }
        self.daemon = Volume::spawn(self.dir.path(), true, &[], &[]);
        self.wait_until_mounted();
    }

    /// Waits until the daemon ends by itself.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        wait(&mut self.daemon, PATIENCE).unwrap_or_else(|| panic!("the daemon does not end:\n{}", self.log()))
    }

    pub fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == self.root().to_str())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let begun = Instant::now();
        let _ = rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM);
        if wait(&mut self.daemon, Duration::from_secs(5)).is_none() {
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
        while self.is_mounted() && begun.elapsed() < PATIENCE {
            let _ = Command::new("umount").arg("-l").arg(self.root()).output();
            let _ = Command::new("fusermount3").args(["-uz"]).arg(self.root()).output();
        }
        if std::thread::panicking() {
            println!("log of the daemon:\n{}", self.log());
        }
    }
}

/// Waits for a child, not for ever.
pub fn wait(child: &mut Child, patience: Duration) -> Option<std::process::ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Runs the daemon where it is expected to end by itself.
pub fn run_daemon(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut child = Command::new(DAEMON)
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if wait(&mut child, PATIENCE).is_none() {
        let _ = child.kill();
    }
    child.wait_with_output().unwrap()
}

/// Runs a program, and panics with what it said when it fails or hangs.
pub fn run(dir: &Path, program: &str, args: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args(["120", program]).args(args).current_dir(dir).stdin(Stdio::null());
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// One ioctl with any bytes.
pub fn raw_ioctl(control: &Path, opcode: u32, buffer: &mut [u8; 4096]) -> rustix::io::Result<()> {
    let file = std::fs::File::open(control).unwrap();
    sys::ioctl(&file, opcode, buffer)
}

/// One request to a control file.
pub fn ask_at(control: &Path, request: Request) -> Response {
    ask_open(&std::fs::File::open(control).unwrap(), request)
}

/// One request to a control file that is open.
pub fn ask_open(control: &std::fs::File, request: Request) -> Response {
    let mut buffer = frame::encode(&request.encode()).unwrap();
    sys::ioctl(control, ioctl::CONTROL_IOCTL, &mut buffer).unwrap();
    Response::decode(frame::decode(&buffer).unwrap()).unwrap()
}

/// The errno of an Error response.
pub fn code(response: &Response) -> i32 {
    match response {
        Response::Error(error) => error.code.map_or(0, |code| code as i32),
        other => panic!("no error: {other:?}"),
    }
}

mod sys {
    //! The ioctl itself.
    #![allow(unsafe_code)]

    use std::ffi::c_void;
    use std::fs::File;

    use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

    struct Frame<'a>(u32, &'a mut [u8; 4096]);

    // SAFETY: the kernel copies as many bytes to and from the buffer as the number says, 4096 at most for those used here.
    unsafe impl Ioctl for Frame<'_> {
        type Output = ();
        const IS_MUTATING: bool = true;
        fn opcode(&self) -> Opcode {
            self.0 as Opcode
        }
        fn as_ptr(&mut self) -> *mut c_void {
            self.1.as_mut_ptr().cast()
        }
        unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
            Ok(())
        }
    }

    pub(super) fn ioctl(file: &File, opcode: u32, buffer: &mut [u8; 4096]) -> rustix::io::Result<()> {
        // SAFETY: see `Frame`.
        unsafe { rustix::ioctl::ioctl(file, Frame(opcode, buffer)) }
    }
}
