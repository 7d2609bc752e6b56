#!/bin/sh
# What is left when the program is gone. Used by install.sh --uninstall --purge and, as a part of it, by the last script of the .deb,
# when nothing else of the program is there any more.

# spool_keeps DIR : prints the first thing in a spool that nobody may delete unasked: disks, and jobs that were not done
spool_keeps() {
  {
    find "$1/output" -path "$1/output/.*" -prune -o \
      -type f \( -name '*.qcow2' -o -name '*.raw' -o -name '*.vdi' -o -name '*.img' \) -print
    for waiting in queue jobs/intake jobs/new jobs/held jobs/claimed jobs/committed jobs/payload; do
      find "$1/$waiting" -type f
    done
  } 2>/dev/null | head -n 1
}

# The names under which hyper2kvm was known here; folders that were its own come back.
remove_hyper2kvm_names() {
  [ ! -L /usr/local/bin/hyper2kvm ] || case $(readlink /usr/local/bin/hyper2kvm) in */lib/vmspool/bin/hyper2kvm) rm /usr/local/bin/hyper2kvm ;; esac
  [ -d /var/lib/hyper2kvm ] || return 0
  find /var/lib/hyper2kvm -maxdepth 2 -type l -lname '/var/lib/vmspool/*' -delete
  find /var/lib/hyper2kvm -maxdepth 2 -name '*.before-vmspool' | while read -r before; do mv "$before" "${before%.before-vmspool}"; done
  find /var/lib/hyper2kvm -depth -type d -empty -delete
}

# Enabled instances leave links behind when their units are gone.
remove_unit_links() {
  find /etc/systemd/system -maxdepth 2 -type l \( -lname '*/agent.service' -o -lname '*/agent@.service' -o -lname '*/agent.target' \) -delete 2>/dev/null || :
  rmdir /etc/systemd/system/agent.target.wants 2>/dev/null || :
  for drop_ins in /etc/systemd/system/agent.service.d /etc/systemd/system/agent@*.service.d; do
    [ ! -d "$drop_ins" ] || echo "vmspool: kept: $drop_ins, which was made here; it is in nobody's way."
  done
  # Its file is gone: what is loaded of it would stay active until the next boot.
  [ ! -d /run/systemd/system ] || { systemctl stop agent.target 2>/dev/null || :; systemctl daemon-reload || :; }
}

# What agents shared; one by hand may still use it.
remove_shared_folder() {
  rmdir /run/vmspool/vm-promises /run/vmspool 2>/dev/null || :
}

purge_vmspool() {
  remove_hyper2kvm_names
  remove_unit_links
  if grep -qsx '# install.sh --user' /etc/tmpfiles.d/vmspool.conf; then rm -f /etc/tmpfiles.d/vmspool.conf; fi
  rm -rf /etc/vmspool /run/vmspool /run/vmspool-stopped /var/cache/vmspool
  kept=
  for spool in /var/lib/vmspool/*/; do
    [ -d "$spool" ] || continue
    spool=${spool%/}
    found=$(spool_keeps "$spool")
    if [ -z "$found" ]; then rm -rf "$spool"; continue; fi
    kept=1
    echo "vmspool: kept: $spool, which holds $found. To delete it: rm -rf $spool"
  done
  if [ -n "$kept" ]; then
    echo "vmspool: kept: the user vmspool and the group vmspool-submit, whose files those are."
    return
  fi
  rm -rf /var/lib/vmspool
  if getent passwd vmspool >/dev/null; then userdel vmspool 2>/dev/null || echo "vmspool: kept: the user vmspool, which still has processes."; fi
  for group in vmspool vmspool-submit; do
    ! getent group $group >/dev/null || groupdel $group 2>/dev/null || :
  done
}
