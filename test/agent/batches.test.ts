// The handler of a batch on a real spool, with an I/O error at every file operation in turn: each VM becomes one job, once.
import { readdir } from 'node:fs/promises'
import { expect, test } from 'vitest'
import { createBatches } from '../../src/agent/batches.ts'
import type { Config } from '../../src/config/index.ts'
import { runBatch } from '../../src/jobs/batch.ts'
import type { JobContext, JobProgress } from '../../src/jobs/types.ts'
import type { BatchManifest } from '../../src/manifest/index.ts'
import {
  type Claim,
  claim,
  commit,
  fsck,
  type IntakeOptions,
  openClaim,
  publishCommitted,
  type Spool,
  takeAndAccept,
} from '../../src/spool/index.ts'
import { childUlid, parseJobName } from '../../src/spool/names.ts'
import { tempDir } from '../support/temp.ts'
import { intake, mustClaim, openTestSpool, settle } from '../spool/harness.ts'

const options: IntakeOptions = { ...intake(), knownKinds: new Set(['command', 'batch']) }
const vm = (id: string) => ({ id, manifest: { kind: 'command', name: id, command: { argv: ['true'] } } })
const manifest = { kind: 'batch', name: 'night', batch_metadata: { parallel_limit: 2 }, vms: ['a', 'b', 'c'].map(vm) }

type Fault = 'before' | 'after'

/** Makes the n-th operation of the spool fail: not done at all, or done with its answer lost. Returns how many there were until it is called. */
function inject(s: Spool, n: number, how: Fault): () => number {
  let count = 0
  let over = false
  for (const [key, real] of Object.entries(s.fs) as [string, (...a: unknown[]) => Promise<unknown>][]) {
    ;(s.fs as unknown as Record<string, unknown>)[key] = async (...args: unknown[]) => {
      const mine = !over && ++count === n
      const error = Object.assign(new Error(`EIO: injected, ${key}`), { code: 'EIO' })
      if (mine && how === 'before') throw error
      const result = await real.apply(s.fs, args)
      if (mine) throw error
      return result
    }
  }
  return () => {
    over = true
    return count
  }
}

/** What a runner writes at the end of a job, in short. */
async function succeed(s: Spool, c: Claim): Promise<void> {
  const { id, epoch } = c.name
  const said = {
    schema: 1,
    id,
    name: c.record.answer,
    state: 'succeeded',
    epoch,
    finished_at: new Date().toISOString(),
  }
  await commit(s, c, 'done', { result: said, status: said })
}

async function runWith(dir: string, n: number, how: Fault): Promise<number> {
  const s = await openTestSpool(dir)
  await s.fs.writeFile(`${s.layout.queue}/night.json`, JSON.stringify(manifest), { mode: 0o640, sync: false })
  const [parent] = await settle(s, options)
  const c = await mustClaim(s, parent!)
  const batches = createBatches(s, () => {})
  const seen: JobProgress[] = []
  const context: JobContext<BatchManifest> = {
    id: parent!.name.id,
    answer: parent!.record.answer,
    epoch: 0,
    owner: s.owner!.id,
    manifest: parent!.record.manifest as BatchManifest,
    drop: { ...parent!.record.drop },
    attemptDir: c.attemptDir,
    answerDir: c.answerDir,
    earlierAttempts: [],
    signal: new AbortController().signal,
    progress: (p) => seen.push(p),
    log: () => {},
    spawned: () => {},
    config: {} as Config,
    family: batches.familyOf(c, new AbortController().signal, () => undefined),
  }
  const count = inject(s, n, how)
  let over = false
  const running = runBatch(context.manifest, context).finally(() => {
    over = true
  })
  running.catch(() => {})
  const quietly = (step: () => Promise<void>): Promise<void> => step().catch(() => {})
  // What the agent's loops do, one round after the other; a round that fails is simply the last one of its kind that did.
  while (!over) {
    await quietly(async () => void (await batches.accept(options)))
    await quietly(async () => {
      s.intake.lastListed = Number.NEGATIVE_INFINITY // recovery at every round, not every ten seconds
      await takeAndAccept(s, options)
    })
    for (const file of await readdir(s.layout.new)) {
      await quietly(async () => {
        const got = await claim(s, parseJobName(file)!)
        if (got.state !== 'claimed') return
        await succeed(s, got.claim)
      })
    }
    await quietly(async () => void (await publishCommitted(s)))
    for (const file of await readdir(`${s.layout.claimed}/${s.owner!.id}`)) {
      // A claim whose work an error cut off, which a heartbeat would find and give back under its next epoch.
      if (file !== c.name.file) await quietly(async () => void (await openClaim(s, parseJobName(file)!)))
    }
    batches.wake(parent!.name.id)
    await new Promise((r) => setImmediate(r))
  }
  const operations = count()
  const outcome = await running
  expect(outcome).toMatchObject({ counts: { total: 3, succeeded: 3, failed: 0 } })
  const ids = [0, 1, 2].map((i) => childUlid(parent!.name.id, i))
  expect((await readdir(s.layout.done)).map((f) => parseJobName(f)!.id).sort()).toEqual(ids)
  expect(await readdir(s.layout.new)).toEqual([])
  // At most two were jobs at once.
  for (const p of seen) expect((p.children?.queued ?? 0) + (p.children?.running ?? 0)).toBeLessThanOrEqual(2)
  expect((await fsck(s)).problems.filter((p) => p.severity === 'error')).toEqual([])
  return operations
}

test('without a fault the VMs are started in their order', async () => {
  await using dir = await tempDir()
  expect(await runWith(dir.path, 0, 'before')).toBeGreaterThan(100)
})

test.each(['before', 'after'] as const)(
  'an I/O error %s any operation loses no VM and makes none twice',
  { timeout: 600_000 },
  async (how) => {
    let last = 300
    // Every fifth one, begun at another place for each kind of fault.
    for (let n = how === 'before' ? 1 : 2; n <= last; n += 5) {
      await using dir = await tempDir()
      last = Math.min(last, await runWith(dir.path, n, how))
    }
    expect(last).toBeGreaterThan(100)
  },
)
