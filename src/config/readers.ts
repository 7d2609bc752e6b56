import { isAbsolute, normalize } from 'node:path'
import { z } from 'zod'
import { nearest } from '../text/nearest.ts'
import {
  durationHint,
  durationPattern,
  durationText,
  parseDuration,
  parseSize,
  sizeHint,
  sizePattern,
} from '../text/units.ts'
import type { Template } from './types.ts'

type Read<T> =
  | { ok: true; value: T }
  | { ok: false; message: string /* "must be …" */; allowed?: readonly string[]; suggestion?: string }

/** How one kind of value is read: from YAML, or from the text of an environment variable. */
export interface Reader<T> {
  read(value: unknown): Read<T>
  /** What an environment variable or a `.conf` file says, as YAML would have given it. */
  fromText?(text: string): unknown
  /** For the JSON Schema: what may stand in the file. */
  schema: z.ZodType
  /** The value as one would write it. */
  write?(value: T): unknown
}

const ok = <T>(value: T): Read<T> => ({ ok: true, value })
const no = (message: string, allowed?: readonly string[], suggestion?: string): Read<never> => ({
  ok: false,
  message,
  allowed,
  suggestion,
})
const numeric = (text: string) => (/^\s*-?\d+(?:\.\d+)?\s*$/.test(text) ? Number(text) : text)

export function whole(min: number, max: number): Reader<number> {
  return {
    read: (v) =>
      typeof v === 'number' && Number.isInteger(v) && v >= min && v <= max
        ? ok(v)
        : no(`must be a whole number from ${min} to ${max}`),
    fromText: numeric,
    schema: z.int().min(min).max(max),
  }
}

/** A whole number, or "auto" for what fits this host. */
export function wholeOrAuto(min: number, max: number, auto: () => number): Reader<number> {
  const inner = whole(min, max)
  return {
    read: (v) =>
      v === 'auto'
        ? ok(auto())
        : inner.read(v).ok
          ? inner.read(v)
          : no(
              `must be a whole number from ${min} to ${max}, or "auto"`,
              undefined,
              typeof v === 'string' ? nearest(v, ['auto']) : undefined,
            ),
    fromText: numeric,
    schema: z.union([z.literal('auto'), inner.schema]),
  }
}

export function fraction(min: number, max: number): Reader<number> {
  return {
    read: (v) => (typeof v === 'number' && v >= min && v <= max ? ok(v) : no(`must be a number from ${min} to ${max}`)),
    fromText: numeric,
    schema: z.number().min(min).max(max),
  }
}

/** Milliseconds. */
export function duration(min: number, max: number): Reader<number> {
  return {
    read: (v) => {
      const ms = parseDuration(v)
      if (ms === undefined) return no(`must be ${durationHint}`)
      return ms >= min && ms <= max
        ? ok(ms)
        : no(`must be a duration from ${durationText(min)} to ${durationText(max)}`)
    },
    fromText: numeric,
    schema: z.union([z.number().min(0), z.string().regex(durationPattern)]),
    write: durationText,
  }
}

/** Milliseconds written as such: for keys that end in `_ms`. */
export function milliseconds(min: number, max: number): Reader<number> {
  const inner = duration(min, max)
  return {
    read: (v) => (typeof v === 'number' ? whole(min, max).read(v) : inner.read(v)),
    fromText: numeric,
    schema: z.union([z.int().min(min).max(max), z.string().regex(durationPattern)]),
  }
}

export function size(min: number, max: number): Reader<number> {
  return {
    read: (v) => {
      const bytes = parseSize(v)
      if (bytes === undefined) return no(`must be ${sizeHint}`)
      return bytes >= min && bytes <= max ? ok(bytes) : no(`must be a size from ${min} to ${max} bytes`)
    },
    fromText: numeric,
    schema: z.union([z.int().min(0), z.string().regex(sizePattern)]),
  }
}

const truth: Record<string, boolean> = {
  true: true,
  yes: true,
  on: true,
  '1': true,
  false: false,
  no: false,
  off: false,
  '0': false,
}

export const bool: Reader<boolean> = {
  read: (v) => {
    if (typeof v === 'boolean') return ok(v)
    const word = typeof v === 'string' || typeof v === 'number' ? truth[String(v).toLowerCase()] : undefined
    return word === undefined ? no('must be true or false', ['true', 'false']) : ok(word)
  },
  schema: z.boolean(),
}

/** One of some words. `aliases` are other spellings that mean one of them (true → on). */
export function choice<const T extends string>(words: readonly T[], aliases: Record<string, T> = {}): Reader<T> {
  const spellings = Object.keys(aliases)
  const booleans = spellings.filter((s) => s === 'true' || s === 'false')
  return {
    read: (v) => {
      const text = typeof v === 'string' || typeof v === 'boolean' ? String(v) : ''
      const word =
        words.find((w) => w === text.toLowerCase()) ??
        (Object.hasOwn(aliases, text.toLowerCase()) ? aliases[text.toLowerCase()] : undefined)
      return word === undefined ? no(`must be one of ${words.join(', ')}`, words, nearest(text, words)) : ok(word)
    },
    schema: booleans.length > 0 ? z.union([z.enum(words), z.boolean()]) : z.enum(words),
  }
}

export const onOff = choice(['on', 'off'], { true: 'on', yes: 'on', '1': 'on', false: 'off', no: 'off', '0': 'off' })

const nul = '\0'
const clean = (s: string) => !s.includes(nul) && s.isWellFormed()

export const text: Reader<string> = {
  read: (v) => (typeof v === 'string' && clean(v) ? ok(v) : no('must be a text')),
  schema: z.string(),
}

/** An absolute path, made plain (`/a/../b/` → `/b`). */
export const path: Reader<string> = {
  read: (v) => (typeof v === 'string' && isAbsolute(v) && clean(v) ? ok(plain(v)) : no('must be an absolute path')),
  schema: z.string().regex(/^\//),
}

const plain = (p: string) => normalize(p).replace(/(?<=.)\/+$/, '')

export const pathList: Reader<readonly string[]> = {
  read: (v) => {
    const list = typeof v === 'string' ? [v] : v
    const bad = 'must be a list of absolute paths'
    if (!Array.isArray(list) || list.length === 0 || list.length > 1000) return no(bad)
    const paths: string[] = []
    for (const item of list) {
      const one = path.read(item)
      if (!one.ok) return no(bad)
      paths.push(one.value)
    }
    return ok(paths)
  },
  fromText: (t) => t.split(':').filter((p) => p !== ''),
  schema: z.array(path.schema).min(1),
}

/** Path prefix → path prefix. */
export const pathMap: Reader<Readonly<Record<string, string>>> = {
  read: (v) => {
    const bad = 'must map absolute paths to absolute paths'
    if (typeof v !== 'object' || v === null || Array.isArray(v)) return no(bad)
    const map: Record<string, string> = {}
    for (const [from, to] of Object.entries(v)) {
      const a = path.read(from)
      const b = path.read(to)
      if (!a.ok || !b.ok) return no(bad)
      map[a.value] = b.value
    }
    return ok(map)
  },
  fromText: (t) =>
    Object.fromEntries(
      t
        .split(',')
        .filter(Boolean)
        .map((pair) => pair.split('=', 2)),
    ),
  schema: z.record(z.string(), z.string()),
}

/** Name of a network at the source → a libvirt network, or `bridge:NAME`. */
export const networkMap: Reader<Readonly<Record<string, string>>> = {
  read: (v) => {
    const bad = 'must map names of networks to names of libvirt networks, or to "bridge:NAME"'
    if (typeof v !== 'object' || v === null || Array.isArray(v)) return no(bad)
    const named = Object.entries(v).every(([, to]) => typeof to === 'string' && /^(bridge:)?[^:/\s]+$/.test(to))
    return named ? ok(v as Record<string, string>) : no(bad)
  },
  fromText: pathMap.fromText!,
  schema: z.record(z.string(), z.string().regex(/^(bridge:)?[^:/\s]+$/)),
}

/** Words that a job's `hosts` may name. */
export const labelList: Reader<readonly string[]> = {
  read: (v) => {
    const list = typeof v === 'string' ? [v] : v
    const word = /^[A-Za-z0-9][\w.:=-]{0,127}$/
    const good = Array.isArray(list) && list.length <= 100 && list.every((w) => typeof w === 'string' && word.test(w))
    return good ? ok(list as string[]) : no('must be a list of words of letters, digits and "_.:=-"')
  },
  fromText: (t) => t.split(/[\s,]+/).filter((w) => w !== ''),
  schema: z.array(z.string().regex(/^[A-Za-z0-9][\w.:=-]{0,127}$/)),
}

/** Names of groups → how many of their jobs run at once. */
export const countMap: Reader<Readonly<Record<string, number>>> = {
  read: (v) => {
    const bad = 'must map names of groups to whole numbers of at least 1'
    if (typeof v !== 'object' || v === null || Array.isArray(v)) return no(bad)
    const map: Record<string, number> = {}
    for (const [name, n] of Object.entries(v)) {
      const many = typeof n === 'string' && /^\d{1,6}$/.test(n) ? Number(n) : n
      if (!/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/.test(name) || !Number.isInteger(many) || (many as number) < 1)
        return no(bad)
      map[name] = many as number
    }
    return ok(map)
  },
  fromText: pathMap.fromText!,
  schema: z.record(z.string(), z.int().min(1)),
}

/** Names → where an image comes from. */
export const templateMap: Reader<Readonly<Record<string, Template>>> = {
  read: (v) => {
    const bad = 'must map names to {url or path, checksum: "sha256:…" or "sha512:…", format: qcow2 or raw}'
    const r = templateSchema.safeParse(v)
    if (r.success) return ok(r.data)
    const [first] = r.error.issues
    return no(first && first.path.length > 0 ? `${bad}; wrong at ${first.path.join('.')}: ${first.message}` : bad)
  },
  fromText: (t) => {
    try {
      return JSON.parse(t)
    } catch {
      return t
    }
  },
  get schema() {
    return templateSchema
  },
}

const templateSchema = z.record(
  z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/),
  z
    .strictObject({
      url: z
        .string()
        .regex(/^https?:\/\//)
        .optional(),
      path: z.string().regex(/^\//).optional(),
      checksum: z
        .string()
        .regex(/^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/)
        .optional(),
      format: z.enum(['qcow2', 'raw']).optional(),
    })
    .refine((t) => (t.url === undefined) !== (t.path === undefined), { error: 'either url or path must be given' }),
)

/** `host:port`, `[::1]:port` or `:port`. */
export const listen: Reader<string> = {
  read: (v) => {
    const m = typeof v === 'string' ? /^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]*):(\d{1,5})$/.exec(v) : null
    return m && Number(m[2]) <= 65_535 ? ok(v as string) : no('must be an address such as "127.0.0.1:9464"')
  },
  schema: z.string().regex(/^(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]*):\d{1,5}$/),
}

export const url: Reader<string> = {
  read: (v) =>
    typeof v === 'string' && /^https?:\/\//.test(v) && URL.canParse(v) ? ok(v) : no('must be an http or https address'),
  schema: z.string().regex(/^https?:\/\//),
}
