//! The daemon, the kernel and the host each know something of a file: its times are in one order, and what was only stored
//! through a mapping is in every copy, in each data path.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::fs::{self, File, OpenOptions};

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use support::agents::has_python;
use support::{Volume, can_mount, run};

const DATA_PATHS: [&str; 3] = ["hybrid", "exact", "write-back"];

fn mtime(path: &Path) -> (i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

#[test]
fn what_is_written_later_is_not_older() {
    if !can_mount() {
        return;
    }
    for data_path in DATA_PATHS {
        let v = Volume::mount_with(&[], &[("AGENTFS_FUSE_DATA_PATH", data_path)]);
        let at = |name: &str| v.path(name);
        let large = vec![b'x'; 200_000];
        let small = |n: u32| fs::write(at("in"), n.to_string()).unwrap();
        for name in ["out", "over", "short"] {
            fs::write(at(name), &large).unwrap();
            fs::write(at(name), &large).unwrap();
        }
        let kept = OpenOptions::new().write(true).open(at("over")).unwrap();
        let mut last = (String::new(), (0, 0));
        for round in 0..1500_u32 {
            let name = match round.wrapping_mul(2_654_435_761) >> 28 {
                0..=4 => {
                    small(round);
                    "in".to_owned()
                }
                5..=7 => {
                    fs::write(at("out"), &large).unwrap();
                    "out".to_owned()
                }
                8..=9 => {
                    let file = OpenOptions::new().write(true).open(at("over")).unwrap();
                    file.write_all_at(&large[..100], u64::from(round)).unwrap();
                    "over".to_owned()
                }
                10 => {
                    kept.write_all_at(&large[..100], u64::from(round)).unwrap();
                    "over".to_owned()
                }
                11 => {
                    OpenOptions::new()
                        .write(true)
                        .open(at("short"))
                        .unwrap()
                        .set_len(150_000 + u64::from(round))
                        .unwrap();
                    "short".to_owned()
                }
                12 => {
                    File::open(at("in")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
                    continue;
                }
                13 => {
                    let name = format!("d{round}");
                    fs::create_dir(at(&name)).unwrap();
                    name
                }
                14 => {
                    let name = format!("l{round}");
                    std::os::unix::fs::symlink("in", at(&name)).unwrap();
                    name
                }
                _ => {
                    run(&v.root(), "touch", &["in"]);
                    "in".to_owned()
                }
            };
            let now = mtime(&at(&name));
            // A time that is set says nothing of order.
            if data_path != "write-back" || name != "over" {
                assert!(now >= last.1, "{data_path}, round {round}: {name} {now:?} after {last:?}");
                last = (name, now);
            }
        }
    }
}

#[test]
fn copies_have_what_is_mapped() {
    if !can_mount() || !has_python() {
        return;
    }
    let script = r#"
import mmap, os, subprocess, sys
os.chdir(sys.argv[1])
bad = []
for size in (4096, 60_000, 300_000, 3_000_000):
    for state in ("mapped", "closed, mapped", "unmapped"):
        for again in (False, True):
            path = f"f{size}-{state[:3]}-{again}"
            if again:
                with open(path, "wb") as f: f.truncate(size)
                os.stat(path)
            fd = os.open(path, os.O_RDWR | os.O_CREAT)
            os.ftruncate(fd, size)
            os.stat(path)
            m = mmap.mmap(fd, size); data = os.urandom(size); m[:] = data
            if state != "mapped": os.close(fd)
            if state == "unmapped": m.close()
            copies = [("cp", path, "copy"), ("cp", "--sparse=always", path, "copy"), ("install", path, "copy"),
                      ("dd", f"if={path}", "of=copy", "status=none"), ("sh", "-c", f"tar cS '{path}' | tar xO >copy"),
                      ("sh", "-c", f"cat '{path}' >copy")]
            for command in copies:
                subprocess.run(command, check=True)
                got = open("copy", "rb").read(); os.unlink("copy")
                if got != data: bad.append((path, command, len(got), got.count(0)))
            src = os.open(path, os.O_RDONLY); dst = os.open("copy", os.O_WRONLY | os.O_CREAT)
            done = 0
            while done < size: done += os.copy_file_range(src, dst, size - done)
            os.close(src); os.close(dst)
            if open("copy", "rb").read() != data: bad.append((path, "copy_file_range"))
            os.unlink("copy")
            if os.stat(path).st_blocks == 0: bad.append((path, "no space"))
            if state == "mapped": os.close(fd)
            if state != "unmapped": m.close()
print(bad); sys.exit(bool(bad))
"#;
    for data_path in DATA_PATHS {
        let v = Volume::mount_with(&[], &[("AGENTFS_FUSE_DATA_PATH", data_path)]);
        run(Path::new("/"), "python3", &["-c", script, v.root().to_str().unwrap()]);
        // What nobody has open to map has its holes.
        let sparse = File::create(v.path("sparse")).unwrap();
        sparse.write_all_at(b"end", 5_000_000).unwrap();
        sparse.set_len(9_000_000).unwrap();
        drop(sparse);
        if data_path != "write-back" {
            run(&v.root(), "cp", &["sparse", "copy"]);
            assert!(fs::metadata(v.path("copy")).unwrap().blocks() < 100);
        }
    }
}
