# shellcheck shell=bash
# Checks by name, counted and summed up. To be sourced after lib.sh.

passed=0 failed=0
CHECKS=()

# check NAME COMMAND...: passes when the command does; what it says goes to a log of its own.
check() {
  local name=$1 outcome=passed log=$LOG_DIR/${1//[^A-Za-z0-9]/-}.log
  shift
  "$@" >"$log" 2>&1 || outcome=failed
  if [ "$outcome" = passed ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  printf '  %-60s %s\n' "$name" "$outcome"
  [ "$outcome" = passed ] || tail -n 3 "$log"
  CHECKS+=("{\"check\": \"$name\", \"outcome\": \"$outcome\"}")
}

# begin NAME: builds, and makes what every such harness needs.
begin() {
  need_tools python3 timeout
  build_host
  build_cli
  make_scratch
  chmod 755 "$SCRATCH"
  log_dir "$1"
  mount=$SCRATCH/mount
  mkdir -p "$mount"
}

# finish: the summary, and the exit code.
finish() {
  [ "$failed" = 0 ] || cp "$SCRATCH"/state/agentfs/*.log "$LOG_DIR/" 2>/dev/null || :
  local IFS=,
  summary_json "passed=$passed" "failed=$failed" "checks=[${CHECKS[*]}]"
  say "$passed passed, $failed failed; logs in ${LOG_DIR#"$ROOT"/}"
  [ "$failed" = 0 ]
}

# options_of DIR: how the kernel has it mounted.
options_of() { findmnt --noheadings --output OPTIONS --target "$1"; }

# refused SENTENCE COMMAND...: it fails, says that in one line, and nothing is mounted.
refused() {
  local sentence=$1 told status=0
  shift
  told=$(timeout 60 "$@" 2>&1) || status=$?
  say "exit $status: $told"
  [ "$status" != 0 ] && [ "$status" != 124 ] && [ "$(wc -l <<<"$told")" = 1 ] && [[ $told == *"$sentence"* ]] && ! is_mounted "$mount"
}
