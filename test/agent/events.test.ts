// The event file in the life of an agent: it is rotated, and who follows it does not notice.
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { endOfEvents, readEvents } from '../../src/spool/index.ts'
import { bed } from '../support/agent.ts'
import { commandManifest } from '../support/manifests.ts'
import { drop, endOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

test('a large file is rotated by the main agent; positions and the statistics go on', async () => {
  await using dir = await tempDir()
  await using b = await bed(dir.path)
  await mkdir(b.layout.daemon, { recursive: true })
  const event = (i: number): string =>
    `${JSON.stringify({ at: '2026-11-21T10:00:00.000Z', event: 'finished', state: 'succeeded', i, job: `J${i}`, duration_ms: 1, pad: 'x'.repeat(900) })}\n`
  let text = ''
  for (let i = 0; i < 17_000; i++) text += event(i)
  await writeFile(join(b.layout.daemon, 'events.jsonl'), text)
  const before = await endOfEvents(b)
  const agent = await b.start({ config: { stats: { interval: '1s' } } })
  await until('the file is rotated', async () => (await readdir(b.layout.daemon)).includes('events.1.jsonl'))
  await drop(b, commandManifest('one', ['true']))
  expect(await endOf(b, 'one')).toMatchObject({ state: 'succeeded' })
  await agent.stop()
  const after = await readEvents(b, before)
  expect(after.missed).toBe(false)
  expect(after.events.map((e) => e.event)).toEqual(expect.arrayContaining(['accepted', 'started', 'finished']))
  const stats = JSON.parse(await readFile(join(b.layout.daemon, 'stats.json'), 'utf8'))
  expect(stats.total_processed).toBe(17_001)
})
