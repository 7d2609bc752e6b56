#!/bin/sh
# Installs vmspool as a service, or tries it. The parts lie in install/.
set -eu

self=$(readlink -f "$0")
home=$(dirname "$self")
vmspool=$home/bin/vmspool
. "$home/install/common.sh"

usage() {
  cat <<'TEXT'
Usage: ./install.sh --try [DISK]
       ./install.sh [--instance NAME]... [--hyper2kvm] [--fix] [--user NAME] [--prefix DIR] [--no-start] [--dry-run]
       ./install.sh --uninstall [--purge] [--prefix DIR] [--dry-run]

Trying it, which changes nothing but what is missing:
  --try [DISK]     Install what is missing (the project's own packages with `npm ci`; on Debian and Ubuntu, as root,
                   also qemu-utils, e2fsprogs and npm with apt-get), start an agent on a private spool in a temporary
                   folder, and convert one disk through it, with live progress: DISK (.vmdk .ova .ovf .vhd .vhdx .vdi
                   .qcow2 .raw .img; it is only read), or a small guest disk made here the way a VMware export looks.
                   Ends the agent again; the spool with the results is kept, and its place is printed.

Installing it, as root; a second time is harmless, and upgrades:
  --instance NAME  An agent and its spool /var/lib/vmspool/NAME, enabled and started; may be given several times
                   (default: "default"). Its configuration /etc/vmspool/agent@NAME.yaml is made from the template of
                   that name in conf/ (vsphere, aws, azure, gcp, hyperv, nfs, else default), and never overwritten.
  --hyper2kvm      Also answer to hyper2kvm's names, which is what hyperexport asks for: the program hyper2kvm, the
                   folders /var/lib/hyper2kvm/NAME/{queue,output}, the unit hyper2kvm@NAME.service.
  --fix            Let the agents fix guests with virt-v2v: its packages, and a drop-in that shows the agents the modules of the
                   host's kernels (exposure 1.7 instead of 1.5); for all instances, and it stays until it is removed by hand.
  --user NAME      Run the agents as this user, made when missing (default: vmspool).
  --prefix DIR     Where the program goes: DIR/lib/vmspool, DIR/bin (default: /usr/local).
  --no-start       Install and enable, start nothing.
  --dry-run        Say what would be done, and do nothing.

Removing it, as root:
  --uninstall      Stop the agents, remove the program and its units. Configuration, spools and users stay.
  --purge          With --uninstall: remove these too, but for spools that hold disks or unfinished jobs.

  --help           This text.

TMPDIR chooses where temporary folders are made (about 600 MB for the disk that --try makes).
Exit codes: 0 done, 1 not converted (--try), or installed but something cannot work (see the findings), 2 usage,
69 something is missing that this script may not install, 73 something of somebody else's is in the way, 77 not root.
TEXT
}

misused() {
  echo "install.sh: $*" >&2
  usage >&2
  exit 2
}

if [ "${1:-}" = --try ]; then
  [ $# -le 2 ] || misused "--try takes one disk at most."
  disk=${2:-}
  . "$home/install/try.sh"
  try
  exit
fi
[ $# -gt 0 ] || { usage >&2; exit 2; }

instances='' hyper2kvm='' fix='' user=vmspool prefix=/usr/local start=1 dry='' action=install purge=''
while [ $# -gt 0 ]; do
  case $1 in
    --instance=* | --user=* | --prefix=*)
      option=${1%%=*} value=${1#*=}
      shift
      set -- "$option" "$value" "$@"
      ;;
  esac
  case $1 in
    --instance | --user | --prefix)
      [ $# -ge 2 ] && [ -n "$2" ] || misused "$1 needs a value."
      case $1 in
        --instance) instances="$instances $2" ;;
        --user) user=$2 ;;
        --prefix) prefix=${2%/} ;;
      esac
      shift
      ;;
    --hyper2kvm) hyper2kvm=1 ;;
    --fix) fix=1 ;;
    --no-start) start= ;;
    --dry-run) dry=1 ;;
    --uninstall) action=uninstall ;;
    --purge) purge=1 ;;
    --help | -h)
      usage
      exit
      ;;
    --try) misused "--try goes with no other option." ;;
    *) misused "\"$1\" is not an option." ;;
  esac
  shift
done
: "${instances:= default}"
for name in $instances; do
  case $name in
    [A-Za-z0-9_]*) case $name in *[!A-Za-z0-9_.:-]*) misused "\"$name\" cannot be an instance: letters, digits and _ - . : only." ;; esac ;;
    *) misused "\"$name\" cannot be an instance: it must start with a letter, a digit or _." ;;
  esac
done
case $prefix in /*) ;; *) misused "--prefix must be an absolute path." ;; esac
[ -z "$purge" ] || [ $action = uninstall ] || misused "--purge goes with --uninstall."

. "$home/install/steps.sh"
. "$home/install/program.sh"
. "$home/install/host.sh"
. "$home/install/purge.sh"
. "$home/install/remove.sh"
[ -n "$dry" ] || as_root || fail 77 "only root can install a service. Try it without: $self --try"
if [ $action = uninstall ]; then uninstall; else install_all; fi
