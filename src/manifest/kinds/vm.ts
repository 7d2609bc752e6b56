import { isIP } from 'node:net'
import { z } from 'zod'
import { answerName, common } from './common.ts'
import type { Normalised } from './convert.ts'
import { count, duration, filePath, hostName, size } from './parts.ts'

/*
 * Ghost Agent's VM work as manifests (reference: contracts.md B1). Its names for amounts (vcpu, ram_gb, disk_gb) are taken beside ours. What
 * the host allows at most stands in the configuration (`vm.limits`) and is checked when the job runs; here is what no host could do.
 */

const mac = z.string().regex(/^[0-9A-Fa-f][02468ACEace](?::[0-9A-Fa-f]{2}){5}$/, {
  error: 'must be the MAC address of one card, such as "52:54:00:12:34:56"',
})
/** a name that libvirt and the kernel both take */
const networkName = z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/, {
  error: 'must be the name of a network: letters, digits, "_", "." and "-"',
})
const bridgeName = z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$/, {
  error: 'must be the name of a bridge of the host, at most 15 characters',
})
const oneLine = (max: number) =>
  z
    .string()
    .min(1)
    .max(max)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
    .regex(/^[^\u0000-\u001f\u007f]*$/, { error: 'must be one line of text' })
const address = z.string().refine((a) => isIP(a) !== 0, { error: 'must be an IP address' })
const withPrefix = z.string().refine(
  (a) => {
    const [ip, bits, ...more] = a.split('/')
    const kind = isIP(ip!)
    return more.length === 0 && kind !== 0 && /^\d{1,3}$/.test(bits ?? '') && Number(bits) <= (kind === 4 ? 32 : 128)
  },
  { error: 'must be an address with its prefix, such as "192.0.2.10/24"' },
)

const disk = z
  .looseObject({
    size: size.optional(),
    size_bytes: count().optional().meta({ description: 'Set by the agent: `size` in bytes.' }),
    path: filePath.optional().meta({ description: 'A disk that exists, which is copied; else the disk is empty.' }),
    format: z.enum(['qcow2', 'raw']).optional().meta({ description: 'Of the new disk; default qcow2.' }),
  })
  .meta({ description: 'A further disk.' })

const nic = z
  .looseObject({
    network: networkName.optional().meta({ description: "One of libvirt's networks." }),
    bridge: bridgeName.optional().meta({ description: 'A bridge of the host, instead of a network.' }),
    mac: mac.optional(),
    model: z.enum(['virtio', 'e1000e', 'e1000', 'rtl8139']).optional().meta({ description: 'Default virtio.' }),
  })
  .meta({ description: 'A network card.' })

const cloudInit = z
  .looseObject({
    user: z
      .string()
      .regex(/^[a-z_][a-z0-9_-]{0,31}$/, { error: 'must be the name of a Linux account' })
      .optional()
      .meta({ description: "Who the keys are for; default: the image's own user." }),
    ssh_keys: z.array(oneLine(16_384)).max(64).optional(),
    password_hash: oneLine(512)
      .regex(/^\$/, { error: 'must be a hash as crypt(3) makes it, never the password itself' })
      .optional(),
    hostname: hostName.optional().meta({ description: 'Default: the name of the VM.' }),
    packages: z.array(oneLine(256)).max(256).optional(),
    run: z
      .array(z.union([z.string().max(65_536), z.array(z.string().max(65_536)).min(1)]))
      .max(256)
      .optional()
      .meta({ description: 'Commands of the first boot (runcmd).' }),
    network: z
      .looseObject({
        address: withPrefix.optional(),
        gateway: address.optional(),
        nameservers: z.array(address).max(8).optional(),
        config: z.record(z.string(), z.unknown()).optional().meta({
          description: 'A whole network-config, version 1 or 2, as it is; instead of the other fields.',
        }),
      })
      .optional()
      .meta({ description: 'Of the first card; default: DHCP on all.' }),
    user_data: z
      .string()
      .max(524_288)
      .optional()
      .meta({ description: 'A whole user-data, as it is; instead of user, ssh_keys, packages and run.' }),
    user_data_file: filePath.optional().meta({ description: 'The same from a file that the submitter may read.' }),
    meta_data: z.record(z.string(), z.unknown()).optional().meta({ description: 'Added to meta-data.' }),
  })
  .meta({ description: 'What cloud-init does at the first boot (a NoCloud seed).' })

const vm = z.looseObject({
  template: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/)
    .optional()
    .meta({ description: 'The boot disk comes from this image (`templates:` in the configuration, `vmspool image`).' }),
  image: filePath.optional().meta({ description: '… or from this file, qcow2 or raw, on the host of the agent.' }),
  image_format: z.enum(['qcow2', 'raw']).optional(),
  from_job: z
    .string()
    .min(1)
    .optional()
    .meta({ description: '… or from the result of this conversion: its id, or its answer name. It is waited for.' }),
  copy: z.enum(['overlay', 'full']).optional().meta({
    description:
      'overlay: a thin disk on top of the image; full: a disk of its own. Default: overlay, full for `image`.',
  }),
  vcpus: z.int().min(1).max(512).optional().meta({ description: 'Default 2.' }),
  vcpu: z.int().min(1).max(512).optional().meta({ description: "Ghost's name for vcpus." }),
  memory: size.optional().meta({ description: 'Bytes, or text such as "2G"; default 4G.' }),
  ram_gb: z.number().gt(0).max(65_536).optional().meta({ description: "Ghost's: memory in GiB." }),
  memory_bytes: count().optional().meta({ description: 'Set by the agent: `memory` in bytes.' }),
  disk: size
    .optional()
    .meta({ description: 'Size of the boot disk; default: 50G from a template, else as large as the image.' }),
  disk_gb: z.number().gt(0).max(1_048_576).optional().meta({ description: "Ghost's: disk in GiB." }),
  disk_bytes: count().optional().meta({ description: 'Set by the agent: `disk` in bytes.' }),
  disks: z.array(disk).max(24).optional(),
  networks: z
    .array(z.union([networkName, nic]))
    .max(16)
    .optional()
    .meta({ description: 'Network cards; default: one on the network of the configuration (`vm.network`). []: none.' }),
  firmware: z.enum(['bios', 'uefi']).optional().meta({ description: 'Default bios.' }),
  secure_boot: z.boolean().optional().meta({ description: 'Only with uefi; default false.' }),
  machine: z.enum(['q35', 'pc']).optional().meta({ description: 'Default q35.' }),
  accelerator: z
    .enum(['auto', 'kvm', 'qemu'])
    .optional()
    .meta({ description: 'qemu is emulation; default: as the agent is configured (`vm.accelerator`).' }),
  cloud_init: z
    .union([cloudInit, z.literal(false)])
    .optional()
    .meta({
      description: 'Default: a seed with the host name alone for a template, none for other disks. false: none.',
    }),
  autostart: z
    .boolean()
    .optional()
    .meta({ description: 'Start it with the host; default: as configured (`libvirt.autostart`).' }),
  start: z.boolean().optional().meta({ description: 'Start it now; default true.' }),
  metadata: z.record(z.string(), z.string()).optional().meta({ description: 'Kept in the registry and shown.' }),
})

export const vmManifest = z
  .looseObject({
    kind: z.literal('vm'),
    manifest_version: z.literal('1.0').optional(),
    ...common,
    name: answerName
      .optional()
      .meta({ description: 'What the VM is called. The answer files are called <name>.vm.*.' }),
    vm_id: answerName.optional().meta({ description: "Ghost's name for `name`." }),
    action: z.enum(['create', 'start', 'stop', 'restart', 'delete']),
    vm: vm.optional().meta({ description: 'Of create: what it is to be.' }),
    wait_for_address: z
      .union([z.boolean(), duration], { error: 'must be true, false, or how long to wait, such as "5m"' })
      .optional()
      .meta({
        description:
          'Of create, start and restart: how long to wait for an address (true: `vm.address_timeout`; false or 0: not at all). None in that time is a warning.',
      }),
    wait_for_address_ms: count().optional().meta({ description: 'Set by the agent: it in milliseconds.' }),
    force: z.boolean().optional().meta({ description: 'Of stop, restart and delete: pull the plug, at once.' }),
    grace: duration.optional().meta({
      description:
        'Of stop, restart and delete: how long the guest may take before the plug is pulled (`vm.stop_grace`).',
    }),
    grace_ms: count().optional().meta({ description: 'Set by the agent: `grace` in milliseconds.' }),
    keep_disks: z.boolean().optional().meta({ description: 'Of delete: leave the disks in the folder of the VM.' }),
  })
  .meta({ title: 'vmspool manifest, kind vm: create, start, stop, restart, delete a VM' })

export type VmManifest = z.output<typeof vmManifest> & Normalised
