#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Boots the Debian in the folder $1 with systemd as process 1 of namespaces of its own, until it is powered off or killed.
# Changes go to a tmpfs and are gone with it. The folder $2 is /mnt there; its socket "notify" hears when all is up.
# Runs in a mount namespace that its caller made for it (unshare --mount), so that no mount is to be cleaned up.
set -euo pipefail
tree=$1 share=$2 here=/run # any folder: it is covered

mount -t tmpfs tmpfs "$here"
mkdir "$here"/{cgroup,changes,work,root}
mount -t cgroup2 cgroup2 "$here/cgroup"
group=$here/cgroup/domward-test-$$
mkdir "$group"
inside() {
  mount -t overlay overlay -o "lowerdir=$tree,upperdir=$here/changes,workdir=$here/work" "$here/root"
  cd "$here/root"
  mount -t proc proc proc
  mount -t sysfs -o ro sysfs sys
  mount -t cgroup2 cgroup2 sys/fs/cgroup
  mount -t tmpfs -o mode=755 tmpfs dev
  for node in null zero full random urandom tty; do touch "dev/$node"; mount --bind "/dev/$node" "dev/$node"; done
  for node in /dev/loop*; do cp -a "$node" dev/; done
  mkdir dev/pts dev/shm
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
  mount -t tmpfs -o mode=1777 tmpfs dev/shm
  ln -s pts/ptmx dev/ptmx
  ln -s /proc/self/fd dev/fd
  for stream in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${stream%:*}" "dev/${stream#*:}"; done
  mount -t tmpfs -o mode=755 tmpfs run
  mount -t tmpfs -o mode=1777 tmpfs tmp
  mount --bind "$share" mnt
  mkdir run/outside
  pivot_root . run/outside
  umount -l /run/outside
  rmdir /run/outside
  exec 3>&-
  exec env -i container=domward-test NOTIFY_SOCKET=/mnt/notify PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --pdeathsig KILL /lib/systemd/systemd --unit=multi-user.target </dev/null >/dev/null 2>&1
}

export here tree share
export -f inside
(
  echo "$BASHPID" >"$group/cgroup.procs"
  # unshare complains of a signal mask when its child was killed; what goes wrong inside is told on fd 3
  exec setpriv --pdeathsig KILL unshare --mount --pid --cgroup --uts --ipc --net --fork bash -euc 'inside 2>&3' 3>&2 2>/dev/null
) &
machine=$!
cleanly() {
  kill -s KILL "$machine" 2>/dev/null || :
  while grep -q 'populated 1' "$group/cgroup.events"; do sleep 0.05; done
  find "$group" -depth -type d -exec rmdir {} +
}
trap cleanly EXIT
trap exit TERM
wait "$machine"
