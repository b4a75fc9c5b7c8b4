#!/bin/bash
# run --trace: as threads and under mpirun, a file that parses and has every rank's spans.
. "$(dirname "$0")/support.sh"
"$program" generate a.h5 --seq-len 900 --heads 4 --kv-heads 2 --head-dim 16 --layers 2 >/dev/null
job=(run --input a.h5 --output o.h5 --overwrite --progress off --heads.softmax 0-1 --heads.stick-breaking 2-3)

# has_ranks FILE N: processes 0 to N-1, each with what a rank does.
has_ranks() {
  run python3 - "$@" <<'PYTHON'
import json, sys
events = json.load(open(sys.argv[1]))["traceEvents"]
ranks = int(sys.argv[2])
wanted = {"group", "compute", "finish", "wait", "read", "write"} | ({"send", "receive"} if ranks > 1 else set())
assert {event["pid"] for event in events} == set(range(ranks)), "processes"
for rank in range(ranks):
    found = {event["cat"] for event in events if event["pid"] == rank and event["ph"] == "X"}
    assert found >= wanted, (rank, wanted - found)
    assert any(event["ph"] == "C" for event in events if event["pid"] == rank), "a counter"
PYTHON
  wants 0
}

file_is_png() { [ "$(head -c 8 "$1" | od -An -tx1 | tr -d ' ')" = 89504e470d0a1a0a ]; }

says "trace: alone.json" "$program" "${job[@]}" --trace alone.json
has_ranks alone.json 1
says "trace: threads.json" "$program" "${job[@]}" --trace threads.json --ranks 3
has_ranks threads.json 3
for ranks in 2 3; do
  says "trace: $ranks.json" "$mpirun" --oversubscribe -n $ranks "$program" "${job[@]}" --trace $ranks.json
  has_ranks $ranks.json $ranks
done

if command -v gnuplot >/dev/null; then
  run "$(dirname "$0")/../../scripts/plot-trace" 3.json 3.png
  wants 0
  run file_is_png 3.png
  wants 0
fi

fails 2 "trace: found a.h5, which is the input or output too" "$program" "${job[@]}" --trace a.h5
fails 2 "trace: found r.json, which is the report too" "$program" "${job[@]}" --report r.json --trace r.json
run "$program" "${job[@]}" --trace dry.json --dry-run
wants 0
absent dry.json
finish
