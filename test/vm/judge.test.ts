// What an entry becomes by what is seen: the table of who may decide what a VM should be.
import { describe, expect, test } from 'vitest'
import { applied, judge, type Sight, withStart } from '../../src/vm/observe.ts'
import type { VmRecord } from '../../src/vm/types.ts'
import { record } from './records.ts'

const at = '2026-11-02T00:00:00.000Z'
const later = (ms: number) => new Date(Date.parse(at) + ms).toISOString()
type State = NonNullable<Sight['domain']>['state']
const sight = (state: State['state'] | 'gone', reason = 'unknown', more: Partial<Sight> = {}): Sight => ({
  at,
  domain: state === 'gone' ? undefined : { name: 'web', state: { state, reason } },
  missing_files: [],
  boot_id: 'boot-1',
  host_stops: false,
  job_over: false,
  busy: false,
  ...more,
})
const doing = (action: NonNullable<VmRecord['doing']>['action'], was?: VmRecord['desired']): VmRecord['doing'] => ({
  action,
  phase: 'stop',
  job: 'j',
  epoch: 1,
  since: at,
  ...(was ? { was } : {}),
})
const kinds = (j: ReturnType<typeof judge>) => j.drift.map((d) => d.kind)
const disk = { id: 'disk', path: '/v/web/disk.qcow2', format: 'qcow2' as const, size_bytes: 1 }

describe('a VM that should run and is off', () => {
  test.each(['unknown', 'crashed', 'failed', 'daemon'])('because of "%s" is started', (reason) => {
    const j = judge(record('web', { boot_id: 'boot-1' }), sight('shutoff', reason))
    expect([j.start, j.record?.desired, j.record?.state, j.record?.state_reason, kinds(j)]).toEqual([
      true,
      'running',
      'stopped',
      reason,
      [],
    ])
  })

  test.each(['shutdown', 'destroyed', 'saved', 'migrated', 'from_snapshot'])(
    'because of "%s" was wanted off, and stays so',
    (reason) => {
      const j = judge(record('web'), sight('shutoff', reason))
      expect([j.start, j.record?.desired, kinds(j), j.notes.length]).toEqual([false, 'stopped', [], 1])
      expect(judge(j.record!, sight('shutoff', reason))).toMatchObject({ record: j.record, start: false, notes: [] })
    },
  )

  test('while the host goes down is to run again afterwards', () => {
    const going = judge(record('web', { autostart: true }), sight('shutoff', 'shutdown', { host_stops: true }))
    expect([going.start, going.record?.desired]).toEqual([false, 'running'])
    expect(judge(record('web'), sight('shutoff', 'crashed', { host_stops: true })).start).toBe(false)
    const back = judge({ ...going.record!, boot_id: 'boot-1' }, sight('shutoff', 'unknown', { boot_id: 'boot-2' }))
    expect([back.start, back.record?.desired]).toEqual([true, 'running'])
  })

  test('after the host was started anew is started only when it is to start with the host', () => {
    const off = judge(record('web', { boot_id: 'boot-0' }), sight('shutoff'))
    expect([off.start, off.record?.desired, off.notes[0]]).toEqual([
      false,
      'stopped',
      expect.stringContaining('autostart'),
    ])
    expect(judge(record('web', { boot_id: 'boot-0', autostart: true }), sight('shutoff')).start).toBe(true)
  })

  test('is not started while a job works on it, without its disk, or under another name', () => {
    const r = record('web', { disks: [disk] })
    expect(judge(r, sight('shutoff')).start).toBe(true)
    expect(judge(r, sight('shutoff', 'unknown', { busy: true }))).toMatchObject({ start: false, drift: [] })
    const without = judge(r, sight('shutoff', 'unknown', { missing_files: [disk.path] }))
    expect([without.start, kinds(without), without.drift[0]!.message]).toEqual([
      false,
      ['missing-disk'],
      expect.stringContaining(disk.path),
    ])
    const other = { domain: { name: 'www', state: { state: 'shutoff' as const, reason: 'unknown' } } }
    const renamed = judge(r, sight('shutoff', 'unknown', other))
    expect([renamed.start, kinds(renamed)]).toEqual([false, ['renamed']])
  })

  test('and dies again and again is started more and more seldom, then no more', () => {
    let r = record('web')
    let now = 0
    const waits: number[] = []
    for (let i = 0; i < 5; i++) {
      let j = judge(r, sight('shutoff', 'crashed', { at: later(now) }))
      if (!j.start) {
        expect([kinds(j), j.due! > Date.parse(later(now))]).toEqual([['not-running'], true])
        waits.push(j.due! - Date.parse(later(now)))
        now = j.due! - Date.parse(at)
        j = judge(r, sight('shutoff', 'crashed', { at: later(now) }))
      }
      expect(j.start).toBe(true)
      r = withStart(j.record!, later(now))
      r = judge(r, sight('running', 'booted', { at: later(now) })).record!
    }
    expect(waits).toEqual([10_000, 60_000, 300_000, 900_000])
    const given = judge(r, sight('shutoff', 'crashed', { at: later(now + 86_400_000) }))
    expect([given.start, given.due, kinds(given), given.drift[0]!.message]).toEqual([
      false,
      undefined,
      ['not-running'],
      expect.stringMatching(/started 5 times.*not started any more/),
    ])
    // one that stays up has a clean record
    const up = judge(r, sight('running', 'booted', { at: later(now) })).record!
    expect(judge(up, sight('running', 'booted', { at: later(now + 60_000) })).record!.starts?.count).toBe(5)
    expect(judge(up, sight('running', 'booted', { at: later(now + 3_600_000) })).record!.starts).toBeUndefined()
  })
})

describe('a difference is shown', () => {
  test('of a VM that runs and should not', () => {
    const j = judge(record('web', { desired: 'stopped', state: 'stopped' }), sight('running', 'booted'))
    expect([kinds(j), j.record?.desired, j.record?.state, j.record?.boot_id]).toEqual([
      ['running-but-should-not'],
      'stopped',
      'running',
      'boot-1',
    ])
  })
  test('of one that hangs in the middle', () => {
    expect(kinds(judge(record('web'), sight('paused', 'ioerror')))).toEqual(['not-running'])
    expect(kinds(judge(record('web', { desired: 'stopped' }), sight('paused', 'user')))).toEqual([])
  })
  test('of one that libvirt does not have', () => {
    const j = judge(record('web', { addresses: ['192.0.2.7'] }), sight('gone'))
    expect([kinds(j), j.start, j.record?.state, j.record?.addresses]).toEqual([
      ['missing-domain'],
      false,
      'missing',
      [],
    ])
    expect(kinds(judge(record('web'), sight('gone', '', { foreign: { uuid: 'u' } })))).toEqual(['foreign-domain'])
  })
})

describe('an action that never ended', () => {
  test('is left alone while its job is not over, whatever is seen', () => {
    for (const s of [sight('shutoff', 'crashed'), sight('shutoff', 'destroyed'), sight('gone')]) {
      const j = judge(record('web', { doing: doing('stop', 'running'), desired: 'stopped' }), s)
      expect([j.start, j.drift, j.record?.doing?.job, j.record?.desired]).toEqual([false, [], 'j', 'stopped'])
    }
  })

  test.each([
    ['start', 'stopped', 'stopped', 'running', 'running'],
    ['start', 'stopped', 'running', 'shutoff', 'stopped'],
    ['stop', 'running', 'stopped', 'running', 'running'],
    ['stop', 'running', 'stopped', 'shutoff', 'stopped'],
    ['restart', 'running', 'running', 'running', 'running'],
    ['restart', 'running', 'running', 'shutoff', 'running'],
  ] as const)('%s of a VM that was to be %s: is %s, seen %s, should be %s', (action, was, desired, seen, should) => {
    const r = record('web', { doing: doing(action, was), desired })
    const j = judge(r, sight(seen, 'crashed', { job_over: true }))
    expect([j.record?.doing, j.record?.desired, j.record?.last?.outcome]).toEqual([undefined, should, 'failed'])
    expect(j.start).toBe(should === 'running' && seen === 'shutoff')
  })

  test.each(['create', 'define', 'delete'] as const)('%s is shown, and nothing is made of it', (action) => {
    const j = judge(record('web', { doing: doing(action) }), sight('shutoff', 'crashed', { job_over: true }))
    expect([kinds(j), j.start, j.record?.doing?.action]).toEqual([['stale-doing'], false, action])
  })

  test('of which nothing is there leaves no entry', () => {
    const gone = { job_over: true, missing_files: [disk.path] }
    for (const r of [
      record('web', { doing: doing('create'), disks: [disk] }),
      record('web', { doing: doing('delete', 'running'), desired: 'deleted', disks: [disk] }),
    ]) {
      expect(judge(r, sight('gone', '', gone))).toMatchObject({ record: undefined, start: false, drift: [] })
      expect(judge(r, sight('gone', '', { ...gone, job_over: false })).record?.doing).toBeDefined()
      expect(kinds(judge(r, sight('gone', '', { ...gone, missing_files: [] })))).toEqual(['stale-doing'])
    }
  })

  test('a deletion is never taken back; when nothing is left it is over', () => {
    const r = record('web', { desired: 'deleted', disks: [disk] })
    for (const s of [sight('running', 'booted'), sight('shutoff', 'crashed')]) {
      const j = judge(r, s)
      expect([j.start, j.record?.desired, kinds(j)]).toEqual([false, 'deleted', ['should-be-gone']])
    }
    expect(kinds(judge(r, sight('gone')))).toEqual(['should-be-gone'])
    expect(judge(r, sight('gone', '', { missing_files: [disk.path] })).record).toBeUndefined()
    const begun = judge({ ...r, doing: doing('delete', 'running') }, sight('shutoff', 'destroyed', { job_over: true }))
    expect([begun.start, kinds(begun), begun.record?.desired]).toEqual([false, ['stale-doing'], 'deleted'])
  })
})

describe('what was judged', () => {
  test('changes only what it is about, and nothing when somebody was faster', () => {
    const before = record('web')
    const after = judge(before, sight('shutoff', 'destroyed')).record!
    const now = { ...before, addresses: ['192.0.2.7'], metadata: { a: 'b' } }
    expect(applied(now, before, after)).toMatchObject({
      desired: 'stopped',
      state: 'stopped',
      addresses: ['192.0.2.7'],
      metadata: { a: 'b' },
    })
    expect(applied({ ...now, doing: doing('start') }, before, after)).toBeUndefined()
    expect(applied({ ...now, order: { job: 'k', epoch: 1 } }, before, after)).toBeUndefined()
    const { starts, ...rest } = withStart(before, at)
    expect([starts, applied(withStart(before, at), withStart(before, at), rest)?.starts]).toEqual([
      { count: 1, at },
      undefined,
    ])
  })
})
