// stats.json in the schema of contracts A6: counted from the events of all agents, never twice, also over restarts.
import { appendFile, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { fileType, openStats } from '../../src/agent/stats.ts'
import { tempDir } from '../support/temp.ts'

const source = (dir: string) => ({
  dir,
  startedAt: new Date(Date.now() - 7200_000),
  current: () => [],
  queueDepth: () => 3,
  extra: () => ({ paused: false }),
})
const finished = (i: number, more: object = {}) =>
  `${JSON.stringify({
    at: '2026-01-01T00:00:09Z',
    event: 'finished',
    job: `J${i}`,
    name: `vm${i}`,
    kind: 'convert',
    state: 'succeeded',
    drop_file: 'a.vmdk',
    bytes: 1_048_576,
    duration_ms: 2000,
    attempt: 1,
    ...more,
  })}\n`
const saved = async (dir: string) => JSON.parse(await readFile(join(dir, 'stats.json'), 'utf8'))

test('counts what every agent did, in the fields of A6', async () => {
  await using dir = await tempDir()
  const events = join(dir.path, 'events.jsonl')
  const s = await openStats(source(dir.path))
  expect(await s.snapshot()).toMatchObject({ total_processed: 0, success_rate_percent: 0, uptime_hours: 2 })
  await appendFile(
    events,
    finished(1) + finished(2, { duration_ms: 4000 }) + finished(3, { state: 'failed', error: 'no' }),
  )
  await appendFile(events, `${JSON.stringify({ event: 'retrying' })}\n${JSON.stringify({ event: 'accepted' })}\n`)
  await appendFile(events, finished(4, { state: 'cancelled' }) + finished(5, { kind: 'command', drop_file: 'x.json' }))
  const now = await s.snapshot()
  expect(now).toMatchObject({
    total_processed: 3,
    total_failed: 1,
    total_retried: 1,
    success_rate_percent: 75,
    average_processing_time_seconds: 2.667,
    current_queue_depth: 3,
    current_jobs: [],
    paused: false,
    by_file_type: {
      '.vmdk': { processed: 2, failed: 1, success_rate_percent: 66.67, average_time_seconds: 3 },
      command: { processed: 1, failed: 0 },
    },
  })
  expect(now.recent_completed.map((j) => [j.job_id, j.status, j.error])).toEqual([
    ['J5', 'success', null],
    ['J3', 'failed', 'no'],
    ['J2', 'success', null],
    ['J1', 'success', null],
  ])
})

test('goes on after a restart, counts nothing twice, and takes up a line that was cut', async () => {
  await using dir = await tempDir()
  const events = join(dir.path, 'events.jsonl')
  await writeFile(events, finished(1) + finished(2))
  await (await openStats(source(dir.path))).save()
  const line = finished(3)
  await appendFile(events, line.slice(0, 20))
  const again = await openStats(source(dir.path))
  await Promise.all([again.save(), again.save(), again.snapshot()])
  expect(await saved(dir.path)).toMatchObject({ total_processed: 2 })
  await appendFile(events, line.slice(20))
  const third = await openStats(source(dir.path))
  await third.save()
  expect(await saved(dir.path)).toMatchObject({ total_processed: 3, average_processing_time_seconds: 2 })
})

test('a new events file is read from its beginning, lines that are no JSON are skipped', async () => {
  await using dir = await tempDir()
  const events = join(dir.path, 'events.jsonl')
  await writeFile(events, finished(1))
  const s = await openStats(source(dir.path))
  expect(await s.snapshot()).toMatchObject({ total_processed: 1 })
  await rename(events, join(dir.path, 'events.1.jsonl'))
  await writeFile(events, `{"event":"fin\n\n\0\0\n${finished(2)}`)
  expect(await s.snapshot()).toMatchObject({ total_processed: 2 })
})

test.each([
  ['nothing', ''],
  ['half a file', '{"total_processed": 5, "by_fi'],
  ['another shape', '[1,2]'],
  ['null', 'null'],
])('starts again from a stats.json that holds %s', async (_, text) => {
  await using dir = await tempDir()
  await writeFile(join(dir.path, 'stats.json'), text)
  const s = await openStats(source(dir.path))
  await s.save()
  expect(await saved(dir.path)).toMatchObject({ total_processed: 0, total_failed: 0 })
})

test('takes over the file of the old daemon, which kept no total time', async () => {
  await using dir = await tempDir()
  const old = {
    total_processed: 4,
    total_failed: 1,
    total_retried: 2,
    average_processing_time_seconds: 10,
    by_file_type: { '.ova': { processed: 4, failed: 1, success_rate_percent: 80, average_time_seconds: 10 } },
    recent_completed: [],
  }
  await writeFile(join(dir.path, 'stats.json'), JSON.stringify(old))
  await writeFile(join(dir.path, 'events.jsonl'), finished(1, { drop_file: 'b.ova', duration_ms: 20_000 }))
  const s = await openStats(source(dir.path))
  expect(await s.snapshot()).toMatchObject({
    total_processed: 5,
    average_processing_time_seconds: 12,
    by_file_type: { '.ova': { processed: 5, failed: 1, average_time_seconds: 12 } },
  })
})

test('file types are suffixes of disks, and kinds of manifests', () => {
  expect(fileType('a.VMDK', 'convert')).toBe('.vmdk')
  expect(fileType('artifact-manifest.json', 'convert')).toBe('convert')
  expect(fileType('x.yml', 'command')).toBe('command')
})
