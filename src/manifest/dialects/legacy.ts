import { z } from 'zod'
import { pathText, show } from '../../text/diagnostic.ts'
import { common } from '../kinds/common.ts'
import { convertManifest } from '../kinds/convert.ts'
import {
  absolutePath,
  type Dialect,
  filePath,
  firstName,
  given,
  notDone,
  outputFormat,
  type Path,
  stemOf,
  type TranslateContext,
  typeByName,
} from './parts.ts'

/*
 * hyper2kvm's first manifest (contracts.md A4, the third dialect): `version`, one `source` with its own checksum object, `output`. Its
 * `pipeline`, `configuration` and `options` are those that Artifact Manifest 1.0 took over.
 */

const { pipeline, configuration, options, vm, nics, libvirt_integration } = convertManifest.shape
const { $schema, name, priority, not_before, timeout, retry, labels } = common

/** A disk lies in a file; these say nothing about its format. */
const anyFile = new Set(['file', 'local', 'disk', 'image'])
const known = ['vmdk', 'ova', 'ovf', 'vhd', 'vhdx', 'raw', 'qcow2', 'vdi']
const remote = ['vsphere', 'vmware', 'esxi', 'azure', 'aws', 'gcp', 'hyperv', 'libvirt']

const typed = z
  .string()
  .refine((t) => known.includes(t) || anyFile.has(t), {
    error: (issue) =>
      remote.includes(String(issue.input))
        ? 'must be a kind of file: vmspool connects to no hypervisor and no cloud. Export the VM first (hyperexport), and drop the manifest of the export'
        : `must be one of ${known.join(', ')}`,
  })
  .meta({ examples: known })

const schema = z.looseObject({
  $schema,
  version: z.string().min(1),
  name,
  priority,
  not_before,
  timeout,
  retry,
  labels,
  metadata: z.looseObject({ name: z.string().optional() }).optional(),
  source: z.looseObject({
    type: typed.optional(),
    path: filePath,
    format: typed.optional(),
    bytes: z.int().min(0).optional(),
    checksum: z
      .looseObject({
        algorithm: z
          .string()
          .refine((a) => /^sha-?256$/i.test(a), { error: 'must be sha256: no other checksum is verified' }),
        value: z.string().refine((v) => /^[a-fA-F0-9]{64}$/.test(v), { error: 'must be 64 hexadecimal digits' }),
      })
      .optional(),
  }),
  output: z
    .looseObject({
      directory: z.string().optional(),
      format: outputFormat.optional(),
      filename: z.string().optional(),
      compress: z.boolean().optional(),
      compress_level: z.int().min(0).max(9).optional(),
    })
    .optional(),
  vm,
  nics,
  pipeline,
  configuration,
  options,
  libvirt_integration,
})
type Legacy = z.output<typeof schema>

export const legacy: Dialect = {
  name: 'a manifest of the older form with source.type and source.path',
  kind: 'convert',
  schema,
  translate(root, c) {
    const m = root as Legacy
    const { source, output } = m
    const path = absolutePath(source.path, ['source', 'path'], c)
    skipped(m, c)
    return given({
      manifest_version: '1.0',
      name: m.name ?? firstName(stemOf(output?.filename), m.metadata?.name, stemOf(source.path)) ?? 'vm',
      priority: m.priority,
      not_before: m.not_before,
      timeout: m.timeout,
      retry: m.retry,
      labels: m.labels,
      source: { provider: 'local' },
      disks: [
        given({
          id: 'disk-0',
          source_format: formatOf(source, c),
          bytes: source.bytes,
          local_path: path ?? source.path,
          checksum: source.checksum && `sha256:${source.checksum.value.toLowerCase()}`,
        }),
      ],
      output: given({ directory: output?.directory, format: output?.format, filename: output?.filename }),
      compress: output?.compress ?? m.pipeline?.convert?.compress,
      vm: m.vm,
      nics: m.nics,
      pipeline: m.pipeline,
      configuration: m.configuration,
      options: m.options,
      libvirt_integration: m.libvirt_integration,
    })
  },
}

/** `format` says how the disk is written; `type` says it too, unless it names an appliance or just any file. */
function formatOf(s: Legacy['source'], c: TranslateContext): string | undefined {
  const type = s.type === undefined || anyFile.has(s.type) ? undefined : s.type
  const format = s.format === undefined || anyFile.has(s.format) ? undefined : s.format
  if (type === 'ova' || type === 'ovf') return type // the format is then that of the disks in it
  if (type !== undefined && format !== undefined && type !== format) {
    const at: Path = ['source', 'format']
    c.say('error', at, `${pathText(at)} is ${show(format)} and source.type is ${show(type)}; a disk has one format.`)
    return undefined
  }
  return format ?? type ?? typeByName(s.path, ['source', 'path'], c)
}

/** Switches that Artifact Manifest 1.0 has not. */
function skipped(m: Legacy, c: TranslateContext): void {
  const p = m.pipeline as Record<string, Record<string, unknown> | undefined> | undefined
  const asked = (stage: string, key: string): boolean => {
    const v = p?.[stage]?.[key]
    return v !== undefined && v !== false
  }
  const boot = 'a conversion boots no guest; the image is checked and compared'
  if (asked('validate', 'smoke_test')) notDone(c, ['pipeline', 'validate', 'smoke_test'], boot)
  if (asked('validate', 'verify_bootability')) notDone(c, ['pipeline', 'validate', 'verify_bootability'], boot)
  if (asked('fix', 'network_fixes'))
    notDone(c, ['pipeline', 'fix', 'network_fixes'], 'there is no switch of its own for network settings')
}
