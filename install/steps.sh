#!/bin/sh
# Doing, or with --dry-run only saying. Every change that install.sh makes goes through here.

# did TEXT : told once it is done
did() { if [ -n "$dry" ]; then echo "(not done) $*"; else echo "$*"; fi; }
# step COMMAND [ARG]... : runs it; output only when it fails
step() {
  [ -z "$dry" ] || return 0
  "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail 74 "\`$*\` failed (see above). What was done so far stays; run this again when it is mended."; }
}

# put FROM TO : a file that everybody may read. Fails when it is there already, as it is to be.
put() {
  owned "$2"
  ! cmp -s "$1" "$2" || return 1
  make_folder "$(dirname "$2")"
  step install -m 644 "$1" "$2"
}

# link TARGET NAME : the same for a link
link() {
  [ -n "$dry" ] || [ -L "$2" ] || [ ! -e "$2" ] || fail 73 "$2 exists and is not ours. Move it away, then run this again."
  owned "$2"
  [ "$(readlink "$2" 2>/dev/null)" != "$1" ] || return 1
  make_folder "$(dirname "$2")"
  step ln -sfn "$1" "$2"
}

make_folder() {
  [ ! -d "$1" ] || return 0
  make_folder "$(dirname "$1")"
  step mkdir -m 755 "$1"
  owned "$1/"
}

# What lies outside of the program's own folder, for --uninstall; a folder has a slash behind it.
owned() { echo "$1" >>"$work/owned"; }
record_owned() {
  if [ -n "$dry" ] || [ ! -s "$work/owned" ] || [ ! -d "${lib:-}" ] || packaged; then return 0; fi
  touch "$lib/.installed"
  sort -u "$work/owned" "$lib/.installed" >"$work/all"
  mv "$work/all" "$lib/.installed"
}

under_systemd() { [ -d /run/systemd/system ]; }
unit_of() { if [ "$1" = default ]; then echo agent.service; else echo "agent@$1.service"; fi; }
running_agents() {
  ! under_systemd || systemctl list-units --state=active,activating,reloading --plain --no-legend 'agent.service' 'agent@*.service' | sed 's/ .*//'
}

begin_work() {
  work=$(mktemp -d "${TMPDIR:-/tmp}/vmspool-install.XXXXXX")
  log=$work/log
  : >"$work/owned"
  stopped=
  half=
  trap end_work EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
}

# Also when it ends early: what ran before runs again, and --uninstall finds what is there by then.
end_work() {
  record_owned
  # shellcheck disable=SC2086
  [ -z "$stopped" ] || systemctl start $stopped || echo "install.sh: could not be started again: $stopped" >&2
  [ -z "$half" ] || rm -rf "$half"
  rm -rf "$work"
}
