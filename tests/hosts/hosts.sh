#!/bin/bash
# A ring over two hosts: network namespaces of this machine and a link between them whose bandwidth is limited. What the
# report shows has to be what `plan` says of such a link, from a profile of these hosts: where it is hidden, where it binds, and
# by how much. Arguments: the program, mpirun.
# Exit code 77: namespaces cannot be made here.
set -u
program=$1
mpirun=$2
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
skip() {
  echo "skipped: $1"
  exit 77
}
[ "$(id -u)" -eq 0 ] || skip "only root can make network namespaces"
for tool in ip tc; do
  command -v $tool >/dev/null || skip "$tool is not installed (scripts/install-dependencies --cluster)"
done

work=$(mktemp -d)
cd "$work" || exit 1
export first=ringscan-$$-1 second=ringscan-$$-2
end() {
  ip netns del "$first" 2>/dev/null
  ip netns del "$second" 2>/dev/null
  rm -rf "$work"
}
trap end EXIT
ip netns add "$first" 2>err && ip netns add "$second" 2>err || skip "no network namespaces: $(cat err)"
ip link add "rs$$a" netns "$first" type veth peer name "rs$$b" netns "$second" 2>err || skip "no veth: $(cat err)"
# up HOST DEVICE ADDRESS
up() {
  ip -n "$1" link set lo up && ip -n "$1" addr add "$3/24" dev "$2" && ip -n "$1" link set "$2" up
}
up "$first" "rs$$a" 10.213.7.1 && up "$second" "rs$$b" 10.213.7.2 || skip "the hosts do not come up"

# limit MBIT: both ways.
limit() {
  local side
  for side in "$first rs$$a" "$second rs$$b"; do
    # shellcheck disable=SC2086  # a namespace and a device
    set -- "$1" $side
    tc -n "$2" qdisc replace dev "$3" root tbf rate "$1"mbit burst 1mbit latency 50ms 2>err || skip "no limit on a link: $(cat err)"
  done
}

# What mpirun starts its daemon on the other host with, in ssh's place.
cat >agent <<'EOF'
#!/bin/sh
shift
exec ip netns exec "$second" sh -c "$*"
EOF
chmod +x agent

# over_hosts ARGUMENT...: the program, a rank on each host.
over_hosts() {
  ip netns exec "$first" "$mpirun" --mca plm_rsh_agent "$work/agent" --mca plm rsh --bind-to none --mca btl tcp,self --mca pml ob1 \
    --mca btl_tcp_if_include 10.213.7.0/24 --mca oob_tcp_if_include 10.213.7.0/24 --host 10.213.7.1:1,10.213.7.2:1 \
    --wdir "$work" "$program" "$@" >out 2>err || {
    echo "FAILED: over two hosts: $*"
    head -n 20 out err
    exit 1
  }
}
# job REPORT: of the job below.
job() {
  over_hosts run --config job.ini --report "$1"
}

cat >job.ini <<EOF
input = in.h5
output = out.h5
overwrite = on
mechanism = softmax
layout = zigzag
progress = off
EOF
"$program" generate in.h5 --seq-len 16384 --heads 8 --kv-heads 8 --head-dim 64 >/dev/null
# What the hosts compute and what a transfer of theirs costs. At a rate that binds: much faster, what it costs is copying by the
# processors that ought to compute.
profile() {
  limit 1000
  over_hosts bench profile --seq-len 4096,16384 --heads 8 --mechanisms softmax --profile profile.json
}

# predict MBIT FILE: what plan says of the job over such a link.
predict() {
  local link
  link=$(/usr/bin/python3 - "$1" <<'PYTHON'
import json, sys
between = json.load(open("profile.json"))["between"]
print(f"{between['latency_seconds'] * 1e6},{float(sys.argv[1]) / 8000},{between['hidden']}")
PYTHON
  )
  "$program" plan profile.json --world 2 --ranks-per-node 1 --cores 1 --link.between "$link" --files 0,0 --seq-len 16384 --heads 8 \
    --head-dim 64 --mechanism softmax --layout zigzag --json "$2" >out 2>err || { echo "FAILED: plan"; head -n 20 out err; exit 1; }
}

# One try: the link over what binds, where it binds, and well under. Processors of a machine that others share differ in speed by
# up to a tenth of the computing, which the faster one waits for in every case: a link that is hidden has to take much longer.
try() {
  profile
  limit 1000
  job first.json
  # A ring of two has one hop, and half of the computing to hide it behind: the link binds at the bandwidth at which the two
  # take as long. A link takes both ways at once.
  limits=$(/usr/bin/python3 - <<'PYTHON'
import json
report = json.load(open("first.json"))
bytes_a_rank = report["plan"]["moved_bytes"] / 2
binds = bytes_a_rank * 8e-6 / (report["seconds"]["compute"] / 2)
print(int(binds * 1.5), int(binds), int(binds / 3))
PYTHON
  )
  local mbit
  for mbit in $limits; do
    limit "$mbit"
    job "$mbit.json"
    predict "$mbit" "plan-$mbit.json"
  done
  # shellcheck disable=SC2086  # one number an argument
  /usr/bin/python3 - $limits <<'PYTHON'
import json, sys
as_wanted = True
print("   mbit/s   link, s   compute, s   exposed, s | plan: compute, s   exposed, s")
for place, mbit in enumerate(map(int, sys.argv[1:])):
    report = json.load(open(f"{mbit}.json"))
    plan = json.load(open(f"plan-{mbit}.json"))["points"][0]["seconds"]
    compute, exposed = report["seconds"]["compute"], report["seconds"]["exposed_communication"]
    predicted = plan["exposed_communication"]
    link = report["plan"]["moved_bytes"] / 2 / (mbit * 1e6 / 8)
    print(f"{mbit:9d} {link:9.3f} {compute:12.3f} {exposed:12.3f} | {plan['compute']:16.3f} {predicted:12.3f}")
    if place == 0 and max(exposed, predicted) > 0.5 * link:
        as_wanted = False
        print("a link that does not bind should be hidden, more than half of it")
    if place == 2 and not 0.75 * predicted < exposed < 1.35 * predicted:
        as_wanted = False
        print("a link that binds should show what plan says, within 35 %")
sys.exit(0 if as_wanted else 1)
PYTHON
}

# Two ranks on two processors: whatever else runs takes the time of one of them, and the times of a try are then not those of
# a ring.
for attempt in 1 2 3; do
  echo "try $attempt"
  try
  code=$?
  [ $code -ne 0 ] || break
done
"$program" verify --input in.h5 --output out.h5 --rows 64 >out 2>err || { echo "FAILED: the output"; head -n 20 out err; exit 1; }
[ $code -ne 0 ] || echo "all as wanted"
[ $code -eq 0 ] || echo "FAILED: no try was as wanted"
exit $code
