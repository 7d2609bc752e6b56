// The agent is killed in the middle of the define step, in each of its phases: the next one ends with one VM, on one set of disks, and with
// the whole answer. The same with libvirtd killed.
import { readFileSync } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { readOwnership } from '../../src/domain/index.ts'
import { answerFiles, drop, endOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { type Scene, scene } from './scene.ts'

const MIB = 2 ** 20
const manifest = (s: Scene, name: string) => ({
  manifest_version: '1.0',
  name,
  vm: { cpu: 1, mem_gb: 1 },
  nics: [],
  disks: ['disk-0', 'disk-1'].map((id) => ({ id, source_format: 'raw', bytes: 4 * MIB, local_path: s.image })),
  libvirt_integration: { enabled: true, auto_start: true },
})

/** What the registry says at this moment about the work on a VM. */
function doing(s: Scene, name: string): string | undefined {
  try {
    const { vms } = JSON.parse(readFileSync(join(s.bed.layout.output, 'vms/vms.json'), 'utf8'))
    return vms[name]?.doing?.phase
  } catch {
    return undefined // not there yet
  }
}

/** Ends the agents the moment that the step is seen in that phase. @returns whether it was seen before the job ended */
async function killAt(s: Scene, name: string, phase: string): Promise<boolean> {
  const jobs = join(s.bed.layout.output, `${name}.result.json`)
  const seen = await until(
    `the define step is in the phase ${phase}`,
    () => (doing(s, name) === phase ? 'hit' : readable(jobs) ? 'over' : ''),
    { every_ms: 1 },
  )
  for (const agent of s.bed.agents) if (agent.alive()) await agent.kill()
  return seen === 'hit'
}

const readable = (path: string): boolean => {
  try {
    return readFileSync(path).length > 0
  } catch {
    return false
  }
}

async function whole(s: Scene, name: string): Promise<void> {
  const status = await endOf(s.bed, name)
  expect(status, JSON.stringify(status)).toMatchObject({ state: 'succeeded' })
  expect(await answerFiles(s.bed, name)).toEqual(
    ['disks', 'qcow2', 'report.json', 'result.json', 'status.json', 'xml'].map((f) => `${name}.${f}`),
  )
  const t = await s.traces(name)
  expect(t).toMatchObject({ domains: ['running'], guests: 1, entry: true, libvirt_files: [`${name}.xml`] })
  const folders = t.files.filter((f) => f.startsWith(status.id))
  expect(folders).toHaveLength(1)
  const disks = join(s.bed.layout.output, 'vms', name, folders[0]!)
  expect((await readdir(disks)).sort()).toEqual(['disk-0.qcow2', 'disk-1.qcow2'])
  const record = await s.record(name)
  expect(record).toMatchObject({ desired: 'running', order: { job: status.id, epoch: status.epoch } })
  expect(record?.doing).toBeUndefined()
  expect(record?.disks.map((d) => d.path)).toEqual([join(disks, 'disk-0.qcow2'), join(disks, 'disk-1.qcow2')])
  const xml = await s.libvirtd.virsh(s.uri, 'dumpxml', '--inactive', name)
  expect(readOwnership(xml)).toMatchObject({ job: status.id, epoch: status.epoch })
  // the answer is what the VM runs on, unless it had to be copied once more
  expect((await stat(join(s.bed.layout.output, `${name}.qcow2`))).size).toBeGreaterThan(0)
}

test('an agent killed in each phase of the define step, and libvirtd', async () => {
  await using dir = await tempDir()
  await using s = await scene(dir.path)
  await s.bed.start()
  for (const phase of ['disks', 'define', 'start']) {
    // QEMU takes a while to start; the others are over so soon that they may be missed
    for (let tries = 1, hit = false; !hit; tries++) {
      const name = `k-${phase}-${tries}`
      await drop(s.bed, manifest(s, name))
      hit = (await killAt(s, name, phase)) || phase !== 'start'
      await s.bed.start()
      await whole(s, name)
      expect(tries, 'the start was never seen').toBeLessThan(10)
    }
  }

  await drop(s.bed, manifest(s, 'lost'))
  const answer = join(s.bed.layout.output, 'lost.result.json')
  await until('the step has begun', () => doing(s, 'lost') !== undefined || readable(answer), { every_ms: 1 })
  await s.libvirtd.signal('KILL')
  await s.libvirtd.start()
  await whole(s, 'lost')
}, 600_000)
