# shellcheck shell=bash
# Runs a file of cases (see engine.py) on ext4 and on a volume, and compares what they print: in main, in a branch, with a
# snapshot taken wherever a case allows it, with a remount there, in a directory that lies over one of the host, and at the
# mount point bound to a branch, while somebody who is bound to another looks at the same paths all the time. To be sourced
# after lib.sh.

# The branch comes last: bound elsewhere, it keeps the volume from being unmounted.
MODES=(main snapshot remount lower bound branch)
RUN_SECONDS=${RUN_SECONDS:-300}

# make_reference DIR: an ext4 to compare with, where one can be mounted; else what the scratch directory is on.
make_reference() {
  mkdir -p "$1"
  REFERENCE="the host's $(stat -f -c %T "$1")"
  is_root && have mkfs.ext4 || return 0
  truncate -s 512M "$SCRATCH/ext4.img"
  mkfs.ext4 -q -F "$SCRATCH/ext4.img" && mount -o loop "$SCRATCH/ext4.img" "$1" 2>/dev/null || return 0
  on_exit umount "$1"
  REFERENCE=ext4
}

# daemon_args: how the volume is mounted: open to other users where cases act as such.
daemon_args() {
  printf '%s\n' --store "$SCRATCH/store"
  ! is_root || printf '%s\n' --allow-other
}

# The place of a mode in the volume; a branch's is bound elsewhere for root, since others may not pass .agentfs.
place_of() {
  case $1 in
    branch)
      cli "$mount" branch-create --from main --name work >/dev/null
      if is_root; then
        mkdir -p "$SCRATCH/work"
        mount --bind "$mount/.agentfs/branches/work" "$SCRATCH/work"
        on_exit umount "$SCRATCH/work"
        printf '%s\n' "$SCRATCH/work/cases"
      else
        printf '%s\n' "$mount/.agentfs/branches/work/cases"
      fi
      ;;
    lower)
      # A volume of its own over a directory in which the one of the cases is, with what they may find there.
      make_below "$SCRATCH/below"
      mapfile -t ARGS < <(daemon_args)
      ARGS[1]=$SCRATCH/over-store
      mount_volume "$SCRATCH/over" "${ARGS[@]}" --lower "$SCRATCH/below"
      printf '%s\n' "$SCRATCH/over/cases"
      ;;
    bound)
      cli "$mount" branch-create --from main --name bound >/dev/null
      cli "$mount" branch-create --from main --name onlooker >/dev/null
      printf '%s\n' "$mount/bound"
      ;;
    *) printf '%s\n' "$mount/$1" ;;
  esac
}

# make_below DIR: a directory to lie over; what it is goes to DIR.manifest.
make_below() {
  mkdir -p "$1/cases"
  chmod 777 "$1/cases"
  printf 'below\n' >"$1/file"
  ln "$1/file" "$1/hard"
  manifest_of "$1" >"$1.manifest"
}

manifest_of() { (cd "$1" && find . -printf '%p %i %m %U %G %n %s %T@ %C@\n' | sort); }

# below_is_untouched DIR: false, and says what differs, when it is not what make_below made.
below_is_untouched() { diff "$1.manifest" <(manifest_of "$1"); }

# look_on: looks at everything again and again, as another branch has it: it has the same directories, and others' files.
look_on() {
  cli "$mount" branch-bind --branch onlooker --pid "$BASHPID" >/dev/null || return
  while [ -e "$SCRATCH/looking" ]; do
    mkdir -p "$mount/bound/cases" 2>/dev/null
    ls -laR "$mount/bound" >/dev/null 2>&1
  done
}

# with_onlooker COMMAND...: runs it bound to the branch `bound`.
with_onlooker() {
  local status=0 looker
  touch "$SCRATCH/looking"
  look_on &
  looker=$!
  # shellcheck disable=SC2016  # the words of the new shell
  bash -c '"$1" --mount "$2" branch-bind --branch bound --pid $$ >/dev/null && shift 2 && "$@"' bound "$CLI_BIN" "$mount" "$@" || status=$?
  rm -f "$SCRATCH/looking"
  wait "$looker" || :
  return "$status"
}

# hook_of MODE: what happens between the steps of a case.
hook_of() {
  local args
  case $1 in
    snapshot) printf 'timeout 60 %q --mount %q snapshot-create' "$CLI_BIN" "$mount" ;;
    remount)
      args=$(daemon_args | while read -r arg; do printf ' %q' "$arg"; done)
      # shellcheck disable=SC2016  # it is the hook's $1
      printf '[ "$1" = open ] || exec %q %q %q%s' "$ROOT/scripts/posix/remount" "$HOST_BIN" "$mount" "$args"
      ;;
  esac
}

# run_cases CASES DIR NAME HOOK: the facts go to LOG_DIR/NAME.facts.
run_cases() {
  local run=()
  if [ "$3" = bound ]; then run=(with_onlooker); else mkdir -p "$2"; fi
  # shellcheck disable=SC2016  # the words of the new shell
  [ "$3" != bound ] || run+=(bash -c 'mkdir -p "$1" && shift && exec "$@"' run "$2")
  "${run[@]}" timeout --kill-after=10 "$RUN_SECONDS" python3 "$ROOT/scripts/posix/engine.py" "$1" "$2" "$4" \
    >"$LOG_DIR/$3.facts" 2>"$LOG_DIR/$3.log"
}

# prepare_comparison NAME: an ext4 and a volume, side by side.
prepare_comparison() {
  build_host
  build_cli
  make_scratch
  chmod 755 "$SCRATCH"
  log_dir "$1"
  make_reference "$SCRATCH/reference"
  mount=$SCRATCH/mount
  mapfile -t ARGS < <(daemon_args)
  mount_volume "$mount" "${ARGS[@]}"
}

# compare_cases NAME CASES: the whole harness.
compare_cases() {
  local cases=$ROOT/scripts/posix/$2 mode failed=0 skipped results=() facts differences outcome begun
  need_tools python3 timeout diff
  prepare_comparison "$1"
  run_cases "$cases" "$SCRATCH/reference/cases" reference "" ||
    fail "the cases do not run on $REFERENCE: see ${LOG_DIR#"$ROOT"/}/reference.log"
  skipped=$(grep -c ': skipped, ' "$LOG_DIR/reference.facts" || :)
  ! grep ': skipped, ' "$LOG_DIR/reference.facts"
  for mode in "${MODES[@]}"; do
    begun=$EPOCHREALTIME
    outcome=passed
    # Not in a subshell: what it mounts is to be unmounted at the end.
    place_of "$mode" >"$SCRATCH/place"
    run_cases "$cases" "$(cat "$SCRATCH/place")" "$mode" "$(hook_of "$mode")" || outcome="broke off"
    facts=$(wc -l <"$LOG_DIR/$mode.facts")
    differences=$(diff "$LOG_DIR/reference.facts" "$LOG_DIR/$mode.facts" | tee "$LOG_DIR/$mode.diff" | grep -c '^[<>]' || :)
    [ "$mode" != lower ] || below_is_untouched "$SCRATCH/below" || outcome="the directory below was changed"
    [ "$differences" = 0 ] || outcome="$differences lines differ, see ${LOG_DIR#"$ROOT"/}/$mode.diff"
    [ "$outcome" = passed ] || failed=$((failed + 1))
    printf '  %-9s %5s facts  %6s s  %s\n' "$mode" "$facts" "$(seconds_since "$begun")" "$outcome"
    results+=("{\"mode\": \"$mode\", \"facts\": $facts, \"differences\": $differences}")
  done
  [ "$failed" = 0 ] || cp "$SCRATCH"/state/agentfs/*.log "$LOG_DIR/" 2>/dev/null || :
  local IFS=,
  summary_json "passed=$((${#MODES[@]} - failed))" "failed=$failed" "skipped=$skipped" "reference=\"$REFERENCE\"" \
    "results=[${results[*]}]"
  say "$1: $((${#MODES[@]} - failed)) of ${#MODES[@]} places answer as $REFERENCE does; logs in ${LOG_DIR#"$ROOT"/}"
  [ "$failed" = 0 ]
}
