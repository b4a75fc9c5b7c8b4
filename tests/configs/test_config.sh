#!/usr/bin/env bash
# test_config.sh RINGSCAN CONFIG: does what the comment at the top of a run configuration says, on a short sequence in a
# folder of its own, and verifies every row of the output that comes of it.
set -euo pipefail

ringscan=$1
config=$2
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
ln -s "$root/configs" "$root/scripts" "$folder/"
mkdir "$folder/build"
cd "$folder"

setting() { sed -n "s/^$1 = \([^ ]*\).*/\1/p" "$config"; }

commands=$(sed -n 's/^#   //p' "$config" | sed -e 's/--seq-len [0-9]*/--seq-len 1500/' -e "s#build/release/bin/ringscan#$ringscan#g")
[ "$(grep -c . <<<"$commands")" -eq 2 ] || { echo "want two commands in the comment of $config, found: $commands"; exit 1; }
echo "$commands"
bash -e -c "$commands"
"$ringscan" verify --input "$(setting input)" --output "$(setting output)" --rows all --ranks 2
[ -s "$(setting report)" ] || { echo "no report was written"; exit 1; }
