import { isAbsolute } from 'node:path'
import { show } from '../text/diagnostic.ts'
import { parseSize } from '../text/units.ts'
import type { Say } from './prepare.ts'
import { vmNameProblem } from './vm-name.ts'

/*
 * What a schema cannot say of a VM job: one field against another, and fields that mean something only with one action. As in
 * beyond-schema.ts, nothing about types is taken for granted.
 */

type Fields = Record<string, unknown>
const isObject = (v: unknown): v is Fields => typeof v === 'object' && v !== null && !Array.isArray(v)

/** Which actions a field belongs to. */
const OF: Readonly<Record<string, readonly string[]>> = {
  wait_for_address: ['create', 'start', 'restart'],
  force: ['stop', 'restart', 'delete'],
  grace: ['stop', 'restart', 'delete'],
  keep_disks: ['delete'],
}

export function vmJob(root: Fields, o: { baseDir?: string }, say: Say): void {
  const { action, vm } = root
  if (typeof action !== 'string') return
  const name = root.name ?? root.vm_id
  if (root.name !== undefined && root.vm_id !== undefined && root.name !== root.vm_id)
    say('error', ['vm_id'], `name is ${show(root.name)} and vm_id is ${show(root.vm_id)}; both mean the VM. Keep one.`)
  if (name === undefined) say('error', [], `name is missing: which VM is it that "${action}" is about?`)
  for (const [key, actions] of Object.entries(OF))
    if (root[key] !== undefined && !actions.includes(action))
      say('warning', [key], `${key} means nothing to "${action}"; it belongs to ${list(actions)}.`, { at: 'key' })
  if (root.force === true && root.grace !== undefined)
    say('warning', ['grace'], 'grace is not used beside force: the plug is pulled at once.', { at: 'key' })
  if (action !== 'create') {
    if (vm !== undefined)
      say(
        'error',
        ['vm'],
        `vm says what a new VM is to be, and "${action}" changes nothing of one that exists. Leave it out; to have another VM, delete this one and create it anew.`,
        { at: 'key' },
      )
    return
  }
  const key = root.name === undefined ? 'vm_id' : 'name'
  const wrong = typeof name === 'string' ? vmNameProblem(name) : undefined
  if (wrong !== undefined) say('error', [key], `${key} ${wrong}`)
  if (vm === undefined) say('error', [], 'vm is missing: it says what the new VM is to be, and what it boots from.')
  if (!isObject(vm)) return
  bootSource(vm, say)
  amounts(vm, say)
  firmware(vm, say)
  for (const [key, path] of [
    ['image', vm.image],
    ['cloud_init.user_data_file', isObject(vm.cloud_init) ? vm.cloud_init.user_data_file : undefined],
  ] as const)
    absolute(['vm', ...key.split('.')], path, o, say)
  if (Array.isArray(vm.disks)) disks(vm.disks, o, say)
  if (Array.isArray(vm.networks)) cards(vm.networks, say)
  if (isObject(vm.cloud_init)) cloudInit(vm.cloud_init, say)
  if (vm.start === false && root.wait_for_address !== undefined && root.wait_for_address !== false)
    say(
      'warning',
      ['wait_for_address'],
      'wait_for_address means nothing when the VM is not started (vm.start is false).',
    )
}

function bootSource(vm: Fields, say: Say): void {
  const given = (['template', 'image', 'from_job'] as const).filter((k) => vm[k] !== undefined)
  if (given.length === 0)
    say(
      'error',
      ['vm'],
      'vm names nothing to boot from: it needs one of template (an image of the cache), image (a file) and from_job (the result of a conversion).',
    )
  if (given.length > 1)
    say(
      'error',
      ['vm', given[1]!],
      `vm.${given[1]} stands beside vm.${given[0]}; the boot disk can come from one of them only.`,
    )
  if (vm.image_format !== undefined && vm.image === undefined)
    say('warning', ['vm', 'image_format'], 'vm.image_format means nothing without vm.image.', { at: 'key' })
}

/** Ghost's names beside ours: they may stand together when they say the same. */
function amounts(vm: Fields, say: Say): void {
  const differ = (ours: string, ghosts: string, a: unknown, b: unknown): void => {
    if (a === undefined || b === undefined || a === b) return
    say(
      'error',
      ['vm', ghosts],
      `vm.${ours} is ${show(vm[ours])} and vm.${ghosts} is ${show(vm[ghosts])}; both mean the same. Keep one.`,
    )
  }
  differ('vcpus', 'vcpu', vm.vcpus, vm.vcpu)
  differ('memory', 'ram_gb', bytesOf(vm.memory), gib(vm.ram_gb))
  differ('disk', 'disk_gb', bytesOf(vm.disk), gib(vm.disk_gb))
}

function firmware(vm: Fields, say: Say): void {
  if (vm.secure_boot !== true) return
  if (vm.firmware !== 'uefi')
    say('error', ['vm', 'secure_boot'], 'vm.secure_boot needs "firmware": "uefi": a BIOS checks no signatures.')
  if (vm.machine === 'pc')
    say('error', ['vm', 'machine'], 'vm.machine is "pc", which cannot do secure boot. Leave it out.')
}

function disks(all: unknown[], o: { baseDir?: string }, say: Say): void {
  all.forEach((d, i) => {
    if (!isObject(d)) return
    if (d.size === undefined && d.size_bytes === undefined && d.path === undefined)
      say(
        'error',
        ['vm', 'disks', i],
        `vm.disks[${i}] has neither size (of an empty disk) nor path (of one that is copied).`,
      )
    absolute(['vm', 'disks', i, 'path'], d.path, o, say)
  })
}

function cards(all: unknown[], say: Say): void {
  const seen = new Map<string, number>()
  all.forEach((n, i) => {
    if (!isObject(n)) return
    if (n.network !== undefined && n.bridge !== undefined)
      say(
        'error',
        ['vm', 'networks', i, 'bridge'],
        `vm.networks[${i}] has both network and bridge; a card is connected to one of them.`,
      )
    if (typeof n.mac !== 'string') return
    const mac = n.mac.toLowerCase()
    const first = seen.get(mac)
    if (first === undefined) seen.set(mac, i)
    else
      say(
        'error',
        ['vm', 'networks', i, 'mac'],
        `vm.networks[${i}].mac is ${n.mac}, which vm.networks[${first}] has already.`,
      )
  })
}

const REPLACED = ['user', 'ssh_keys', 'password_hash', 'packages', 'run']

function cloudInit(ci: Fields, say: Say): void {
  const whole =
    ci.user_data !== undefined ? 'user_data' : ci.user_data_file !== undefined ? 'user_data_file' : undefined
  if (ci.user_data !== undefined && ci.user_data_file !== undefined)
    say(
      'error',
      ['vm', 'cloud_init', 'user_data_file'],
      'vm.cloud_init has both user_data and user_data_file. Keep one.',
    )
  const beside = REPLACED.filter((k) => ci[k] !== undefined)
  if (whole !== undefined && beside.length > 0)
    say(
      'error',
      ['vm', 'cloud_init', beside[0]!],
      `vm.cloud_init.${whole} is the whole user-data, so ${list(beside, 'and')} would be lost. Write ${beside.length === 1 ? 'it' : 'them'} into the user-data.`,
    )
  const { network } = ci
  if (!isObject(network)) return
  const fields = ['address', 'gateway', 'nameservers'].filter((k) => network[k] !== undefined)
  if (network.config !== undefined && fields.length > 0)
    say(
      'error',
      ['vm', 'cloud_init', 'network', fields[0]!],
      `vm.cloud_init.network.config is the whole network-config, so ${list(fields, 'and')} would be lost.`,
    )
  if (network.gateway !== undefined && network.address === undefined && network.config === undefined)
    say(
      'error',
      ['vm', 'cloud_init', 'network', 'gateway'],
      'vm.cloud_init.network has a gateway and no address: with DHCP the gateway comes from there.',
    )
}

function absolute(path: (string | number)[], value: unknown, o: { baseDir?: string }, say: Say): void {
  if (typeof value !== 'string' || value === '' || isAbsolute(value) || o.baseDir !== undefined) return
  const where = path.reduce<string>((t, p) => (typeof p === 'number' ? `${t}[${p}]` : t === '' ? p : `${t}.${p}`), '')
  say(
    'error',
    path,
    `${where} is ${show(value)}; it must be an absolute path: a manifest in a queue has no folder of its own to start from.`,
  )
}

function bytesOf(v: unknown): number | undefined {
  return typeof v === 'string' || typeof v === 'number' ? (parseSize(v) ?? undefined) : undefined
}

const gib = (v: unknown): number | undefined => (typeof v === 'number' ? Math.round(v * 2 ** 30) : undefined)

function list(words: readonly string[], joint = 'or'): string {
  return words.length < 2 ? words.join('') : `${words.slice(0, -1).join(', ')} ${joint} ${words.at(-1)}`
}
