/** Everything there is to know about a job, as text with headings. */
import { countsText } from '../../text/counts.ts'
import { percentOf, waitingText } from '../../client/describe.ts'
import { environmentOf } from '../../client/environment.ts'
import type { Place } from '../../client/place.ts'
import { errorTextOf, isFinal, type JobStatus, logPath, resultOf, settled, statusOf } from '../../client/status.ts'
import { bytes, duration } from '../../text/people.ts'
import { bar, type Glyphs } from '../glyphs.ts'
import { type ProcessView, processOf } from './process.ts'

/** A row has a label and a value of one or more lines; without a label it is a line of its own. */
export interface Row {
  label?: string
  value: string
  heading?: boolean
}

export interface Details {
  status: JobStatus
  rows: Row[]
}

export async function detailsOf(place: Place, id: string, before: JobStatus, g: Glyphs): Promise<Details> {
  const status = (await settled(place, await statusOf(place, id))) ?? before
  const result = isFinal(status) ? ((await resultOf(place, status)) as Result | undefined) : undefined
  const failed = status.state === 'failed' || status.state === 'rejected'
  const error = failed ? await errorTextOf(place, status) : undefined
  const process = await processOf(place, status)
  const given =
    typeof process === 'object' && process.env !== undefined ? undefined : await environmentOf(place, status)
  const rows = [
    ...aboutJob(place, status, g),
    ...aboutError(status, result, error),
    ...aboutPhases(result),
    ...aboutProcess(process),
    ...aboutEnvironment(given),
  ]
  return { status, rows }
}

interface Result {
  summary?: string
  error?: { code?: string; message?: string; hint?: string; phase?: string }
  phases?: { name: string; duration_ms: number; detail?: unknown }[]
  artifacts?: { path: string; format?: string; size_bytes?: number }[]
  warnings?: { message?: string }[]
  kept?: { steps: string[]; bytes: number; until?: string }
}

function aboutJob(place: Place, s: JobStatus, g: Glyphs): Row[] {
  const took = s.started_at && s.finished_at ? Date.parse(s.finished_at) - Date.parse(s.started_at) : undefined
  const all: [string, string | number | undefined][] = [
    ['ID', s.id],
    ['Name', s.name],
    ['Kind', s.direct ? `${s.kind}, without an agent` : s.kind],
    ['Command', s.command?.map(quoted).join(' ')],
    ['Status', `${s.state}${s.since ? ` since ${s.since}` : ''}`],
    ['Phase', s.state === 'running' ? s.phase : undefined],
    ['Progress', s.state === 'running' ? progressText(s, g) : undefined],
    ['Waiting for', s.waiting_on ? waitingText(s.waiting_on) : undefined],
    ['Reason', s.reason],
    ['PID', s.pid],
    ['Directory', s.cwd],
    ['Exit code', s.exit_code],
    ['Signal', s.signal],
    ['Accepted', s.accepted_at],
    ['Started', s.started_at],
    ['Finished', s.finished_at],
    ['Took', took === undefined ? undefined : duration(took)],
    ['Attempt', `${s.attempt} (epoch ${s.epoch})`],
    ['Worked on by', s.owner],
    ['Host', s.host],
    ['Priority', s.priority],
    ['Group', s.group],
    ['VMs', s.children === undefined ? undefined : countsText(s.children)],
    ['Batch', s.parent === undefined ? undefined : `${s.parent} (VM ${s.vm_id ?? '?'})`],
    ['Dropped as', s.drop_file],
    ['Output', s.output?.join('\n')],
    ['Log', logPath(place, s.id)],
  ]
  const rows = all.filter(([, v]) => v !== undefined && v !== '').map(([label, v]) => ({ label, value: String(v) }))
  return [...rows, ...otherFields(s)]
}

/** Fields that a later version of the agent writes and we have no name for. */
function otherFields(s: JobStatus): Row[] {
  const known =
    'schema id name kind command state since phase progress waiting_on reason pid cwd exit_code signal accepted_at started_at finished_at attempt epoch owner host priority group children parent vm_id drop_file output direct'
  const names = new Set(known.split(' '))
  return Object.entries(s)
    .filter(([name, value]) => !names.has(name) && value !== undefined && value !== null)
    .map(([name, value]) => ({ label: name, value: typeof value === 'string' ? value : JSON.stringify(value) }))
}

function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`
}

function progressText(s: JobStatus, g: Glyphs): string | undefined {
  const percent = percentOf(s)
  if (percent === undefined) return undefined
  const p = s.progress
  const parts = [`${bar(percent, 20, g)} ${percent.toFixed(1)} %`]
  if (p?.bytes_total) parts.push(`${bytes(p.bytes_done ?? 0)} of ${bytes(p.bytes_total)}`)
  if (p?.rate_bytes_per_s) parts.push(`${bytes(p.rate_bytes_per_s)}/s`)
  if (p?.eta_ms !== undefined && p.eta_ms !== null) parts.push(`${duration(p.eta_ms)} left`)
  return parts.join(', ')
}

function aboutError(s: JobStatus, r: Result | undefined, text: string | undefined): Row[] {
  const e = r?.error
  const message = e?.message ?? text
  if (message === undefined) return []
  const rows: Row[] = [{ heading: true, value: 'Error' }]
  if (e?.code !== undefined) rows.push({ label: 'Code', value: e.code })
  if (e?.phase !== undefined) rows.push({ label: 'In phase', value: e.phase })
  if (message !== s.reason || e === undefined) rows.push({ label: 'What happened', value: message })
  if (e?.hint !== undefined && !message.includes(e.hint)) rows.push({ label: 'What to do', value: e.hint })
  if (r?.kept !== undefined) {
    const until = r.kept.until === undefined ? '' : ` until ${r.kept.until}`
    rows.push({
      label: 'Kept',
      value: `${r.kept.steps.join(', ')} (${bytes(r.kept.bytes)})${until}: a retry goes on from it`,
    })
  }
  return rows.length > 1 ? rows : []
}

function aboutPhases(r: Result | undefined): Row[] {
  const rows: Row[] = []
  if (r?.summary !== undefined) rows.push({ label: 'Summary', value: r.summary })
  for (const p of r?.phases ?? []) rows.push({ label: p.name, value: duration(p.duration_ms) })
  for (const a of r?.artifacts ?? []) {
    const size = a.size_bytes === undefined ? '' : `, ${bytes(a.size_bytes)}`
    rows.push({ label: 'Made', value: `${a.path}${a.format === undefined ? '' : ` (${a.format}${size})`}` })
  }
  for (const w of r?.warnings ?? []) if (w.message !== undefined) rows.push({ label: 'Warning', value: w.message })
  return rows.length > 0 ? [{ heading: true, value: 'Result' }, ...rows] : []
}

function aboutProcess(p: ProcessView | string | undefined): Row[] {
  if (p === undefined) return []
  if (typeof p === 'string')
    return [
      { heading: true, value: 'Process' },
      { label: 'PID', value: p },
    ]
  const rows: Row[] = [
    { heading: true, value: 'Process' },
    { label: 'PID', value: String(p.pid) },
    { label: 'Group, session', value: `${p.pgrp}, ${p.session}` },
    { label: 'Processes', value: p.members.join(' ') },
    {
      label: 'Listening on',
      value: p.listening === undefined ? 'only its own user may look' : p.listening.join('\n') || 'nothing',
    },
  ]
  if (p.env === undefined) return [...rows, { label: 'Environment', value: 'only its own user may look' }]
  return [...rows, { heading: true, value: 'Environment' }, ...variables(p.env)]
}

function aboutEnvironment(given: [string, string][] | undefined): Row[] {
  return given === undefined ? [] : [{ heading: true, value: 'Environment that it was given' }, ...variables(given)]
}

function variables(env: readonly [string, string][]): Row[] {
  return env.map(([name, value]) => ({ value: `${name}=${value}` }))
}
