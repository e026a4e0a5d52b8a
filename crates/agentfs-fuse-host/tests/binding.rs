//! One path, many branches: bound processes, and those that live in branches, see their own and nothing else.
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
use std::process::Command;

use agentfs_proto::Response;
use agentfs_proto::request::{BranchBind, BranchDelete, BranchUnbind, Whoami};
use support::agents::{Agent, assert_each_fails_when_nobody_is_bound, assert_none, cli_of, has_python, told};
use support::{Volume, can_mount, code};

const BRANCHES: [&str; 3] = ["a", "b", "c"];

/// A volume with what `prepare` makes, and three branches of it.
fn diverging() -> Option<Volume> {
    if !can_mount() || !has_python() {
        return None;
    }
    let v = Volume::mount();
    let mut main = Agent::start(&v.root());
    main.value(&format!("prepare({:?})", v.root()));
    for branch in BRANCHES {
        v.grow_branch("main", branch);
    }
    Some(v)
}

fn others(tag: &str) -> Vec<&str> {
    BRANCHES.into_iter().filter(|other| *other != tag).collect()
}

/// All change the same paths at the same time, then each finds its own, again and again.
fn diverge_and_verify(v: &Volume, mut agents: Vec<Agent>) {
    let root = v.root();
    for (number, (agent, tag)) in (1..).zip(agents.iter_mut().zip(BRANCHES)) {
        agent.tell(&format!("diverge({root:?}, {tag:?}, {number})"));
    }
    agents.iter_mut().for_each(|agent| assert!(agent.answered().is_null()));
    for _ in 0..20 {
        for (number, (agent, tag)) in (1..).zip(agents.iter_mut().zip(BRANCHES)) {
            agent.tell(&format!("verify({root:?}, {tag:?}, {number}, {:?})", others(tag)));
        }
        let mut main = Agent::start(&root);
        assert_none(&main.value(&format!("verify_main({root:?}, {BRANCHES:?})")));
        agents.iter_mut().for_each(|agent| assert_none(&agent.answered()));
    }
}

#[test]
fn three_bound_processes_diverge_in_everything_at_the_same_paths() {
    let Some(v) = diverging() else { return };
    let agents = BRANCHES.map(|branch| Agent::bound(&v, branch, &v.root()));
    diverge_and_verify(&v, agents.into());
}

#[test]
fn bound_processes_and_those_that_live_in_branches_diverge_too() {
    let Some(v) = diverging() else { return };
    let agents = vec![
        Agent::bound(&v, "a", &v.root()),
        Agent::enter(&v, "b", &v.root()),
        Agent::bound(&v, "c", &v.root()),
    ];
    diverge_and_verify(&v, agents);
    // The branch's own directory shows the same as its processes see.
    let mut fixed = Agent::start(&v.root());
    assert_none(&fixed.value(&format!("verify({:?}, 'a', 1, ['b', 'c'])", v.branch("a"))));
}

#[test]
fn a_binding_takes_effect_at_once_and_everywhere() {
    let Some(v) = diverging() else { return };
    let mut agent = Agent::start(&v.path("d"));
    // Everything is in the kernel's cache as main has it.
    for _ in 0..3 {
        agent.value("[read(n) for n in os.listdir('.') if n != 'sub'] and os.stat('sub').st_mode");
        assert_eq!(agent.value("missing('new') and missing('../new')"), true);
    }
    fs::write(v.branch("a").join("d/over"), "of a").unwrap();
    fs::write(v.branch("a").join("d/new"), "new in a").unwrap();
    fs::write(v.branch("b").join("d/new"), "new in b").unwrap();
    fs::remove_file(v.branch("a").join("d/app")).unwrap();
    agent.bind(&v, "a");
    assert_eq!(agent.text("read('over')"), "of a");
    assert_eq!(agent.text("read('new')"), "new in a");
    assert_eq!(agent.value("missing('app')"), true);
    assert_eq!(agent.value("'new' in os.listdir('.') and 'app' not in os.listdir('.')"), true);
    assert_eq!(agent.text("os.getcwd()"), v.path("d").to_str().unwrap());
    agent.bind(&v, "b");
    assert_eq!(agent.text("read('new')"), "new in b");
    assert_eq!(agent.value("missing('app')"), false);
    agent.value("write('mine', 'b')");
    assert_eq!(fs::read_to_string(v.branch("b").join("d/mine")).unwrap(), "b");
    // Back to main.
    assert!(matches!(v.ask(BranchUnbind { pid: Some(agent.pid()) }), Response::BranchUnbind(_)));
    assert_eq!(agent.value("missing('new') and missing('mine')"), true);
    assert_eq!(code(&v.ask(BranchUnbind { pid: Some(agent.pid()) })), libc::EINVAL);
    // A directory that the branch does not have.
    agent.value("os.mkdir('../of-main', 0o711)");
    agent.value("os.chdir('../of-main')");
    agent.bind(&v, "a");
    assert_eq!(agent.errno("read('x')"), i64::from(libc::ENOENT));
    assert_eq!(agent.errno("write('x', 'x')"), i64::from(libc::ENOENT));
    assert_eq!(
        agent.value("[os.stat('.').st_mode & 0o777, os.stat('.').st_mtime]"),
        serde_json::json!([0o777, 0.0])
    );
    agent.value("os.mkdir('../of-main')");
    agent.value("write('x', 'of a')");
    assert!(!v.path("of-main/x").exists());
    assert_eq!(fs::read_to_string(v.branch("a").join("of-main/x")).unwrap(), "of a");
}

#[test]
fn a_directory_keeps_its_number_whatever_others_do_at_its_path() {
    let Some(v) = diverging() else { return };
    let root = v.root();
    let mut a = Agent::bound(&v, "a", &root);
    let mut b = Agent::bound(&v, "b", &root);
    // The kernel knows it as b's; a's differs from that, and gets a node of its own.
    b.value("os.makedirs('t/in')");
    a.value("os.mkdir('t', 0o700)");
    a.value("os.mkdir('t/in')");
    let number = a.value("os.lstat('t').st_ino");
    a.value("os.chmod('t', 0o755)");
    assert_eq!(a.value("os.lstat('t').st_ino"), number);
    // Who is the first to be bound to a branch has the kernel forget what it knew.
    for branch in ["c", "a", "b", "c"] {
        drop(Agent::bound(&v, branch, &root));
        assert_eq!(a.value("os.lstat('t').st_ino"), number);
    }
    let shown = a.value(
        "[entry.stat(follow_symlinks=False).st_ino for entry in os.scandir('.') if entry.name == 't']",
    );
    assert_eq!(shown[0], number);
    assert_eq!(fs::metadata(v.branch("a").join("t")).unwrap().ino(), number.as_u64().unwrap());
    // Another makes, changes, moves and removes the same path all the while, and processes come and go.
    b.value("shutil.rmtree('t')");
    b.tell(&format!("unsettle({root:?}, 't', 3)"));
    a.tell("numbers_of('t', 3)");
    for round in 0..20 {
        drop(Agent::bound(&v, BRANCHES[round % 3], &root));
    }
    assert_eq!(a.answered(), serde_json::json!([number]));
    assert!(b.answered().as_u64().unwrap() > 10);
    assert_eq!(a.value("os.lstat('t/in').st_mode & 0o777"), 0o755);
}

fn whoami(v: &Volume, pid: u32) -> (String, String, Option<u32>) {
    match v.ask(Whoami { pid: Some(pid) }) {
        Response::Whoami(reply) => (
            String::from_utf8(reply.name.unwrap()).unwrap(),
            String::from_utf8(reply.reason).unwrap(),
            reply.of,
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn descendants_see_the_branch_whatever_becomes_of_their_parents() {
    let Some(v) = diverging() else { return };
    for branch in BRANCHES {
        fs::write(v.branch(branch).join("tag"), branch).unwrap();
    }
    let mut agent = Agent::start(&v.root());
    // Started before its ancestor is bound.
    agent.value("early = subprocess.Popen(['sh', '-c', 'read x; cat tag'], stdin=-1, stdout=-1)");
    agent.bind(&v, "b");
    assert_eq!(agent.text("early.communicate(b'\\n')[0].decode()"), "b");
    let sh = "subprocess.run(['sh', '-c', 'cat tag; (cat tag; sh -c \"cat tag\")'], capture_output=True)";
    assert_eq!(agent.text(&format!("{sh}.stdout.decode()")), "bbb");
    // Threads, one of them started before.
    agent.value("found = []; go = threading.Event()");
    agent.value("thread = threading.Thread(target=lambda: (go.wait(), found.append(read('tag'))))");
    agent.value("thread.start()");
    agent.value("go.set(); thread.join()");
    agent.value(
        "more = threading.Thread(target=lambda: found.append(read('tag'))); more.start(); more.join()",
    );
    assert_eq!(agent.value("found"), serde_json::json!(["b", "b"]));
    // Forked twice, with a session of its own and parents that are dead.
    let daemon = "
import os, time
def daemon(out):
    r, w = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(r)
            while os.getppid() not in (1, int(open('/proc/self/stat').read().split()[3])) : pass
            time.sleep(0.05)
            os.write(w, open('tag').read().encode() + b' ' + str(os.getppid()).encode())
            os._exit(0)
        os._exit(0)
    os.close(w)
    os.wait()
    return os.read(r, 100).decode()
";
    agent.value(daemon);
    for _ in 0..50 {
        let told = agent.text("daemon(None)");
        assert!(told.starts_with("b "), "{told}");
        assert_ne!(told, format!("b {}", agent.pid()), "it has lost its parent");
    }
    // And when the process that was bound is dead as well.
    agent.value("left = subprocess.Popen(['sh', '-c', 'setsid sleep 30 & echo $!'], stdout=-1)");
    let left: u32 = agent.text("left.stdout.readline().decode().strip()").parse().unwrap();
    assert_eq!(whoami(&v, agent.pid()), ("b".into(), "bound".into(), Some(agent.pid())));
    let of = Some(agent.pid());
    drop(agent);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(whoami(&v, left), ("b".into(), "inherited".into(), of));
    assert_eq!(code(&v.ask(BranchDelete { branch: "b".into(), force: true })), libc::EBUSY);
    let _ = Command::new("kill").arg(left.to_string()).status();
    // With the last of them the binding ends.
    let begun = std::time::Instant::now();
    while matches!(v.ask(BranchDelete { branch: "b".into(), force: true }), Response::Error(_)) {
        assert!(begun.elapsed().as_secs() < 20, "the binding does not end");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(whoami(&v, std::process::id()), ("main".into(), "default".into(), None));
}

#[test]
fn ten_thousand_children_see_the_right_branch() {
    let Some(v) = diverging() else { return };
    for branch in BRANCHES {
        fs::write(v.branch(branch).join("tag"), branch).unwrap();
    }
    fs::write(v.path("tag"), "main").unwrap();
    let children = "
def children(expected, count):
    wrong = 0
    for n in range(count):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if read('tag') == expected else 1)
        wrong += os.waitpid(pid, 0)[1] != 0
    return wrong
";
    let mut agents: Vec<(Agent, &str)> =
        BRANCHES.map(|branch| (Agent::bound(&v, branch, &v.root()), branch)).into();
    agents.push((Agent::start(&v.root()), "main"));
    for (agent, tag) in &mut agents {
        agent.value(children);
        agent.tell(&format!("children({tag:?}, 2500)"));
    }
    for (agent, _) in &mut agents {
        assert_eq!(agent.answered(), 0);
    }
}

/// Puts a process that is in no branch under a number that one in a branch has had.
#[test]
fn a_number_that_is_used_again_inherits_nothing() {
    let Some(v) = diverging() else { return };
    if !support::is_root("a small range of process numbers") {
        return;
    }
    fs::write(v.branch("a").join("tag"), "a").unwrap();
    fs::write(v.path("tag"), "main").unwrap();
    // In a pid namespace of their own numbers come round soon; what is bound and what is not take turns.
    let turns = format!(
        "mount -t proc proc /proc; echo 400 > /proc/sys/kernel/pid_max; cd {root}
         for n in $(seq 300); do [ $(cat tag) = main ] || echo wrong; done; echo done",
        root = v.root().display()
    );
    let mut outside = Command::new("unshare");
    outside.args(["--pid", "--fork", "--mount", "sh", "-c", &turns]);
    let unbound = std::thread::spawn(move || told(&mut outside));
    let mut agent = Agent::bound(&v, "a", &v.root());
    let bound = format!(
        "subprocess.run(['unshare', '--pid', '--fork', '--mount', 'sh', '-c', {:?}], capture_output=True).stdout.decode()",
        turns.replace("= main", "= a")
    );
    assert_eq!(agent.text(&bound), "done\n");
    assert_eq!(unbound.join().unwrap(), (true, "done\n".to_owned()));
}

#[test]
fn who_may_bind_whom_and_what_is_wrong_is_said() {
    let Some(v) = diverging() else { return };
    let agent = Agent::start(&v.root());
    let refused = |branch: &str, pid: u32, errno: i32, sentence: &str| match v
        .ask(BranchBind { branch: branch.into(), pid: Some(pid) })
    {
        Response::Error(error) => {
            let told = String::from_utf8(error.error).unwrap();
            assert_eq!(error.code, Some(errno as u32), "{told}");
            assert!(told.contains(sentence), "{told}");
        }
        other => panic!("{other:?}"),
    };
    refused("nowhere", agent.pid(), libc::ENOENT, "nowhere");
    refused("a", 4_000_000, libc::ENOENT, "4000000");
    let inside = Agent::enter(&v, "b", &v.root());
    refused("a", inside.pid(), libc::EPERM, "branch-exec");
    // Without a number the shell that called the command line is bound.
    let script = format!(
        "{cli} --mount {root} branch-bind --branch a && {cli} --mount {root} whoami && \
         {cli} --mount {root} branch-unbind && {cli} --mount {root} whoami",
        cli = support::agents::cli().display(),
        root = v.root().display()
    );
    let (done, said) = told(Command::new("sh").args(["-c", &script]));
    let lines: Vec<&str> = said.lines().collect();
    assert!(done, "{said}");
    assert_eq!((lines[0], lines[2]), ("BRANCH_BIND_OK", "BRANCH_UNBIND_OK"));
    assert!(lines[1].contains("\ta\tinherited\t"), "{said}");
    assert!(lines[3].contains("\tmain\tdefault\t-"), "{said}");
    // What is bound or lived in cannot be deleted, and shows in the status.
    assert_eq!(code(&v.ask(BranchDelete { branch: "b".into(), force: true })), libc::EBUSY);
    let (_, status) = told(cli_of(&v).arg("status"));
    assert!(status.contains(&format!("PROCESS\t{}\tb\texec\t", inside.pid())), "{status}");
    let (stopped, said) = told(cli_of(&v).arg("stop"));
    assert!(!stopped && said.contains(&inside.pid().to_string()) && said.contains("--force"), "{said}");
}

/// What was told of a branch's own directory while nobody was bound does not count later.
#[test]
fn a_directory_of_a_branchs_own_shows_nothing_of_main_after_binding_again() {
    let Some(v) = diverging() else { return };
    fs::write(v.branch("a").join("d/over"), "of a").unwrap();
    fs::create_dir(v.path("many")).unwrap();
    for n in 0..1500 {
        fs::write(v.path(&format!("many/{n}")), "").unwrap();
    }
    let mut agent = Agent::bound(&v, "a", &v.root());
    agent.value("os.chmod('d', 0o711) or os.chdir('d')");
    assert_eq!(agent.text("read('over')"), "of a");
    assert!(matches!(v.ask(BranchUnbind { pid: Some(agent.pid()) }), Response::BranchUnbind(_)));
    assert!(agent.text("read('over')").starts_with("main over"));
    assert_eq!(agent.value("missing('new')"), true);
    agent.value("[os.stat(f'../many/{n}').st_size for n in range(1500)] and None");
    fs::write(v.branch("a").join("d/new"), "new in a").unwrap();
    agent.bind(&v, "a");
    assert_eq!(agent.text("read('over')"), "of a");
    assert_eq!(agent.text("read('new')"), "new in a");
    assert_eq!(agent.text(&format!("read({:?})", v.path("d/over"))), "of a");
    agent.value("write('over', 'again')");
    assert!(fs::read_to_string(v.path("d/over")).unwrap().starts_with("main over"));
}

fn unbind(v: &Volume, agent: &Agent) {
    assert!(matches!(v.ask(BranchUnbind { pid: Some(agent.pid()) }), Response::BranchUnbind(_)));
}

/// A descriptor that was opened before anybody was bound reads from the kernel's cache of the listing, and fills it.
#[test]
fn a_listing_through_an_old_descriptor_is_the_own_branchs() {
    let Some(v) = diverging() else { return };
    fs::write(v.branch("a").join("d/of-a"), "").unwrap();
    fs::write(v.branch("b").join("d/of-b"), "").unwrap();
    let mut agents: Vec<Agent> = (0..4).map(|_| Agent::start(&v.path("d"))).collect();
    for agent in &mut agents {
        agent.value("globals().update(fd=os.open('.', os.O_RDONLY)) or len(os.listdir(fd))");
    }
    let list = "[n for n in os.listdir(fd) if n.startswith('of-')]";
    let branches = [None, Some("a"), Some("b"), None];
    for (agent, branch) in agents.iter().zip(branches) {
        branch.into_iter().for_each(|branch| agent.bind(&v, branch));
    }
    let own = |branch: Option<&str>| branch.map_or_else(Vec::new, |branch| vec![format!("of-{branch}")]);
    for round in 0..50 {
        for (agent, branch) in agents.iter_mut().zip(branches) {
            assert_eq!(agent.value(list), serde_json::json!(own(branch)), "round {round}");
        }
    }
    // All at the same time, and when they are in main again.
    let often = format!("[{list} for _ in range(1000)]");
    agents.iter_mut().for_each(|agent| agent.tell(&often));
    for (agent, branch) in agents.iter_mut().zip(branches) {
        assert_eq!(agent.answered(), serde_json::json!(vec![own(branch); 1000]));
    }
    for (agent, _) in agents.iter().zip(branches).filter(|(_, branch)| branch.is_some()) {
        unbind(&v, agent);
    }
    let mut late = Agent::start(&v.path("d"));
    assert_eq!(late.value("[n for n in os.listdir('.') if n.startswith('of-')]"), serde_json::json!([]));
    for agent in &mut agents {
        assert_eq!(agent.value(list), serde_json::json!([]));
    }
}

#[test]
fn who_stands_in_a_directory_goes_on_to_stand_in_it() {
    let Some(v) = diverging() else { return };
    let mut main = Agent::start(&v.path("d"));
    let mut agent = Agent::bound(&v, "a", &v.root());
    // Another mode, where no other branch has the directory.
    agent.value("os.mkdir('z') or os.chdir('z')");
    main.value("os.mkdir('q') or os.chdir('q')");
    for (agent, name) in [(&mut agent, "z"), (&mut main, "d/q")] {
        agent.value("os.chmod('.', 0o700)");
        assert_eq!(agent.text("os.getcwd()"), v.path(name).to_str().unwrap());
        assert_eq!(agent.value("os.stat('.').st_mode & 0o777"), 0o700);
    }
    agent.value("os.mkdir('../d/q', 0o711)");
    assert_eq!(agent.value("os.stat('../d/q').st_mode & 0o777"), 0o711);
    assert_eq!(main.value("os.stat('.').st_mode & 0o777"), 0o700);
    // Moved away, with another made in its place.
    agent.value("os.chdir('../d') or os.rename('../d', '../d.old') or os.mkdir('../d')");
    agent.value("write('here', 'still')");
    let branch = v.branch("a");
    assert_eq!(fs::read_to_string(branch.join("d.old/here")).unwrap(), "still");
    assert!(!branch.join("d/here").exists() && !v.path("d/here").exists());
}

/// A directory that main moved while another process of main stood in it, and somebody was bound.
#[test]
fn a_directory_that_is_known_twice_shows_the_same_when_nobody_is_bound_any_more() {
    let Some(v) = diverging() else { return };
    let mut stands = Agent::start(&v.path("d"));
    let mut moves = Agent::start(&v.root());
    let mut agent = Agent::bound(&v, "a", &v.root());
    agent.value("os.stat('d').st_mode");
    moves.value("os.rename('d', 'e')");
    agent.value("write('d/of-a', '')");
    unbind(&v, &agent);
    for n in 0..20 {
        assert_eq!(stands.value(&format!("missing('x{n}')")), true);
        moves.value(&format!("write('e/x{n}', 'x')"));
        assert_eq!(stands.text(&format!("read('x{n}')")), "x");
        stands.value(&format!("os.rename('x{n}', 'y{n}')"));
        assert_eq!(moves.value(&format!("missing('e/x{n}') and not missing('e/y{n}')")), true);
    }
}

#[test]
fn threads_are_bound_when_their_process_has_lost_its_first() {
    let Some(v) = diverging() else { return };
    fs::write(v.branch("a").join("tag"), "a").unwrap();
    fs::write(v.path("tag"), "main").unwrap();
    let outside = tempfile::tempdir().unwrap();
    let log = outside.path().join("log");
    let mut agent = Agent::bound(&v, "a", &v.root());
    agent.value(&format!(
        "
def go_on():
    for n in range(60):
        write({log:?}, read({tag:?}) + ' ', 'a')
        time.sleep(0.1)
    write({log:?}, 'end', 'a')
",
        tag = v.path("tag")
    ));
    agent.value("threading.Thread(target=go_on).start()");
    // The first thread ends, not the process.
    agent.tell("ctypes.CDLL(None).syscall(60, 0)");
    let begun = std::time::Instant::now();
    let seen = loop {
        let seen = fs::read_to_string(&log).unwrap_or_default();
        if seen.ends_with("end") {
            break seen;
        }
        assert!(begun.elapsed().as_secs() < 60, "{seen}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert_eq!(seen, "a ".repeat(60) + "end");
}

#[test]
fn a_process_that_is_bound_in_one_volume_is_refused_by_another_and_stays_where_it_is() {
    let Some(v) = diverging() else { return };
    let other = Volume::mount();
    other.grow_branch("main", "x");
    fs::write(v.branch("a").join("tag"), "a").unwrap();
    let mut agent = Agent::bound(&v, "a", &v.root());
    let answer = other.ask(BranchBind { branch: "x".into(), pid: Some(agent.pid()) });
    assert_eq!(code(&answer), libc::EPERM);
    assert_eq!(agent.text("read('tag')"), "a");
}

#[test]
fn each_test_here_fails_when_nobody_is_bound() {
    assert_each_fails_when_nobody_is_bound(&[
        "three_bound_processes_diverge_in_everything_at_the_same_paths",
        "bound_processes_and_those_that_live_in_branches_diverge_too",
        "a_binding_takes_effect_at_once_and_everywhere",
        "descendants_see_the_branch_whatever_becomes_of_their_parents",
        "ten_thousand_children_see_the_right_branch",
        "a_number_that_is_used_again_inherits_nothing",
        "a_directory_of_a_branchs_own_shows_nothing_of_main_after_binding_again",
        "threads_are_bound_when_their_process_has_lost_its_first",
        "a_listing_through_an_old_descriptor_is_the_own_branchs",
        "who_stands_in_a_directory_goes_on_to_stand_in_it",
        "a_process_that_is_bound_in_one_volume_is_refused_by_another_and_stays_where_it_is",
    ]);
}
