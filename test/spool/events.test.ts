import { appendFile, mkdir, readdir, rename, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { endOfEvents, type EventsPosition, readEvents, rotateEvents } from '../../src/spool/index.ts'
import { tempDir } from '../support/temp.ts'

const line = (i: number, more: object = {}) =>
  `${JSON.stringify({ at: '2026-11-21T10:00:00.000Z', event: 'e', i, ...more })}\n`
const lines = (from: number, to: number) => {
  let text = ''
  for (let i = from; i < to; i++) text += line(i)
  return text
}

async function scene(dir: string) {
  const spool = { layout: { daemon: join(dir, 'd') } }
  const file = (name: string) => join(spool.layout.daemon, name)
  await mkdir(spool.layout.daemon)
  let at: EventsPosition | undefined
  return {
    spool,
    file,
    live: file('events.jsonl'),
    /** the numbers of the events that are new */
    async read() {
      const got: unknown[] = []
      let missed = false
      for (;;) {
        const r = await readEvents(spool, at)
        at = JSON.parse(JSON.stringify(r.position))
        got.push(...r.events.map((e) => e.i))
        missed ||= r.missed
        if (!r.more) return missed ? [...got, 'missed'] : got
      }
    },
    forget() {
      at = undefined
    },
  }
}
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)

test('each event is read once, whole lines only, and a folder or file that is not there holds none', async () => {
  await using dir = await tempDir()
  expect((await readEvents({ layout: { daemon: join(dir.path, 'none') } })).events).toEqual([])
  const s = await scene(dir.path)
  expect(await s.read()).toEqual([])
  await appendFile(s.live, lines(0, 3) + line(3).slice(0, 10))
  expect(await s.read()).toEqual([0, 1, 2])
  await appendFile(s.live, line(3).slice(10))
  expect(await s.read()).toEqual([3])
  expect(await s.read()).toEqual([])
  await appendFile(s.live, `no json\n\0\n${line(4).slice(0, 20)}${line(5)}`)
  expect(await s.read()).toEqual([5])
})

test('across rotation and compression nothing is lost, doubled or out of order', async () => {
  await using dir = await tempDir()
  const s = await scene(dir.path)
  await appendFile(s.live, lines(0, 10))
  expect(await s.read()).toEqual(range(0, 10))
  await appendFile(s.live, lines(10, 20))
  await rename(s.live, s.file('events.1.jsonl'))
  expect(await s.read()).toEqual(range(10, 20))
  expect(await s.read()).toEqual([])
  await appendFile(s.live, lines(20, 25))
  await rename(s.live, s.file('events.2.jsonl'))
  await appendFile(s.live, lines(25, 30))
  expect(await s.read()).toEqual(range(20, 30))
  // Who had the file open when it was rotated appended to it, before and after it was compressed.
  await appendFile(s.file('events.2.jsonl'), lines(100, 102))
  expect(await s.read()).toEqual([100, 101])
  expect(await s.read()).toEqual([])
  await rm(s.file('events.2.jsonl'))
  await writeFile(s.file('events.2.jsonl.gz'), gzipSync(lines(20, 25) + lines(100, 103)))
  await appendFile(s.live, lines(30, 31))
  expect(await s.read()).toEqual([102, 30])
  // A position in the middle of a file that is compressed by now.
  await appendFile(s.live, lines(31, 32))
  await rm(s.live)
  await writeFile(s.file('events.3.jsonl.gz'), gzipSync(lines(25, 40)))
  await writeFile(s.live, lines(40, 50))
  expect(await s.read()).toEqual(range(31, 50))
  s.forget()
  await rename(s.file('events.1.jsonl'), s.file('events.1.jsonl.gone'))
  expect(await s.read()).toEqual([...range(20, 25), 100, 101, 102, ...range(25, 50)])
})

test('what is gone is said, a file that was cut or replaced is read from its beginning', async () => {
  await using dir = await tempDir()
  const s = await scene(dir.path)
  await appendFile(s.live, lines(0, 10))
  expect(await s.read()).toEqual(range(0, 10))
  await rm(s.live)
  await writeFile(s.file('events.3.jsonl'), lines(20, 22))
  await writeFile(s.live, lines(22, 24))
  expect(await s.read()).toEqual([...range(20, 24), 'missed'])
  await truncate(s.live, 0)
  await appendFile(s.live, line(50))
  expect(await s.read()).toEqual([50, 'missed'])
  await rm(s.live)
  await rm(s.file('events.3.jsonl'))
  await writeFile(s.live, lines(60, 100))
  expect(await s.read()).toEqual([...range(60, 100), 'missed'])
})

test('more than one call can hold is read in several', async () => {
  await using dir = await tempDir()
  const s = await scene(dir.path)
  const pad = 'x'.repeat(1000)
  let text = ''
  for (let i = 0; i < 12_000; i++) text += line(i, { pad })
  await writeFile(s.file('events.7.jsonl.gz'), gzipSync(text, { level: 1 }))
  await writeFile(s.live, line(12_000))
  const first = await readEvents(s.spool)
  expect(first).toMatchObject({ more: true, missed: false, position: { segment: 7 } })
  expect(first.events.length).toBeLessThan(6_000)
  expect(await s.read()).toEqual(range(0, 12_001))
})

test('the end as a beginning, and a position of an older version', async () => {
  await using dir = await tempDir()
  const s = await scene(dir.path)
  expect((await readEvents(s.spool, await endOfEvents(s.spool))).events).toEqual([])
  await writeFile(s.file('events.1.jsonl'), lines(0, 5))
  await writeFile(s.live, lines(5, 10))
  const end = await endOfEvents(s.spool)
  const behind = await endOfEvents(s.spool, { ino: end.ino, offset: lines(5, 7).length })
  await appendFile(s.live, line(10))
  expect((await readEvents(s.spool, end)).events.map((e) => e.i)).toEqual([10])
  expect((await readEvents(s.spool, behind)).events.map((e) => e.i)).toEqual([7, 8, 9, 10])
})

test('rotation keeps the total, compresses what is quiet, and a reader beside it sees each event once', async () => {
  await using dir = await tempDir()
  const s = await scene(dir.path)
  const limits = { max_bytes: 5_000, total_bytes: 1 << 20, quiet_ms: 0 }
  const seen: unknown[] = []
  for (let i = 0; i < 30; i++) {
    await appendFile(s.live, lines(i * 50, i * 50 + 50))
    if (i % 3 === 1) seen.push(...(await s.read()))
    // Several agents at once, one that compresses late.
    await Promise.all([rotateEvents(s.spool, limits), rotateEvents(s.spool, { ...limits, quiet_ms: 600_000 })])
    if (i % 3 === 2) seen.push(...(await s.read()))
  }
  seen.push(...(await s.read()))
  expect(seen).toEqual(range(0, 1500))
  const names = (await readdir(join(dir.path, 'd'))).sort()
  expect(names.filter((n) => n.endsWith('.gz')).length).toBeGreaterThan(10)
  expect(names.filter((n) => n.startsWith('.'))).toEqual([])
  s.forget()
  expect(await s.read()).toEqual(range(0, 1500))

  await rotateEvents(s.spool, { max_bytes: 1, total_bytes: 3_000, quiet_ms: 0 })
  const left = (await readdir(join(dir.path, 'd'))).length
  expect(left).toBeLessThan(names.length)
  s.forget()
  const rest = await s.read()
  expect(rest).toEqual(range(1500 - rest.length, 1500))
  expect(rest.length).toBeGreaterThan(0)
})

test('while it is appended to and rotated, by two agents, a reader gets each event once', async () => {
  await using dir = await tempDir()
  const s = await scene(dir.path)
  let over = false
  const rotating = [1, 2].map(async () => {
    while (!over) await rotateEvents(s.spool, { max_bytes: 3_000 })
  })
  const writing = (async () => {
    for (let i = 0; i < 3_000; i += 10) await appendFile(s.live, lines(i, i + 10))
    over = true
  })()
  const seen: unknown[] = []
  while (!over) seen.push(...(await s.read()))
  await Promise.all([writing, ...rotating])
  seen.push(...(await s.read()))
  expect(seen).not.toContain('missed')
  // An append to a file that was just rotated may come late, but it comes.
  expect(seen.toSorted((a, b) => Number(a) - Number(b))).toEqual(range(0, 3_000))
  expect((await readdir(join(dir.path, 'd'))).length).toBeGreaterThan(2)
})
