// Jobs that repeat, with real agents and real commands, every second.
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { createBatches } from '../../src/agent/batches.ts'
import { dueOfNext, firstRun, makeNextRun } from '../../src/agent/repeat.ts'
import type { Agent } from '../../src/agent/state.ts'
import { parseManifest } from '../../src/manifest/index.ts'
import { fsck, heldNames, type IntakeOptions, promoteDue, takeAndAccept } from '../../src/spool/index.ts'
import { nextOccurrence } from '../../src/text/cron.ts'
import { command, intake, mustClaim, openTestSpool, settle } from '../spool/harness.ts'
import { type Bed, bed } from '../support/agent.ts'
import { commandManifest } from '../support/manifests.ts'
import { drop, endOf, eventsOf, readJson, statusOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

interface Result {
  id: string
  state: string
  next_run?: { job: string; at: string }
}

const every = (name: string, b: Bed, repeat: object, more = '') =>
  commandManifest(name, ['sh', '-c', `echo $VMSPOOL_JOB >> ${b.dir}/${name}.ran${more}`], {
    repeat: { cron: '* * * * * *', ...repeat },
  })
const ran = async (b: Bed, name: string) =>
  (await readFile(join(b.dir, `${name}.ran`), 'utf8').catch(() => '')).split('\n').filter(Boolean)
const resultOf = (b: Bed, id: string) => readJson<Result>(join(b.layout.outputJobs, id, 'result.json'))
const heldOf = async (b: Bed) => (await readdir(b.layout.held)).map((f) => f.slice(16, 42))
const cancel = (b: Bed, id: string) =>
  writeFile(join(b.layout.control, `cancel-${id}.json`), JSON.stringify({ schema: 1, job: id, by: 'a test' }))
const iso = (ms: number | undefined) => (ms === undefined ? undefined : new Date(ms).toISOString())

describe.concurrent('a job that repeats', () => {
  test('is held until its first time; each run is a job, its answer stays until the next begins; ends after its runs', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    await drop(b, every('tick', b, { runs: 3 }))
    await drop(b, every('fails', b, { runs: 2 }, '; exit 3'))
    await until('three ran', async () => (await ran(b, 'tick')).length === 3)
    await until('two failed', async () => (await ran(b, 'fails')).length === 2)
    for (const [name, state, count] of [
      ['tick', 'succeeded', 3],
      ['fails', 'failed', 2],
    ] as const) {
      const ids = await ran(b, name)
      expect(new Set(ids).size).toBe(count)
      for (const [i, id] of ids.entries()) {
        const result = await until(`run ${i} ended`, () => resultOf(b, id))
        expect(result.state).toBe(state)
        expect(result.next_run?.job).toBe(ids[i + 1])
      }
      expect(await endOf(b, name)).toMatchObject({ id: ids.at(-1), state })
    }
    const accepted = (await eventsOf(b, 'accepted')).filter((e) => e.name === 'tick')
    expect(accepted.length).toBeGreaterThanOrEqual(3)
    expect(await readdir(b.layout.held)).toEqual([])
  })

  test('goes on over crashes and restarts, each run once', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { lease: { timeout: '1s' } })
    let agent = await b.start()
    await drop(b, every('series', b, { runs: 6 }))
    for (let n = 1; n < 6; n++) {
      await until(`${n} ran`, async () => (await ran(b, 'series')).length >= n)
      await (n % 2 === 0 ? agent.stop() : agent.kill())
      agent = await b.start()
    }
    await until('all ran', async () => (await ran(b, 'series')).length >= 6)
    await until('none is left', async () => (await readdir(b.layout.done)).length === 6)
    const runs: number[] = []
    for (const file of await readdir(b.layout.done)) {
      const { manifest } = JSON.parse(await readFile(join(b.layout.done, file), 'utf8'))
      runs.push(manifest.repeat.run)
    }
    expect(runs.sort()).toEqual([1, 2, 3, 4, 5, 6])
    for (const state of ['new', 'held', 'failed', 'cancelled'] as const)
      expect(await readdir(b.layout[state])).toEqual([])
  })

  test('ends when a run is cancelled, one that waits or one that is running; a failure ends nothing', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    await drop(b, commandManifest('yearly', ['true'], { repeat: { cron: '@yearly', timezone: 'UTC' } }))
    const held = await until('it is held', async () => {
      const s = await statusOf(b, 'yearly')
      return s?.state === 'held' ? s : undefined
    })
    expect(held.waiting_on).toMatch(/^its time, 2\d\d\d-01-01T00:00:00\.000Z$/)
    await cancel(b, held.id)
    expect((await endOf(b, 'yearly')).state).toBe('cancelled')
    await drop(b, every('long', b, {}, '; exec sleep 600'))
    const running = await until('it runs', async () => {
      const s = await statusOf(b, 'long')
      return s?.state === 'running' ? s : undefined
    })
    await cancel(b, running.id)
    expect((await endOf(b, 'long')).state).toBe('cancelled')
    // One that waits for its second time: its name still answers with the first.
    await drop(b, commandManifest('later', ['false'], { repeat: { cron: '* * * * * *' }, retry: { max_attempts: 0 } }))
    const first = await endOf(b, 'later')
    const next = (await until('its result is there', () => resultOf(b, first.id))).next_run!.job
    for (let id: string | undefined = next; id !== undefined; ) {
      await cancel(b, id)
      const now: string = id
      const result: Result = await until(`${now} ended`, () => resultOf(b, now))
      id = result.next_run?.job
    }
    expect(await heldOf(b)).toEqual([])
    expect(await readdir(b.layout.new)).toEqual([])
  })

  test('with an expression, a zone or an end that cannot be is rejected at its place', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    await drop(b, commandManifest('over', ['true'], { repeat: { cron: '@daily', until: '2020-01-01T00:00:00Z' } }))
    expect(await endOf(b, 'over')).toMatchObject({ state: 'rejected', reason: expect.stringContaining('repeat.until') })
  })
})

test('an expression is checked where it stands', () => {
  const check = (repeat: object) => {
    const text = JSON.stringify({ kind: 'command', name: 'x', command: { argv: ['true'] }, repeat })
    const outcome = parseManifest(Buffer.from(text), { fileName: 'x.json' })
    return outcome.diagnostics
      .map((d) => `${d.path} ${d.column === undefined ? '' : text.slice(d.column - 1, d.column + 5)} ${d.message}`)
      .join('\n')
  }
  for (const cron of ['0 0 30 2 *', '61 * * * *', '* * *', '* * * * * * *', '@reboot', '2024-01-01T00:00:00', 'hello'])
    expect(check({ cron })).toMatch(/^repeat\.cron "\S* ?\S* ?\S* ?repeat\.cron is /)
  for (const cron of ['0 0 29 2 *', '*/5 * * * *', '*/5 * * * * *', '@hourly', ' 5 4 * * sun ', '0 0 L * *'])
    expect(check({ cron })).toBe('')
  expect(check({ cron: '@daily', timezone: 'Mars/Base' })).toMatch(/^repeat\.timezone "Mars.*does not know/)
  expect(check({ cron: '@daily', until: '2026-02-30T00:00:00Z' })).toMatch(/^repeat\.until "2026.*no such day/)
})

test('summer time: what is skipped runs after the jump, what comes twice runs once', () => {
  const next = (cron: string, from: string, n: number) => {
    const out: (string | undefined)[] = []
    let at: number | undefined = Date.parse(from)
    for (let i = 0; i < n && at !== undefined; i++) {
      at = nextOccurrence(cron, 'Europe/Berlin', at)
      out.push(iso(at)?.slice(0, 16))
    }
    return out
  }
  // 2026-03-29: 02:00 becomes 03:00. 2026-10-25: 03:00 becomes 02:00.
  expect(next('30 2 * * *', '2026-03-28T00:00:00Z', 3)).toEqual([
    '2026-03-28T01:30',
    '2026-03-29T01:00',
    '2026-03-30T00:30',
  ])
  expect(next('30 2 * * *', '2026-10-24T12:00:00Z', 2)).toEqual(['2026-10-25T00:30', '2026-10-26T01:30'])
  expect(next('0 * * * *', '2026-10-24T22:30:00Z', 4)).toEqual([
    '2026-10-24T23:00',
    '2026-10-25T00:00',
    '2026-10-25T01:00',
    '2026-10-25T02:00',
  ])
  expect(next('0 12 * * *', '2026-10-24T12:00:00Z', 2)).toEqual(['2026-10-25T11:00', '2026-10-26T11:00'])
})

test('of times that passed while it ran one is made up for; the first time is never now', () => {
  const at = (text: string) => Date.parse(`2026-05-04T${text}Z`)
  const repeat = { cron: '*/10 * * * *', timezone: 'UTC' }
  const due = (started: string, now: string, more: object = {}) =>
    iso(dueOfNext({ ...repeat, ...more }, at(started), at(now)))?.slice(11, 19)
  expect(due('12:00:01', '12:03:00')).toBe('12:10:00')
  expect(due('12:00:01', '12:35:00')).toBe('12:35:00')
  // It began late, for the agent was not there: what it missed it makes up for itself.
  expect(due('15:01:00', '15:02:00')).toBe('15:10:00')
  expect(due('12:00:01', '12:03:00', { runs: 3, run: 3 })).toBeUndefined()
  expect(due('12:00:01', '12:03:00', { until: '2026-05-04T12:09:00Z' })).toBeUndefined()
  expect(due('12:00:01', '12:35:00', { until: '2026-05-04T12:20:00Z' })).toBeUndefined()
  const text = (more: object) => Buffer.from(command('x', { repeat, ...more }))
  const first = (more: object, now: string) => {
    const outcome = firstRun(parseManifest(text(more), { fileName: 'x.json' }), at(now))
    return outcome.state === 'complete' ? iso(outcome.manifest.not_before_ms)?.slice(11, 19) : outcome.state
  }
  expect(first({}, '12:00:00')).toBe('12:10:00')
  expect(first({ not_before: '2026-05-04T14:00:00Z' }, '12:00:00')).toBe('14:00:00')
  expect(first({ not_before: '2026-05-04T14:00:01Z' }, '12:00:00')).toBe('14:10:00')
})

test.each(['before', 'after'] as const)(
  'an I/O error %s any operation loses no run and makes none twice',
  { timeout: 600_000 },
  async (how) => {
    let last = 120
    for (let n = 1; n <= last; n += 3) {
      await using dir = await tempDir()
      last = Math.min(last, await makeWith(dir.path, n, how))
    }
    expect(last).toBeGreaterThan(20)
  },
)

/** Makes the next run while the n-th operation fails: not done at all, or done with its answer lost. Returns how many there were. */
async function makeWith(dir: string, n: number, how: 'before' | 'after'): Promise<number> {
  const s = await openTestSpool(dir)
  const o: IntakeOptions = {
    ...intake(),
    parse: (bytes, fileName) => firstRun(parseManifest(bytes, { fileName }), Date.parse('2026-01-01T00:00:00Z')),
  }
  const repeat = { cron: '0 0 1 1 *', timezone: 'UTC' }
  await s.fs.writeFile(join(s.layout.queue, 'x.json'), command('x', { repeat }), { mode: 0o640, sync: false })
  const [held] = await settle(s, o)
  expect(held!.state).toBe('held')
  const [due] = await promoteDue(
    { ...s, clock: { ...s.clock, now: () => Date.parse('2027-01-01T00:00:01Z') } },
    heldNames(),
  )
  const c = await mustClaim(s, { ...held!, name: due! })
  const batches = createBatches(s, () => {})
  let count = 0
  let over = false
  for (const [key, real] of Object.entries(s.fs) as [string, (...a: unknown[]) => Promise<unknown>][]) {
    ;(s.fs as unknown as Record<string, unknown>)[key] = async (...args: unknown[]) => {
      const mine = !over && ++count === n
      const error = Object.assign(new Error(`EIO: injected, ${key}`), { code: 'EIO' })
      if (mine && how === 'before') throw error
      const result = await real.apply(s.fs, args)
      if (mine) throw error
      return result
    }
  }
  let next: { job: string; at: string } | undefined
  for (let tries = 0; next === undefined && tries < 4; tries++) {
    const signal = new AbortController().signal
    const making = makeNextRun({ spool: s, batches } as Agent, c, { startedMs: Date.now(), signal })
    let done = false
    void making
      .catch(() => {})
      .finally(() => {
        done = true
      })
    while (!done) {
      await batches.accept(o).catch(() => {})
      s.intake.lastListed = Number.NEGATIVE_INFINITY
      await takeAndAccept(s, o).catch(() => {})
      await new Promise((r) => setImmediate(r))
    }
    next = await making.catch(() => undefined)
  }
  over = true
  s.intake.lastListed = Number.NEGATIVE_INFINITY
  await settle(s, o)
  expect((await readdir(s.layout.held)).map((f) => f.slice(16, 42))).toEqual([next!.job])
  // Again, as a later attempt would: it is the same one.
  expect(
    await makeNextRun({ spool: s, batches } as Agent, c, {
      startedMs: Date.now(),
      signal: new AbortController().signal,
    }),
  ).toEqual(next)
  expect((await fsck(s)).problems.filter((p) => p.severity === 'error')).toEqual([])
  return count
}
