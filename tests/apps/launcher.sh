#!/bin/bash
# The program under mpirun, and in environments that Slurm makes.
. "$(dirname "$0")/support.sh"
ranks=("$mpirun" --oversubscribe -n 3)

# Help is said once, by rank 0.
says_once() {
  run "${ranks[@]}" "$program" "$@"
  wants 0
  "$program" "$@" >alone
  cmp -s out alone || complain "want what one process says"
}
says_once --help
says_once run --help
says_once --version

# A mistake is said once, and all ranks end.
fails 2 "unknown command 'rnu', did you mean run?" "${ranks[@]}" "$program" rnu
fails 2 "--ranks: found 3, but the launcher's processes are the ranks" "${ranks[@]}" "$program" inspect a.h5 --ranks 3
fails 2 "none.h5" "${ranks[@]}" "$program" inspect none.h5

# The same file for every number of ranks, as processes and as threads.
spec=(--seq-len 500 --heads 2 --head-dim 8 --layers 2)
says "a.h5: 2 layers" "$program" generate a.h5 "${spec[@]}"
says "b.h5: 2 layers" "${ranks[@]}" "$program" generate b.h5 "${spec[@]}"
cmp -s a.h5 b.h5 || complain "want the same bytes for 1 and 3 ranks"

says "3 ranks, mpi transport" "${ranks[@]}" "$program" run --input a.h5 --output o.h5 --mechanism stick-breaking
says "verified" "${ranks[@]}" "$program" verify --input a.h5 --output o.h5
fails 2 "o.h5" "${ranks[@]}" "$program" run --input a.h5 --output o.h5 --mechanism stick-breaking
fails 2 "cuda" "${ranks[@]}" "$program" run --input a.h5 --output d.h5 --mechanism softmax --backend cuda
fails 2 "layer" "${ranks[@]}" "$program" run --input a.h5 --output d.h5 --mechanism softmax --layers 'x*'
fails 2 "memory" "${ranks[@]}" "$program" run --input a.h5 --output d.h5 --mechanism softmax --memory 1K
absent d.h5

# A rank that is killed ends the job, and leaves the target alone.
"$program" generate large.h5 --seq-len 100000 --heads 4 --kv-heads 1 --head-dim 64 --dtype bf16 >/dev/null
cp o.h5 target.h5
"${ranks[@]}" "$program" run --input large.h5 --output target.h5 --overwrite --mechanism softmax >out 2>err &
job=$!
last="a run whose rank is killed"
victim=
for _ in $(seq 200); do
  victim=$(pgrep -P "$job" | tail -n 1) && [ -n "$victim" ] && break
  sleep 0.05
done
sleep 0.5
if [ -n "$victim" ]; then kill -KILL "$victim"; else complain "found no rank to kill"; fi
for _ in $(seq 300); do
  kill -0 "$job" 2>/dev/null || break
  sleep 0.1
done
if kill -0 "$job" 2>/dev/null; then
  complain "the job goes on 30 s after a rank was killed"
  kill -KILL "$job"
fi
wait "$job"
code=$?
[ "$code" -ne 0 ] || complain "want an exit code that is not 0"
cmp -s o.h5 target.h5 || complain "a killed run has changed its target"

# Slurm without a PMI: strangers, each of which believes to be alone.
slurm=(env SLURM_JOB_ID=7 SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2)
fails 2 "srun started 2 tasks, but each of them is alone: want srun --mpi=pmix, or mpirun" \
  "${slurm[@]}" SLURM_PROCID=0 "$program" inspect a.h5
run "${slurm[@]}" SLURM_PROCID=1 "$program" inspect a.h5
wants 2
[ ! -s err ] || complain "want task 1 to leave the word to task 0"
# A batch script is one process.
says "a.h5: 2 layers" env SLURM_JOB_ID=7 SLURM_NTASKS=8 SLURM_PROCID=0 "$program" inspect a.h5
finish
