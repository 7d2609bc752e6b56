// The link to libvirt while the daemon is killed, frozen, restarted, or says no.
import { createServer } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isLibvirtError } from '../../src/libvirt/index.ts'
import { createBreaker } from '../../src/vm/breaker.ts'
import { type LinkOptions, openLink } from '../../src/vm/link.ts'
import { testDomain } from '../libvirt/scene.ts'
import { isRoot, type Libvirtd, privateLibvirtd } from '../support/libvirtd.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const never = new AbortController().signal
const what = 'to see whether it works'
const version = (s: { query: { host: { version(): Promise<string> } } }) => s.query.host.version()

/** what the link wrote to the log, by event */
function notes() {
  const events: string[] = []
  const log: LinkOptions['log'] = { info: (e) => void events.push(e), warn: (e) => void events.push(e) }
  return { events, log }
}
/** small numbers, so that a frozen daemon is found soon; but a busy one that answers after seconds is none */
const quick = (uri: string, log: LinkOptions['log'], more: Partial<LinkOptions> = {}): LinkOptions => ({
  uri,
  log,
  retry_ms: { first: 20, last: 100 },
  breaker: { failures: 5, open_ms: { first: 100, last: 400 } },
  connection: { keepalive: { interval_ms: 500, misses: 12 }, open_ms: 20_000 },
  ...more,
})

describe('the breaker', () => {
  const failing = () => Promise.reject(new Error('away'))

  test('opens after so many failures, lets a trial through when it is due, and closes with its success', async () => {
    const told: boolean[] = []
    const b = createBreaker({ failures: 3, open_ms: { first: 200, last: 1000 }, onChange: (open) => told.push(open) })
    // before it opens: from here on it is at least the time that it stays open
    const at = performance.now()
    for (let i = 0; i < 3; i++) await expect(b.attempt(failing, never)).rejects.toThrow('away')
    expect(b.state()).toMatchObject({ open: true, failures: 3 })
    let trials = 0
    await expect(
      b.attempt(() => {
        trials++
        return failing()
      }, never),
    ).rejects.toThrow('away')
    expect([trials, performance.now() - at > 190]).toEqual([1, true])
    expect(b.state().open).toBe(true)
    expect(await b.attempt(async () => 'well', never)).toBe('well')
    expect(performance.now() - at).toBeGreaterThan(590) // twice as long as the first time
    expect(b.state()).toEqual({ open: false, failures: 0 })
    expect(told).toEqual([true, false])
  })

  test('a session that opens is no proof: failures between such successes add up, and `worked` forgets them', async () => {
    const b = createBreaker({ failures: 3, open_ms: { first: 50, last: 50 } })
    const poisoned = async () => {
      await b.attempt(async () => 'opened', never)
      b.failed(new Error('lost'))
      await Promise.resolve()
    }
    await poisoned()
    await poisoned()
    await until('it is counted', () => b.state().failures === 2)
    b.worked()
    expect(b.state().failures).toBe(0)
    for (let i = 0; i < 3; i++) await poisoned()
    await until('it is open', () => b.state().open)
  })

  test('a wall clock that is set back does not keep it open', async () => {
    const b = createBreaker({ failures: 1, open_ms: { first: 50, last: 50 } })
    await b.attempt(failing, never).catch(() => {})
    const real = Date.now
    Date.now = () => real() - 3_600_000
    try {
      expect(await b.attempt(async () => 'well', never)).toBe('well')
    } finally {
      Date.now = real
    }
  })

  test('who waits for a trial is let go at once', async () => {
    const b = createBreaker({ failures: 1, open_ms: { first: 60_000, last: 60_000 } })
    await b.attempt(failing, never).catch(() => {})
    const stop = new AbortController()
    const waiting = b.attempt(async () => 'well', stop.signal)
    stop.abort(new Error('enough'))
    await expect(waiting).rejects.toThrow('enough')
  })

  test('a wrong argument is not counted', async () => {
    const b = createBreaker({ failures: 1, open_ms: { first: 50, last: 50 } })
    await expect(b.attempt(() => Promise.reject(new TypeError('no URI')), never)).rejects.toThrow('no URI')
    expect(b.state()).toEqual({ open: false, failures: 0 })
  })
})

describe('without a daemon', () => {
  test('who waits is told what for; the breaker opens; who may not wait fails at once; cancel works at once', async () => {
    await using dir = await tempDir()
    const { events, log } = notes()
    await using link = openLink(quick(`test:///default?socket=${join(dir.path, 'none')}`, log))
    const said: (string | undefined)[] = []
    const stop = new AbortController()
    const waiting = link.use(version, { signal: stop.signal, what, onWait: (w) => said.push(w) })
    await until('the breaker is open', () => link.health().state === 'open')
    expect(link.health()).toMatchObject({ state: 'open', reason: expect.stringContaining('is libvirtd') })
    expect(link.health().failures).toBeGreaterThanOrEqual(5) // more, once it was asked again
    expect(Date.parse(link.health().next_try!)).toBeGreaterThan(0)
    await expect(link.use(version, { signal: never, what, wait: false })).rejects.toMatchObject({
      name: 'VmError',
      code: 'hypervisor-down',
      transient: true,
      message: expect.stringContaining(what),
    })
    stop.abort(new Error('cancelled'))
    await expect(waiting).rejects.toThrow('cancelled')
    expect(said.at(-2)).toMatch(/^libvirt \(test:.*\), which is away since 20.*Z: .*is libvirtd/)
    expect(said.at(-1)).toBe(undefined)
    expect(events).toEqual(['libvirt.unreachable', 'libvirt.breaker_open'])
    expect(link.health().totals).toMatchObject({ sessions: 0, opened: 1 })
  })

  test('something else that listens there and never answers is found by the deadline', async () => {
    await using dir = await tempDir()
    const path = join(dir.path, 'mute')
    const server = createServer((socket) => void socket.resume())
    await new Promise<void>((resolve) => server.listen(path, resolve))
    try {
      const { log } = notes()
      await using link = openLink(quick(`test:///default?socket=${path}`, log, { connection: { open_ms: 50 } }))
      await until('the breaker is open', () => link.health().state === 'open')
      expect(Object.keys(link.health().totals.failures)).toEqual(['unresponsive'])
      expect(link.health().totals.failures.unresponsive).toBeGreaterThanOrEqual(5)
    } finally {
      await new Promise((resolve) => server.close(resolve))
    }
  })

  test('an address that cannot be one is an error at once, and never tried', async () => {
    const { log } = notes()
    await using link = openLink({ uri: 'nonsense', log })
    await expect(link.use(version, { signal: never, what })).rejects.toMatchObject({
      code: 'hypervisor',
      transient: false,
      hint: expect.stringContaining('libvirt.uri'),
    })
    expect(link.health().totals.failures).toEqual({})
  })
})

describe.runIf(isRoot)('with a daemon that', () => {
  let daemon: Libvirtd
  let uri: string
  beforeAll(async () => {
    daemon = await privateLibvirtd()
    uri = daemon.uri('test:///default')
  }, 600_000)
  afterAll(() => daemon?.[Symbol.asyncDispose]())

  test('says no: that passes through at once, and never counts', async () => {
    const { log } = notes()
    await using link = openLink(quick(uri, log))
    let tries = 0
    const refused = [
      (s: Parameters<Parameters<typeof link.use>[0]>[0]) => s.control.domains.define('<domain/>'),
      (s: Parameters<Parameters<typeof link.use>[0]>[0]) => s.control.domains.define(testDomain('test')), // exists
      async (s: Parameters<Parameters<typeof link.use>[0]>[0]) =>
        s.control.domains.create((await s.query.domains.byName('test'))!), // runs already
      (s: Parameters<Parameters<typeof link.use>[0]>[0]) =>
        s.control.domains.destroy({ name: 'none', uuid: '00000000-0000-4000-8000-000000000001', id: -1 }),
    ]
    for (let round = 0; round < 3; round++) {
      for (const fn of refused) {
        const error = await link
          .use(
            (s) => {
              tries++
              return fn(s) as Promise<unknown>
            },
            { signal: never, what },
          )
          .catch((e) => e)
        expect(isLibvirtError(error), String(error)).toBe(true)
      }
    }
    expect(tries).toBe(12) // none of them twice
    expect(link.health()).toMatchObject({ state: 'connected', failures: 0, totals: { failures: {}, opened: 0 } })
  })

  test('is killed in the middle: what is done is done again with the next one', async () => {
    const { events, log } = notes()
    await using link = openLink(quick(uri, log))
    await link.use(version, { signal: never, what })
    const said: (string | undefined)[] = []
    let tries = 0
    const done = link.use(
      async (s) => {
        if (++tries === 1) {
          await s.query.host.version()
          await daemon.signal('KILL')
        }
        return s.query.host.version()
      },
      { signal: never, what, onWait: (w) => said.push(w) },
    )
    await until('it waits for the next one', () => said.length > 0 && tries === 1)
    await until('the daemon is gone', () => link.health().totals.failures.unreachable)
    await daemon.start()
    expect(await done).toMatch(/^\d/)
    expect(tries).toBe(2)
    expect(said.at(-1)).toBe(undefined)
    expect(events.filter((e) => e === 'libvirt.connected').length).toBe(2)
    await until('it says so', () => link.health().state === 'connected' && link.health().failures === 0)
  })

  test('is frozen: found by its pings, cancel works at once, and it goes on when it thaws', async () => {
    const { log } = notes()
    await using link = openLink(quick(uri, log))
    await link.use(version, { signal: never, what })
    await daemon.signal('STOP')
    const stop = new AbortController()
    const cancelled = link.use(version, { signal: stop.signal, what })
    const waiting = link.use(version, { signal: never, what })
    stop.abort(new Error('cancelled in a call'))
    await expect(cancelled).rejects.toThrow('cancelled in a call')
    const found = until('it is found', () => link.health().reason).finally(() => daemon.signal('CONT'))
    expect(await found).toMatch(/frozen/)
    expect(await waiting).toMatch(/^\d/)
  })

  test('hangs in its calls though it answers pings: each counts, the breaker opens, and the connection is given up', async () => {
    const { events, log } = notes()
    await using link = openLink({ ...quick(uri, log), breaker: { failures: 2, open_ms: { first: 50, last: 50 } } })
    const first = await link.use(async (s) => s, { signal: never, what })
    let tries = 0
    const value = await link.use(
      async (s) => {
        if (++tries <= 2) {
          await daemon.signal('STOP')
          try {
            return await s.query.host.version({ deadline_ms: 1 })
          } finally {
            await daemon.signal('CONT')
          }
        }
        return s.query.host.version()
      },
      { signal: never, what },
    )
    expect([value.slice(0, 1), tries]).toEqual(['9', 3])
    expect(first.isOver()).toBe(true)
    expect(events.filter((e) => e === 'libvirt.hangs').length).toBe(2)
    expect(events).toContain('libvirt.breaker_open')
    await until('it is closed again', () => link.health().state === 'connected' && link.health().failures === 0)
  })

  test('ends of what it is asked: after five times the asker is refused, and others go on', async () => {
    const { log } = notes()
    await using link = openLink(quick(uri, log))
    let tries = 0
    const poison = link.use(
      async (s) => {
        tries++
        await daemon.signal('KILL')
        await daemon.start()
        return s.query.host.version()
      },
      { signal: never, what: 'to start the VM "poison"' },
    )
    await expect(poison).rejects.toMatchObject({
      code: 'hypervisor-down',
      message: expect.stringMatching(/lost 5 times in the middle of what is needed to start the VM "poison"/),
    })
    expect(tries).toBe(5)
    expect(await link.use(version, { signal: never, what })).toMatch(/^\d/)
  })

  test('a link that is closed ends waits, and says so', async () => {
    const { log } = notes()
    const link = openLink(quick(uri, log))
    await link.use(version, { signal: never, what })
    await daemon.signal('STOP')
    const waiting = link.use(version, { signal: never, what })
    const seen = waiting.catch((e) => e as Error)
    await daemon.signal('CONT')
    await link[Symbol.asyncDispose]()
    const ended = await seen
    // answered in the last moment, or told why not
    if (ended instanceof Error) expect(ended.message).toMatch(/closed/)
    await expect(link.use(version, { signal: never, what })).rejects.toMatchObject({ code: 'hypervisor-down' })
  })
})
