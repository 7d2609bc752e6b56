// search and stats against what the jobs themselves say.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import fc from '../support/fc.ts'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { withIndex } from '../../src/client/history-work.ts'
import type { View } from '../../src/client/place.ts'
import { search } from '../../src/history/search.ts'
import { stats } from '../../src/history/stats.ts'
import { makeSpool } from '../../src/spool/spool.ts'
import { cli } from '../cli/run.ts'
import { idOf, makeJob, makeLayout } from '../support/finished-jobs.ts'
import { type TempDir, tempDir } from '../support/temp.ts'

const JOBS = 200
let dir: TempDir
let view: View
let env: NodeJS.ProcessEnv

beforeAll(async () => {
  dir = await tempDir()
  const layout = makeLayout(dir.path)
  for (let n = 0; n < JOBS; n++) makeJob(layout, n)
  view = { instance: 'default', layout, spool: makeSpool({ layout }), history: join(dir.path, 'history.db') }
  env = { VMSPOOL_HISTORY_PATH: view.history }
  rewrite(13, 'Prüfsumme falsch: "a"; DROP TABLE job -- * OR NOT NEAR(x) of /srv/ubuntu-24.04.vmdk')
  await withIndex(view, {}, () => {})
})
afterAll(() => dir[Symbol.asyncDispose]())

/** Another error for the n-th job. */
function rewrite(n: number, message: string): void {
  const path = join(view.layout.outputJobs, idOf(n), 'result.json')
  const base = {
    schema: 1,
    id: idOf(n),
    state: 'failed',
    name: 'x',
    kind: 'command',
    finished_at: '2026-01-01T00:13:01Z',
  }
  writeFileSync(path, JSON.stringify({ ...base, error: { code: 'checksum-mismatch', message } }))
}

const find = (text: string) => withIndex(view, {}, (h) => search(h.db, text, { limit: 1000 }).map((hit) => hit.id))

describe('search', () => {
  test('finds all words, words together, beginnings, codes; small or large, with or without accents', async () => {
    const it = [idOf(13)]
    expect(await find('PRÜFSUMME')).toEqual(it)
    expect(await find('prufsumme falsch')).toEqual(it)
    expect(await find('falsch prufsumme')).toEqual(it)
    expect(await find('"falsch prufsumme"')).toEqual([])
    expect(await find('"prufsumme falsch"')).toEqual(it)
    expect(await find('ubu*')).toEqual(it)
    expect(await find('ubu')).toEqual([])
    expect(await find('checksum-mismatch')).toEqual(it)
    expect(await find('/srv/ubuntu-24.04.vmdk')).toEqual(it)
    expect(await find('a" OR "job')).toEqual(it) // words, no operators
    expect(await find('a" OR "b')).toEqual([])
    expect(await find('NOT nothing')).toEqual([])
    expect(await find('rsync')).toEqual(
      Array.from({ length: JOBS }, (_, n) => n)
        .filter((n) => (n % 10 === 3 || n % 10 === 7) && n !== 13)
        .map(idOf)
        .reverse(),
    )
  })

  test('takes any text for words', async () => {
    await withIndex(view, {}, (h) => {
      fc.assert(
        fc.property(
          fc.oneof(fc.string(), fc.string({ unit: 'grapheme' }), fc.stringMatching(/^["*^:(){}+\-A-Z ]{0,12}$/)),
          (text) => {
            try {
              expect(Array.isArray(search(h.db, text, { limit: 3 }))).toBe(true)
            } catch (error) {
              expect(error).toMatchObject({ exitCode: 2 })
            }
          },
        ),
        { numRuns: 500 },
      )
    })
  })

  test('on the command line', async () => {
    const run = (...args: string[]) => cli(['history', 'search', ...args, '--root', dir.path], { env })
    expect(await run('prufsumme', '-o', 'name')).toMatchObject({ code: 0, out: `${idOf(13)}\n` })
    expect((await run('rsync', '-n', '2')).err).toContain('More jobs than the 2 shown')
    const [hit] = JSON.parse((await run('rsync', '--state', 'cancelled', '-o', 'json')).out)
    expect(hit).toMatchObject({ id: idOf(197), state: 'cancelled', instance: 'default', error: { code: 'cancelled' } })
    expect(await run('"')).toMatchObject({ code: 2, out: '', err: expect.stringContaining('no word to search for') })
    expect(await run('nowhere')).toMatchObject({ code: 0, out: '', err: expect.stringContaining('No job ended with') })
  })
})

describe('stats', () => {
  const jobs = Array.from({ length: JOBS }, (_, n) => n)
  const kinds = { convert: jobs.filter((n) => n % 10 < 3), command: jobs.filter((n) => n % 10 >= 3) }

  test('counts, medians, bytes and rates are those of the jobs', async () => {
    const { rows, all } = await withIndex(view, {}, (h, spool) => stats(h.db, ['kind'], { spool }))
    expect(rows.map((r) => r.kind)).toEqual(['command', 'convert'])
    const took = (n: number) => (n % 100) * 10
    for (const row of rows) {
      // Job 13 was written anew, without a duration.
      const durations = kinds[row.kind as keyof typeof kinds]
        .filter((n) => n !== 13)
        .map(took)
        .sort((a, b) => a - b)
      const at = (p: number) => {
        const x = (durations.length - 1) * p
        return durations[Math.floor(x)]! + (x % 1) * (durations[Math.ceil(x)]! - durations[Math.floor(x)]!)
      }
      expect(row.jobs).toBe(kinds[row.kind as keyof typeof kinds].length)
      expect(row.duration_median_ms).toBe(Math.round(at(0.5)))
      expect(row.duration_p95_ms).toBe(Math.round(at(0.95)))
      expect(row.wait_median_ms).toBe(500)
    }
    const n = kinds.convert.length
    const seconds = kinds.convert.reduce((sum, x) => sum + took(x), 0) / 1000
    const counted = kinds.convert.filter((x) => took(x) > 0).length
    expect(rows[1]).toMatchObject({ bytes_in: n * 500_000, bytes_out: n * 1_000_000 })
    expect(rows[1]!.rate_bytes_per_s).toBe(Math.round((counted * 500_000) / seconds))
    expect(all).toMatchObject({ jobs: JOBS, succeeded: 160, failed: 20, cancelled: 20, rejected: 0 })
  })

  test('by other keys, by several, and since a moment', async () => {
    const run = async (...args: string[]) =>
      JSON.parse((await cli(['stats', ...args, '-o', 'json', '--root', dir.path], { env })).out)
    const days = await run('--by', 'day')
    expect(days.rows.map((r: { day: string; jobs: number }) => [r.day, r.jobs])).toEqual([['2026-01-01', JOBS]])
    const both = await run('--by', 'kind', 'outcome')
    expect(both.rows.map((r: Record<string, unknown>) => [r.kind, r.outcome, r.jobs])).toEqual([
      ['command', 'cancelled', 20],
      ['command', 'failed', 20],
      ['command', 'succeeded', 100],
      ['convert', 'succeeded', 60],
    ])
    const since = await run('--since', '2026-01-01T03:00:00Z')
    expect(since.all.jobs).toBe(20)
    const names = await run('--by', 'name', '--since', '2026-01-01')
    expect(names.rows).toHaveLength(JOBS)
    expect((await run('--by', 'host')).rows.map((r: { host: string }) => r.host)).toEqual(['-', 'h1'])
    const table = await cli(['stats', '--root', dir.path], { env })
    expect(table.out.split('\n')[3]).toMatch(/^all +200 +160 +20 +20 +0 /)
    expect(await cli(['stats', '--since', '1h', '--root', dir.path], { env })).toMatchObject({ code: 0, out: '' })
    expect(await cli(['stats', '--since', 'soon', '--root', dir.path], { env })).toMatchObject({ code: 2 })
  })
})

test('status names the database and its spools; rebuild --all forgets those that are gone', async () => {
  await using other = await tempDir()
  {
    await using gone = await tempDir()
    makeJob(makeLayout(gone.path), 0)
    await cli(['stats', '--root', gone.path], { env: { VMSPOOL_HISTORY_PATH: join(other.path, 'h.db') } })
  }
  const layout = makeLayout(other.path)
  makeJob(layout, 0)
  const run = (...args: string[]) =>
    cli(['history', ...args, '--root', other.path], { env: { VMSPOOL_HISTORY_PATH: join(other.path, 'h.db') } })
  await run('search', 'x')
  const before = JSON.parse((await run('status', '-o', 'json')).out)
  expect(before.spools.map((s: Record<string, unknown>) => [s.jobs, s.present, s.complete]).sort()).toEqual([
    [1, false, false],
    [1, true, true],
  ])
  const rebuilt = await run('rebuild', '--all')
  expect(rebuilt.err).toContain('is not there any more')
  expect(rebuilt.out).toContain('1 finished jobs in')
  expect(JSON.parse((await run('status', '-o', 'json')).out).spools).toHaveLength(1)
  const path = (await run('status', '-o', 'name')).out.trim()
  const db = new DatabaseSync(path, { readOnly: true })
  expect(db.prepare('PRAGMA journal_mode').get()).toEqual({ journal_mode: 'wal' })
  db.close()
})

test('list reads its options on the short way as the parser of options does', { timeout: 600_000 }, async () => {
  const layout = makeLayout(join(dir.path, 'short'))
  for (let n = 0; n < 30; n++) makeJob(layout, n)
  const run = (...args: string[]) => cli(['list', '--root', join(dir.path, 'short'), ...args], { env })
  // `--option=value` is left to the parser.
  for (const [short, long] of [
    [
      ['-n', '4', '-o', 'name'],
      ['--limit=4', '--output=name'],
    ],
    [
      ['-s', 'failed', 'cancelled', '--kind', 'command', '-o', 'name'],
      ['--state=failed', '--state=cancelled', '--kind=command', '-o', 'name'],
    ],
    [
      ['--name', 'job-7', '-o', 'json', '--status', 'killed'],
      ['--name=job-7', '-o', 'json', '--status', 'killed'],
    ],
    [
      ['--ghost', '--limit', '3'],
      ['--ghost', '--limit=3'],
    ],
  ]) {
    const [a, b] = await Promise.all([run(...short!), run(...long!)])
    expect(a).toEqual(b)
    expect(a).toMatchObject({ code: 0 })
    expect(a.out.length).toBeGreaterThan(50)
  }
  for (const wrong of [['-n', 'x'], ['--state', 'over'], ['stray'], ['--state', 'failed', '--status', 'exited']])
    expect(await run(...wrong), wrong.join(' ')).toMatchObject({
      code: 2,
      out: '',
      err: expect.stringContaining('vmspool list: '),
    })
})
