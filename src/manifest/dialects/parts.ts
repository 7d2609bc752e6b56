import { basename, extname, isAbsolute, resolve } from 'node:path'
import { z } from 'zod'
import { pathText, show } from '../../text/diagnostic.ts'
import type { Say } from '../prepare.ts'
import { safeName } from '../safe-name.ts'

/* What the dialects have in common: how they are described, and the parts of which their fields are made. */

/** What a translation is told, and how it speaks about the original's fields. */
export interface TranslateContext {
  /** name of the file, for what is called after it */
  fileName: string
  /** where a relative path starts from; undefined: nobody knows */
  folder: string | undefined
  say: Say
}

/** One of the forms in which HyperSDK and hyper2kvm write down a job, and how it becomes a manifest of ours. */
export interface Dialect {
  /** as the end of "This is …" */
  name: string
  schema: z.ZodObject
  kind: 'convert' | 'batch'
  /** the list whose items become the VMs of a batch */
  list?: 'vms' | 'jobs'
  /** The canonical manifest of a checked original. Errors are said, and the result is then not used. */
  translate(root: Record<string, unknown>, c: TranslateContext): Record<string, unknown>
}

export type Path = (string | number)[]

const formats = ['vmdk', 'ova', 'ovf', 'vhd', 'vhdx', 'raw', 'qcow2', 'vdi'] as const
export type SourceType = (typeof formats)[number]

/** Why an AMI is refused; hyper2kvm's extractor unpacks a tar archive and guesses which member is the disk (contracts A4). */
const ami =
  'must be a disk or an appliance: an AMI is an image at AWS, or a tar archive of which nothing says which member is the disk. Export or unpack it, and name the image in it with its format, such as raw'

export const sourceType = z
  .enum([...formats, 'ami'])
  .refine((t) => t !== 'ami', { error: ami })
  .meta({ description: 'ami is refused: unpack it and name the image.' })

export const outputFormat = z
  .enum(['qcow2', 'raw', 'vdi', 'vmdk'])
  .refine((f) => f !== 'vmdk', { error: 'must be qcow2, raw or vdi: vmspool writes no VMDK' })

export const filePath = z
  .string()
  .min(1)
  .max(4096)
  .refine((p) => !p.includes('\0') && p.isWellFormed(), {
    error: 'must not contain NUL or broken Unicode: no file can have that name',
  })

export const fstabMode = z.enum(['stabilize-all', 'bypath-only', 'noop'])

/** A path made absolute. Says an error and returns undefined where nobody knows from where. */
export function absolutePath(path: string, at: Path, c: TranslateContext): string | undefined {
  if (isAbsolute(path)) return resolve(path)
  if (c.folder !== undefined && path !== '~' && !path.startsWith('~/')) return resolve(c.folder, path)
  const why = path.startsWith('~')
    ? '"~" is nobody\'s home in a queue'
    : 'this manifest has no folder of its own to start from'
  c.say('error', at, `${pathText(at)} is ${show(path)}; it must be an absolute path: ${why}.`)
  return undefined
}

const byExtension: Readonly<Record<string, SourceType | 'ami'>> = {
  '.vmdk': 'vmdk',
  '.ova': 'ova',
  '.ovf': 'ovf',
  '.vhd': 'vhd',
  '.vhdx': 'vhdx',
  '.vdi': 'vdi',
  '.qcow2': 'qcow2',
  '.raw': 'raw',
  '.img': 'raw',
  '.ami': 'ami',
}

/** The format that a file's name tells. Says an error and returns undefined when it tells none. */
export function typeByName(path: string, at: Path, c: TranslateContext): SourceType | undefined {
  // what is packed with gzip is unpacked by the conversion
  const type = byExtension[extname(path.replace(/\.gz$/i, '')).toLowerCase()]
  if (type !== undefined && type !== 'ami') return type
  const what = type === 'ami' ? `${ami}.` : `end in one of ${Object.keys(byExtension).slice(0, -1).join(' ')}.`
  c.say(
    'error',
    at,
    type === 'ami'
      ? `${pathText(at)} is ${show(path)}; it ${what}`
      : `${pathText(at)} is ${show(path)}, which does not tell its format: it must ${what}`,
  )
  return undefined
}

/** The last component of a path without its extension: never a folder, so nothing escapes. */
export function stemOf(path: string | undefined): string | undefined {
  if (path === undefined) return undefined
  const name = path.replace(/\.gz$/i, '')
  return basename(name, extname(name))
}

/** The first of these that can name answer files. */
export function firstName(...candidates: (string | undefined)[]): string | undefined {
  return candidates.find((n) => n !== undefined && safeName(n))
}

/** An object without the fields that say nothing. */
export function given<T extends Record<string, unknown>>(fields: T): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).filter(
      ([, v]) => v !== undefined && !(typeof v === 'object' && v !== null && !Array.isArray(v) && isEmpty(v)),
    ),
  )
}

const isEmpty = (v: object): boolean => Object.keys(v).length === 0

/** Letters, digits, "_" and "-" of a text, for an id that is made of it. */
export function idOf(text: string): string {
  return text.replace(/[^a-zA-Z0-9_-]+/g, '-').slice(0, 100) || 'job'
}

/** Says that a field is understood and that nothing here does what it asks for. */
export function notDone(c: TranslateContext, at: Path, why: string): void {
  c.say('warning', at, `${pathText(at)} is not acted on: ${why}.`, { at: 'key' })
}

/** How several VMs are run, in every dialect that has several. */
export const running = {
  parallel_limit: z.int().min(1).max(10_000).optional(),
  continue_on_error: z.boolean().optional(),
}
