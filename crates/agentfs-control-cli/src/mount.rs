//! Finding the volume that is meant, and its control file.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use rustix::io::Errno;

use crate::failure::Failure;

/// The control file of the volume, or of the view of a branch, at this directory.
///
/// It is found by lookup only: `.agentfs` is not listed.
pub(crate) fn control_file(volume: &Path) -> PathBuf {
    volume.join(".agentfs").join("control")
}

/// The directory that was given; else the nearest around the current one that has a control file.
///
/// Inside the view of a branch that is the view itself, so that its branch is the one meant.
pub(crate) fn find(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(directory) = given {
        return Ok(directory.to_owned());
    }
    let here =
        env::current_dir().map_err(|error| Failure::io("cannot tell the current directory", &error))?;
    nearest(&here)
}

fn nearest(start: &Path) -> Result<PathBuf, Failure> {
    for directory in start.ancestors() {
        match fs::symlink_metadata(control_file(directory)) {
            Ok(found) if found.is_file() => return Ok(directory.to_owned()),
            // Walking on would leave the dead volume and might find another one: not the one meant.
            Err(error) if is_disconnected(&error) => return Err(Failure::disconnected(directory)),
            _ => {}
        }
    }
    Err(Failure::new("the current directory is in no AgentFS volume; name one with --mount"))
}

/// Below the mount point of a branch that was entered: the whole volume, for those inside.
pub(crate) const VOLUME: &str = ".agentfs/volume";

/// Is a branch mounted here, with the whole volume inside?
pub(crate) fn is_inside(place: &Path) -> bool {
    control_file(&place.join(VOLUME)).exists()
}

/// Where the volume that this directory belongs to is mounted.
///
/// # Errors
/// When it cannot be told.
pub(crate) fn mount_point(directory: &Path) -> Result<PathBuf, Failure> {
    let unknown = |error: &io::Error| Failure::io("cannot tell where the volume is mounted", error);
    let directory = directory.canonicalize().map_err(|error| unknown(&error))?;
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(|error| unknown(&error))?;
    let places =
        table.lines().filter(|line| line.contains(" - fuse")).filter_map(|line| line.split(' ').nth(4));
    let around = places.map(unescaped).filter(|place| directory.starts_with(place));
    around
        .max_by_key(|place| place.as_os_str().len())
        .ok_or_else(|| Failure::new(format!("no volume is mounted at {}", directory.display())))
}

/// A path as the kernel writes it in its tables.
fn unescaped(text: &str) -> PathBuf {
    let mut rest = text;
    let mut path = String::new();
    while let Some((before, escaped)) = rest.split_once('\\') {
        path.push_str(before);
        let (code, after) = escaped.split_at_checked(3).unwrap_or((escaped, ""));
        path.push(u8::from_str_radix(code, 8).map_or('\\', char::from));
        rest = after;
    }
    path.push_str(rest);
    path.into()
}

fn is_disconnected(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOTCONN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_control_file(directory: &Path) {
        fs::create_dir_all(directory.join(".agentfs")).unwrap();
        fs::write(control_file(directory), "").unwrap();
    }

    #[test]
    fn the_nearest_control_file_wins() {
        let root = tempfile::tempdir().unwrap();
        let view = root.path().join(".agentfs/branches/feature");
        fs::create_dir_all(view.join("src/deep")).unwrap();
        place_control_file(root.path());
        assert_eq!(nearest(&view.join("src/deep")).unwrap(), root.path());
        place_control_file(&view);
        assert_eq!(nearest(&view.join("src/deep")).unwrap(), view);
        assert_eq!(nearest(&root.path().join(".agentfs/branches")).unwrap(), root.path());
    }

    #[test]
    fn paths_of_the_kernels_tables_are_read() {
        assert_eq!(unescaped("/a/b"), Path::new("/a/b"));
        assert_eq!(unescaped("/a\\040b\\134c"), Path::new("/a b\\c"));
    }

    #[test]
    fn what_is_no_regular_file_is_passed_by() {
        let root = tempfile::tempdir().unwrap();
        place_control_file(root.path());
        let inner = root.path().join("inner");
        fs::create_dir_all(control_file(&inner)).unwrap();
        assert_eq!(nearest(&inner).unwrap(), root.path());
    }

    #[test]
    fn outside_every_volume_nothing_is_found() {
        let root = tempfile::tempdir().unwrap();
        assert!(nearest(root.path()).unwrap_err().to_string().contains("--mount"));
    }

    #[test]
    fn a_directory_that_is_given_is_not_searched_around() {
        let root = tempfile::tempdir().unwrap();
        place_control_file(root.path());
        let inner = root.path().join("inner");
        assert_eq!(find(Some(&inner)).unwrap(), inner);
    }
}
