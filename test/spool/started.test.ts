// Jobs without an agent whose shim recorded nothing, or not all: what whoever looks makes of them. No process is started here.
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { bootId, pidNamespace } from '../../src/process/index.ts'
import { type Layout, layoutOf, openSpool, type Spool } from '../../src/spool/index.ts'
import { settleAllStarted } from '../../src/spool/settle.ts'
import { makeSpool } from '../../src/spool/spool.ts'
import { createDirect, type Direct } from '../../src/spool/started.ts'
import { tempDir } from '../support/temp.ts'

async function scene(dir: string): Promise<{ layout: Layout; spool: Spool; later: Spool }> {
  const layout = layoutOf({ root: dir, instance: 'i' })
  const spool = await openSpool({ layout, create: true })
  const later = makeSpool({ layout, clock: { now: () => Date.now() + 120_000, mono: () => performance.now() } })
  return { layout, spool, later }
}

function create(layout: Layout, more: object = {}, host = hostname()): Direct {
  const manifest = { kind: 'command', name: 'x', priority: 5, command: { argv: ['prog', 'a b'], ...more } } as never
  return createDirect(layout, { name: 'x', manifest, cwd: '/', host, sync: true })
}

/** A shim that was there: pid 2^22 is beyond every pid, so it is surely gone. */
const gone = { pid: 4_194_304, start_ticks: 1 }
async function shimWas(job: Direct, change: object = {}): Promise<void> {
  await mkdir(job.dir, { mode: 0o700 })
  const process = {
    schema: 1,
    ...gone,
    boot_id: bootId(),
    pidns: pidNamespace(),
    host: 'h',
    token: 't',
    shim: gone,
    ...change,
  }
  await writeFile(join(job.dir, 'process.json'), JSON.stringify(process))
}

const exit = {
  schema: 1,
  exit_code: 0,
  signal: null,
  started_at: '2026-01-01T00:00:00.000Z',
  finished_at: '2026-01-01T00:00:05.000Z',
  duration_ms: 5000,
  user_ms: 1,
  system_ms: 1,
}
const read = async (path: string) => JSON.parse(await readFile(path, 'utf8'))

test('one that is just being started is left alone; later it never can be, and says so', async () => {
  await using dir = await tempDir()
  const { layout, spool, later } = await scene(dir.path)
  const job = create(layout)
  expect(await settleAllStarted(spool)).toEqual([])
  expect(await readdir(layout.started)).toHaveLength(1)
  expect(await settleAllStarted(later)).toEqual([job.id])
  expect(await read(job.status)).toMatchObject({
    state: 'failed',
    reason: "prog 'a b' ended unseen: it was never started. What it wrote until then is in its log.",
    direct: true,
  })
  expect(await readdir(layout.failed)).toEqual([job.failed.slice(layout.failed.length + 1)])
  expect(await settleAllStarted(later)).toEqual([])
})

test('one that another host is just starting is not given up because the clocks differ', async () => {
  await using dir = await tempDir()
  const { layout, later } = await scene(dir.path)
  const job = create(layout, {}, 'elsewhere')
  expect(await settleAllStarted(later)).toEqual([])
  const nextDay = makeSpool({
    layout,
    clock: { now: () => Date.now() + 25 * 3_600_000, mono: () => performance.now() },
  })
  expect(await settleAllStarted(nextDay)).toEqual([job.id])
})

test('a shim that comes too late finds its place taken', async () => {
  await using dir = await tempDir()
  const { layout, later } = await scene(dir.path)
  const job = create(layout)
  await mkdir(job.dir, { mode: 0o700 })
  await settleAllStarted(later)
  // shim.pl writes process.json by rename before it starts anything, which a folder of that name refuses
  expect((await stat(join(job.dir, 'process.json'))).isDirectory()).toBe(true)
})

describe('the record of its end, when the shim died before it moved the job', () => {
  test.each([
    [{}, {}, 'done', 'succeeded', "prog 'a b' ended with exit code 0.", undefined],
    [
      { exit_code: 3 },
      {},
      'failed',
      'failed',
      "prog 'a b' ended with exit code 3; expected was exit code 0.",
      'exit-code',
    ],
    [
      { exit_code: 3 },
      { expected_exit_codes: [0, 3] },
      'done',
      'succeeded',
      "prog 'a b' ended with exit code 3.",
      undefined,
    ],
    [
      { exit_code: null, signal: 'SIGSEGV' },
      {},
      'failed',
      'failed',
      "prog 'a b' ended with signal SIGSEGV; expected was exit code 0.",
      'killed',
    ],
    [
      { exit_code: null, signal: 'SIGTERM', stopped: { by: 'me', at: '', forced: false } },
      {},
      'cancelled',
      'cancelled',
      "prog 'a b' was stopped by me; it ended with signal SIGTERM.",
      'cancelled',
    ],
    [
      { exit_code: null, signal: 'SIGKILL', timed_out: true },
      {},
      'failed',
      'failed',
      "prog 'a b' ran longer than its timeout of 0 s and was stopped; it ended with signal SIGKILL.",
      'timed-out',
    ],
    [
      { exit_code: null, spawn_error: { step: 'exec', errno: 2, message: 'No such file or directory' } },
      {},
      'failed',
      'failed',
      "prog 'a b' could not be started: No such file or directory.",
      'spawn-failed',
    ],
  ] as const)('%j %j', async (how, command, folder, state, reason, code) => {
    await using dir = await tempDir()
    const { layout, spool } = await scene(dir.path)
    const job = create(layout, command)
    await shimWas(job)
    await writeFile(join(job.dir, 'exit.json'), JSON.stringify({ ...exit, ...how }))
    expect(await settleAllStarted(spool)).toEqual([job.id])
    expect(await readdir(layout[folder])).toHaveLength(1)
    expect(await readdir(layout.started)).toEqual([])
    const status = await read(job.status)
    expect(status).toMatchObject({ state, reason, finished_at: exit.finished_at })
    const result = await read(job.result)
    expect(result).toMatchObject({ state, duration_ms: 5000 })
    expect(result.error?.code).toBe(code)
    const events = (await readFile(join(layout.daemon, 'events.jsonl'), 'utf8')).trim().split('\n')
    expect(events.map((e) => JSON.parse(e))).toMatchObject([{ event: 'finished', job: job.id, state }])
  })
})

test('another boot of this host: lost; another host, or another container: not ours to say', async () => {
  await using dir = await tempDir()
  const { layout, later } = await scene(dir.path)
  const { hostname } = await import('node:os')
  const boot = '00000000-0000-4000-8000-000000000000'
  const [before, elsewhere, container] = [create(layout), create(layout), create(layout)]
  await shimWas(before, { boot_id: boot, host: hostname() })
  await shimWas(elsewhere, { boot_id: boot, host: 'other.example' })
  await shimWas(container, { pidns: 1, host: hostname() })
  expect(await settleAllStarted(later)).toEqual([before.id])
  expect((await read(before.status)).reason).toContain('the host was restarted while it ran')
  expect((await readdir(layout.started)).sort()).toEqual(
    [elsewhere, container].map((j) => j.record.slice(layout.started.length + 1)).sort(),
  )
})

test('several that look at once settle it once', async () => {
  await using dir = await tempDir()
  const { layout, spool } = await scene(dir.path)
  const jobs = Array.from({ length: 5 }, () => create(layout))
  for (const job of jobs) await shimWas(job)
  const lookers = Array.from({ length: 4 }, () => makeSpool({ layout }))
  const errors: unknown[] = []
  await Promise.all([spool, ...lookers].map((s) => settleAllStarted(s, { onError: (_, e) => errors.push(e) })))
  expect(errors).toEqual([])
  expect(await readdir(layout.failed)).toHaveLength(5)
  expect(await readdir(layout.started)).toEqual([])
  for (const job of jobs) expect(await read(job.result)).toMatchObject({ state: 'failed', error: { code: 'lost' } })
})

test('a spool that is not there is said; nothing is left of a record that could not be written', async () => {
  await using dir = await tempDir()
  const layout = layoutOf({ root: join(dir.path, 'none'), instance: 'i' })
  expect(() => create(layout)).toThrow(expect.objectContaining({ exitCode: 73 }))
  await scene(dir.path)
  const other = { ...layoutOf({ root: dir.path, instance: 'i' }), started: join(dir.path, 'gone') }
  expect(() => create(other)).toThrow(expect.objectContaining({ exitCode: 73 }))
  expect(await readdir(other.outputJobs)).toEqual([])
})
