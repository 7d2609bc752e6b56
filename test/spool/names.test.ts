import fc from '../support/fc.ts'
import { expect, test } from 'vitest'
import {
  baseUlid,
  jobName,
  keyOf,
  laneOf,
  nextUlid,
  parseJobName,
  publicationOrder,
  renamed,
  ticketName,
  ulidMaker,
  ulidTime,
} from '../../src/spool/names.ts'
import { makePlan } from '../../src/spool/plan.ts'
import type { Spool } from '../../src/spool/spool.ts'

const ids = ulidMaker(
  () => 1_700_000_000_000,
  (n) => crypto.getRandomValues(new Uint8Array(n)),
)

const parts = fc.record({
  priority: fc.integer({ min: 0, max: 9 }),
  id: fc.constant(0).map(() => ids()),
  key: fc.string().map(keyOf),
  ticket: fc.integer({ min: 1, max: 2 ** 40 }),
  epoch: fc.nat(),
  failures: fc.nat(9999),
  crashes: fc.nat(9999),
})

test('a job name says what it was made from, in every state', () => {
  fc.assert(
    fc.property(parts, fc.option(fc.integer({ min: 0, max: 9_999_999_999_999 }), { nil: undefined }), (p, due) => {
      const name = jobName(due === undefined ? p : { ...p, due_ms: due })
      expect(parseJobName(name.file)).toEqual(name)
      const committed = renamed(name, { outcome: 'failed', owner: 'host.1234abcd.4026.77.99.00ff' })
      expect(parseJobName(committed.file)).toEqual(committed)
      expect(committed.due_ms).toBeUndefined()
      expect(Buffer.byteLength(committed.file)).toBeLessThan(255)
    }),
  )
})

test('names that are not a job are not read as one', () => {
  const { file } = jobName({ priority: 5, id: ids(), key: keyOf('a'), ticket: 1, epoch: 0, failures: 0, crashes: 0 })
  for (const bad of [
    '',
    'x',
    `${file}x`,
    file.slice(1),
    file.replace('.json', ''),
    `../${file}`,
    file.replace('~', '-'),
  ]) {
    expect(parseJobName(bad), bad).toBeUndefined()
  }
})

test('ULIDs of one maker rise strictly, and the odd ones between them stay free', () => {
  const many = Array.from({ length: 1000 }, ids)
  expect([...many].sort()).toEqual(many)
  expect(new Set([...many, ...many.map(nextUlid)]).size).toBe(2000)
  for (const id of many) {
    expect(baseUlid(nextUlid(id))).toBe(id)
    expect(baseUlid(id)).toBe(id)
    expect(ulidTime(id)).toBe(1_700_000_000_000)
  }
})

test('a lane is ordered by ticket, then by id, and holds no stranger', () => {
  const [a, b, c] = [ids(), ids(), ids()] as const
  const key = keyOf('web')
  const files = [
    ticketName(key, 10, a),
    ticketName(key, 9, c),
    ticketName(key, 9, b),
    ticketName(keyOf('db'), 1, a),
    'x',
  ]
  expect(laneOf(files, key).map((t) => [t.ticket, t.id])).toEqual([
    [9, b],
    [9, c],
    [10, a],
  ])
})

test('what pollers wait for is published after its parts, the status last', () => {
  expect(publicationOrder(['w.qcow2', 'w.disks', 'w.result.json', 'w.status.json'])).toEqual([
    'w.disks',
    'w.result.json',
    'w.qcow2',
    'w.status.json',
  ])
})

test('the plan hands out every waiting job once, in the order of its name', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(parts, { selector: (p) => p.id }), fc.nat(20), async (list, cut) => {
      const names = list.map(jobName)
      const listed = names.slice(cut)
      const spool = {
        fs: { readdir: async () => listed.map((n) => n.file) },
        clock: { mono: () => 0 },
        layout: { new: '' },
      } as unknown as Spool
      const plan = await makePlan(spool)
      for (const n of names.slice(0, cut)) plan.add(n)
      expect(plan.size).toBe(names.length)
      const out: string[] = []
      for (let n = plan.next(); n; n = plan.next()) out.push(n.file)
      expect(out).toEqual(names.map((n) => n.file).sort())
    }),
  )
})
