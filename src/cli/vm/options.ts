/** What `vmspool vm create` takes, and the manifest that it makes of it. */
import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { parseSize, sizeHint } from '../../text/units.ts'
import { CliError, exitCodes } from '../errors.ts'

export interface CreateOptions {
  name?: string
  template?: string
  image?: string
  imageFormat?: 'qcow2' | 'raw'
  fromJob?: string
  fullCopy?: boolean
  overlay?: boolean
  vcpu?: number
  ram?: string
  disk?: string
  diskExtra?: Disk[]
  network?: Nic[] | false
  uefi?: boolean
  secureBoot?: boolean
  machine?: string
  accelerator?: string
  cloudInit?: boolean
  user?: string
  sshKey?: string[]
  passwordHash?: string
  hostname?: string
  package?: string[]
  run?: string[]
  userData?: string
  address?: string
  gateway?: string
  nameserver?: string[]
  autostart?: boolean
  start?: boolean
  waitAddress?: string | boolean
  metadata?: Record<string, string>
  onHost?: string
  after?: string[]
}

interface Disk {
  size?: string
  path?: string
  format?: string
}
type Nic = string | { network?: string; bridge?: string; mac?: string; model?: string }

const many = <T>(parse: (text: string) => T) => {
  return (text: string, before: T[] | undefined): T[] => [...(before ?? []), parse(text)]
}
const asIs = (text: string): string => text

export function createOptions(command: Command): Command {
  return command
    .option('--name <name>', 'the name, as ghostctl takes it')
    .option('-t, --template <template>', 'boot disk from this template or image (vmspool image list)')
    .option('--image <file>', '… or from this file, qcow2 or raw, on the host of the agent')
    .addOption(new Option('--image-format <format>', 'what it is, when it cannot be told').choices(['qcow2', 'raw']))
    .option('--from-job <job>', '… or from the result of this conversion (id or answer name), which is waited for')
    .option('--full-copy', 'a disk of its own (default of --image)')
    .option('--overlay', 'a thin disk on top of the image (default of the others)')
    .option('--vcpu <n>', 'virtual processors (default: 2)', parsePositive)
    .addOption(new Option('--vcpus <n>', 'the same').argParser(parsePositive).hideHelp())
    .option('--ram <size>', 'memory: 4, 4G, 512M; a bare number is GiB (default: 4)', parseGib)
    .addOption(new Option('--memory <size>', 'the same').argParser(parseGib).hideHelp())
    .option(
      '--disk <size>',
      'boot disk: 50, 50G; a bare number is GiB (default: 50 of a template, else as large as the image)',
      parseGib,
    )
    .option('--disk-extra <disk>', 'one more disk: its size, or a file that is copied; ,format=raw', many(parseDisk))
    .option('--network <net>', 'a card in this network, or bridge:NAME; ,mac=… ,model=…; repeatable', many(parseNic))
    .option('--no-network', 'no card at all')
    .option('--uefi', 'UEFI instead of a BIOS')
    .option('--secure-boot', 'with --uefi: secure boot')
    .addOption(new Option('--machine <machine>', 'default: q35').choices(['q35', 'pc']))
    .addOption(new Option('--accelerator <a>', 'default: as configured').choices(['auto', 'kvm', 'qemu']))
    .option('--user <name>', 'cloud-init: the account the keys are for')
    .option('--ssh-key <key>', 'cloud-init: a public key, or a file of them; repeatable', many(asIs))
    .option('--password-hash <hash>', 'cloud-init: as mkpasswd prints it')
    .option('--hostname <name>', 'cloud-init: default: the name')
    .option('--package <name>', 'cloud-init: installed at the first boot; repeatable', many(asIs))
    .option('--run <command>', 'cloud-init: run at the first boot; repeatable', many(asIs))
    .option('--user-data <file>', 'cloud-init: a whole user-data instead')
    .option('--address <cidr>', 'cloud-init: a fixed address for the first card, such as 192.0.2.10/24')
    .option('--gateway <ip>', 'cloud-init: with --address')
    .option('--nameserver <ip>', 'cloud-init: with --address; repeatable', many(asIs))
    .option('--no-cloud-init', 'no cloud-init seed')
    .option('--autostart', 'start it with the host')
    .option('--no-autostart', 'do not (default: as configured)')
    .option('--no-start', 'make it, and leave it off')
    .option('--wait-address <duration>', 'how long the job waits for an address (default: as configured)')
    .option('--no-wait-address', 'do not wait for one')
    .option('--metadata <k=v>', 'kept with the VM; repeatable', parsePair)
    .option('--after <job>', 'when this job has succeeded; repeatable', many(asIs))
    .option('--on-host <host>', 'on this host, or one with this label')
}

/** The `vm` of the manifest, and what stands beside it. Files that are named here are read with the caller's rights. */
export async function createFields(o: CreateOptions): Promise<Record<string, unknown>> {
  const cloud_init = await cloudInit(o)
  const vm = given({
    template: o.template,
    image: o.image === undefined ? undefined : resolve(o.image),
    image_format: o.imageFormat,
    from_job: o.fromJob,
    copy: o.fullCopy ? 'full' : o.overlay ? 'overlay' : undefined,
    vcpus: o.vcpu,
    memory: o.ram,
    disk: o.disk,
    disks: o.diskExtra,
    networks: o.network === false ? [] : o.network,
    firmware: o.uefi || o.secureBoot ? 'uefi' : undefined,
    secure_boot: o.secureBoot,
    machine: o.machine,
    accelerator: o.accelerator,
    cloud_init,
    autostart: o.autostart,
    start: o.start === false ? false : undefined,
    metadata: o.metadata,
  })
  return given({
    vm,
    wait_for_address: o.waitAddress === true ? undefined : o.waitAddress,
    after: o.after,
    hosts: o.onHost,
  })
}

async function cloudInit(o: CreateOptions): Promise<Record<string, unknown> | false | undefined> {
  const network = given({ address: o.address, gateway: o.gateway, nameservers: o.nameserver })
  const ci = given({
    user: o.user,
    ssh_keys: o.sshKey && (await Promise.all(o.sshKey.map(keysOf))).flat(),
    password_hash: o.passwordHash,
    hostname: o.hostname,
    packages: o.package,
    run: o.run,
    user_data: o.userData === undefined ? undefined : await readFile(o.userData, 'utf8'),
    network: Object.keys(network).length === 0 ? undefined : network,
  })
  const asked = Object.keys(ci).length > 0
  if (o.cloudInit !== false) return asked ? ci : undefined
  if (asked)
    throw new CliError(
      exitCodes.usage,
      `--no-cloud-init and what cloud-init should do (${Object.keys(ci).join(', ')}) contradict each other.`,
    )
  return false
}

/** A key as it is, or the keys of a file. */
async function keysOf(key: string): Promise<string[]> {
  const text = /^(?:ssh-|ecdsa-|sk-)\S+ /.test(key) ? key : await readFile(key, 'utf8')
  if (text.includes('PRIVATE KEY'))
    throw new CliError(exitCodes.usage, `${key} is a private key, which no VM may have. Its public key is ${key}.pub.`)
  const keys = text
    .split('\n')
    .map((l) => l.trim())
    .filter((l) => l !== '' && !l.startsWith('#'))
  // options may stand in front of the kind, as in authorized_keys
  const odd = keys.find((k) => !/(?:^|\s)(?:ssh-|ecdsa-|sk-)\S+\s+[A-Za-z0-9+/=]{16,}/.test(k))
  if (keys.length === 0 || odd !== undefined)
    throw new CliError(
      exitCodes.usage,
      `${key} ${odd === undefined ? 'holds no SSH key' : 'holds what is no SSH key'}. Name a public one, such as ~/.ssh/id_ed25519.pub.`,
    )
  return keys
}

function given(values: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([, v]) => v !== undefined))
}

function parsePositive(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError(`"${text}" is no whole number above 0.`)
  return Number(text)
}

/** Ghost's numbers are GiB; what has a unit is what it says. */
function parseGib(text: string): string {
  const size = /^\d+(\.\d+)?$/.test(text.trim()) ? `${text.trim()}G` : text.trim()
  if (!parseSize(size)) throw new InvalidArgumentError(`"${text}" is no size. Write a number of GiB, or ${sizeHint}.`)
  return size
}

/** "20G", "20", "/data.qcow2", each with ",format=raw" behind it */
function parseDisk(text: string): Disk {
  const [what = '', ...rest] = text.split(',')
  const more = pairs(rest, ['format'])
  const size = /^\d+(\.\d+)?$/.test(what) ? `${what}G` : what
  if (parseSize(size)) return { size, ...more }
  if (what.includes('/') || what.includes('.')) return { path: resolve(what), ...more }
  throw new InvalidArgumentError(`"${what}" is neither a size such as 20G nor the path of a disk.`)
}

/** "default", "bridge:br0", "default,mac=52:54:00:00:00:01,model=e1000" */
function parseNic(text: string): Nic {
  const [where = '', ...rest] = text.split(',')
  const more = pairs(rest, ['mac', 'model'])
  if (where === '') throw new InvalidArgumentError(`"${text}" names no network.`)
  const bridge = where.startsWith('bridge:') ? where.slice('bridge:'.length) : undefined
  if (bridge !== undefined) return { bridge, ...more }
  return Object.keys(more).length === 0 ? where : { network: where, ...more }
}

function pairs(parts: readonly string[], keys: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    parts.map((p) => {
      const [key = '', value] = p.split(/=(.*)/s)
      if (!keys.includes(key) || !value)
        throw new InvalidArgumentError(`"${p}" is not ${keys.map((k) => `${k}=…`).join(' or ')}.`)
      return [key, value]
    }),
  )
}

function parsePair(text: string, before: Record<string, string> = {}): Record<string, string> {
  const [key = '', value] = text.split(/=(.*)/s)
  if (key === '' || value === undefined) throw new InvalidArgumentError(`"${text}" is not KEY=VALUE.`)
  return { ...before, [key]: value }
}
