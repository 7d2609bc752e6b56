/** The define step of a conversion: what manifest and configuration ask for, and how src/vm does it. */
import type { ConvertPlan, DefineReport } from '../convert/index.ts'
import type { ConvertManifest } from '../manifest/index.ts'
import { type DefineSpec, VmError, type VmHooks, type VmPhase } from '../vm/index.ts'
import { abortedError, type JobContext, JobError } from './types.ts'

type Said = { stage: string; message: string }[]
type Context = JobContext<ConvertManifest>
/** `pre-first-boot` is what hyper2kvm calls it */
const SNAPSHOT = 'pre-first-boot'

/** Is the VM to be defined? The manifest decides, else the configuration. */
export function wantsDefine(m: ConvertManifest, c: Pick<JobContext, 'config'>): boolean {
  const wanted = m.libvirt_integration
  // a library's made-up context may hold no settings
  const enabled = wanted?.enabled ?? (c.config.libvirt as { enabled?: boolean } | undefined)?.enabled ?? false
  return enabled && wanted?.define_domain !== false
}

/** The define step's part of a plan; empty when nothing is to be defined. Everything that will not be done is said in `said`, once. */
export function definePlan(m: ConvertManifest, c: Context, said: Said): Pick<ConvertPlan, 'define'> {
  const w = m.libvirt_integration ?? {}
  const warn = (message: string): void => void said.push({ stage: 'libvirt_integration', message })
  if (w.enabled && w.define_domain === false && (w.auto_start || w.autostart || w.create_snapshot))
    warn('define_domain is false, so no VM is defined, and there is none to start or to take a snapshot of.')
  if (!wantsDefine(m, c)) return {}
  if (w.import_to_pool || w.overwrite_volumes)
    warn(
      `${w.import_to_pool ? 'import_to_pool' : 'overwrite_volumes'} is not done: the VM runs on files of its own in its folder (vm.dir), not on volumes of a storage pool${w.pool_path === undefined ? '' : ` in ${w.pool_path}`}. A pool of the type "dir" over such a folder shows them as volumes.`,
    )
  if (!c.vms) {
    warn(
      'stage-skipped: the VM is not defined, because this process has no VM service. Let an agent run the job (vmspool submit), or define it by hand: virsh define <name>.xml.',
    )
    return {}
  }
  const open = c.vms
  return {
    async define(made) {
      const hooks = hooksOf(c)
      try {
        const vms = await open()
        const r = await vms.define({ job: c.id, epoch: c.epoch }, { ...specOf(m, c), ...made }, hooks)
        const { vm, xml, domain, defined, started, disks, kept, snapshot, phases, warnings } = r
        if (kept.length > 0)
          warnings.push(
            `The VM "${vm.name}" had disks of an earlier definition, which were kept: ${kept.join(', ')}. They go when the VM is deleted, or by hand.`,
          )
        return {
          name: vm.name,
          uuid: vm.uuid,
          uri: vm.uri,
          defined,
          started,
          running: vm.state === 'running',
          autostart: vm.autostart,
          type: vm.accelerator,
          disks: disks.map(({ id, path, how }) => ({ disk_id: id, path, how })),
          kept,
          ...(snapshot === undefined ? {} : { snapshot }),
          phases,
          warnings,
          xml,
          domain,
        } satisfies DefineReport
      } catch (e) {
        if (c.signal.aborted) throw abortedError(c.signal, 'define')
        const error = asJobError(e)
        if (!c.define_may_fail || !(error instanceof JobError)) throw error
        return { refused: error.hint === undefined ? error.message : `${error.message} ${error.hint}` }
      }
    },
  }
}

function specOf(m: ConvertManifest, c: Context): Omit<DefineSpec, 'domain' | 'disks'> {
  const w = m.libvirt_integration ?? {}
  return {
    name: w.vm_name ?? c.answer,
    accelerator: c.config.vm.accelerator,
    autostart: w.autostart ?? c.config.libvirt.autostart,
    start: w.auto_start === true,
    ...(w.overwrite_domain === undefined ? {} : { overwrite: w.overwrite_domain }),
    copy: w.copy_disks === true,
    ...(w.create_snapshot ? { snapshot: w.snapshot_name ?? SNAPSHOT } : {}),
  }
}

const DOES: Partial<Record<VmPhase, string>> = {
  admit: 'looks whether the VM can be defined',
  disks: 'gives the VM its disks',
  define: 'defines the domain',
  start: 'starts the guest',
  'roll-back': 'brings back what was there before',
}

/** The VM's phases are one step of the conversion. */
function hooksOf(c: Context): VmHooks {
  return {
    signal: c.signal,
    progress: ({ phase, message, ...how }) => {
      const said = message ?? DOES[phase]
      c.progress({ phase: 'define', ...how, ...(said === undefined ? {} : { message: said }) })
    },
    log: c.log,
    spawned: c.spawned,
    ...(c.waiting ? { waiting: c.waiting } : {}),
    ...(c.owned ? { owned: c.owned } : {}),
  }
}

/** The conversion is done and stays so: what is refused here is gone on with by a retry, which begins at this step. */
function asJobError(e: unknown): unknown {
  if (!(e instanceof VmError)) return e
  return new JobError(`The disks are converted, but the VM was not defined. ${e.message}`, {
    code: e.code,
    transient: e.transient,
    hint: e.hint,
    phase: 'define',
    cause: e,
  })
}
