//! Running a test on many random histories, and reducing one that fails to the operations it needs.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestError, TestRunner};

use super::{Op, ops};

/// Runs `case` on `cases` histories of `length` operations each; the variable `PROPTEST_CASES` sets another number of
/// them. The seed of a failure is kept in `regressions`, a path from the package's directory, and tried first the
/// next time.
///
/// # Panics
/// When a case fails or panics: with what it said, and the operations it took.
pub fn random_cases(
    regressions: &'static str,
    cases: u32,
    length: usize,
    case: impl Fn(&[Op]) -> Result<(), String>,
) {
    let chosen = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: chosen.unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(regressions))),
        max_shrink_iters: 0, // `shortest` does better with a list
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&ops(length), |ops| {
        let Err(failure) = caught(|| case(&ops)) else { return Ok(()) };
        let fewer = shortest(&ops, |ops| caught(|| case(ops)).is_err());
        let failure = caught(|| case(&fewer)).err().unwrap_or(failure);
        Err(TestCaseError::fail(described(&failure, &fewer)))
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, _) | TestError::Abort(reason)) => panic!("{reason}"),
    }
}

/// A part of `ops`, in order, that still fails and cannot lose a single one.
pub fn shortest(ops: &[Op], fails: impl Fn(&[Op]) -> bool) -> Vec<Op> {
    let mut kept = ops.to_vec();
    let mut step = kept.len();
    while step > 0 {
        let before = kept.len();
        let mut at = 0;
        while at < kept.len() {
            let end = kept.len().min(at + step);
            let fewer = [&kept[..at], &kept[end..]].concat();
            if fails(&fewer) {
                kept = fewer;
            } else {
                at += step;
            }
        }
        step = if step == 1 && kept.len() < before { 1 } else { step / 2 };
    }
    kept
}

/// Runs `case`; a panic in it is a failure like any other.
///
/// # Errors
/// What `case` answers, or what its panic said.
pub fn caught(case: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(case)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        Err(said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).into())).unwrap_or("a panic".into()))
    })
}

fn described(failure: &str, ops: &[Op]) -> String {
    let mut text = format!("{failure}\nby these operations:\n");
    for op in ops {
        let _ = writeln!(text, "  {op:?}");
    }
    text
}
