#!/bin/bash
# configs/slurm on a real Slurm: one node, started here and stopped at the end. Arguments: the program, the repository.
# Exit code 77: it cannot start here.
set -u
program=$1
repository=$2
skip() {
  echo "skipped: $1"
  exit 77
}
[ "$(id -u)" -eq 0 ] || skip "only root can start a Slurm"
for tool in munged slurmctld slurmd sbatch srun scontrol; do
  command -v $tool >/dev/null || skip "$tool is not installed (scripts/install-dependencies --cluster)"
done

work=$(mktemp -d)
cd "$work" || exit 1
end() {
  for daemon in slurmd slurmctld munged; do
    [ ! -s "$work/$daemon.pid" ] || kill "$(cat "$work/$daemon.pid")" 2>/dev/null
  done
  sleep 1
  rm -rf "$work"
}
trap end EXIT
failures=0
complain() {
  failures=$((failures + 1))
  echo "FAILED: $1"
  tail -n 15 "$work"/*.log
}

# A key of its own and no port that another Slurm may have.
(umask 077; head -c 1024 /dev/urandom >munge.key)
mkdir -p run state spool
chmod 755 . run
munged --force --key-file="$work/munge.key" --socket="$work/run/munge" --pid-file="$work/munged.pid" \
  --log-file="$work/munged.log" --seed-file="$work/munge.seed" || skip "munged does not start"
node=$(hostname -s)
cores=$(nproc)
cat >slurm.conf <<EOF
ClusterName=here
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/run/munge,cred_expire=5
CredType=cred/munge
CryptoType=crypto/munge
MpiDefault=pmix
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
JobAcctGatherType=jobacct_gather/none
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cores State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
EOF
export SLURM_CONF=$work/slurm.conf
slurmctld >out 2>err || skip "slurmctld does not start: $(tail -n 1 err)"
slurmd >out 2>err || skip "slurmd does not start: $(tail -n 1 err)"
for _ in $(seq 60); do
  sinfo -h -o %t 2>/dev/null | grep -q idle && break
  sleep 0.5
done
sinfo -h -o %t 2>/dev/null | grep -q idle || { tail -n 5 slurmctld.log slurmd.log; skip "the node does not come up"; }
srun -n 1 true 2>err || skip "srun runs nothing: $(tail -n 1 err)"

# A job of heads that take about 5 s each, by what computing one of 32,768 tokens takes. Slurm looks for jobs to warn every
# 30 s: one of a minute that wants its signal 20 s before is warned 10 to 40 s after it began, and stops where a head ends.
heads=12
least_seconds=50
cat >job.ini <<EOF
input = $work/in.h5
output = $work/out.h5
mechanism = softmax
outputs = lse
layout = zigzag
kv-heads-at-once = 1
progress = off
report = $work/report.json
EOF
seconds_of() {  # "compute" or "total" of a report
  sed -n "s/.*\"$1\": *\([0-9.e+-]*\).*/\1/p" report.json | head -n 1
}
"$program" generate in.h5 --seq-len 32768 --heads 1 --kv-heads 1 --head-dim 64 >/dev/null
srun --mpi=pmix -n 2 "$program" run --config job.ini --overwrite >srun.log 2>&1 ||
  skip "srun --mpi=pmix starts no MPI job: $(tail -n 1 srun.log)"
grep -q '"world_size": *2' report.json || complain "want srun's two tasks to be two ranks of one job"
echo "one head of 32768 tokens: $(seconds_of compute) s"
seq_len=$(seconds_of compute | awk '{ print int(32768 * sqrt(5.0 / $1)) }')
for _ in 1 2 3; do
  "$program" generate in.h5 --overwrite --seq-len "$seq_len" --heads $heads --kv-heads $heads --head-dim 64 >/dev/null
  srun --mpi=pmix -n 2 "$program" run --config job.ini --overwrite >srun.log 2>&1 || complain "want a job that is left alone to end well"
  echo "left alone: $heads heads of $seq_len tokens in $(seconds_of total) s"
  seconds_of total | awk -v least=$least_seconds '{ exit !($1 < least) }' || break
  seq_len=$(seconds_of total | awk -v tokens="$seq_len" -v seconds=$((least_seconds + 10)) '{ print int(tokens * sqrt(seconds / $1)) }')
done
mv out.h5 whole.h5

job=$(RINGSCAN=$program sbatch --parsable --chdir="$work" --ntasks-per-node=2 --time=1 --signal=USR1@20 --output="$work/batch.log" \
  "$repository/configs/slurm/run-cpu.sbatch" job.ini) || complain "want sbatch to take configs/slurm/run-cpu.sbatch"
# Until the job has ended, and not until its output is there, which comes before its last lines. Any other state is one that it
# passes through, some of them for a moment.
for _ in $(seq 240); do
  state=$(squeue --noheader --states=all --jobs="$job" --format=%T 2>/dev/null)
  case $state in COMPLETED | FAILED | TIMEOUT | CANCELLED | NODE_FAIL | OUT_OF_MEMORY) break ;; esac
  sleep 1
done
[ "$state" = COMPLETED ] || complain "want the job to be COMPLETED within 4 minutes, found '$state'"
grep -E 'stopped on request|resumed' batch.log
stops=$(grep -c '^ringscan: stopped on request: ' batch.log)
[ "$stops" -ge 1 ] || complain "want the signal to stop the job at least once"
[ "$(grep -c 'resumed: ' batch.log)" -eq "$stops" ] || complain "want the job to be requeued and resumed as often as it was stopped"
if [ -e out.h5 ]; then
  /usr/bin/python3 - <<'PYTHON' || complain "want the bits of the job that was left alone"
import h5py
with h5py.File("whole.h5") as a, h5py.File("out.h5") as b:
    names = []
    a.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    assert len(names) == 2, names
    for name in names:
        assert a[name][()].tobytes() == b[name][()].tobytes(), name
PYTHON
else
  complain "want out.h5"
fi
[ "$failures" -eq 0 ] && echo "all as wanted" && exit 0
echo "$failures failed"
exit 1
