#!/bin/bash
# generate, inspect, run and verify on small files, one process: results, and bad input with exit code 2 and no output.
. "$(dirname "$0")/support.sh"

says "a.h5: 2 layers of normal q, k, v, 300 tokens, 4 heads (2 KV), bfloat16" \
  "$program" generate a.h5 --seq-len 300 --heads 4 --kv-heads 2 --head-dim 16 --v-dim 8 --layers 2 --dtype bf16
cp a.h5 first.h5
fails 2 "a.h5" "$program" generate a.h5 --seq-len 5
cmp -s a.h5 first.h5 || complain "a refused generate has changed the file"
says "a.h5: 1 layer of long-stick" "$program" generate a.h5 --seq-len 100 --kind long-stick --overwrite --ranks 3
fails 2 "nowhere" "$program" generate nowhere/a.h5 --seq-len 5
mv first.h5 a.h5

says "a.h5: 2 layers, 131.2 KiB, complete" "$program" inspect a.h5
grep -qE '^  1 +v +bfloat16 +contiguous +\[1, 300, 2, 8\] +9\.4 KiB$' out || complain "want a line for v of layer 1"
grep -qE '^  kind +normal$' out || complain "want the attribute kind"
says '"complete": true' "$program" inspect a.h5 --json
says "a.h5: 2 layers" "$program" inspect a.h5 --ranks 3
fails 2 "none.h5" "$program" inspect none.h5
echo "no HDF5" >text.h5
fails 2 "text.h5" "$program" inspect text.h5
head -c 40000 a.h5 >cut.h5
fails 2 "cut.h5" "$program" inspect cut.h5

job=("$program" run --input a.h5 --mechanism softmax --progress off)
says "output: b.h5" "${job[@]}" --output b.h5 --outputs lse --report report.json
[ ! -s err ] || complain "want nothing on stderr"
[ -s report.json ] || complain "want a report"
says "verified" "$program" verify --input a.h5 --output b.h5 --rows all
says "b.h5: 2 layers" "$program" inspect b.h5
grep -qE '^ +mechanism = softmax$' out || complain "want the configuration among the attributes"
says "0      lse" "$program" inspect b.h5

# A configuration that was written reads back, and the command line wins over it.
sed -n 's/^ *\(.* = .*\)$/\1/p' out | sed 's/^configuration *//' >written.ini
says "output: c.h5" "$program" run --config written.ini --output c.h5 --ranks 3
says "0      lse" "$program" inspect c.h5

# A sequence in two files: the first is the context of the second.
"$program" generate next.h5 --seq-len 77 --heads 4 --kv-heads 2 --head-dim 16 --v-dim 8 --layers 2 --dtype bf16 --seed 2 \
  >/dev/null
after=("$program" run --input next.h5 --output after.h5 --progress off)
says " blocks read, 0 not needed" "${after[@]}" --context a.h5 --heads.stick-breaking 0-1 --heads.sparse 2-3 --ranks 2
says "verified" "$program" verify --input next.h5 --output after.h5 --rows all
rm after.h5
run "${after[@]}" --context a.h5 --mechanism cog --dry-run
wants 0
grep -q "behind a context of 300 tokens" out || complain "want the context in the plan"
"$program" generate wide.h5 --seq-len 9 --heads 4 --kv-heads 4 --head-dim 16 --v-dim 8 --layers 2 >/dev/null
"$program" generate one.h5 --seq-len 9 --heads 4 --kv-heads 2 --head-dim 16 --v-dim 8 >/dev/null
fails 2 "none.h5" "${after[@]}" --context a.h5,none.h5 --mechanism softmax
fails 2 "wide.h5" "${after[@]}" --context wide.h5,a.h5 --mechanism softmax --ranks 2
fails 2 "one.h5" "${after[@]}" --context one.h5 --mechanism softmax
fails 2 "causal" "${after[@]}" --context a.h5 --mechanism softmax --causal off
fails 2 "initial-state" "${after[@]}" --context a.h5 --heads.softmax 0-2 --heads.linear 3
fails 2 "output" "${after[@]}" --context after.h5 --mechanism softmax
absent after.h5

# A dry run says what it would do and makes nothing.
run "${job[@]}" --dry-run --output d.h5
wants 0
grep -q "ring step" out || complain "want a plan on stdout"
absent d.h5

# What analyze proposes for real activations, one configuration a layer, runs as it is.
cp "$(dirname "$0")/../data/real_layers.h5" real.h5
for keep in softmax stick-breaking cog sparse; do
  says "configuration: $keep.3.ini" "$program" analyze real.h5 --recency-window 64 --recency-threshold 0.85 --keep $keep \
    --write-config $keep.ini --ranks 3
  for layer in 0 1 2 3; do
    grep -q "^heads.linear = " $keep.$layer.ini || complain "want linear heads in $keep.$layer.ini"
    grep -q "^heads.$keep = " $keep.$layer.ini || complain "want $keep heads in $keep.$layer.ini"
    says "output: real.hybrid.$layer.h5" "$program" run --config $keep.$layer.ini --overwrite --progress off --ranks 2
    says "verified" "$program" verify --input real.h5 --output real.hybrid.$layer.h5 --rows all
  done
done

# Another input: verification fails, with its own exit code.
"$program" generate other.h5 --seq-len 300 --heads 4 --kv-heads 2 --head-dim 16 --v-dim 8 --layers 2 --dtype bf16 \
  --seed 1 >/dev/null
run "$program" verify --input other.h5 --output b.h5
wants 1

# Bad input leaves no output.
cp b.h5 kept.h5
fails 2 "b.h5" "${job[@]}" --output b.h5
cmp -s b.h5 kept.h5 || complain "a refused run has changed its output"
fails 2 "nowhere" "${job[@]}" --output nowhere/d.h5
fails 2 "nowhere" "${job[@]}" --output d.h5 --report nowhere/r.json
fails 2 "nowhere" "${job[@]}" --output d.h5 --trace nowhere/t.json
fails 2 "nowhere" "$program" verify --input a.h5 --output b.h5 --report nowhere/r.json
fails 2 "nowhere" "$program" plan profile.json --world 2 --seq-len 1K --mechanism softmax --json nowhere/p.json
fails 2 "cuda" "${job[@]}" --output d.h5 --backend cuda
fails 2 "layer" "${job[@]}" --output d.h5 --layers 'x*'
fails 2 "none.h5" "$program" run --input none.h5 --output d.h5 --mechanism softmax
fails 2 "none.h5" "$program" run --input none.h5 --output d.h5 --mechanism softmax --ranks 3
fails 2 "text.h5" "$program" run --input text.h5 --output d.h5 --mechanism softmax
fails 2 "cut.h5" "$program" run --input cut.h5 --output d.h5 --mechanism softmax
fails 2 "head" "$program" run --input a.h5 --output d.h5 --heads.softmax 0-2
fails 2 "head" "$program" run --input a.h5 --output d.h5 --heads.softmax 0-9
fails 2 "memory" "${job[@]}" --output d.h5 --memory 1K
fails 2 "remainder_value" "$program" run --input a.h5 --output d.h5 --mechanism stick-breaking \
  --stick-breaking.remainder vector
fails 2 "none.h5" "$program" verify --input none.h5 --output b.h5
fails 2 "b.h5" "$program" verify --input b.h5 --output b.h5
absent d.h5
finish
