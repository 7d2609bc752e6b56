// Jobs without an agent: `vmspool run` tells its spool, and the index hears of them from lists and questions alone.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { cli } from '../cli/run.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

test('commands of `vmspool run` are in the lists at once and in the index when they have ended', async () => {
  await using dir = await tempDir()
  const path = join(dir.path, 'history.db')
  const env = { VMSPOOL_ROOT: join(dir.path, 'spool'), VMSPOOL_HISTORY_PATH: path }
  const run = (...args: string[]) => cli(args, { env })
  const states = async (): Promise<Record<string, string>> =>
    Object.fromEntries(
      JSON.parse((await run('list', '-o', 'json')).out).map((s: { name: string; state: string }) => [s.name, s.state]),
    )
  const rows = () => {
    const db = new DatabaseSync(path, { readOnly: true })
    try {
      const sql =
        'SELECT name, state, exit_code, signal, env, error_code, uid, ticket, finished_ms - started_ms >= 0 AS took FROM job ORDER BY name'
      return db.prepare(sql).all()
    } finally {
      db.close()
    }
  }
  expect(await run('run', '--name', 'first', '--', 'true')).toMatchObject({ code: 0 })
  await until('it ended', async () => (await states()).first === 'succeeded')
  await run('stats') // from here on there is an index
  expect(rows()).toHaveLength(1)

  expect(
    await run(
      ...['run', '--name', 'bad', '-e', 'API_TOKEN=hush-hush', '-e', 'MODE=x'],
      ...['-e', 'DB=pg://me:hush-hush@db/x', '--', 'sh', '-c', 'exit 3'],
    ),
  ).toMatchObject({ code: 0 })
  expect(await run('run', '--name', 'long', '--', 'sleep', '600')).toMatchObject({ code: 0 })
  await until(
    'one ended, one runs',
    async () => JSON.stringify(await states()) === '{"long":"running","bad":"failed","first":"succeeded"}',
  )
  expect(JSON.parse((await run('list', '--state', 'failed', '-o', 'json')).out)).toMatchObject([
    { name: 'bad', exit_code: 3 },
  ])
  const shown = await run('status', 'bad')
  expect(shown.out).toContain('pg://me:********@db/x')
  expect(shown.out).not.toContain('hush-hush')
  expect(await run('stop', 'long')).toMatchObject({ code: 0 })
  expect((await states()).long).toBe('cancelled')

  const stats = JSON.parse((await run('stats', '-o', 'json')).out)
  expect(stats.all).toMatchObject({ jobs: 3, succeeded: 1, failed: 1, cancelled: 1 })
  const followed = rows()
  const uid = process.getuid?.()
  expect(followed).toMatchObject([
    { name: 'bad', state: 'failed', exit_code: 3, signal: null, error_code: 'exit-code', uid, ticket: 0, took: 1 },
    { name: 'first', state: 'succeeded', exit_code: 0, signal: null, error_code: null, uid, ticket: 0, took: 1 },
    { name: 'long', state: 'cancelled', exit_code: null, signal: 'SIGTERM', uid, ticket: 0, took: 1 },
  ])
  expect(JSON.parse(String(followed[0]!.env))).toEqual([
    ['MODE', 'x'],
    ['DB', 'pg://me:********@db/x'],
    ['API_TOKEN', '********'],
  ])
  expect(readFileSync(path).toString('latin1')).not.toContain('hush-hush')
  await run('history', 'rebuild')
  expect(rows()).toEqual(followed)

  expect(await run('cleanup', '--all', '--days', '0')).toMatchObject({ code: 0 })
  expect(await run('stats')).toMatchObject({ code: 0, out: '' })
  expect(rows()).toEqual([])
})
