import { dirname, basename, extname } from 'node:path'
import { z } from 'zod'
import { pathText } from '../../text/diagnostic.ts'
import { answerName, common } from '../kinds/common.ts'
import {
  absolutePath,
  type Dialect,
  filePath,
  firstName,
  fstabMode,
  given,
  notDone,
  outputFormat,
  type Path,
  running,
  sourceType,
  stemOf,
  type TranslateContext,
  typeByName,
} from './parts.ts'

/*
 * The manifest that hyperctl writes and the REST API takes (contracts.md A4): `version` and a `pipeline` whose load, fix and convert say
 * everything; with `batch: true` one pipeline for each of `vms`.
 */

const on = z.boolean().optional()

const load = {
  source_type: sourceType,
  source_path: filePath,
}

const rest = {
  inspect: z.looseObject({ enabled: on, detect_os: on }).optional(),
  fix: z
    .looseObject({
      fstab: z.looseObject({ enabled: on, mode: fstabMode.optional() }).optional(),
      grub: z.looseObject({ enabled: on }).optional(),
      initramfs: z.looseObject({ enabled: on, regenerate: on }).optional(),
      network: z.looseObject({ enabled: on, fix_level: z.string().optional() }).optional(),
    })
    .optional(),
  validate: z.looseObject({ enabled: on, boot_test: on }).optional(),
}

const convert = {
  output_format: outputFormat,
  compress: on,
  output_path: filePath.optional(),
}

/** hyperctl asks for all three of a single one, and of a batch for names and paths only. */
const single = z.looseObject({ load: z.looseObject(load), ...rest, convert: z.looseObject(convert) })
const several = z.looseObject({
  load: z.looseObject({ ...load, source_type: sourceType.optional() }),
  ...rest,
  convert: z.looseObject({ ...convert, output_format: outputFormat.optional() }).optional(),
})
type Pipeline = z.output<typeof several>

const { $schema, priority, not_before, timeout, retry, labels, name } = common
const head = {
  $schema,
  version: z.string().min(1).meta({ description: 'Any text that is not empty.' }),
  name,
  batch: z.boolean().optional(),
  priority,
  not_before,
  timeout,
  retry,
  labels,
}

export const workflow: Dialect = {
  name: 'a workflow manifest of hyperctl',
  kind: 'convert',
  schema: z.looseObject({ ...head, pipeline: single }),
  translate(root, c) {
    const pipeline = root.pipeline as Pipeline
    return {
      ...kept(root),
      ...conversion(pipeline, ['pipeline'], c, root.name as string | undefined),
    }
  },
}

export const workflowBatch: Dialect = {
  name: 'a workflow manifest of hyperctl with several VMs',
  kind: 'batch',
  list: 'vms',
  schema: z.looseObject({
    ...head,
    ...running,
    vms: z
      .array(z.looseObject({ name: answerName, priority: z.int().optional(), enabled: on, pipeline: several }))
      .min(1, { error: 'batch manifest requires at least one VM' })
      .max(10_000),
  }),
  translate(root, c) {
    const vms = root.vms as { name: string; priority?: number; enabled?: boolean; pipeline: Pipeline }[]
    const ids = idsOf(vms.map((vm) => vm.name))
    return {
      kind: 'batch',
      ...kept(root),
      ...given({ name: root.name ?? firstName(stemOf(c.fileName)) }),
      batch_metadata: given({ parallel_limit: root.parallel_limit, continue_on_error: root.continue_on_error }),
      vms: vms.map((vm, i) => ({
        id: ids[i],
        ...given({ priority: vm.priority, enabled: vm.enabled }),
        manifest: conversion(vm.pipeline, ['vms', i, 'pipeline'], c, vm.name),
      })),
    }
  },
}

/** An id is the VM's name where that can be one; names that cannot, and the second of two alike, are counted. */
function idsOf(names: readonly string[]): string[] {
  const taken = new Set<string>()
  return names.map((name, i) => {
    let id = /^[a-zA-Z0-9_-]{1,128}$/.test(name) ? name : `vm_${i}`
    while (taken.has(id)) id = `${id.slice(0, 120)}_${i}`
    taken.add(id)
    return id
  })
}

function kept(root: Record<string, unknown>): Record<string, unknown> {
  const { priority: p, not_before: n, timeout: t, retry: r, labels: l } = root
  return given({ priority: p, not_before: n, timeout: t, retry: r, labels: l })
}

function conversion(p: Pipeline, at: Path, c: TranslateContext, named: string | undefined): Record<string, unknown> {
  const { source_path: path } = p.load
  const where: Path = [...at, 'load', 'source_path']
  const type = sourceTypeOf(p, at, c)
  const out = p.convert?.output_path
  if (out !== undefined && dirname(out) !== '.')
    notDone(
      c,
      [...at, 'convert', 'output_path'],
      `only its last part names the result, which lies in the output folder of the spool, not in ${dirname(out)}`,
    )
  if (p.load.ami_id !== undefined) notDone(c, [...at, 'load', 'ami_id'], 'nothing is fetched from AWS')
  if (p.validate?.boot_test)
    notDone(c, [...at, 'validate', 'boot_test'], 'a conversion boots no guest; the image is checked and compared')
  return {
    manifest_version: '1.0',
    name: named ?? firstName(stemOf(out), stemOf(path)) ?? 'vm',
    source: { provider: 'local' },
    disks: [{ id: 'disk-0', source_format: type, local_path: absolutePath(path, where, c) ?? path }],
    ...given({
      output: given({ format: p.convert?.output_format, filename: out === undefined ? undefined : basename(out) }),
      compress: p.convert?.compress,
      pipeline: given({
        inspect: given({ enabled: p.inspect?.enabled, collect_guest_info: p.inspect?.detect_os }),
        fix: fix(p.fix, [...at, 'fix'], c),
        convert: p.convert === undefined ? {} : { enabled: true },
        validate: given({ enabled: p.validate?.enabled }),
      }),
    }),
  }
}

/** hyperctl's `generate` calls a .vhdx "vhd"; the name of the file is right then. */
function sourceTypeOf(p: Pipeline, at: Path, c: TranslateContext): string | undefined {
  const { source_type: type, source_path: path } = p.load
  if (type === undefined) return typeByName(path, [...at, 'load', 'source_path'], c)
  if (type === 'vhd' && extname(path).toLowerCase() === '.vhdx') {
    const where: Path = [...at, 'load', 'source_type']
    c.say('warning', where, `${pathText(where)} is "vhd", and the file is called .vhdx: it is read as vhdx.`)
    return 'vhdx'
  }
  return type
}

/** One switch for the stage, and one for each thing that is fixed: a thing that is not switched on is not done. */
function fix(f: Pipeline['fix'], at: Path, c: TranslateContext): Record<string, unknown> {
  if (f === undefined) return {}
  const fstab = f.fstab?.enabled === true
  const grub = f.grub?.enabled === true
  const initramfs = f.initramfs?.enabled === true
  const network = f.network?.enabled === true
  if (network)
    notDone(
      c,
      [...at, 'network'],
      'there is no switch of its own for network settings; a conversion with fix renews what the new drivers need',
    )
  if (!fstab && !grub && !initramfs && !network) return { enabled: false }
  return {
    enabled: true,
    fstab_mode: fstab ? (f.fstab?.mode ?? 'stabilize-all') : 'noop',
    update_grub: grub,
    regen_initramfs: initramfs && f.initramfs?.regenerate !== false,
  }
}
