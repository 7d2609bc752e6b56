import { z } from 'zod'
import { common } from './common.ts'
import type { Normalised } from './convert.ts'

const noNul = (s: string) => !s.includes('\0')
const nul = { error: 'must not contain a NUL character: the system ends a text there' }
/** Linux: MAX_ARG_STRLEN, 128 KiB with the final NUL. */
const word = z.string().max(131_071).refine(noNul, nul)

const command = z.looseObject({
  argv: z
    .array(word)
    .min(1, { error: 'must name at least the program' })
    .optional()
    .meta({ description: 'The program and its arguments; no shell reads them.' }),
  shell: word.min(1).optional().meta({ description: 'A line for /bin/sh -c, instead of argv.' }),
  cwd: z
    .string()
    .max(4096)
    .refine((p) => p.startsWith('/') && noNul(p), {
      error: 'must be an absolute path: a job has no folder of its own to start from',
    })
    .optional(),
  env: z
    .record(z.string().regex(/^[^=\0]+$/), z.string().refine(noNul, nul))
    .optional()
    .meta({ description: 'Added to the environment of the program.' }),
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
