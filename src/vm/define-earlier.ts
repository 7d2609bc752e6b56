/** What was there before a VM is defined: whether it may be replaced, and how it comes back when that fails. */
import { readdir, readFile, rename, rm, rmdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Action } from './action.ts'
import { exists, placeWhole } from './disk-files.ts'
import { vmFiles } from './domain.ts'
import { asVmError } from './errors.ts'
import type { OwnDomain } from './fence.ts'
import { halt, runs } from './halt.ts'
import { undefineDomain } from './remove.ts'
import { VmError, type VmOrder, type VmRecord } from './types.ts'

export interface Refused {
  record: VmRecord | undefined
  domain: OwnDomain | undefined
  running: boolean
  /** another one, which has a VM of that name in the same folder */
  host?: string
}

/** Why a definition may not be replaced; undefined when it may, or when there is none. A domain that is not ours never gets here. */
export function refusal(
  name: string,
  order: VmOrder,
  overwrite: boolean | undefined,
  there: Refused,
): VmError | undefined {
  const { record, domain, host } = there
  const conflict = (message: string, hint: string, transient = false): VmError =>
    new VmError(message, { code: 'vm-conflict', hint, transient, phase: 'admit' })
  const other = 'or give the new one another name (libvirt_integration.vm_name); then retry this job.'
  if (host !== undefined)
    return conflict(
      `The VM "${name}" lives on the host ${host}, which keeps its VMs in the same folder.`,
      `Give every host a folder of its own (vm.dir), ${other}`,
    )
  if (!record && !domain) return undefined
  if (record?.order.job === order.job || domain?.made?.job === order.job) return undefined
  if (record?.doing) {
    const { action, job, since } = record.doing
    return conflict(
      `Job ${job} is not done with the VM "${name}" (${action}, since ${since}).`,
      'Wait for it, or see what has become of it: vmspool vm status.',
      true,
    )
  }
  if (there.running) return running(name, record?.order.job ?? domain?.made?.job)
  if (overwrite === true) return undefined
  if (overwrite === false)
    return conflict(
      `There is a VM "${name}" already (from job ${record?.order.job ?? domain?.made?.job}), and overwrite_domain is false.`,
      `Leave overwrite_domain out or set it to true, delete that VM (vmspool vm delete ${name}), ${other}`,
    )
  if (record?.origin === 'convert') return undefined
  const whence = record
    ? { vm: 'a VM job', ghost: 'Ghost Agent', recovered: 'an earlier time' }[record.origin]
    : 'a job'
  return conflict(
    `There is a VM "${name}" already, which comes from ${whence} and not from a conversion; it was not touched.`,
    `Say "overwrite_domain": true in libvirt_integration if it is to be replaced (its disks are kept), ${other}`,
  )
}

export function running(name: string, job: string | undefined): VmError {
  return new VmError(
    `The VM "${name}" runs${job === undefined ? '' : ` (of job ${job})`}, and a VM is not redefined under its feet.`,
    {
      code: 'vm-running',
      hint: `Stop it (vmspool vm stop ${name}), then retry this job; or give the new VM another name (libvirt_integration.vm_name).`,
    },
  )
}

interface Earlier {
  record: VmRecord
  xml?: string
  /** it had written to its serial port */
  logged: boolean
}

const earlierFile = (a: Action): string => join(a.folder, `.before-${a.order.job}.json`)
/** Where the earlier VM's variables of its firmware wait: the new one's have the same name. */
const earlierNvram = (a: Action, r: VmRecord): string => join(a.folder, `nvram.${r.order.job}.fd`)

/** MUST be durable before the entry is this action's: afterwards nobody else knows how it was. */
export async function keepEarlier(a: Action, record: VmRecord, domain: OwnDomain | undefined): Promise<void> {
  const path = earlierFile(a)
  await rm(path, { force: true })
  const logged = await exists(vmFiles(a.parts.dir, a.name).serial_log)
  const text = JSON.stringify({ record, ...(domain ? { xml: domain.xml } : {}), logged } satisfies Earlier)
  await placeWhole(path, (temporary) => writeFile(temporary, text))
}

/** The definition is made: nothing will want the earlier one back. */
export async function forgetEarlier(a: Action): Promise<void> {
  await rm(earlierFile(a), { force: true })
}

/** A guest's boot entries are of no use to another one. */
export async function setNvramAside(a: Action): Promise<void> {
  const earlier = await readEarlier(a)
  const { nvram } = vmFiles(a.parts.dir, a.name)
  if (earlier && (await exists(nvram))) await rename(nvram, earlierNvram(a, earlier.record))
}

async function readEarlier(a: Action): Promise<Earlier | undefined> {
  try {
    return JSON.parse(await readFile(earlierFile(a), 'utf8')) as Earlier
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw e
  }
}

/** Of an action that failed: what was there before is there again, and nothing of the new VM. @returns the sentence about it */
export async function undoDefine(a: Action, error: unknown): Promise<string> {
  a.hooks.log('agent', `rolls back: ${error instanceof Error ? error.message : String(error)}\n`)
  try {
    // a guest that was started by an earlier attempt may have been at work for long
    if (a.before?.order.job === a.order.job && (await runs(a)))
      return `The VM "${a.name}", which an earlier attempt of this job has started, runs and was left alone.`
    await a.phase('roll-back', 'brings back what was there before')
    const earlier = await readEarlier(a)
    const domain = await a.act(`to undo what was done to the VM "${a.name}"`, async (_, d) => d)
    if (domain?.made?.job === a.order.job) {
      await halt(a, { force: true, grace_ms: 0 })
      const xml = earlier?.xml
      if (xml === undefined) await undefineDomain(a)
      else await a.act(`to bring the VM "${a.name}" back`, (s) => s.control.domains.define(xml))
    }
    await a.fence()
    await removeNew(a, earlier)
    await a.parts.registry.update(a.name, (r) => {
      if (r?.order.job !== a.order.job || r.order.epoch !== a.order.epoch) return r
      return earlier?.record
    })
    await forgetEarlier(a)
    await rmdir(a.folder).catch(() => {}) // unless there is something in it
    return earlier
      ? `The VM "${a.name}" is again as it was before (of job ${earlier.record.order.job}).`
      : `No VM "${a.name}" is left.`
  } catch (e) {
    const failure = asVmError(e, { name: a.name, phase: 'roll-back' })
    if (failure instanceof VmError && failure.code === 'vm-superseded')
      return 'What was made now belongs to a later attempt.'
    return `What was made of the VM could not all be removed: ${String((failure as Error)?.message ?? failure)}`
  }
}

async function removeNew(a: Action, earlier: Earlier | undefined): Promise<void> {
  for (const name of await readdir(a.folder).catch(() => [] as string[]))
    if (name.startsWith(`${a.order.job}-e`)) await rm(join(a.folder, name), { recursive: true, force: true })
  const { nvram, serial_log } = vmFiles(a.parts.dir, a.name)
  if (!earlier?.logged) await rm(serial_log, { force: true })
  const aside = earlier && earlierNvram(a, earlier.record)
  if (aside !== undefined && (await exists(aside))) await rename(aside, nvram)
  // else it is still the earlier one's
  else if (earlier?.record.firmware !== 'uefi') await rm(nvram, { force: true })
}
