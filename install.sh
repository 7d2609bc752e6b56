#!/bin/sh
# Tries vmspool on this host: installs what is missing, converts one disk through a private spool, ends everything again.
set -eu

home=$(cd "$(dirname "$0")" && pwd -P)
vmspool=$home/bin/vmspool

usage() {
  cat <<'TEXT'
Usage: ./install.sh --try [DISK]

  --try [DISK]  Install what is missing (the project's own packages with `npm ci`; on Debian and Ubuntu, as root,
                also qemu-utils, e2fsprogs and npm with apt-get), start an agent on a private spool in a temporary
                folder, and convert one disk through it, with live progress: DISK (.vmdk .ova .ovf .vhd .vhdx .vdi
                .qcow2 .raw .img; it is only read), or a small guest disk made here the way a VMware export looks.
                Ends the agent again; the spool with the results is kept, and its place is printed.
  --help        This text.

TMPDIR chooses where the temporary folder is made (about 600 MB for the disk that is made here).
The installation as a service (--instance NAME, --uninstall) comes with a later version.
Exit codes: 0 the disk was converted and compared, 1 it was not, 2 usage, 69 something is missing that this script
may not install.
TEXT
}

say() { printf '\n\033[1m%s\033[0m\n' "$*" | plain >&2; }
# Colours only on a terminal, and never with NO_COLOR.
plain() { if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then cat; else sed 's/\x1b\[[0-9;]*m//g'; fi; }
missing() { echo "install.sh: $*" >&2; exit 69; }

as_root() { [ "$(id -u)" = 0 ]; }
have() { command -v "$1" >/dev/null 2>&1; }

# --- what must be there ------------------------------------------------------------------------------------------------

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

need_packages() {
  set --
  PATH=$PATH:/usr/sbin:/sbin
  have qemu-img || set -- "$@" qemu-utils
  have prlimit || set -- "$@" util-linux
  have perl || set -- "$@" perl-base
  have gzip || set -- "$@" gzip
  [ -n "$disk" ] || have mke2fs || set -- "$@" e2fsprogs
  [ $# = 0 ] || apt_install "$@"
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

# --- a guest disk, as hyperexport leaves one ---------------------------------------------------------------------------

# little_endian N : four bytes, as printf escapes
little_endian() {
  n=$1
  for _ in 1 2 3 4; do printf '\\%03o' $((n % 256)); n=$((n / 256)); done
}

# make_disk FILE : 512 MiB with an MBR and one ext4 partition full of this host's programs and libraries
make_disk() {
  tree=$work/tree
  mkdir -p "$tree/etc" "$tree/boot" "$tree/var/log" "$tree/tmp"
  echo web-01 >"$tree/etc/hostname"
  echo 'LABEL=root / ext4 defaults 0 1' >"$tree/etc/fstab"
  cp /etc/os-release "$tree/etc/os-release" 2>/dev/null || :
  # Up to 150 MB of real files, the same ones each time.
  find /usr/bin /usr/lib /usr/share -xdev -type f -perm -444 -size +15k -size -4096k -printf '%s %p\n' 2>/dev/null | LC_ALL=C sort -k2 |
    awk 'NR % 3 == 1 { size += $1; if (size > 150000000) exit; print substr($0, length($1) + 2) }' >"$work/files"
  tar -C / -cf - -T "$work/files" 2>/dev/null | tar -C "$tree" -xf - 2>/dev/null || :
  megabytes=512
  truncate -s ${megabytes}M "$1"
  mke2fs -q -F -t ext4 -L root -d "$tree" -E offset=1048576 "$1" $(((megabytes - 1) * 1024))k >"$log" 2>&1 || { cat "$log" >&2; return 1; }
  # One primary partition of type 83 (Linux), from sector 2048 to the end.
  sectors=$(((megabytes - 1) * 2048))
  printf "\\200\\040\\041\\000\\203\\376\\377\\377$(little_endian 2048)$(little_endian $sectors)" | dd of="$1" bs=1 seek=446 conv=notrunc status=none
  printf '\125\252' | dd of="$1" bs=1 seek=510 conv=notrunc status=none
  rm -rf "$tree" "$work/files"
}

# make_export DIR : web-01.ovf, web-01.mf, web-01-disk1.vmdk (streamOptimized) and artifact-manifest.json
make_export() {
  mkdir -p "$1"
  make_disk "$work/disk.raw"
  qemu-img convert -f raw -O vmdk -o subformat=streamOptimized "$work/disk.raw" "$1/web-01-disk1.vmdk"
  rm "$work/disk.raw"
  size=$(stat -c %s "$1/web-01-disk1.vmdk")
  cat >"$1/web-01.ovf" <<OVF
<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
  <References>
    <File ovf:id="file1" ovf:href="web-01-disk1.vmdk" ovf:size="$size"/>
  </References>
  <DiskSection>
    <Info>Virtual disk information</Info>
    <Disk ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:capacity="512" ovf:capacityAllocationUnits="byte * 2^20" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <VirtualSystem ovf:id="web-01">
    <Info>A virtual machine</Info>
    <Name>web-01</Name>
    <OperatingSystemSection ovf:id="96"><Info>The kind of installed guest operating system</Info></OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware requirements</Info>
      <System><vssd:ElementName>Virtual Hardware Family</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID><vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType></System>
      <Item><rasd:ElementName>2 virtual CPUs</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
      <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>2048MB of memory</rasd:ElementName><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>2048</rasd:VirtualQuantity></Item>
      <Item><rasd:ElementName>SCSI controller 0</rasd:ElementName><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
      <Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:ElementName>Hard disk 1</rasd:ElementName><rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource><rasd:InstanceID>4</rasd:InstanceID><rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
OVF
  (cd "$1" && for f in web-01.ovf web-01-disk1.vmdk; do echo "SHA256($f)= $(sha256sum "$f" | cut -d' ' -f1)"; done >web-01.mf)
  # As hyperexport's manifest builder writes it: the .ovf is file 0, so the first disk is disk-1 and has no disk_type.
  cat >"$1/artifact-manifest.json" <<JSON
{
  "manifest_version": "1.0",
  "source": {
    "provider": "vsphere",
    "vm_id": "vm-101",
    "vm_name": "web-01",
    "datacenter": "DC1",
    "export_method": "hypersdk-govc",
    "export_timestamp": "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
  },
  "vm": { "cpu": 2, "mem_gb": 2, "firmware": "bios", "os_hint": "linux" },
  "disks": [
    {
      "id": "disk-1",
      "source_format": "vmdk",
      "bytes": $size,
      "local_path": "$1/web-01-disk1.vmdk",
      "checksum": "sha256:$(sha256sum "$1/web-01-disk1.vmdk" | cut -d' ' -f1)",
      "label": "web-01-disk1.vmdk"
    }
  ],
  "notes": ["Exported from vSphere by hypersdk v0.1.0", "Export method: ovf"],
  "pipeline": {
    "inspect": { "enabled": true },
    "convert": { "enabled": true, "compress": true },
    "validate": { "enabled": true, "check_image_integrity": true }
  },
  "output": { "directory": "$1", "format": "qcow2" }
}
JSON
}

# --- the trial ---------------------------------------------------------------------------------------------------------

agent=
end_agent() {
  [ -n "$agent" ] || return 0
  kill "$agent" 2>/dev/null || :
  wait "$agent" 2>/dev/null || :
  agent=
}

start_agent() {
  "$vmspool" agent "$instance" --root "$work/spool" >"$work/agent.log" 2>&1 &
  agent=$!
  tries=0
  until [ -d "$work/spool/$instance/queue" ] && "$vmspool" daemon status --instance "$instance" --root "$work/spool" -o name >/dev/null 2>&1; do
    tries=$((tries + 1))
    if ! kill -0 "$agent" 2>/dev/null || [ $tries -gt 100 ]; then
      cat "$work/agent.log" >&2
      echo "install.sh: the agent did not start; its log is above." >&2
      exit 1
    fi
    sleep 0.1
  done
}

# compare SOURCE OUTPUT : do both disks hold the same bytes, as qemu-img reads them
compare() {
  case $1 in
    *.vmdk | *.VMDK) f=vmdk ;; *.qcow2 | *.QCOW2) f=qcow2 ;; *.vdi | *.VDI) f=vdi ;;
    *.vhdx | *.VHDX) f=vhdx ;; *.vhd | *.VHD) f=vpc ;; *.raw | *.img | *.RAW | *.IMG) f=raw ;;
    *) echo "(an OVA or OVF holds its disks packed: compared disk by disk in the job's own validation)"; return 0 ;;
  esac
  qemu-img compare -f "$f" -F qcow2 "$1" "$2"
}

try() {
  started=$(date +%s)
  [ -z "$disk" ] || [ -r "$disk" ] || missing "$disk does not exist or may not be read."
  [ -z "$disk" ] || disk=$(readlink -f "$disk")
  work=$(mktemp -d "${TMPDIR:-/tmp}/vmspool-try.XXXXXX")
  log=$work/install.log
  : >"$log"
  trap 'end_agent' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  need_packages
  need_node_modules
  instance=try-$$
  # The control socket goes with the rest, instead of leaving a folder in /run.
  mkdir -m 700 "$work/run"
  export VMSPOOL_RUNTIME_DIR="$work/run"

  if [ -z "$disk" ]; then
    say "Making a guest disk and exporting it the way VMware does: $work/export"
    make_export "$work/export"
    ls -l "$work/export"
    drop=$work/export/artifact-manifest.json
    source=$work/export/web-01-disk1.vmdk
    name=web-01
  else
    drop=$disk
    source=$disk
    name=$(basename "$disk")
    name=${name%.*}
  fi

  say "Starting an agent: vmspool agent $instance --root $work/spool"
  start_agent
  say "Dropping the job: vmspool submit --wait $drop"
  code=0
  "$vmspool" submit --wait --timeout 1h --instance "$instance" --root "$work/spool" "$drop" || code=$?

  say "vmspool status $name"
  "$vmspool" status --instance "$instance" --root "$work/spool" "$name" || :
  output=$work/spool/$instance/output
  if [ $code = 0 ]; then
    say "The result: $output/$name.result.json"
    cat "$output/$name.result.json"
    say "qemu-img info $output/$name.qcow2"
    qemu-img info "$output/$name.qcow2"
    say "qemu-img compare of the source with the output"
    compare "$source" "$output/$name.qcow2" || code=1
  else
    say "vmspool logs $name"
    "$vmspool" logs --instance "$instance" --root "$work/spool" "$name" || :
    cat "$work/agent.log" >&2
  fi
  end_agent
  trap - EXIT

  [ $code = 0 ] || { echo "install.sh: the disk was not converted (exit code $code); everything is kept in $work." >&2; exit 1; }
  say "Done in $(($(date +%s) - started)) s. No process was left behind."
  cat <<TEXT
The results lie in $output; remove them with: rm -rf $work

What to do next:
  $vmspool doctor                    is this host ready for production, and if not, what to do
  $vmspool agent default             run an agent for good; clients drop manifests into its queue
  $vmspool submit MANIFEST --wait    convert an export of your own through it
  $vmspool convert DISK -o DIR       convert one disk, without any agent
  README.md and docs/ explain the rest.
TEXT
}

case ${1:-} in
  --try)
    [ $# -le 2 ] || { usage >&2; exit 2; }
    disk=${2:-}
    try
    ;;
  --help | -h) usage ;;
  '')
    usage >&2
    exit 2
    ;;
  *)
    echo "install.sh: \"$1\" is not an option of this version." >&2
    usage >&2
    exit 2
    ;;
esac
