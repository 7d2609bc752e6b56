#!/bin/sh
# What vmspool needs of this host: users, folders, configuration, instances.

install_all() {
  begin_work
  if [ -n "$dry" ]; then echo "Nothing is changed (--dry-run)."; else need_packages; fi
  [ -z "$hyper2kvm" ] || refuse_real_hyper2kvm
  install_program
  make_users
  install_configuration
  ! under_systemd || step systemctl daemon-reload
  for name in $instances; do make_instance "$name"; done
  [ -z "$hyper2kvm" ] || hyper2kvm_names
  # shellcheck disable=SC2086
  [ -z "$stopped" ] || { step systemctl start $stopped; stopped=; }
  record_owned
  [ -z "$dry" ] || return 0
  verify
}

make_users() {
  if ! getent group vmspool-submit >/dev/null || ! getent passwd "$user" >/dev/null; then
    if [ "$user" = vmspool ] && have systemd-sysusers; then
      step systemd-sysusers "$home/systemd/vmspool.sysusers"
    else
      getent group vmspool-submit >/dev/null || step groupadd --system vmspool-submit
      getent passwd "$user" >/dev/null ||
        step useradd --system --user-group --home-dir /var/lib/vmspool --no-create-home --shell /usr/sbin/nologin "$user"
    fi
    did "User $user, and the group vmspool-submit, whose members may drop jobs."
  fi
  for group in vmspool-submit kvm; do
    ! getent group $group >/dev/null || id -nG "$user" 2>/dev/null | tr ' ' '\n' | grep -qx $group || step usermod -aG $group "$user"
  done
  step mkdir -p /etc/vmspool /var/lib/vmspool
  run_as_user
  shared_folder
  [ -z "$fix" ] || fix_drop_in
}

# The units say vmspool; another user is a drop-in.
run_as_user() {
  for unit in agent.service agent@.service; do
    file=/etc/systemd/system/$unit.d/user.conf
    if [ "$user" != vmspool ]; then
      printf '# install.sh --user\n[Service]\nUser=%s\nGroup=%s\n' "$user" "$(id -gn "$user" 2>/dev/null || echo "$user")" >"$work/user.conf"
      ! put "$work/user.conf" "$file" || did "Drop-in: $file"
    elif [ -f "$file" ] && grep -qx '# install.sh --user' "$file"; then
      step rm -f "$file"
      did "Removed: $file, the agents run as vmspool again."
    fi
  done
}

# What virt-v2v needs to see.
fix_drop_in() {
  [ -n "$dry" ] || need_packages virt-v2v=virt-v2v nbdkit=nbdkit virt-customize=guestfs-tools
  for unit in agent.service agent@.service; do
    file=/etc/systemd/system/$unit.d/fix.conf
    ! put "$home/systemd/fix.conf" "$file" || did "Drop-in: $file. Agents that run take it over with: systemctl restart agent.target"
  done
}

# In /run, so made again at every boot; its own words say what for. A Debian package has brought the one of the user vmspool.
shared_folder() {
  if [ "$user" = vmspool ] && packaged; then
    # of an earlier --user
    if grep -qsx '# install.sh --user' /etc/tmpfiles.d/vmspool.conf; then step rm -f /etc/tmpfiles.d/vmspool.conf; fi
    file=/usr/lib/tmpfiles.d/vmspool.conf
  else
    file=/usr/local/lib/tmpfiles.d/vmspool.conf
    if packaged; then file=/etc/tmpfiles.d/vmspool.conf; fi
    group=$(id -gn "$user" 2>/dev/null || echo "$user")
    if [ "$user" = vmspool ]; then cat "$home/systemd/vmspool.tmpfiles"; else echo '# install.sh --user'; sed "s/ vmspool vmspool / $user $group /" "$home/systemd/vmspool.tmpfiles"; fi >"$work/tmpfiles"
    ! put "$work/tmpfiles" "$file" || did "Shared by all agents, in /run/vmspool: $file"
  fi
  ! under_systemd || step systemd-tmpfiles --create "$file"
}

install_configuration() {
  packaged || configuration agent.yaml agent.yaml
  for name in $instances; do
    # agent@vsphere-dc1.yaml is made from the template for vsphere.
    template=agent@${name%%[-_.:]*}.yaml
    [ -f "$home/conf/$template" ] || template=agent@default.yaml
    configuration "$template" "agent@$name.yaml"
  done
}

# configuration TEMPLATE NAME : made when missing, renewed while nobody has edited it
configuration() {
  to=/etc/vmspool/$2
  if [ ! -e "$to" ]; then
    step install -m 644 "$home/conf/$1" "$to"
    did "Configuration: $to (template $1)"
  elif cmp -s "$home/conf/$1" "$to"; then
    :
  elif [ -f "$work/old-conf/$1" ] && cmp -s "$work/old-conf/$1" "$to"; then
    step install -m 644 "$home/conf/$1" "$to"
    did "Configuration: $to renewed, for it was as the earlier version had made it."
  else
    did "Configuration: $to is kept as it was edited; the template is $lib/conf/$1."
  fi
}

make_instance() {
  unit=$(unit_of "$1")
  if ! under_systemd; then
    did "Instance $1: systemd does not run here. Start it by hand: $bin agent $1"
    return
  fi
  systemctl is-enabled -q "$unit" 2>/dev/null || { step systemctl enable -q "$unit"; did "Enabled: $unit"; }
  systemctl is-enabled -q agent.target 2>/dev/null || step systemctl enable -q agent.target
  [ -n "$start" ] || return 0
  # Alone: others that wait for it may have been stopped on purpose.
  systemctl is-active -q agent.target || step systemctl start --job-mode=ignore-dependencies agent.target
  systemctl is-active -q "$unit" && return 0
  if [ -z "$dry" ] && ! systemctl start "$unit"; then
    journalctl -u "$unit" -n 20 --no-pager -o cat >&2 || :
    fail 1 "$unit did not start (see above, and: systemctl status $unit)."
  fi
  did "Started: $unit, with the spool /var/lib/vmspool/$1"
}

# --- hyper2kvm's names -------------------------------------------------------------------------------------------------

refuse_real_hyper2kvm() {
  for dir in /etc/systemd/system /usr/local/lib/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
    for unit in hyper2kvm.service hyper2kvm@.service; do
      [ ! -f "$dir/$unit" ] || [ -L "$dir/$unit" ] ||
        fail 73 "$dir/$unit is hyper2kvm's own. Stop and remove that service first: its name becomes an alias of our unit."
    done
  done
  [ ! -e /usr/local/bin/hyper2kvm ] || [ -L /usr/local/bin/hyper2kvm ] ||
    fail 73 "/usr/local/bin/hyper2kvm is another program. Move it away, then run this again."
}

hyper2kvm_names() {
  # hyperexport looks there, whatever the prefix is.
  ! link "$lib/bin/hyper2kvm" /usr/local/bin/hyper2kvm || did "Program: /usr/local/bin/hyper2kvm"
  main=
  for name in $instances; do
    : "${main:=$name}"
    case $name in default) main=default ;; *) hyper2kvm_folders "$name" "/var/lib/hyper2kvm/$name" ;; esac
  done
  # Where hyperexport looks unless it is told otherwise, also for --hyper2kvm-instance NAME: the instance "default", else the first one.
  ! under_systemd || ! systemctl is-enabled -q agent.service 2>/dev/null || main=default
  if [ "$main" = default ] || [ ! -L /var/lib/hyper2kvm/queue ]; then hyper2kvm_folders "$main" /var/lib/hyper2kvm; fi
}

# hyper2kvm_folders INSTANCE DIR
hyper2kvm_folders() {
  for folder in queue output; do
    # A folder that was there is hyper2kvm's, and may hold the only copy of a VM.
    if [ -d "$2/$folder" ] && [ ! -L "$2/$folder" ] && ! rmdir_unless_dry "$2/$folder"; then
      [ ! -e "$2/$folder.before-vmspool" ] || fail 73 "$2/$folder and $2/$folder.before-vmspool both hold files. Move one away, then run this again."
      step mv "$2/$folder" "$2/$folder.before-vmspool"
      did "Kept: what hyper2kvm had in $2/$folder is now in $2/$folder.before-vmspool."
    fi
    ! link "/var/lib/vmspool/$1/$folder" "$2/$folder" || did "Link: $2/$folder, to the instance $1"
  done
}
rmdir_unless_dry() { [ -z "$dry" ] && rmdir "$1" 2>/dev/null; }

# --- is it all right ---------------------------------------------------------------------------------------------------

verify() {
  findings=0
  for name in $instances; do
    say "vmspool doctor --instance $name"
    # What is as it should be needs no line here.
    "$bin" doctor --instance "$name" >"$work/doctor" || findings=1
    grep -v '^ok ' "$work/doctor" || :
  done
  docs=$lib/docs/systemd.md
  ! packaged || docs=/usr/share/doc/vmspool/docs/systemd.md
  cat <<TEXT

What to do next:
  usermod -aG vmspool-submit NAME       who may drop jobs and read results (and vmspool: who may control agents)
  vmspool daemon status                 the instances, their folders, PID and uptime
  systemctl edit $(unit_of "${instances##* }")    resources, exports in homes: $docs
  man vmspool
TEXT
  [ $findings = 0 ] || fail 1 "vmspool is installed, but the findings above say what cannot work yet."
}
