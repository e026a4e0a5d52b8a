//! Random histories at one path: processes that are bound, unbound and bound to others all the time do as processes on
//! separate directories of the host do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use agentfs_proto::Response;
use agentfs_proto::request::BranchUnbind;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use support::agents::{Agent, UNBOUND, assert_each_fails_when_nobody_is_bound, has_python};
use support::{Volume, can_mount};

const BRANCHES: [&str; 4] = ["main", "a", "b", "c"];

struct Player {
    agent: Agent,
    /// Does the same on the host.
    shadow: Agent,
    /// Which branch it sees.
    branch: usize,
    /// Does it stand in the volume?
    inside: bool,
}

struct History {
    v: Volume,
    rng: TestRng,
    players: Vec<Player>,
    /// Looks at everything, and is bound to nothing.
    shadow: Agent,
    /// Each branch's directory on the host.
    shadows: Vec<PathBuf>,
    told: Vec<String>,
}

impl Player {
    /// It sees another branch now, and stands where that makes no difference: a place that was moved is another path there.
    fn switched(&mut self, to: usize) {
        for agent in [&mut self.agent, &mut self.shadow] {
            agent.value("os.chdir('/')");
        }
        (self.branch, self.inside) = (to, false);
    }
}

impl History {
    fn below(&mut self, limit: u32) -> usize {
        (self.rng.next_u32() % limit) as usize
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        (0..depth).map(|_| ["x", "y", "z"][self.below(3)]).collect::<Vec<_>>().join("/")
    }

    /// A call, with `ROOT` for where the branch is.
    fn call(&mut self) -> String {
        let (p, q) = (self.path(), self.path());
        let (p, q) = (format!("f'{{ROOT}}/{p}'"), format!("f'{{ROOT}}/{q}'"));
        let mode = ["0o755", "0o700", "0o711"][self.below(3)];
        match self.below(14) {
            0..3 => format!("os.mkdir, {p}, {mode}"),
            3 | 4 => format!("os.rmdir, {p}"),
            5 | 6 => format!("os.rename, {p}, {q}"),
            7 => format!("exchange, {p}, {q}"),
            8 | 9 => format!("write, {p}, {q}[-1:]"),
            10 => format!("os.unlink, {p}"),
            11 => format!("os.chmod, {p}, {mode}"),
            12 => format!("os.listdir, {p}"),
            _ => format!("mode_of, {p}"),
        }
    }

    fn fail(&self, what: &str) -> ! {
        let last: Vec<_> = self.told.iter().rev().take(40).rev().collect();
        panic!("{what}\nthe last steps:\n{last:#?}");
    }

    fn step(&mut self) {
        let at = self.below(self.players.len() as u32);
        let branch = self.players[at].branch;
        let call = match self.below(6) {
            0 => format!("os.chdir, f'{{ROOT}}/{}'", self.path()),
            // From where it stands, which may have been moved or removed.
            1 if self.players[at].inside => {
                ["os.listdir, '.'", "write, 'w', 'here'", "os.unlink, 'w'", "os.mkdir, 'x'", "os.rmdir, 'x'"]
                    [self.below(5)]
                .to_owned()
            }
            _ => self.call(),
        };
        self.told.push(format!("{at} in {}: {call}", BRANCHES[branch]));
        let root = self.v.root();
        let shadow = self.shadows[branch].clone();
        let player = &mut self.players[at];
        let found = player.agent.value(&with_root(&call, &root));
        let expected = player.shadow.value(&with_root(&call, &shadow));
        player.inside |= call.starts_with("os.chdir") && expected.is_null();
        if found != expected {
            self.fail(&format!("{call} answers {found} and not {expected}"));
        }
    }

    fn rebind(&mut self) {
        let at = self.below(self.players.len() as u32);
        let to = self.below(BRANCHES.len() as u32);
        let pid = self.players[at].agent.pid();
        self.told.push(format!("{at} is bound to {}", BRANCHES[to]));
        match to {
            0 if self.players[at].branch == 0 || std::env::var_os(UNBOUND).is_some() => {}
            0 => {
                let answer = self.v.ask(BranchUnbind { pid: Some(pid) });
                assert!(matches!(answer, Response::BranchUnbind(_)), "{answer:?}");
            }
            _ => self.players[at].agent.bind(&self.v, BRANCHES[to]),
        }
        self.players[at].switched(to);
    }

    fn compare(&mut self) {
        let root = self.v.root();
        for at in 0..self.players.len() {
            let branch = self.players[at].branch;
            let found = self.players[at].agent.value(&format!("dump({root:?})"));
            let expected = self.shadow.value(&format!("dump({:?})", self.shadows[branch]));
            if found != expected {
                self.fail(&format!("{at} in {}: {}", BRANCHES[branch], difference(&found, &expected)));
            }
        }
        // The fixed views agree, whoever is bound.
        for (branch, shadow) in BRANCHES.iter().zip(&self.shadows).skip(1) {
            let found = self.shadow.value(&format!("dump({:?})", self.v.branch(branch)));
            let expected = self.shadow.value(&format!("dump({shadow:?})"));
            if found != expected {
                self.fail(&format!("view of {branch}: {}", difference(&found, &expected)));
            }
        }
    }
}

/// What only one of two lists has.
fn difference(found: &serde_json::Value, expected: &serde_json::Value) -> String {
    let only = |a: &serde_json::Value, b: &serde_json::Value| {
        let b = b.as_array().unwrap();
        let only = a.as_array().unwrap().iter().filter(|entry| !b.contains(entry));
        only.map(ToString::to_string).collect::<Vec<_>>()
    };
    format!("sees {:?} and not {:?}", only(found, expected), only(expected, found))
}

fn with_root(call: &str, root: &std::path::Path) -> String {
    format!("outcome({})", call.replace("{ROOT}", root.to_str().unwrap()))
}

#[test]
fn random_histories_with_rebinding_are_those_of_separate_directories() {
    if !can_mount() || !has_python() {
        return;
    }
    for seed in 0..6_u8 {
        let root = rustix::process::geteuid().is_root();
        let v = Volume::mount_with(if root { &["--allow-other"] } else { &[] }, &[]);
        let host = tempfile::tempdir().unwrap();
        for dir in [v.root(), host.path().to_owned(), v.root().parent().unwrap().to_owned()] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let mut seeded = [0; 32];
        seeded[0] = seed;
        let mut shadow = Agent::start(host.path());
        shadow.value("os.umask(0)");
        // The branches begin with the same directories, in common.
        for dir in ["x/y/z", "y/x", "z"] {
            fs::create_dir_all(v.path(dir)).unwrap();
        }
        let shadows: Vec<PathBuf> = BRANCHES.iter().map(|branch| host.path().join(branch)).collect();
        for (branch, shadow) in BRANCHES.iter().zip(&shadows) {
            if *branch != "main" {
                v.grow_branch("main", branch);
            }
            for dir in ["", "x/y/z", "y/x", "z"] {
                fs::create_dir_all(shadow.join(dir)).unwrap();
            }
            fs::set_permissions(shadow, fs::Permissions::from_mode(0o777)).unwrap();
        }
        // Half of them as somebody whom permissions hold back, and who owns what he makes.
        let somebody = rustix::process::geteuid().is_root() && seed % 2 == 1;
        let player = |dir: &std::path::Path| {
            let mut agent = Agent::start(dir);
            agent.value("os.umask(0)");
            if somebody {
                agent.value("os.setgroups([]) or os.setgid(65534) or os.setuid(65534)");
            }
            agent
        };
        let players = (0..3).map(|_| {
            let (agent, shadow) = (player(host.path()), player(host.path()));
            Player { agent, shadow, branch: 0, inside: false }
        });
        let players = players.collect();
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seeded);
        let mut history = History { v, rng, players, shadow, shadows, told: Vec::new() };
        for step in 0..1500 {
            history.step();
            if step % 23 == 0 {
                history.rebind();
            }
            if step % 50 == 0 {
                history.compare();
            }
            // Now and then nobody is bound, and the kernel may keep what it is told again.
            if step % 400 == 399 {
                for at in 0..history.players.len() {
                    if history.players[at].branch != 0 {
                        let pid = history.players[at].agent.pid();
                        // The answer of one that nobody has bound is another.
                        history.v.ask(BranchUnbind { pid: Some(pid) });
                        history.players[at].switched(0);
                    }
                }
                history.told.push("nobody is bound".into());
                for _ in 0..60 {
                    history.step();
                }
                history.compare();
            }
        }
        history.compare();
    }
}

#[test]
fn the_histories_differ_when_nobody_is_bound() {
    assert_each_fails_when_nobody_is_bound(&[
        "random_histories_with_rebinding_are_those_of_separate_directories",
    ]);
}
