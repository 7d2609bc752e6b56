/** The columns of the list of jobs: which there are on how wide a screen, and what stands in them. */
import { describe, percentOf, statePaint } from '../../client/describe.ts'
import type { JobStatus } from '../../client/status.ts'
import type { Paint } from '../../text/paint.ts'
import { age, bytes, duration } from '../../text/people.ts'
import { cell, harmless } from '../../text/width.ts'
import { bar, type Glyphs } from '../glyphs.ts'
import type { Line, Span } from '../line.ts'

interface Column {
  title: string
  /** cells; 0: a share of what is left */
  cells: number
  /** not on narrower screens */
  from: number
  right?: boolean
  value(s: JobStatus, g: Glyphs, now: number): string
  paint?(s: JobStatus): Paint | undefined
}

const columns: readonly Column[] = [
  { title: 'ID', cells: 26, from: 130, value: (s) => s.id },
  { title: 'PID', cells: 7, from: 110, right: true, value: (s) => (s.pid === undefined ? '-' : String(s.pid)) },
  { title: 'NAME', cells: 0, from: 0, value: (s) => s.name },
  { title: 'KIND', cells: 8, from: 96, value: (s) => s.kind },
  { title: 'STATUS', cells: 9, from: 24, value: (s) => s.state, paint: (s) => statePaint(s.state) },
  { title: 'STARTED', cells: 16, from: 170, value: (s) => moment(s.started_at ?? s.accepted_at) },
  { title: 'AGE', cells: 8, from: 44, right: true, value: (s, _g, now) => shortAge(s.accepted_at, now) },
  { title: 'COMMAND OR PROGRESS', cells: 0, from: 54, value: detailOf },
  { title: 'DIRECTORY', cells: 24, from: 190, value: (s) => s.cwd ?? '' },
]
const gap = '  '

/** 2026-01-31 09:05, UTC */
function moment(at: string | undefined): string {
  return at === undefined ? '-' : at.slice(0, 16).replace('T', ' ')
}

/** "2 h 10 min" without its blanks, to be narrow: 2h10min */
function shortAge(at: string | undefined, now: number): string {
  return age(at, now).replaceAll(' ', '')
}

interface Laid {
  column: Column
  cells: number
}

/** Which columns there are on a screen of this width, each with its cells; all together never wider than it. */
function layout(width: number): Laid[] {
  const shown = columns.filter((c) => c.from <= width)
  const fixed = shown.reduce((n, c) => n + c.cells, 0) + gap.length * (shown.length - 1)
  const left = Math.max(0, width - 2 - fixed)
  const shares = shown.filter((c) => c.cells === 0).length
  const name = shares === 1 ? left : Math.min(40, Math.max(10, Math.floor(left * 0.38)))
  return shown.map((column) => ({
    column,
    cells: column.cells > 0 ? column.cells : column.title === 'NAME' ? name : Math.max(0, left - name),
  }))
}

export function headOf(width: number, g: Glyphs): Line {
  const titles = layout(width).map(({ column, cells }) => cell(column.title, cells, { ...cut(g), ...side(column) }))
  return [{ text: `  ${titles.join(gap)}`, paint: 'bold' }]
}

/** @param s undefined for a job whose status has not been read yet */
export function rowOf(
  id: string,
  s: JobStatus | undefined,
  selected: boolean,
  width: number,
  g: Glyphs,
  now: number,
): Line {
  const spans: Span[] = [{ text: selected ? '> ' : '  ' }]
  if (s === undefined) return [...spans, { text: `${id}  ${g.ellipsis}`, paint: 'dim' }]
  layout(width).forEach(({ column, cells }, i) => {
    if (i > 0) spans.push({ text: gap })
    const text = harmless(column.value(s, g, now))
    spans.push({ text: cell(text, cells, { ...cut(g), ...side(column) }), paint: column.paint?.(s) })
  })
  return spans
}

const cut = (g: Glyphs): { ellipsis: string } => ({ ellipsis: g.ellipsis })
const side = (c: Column): { right?: boolean } => (c.right ? { right: true } : {})

/** What is worth a look: how far a running job is and how fast, why another one waits or failed, else what it runs. */
export function detailOf(s: JobStatus, g: Glyphs): string {
  const command = s.command?.join(' ')
  if (s.state === 'running') return runningText(s, g) || command || ''
  const said = describe(s).replace(new RegExp(`^${s.state}(, )?`), '')
  if (s.state === 'succeeded') return command ?? said
  const how = s.signal !== undefined ? `${s.signal}` : s.exit_code !== undefined ? `exit code ${s.exit_code}` : ''
  return [how, said === '' ? command : said].filter((t) => t !== undefined && t !== '').join(': ')
}

function runningText(s: JobStatus, g: Glyphs): string {
  const percent = percentOf(s)
  if (percent === undefined) {
    const what = describe(s)
    return s.command === undefined
      ? what
      : what === 'run' || what === ''
        ? s.command.join(' ')
        : `${what}: ${s.command.join(' ')}`
  }
  const p = s.progress
  const parts = [`${bar(percent, 8, g)} ${String(Math.floor(percent)).padStart(3)} %`]
  if (p?.rate_bytes_per_s) parts.push(`${bytes(p.rate_bytes_per_s)}/s`)
  if (p?.eta_ms !== undefined && p.eta_ms !== null) parts.push(`${duration(p.eta_ms)} left`)
  if (s.phase) parts.push(s.phase)
  if (p?.bytes_total) parts.push(`${bytes(p.bytes_done ?? 0)} of ${bytes(p.bytes_total)}`)
  return parts.join(' ')
}
