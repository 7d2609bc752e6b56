/**
 * The files that clients read in output/ (DESIGN section 4), as zod schemas: the types of those who write them and the
 * JSON Schemas in schemas/ both come from here. Fields are only ever added; readers must ignore those they do not know.
 */
import { z } from 'zod'

const time = z.string().meta({ format: 'date-time', description: 'RFC 3339, UTC.' })
const ulid = z.string().regex(/^[0-9A-HJKMNP-TV-Z]{26}$/i)
const bytes = z.int().min(0)
const schema1 = z.literal(1)

const jobStates = ['queued', 'held', 'running', 'retrying', 'succeeded', 'failed', 'cancelled', 'rejected'] as const

const identity = {
  schema: schema1,
  id: ulid.meta({ description: 'The job.' }),
  name: z.string().meta({ description: 'The answer name: what the files in output/ are called.' }),
  kind: z.string(),
}

const progress = z.looseObject({
  bytes_done: bytes.optional(),
  bytes_total: bytes.optional(),
  percent: z.number().min(0).max(100).optional(),
  rate_bytes_per_s: z.number().min(0).optional(),
  eta_ms: z.number().min(0).optional(),
  message: z.string().optional(),
})

const count = z.int().min(0)

/** How the VMs of a batch stand. */
const counts = z.looseObject({
  total: count,
  succeeded: count.meta({ description: 'Those that an earlier run of the batch converted included.' }),
  failed: count.meta({ description: 'Failed, cancelled or rejected.' }),
  running: count,
  queued: count.meta({ description: 'Accepted as jobs, not running now.' }),
  waiting: count.meta({ description: 'Not started yet.' }),
  not_run: count.meta({ description: 'Not started any more.' }),
  skipped: count.meta({ description: 'Disabled.' }),
})

/** `<name>.status.json` and `jobs/<id>/status.json`. */
export const statusSchema = z
  .looseObject({
    ...identity,
    state: z.enum(jobStates),
    phase: z.string().optional().meta({ description: 'What a running job is doing.' }),
    reason: z.string().optional().meta({ description: 'Why it is in this state, as a sentence.' }),
    since: time.meta({ description: 'Since when it is in this state.' }),
    waiting_on: z.string().optional().meta({ description: 'What it waits for, as the end of "waiting for …".' }),
    progress: progress.optional(),
    attempt: z.int().min(0).meta({ description: 'Which try this is; 0: it never ran.' }),
    epoch: z.int().min(0),
    owner: z.string().optional().meta({ description: 'The agent process that has it.' }),
    priority: z.int().min(0).max(9),
    accepted_at: time,
    started_at: time.optional(),
    finished_at: time.optional(),
    exit_code: z.int().optional(),
    signal: z.string().optional(),
    pid: z
      .int()
      .min(1)
      .optional()
      .meta({ description: 'Of a command that runs or ran: its process, leader of its own session.' }),
    host: z.string().optional().meta({ description: 'Where that process is.' }),
    command: z.array(z.string()).optional().meta({ description: 'Of a command: the program and its arguments.' }),
    cwd: z.string().optional().meta({ description: 'Of a command: its working directory.' }),
    group: z.string().optional(),
    direct: z.boolean().optional().meta({ description: 'Started by `vmspool run`, without an agent.' }),
    drop_file: z.string().meta({ description: 'The name under which it was dropped in queue/.' }),
    output: z.array(z.string()).optional().meta({ description: 'Files of the answer, relative to output/.' }),
    parent: ulid.optional().meta({ description: 'The batch that the job belongs to.' }),
    vm_id: z.string().optional().meta({ description: 'Which VM of that batch it is.' }),
    children: counts.optional().meta({ description: 'Of a batch: how its VMs stand.' }),
  })
  .meta({ title: 'Status of a job' })

const diagnostic = z.looseObject({
  severity: z.enum(['error', 'warning']).optional(),
  path: z.string().optional(),
  message: z.string(),
  value: z.unknown().optional(),
  allowed: z.array(z.string()).optional(),
  suggestion: z.string().optional(),
  line: z.int().optional(),
  column: z.int().optional(),
})

/** `<name>.result.json`: the last word on a job. */
export const resultSchema = z
  .looseObject({
    ...identity,
    state: z.enum(['succeeded', 'failed', 'cancelled', 'rejected']),
    epoch: z.int().min(0),
    summary: z.string().optional(),
    started_at: time.optional(),
    finished_at: time,
    duration_ms: z.number().min(0).optional(),
    exit_code: z.int().optional(),
    signal: z.string().optional(),
    error: z
      .looseObject({
        code: z.string().meta({ description: 'Short and stable, for programs.' }),
        message: z.string().meta({ description: 'What happened, to what, why: the text of <name>.error.' }),
        hint: z.string().optional().meta({ description: 'What to do next.' }),
        phase: z.string().optional(),
        transient: z.boolean().optional(),
      })
      .optional()
      .meta({ description: 'Of every job that did not succeed.' }),
    artifacts: z
      .array(
        z.looseObject({
          path: z.string().meta({ description: 'Relative to output/.' }),
          disk_id: z.string().optional(),
          format: z.string().optional(),
          size_bytes: bytes.optional(),
          sha256: z.string().optional(),
        }),
      )
      .optional(),
    phases: z
      .array(z.looseObject({ name: z.string(), duration_ms: z.number().min(0), detail: z.unknown().optional() }))
      .optional(),
    warnings: z.array(diagnostic).optional(),
    counts: counts.optional().meta({ description: 'Of a batch.' }),
    children: z
      .array(
        z.looseObject({
          id: z.string().meta({ description: 'The id in the batch.' }),
          state: z.enum(['succeeded', 'failed', 'cancelled', 'rejected', 'not_run', 'skipped']),
          name: z.string().optional().meta({ description: 'The answer name.' }),
          job: ulid.optional(),
          reason: z.string().optional(),
        }),
      )
      .optional()
      .meta({ description: 'Of a batch: its VMs, in their order in the manifest.' }),
    unchanged: z.boolean().optional().meta({ description: 'Of a VM job: there was nothing to do.' }),
    vm: z
      .looseObject({
        name: z.string(),
        uuid: z.string().meta({ description: "Of libvirt's domain." }),
        host: z.string(),
        state: z.enum(['running', 'stopped', 'paused', 'error', 'missing', 'unknown']).meta({
          description: 'As it was at the end of the job; missing: deleted.',
        }),
        addresses: z.array(z.string()).meta({ description: 'IPv4 first; empty when none was seen in time.' }),
        vcpus: z.int(),
        memory_bytes: bytes,
        accelerator: z.enum(['kvm', 'qemu']),
        firmware: z.enum(['bios', 'uefi']),
        disks: z
          .array(z.looseObject({ id: z.string(), path: z.string(), format: z.string(), size_bytes: bytes }))
          .meta({ description: 'size_bytes: what the guest sees.' }),
        nics: z.array(
          z.looseObject({
            mac: z.string(),
            network: z.string().optional(),
            bridge: z.string().optional(),
            model: z.string(),
          }),
        ),
        template: z.string().optional(),
        from_job: z.string().optional(),
      })
      .optional()
      .meta({ description: 'Of a VM job: the VM as it is now, or as it was when it was deleted.' }),
    kept: z
      .looseObject({ steps: z.array(z.string()), bytes, until: time.optional() })
      .optional()
      .meta({ description: 'Of a failed job: finished work that `vmspool retry` goes on from.' }),
    next_run: z
      .looseObject({ job: ulid, at: time })
      .optional()
      .meta({ description: 'Of a job that repeats: the run that follows, and when it is due.' }),
    diagnostics: z.array(diagnostic).optional().meta({ description: 'What was wrong with a rejected manifest.' }),
  })
  .meta({ title: 'Result of a job' })

/** `queue/.errors/<file>.error.json` beside a bare disk whose job failed, in the schema of the hyper2kvm daemon (contracts A6). */
export const errorSchema = z
  .looseObject({
    filename: z.string(),
    filepath: z.string(),
    file_size_mb: z.number().min(0),
    timestamp: time,
    error: z.string(),
    phase: z.string(),
    exception_traceback: z.string().nullable().optional(),
    suggestion: z.string().optional(),
    job_id: ulid.optional(),
  })
  .meta({ title: 'Why a dropped disk failed' })

/** `owners/<owner>.json`: an agent process and its sign of life. */
export const leaseSchema = z
  .looseObject({
    schema: schema1,
    owner: z.string(),
    host: z.string(),
    boot_id: z.string(),
    pidns: z.int(),
    pid: z.int().min(1),
    start_ticks: z.int().min(0).meta({ description: '/proc/<pid>/stat field 22.' }),
    role: z.enum(['main', 'worker']),
    instance: z.string(),
    started_at: time,
    counter: z.int().min(0).meta({ description: 'Rises with every heartbeat; the only sign of life that counts.' }),
    version: z.string().optional(),
    labels: z.array(z.string()).optional().meta({ description: 'What its host has (host.labels).' }),
  })
  .meta({ title: 'Lease of an agent' })

/** A line of `output/.daemon/events.jsonl`. */
export const eventSchema = z
  .looseObject({
    at: time,
    event: z.string(),
    job: ulid.optional(),
    name: z.string().optional(),
    drop_file: z.string().optional(),
    owner: z.string().optional(),
  })
  .meta({ title: 'Event' })

/** The fields that are known, without "anything else": with that in it, Omit and Pick would lose all names. */
type Known<T> = { [K in keyof T as string extends K ? never : K]: T[K] }

export type JobStatus = Omit<Known<z.output<typeof statusSchema>>, 'progress' | 'children'> & {
  progress?: Known<z.output<typeof progress>> | undefined
  children?: Counts | undefined
}

export type Counts = Known<z.output<typeof counts>>
