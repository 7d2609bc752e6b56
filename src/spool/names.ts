/**
 * Every name the spool gives to a file. A job's state is its folder and its history is its name, so planning needs no
 * file to be opened:
 *
 *     [<due ms>-]<priority>-<ulid>-<key>-<ticket>~<epoch>.<failures>.<crashes>.json[.<outcome>-<owner>]
 */
import { sha256Hex } from '../text/sha256.ts'

/** The due time of a held job that waits for an event instead of a time: 13 digits, so it sorts behind every time. */
export const WAITS = 9_999_999_999_999

export type Outcome = 'done' | 'failed' | 'cancelled' | 'rejected'
export const OUTCOMES: readonly Outcome[] = ['done', 'failed', 'cancelled', 'rejected']

export interface JobName {
  /** 0..9, 0 first */
  priority: number
  /** ULID: time of the take and a random part */
  id: string
  /** hash of the answer name: jobs of one key form a lane */
  key: string
  /** place in the lane: the order of acceptance */
  ticket: number
  /** attempt number, never used twice: the fencing token */
  epoch: number
  failures: number
  crashes: number
  /** wall clock in ms, for a held job */
  due_ms?: number
  /** for a committed job */
  outcome?: Outcome
  /** for a committed job: whose attempt it was */
  owner?: string
  /** the file name itself */
  file: string
}

const JOB =
  /^(?:(\d{13})-)?(\d)-([0-9A-HJKMNP-TV-Z]{26})-([0-9a-f]{24})-(\d{8,15})~(\d{1,15})\.(\d{1,15})\.(\d{1,15})\.json(?:\.(done|failed|cancelled|rejected)-([\w.-]+))?$/

/** Reads a job's file name; undefined for a name that is not a job's. */
export function parseJobName(file: string): JobName | undefined {
  const m = JOB.exec(file)
  if (!m) return undefined
  const name: JobName = {
    priority: Number(m[2]),
    id: m[3]!,
    key: m[4]!,
    ticket: Number(m[5]),
    epoch: Number(m[6]),
    failures: Number(m[7]),
    crashes: Number(m[8]),
    file,
  }
  if (m[1] !== undefined) name.due_ms = Number(m[1])
  if (m[9] !== undefined) {
    name.outcome = m[9] as Outcome
    name.owner = m[10]!
  }
  return name
}

/** Writes a job's file name from its parts. */
export function jobName(parts: Omit<JobName, 'file'>): JobName {
  const due = parts.due_ms === undefined ? '' : `${String(Math.max(0, Math.floor(parts.due_ms))).padStart(13, '0')}-`
  const end = parts.outcome === undefined ? '' : `.${parts.outcome}-${parts.owner}`
  const file =
    `${due}${parts.priority}-${parts.id}-${parts.key}-${String(parts.ticket).padStart(8, '0')}` +
    `~${parts.epoch}.${parts.failures}.${parts.crashes}.json${end}`
  return { ...parts, file }
}

/** The same job in another state: new counters, and neither due time nor outcome unless given. */
export function renamed(name: JobName, change: Partial<Omit<JobName, 'file' | 'id' | 'key'>>): JobName {
  const { file: _file, due_ms: _due, outcome: _outcome, owner: _owner, ...kept } = name
  return jobName({ ...kept, ...change })
}

/** 96 bits of SHA-256 of the answer name, in hex: short enough for a file name, long enough never to collide. */
export function keyOf(answer: string): string {
  return sha256Hex(answer).slice(0, 24)
}

/** The folder of a lane's tickets: 4 096 of them, so that one holds a few hundred tickets when a million jobs wait. */
export function laneFolder(key: string): string {
  return key.slice(0, 3)
}

export interface Ticket {
  key: string
  ticket: number
  id: string
  file: string
}

const TICKET = /^([0-9a-f]{24})\.(\d{8,15})-([0-9A-HJKMNP-TV-Z]{26})$/

export function ticketName(key: string, ticket: number, id: string): string {
  return `${key}.${String(ticket).padStart(8, '0')}-${id}`
}

/** The tickets of one lane among a folder's names, in the order of acceptance. */
export function laneOf(files: readonly string[], key: string): Ticket[] {
  const lane: Ticket[] = []
  for (const file of files) {
    if (!file.startsWith(key)) continue
    const m = TICKET.exec(file)
    if (m) lane.push({ key, ticket: Number(m[2]), id: m[3]!, file })
  }
  return lane.sort((a, b) => a.ticket - b.ticket || (a.id < b.id ? -1 : 1))
}

export const ULID = /^[0-9A-HJKMNP-TV-Z]{26}$/
const CROCKFORD = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'

/** A maker of ULIDs (github.com/ulid/spec) that rise strictly, so that one agent's takes keep their order. */
export function ulidMaker(now: () => number, random: (bytes: number) => Uint8Array): () => string {
  let last = -1
  let low = 0n
  return () => {
    const ms = Math.max(now(), last)
    // even numbers only: the odd one after each is free for nextUlid()
    if (ms === last) low += 2n
    else low = random(10).reduce((n, byte) => (n << 8n) | BigInt(byte), 0n) & ((1n << 79n) - 2n)
    last = ms
    return encode(BigInt(ms), 10) + encode(low, 16)
  }
}

function encode(value: bigint, length: number): string {
  let out = ''
  let rest = value
  for (let i = 0; i < length; i++) {
    out = CROCKFORD[Number(rest & 31n)] + out
    rest >>= 5n
  }
  return out
}

/** The odd ULID after an even one: a second job of the same drop, found again by a recovery without writing it down. */
export function nextUlid(id: string): string {
  const value = [...id.slice(10)].reduce((n, c) => n * 32n + BigInt(CROCKFORD.indexOf(c)), 0n)
  return id.slice(0, 10) + encode(value + 1n, 16)
}

/** The even ULID that nextUlid() made this one from, or the id itself. */
export function baseUlid(id: string): string {
  const last = CROCKFORD.indexOf(id.at(-1)!)
  return last % 2 === 0 ? id : id.slice(0, -1) + CROCKFORD[last - 1]
}

/** What the ids of a batch's children begin with: the batch's own time and a hash of its id. */
export function childPrefix(parent: string): string {
  const hash = sha256Hex(`children of ${parent}`)
  return parent.slice(0, 10) + encode(BigInt(`0x${hash.slice(0, 16)}`) >> 4n, 12)
}

/**
 * The id of a batch's child: follows from the batch's id and the child's place in the order of starting alone, so that every attempt at the
 * batch, on every host, means the same job by it. Rises with the place, as dispatch does. Even, as a first id of a drop is.
 */
export function childUlid(parent: string, place: number): string {
  return childPrefix(parent) + encode(BigInt(place) << 1n, 4)
}

/** When a ULID was made, in ms since 1970. */
export function ulidTime(id: string): number {
  return [...id.slice(0, 10)].reduce((n, c) => n * 32 + CROCKFORD.indexOf(c), 0)
}

/** What a job called X may publish, besides `X.disks/`: exactly these names, never a pattern (`web` is not `web.prod`). */
export const ANSWER_SUFFIXES = [
  '.status.json',
  '.result.json',
  '.report.json',
  '.xml',
  '.disks',
  '.raw',
  '.vdi',
  '.vhd',
  '.vhdx',
  '.vmdk',
  '.error',
  '.qcow2',
] as const

/** What a client polls for: seeing it means that all of the answer is there. */
export function isPolled(file: string): boolean {
  return file.endsWith('.qcow2') || file.endsWith('.error')
}

/**
 * The files of an answer in the order of publication: what pollers wait for comes after all its parts, and the status that says
 * how it ended after that, so that whoever reads "succeeded" finds the image.
 */
export function publicationOrder(files: readonly string[]): string[] {
  const weight = (f: string) => {
    const rank = ['.result.json', '.error', '.qcow2', '.status.json'].findIndex((end) => f.endsWith(end))
    return rank + 1
  }
  return [...files].sort((a, b) => weight(a) - weight(b) || (a < b ? -1 : 1))
}
