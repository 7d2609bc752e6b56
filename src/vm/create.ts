import { chmod, lstat, mkdir, readdir } from 'node:fs/promises'
import { uuidOfVm } from '../domain/index.ts'
import type { Submitter } from '../images/index.ts'
import { blockedWay, handOver, hypervisorUser, ownBases, prepareLog } from './access.ts'
import { chooseAccelerator, type ChosenAccelerator } from './accelerator.ts'
import { type Action, type Done, runAction, seen, type VmParts } from './action.ts'
import { awaitAddress, boot, promised } from './boot.ts'
import { fitTemplate, makeDisks, type PlannedDisk, planDisks, sizeDisks } from './create-disks.ts'
import { checkNetworks } from './create-networks.ts'
import { removeHalfMade, takesDirectIo } from './disk-files.ts'
import { nicsOf, placeVmDisks, vmDomainXml, vmFiles } from './domain.ts'
import { isLibvirtError } from '../libvirt/index.ts'
import { ownDomain } from './fence.ts'
import { checkMachine } from './firmware.ts'
import type { CachedImage } from './images/index.ts'
import { clearAway, rollBack } from './roll-back.ts'
import { writeSeed } from './seed.ts'
import { digestOf } from './spec-digest.ts'
import { type VmDisk, VmError, type VmHooks, type VmOrder, type VmRecord, type VmResult, type VmSpec } from './types.ts'

/** What a new VM is to be; found out when its turn has come, since it may need what only then is there. */
export interface LateSpec {
  name: string
  make(): Promise<VmSpec>
}

/**
 * Makes a VM. Asked for the same again, it finds the VM that is there; a job that was interrupted goes on where it was; a failure leaves nothing.
 * @throws VmError, and what `make` of a late spec throws
 */
export async function createVm(
  parts: VmParts,
  order: VmOrder,
  asked: VmSpec | LateSpec,
  hooks: VmHooks,
): Promise<VmResult> {
  const run = { action: 'create', order, name: asked.name, hooks, first: 'admit', onFailure: rollBack } as const
  return runAction(parts, run, async (a) => {
    const there = await parts.registry.get(asked.name)
    return create(a, there, 'make' in asked ? await specOf(a, there, asked) : asked)
  })
}

/** What an earlier attempt has made must go when there is no saying any more what it was to become. */
async function specOf(a: Action, there: VmRecord | undefined, late: LateSpec): Promise<VmSpec> {
  try {
    return await late.make()
  } catch (e) {
    if (there && there.order.job === a.order.job && !isMade(there)) await a.begin((r) => r ?? there)
    throw e
  }
}

async function create(a: Action, there: VmRecord | undefined, spec: VmSpec): Promise<Done> {
  const { parts, order } = a
  const asked = digestOf(spec)
  // one whose domain somebody has removed is made again on the disks that it has
  const lost = there !== undefined && isMade(there) && (await lacksDomain(a, there, asked))
  if (there && isMade(there) && !lost) return exists(a, there, asked)
  await checkPlace(a, there)
  const uuid = uuidOfVm(parts.instance, spec.name)
  const nics = nicsOf(spec.nics, uuid)
  await checkMacs(a, nics)
  const fresh = freshRecord(a, spec, { uuid, nics, asked })
  // what this job has made already stays; what another one, or a roll-back, left behind goes first
  const goesOn = (r: VmRecord): boolean => r.order.job === order.job && r.asked === asked && r.desired !== 'deleted'
  let record = await a.begin((r) => {
    if (!r) return fresh
    if (lost) return { ...r, desired: spec.start ? 'running' : 'stopped' }
    if (isMade(r))
      throw new VmError(`The VM "${spec.name}" was made by somebody else just now.`, { code: 'vm-conflict' })
    return goesOn(r) ? r : { ...r, desired: 'deleted' }
  })
  if (there && !lost && !goesOn(there)) {
    await clearAway(a, there)
    record = await a.change((r) => ({ ...fresh, order: r.order, doing: r.doing! }))
  }
  record = await make(a, spec, record)
  return finished(a, spec, record)
}

/** Its making is over, or it was never made here; a create that is unfinished, or failed and could not be rolled back, is not. */
function isMade(r: VmRecord): boolean {
  if (r.doing) return r.doing.action !== 'create'
  return !(r.last?.action === 'create' && r.last.outcome === 'failed')
}

async function lacksDomain(a: Action, r: VmRecord, asked: string): Promise<boolean> {
  if (r.asked !== asked || r.desired === 'deleted' || r.doing) return false
  return (await seen(a, r)).state === 'missing'
}

/** There is a VM of that name: the one that is asked for, or another. */
async function exists(a: Action, r: VmRecord, asked: string): Promise<Done> {
  const mine = r.last?.job === a.order.job && r.last.action === 'create'
  if (r.asked === asked && r.desired !== 'deleted') {
    const now = await seen(a, r)
    const where = now.addresses.length > 0 ? ` at ${now.addresses.join(', ')}` : ''
    return {
      summary: mine
        ? `The VM "${r.name}" was created by an earlier attempt of this job; it is ${now.state}${where}.`
        : `The VM "${r.name}" exists already, as it is asked for; it is ${now.state}${where}.`,
      ...(mine ? {} : { unchanged: true }),
      vm: now,
    }
  }
  const what =
    r.desired === 'deleted'
      ? 'which is being deleted, or was not deleted completely'
      : r.asked === undefined
        ? `which came from elsewhere (${r.origin})`
        : 'which was created with other settings'
  throw new VmError(`There is a VM "${r.name}" already, ${what}; it was not touched.`, {
    code: 'vm-conflict',
    hint: 'Delete it first (vmspool vm delete), or give the new one another name.',
    phase: 'admit',
  })
}

/** Nothing else may have the name: no domain, no folder, no other host. */
async function checkPlace(a: Action, there: VmRecord | undefined): Promise<void> {
  const { parts, name } = a
  const host = await parts.registry.elsewhere(name)
  if (host !== undefined) {
    throw new VmError(`The VM "${name}" lives on the host ${host}, which keeps its VMs in the same folder.`, {
      code: 'vm-conflict',
      hint: `Delete it there, or give every host a folder of its own (vm.dir, now ${parts.dir}).`,
    })
  }
  const domain = await a.ask(`to see whether there is a domain "${name}"`, (s) =>
    ownDomain(s, { ...parts, name }, there),
  )
  if (domain && !there) {
    throw new VmError(
      `libvirt has a domain "${name}" of this instance (made by job ${domain.made?.job ?? 'unknown'}) that the registry does not know; it was not touched.`,
      { code: 'vm-conflict', hint: 'Delete it first (vmspool vm delete), or take it up again with vmspool vm gc.' },
    )
  }
  const place = await lstat(a.folder).catch((e: NodeJS.ErrnoException) => {
    if (e.code === 'ENOENT') return undefined
    throw e
  })
  if (place && !place.isDirectory()) {
    throw new VmError(`${a.folder} is in the way: it is a link or a file, and the disks of the VM are to lie there.`, {
      code: 'vm-conflict',
      hint: 'Move it away, or give the VM another name.',
    })
  }
  const left = there || !place ? [] : await readdir(a.folder)
  if (left.length > 0) {
    throw new VmError(
      `The folder ${a.folder} is not empty (${left.slice(0, 3).join(', ')}${left.length > 3 ? ', …' : ''}), although there is no VM "${name}": perhaps it holds disks that were kept when it was deleted.`,
      { code: 'vm-conflict', hint: 'Move the folder away, or give the VM another name.' },
    )
  }
}

async function checkMacs(a: Action, nics: VmRecord['nics']): Promise<void> {
  const macs = new Set(nics.map((n) => n.mac))
  for (const other of await a.parts.registry.all()) {
    const same = other.name === a.name ? undefined : other.nics.find((n) => macs.has(n.mac))
    if (same) {
      throw new VmError(`The VM "${other.name}" has a network card with the MAC address ${same.mac} already.`, {
        code: 'vm-conflict',
        hint: 'Leave the address out, and one is chosen that nobody has.',
      })
    }
  }
}

function freshRecord(a: Action, spec: VmSpec, o: Pick<VmRecord, 'uuid' | 'nics'> & { asked: string }): VmRecord {
  const now = new Date().toISOString()
  return {
    uuid: o.uuid,
    name: spec.name,
    host: a.parts.host,
    uri: a.parts.link.uri,
    desired: spec.start ? 'running' : 'stopped',
    order: { ...a.order },
    asked: o.asked,
    origin: 'vm',
    vcpus: spec.vcpus,
    memory_bytes: spec.memory_bytes,
    disks: [],
    nics: o.nics,
    firmware: spec.firmware,
    machine: spec.machine,
    accelerator: 'qemu',
    autostart: spec.autostart,
    ...(spec.boot.from === 'template' ? { template: spec.boot.template } : {}),
    ...(spec.boot.from === 'job' ? { from_job: spec.boot.job } : {}),
    metadata: { ...spec.metadata },
    state: 'missing',
    state_at: now,
    addresses: [],
    created_at: now,
    updated_at: now,
  }
}

async function make(a: Action, spec: VmSpec, begun: VmRecord): Promise<VmRecord> {
  const { hooks, parts } = a
  const made = begun.disks.length > 0
  await a.phase('admit', 'looks whether the host has room')
  const { accelerator, hypervisor } = await a.ask(`to choose how the VM "${a.name}" runs`, async (s) => {
    // a guest sees its processor: what an earlier attempt has chosen stays
    const wanted = made ? begun.accelerator : spec.accelerator
    const chosen = await chooseAccelerator(s, wanted, { machine: spec.machine, signal: hooks.signal })
    await checkMachine(s, spec, chosen.type, hooks.signal)
    await checkNetworks(s, spec.nics)
    return { accelerator: chosen, hypervisor: await hypervisorUser(s, chosen.type, hooks.signal) }
  })
  hooks.log('agent', `runs on ${accelerator.type} because ${accelerator.reason}\n`)
  const plan = made ? [] : await sizeDisks(a, planDisks(spec, a.folder))
  // until the domain runs, and counts by itself
  await using _promise = await promised(a, begun, total(made ? begun.disks : plan))
  await a.fence()
  await removeHalfMade(a.folder)
  const disks = made ? begun.disks : await makeFiles(a, spec, { plan, ...(hypervisor && { hypervisor }) })

  const { seed, serial_log } = vmFiles(parts.dir, a.name)
  if (spec.cloud_init) {
    await a.phase('seed', 'writes the cloud-init seed')
    await a.fence()
    await writeSeed({
      path: seed,
      name: a.name,
      instance_id: begun.uuid,
      cloud_init: spec.cloud_init,
      macs: begun.nics.map((n) => n.mac),
      hooks,
    })
  }
  await prepareLog(serial_log)
  const bases = await ownBases(disks.flatMap((d) => (d.base ? [d.base.path] : [])))
  await handOver([...disks.map((d) => d.path), ...bases, ...(spec.cloud_init ? [seed] : [])], hypervisor)
  const blocked = hypervisor && (await blockedWay(a.folder, hypervisor))
  if (blocked) a.warn(blocked)

  await a.phase('define', 'defines the domain')
  const record = await a.change((r) => ({
    ...r,
    disks,
    accelerator: accelerator.type,
    ...(spec.cloud_init ? { seed } : {}),
  }))
  await define(a, spec, record, accelerator)
  if (spec.start) {
    await a.phase('start', 'starts the guest')
    await boot(a, record)
  }
  return record
}

const total = (disks: readonly { size_bytes?: number }[]): number => disks.reduce((n, d) => n + (d.size_bytes ?? 0), 0)

/** The disks, of which an earlier attempt may have made some. The registry learns of them when all are there. */
async function makeFiles(
  a: Action,
  spec: VmSpec,
  { plan, hypervisor }: { plan: PlannedDisk[]; hypervisor?: Submitter },
): Promise<VmDisk[]> {
  const image = await fetchImage(a, spec)
  await a.phase('disks', 'makes the disks')
  await a.fence()
  await mkdir(a.folder, { recursive: true, mode: 0o711 })
  await chmod(a.folder, 0o711) // whatever the umask: the hypervisor's user passes through
  const made = await makeDisks(a, image ? fitTemplate(plan, spec, image) : plan, {
    ...(image && { image }),
    ...(hypervisor && { hypervisor }),
  })
  return placeVmDisks(made)
}

async function fetchImage(a: Action, spec: VmSpec): Promise<CachedImage | undefined> {
  if (spec.boot.from !== 'template') return undefined
  await a.phase('image', `gets the image "${spec.boot.template}"`)
  const { hooks } = a
  return a.parts.images.get(spec.boot.template, {
    signal: hooks.signal,
    spawned: hooks.spawned,
    log: (text) => hooks.log('agent', `${text}\n`),
    progress: (done, total, more) =>
      a.say(more.doing, { bytes_done: done, ...(total === undefined ? {} : { bytes_total: total }) }),
  })
}

async function define(a: Action, spec: VmSpec, record: VmRecord, accelerator: ChosenAccelerator): Promise<void> {
  const { parts } = a
  const xml = vmDomainXml({
    spec,
    uuid: record.uuid,
    instance: parts.instance,
    dir: parts.dir,
    order: a.order,
    accelerator,
    direct_io: await takesDirectIo(a.folder),
    own_bases: await ownBases(record.disks.flatMap((d) => (d.base ? [d.base.path] : []))),
    ...(record.seed === undefined ? {} : { seed: record.seed }),
    disks: record.disks,
    nics: record.nics,
  })
  await a.act(`to define the VM "${a.name}"`, async (s) => {
    try {
      await s.control.domains.define(xml, ['validate'])
    } catch (e) {
      // somebody took the name just now
      if (isLibvirtError(e, 'operation_failed', 'domain_exists')) await ownDomain(s, { ...parts, name: a.name }, record)
      throw e
    }
  })
}

async function finished(a: Action, spec: VmSpec, record: VmRecord): Promise<Done> {
  let addresses: string[] = []
  if (spec.start) addresses = await awaitAddress(a, record, spec.address_timeout_ms)
  const now = await seen(a, record)
  const where = addresses.length > 0 ? ` Its address is ${addresses.join(', ')}.` : ''
  return {
    summary: `The VM "${a.name}" was created${spec.start ? ' and started' : '; it is not started'}.${where}`,
    entry: (r) => ({
      ...r,
      addresses,
      state: now.state,
      state_reason: now.state_reason,
      state_at: now.state_at,
    }),
  }
}
