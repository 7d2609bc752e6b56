/** A real spool on a real disk, driven by hand instead of by an agent. */
import { join } from 'node:path'
import { inspectDroppedDisk } from '../../src/images/index.ts'
import { parseManifest } from '../../src/manifest/index.ts'
import {
  type Accepted,
  type Claim,
  claim,
  commit,
  type IntakeOptions,
  layoutOf,
  openSpool,
  publishCommitted,
  type Spool,
  startOwner,
  takeAndAccept,
} from '../../src/spool/index.ts'

export async function openTestSpool(
  root: string,
  o: { leaseMs?: number; now?: () => number; mono?: () => number } = {},
): Promise<Spool> {
  const clock = { now: o.now ?? (() => Date.now()), mono: o.mono ?? (() => performance.now()) }
  const s = await openSpool({
    layout: layoutOf({ root, instance: 't' }),
    create: true,
    leaseMs: o.leaseMs ?? 30_000,
    clock,
  })
  await startOwner(s)
  return s
}

export function intake(change: Partial<IntakeOptions['settings']> = {}): IntakeOptions {
  return {
    parse: (bytes, fileName) => parseManifest(bytes, { fileName }),
    settings: {
      max_manifest_bytes: 1 << 20,
      yaml_quiet_ms: 0,
      incomplete_after_ms: 0,
      raw_keep_ms: 0,
      file_stable_ms: 0,
      bare_disks: true,
      on_in_use: 'reject',
      ...change,
    },
    knownKinds: new Set(['command', 'convert']),
    inspectDrop: inspectDroppedDisk,
  }
}

export function command(name: string, more: object = {}): string {
  return JSON.stringify({ kind: 'command', name, command: { argv: ['true'] }, ...more })
}

/** Intake rounds until nothing new came for two of them. */
export async function settle(s: Spool, o: IntakeOptions): Promise<Accepted[]> {
  const all: Accepted[] = []
  for (let quiet = 0; quiet < 2; ) {
    const { accepted } = await takeAndAccept(s, o)
    all.push(...accepted)
    quiet = accepted.length > 0 ? 0 : quiet + 1
  }
  return all
}

export async function mustClaim(s: Spool, a: Accepted): Promise<Claim> {
  const result = await claim(s, a.name)
  if (result.state !== 'claimed') throw new Error(`not claimed: ${JSON.stringify(result)}`)
  return result.claim
}

/** Ends a claim with an image that names its maker, and publishes. */
export async function end(s: Spool, c: Claim, outcome: 'done' | 'failed'): Promise<void> {
  const { answer } = c.record
  if (outcome === 'done') {
    await s.fs.writeFile(join(c.answerDir, `${answer}.qcow2`), `image of ${c.name.id}`, { mode: 0o644, sync: false })
  }
  const result = { schema: 1, id: c.name.id, name: answer, epoch: c.name.epoch, finished_at: new Date().toISOString() }
  await commit(s, c, outcome, { error: `no luck with ${c.name.id}`, result })
  await publishCommitted(s)
}
