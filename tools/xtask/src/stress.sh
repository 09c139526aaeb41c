# Runs in the guest: rounds of stressors, each of one family, the last of all families together.
# Prints a line for each round; `stress: FAILED …` for what must not be. Needs ROUND_SECONDS;
# with ROUND runs those of these names alone.
# The rounds measure themselves with bash's clock; what starts this may be another shell.
[ -n "$BASH_VERSION" ] || exec bash "$0"
failures=0
rounds=0
failed() { echo "stress: FAILED $*"; failures=$((failures + 1)); }

# Free memory in KiB when caches are empty and deferred work is done.
free_memory() {
    sync
    for _ in 1 2 3; do echo 3 > /proc/sys/vm/drop_caches; sleep 1; done
    awk '/^MemFree:/ { print $2 }' /proc/meminfo
}

# What memory is used for besides the caches, in KiB, to see which round keeps what.
memory_use() {
    awk '/^(MemFree|Buffers|Cached|AnonPages|Shmem|Slab|KernelStack|PageTables):/ { sub(":", "", $1)
        printf " %s %d", $1, $2 }' /proc/meminfo
}

# The five kinds of objects that take most memory: active and all objects, bytes of each.
largest_slabs() {
    awk 'NR > 2 { print $3 * $4 / 1024, $1, $2, $3, $4 }' /proc/slabinfo | sort -rn | head -5 |
        awk '{ printf "; %s: %d of %d, %d bytes each", $2, $3, $4, $5 }'
}

round() {
    local name=$1 words= stressor status
    shift
    [[ -z $ROUND || " $ROUND " = *" $name "* ]] || return 0
    rounds=$((rounds + 1))
    for stressor in "$@"; do words="$words --$stressor 1"; done
    local start=$SECONDS
    # A stressor that does not end is given as long again, and two minutes: emulation is slow. Before
    # that is over, show what it hangs on.
    (
        sleep $((2 * ROUND_SECONDS + 90))
        ps axHo pid,tid,ppid,stat,etime,time,comm | grep stress-ng | grep -v ' Z '
        echo 9 > /proc/sysrq-trigger
        echo t > /proc/sysrq-trigger
    ) &
    local watcher=$!
    timeout -k 10 $((2 * ROUND_SECONDS + 120)) stress-ng $words --timeout "$ROUND_SECONDS" \
        --temp-path /stress --hdd-bytes 8M --iomix-bytes 8M --fallocate-bytes 8M --vm-bytes 64M \
        --readahead-bytes 8M --sync-file-bytes 8M --oomable > /run/stress.log 2>&1
    status=$?
    { local sleeper=$(pgrep -P $watcher); kill $watcher $sleeper; wait $watcher; } 2> /dev/null
    echo "stress: $name: status $status after $((SECONDS - start)) s"
    grep -E 'fail:|error:' /run/stress.log | cut -c1-160
    [ $status = 0 ] || failed "$name: status $status"
    pgrep stress-ng > /dev/null && sleep 10
    if pgrep stress-ng > /dev/null; then
        failed "$name: left over"
        ps axo pid,ppid,stat,etime,time,comm | grep stress-ng
        pkill -KILL stress-ng
        sleep 5
        pgrep stress-ng > /dev/null && failed "$name: cannot be killed"
    fi
    rm -rf /stress/* || failed "$name: files that cannot be removed"
    free_memory > /dev/null
    echo "stress: $name: kB$(memory_use)$(largest_slabs)"
}

mkdir -p /stress
# The first run brings in what stays: the program's pages, slabs.
stress-ng --fork 1 --timeout 1 --temp-path /stress > /dev/null 2>&1
before=$(free_memory)
echo "stress: start: kB$(memory_use)"

# Left out: cyclic wants SCHED_DEADLINE, resched counts without a lock in many processes.
round process fork vfork vforkmany clone zombie daemon forkheavy wait kill sigfd procfs affinity \
    pthread exit-group session
round scheduler switch yield nice schedpolicy race-sched softlockup loadavg poll eventfd mutex sleep
round memory vm mmap mmapfork mmapfixed mmapmany mremap brk stack bigheap malloc madvise mlock \
    mincore msync munmap shm shm-sysv memfd mprotect pageswap tlb-shootdown memrate vm-rw fault
round pipes pipe pipeherd ring-pipe fifo splice vm-splice tee sendfile futex sem sem-sysv mq msg \
    locka lockf lockofd
round signals sigabrt sigchld sigfpe sigio sigpending sigpipe sigq sigrt sigsegv sigsuspend \
    sigtrap signal timer timerfd itimer hrtimers clock nanosleep alarm
round files hdd iomix dir dirdeep dirmany dentry chdir chmod chown link symlink rename touch \
    utime access fstat flock fallocate fiemap fpunch getdent inotify open close filename xattr \
    seek readahead sync-file io copy-file dup handle fcntl file-ioctl mknod
round together fork clone zombie switch yield schedpolicy race-sched vm mmap mremap brk malloc \
    shm memfd pipe splice futex sem mq sigsegv sigq timer timerfd hdd iomix dir rename dentry open \
    flock link

[ $rounds != 0 ] || failed "no round is called $ROUND"
after=$(free_memory)
echo "stress: free memory $before kB before, $after kB after"
[ $((before - after)) -le $((before / 50)) ] || failed "more than 2 % of free memory lost$(largest_slabs)"
rmdir /stress || failed "/stress is not empty"
[ $failures = 0 ]
