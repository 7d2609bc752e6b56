import { checkSubmitter, ImageError, openBeneath, type Submitter, submitterOf } from '../images/index.ts'
import type { VmManifest } from '../manifest/index.ts'
import { type CloudInit, diskOwner, type NamedFile, type NicSpec, type VmSpec } from '../vm/index.ts'
import { settingsOf } from './convert-settings.ts'
import { checkLimits } from './vm-limits.ts'
import { type JobContext, JobError } from './types.ts'

const GIB = 2 ** 30
/** What a user-data may have (cloud-init itself takes more, but nobody's data source does). */
const USER_DATA_BYTES = 512 * 1024

/**
 * What a manifest and the configuration say of a new VM, with every default filled in.
 * @throws {JobError} vm-invalid, from-job, and the guard's codes for files that it names
 */
export async function vmSpec(m: VmManifest, name: string, c: JobContext<VmManifest>): Promise<VmSpec> {
  const vm = m.vm ?? {}
  const { config } = c
  const submitter = await submitterOf(c.drop.uid, c.drop.gid)
  const { import_roots } = settingsOf(config)
  const file = (path: string, format?: 'qcow2' | 'raw'): NamedFile => ({
    path,
    ...(format === undefined ? {} : { format }),
    submitter,
    import_roots,
  })
  const vcpus = vm.vcpus ?? vm.vcpu ?? 2
  const memory_bytes = vm.memory_bytes ?? 4 * GIB
  const disks = (vm.disks ?? []).map((d, i): VmSpec['disks'][number] => {
    if (d.size_bytes === undefined && d.path === undefined) {
      throw invalid(name, `vm.disks[${i}] has neither size nor path: how large is it to be?`)
    }
    return {
      ...(d.size_bytes === undefined ? {} : { size_bytes: d.size_bytes }),
      ...(d.path === undefined ? {} : { file: file(d.path) }),
      format: d.format ?? 'qcow2',
    }
  })
  checkLimits(
    {
      name,
      vcpus,
      memory_bytes,
      ...(vm.template !== undefined && vm.disk_bytes !== undefined ? { template_disk_bytes: vm.disk_bytes } : {}),
      disks: [
        ...(vm.disk_bytes === undefined ? [] : [{ what: 'disk', bytes: vm.disk_bytes }]),
        ...disks.flatMap((d, i) =>
          d.size_bytes === undefined ? [] : [{ what: `disks[${i}].size`, bytes: d.size_bytes }],
        ),
      ],
    },
    config.vm.limits,
  )
  const start = vm.start !== false
  const cloud_init = await cloudInit(vm, name, { submitter, import_roots })
  return {
    name,
    boot: await bootFrom(vm, name, file, c),
    copy: vm.copy ?? (vm.image === undefined ? 'overlay' : 'full'),
    ...(vm.disk_bytes === undefined ? {} : { disk_bytes: vm.disk_bytes }),
    disks,
    vcpus,
    memory_bytes,
    firmware: vm.firmware ?? 'bios',
    secure_boot: vm.secure_boot ?? false,
    machine: vm.machine ?? 'q35',
    accelerator: vm.accelerator ?? config.vm.accelerator,
    nics: nics(vm.networks, config.vm.network),
    ...(cloud_init ? { cloud_init } : {}),
    autostart: vm.autostart ?? config.libvirt.autostart,
    start,
    address_timeout_ms: start ? addressTimeout(m, c) : 0,
    metadata: vm.metadata ?? {},
  }
}

type VmPart = NonNullable<VmManifest['vm']>

async function bootFrom(
  vm: VmPart,
  name: string,
  file: (path: string, format?: 'qcow2' | 'raw') => NamedFile,
  c: JobContext<VmManifest>,
): Promise<VmSpec['boot']> {
  if (vm.template !== undefined) return { from: 'template', template: vm.template }
  if (vm.image !== undefined) return { from: 'image', file: file(vm.image, vm.image_format) }
  if (vm.from_job === undefined) {
    throw invalid(name, 'vm names nothing to boot from: one of template, image and from_job is needed.')
  }
  if (!c.resultOf) {
    throw new JobError(`The result of the job "${vm.from_job}" cannot be looked up here: that takes an agent.`, {
      code: 'from-job',
      transient: false,
      hint: 'Submit the manifest to an agent, or name the disk itself (vm.image).',
    })
  }
  const result = await c.resultOf(vm.from_job)
  if (result === undefined || result.disks.length === 0) {
    throw new JobError(
      result === undefined
        ? `There is no finished job "${vm.from_job}" whose result the VM "${name}" could run on.`
        : `The job ${result.job} has no disks (any more) on which the VM "${name}" could run.`,
      {
        code: 'from-job',
        transient: false,
        hint: 'vmspool list --all shows the jobs and "vmspool status" their answers; an answer that was moved out of the output folder can be named as vm.image.',
      },
    )
  }
  const { job, disks } = result
  const boot = disks.find((d) => d.boot) ?? disks[0]
  const order = boot ? [boot, ...disks.filter((d) => d !== boot)] : []
  for (const d of order) await notRunOn(d.path, job, name, c)
  const usable = order.map(({ id, path, format }): { id: string; path: string; format: 'qcow2' | 'raw' } => {
    if (format === 'qcow2' || format === 'raw') return { id, path, format }
    throw new JobError(`The job ${job} made the disk "${id}" as ${format}; a VM runs on qcow2 or raw.`, {
      code: 'from-job',
      transient: false,
      hint: 'Convert it again with "output": {"format": "qcow2"}.',
    })
  })
  return { from: 'job', job, disks: usable }
}

/** A VM that a conversion defined writes into the very files of the answer: what lies on top of them would come apart. */
async function notRunOn(path: string, job: string, name: string, c: JobContext<VmManifest>): Promise<void> {
  const owner = c.vms && (await diskOwner((await c.vms()).dir, path))
  if (owner === undefined) return
  throw new JobError(`The VM "${owner}" runs on the disks of the job ${job}, so the VM "${name}" cannot.`, {
    code: 'from-job',
    transient: false,
    hint: `Convert once more under another name and without libvirt_integration, or delete the VM "${owner}" first.`,
  })
}

function nics(networks: VmPart['networks'], otherwise: string): NicSpec[] {
  return (networks ?? [otherwise]).map((n): NicSpec => {
    if (typeof n === 'string') {
      return n.startsWith('bridge:')
        ? { bridge: n.slice('bridge:'.length), model: 'virtio' }
        : { network: n, model: 'virtio' }
    }
    const place = n.bridge !== undefined ? { bridge: n.bridge } : named(n.network ?? otherwise)
    return { ...place, ...(n.mac === undefined ? {} : { mac: n.mac.toLowerCase() }), model: n.model ?? 'virtio' }
  })
}

function named(network: string): Pick<NicSpec, 'network' | 'bridge'> {
  return network.startsWith('bridge:') ? { bridge: network.slice('bridge:'.length) } : { network }
}

/** A guest of a template is told its name at least; what is on another disk is its owner's business. */
async function cloudInit(
  vm: VmPart,
  name: string,
  o: { submitter: Submitter; import_roots: readonly string[] },
): Promise<CloudInit | undefined> {
  const ci = vm.cloud_init
  if (ci === false || (ci === undefined && vm.template === undefined)) return undefined
  if (ci === undefined) return { hostname: name }
  const { user_data_file, hostname, ...rest } = ci
  const user_data = user_data_file === undefined ? rest.user_data : await readUserData(user_data_file, o)
  const given = Object.entries({ ...rest, user_data }).filter(([, v]) => v !== undefined)
  return { ...(Object.fromEntries(given) as Omit<CloudInit, 'hostname'>), hostname: hostname ?? name }
}

async function readUserData(
  path: string,
  o: { submitter: Submitter; import_roots: readonly string[] },
): Promise<string> {
  const file = await openBeneath(path, o.import_roots)
  try {
    await checkSubmitter(file, o.submitter)
    if (file.stat.size > USER_DATA_BYTES) {
      throw new ImageError(
        `The user-data ${JSON.stringify(path)} has ${file.stat.size} bytes; at most ${USER_DATA_BYTES} are accepted.`,
        { code: 'vm-invalid', hint: 'Let it fetch the rest (#include), or build an image with it.' },
      )
    }
    const bytes = Buffer.alloc(file.stat.size)
    const { bytesRead } = await file.handle.read(bytes, 0, bytes.length, 0)
    return bytes.subarray(0, bytesRead).toString('utf8')
  } finally {
    await file.close()
  }
}

/** How long a VM that was started may take to show its address, ms; 0: nobody waits. */
export function addressTimeout(m: VmManifest, c: Pick<JobContext, 'config'>): number {
  if (m.wait_for_address === false) return 0
  return m.wait_for_address_ms ?? c.config.vm.address_timeout
}

function invalid(name: string, why: string): JobError {
  return new JobError(`The VM ${JSON.stringify(name)} cannot be created: ${why}`, {
    code: 'vm-invalid',
    transient: false,
    phase: 'admit',
  })
}
