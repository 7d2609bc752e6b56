/**
 * What a shim is told. Apart from shim.ts, because `vmspool run` needs no more than this: it becomes the shim's starter instead of
 * starting it, and every module that is not loaded counts there.
 */
import { closeSync, existsSync, mkdirSync, openSync, readSync } from 'node:fs'
import { flushCompileCache } from 'node:module'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { bootId, GROUP_TOKEN_VARIABLE, pidNamespace } from './identity.ts'

/** Where a job without an agent is recorded by its shim when it ends: paths of its files, and of its record before and after. */
export interface DirectFinish {
  id: string
  /** answer name */
  name: string
  /** status.json, written with JSON.stringify(status, null, 2): the shim changes it line by line */
  status: string
  result: string
  record: string
  done: string
  failed: string
  cancelled: string
  /** events.jsonl */
  events: string
  /** what its sentences begin with: "sleep 5" */
  title: string
}

export interface ShimSpec {
  dir: string
  argv: readonly string[]
  cwd: string
  /** changes to our own environment; undefined removes a variable */
  env: Readonly<Record<string, string | undefined>>
  /** path, or an open descriptor of ours (startShim alone); default /dev/null */
  stdin?: string | number
  log: { path: string; mode?: number; max_bytes: number; max_age_ms: number; total_bytes: number }
  timeout_ms?: number
  /** default SIGTERM */
  kill_signal?: string
  kill_grace_ms: number
  /** exit codes that count as success; default 0 */
  expected?: readonly number[]
  /** fsync its records; default true */
  fsync?: boolean
  finish?: DirectFinish
}

export const program = ((): string => {
  const here = import.meta.dirname
  // In a checkout beside this file; in a built package in dist/, wherever the bundler put this code.
  return [join(here, 'shim.pl'), join(here, '../shim.pl')].find(existsSync) ?? join(here, 'shim.pl')
})()
export const perl = existsSync('/usr/bin/perl') ? '/usr/bin/perl' : 'perl'

/** The environment of the command. */
export function environment(changes: ShimSpec['env'], token: string): Record<string, string> {
  const env: Record<string, string | undefined> = { ...process.env, ...changes, [GROUP_TOKEN_VARIABLE]: token }
  for (const name in env) if (env[name] === undefined) delete env[name]
  return env as Record<string, string>
}

export function orders(s: ShimSpec, token: string): Record<string, string | number> {
  const { finish: f } = s
  return {
    arch: process.arch,
    log: s.log.path,
    log_mode: (s.log.mode ?? 0o640).toString(8),
    log_max: s.log.max_bytes,
    log_age: s.log.max_age_ms,
    log_total: s.log.total_bytes,
    timeout: s.timeout_ms ?? 0,
    kill_signal: s.kill_signal ?? 'SIGTERM',
    grace: s.kill_grace_ms,
    expected: (s.expected ?? [0]).join(','),
    stdin: typeof s.stdin === 'number' ? '/dev/fd/4' : (s.stdin ?? '/dev/null'),
    cwd: s.cwd,
    token,
    host: hostname(),
    pidns: pidNamespace(),
    boot_id: bootId(),
    fsync: s.fsync === false ? '' : 1,
    ...(f && { ...f, name: JSON.stringify(f.name), title: JSON.stringify(f.title).slice(1, -1) }),
  }
}

/** 122 random bits from the kernel, as node:crypto's randomUUID() has them, which takes 9 ms to load. */
function newToken(): string {
  const bytes = Buffer.alloc(16)
  const fd = openSync('/dev/urandom', 'r')
  try {
    readSync(fd, bytes)
  } finally {
    closeSync(fd)
  }
  return bytes.toString('hex')
}

/**
 * Makes this process the starter of a shim, by execve(2): perl starts the shim, prints what came of it and ends with 0 or 1. No process
 * is made by Node, which takes it longer than all the rest. Nothing of ours runs any more when it works.
 * @param say what to print around the PID once the command runs; `json`: its status as the only element of an array
 * @throws the error of the system when there is no perl, or the command and its environment are too large
 */
export function becomeShim(s: ShimSpec, say: { before: string; after: string; json: boolean; words: string }): never {
  mkdirSync(s.dir, { recursive: true, mode: 0o700 })
  const token = newToken()
  const told: Record<string, string | number> = {
    ...orders(s, token),
    say_before: say.before,
    say_after: say.after,
    json: say.json ? 1 : '',
    words: say.words,
  }
  const env = environment(s.env, token)
  for (const [name, value] of Object.entries(env)) {
    if (!/^(?:PERL|LC_|LANG)/.test(name)) continue // would change what perl does
    told[`env:${name}`] = value
    delete env[name]
  }
  const text = Object.entries(told).map((pair) => pair.map(encodeURIComponent).join('='))
  flushCompileCache() // Node does it at its end, which this is not
  process.execve?.(perl, [perl, program, s.dir, ...s.argv], { ...env, LC_ALL: 'C', VMSPOOL_SHIM: text.join('&') })
  throw new Error('execve(2) returned.')
}
