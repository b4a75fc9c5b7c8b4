#!/bin/bash
# What the scripts beside this share. Arguments of each: the program, mpirun.
set -u
program=$1
export mpirun=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

# complain WHAT: counts a failure and shows what the last command said.
complain() {
  failures=$((failures + 1))
  echo "FAILED: $1"
  echo "  command: $last"
  sed 's/^/  stdout: /' "$work/out" | head -n 20
  sed 's/^/  stderr: /' "$work/err" | head -n 20
}

# run COMMAND...: leaves its exit code in $code and what it said in out and err.
run() {
  last="$*"
  "$@" >"$work/out" 2>"$work/err"
  code=$?
}

# wants CODE: of the last command.
wants() {
  [ "$code" -eq "$1" ] || complain "exit code $code, want $1"
}

# fails CODE TEXT COMMAND...: that code, and one line `ringscan: ...TEXT...` on stderr and nothing on stdout. Lines
# that mpirun adds of its own are not counted.
fails() {
  local want_code=$1 text=$2
  shift 2
  run "$@"
  wants "$want_code"
  [ "$(grep -c '^ringscan: ' "$work/err")" -eq 1 ] || complain "want one line on stderr that begins with 'ringscan: '"
  if [ "$1" = "$program" ] && [ "$(wc -l <"$work/err")" -ne 1 ]; then complain "want one line on stderr"; fi
  grep '^ringscan: ' "$work/err" | grep -qF -- "$text" || complain "want '$text' on stderr"
  [ "$1" != "$program" ] || [ ! -s "$work/out" ] || complain "want nothing on stdout"
}

# says TEXT COMMAND...: exit code 0, TEXT on stdout.
says() {
  local text=$1
  shift
  run "$@"
  wants 0
  grep -qF -- "$text" "$work/out" || complain "want '$text' on stdout"
}

# absent FILE...: none of these is there, nor a temporary file beside them.
absent() {
  local file
  for file in "$@"; do
    [ -z "$(find . -name "*$file*")" ] || complain "want no $file*, found: $(find . -name "*$file*" | tr '\n' ' ')"
  done
}

finish() {
  [ "$failures" -eq 0 ] && echo "all as wanted" && exit 0
  echo "$failures failed"
  exit 1
}
