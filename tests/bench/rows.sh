# Sourced in the guest by scripts that measure programs as init: what a row is, and helpers of several scripts.
# On the second serial line each row is a line:
#
#   GROUP<TAB>NAME<TAB>FIGURE<TAB>UNIT
#
# FIGURE is a number, `-` where the kernel lacks what the row needs, or `! why` where the program failed.
# UNIT is `s`, of which less is better, or ends in `/s`, of which more is.
#
# A row is a function that prints the figure. It runs in a shell of its own, which is ended when it takes
# too long, so that the others have their turn. What a row needs (files, a warm cache) it makes before it
# starts to measure. The words in /oracle/words, one a line, select rows by parts of GROUP/NAME; without any, all run.

# The folder that rows write to.
place=/bench
log=/run/bench.log
# Seconds that a row may take.
patience=150

# The seconds that a command takes.
seconds() {
  local start=$EPOCHREALTIME
  "$@" >&2 || return
  awk -v start="$start" -v end="$EPOCHREALTIME" 'BEGIN { printf "%.3f\n", end - start }'
}

# The figure after the first match of a pattern in what a command prints; it is given in the last `(…)`.
figure() {
  local pattern=$1 output
  shift
  output=$("$@" 2>&1) || { echo "$output" >&2; return 1; }
  [[ $output =~ $pattern ]] || { echo "$output" >&2; return 1; }
  echo "${BASH_REMATCH[-1]}"
}

repeat() {
  local count=$1 i
  shift
  for ((i = 0; i < count; i++)); do "$@" || return; done
}

## sqlite

sqlite() { sqlite3 -batch -bail $place/base.db "$@"; }
sqlite_table() {
  rm -f $place/base.db*
  sqlite "PRAGMA journal_mode = $1; PRAGMA synchronous = FULL;
    CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT, number INTEGER);" >&2 && sync
}
sqlite_commits() {
  local i
  sqlite_table "$1" || return
  for ((i = 0; i < $2; i++)); do
    echo "INSERT INTO t(word, number) VALUES('word $i', $i);"
  done >/run/commits.sql
  seconds sqlite ".read /run/commits.sql"
}

## fio: a file of 32 MiB. Fields of its terse format: man 1 fio, "TERSE OUTPUT"

fio_field() {
  local field=$1
  shift
  local file=$place/fio.data
  [ -s $file ] || dd if=/dev/urandom of=$file bs=1M count=32 >&2 || return
  sync
  local output
  output=$(fio --name=row --filename=$file --size=32M --ioengine=psync --time_based --runtime=2 \
    --randseed=1 --output-format=terse --terse-version=3 "$@" 2>&1)
  # A kernel that has no statistics of its disks for fio makes it say so before the line that counts.
  echo "$output" | awk -F ';' -v field="$field" '$1 == 3 && $5 == 0 { print $field; found = 1 }
    END { exit !found }' || { echo "$output" >&2; return 1; }
}
fio_reads() { fio_field 8 "$@"; }
fio_read_speed() { fio_field 7 "$@"; }
fio_writes() { fio_field 49 "$@"; }
fio_write_speed() { fio_field 48 "$@"; }

## Servers on loopback

# Waits for a server: until a command succeeds.
repeat_until_ready() {
  local i
  for ((i = 0; i < 50; i++)); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.2
  done
  echo "never ready: $*" >&2
  return 1
}
redis_rate() {
  local rate
  redis-server --port 7000 --unixsocket /run/redis.socket --save '' --daemonize yes --logfile /run/redis.log >&2 ||
    return
  repeat_until_ready redis-cli -p 7000 ping || return
  rate=$(redis-benchmark -p 7000 -c 20 -n 4000 --csv "$@" | awk -F '"' 'END { print $4 }')
  redis-cli -p 7000 shutdown nosave >&2
  echo "$rate"
}
ab_rate() { figure 'Requests per second: +([0-9.]+)' ab "$@"; }
# Makes the pages 1K, 4K and 1M.
pages() {
  local size
  mkdir -p $place/www && for size in 1K 4K 1M; do head -c $size /dev/zero >$place/www/$size || return; done
}
# with_nginx COMMAND…: runs a command while nginx serves the pages at port 7001.
with_nginx() {
  pages
  cat >/run/nginx.conf <<-CONF
	worker_processes 2; pid /run/nginx.pid; error_log /run/nginx.log; user root;
	events { worker_connections 256; }
	http { access_log off; server { listen 127.0.0.1:7001; root $place/www; } }
	CONF
  nginx -c /run/nginx.conf >&2 || return
  repeat_until_ready ab -n 1 http://127.0.0.1:7001/4K || return
  "$@"
  local status=$?
  kill "$(cat /run/nginx.pid)"
  return $status
}

# Whether the kernel has what a row needs.
has_sockets() { python3 -c 'import _socket; _socket.socketpair()' 2>/dev/null; }
has_internet() { python3 -c 'import _socket; _socket.socket(_socket.AF_INET)' 2>/dev/null; }

## What init does

# row GROUP NAME UNIT COMMAND…: measures one row and reports it, if it is selected.
row() {
  local group=$1 name=$2 unit=$3 value status
  shift 3
  is_selected "$group/$name" || return
  echo "@@BEGIN $group/$name" >$report
  sync
  value=$(timeout -k 5 $patience /oracle/init.sh "$@" 2>$log </dev/null)
  status=$?
  if [[ $status = 124 || $status = 137 ]]; then
    value="! no end after $patience s"
    # What made itself independent of the row goes too.
    pkill -KILL 'redis-server|nginx|apache2|memcached|postgres|iperf3|sockperf'
  elif [[ $status != 0 || ! $value =~ ^[0-9]+(\.[0-9]+)?$ ]]; then
    # The report is one line a row, and its fields are separated by tabs.
    value="! status $status: $(tail -n 3 $log | tr '\n\t' '; ' | tail -c 200)"
  fi
  printf '%s\t%s\t%s\t%s\n' "$group" "$name" "$value" "$unit" >$report
}

# row_if NEED GROUP NAME UNIT COMMAND…: a row of which the kernel must have something.
row_if() {
  local need=$1
  shift
  if $need; then
    row "$@"
  elif is_selected "$1/$2"; then
    printf '%s\t%s\t-\t%s\n' "$1" "$2" "$3" >$report
  fi
}

is_selected() {
  local word
  for word in "${words[@]}"; do
    [[ $1 == *"$word"* ]] && return
  done
  [ ${#words[@]} = 0 ]
}

# Prepares the machine for the rows.
begin() {
  set_up
  mapfile -t words </oracle/words
  mkdir -p $place
}

# After the last row.
end() {
  echo @@DONE >$report
  power_off
}
