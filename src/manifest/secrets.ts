/**
 * Secrets that were written into a manifest where they would be stored in clear. Such a manifest is refused, and before anything else is said
 * of it each of them is replaced, so that no message, record, status, result, log or copy can hold it.
 */
import { looksSecret } from '../text/secret.ts'
import type { Say } from './prepare.ts'

const MASK = '********'

const isObject = (v: unknown): v is Record<string, unknown> => typeof v === 'object' && v !== null && !Array.isArray(v)

/**
 * Finds them in `command.env`, wherever a command stands (a batch has manifests in it), replaces them in place and says how it is done.
 * @returns whether there were any
 */
export function takeSecrets(root: Record<string, unknown>, say: Say): boolean {
  let found = false
  const visit = (value: unknown, path: (string | number)[]): void => {
    if (Array.isArray(value)) for (const [i, x] of value.entries()) visit(x, [...path, i])
    if (!isObject(value)) return
    for (const [key, inner] of Object.entries(value)) {
      if (key === 'command' && isObject(inner) && isObject(inner.env)) take(inner.env, [...path, key, 'env'])
      visit(inner, [...path, key])
    }
  }
  const take = (env: Record<string, unknown>, path: (string | number)[]): void => {
    for (const [name, value] of Object.entries(env)) {
      if (!looksSecret(name) || isObject(value) || value === null || value === '') continue
      env[name] = MASK
      found = true
      say(
        'error',
        [...path, name],
        `The variable ${name} looks like a secret, and a manifest is kept in clear. Leave its value out: name a file with it in command.env_file, ` +
          `or give it as a credential: command.credentials: {${name}: /path/of/a/file} and env: {${name}: {credential: ${name}}}.`,
        { at: 'key' },
      )
    }
  }
  visit(root, [])
  return found
}

const ASSIGNED =
  /(?<![\w.-])([A-Za-z_][\w.-]{0,99})(\\?["']?\s{0,9}[:=]\s{0,99})(\\?["'](?:[^"'\\]|\\.)*\\?["']?|[^\s{["'][^\n}]*)/g

/** A text without what follows the names of secrets: parsers quote the line at which they stop. */
export function withoutSecrets(text: string): string {
  return text.replace(ASSIGNED, (all, name: string, between: string) =>
    looksSecret(name) ? name + between + MASK : all,
  )
}

/** What is kept of a file that cannot be read as data and seems to hold secrets: nothing. undefined: it seems to hold none. */
export function notKept(text: string): string | undefined {
  for (const [, name] of text.matchAll(ASSIGNED)) {
    if (name !== undefined && looksSecret(name))
      return `The file is not kept: it could not be read, and what follows "${name}" in it looks like a secret.\n`
  }
  return undefined
}
