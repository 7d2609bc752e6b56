/** Files of NAME=value lines, read as systemd reads EnvironmentFile (systemd.exec(5), and parse_env_file_internal() of its source). */

export class EnvFileError extends Error {
  /** from 1 */
  readonly line: number
  constructor(line: number, message: string) {
    super(message)
    this.name = 'EnvFileError'
    this.line = line
  }
}

/**
 * Lines that begin with # or ; are comments. A backslash at the end of a line joins the next one. In double quotes a backslash keeps its
 * meaning before " \ ` $ and at the end of a line only; in single quotes it has none; outside it makes the next character plain. White
 * space around an unquoted value is not part of it. Nothing is expanded.
 * @throws {EnvFileError} a line without "=", or a name that no variable can have. The message never holds a value.
 */
export function parseEnvFile(text: string): Record<string, string> {
  const out: Record<string, string> = {}
  let at = 0
  let line = 1
  const next = (): string | undefined => {
    const c = text[at++]
    if (c === '\n') line += 1
    return c
  }
  if (text.charCodeAt(0) === 0xfeff) at = 1
  while (at < text.length) {
    const c = text[at]!
    if (/\s/.test(c)) {
      next()
      continue
    }
    if (c === '#' || c === ';') {
      for (let x = next(); x !== undefined && x !== '\n'; x = next()) if (x === '\\') next()
      continue
    }
    const began = line
    let name = ''
    let x = next()
    while (x !== undefined && x !== '=' && x !== '\n') {
      name += x
      x = next()
    }
    if (x !== '=') throw new EnvFileError(began, 'There is no "=" in it.')
    name = name.trimEnd()
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
      throw new EnvFileError(began, 'What stands before "=" is no name of a variable.')
    const value = readValue(next, () => text[at])
    out[name] = value
    if (value.includes('\0')) throw new EnvFileError(began, `The value of ${name} holds a NUL character.`)
  }
  return out
}

function readValue(next: () => string | undefined, peek: () => string | undefined): string {
  let value = ''
  /** how much of the value is there for sure; white space behind it may be the end of the line's */
  let solid = 0
  while (peek() !== undefined && peek() !== '\n' && /\s/.test(peek()!)) next()
  for (let c = next(); c !== undefined && c !== '\n'; c = next()) {
    if (c === '\\') {
      const escaped = next()
      if (escaped === undefined) break
      if (escaped !== '\n') value += escaped
      solid = value.length
    } else if (c === "'") {
      for (let q = next(); q !== undefined && q !== "'"; q = next()) value += q
      solid = value.length
    } else if (c === '"') {
      for (let q = next(); q !== undefined && q !== '"'; q = next()) {
        if (q !== '\\') value += q
        else {
          const escaped = next()
          if (escaped === undefined) break
          if (escaped !== '\n') value += /["\\`$]/.test(escaped) ? escaped : `\\${escaped}`
        }
      }
      solid = value.length
    } else {
      value += c
      if (!/\s/.test(c)) solid = value.length
    }
  }
  return value.slice(0, solid)
}
