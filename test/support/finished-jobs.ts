// Spools with many jobs that have ended, written as an agent leaves them; without the fsyncs, so that a hundred thousand take seconds.
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Layout, layoutOf } from '../../src/spool/layout.ts'
import { jobName, keyOf, type JobName, type Outcome } from '../../src/spool/names.ts'
import { spoolFolders } from '../../src/spool/spool.ts'

/** 2026-01-01, so that ids and times are the same in each run. */
const EPOCH = Date.UTC(2026, 0, 1)
const CROCKFORD = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'

export interface MadeJob {
  id: string
  name: JobName
  outcome: Outcome
  state: string
  kind: string
  answer: string
}

export function makeLayout(root: string, instance = 'default'): Layout {
  const layout = layoutOf({ root, instance })
  for (const [dir, mode] of spoolFolders(layout)) mkdirSync(dir, { recursive: true, mode })
  return layout
}

/** The id of the n-th job, one a minute. */
export function idOf(n: number): string {
  let out = ''
  for (let t = EPOCH + n * 60_000, i = 0; i < 10; i++, t = Math.floor(t / 32)) out = CROCKFORD[t % 32] + out
  for (let r = n * 2, i = 0, low = ''; i < 16; i++, r = Math.floor(r / 32)) {
    low = CROCKFORD[r % 32] + low
    if (i === 15) out += low
  }
  return out
}

/** What the n-th job is: of ten one is a command that failed, one was cancelled, three are conversions. */
export function jobOf(n: number): MadeJob {
  const id = idOf(n)
  const outcome: Outcome = n % 10 === 3 ? 'failed' : n % 10 === 7 ? 'cancelled' : 'done'
  const kind = n % 10 < 3 ? 'convert' : 'command'
  const answer = `job-${n % 1000}`
  const name = jobName({
    priority: 5,
    id,
    key: keyOf(answer),
    ticket: 1 + Math.floor(n / 1000),
    epoch: 1,
    failures: 0,
    crashes: 0,
  })
  const state = outcome === 'done' ? 'succeeded' : outcome
  return { id, name, outcome, state, kind, answer }
}

/** @returns the event that an agent appends */
export function makeJob(layout: Layout, n: number, o: { event?: boolean; rejected?: boolean } = {}): MadeJob {
  const job: MadeJob = { ...jobOf(n), ...(o.rejected ? { outcome: 'rejected', state: 'rejected' } : {}) }
  const { id, kind, state, answer, outcome, name } = job
  const at = (ms: number) => new Date(EPOCH + n * 60_000 + ms).toISOString()
  const base = {
    schema: 1,
    id,
    name: answer,
    kind,
    attempt: 1,
    epoch: 1,
    priority: 5,
    accepted_at: at(0),
    drop_file: `${answer}.json`,
  }
  const codes =
    kind === 'convert' ? {} : outcome === 'failed' ? { exit_code: 3 } : outcome === 'done' ? { exit_code: 0 } : {}
  const times = { started_at: at(500), finished_at: at(500 + (n % 100) * 10) }
  const failed = outcome === 'done' ? undefined : `rsync of job ${n} to /srv/vm-${n}.qcow2 ended with ${outcome}.`
  const argv =
    kind === 'command'
      ? { command: ['rsync', '-a', `/srv/${n}`, '/backup'], cwd: '/srv', pid: 1000 + (n % 30_000), host: 'h1' }
      : {}
  const status = {
    ...base,
    ...times,
    ...codes,
    ...argv,
    state,
    since: times.finished_at,
    reason: failed ?? 'It ended.',
  }
  const result = {
    ...base,
    ...times,
    ...codes,
    state,
    duration_ms: (n % 100) * 10,
    ...(failed === undefined
      ? {}
      : { error: { code: outcome === 'failed' ? 'exit-code' : 'cancelled', message: failed } }),
    ...(kind === 'convert' && outcome === 'done'
      ? { artifacts: [{ path: `${answer}.qcow2`, size_bytes: 1_000_000 }], disks: [{ actual_bytes: 500_000 }] }
      : {}),
  }
  const record = {
    schema: 1,
    id,
    kind,
    answer,
    manifest: {
      kind,
      name: answer,
      priority: 5,
      ...(kind === 'command'
        ? { command: { argv: argv.command, cwd: '/srv', env: { MODE: 'fast', API_TOKEN: 'hush-hush' } } }
        : {}),
    },
    drop: { file: `${answer}.json`, at: at(0), uid: 1000, gid: 1000, bytes: 300, sha256: '0' },
    diagnostics: [],
  }
  const dir = join(layout.outputJobs, id)
  mkdirSync(dir)
  writeFileSync(join(dir, 'status.json'), JSON.stringify(status, null, 2))
  writeFileSync(join(dir, 'result.json'), JSON.stringify(result, null, 2))
  writeFileSync(join(layout[outcome], name.file), JSON.stringify(record, null, 2))
  if (o.event) tell(layout, { event: 'finished', job: id, name: answer, kind, state, record: name.file })
  return job
}

export function tell(layout: Layout, event: object): void {
  appendFileSync(join(layout.daemon, 'events.jsonl'), `${JSON.stringify({ at: new Date().toISOString(), ...event })}\n`)
}
