// The program without its terminal: keys in, lines out.
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { locate } from '../../src/client/place.ts'
import { budget } from '../../src/tui/data/budget.ts'
import { jobsOf } from '../../src/tui/data/jobs.ts'
import { glyphsFor } from '../../src/tui/glyphs.ts'
import { session } from '../../src/tui/session.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { emptySpool, idOf, manyJobs, putJob, statusOf } from './synthetic.ts'

async function opened(root: string, instances: readonly string[], size = { columns: 100, rows: 20 }) {
  const ended = { quit: false, suspended: 0 }
  const program = session({
    places: await Promise.all(instances.map((instance) => locate({ root, instance }))),
    version: '0',
    glyphs: glyphsFor({ LANG: 'C.UTF-8' }),
    view: 'jobs',
    changed() {},
    redraw() {},
    quit() {
      ended.quit = true
    },
    suspend() {
      ended.suspended += 1
    },
  })
  const lines = (): string[] =>
    program.frame(size).map((l) =>
      l
        .map((s) => s.text)
        .join('')
        .trimEnd(),
    )
  return {
    ended,
    lines,
    program,
    keys: (...names: string[]) => {
      for (const name of names) program.key(name)
    },
    sees: (what: RegExp) =>
      until(`the screen shows ${what}`, () => what.exec(lines().join('\n'))?.[0], { also: () => lines().join('\n') }),
    [Symbol.dispose]: () => program.close(),
  }
}

test('another instance: everything begins anew with it', async () => {
  await using dir = await tempDir()
  for (const [i, instance] of ['one', 'two'].entries())
    await putJob(await emptySpool(dir.path, instance), statusOf(i, { name: `of-${instance}` }))
  using s = await opened(dir.path, ['one'])
  await s.sees(/> of-one /)
  s.keys('i')
  expect(await s.sees(/Instance .*/)).toBe('Instance  [1 one  2 two]')
  s.keys('2')
  await s.sees(/> of-two /)
  expect(s.lines()[0]).toMatch(/ two: 1 job$/)
  s.keys('3')
  await s.sees(/^> one +inactive/m)
  s.keys('enter')
  await s.sees(/> of-one /)
  s.keys('ctrl+z', 'q')
  expect(s.ended).toEqual({ quit: true, suspended: 1 })
})

test('what is pasted is no keys, but may be searched for', async () => {
  await using dir = await tempDir()
  const layout = await emptySpool(dir.path)
  for (let i = 0; i < 30; i++) await putJob(layout, statusOf(i))
  using s = await opened(dir.path, ['default'])
  await s.sees(/> job-29 /)
  s.program.paste('qj\n')
  expect(s.ended.quit).toBe(false)
  expect(s.lines().at(-1)).toBe('Pasted text is no keys: nothing was done.')
  await s.sees(/> job-29 /)
  s.keys('/')
  s.program.paste('job-3\nand more')
  expect(s.lines().at(-1)).toBe('/job-3')
  await s.sees(/> job-3 /)
  s.keys('enter', 'n')
  await s.sees(/> job-3 /)
  s.keys('x')
  expect(s.lines().at(-1)).toBe('x does nothing here; ? shows the keys.')
})

test('a status is read when it is on the screen; a job that goes is gone; one that comes is first', async () => {
  await using dir = await tempDir()
  const layout = await emptySpool(dir.path)
  for (let i = 0; i < 5; i++) await putJob(layout, statusOf(i, { state: 'running', finished_at: undefined }))
  using s = await opened(dir.path, ['default'])
  await s.sees(/> job-4 +convert +running/)
  await putJob(layout, statusOf(4, { state: 'failed', exit_code: 9 }))
  await s.sees(/> job-4 +convert +failed +\S+ +exit code 9/)
  await rename(join(layout.outputJobs, idOf(3)), join(dir.path, 'away'))
  await until('it is gone', () => !s.lines().join('\n').includes('job-3'))
  await putJob(layout, statusOf(7, { name: 'newest' }))
  await s.sees(/newest .*\n> job-4/)
})

test('what is on the screen is read first: the list can be walked through long before all is read', async () => {
  await using dir = await tempDir()
  await manyJobs(await emptySpool(dir.path), 3000)
  using s = await opened(dir.path, ['default'])
  await s.sees(/> job-2999 +convert/)
  s.keys('G')
  await s.sees(/> job-0 +convert +succeeded/)
  await s.sees(/3000 jobs, 600 failed/)

  // how many were read before the oldest, which lies on the screen from the first listing on
  const oldest = idOf(0)
  let before: number | undefined
  const jobs = jobsOf(await locate({ root: dir.path }), {
    changed() {
      if (jobs.ids().length === 3000) jobs.wish([oldest])
      if (jobs.status(oldest) !== undefined) before ??= jobs.counts().read
    },
    failed(error) {
      throw error
    },
  })
  try {
    jobs.start()
    expect(await until('it is read', () => before)).toBeLessThan(300)
    await until('all are read', () => jobs.counts().read === 3000)
  } finally {
    jobs.stop()
  }
})

test('the folders have the last word on what a status says', async () => {
  await using dir = await tempDir()
  const layout = await emptySpool(dir.path)
  const running = statusOf(1, { state: 'running', finished_at: undefined })
  await putJob(layout, running)
  // The agent died between the rename and the status: the job lies in failed/.
  const file = `5-${running.id}-${'0'.repeat(24)}-00000001~1.0.0.json`
  await writeFile(
    join(layout.failed, file),
    JSON.stringify({ answer: 'job-1', kind: 'convert', drop: { file: 'x', at: running.accepted_at } }),
  )
  using s = await opened(dir.path, ['default'])
  await s.sees(/> job-1 +convert +failed/)
})

test('a spool that is not there yet is watched as soon as it is', async () => {
  await using dir = await tempDir()
  const layout = await emptySpool(dir.path)
  await rm(layout.outputJobs, { recursive: true })
  using s = await opened(dir.path, ['default'])
  await s.sees(/No jobs yet\./)
  await mkdir(layout.outputJobs)
  await putJob(layout, statusOf(1))
  await s.sees(/> job-1 /)
})

test('reads are bounded by time, not by what there is to read', async () => {
  const perSecond = 1000
  const b = budget(perSecond, 50)
  const start = performance.now()
  let read = 0
  while (read < 400) read += await b.take(32)
  const ms = performance.now() - start
  expect(read).toBeLessThanOrEqual(50 + (ms / 1000) * perSecond + 32)
  b.stop()
})
