// The VMs of a registry on the screen, beside disks that no VM runs on; what their keys ask for is a job in the queue.
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { VmRecord } from '../../src/vm/types.ts'
import { vmspool } from '../support/agent.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { record } from '../vm/records.ts'
import { pane } from './pane.ts'
import { emptySpool } from './synthetic.ts'

test('states, addresses, what is done and what is wrong; stopped after a question, started at once', {
  timeout: 600_000,
}, async () => {
  await using dir = await tempDir()
  const root = join(dir.path, 's')
  const layout = await emptySpool(root)
  const here = { host: hostname(), uri: `qemu:///system?socket=${dir.path}/none` }
  const vms: VmRecord[] = [
    record('db', { ...here, desired: 'stopped', state: 'stopped', vcpus: 4, memory_bytes: 2 ** 34 }),
    record('gone', { ...here, state: 'missing' }),
    record('new', {
      ...here,
      state: 'stopped',
      doing: {
        action: 'create',
        phase: 'disks',
        job: '01ARZ3NDEKTSV4RRFFQ69G5FAV',
        epoch: 1,
        since: '2026-11-01T12:00:00.000Z',
      },
    }),
    record('web', { ...here, addresses: ['192.0.2.7', '2001:db8::7'] }),
  ]
  const file = {
    schema: 1,
    revision: 1,
    instance: 'default',
    host: hostname(),
    vms: Object.fromEntries(vms.map((v) => [v.name, v])),
  }
  await writeFile(join(layout.vms, 'vms.json'), JSON.stringify(file))
  for (const name of ['vms.json.bak', '.reconcile.json']) await writeFile(join(layout.vms, name), '{')
  await mkdir(join(layout.vms, 'vms.json.lock'))
  await writeFile(join(layout.output, 'old.qcow2'), Buffer.alloc(65_536, 1))
  await mkdir(join(layout.vms, 'old'))

  await using p = await pane(dir.path, { columns: 110, rows: 24 })
  await p.type(`clear; ${vmspool} tui --view vms --root ${root}`)
  await p.keys('Enter')
  const screen = await p.sees(/old .*64 KiB/)
  expect(
    screen
      .split('\n')
      .slice(0, 7)
      .map((l) => l.replace(/\d+d\d+h/, (t) => 'AGE'.padStart(t.length)).replace(/ +/g, ' ')),
  ).toEqual([
    ' vmspool v0.1.0 VMs default: 5 VMs',
    ' NAME STATE ADDRESS VCPU MEMORY UPTIME DOING OR DISKS',
    '> db stopped 4 16 GiB',
    ' gone missing 1 256 MiB',
    ' new stopped 1 256 MiB create: disks',
    ' old - qcow2, 64 KiB',
    ' web running 192.0.2.7 1 256 MiB AGE',
  ])

  await p.keys('G')
  await p.sees(/^> web/m)
  await p.keys('Enter')
  const all = await p.sees('VM web  running')
  expect(all).toMatch(/Addresses: +192\.0\.2\.7, 2001:db8::7/)
  expect(await p.sees('Not asked:')).toContain('could not be asked')
  await p.type('s')
  await p.sees('Stop web (running)?')
  await p.type('n')
  await p.losesSight('Stop web')
  expect(await readdir(layout.queue)).toEqual([])
  await p.type('sy')
  await p.sees('was submitted')
  const dropped = async () => (await readdir(layout.queue)).filter((f) => !f.startsWith('.'))
  const first = await until('the job is there', async () => (await dropped())[0])
  expect(JSON.parse(await readFile(join(layout.queue, first), 'utf8'))).toEqual({
    kind: 'vm',
    action: 'stop',
    name: 'web',
  })
  await p.sees('no agent of "default" has been alive')

  await p.keys('Escape', 'g')
  await p.sees(/^> db/m)
  await p.type('r')
  const second = await until('the other job is there', async () => (await dropped()).find((f) => f !== first))
  expect(JSON.parse(await readFile(join(layout.queue, second), 'utf8'))).toMatchObject({ action: 'start', name: 'db' })
  await p.type('/old')
  await p.keys('Enter')
  await p.type('s')
  await p.sees('old has disks, and no VM runs on them.')
  await p.type('q')
  expect(await p.prompt()).toBe(0)
})
