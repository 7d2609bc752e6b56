import { z } from 'zod'
import { common } from './common.ts'
import type { Normalised } from './convert.ts'
import { count, duration, size } from './parts.ts'

const noNul = (s: string) => !s.includes('\0')
const nul = { error: 'must not contain a NUL character: the system ends a text there' }
/** Linux: MAX_ARG_STRLEN, 128 KiB with the final NUL. */
const word = z.string().max(131_071).refine(noNul, nul)
const absolute = (why: string) =>
  z
    .string()
    .max(4096)
    .refine((p) => p.startsWith('/') && noNul(p), { error: `must be an absolute path: ${why}` })

const signals = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGKILL'] as const

const limits = z
  .looseObject({
    nice: z.int().min(-20).max(19).optional().meta({ description: 'nice(1); below 0 needs root.' }),
    ionice: z
      .enum(['idle', 'best-effort', 'realtime'])
      .optional()
      .meta({ description: 'Class of ionice(1); realtime needs root.' }),
    ionice_level: z.int().min(0).max(7).optional().meta({ description: '0 first, 7 last, within the class.' }),
    memory: size.optional().meta({
      description:
        'Of all its processes together under systemd (MemoryMax of a scope), else address space of each (prlimit).',
    }),
    memory_bytes: count().optional().meta({ description: 'Set by the agent: `memory` in bytes.' }),
    cpu: z
      .number()
      .min(0.01)
      .max(4096)
      .optional()
      .meta({ description: 'Processors it may use, such as 0.5 or 2; needs systemd (CPUQuota of a scope).' }),
    cpu_time: duration.optional().meta({ description: 'Processor time of each of its processes (RLIMIT_CPU).' }),
    cpu_time_ms: count().optional().meta({ description: 'Set by the agent: `cpu_time` in milliseconds.' }),
    open_files: z.int().min(3).max(1_048_576).optional().meta({ description: 'RLIMIT_NOFILE.' }),
    processes: z
      .int()
      .min(1)
      .max(4_194_304)
      .optional()
      .meta({ description: 'Tasks of the job under systemd (TasksMax), else of its user (RLIMIT_NPROC).' }),
  })
  .meta({ description: 'What the program may use of the host.' })

const envName = z.string().regex(/^[^=\0]+$/)
const credentialName = z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/)

const command = z.looseObject({
  argv: z
    .array(word)
    .min(1, { error: 'must name at least the program' })
    .optional()
    .meta({ description: 'The program and its arguments; no shell reads them.' }),
  shell: word.min(1).optional().meta({ description: 'A line for /bin/sh -c, instead of argv.' }),
  cwd: absolute('a job has no folder of its own to start from').optional(),
  env: z
    .record(envName, z.union([z.string().refine(noNul, nul), z.looseObject({ credential: credentialName })]))
    .optional()
    .meta({
      description:
        'Added to the environment of the program; { "credential": "NAME" } gives the content of a credential. What looks like a secret may not stand here.',
    }),
  env_file: z
    .union([absolute('it is read when the job runs'), z.array(absolute('it is read when the job runs'))])
    .optional()
    .meta({
      description:
        'Files of NAME=value lines as in systemd.exec(5) EnvironmentFile, read when the job runs; `env` comes after them.',
    }),
  credentials: z.record(credentialName, z.string().min(1).max(4096).refine(noNul, nul)).optional().meta({
    description:
      'Secrets by reference: an absolute path, or the name of a credential of the agent (systemd LoadCredential). The program finds each as $CREDENTIALS_DIRECTORY/NAME.',
  }),
  secret_env: z
    .array(envName)
    .optional()
    .meta({ description: 'Set by `vmspool run`: variables whose values were given and are not stored.' }),
  stdin: z.string().max(1_048_576).optional().meta({ description: 'Text for standard input; default: empty.' }),
  stdin_file: absolute('it is read when the job runs').optional(),
  limits: limits.optional(),
  kill_signal: z.enum(signals).optional().meta({ description: 'What asks it to stop; default SIGTERM.' }),
  kill_grace: duration.optional().meta({ description: 'Wait between kill_signal and SIGKILL.' }),
  kill_grace_ms: count().optional().meta({ description: 'Set by the agent: `kill_grace` in milliseconds.' }),
  expected_exit_codes: z
    .array(z.int().min(0).max(255))
    .min(1)
    .optional()
    .meta({ description: 'Exit codes that count as success; default [0].' }),
})

export const commandManifest = z
  .looseObject({
    kind: z.literal('command'),
    manifest_version: z.literal('1.0').optional(),
    ...common,
    command,
  })
  .meta({ title: 'vmspool manifest, kind command: run a program in its own process group' })

export type CommandManifest = z.output<typeof commandManifest> & Normalised & { command: { argv: string[] } }
