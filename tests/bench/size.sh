#!/bin/bash
# Runs as init on both kernels: how much memory the kernel takes, rows as tests/bench/applications.sh
# writes them. The host measures the time until the first line.
# /oracle/words has the machine's memory in KiB and the number of idle processes.
#
# Some processes are there before those that count: what the first ones bring in is not theirs.
. /oracle/machine.sh
echo @@INIT >$report

# KiB that are neither free nor hold files or memory of programs. They are counted against what the
# machine has: MemTotal leaves out what a kernel takes for itself before it counts.
kernel_memory() {
  sync
  echo 3 >/proc/sys/vm/drop_caches
  sleep 2
  awk -v used="$machine" '
    /^(MemFree|Buffers|Cached|AnonPages):/ { used -= $2; fields++ }
    END { if (fields != 4) exit 1; print used }' /proc/meminfo
}

idle() {
  for ((i = 0; i < $1; i++)); do
    sleep 10000 &
  done
  sleep 5
}

set_up
{ read -r machine; read -r count; } </oracle/words
boot=$(kernel_memory)
printf 'memory\tkernel memory after boot\t%s\tKiB\n' "$boot" >$report
idle 100
before=$(kernel_memory)
idle "$count"
after=$(kernel_memory)
awk -v grown=$((after - before)) -v count="$count" 'BEGIN {
  printf "memory\tkernel memory of an idle process\t%.1f\tKiB\n", grown / count }' >$report
echo @@DONE >$report
power_off
