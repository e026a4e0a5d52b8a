# The daemon and the command line: `just build`, `just build --release`
build *ARGS:
    cargo build --workspace --bins {{ARGS}}

# Mount a volume on DIR in the background; its store is the default one, named after DIR
[no-cd]
mount-fuse DIR *ARGS:
    {{quote(justfile_directory() / "scripts/mount-fuse")}} {{quote(DIR)}} {{ARGS}}

# Unmount the volume on DIR
[no-cd]
umount-fuse DIR:
    {{quote(justfile_directory() / "scripts/umount-fuse")}} {{quote(DIR)}}

# All tests of the workspace
test *ARGS:
    scripts/test {{ARGS}}

# Format, lints, shell scripts, licences and advisories
check:
    scripts/check

# Snapshots, branches and a build inside a branch, on this very repository
demo:
    scripts/demo

# Latency of snapshots and branches, memory a file, metadata rates, requests of a git status
bench-branching:
    scripts/bench-branching

# git, sqlite, tar, venv, npm and cargo on the mount, in main and in a branch
test-real-programs:
    scripts/test-real-programs

# Rates of small files and fsyncs, mount time and size of large stores, growth under overwriting
bench-store:
    scripts/bench-store
