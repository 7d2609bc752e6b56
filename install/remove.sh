#!/bin/sh
# --uninstall

uninstall() {
  ! packaged || fail 2 "this vmspool is a Debian package. Remove it with apt-get remove vmspool, or with everything: apt-get purge vmspool"
  begin_work
  lib=$prefix/lib/vmspool
  [ -d "$lib" ] || fail 69 "there is no vmspool in $lib. Say where it is with --prefix."
  version=$(sed -n 's/.*"version": "\(.*\)".*/\1/p' "$lib/package.json")
  units=$(running_agents | tr '\n' ' ')
  if [ -n "$units" ]; then
    # shellcheck disable=SC2086
    step systemctl stop $units
    did "Stopped: $units"
    left=
    [ -n "$dry" ] || left=$(left_running)
    [ -z "$left" ] || did "Still running: programs of jobs, which go on without an agent: $left"
  fi
  [ -n "$dry" ] || { remove_hyper2kvm_names; remove_unit_links; remove_shared_folder; }
  cp "$lib/.installed" "$work/installed" 2>/dev/null || : >"$work/installed"
  step rm -rf "$lib"
  # Folders behind what is in them; one that others use stays.
  sort -r "$work/installed" | while read -r path; do
    case $path in
      */) [ -n "$dry" ] || rmdir "$path" 2>/dev/null || : ;;
      *) step rm -f "$path" ;;
    esac
  done
  did "Removed: vmspool $version from $prefix, its units, links, man pages and completions."
  if [ -z "$purge" ]; then
    did "Kept: /etc/vmspool, /var/lib/vmspool, the users. --uninstall --purge removes these too."
  elif [ -z "$dry" ]; then
    purge_vmspool
    did "Purged: configuration, cache, spools without disks or unfinished jobs."
  else
    did "purge configuration, cache, and spools without disks or unfinished jobs."
  fi
}

left_running() {
  for unit in $units; do
    systemctl show --property ControlGroup --value "$unit" | while read -r group; do
      [ -z "$group" ] || cat "/sys/fs/cgroup/systemd$group/cgroup.procs" "/sys/fs/cgroup$group/cgroup.procs" 2>/dev/null || :
    done
  done | sort -un | tr '\n' ' '
}
