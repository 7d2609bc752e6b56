/** Children of a batch: their ids, finding them in every state, and what retention and cancelling make of them. */
import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import {
  acceptRecords,
  type Claim,
  commit,
  existingJobs,
  giveBack,
  type JobRecord,
  processCancels,
  publishCommitted,
  requestCancel,
  retain,
  retry,
  type Spool,
} from '../../src/spool/index.ts'
import { childPrefix, childUlid, ULID, ulidTime } from '../../src/spool/names.ts'
import { tempDir } from '../support/temp.ts'
import { command, end, intake, mustClaim, openTestSpool, settle } from './harness.ts'

const parentId = '01HF7YEH3N9E5FCF6GMCST0B7A'

function child(place: number, more: Partial<JobRecord> = {}): JobRecord {
  const id = childUlid(parentId, place)
  const answer = `child-${place}`
  return {
    schema: 1,
    id,
    kind: 'command',
    answer,
    manifest: JSON.parse(command(answer)),
    drop: { file: `batch#${place}`, at: new Date().toISOString(), uid: 0, gid: 0, bytes: 1, sha256: '' },
    diagnostics: [],
    parent: { id: parentId, vm: `v${place}` },
    ...more,
  }
}

async function accept(s: Spool, record: JobRecord) {
  const [r] = await acceptRecords(s, intake(), [record])
  if (r?.status !== 'fulfilled' || !r.value) throw new Error(`not accepted: ${JSON.stringify(r)}`)
  return r.value
}

test('ids are ULIDs of the batch’s time that rise with the place, even, and differ from every other batch’s', () => {
  const ids = Array.from({ length: 10_000 }, (_, i) => childUlid(parentId, i))
  expect(new Set(ids).size).toBe(10_000)
  expect(ids.toSorted()).toEqual(ids)
  for (const id of [ids[0]!, ids[9_999]!]) {
    expect(id).toMatch(ULID)
    expect(id.startsWith(childPrefix(parentId))).toBe(true)
    expect(ulidTime(id)).toBe(ulidTime(parentId))
    expect('02468ACEGJMPRTWY').toContain(id.at(-1))
  }
  // Two batches of one millisecond, whose ids differ by one.
  expect(childPrefix('01HF7YEH3N9E5FCF6GMCST0B7C')).not.toBe(childPrefix(parentId))
})

test('a child is found wherever it is, from its token to its end, and one that was never made is not', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  const ids = [0, 1, 2].map((i) => childUlid(parentId, i))
  const found = async () => [...(await existingJobs(s, ids))].map((id) => ids.indexOf(id)).sort()
  expect(await found()).toEqual([])
  // A token in the intake of an agent that died, and in one that was taken over.
  const dead = join(s.layout.intake, 'dead', 't-1')
  await s.fs.mkdir(join(s.layout.intake, 'dead'), 0o750)
  await s.fs.mkdir(dead, 0o750)
  await writeFile(join(dead, `${ids[2]}.job`), '{}')
  await writeFile(join(dead, `.${ids[1]}.abcd.tmp`), '{}')
  expect(await found()).toEqual([2])

  const accepted = await accept(s, child(0))
  expect(accepted.state).toBe('new')
  expect(await found()).toEqual([0, 2])
  let claim = await mustClaim(s, accepted)
  expect(await found()).toEqual([0, 2])
  await retry(s, claim, Date.now() + 60_000)
  expect(await readdir(s.layout.held)).toHaveLength(1)
  expect(await found()).toEqual([0, 2])

  const second = await accept(s, child(1))
  claim = await mustClaim(s, second)
  await giveBack(s, claim)
  expect(await found()).toEqual([0, 1, 2])
  claim = await mustClaim(s, {
    ...second,
    name: { ...second.name, epoch: 1, file: second.name.file.replace('~0', '~1') },
  })
  await commit(s, claim, 'failed', { error: 'x', result: { id: second.name.id, epoch: 1 } })
  expect(await found()).toEqual([0, 1, 2])
  await publishCommitted(s)
  expect(await readdir(s.layout.failed)).toHaveLength(1)
  expect(await found()).toEqual([0, 1, 2])
})

test('a rejected child ends at once and names its batch; its status and result say so', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  const record = child(0, {
    rejected: { message: 'It is bad.' },
    diagnostics: [{ severity: 'error', path: 'x', message: 'bad' }],
  })
  expect((await accept(s, record)).state).toBe('claimed')
  await publishCommitted(s)
  const read = async (file: string) =>
    JSON.parse((await s.fs.readFile(join(s.layout.outputJobs, record.id, file))).bytes.toString('utf8'))
  expect(await read('status.json')).toMatchObject({ state: 'rejected', parent: parentId, vm_id: 'v0' })
  expect(await read('result.json')).toMatchObject({ state: 'rejected', parent: parentId, diagnostics: [{ path: 'x' }] })
})

test('an agent that was fenced makes no child', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  await s.fs.rename(join(s.layout.intake, s.owner!.id), join(s.layout.intake, 'taken'))
  const [r] = await acceptRecords(s, intake(), [child(0)])
  expect(r).toMatchObject({ status: 'rejected', reason: { code: 'ENOENT' } })
  expect(await readdir(s.layout.new)).toEqual([])
})

test('retention leaves the children of a batch that is not over', async () => {
  await using dir = await tempDir()
  let now = Date.now()
  const s = await openTestSpool(dir.path, { now: () => now })
  await writeFile(join(s.layout.queue, 'p.json'), command('parent'))
  const [parent] = await settle(s, intake())
  const running = await mustClaim(s, parent!)
  const one = child(0, { id: childUlid(parent!.name.id, 0), answer: 'one' })
  await end(s, await mustClaim(s, await accept(s, one)), 'done')
  const policy = { done_ms: 1_000, failed_ms: 1_000, superseded_ms: 0 }
  now += 100_000
  expect(await retain(s, policy)).toBe(0)
  expect(await readdir(s.layout.done)).toHaveLength(1)
  await end(s, running, 'done')
  now += 100_000
  expect(await retain(s, policy)).toBe(2)
  expect(await readdir(s.layout.outputJobs)).toEqual([])
})

test('a cancelled job that waits can be run instead, or left', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  for (const name of ['a', 'b', 'c']) await writeFile(join(s.layout.queue, `${name}.json`), command(name))
  const jobs = await settle(s, intake())
  for (const j of jobs) await requestCancel(s, j.name.id, 'me')
  const handed: Claim[] = []
  const how = { a: 'run', b: 'leave', c: 'commit' } as const
  const cancelled = await processCancels(s, {
    decide: (record) => how[record.answer as 'a'],
    run: (c) => handed.push(c),
  })
  expect(handed.map((c) => c.record.answer)).toEqual(['a'])
  expect(cancelled).toHaveLength(1)
  expect(await readdir(s.layout.new)).toHaveLength(1)
  expect(await readdir(join(s.layout.claimed, s.owner!.id))).toHaveLength(1)
  // The requests of jobs that are not over stay.
  expect((await readdir(s.layout.control)).filter((f) => f.startsWith('cancel-'))).toHaveLength(3)
  await publishCommitted(s)
  await processCancels(s, { decide: () => 'leave', run: () => {} })
  expect((await readdir(s.layout.control)).filter((f) => f.startsWith('cancel-'))).toHaveLength(2)
})
