// Reading a spool from outside, as its clients do.
import { readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Bed } from './agent.ts'
import { until } from './wait.ts'

export interface Status {
  id: string
  name: string
  state: string
  phase?: string
  reason?: string
  epoch?: number
  attempt?: number
  progress?: { bytes_done: number; bytes_total: number; percent: number }
  waiting_on?: unknown
  [more: string]: unknown
}

export async function readJson<T = Record<string, unknown>>(path: string): Promise<T | undefined> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as T
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

export const statusOf = (b: Bed, name: string) => readJson<Status>(join(b.layout.output, `${name}.status.json`))

const ended = new Set(['succeeded', 'failed', 'cancelled', 'rejected'])

/** Waits until the last job of an answer name has ended; fails with what it was doing instead. */
export async function endOf(b: Bed, name: string, deadline_ms = 240_000): Promise<Status> {
  let last: Status | undefined
  return until(
    `${name} ends`,
    async () => {
      last = await statusOf(b, name)
      return last && ended.has(last.state) ? last : undefined
    },
    { deadline_ms, also: () => `Its status: ${JSON.stringify(last)}\n${b.agents.map((a) => a.output()).join('\n')}` },
  )
}

export interface Event {
  at: string
  event: string
  job?: string
  name?: string
  [more: string]: unknown
}

/** Everything that events.jsonl tells so far; a line cut off by a kill is left out. */
export async function eventsOf(b: Bed, event?: string): Promise<Event[]> {
  const text = await readFile(join(b.layout.daemon, 'events.jsonl'), 'utf8').catch(() => '')
  const events: Event[] = []
  for (const line of text.split('\n')) {
    try {
      const e = JSON.parse(line)
      if (event === undefined || e.event === event) events.push(e)
    } catch {
      // half a line
    }
  }
  return events
}

/** Drops a manifest as documented: dot-file, then rename. */
export async function drop(b: Bed, manifest: object | string, file = `drop-${counter++}.json`): Promise<string> {
  const temp = join(b.layout.queue, `.${file}`)
  await writeFile(temp, typeof manifest === 'string' ? manifest : JSON.stringify(manifest))
  await rename(temp, join(b.layout.queue, file))
  return file
}
let counter = 0

/** Names in output/ that belong to an answer. */
export async function answerFiles(b: Bed, name: string): Promise<string[]> {
  return (await readdir(b.layout.output)).filter((f) => f.startsWith(`${name}.`)).sort()
}
