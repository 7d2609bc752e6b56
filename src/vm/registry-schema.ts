/** `vms.json` as a zod schema: what is read from it is checked by this, and schemas/vms.schema.json comes from it. */
import { z } from 'zod'
import { safeName } from '../manifest/safe-name.ts'

/** The newest `vms.json` that this program understands. */
export const SCHEMA = 1

const time = z.string().refine((t) => !Number.isNaN(Date.parse(t)), { error: 'must be a time' })
const bytes = z.int().min(0)
const absolute = z.string().regex(/^\//, { error: 'must be an absolute path' })
const diskFormat = z.enum(['qcow2', 'raw', 'vdi'])
const desired = z.enum(['running', 'stopped', 'deleted'])
const vmAction = z.enum(['create', 'start', 'stop', 'restart', 'delete', 'define'])
const phase = z.enum([
  ...(['admit', 'image', 'disks', 'seed', 'define', 'start', 'address'] as const),
  ...(['stop', 'undefine', 'remove', 'roll-back'] as const),
])
/** one path component: the folder of the VM is called like it */
const vmName = z.string().refine(safeName, { error: 'cannot name a VM' })

export const recordSchema = z
  .looseObject({
    uuid: z.uuid().meta({ description: "Of libvirt's domain." }),
    name: vmName,
    host: z.string(),
    uri: z.string().meta({ description: "libvirt's connection that it lives on." }),
    desired: desired.meta({ description: 'What it should be.' }),
    doing: z
      .looseObject({
        action: vmAction,
        phase,
        job: z.string(),
        epoch: z.int().min(0),
        since: time,
        was: desired.optional().meta({ description: 'What it should be if the action fails.' }),
      })
      .optional()
      .meta({ description: 'An action that has begun and is not over.' }),
    order: z
      .looseObject({ job: z.string(), epoch: z.int().min(0) })
      .meta({ description: 'The job that changed it last, and which attempt of it.' }),
    last: z
      .looseObject({
        action: vmAction,
        job: z.string(),
        epoch: z.int().min(0),
        outcome: z.enum(['done', 'failed']),
        at: time,
        message: z.string().optional(),
      })
      .optional()
      .meta({ description: 'The last action that is over.' }),
    asked: z.string().optional().meta({ description: 'SHA-256 of what it was created from.' }),
    origin: z.enum(['vm', 'convert', 'ghost', 'recovered']),
    vcpus: z.int().min(0),
    memory_bytes: bytes,
    disks: z.array(
      z.looseObject({
        id: z.string(),
        path: absolute,
        format: diskFormat,
        size_bytes: bytes,
        base: z.looseObject({ path: absolute, format: z.enum(['qcow2', 'raw']) }).optional(),
        bus: z.string().optional(),
        target: z.string().optional(),
      }),
    ),
    nics: z.array(
      z.looseObject({
        mac: z.string(),
        network: z.string().optional(),
        bridge: z.string().optional(),
        model: z.string(),
      }),
    ),
    seed: absolute.optional(),
    firmware: z.enum(['bios', 'uefi']),
    machine: z.enum(['q35', 'pc']),
    accelerator: z.enum(['kvm', 'qemu']),
    autostart: z.boolean(),
    template: z.string().optional(),
    from_job: z.string().optional(),
    metadata: z.record(z.string(), z.string()),
    state: z.enum(['running', 'stopped', 'paused', 'error', 'missing', 'unknown']).meta({
      description: 'As seen last. missing: libvirt has no such domain; unknown: libvirt could not be asked.',
    }),
    state_reason: z.string().optional(),
    state_at: time.meta({ description: 'Since when.' }),
    boot_id: z.string().optional().meta({ description: 'The boot of the host in which it was seen running last.' }),
    starts: z
      .looseObject({ count: z.int().min(0), at: time })
      .optional()
      .meta({ description: 'How often it was started again because it should run, since it last stayed up.' }),
    addresses: z.array(z.string()),
    created_at: time,
    updated_at: time,
  })
  .meta({ title: 'One VM' })

/** The whole file. Its VMs are checked one by one, so that one that is wrong does not cost the others. */
export const registrySchema = z
  .looseObject({
    schema: z.literal(SCHEMA),
    revision: z.int().min(0).meta({ description: 'Rises with every change.' }),
    instance: z.string(),
    host: z.string(),
    recover: z
      .looseObject({
        since: time,
        reason: z.string(),
        names: z.array(z.string()).optional().meta({ description: 'Absent: all of them.' }),
      })
      .optional()
      .meta({ description: "The entries that were lost and are still to be found again among libvirt's domains." }),
    vms: z.record(vmName, recordSchema).meta({ description: 'By name.' }),
  })
  .meta({ title: 'Registry of VMs (vms.json)' })

/** Everything of the file but its VMs. */
export const headSchema = registrySchema.omit({ vms: true }).extend({ vms: z.record(z.string(), z.unknown()) })
