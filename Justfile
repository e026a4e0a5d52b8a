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

# A volume over 100,000 files: mounting, walking, git status, memory, first writes
bench-overlay:
    scripts/bench-overlay

# Diff, merge and undo of ten files in small and large trees
bench-merging:
    scripts/bench-merging

# What large files cost that were frozen and are written to, on a host without reflinks
bench-large:
    scripts/bench-large

# SQLite in three branches of one snapshot: integrity, space and speed beside whole copies and the host
bench-sqlite:
    scripts/bench-sqlite

# What looking at a path costs: nobody bound, bound, inside branch-exec
bench-views *ARGS:
    scripts/bench-views {{ARGS}}

# How fast a volume is beside a host directory and fuse-overlayfs, with variants and floors (minutes; see the script)
test-fuse-performance:
    scripts/test-fuse-performance

# The command line over a mounted volume, message by message
test-fuse-control-plane:
    scripts/test-fuse-control-plane

# What every program does, on ext4 and on a volume, compared fact by fact
test-fuse-basic-ops:
    scripts/test-fuse-basic-ops

# What must fail, and how
test-fuse-negative-ops:
    scripts/test-fuse-negative-ops

# Extended attributes and ACLs
test-fuse-xattrs:
    scripts/test-fuse-xattrs

# Special files, and renames with flags
test-fuse-mknod:
    scripts/test-fuse-mknod

# Every option, key and variable
test-fuse-mount-options:
    scripts/test-fuse-mount-options

# mmap, holes, ranges, locks, large files
test-fuse-advanced-io:
    scripts/test-fuse-advanced-io

# Mount, change, unmount or kill, again and again
test-fuse-mount-cycle *ARGS:
    scripts/test-fuse-mount-cycle {{ARGS}}

# A volume over a directory that exists: copy-up, whiteouts, merged directories, and a session on this repository
test-fuse-overlay-ops:
    scripts/test-fuse-overlay-ops

# What cannot be mounted is refused and left alone
test-fuse-mount-failures:
    scripts/test-fuse-mount-failures

# Many volumes, many that want one store, many users of one
test-fuse-mount-concurrent *ARGS:
    scripts/test-fuse-mount-concurrent {{ARGS}}

# A part of pjdfstest: `just test-pjdfs-subset rename`
test-pjdfs-subset DIR:
    scripts/test-pjdfs-subset {{quote(DIR)}}

# All of pjdfstest, compared with specs/Public/AgentFS/pjdfstest.baseline.json; needs root
test-pjdfstest-full:
    scripts/test-pjdfstest-full

# fsx: `just test-fuse-fsx [SEEDS [OPERATIONS]]`
test-fuse-fsx *ARGS:
    scripts/test-fuse-fsx {{ARGS}}

# stress-ng's filesystem stressors, verifying
test-fuse-stress *ARGS:
    scripts/test-fuse-stress {{ARGS}}

# CPython's tests of files, git, SQLite, cargo, pip and npm
test-external-suites *ARGS:
    scripts/test-external-suites {{ARGS}}

# The daemon killed at random moments while git, SQLite and tar work: `just test-kills [KILLS]`; needs root
test-kills *ARGS:
    scripts/test-kills {{ARGS}}

# What is read from outside, and operations against the model, under a fuzzer: `just fuzz [MINUTES]`; needs cargo-fuzz
fuzz *ARGS:
    scripts/fuzz {{ARGS}}

# What is below the daemon fails, in 54 ways, while programs work; needs root and strace
test-faults:
    scripts/test-faults

# Tests of mounted volumes as an ordinary user: `just test-as-user [TEST...]`; needs root, to become one
test-as-user *ARGS:
    scripts/test-as-user {{ARGS}}

# The core's races under a schedule explorer: `just schedules [COUNT]`
schedules *ARGS:
    scripts/schedules {{ARGS}}

# What a volume of ten thousand branches and a hundred thousand snapshots costs; SNAPSHOTS, BRANCHES and FILES say how many
bench-many:
    scripts/bench-many

# Random histories applied to a directory, compared whole: `just test-apply-histories [CASES [SEED]]`
test-apply-histories cases="3000" seed="1":
    APPLY_HISTORIES={{cases}} APPLY_SEED={{seed}} scripts/test -E 'binary(apply_histories)'

# Licences, sources and known weaknesses of the dependencies; needs cargo-deny and cargo-audit
audit:
    scripts/audit

# Eight processes in six branches under a checker, for so many minutes; memory and descriptors are to stay flat
soak minutes="10":
    scripts/soak {{minutes}}
