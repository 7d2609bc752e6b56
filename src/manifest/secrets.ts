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
 * @returns their texts
 */
export function takeSecrets(root: Record<string, unknown>, say: Say): string[] {
  const found: string[] = []
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
      const texts = Array.isArray(value) ? value : [value]
      for (const text of texts) if (text !== '' && text !== MASK) found.push(String(text))
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

/** What follows the name of a secret in a text that could not be read as data: parsers quote the line at which they stop. */
export function withoutSecrets(text: string): string {
  return text.replace(
    /([A-Za-z_][\w.-]*)(\\?["']?\s*[:=]\s*)(\\?["'](?:[^"'\\]|\\.)*\\?["']?|[^\s,}\]]+)/g,
    (all, name: string, between: string) => (looksSecret(name) ? name + between + MASK : all),
  )
}

/** A text with these secrets in it, as they are and as JSON writes them, without them. */
export function masked(text: string, secrets: readonly string[]): string {
  let out = text
  for (const s of [...secrets].sort((a, b) => b.length - a.length))
    for (const form of new Set([s, JSON.stringify(s).slice(1, -1)])) out = out.replaceAll(form, MASK)
  return withoutSecrets(out)
}
