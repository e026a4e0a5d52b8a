//! Running the model and something real side by side.

use std::fmt;

use rustix::io::Errno;

use super::dump::{Dump, Pairing};
use super::{Model, Op};
use crate::FileKind;

/// What an operation answers: the same of the model and of every driver. The error is the Linux errno.
pub type Outcome = Result<Answer, Errno>;

/// What a successful operation answers.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing but success.
    Done,
    /// Bytes written.
    Count(usize),
    /// Bytes read, or a link's target.
    Data(Vec<u8>),
    /// Attributes.
    Stat(Stat),
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Done => f.write_str("Done"),
            Answer::Count(count) => write!(f, "Count({count})"),
            Answer::Data(bytes) => write!(f, "Data({:?})", super::Bytes(bytes.clone())),
            Answer::Stat(stat) => stat.fmt(f),
        }
    }
}

/// The part of `lstat` that POSIX settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with suid, sgid and sticky.
    pub mode: u16,
    /// Names that lead there; of a directory 2 and one for each directory in it.
    pub nlink: u64,
    /// Bytes of a regular file or of a link's target; 0 for all others.
    pub size: u64,
}

/// Something that operations can be run on.
pub trait Driver {
    /// Runs one.
    fn apply(&mut self, op: &Op) -> Outcome;
    /// How many branches live.
    fn branches(&self) -> usize;
    /// How many snapshots live.
    fn snapshots(&self) -> usize;
    /// The present tree of a branch, by its place among those that live.
    fn dump_branch(&mut self, index: usize) -> Dump;
    /// The tree of a snapshot, by its place among those that live.
    fn dump_snapshot(&mut self, index: usize) -> Dump;
    /// What is unsound in the volume itself, in words, if the driver can look.
    fn faults(&mut self) -> Vec<String> {
        Vec::new()
    }
    /// Closes all files kept open.
    fn close(&mut self);
}

/// What a driver did otherwise than the model.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Mismatch(String);

/// A driver against the model.
pub struct Trial<D> {
    model: Model,
    driver: D,
    inodes: Pairing,
    steps: usize,
    succeeded: usize,
}

impl<D: Driver> Trial<D> {
    /// A trial on a new volume.
    pub fn new(driver: D) -> Trial<D> {
        Trial { model: Model::new(), driver, inodes: Pairing::default(), steps: 0, succeeded: 0 }
    }

    /// The driver.
    pub fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    /// How many operations were run, and how many of them succeeded on the model.
    pub fn counts(&self) -> (usize, usize) {
        (self.steps, self.succeeded)
    }

    /// Runs one operation on both.
    ///
    /// # Errors
    /// When they answer differently.
    pub fn step(&mut self, op: &Op) -> Result<(), Mismatch> {
        let (expected, found) = (self.model.apply(op), self.driver.apply(op));
        self.steps += 1;
        self.succeeded += usize::from(expected.is_ok());
        if expected == found {
            return Ok(());
        }
        let step = self.steps;
        Err(Mismatch(format!("operation {step}, {op:?}:\n  expected {expected:?}\n  found    {found:?}")))
    }

    /// Ends the volume and begins it again: what was kept open is closed.
    pub fn restart(&mut self, restart: impl FnOnce(&mut D)) {
        self.model.close();
        restart(&mut self.driver);
    }

    /// Goes on with another driver, which is to show the same trees: what was kept open is closed, and inodes have other
    /// numbers.
    pub fn replaced<E>(mut self, driver: E) -> Trial<E> {
        self.model.close();
        let Trial { model, steps, succeeded, .. } = self;
        Trial { model, driver, inodes: Pairing::default(), steps, succeeded }
    }

    /// Compares all branches and all snapshots.
    ///
    /// # Errors
    /// When any differs, or the volume is unsound.
    pub fn compare(&mut self) -> Result<(), Mismatch> {
        let mut differences = self.driver.faults();
        let counts = (self.driver.branches(), self.driver.snapshots());
        let expected = (self.model.branches(), self.model.snapshots());
        if counts != expected {
            differences.push(format!("branches and snapshots: expected {expected:?}, found {counts:?}"));
        } else {
            for index in 0..counts.0 {
                let dumps = (self.model.dump_branch(index), self.driver.dump_branch(index));
                differences.extend(self.differences("branch", index, &dumps));
            }
            for index in 0..counts.1 {
                let dumps = (self.model.dump_snapshot(index), self.driver.dump_snapshot(index));
                differences.extend(self.differences("snapshot", index, &dumps));
            }
        }
        let step = self.steps;
        let listed = |all: Vec<String>| Err(Mismatch(format!("after operation {step}:\n{}", all.join("\n"))));
        if differences.is_empty() { Ok(()) } else { listed(differences) }
    }

    fn differences(&mut self, what: &str, index: usize, dumps: &(Dump, Dump)) -> Vec<String> {
        let found = self.inodes.differences(&dumps.0, &dumps.1);
        found.into_iter().map(|difference| format!("{what} {index}: {difference}")).collect()
    }

    /// Runs all operations, comparing all trees after every `interval` of them and at the end, when files kept open
    /// are still so and again when they are closed.
    ///
    /// # Errors
    /// At the first difference.
    pub fn run(&mut self, ops: &[Op], interval: usize) -> Result<(), Mismatch> {
        for batch in ops.chunks(interval) {
            batch.iter().try_for_each(|op| self.step(op))?;
            self.compare()?;
        }
        self.model.close();
        self.driver.close();
        self.compare()
    }
}
