#!/usr/bin/env bash
# Seven sets of CIFAR-10, IPC 10, whose views are mixed only within five groups of two classes, as `continual` needs.
#   benchmarks/seven_sets.sh CIFAR10_FOLDER TEACHER.safetensors VIEWS
# Makes ungrouped/NAME, then sets/NAME, in the current folder; continues where it stopped. Results: benchmarks/README.md
set -euo pipefail
data=$1 teacher=$2 views=$3
while read -r name recipe options; do
    # shellcheck disable=SC2086
    ddkit distill "ungrouped/$name" --data "$data" --teacher "$teacher" --recipe "$recipe" --ipc 10 --protocol cudd \
        $options --quiet </dev/null
    ddkit relabel "ungrouped/$name" "sets/$name" --teacher "$teacher" --protocol cudd --views "$views" \
        --mix-within 5x2:0 --quiet </dev/null
done <<'SETS'
random random-small --views 1
herding herding-small --views 1
rded rded-cifar10 --views 1
sre2l sre2l-cifar10 --views 1
cda cda-cifar10 --views 1
cudd cudd-cifar10
cudd-plus cudd-plus-cifar10
SETS
