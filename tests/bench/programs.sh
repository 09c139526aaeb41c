#!/bin/bash
# Runs as init on both kernels: a program of tests/guest that measures, its rows on the second serial line.
# /oracle/words has its name and its arguments, one a line. Sets up no more than the rows need.
. /oracle/machine.sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C
mount -t proc proc /proc
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
stty -F $report raw -echo 2>/dev/null
mapfile -t words </oracle/words
# Rows that a failure has cost must not look as if nobody had asked for them.
if /oracle/bin/"${words[@]}" >$report 2>&1; then
  echo @@DONE >$report
else
  echo "@@FAILED status $?" >$report
fi
power_off
