#!/bin/bash
# bench comm, strong and weak: each line as Extra-P reads it, and the counts that do not depend on speed. $1: the program,
# $2: mpirun.
set -euo pipefail
program=$1
mpirun=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$program" bench strong --ranks 4 --world 1,3,4 --seq-len 1001 --mechanisms softmax,hybrid --json "$folder/strong.jsonl" > "$folder/strong.txt"
"$program" bench comm --ranks 3 --world 1,2,3 --json "$folder/comm.jsonl" > "$folder/comm.txt"
"$mpirun" --oversubscribe -n 3 "$program" bench weak --world 1,2,3 --seq-len 101 --heads 4 --kv-heads 2 --mechanisms softmax,stick-dense,linear \
  --layout contiguous --dtype bfloat16 --json "$folder/weak.jsonl" > "$folder/weak.txt"

python3 - "$folder" <<'PYTHON'
import json, math, sys
folder = sys.argv[1]
def read(name):
    lines = [json.loads(text) for text in open(f"{folder}/{name}.jsonl")]
    for line in lines:
        assert set(line) == {"params", "callpath", "metric", "value"}, line
        assert isinstance(line["callpath"], str) and isinstance(line["metric"], str)
        assert isinstance(line["value"], (int, float)) and math.isfinite(line["value"]) and line["value"] >= 0
        assert line["params"] and all(isinstance(value, (int, float)) for value in line["params"].values())
    assert len({tuple(line["params"]) for line in lines}) == 1
    return lines
def values(lines, callpath, metric, **params):
    found = [line["value"] for line in lines if (line["callpath"], line["metric"], line["params"]) == (callpath, metric, params)]
    assert len(found) == 5, (callpath, metric, params, found)
    return found
strong, weak, comm = read("strong"), read("weak"), read("comm")
# Useful FLOPs alone, and the same work for every number of ranks.
for ranks in 1, 3, 4:
    assert set(values(strong, "strong->softmax", "flops", ranks=ranks, seq_len=1001)) == {3 * 4 * 64 * 1001 * 1002 // 2}
assert set(values(strong, "strong->softmax", "sent_bytes", ranks=1, seq_len=1001)) == {0}
for ranks in 1, 2, 3:
    n = 101 * ranks
    assert set(values(weak, "weak->softmax", "flops", ranks=ranks, seq_len=n)) == {4 * 4 * 64 * n * (n + 1) // 2}
    # Causal and contiguous: the block of rank r goes to all behind it. 2 KV heads of k and v, 2 bytes an element.
    hops = ranks * (ranks - 1) // 2
    assert set(values(weak, "weak->softmax", "sent_bytes", ranks=ranks, seq_len=n)) == {hops * 101 * 2 * 2 * 64 * 2}
assert all(values(comm, "comm->exchange", "seconds", ranks=ranks, bytes=8) for ranks in (2, 3))
PYTHON
if "$program" bench strong --ranks 2 --world 3 2> "$folder/error.txt"; then exit 1; else test $? -eq 2; fi
grep -q -- "--world: found 3, want at most the 2 ranks of this job" "$folder/error.txt"
