#!/bin/sh
# Runs in the guest of host.process.ts, as a service of its systemd: installs the .deb and uses it as an administrator and a submitter do.
# Prints a line for each thing that holds, and the end.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive HOME=/root LC_ALL=C.UTF-8
unit=agent@vsphere.service
spool=/var/lib/vmspool/vsphere
wrong=0
now() { cut -d. -f1 /proc/uptime; }
say() { echo "PROOF $(now) s  $*"; }
# holds WHAT TEST... : with what was seen last
holds() {
  what=$1
  shift
  if "$@" >/tmp/seen 2>&1; then say "ok    $what"; else say "WRONG $what: $(tail -c 300 /tmp/seen | tr '\n' '|')"; wrong=$((wrong + 1)); fi
}
# comes WHAT TEST... : within ten minutes, for the processor is emulated
comes() {
  what=$1
  shift
  n=0
  until "$@" >/tmp/seen 2>&1; do
    n=$((n + 1))
    # A job that has ended otherwise does not change any more.
    case "$1 $4:$(cat /tmp/seen)" in "state_is succeeded:failed:"* | "state_is succeeded:rejected:"*) n=3001 ;; esac
    if [ $n -gt 3000 ]; then say "WRONG in vain: $what: $(tail -c 300 /tmp/seen | tr '\n' '|')"; wrong=$((wrong + 1)); return 1; fi
    sleep 0.2
  done
  say "ok    $what"
}
is() { echo "$1, not $2"; [ "$1" = "$2" ]; }
show() { systemctl show --property "$2" --value "$1"; }
group() { echo "/sys/fs/cgroup$(show "$1" ControlGroup)"; }
field() { sed -n "s/^ *\"$2\": \"\\{0,1\\}\\([^\",]*\\).*/\\1/p" "$1" 2>/dev/null | head -n 1; }
state() { field "/var/lib/vmspool/$1/output/$2.status.json" state; }
state_is() { s=$(state "$1" "$2"); echo "$s: $(field "/var/lib/vmspool/$1/output/$2.status.json" reason)"; [ "$s" = "$3" ]; }
# drop USER INSTANCE NAME : the manifest on standard input
drop() {
  cat >"/srv/$3.json"
  chmod 644 "/srv/$3.json"
  setpriv --reuid="$1" --regid="$1" --init-groups cp "/srv/$3.json" "/var/lib/vmspool/$2/queue/"
}
log_of() { cat "/var/lib/vmspool/$1/output/jobs/$(field "/var/lib/vmspool/$1/output/$2.status.json" id)/log"; }
says() { log_of "$1" "$2" | grep -E "$3"; }
command_job() { # NAME LIMITS WORDS, a shell's
  printf '{"kind": "command", "name": "%s", "retry": {"max_attempts": 0}, "command": {"argv": ["/bin/sh", "-c", "%s"], "limits": {%s}}}\n' "$1" "$3" "$2"
}
convert_job() { # NAME DISKS
  disks=
  for n in $2; do disks="$disks${disks:+, }{\"id\": \"disk-$n\", \"source_format\": \"raw\", \"local_path\": \"/srv/export/d$n.raw\"}"; done
  printf '{"manifest_version": "1.0", "name": "%s", "compress": true, "disks": [%s]}\n' "$1" "$disks"
}
# freeze JOB DISK : stops its copy in the middle, and prints the pid; none when it cannot be met
freeze() {
  n=0
  until pid=$(pgrep -f "^qemu-img convert .*disk-$2") && kill -STOP "$pid"; do
    n=$((n + 1))
    [ $n -lt 3000 ] || { pid=none; break; }
    case $(state vsphere "$1") in succeeded | failed | rejected) pid=none; break ;; esac
  done
  echo "$pid"
  [ "$pid" != none ] || { cat "$spool/output/$1.status.json"; log_of vsphere "$1"; ls "$spool/queue"; pgrep -af qemu-img; systemctl status --no-pager $unit; } >/dev/console 2>&1
}
gone() { [ "$1" != none ] && [ ! -d "/proc/$1" ]; }
is_another() { pid=$(show "$1" MainPID); echo "$pid"; [ "$pid" != 0 ] && [ "$pid" != "$2" ] && [ "$(systemctl is-active "$1")" = active ]; }
took_over() { log_of vsphere three | grep -c 'took over the finished copy' | grep -qx 2; }
sleeper() { pgrep -f '^sleep 6000'; }

holds 'this host has control groups of version 2 alone' is "$(stat -fc %T /sys/fs/cgroup)" cgroup2fs
holds 'the .deb is installed' dpkg -i /opt/vmspool.deb
holds 'vmspool-install makes an instance' vmspool-install --instance vsphere
cat /tmp/seen
holds "systemctl start agent@vsphere: it runs" is "$(systemctl is-active $unit)" active
say "$(systemd-analyze security --no-pager $unit | grep 'Overall exposure')"
holds 'nothing has failed' is "$(systemctl --failed --plain --no-legend | grep -c agent)" 0

useradd --create-home --groups vmspool-submit alice
mkdir /srv/export
for n in 0 1 2; do head -c $((16 + n * n * 8))M /dev/urandom >/srv/export/d$n.raw; done
convert_job first 0 | drop alice vsphere first
comes 'what alice dropped is converted' state_is vsphere first succeeded
holds 'alice reads the result' setpriv --reuid=alice --regid=alice --init-groups qemu-img compare -f raw -F qcow2 /srv/export/d0.raw $spool/output/first.qcow2

command_job shared '' 'touch /run/vmspool/vm-promises/x && rm /run/vmspool/vm-promises/x && ! touch /etc/x /run/vmspool/x /var/lib/vmspool/x' | drop vmspool vsphere shared
comes 'what all instances share may be written, and little else' state_is vsphere shared succeeded

say "$(systemctl status --no-pager $unit | grep -E 'Status|Tasks|Memory|CPU|CGroup' | tr -s ' ' | tr '\n' ';')"
mkdir -p /etc/systemd/system/$unit.d
printf '[Service]\nMemoryHigh=infinity\nMemoryMax=500M\nMemorySwapMax=0\nCPUQuota=150%%\nTasksMax=200\n' >/etc/systemd/system/$unit.d/limits.conf
printf 'drain: {timeout: 500ms}\ntimeouts: {kill_grace: 2s}\nconvert: {path: qemu-img}\nretry: {enabled: false}\n' >/etc/vmspool/agent@vsphere.yaml
systemctl daemon-reload
holds 'a restart' systemctl restart $unit
holds "the unit's memory is limited by the kernel" is "$(cat "$(group $unit)/memory.max")" 524288000
holds 'its tasks' is "$(cat "$(group $unit)/pids.max")" 200
holds 'its processor time' is "$(cat "$(group $unit)/cpu.max")" '150000 100000'
main=$(show $unit MainPID)
command_job hog '' 'perl -e \"for (1 .. 600) { push @x, chr(65) x (1 << 20) } print 1\"' | drop vmspool vsphere hog
comes 'a program that takes more than the unit has is killed' state_is vsphere hog failed
holds 'and the agent is not' is "$(show $unit MainPID)" "$main"

command_job long '' 'exec sleep 6000' | drop vmspool vsphere long
comes 'a command runs' sleeper
before=$(sleeper)
convert_job killed 0 | drop alice vsphere killed
frozen=$(freeze killed 0)
kill -9 "$(show $unit MainPID)"
comes 'killed, the agent is started again' is_another $unit "$main"
holds 'what it left of a conversion is ended' gone "$frozen"
holds 'the command goes on' is "$(sleeper)" "$before"
comes 'the conversion is done again' state_is vsphere killed succeeded

holds 'a stop' systemctl stop $unit
holds 'the command goes on' is "$(sleeper)" "$before"
holds 'a start' systemctl start $unit
kill "$before"
comes 'how the command ended is known' state_is vsphere long failed

# The drop-in of docs/systemd.md for commands of other users: as root, each in a scope of its own.
mkdir -p /etc/systemd/system/agent@root.service.d
cp /opt/root.conf /etc/systemd/system/agent@root.service.d/
systemctl daemon-reload
holds 'an agent that runs each command as who dropped it' systemctl start agent@root
chmod 1777 /var/lib/vmspool/root/queue
command_job scoped '"memory": "200M", "cpu": 0.5, "processes": 50' 'id -un; cat /proc/self/cgroup; d=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); cat $d/memory.max $d/cpu.max $d/pids.max' | drop alice root scoped
comes 'a command with limits' state_is root scoped succeeded
holds 'it runs as alice' says root scoped 'stdout F alice'
holds 'in a scope of its own' says root scoped 'vmspool-[0-9A-Z]{26}-0\.scope'
holds 'with its memory' says root scoped 'stdout F 209715200'
holds 'its share of a processor' says root scoped 'stdout F 50000 100000'
holds 'its tasks' says root scoped 'stdout F 50'
# Two processes that have too much together
command_job hogs '"memory": "100M"' 'perl -e \"fork; for (1 .. 80) { push @x, chr(65) x (1 << 20); select undef, undef, undef, 0.02 } print q(had it)\"' | drop alice root hogs
comes 'two processes with too much memory together end' eval 'state_is root hogs failed || state_is root hogs succeeded'
holds 'at least one of them was killed' eval '! log_of root hogs | grep -q "had it.*had it"'
command_job slow '"cpu": 0.25' 'perl -e \"\\$e = time + 8; 1 while time < \\$e; (\\$u, \\$s) = times; print \\$u + \\$s < 4 ? q(slowed) : q(not slowed), q( ), \\$u + \\$s\"' | drop alice root slow
comes 'a command with a quarter of a processor ends' state_is root slow succeeded
holds 'it had less than half of one' says root slow 'stdout . slowed'
cat /tmp/seen

convert_job three '0 1 2' | drop alice vsphere three
frozen=$(freeze three 2)
holds 'a restart in the middle of the third disk' systemctl restart $unit
holds 'its copy is ended' gone "$frozen"
comes 'the conversion is done' state_is vsphere three succeeded
holds 'with the two finished copies' took_over

holds 'the package is removed' dpkg -P vmspool
holds 'no agent is left' is "$(systemctl list-units --plain --no-legend 'agent@*' | wc -l)" 0
holds 'nor what agents shared' eval '[ ! -e /run/vmspool ]'
journalctl --no-pager -p warning -o cat | tail -n 30
echo "PROOF END $wrong"
