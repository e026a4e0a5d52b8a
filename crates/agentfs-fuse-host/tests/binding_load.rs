//! Bound processes under load: stress, real programs, mounts inside, restarts of the daemon, snapshots.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::agents::{Agent, assert_each_fails_when_nobody_is_bound, assert_none, has_python};
use support::{Volume, can_mount, is_root, run};

fn seconds(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number of seconds"))
}

/// Eight processes in four branches, two of which are only lived in, do all there is to the same paths.
#[test]
fn eight_processes_in_four_branches_leak_nothing() {
    if !can_mount() || !has_python() {
        return;
    }
    let v = Volume::mount();
    for n in 0..3 {
        fs::create_dir(v.path(&format!("d{n}"))).unwrap();
    }
    let branches = ["a", "b", "c", "d"];
    for branch in branches {
        v.grow_branch("main", branch);
    }
    let mut workers = Vec::new();
    for (at, branch) in branches.iter().enumerate() {
        for number in 0..2 {
            let mut agent = match at {
                0 | 1 => Agent::bound(&v, branch, &v.root()),
                _ => Agent::enter(&v, branch, &v.root()),
            };
            let seed = at * 2 + number;
            agent.value(&format!("worker = Worker({:?}, {branch:?}, {number}, {seed})", v.root()));
            workers.push(agent);
        }
    }
    workers.iter_mut().for_each(|agent| {
        agent.value("worker.start()");
    });
    let length = seconds("AGENTFS_STRESS_SECONDS", 60);
    workers.iter_mut().for_each(|agent| agent.tell(&format!("worker.run({length})")));
    let steps: u64 = workers.iter_mut().map(|agent| agent.answered().as_u64().unwrap()).sum();
    println!("{steps} steps in {length} s");
    for agent in &mut workers {
        assert_none(&agent.value("worker.finish()"));
    }
    // The branches' own directories agree.
    for (at, branch) in branches.iter().enumerate() {
        for number in 0..2 {
            let files = workers[at * 2 + number].value("worker.files");
            for (name, text) in files.as_object().unwrap() {
                assert_eq!(fs::read_to_string(v.branch(branch).join(name)).unwrap(), text.as_str().unwrap());
            }
        }
    }
    for n in 0..3 {
        assert_eq!(fs::read_dir(v.path(&format!("d{n}"))).unwrap().count(), 0, "main has nothing of it");
    }
    assert!(steps > 1000, "only {steps}");
}

/// Directories are listed, made and looked up, and files written, all at once and in several branches: nobody waits for
/// somebody who waits for him.
#[test]
fn listing_looking_up_and_writing_at_the_same_time_goes_on() {
    if !can_mount() || !has_python() {
        return;
    }
    let v = Volume::mount();
    for n in 0..100 {
        fs::create_dir_all(v.path(&format!("big/d{n}"))).unwrap();
    }
    fs::create_dir(v.path("w")).unwrap();
    for branch in ["a", "b"] {
        v.grow_branch("main", branch);
    }
    let work = "
def work(root, what, n, seconds):
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        rounds += 1
        if what == 'list': os.listdir(f'{root}/big')
        elif what == 'write': write(f'{root}/w/x{n}', 'x'); os.unlink(f'{root}/w/x{n}')
        elif what == 'look': [os.stat(f'{root}/big/d{k}') for k in range(100)]
        else: os.mkdir(f'{root}/big/new{n}'); os.rmdir(f'{root}/big/new{n}')
    return rounds
";
    let whats = ["list", "write", "look", "make", "list", "write", "look", "make"];
    let mut agents: Vec<Agent> = Vec::new();
    for (n, branch) in [None, Some("a"), None, Some("b"), Some("a"), None, Some("b"), None].iter().enumerate()
    {
        let mut agent = match branch {
            Some(branch) => Agent::bound(&v, branch, Path::new("/")),
            None => Agent::start(Path::new("/")),
        };
        agent.value(work);
        agent.tell(&format!("work({:?}, {:?}, {n}, 8)", v.root(), whats[n]));
        agents.push(agent);
    }
    for (agent, what) in agents.iter_mut().zip(whats) {
        let rounds = agent.answered();
        println!("{what}: {rounds}");
        assert!(rounds.as_u64() > Some(20), "{what}: {rounds}");
    }
}

/// `getcwd` while others look up, create and remove below the same directory, and move or remove it itself.
#[test]
fn the_current_directory_holds_in_every_branch() {
    if !can_mount() || !has_python() {
        return;
    }
    let v = Volume::mount();
    fs::create_dir_all(v.path("here/deep")).unwrap();
    for branch in ["a", "b", "c"] {
        v.grow_branch("main", branch);
    }
    let deep = v.path("here/deep");
    let mut bound = Agent::bound(&v, "a", &deep);
    let mut lives = Agent::enter(&v, "b", &deep);
    let mut other = Agent::bound(&v, "c", &v.root());
    let getcwd = "
def getcwds(path, seconds):
    end, calls, failures = time.monotonic() + seconds, 0, []
    while time.monotonic() < end:
        for _ in range(100):
            calls += 1
            try:
                if os.getcwd() != path: failures.append(os.getcwd())
            except OSError as error:
                failures.append(str(error))
    return [calls, failures[:5], len(failures)]
";
    let below = "
def below(root, seconds):
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        n += 1
        os.stat(f'{root}/here/deep')
        os.listdir(f'{root}/here')
        os.mkdir(f'{root}/here/deep/x'); write(f'{root}/here/deep/x/f', 'x')
        os.unlink(f'{root}/here/deep/x/f'); os.rmdir(f'{root}/here/deep/x')
    return n
def itself(root, seconds):
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        n += 1
        os.rename(f'{root}/here', f'{root}/there'); os.rename(f'{root}/there', f'{root}/here')
        os.rmdir(f'{root}/here/deep'); os.mkdir(f'{root}/here/deep')
    return n
";
    bound.value(getcwd);
    lives.value(getcwd);
    other.value(below);
    let root = v.root();
    let calm = |agent: &mut Agent, what: &str| {
        let answer = agent.answered();
        println!("{what}: {answer}");
        assert_eq!(answer[2], 0, "{what}: {answer}");
    };
    for agent in [&mut bound, &mut lives] {
        agent.tell(&format!("getcwds({deep:?}, 2)"));
    }
    other.tell(&format!("below({root:?}, 2)"));
    calm(&mut bound, "bound, changes below");
    calm(&mut lives, "inside, changes below");
    println!("{} rounds below", other.answered());
    lives.tell(&format!("getcwds({deep:?}, 2)"));
    other.tell(&format!("itself({root:?}, 2)"));
    // In the common view a look-up of its owner heals it.
    bound.value(getcwd);
    for _ in 0..200 {
        bound.value(&format!("os.stat({deep:?})"));
        assert_eq!(bound.value("os.listdir('.')"), serde_json::json!([]));
    }
    calm(&mut lives, "inside, another branch moves it");
    println!("{} rounds with it", other.answered());
    bound.value(&format!("os.stat({deep:?})"));
    assert_eq!(bound.text("os.getcwd()"), deep.to_str().unwrap());
    bound.value("write('still', 'mine')");
    assert_eq!(fs::read_to_string(v.branch("a").join("here/deep/still")).unwrap(), "mine");
}

/// Two bound processes and one that is not, at one path at the same time.
#[test]
fn git_and_sqlite_and_cargo_work_in_three_branches_at_one_path() {
    if !can_mount() || !has_python() {
        return;
    }
    let v = Volume::mount();
    let repo = v.path("r");
    fs::create_dir_all(repo.join("src")).unwrap();
    run(&repo, "git", &["init", "-q", "."]);
    run(&repo, "git", &["config", "user.email", "a@b"]);
    run(&repo, "git", &["config", "user.name", "a"]);
    fs::write(
        repo.join("Cargo.toml"),
        "[package]\nname = \"tag\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
    )
    .unwrap();
    fs::write(repo.join("src/main.rs"), "fn main() {}\n").unwrap();
    fs::write(repo.join(".gitignore"), "target\ndb*\nCargo.lock\n").unwrap();
    run(&repo, "git", &["add", "-A"]);
    run(&repo, "git", &["commit", "-qm", "first"]);
    v.grow_branch("main", "a");
    v.grow_branch("main", "b");
    let work = "
import sqlite3
def sh(*words):
    done = subprocess.run(words, capture_output=True, timeout=200)
    assert done.returncode == 0, (words, done.stderr.decode())
    return done.stdout.decode()
def work(tag):
    write('src/main.rs', 'fn main() { println!(\"%s\"); }' % tag)
    db = sqlite3.connect('db')
    db.execute('PRAGMA journal_mode=WAL')
    db.execute('CREATE TABLE t(x)')
    for n in range(200):
        with db: db.execute('INSERT INTO t VALUES (?)', (tag + str(n),))
    for n in range(5):
        write(f'file-{n}', tag * (n + 1))
        sh('git', 'add', '-A'); sh('git', 'commit', '-qm', f'{tag} {n}')
    sh('cargo', 'build', '--offline', '-q')
    rows = [row[0] for row in db.execute('SELECT x FROM t')]
    return [sh('target/debug/tag').strip(), len([r for r in rows if r.startswith(tag)]), len(rows),
            sh('git', 'log', '--format=%s').split('\\n')[0], sh('git', 'rev-list', '--count', 'HEAD').strip(),
            sh('git', 'status', '--porcelain'), sh('git', 'fsck', '--strict'),
            [row[0] for row in db.execute('PRAGMA integrity_check')][0]]
";
    let mut agents = [Agent::bound(&v, "a", &repo), Agent::bound(&v, "b", &repo), Agent::start(&repo)];
    let tags = ["of-a", "of-b", "of-main"];
    for (agent, tag) in agents.iter_mut().zip(tags) {
        agent.value(work);
        agent.tell(&format!("work({tag:?})"));
    }
    for (agent, tag) in agents.iter_mut().zip(tags) {
        let expected = serde_json::json!([tag, 200, 200, format!("{tag} 4"), "6", "", "", "ok"]);
        assert_eq!(agent.answered(), expected);
    }
}

/// What is mounted inside the volume stays over bindings, and shows through for everybody.
#[test]
fn mounts_inside_live_through_binds_and_unbinds() {
    if !can_mount() || !has_python() || !is_root("mounting inside the volume") {
        return;
    }
    let v = Volume::mount();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "outside").unwrap();
    for name in ["bind", "tmp"] {
        fs::create_dir_all(v.path("d").join(name)).unwrap();
    }
    for branch in ["a", "b"] {
        v.grow_branch("main", branch);
    }
    let (bind, tmp) = (v.path("d/bind"), v.path("d/tmp"));
    run(outside.path(), "mount", &["--bind", outside.path().to_str().unwrap(), bind.to_str().unwrap()]);
    run(outside.path(), "mount", &["-t", "tmpfs", "none", tmp.to_str().unwrap()]);
    let checked = std::panic::catch_unwind(|| {
        fs::write(tmp.join("file"), "tmpfs").unwrap();
        for round in 0..10 {
            let mut agents = [Agent::bound(&v, "a", &v.root()), Agent::bound(&v, "b", &v.root())];
            for agent in &mut agents {
                for _ in 0..20 {
                    agent.value(&format!("write('d/own', '{round}') or os.listdir('d')"));
                    assert_eq!(agent.text("read('d/bind/file') + read('d/tmp/file')"), "outsidetmpfs");
                }
            }
            assert_eq!(fs::read_to_string(bind.join("file")).unwrap(), "outside");
            let pid = agents[0].pid();
            v.ask(agentfs_proto::request::BranchUnbind { pid: Some(pid) });
            assert_eq!(agents[0].text("read('d/tmp/file')"), "tmpfs");
            drop(agents);
            assert_eq!(fs::read_to_string(tmp.join("file")).unwrap(), "tmpfs");
        }
        assert!(!v.path("d/own").exists());
    });
    for mount in [&bind, &tmp] {
        let _ = Command::new("umount").arg("-l").arg(mount).output();
    }
    checked.unwrap();
}

/// A hundred bound processes write and read all the time while their daemon is killed and started again.
#[test]
fn a_hundred_bound_processes_never_see_main_over_restarts_of_the_daemon() {
    if !can_mount() || !has_python() || !is_root("covering a dead mount") {
        return;
    }
    let mut v = Volume::mount();
    fs::create_dir(v.path("d")).unwrap();
    fs::write(v.path("d/tag"), "main").unwrap();
    for branch in ["a", "b"] {
        v.grow_branch("main", branch);
        fs::write(v.branch(branch).join("d/tag"), branch).unwrap();
    }
    let flock = "
def member(root, tag, n, out):
    # Reads and writes by the path and from where it stands; errors are allowed while there is no daemon.
    wrong, reads, errors, last = 0, 0, 0, None
    end = time.monotonic() + 120
    while time.monotonic() < end and missing_outside(stop):
        try:
            os.chdir(f'{root}/d')
            wrong += read('tag') != tag
            reads += 1
            write(f'by-{tag}-{n}', tag)
            wrong += read(f'{root}/d/tag') != tag
        except OSError:
            errors += 1
        time.sleep(0.01)
    os.write(out, f'{wrong} {reads} {errors}\\n'.encode())
    os._exit(0)
def missing_outside(path):
    try:
        os.stat(path); return False
    except OSError:
        return True
def flock(root, tag, count):
    r, w = os.pipe()
    for n in range(count):
        if os.fork() == 0: member(root, tag, n, w)
    os.close(w)
    return r
def harvest(r):
    with os.fdopen(r) as file: lines = [tuple(map(int, line.split())) for line in file]
    return [len(lines)] + [sum(column) for column in zip(*lines)]
";
    let outside = tempfile::tempdir().unwrap();
    let stop = outside.path().join("stop");
    // Their own place is not in the volume: a process whose daemon is gone can still be asked.
    let mut agents = [Agent::start(outside.path()), Agent::start(outside.path())];
    for (agent, branch) in agents.iter_mut().zip(["a", "b"]) {
        agent.bind(&v, branch);
        agent.value(flock);
        agent.value(&format!("stop = {stop:?}"));
        agent.value(&format!("r = flock({:?}, {branch:?}, 50)", v.root()));
    }
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(700));
        v.kill();
        std::thread::sleep(Duration::from_millis(200));
        v.remount();
    }
    std::thread::sleep(Duration::from_secs(1));
    fs::write(&stop, "").unwrap();
    for agent in &mut agents {
        let told = agent.value("harvest(r)");
        println!("members, wrong, reads, errors: {told}");
        assert_eq!((told[0].as_u64(), told[1].as_u64()), (Some(50), Some(0)), "{told}");
        assert!(told[2].as_u64() > Some(500) && told[3].as_u64() > Some(0), "{told}");
    }
    let names = |root: &Path| {
        let entries = fs::read_dir(root.join("d")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names(&v.root()), ["tag"], "nothing was written to main");
    for (branch, other) in [("a", "by-b"), ("b", "by-a")] {
        let names = names(&v.branch(branch));
        assert_eq!(names.len(), 51, "{names:?}");
        assert!(!names.iter().any(|name| name.starts_with(other)), "{names:?}");
    }
}

/// Records that were published before a snapshot was asked for are in it, written or mapped.
#[test]
fn a_snapshot_holds_all_that_was_published_before_it() {
    if !can_mount() || !has_python() {
        return;
    }
    let v = Volume::mount();
    v.grow_branch("main", "a");
    let writer = "
import struct
def mapping(path):
    # The descriptor goes, the mapping stays.
    with open(path, 'r+b') as file: return mmap.mmap(file.fileno(), 0)
def work(path, files, records):
    # Half of the files are written, half are mapped.
    written = [open(f'{path}/w{n}', 'r+b', buffering=0) for n in range(files // 2)]
    mapped = [mapping(f'{path}/m{n}') for n in range(files // 2)]
    published = mapping(progress)
    for record in range(1, records):
        for file in written: os.pwrite(file.fileno(), struct.pack('<Q', record), record * 8)
        for file in mapped: file[record * 8 : record * 8 + 8] = struct.pack('<Q', record)
        published[:8] = struct.pack('<Q', record)
        time.sleep(0.0002)
        if not missing(progress + '.stop'): return record
    return record
";
    const RECORDS: u64 = 100_000;
    let outside = tempfile::tempdir().unwrap();
    let progress = outside.path().join("progress");
    fs::write(&progress, [0; 8]).unwrap();
    let names: Vec<String> = (0..5).flat_map(|n| [format!("w{n}"), format!("m{n}")]).collect();
    for name in &names {
        let file = fs::File::create(v.branch("a").join(name)).unwrap();
        file.set_len(RECORDS * 8).unwrap();
    }
    let mut agent = Agent::bound(&v, "a", &v.root());
    agent.value(writer);
    agent.value(&format!("progress = {progress:?}"));
    agent.tell(&format!("work({:?}, 10, {RECORDS})", v.root()));
    let published = || u64::from_le_bytes(fs::read(&progress).unwrap().try_into().unwrap());
    let begun = Instant::now();
    while published() == 0 {
        if begun.elapsed().as_secs() > 10 {
            panic!("the writer does not begin: {:#}", agent.answer());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let (mut slowest, mut checked) = (Duration::ZERO, 0);
    for n in 0..100 {
        let before = published();
        let begun = Instant::now();
        v.take_snapshot("a", &format!("s{n}"));
        slowest = slowest.max(begun.elapsed());
        for name in &names {
            let file = fs::File::open(v.snapshot(&format!("s{n}")).join(name)).unwrap();
            let first = before.saturating_sub(3000).max(1);
            let mut bytes = vec![0; (before + 1 - first) as usize * 8];
            file.read_exact_at(&mut bytes, first * 8).unwrap();
            let record =
                |at: u64| u64::from_le_bytes(bytes[(at - first) as usize * 8..][..8].try_into().unwrap());
            for at in first..=before {
                assert_eq!(record(at), at, "snapshot {n} lacks record {at} of {name}, published {before}");
                checked += 1;
            }
        }
    }
    println!("{checked} records checked up to {}; the slowest snapshot took {slowest:?}", published());
    fs::write(outside.path().join("progress.stop"), "").unwrap();
    assert!(agent.answered().as_u64().unwrap() < RECORDS - 1, "the writer was at work all the time");
}

#[test]
fn each_test_here_of_what_is_seen_fails_when_nobody_is_bound() {
    assert_each_fails_when_nobody_is_bound(&[
        "eight_processes_in_four_branches_leak_nothing",
        "the_current_directory_holds_in_every_branch",
        "git_and_sqlite_and_cargo_work_in_three_branches_at_one_path",
        "mounts_inside_live_through_binds_and_unbinds",
        "a_hundred_bound_processes_never_see_main_over_restarts_of_the_daemon",
        "a_snapshot_holds_all_that_was_published_before_it",
    ]);
}
