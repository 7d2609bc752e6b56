// A daemon that freezes, dies in the middle, comes back, or has much to do.
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { connect, keepConnected } from '../../src/libvirt/index.ts'
import { isRoot, type Libvirtd, privateLibvirtd } from '../support/libvirtd.ts'
import { until } from '../support/wait.ts'
import { qemuDomain, testDomain } from './scene.ts'

const NO_PINGS = { interval_ms: 0, misses: 0 }

describe.runIf(isRoot)('a daemon that', () => {
  let daemon: Libvirtd
  let uri: string
  beforeAll(async () => {
    daemon = await privateLibvirtd()
    uri = daemon.uri('test:///default')
  }, 600_000)
  afterAll(() => daemon?.[Symbol.asyncDispose]())

  test('is frozen leaves a call unanswered: its deadline ends it, and the connection lives on', async () => {
    await using c = await connect(uri, { keepalive: NO_PINGS, quick_ms: 60_000 })
    await daemon.signal('STOP')
    const asked = c.host.version({ deadline_ms: 300 })
    const patient = c.host.version()
    await expect(asked).rejects.toMatchObject({ name: 'DeadlineError', sent: true, deadline_ms: 300 })
    expect(c.load()).toEqual({ queued: 0, running: 1, abandoned: 1 })
    await daemon.signal('CONT')
    expect(await patient).toMatch(/^\d/)
    // the late answer was dropped, and nothing is out of step
    await until('the late answer came', () => c.load().abandoned === 0)
    expect((await c.domains.byName('test'))?.name).toBe('test')
  })

  test('is frozen fills the window: what waits is never sent, and then the connection is given up', async () => {
    await using c = await connect(uri, { keepalive: NO_PINGS, window: 2 })
    await daemon.signal('STOP')
    try {
      const answers = await Promise.allSettled(
        [500, 1500, 100].map((deadline_ms) => c.domains.define(testDomain(`n${deadline_ms}`), [], { deadline_ms })),
      )
      expect(answers.map((a) => a.status === 'rejected' && [a.reason.name, a.reason.sent])).toEqual([
        ['DeadlineError', true],
        ['DeadlineError', true],
        ['DeadlineError', false],
      ])
      await expect(c.host.version()).rejects.toMatchObject({ reason: 'unresponsive', sent: false })
      expect(c.isOver()).toBe(true)
    } finally {
      await daemon.signal('CONT')
    }
  })

  test('is frozen does not answer pings: the connection ends, and every call with it', async () => {
    const c = await connect(uri, { keepalive: { interval_ms: 400, misses: 8 } })
    await sleep(4000) // idle for longer than that, but it answers
    expect(c.isOver()).toBe(false)
    const events = await c.events()
    const next = events.next()
    await daemon.signal('STOP')
    try {
      await expect(c.domains.list()).rejects.toMatchObject({
        name: 'ConnectionError',
        reason: 'unresponsive',
        sent: true,
      })
      await expect(next).rejects.toMatchObject({ reason: 'unresponsive' })
      expect(await c.ended).toMatchObject({ reason: 'unresponsive' })
      await expect(connect(uri, { open_ms: 300 })).rejects.toMatchObject({ reason: 'unresponsive' })
    } finally {
      await daemon.signal('CONT')
    }
    await using again = await connect(uri)
    expect(await again.host.version()).toMatch(/^\d/)
  })

  test('a call that is no longer wanted is let go', async () => {
    await using c = await connect(uri, { keepalive: NO_PINGS })
    await daemon.signal('STOP')
    const stop = new AbortController()
    const asked = c.host.version({ signal: stop.signal })
    stop.abort(new Error('enough'))
    await expect(asked).rejects.toThrow('enough')
    await expect(c.host.version({ signal: stop.signal })).rejects.toThrow('enough')
    await daemon.signal('CONT')
    expect(await c.host.version()).toMatch(/^\d/)
  })

  test('answers while this process stands still: neither deadline nor pings are held against it', async () => {
    await using c = await connect(uri, { keepalive: { interval_ms: 300, misses: 10 } })
    const asked = c.host.version({ deadline_ms: 1000 })
    for (const until = performance.now() + 4500; performance.now() < until; );
    expect(await asked).toMatch(/^\d/)
    expect(c.isOver()).toBe(false)
    expect(await c.host.version()).toMatch(/^\d/)
  })

  test('has much to do answers 64 calls at once, and holds to its window', async () => {
    await using c = await connect(uri)
    const names = Array.from({ length: 64 }, (_, i) => `p-${i}`)
    const asked = names.map((n) => c.domains.define(testDomain(n)))
    expect(c.load()).toEqual({ queued: 60, running: 4, abandoned: 0 })
    const made = await Promise.all(asked)
    expect(made.map((d) => d.name)).toEqual(names)
    const xml = await Promise.all(made.map((d) => c.domains.xml(d)))
    for (const [i, x] of xml.entries()) expect(x).toContain(`<name>p-${i}</name>`)
    expect((await c.domains.states()).length).toBe(65)
    await Promise.all(made.map((d) => c.domains.undefine(d)))
    expect((await c.domains.list()).map((d) => d.name)).toEqual(['test'])
  })

  test('takes XML up to its cap of 4 MiB, and gives it back', async () => {
    await using c = await connect(uri)
    const text = 'x'.repeat(4_194_304 - 400)
    const d = await c.domains.define(testDomain('huge', { more: `<description>${text}</description>` }))
    expect((await c.domains.description(d)) === text).toBe(true)
    const long = testDomain('huge', { more: `<description>${text}${'y'.repeat(400)}</description>` })
    await expect(c.domains.define(long)).rejects.toThrow(/longer than/)
    await c.domains.undefine(d)
    expect(await c.host.version()).toMatch(/^\d/)
  })

  test('is killed in the middle of a call: what was sent is uncertain, what waited was not sent', async () => {
    const c = await connect(uri, { window: 1, keepalive: NO_PINGS })
    await daemon.signal('STOP')
    const [first, second] = [c.domains.define(testDomain('maybe')), c.domains.define(testDomain('not'))]
    const both = Promise.allSettled([first, second])
    await daemon.signal('KILL')
    expect(await both).toMatchObject([
      { reason: { name: 'ConnectionError', reason: 'lost', sent: true } },
      { reason: { name: 'ConnectionError', reason: 'lost', sent: false } },
    ])
    await expect(c.domains.list()).rejects.toMatchObject({ reason: 'lost' })
    await expect(connect(uri)).rejects.toMatchObject({
      reason: 'unreachable',
      message: expect.stringContaining('left over'),
    })
    await daemon.start()
  })

  test('ends by itself tells its clients by hanging up', async () => {
    const c = await connect(uri)
    const events = await c.events()
    await daemon.signal('TERM')
    await expect(events.next()).rejects.toMatchObject({ name: 'ConnectionError', reason: 'lost' })
    expect(await events.next()).toEqual({ done: true, value: undefined })
    await daemon.start()
  })
})

describe.runIf(isRoot)('a link', () => {
  test('outlives the daemon: a new session, events registered anew, everything listed anew', async () => {
    await using daemon = await privateLibvirtd()
    const uri = daemon.uri('qemu:///system')
    const failures: unknown[] = []
    await using link = keepConnected(uri, {
      retry_ms: { first: 20, last: 100 },
      keepalive: { interval_ms: 500, misses: 16 },
      onFailure: (e) => failures.push(e),
    })
    const sessions = link[Symbol.asyncIterator]()
    const first = (await sessions.next()).value!
    expect(first).toMatchObject({ domains: [], networks: [], pools: [] })
    expect(link.state()).toMatchObject({ state: 'connected' })
    const d = await first.control.domains.define(qemuDomain('stays'))
    await first.control.domains.create(d, ['paused'])
    expect((await first.events.next()).value).toMatchObject({ event: 'defined', domain: { name: 'stays' } })

    await daemon.signal('KILL')
    expect(await first.ended).toMatchObject({ reason: 'lost' })
    expect([first.query.isOver(), first.control.isOver()]).toEqual([true, true])
    while (!(await first.events.next()).done); // what had come, then the end, without an error
    await until('an attempt failed', () => failures.length > 0)
    expect(link.state()).toMatchObject({ state: 'connecting' })

    await daemon.start()
    const second = (await sessions.next()).value!
    expect(second.query).not.toBe(first.query)
    expect(failures[0]).toMatchObject({ name: 'ConnectionError', reason: 'unreachable' })
    // the guest went on meanwhile
    expect(second.domains).toMatchObject([{ domain: { name: 'stays', uuid: d.uuid }, state: 'paused' }])
    // libvirt may still be taking its guests up again; a question to the guest itself waits until that is done
    await second.control.domains.stats({ domains: [d], groups: ['balloon'] })
    await second.control.domains.destroy(d)
    const stopped = await until('the guest’s end is told', async () => {
      const { value } = await second.events.next()
      return value.event === 'stopped' ? value : undefined // QEMU may say before that it shuts down
    })
    expect(stopped).toMatchObject({ detail: 'destroyed', domain: { name: 'stays', uuid: d.uuid } })
    expect(await second.query.domains.state(d)).toMatchObject({ state: 'shutoff' })
    await second.control.domains.undefine(d)
    expect(await link.session()).toBe(second)

    await daemon.signal('STOP')
    expect(await second.ended).toMatchObject({ reason: 'unresponsive' })
    await daemon.signal('CONT')
    const third = await link.session({ signal: AbortSignal.timeout(60_000) })
    expect(third).not.toBe(second)
    expect(third.domains).toEqual([])

    expect((await sessions.next()).value).toBe(third)
    const end = sessions.next()
    await link.close()
    expect((await end).done).toBe(true)
    expect(link.state()).toEqual({ state: 'closed' })
    await expect(link.session()).rejects.toThrow(/is closed/)
    expect(await third.ended).toMatchObject({ reason: 'closed' })
  }, 600_000)

  test('is closed while it tries, and refuses a URI that is wrong', async () => {
    const link = keepConnected('test:///default?socket=/nowhere/at/all', { retry_ms: { first: 10, last: 20 } })
    const waiting = link.session()
    await until('it tried', () => {
      const s = link.state()
      return s.state === 'connecting' && s.attempts > 1
    })
    await link.close()
    await expect(waiting).rejects.toThrow(/is closed/)
    const wrong = keepConnected('nonsense')
    await expect(wrong.session()).rejects.toThrow(TypeError)
    await wrong.close()
    const timed = keepConnected('test:///default?socket=/nowhere/at/all')
    await expect(timed.session({ signal: AbortSignal.timeout(50) })).rejects.toThrow(/timeout/i)
    await timed.close()
  })
})
