//! What branches change comes out of a volume and into it: `apply`, `export`, `import`, by the command line; also when they
//! are killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use agentfs_core::testing::Chance;
use support::agents::{cli_of, fails, succeeds};
use support::{Volume, can_mount, is_write_back, run};

struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    fn new() -> Project {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("project")).unwrap();
        Project { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("project").join(name)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("project")
    }

    fn mount(&self) -> Volume {
        Volume::mount_with(&["--lower", self.root().to_str().unwrap()], &[])
    }
}

/// What of a file is to be the same.
#[derive(Debug, PartialEq, Eq)]
struct Fact {
    bytes: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    xattr: Option<Vec<u8>>,
    /// The first path that leads to the same file.
    first: PathBuf,
}

fn facts(root: &Path) -> BTreeMap<PathBuf, Fact> {
    // A branch's name is a link.
    let root = &root.canonicalize().unwrap();
    let (mut found, mut open, mut inodes) = (BTreeMap::new(), vec![root.to_owned()], BTreeMap::new());
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let bytes = match meta.file_type() {
            kind if kind.is_file() => fs::read(&path).unwrap(),
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            kind if kind.is_dir() => {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                Vec::new()
            }
            _ => Vec::new(),
        };
        let mut value = vec![0; 100];
        let xattr = rustix::fs::lgetxattr(&path, "user.x", value.as_mut_slice()).ok();
        let first = inodes.entry(meta.ino()).or_insert_with(|| name.clone());
        if *first > name {
            *first = name.clone();
        }
        let mtime = if meta.is_symlink() { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
        let fact = Fact {
            bytes,
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            mtime,
            xattr: xattr.map(|len| value[..len].to_vec()),
            first: meta.ino().to_string().into(),
        };
        found.insert(name, fact);
    }
    for fact in found.values_mut() {
        let ino: u64 = fact.first.to_str().unwrap().parse().unwrap();
        fact.first = inodes[&ino].clone();
    }
    found
}

/// As [`facts`], but when directories changed.
fn files(root: &Path) -> BTreeMap<PathBuf, Fact> {
    let mut found = facts(root);
    for fact in found.values_mut().filter(|fact| fact.mode & libc::S_IFMT == libc::S_IFDIR) {
        fact.mtime = (0, 0);
    }
    found
}

fn assert_same(a: &BTreeMap<PathBuf, Fact>, b: &BTreeMap<PathBuf, Fact>, what: &str) {
    let differing: Vec<_> = a.keys().chain(b.keys()).filter(|path| a.get(*path) != b.get(*path)).collect();
    let shown = differing.first().map(|path| (a.get(*path), b.get(*path)));
    assert!(differing.is_empty(), "{what}: {differing:?}\n{shown:?}");
}

fn sample(at: &Path) {
    fs::write(at.join("a"), "a\n").unwrap();
    fs::write(at.join("gone"), "gone\n").unwrap();
    fs::write(at.join("script"), "#!/bin/sh\n").unwrap();
    fs::write(at.join("large"), vec![b'l'; 300_000]).unwrap();
    fs::create_dir_all(at.join("d/e")).unwrap();
    fs::hard_link(at.join("a"), at.join("d/hard")).unwrap();
    symlink("d/e", at.join("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let sparse = fs::File::create(at.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 3_000_000).unwrap();
    for n in 0..40 {
        fs::write(at.join(format!("d/e/{n}")), format!("{n}").repeat(500)).unwrap();
    }
    let _ = rustix::fs::setxattr(at.join("a"), "user.x", b"y", rustix::fs::XattrFlags::empty());
}

/// Changes of all kinds.
fn change(at: &Path) {
    fs::OpenOptions::new().append(true).open(at.join("a")).unwrap().write_all_at(b"more\n", 2).unwrap();
    fs::remove_file(at.join("gone")).unwrap();
    fs::set_permissions(at.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(at.join("d"), at.join("moved")).unwrap();
    fs::create_dir(at.join("new")).unwrap();
    fs::write(at.join("new/n"), "n").unwrap();
    symlink("nowhere", at.join("new/link")).unwrap();
    fs::write(at.join("draft"), "replaced as editors do").unwrap();
    fs::rename(at.join("draft"), at.join("large")).unwrap();
    fs::write(at.join("moved/e/7"), "seven").unwrap();
    fs::remove_file(at.join("moved/e/8")).unwrap();
    fs::remove_file(at.join("link")).unwrap();
    fs::create_dir(at.join("link")).unwrap();
    fs::write(at.join("link/was-a-link"), "").unwrap();
}

#[test]
fn a_branch_is_applied_to_the_directory_below_and_all_branches_stay_what_they_are() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    sample(&project.root());
    let mut v = project.mount();
    v.grow_branch("main", "b");
    v.grow_branch("main", "other");
    change(&v.branch("b"));
    let (b, other, before) = (facts(&v.branch("b")), facts(&v.branch("other")), facts(&project.root()));
    let planned = succeeds(&v, &["apply", "b", "--dry-run"]);
    for line in ["put\ta\n", "remove\tgone\n", "put\tscript\n", "put\tmoved\n", "remove\td\n", "put\tlink\n"]
    {
        assert!(planned.contains(line), "{line:?} in {planned}");
    }
    assert_same(&facts(&project.root()), &before, "a dry run");
    succeeds(&v, &["apply", "b"]);
    assert_same(&files(&project.root()), &files(&v.branch("b")), "the directory and the branch");
    assert!(succeeds(&v, &["apply", "b"]).contains("PUT=0\tREMOVED=0"));
    assert_same(&files(&v.root()), &files(&v.branch("b")), "main");
    for _ in 0..2 {
        assert_same(&facts(&v.branch("b")), &b, "the branch that was applied");
        assert_same(&facts(&v.branch("other")), &other, "another branch");
        assert!(v.terminate().success());
        v.remount();
    }
    let listed = succeeds(&v, &["snapshot-list"]);
    assert_eq!(listed, "", "it leaves no snapshot");
}

#[test]
fn what_others_changed_is_named_and_nothing_is_written() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    sample(&project.root());
    let v = project.mount();
    v.grow_branch("main", "b");
    change(&v.branch("b"));
    fs::write(project.path("a"), "theirs").unwrap();
    fs::write(project.path("d/e/9"), "theirs").unwrap();
    fs::remove_file(project.path("script")).unwrap();
    fs::create_dir(project.path("new")).unwrap();
    fs::write(project.path("new/n"), "theirs, and longer").unwrap();
    let before = facts(&project.root());
    let words = fails(&v, &["apply", "b"]);
    for path in ["a", "d/e/9", "script", "new/n"] {
        assert!(words.contains(&format!("refused\t{path}\t")), "{path} in {words}");
    }
    assert!(words.contains("nothing was written") && !words.contains("refused\tgone"), "{words}");
    assert_same(&facts(&project.root()), &before, "refused");
    assert_eq!(succeeds(&v, &["snapshot-list"]), "");
}

#[test]
fn a_branch_is_applied_to_a_copy_of_the_directory() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    sample(&project.root());
    let copy = tempfile::tempdir().unwrap();
    run(copy.path(), "cp", &["-a", &format!("{}/.", project.root().display()), "."]);
    let before = facts(&project.root());
    let v = project.mount();
    v.grow_branch("main", "b");
    change(&v.branch("b"));
    let to = copy.path().to_str().unwrap();
    fs::write(copy.path().join("gone"), "not as below").unwrap();
    assert!(fails(&v, &["apply", "b", "--to", to]).contains("refused\tgone"));
    fs::write(copy.path().join("gone"), "gone\n").unwrap();
    succeeds(&v, &["apply", "b", "--to", to]);
    assert_same(&files(copy.path()), &files(&v.branch("b")), "the copy");
    assert_same(&facts(&project.root()), &before, "the directory below");
}

#[test]
fn what_is_not_meant_for_others_is_left_out() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    sample(&project.root());
    let v = project.mount();
    v.grow_branch("main", "b");
    let b = v.branch("b");
    fs::write(b.join(".agentfsignore"), "target/\n*.log\n").unwrap();
    fs::create_dir_all(b.join("d/target/deep")).unwrap();
    fs::write(b.join("d/target/deep/x"), "").unwrap();
    fs::write(b.join("a.log"), "").unwrap();
    fs::write(b.join("kept"), "").unwrap();
    succeeds(&v, &["apply", "b"]);
    assert!(project.path("kept").exists() && project.path(".agentfsignore").exists());
    assert!(!project.path("d/target").exists() && !project.path("a.log").exists());
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    succeeds(&v, &["export", "b", "--dir", &at("some")]);
    succeeds(&v, &["export", "b", "--dir", &at("all"), "--all"]);
    assert!(!Path::new(&at("some/a.log")).exists() && Path::new(&at("all/d/target/deep/x")).exists());
    succeeds(&v, &["apply", "b", "--all"]);
    assert!(project.path("d/target/deep/x").exists() && project.path("a.log").exists());
}

#[test]
fn exports_are_what_was_exported_whoever_unpacks_them() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    sample(&v.root());
    v.take_snapshot("main", "s");
    change(&v.root());
    v.grow_branch("main", "b");
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    for (of, view) in [("s", v.snapshot("s")), ("b", v.branch("b")), ("main", v.root())] {
        let expected = facts(&view);
        let directory = at(&format!("{of}.d"));
        succeeds(&v, &["export", of, "--dir", &directory]);
        assert_same(&facts(Path::new(&directory)), &expected, of);
        let holes = fs::metadata(Path::new(&directory).join("sparse")).unwrap().blocks();
        assert!(is_write_back("SEEK_HOLE sees no holes") || holes < 200, "{holes} blocks");
        let tar = at(&format!("{of}.tar"));
        succeeds(&v, &["export", of, "--tar", &tar]);
        for (program, args) in [("tar", vec!["--xattrs", "-xpf"]), ("bsdtar", vec!["--xattrs", "-xpf"])] {
            if std::process::Command::new(program).arg("--version").output().is_err() {
                println!("SKIPPED: {program} is not installed");
                continue;
            }
            let place = at(&format!("{of}.by-{program}"));
            fs::create_dir(&place).unwrap();
            run(Path::new(&place), program, &[&args[..], &[&tar]].concat());
            let mut unpacked = facts(Path::new(&place));
            // The root is not in the archive.
            let root = facts(&view).remove(Path::new("")).unwrap();
            unpacked.insert(PathBuf::new(), root);
            assert_same(&unpacked, &expected, &format!("{of} by {program}"));
        }
    }
    assert!(fails(&v, &["export", "s", "--dir", &at("b.d")]).contains("is not empty"));
    assert!(fails(&v, &["export", "none", "--dir", &at("n")]).contains("none"));
    v.grow_branch("s", "imported");
    succeeds(&v, &["import", &at("b.d"), "--branch", "imported"]);
    let (imported, mut b) = (files(&v.branch("imported")), files(&v.branch("b")));
    for (path, fact) in facts(&v.branch("imported")) {
        let is_beside = path.starts_with("d") || path == Path::new("gone");
        let known = b.entry(path).or_insert(fact);
        assert!(is_beside || known.first != Path::new("gone"), "{known:?}");
    }
    for path in ["a", "moved/hard", "new/n", "large", "link/was-a-link"] {
        assert_eq!(imported[Path::new(path)].bytes, b[Path::new(path)].bytes, "{path}");
    }
}

/// Runs a command and kills it after a while.
fn killed(v: &Volume, args: &[&str], after: Duration) {
    killed_when(v, args, || true, after);
}

/// As [`killed`], from when something holds.
fn killed_when(v: &Volume, args: &[&str], holds: impl Fn() -> bool, after: Duration) {
    let mut child = cli_of(v).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !holds() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(after);
    let _ = child.kill();
    let _ = child.wait();
}

fn many(at: &Path, text: &str) {
    for n in 0..300 {
        fs::create_dir_all(at.join(format!("d{}", n % 10))).unwrap();
        fs::write(at.join(format!("d{}/{n}", n % 10)), format!("{text} {n}").repeat(30)).unwrap();
    }
}

#[test]
fn an_apply_that_is_killed_leaves_each_file_old_or_new_and_the_next_finishes() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let (mut chance, mut in_the_middle) = (Chance(1), 0);
    for round in 0..20 {
        let project = Project::new();
        sample(&project.root());
        many(&project.root(), "old");
        let v = project.mount();
        v.grow_branch("main", "b");
        let b = v.branch("b");
        change(&b);
        many(&b, "new");
        for n in (0..300).step_by(3) {
            fs::remove_file(b.join(format!("d{}/{n}", n % 10))).unwrap();
        }
        let (old, new) = (files(&project.root()), files(&b));
        let begun = || fs::read(project.path("a")).is_ok_and(|text| text != b"a\n");
        let soon = Duration::from_millis(1 + chance.below(if round % 2 == 0 { 150 } else { 40 }));
        killed_when(&v, &["apply", "b"], || round % 2 == 0 || begun(), soon);
        let now = files(&project.root());
        let mut counts = (0, 0);
        for (path, fact) in &now {
            let draft = path.starts_with(".agentfs-apply");
            // A directory may be without its attributes yet.
            if draft || fact.mode & libc::S_IFMT == libc::S_IFDIR {
                continue;
            }
            let is = |known: &BTreeMap<PathBuf, Fact>| {
                known.get(path).is_some_and(|known| (&known.bytes, known.mode) == (&fact.bytes, fact.mode))
            };
            assert!(is(&old) || is(&new), "{path:?} in round {round}: {fact:?}");
            counts.0 += u32::from(is(&old) && !is(&new));
            counts.1 += u32::from(is(&new) && !is(&old));
        }
        in_the_middle += u32::from(counts.0 > 0 && counts.1 > 0);
        // What is grown of what it left stays, too.
        v.take_snapshot("main", "left");
        v.grow_branch("left", "of-left");
        v.grow_branch("main", "of-main");
        let left = files(&v.snapshot("left"));
        succeeds(&v, &["apply", "b"]);
        for (whose, at) in [
            ("snapshot", v.snapshot("left")),
            ("branch", v.branch("of-left")),
            ("main's", v.branch("of-main")),
        ] {
            assert_same(&files(&at), &left, &format!("the {whose} of what was left, round {round}"));
        }
        assert_same(&files(&project.root()), &new, &format!("round {round}"));
        assert_same(&files(&v.branch("b")), &new, &format!("the branch, round {round}"));
    }
    println!("{in_the_middle} of 20 were killed in the middle");
    assert!(in_the_middle > 0, "none was killed in the middle");
}

#[test]
fn a_snapshot_that_is_taken_during_an_apply_is_of_before_or_of_after() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    many(&project.root(), "old");
    let v = project.mount();
    v.grow_branch("main", "b");
    let before = files(&v.root());
    many(&v.branch("b"), "new");
    let after = files(&v.branch("b"));
    let mut child = cli_of(&v).args(["apply", "b"]).stdout(Stdio::null()).spawn().unwrap();
    let mut taken = 0;
    while child.try_wait().unwrap().is_none() {
        v.take_snapshot("main", &format!("s{taken}"));
        v.grow_branch("main", &format!("d{taken}"));
        taken += 1;
        std::thread::sleep(Duration::from_millis(40));
    }
    assert!(child.wait().unwrap().success(), "{}", v.log());
    assert_same(&files(&project.root()), &after, "the directory");
    let mut counts = (0, 0);
    let taken = (0..taken).flat_map(|n| [v.snapshot(&format!("s{n}")), v.branch(&format!("d{n}"))]);
    for at in taken {
        let held: BTreeMap<_, _> =
            files(&at).into_iter().filter(|(path, _)| !path.starts_with(".agentfs-apply")).collect();
        if held.values().map(|fact| &fact.bytes).eq(before.values().map(|fact| &fact.bytes)) {
            counts.0 += 1;
            assert_same(&held, &before, "of before");
        } else {
            counts.1 += 1;
            assert_same(&held, &after, "of after");
        }
    }
    println!("{} of before, {} of after", counts.0, counts.1);
    assert!(counts.0 > 0, "none was taken before");
}

#[test]
fn an_export_and_an_import_that_are_killed_are_finished_by_the_next() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    sample(&v.root());
    many(&v.root(), "text");
    v.take_snapshot("main", "s");
    let expected = facts(&v.snapshot("s"));
    let mut chance = Chance(2);
    for round in 0..20 {
        let out = tempfile::tempdir().unwrap();
        let (directory, tar) = (out.path().join("d"), out.path().join("t.tar"));
        let (to, tar_to) = (directory.to_str().unwrap(), tar.to_str().unwrap());
        killed(&v, &["export", "s", "--dir", to], Duration::from_millis(3 + chance.below(60)));
        killed(&v, &["export", "s", "--tar", tar_to], Duration::from_millis(3 + chance.below(60)));
        if directory.exists() && !out.path().join(".d.agentfs-export").exists() {
            fs::remove_dir_all(&directory).unwrap(); // it was finished
        }
        assert!(!tar.exists() || fs::metadata(&tar).unwrap().len() > 100_000, "half an archive");
        succeeds(&v, &["export", "s", "--dir", to]);
        assert_same(&facts(&directory), &expected, &format!("round {round}"));
        succeeds(&v, &["export", "s", "--tar", tar_to]);
        let branch = format!("b{round}");
        v.grow_branch("s", &branch);
        run(&directory, "sh", &["-c", "for f in d1/*; do echo changed > $f; done"]);
        killed(&v, &["import", to, "--branch", &branch], Duration::from_millis(3 + chance.below(60)));
        succeeds(&v, &["import", to, "--branch", &branch]);
        assert_same(&facts(&v.branch(&branch)), &facts(&directory), &format!("imported, round {round}"));
    }
}

/// What a branch shows, each line "path: content".
fn shown(root: &Path) -> String {
    let found = facts(root);
    let is_file = |fact: &&Fact| fact.mode & libc::S_IFMT == libc::S_IFREG;
    let lines = found.iter().filter(|(_, fact)| is_file(fact)).map(|(path, fact)| {
        let bytes: String = String::from_utf8_lossy(&fact.bytes).chars().take(20).collect();
        format!("{}: {bytes}", path.display())
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A branch that changes the directory below by `change`, another that has changed it by `other`, and a snapshot: all are what
/// they were after the first was applied, and after a remount.
fn stays(fill: impl Fn(&Path), change: impl Fn(&Path), other: impl Fn(&Path)) {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    fill(&project.root());
    let mut v = project.mount();
    v.take_snapshot("main", "before");
    v.grow_branch("main", "b");
    v.grow_branch("main", "untouched");
    v.grow_branch("main", "other");
    change(&v.branch("b"));
    other(&v.branch("other"));
    let all = |v: &Volume| {
        [v.branch("b"), v.branch("untouched"), v.branch("other"), v.snapshot("before")]
            .map(|root| facts(&root))
    };
    let before = all(&v);
    succeeds(&v, &["apply", "b"]);
    assert_same(&files(&project.root()), &files(&v.branch("b")), "the directory");
    assert!(succeeds(&v, &["apply", "b"]).contains("PUT=0\tREMOVED=0"));
    for round in 0..2 {
        let now = all(&v);
        for (at, name) in ["b", "untouched", "other", "before"].iter().enumerate() {
            assert_same(&now[at], &before[at], &format!("{name}, round {round}"));
        }
        assert!(v.terminate().success());
        v.remount();
    }
}

fn nothing(_: &Path) {}

fn renamed(at: &Path, from: &str, to: &str) {
    fs::rename(at.join(from), at.join(to)).unwrap();
}

#[test]
fn what_a_branch_renamed_it_keeps() {
    let sample = |at: &Path| {
        fs::write(at.join("a"), vec![b'a'; 100_000]).unwrap();
        fs::write(at.join("log"), "log").unwrap();
        fs::write(at.join("log.1"), "older").unwrap();
        fs::write(at.join("linked"), "linked").unwrap();
        fs::create_dir_all(at.join("d/empty")).unwrap();
        fs::hard_link(at.join("linked"), at.join("d/hard")).unwrap();
    };
    let change = |at: &Path| {
        renamed(at, "a", "c");
        renamed(at, "log.1", "log.2");
        renamed(at, "log", "log.1");
        fs::remove_file(at.join("linked")).unwrap();
        fs::remove_dir(at.join("d/empty")).unwrap();
    };
    stays(sample, change, |at| {
        renamed(at, "a", "z");
        renamed(at, "log", "d/log");
    });
}

#[test]
fn directories_are_renamed_made_anew_and_exchanged() {
    let sample = |at: &Path| {
        for dir in ["d", "e/inner", "f"] {
            fs::create_dir_all(at.join(dir)).unwrap();
            fs::write(at.join(dir).join("x"), dir).unwrap();
        }
        fs::create_dir(at.join("d/x.d")).unwrap();
        fs::write(at.join("d/x.d/y"), "y").unwrap();
    };
    let change = |at: &Path| {
        renamed(at, "d", "moved");
        fs::create_dir(at.join("d")).unwrap();
        fs::write(at.join("d/new"), "new").unwrap();
        // A file where a directory was, in a directory that is made anew.
        fs::write(at.join("d/x.d"), "no directory").unwrap();
        renamed(at, "e", "swap");
        renamed(at, "f", "e");
        renamed(at, "swap", "f");
    };
    stays(sample, change, nothing);
}

#[test]
fn a_directory_of_others_under_the_name_of_ours_is_not_removed() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    fs::create_dir_all(project.path(".agentfs-apply/mine")).unwrap();
    fs::write(project.path(".agentfs-apply/mine/only"), "copy").unwrap();
    let v = project.mount();
    v.grow_branch("main", "b");
    fs::write(v.branch("b").join("f"), "new").unwrap();
    for args in [&["apply", "b", "--dry-run"][..], &["apply", "b"]] {
        assert!(fails(&v, args).contains("no apply made"));
        assert_eq!(fs::read(project.path(".agentfs-apply/mine/only")).unwrap(), b"copy");
    }
    fs::rename(project.path(".agentfs-apply"), project.path("away")).unwrap();
    succeeds(&v, &["apply", "b"]);
    assert_eq!(fs::read(project.path("f")).unwrap(), b"new");
}

/// Nothing is written while a part of it could not be, and other branches are not kept waiting.
#[test]
fn what_cannot_be_replaced_is_told_before_anything_is_written() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED: making files immutable, which only root does");
    }
    let project = Project::new();
    for name in ["a", "b", "c"] {
        fs::write(project.path(name), "old").unwrap();
    }
    fs::create_dir(project.path("d")).unwrap();
    fs::write(project.path("d/in"), "old").unwrap();
    let change = |word: &str, of: &str| {
        let done = std::process::Command::new("chattr").args([word, of]).current_dir(project.root()).output();
        done.is_ok_and(|output| output.status.success())
    };
    for of in ["b", "d"] {
        if !change("+i", of) {
            return println!("SKIPPED: the filesystem has no immutable files");
        }
    }
    let v = project.mount();
    for branch in ["file", "in", "other"] {
        v.grow_branch("main", branch);
    }
    for (branch, names) in [("file", ["a", "b", "c"]), ("in", ["a", "c", "d/in"]), ("other", ["g", "h", "i"])]
    {
        for name in names {
            fs::write(v.branch(branch).join(name), "new").unwrap();
        }
    }
    let before = files(&project.root());
    let refused = ["file", "in"].map(|branch| fails(&v, &["apply", branch]));
    let after = files(&project.root());
    succeeds(&v, &["apply", "other"]);
    assert!(["b", "d"].iter().all(|of| change("-i", of)));
    assert_same(&after, &before, "what was refused");
    assert!(refused.iter().all(|words| words.contains("immutable")), "{refused:?}");
    assert_eq!(fs::read(project.path("g")).unwrap(), b"new");
}

#[test]
fn a_name_that_is_left_out_keeps_its_file_when_another_name_of_it_is_written() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    fs::write(project.path("a"), "old").unwrap();
    fs::hard_link(project.path("a"), project.path("left")).unwrap();
    fs::hard_link(project.path("a"), project.path("too")).unwrap();
    fs::write(project.path(".agentfsignore"), "left\n").unwrap();
    let v = project.mount();
    v.grow_branch("main", "b");
    fs::write(v.branch("b").join("a"), "new").unwrap();
    succeeds(&v, &["apply", "b"]);
    let held = ["a", "too", "left"].map(|name| fs::read_to_string(project.path(name)).unwrap());
    assert_eq!(held, ["new", "new", "old"]);
}

/// What others kept of a directory does not come to show what `apply` puts where it was, with the next daemon either.
#[test]
fn directories_that_are_removed_and_made_anew_by_later_applies_are_not_those_of_others() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    type Change = fn(&Path);
    let again: [(&str, Change, Change); 3] = [
        (
            "made anew",
            |at| fs::remove_dir_all(at.join("d")).unwrap(),
            |at| {
                fs::create_dir(at.join("d")).unwrap();
                fs::write(at.join("d/new"), "new").unwrap();
                fs::create_dir_all(at.join("d/in/side")).unwrap();
            },
        ),
        (
            "moved and back",
            |at| renamed(at, "d", "away"),
            |at| {
                renamed(at, "away", "d");
                fs::write(at.join("d/in/new"), "new").unwrap();
            },
        ),
        ("another moved there", |at| fs::remove_dir_all(at.join("d")).unwrap(), |at| renamed(at, "e", "d")),
    ];
    for (what, first, second) in again {
        for is_remounted_between in [false, true] {
            let project = Project::new();
            for dir in ["d/in", "e/in"] {
                fs::create_dir_all(project.root().join(dir)).unwrap();
                fs::write(project.root().join(dir).join("x"), dir).unwrap();
                fs::write(project.root().join(dir).join("../of"), dir).unwrap();
            }
            let mut v = project.mount();
            v.take_snapshot("main", "before");
            for branch in ["b", "untouched", "other"] {
                v.grow_branch("main", branch);
            }
            fs::write(v.branch("other").join("d/own"), "own").unwrap();
            let all = |v: &Volume| {
                [v.branch("untouched"), v.branch("other"), v.snapshot("before")].map(|root| facts(&root))
            };
            let before = all(&v);
            for change in [first, second] {
                change(&v.branch("b"));
                succeeds(&v, &["apply", "b"]);
                assert_same(&files(&project.root()), &files(&v.branch("b")), what);
                if is_remounted_between {
                    assert!(v.terminate().success());
                    v.remount();
                }
            }
            for round in 0..2 {
                for (now, before) in all(&v).iter().zip(&before) {
                    assert_same(now, before, &format!("{what}, round {round}"));
                }
                assert!(v.terminate().success());
                v.remount();
            }
            fs::write(v.branch("other").join("d/new"), "mine").unwrap();
            fs::remove_dir_all(v.branch("other").join("d")).unwrap();
        }
    }
}

#[test]
fn branches_are_applied_one_after_another_and_again() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    for name in ["a", "z", "gone", "both"] {
        fs::write(project.path(name), name).unwrap();
    }
    let v = project.mount();
    v.grow_branch("main", "b");
    v.grow_branch("main", "other");
    let (b, other) = (v.branch("b"), v.branch("other"));
    fs::write(b.join("a"), "a of b").unwrap();
    fs::write(b.join("new"), "new").unwrap();
    fs::create_dir(b.join("dir")).unwrap();
    fs::write(b.join("dir/inner"), "inner").unwrap();
    fs::remove_file(b.join("gone")).unwrap();
    fs::write(b.join("both"), "of b").unwrap();
    fs::write(other.join("z"), "z of other").unwrap();
    succeeds(&v, &["apply", "b"]);
    succeeds(&v, &["apply", "other"]);
    assert_eq!(shown(&project.root()), "a: a of b\nboth: of b\ndir/inner: inner\nnew: new\nz: z of other");
    fs::write(b.join("a"), "a once more").unwrap();
    fs::write(b.join("new"), "newer").unwrap();
    fs::write(b.join("dir/inner"), "deeper").unwrap();
    succeeds(&v, &["apply", "b"]);
    assert_eq!(
        shown(&project.root()),
        "a: a once more\nboth: of b\ndir/inner: deeper\nnew: newer\nz: z of other"
    );
    // What both change only one can.
    fs::write(other.join("both"), "of other").unwrap();
    assert!(fails(&v, &["apply", "other"]).contains("refused\tboth"));
}

#[test]
fn main_is_applied_and_others_are_not_overwritten() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    for name in ["removed", "replaced", "edited"] {
        fs::write(project.path(name), name).unwrap();
    }
    let v = project.mount();
    fs::write(v.path("new"), "new").unwrap();
    fs::remove_file(v.path("removed")).unwrap();
    fs::write(v.path("draft"), "by main").unwrap();
    renamed(&v.root(), "draft", "replaced");
    succeeds(&v, &["apply", "main"]);
    assert_eq!(shown(&project.root()), "edited: edited\nnew: new\nreplaced: by main");
    fs::write(project.path("removed"), "anew").unwrap();
    assert_eq!(fs::read_to_string(v.path("removed")).unwrap(), "anew", "main shows it again");
    fs::write(project.path("new"), "theirs").unwrap();
    fs::write(project.path("replaced"), "theirs, too").unwrap();
    fs::write(v.path("new"), "mine").unwrap();
    fs::write(v.path("replaced"), "mine, too").unwrap();
    v.grow_branch("main", "b");
    let before = shown(&project.root());
    for branch in ["main", "b"] {
        let words = fails(&v, &["apply", branch]);
        for path in ["new", "replaced"] {
            assert!(words.contains(&format!("refused\t{path}\t")), "{branch}: {path} in {words}");
        }
    }
    assert_eq!(shown(&project.root()), before);
}

#[test]
fn what_is_left_out_or_was_moved_in_is_not_removed_with_what_it_is_in() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    fs::create_dir_all(project.path("config")).unwrap();
    fs::create_dir_all(project.path("d")).unwrap();
    fs::create_dir_all(project.path("photos")).unwrap();
    for name in ["config/.env", "config/c", "d/x", "photos/p"] {
        fs::write(project.path(name), name).unwrap();
    }
    fs::write(project.path(".agentfsignore"), ".env\n").unwrap();
    let v = project.mount();
    v.grow_branch("main", "b");
    renamed(&v.branch("b"), "config", "conf");
    assert!(fails(&v, &["apply", "b"]).contains("refused\tconfig/.env"));
    v.grow_branch("main", "c");
    fs::remove_dir_all(v.branch("c").join("d")).unwrap();
    renamed(&project.root(), "photos", "d/photos");
    assert!(fails(&v, &["apply", "c"]).contains("refused\td"));
    assert_eq!(fs::read_to_string(project.path("d/photos/p")).unwrap(), "photos/p");
    assert_eq!(fs::read_to_string(project.path("config/.env")).unwrap(), "config/.env");
}

#[test]
fn names_that_both_sides_made_are_nobodys_to_overwrite() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    fs::create_dir(project.path("d")).unwrap();
    let v = project.mount();
    v.grow_branch("main", "b");
    v.grow_branch("main", "o");
    let b = v.branch("b");
    // Saved again and again, as editors do, and removed.
    for root in [&v.root(), &b, &v.branch("o")] {
        fs::write(root.join("n"), "mine").unwrap();
        fs::write(root.join("removed"), "mine").unwrap();
        fs::create_dir(root.join("both")).unwrap();
    }
    fs::write(project.path("n"), "theirs").unwrap();
    fs::write(project.path("removed"), "theirs").unwrap();
    fs::create_dir(project.path("both")).unwrap();
    fs::write(project.path("both/theirs"), "theirs").unwrap();
    for root in [&v.root(), &b] {
        fs::write(root.join("draft"), "mine again").unwrap();
        renamed(root, "draft", "n");
        fs::remove_file(root.join("removed")).unwrap();
        fs::write(root.join("x"), "").unwrap();
    }
    let before = shown(&project.root());
    for branch in ["main", "b", "o"] {
        let words = fails(&v, &["apply", branch]);
        assert!(words.contains("refused\tn\t"), "{branch}: {words}");
        assert!(words.contains("refused\tboth/theirs\t"), "{branch}: {words}");
    }
    assert_eq!(shown(&project.root()), before);
    // Two branches that make the same file: the second is told.
    fs::remove_file(project.path("n")).unwrap();
    fs::remove_dir_all(project.path("both")).unwrap();
    succeeds(&v, &["apply", "b"]);
    assert_eq!(fs::read_to_string(project.path("removed")).unwrap(), "theirs");
    fs::write(v.branch("o").join("draft"), "of o").unwrap();
    renamed(&v.branch("o"), "draft", "n");
    assert!(fails(&v, &["apply", "o"]).contains("refused\tn\t"));
}

#[test]
fn what_main_moved_it_keeps_whoever_applies() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    fs::create_dir_all(project.path("d/e")).unwrap();
    fs::create_dir_all(project.path("k")).unwrap();
    for name in ["d/x", "d/e/y", "k/z"] {
        fs::write(project.path(name), name).unwrap();
    }
    let mut v = project.mount();
    v.grow_branch("main", "b");
    renamed(&v.root(), "d", "moved");
    renamed(&v.root(), "k", "kept");
    renamed(&v.branch("b"), "k", "of-b");
    succeeds(&v, &["apply", "b"]);
    let all = "kept/z: k/z\nmoved/e/y: d/e/y\nmoved/x: d/x\nof-b/z: k/z";
    assert_eq!(shown(&v.root()), all);
    for _ in 0..2 {
        succeeds(&v, &["apply", "main"]);
        assert_eq!(shown(&v.root()), all);
        assert_eq!(shown(&project.root()), all);
        fs::write(v.path("touched"), "").unwrap();
        fs::remove_file(v.path("touched")).unwrap();
        assert!(v.terminate().success());
        v.remount();
    }
}

#[test]
fn main_that_moved_a_directory_is_applied() {
    let sample = |at: &Path| {
        fs::create_dir_all(at.join("d/e")).unwrap();
        fs::write(at.join("d/x"), "x").unwrap();
        fs::write(at.join("d/e/y"), "y").unwrap();
    };
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    sample(&project.root());
    let mut v = project.mount();
    renamed(&v.root(), "d", "moved");
    for round in 0..3 {
        succeeds(&v, &["apply", "main"]);
        assert_eq!(shown(&project.root()), "moved/e/y: y\nmoved/x: x", "round {round}");
        assert_eq!(shown(&v.root()), "moved/e/y: y\nmoved/x: x", "round {round}");
        fs::write(v.path("touched"), "").unwrap();
        fs::remove_file(v.path("touched")).unwrap();
        assert!(v.terminate().success());
        v.remount();
    }
}

#[test]
fn directories_that_became_files_and_links_are_applied() {
    let sample = |at: &Path| {
        for dir in ["d", "e"] {
            fs::create_dir(at.join(dir)).unwrap();
            fs::write(at.join(dir).join("x"), dir).unwrap();
        }
        fs::write(at.join("f"), "f").unwrap();
    };
    let change = |at: &Path| {
        fs::remove_dir_all(at.join("d")).unwrap();
        symlink("e", at.join("d")).unwrap();
        fs::remove_dir_all(at.join("e")).unwrap();
        fs::write(at.join("e"), "a file").unwrap();
        fs::remove_file(at.join("f")).unwrap();
        fs::create_dir(at.join("f")).unwrap();
        fs::write(at.join("f/inner"), "inner").unwrap();
    };
    stays(sample, change, nothing);
}

#[test]
fn what_is_changed_while_it_is_applied_is_still_to_be_applied() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new();
    many(&project.root(), "old");
    fs::write(project.path("zz"), "old").unwrap();
    let v = project.mount();
    v.grow_branch("main", "b");
    let b = v.branch("b");
    many(&b, "new");
    fs::write(b.join("zz"), "first").unwrap();
    let mut child = cli_of(&v).args(["apply", "b"]).stdout(Stdio::null()).spawn().unwrap();
    let begun = || fs::read(project.path("d0/0")).is_ok_and(|text| text.starts_with(b"new"));
    while !begun() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::write(b.join("zz"), "second").unwrap();
    fs::write(b.join("d0/0"), "second").unwrap();
    assert!(child.wait().unwrap().success());
    succeeds(&v, &["apply", "b"]);
    for path in ["zz", "d0/0"] {
        assert_eq!(fs::read_to_string(project.path(path)).unwrap(), "second", "{path}");
    }
}

/// A snapshot that can be read whole is restored and merged, whatever became of what it was made over.
#[test]
fn what_reads_well_is_restored_and_merged_whatever_happens_below() {
    if !can_mount() {
        return;
    }
    let replaced = |at: &Path| {
        fs::write(at.join("new"), "of others").unwrap();
        fs::rename(at.join("new"), at.join("d/a")).unwrap();
    };
    let touched = |at: &Path| {
        let file = fs::File::options().append(true).open(at.join("d/a")).unwrap();
        file.set_modified(std::time::SystemTime::now()).unwrap();
    };
    let removed = |at: &Path| fs::remove_file(at.join("d/a")).unwrap();
    let moved = |at: &Path| {
        fs::rename(at.join("d"), at.join("../elsewhere")).unwrap();
        fs::create_dir(at.join("d")).unwrap();
        fs::write(at.join("d/a"), "of others").unwrap();
    };
    for below in [&nothing as &dyn Fn(&Path), &replaced, &touched, &removed, &moved] {
        for is_applied in [false, true] {
            let project = Project::new();
            fs::create_dir(project.path("d")).unwrap();
            fs::write(project.path("d/a"), "old").unwrap();
            let v = project.mount();
            v.grow_branch("main", "b");
            v.grow_branch("main", "c");
            let b = v.branch("b");
            fs::write(b.join("d/a"), "first").unwrap();
            fs::write(b.join("d/n"), "first").unwrap();
            if is_applied {
                succeeds(&v, &["apply", "b"]);
            }
            below(&project.root());
            let before = files(&b);
            v.take_snapshot("b", "s");
            assert_same(&files(&v.snapshot("s")), &before, "the snapshot");
            fs::write(b.join("d/a"), "second").unwrap();
            fs::remove_file(b.join("d/n")).unwrap();
            succeeds(&v, &["restore", "b", "--from", "s"]);
            assert_same(&files(&b), &before, "what was restored");
            if !is_applied {
                continue; // the other branch relies on what is gone, and says so
            }
            succeeds(&v, &["merge", "s", "--into", "c"]);
            for name in ["d/a", "d/n"] {
                assert_eq!(fs::read_to_string(v.branch("c").join(name)).unwrap(), "first", "{name}");
            }
        }
    }
}

/// Pipes, devices and links have permissions of their own, too.
#[test]
fn acls_of_what_cannot_be_opened_are_applied_and_exported() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let v = project.mount();
    v.grow_branch("main", "b");
    let b = v.branch("b");
    for name in ["pipe", "old"] {
        run(&b, "mkfifo", &[name]);
    }
    succeeds(&v, &["apply", "b"]);
    run(&b, "setfacl", &["-m", "u:12345:rw", "pipe", "old"]);
    symlink("nowhere", b.join("link")).unwrap();
    if rustix::process::geteuid().is_root() {
        run(&b, "mknod", &["device", "c", "1", "3"]);
        run(&b, "setfacl", &["-m", "u:12345:r", "device"]);
        run(&b, "setfattr", &["-h", "-n", "trusted.k", "-v", "of-the-link", "link"]);
    } else {
        println!("SKIPPED: devices and attributes of links need root");
    }
    succeeds(&v, &["apply", "b"]);
    let exported = project.dir.path().join("exported");
    succeeds(&v, &["export", "b", "--dir", exported.to_str().unwrap()]);
    // getfacl follows links.
    let shown = |root: &Path| {
        run(
            root,
            "sh",
            &["-c", "getfacl -n * 2>/dev/null | grep -v '^# file: link$'; getfattr -h -d -m - link"],
        )
    };
    let wanted = shown(&b);
    assert!(wanted.matches("user:12345:").count() >= 2, "{wanted}");
    assert_eq!(shown(&project.root()), wanted);
    assert_eq!(shown(&exported), wanted);
    assert!(succeeds(&v, &["apply", "b"]).contains("PUT=0"), "they are the same now");
}
