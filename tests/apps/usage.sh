#!/bin/bash
# What is asked of the program wrongly: exit code 2 and one line. Needs no files.
. "$(dirname "$0")/support.sh"

says "usage: ringscan COMMAND" "$program" --help
says "usage: ringscan COMMAND" "$program" -h
says "ringscan 0." "$program" --version
for command in run verify generate inspect analyze bench; do
  says "usage: ringscan $command" "$program" "$command" --help
  [ ! -s err ] || complain "want nothing on stderr"
done

fails 2 "no command: want one of" "$program"
fails 2 "unknown command 'insepct', did you mean inspect?" "$program" insepct a.h5
fails 2 "unknown command 'rnu', did you mean run?" "$program" rnu --help

job=("$program" run --input a.h5 --output b.h5)
fails 2 "no input: want --input FILE" "$program" run --output b.h5 --mechanism softmax
fails 2 "no output: want --output FILE" "$program" run --input a.h5 --mechanism softmax
fails 2 "no mechanism: want --mechanism" "${job[@]}"
fails 2 "--mechanism: found 'sofmax', want softmax, stick-breaking, cog, sparse, linear, ssm, mamba or chela" "${job[@]}" --mechanism sofmax
fails 2 "--chela.heads: found '0', want a number of heads" "${job[@]}" --mechanism chela --chela.heads 0

job+=(--mechanism softmax)
fails 2 "--inptu: unknown option, did you mean input?" "${job[@]}" --inptu a.h5
fails 2 "unexpected argument 'a.h5'" "${job[@]}" a.h5
fails 2 "--softmax.window: found '-1', want a number of tokens" "${job[@]}" --softmax.window -1
fails 2 "--softmax.window: found '4k', want a number of tokens" "${job[@]}" --softmax.window=4k
fails 2 "--scale: found 'nan', want a finite number" "${job[@]}" --scale nan
fails 2 "--layout: found 'spiral', want auto, contiguous or zigzag" "${job[@]}" --layout spiral
fails 2 "--layout: found zigzag with reproducible" "${job[@]}" --layout zigzag --reproducible
fails 2 "--backend: found 'gpu', want auto, cpu or cuda" "${job[@]}" --backend gpu
fails 2 "--memory: found 'much', want a size" "${job[@]}" --memory much
fails 2 "--progress: found 'bar', want auto, on or off" "${job[@]}" --progress bar
fails 2 "--output-dtype: unknown element type 'int8'" "${job[@]}" --output-dtype int8
fails 2 "--outputs: found remainder, which stick-breaking alone has" "${job[@]}" --outputs remainder
fails 2 "--outputs: found 'mass', want a list of lse, remainder" "${job[@]}" --outputs mass
fails 2 "--causal: found 'maybe', want on or off" "${job[@]}" --causal=maybe
fails 2 "--heads.softmax: cannot be given with mechanism" "${job[@]}" --heads.softmax 0
fails 2 "--stick-breaking.epsilon: no head has stick-breaking" "${job[@]}" --stick-breaking.epsilon 0.5
fails 2 "--ranks: found '0', want a number of ranks" "${job[@]}" --ranks 0
fails 2 "--log-level: found 'loud'" "${job[@]}" --log-level loud
fails 2 "want another file" "$program" run --input a.h5 --output ./a.h5 --mechanism softmax

stick=("$program" run --input a.h5 --output b.h5 --mechanism stick-breaking)
fails 2 "--causal: stick-breaking is causal" "${stick[@]}" --causal off
fails 2 "--stick-breaking.epsilon: found '1', want a number" "${stick[@]}" --stick-breaking.epsilon 1
fails 2 "--stick-breaking.remainder: found 'keep', want drop, value or vector" "${stick[@]}" --stick-breaking.remainder keep
fails 2 "--outputs: found lse, and no head has a mechanism with it" "${stick[@]}" --outputs lse
hybrid=("$program" run --input a.h5 --output b.h5)
fails 2 "head 3 is in heads.softmax too" "${hybrid[@]}" --heads.softmax 0-3 --heads.stick-breaking 3-5
fails 2 "names head 1 twice" "${hybrid[@]}" --heads.softmax 0-3,1

printf 'input = a.h5\n[softmax]\nwindw = 4\n' >unknown.ini
fails 2 "unknown.ini:3: softmax.windw: unknown option, did you mean softmax.window?" "$program" run --config unknown.ini
printf 'input = a.h5\noutput = b.h5\nmechanism = softmax\nreproducible = perhaps\n' >value.ini
fails 2 "value.ini:4: reproducible: found 'perhaps', want on or off" "$program" run --config value.ini
printf 'input a.h5\n' >form.ini
fails 2 "form.ini:1: found 'input a.h5', want name = value" "$program" run --config form.ini
printf 'input = a.h5\ninput = b.h5\n' >twice.ini
fails 2 "twice.ini:2: input is given twice, first in line 1" "$program" run --config twice.ini
fails 2 "--config: cannot read none.ini: No such file or directory" "$program" run --config none.ini
fails 2 "--config: cannot read .: Is a directory" "$program" run --config .

fails 2 "no output: want ringscan generate FILE.h5" "$program" generate --seq-len 8
fails 2 "no sequence length: want --seq-len TOKENS" "$program" generate a.h5
fails 2 "--kv-heads: found 3, want a divisor of the 8 heads" "$program" generate a.h5 --seq-len 8 --kv-heads 3
fails 2 "--head-dim: found '300', want a whole number from 1 to 256" "$program" generate a.h5 --seq-len 8 --head-dim 300
fails 2 "--kind: found 'rwkv', want normal, long-stick, ssm, mamba or chela" "$program" generate a.h5 --seq-len 8 --kind rwkv
fails 2 "no file: want ringscan inspect FILE.h5" "$program" inspect
fails 2 "no output: want --output FILE" "$program" verify --input a.h5
fails 2 "--rows: found 'some', want a number of rows, 1 or more, or all" "$program" verify --input a.h5 --output b.h5 --rows some
fails 2 "--what: found 'coffee', want kernels, comm, strong, weak, io or profile" "$program" bench coffee
fails 2 "no input: want ringscan analyze FILE.h5" "$program" analyze
fails 2 "--measures: found 'speed', want a list of recency, reach, kept-mass, sign-balance" "$program" analyze a.h5 --measures speed
fails 2 "--epsilons: found '2', want a list of one to four different numbers" "$program" analyze a.h5 --epsilons 2
fails 2 "--replace-with: found 'rnn', want linear or mamba" "$program" analyze a.h5 --replace-with rnn
fails 2 "--plot: no gnuplot is found in PATH" env PATH=/none "$program" analyze a.h5 --plot a.png
absent h5 png
finish
