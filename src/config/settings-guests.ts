import { bool, choice, duration, fraction, networkMap, path, size, templateMap, text, whole } from './readers.ts'
import { day, live, poolLater, years, type Setting, set } from './setting.ts'
import type { Key, ValueOf } from './types.ts'

type GuestKey = Extract<Key, `libvirt.${string}` | `vm.${string}` | `images.${string}` | 'templates' | `fix.${string}`>

/** Of VMs, and of what is changed inside guests. */
export const guestSettings: { [K in GuestKey]: Setting<ValueOf<K>> } = {
  'libvirt.enabled': set(bool, false, 'Define a VM on the converted disks, when the manifest does not say.', live),
  'libvirt.uri': set(text, 'qemu:///system', 'Which libvirt.'),
  'libvirt.bridge': set(
    text,
    'virbr0',
    'Bridge of network cards that libvirt.networks does not name; virbr0, the bridge of the network "default", means that network.',
    live,
  ),
  'libvirt.networks': set(
    networkMap,
    {},
    'Networks at the source → libvirt networks, or "bridge:NAME": {"VM Network": "default", "DMZ": "bridge:br1"}.',
    live,
  ),
  'libvirt.pool': set(text, 'default', 'Storage pool for disks of VMs, which lie in folders of their own.', poolLater),
  'libvirt.autostart': set(bool, false, 'Start defined VMs with the host, when the manifest does not say.', live),
  'libvirt.emit_domain_xml': set(bool, true, 'Write <name>.xml, the VM for libvirt, beside the disk.', live),

  'vm.dir': set<string>(
    path,
    undefined,
    'Disks, seeds and the registry of the VMs. Default: <output>/vms. On a shared spool: a local folder that is the same on no two hosts.',
  ),
  'vm.network': set(
    text,
    'default',
    'Network of a VM whose manifest names none; "bridge:NAME" is a bridge of the host.',
    live,
  ),
  'vm.accelerator': set(
    choice(['auto', 'kvm', 'qemu'], { tcg: 'qemu' }),
    'auto',
    'auto: KVM where it really works, else emulation (qemu).',
    live,
  ),
  'vm.address_timeout': set(duration(0, day), '2m', 'How long a started VM may take to get an address.', live),
  'vm.stop_grace': set(duration(0, day), '90s', 'How long a guest may take to stop before the plug is pulled.', live),
  'vm.limits.vcpus': set(whole(1, 512), 32, 'Most virtual processors of one VM.', live),
  'vm.limits.min_memory': set(size(2 ** 20, 2 ** 46), '1G', 'Least memory of one VM.', live),
  'vm.limits.memory': set(size(2 ** 20, 2 ** 46), '128G', 'Most memory of one VM.', live),
  'vm.limits.min_disk': set(size(2 ** 20, 2 ** 46), '10G', 'Smallest disk of a VM that is made from a template.', live),
  'vm.limits.disk': set(size(2 ** 20, 2 ** 46), '1000G', 'Largest disk that may be asked for.', live),
  'vm.cpu_overcommit': set(
    fraction(0.1, 100),
    4,
    'Virtual processors of all VMs together for each real one that is not reserved.',
    live,
  ),
  'vm.reserved.vcpus': set(whole(0, 4096), 0, 'Processors of the host that VMs do not get.', live),
  'vm.reserved.memory': set(size(0, 2 ** 46), '1G', 'Memory of the host that VMs do not get.', live),
  'vm.reserved.disk': set(size(0, 2 ** 53 - 1), '10G', 'Free space that disks of VMs leave when they are full.', live),

  'images.dir': set<string>(
    path,
    undefined,
    'Cache of template images. Default: <vm.dir>/.images, where VMs need no copies of them. One folder may serve several instances and hosts.',
  ),
  'images.max_bytes': set(size(0, 2 ** 53 - 1), '100G', 'The cache is kept below this; 0: no limit.', live),
  'images.max_age': set(duration(0, years), '90d', 'Images not used for this long are removed; 0: never.', live),
  templates: set(
    templateMap,
    {},
    'Images by name: {debian-12: {url: https://…, checksum: "sha512:…", format: qcow2}}, or with path: a file of this host.',
    live,
  ),

  'fix.fstab_mode': set(
    choice(['stabilize-all', 'bypath-only', 'noop']),
    'stabilize-all',
    "What is done to the guest's fstab when the manifest does not say; virt-v2v renames what has to be renamed, whatever stands here.",
    live,
  ),
  'fix.regen_initramfs': set(
    bool,
    true,
    'Rebuild the initramfs of the guest when the manifest does not say; virt-v2v always does.',
    live,
  ),
  'fix.update_grub': set(
    bool,
    true,
    'Update the boot loader of the guest when the manifest does not say; virt-v2v does where it is needed.',
    live,
  ),
  'fix.unavailable': set(
    choice(['skip', 'fail']),
    'skip',
    'Fixing is asked for and cannot be done here (no virt-v2v, no kernel for it, no guest on the disks): convert the disks as they are and warn, or fail.',
    live,
  ),
  'fix.accelerator': set(
    choice(['auto', 'kvm', 'tcg']),
    'auto',
    'What the appliance of libguestfs runs under; auto tries KVM first, tcg is emulation.',
    live,
  ),
  'fix.kernel': set<string>(
    path,
    undefined,
    'Kernel of the appliance (/…/boot/vmlinuz-VERSION), where the host has none in /boot that the agent may read.',
    live,
  ),
  'fix.modules': set<string>(
    path,
    undefined,
    'Folder of its modules; default: lib/modules/VERSION beside its boot folder.',
    live,
  ),
  'fix.appliance': set<string>(
    path,
    undefined,
    'An appliance made by libguestfs-make-fixed-appliance, instead of a kernel.',
    live,
  ),
  'fix.virt_v2v_in_place': set<string>(path, undefined, 'The program; default: from PATH or /usr/libexec.', live),
  'fix.tmp_dir': set<string>(
    path,
    undefined,
    'Where the appliance is built for each job (400 MB, removed at its end); default: TMPDIR, else /var/tmp.',
    live,
  ),
}
