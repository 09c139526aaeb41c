#!/bin/bash
# Runs as init on Linux and on our kernel: one command, under strace where there is one for this
# kernel; what strace wrote goes to the second serial line.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C LC_ALL=C TERM=vt100 USER=root LOGNAME=root SHELL=/bin/bash HISTFILE=/dev/null
cd /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
ln -sfn /proc/self/fd /dev/fd
ln -sfn /proc/self/fd/0 /dev/stdin
ln -sfn /proc/self/fd/1 /dev/stdout
ln -sfn /proc/self/fd/2 /dev/stderr
ip link set lo up 2>/dev/null
hostname guest
mount -o remount,rw / 2>/dev/null
umask 022
report=/dev/ttyS1
stty -F $report raw -echo 2>/dev/null
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
sync
mount -o remount,ro / 2>/dev/null
echo 1 > /proc/sys/kernel/sysrq
echo o > /proc/sysrq-trigger
sleep 60
