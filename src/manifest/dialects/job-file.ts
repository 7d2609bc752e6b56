import { basename } from 'node:path'
import { z } from 'zod'
import { answerName, common } from '../kinds/common.ts'
import {
  absolutePath,
  type Dialect,
  filePath,
  firstName,
  fstabMode,
  given,
  idOf,
  notDone,
  outputFormat,
  type Path,
  running,
  stemOf,
  type TranslateContext,
  typeByName,
} from './parts.ts'

/*
 * The job file of hyper2kvm's workflow daemon (contracts.md A4): one `input` with a few switches, or `jobs` with several. There a job is
 * called after its file, those of a list `<file>_job<n>`; one file gave several jobs the same working folder, and its success was
 * the first one's.
 */

const job = {
  input: filePath,
  output_format: outputFormat.optional(),
  out_format: outputFormat.optional(),
  compress: z.boolean().optional(),
  flatten: z.boolean().optional(),
  fstab_mode: fstabMode.optional(),
  regen_initramfs: z.boolean().optional(),
  fix_grub: z.boolean().optional(),
  fix_network: z.boolean().optional(),
  to_output: z.string().optional(),
  output_dir: z.string().optional(),
}
const item = z.looseObject({
  name: answerName.optional(),
  ...job,
  priority: z.int().optional(),
  enabled: z.boolean().optional(),
})
type Job = z.output<typeof item>

const { $schema, name, priority, not_before, timeout, retry, labels } = common
const head = { $schema, name, priority, not_before, timeout, retry, labels }

export const jobFile: Dialect = {
  name: 'a job file of the hyper2kvm workflow daemon',
  kind: 'convert',
  schema: z.looseObject({ ...head, ...job }),
  translate(root, c) {
    const j = root as Job
    return {
      ...kept(root),
      ...conversion(j, [], c, j.name ?? firstName(stemOf(j.to_output), stemOf(j.input)) ?? 'vm'),
    }
  },
}

export const jobList: Dialect = {
  name: 'a job file of the hyper2kvm workflow daemon with several jobs',
  kind: 'batch',
  list: 'jobs',
  schema: z.looseObject({
    ...head,
    ...running,
    jobs: z.array(item).min(1, { error: 'a job file must have at least one job' }).max(10_000),
  }),
  translate(root, c) {
    const called = (root.name as string | undefined) ?? firstName(stemOf(c.fileName)) ?? 'batch'
    const jobs = root.jobs as Job[]
    return {
      kind: 'batch',
      ...kept(root),
      name: called,
      batch_metadata: given({ parallel_limit: root.parallel_limit, continue_on_error: root.continue_on_error }),
      vms: jobs.map((j, i) => ({
        id: `${idOf(called)}_job${i + 1}`,
        ...given({ priority: j.priority, enabled: j.enabled }),
        manifest: conversion(
          j,
          ['jobs', i],
          c,
          j.name ?? firstName(stemOf(j.to_output), `${called}_job${i + 1}`) ?? 'vm',
        ),
      })),
    }
  },
}

function kept(root: Record<string, unknown>): Record<string, unknown> {
  const { priority: p, not_before: n, timeout: t, retry: r, labels: l } = root
  return given({ priority: p, not_before: n, timeout: t, retry: r, labels: l })
}

function conversion(j: Job, at: Path, c: TranslateContext, called: string): Record<string, unknown> {
  const where: Path = [...at, 'input']
  if (j.flatten === false) notDone(c, [...at, 'flatten'], 'a converted disk has no backing file, so it is always flat')
  if (j.fix_network) notDone(c, [...at, 'fix_network'], 'there is no switch of its own for network settings')
  if (j.output_dir !== undefined) notDone(c, [...at, 'output_dir'], 'results lie in the output folder of the spool')
  return given({
    manifest_version: '1.0',
    name: called,
    source: { provider: 'local' },
    disks: [
      {
        id: 'disk-0',
        source_format: typeByName(j.input, where, c),
        local_path: absolutePath(j.input, where, c) ?? j.input,
      },
    ],
    output: given({
      format: j.output_format ?? j.out_format,
      filename: j.to_output === undefined ? undefined : basename(j.to_output),
    }),
    compress: j.compress,
    pipeline: given({ fix: fix(j) }),
  })
}

/** Fixing is asked for by any of its switches; what none of them says stays as the agent is configured. */
function fix(j: Job): Record<string, unknown> {
  const asked =
    (j.fstab_mode !== undefined && j.fstab_mode !== 'noop') || j.regen_initramfs || j.fix_grub || j.fix_network
  const said = given({ fstab_mode: j.fstab_mode, regen_initramfs: j.regen_initramfs, update_grub: j.fix_grub })
  return asked ? { enabled: true, ...said } : Object.keys(said).length > 0 ? { enabled: false, ...said } : {}
}
