import { z } from 'zod'
import { safeName, unsafeNameReason } from '../safe-name.ts'
import { count, duration, rfc3339 } from './parts.ts'

/** A name that becomes a file name in output/. */
export const answerName = z
  .string()
  .max(1024)
  .refine(safeName, { error: (issue) => unsafeNameReason(String(issue.input)) })
  .meta({ pattern: '^[^./\\u0000-\\u001f][^/\\u0000-\\u001f]*$' })

/** The `retry` block. Numbers that are left out come from the agent's configuration. */
const retry = z.looseObject({
  max_attempts: count(1000).optional().meta({ description: 'How often a failed job is tried again; 0: never.' }),
  delay: duration.optional().meta({ description: 'Wait before the first retry.' }),
  factor: z.number().min(1).max(100).optional().meta({ description: 'Each further wait is this many times longer.' }),
  delay_ms: count().optional().meta({ description: 'Set by the agent: `delay` in milliseconds.' }),
})

/** A job that must have ended first: its id or its answer name, and how it must have ended. */
const dependency = z.looseObject({
  job: z.string().min(1).meta({ description: 'A job id, or an answer name: the last job of that name.' }),
  when: z
    .enum(['success', 'failure', 'always'])
    .optional()
    .meta({ description: 'How it must have ended; default success.' }),
})

const after = z
  .union([z.string().min(1), z.array(z.union([z.string().min(1), dependency])).max(1000), dependency], {
    error: 'must be the name or id of a job, or a list of them or of { job, when: success | failure | always }',
  })
  .meta({ description: 'Jobs that must have ended before this one starts.' })

const repeat = z
  .looseObject({
    cron: z.string().min(1).meta({ description: 'Five or six fields as in crontab(5), or @hourly, @daily, …' }),
    timezone: z.string().optional().meta({ description: "IANA name such as Europe/Berlin; default the agent's." }),
    until: z.string().regex(rfc3339).optional().meta({ description: 'No run begins after this.', format: 'date-time' }),
    runs: z.int().min(1).optional().meta({ description: 'Ends after so many runs.' }),
    run: count().optional().meta({ description: 'Set by the agent: which run this is.' }),
  })
  .meta({ description: 'Run again and again; each run is a job of its own, and runs never overlap.' })

const hostChoice = z
  .string()
  .max(1024)
  .regex(/^[A-Za-z0-9][\w.:=-]*(?:\+[A-Za-z0-9][\w.:=-]*)*$/, {
    error: 'must be a host name or a label of an agent; several that all must hold are joined by "+"',
  })

/** Fields that every kind has (DESIGN section 3). `parent` and `submitter` are reserved. */
export const common = {
  $schema: z.string().optional(),
  name: answerName.optional().meta({
    description: 'What the answer files in output/ are called (source.vm_name of a convert job comes first).',
  }),
  priority: z.int().min(0).max(9).default(5).meta({ description: '0 is first, 9 last.' }),
  not_before: z
    .string()
    .regex(rfc3339, { error: 'must be a time as in RFC 3339, with its offset, such as "2026-05-01T22:00:00Z"' })
    .optional()
    .meta({ description: 'The job is held until then.', format: 'date-time' }),
  not_before_ms: count().optional().meta({ description: 'Set by the agent: `not_before` in milliseconds since 1970.' }),
  timeout: duration
    .optional()
    .meta({ description: 'The job is ended after this long. Without it only standing still ends a job.' }),
  timeout_ms: count().optional().meta({ description: 'Set by the agent: `timeout` in milliseconds.' }),
  retry: retry.optional(),
  labels: z.record(z.string(), z.string()).optional(),
  notify: z.unknown().optional(),
  after: after.optional(),
  group: z
    .string()
    .regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/)
    .optional()
    .meta({ description: 'Jobs of one group run with its own concurrency (`groups` in the configuration).' }),
  repeat: repeat.optional(),
  hosts: z
    .union([hostChoice, z.array(hostChoice).min(1).max(100)], {
      error:
        'must be a host name or a label of an agent, several of which all must hold joined by "+", or a list of such to choose from',
    })
    .optional()
    .meta({
      description:
        'Only agents of these hosts run it: host names or labels (`host.labels` of their configuration); "gpu+fast" wants both, a list any one.',
    }),
  parent: z.string().optional(),
  retry_of: z.string().optional().meta({ description: 'The id of the job that this one repeats (`vmspool retry`).' }),
  retry_from: z
    .enum(['inspect', 'copy', 'fix', 'merge', 'validate'])
    .optional()
    .meta({ description: 'Beside retry_of: what that job had finished from this step on is done again.' }),
  submitter: z.unknown().optional().meta({ description: 'Set by the agent; what a client writes here is dropped.' }),
}
