import type { z } from 'zod'
import { nearest } from '../text/nearest.ts'
import { pathText } from '../text/diagnostic.ts'
import type { Reading } from '../text/source.ts'
import { elementOf, shapeOf, typeOf, unwrap, valueTypeOf } from './shape.ts'

export type Say = (
  severity: 'error' | 'warning',
  path: (string | number)[],
  message: string,
  more?: { suggestion?: string; allowed?: readonly string[]; at?: 'key' | 'value' },
) => void

const mostUnknown = 50

/** The text of scalars in YAML that were read as something else (see `Reading`). */
export type Written = (Reading & { state: 'complete' })['written']

/**
 * Walks a manifest beside its schema before it is checked, and settles what differs between writers and not in meaning:
 *
 * - null is "not given" (Go decodes null into the zero value and leaves it out when it writes),
 * - so is an empty string in an optional field: Go's validator skips those,
 * - a YAML scalar in a text field is taken as it was written (`manifest_version: 1.0`, `vm_name: 0042`), as Go's decoder does,
 * - unknown keys stay, and are reported with what was probably meant.
 *
 * Works on the value in place: it was read from text a moment ago and belongs to nobody else.
 */
export function prepare(root: Record<string, unknown>, schema: z.ZodType, written: Written, say: Say): void {
  let unknown = 0
  const visit = (
    holder: Record<string | number, unknown>,
    key: string | number,
    raw: z.ZodType,
    path: (string | number)[],
  ) => {
    const { schema: inner, optional } = unwrap(raw)
    const value = holder[key]
    if (value === null && optional) {
      delete holder[key]
      return
    }
    const type = typeOf(inner)
    if (type === 'string' || type === 'enum' || type === 'literal') {
      if (value === '' && optional) delete holder[key]
      else if (typeof value === 'number' || typeof value === 'boolean') {
        const text = written?.get(holder)?.get(key)
        if (text !== undefined) holder[key] = text
      }
      return
    }
    if (type === 'union') {
      if (value === '' && optional) delete holder[key]
      return
    }
    if (typeof value !== 'object' || value === null) return
    const shape = shapeOf(inner)
    if (shape !== undefined && !Array.isArray(value)) return object(value as Record<string, unknown>, shape, path)
    const item = elementOf(inner) ?? valueTypeOf(inner)
    if (item === undefined || Array.isArray(value) !== (type === 'array')) return
    const container = value as Record<string | number, unknown>
    if (Array.isArray(value)) for (let i = 0; i < value.length; i++) visit(container, i, item, [...path, i])
    else for (const k of Object.keys(value)) visit(container, k, item, [...path, k])
  }

  const object = (value: Record<string, unknown>, shape: Record<string, z.ZodType>, path: (string | number)[]) => {
    const free: string[] = []
    for (const key of Object.keys(value)) {
      if (Object.hasOwn(shape, key)) visit(value, key, shape[key]!, [...path, key])
      else free.push(key)
    }
    for (const key of free) {
      if (++unknown > mostUnknown) continue
      const missing = Object.keys(shape).filter((k) => !Object.hasOwn(value, k))
      const suggestion = nearest(key, missing)
      const hint = suggestion === undefined ? '' : ` Did you mean "${suggestion}"?`
      say(
        'warning',
        [...path, key],
        `${pathText([...path, key])} is not a known field; it is kept, and nothing acts on it.${hint}`,
        {
          suggestion,
          at: 'key',
        },
      )
    }
  }

  object(root, shapeOf(schema)!, [])
  if (unknown > mostUnknown) say('warning', [], `There are ${unknown - mostUnknown} more fields that are not known.`)
}
