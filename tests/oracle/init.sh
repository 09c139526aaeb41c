#!/bin/bash
# Runs as init on Linux and on our kernel: executes every case and reports on the second serial line.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C LC_ALL=C TERM=vt100 USER=root LOGNAME=root SHELL=/bin/bash PYTHONDONTWRITEBYTECODE=1 HISTFILE=/dev/null
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
exec 3>$report
echo "@@READY" >&3
for script in /oracle/cases/*; do
  case_name=${script##*/}
  rm -rf /var/tmp/case /tmp/case
  mkdir -p /var/tmp/case /tmp/case
  cd /var/tmp/case
  printf '@@BEGIN %s\n' "$case_name" >&3
  timeout -k 2 ${CASE_TIMEOUT:-60} bash "$script" </dev/null >/tmp/out 2>&1 3>&-
  status=$?
  head -c 65536 /tmp/out >&3
  printf '\n@@END %s %s\n' "$case_name" "$status" >&3
done
cd /
printf '@@DONE\n' >&3
exec 3>&-
sync
mount -o remount,ro / 2>/dev/null
echo 1 > /proc/sys/kernel/sysrq
echo o > /proc/sysrq-trigger
sleep 60
