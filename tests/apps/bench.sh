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
"$program" bench strong --ranks 2 --world 2 --seq-len 500 --mechanisms softmax --layout contiguous,zigzag --dtype float16,bfloat16 \
  --json "$folder/lists.jsonl" > "$folder/lists.txt"
"$program" bench weak --ranks 3 --world 1,3 --seq-len 96 --heads 2 --head-dim 32 --mechanisms ssm,mamba,chela --states 8 --taps 80 \
  --json "$folder/blocks.jsonl" > "$folder/blocks.txt"
"$program" bench io --ranks 3 --world 1,3 --seq-len 1001 --file "$folder/io.h5" --json "$folder/io.jsonl" > "$folder/io.txt"
"$mpirun" --oversubscribe -n 3 "$program" bench io --seq-len 2 --file "$folder/io.h5" --json "$folder/io-mpi.jsonl" > "$folder/io.txt"
test ! -e "$folder/io.h5"
"$program" bench profile --ranks 2 --seq-len 128,512 --dtype bfloat16 --mechanisms softmax,stick-breaking,cog,sparse-window,sparse-topk,linear \
  --file "$folder/io.h5" --profile "$folder/profile.json" > "$folder/profile.txt"
"$mpirun" --oversubscribe -n 2 "$program" bench profile --seq-len 128,512 --mechanisms softmax --profile "$folder/profile-mpi.json" > "$folder/profile.txt"
"$program" plan "$folder/profile.json" --world 1,2,5,64 --seq-len 64K,1M --heads 6 --kv-heads 3 --dtype bfloat16 --reach 30,200 --ranks-per-node 4 \
  --link.between 10,1 --heads.softmax 0,1 --heads.stick-breaking 2,3 --heads.linear 4,5 --json "$folder/plan.json" > "$folder/plan.txt"
"$program" plan "$folder/profile.json" --sweep --seq-len 16K --dtype bfloat16 --mechanism linear --ranks-per-node 4 --link.between 10,1 \
  --memory 16M > "$folder/sweep.txt"
"$program" bench profile --ranks 2 --seq-len 128,512 --heads 2 --head-dim 32 --mechanisms ssm,mamba,chela --states 8 --taps 80 \
  --profile "$folder/blocks.json" > "$folder/profile.txt"
for mechanism in ssm mamba chela; do
  "$program" plan "$folder/blocks.json" --world 1,8,64 --ranks-per-node 8 --link.between 10,1 --seq-len 16K --heads 2 --head-dim 32 --states 8 --taps 80 \
    --mechanism $mechanism --json "$folder/plan-$mechanism.json" > "$folder/plan.txt"
  grep -q "contiguous" "$folder/plan-$mechanism.json"
done
grep -q "largest context that fits 16384 ranks" "$folder/sweep.txt"
grep -q "efficiency falls under 80 % at" "$folder/sweep.txt"

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
    # Short points of strong and weak are repeated for a quarter of a second, at most 50 times.
    assert len(found) in (range(5, 51) if callpath.startswith(("strong", "weak")) else (5,)), (callpath, metric, params, found)
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
# ssm: 8 FLOPs a token, channel and state; at each step of the scan a sum and 8 states of 64 channels, in fp32, of 3 ranks 3 messages.
blocks = read("blocks")
for ranks in 1, 3:
    for flops in values(blocks, "weak->ssm", "flops", ranks=ranks, seq_len=96 * ranks):
        assert math.isclose(flops, 8 * 96 * ranks * 64 * 8), flops
assert set(values(blocks, "weak->ssm", "sent_bytes", ranks=3, seq_len=288)) == {3 * 64 * 9 * 4}
assert all(values(blocks, f"weak->{name}", "seconds", ranks=3, seq_len=288) for name in ("mamba", "chela"))
assert all(values(comm, "comm->exchange", "seconds", ranks=ranks, bytes=8) for ranks in (2, 3))
for name, ranks in ("io", (1, 3)), ("io-mpi", (3,)):
    io = read(name)
    for number in ranks:
        size = io[0]["params"]["bytes"]
        assert all(values(io, f"io->{way}", "seconds", ranks=number, bytes=size) for way in ("write", "read"))
lists = read("lists")
assert {line["callpath"] for line in lists} == {f"strong->softmax->{layout}->{dtype}"
    for layout in ("contiguous", "zigzag") for dtype in ("float16", "bfloat16")}
plan = json.load(open(f"{folder}/plan.json"))
assert [(p["ranks"], p["seq_len"]) for p in plan["points"]] == [(w, n) for n in (65536, 1048576) for w in (1, 2, 5, 64)]
for point in plan["points"]:
    assert math.isclose(sum(point["shares"].values()), 1.0, abs_tol=1e-6), point["shares"]
    assert all(math.isfinite(s) and s >= 0 for s in point["seconds"].values()) and point["seconds"]["total"] > 0
    assert (point["bytes"]["between_nodes"] > 0) == (point["ranks"] > 4)
PYTHON
if "$program" plan "$folder/profile.json" --world 8 --seq-len 1K --dtype bfloat16 --mechanism softmax --ranks-per-node 4 2> "$folder/error.txt"; then
  exit 1
else
  test $? -eq 2
fi
grep -q "the profile has no link between nodes" "$folder/error.txt"
# One rank measures no links, and plan says so.
"$program" bench profile --seq-len 128,512 --heads 2 --head-dim 32 --mechanisms softmax,linear,ssm --states 8 --profile "$folder/alone.json" > "$folder/profile.txt"
grep -q "^no links: one rank" "$folder/profile.txt"
"$program" plan "$folder/alone.json" --world 1,4 --ranks-per-node 2 --link.inside 5,10 --link.between 20,1 --seq-len 1K --heads 2 --head-dim 32 \
  --mechanism ssm --states 8 > "$folder/plan.txt"
if "$program" plan "$folder/alone.json" --world 2 --ranks-per-node 2 --seq-len 1K --heads 2 --head-dim 32 --mechanism softmax 2> "$folder/error.txt"; then
  exit 1
else
  test $? -eq 2
fi
grep -q "the profile has no link inside a node" "$folder/error.txt"
if "$program" plan "$folder/profile.json" --world 2 --seq-len 1K --mechanism softmax 2> "$folder/error.txt"; then exit 1; else test $? -eq 2; fi
grep -q "the profile has no cost of softmax, float32, head_dim 64" "$folder/error.txt"
if "$program" bench strong --ranks 2 --world 3 2> "$folder/error.txt"; then exit 1; else test $? -eq 2; fi
grep -q -- "--world: found 3, want at most the 2 ranks of this job" "$folder/error.txt"
if "$program" bench strong --seq-len 64 --heads 6 --head-dim 50 --mechanisms chela 2> "$folder/error.txt"; then exit 1; else test $? -eq 2; fi
grep -q "chela.heads: found 1 for 300 channels" "$folder/error.txt"
test "$(wc -l < "$folder/error.txt")" -eq 1
if "$program" plan "$folder/blocks.json" --world 2 --seq-len 1K --heads 4 --head-dim 32 --mechanism ssm 2> "$folder/error.txt"; then exit 1; else test $? -eq 2; fi
grep -q "the profile has no cost of ssm, float32, 128 channels, 16 states: it has ssm, float32, 64 channels, 8 states" "$folder/error.txt"
test "$(wc -l < "$folder/error.txt")" -eq 1
