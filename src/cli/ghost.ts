/** The table of Ghost's `list` (contracts C1), for scripts and eyes that are used to it. */
import { ghostWord } from '../spool/ghost.ts'
import type { JobStatus } from '../spool/index.ts'
import { cell, plain } from '../text/width.ts'
import { joinWords } from '../text/words.ts'

const columns: readonly { title: string; cells: number; value(s: JobStatus): string }[] = [
  { title: 'Task ID', cells: 36, value: (s) => s.id },
  { title: 'PID', cells: 8, value: (s) => String(s.pid ?? '-') },
  { title: 'Status', cells: 10, value: (s) => ghostWord(s) ?? s.state },
  { title: 'Started', cells: 20, value: (s) => started(s.started_at) },
  { title: 'Command', cells: 30, value: (s) => (s.command === undefined ? s.name : joinWords(s.command)) },
  { title: 'Directory', cells: 0, value: (s) => s.cwd ?? '-' },
]
const RULE = 134

export function ghostTable(jobs: readonly JobStatus[]): string {
  if (jobs.length === 0) return 'No tasks found.'
  const line = (value: (c: (typeof columns)[number]) => string): string =>
    columns
      .map((c) => (c.cells === 0 ? value(c) : cell(value(c), c.cells)))
      .join(' ')
      .trimEnd()
  return [line((c) => c.title), '-'.repeat(RULE), ...jobs.map((s) => line((c) => plain(c.value(s))))].join('\n')
}

/** `%Y-%m-%d %H:%M`, UTC. */
function started(moment: string | undefined): string {
  return moment === undefined ? '-' : moment.slice(0, 16).replace('T', ' ')
}
