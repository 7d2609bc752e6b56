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

const texts = z.union([z.string(), z.array(z.string())], { error: 'must be text or a list of texts' })

/** Fields that every kind has (DESIGN section 3). `after`, `group`, `hosts`, `parent` and `submitter` are reserved. */
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
  after: texts.optional(),
  group: z.string().optional(),
  hosts: texts.optional(),
  parent: z.string().optional(),
  retry_of: z.string().optional().meta({ description: 'The id of the job that this one repeats (`vmspool retry`).' }),
  retry_from: z
    .enum(['inspect', 'copy', 'fix', 'merge', 'validate'])
    .optional()
    .meta({ description: 'Beside retry_of: what that job had finished from this step on is done again.' }),
  submitter: z.unknown().optional().meta({ description: 'Set by the agent; what a client writes here is dropped.' }),
}
