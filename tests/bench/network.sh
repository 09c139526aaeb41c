#!/bin/bash
# Runs as init on both kernels: connections and servers, one row a line. rows.sh tells what a row is.
# The host answers at 10.0.2.2: iperf3 at port 5201.
. /oracle/machine.sh
. /oracle/rows.sh

## Loopback and the wire

# iperf3_speed OPTION…: MiB/s as the receiver counts them, of all streams.
iperf3_speed() {
  figure '(SUM\].*|\] .*)\s([0-9.]+) MBytes/sec.* receiver' iperf3 -t 3 -f M "$@"
}
loopback_speed() {
  iperf3 -s -D -B 127.0.0.1 -p 7003 -I /run/iperf3.pid >&2 && sleep 0.5 || return
  iperf3_speed -c 127.0.0.1 -p 7003 "$@"
  local status=$?
  kill "$(tr -d '\0' </run/iperf3.pid)"
  return $status
}
# Seconds of one way, half of there and back.
sockperf_latency() {
  sockperf server -i 127.0.0.1 -p 7004 "$@" >&2 &
  sleep 1
  figure 'Latency is ([0-9.]+) usec' sockperf ping-pong -i 127.0.0.1 -p 7004 -t 3 "$@" |
    awk '{ printf "%.9f\n", $1 / 1e6 }'
  local status=${PIPESTATUS[0]}
  kill %1
  return "$status"
}
wire_up() {
  local module
  ip link show eth0 >/dev/null 2>&1 || for module in failover net_failover virtio_net; do
    insmod /oracle/modules/$module.ko >&2
  done
  ip link show eth0 | grep -q UP && return
  ip link set eth0 up && ip address add 10.0.2.15/24 dev eth0
}
wire_speed() { wire_up >&2 && iperf3_speed -c 10.0.2.2 "$@"; }

## Servers

wrk_rate() { figure 'Requests/sec: +([0-9.]+)' wrk -t 1 -c 10 -d 3 "$@"; }
nginx_page() { with_nginx wrk_rate http://127.0.0.1:7001/"$1"; }
nginx_connections() { with_nginx ab_rate -n 1500 -c 10 http://127.0.0.1:7001/"$1"; }
# with_httpd COMMAND…: runs a command while Apache's httpd serves the pages at port 7002.
with_httpd() {
  pages && mkdir -p /run/httpd || return
  local modules=/usr/lib/apache2/modules
  cat >/run/httpd.conf <<-CONF
	ServerRoot /run/httpd
	ServerName guest
	PidFile /run/httpd/pid
	ErrorLog /run/httpd/log
	Listen 127.0.0.1:7002
	LoadModule mpm_event_module $modules/mod_mpm_event.so
	LoadModule unixd_module $modules/mod_unixd.so
	User www-data
	Group www-data
	DocumentRoot $place/www
	KeepAlive On
	MaxKeepAliveRequests 0
	CONF
  apache2 -f /run/httpd.conf >&2 || return
  repeat_until_ready ab -n 1 http://127.0.0.1:7002/4K || return
  "$@"
  local status=$?
  kill "$(cat /run/httpd/pid)"
  return $status
}
httpd_page() { with_httpd wrk_rate http://127.0.0.1:7002/"$1"; }
httpd_connections() { with_httpd ab_rate -n 1000 -c 10 http://127.0.0.1:7002/"$1"; }
memcached_rate() {
  memcached -d -u root -l 127.0.0.1 -p 7005 -P /run/memcached.pid >&2 || return
  repeat_until_ready memcping --servers=127.0.0.1:7005 || return
  local count=4000
  figure 'Took ([0-9.]+) seconds' memcslap --servers=127.0.0.1:7005 --concurrency=4 --execute-number=$((count / 4)) \
    "$@" | awk -v count=$count '{ printf "%.1f\n", count / $1 }'
  local status=${PIPESTATUS[0]}
  kill "$(cat /run/memcached.pid)"
  return "$status"
}
as_postgres() { runuser -u postgres -- env PATH=/usr/lib/postgresql/15/bin:"$PATH" "$@"; }
# pgbench OPTION…: the database is made by the row that wants it first.
pgbench_rate() {
  local base=$place/postgres
  cd / || return
  if [ ! -d $base ]; then
    mkdir $base && chown postgres $base && as_postgres initdb -D $base -A trust --no-sync >&2 || return
  fi
  as_postgres pg_ctl -D $base -w -l /tmp/postgres.log -o '-p 7006 -k /tmp -c listen_addresses=127.0.0.1' start >&2 ||
    return
  as_postgres psql -h 127.0.0.1 -p 7006 -c 'TABLE pgbench_branches' postgres >&2 ||
    as_postgres pgbench -h 127.0.0.1 -p 7006 -i -q postgres >&2 || return
  figure 'tps = ([0-9.]+)' as_postgres pgbench -h 127.0.0.1 -p 7006 -n -T 4 "$@" postgres
  local status=$?
  as_postgres pg_ctl -D $base -m fast -w stop >&2
  return $status
}

# What follows is init's; a row comes here in a shell of its own.
[ $$ = 1 ] || { "$@"; exit; }

begin

row loopback 'TCP, 1 stream' MiB/s loopback_speed
row loopback 'TCP, 4 streams' MiB/s loopback_speed -P 4
row loopback 'TCP, 1 stream, writes of 1 KiB' MiB/s loopback_speed -l 1K
row loopback 'UDP, datagrams of 1 KiB' MiB/s loopback_speed -u -l 1K -b 0
row loopback 'TCP latency' s sockperf_latency --tcp
row loopback 'UDP latency' s sockperf_latency

row wire 'TCP to the host' MiB/s wire_speed
row wire 'TCP from the host' MiB/s wire_speed -R

row nginx '1 KiB, kept alive' requests/s nginx_page 1K
row nginx '1 KiB, a connection each' requests/s nginx_connections 1K
row nginx '1 MiB, kept alive' requests/s nginx_page 1M
row nginx '1 MiB, a connection each' requests/s nginx_connections 1M
row httpd '1 KiB, kept alive' requests/s httpd_page 1K
row httpd '1 KiB, a connection each' requests/s httpd_connections 1K
row httpd '1 MiB, kept alive' requests/s httpd_page 1M

row redis SET ops/s redis_rate -t set
row redis GET ops/s redis_rate -t get
row redis 'SET, 16 at a time' ops/s redis_rate -t set -P 16 -n 32000
row redis 'GET, 16 at a time' ops/s redis_rate -t get -P 16 -n 32000
row redis 'GET, local socket' ops/s redis_rate -t get -s /run/redis.socket
row memcached set ops/s memcached_rate --test=set
row memcached get ops/s memcached_rate --test=get

row PostgreSQL 'select, 1 client' transactions/s pgbench_rate -S
row PostgreSQL 'select, 4 clients' transactions/s pgbench_rate -S -c 4 -j 2
row PostgreSQL 'update, 4 clients' transactions/s pgbench_rate -c 4 -j 2

end
