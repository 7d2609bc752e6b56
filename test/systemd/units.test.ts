// The units as texts, and what is told to systemd, without one.
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { describe, expect, test } from 'vitest'
import { tellManager } from '../../src/agent/notify.ts'
import { counted, stepping } from '../../src/agent/progress-watch.ts'
import type { Agent } from '../../src/agent/state.ts'
import { coveredBy } from '../../src/images/hidden.ts'
import { home } from '../support/agent.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const unit = (name: string) => readFileSync(join(home, 'systemd', name), 'utf8')

describe('the units', () => {
  test('the default instance is the template with its name', () => {
    const lines = (text: string) => text.split('\n').filter((l) => l !== '' && !l.startsWith('#'))
    const expected = lines(unit('agent@.service').replaceAll('%i', 'default'))
      .join('\n')
      .replace('hyper2kvm@default.service', 'hyper2kvm.service')
      .replace('PartOf=agent.target', 'PartOf=agent.target\nConflicts=agent@default.service')
    expect(lines(unit('agent.service')).join('\n')).toBe(expected)
  })

  test.each(['agent@.service', 'agent.service'])('%s is exposed to 1.5 at most', async (name) => {
    const file = join(home, 'systemd', name)
    const argv = ['security', '--offline=true', '--no-pager', '--threshold=15', file]
    const r = await execa('systemd-analyze', argv, { reject: false })
    expect(r.stdout).toMatch(/Overall exposure level for agent.*: [01]\.\d/)
    expect([r.exitCode, r.stdout.split('\n').at(-1)]).toEqual([0, expect.anything()])
  })

  test('with the drop-in for guest fixing it is 1.7', async () => {
    await using dir = await tempDir()
    const file = join(dir.path, 'agent@.service')
    // Of several assignments the last one counts, as with a drop-in.
    await writeFile(file, `${unit('agent@.service').replace('[Install]', `${unit('fix.conf')}\n[Install]`)}`)
    const argv = ['security', '--offline=true', '--no-pager', file]
    expect((await execa('systemd-analyze', argv)).stdout).toMatch(/Overall exposure level for agent.*: 1\.7 /)
  })
})

describe('what systemd is told', () => {
  /** Of an agent only what is looked at. */
  function agent(): Agent {
    const log = { debug() {}, info() {}, warn() {}, error() {} }
    const held = { timed: [], waiting: [] }
    const vms = { opened: () => undefined }
    return {
      running: new Map(),
      loops: [],
      log,
      plan: { size: 3 },
      held,
      vms,
      spool: { layout: { instance: 'i' } },
    } as never
  }
  const quick = { NOTIFY_FD: '9', WATCHDOG_USEC: '200000' }

  test('the watchdog is fed while every loop gets on, and not when one stands still', async () => {
    const a = agent()
    const sent: string[] = []
    const loop = { name: 'tick', lastOk: 0, lastRound: 0, failures: 0, doing: { due: Number.POSITIVE_INFINITY } }
    a.loops.push(loop)
    const m = tellManager(a, { env: quick, send: (t) => sent.push(t) > 0 })
    try {
      const fed = () => sent.filter((t) => t.includes('WATCHDOG=1')).length
      m.ready()
      await until('it is fed', () => fed() > 2)
      // A round that waits for something that never comes.
      void stepping(loop.doing, () => new Promise(() => {}))
      await until('it says so', () => sent.some((t) => t.includes('the loop "tick" hangs')))
      const then = fed()
      await new Promise((resolve) => setTimeout(resolve, 300))
      expect(fed()).toBe(then)
      // The same round goes on after all.
      const fs = counted({ lstat: async () => ({}) } as never)
      await until('it is fed again', async () => {
        await stepping(loop.doing, () => fs.lstat('/x'))
        return fed() > then
      })
    } finally {
      m.ended()
    }
  })

  test('a file system that is away starves nobody: a restart would not bring it back', async () => {
    const a = agent()
    const sent: string[] = []
    const loop = { name: 'tick', lastOk: 0, lastRound: 0, failures: 0, doing: { due: Number.POSITIVE_INFINITY } }
    a.loops.push(loop)
    const m = tellManager(a, { env: quick, send: (t) => sent.push(t) > 0, slowDiskMs: 50 })
    let comeBack = (): void => {}
    const away = new Promise<void>((resolve) => {
      comeBack = resolve
    })
    try {
      m.ready()
      const round = stepping(loop.doing, () => counted({ rename: () => away } as never).rename('/srv/a', '/srv/b'))
      await until('it says so', () => sent.some((t) => t.includes('waits for the file system (rename /srv/a)')))
      const fed = () => sent.filter((t) => t.includes('WATCHDOG=1')).length
      const then = fed()
      await until('it is fed all the same', () => fed() > then + 6)
      comeBack()
      await round
    } finally {
      m.ended()
    }
  })

  test('the status line counts what is for later, and says that libvirt is away', () => {
    const a = agent()
    a.held.timed = ['a']
    a.held.waiting = ['b']
    const reason = 'its socket cannot be opened'
    const link = { health: () => ({ state: 'open', since: '2026-01-01T00:00:00Z', failures: 5, reason }) }
    a.vms.opened = () => ({ link }) as never
    const sent: string[] = []
    const m = tellManager(a, { env: { NOTIFY_FD: '9' }, send: (t) => sent.push(t) > 0 })
    m.ready()
    m.ended()
    expect(sent.join('\n')).toContain(
      'STATUS=0 running, 3 waiting, 2 for later; VM jobs wait for libvirt since 2026-01-01T00:00:00Z: its socket cannot be opened\n',
    )
  })

  test('ready, reloading, draining with more time, and the end, in this order', async () => {
    const a = agent()
    const sent: string[] = []
    let busy = 3
    const m = tellManager(a, { env: { NOTIFY_FD: '9' }, send: (t) => busy-- <= 0 && sent.push(t) > 0 })
    m.ready()
    m.reloading()
    m.reloaded()
    a.running.set('x', {} as never)
    a.draining = true
    await until('it drains', () => sent.some((t) => t.includes('STOPPING=1')))
    m.ended()
    const words = sent.join('\n')
    expect(words).toMatch(
      /STATUS=starting\n(?:[\s\S]*\n)?READY=1\n(?:[\s\S]*\n)?RELOADING=1\nMONOTONIC_USEC=\d+\nREADY=1\n[\s\S]*STOPPING=1\n[\s\S]*EXTEND_TIMEOUT_USEC=60000000\nSTATUS=1 running, 3 waiting; held: the agent is draining[\s\S]*STOPPING=1\nSTATUS=ended in good order$/,
    )
  })
})

describe('what a unit hides', () => {
  const mounts = [
    '22 1 254:0 / / rw - ext4 /dev/vda rw',
    '23 22 0:30 /systemd/inaccessible/dir /home ro - tmpfs tmpfs rw',
    '24 22 254:0 /home/ex\\040ports /home/ex\\040ports ro - ext4 /dev/vda rw',
    '29 22 0:30 /systemd/inaccessible/dir /usr/lib/modules ro - tmpfs tmpfs rw',
    '28 22 0:44 / /run/user ro - tmpfs tmpfs ro',
    '27 22 0:30 /host/inaccessible/dir /root ro - tmpfs tmpfs rw',
    '25 22 254:0 /var/cache/vmspool/agents/a/private-tmp /tmp rw - ext4 /dev/vda rw',
    '26 22 254:0 /tmp/systemd-private-1-b.service-x/tmp /var/tmp rw - ext4 /dev/vda rw',
  ].join('\n')
  test.each([
    ['/home/me/disk.vmdk', '/home'],
    ['/home/ex ports/disk.vmdk', undefined],
    ['/homes/disk.vmdk', undefined],
    ['/root/disk.vmdk', '/root'],
    ['/run/user/1000/disk.vmdk', '/run/user'],
    ['/tmp/disk.vmdk', '/tmp'],
    ['/var/tmp/disk.vmdk', '/var/tmp'],
    ['/usr/lib/modules', '/usr/lib/modules'],
    ['/srv/disk.vmdk', undefined],
  ])('%s: %s', (path, by) => expect(coveredBy(path, mounts)).toBe(by))
})
