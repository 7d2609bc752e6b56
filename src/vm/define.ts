/**
 * The define step of a conversion: its finished disks become a VM. The VM runs on names of its own for them, below its folder, so whatever becomes
 * of the answer later does not touch it. An update of an earlier definition leaves that one's disks where they are.
 */
import { chmod, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { type Domain, macOf, uuidOfVm } from '../domain/index.ts'
import { chooseAccelerator, type ChosenAccelerator } from './accelerator.ts'
import { type Action, runAction, seen, type VmParts } from './action.ts'
import { boot } from './boot.ts'
import { checkNetworks } from './create-networks.ts'
import { linkDisks } from './define-disks.ts'
import type { DefineResult, DefineSpec } from './define-types.ts'
import {
  forgetEarlier,
  keepEarlier,
  type Refused,
  refusal,
  running,
  setNvramAside,
  undoDefine,
} from './define-earlier.ts'
import { removeHalfMade, takesDirectIo } from './disk-files.ts'
import { definedDomainXml } from './domain.ts'
import { ownDomain } from './fence.ts'
import { checkMachine } from './firmware.ts'
import { isOff, stateOf } from './halt.ts'
import {
  type NicSpec,
  type VmDisk,
  VmError,
  type VmHooks,
  type VmOrder,
  type VmRecord,
  type VmResult,
} from './types.ts'

/**
 * Defines the VM, and starts it when that is wanted. A second attempt of the same job finds what the first has made; a failure leaves what was there
 * before. What is refused (a domain that is not ours, a VM that runs) is refused before anything is changed.
 * @throws VmError
 */
export async function defineVm(
  parts: VmParts,
  order: VmOrder,
  spec: DefineSpec,
  hooks: VmHooks,
): Promise<DefineResult> {
  let made: Omit<DefineResult, keyof VmResult> | undefined
  const run = { action: 'define', order, name: spec.name, hooks, first: 'admit', onFailure: undoDefine } as const
  const result = await runAction(parts, run, async (a) => {
    await a.phase('admit', 'looks whether the VM can be defined')
    const earlier = await parts.registry.get(spec.name)
    const mine = earlier?.order.job === order.job
    const domain = await a.ask(`to see whether the VM "${a.name}" is there`, async (s) => {
      const d = await ownDomain(s, { ...parts, name: a.name }, earlier)
      const state = d && (await stateOf(s, d.domain))
      await mayDefine(a, spec, { record: earlier, domain: d, running: state !== undefined && !isOff(state) })
      return d
    })
    const uuid = earlier?.uuid ?? uuidOfVm(parts.instance, a.name)
    const nics = nicsOf(spec.domain, uuid)
    await warnOfMacs(a, nics)
    const accelerator = await machineFor(a, spec, mine ? earlier.accelerator : spec.accelerator)
    await using promise = await room(a, spec, uuid)
    void promise

    if (earlier && !mine) await keepEarlier(a, earlier, domain)
    const folder = (mine && jobFolder(a, earlier)) || join(a.folder, `${order.job}-e${order.epoch}`)
    const planned = placed(spec, folder)
    const record = await a.begin((r) => entryOf(a, spec, { r, uuid, nics, disks: planned, accelerator }))

    await a.phase('disks', 'gives the VM its disks')
    await a.fence()
    for (const dir of [a.folder, folder]) {
      await mkdir(dir, { recursive: true, mode: 0o711 })
      await chmod(dir, 0o711) // whatever the umask: the hypervisor's user passes through
    }
    await removeHalfMade(folder)
    // nobody has started a guest on them yet
    const untouched = domain?.made?.job !== order.job
    const disks = await linkDisks(a, spec, planned, untouched)
    if (untouched) await setNvramAside(a)

    await a.phase('define', 'defines the domain')
    const domainNow = { ...spec.domain, nics, title: titleOf(spec) }
    const owner = { uuid, instance: parts.instance, dir: parts.dir, order, accelerator }
    const direct_io = await takesDirectIo(folder)
    let xml = definedDomainXml(named(domainNow), { ...owner, direct_io, name: a.name, disks: planned })
    const defined = await a.act(`to define the VM "${a.name}"`, async (s, d) => {
      const state = d && (await stateOf(s, d.domain))
      if (!d || !state || isOff(state)) {
        await s.control.domains.define(xml, ['validate'])
        return true
      }
      if (d.made?.job !== order.job) throw running(a.name, d.made?.job)
      // it runs as an earlier attempt of this job has defined it; only that this attempt has it now is new
      xml = withEpoch(d.xml, order)
      await s.control.domains.define(xml)
      return false
    })

    let started = false
    if (spec.start) {
      await a.phase('start', 'starts the guest')
      started = await boot(a, record)
    }
    const now = await seen(a, record)
    await forgetEarlier(a)
    const kept = mine ? [] : (earlier?.disks ?? []).map((d) => d.path)
    made = {
      xml,
      domain: {
        ...named(domainNow),
        uuid,
        name: a.name,
        disks: spec.domain.disks.map((d) => ({ ...d, path: planned.find((p) => p.id === d.id)!.path })),
      },
      defined,
      started,
      disks,
      kept,
      ...(spec.snapshot === undefined ? {} : { snapshot: spec.snapshot }),
    }
    return {
      summary: summaryOf(a, { spec, defined, started, accelerator, folder }),
      entry: (r) => ({ ...r, state: now.state, state_reason: now.state_reason, state_at: now.state_at }),
    }
  })
  return { ...result, ...made!, vm: result.vm! }
}

/** @throws VmError that says how to go on */
async function mayDefine(a: Action, spec: DefineSpec, there: Refused): Promise<void> {
  const host = await a.parts.registry.elsewhere(a.name)
  const why = refusal(a.name, a.order, spec.overwrite, { ...there, ...(host === undefined ? {} : { host }) })
  if (why) throw why
}

async function machineFor(a: Action, spec: DefineSpec, wanted: DefineSpec['accelerator']): Promise<ChosenAccelerator> {
  const d = spec.domain
  const { signal } = a.hooks
  const chosen = await a.ask(`to choose how the VM "${a.name}" runs`, async (s) => {
    const accelerator = await chooseAccelerator(s, wanted, { machine: d.machine, signal })
    await checkMachine(s, d, accelerator.type, signal)
    try {
      await checkNetworks(s, d.nics.map(specOf))
    } catch (e) {
      // a definition may name a network that is not there yet
      if (spec.start || !(e instanceof VmError && e.code === 'network-not-found')) throw e
      a.warn(`${e.message} The VM "${a.name}" was defined on it all the same, and cannot be started until it is there.`)
    }
    return accelerator
  })
  a.hooks.log('agent', `runs on ${chosen.type} because ${chosen.reason}\n`)
  return chosen
}

/** One that is only defined takes no room; a start asks then. */
async function room(a: Action, spec: DefineSpec, uuid: string): Promise<AsyncDisposable> {
  if (!spec.start) return { [Symbol.asyncDispose]: async () => {} }
  const { vcpus, memory_bytes } = spec.domain
  return a.ask(`to see whether the host has room for the VM "${a.name}"`, (s) =>
    a.parts.admission.admit({ uuid, name: a.name, vcpus, memory_bytes, disk_bytes: 0, path: a.parts.dir }, s),
  )
}

const specOf = (n: Domain['nics'][number]): NicSpec => ({
  model: 'virtio',
  ...(n.network.startsWith('bridge:') ? { bridge: n.network.slice('bridge:'.length) } : { network: n.network }),
})

/** A card without an address of its own gets one that stays the same when the VM is defined again. */
function nicsOf(d: Domain, uuid: string): Domain['nics'] {
  const taken = new Set(d.nics.flatMap((n) => (n.mac === undefined ? [] : [n.mac])))
  return d.nics.map((n, i) => {
    if (n.mac !== undefined) return n
    const mac = macOf(uuid, i, taken)
    taken.add(mac)
    return { ...n, mac }
  })
}

async function warnOfMacs(a: Action, nics: Domain['nics']): Promise<void> {
  for (const other of await a.parts.registry.all()) {
    const same = other.name === a.name ? undefined : other.nics.find((n) => nics.some((m) => m.mac === n.mac))
    if (same)
      a.warn(
        `The VM "${other.name}" has a network card with the same MAC address (${same.mac}): on one network only one of the two can run.`,
      )
  }
}

/** Where an earlier attempt of this job has put the disks. */
function jobFolder(a: Action, r: VmRecord): string | undefined {
  const path = r.disks[0]?.path
  const prefix = join(a.folder, `${a.order.job}-e`)
  return path?.startsWith(prefix) ? join(path, '..') : undefined
}

function placed(spec: DefineSpec, folder: string): VmDisk[] {
  return spec.domain.disks.map((place) => {
    const from = spec.disks.find((d) => d.id === place.id)
    if (!from) throw new TypeError(`The disk ${place.id} of ${spec.name} was not made.`)
    return {
      id: from.id,
      path: join(folder, `${from.id}.${from.format}`),
      format: from.format,
      size_bytes: from.size_bytes,
      bus: place.bus,
      target: place.target,
    }
  })
}

function entryOf(
  a: Action,
  spec: DefineSpec,
  o: {
    r: VmRecord | undefined
    uuid: string
    nics: Domain['nics']
    disks: VmDisk[]
    accelerator: ChosenAccelerator
  },
): VmRecord {
  const now = new Date().toISOString()
  const d = spec.domain
  return {
    uuid: o.uuid,
    name: a.name,
    host: a.parts.host,
    uri: a.parts.link.uri,
    desired: spec.start ? 'running' : 'stopped',
    order: { ...a.order },
    origin: 'convert',
    vcpus: d.vcpus,
    memory_bytes: d.memory_bytes,
    disks: o.disks,
    nics: o.nics.map((n) => {
      const { model: _, ...place } = specOf(n)
      return { mac: n.mac!, ...place, model: n.model }
    }),
    firmware: d.firmware,
    machine: d.machine,
    accelerator: o.accelerator.type,
    autostart: spec.autostart,
    from_job: a.order.job,
    metadata: o.r?.metadata ?? {},
    state: o.r?.state ?? 'missing',
    state_at: now,
    addresses: [],
    created_at: o.r?.created_at ?? now,
    updated_at: now,
  }
}

/** The name at the source, where it is another one. */
function titleOf(spec: DefineSpec): string | undefined {
  return spec.domain.title ?? (spec.domain.name === spec.name ? undefined : spec.domain.name)
}

function named(d: Omit<Domain, 'title'> & { title?: string | undefined }): Domain {
  const { title, ...rest } = d
  return title === undefined ? rest : { ...rest, title }
}

/** libvirt writes attributes in single quotes. */
function withEpoch(xml: string, order: VmOrder): string {
  return xml.replace(/(<(?:\w+:)?job\b[^>]*\bepoch=)(["'])\d+\2/, `$1$2${order.epoch}$2`)
}

function summaryOf(
  a: Action,
  o: { spec: DefineSpec; defined: boolean; started: boolean; accelerator: ChosenAccelerator; folder: string },
): string {
  const n = o.spec.disks.length
  const what = o.defined ? 'was defined' : 'was defined and started by an earlier attempt of this job'
  const then = o.started ? ' and started' : ''
  return `The VM "${a.name}" ${what}${then} (${o.accelerator.type}), on ${n} disk${n === 1 ? '' : 's'} in ${o.folder}.`
}
