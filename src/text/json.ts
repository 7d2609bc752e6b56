import { defaultLimits, type Limits, type Places, type Problem, protoMessage, type Reading } from './source.ts'

/*
 * A strict JSON reader (RFC 8259) for one top-level object. JSON.parse cannot serve: it hides duplicate keys, sets
 * prototypes in careless hands, and does not say whether an error lies at the end of the input, which is how a file
 * that is still being written is told from a wrong one.
 *
 * Exactness: the grammar alone decides between "incomplete" and "invalid", so no proper prefix of a JSON object is ever
 * invalid. Whatever else is wrong (duplicate keys, depth, …) is reported once the object is complete.
 *
 * It does not recurse, and keeps one small integer per level beyond the depth limit: a megabyte of "[" costs megabytes.
 */

const expecting = { value: 0, firstKey: 1, key: 2, colon: 3, comma: 4, firstItem: 5, end: 6 } as const

interface Frame {
  container: Record<string, unknown> | unknown[]
  places: Map<string | number, readonly [number, number]>
  key: string
  keyAt: number
}

class Stop {
  readonly reading: Reading
  constructor(reading: Reading) {
    this.reading = reading
  }
}

export function readJson(text: string, limits: Limits = defaultLimits): Reading {
  const problems: Problem[] = []
  const places: Places = new WeakMap()
  const frames: Frame[] = []
  const isList: boolean[] = [] // one per open container, also beyond the depth limit, where no frame is kept
  let root: Record<string, unknown> | undefined
  let at = 0
  let values = 0
  let expect: number = expecting.value
  let pendingKey = ''
  let pendingKeyAt = 0

  const cut = (message: string) => new Stop({ state: 'incomplete', offset: text.length, message })
  const wrong = (offset: number, message: string) => new Stop({ state: 'invalid', offset, message, partial: root })
  const path = () => {
    const steps: (string | number)[] = []
    for (let i = 0; i < frames.length; i++) {
      const { container, key } = frames[i]!
      const last = i === frames.length - 1
      steps.push(Array.isArray(container) ? (last ? container.length : container.length - 1) : key)
    }
    return steps
  }
  const say = (offset: number, message: string, severity: 'error' | 'warning' = 'error') => {
    if (problems.length < 100) problems.push({ offset, path: path(), message, severity })
  }
  /** Are values here kept, or only checked for grammar? */
  const kept = () => frames.length === isList.length && values <= limits.values

  const put = (value: unknown, offset: number) => {
    if (++values === limits.values + 1) say(offset, `The file holds more than ${limits.values} values.`)
    if (!kept()) return
    const frame = frames.at(-1)
    if (frame === undefined) {
      root = value as Record<string, unknown>
      return
    }
    if (Array.isArray(frame.container)) {
      frame.places.set(frame.container.length, [offset, offset])
      frame.container.push(value)
    } else if (frame.key === '__proto__') say(frame.keyAt, protoMessage)
    else {
      frame.places.set(frame.key, [frame.keyAt, offset])
      frame.container[frame.key] = value
    }
  }

  const open = (list: boolean) => {
    const container: Record<string, unknown> | unknown[] = list ? [] : {}
    const offset = at++
    const keep = kept() && isList.length < limits.depth
    if (kept() && isList.length === limits.depth)
      say(offset, `Nested more than ${limits.depth} levels deep; no manifest needs that.`)
    const hidden = frames.at(-1)?.key === '__proto__' && !Array.isArray(frames.at(-1)!.container)
    put(container, offset)
    isList.push(list)
    if (keep && kept0() && !hidden) {
      const frame: Frame = { container, places: new Map(), key: '', keyAt: 0 }
      places.set(container, frame.places)
      frames.push(frame)
    }
    expect = list ? expecting.firstItem : expecting.firstKey
  }
  /** As kept(), just after a container was pushed on isList but not yet on frames. */
  const kept0 = () => frames.length === isList.length - 1 && values <= limits.values

  const close = () => {
    at++
    if (frames.length === isList.length) frames.pop()
    isList.pop()
    expect = isList.length === 0 ? expecting.end : expecting.comma
  }

  /** Reads the string that starts at `at`; returns its value. Grammar is checked here, JSON.parse only decodes. */
  const string = (): string => {
    const start = at
    let i = at + 1
    let escaped = false
    for (;;) {
      if (i >= text.length) throw cut('The text ends inside a string.')
      const c = text.charCodeAt(i)
      if (c === 34) break
      if (c < 32)
        throw wrong(i, `A string contains the control character U+${hex4(c)}; write it as an escape such as "\\n".`)
      if (c === 92) {
        escaped = true
        if (i + 1 >= text.length) throw cut('The text ends inside a string.')
        const e = text[i + 1]!
        if (e === 'u') {
          for (let k = 2; k < 6; k++) {
            if (i + k >= text.length) throw cut('The text ends inside a string.')
            if (!/[0-9a-fA-F]/.test(text[i + k]!)) throw wrong(i, 'A \\u escape needs four hexadecimal digits.')
          }
          i += 6
        } else if ('"\\/bfnrt'.includes(e)) i += 2
        else throw wrong(i, `JSON knows no escape "\\${printable(e)}" in a string; write "\\\\" for a backslash.`)
      } else i++
    }
    at = i + 1
    return escaped ? (JSON.parse(text.slice(start, at)) as string) : text.slice(start + 1, i)
  }

  const number = (): number => {
    const start = at
    const digits = () => {
      const from = at
      while (at < text.length && isDigit(text.charCodeAt(at))) at++
      if (at >= text.length) throw cut('The text ends inside a number.')
      if (at === from) throw wrong(at, `A digit was expected in a number, not ${show1(text, at)}.`)
    }
    if (text[at] === '-') at++
    if (text[at] === '0') {
      at++
      if (isDigit(text.charCodeAt(at))) throw wrong(start, 'A number must not start with 0.')
    } else digits()
    if (text[at] === '.') {
      at++
      digits()
    }
    if (text[at] === 'e' || text[at] === 'E') {
      at++
      if (text[at] === '+' || text[at] === '-') at++
      digits()
    }
    if (at >= text.length) throw cut('The text ends inside a number.')
    const written = text.slice(start, at)
    const value = Number(written)
    if (!Number.isFinite(value)) say(start, `The number ${short(written)} is too large.`)
    else if (Number.isInteger(value) && !Number.isSafeInteger(value))
      say(start, `The number ${short(written)} is too large to be kept exactly (over 2^53).`, 'warning')
    return value
  }

  const value = () => {
    const c = text[at]!
    if (c === '{') return open(false)
    if (c === '[') return open(true)
    const offset = at
    if (c === '"') put(string(), offset)
    else if (c === '-' || isDigit(c.charCodeAt(0))) put(number(), offset)
    else {
      const word = ({ t: 'true', f: 'false', n: 'null' } as Record<string, string>)[c]
      const found = word === undefined ? '' : text.slice(at, at + word.length)
      if (word === undefined || !word.startsWith(found)) throw wrong(at, unexpected(text, at, 'a value'))
      at += word.length
      if (found !== word) throw cut('The text ends inside a word.')
      put(c === 'n' ? null : c === 't', offset)
    }
    expect = expecting.comma
  }

  const key = () => {
    if (text[at] !== '"') throw wrong(at, unexpected(text, at, 'a key in double quotes'))
    pendingKeyAt = at
    pendingKey = string()
    if (frames.length === isList.length) {
      const frame = frames.at(-1)!
      frame.key = pendingKey
      frame.keyAt = pendingKeyAt
      if (frame.places.has(pendingKey))
        say(pendingKeyAt, `The key ${JSON.stringify(pendingKey)} stands twice in one object; only one can be meant.`)
    }
    expect = expecting.colon
  }

  try {
    for (;;) {
      while (at < text.length && isSpace(text.charCodeAt(at))) at++
      if (at >= text.length) {
        if (expect === expecting.end && root !== undefined) return { state: 'complete', value: root, places, problems }
        throw cut(
          isList.length === 0
            ? 'The file is empty.'
            : `The text ends before the ${isList.length === 1 ? 'object' : 'objects and lists in it'} ended.`,
        )
      }
      const c = text[at]!
      if (expect === expecting.end)
        throw wrong(at, `After the end of the object comes ${show1(text, at)}; a file holds one object.`)
      if (isList.length === 0) {
        if (c !== '{') throw wrong(at, `A JSON manifest starts with "{", not with ${show1(text, at)}.`)
        open(false)
      } else if (expect === expecting.firstKey && c === '}') close()
      else if (expect === expecting.firstKey || expect === expecting.key) key()
      else if (expect === expecting.colon) {
        if (c !== ':') throw wrong(at, unexpected(text, at, '":" after a key'))
        at++
        expect = expecting.value
      } else if (expect === expecting.firstItem && c === ']') close()
      else if (expect === expecting.value || expect === expecting.firstItem) value()
      else if (c === ',') {
        at++
        expect = isList.at(-1) ? expecting.value : expecting.key
      } else if (c === (isList.at(-1) ? ']' : '}')) close()
      else throw wrong(at, unexpected(text, at, isList.at(-1) ? '"," or "]"' : '"," or "}"'))
    }
  } catch (stop) {
    if (stop instanceof Stop) return stop.reading
    throw stop
  }
}

const isSpace = (c: number) => c === 32 || c === 10 || c === 13 || c === 9
const isDigit = (c: number) => c >= 48 && c <= 57
const hex4 = (c: number) => c.toString(16).toUpperCase().padStart(4, '0')
const short = (s: string) => (s.length > 40 ? `${s.slice(0, 40)}…` : s)
const printable = (c: string) => (c < ' ' || c > '~' ? `U+${hex4(c.codePointAt(0)!)}` : c)

function show1(text: string, at: number): string {
  const c = text.codePointAt(at)
  if (c === undefined) return 'the end of the text'
  if (c === 0) return 'a NUL byte'
  return c <= 32 || (c >= 0x7f && c < 0xa0) ? `U+${hex4(c)}` : `"${String.fromCodePoint(c)}"`
}

function unexpected(text: string, at: number, wanted: string): string {
  const c = text[at]
  const hint =
    c === '/' || c === '#'
      ? ' JSON knows no comments.'
      : c === "'"
        ? ' JSON strings stand in double quotes.'
        : (c === '}' || c === ']') && wanted !== '"," or "]"' && wanted !== '"," or "}"'
          ? ' Is there a comma too many?'
          : ''
  return `Expected ${wanted}, but found ${show1(text, at)}.${hint}`
}
