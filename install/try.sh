#!/bin/sh
# install.sh --try: converts one disk through a private spool, ends everything again.

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
  if [ -n "$disk" ]; then need_packages; else need_packages mke2fs=e2fsprogs; fi
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
