//! Running a race under many schedules.

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread;

/// Runs a race under schedules at random and by PCT.
pub fn explore(race: fn()) {
    let chosen = std::env::var("SCHEDULES").ok().and_then(|count| count.parse().ok());
    let count: usize = chosen.unwrap_or(200);
    // The core's own calls and what it formats take more of the stack than the explorer gives by itself.
    let config = || {
        let mut config = shuttle::Config::new();
        config.stack_size = 1 << 20;
        config
    };
    shuttle::Runner::new(RandomScheduler::new(count), config()).run(race);
    // Few changes of the thread, at places that are chosen: finds what needs an order of long stretches.
    shuttle::Runner::new(PctScheduler::new(3, count), config()).run(race);
}

/// Runs all at once, to their ends.
pub fn together(threads: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> = threads.into_iter().map(|work| thread::spawn(work)).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

