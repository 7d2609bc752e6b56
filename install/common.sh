#!/bin/sh
# What all parts of install.sh use: words, and what must be there first.

say() { printf '\n\033[1m%s\033[0m\n' "$*" | plain >&2; }
# Colours only on a terminal, and never with NO_COLOR.
plain() { if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then cat; else sed 's/\x1b\[[0-9;]*m//g'; fi; }
fail() { code=$1; shift; echo "install.sh: $*" >&2; exit "$code"; }
missing() { fail 69 "$@"; }

as_root() { [ "$(id -u)" = 0 ]; }
have() { command -v "$1" >/dev/null 2>&1; }

# apt_install PACKAGE... : one `apt-get update` at most, nothing that is only recommended.
apt_install() {
  have apt-get || missing "$* must be installed, and this is no Debian or Ubuntu: install the packages of that name with your package manager, then run this again."
  as_root || missing "$* must be installed first: sudo apt-get install --no-install-recommends $*"
  say "Installing $* with apt-get"
  export DEBIAN_FRONTEND=noninteractive
  # Without an update first: the lists are often there, and good enough.
  if apt-get install -y -qq --no-install-recommends "$@" >"$log" 2>&1; then return; fi
  apt-get update -qq >"$log" 2>&1 || { cat "$log" >&2; missing "apt-get update failed (see above): check the network and /etc/apt/sources.list."; }
  apt-get install -y -qq --no-install-recommends "$@" >"$log" 2>&1 || { cat "$log" >&2; missing "apt-get could not install $* (see above)."; }
}

# need_packages [PROGRAM=PACKAGE]... : what every vmspool needs, and these
need_packages() {
  PATH=$PATH:/usr/sbin:/sbin
  lacking=
  for pair in qemu-img=qemu-utils prlimit=util-linux perl=perl-base gzip=gzip "$@"; do
    have "${pair%%=*}" || lacking="$lacking ${pair#*=}"
  done
  # shellcheck disable=SC2086
  [ -z "$lacking" ] || apt_install $lacking
}

# Whether node_modules holds what package-lock.json names, by npm's own record of what it installed: by content, not by
# time, because an npm ci that was not needed would pull the packages away from under whoever uses them.
modules_are_current() {
  [ -x node_modules/.bin/node ] && [ -f node_modules/.package-lock.json ] && node_modules/.bin/node -e '
    const wanted = require("./package-lock.json").packages, there = require("./node_modules/.package-lock.json").packages
    const missing = ([path, p]) => path !== "" && !p.optional && !p.dev && !p.devOptional && there[path]?.version !== p.version
    process.exit(Object.entries(wanted).some(missing) ? 1 : 0)' 2>/dev/null
}

# An installed vmspool has no package-lock.json and brought its packages with it.
need_node_modules() {
  cd "$home"
  if [ -f package-lock.json ] && ! modules_are_current; then
    # npm ci empties the folder first, also through a link: somebody else's folder.
    [ ! -L node_modules ] || missing "$home/node_modules is a link and does not hold what package-lock.json names. Remove the link, or run npm ci where it leads to."
    have npm || apt_install nodejs npm
    say "Installing the project's packages, its own Node among them (npm ci)"
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2 || missing "npm ci failed in $home (see above): check the network and the registry npm is configured for."
  fi
  "$vmspool" --version >/dev/null || missing "vmspool does not start (see above)."
  cd - >/dev/null
}
