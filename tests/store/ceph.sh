#!/bin/bash
# One Ceph monitor, one object store in memory and one RADOS gateway, all on loopback, in the chroot ROOT; state in ROOT/srv/NAME.
# usage: ceph.sh ROOT NAME PORT MONITOR_PORT ACCESS_KEY SECRET_KEY   (as first process of its own mount and PID namespaces)
# Writes ROOT/srv/NAME/ready when it serves; runs until it is killed, and all its processes and mounts end with it.
set -euo pipefail
root=$1 name=$2 port=$3 monitor_port=$4 access_key=$5 secret_key=$6

mount -t proc proc "$root/proc"
for folder in dev sys; do mount --rbind "/$folder" "$root/$folder"; done

state=/srv/$name
mkdir -p "$root$state"/{mon,osd,rgw,run,log}
fsid=$(cat /proc/sys/kernel/random/uuid)
osd_id=$(cat /proc/sys/kernel/random/uuid)
# Conditional writes need authentication as it is by default; tcp_nodelay saves 40 ms for each request.
cat >"$root$state/ceph.conf" <<CONF
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$monitor_port]
mon initial members = a
keyring = $state/keyring
public addr = 127.0.0.1
cluster addr = 127.0.0.1
run dir = $state/run
log file = $state/log/\$name.log
admin socket = $state/run/\$name.asok
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 1
paxos propose interval = 0.05
[mon.a]
mon data = $state/mon
[osd.0]
osd data = $state/osd
osd objectstore = memstore
memstore device bytes = ${TOMOBURST_S3_BYTES:-3G}
osd class dir = /usr/lib/$(uname -m)-linux-gnu/rados-classes
[client.rgw.a]
rgw data = $state/rgw
rgw frontends = beast endpoint=127.0.0.1:$port tcp_nodelay=1
rgw rados pool pg num min = 1
rgw dynamic resharding = false
rgw enable usage log = false
rgw run sync thread = false
rgw thread pool size = 64
CONF

in_chroot() { chroot "$root" "$@"; }
config=(-c "$state/ceph.conf")
in_chroot ceph-authtool --create-keyring "$state/keyring" --gen-key -n mon. --cap mon 'allow *'
for entity in client.admin osd.0 client.rgw.a; do
  in_chroot ceph-authtool "$state/keyring" --gen-key -n "$entity" --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
done
in_chroot monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$monitor_port]" --enable-all-features "$state/monmap"
in_chroot ceph-mon "${config[@]}" --mkfs -i a --monmap "$state/monmap" --keyring "$state/keyring"
in_chroot ceph-mon "${config[@]}" -i a -f &
in_chroot ceph-osd "${config[@]}" -i 0 --mkfs --osd-uuid "$osd_id"
in_chroot ceph "${config[@]}" osd new "$osd_id" 0
in_chroot ceph-osd "${config[@]}" -i 0 -f &
in_chroot radosgw "${config[@]}" -n client.rgw.a -f &
until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.1; done
in_chroot radosgw-admin "${config[@]}" -n client.rgw.a user create --uid=tests --display-name=tests \
  --access-key="$access_key" --secret-key="$secret_key"
touch "$root$state/ready"
wait -n
