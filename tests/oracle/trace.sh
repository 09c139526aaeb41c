#!/bin/bash
# Runs as init on Linux and on our kernel: one command, under strace where there is one for this
# kernel; what strace wrote goes to the second serial line.
. /oracle/machine.sh
set_up
mkdir -p /var/tmp/case /run/trace
cd /var/tmp/case
# The name of the program is what our kernel's tracer looks for.
set -- /oracle/tracee -c "$(cat /oracle/command)"
if grep -q tkernel.strace /proc/cmdline; then
  "$@" </dev/null >/tmp/out 2>&1
else
  strace=/oracle/strace
  $strace/ld.so --library-path $strace $strace/strace -ff -s 48 -o /run/trace/pid "$@" </dev/null >/tmp/out 2>&1
fi
status=$?
{
  for file in $(ls /run/trace | sort -t. -k2 -n); do
    echo "@@PID ${file#*.}"
    cat /run/trace/$file
  done
  echo "@@OUTPUT $status"
  head -c 65536 /tmp/out
  echo "@@DONE"
} >$report
power_off
