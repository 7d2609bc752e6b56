import type { z } from 'zod'
import { kindOf, pathText, show } from '../text/diagnostic.ts'
import { nearest } from '../text/nearest.ts'

type Issue = z.core.$ZodIssue

const names: Record<string, string> = {
  string: 'a text',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'an object',
  record: 'an object',
}

export interface Sentence {
  message: string
  allowed?: readonly string[]
  suggestion?: string
}

/**
 * A zod issue as a full sentence that names the field, the value and what is allowed. A message that a schema gives
 * itself is kept: a part that starts with "must", "should" or "is" is put behind path and value; Go's wording stands alone.
 */
export function sentenceOf(issue: Issue, value: unknown): Sentence {
  const path = pathText(issue.path as (string | number)[])
  const found = value === undefined ? `${path} is missing` : `${path} is ${scalar(value) ? show(value) : kindOf(value)}`
  const allowed = allowedBy(issue)
  const suggestion =
    allowed !== undefined && allowed.length > 1 && typeof value === 'string' ? nearest(value, allowed) : undefined
  const hint = suggestion === undefined ? '' : ` Did you mean "${suggestion}"?`
  const more = { ...(allowed && { allowed }), ...(suggestion !== undefined && { suggestion }) }
  if (own(issue)) {
    const text = /^(?:must|should) /.test(issue.message)
      ? `${found}; it ${issue.message}.`
      : /^is /.test(issue.message)
        ? `${path} ${show(value)} ${issue.message}.`
        : issue.message.startsWith('"') || issue.message.startsWith('{')
          ? `${path}: ${issue.message}.`
          : issue.message
    return {
      message: text + (allowed && !text.includes(allowed[0]!) ? ` Allowed: ${allowed.join(', ')}.` : '') + hint,
      ...more,
    }
  }
  return { message: `${found}; it must be ${wanted(issue, allowed)}.${hint}`, ...more }
}

const scalar = (v: unknown) => v === null || typeof v !== 'object'

/** Zod's own messages start like this; everything else was written in a schema. */
const own = (issue: Issue) => !/^(?:Invalid|Too (?:small|big)|Unrecognized)/.test(issue.message)

function allowedBy(issue: Issue): readonly string[] | undefined {
  if (issue.code === 'invalid_value') return issue.values.map((v) => String(v))
  if (issue.code === 'invalid_type' && issue.expected === 'boolean') return ['true', 'false']
  return undefined
}

function wanted(issue: Issue, allowed: readonly string[] | undefined): string {
  switch (issue.code) {
    case 'invalid_value':
      return allowed!.length === 1 ? `"${allowed![0]}"` : `one of ${allowed!.join(', ')}`
    case 'invalid_type':
      return names[issue.expected] ?? `a ${issue.expected}`
    case 'too_small':
      return issue.origin === 'string' || issue.origin === 'array'
        ? `at least ${issue.minimum} ${issue.origin === 'string' ? 'characters long' : 'long'}`
        : `${issue.minimum} or more`
    case 'too_big':
      return issue.origin === 'string' || issue.origin === 'array'
        ? `at most ${issue.maximum} ${issue.origin === 'string' ? 'characters' : 'items'} long`
        : `${issue.maximum} or less`
    case 'invalid_format':
      return issue.format === 'regex' ? `of the form ${issue.pattern}` : `a valid ${issue.format}`
    default:
      return 'something else'
  }
}
