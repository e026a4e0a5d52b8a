//! Operations in the order that the bytes say, eight bytes for each: the core answers as the model does.
#![no_main]

use std::sync::Arc;

use agentfs_core::testing::proptest::strategy::{Strategy, ValueTree};
use agentfs_core::testing::proptest::test_runner::{Config as Runner, RngAlgorithm, TestRng, TestRunner};
use agentfs_core::testing::{CoreDriver, Op, Trial, config, op};
use agentfs_core::{Config, FsCore, Memory, Unrecorded};
use libfuzzer_sys::fuzz_target;

/// Operations of a history, and after how many of them all trees are compared.
const LENGTH: usize = 100;
const INTERVAL: usize = 25;

/// The operation that eight bytes choose.
fn chosen(strategy: &impl Strategy<Value = Op>, by: &[u8]) -> Option<Op> {
    let mut seed = [0; 32];
    seed.iter_mut().zip(by).for_each(|(to, from)| *to = *from);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Runner::default(), rng);
    Some(strategy.new_tree(&mut runner).ok()?.current())
}

fuzz_target!(|bytes: &[u8]| {
    let Some((how, choices)) = bytes.split_first() else { return };
    let strategy = op();
    let ops: Vec<Op> = choices.chunks_exact(8).take(LENGTH).filter_map(|by| chosen(&strategy, by)).collect();
    let (small_file, layered_from) = match how % 3 {
        0 => (config().small_file, config().layered_from),
        1 => (0, config().layered_from),
        _ => (0, 1),
    };
    let settings = Config { small_file, layered_from, ..config() };
    let Ok(core) = FsCore::new_volume(Arc::new(Memory::default()), Arc::new(Unrecorded), settings) else {
        return;
    };
    let driver = CoreDriver::new(Arc::new(core));
    let driver = if how & 0x80 == 0 { driver } else { driver.past_the_daemon() };
    if let Err(mismatch) = Trial::new(driver).run(&ops, INTERVAL) {
        panic!("{mismatch}");
    }
});
