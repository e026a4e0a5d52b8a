# shellcheck shell=bash
# Runs pjdfstest on ext4 and on a volume. To be sourced after lib.sh and compare.sh.

# shellcheck disable=SC2034  # used by who sources this
BASELINE=$ROOT/specs/Public/AgentFS/pjdfstest.baseline.json
FEATURES=(posix_fallocate rename_ctime stat_st_birthtime utime_now utimensat)
PJDFSTEST_SECONDS=${PJDFSTEST_SECONDS:-600}

# prepare_pjdfstest NAME: the suite, its settings, ext4 to compare with, a volume.
prepare_pjdfstest() {
  is_root || fail "pjdfstest acts as several users: run this as root"
  "$ROOT/scripts/setup" --pjdfstest --no-test-tools >/dev/null
  need_tools pjdfstest python3 timeout
  prepare_comparison "$1"
  {
    printf '[features]\n'
    printf '%s = {}\n' "${FEATURES[@]}"
    # Longer than the clock that ext4 takes its times from ticks.
    printf '[settings]\nnaptime = 0.02\n[dummy_auth]\nentries = [["nobody", "%s"], ["tests", "tests"]]\n' "$(id -gn nobody)"
  } >"$SCRATCH/pjdfstest.toml"
  mkdir -p "$SCRATCH/secondary"
}

# In front of the suite's command.
RUNNER=()

# run_pjdfstest DIR LOG [PATTERN...]: false when a case failed, or the suite did.
run_pjdfstest() {
  local dir=$1 log=$2
  shift 2
  mkdir -p "$dir"
  chmod 777 "$dir"
  "${RUNNER[@]}" timeout --kill-after=10 "$PJDFSTEST_SECONDS" pjdfstest --configuration-file "$SCRATCH/pjdfstest.toml" \
    --path "$dir" --secondary-fs "$SCRATCH/secondary" "$@" 2>&1 | tee -a "$log"
}
