/** What follows a drop on the command line: say which job became of it, wait for it if asked, print it. */
import { liveAgent, pause } from '../client/liveness.ts'
import type { Place } from '../client/place.ts'
import { acceptedJob, type Submission } from '../client/submit.ts'
import type { JobStatus } from '../spool/index.ts'
import { startCommand } from '../spool/start-command.ts'
import { type Column, type Format, plain, printRows, say } from './output.ts'
import { statePaint } from './progress.ts'
import { type WaitFlags, outcomeCode, waitForAll } from './waiting.ts'

export interface Row extends Partial<JobStatus> {
  drop_file: string
}

/** How long a submit without --wait looks for its job's id, in ms. */
const acceptMs = 3000

/** Prints one row per drop and returns the exit code. */
export async function finishSubmissions(
  place: Place,
  submissions: readonly Submission[],
  o: WaitFlags & { wait?: boolean; output: Format },
): Promise<number> {
  const { rows, exitCode } = await outcomes(place, submissions, o)
  await printRows(o.output, rows, {
    columns: [...jobColumns, { title: 'DROPPED AS', value: (r) => r.drop_file }],
    name: (r) => r.id ?? r.drop_file,
    empty: 'Nothing was submitted.',
  })
  return exitCode
}

export const jobColumns: readonly Column<Row>[] = [
  { title: 'ID', value: (r) => r.id ?? '-' },
  { title: 'NAME', value: (r) => r.name ?? '-' },
  {
    title: 'STATE',
    value: (r) => r.state ?? 'dropped',
    paint: (r) => (r.state === undefined ? undefined : statePaint(r.state)),
  },
]

/** What became of the drops, at their end or so far; failures are said on stderr. */
export async function outcomes(
  place: Place,
  submissions: readonly Submission[],
  o: WaitFlags & { wait?: boolean },
): Promise<{ rows: Row[]; exitCode: number }> {
  let rows: Row[]
  let exitCode = 0
  if (o.wait) {
    const result = await waitForAll(place, submissions, o)
    exitCode = result.exitCode
    rows = submissions.map(
      (s, i) => result.latest[i] ?? { drop_file: s.drop_file, ...(s.name ? { name: s.name } : {}) },
    ) as Row[]
  } else {
    rows = await accepted(place, submissions)
    // A rejection that is known by now is an answer, and a script should see it.
    exitCode = rows.filter((r) => r.state === 'rejected').map((r) => outcomeCode(r as JobStatus))[0] ?? 0
  }
  for (const row of rows)
    if (row.state === 'rejected' || row.state === 'failed') say(`${row.name}: ${row.reason ?? row.state}`)
  return { rows, exitCode }
}

async function accepted(place: Place, submissions: readonly Submission[]): Promise<Row[]> {
  const rows: Row[] = submissions.map((s) => ({
    drop_file: s.drop_file,
    ...(s.name === undefined ? {} : { name: s.name }),
  }))
  const agent = await liveAgent(place, place.config.lease.timeout)
  if (agent === undefined) {
    say(
      `No agent of "${place.instance}" is alive. What was dropped waits in ${place.layout.queue} until one runs: ${startCommand(place.layout)}`,
    )
    return rows
  }
  const until = performance.now() + acceptMs
  for (let round = 0; rows.some((r) => r.id === undefined) && performance.now() < until; round++) {
    if (round > 0) await pause(50)
    for (const [i, submission] of submissions.entries()) {
      if (rows[i]!.id !== undefined) continue
      const status = await acceptedJob(place, submission)
      if (status !== undefined) rows[i] = status as Row
    }
  }
  const open = rows.filter((r) => r.id === undefined)
  if (open.length > 0) {
    say(
      `${open.length === 1 ? `${plain(open[0]!.drop_file)} was` : `${open.length} drops were`} not accepted within ${acceptMs / 1000} s; the agent is busy. The job's status will name it as drop_file.`,
    )
  }
  return rows
}
