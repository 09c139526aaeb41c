#!/bin/bash
# Runs as init on both kernels: the microbenchmarks, one row a line, on the second serial line.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C
mount -t proc proc /proc
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
report=/dev/ttyS1
stty -F $report raw -echo 2>/dev/null
/oracle/bin/microbench $(cat /oracle/rows) >$report 2>&1
echo @@DONE >$report
sync
mount -o remount,ro / 2>/dev/null
echo 1 > /proc/sys/kernel/sysrq
echo o > /proc/sysrq-trigger
sleep 60
