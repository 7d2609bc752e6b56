import { ImageError } from '../images/index.ts'
import type { VmManifest } from '../manifest/index.ts'
import { VmError, type VmHooks, type VmResult, type Vms } from '../vm/index.ts'
import { abortedError, type JobContext, JobError, type JobOutcome } from './types.ts'
import { addressTimeout, vmSpec } from './vm-spec.ts'

/** A VM job: create, start, stop, restart or delete. What is done and in which order is src/vm's; here it is asked for and told. */
export async function runVmJob(m: VmManifest, c: JobContext<VmManifest>): Promise<JobOutcome> {
  const name = m.name ?? m.vm_id
  if (name === undefined) throw new JobError('The manifest names no VM.', { code: 'vm-invalid', transient: false })
  if (!c.vms) {
    throw new JobError('This process has no VM service: VM jobs are carried out by an agent.', {
      code: 'vm-unavailable',
      transient: false,
      hint: 'Submit the manifest (vmspool submit), and let "vmspool agent" run.',
    })
  }
  try {
    const vms = await c.vms()
    const result = await carryOut(m, name, vms, c)
    // whoever asks for it by hand is not held up by how often it was started for them before
    if (m.labels?.by !== 'reconcile' && result.vm?.starts) {
      await vms.registry.update(name, (r) => {
        const { starts: _, ...rest } = r ?? {}
        return r && (rest as typeof r)
      })
    }
    return outcome(result)
  } catch (e) {
    if (c.signal.aborted) throw abortedError(c.signal, e instanceof VmError ? e.phase : undefined)
    throw asJobError(e)
  }
}

async function carryOut(m: VmManifest, name: string, vms: Vms, c: JobContext<VmManifest>): Promise<VmResult> {
  const order = { job: c.id, epoch: c.epoch }
  const hooks: VmHooks = {
    signal: c.signal,
    progress: c.progress,
    ...(c.waiting ? { waiting: c.waiting } : {}),
    log: c.log,
    spawned: c.spawned,
    ...(c.owned ? { owned: c.owned } : {}),
  }
  const address_timeout_ms = addressTimeout(m, c)
  const force = m.force === true
  const grace_ms = m.grace_ms ?? c.config.vm.stop_grace
  switch (m.action) {
    case 'create':
      return vms.create(order, { name, make: () => vmSpec(m, name, c) }, hooks)
    case 'start':
      return vms.start(order, name, { address_timeout_ms }, hooks)
    case 'stop':
      return vms.stop(order, name, { force, grace_ms }, hooks)
    case 'restart':
      return vms.restart(order, name, { force, grace_ms, address_timeout_ms }, hooks)
    case 'delete':
      return vms.remove(order, name, { keep_disks: m.keep_disks === true, force, grace_ms }, hooks)
  }
}

function outcome(r: VmResult): JobOutcome {
  const { vm } = r
  return {
    summary: r.summary,
    exit_code: 0,
    phases: r.phases,
    warnings: r.warnings.map((message) => ({ message })),
    ...(r.unchanged ? { unchanged: true } : {}),
    ...(vm
      ? {
          vm: {
            name: vm.name,
            uuid: vm.uuid,
            host: vm.host,
            state: vm.state,
            addresses: vm.addresses,
            vcpus: vm.vcpus,
            memory_bytes: vm.memory_bytes,
            accelerator: vm.accelerator,
            firmware: vm.firmware,
            disks: vm.disks.map(({ id, path, format, size_bytes }) => ({ id, path, format, size_bytes })),
            nics: vm.nics,
            ...(vm.template === undefined ? {} : { template: vm.template }),
            ...(vm.from_job === undefined ? {} : { from_job: vm.from_job }),
          },
        }
      : {}),
  }
}

function asJobError(e: unknown): unknown {
  if (e instanceof VmError) {
    // the guard's own code says more than ours
    const { cause } = e
    return new JobError(e.message, {
      code: cause instanceof ImageError ? cause.code : e.code,
      transient: e.transient,
      hint: e.hint,
      phase: e.phase,
      cause: e,
    })
  }
  if (e instanceof ImageError) {
    return new JobError(e.message, { code: e.code, transient: e.transient, hint: e.hint, phase: e.phase, cause: e })
  }
  return e
}
