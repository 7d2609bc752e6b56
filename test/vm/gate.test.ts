// While libvirt is away, VM jobs wait and say what for; conversions and commands go on; then the VM jobs go on by themselves.
import { request } from 'node:http'
import { join } from 'node:path'
import { execa } from 'execa'
import { describe, expect, test } from 'vitest'
import { type Bed, control, vmspool } from '../support/agent.ts'
import { makeDisk } from '../support/disks.ts'
import { isRoot } from '../support/libvirtd.ts'
import { artifactManifest, commandManifest } from '../support/manifests.ts'
import { drop, endOf, statusOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { NOTHING, scene, vmManifest } from './scene.ts'

/** what the agent answers on its socket for health and metrics */
function ask(b: Bed, path: string): Promise<{ code: number; text: string }> {
  return new Promise((resolve, reject) => {
    const r = request({ socketPath: join(b.dir, 'run/health.sock'), path }, (res) => {
      const chunks: Buffer[] = []
      res.on('data', (d: Buffer) => chunks.push(d))
      res.on('end', () => resolve({ code: res.statusCode!, text: Buffer.concat(chunks).toString() }))
    })
    r.on('error', reject)
    r.end()
  })
}

describe.runIf(isRoot)('libvirt is away', () => {
  test('VM jobs wait, in the queue and running, hold up nobody, and go on', async () => {
    await using dir = await tempDir()
    await using s = await scene(dir.path, { config: { concurrency: { weight: 2 } } })
    const b = s.bed
    await s.libvirtd.signal('KILL')
    await b.start()
    const names = ['vm-1', 'vm-2', 'vm-3', 'vm-4', 'vm-5']
    for (const name of names) await drop(b, vmManifest(s, name, 'create'))

    const running = await until(
      'one of them was begun, and says what it waits for',
      async () => {
        const all = await Promise.all(names.map((n) => statusOf(b, `${n}.vm`)))
        return all.find((x) => x?.state === 'running' && String(x.waiting_on).includes('libvirt ('))
      },
      { also: () => b.agents[0]!.output() },
    )
    expect(running.waiting_on).toMatch(/which is away since 20\d\d-.*Z: .*libvirtd/)
    const queued = await until('the others say in the queue what they wait for', async () => {
      const all = await Promise.all(names.map((n) => statusOf(b, `${n}.vm`)))
      const waiting = all.filter((x) => x?.state === 'queued' && /go on by themselves/.test(String(x.waiting_on)))
      return waiting.length >= 3 ? waiting : undefined
    })
    expect(queued[0]!.waiting_on).toMatch(/^libvirt \(qemu.*which is away since 20\d\d-.*in a row/)

    // a conversion and a command have both places for themselves
    const disk = await makeDisk(dir.path, 'in', { format: 'raw', size_mib: 4 })
    await drop(b, artifactManifest('moved', [disk]))
    await drop(b, commandManifest('free', ['true']))
    expect((await endOf(b, 'moved')).state).toBe('succeeded')
    expect((await endOf(b, 'free')).state).toBe('succeeded')

    const { libvirt } = (await control(b, 'status')) as { libvirt: Record<string, unknown> }
    expect(libvirt).toMatchObject({ state: 'open', uri: s.uri, jobs_waiting: 5 })
    const told = await execa(vmspool, ['daemon', 'status', '--root', b.dir, '--instance', b.instance], { env: b.env })
    expect(told.stdout).toMatch(
      /libvirt \(qemu.*\) is away for .* since .*5 VM jobs wait for it\. It is asked again at/,
    )
    const health = await ask(b, '/health')
    expect(health.code).toBe(200)
    expect(JSON.parse(health.text)).toMatchObject({
      status: 'ok',
      checks: { libvirt: { status: 'down', breaker: 'open', jobs_waiting: 5 } },
    })
    const metrics = (await ask(b, '/metrics')).text
    expect(metrics).toMatch(/^vmspool_libvirt_up 0$/m)
    expect(metrics).toMatch(/^vmspool_libvirt_breaker_state 1$/m)
    expect(metrics).toMatch(/^# TYPE vmspool_libvirt_calls_failed_total counter$/m)
    expect(metrics).toMatch(/^vmspool_libvirt_calls_failed_total\{reason="unreachable"\} ([5-9]|\d\d+)$/m)

    // whoever no longer wants one that waits inside is heard at once
    await execa(vmspool, ['cancel', running.id, '--root', b.dir, '--instance', b.instance], { env: b.env })
    expect((await endOf(b, running.name)).state).toBe('cancelled')

    const cancelled = running.name.replace(/\.vm$/, '')

    await s.libvirtd.start()
    for (const name of names) {
      if (name === cancelled) continue
      expect((await endOf(b, `${name}.vm`)).state, name).toBe('succeeded')
      expect(await s.traces(name)).toMatchObject({ domains: ['running'], guests: 1 })
    }
    expect(await s.traces(cancelled)).toEqual(NOTHING)
    expect((await ask(b, '/metrics')).text).toMatch(/^vmspool_libvirt_up 1$/m)
    expect((await control(b, 'status')).libvirt).toMatchObject({ state: 'connected', failures: 0, jobs_waiting: 0 })
  }, 600_000)
})
