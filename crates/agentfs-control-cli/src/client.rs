//! One conversation with the daemon: a request goes into the control file, its response comes out.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use agentfs_proto::{Page, Request, Response, frame};
use rustix::io::Errno;

use crate::failure::Failure;
use crate::ioctl;
use crate::mount::control_file;

/// For how long a daemon is asked again that has too much to do, and how often.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);

/// The open control file of a volume.
pub(crate) struct Client {
    control: File,
    volume: PathBuf,
}

impl Client {
    /// Opens the control file of the volume at this directory.
    pub(crate) fn open(volume: &Path) -> Result<Self, Failure> {
        let control =
            File::open(control_file(volume)).map_err(|error| match Errno::from_io_error(&error) {
                Some(errno) => explain(errno, volume),
                None => Failure::io("the control file cannot be opened", &error),
            })?;
        Ok(Self { control, volume: volume.to_owned() })
    }

    /// The directory whose control file it is.
    pub(crate) fn volume(&self) -> &Path {
        &self.volume
    }

    /// Asks, and waits for the answer. The daemon's refusal is a failure.
    pub(crate) fn call(&self, request: impl Into<Request>) -> Result<Response, Failure> {
        let request = frame::encode(&request.into().encode())
            .map_err(|_| Failure::with_errno("the names are too long for one request", Errno::INVAL))?;
        let (mut buffer, begun) = (request, Instant::now());
        while let Err(errno) = ioctl::exchange(&self.control, &mut buffer) {
            // So many others wait that this one was not even taken.
            if errno != Errno::AGAIN || begun.elapsed() > PATIENCE {
                return Err(explain(errno, &self.volume));
            }
            thread::sleep(PAUSE);
            buffer = request;
        }
        match frame::decode(&buffer).ok().and_then(|body| Response::decode(body).ok()) {
            Some(Response::Error(reply)) => Err(reply.into()),
            Some(response) => Ok(response),
            None => Err(Failure::new("the daemon's answer cannot be read; is it another version?")),
        }
    }
}

/// Joins the pages of a list. `fetch` gets the page after the key it is given.
pub(crate) fn all_pages<T: agentfs_proto::PageEntry>(
    fetch: impl Fn(Option<Vec<u8>>) -> Result<Page<T>, Failure>,
) -> Result<Vec<T>, Failure> {
    let mut entries = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = fetch(after.clone())?;
        entries.extend(page.entries);
        match page.next {
            None => return Ok(entries),
            // A daemon that does not advance would keep us for ever.
            next if next == after => return Err(Failure::new("the daemon's list does not end")),
            next => after = next,
        }
    }
}

/// The failure of a response to something that was not asked.
pub(crate) fn unexpected() -> Failure {
    Failure::new("the daemon answered something else than was asked")
}

/// What an errno of the control file means to whoever called this command.
fn explain(errno: Errno, volume: &Path) -> Failure {
    let at = volume.display();
    let sentence = match errno {
        Errno::NOTCONN | Errno::CONNABORTED => return Failure::disconnected(volume),
        Errno::NOENT | Errno::NOTDIR => format!("no AgentFS volume is mounted at {at}"),
        Errno::NOTTY => format!("{at} is not an AgentFS volume"),
        Errno::ACCESS | Errno::PERM => format!("only its owner and root may control the volume at {at}"),
        Errno::INVAL => "the daemon cannot read the request; is it an older version?".to_owned(),
        Errno::AGAIN => format!("the daemon at {at} has had too many requests for {PATIENCE:?}: try again"),
        _ => format!("the control file of the volume at {at} failed"),
    };
    Failure::with_errno(sentence, errno)
}

#[cfg(test)]
mod tests {
    use agentfs_proto::record::RequestCount;

    use super::*;

    fn counts(name: &str, next: Option<&str>) -> Page<RequestCount> {
        let entries = vec![RequestCount { operation: name.into(), count: 1, total_ns: 1 }];
        Page { entries, next: next.map(Into::into) }
    }

    #[test]
    fn pages_are_joined_in_order() {
        let all = all_pages(|after| match after.as_deref() {
            None => Ok(counts("a", Some("a"))),
            Some(b"a") => Ok(counts("b", Some("b"))),
            Some(_) => Ok(counts("c", None)),
        });
        let names: Vec<_> = all.unwrap().into_iter().map(|count| count.operation).collect();
        assert_eq!(names, [b"a", b"b", b"c"]);
    }

    #[test]
    fn a_list_that_does_not_advance_ends_in_a_failure() {
        assert!(all_pages(|_| Ok(counts("a", Some("a")))).is_err());
    }

    #[test]
    fn the_daemon_that_is_gone_and_the_volume_that_is_none_are_told_apart() {
        let told = |errno| explain(errno, Path::new("/vol")).to_string();
        assert_eq!(told(Errno::NOTCONN), "the volume at /vol is not mounted: its daemon is gone (ENOTCONN)");
        assert_eq!(told(Errno::NOTTY), "/vol is not an AgentFS volume (ENOTTY)");
        assert_eq!(told(Errno::NOENT), "no AgentFS volume is mounted at /vol (ENOENT)");
    }
}
