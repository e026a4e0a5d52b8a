//! A store in which bytes of records were changed, with checksums that are right all the same: it is refused, or served so that
//! nothing panics; what a check finds nothing wrong with can be read, changed and opened again.
#![no_main]

use std::sync::Arc;

use agentfs_core::testing::{config, rewrite_payloads};
use agentfs_core::{
    Caller, Config, CreateMode, Device, FileId, FileKind, Folder, FsCore, InodeId, Memory, Name, OpenMode,
    Result, ViewId, check_store, repair_store,
};
use libfuzzer_sys::fuzz_target;

fn settings() -> Config {
    Config { small_file: 4096, layered_from: 8192, ..config() }
}

/// A volume with a checkpoint and records behind it, with files of all kinds of content, branches and snapshots.
fn plant(device: Arc<Memory>) -> Result<()> {
    let core = FsCore::open_volume(device, settings())?.0;
    let name = |text: &str| Name::new(text.as_bytes());
    let make = |dir: InodeId, called: &str, kind: FileKind| {
        let what = CreateMode { kind, mode: 0o755, umask: 0, rdev: 0 };
        core.create(ViewId::MAIN, dir, &name(called)?, what, Caller::ROOT).map(|made| made.ino)
    };
    let write = |ino: InodeId, at: u64, bytes: &[u8]| {
        let handle = core.open(ViewId::MAIN, ino, OpenMode::Write, Caller::ROOT)?;
        core.write(handle, at, bytes, false)?;
        core.release(handle)
    };
    let dir = make(InodeId::ROOT, "dir", FileKind::Directory)?;
    let small = make(dir, "small", FileKind::File)?;
    write(small, 0, &[1; 300])?;
    let large = make(InodeId::ROOT, "large", FileKind::File)?;
    write(large, 0, &[2; 40_000])?;
    core.link(ViewId::MAIN, small, InodeId::ROOT, &name("link")?)?;
    core.create_snapshot("main", Some("then"))?;
    write(large, 9000, &[3; 5000])?;
    core.create_branch("then", Some("other"))?;
    core.checkpoint()?;
    write(large, 20_000, &[4; 5000])?;
    make(dir, "late", FileKind::File)?;
    core.unlink(ViewId::MAIN, InodeId::ROOT, &name("link")?)?;
    core.create_snapshot("other", None)?;
    core.delete_snapshot("then").err();
    core.close()
}

/// Reads all files of a view; what cannot be read is an error, and no panic.
fn read_all(core: &FsCore, view: ViewId) {
    let Ok(version) = core.version(view) else { return };
    let files: Vec<InodeId> = version.iter().map(|(ino, _)| ino).take(200).collect();
    for ino in files {
        let Ok(handle) = core.open(view, ino, OpenMode::Read, Caller::ROOT) else { continue };
        let mut bytes = vec![0; 64 << 10];
        let _ = core.read(handle, 0, &mut bytes);
        let _ = core.release(handle);
    }
}

fuzz_target!(|input: &[u8]| {
    let device = Arc::new(Memory::default());
    plant(device.clone()).expect("the volume is made");
    let mut pieces: Vec<u64> = Vec::new();
    for id in device.list(Folder::Log).unwrap_or_default() {
        if let FileId::Log(piece) = id {
            pieces.push(piece);
        }
    }
    pieces.sort_unstable();
    let changes: Vec<&[u8]> = input.chunks_exact(5).take(16).collect();
    for piece in &pieces {
        rewrite_payloads(&*device, *piece, |number, payload| {
            for change in &changes {
                let [of, record, high, low, flip] = **change else { continue };
                if pieces[usize::from(of) % pieces.len()] == *piece
                    && usize::from(record) == number
                    && !payload.is_empty()
                {
                    let at = usize::from(u16::from_be_bytes([high, low])) % payload.len();
                    payload[at] ^= flip;
                }
            }
        });
    }
    let sound = check_store(device.clone(), settings()).is_ok_and(|report| report.findings.is_empty());
    if !sound {
        let store: Arc<dyn Device> = device.clone();
        let _ = repair_store(&store, &settings());
    }
    let Ok((core, _)) = FsCore::open_volume(device.clone(), settings()) else {
        assert!(!sound, "a sound store is refused");
        return;
    };
    let views: Vec<ViewId> = core.list_branches(None, 100).iter().map(|branch| branch.view).collect();
    views.iter().for_each(|view| read_all(&core, *view));
    let _ = core.create_snapshot("main", None);
    let _ = core.create_branch("main", None);
    let _ = core.checkpoint();
    let _ = core.tend();
    let closed = core.close();
    drop(core);
    if sound && closed.is_ok() {
        assert!(
            FsCore::open_volume(device, settings()).is_ok(),
            "a sound store is refused after it was served"
        );
    }
});
