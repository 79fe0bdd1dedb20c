#!/usr/bin/env bash
# RDED and random on CIFAR-10, IPC 10, ConvNet-3: two sets of each, three students a set, under two protocols.
#   benchmarks/rded_cifar10.sh CIFAR10_FOLDER TEACHER.safetensors
# Continues where it stopped; about half an hour on two cores. Results: benchmarks/README.md
set -euo pipefail
data=$1 teacher=$2
ddkit distill c10-rded --data "$data" --teacher "$teacher" --recipe rded-cifar10 --ipc 10
ddkit distill c10-rded-s1 --data "$data" --teacher "$teacher" --recipe rded-cifar10 --ipc 10 --seed 1
ddkit evaluate c10-rded c10-rded-s1 --val "$data" --arch convnet3 --runs 3
ddkit evaluate c10-rded c10-rded-s1 --val "$data" --arch convnet3 --runs 3 --protocol common --teacher "$teacher"
