/** Agents and clients of the simulation. An agent runs the real protocol in three loops, as src/agent does. */
import { answerText, diskText } from './answers.ts'
import { attemptBatch, childCount, type Nursery, nursery } from './batch.ts'
import type { Node } from './disk.ts'
import { fail } from './disk.ts'
import type { Rules } from './rules.ts'
import type { Proc, World } from './world.ts'
import {
  type Claim,
  cancelRequests,
  claim,
  commit,
  commitRejection,
  endDecided,
  existingJobs,
  fixSuccessor,
  giveBack,
  heartbeat,
  heldNames,
  type IntakeOptions,
  type JobName,
  type JobRecord,
  keptAttempts,
  makePlan,
  openClaim,
  processCancels,
  promoteDue,
  publishCommitted,
  reapDead,
  requestCancel,
  retain,
  retry,
  type Spool,
  startOwner,
  stopOwner,
  takeAndAccept,
  tidyOld,
} from '../../src/spool/index.ts'
import { layoutOf } from '../../src/spool/layout.ts'
import { makeSpool } from '../../src/spool/spool.ts'
import { createDependencies } from '../../src/agent/dependencies.ts'
import type { ParseOutcome } from '../../src/manifest/index.ts'

export const LAYOUT = layoutOf({ root: '', instance: 's' })

/** Enough of a parser: what is being tested is the spool. */
function parse(bytes: Uint8Array): ParseOutcome {
  const text = Buffer.from(bytes).toString('utf8')
  try {
    const manifest = JSON.parse(text)
    if (typeof manifest.name !== 'string' && manifest.kind !== 'convert') throw new SyntaxError('no name')
    if (manifest.bad) return { state: 'invalid', diagnostics: [], partial: { answer: manifest.name } }
    return { state: 'complete', manifest, diagnostics: [], format: 'json' } as never
  } catch {
    return text.endsWith('}') ? { state: 'invalid', diagnostics: [] } : { state: 'incomplete', diagnostics: [] }
  }
}

export const INTAKE: IntakeOptions = {
  parse,
  settings: {
    max_manifest_bytes: 1 << 20,
    yaml_quiet_ms: 1_000,
    incomplete_after_ms: 1e12,
    raw_keep_ms: 3_000,
    file_stable_ms: 30_000,
    bare_disks: true,
    on_in_use: 'supersede',
  },
  knownKinds: new Set(['command', 'convert']),
}

export function spoolOf(world: World, proc: Proc, remote: boolean, maxCrashes = 50): Spool {
  const r = world.random
  // Every host has its own idea of the time: up to five minutes off. Nothing may depend on it.
  const skew = r.int(600_000) - 300_000
  return makeSpool({
    layout: LAYOUT,
    fs: world.fsFor(proc),
    clock: { now: () => 1_700_000_000_000 + world.mono + skew, mono: () => world.mono },
    random: (n) => r.bytes(n),
    leaseMs: 30_000,
    maxCrashes,
    remote,
    log: (event, fields) => world.say(`${proc.name} log ${event} ${JSON.stringify(fields)}`),
  })
}

/** An agent that lives until the scheduler kills it. */
export function agent(world: World, rules: Rules, remote: boolean): Proc {
  const r = world.random
  const number = ++world.agents
  const name = `A${number}`
  return world.spawn(name, true, async (_fs, proc) => {
    const s = spoolOf(world, proc, remote)
    const self = () => ({ host: name, boot_id: `boot-${name}`, pidns: 1, pid: number, start_ticks: number })
    const running = new Map<string, { stop: boolean }>()
    const children = nursery()
    /** batches that are being claimed to be cancelled */
    const reserved = new Set<string>()
    const held = heldNames()
    const inHand = (id: string): boolean => reserved.has(id) || [...running.keys()].some((file) => file.includes(id))
    const ending = (c: Claim) => {
      reserved.add(c.name.id)
      return nextRun(world, s, c, { stop: false }, children)
    }
    const dependencies = createDependencies(s, {
      releasing: async () => {},
      released: (next) => plan.add(next),
      ending,
      ended: () => {},
      say: async () => {},
      reserve: (id, on) => void (on ? reserved.add(id) : reserved.delete(id)),
    })
    while (!s.owner) {
      try {
        await startOwner(s, { self: self() })
      } catch {
        await world.pause(proc)
      }
    }

    async function loop(body: () => Promise<void>): Promise<void> {
      for (;;) {
        try {
          await body()
        } catch (error) {
          world.say(`${name} error ${String(error)}`)
        }
        await world.pause(proc)
      }
    }

    /** `open` claims; from before it until the end the job counts as running, or a heartbeat would run it a second time. */
    async function work(name: JobName, open: () => Promise<Claim | undefined>): Promise<void> {
      const ticket = { stop: false }
      running.set(name.file, ticket)
      let detached = false
      try {
        const c = await open()
        if (c && !c.record.rejected && childCount(c.record) > 0) {
          // It waits for other jobs, which this agent may have to run: it holds no slot.
          detached = true
          void attemptBatch(world, rules, proc, s, c, ticket, children)
            .catch((error) => world.say(`${name.id} batch ended: ${String(error)}`))
            .finally(() => running.delete(name.file))
        } else if (c) await attempt(world, rules, s, c, ticket, children)
      } finally {
        if (!detached) running.delete(name.file)
      }
    }

    const plan = await (async () => {
      for (;;) {
        try {
          return await makePlan(s)
        } catch {
          await world.pause(proc)
        }
      }
    })()

    const intake = loop(async () => {
      const made = await children.accept(s, INTAKE)
      const { accepted } = await takeAndAccept(s, INTAKE)
      for (const a of [...made, ...accepted]) {
        rules.told(a.name, a.record.answer)
        if (a.state === 'new') plan.add(a.name)
        if (a.state === 'held' && a.record.manifest.after !== undefined && r.chance(0.5)) dependencies.add(a)
      }
    })
    const schedule = loop(async () => {
      await plan.refresh()
      const next = plan.next()
      // As the scheduler: what this process has in hand it does not claim again, however old the plan is.
      if (!next || !s.owner || inHand(next.id)) return
      await work(next, async () => {
        const result = await claim(s, next)
        if (result.state === 'lane-busy') plan.block(next)
        return result.state === 'claimed' ? result.claim : undefined
      })
    })
    const supervise = loop(async () => {
      if (r.chance(0.5)) {
        const before = new Set(running.keys())
        const beat = await heartbeat(s)
        if (beat.fenced) {
          for (const t of running.values()) t.stop = true
          await startOwner(s, { self: self() })
          return
        }
        // What the folder says we own and nobody here works on: a claim whose reply was lost.
        const forgotten = beat.owned.filter((n) => !inHand(n.id) && !before.has(n.file))
        if (forgotten.length > 0) {
          const name = r.pick(forgotten)
          await work(name, () => openClaim(s, name))
        }
      }
      if (r.chance(0.3)) await reapDead(s, ending).finally(() => reserved.clear())
      for (const p of await publishCommitted(s)) dependencies.ended(p.name.id)
      if (r.chance(0.3)) await promoteDue(s, held)
      if (r.chance(0.3)) await dependencies.round(held)
      if (r.chance(0.3))
        await processCancels(s, {
          decide({ id, rejected, ...record }) {
            if (inHand(id)) return 'leave'
            if (rejected || childCount(record as JobRecord) === 0) return 'commit'
            reserved.add(id)
            return 'run'
          },
          run: (c) => void work(c.name, async () => c),
        }).finally(() => reserved.clear())
      if (r.chance(0.1)) await tidyOld(s)
      if (r.chance(0.02)) await retain(s, { done_ms: 86_400_000, failed_ms: 86_400_000, superseded_ms: 86_400_000 })
      if (!world.calm && r.chance(0.01) && running.size === 0) {
        await stopOwner(s)
        while (!s.owner) await startOwner(s, { self: self() })
      }
    })
    await Promise.all([intake, schedule, supervise])
  })
}

const SAID = { done: 'succeeded', failed: 'failed', cancelled: 'cancelled' } as const

/** One attempt: writes an answer of several files, and ends somehow. */
async function attempt(
  world: World,
  rules: Rules,
  s: Spool,
  c: Claim,
  state: { stop: boolean },
  children: Nursery,
): Promise<void> {
  const r = world.random
  const { name, record } = c
  if (record.rejected) {
    await commitRejection(s, c)
    return
  }
  const next = () => nextRun(world, s, c, state, children)
  if (await endDecided(s, c, next)) return
  rules.begins(name.id)
  const asked = (await cancelRequests(s)).some((x) => x.id === name.id)
  const z = r()
  const outcome = asked
    ? 'cancelled'
    : z < 0.6
      ? 'done'
      : z < 0.75
        ? 'failed'
        : z < 0.9 && name.failures < 3
          ? 'retry'
          : 'give'
  const mine = { id: name.id, epoch: name.epoch, owner: c.owner }
  // A job that repeats a failed one finds whole what that one kept, or nothing; others look so that it is looked at often.
  const failed = record.retry_of ?? rules.failedJob(r)
  if (failed !== undefined)
    for (const kept of await keptAttempts(s, failed)) {
      const text = await s.fs.readFile(`${kept.dir}/scratch`).then(
        (x) => x.bytes.toString('utf8'),
        () => undefined,
      )
      if (text !== undefined) rules.keptFound(failed, kept, text)
    }
  await s.fs.writeFile(`${c.attemptDir}/scratch`, answerText(mine, 'scratch'), { mode: 0o644, sync: false })
  if (outcome === 'done' || r.chance(0.3)) {
    await s.fs.mkdir(`${c.answerDir}/${record.answer}.disks`, 0o755).catch((e) => {
      if (e.code !== 'EEXIST') throw e
    })
    await s.fs.writeFile(`${c.answerDir}/${record.answer}.disks/data.qcow2`, diskText(mine), {
      mode: 0o644,
      sync: false,
    })
    await s.fs.writeFile(`${c.answerDir}/${record.answer}.qcow2`, diskText(mine), { mode: 0o644, sync: false })
  }
  if (outcome === 'done' || outcome === 'failed') await next()
  if (state.stop) throw fail('EFENCED')
  if (outcome === 'give') await giveBack(s, c)
  else if (outcome === 'retry') await retry(s, c, s.clock.now() + r.int(100_000))
  else
    await commit(s, c, outcome, {
      error: answerText(mine, 'error'),
      result: {
        schema: 1,
        ...mine,
        name: record.answer,
        state: SAID[outcome],
        finished_at: new Date(s.clock.now()).toISOString(),
      },
      ...(outcome === 'failed' && r.chance(0.5) ? { keep: { steps: ['copy'], bytes: 1 } } : {}),
    })
}

/** Makes the run that follows this one, as src/agent/repeat.ts does. */
async function nextRun(world: World, s: Spool, c: Claim, state: { stop: boolean }, children: Nursery): Promise<void> {
  const left = Number(c.record.manifest.labels?.repeat ?? 0)
  if (left === 0) return
  const fixed = await fixSuccessor(s, c.name.id, s.clock.now() + world.random.int(100_000) - 20_000)
  if (!fixed.mine && (await existingJobs(s, [fixed.id])).has(fixed.id)) return
  const { not_before: _n, after: _a, ...rest } = c.record.manifest
  const labels = { drop: `${rest.labels?.drop}+`, repeat: String(left - 1) }
  const manifest = { ...rest, labels, not_before: new Date(fixed.due_ms).toISOString() }
  const record = { ...c.record, id: fixed.id, follows: c.record.id, manifest }
  await children.submit(record as JobRecord, state)
}

/** A client that writes as hyperexport does: truncate, write in pieces, the same name again and again. */
export function client(world: World, rules: Rules, index: number): Proc {
  const r = world.random
  return world.spawn(`C${index}`, false, async (fs, proc) => {
    const open = world.opener(proc)
    for (let n = 0; n < 3; n++) {
      const drop = `D${index}.${n}`
      const name = r.chance(0.4) ? 'artifact-manifest.json' : `m${index}.json`
      const path = `${LAYOUT.queue}/${name}`
      const repeated = r.chance(0.5) ? rules.failedJob(r) : undefined
      const batch = r.chance(0.25)
      const after = [{ job: r.pick(['a', 'b', 'p']), when: r.pick(['success', 'failure', 'always']) }]
      if (r.chance(0.3)) after.push({ job: r.pick(['a', 'b', rules.anyJob(r) ?? 'a']), when: 'always' })
      const body = {
        kind: 'command',
        name: batch ? 'p' : r.pick(['a', 'b']),
        priority: r.int(3),
        labels: { drop, ...(batch ? { children: 1 + r.int(4) } : r.chance(0.3) ? { repeat: 1 + r.int(2) } : {}) },
        ...(r.chance(0.2)
          ? { not_before: new Date(1_700_000_000_000 + world.mono + r.int(200_000)).toISOString() }
          : {}),
        ...(r.chance(0.25) ? { after } : {}),
        ...(r.chance(0.1) ? { bad: true } : {}),
        ...(repeated === undefined ? {} : { retry_of: repeated }),
      }
      const text = JSON.stringify(body)
      const before = world.disk.tryFind(path)
      if (before) rules.overwritten(before)
      const node: Node = await open.create(path)
      rules.opened(node, drop)
      const cut = r.int(text.length)
      if (r.chance(0.5)) await open.write(node, text.slice(0, cut))
      await open.write(node, text)
      await open.close(node, LAYOUT.queue, () => rules.dropped(drop))
      if (r.chance(0.3)) {
        const id = rules.anyJob(r)
        if (id) {
          rules.cancelAsked(id)
          const s = spoolOf(world, proc, false)
          await requestCancel(s, id, 'a client')
        }
      }
      if (r.chance(0.2)) {
        const disk = await open.create(`${LAYOUT.queue}/bare${index}${n}.qcow2`)
        await open.write(disk, 'half')
        await open.write(disk, `whole disk ${drop}`)
        await open.close(disk, LAYOUT.queue, () => rules.droppedDisk(`bare${index}${n}`, `whole disk ${drop}`))
      }
    }
    void fs
  })
}

/** Drops one plain job of each name, in a file of its own. */
export function lastClient(world: World, rules: Rules): Proc {
  return world.spawn('Cz', false, async (_fs, proc) => {
    const open = world.opener(proc)
    for (const name of ['a', 'b', 'p']) {
      const drop = `last.${name}`
      const node = await open.create(`${LAYOUT.queue}/last-${name}.json`)
      rules.opened(node, drop)
      await open.write(node, JSON.stringify({ kind: 'command', name, labels: { drop } }))
      await open.close(node, LAYOUT.queue, () => rules.dropped(drop))
    }
  })
}

export type { JobName }
