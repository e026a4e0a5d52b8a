# shellcheck shell=bash
# What all harnesses share: logging, logs, tools, builds, volumes, and cleaning up after themselves.
# To be sourced: `source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"`.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
SELF=$(basename "$0")
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"
export CARGO_TERM_COLOR=never NO_COLOR=1 PYTHONDONTWRITEBYTECODE=1
PROFILE=${PROFILE:-release}

# --- saying things ---------------------------------------------------------------------------------------

say() { printf '%s\n' "$*"; }

warn() { printf '%s: %s\n' "$SELF" "$*" >&2; }

# fail "sentence": says it and ends.
fail() {
  warn "$*"
  exit 1
}

# --- leaving nothing behind ------------------------------------------------------------------------------

EXIT_COMMANDS=()

# on_exit COMMAND...: runs it when the script ends, however it ends; the last one asked for comes first.
on_exit() {
  EXIT_COMMANDS+=("$(printf '%q ' "$@")")
}

run_exit_commands() {
  local status=$? i
  trap - EXIT
  trap '' INT TERM HUP
  set +e
  for ((i = ${#EXIT_COMMANDS[@]} - 1; i >= 0; i--)); do
    eval "${EXIT_COMMANDS[i]}"
  done
  exit "$status"
}
trap run_exit_commands EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# make_scratch: a directory of this run's own in SCRATCH, deleted at its end. The daemons' logs go there too.
make_scratch() {
  SCRATCH=$(mktemp -d "${1:-${TMPDIR:-/tmp}}/agentfs-XXXXXX")
  SCRATCH=$(realpath "$SCRATCH")
  on_exit remove_scratch "$SCRATCH"
  export XDG_STATE_HOME=$SCRATCH/state
}

remove_scratch() {
  if grep -qF " $1/" /proc/mounts; then
    warn "something is still mounted in $1: it is left there"
    return 1
  fi
  rm -rf --one-file-system "$1"
}

# --- tools -----------------------------------------------------------------------------------------------

have() { command -v "$1" >/dev/null 2>&1; }

need_tools() {
  local tool missing=()
  for tool in "$@"; do
    have "$tool" || missing+=("$tool")
  done
  [ ${#missing[@]} -eq 0 ] || fail "missing: ${missing[*]}; run scripts/setup"
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# can_be_root: root already, or through a sudo that will not wait for a password nobody types.
can_be_root() {
  is_root && return
  have sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }
}

as_root() {
  if is_root; then "$@"; else sudo "$@"; fi
}

# seconds_since EPOCHREALTIME: with one decimal.
seconds_since() {
  local now=$EPOCHREALTIME
  local tenths=$(((${now/[.,]/} - ${1/[.,]/}) / 100000))
  printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

# --- logs ------------------------------------------------------------------------------------------------

# log_dir NAME: makes logs/<name>-<timestamp>/ and sets LOG_DIR to it.
log_dir() {
  local base next=2
  base=$ROOT/logs/$1-$(date -u +%Y%m%dT%H%M%SZ)
  LOG_DIR=$base
  until mkdir "$LOG_DIR" 2>/dev/null; do
    [ -d "$LOG_DIR" ] || fail "the directory $LOG_DIR cannot be made"
    LOG_DIR=$base-$((next++))
  done
}

# summary_json KEY=VALUE...: writes LOG_DIR/summary.json; a value that is JSON stays what it is, all else is a
# string; `@FILE` is what a file says. What every reader wants to know about the run is added.
summary_json() {
  local commit
  commit=$(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown)
  python3 - "$LOG_DIR/summary.json" "harness=$SELF" "commit=\"$commit\"" "profile=$PROFILE" \
    "kernel=\"$(uname -r)\"" "cpus=$(nproc)" "finished=$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$@" <<'PY'
import json, sys

def value(text):
    if text.startswith("@"):
        with open(text[1:]) as file:
            return json.load(file)
    try:
        return json.loads(text)
    except ValueError:
        return text

pairs = (pair.split("=", 1) for pair in sys.argv[2:])
with open(sys.argv[1], "w") as out:
    json.dump({key: value(text) for key, text in pairs}, out, indent=2)
    out.write("\n")
PY
}

# --- builds ----------------------------------------------------------------------------------------------

binary_path() {
  local target=${CARGO_TARGET_DIR:-}
  if [ -z "$target" ]; then
    target=$(cd "$ROOT" && cargo metadata --no-deps --offline --format-version 1 |
      python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
  fi
  realpath -m "$target/$PROFILE/$1"
}

# build_binary NAME SKIP: builds it in PROFILE unless SKIP is 1, and prints where it is.
build_binary() {
  local binary options=(build --quiet --package "$1")
  case $PROFILE in
    debug) ;;
    release) options+=(--release) ;;
    *) fail "PROFILE is $PROFILE: it must be debug or release" ;;
  esac
  if [ "$2" != 1 ]; then
    need_tools cargo
    (cd "$ROOT" && cargo "${options[@]}" >&2) || fail "$1 does not build"
  fi
  binary=$(binary_path "$1")
  [ -x "$binary" ] || fail "there is no $binary: it has to be built first"
  printf '%s\n' "$binary"
}

# Sets HOST_BIN.
build_host() { HOST_BIN=$(build_binary agentfs-fuse-host "${SKIP_FUSE_BUILD:-0}"); }

# Sets CLI_BIN.
build_cli() { CLI_BIN=$(build_binary agentfs-control-cli "${SKIP_CONTROL_CLI_BUILD:-0}"); }

# cli DIR COMMAND...: asks the daemon of the volume at DIR.
cli() {
  local mount=$1
  shift
  timeout 60 "$CLI_BIN" --mount "$mount" "$@"
}

# --- volumes ---------------------------------------------------------------------------------------------

is_mounted() { grep -qF " $(realpath -m "$1") fuse" /proc/mounts; }

# daemon_pid DIR: the process that serves the volume at DIR, an absolute path.
daemon_pid() {
  local dir comm words
  for dir in /proc/[0-9]*; do
    { read -r comm <"$dir/comm" && [ "$comm" = agentfs-fuse-ho ]; } 2>/dev/null || continue
    { mapfile -d '' -t words <"$dir/cmdline"; } 2>/dev/null || continue
    # A zombie has none.
    [ ${#words[@]} -gt 0 ] || continue
    if [ "${words[-1]}" = "$1" ]; then
      printf '%s\n' "${dir#/proc/}"
      return
    fi
  done
  return 1
}

# mount_volume DIR [ARGS]: mounts a volume in the background and sees to it that it goes when the script ends.
mount_volume() {
  local mount=$1
  shift
  [ -c /dev/fuse ] || fail "there is no /dev/fuse: load the module fuse, or start the container with the device"
  mkdir -p "$mount"
  mount=$(realpath "$mount")
  on_exit umount_volume "$mount"
  timeout 60 "$HOST_BIN" --background "$@" "$mount" || fail "the volume at $mount cannot be mounted"
}

# umount_volume DIR: unmounts cleanly and waits for the daemon; false when that took force.
umount_volume() {
  local mount=$1 pid clean=0
  pid=$(daemon_pid "$mount") || pid=
  if is_mounted "$mount" && ! try_umount "$mount"; then
    warn "$mount is in use: it is unmounted lazily"
    clean=1
    detach "$mount"
  fi
  [ -z "$pid" ] || wait_gone "$pid" || { warn "the daemon of $mount does not end: it is killed"; clean=1; kill -KILL "$pid"; }
  return "$clean"
}

# Somebody may still be on the way out of the volume: tries for five seconds.
try_umount() {
  local try
  for try in 1 2 3 4 5 6 7 8 9 10; do
    [ "$try" = 1 ] || sleep 0.5
    if is_root; then umount "$1" 2>/dev/null && return; else fusermount3 -u "$1" 2>/dev/null && return; fi
  done
  return 1
}

detach() {
  if is_root; then umount -l "$1"; else fusermount3 -u -z "$1"; fi
}

# wait_gone PID: until the process has ended, for at most a minute: it makes everything durable first.
wait_gone() {
  local try
  for ((try = 0; try < 600; try++)); do
    [ -d "/proc/$1" ] || return 0
    # A zombie waits for its parent only.
    ! grep -qs '^State:.Z' "/proc/$1/status" || return 0
    sleep 0.1
  done
  return 1
}

# --- contents --------------------------------------------------------------------------------------------

# fingerprint DIR: one hash of all names, kinds, modes, link targets and bytes below DIR.
fingerprint() {
  (
    cd "$1"
    find . -printf '%P\t%y\t%m\t%l\n' | LC_ALL=C sort
    find . -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum
  ) | sha256sum | cut -d ' ' -f 1
}

# isolate_git: git as it comes, whatever the user has configured; repositories of other owners can be read.
isolate_git() {
  export GIT_CONFIG_GLOBAL=$SCRATCH/gitconfig GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0
  unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
  printf '[safe]\n\tdirectory = *\n[init]\n\tdefaultBranch = main\n[advice]\n\tdetachedHead = false\n[gc]\n\tauto = 0\n' \
    >"$GIT_CONFIG_GLOBAL"
}
