#!/bin/bash
# Signals stop a run resumably: exit code 75, and --resume gives the bits of a run that was left alone.
. "$(dirname "$0")/support.sh"
"$program" generate a.h5 --seq-len 10000 --heads 8 --kv-heads 8 --head-dim 64 --layers 3 >/dev/null
job=(run --input a.h5 --progress off --kv-heads-at-once 1 --mechanism softmax --outputs lse)
run "$program" "${job[@]}" --output whole.h5
wants 0

# stopped SIGNAL COMMAND...: starts it, sends the signal once it has begun to write, and wants 75 and the line about it.
stopped() {
  local signal=$1
  shift
  last="$* (with $signal)"
  "$@" >"$work/out" 2>"$work/err" &
  local job_pid=$!
  for _ in $(seq 600); do
    if [ -e out.h5.ringscan-partial ] && [ "$(stat -c %s out.h5.ringscan-partial)" -gt 100000 ]; then break; fi
    sleep 0.05
  done
  kill -"$signal" "$job_pid"
  wait "$job_pid"
  code=$?
  wants 75
  [ "$(grep -c '^ringscan: stopped on request: ' "$work/err")" -eq 1 ] || complain "want one line that says it stopped"
  [ -e out.h5.ringscan-progress ] || complain "want a record of progress"
  [ ! -e out.h5 ] || complain "want no output yet"
}

# same_as_whole: datasets of out.h5, bit for bit.
same_as_whole() {  # with Debian's python3, whose h5py is installed
  run /usr/bin/python3 - <<'PYTHON'
import h5py
with h5py.File("whole.h5") as a, h5py.File("out.h5") as b:
    names = []
    a.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    assert len(names) == 6, names
    for name in names:
        assert a[name][()].tobytes() == b[name][()].tobytes(), name
PYTHON
  wants 0
  absent out.h5.ringscan
  rm -f out.h5
}

for signal in USR1 TERM; do
  stopped $signal "$program" "${job[@]}" --output out.h5
  says "resumed: " "$program" "${job[@]}" --output out.h5 --resume
  same_as_whole
done
run "$mpirun" --oversubscribe -n 2 "$program" "${job[@]}" --output whole.h5 --overwrite
wants 0
stopped USR1 "$mpirun" --oversubscribe -n 2 "$program" "${job[@]}" --output out.h5 --resume
fails 2 "was begun with 2 ranks, found 1 ranks now" "$program" "${job[@]}" --output out.h5 --resume
says "resumed: " "$mpirun" --oversubscribe -n 2 "$program" "${job[@]}" --output out.h5 --resume
cp out.h5 done.h5
same_as_whole
cp done.h5 out.h5
says "out.h5: is complete already" "$mpirun" --oversubscribe -n 2 "$program" "${job[@]}" --output out.h5 --resume
rm out.h5

# Killed: the layers that were written count, and its log says what it was about.
last="a run that is killed"
"$program" "${job[@]}" --output out.h5 >"$work/out" 2>"$work/err" &
victim=$!
for _ in $(seq 600); do
  [ -e out.h5.ringscan-progress ] && break
  sleep 0.05
done
kill -KILL $victim
wait $victim 2>/dev/null
grep -q '^memory a rank: ' "$work/out" || complain "want the plan on stdout before anything is computed"
run "$program" "${job[@]}" --output whole.h5 --overwrite
says "resumed: " "$program" "${job[@]}" --output out.h5 --resume
same_as_whole
finish
