/** What `vmspool list` does, however its options were read. */
import { describe, percentOf, statePaint } from '../client/describe.ts'
import type { View } from '../client/place.ts'
import { jobStates, type JobStateName } from '../client/status.ts'
import type { GhostWord } from '../spool/ghost.ts'
import type { JobStatus } from '../spool/index.ts'
import { age } from '../text/people.ts'
import { cell, width } from '../text/width.ts'
import { commandTitle } from '../text/words.ts'
import { type Column, type Format, out, plain, printRows, say } from './print.ts'

export interface ListOptions {
  instance?: string
  root?: string
  config?: string
  state?: string[]
  status?: string[]
  ghost?: boolean
  kind?: string
  name?: string
  batch?: string
  limit: number
  output: Format
}

/** Those that are not ours too. */
export const ghostWords = ['exited', 'killed', 'unknown'] as const

export const columns: readonly Column<JobStatus>[] = [
  { title: 'ID', value: (s) => s.id },
  { title: 'NAME', value: (s) => s.name },
  { title: 'KIND', value: (s) => s.kind },
  { title: 'STATE', value: (s) => s.state, paint: (s) => statePaint(s.state) },
  { title: 'DONE', value: (s) => progressCell(s), right: true },
  { title: 'AGE', value: (s) => age(s.accepted_at), right: true },
  { title: 'DETAIL', value: (s) => detail(s) },
]

function progressCell(s: JobStatus): string {
  if (s.state === 'succeeded') return '100 %'
  const percent = s.state === 'running' ? percentOf(s) : undefined
  return percent === undefined ? '-' : `${Math.floor(percent)} %`
}

/** What is worth a look, in one line: where a running job is, why another one waits or failed, what a command is. */
function detail(s: JobStatus): string {
  const text = plain(commandDetail(s).split('\n')[0] ?? '')
  return width(text) > 100 ? cell(text, 100).trimEnd() : text
}

function commandDetail(s: JobStatus): string {
  if (s.command === undefined) return stateDetail(s)
  const command = commandTitle(s.command)
  if (s.state === 'running') return s.pid === undefined ? command : `PID ${s.pid}: ${command}`
  const more = stateDetail(s)
  if (more === '') return command
  return more.startsWith(command) || s.state === 'failed' ? more : `${command}: ${more}`
}

function stateDetail(s: JobStatus): string {
  return s.state === 'running' ? describe(s) : describe(s).replace(new RegExp(`^${s.state}(, )?`), '')
}

export async function list(o: ListOptions): Promise<void> {
  const { findAnywhere, viewPlaces } = await import('../client/places.ts')
  const { listJobs } = await import('../client/status.ts')
  const all = await viewPlaces(o)
  const batch = o.batch === undefined ? undefined : await findAnywhere(all, o.batch)
  const limit = o.limit === 0 ? Number.POSITIVE_INFINITY : o.limit
  const asked = o.state ?? o.status
  const found: JobStatus[] = []
  const unindexed: { place: View; jobs: number }[] = []
  for (const place of batch === undefined ? all : [batch.place])
    found.push(
      ...(await listJobs(place, {
        ...(asked === undefined ? {} : states(asked)),
        ...(o.kind === undefined ? {} : { kind: o.kind }),
        ...(o.name === undefined ? {} : { name: o.name }),
        ...(batch === undefined ? {} : { parent: batch.status.id }),
        limit: limit + 1,
        onUnindexed: (jobs) => unindexed.push({ place, jobs }),
      })),
    )
  if (all.length > 1) found.sort((a, b) => (a.id < b.id ? 1 : -1))
  const shown = found.slice(0, limit)
  if (o.ghost && o.output === 'table') {
    const { ghostTable } = await import('./ghost.ts')
    out(ghostTable(shown))
  } else {
    await printRows(o.output, shown, {
      columns,
      name: (s) => s.id,
      empty: `No jobs${asked === undefined ? '' : ' in that state'} in the spool "${all[0]!.instance}" (${all.map((p) => p.layout.output).join(', ')}).`,
    })
  }
  if (found.length > shown.length && o.output === 'table')
    say(`More jobs than the ${limit} shown: see --limit and --state.`)
  if (unindexed.length === 0) return
  // What is shown is shown; the next list is to be faster.
  const { indexAlong } = await import('../client/history.ts')
  for (const { place, jobs } of unindexed) await indexAlong(place, jobs, say)
}

/** Our words for states, and Ghost's. */
function states(asked: readonly string[]): { states: JobStateName[]; words?: GhostWord[] } {
  const ours = asked.filter((s): s is JobStateName => (jobStates as readonly string[]).includes(s))
  const words = asked.filter((s): s is GhostWord => (ghostWords as readonly string[]).includes(s))
  return { states: ours, ...(words.length === 0 ? {} : { words }) }
}
