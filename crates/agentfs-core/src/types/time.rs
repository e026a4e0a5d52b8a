//! Points in time as files carry them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds and nanoseconds since 1970-01-01 00:00 UTC; `nanos` is below 1,000,000,000 and counts forward.
/// Packed to 12 bytes: every file carries three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, packed(4))]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    pub secs: i64,
    /// Nanoseconds past `secs`.
    pub nanos: u32,
}

impl Timestamp {
    /// The time to give to a file: that of `CLOCK_REALTIME` or, while the kernel gives times too, of its clock for files.
    pub fn now() -> Timestamp {
        super::clock::now()
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp { secs: clamp(after.as_secs()), nanos: after.subsec_nanos() },
            Err(before) => before_epoch(before.duration()),
        }
    }
}

fn clamp(secs: u64) -> i64 {
    i64::try_from(secs).unwrap_or(i64::MAX)
}

fn before_epoch(ago: Duration) -> Timestamp {
    match ago.subsec_nanos() {
        0 => Timestamp { secs: -clamp(ago.as_secs()), nanos: 0 },
        nanos => Timestamp { secs: -clamp(ago.as_secs()) - 1, nanos: 1_000_000_000 - nanos },
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> SystemTime {
        let (secs, nanos) = (time.secs, Duration::from_nanos(u64::from(time.nanos)));
        let whole = match u64::try_from(secs) {
            Ok(after) => UNIX_EPOCH.checked_add(Duration::from_secs(after)),
            Err(_) => UNIX_EPOCH.checked_sub(Duration::from_secs(secs.unsigned_abs())),
        };
        whole.and_then(|t| t.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_the_epoch_keep_their_nanoseconds() {
        for (secs, nanos) in
            [(0, 0), (1, 999_999_999), (-1, 0), (-1, 1), (-2, 800_000_000), (4_102_444_800, 5)]
        {
            let t = Timestamp { secs, nanos };
            assert_eq!(Timestamp::from(SystemTime::from(t)), t);
        }
    }
}
