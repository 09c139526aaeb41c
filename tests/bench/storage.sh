#!/bin/bash
# Runs as init on both kernels: what a disk with ext4 is used for, one row a line. rows.sh tells what a row is.
. /oracle/machine.sh
. /oracle/rows.sh

## fio: every way to read and write by every engine, on a file of 32 MiB

# fio_row ENGINE JOBS HOW WHAT: a row of so many jobs that read or write the same file.
fio_row() {
  local engine=$1 jobs=$2 how=$3 what=$4 count=jobs unit=ops/s block=4k measure=fio_
  local options=(--ioengine="$engine" --numjobs="$jobs" --group_reporting)
  [ "$jobs" = 1 ] && count=job
  # Who does not wait for each has as many on their way as disks like to see.
  [ "$engine" = psync ] || options+=(--iodepth=16)
  # What is read through the cache is in it.
  [ "$how" = direct ] && options+=(--direct=1) || options+=(--invalidate=0)
  case $what in
  *read) measure+=read ;;
  *write) measure+=write ;;
  esac
  case $what in
  sequential*) block=64k unit=KiB/s measure+=_speed options+=(--rw="${what#sequential }") ;;
  random*) measure+=s options+=(--rw="rand${what#random }") ;;
  esac
  row "$engine" "$how $what, $jobs $count" $unit $measure --bs=$block "${options[@]}"
}

fio_rows() {
  local engine jobs how what
  for engine in psync libaio io_uring; do
    for jobs in 1 4; do
      for how in buffered direct; do
        for what in 'random read' 'random write' 'sequential read' 'sequential write'; do
          fio_row $engine $jobs $how "$what"
        done
      done
    done
  done
}

## Files that are not in the cache

cold() {
  sync
  echo 3 >/proc/sys/vm/drop_caches
}
cold_read() {
  [ -s $place/large ] || head -c 128M /dev/zero >$place/large || return
  cold
  seconds dd if=$place/large of=/dev/null bs=128k
}
cold_write() {
  rm -f $place/new && cold
  seconds dd if=/dev/zero of=$place/new bs=128k count=1024 conv=fsync
}

## A tree of 20,000 files of 1 KiB in 100 folders

# Made once, by the row that wants it first. The archive lies in memory.
archive() {
  [ -s /run/tree.tar ] && return
  mkdir -p /tmp/tree && cd /tmp/tree || return
  local folder
  for ((folder = 0; folder < 100; folder++)); do
    mkdir $folder && head -c 200K /dev/urandom | split -b 1K -a 3 -d - $folder/file || return
  done
  tar -cf /run/tree.tar -C /tmp tree && rm -r /tmp/tree
}
untar() {
  archive && rm -rf $place/tree && sync || return
  seconds tar -xf /run/tree.tar -C $place
}
tree() { [ -d $place/tree ] || untar >&2; }
synchronise() { untar >&2 && seconds sync; }
warm_find() { tree && find $place/tree -newer / >&2 && seconds find $place/tree -type f -newer /; }
cold_find() { tree && cold && seconds find $place/tree -type f -newer /; }
cold_tar() { tree && cold && seconds tar -cf /run/again.tar -C $place tree && rm /run/again.tar; }
remove() { tree && sync && seconds rm -r $place/tree; }

# What follows is init's; a row comes here in a shell of its own.
[ $$ = 1 ] || { "$@"; exit; }

begin

fio_rows
row fsync 'random write, each synchronised, 1 job' ops/s fio_writes --rw=randwrite --bs=4k --fsync=1
row fsync 'random write, each synchronised, 4 jobs' ops/s \
  fio_writes --rw=randwrite --bs=4k --fsync=1 --numjobs=4 --group_reporting
row fsync 'O_SYNC random write, 1 job' ops/s fio_writes --rw=randwrite --bs=4k --sync=1

row files 'read 128 MiB that are not in the cache' s cold_read
row files 'write 128 MiB to a new file, with fsync' s cold_write

row tree 'untar 20,000 files' s untar
row tree 'sync 20,000 new files' s synchronise
row tree 'find, all in the cache' s warm_find
row tree 'find, nothing in the cache' s cold_find
row tree 'tar, nothing in the cache' s cold_tar
row tree 'rm -r 20,000 files' s remove

row sqlite '200 commits to the WAL' s sqlite_commits WAL 200
row sqlite '50 commits with a journal' s sqlite_commits DELETE 50

end
