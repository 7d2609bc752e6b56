import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { liveAgent, watchAgents } from '../../src/client/liveness.ts'
import { locate } from '../../src/client/place.ts'
import { thisProcess } from '../../src/spool/owner.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

async function placeWith(dir: string, leases: object[]) {
  const place = await locate({ instance: 'x', root: dir })
  await mkdir(place.layout.owners, { recursive: true })
  const write = (lease: object) =>
    writeFile(join(place.layout.owners, `${(lease as { owner: string }).owner}.json`), JSON.stringify(lease))
  for (const lease of leases) await write(lease)
  return { place, write }
}

const lease = (more: object) => ({
  schema: 1,
  owner: 'elsewhere.1',
  host: 'elsewhere',
  boot_id: 'other-boot',
  pidns: 1,
  pid: 1,
  start_ticks: 1,
  role: 'main',
  instance: 'x',
  started_at: '2026-01-01T00:00:00Z',
  counter: 7,
  ...more,
})

test('an agent on another host is alive when its counter moves, dead when it stands for a lease, unknown before', async () => {
  await using dir = await tempDir()
  const { place, write } = await placeWith(dir.path, [lease({})])
  const watcher = watchAgents(place, 400)
  expect((await watcher.look())[0]!.state).toBe('unknown')
  await write(lease({ counter: 8 }))
  expect((await watcher.look())[0]!.state).toBe('alive')
  // its clock and the file's time say nothing: only the counter does
  await until('it counts as dead', async () => {
    await write(lease({ counter: 8 }))
    return (await watcher.look())[0]!.state === 'dead'
  })
  await write(lease({ counter: 9 }))
  expect((await watcher.look())[0]!.state).toBe('alive')
})

test('on the same host and boot the process table tells at once, and a recycled pid fools nobody', async () => {
  await using dir = await tempDir()
  const self = thisProcess()
  const { place } = await placeWith(dir.path, [
    lease({ owner: 'a.me', ...self }),
    lease({ owner: 'b.recycled', ...self, start_ticks: self.start_ticks - 1 }),
    lease({ owner: 'c.gone', ...self, pid: 2 ** 22 + 1 }),
  ])
  const states = Object.fromEntries((await watchAgents(place, 60_000).look()).map((a) => [a.lease.owner, a.state]))
  expect(states).toEqual({ 'a.me': 'alive', 'b.recycled': 'dead', 'c.gone': 'dead' })
  expect((await liveAgent(place, 60_000))?.owner).toBe('a.me')
})

test('no lease, no agent; a lease that cannot be read is none', async () => {
  await using dir = await tempDir()
  const { place } = await placeWith(dir.path, [])
  expect(await liveAgent(place, 400)).toBeUndefined()
  await writeFile(join(place.layout.owners, 'broken.json'), '{"owner":')
  expect(await liveAgent(place, 400)).toBeUndefined()
})
