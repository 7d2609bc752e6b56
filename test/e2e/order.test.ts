import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { type Bed, bed, control } from '../support/agent.ts'
import { commandManifest } from '../support/manifests.ts'
import { answerFiles, drop, endOf, eventsOf, statusOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const accepted = (b: Bed, n: number) =>
  until(`${n} are accepted`, async () => (await eventsOf(b, 'accepted')).length === n)

/** Names in the order in which their jobs were started. */
const startedOrder = async (b: Bed) => (await eventsOf(b, 'started')).map((e) => e.name)

describe.concurrent('order', () => {
  test('priority first, then age', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { concurrency: { jobs: 1 } })
    await b.start()
    await control(b, 'pause')
    const priorities = [5, 9, 0, 5, 3, 0]
    for (const [i, priority] of priorities.entries()) {
      await drop(b, commandManifest(`p${priority}-${i}`, ['true'], { priority }))
      await accepted(b, i + 1)
    }
    expect(await startedOrder(b)).toEqual([])
    expect(await statusOf(b, 'p0-2')).toMatchObject({ state: expect.stringMatching(/queued|held/) })
    await control(b, 'resume')
    await until('all have ended', async () => (await readdir(b.layout.done)).length === 6)
    expect(await startedOrder(b)).toEqual(['p0-2', 'p0-5', 'p3-4', 'p5-0', 'p5-3', 'p9-1'])
  })

  test('jobs of one name run one at a time, in the order of acceptance, whatever their priority', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { concurrency: { weight: 4 } })
    await b.start()
    await b.start({ worker: true })
    const log = join(dir.path, 'log')
    for (let i = 0; i < 5; i++) {
      const argv = ['sh', '-c', `echo begin ${i} >> ${log}; sleep 0.2; echo end ${i} >> ${log}`]
      await drop(b, commandManifest('web', argv, { priority: 9 - i }))
      await accepted(b, i + 1)
    }
    await until('all have ended', async () => (await readdir(b.layout.done)).length === 5)
    const lines = (await readFile(log, 'utf8')).trim().split('\n')
    expect(lines).toEqual([0, 1, 2, 3, 4].flatMap((i) => [`begin ${i}`, `end ${i}`]))
    // The answer is the last one's; the others are found by their ids.
    const last = (await eventsOf(b, 'accepted')).at(-1)!
    expect((await endOf(b, 'web')).id).toBe(last.job)
  })

  test('not_before holds a job, and says until when', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    // late enough for a loaded machine to look at the job while it waits
    const at = new Date(Date.now() + 10_000)
    await drop(b, commandManifest('later', ['true'], { not_before: at.toISOString() }))
    const held = await until('it is told of', () => statusOf(b, 'later'))
    expect(held).toMatchObject({ state: 'held' })
    await drop(b, commandManifest('now', ['true']))
    expect(await endOf(b, 'now')).toMatchObject({ state: 'succeeded' })
    expect(await endOf(b, 'later')).toMatchObject({ state: 'succeeded' })
    const started = (await eventsOf(b, 'started')).find((e) => e.name === 'later')!
    expect(Date.parse(started.at)).toBeGreaterThanOrEqual(at.getTime())
  })

  test('a failure that may pass is retried after its delay, and the wait survives a kill', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { retry: { delay: '1s', factor: 1 } })
    const agent = await b.start()
    const tries = join(dir.path, 'tries')
    const mended = join(dir.path, 'mended')
    const argv = ['sh', '-c', `echo x >> ${tries}; test -e ${mended}`]
    await drop(b, commandManifest('flaky', argv, { retry: { max_attempts: 1000 } }))
    // The status says so a moment before the job's file is moved.
    await until('it waits for its retry', async () => (await statusOf(b, 'flaky'))?.state === 'retrying')
    await until('it lies in held/', async () => (await readdir(b.layout.held)).length === 1)
    await agent.kill()
    const before = (await readFile(tries, 'utf8')).length
    await writeFile(mended, '')
    await b.start()
    expect(await endOf(b, 'flaky')).toMatchObject({ state: 'succeeded' })
    expect((await readFile(tries, 'utf8')).length).toBeGreaterThan(before)
  })

  test('what is over is removed after its retention, the answer stays', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { retention: { done: '1s', failed: '1s', superseded: '1s' } })
    const agent = await b.start()
    await drop(b, commandManifest('web', ['true']))
    const first = await endOf(b, 'web')
    await drop(b, commandManifest('web', ['true']))
    await until('the second has ended', async () => {
      const now = await statusOf(b, 'web')
      return now?.state === 'succeeded' && now.id !== first.id
    })
    // Retention is a slow loop; a start runs it at once.
    await agent.stop()
    await until(
      'a second has passed',
      async () => Date.now() - Date.parse(String((await statusOf(b, 'web'))!.finished_at)) > 1200,
    )
    await b.start()
    await until('the records are gone', async () => (await readdir(b.layout.done)).length === 0)
    expect(await readdir(b.layout.outputJobs)).toEqual([])
    expect(await answerFiles(b, 'web')).toContain('web.result.json')
  })
})
