/**
 * The process of a command, as proc(5) shows it: who belongs to it, where it listens, its environment. Only of the very process
 * that the job started: a pid alone may by now be a stranger's.
 */
import { readdir, readFile, readlink } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { readJson } from '../../client/read-json.ts'
import type { Place } from '../../client/place.ts'
import { jobFolder, type JobStatus } from '../../client/status.ts'
import { isAlive, type ProcessIdentity, processStat } from '../../process/index.ts'
import { shownValue } from '../../text/secret.ts'

export interface ProcessView {
  pid: number
  /** pids of its session and group, the leader among them */
  members: number[]
  pgrp?: number
  session?: number
  /** "0.0.0.0:8080", "[::1]:22"; undefined when this user may not look */
  listening?: string[]
  /** sorted by name, what looks secret masked; undefined when this user may not look */
  env?: [string, string][]
}

/** The live process of a job, or why there is none to see; undefined when the job never had one. */
export async function processOf(place: Place, s: JobStatus): Promise<ProcessView | string | undefined> {
  if (s.pid === undefined) return undefined
  if (s.state !== 'running') return `${s.pid}, which has ended`
  if (s.host !== undefined && s.host !== hostname()) return `${s.pid} on ${s.host}; only there it can be looked at`
  const id = await identityOf(place, s)
  if (id !== undefined && !isAlive(id)) return `${s.pid}, which is gone`
  const stat = processStat(s.pid)
  if (stat === undefined) return `${s.pid}, which is gone`
  const env = await environmentOf(s.pid)
  if (id === undefined && env?.get('VMSPOOL_JOB') !== s.id)
    return `${s.pid}; whether that is still the same process cannot be told`
  const members = await membersOf(s.pid)
  const view: ProcessView = { pid: s.pid, members, pgrp: stat.pgrp, session: stat.session }
  const listening = await listeningOf(members)
  if (listening !== undefined) view.listening = listening
  if (env !== undefined) view.env = masked(env)
  return view
}

/** As its shim recorded it: with the job, or with the attempt that runs it. */
async function identityOf(place: Place, s: JobStatus): Promise<ProcessIdentity | undefined> {
  const work = join(place.layout.work, s.id)
  const attempts = await readdir(work).catch(() => [])
  for (const dir of [jobFolder(place, s.id), ...attempts.map((a) => join(work, a))]) {
    const id = await readJson<ProcessIdentity>(join(dir, 'run', 'process.json')).catch(() => undefined)
    if (id !== undefined && id.pid === s.pid && typeof id.start_ticks === 'number') return id
  }
  return undefined
}

async function environmentOf(pid: number): Promise<Map<string, string> | undefined> {
  try {
    const text = await readFile(`/proc/${pid}/environ`, 'utf8')
    const pairs = text.split('\0').filter((p) => p.includes('='))
    return new Map(pairs.map((p) => [p.slice(0, p.indexOf('=')), p.slice(p.indexOf('=') + 1)]))
  } catch {
    return undefined
  }
}

/** Secrets masked. */
export function masked(env: ReadonlyMap<string, string>): [string, string][] {
  return [...env].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, value]) => [name, shownValue(name, value)])
}

async function membersOf(leader: number): Promise<number[]> {
  const found: number[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const s = processStat(name)
    if (s !== undefined && (s.session === leader || s.pgrp === leader) && s.state !== 'Z') found.push(s.pid)
  }
  return found.sort((a, b) => (a === leader ? -1 : b === leader ? 1 : a - b))
}

async function listeningOf(pids: readonly number[]): Promise<string[] | undefined> {
  const sockets = new Set<string>()
  let seen = false
  for (const pid of pids) {
    try {
      for (const fd of await readdir(`/proc/${pid}/fd`)) {
        const target = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '')
        const inode = /^socket:\[(\d+)\]$/.exec(target)?.[1]
        if (inode !== undefined) sockets.add(inode)
      }
      seen = true
    } catch {
      // ended, or another user's
    }
  }
  if (!seen) return undefined
  const found = new Set<string>()
  // Of the process, not ours: it may live in a network namespace of its own.
  for (const table of ['tcp', 'tcp6']) {
    for (const pid of pids) {
      const text = await readFile(`/proc/${pid}/net/${table}`, 'latin1').catch(() => undefined)
      if (text === undefined) continue
      for (const s of listeningSockets(text)) if (sockets.has(s.inode)) found.add(s.address)
      break
    }
  }
  return [...found].sort((a, b) => portOf(a) - portOf(b))
}

function portOf(address: string): number {
  return Number(address.slice(address.lastIndexOf(':') + 1))
}

const LISTEN = '0A'

/** The listening ones of a table in the format of /proc/net/tcp and tcp6 (proc(5)): addresses in the host's byte order, in hex. */
export function listeningSockets(table: string): { address: string; inode: string }[] {
  const out: { address: string; inode: string }[] = []
  for (const row of table.split('\n').slice(1)) {
    const fields = row.trim().split(/\s+/)
    if (fields[3] !== LISTEN) continue
    const [host, port] = (fields[1] ?? '').split(':')
    if (host === undefined || port === undefined || fields[9] === undefined) continue
    out.push({ address: `${addressText(host)}:${Number.parseInt(port, 16)}`, inode: fields[9] })
  }
  return out
}

function addressText(hex: string): string {
  const bytes = (hex.match(/.{8}/g) ?? []).flatMap((word) => (word.match(/../g) ?? []).reverse())
  const numbers = bytes.map((b) => Number.parseInt(b, 16))
  if (numbers.length === 4) return numbers.join('.')
  const mapped = numbers.slice(0, 10).every((n) => n === 0) && numbers[10] === 255 && numbers[11] === 255
  if (mapped) return numbers.slice(12).join('.')
  const groups: string[] = []
  for (let i = 0; i < 16; i += 2) groups.push(((numbers[i]! << 8) | numbers[i + 1]!).toString(16))
  return `[${shortened(groups)}]`
}

/** The longest run of zero groups as "::" (RFC 5952). */
function shortened(groups: readonly string[]): string {
  let best = { at: 0, length: 0 }
  for (let i = 0; i < groups.length; i++) {
    let n = 0
    while (groups[i + n] === '0') n++
    if (n > best.length) best = { at: i, length: n }
  }
  if (best.length < 2) return groups.join(':')
  return `${groups.slice(0, best.at).join(':')}::${groups.slice(best.at + best.length).join(':')}`
}
