/**
 * What a program may use of the host, as words in front of its own: nice(1), ionice(1), prlimit(1), and systemd-run(1) where systemd runs.
 * Memory, processors and tasks are counted for all processes of the program together only by a control group, so by systemd; without it memory
 * and tasks are limited as far as the kernel's own limits reach, and what cannot be limited is said.
 */
import { accessSync, constants } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'

export interface Limits {
  nice?: number | undefined
  ionice?: 'idle' | 'best-effort' | 'realtime' | undefined
  /** 0 first, 7 last, within the class */
  ionice_level?: number | undefined
  memory_bytes?: number | undefined
  /** processors, such as 0.5 */
  cpu?: number | undefined
  /** of each process */
  cpu_time_ms?: number | undefined
  open_files?: number | undefined
  /** of the program under systemd, else of its user */
  processes?: number | undefined
}

export interface LimitedBy {
  /** comes before what becomes another user (setpriv): a scope of the system's manager, a niceness below 0, the realtime class */
  outer: string[]
  /** comes right before the program, as the user that it runs as: he can lower his limits and not raise them */
  inner: string[]
  /** limits that are not, or not wholly, kept here, as sentences */
  warnings: string[]
}

export interface LimitOptions {
  /** which manager makes the scope; undefined: there is none ({@link scopeManager}) */
  manager: 'system' | 'user' | undefined
  /** name of the scope, without `.scope`: letters, digits, `-`, `_` and `.`, never used before */
  unit: string
  description?: string
  /** as whom the program runs in the end; default: as we do */
  uid?: number | undefined
}

/** Between SIGXCPU, which a program may catch, and SIGKILL, in seconds of processor time. */
const XCPU_GRACE_S = 5

/** The words that limit a program. */
export function limitedBy(l: Limits, o: LimitOptions): LimitedBy {
  const warnings: string[] = []
  const outer = o.manager === undefined ? [] : scope(l, o, o.manager)
  const inner: string[] = []
  if (l.nice !== undefined) (l.nice < 0 ? outer : inner).push('nice', '-n', String(l.nice))
  if (l.ionice !== undefined || l.ionice_level !== undefined) {
    const level = l.ionice === 'idle' || l.ionice_level === undefined ? [] : ['-n', String(l.ionice_level)]
    const words = [
      'ionice',
      '-t', // where it is not allowed (our units' system call filter) the program runs all the same, as with nice
      '-c',
      { realtime: '1', 'best-effort': '2', idle: '3' }[l.ionice ?? 'best-effort'],
      ...level,
    ]
    ;(l.ionice === 'realtime' ? outer : inner).push(...words)
  }
  const kernel: string[] = []
  if (l.cpu_time_ms !== undefined) {
    const s = Math.max(1, Math.ceil(l.cpu_time_ms / 1000))
    kernel.push(`--cpu=${s}:${s + XCPU_GRACE_S}`)
  }
  if (l.open_files !== undefined) kernel.push(`--nofile=${l.open_files}`)
  if (o.manager === undefined) {
    if (l.memory_bytes !== undefined) kernel.push(`--as=${l.memory_bytes}`)
    if (l.processes !== undefined) {
      kernel.push(`--nproc=${l.processes}`)
      if ((o.uid ?? process.geteuid?.()) === 0)
        warnings.push(
          `limits.processes (${l.processes}) is not imposed: without systemd it counts the processes of a user, and those of root are not counted.`,
        )
    }
    if (l.cpu !== undefined)
      warnings.push(
        `limits.cpu (${l.cpu}) is not imposed: it needs a systemd that answers (for an agent that is not root: its own user manager), for processors are shared out by control groups.`,
      )
  }
  if (kernel.length > 0) inner.push('prlimit', ...kernel, '--')
  return { outer, inner, warnings }
}

function scope(l: Limits, o: LimitOptions, manager: 'system' | 'user'): string[] {
  const properties = [
    ...(l.memory_bytes === undefined ? [] : [`MemoryMax=${l.memory_bytes}`, 'MemorySwapMax=0']),
    ...(l.cpu === undefined ? [] : [`CPUQuota=${Math.max(1, Math.round(l.cpu * 100))}%`]),
    ...(l.processes === undefined ? [] : [`TasksMax=${l.processes}`]),
  ]
  if (properties.length === 0) return []
  return [
    'systemd-run',
    '--scope',
    ...(manager === 'user' ? ['--user'] : []),
    '--quiet',
    '--collect',
    `--unit=${o.unit}`,
    ...(o.description === undefined ? [] : [`--description=${o.description}`]),
    ...properties.flatMap((p) => ['-p', p]),
    '--',
  ]
}

/** The manager that would make scopes for us: root's is the system's, anybody else's his own. undefined when none answers. */
export async function scopeManager(): Promise<'system' | 'user' | undefined> {
  try {
    accessSync('/run/systemd/system', constants.X_OK)
  } catch {
    return undefined
  }
  const root = process.geteuid?.() === 0
  const runtime = process.env.XDG_RUNTIME_DIR
  if (!root && !runtime) return undefined
  const socket = root ? '/run/systemd/private' : join(runtime!, 'systemd/private')
  return (await answers(socket)) ? (root ? 'system' : 'user') : undefined
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const c = connect(path)
    c.once('connect', () => {
      c.destroy()
      resolve(true)
    })
    c.once('error', () => resolve(false))
  })
}
