#!/bin/bash
# Runs as init on Linux and on our kernel: executes every case and reports on the second serial line.
. /oracle/machine.sh
set_up

# A case may silence the console, on which the kernel complains of itself.
read -r console_level rest < /proc/sys/kernel/printk
# The log as the boot leaves it: cases clear it.
dmesg > /run/boot-messages
exec 3>$report
echo "@@READY" >&3
for script in /oracle/cases/*; do
  case_name=${script##*/}
  # Another machine may have the other cases.
  number=$((10#${case_name%%-*}))
  [ $number -ge "${CASES_FROM:-0}" ] && [ $number -lt "${CASES_TO:-$((number + 1))}" ] || continue
  # What a case finds does not hang on which cases went before it.
  echo guest > /proc/sys/kernel/hostname
  echo '(none)' > /proc/sys/kernel/domainname
  # What is mounted there by one that was killed is not what is to be removed.
  rm -rf --one-file-system /var/tmp/case /tmp/case /dev/shm/*
  # A crowd that is dying may leave no process for the command.
  for try in {1..100}; do mkdir -p /var/tmp/case /tmp/case && break; done
  cd /var/tmp/case
  dmesg -n "$console_level" 2>/dev/null
  printf '@@BEGIN %s\n' "$case_name" >&3
  started=$SECONDS
  timeout -k 2 ${CASE_TIMEOUT:-120} bash "$script" </dev/null >/tmp/out 2>&1 3>&-
  status=$?
  head -c 65536 /tmp/out >&3
  printf '\n@@END %s %s %s\n' "$case_name" "$status" $((SECONDS - started)) >&3
done
cd /
printf '@@DONE\n' >&3
exec 3>&-
power_off
