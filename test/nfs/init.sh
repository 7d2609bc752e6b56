#!/bin/sh
# The first process of a host of the NFS soak. The kernel's command line says which one: vs.role=server|agents|client vs.host=NAME
# vs.net=N (its cable to the server) vs.nfs=OPTIONS vs.ahead=SECONDS (of its clock) vs.minutes=N vs.jobs=N vs.seed=N vs.lease=MS
export PATH=/opt/vmspool/node_modules/.bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for d in /run /tmp /dev/shm; do mount -t tmpfs tmpfs $d; done
for word in $(cat /proc/cmdline); do case $word in vs.*) export "VS_$(echo "${word%%=*}" | cut -c4-)=${word#*=}" ;; esac; done
hostname "$VS_host"
echo "127.0.0.1 localhost $VS_host" >/etc/hosts
ip link set lo up
[ -n "$VS_ahead" ] && date -s "@$(($(date +%s) + VS_ahead))" >/dev/null
modprobe -a nfsv3 nfsv4
mkdir -p /run/rpcbind /mnt/spool
rpcbind -w
rpc.statd --no-notify

if [ "$VS_role" = server ]; then
  n=1
  for card in $(ls /sys/class/net | grep vec | sort); do
    ip addr add 10.99.$n.1/24 dev "$card"
    ip link set "$card" up
    n=$((n + 1))
  done
  modprobe nfsd
  mkdir -p /srv/nfs /var/lib/nfs/v4recovery /var/lib/nfs/sm
  mount -t nfsd nfsd /proc/fs/nfsd
  echo 10 >/proc/fs/nfsd/nfsv4gracetime
  echo 10 >/proc/fs/nfsd/nfsv4leasetime
  echo '/srv/nfs *(rw,sync,no_root_squash,no_subtree_check,fsid=0)' >/etc/exports
  nfsdcld 2>/dev/null
  exportfs -ra
  rpc.mountd
  rpc.nfsd 32 && echo 'init: serving'
  while :; do
    if [ -e /srv/nfs/restart ]; then
      echo 'init: the NFS server is stopped'
      rpc.nfsd 0
      sleep 5
      rm -f /srv/nfs/restart
      rpc.nfsd 32 && echo 'init: the NFS server is back'
    fi
    sleep 1
  done
fi

ip addr add "10.99.$VS_net.2/24" dev vec0
ip link set vec0 up
path=/
case $VS_nfs in *vers=3*) path=/srv/nfs ;; esac
n=0
until mount -t nfs -o "$VS_nfs" "10.99.$VS_net.1:$path" /mnt/spool 2>/run/mount.log; do
  n=$((n + 1))
  [ $n -gt 300 ] && { cat /run/mount.log; break; }
  sleep 1
done
echo "init: $(grep /mnt/spool /proc/mounts)"
date -u +'init: it is %FT%TZ here'
cd /tmp && node "/opt/rig/$VS_role.process.mjs"
echo "init: ended with $?"
sync
echo o >/proc/sysrq-trigger
sleep 60
