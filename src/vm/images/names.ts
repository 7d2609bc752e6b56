/**
 * Names in the cache. `<name>@<origin>.<hash>.<format>`: origin is the beginning of the SHA-256 of the URL or path that an image came from,
 * hash that of its content. So a template whose URL or content changes gets another file, and a lost record can be made again from the
 * file alone.
 */
import { join } from 'node:path'
import type { Template } from '../../config/index.ts'
import { sha256Hex } from '../../text/sha256.ts'
import { VmError } from '../types.ts'
import type { ImageFormat } from './types.ts'

/** Origin of what was put in by hand. */
export const BY_HAND = '00000000'

export interface ImageName {
  name: string
  origin: string
  /** first 12 digits of the content's SHA-256 */
  hash: string
  format: ImageFormat
}

export function fileName(n: { name: string; origin: string; sha256: string; format: ImageFormat }): string {
  return `${n.name}@${n.origin}.${n.sha256.slice(0, 12)}.${n.format}`
}

export function parseFileName(file: string): ImageName | undefined {
  const m = /^([A-Za-z0-9][A-Za-z0-9_.-]{0,127})@([0-9a-f]{8})\.([0-9a-f]{12})\.(qcow2|raw)$/.exec(file)
  return m ? { name: m[1]!, origin: m[2]!, hash: m[3]!, format: m[4] as ImageFormat } : undefined
}

export function originOf(t: Pick<Template, 'url' | 'path'>): string {
  return sha256Hex(t.url ?? t.path ?? '').slice(0, 8)
}

/** @throws {VmError} image-invalid */
export function requireName(name: string): void {
  if (/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/.test(name)) return
  throw new VmError(
    `${JSON.stringify(name.slice(0, 160))} cannot be the name of an image: it must be 1 to 128 letters, digits, "_", "." and "-", and begin with a letter or digit.`,
    { code: 'image-invalid' },
  )
}

/** A URL as it may be shown and written down: without user, password, query (signed URLs) and fragment. */
export function shown(source: string): string {
  if (!/^https?:/i.test(source)) return source
  const u = URL.parse(source)
  return u ? `${u.origin}${u.pathname}` : '(a URL that cannot be read)'
}

/** Folders of the cache beside the images themselves. */
export function folders(dir: string): { partial: string; locks: string } {
  return { partial: join(dir, 'partial'), locks: join(dir, 'locks') }
}
