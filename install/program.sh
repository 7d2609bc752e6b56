#!/bin/sh
# The program itself, its units, man pages and completions. A Debian package has brought all of these.

packaged() { [ -f "$home/.packaged" ]; }

install_program() {
  if packaged; then
    lib=$home
    bin=/usr/bin/vmspool
    did "Program: $lib, version $("$vmspool" --version), from its Debian package."
    return
  fi
  ! dpkg-query -W -f='${db:Status-Abbrev}' vmspool 2>/dev/null | grep -q '^ii' ||
    fail 73 "vmspool is installed as a Debian package already. Use vmspool-install, or remove the package first: apt-get remove vmspool"
  lib=$prefix/lib/vmspool
  bin=$prefix/bin/vmspool
  if [ "$home" = "$lib" ]; then
    tree=$lib
  elif [ -d "$home/src" ]; then
    build_tree
  else
    tree=$home
  fi
  if [ "$tree" = "$lib" ] || { [ -d "$lib" ] && diff -rq --no-dereference -x .installed "$tree" "$lib" >/dev/null 2>&1; }; then
    did "Program: $lib is version $(version_in "$lib") already."
  else
    replace_program
  fi
  ! link "$lib/bin/vmspool" "$bin" || did "Link: $bin"
  install_texts
  install_units
}

version_in() { sed -n 's/.*"version": "\(.*\)".*/\1/p' "$1/package.json"; }

# From a checkout: what it needs for building comes with npm ci.
build_tree() {
  tree=$work/tree
  if [ -n "$dry" ]; then
    did "build the program in $home (npm ci where needed, npm run build)."
    return
  fi
  if [ ! -x "$home/node_modules/.bin/esbuild" ] || [ ! -x "$home/node_modules/.bin/tsc" ]; then
    (cd "$home" && { have npm || apt_install nodejs npm; } && npm ci --include=dev --ignore-scripts --no-audit --no-fund --loglevel=error >&2) ||
      missing "npm ci failed in $home (see above): check the network and the registry npm is configured for."
  fi
  need_node_modules
  say "Building"
  step "$home/node_modules/.bin/node" "$home/scripts/package.ts" --tree "$tree"
}

# Agents are stopped while their files are exchanged: one that goes on with the files of another version could fail in its middle.
replace_program() {
  before=; [ ! -d "$lib" ] || before=$(version_in "$lib")
  if [ -n "$dry" ]; then
    did "copy the program to $lib."
    return
  fi
  make_folder "$prefix/lib"
  step rm -rf "$lib.new" "$lib.old"
  half=$lib.new
  step cp -a --reflink=auto "$tree" "$lib.new"
  step chown -R root:root "$lib.new"
  step chmod -R u=rwX,go=rX "$lib.new"
  [ ! -f "$lib/.installed" ] || cp "$lib/.installed" "$lib.new/"
  [ ! -d "$lib/conf" ] || cp -r "$lib/conf" "$work/old-conf"
  stopped=$(running_agents | tr '\n' ' ')
  # shellcheck disable=SC2086
  [ -z "$stopped" ] || { say "Stopping for a moment, which drains: $stopped"; step systemctl stop $stopped; }
  [ ! -d "$lib" ] || mv "$lib" "$lib.old"
  mv "$lib.new" "$lib"
  half=
  rm -rf "$lib.old"
  did "Program: $lib, version $(version_in "$lib")${before:+ (was $before)}."
}

install_texts() {
  n=0
  for page in "$tree"/share/man/*.gz; do
    [ ! -f "$page" ] || ! put "$page" "$prefix/share/man/man1/$(basename "$page")" || n=$((n + 1))
  done
  for pair in vmspool.bash=bash-completion/completions/vmspool _vmspool=zsh/site-functions/_vmspool vmspool.fish=fish/vendor_completions.d/vmspool.fish; do
    text=$tree/share/completions/${pair%%=*}
    [ ! -f "$text" ] || ! put "$text" "$prefix/share/${pair#*=}" || n=$((n + 1))
  done
  [ $n = 0 ] || did "Man pages and completions: $n files below $prefix/share."
}

install_units() {
  changed=
  for unit in agent.service agent@.service agent.target; do
    # systemd looks for programs in /usr/local/bin and /usr/bin; of another prefix it must be told.
    case $prefix in
      /usr | /usr/local) cat "$home/systemd/$unit" ;;
      *) sed -E "s#^(Exec[A-Za-z]+=[+-]?)vmspool #\\1$bin #; s#(CREDENTIALS_DIRECTORY) vmspool #\\1 $bin #" "$home/systemd/$unit" ;;
    esac >"$work/unit"
    ! put "$work/unit" "/usr/local/lib/systemd/system/$unit" || changed="$changed $unit"
  done
  [ -z "$changed" ] || did "Units:$changed in /usr/local/lib/systemd/system."
}
