//! While requests come in quickly the processors are kept from sleeping. Each request wakes two: the daemon's, then the
//! caller's; where a processor that sleeps takes tens of microseconds to wake, that is most of what a request costs. The
//! means is the kernel's (`/dev/cpu_dma_latency`, PM QoS); it holds for the whole machine, for as long as the burst lasts,
//! and ends with the daemon.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

/// A burst is so many requests …
const BURST: u32 = 16;
/// … within so long. It lasts as long as there are so many in each `LOOK`.
const WITHIN: Duration = Duration::from_millis(4);
const LOOK: Duration = Duration::from_millis(10);
/// The kernel's word for "as long as it likes" (`PM_QOS_CPU_LATENCY_DEFAULT_VALUE`), in microseconds.
const ANY_LATENCY: i32 = 2_000_000_000;
/// Allows the lightest sleep of a bare machine, in microseconds.
const LIGHT_SLEEP: i32 = 2;

/// Notices bursts of requests.
pub(crate) struct Awake {
    counted: AtomicU32,
    /// When the last `BURST` requests began, in microseconds since `started`.
    begun: AtomicU64,
    started: Instant,
    is_held: AtomicBool,
    wake: Sender<()>,
}

impl Awake {
    /// Notices, and starts the thread that keeps the processors awake.
    ///
    /// # Errors
    /// When this machine does not have it or this user may not; in one sentence.
    pub(crate) fn start() -> io::Result<Arc<Awake>> {
        let driver = std::fs::read_to_string("/sys/devices/system/cpu/cpuidle/current_driver");
        let latency = match driver.as_deref().map(str::trim) {
            Err(_) | Ok("none" | "") => {
                return Err(io::Error::other("the kernel has no say in how processors sleep"));
            }
            // A guest's processor sleeps through its host, which has one depth only.
            Ok("haltpoll") => 0,
            Ok(_) => LIGHT_SLEEP,
        };
        Awake::keep(File::options().write(true).open("/dev/cpu_dma_latency")?, latency)
    }

    fn keep(device: File, latency: i32) -> io::Result<Arc<Awake>> {
        let (wake, woken) = bounded(1);
        let awake = Awake {
            counted: AtomicU32::new(0),
            begun: AtomicU64::new(0),
            started: Instant::now(),
            is_held: AtomicBool::new(false),
            wake,
        };
        let awake = Arc::new(awake);
        let keeper = Arc::downgrade(&awake);
        thread::Builder::new().name("awake".into()).spawn(move || {
            while woken.recv().is_ok() {
                let Some(awake) = keeper.upgrade() else { return };
                if let Err(error) = awake.hold(&device, latency, &woken) {
                    tracing::warn!(%error, "the processors are not kept awake any more");
                    return;
                }
            }
        })?;
        Ok(awake)
    }

    /// A request came in.
    pub(crate) fn note(&self, now: Instant) {
        let counted = self.counted.fetch_add(1, Ordering::Relaxed);
        if !counted.is_multiple_of(BURST) || self.is_held.load(Ordering::Relaxed) {
            return;
        }
        let now = now.duration_since(self.started);
        let before = self.begun.swap(now.as_micros() as u64, Ordering::Relaxed);
        if now < Duration::from_micros(before) + WITHIN {
            // When it is full, the thread is about to look.
            let _ = self.wake.try_send(());
        }
    }

    /// Keeps them awake until the burst is over.
    fn hold(&self, device: &File, latency: i32, woken: &Receiver<()>) -> io::Result<()> {
        self.is_held.store(true, Ordering::Relaxed);
        ask(device, latency)?;
        loop {
            let before = self.counted.load(Ordering::Relaxed);
            thread::sleep(LOOK);
            if self.counted.load(Ordering::Relaxed).wrapping_sub(before) < BURST {
                break;
            }
        }
        let _ = woken.try_recv();
        self.is_held.store(false, Ordering::Relaxed);
        ask(device, ANY_LATENCY)
    }
}

/// Asks the kernel that no processor sleeps more deeply than it can wake from within so many microseconds.
fn ask(mut device: &File, latency: i32) -> io::Result<()> {
    device.write_all(&latency.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_burst_keeps_them_awake_until_it_is_over_and_single_requests_do_not() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let awake = Awake::keep(File::from(std::os::fd::OwnedFd::from(theirs)), 0).unwrap();
        let asked = || {
            let mut bytes = [0; 4];
            (&ours).read_exact(&mut bytes).unwrap();
            i32::from_ne_bytes(bytes)
        };
        let mut now = Instant::now();
        for _ in 0..20 * BURST {
            now += WITHIN;
            awake.note(now);
        }
        assert!(!awake.is_held.load(Ordering::Relaxed));
        (0..2 * BURST).for_each(|_| awake.note(now));
        assert_eq!((asked(), asked()), (0, ANY_LATENCY));
        (0..2 * BURST).for_each(|_| awake.note(now));
        assert_eq!((asked(), asked()), (0, ANY_LATENCY));
    }
}
