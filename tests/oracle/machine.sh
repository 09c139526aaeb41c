# Sourced in the guest by what runs as init there, on Linux and on our kernel.

# Where the report goes: the second serial line.
report=/dev/ttyS1

# Mounts and names what the init of a distribution would.
set_up() {
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
  # Where the kernel has no rtnetlink the older call does it.
  python -c "import socket,fcntl,struct; fcntl.ioctl(socket.socket(2,2),0x8914,struct.pack('16sH14s','lo',1,''))" 2>/dev/null
  hostname guest
  mount -o remount,rw / 2>/dev/null
  umask 022
  stty -F $report raw -echo 2>/dev/null
}

power_off() {
  sync
  mount -o remount,ro / 2>/dev/null
  echo 1 > /proc/sys/kernel/sysrq
  echo o > /proc/sysrq-trigger
  sleep 60
}
