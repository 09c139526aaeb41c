#!/bin/bash
# Runs as init on both kernels: programs from Debian's packages, one row a line. rows.sh tells what a row is.
. /oracle/machine.sh
. /oracle/rows.sh

# Milliseconds as seconds.
from_milliseconds() {
  awk '{ printf "%.6f\n", $1 / 1000 }'
}

## hackbench: groups of 20 senders and 20 receivers

hackbench() { figure 'Time: ([0-9.]+)' command hackbench -g 2 "$@"; }

## perf bench

perf_seconds() { figure '^([0-9.]+)$' perf bench -f simple "$@"; }
perf_rate() { figure 'Averaged:? ([0-9]+) ' perf bench "$@"; }
perf_milliseconds() { figure ' in ([0-9.]+) ms \(' perf bench -r 20 "$@" | from_milliseconds; }

## sysbench

sysbench_rate() {
  local events
  # It counts without a rest and stops by the clock, so its own seconds are those of the rate.
  events=$(figure 'total number of events: +([0-9]+)' sysbench --time=3 "$@" run) || return
  echo $((events / 3))
}
sysbench_seconds() { figure 'total time: +([0-9.]+)s' sysbench --time=0 "$@" run; }
sysbench_memory() {
  figure 'transferred \(([0-9.]+) MiB/sec' sysbench memory --time=3 --memory-total-size=1T "$@" run
}
sysbench_files() {
  cd $place || return
  sysbench fileio --file-num=16 --file-total-size=32M prepare >&2 && sync &&
    sysbench_rate fileio --file-num=16 --file-total-size=32M --threads=2 "$@"
}

## stress-ng: two instances of a stressor, operations by the wall clock

stressor() {
  local name=$1
  shift
  figure "\\] $name +[0-9]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +([0-9.]+)" \
    stress-ng "--$name" 2 --timeout 3 --metrics-brief --temp-path $place "$@"
}

## sqlite

numbers() { echo "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < $1)"; }
sqlite_insert() {
  sqlite_table DELETE && seconds sqlite "BEGIN; CREATE INDEX by_word ON t(word); $(numbers 20000)
    INSERT INTO t SELECT x, printf('%08x', x * 2654435761 % 4294967296), x FROM n; COMMIT;"
}
sqlite_select() {
  sqlite_insert >&2 && seconds sqlite "$(numbers 50000)
    SELECT sum(length(word)) FROM n JOIN t ON t.id = n.x * 7919 % 20000 + 1;
    SELECT count(*) FROM t WHERE word LIKE '%7f%'; SELECT count(DISTINCT substr(word, 1, 4)) FROM t;"
}

## Programs and scripts

python_starts() {
  python3 -c 'import os, re' && seconds repeat 20 python3 -c 'import os, re'
}
processes() {
  echo 'i=0; while [ $i -lt 1000 ]; do /bin/true; i=$((i + 1)); done' >/run/processes.sh
  /bin/true && seconds dash /run/processes.sh
}
pipeline() {
  echo 'i=0; while [ $i -lt 100 ]; do echo $i | cat | grep -c 1; i=$((i + 1)); done; true' >/run/pipeline.sh
  dash -c 'echo 1 | cat | grep -c 1' >&2 && seconds dash /run/pipeline.sh
}
unpack() {
  rm -rf $place/tree && mkdir -p $place/tree && sync
  cat /usr/src/curl_*.orig.tar.gz >/dev/null
  seconds tar -xzf /usr/src/curl_*.orig.tar.gz -C $place/tree
}
# The tree is made by the first row that wants it.
tree() { [ -d $place/tree ] || unpack >&2; }
search() { tree && seconds repeat 3 grep -rc 'struct connectdata' $place/tree; }
list() { tree && seconds repeat 5 find $place/tree -type f -size +100k; }
copy() { tree && seconds cp -a $place/tree $place/copy; }
remove() {
  [ -d $place/copy ] || copy >&2
  sync
  seconds rm -r $place/copy
}
compile() {
  rm -rf $place/project && mkdir -p $place/project || return
  tar -xzf /usr/src/bzip2_*.orig.tar.gz -C $place/project --strip-components=1 || return
  cd $place/project && make CFLAGS=-O0 bzip2recover >&2 && rm -f bzip2recover* || return
  sync
  seconds make -j4 CFLAGS=-O0 libbz2.a bzip2
}

## Servers on loopback

nginx_rate() { with_nginx ab_rate -n 2000 -c 10 "$@" http://127.0.0.1:7001/4K; }

# What follows is init's; a row comes here in a shell of its own.
[ $$ = 1 ] || { "$@"; exit; }

begin

row hackbench 'processes, pipes' s hackbench -P -p -l 100
row hackbench 'threads, pipes' s hackbench -T -p -l 100
row_if has_sockets hackbench 'processes, sockets' s hackbench -P -l 100
row_if has_sockets hackbench 'threads, sockets' s hackbench -T -l 100

row perf 'sched pipe' s perf_seconds sched pipe -l 2000
row perf 'sched messaging, pipes' s perf_seconds sched messaging -p -g 2 -l 40
row_if has_sockets perf 'sched messaging, sockets' s perf_seconds sched messaging -g 2 -l 40
row perf 'futex hash' ops/s perf_rate futex hash -r 2 -t 4 -f 256
row perf 'futex wake' s perf_milliseconds futex wake -t 64
row perf 'futex requeue' s perf_milliseconds futex requeue -t 256
row perf 'futex lock-pi' ops/s perf_rate futex lock-pi -r 2 -t 4
row perf 'epoll wait' ops/s perf_rate epoll wait -r 2 -t 2 -f 16
row perf 'epoll ctl' ops/s perf_rate epoll ctl -r 2 -t 2 -f 16

row sysbench threads events/s sysbench_rate threads --threads=8 --thread-yields=100 --thread-locks=4
row sysbench mutex s sysbench_seconds mutex --threads=8 --mutex-num=64 --mutex-locks=50000 --mutex-loops=100
row sysbench 'memory, 1 KiB' MiB/s sysbench_memory --memory-block-size=1K
row sysbench 'memory, 1 MiB' MiB/s sysbench_memory --memory-block-size=1M
row sysbench 'fileio, random' events/s sysbench_files --file-test-mode=rndrw
row sysbench 'fileio, sequential' events/s sysbench_files --file-test-mode=seqwr

row stress-ng fork ops/s stressor fork
row stress-ng pipe ops/s stressor pipe
row stress-ng switch ops/s stressor switch
row stress-ng mmap ops/s stressor mmap --mmap-bytes 16M
row stress-ng vm ops/s stressor vm --vm-bytes 16M
row stress-ng futex ops/s stressor futex
row stress-ng sem ops/s stressor sem
row stress-ng mutex ops/s stressor mutex
row stress-ng signal ops/s stressor signal
row stress-ng dir ops/s stressor dir --dir-dirs 256
row stress-ng hdd ops/s stressor hdd --hdd-bytes 8M

row sqlite 'insert 20,000 rows' s sqlite_insert
row sqlite '200 commits to the WAL' s sqlite_commits WAL 200
row sqlite '50 commits with a journal' s sqlite_commits DELETE 50
row sqlite select s sqlite_select

row fio 'buffered random read' ops/s fio_reads --rw=randread --bs=4k --invalidate=0
row fio 'buffered random write' ops/s fio_writes --rw=randwrite --bs=4k
row fio 'buffered sequential read' KiB/s fio_read_speed --rw=read --bs=64k --invalidate=0
row fio 'buffered sequential write' KiB/s fio_write_speed --rw=write --bs=64k
row fio 'direct random read' ops/s fio_reads --rw=randread --bs=4k --direct=1
row fio 'direct random write' ops/s fio_writes --rw=randwrite --bs=4k --direct=1
row fio 'direct sequential read' KiB/s fio_read_speed --rw=read --bs=64k --direct=1
row fio 'direct sequential write' KiB/s fio_write_speed --rw=write --bs=64k --direct=1

row programs 'python starts 20 times' s python_starts
row programs 'shell script, 1,000 processes' s processes
row programs 'shell script, 100 pipelines' s pipeline
row programs 'unpack a source tree' s unpack
row programs 'search a source tree' s search
row programs 'list a source tree' s list
row programs 'copy a source tree' s copy
row programs 'remove a source tree' s remove
row programs 'compile with make -j4' s compile

row_if has_internet servers 'redis SET' ops/s redis_rate -t set
row_if has_internet servers 'redis GET' ops/s redis_rate -t get
row_if has_internet servers 'nginx, a connection each' ops/s nginx_rate
row_if has_internet servers 'nginx, kept alive' ops/s nginx_rate -k

end
