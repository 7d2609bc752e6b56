// The main agent looks after VMs by itself: across crashes of guests, daemon and host, with a damaged registry, and never too much.
import { request } from 'node:http'
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readVmReports } from '../../src/vm/report.ts'
import { isRoot, type Libvirtd, privateLibvirtd } from '../support/libvirtd.ts'
import { control, vmspool } from '../support/agent.ts'
import { makeDisk } from '../support/disks.ts'
import { artifactManifest, commandManifest } from '../support/manifests.ts'
import { drop, endOf, eventsOf, readJson } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { open } from './records.ts'
import { NOTHING, type Scene, scene, vmManifest } from './scene.ts'

const state = async (s: Scene, name: string) => (await s.traces(name)).domains[0]
/** jobs on a VM that ended, by who asked for them */
async function jobsOf(s: Scene, name: string): Promise<{ action: string; by: string | undefined; state: string }[]> {
  const ends = (await eventsOf(s.bed, 'finished')).filter((e) => e.name === `${name}.vm`)
  return Promise.all(
    ends.map(async (e) => {
      const folder = join(s.bed.layout.jobs, e.state === 'succeeded' ? 'done' : String(e.state))
      const file = await until('its job lies there', async () =>
        (await readdir(folder)).find((f) => f.includes(e.job!)),
      )
      const job = (await readJson<{ manifest: { action: string; labels?: { by?: string } } }>(join(folder, file)))!
      return { action: job.manifest.action, by: job.manifest.labels?.by, state: String(e.state) }
    }),
  )
}
const logged = (s: Scene, event: string) =>
  s.bed.agents.flatMap((a) => a.output().split('\n')).filter((l) => l.includes(`"event":"${event}"`))
async function create(s: Scene, name: string): Promise<void> {
  await drop(s.bed, vmManifest(s, name, 'create'))
  expect((await endOf(s.bed, `${name}.vm`)).state).toBe('succeeded')
}
const metrics = (s: Scene): Promise<string> =>
  new Promise((resolve, reject) => {
    request({ socketPath: join(s.bed.dir, 'run/health.sock'), path: '/metrics' }, (res) => {
      let text = ''
      res.on('data', (d: Buffer) => (text += d.toString()))
      res.on('end', () => resolve(text))
    })
      .on('error', reject)
      .end()
  })
const report = async (s: Scene) => (await readVmReports(join(s.bed.layout.output, 'vms')))[0]

describe.runIf(isRoot)('an agent', { timeout: 600_000 }, () => {
  // one daemon, since the first guest of each costs seconds; the VMs of each test have names of their own
  let libvirtd: Libvirtd
  beforeAll(async () => {
    libvirtd = await privateLibvirtd()
  })
  afterAll(() => libvirtd?.[Symbol.asyncDispose]())

  test('starts again what crashed, leaves off what was stopped, and shows what it sees', async () => {
    await using dir = await tempDir()
    await using s = await scene(dir.path, { libvirtd })
    // without VMs and without libvirt in its settings there is nothing to look after, and nothing is loaded
    const first = await s.bed.start()
    expect((await control(s.bed, 'status')).vms).toBeUndefined()
    await create(s, 'web')
    expect(logged(s, 'vm.opened')).toHaveLength(1)

    // the guest's process dies
    await s.libvirtd.inside(['pkill', '-9', '-f', 'guest=web,'])
    await until('it is started again', async () => (await jobsOf(s, 'web')).length === 2, { also: first.output })
    expect((await jobsOf(s, 'web'))[1]).toEqual({ action: 'start', by: 'reconcile', state: 'succeeded' })
    expect([await state(s, 'web'), await s.record('web')]).toMatchObject([
      'running',
      { desired: 'running', starts: { count: 1 } },
    ])
    // … and again at once: now it waits, and says so
    const registry = await open(join(s.bed.layout.output, 'vms'), { instance: s.bed.instance, host: hostname() })
    await registry.update('web', (r) => ({ ...r!, starts: { count: 3, at: new Date().toISOString() } }))
    await s.libvirtd.inside(['pkill', '-9', '-f', 'guest=web,'])
    const wait = await until('the wait is told', async () =>
      (await report(s))?.drift.find((d) => d.kind === 'not-running'),
    )
    expect(wait.message).toMatch(
      /^The VM "web" should run and died soon after it was started \(3 times\); it is started again at 20/,
    )
    // somebody who starts it does not have to wait
    await drop(s.bed, vmManifest(s, 'web', 'start'))
    await until(
      'it runs',
      async () => (await s.record('web'))?.state === 'running' && (await state(s, 'web')) === 'running',
    )
    await until('nothing differs any more', async () => (await report(s))?.drift.length === 0)

    // an admin stops it
    await s.libvirtd.virsh(s.uri, 'destroy', 'web')
    await until('that is what it should be', async () => (await s.record('web'))?.desired === 'stopped')
    await until('it is counted', async () => /^vmspool_vms\{state="stopped"\} 1$/m.test(await metrics(s)))
    expect((await control(s.bed, 'status')).vms).toMatchObject({
      states: { stopped: 1, running: 0 },
      drift: 0,
      orphans: 0,
    })
    expect((await control(s.bed, 'stats')).stats).toMatchObject({ vms: { stopped: 1, running: 0, drift: 0 } })
    const told = await execa(vmspool, ['daemon', 'status', '--root', s.bed.dir, '--instance', s.bed.instance], {
      env: s.bed.env,
    })
    expect(told.stdout).toContain(`VMs of ${s.bed.instance}: 1 stopped.`)
    const jobs = await jobsOf(s, 'web')
    expect(jobs.filter((j) => j.by === 'reconcile')).toHaveLength(1)
    expect(await first.stop()).toEqual({ code: 0, signal: null })
  })

  test('finds its VMs off after the host lost its power, and starts each once', async () => {
    await using dir = await tempDir()
    await using s = await scene(dir.path, { libvirtd })
    const first = await s.bed.start()
    for (const name of ['one', 'two']) await create(s, name)
    await drop(s.bed, vmManifest(s, 'two', 'stop'))
    await until(
      'two is off',
      async () => (await s.record('two'))?.desired === 'stopped' && (await state(s, 'two')) === 'shut off',
    )

    await first.kill()
    await s.libvirtd.signal('KILL')
    await s.libvirtd.inside(['sh', '-c', 'pkill -9 -f ^/usr/bin/qemu-system; rm -rf /run/libvirt/qemu/*'])
    // the agent is there before libvirt is
    const second = await s.bed.start()
    await until('it looks for libvirt', async () => (await report(s))?.libvirt.state !== 'connected')
    await s.libvirtd.start()
    await until('one was started', async () => (await jobsOf(s, 'one')).length === 2, { also: second.output })
    expect([await state(s, 'one'), await state(s, 'two')]).toEqual(['running', 'shut off'])
    expect((await s.traces('one')).guests).toBe(1)
    expect((await jobsOf(s, 'one')).map((j) => [j.action, j.by])).toEqual([
      ['create', undefined],
      ['start', 'reconcile'],
    ])
    expect(await jobsOf(s, 'two')).toHaveLength(2)

    // the daemon alone goes and comes: the guests run on, and nothing is done
    const connected = logged(s, 'libvirt.connected').length
    await s.libvirtd.signal('KILL')
    await s.libvirtd.start()
    await until('the agent is back', () => logged(s, 'libvirt.connected').length > connected, { also: second.output })
    // a daemon that still takes its guests up again tells nothing of their end (src/libvirt/README.md)
    await s.libvirtd.virsh(s.uri, 'domstats', '--balloon', 'one')
    expect(await state(s, 'one')).toBe('running')
    await s.libvirtd.virsh(s.uri, 'destroy', 'one')
    await until('events are heard again', async () => (await s.record('one'))?.desired === 'stopped', {
      also: second.output,
    })
    expect(await jobsOf(s, 'one')).toHaveLength(2)
  })

  test('with a registry that is no registry starts, works, and says what it did', async () => {
    await using dir = await tempDir()
    await using s = await scene(dir.path, { libvirtd })
    const first = await s.bed.start()
    await create(s, 'lost')
    await first.stop()
    const file = join(s.bed.layout.output, 'vms/vms.json')
    await rm(`${file}.bak`)
    await writeFile(file, 'null')
    const second = await s.bed.start()
    const seen = await until('it has looked', async () => {
      const r = await report(s)
      return r?.seen_at && r.problems.length > 0 ? r : undefined
    })
    expect(seen.problems[0]!.message).toContain('rebuilt from the domains that libvirt has with our metadata')
    expect(await readFile(seen.problems[0]!.kept!, 'utf8')).toBe('null')
    expect(await s.record('lost')).toMatchObject({ origin: 'recovered', state: 'running', desired: 'running' })
    expect((await control(s.bed, 'status')).vms).toMatchObject({ problems: 1 })
    // … and while it runs; nobody has to ask
    await writeFile(file, '{"schema":')
    await until('it has noticed', async () => (await report(s))?.problems.length === 2, { also: second.output })
    expect(await s.record('lost')).toMatchObject({ state: 'running', desired: 'running' })
    await drop(s.bed, vmManifest(s, 'lost', 'delete'))
    await until('its deletion is over', async () => (await jobsOf(s, 'lost')).length === 2, { also: second.output })
    expect([(await endOf(s.bed, 'lost.vm')).state, await s.traces('lost')]).toEqual(['succeeded', NOTHING])
  })

  test('begins and ends in good order beside a daemon that hangs', async () => {
    await using dir = await tempDir()
    await using s = await scene(dir.path, { libvirtd })
    const first = await s.bed.start()
    await create(s, 'calm')
    await libvirtd.signal('STOP')
    try {
      expect(await first.stop()).toEqual({ code: 0, signal: null })
      const second = await s.bed.start()
      await drop(s.bed, commandManifest('else', ['true']))
      expect((await endOf(s.bed, 'else')).state).toBe('succeeded')
      expect(await second.stop()).toEqual({ code: 0, signal: null })
    } finally {
      await libvirtd.signal('CONT')
    }
    const third = await s.bed.start()
    await until(
      'it has looked',
      async () => (await report(s))?.libvirt.state === 'connected' && (await report(s))?.seen_at,
    )
    expect(await jobsOf(s, 'calm')).toHaveLength(1)
    await drop(s.bed, vmManifest(s, 'calm', 'delete'))
    await until('its deletion is over', async () => (await jobsOf(s, 'calm')).length === 2, { also: third.output })
    expect(await s.traces('calm')).toEqual(NOTHING)
  })

  test('finds the disks of an earlier job, also when its answer belongs to a later one by now', async () => {
    await using dir = await tempDir()
    await using s = await scene(dir.path, { libvirtd })
    await s.bed.start()
    const convert = async (mib: number): Promise<string> => {
      const disk = await makeDisk(dir.path, `in-${mib}`, { format: 'raw', size_mib: mib })
      await drop(s.bed, artifactManifest('base', [disk]))
      return (
        await until('it is converted', async () => {
          const e = (await eventsOf(s.bed, 'finished')).filter((x) => x.name === 'base')
          return e.length === (mib === 4 ? 1 : 2) ? e.at(-1) : undefined
        })
      ).job!
    }
    const from = (name: string, from_job: string) => {
      const m = vmManifest(s, name, 'create') as {
        vm: { image?: string; image_format?: string; from_job?: string; start?: boolean }
      }
      delete m.vm.image
      delete m.vm.image_format
      return { ...m, vm: { ...m.vm, from_job, start: false } }
    }
    const older = await convert(4)
    await convert(8)
    await drop(s.bed, from('by-name', 'base'))
    await drop(s.bed, from('by-id', older))
    await drop(s.bed, from('by-nothing', '01ARZ3NDEKTSV4RRFFQ69G5FAV'))
    for (const [name, mib] of [
      ['by-name', 8],
      ['by-id', 4],
    ] as const) {
      expect([name, (await endOf(s.bed, `${name}.vm`)).state]).toEqual([name, 'succeeded'])
      expect((await s.record(name))?.disks[0]?.size_bytes).toBe(mib * 2 ** 20)
    }
    const none = await endOf(s.bed, 'by-nothing.vm')
    expect([none.state, none.reason]).toEqual([
      expect.stringMatching(/failed|rejected/),
      expect.stringContaining('01ARZ3NDEKTSV4RRFFQ69G5FAV'),
    ])
    for (const name of ['by-name', 'by-id']) await libvirtd.virsh(s.uri, 'undefine', name)
  })
})
