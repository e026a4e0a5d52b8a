//! `branch-exec`: this process gets mounts of its own, with the branch in the volume's place, and becomes the command.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::{env, fs};

use agentfs_proto::Response;
use agentfs_proto::request::{BranchCreate, BranchDelete, BranchEnter, Whoami};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{getegid, geteuid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::args::ExecArgs;
use crate::client::{Client, unexpected};
use crate::failure::Failure;
use crate::mount::{VOLUME, is_inside, mount_point};
use crate::output::Output;

/// The command cannot be run.
const CANNOT_RUN: u8 = 126;
/// There is no such command.
const NO_COMMAND: u8 = 127;

/// Returns only when it failed, or when the branch was to be deleted afterwards.
pub(super) fn run(client: &Client, args: &ExecArgs) -> Result<Output, Failure> {
    if args.rm { run_and_delete(client, args) } else { become_command(client, args) }
}

fn become_command(client: &Client, args: &ExecArgs) -> Result<Output, Failure> {
    let place = mount_point(client.volume())?;
    let inside = inside(&place)?;
    // First of all, as it is what a machine may forbid.
    own_mounts()?;
    let branch = if args.create { create(client, args)? } else { args.branch.clone() };
    let directory = match client.call(BranchEnter { branch: branch.clone().into() })? {
        Response::BranchEnter(reply) => reply.directory,
        _ => return Err(unexpected()),
    };
    let directory = String::from_utf8_lossy(&directory).into_owned();
    show(&place, &directory, args.see_branches).map_err(|error| explain_mount(&error))?;
    if let Some(inside) = inside {
        let here = place.join(&inside);
        env::set_current_dir(&here).map_err(|error| {
            Failure::io(
                &format!("the directory {} cannot be entered in branch {branch:?}", here.display()),
                &error,
            )
        })?;
    }
    let (program, words) = program(args)?;
    let error = Command::new(program).args(words).exec();
    let code = if error.kind() == io::ErrorKind::NotFound { NO_COMMAND } else { CANNOT_RUN };
    Err(Failure::io(&format!("{} cannot be run", Path::new(program).display()), &error).or_exit(code))
}

fn program(args: &ExecArgs) -> Result<(&OsString, &[OsString]), Failure> {
    args.command.split_first().ok_or_else(|| Failure::new("name a command to run"))
}

/// Where in the volume the current directory is.
fn inside(place: &Path) -> Result<Option<PathBuf>, Failure> {
    let here =
        env::current_dir().map_err(|error| Failure::io("cannot tell the current directory", &error))?;
    let Ok(inside) = here.strip_prefix(place) else { return Ok(None) };
    // In the directories of branches the branch itself is meant.
    let volume_own = inside.starts_with(".agentfs");
    Ok(Some(if volume_own { PathBuf::new() } else { inside.to_owned() }))
}

fn create(client: &Client, args: &ExecArgs) -> Result<String, Failure> {
    let from = match &args.from {
        Some(from) => from.clone().into_bytes(),
        None => match client.call(Whoami { pid: None })? {
            Response::Whoami(reply) => reply.branch,
            _ => return Err(unexpected()),
        },
    };
    match client.call(BranchCreate { from, name: Some(args.branch.clone().into()) })? {
        Response::BranchCreate(reply) => Ok(String::from_utf8_lossy(&reply.branch.id).into_owned()),
        _ => Err(unexpected()),
    }
}

/// Mounts that others do not see, and whose changes they do not get; as an ordinary user in a user namespace with one
/// user, the same as outside.
fn own_mounts() -> Result<(), Failure> {
    let (uid, gid) = (geteuid(), getegid());
    let alone = |flags| unshare(flags).map_err(|errno| io::Error::from_raw_os_error(errno as i32));
    let by_root = if uid.is_root() { alone(CloneFlags::CLONE_NEWNS) } else { Err(Errno::PERM.into()) };
    if by_root.is_err() {
        alone(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
            .map_err(|error| explain_namespaces(&error))?;
        let maps = [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("{0} {0} 1", uid.as_raw())),
            ("gid_map", format!("{0} {0} 1", gid.as_raw())),
        ];
        for (file, text) in maps {
            fs::write(format!("/proc/self/{file}"), text)
                .map_err(|error| Failure::io("a user namespace cannot be set up", &error))?;
        }
    }
    let private = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|errno| explain_mount(&errno.into()))
}

/// Puts the branch's directory where the volume is mounted. The whole volume goes to a place in it that is not listed,
/// so that further branches can be entered from inside. Without a directory the whole volume shows the branch.
fn show(place: &Path, directory: &str, see_branches: bool) -> io::Result<()> {
    let whole = if is_inside(place) { place.join(VOLUME) } else { place.to_owned() };
    let whole = rustix::fs::open(&whole, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let whole = PathBuf::from(format!("/proc/self/fd/{}", whole.as_raw_fd()));
    mount_bind(whole.join(".").join(directory), place)?;
    if directory.is_empty() {
        return Ok(());
    }
    if see_branches {
        mount_bind(whole.join(".agentfs"), place.join(".agentfs"))?;
    } else {
        mount_bind(whole.join("."), place.join(VOLUME))?;
    }
    Ok(())
}

fn setting(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok().map(|text| text.trim().to_owned())
}

/// Why this machine gives no namespaces, and what to do.
fn explain_namespaces(error: &io::Error) -> Failure {
    let is = |name: &str, value: &str| setting(name).as_deref() == Some(value);
    let sentence = if is("user/max_user_namespaces", "0") {
        "this machine allows no user namespaces: let root run sysctl -w user.max_user_namespaces=15000, or run this as root"
    } else if is("kernel/unprivileged_userns_clone", "0") {
        "this machine allows user namespaces to root alone: let root run sysctl -w kernel.unprivileged_userns_clone=1, \
         or run this as root"
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor forbids user namespaces here: let root run sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, \
         or run this as root"
    } else {
        "a process here may not have mounts of its own: run this as root, or give the container CAP_SYS_ADMIN; without \
         it, branch-bind works"
    };
    Failure::io(sentence, error)
}

fn explain_mount(error: &io::Error) -> Failure {
    let restricted = setting("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1");
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ACCESS | Errno::PERM) if restricted && !geteuid().is_root() => explain_namespaces(error),
        _ => Failure::io("the branch cannot be mounted", error),
    }
}

/// Runs the command in a process of its own, hands signals on to it, and deletes the branch when it has ended.
fn run_and_delete(client: &Client, args: &ExecArgs) -> Result<Output, Failure> {
    let branch = if args.create { create(client, args)? } else { args.branch.clone() };
    let mut words: Vec<OsString> = ["--mount".into(), client.volume().into(), "branch-exec".into()].into();
    words.extend(["--branch".into(), branch.clone().into()]);
    words.extend(args.see_branches.then(|| "--see-branches".into()));
    words.push("--".into());
    words.extend(args.command.iter().cloned());
    let cannot = |error: io::Error| Failure::io("the command cannot be started", &error);
    let signals = Signals::new([SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGINT, SIGQUIT]).map_err(cannot)?;
    let child = Command::new("/proc/self/exe").args(words).spawn().map_err(cannot)?;
    let status =
        wait(child, signals).map_err(|error| Failure::io("the command cannot be waited for", &error))?;
    let deleted = client.call(BranchDelete { branch: branch.clone().into(), force: true });
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    let code = u8::try_from(code).unwrap_or(1);
    match deleted {
        Ok(_) => Ok(Output::exit(code)),
        Err(failure) => Err(Failure::new(format!("the branch {branch:?} stays: {failure}")).or_exit(code)),
    }
}

/// Waits for the command, and hands on what it is sent.
fn wait(mut child: Child, mut signals: Signals) -> io::Result<ExitStatus> {
    let pid = rustix::process::Pid::from_child(&child);
    let handle = signals.handle();
    let relay = std::thread::spawn(move || {
        for signal in signals.forever() {
            // The terminal sends these to the command as well.
            let own = matches!(signal, SIGINT | SIGQUIT);
            if let Some(signal) = rustix::process::Signal::from_named_raw(signal).filter(|_| !own) {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    });
    let status = child.wait();
    handle.close();
    let _ = relay.join();
    status
}
