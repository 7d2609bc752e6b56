// A spool as agents leave it, without an agent: folders, statuses and logs of as many jobs as are wanted.
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Layout, layoutOf } from '../../src/spool/index.ts'
import type { JobStatus } from '../../src/spool/schema.ts'

const digits = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'

/** ULIDs in the order of `n`. */
export function idOf(n: number): string {
  let text = ''
  for (let rest = n, i = 0; i < 16; i++, rest = Math.floor(rest / 32)) text = digits[rest % 32]! + text
  return `01KAZZZZZZ${text}`
}

export async function emptySpool(root: string, instance = 'default'): Promise<Layout> {
  const layout = layoutOf({ root, instance })
  const { root: _root, instance: _instance, ...folders } = layout
  for (const dir of Object.values(folders)) await mkdir(dir, { recursive: true })
  return layout
}

export function statusOf(n: number, more: Partial<JobStatus> = {}): JobStatus {
  const at = new Date(Date.UTC(2026, 0, 1) + n * 1000).toISOString()
  return {
    schema: 1,
    id: idOf(n),
    name: `job-${n}`,
    kind: 'convert',
    state: 'succeeded',
    since: at,
    attempt: 1,
    epoch: 1,
    priority: 5,
    accepted_at: at,
    started_at: at,
    finished_at: at,
    drop_file: `job-${n}.json`,
    ...more,
  }
}

/** Writes a job's status as an agent does it, and its log when there is one. */
export async function putJob(layout: Layout, status: JobStatus, log?: string): Promise<void> {
  const dir = join(layout.outputJobs, status.id)
  await mkdir(dir, { recursive: true })
  await writeFile(join(dir, 'status.json'), `${JSON.stringify(status, null, 2)}\n`)
  if (log !== undefined) await writeFile(join(dir, 'log'), log)
}

export async function manyJobs(layout: Layout, count: number): Promise<void> {
  const states = ['succeeded', 'failed', 'succeeded', 'cancelled', 'succeeded'] as const
  for (let n = 0; n < count; n += 100) {
    const batch = Array.from({ length: Math.min(100, count - n) }, (_, i) => n + i)
    await Promise.all(batch.map((i) => putJob(layout, statusOf(i, { state: states[i % states.length]! }))))
  }
}
