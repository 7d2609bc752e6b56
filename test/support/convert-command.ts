import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'

const vmspool = join(import.meta.dirname, '../../bin/vmspool')

export interface ConvertRequest {
  source: string
  /** vmdk, ova, raw, … */
  format: string
  /** folder for the results */
  out: string
  name: string
  /** more of the manifest: `compress`, `convert`, `validate`, `output` */
  manifest?: Record<string, unknown>
  /** configuration by environment, e.g. VMSPOOL_CONVERT_WORKERS */
  env?: Record<string, string>
}

/** argv of `vmspool convert` for the request, whose manifest is written into `out`'s parent. */
export async function convertArgv(r: ConvertRequest): Promise<string[]> {
  const file = `${r.out}.manifest.json`
  const disks = [{ id: 'disk-0', source_format: r.format, local_path: r.source }]
  await writeFile(file, JSON.stringify({ manifest_version: '1.0', name: r.name, disks, ...r.manifest }))
  return [vmspool, 'convert', file, '-o', r.out, '--direct', '--overwrite']
}

export interface ConvertDone {
  /** the whole command's */
  ms: number
  // biome-ignore lint/suspicious/noExplicitAny: read as a reader of the report would
  report: Record<string, any>
  image: string
}

/** Runs the command. @throws with its output when it fails */
export async function runConvert(r: ConvertRequest): Promise<ConvertDone> {
  const [file, ...args] = await convertArgv(r)
  const at = performance.now()
  // the command takes every VMSPOOL_ variable for a setting
  await execa(file!, args, { env: { VMSPOOL_GUEST_CACHE: undefined, ...r.env } })
  const ms = performance.now() - at
  const format = (r.manifest?.output as { format?: string } | undefined)?.format ?? 'qcow2'
  const report = JSON.parse(await readFile(join(r.out, `${r.name}.report.json`), 'utf8'))
  return { ms, report, image: join(r.out, `${r.name}.${format}`) }
}
