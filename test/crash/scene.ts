// The scenes of the crash and fault sweep: a spool in a certain state, and what a worker process does to it until it is
// killed. Every job carries a label, so that afterwards each drop can be found again as exactly one job.
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import {
  type Claim,
  claim,
  commit,
  commitRejection,
  giveBack,
  heartbeat,
  type IntakeOptions,
  layoutOf,
  makePlan,
  openClaim,
  openSpool,
  processCancels,
  promoteDue,
  publishCommitted,
  reapDead,
  requestCancel,
  retry,
  type Spool,
  startOwner,
  stopOwner,
  takeAndAccept,
  thisProcess,
  tidyOld,
} from '../../src/spool/index.ts'

const instance = 'sweep'
const DAY = 86_400_000

interface SceneManifest {
  kind: 'command'
  name?: string
  priority?: number
  not_before?: string
  labels: { label: string; act: 'done' | 'fail' }
  command: { argv: string[] }
}

/** The spool judges no manifest itself, so the scenes bring the smallest parser there is: start-up time is paid per point. */
const intake: IntakeOptions = {
  parse(bytes) {
    try {
      return { state: 'complete', manifest: JSON.parse(Buffer.from(bytes).toString()), diagnostics: [], format: 'json' }
    } catch (error) {
      const diagnostics = [{ severity: 'error' as const, path: '', message: String(error) }]
      return { state: 'invalid', diagnostics, partial: { answer: 'bad' } }
    }
  },
  knownKinds: new Set(['command']),
  settings: {
    max_manifest_bytes: 1 << 20,
    yaml_quiet_ms: 0,
    incomplete_after_ms: 0,
    raw_keep_ms: 0,
    file_stable_ms: 0,
    bare_disks: false,
    on_in_use: 'supersede',
  },
}

function manifest(name: string, label: string, more: Partial<SceneManifest> & { act?: 'done' | 'fail' } = {}): string {
  const { act = 'done', ...rest } = more
  return JSON.stringify({ kind: 'command', name, labels: { label, act }, command: { argv: ['true'] }, ...rest })
}

export function layout(root: string) {
  return layoutOf({ root, instance })
}

const put = (s: Spool, file: string, text: string) => writeFile(join(s.layout.queue, file), text)

/** What a handler would do: an image that says which job and which attempt made it. */
async function work(c: Claim): Promise<void> {
  const label = labelOf(c)
  await writeFile(join(c.answerDir, `${c.record.answer}.qcow2`), `${label} ${c.name.epoch}\n`)
}

function labelOf(c: Pick<Claim, 'record'>): string {
  return (c.record.manifest as unknown as SceneManifest).labels?.label ?? c.record.drop.file
}

async function end(s: Spool, c: Claim): Promise<string> {
  if (c.record.rejected) return commitRejection(s, c)
  const failed = (c.record.manifest as unknown as SceneManifest).labels.act === 'fail'
  if (!failed) await work(c)
  const outcome = failed ? 'failed' : 'done'
  return commit(s, c, outcome, {
    error: 'It failed on purpose.',
    result: { id: c.name.id, epoch: c.name.epoch, state: outcome },
  })
}

async function claimAll(s: Spool): Promise<Claim[]> {
  const plan = await makePlan(s)
  const claims: Claim[] = []
  for (let name = plan.next(); name !== undefined; name = plan.next()) {
    const r = await claim(s, name)
    if (r.state === 'claimed') claims.push(r.claim)
  }
  return claims
}

/** A finished job of that name, so that its answer lies in output/. */
async function earlier(s: Spool, name: string, label: string): Promise<void> {
  await put(s, `${label}.json`, manifest(name, label))
  await takeAndAccept(s, intake)
  for (const c of await claimAll(s)) await end(s, c)
  await publishCommitted(s)
}

async function accepted(s: Spool, ...drops: [name: string, label: string, act?: 'done' | 'fail'][]): Promise<void> {
  for (const [name, label, act] of drops) {
    await put(s, `${label}.json`, manifest(name, label, act ? { act } : {}))
    await takeAndAccept(s, intake)
  }
}

export interface Scene {
  /** builds the state of the spool, in the harness, under an owner that leaves in good order */
  prepare?(s: Spool): Promise<void>
  /** the rest of the preparation that must be the worker's own (its claims), before any call is counted */
  before?(s: Spool): Promise<Claim[]>
  /** what is cut off */
  run(s: Spool, claims: Claim[]): Promise<void>
  /** labels of all drops, with the state in which each must end */
  expect: Record<string, 'done' | 'failed' | 'cancelled' | 'rejected'>
}

export const scenes: Record<string, Scene> = {
  start: {
    async run(s) {
      await heartbeat(s)
      await stopOwner(s)
      await startOwner(s)
      await heartbeat(s)
    },
    expect: {},
  },
  accept: {
    async prepare(s) {
      await earlier(s, 'web', 'w0')
      await put(s, 'artifact-manifest.json', manifest('web', 'w1'))
      await put(s, 'second.json', manifest('web', 'w2', { act: 'fail' }))
      await put(s, 'later.json', manifest('db', 'd1', { not_before: new Date(Date.now() + DAY).toISOString() }))
      await put(s, 'broken.json', '{"kind": no')
    },
    async run(s) {
      await takeAndAccept(s, intake)
    },
    expect: { w0: 'done', w1: 'done', w2: 'failed', d1: 'done', 'broken.json': 'rejected' },
  },
  claim: {
    prepare: (s) => accepted(s, ['web', 'w1'], ['web', 'w2'], ['db', 'd1']),
    async run(s) {
      await claimAll(s)
    },
    expect: { w1: 'done', w2: 'done', d1: 'done' },
  },
  commit: {
    prepare: (s) => accepted(s, ['web', 'w1'], ['db', 'd1', 'fail']),
    before: claimAll,
    async run(s, claims) {
      for (const c of claims) await end(s, c)
    },
    expect: { w1: 'done', d1: 'failed' },
  },
  publish: {
    async prepare(s) {
      await earlier(s, 'web', 'w0')
      await accepted(s, ['web', 'w1'], ['db', 'd1', 'fail'], ['api', 'a1'], ['api', 'a2'])
      for (const c of await claimAll(s)) await end(s, c)
    },
    async run(s) {
      await publishCommitted(s)
    },
    expect: { w0: 'done', w1: 'done', d1: 'failed', a1: 'done', a2: 'done' },
  },
  retry: {
    prepare: (s) => accepted(s, ['web', 'w1'], ['db', 'd1']),
    before: claimAll,
    async run(s, claims) {
      await retry(s, claims[0]!, Date.now() - 1)
      await giveBack(s, claims[1]!)
      await promoteDue(s)
    },
    expect: { w1: 'done', d1: 'done' },
  },
  cancel: {
    async prepare(s) {
      await accepted(s, ['web', 'w1'], ['web', 'w2'])
      for (const file of await readdir(s.layout.new)) {
        if (file.includes('~0.')) await requestCancel(s, /[0-9A-Z]{26}/.exec(file)![0], 'the sweep')
      }
    },
    async run(s) {
      await processCancels(s)
      await publishCommitted(s)
      await processCancels(s)
    },
    expect: { w1: 'cancelled', w2: 'cancelled' },
  },
  takeover: {
    async prepare(s) {
      const dead = await openSpool({ layout: s.layout })
      await startOwner(dead, { self: { ...thisProcess(), pid: 2 ** 22 + 1, start_ticks: 1 } })
      await earlier(dead, 'web', 'w0')
      await accepted(dead, ['web', 'w1'], ['db', 'd1'])
      await claimAll(dead)
      await put(dead, 'half.json', manifest('api', 'a1'))
      // Taken and not accepted: what a worker leaves that dies between the two.
      const parse: IntakeOptions['parse'] = () => ({ state: 'incomplete', diagnostics: [] })
      await takeAndAccept(dead, { ...intake, parse, settings: { ...intake.settings, incomplete_after_ms: DAY } })
    },
    async run(s) {
      await reapDead(s)
      await takeAndAccept(s, intake)
    },
    expect: { w0: 'done', w1: 'done', d1: 'done', a1: 'done' },
  },
}

/**
 * What the agents that come later do: everything, until nothing is left to do. Its wall clock is two days ahead, so that
 * held jobs are due.
 */
export async function recover(root: string): Promise<void> {
  const clock = { now: () => Date.now() + 2 * DAY, mono: () => performance.now() }
  const s = await openSpool({ layout: layout(root), clock, leaseMs: 200, create: true })
  await startOwner(s)
  const l = s.layout
  let busy = ''
  for (let round = 0; ; round++) {
    if (round > 200) throw new Error(`Recovery does not come to an end, there is still something to do: ${busy}`)
    const { deadOwners } = await reapDead(s)
    const { accepted, pending } = await takeAndAccept(s, intake)
    await promoteDue(s)
    await processCancels(s)
    for (const name of (await heartbeat(s)).owned) {
      const c = await openClaim(s, name)
      if (c) await end(s, c)
    }
    for (const c of await claimAll(s)) await end(s, c)
    await publishCommitted(s)
    await processCancels(s)
    await tidyOld(s)
    const left = await Promise.all(
      [l.queue, l.new, l.held, l.committed, join(l.claimed, s.owner!.id)].map((d) => readdir(d)),
    )
    const taken = [...(await readdir(join(l.intake, s.owner!.id))), ...(await readdir(join(l.old, s.owner!.id)))]
    const others = (await readdir(l.owners)).filter((f) => !f.startsWith('.') && !f.includes(s.owner!.id))
    busy = JSON.stringify({ left: left.flat(), taken, others, deadOwners, accepted: accepted.length, pending })
    if (left.flat().length + taken.length + others.length + deadOwners.length + accepted.length + pending === 0) break
    if (taken.length > 0 || others.length > 0) s.intake.lastListed = Number.NEGATIVE_INFINITY
  }
  await stopOwner(s)
}

/** The rules of DESIGN section 1 after recovery, as sentences about what is broken; none when all hold. */
export async function violations(root: string, expected: Scene['expect']): Promise<string[]> {
  const l = layout(root)
  const wrong: string[] = []
  const jobs: { label: string; answer: string; state: string; ticket: number; epoch: number; id: string }[] = []
  for (const state of ['done', 'failed', 'cancelled', 'rejected'] as const) {
    for (const file of (await readdir(l[state])).filter((f) => f.endsWith('.json') && f.includes('~'))) {
      const record = JSON.parse(await readFile(join(l[state], file), 'utf8'))
      const m = /-(\d+)~(\d+)\./.exec(file)!
      const label = record.manifest?.labels?.label ?? record.drop.file
      jobs.push({ label, answer: record.answer, state, ticket: Number(m[1]), epoch: Number(m[2]), id: record.id })
    }
  }
  for (const [label, state] of Object.entries(expected)) {
    const found = jobs.filter((j) => j.label === label)
    if (found.length !== 1) wrong.push(`${label} is ${found.length} jobs, not one (${found.map((j) => j.state)}).`)
    else if (found[0]!.state !== state) wrong.push(`${label} ended as ${found[0]!.state}, not as ${state}.`)
  }
  for (const j of jobs) if (!(j.label in expected)) wrong.push(`There is a job ${j.label} that nobody dropped.`)

  const images = await filesBelow(l.output, (f) => f.endsWith('.qcow2') && !f.startsWith('.work/'))
  for (const j of jobs.filter((j) => j.state === 'done')) {
    const made: string[] = []
    for (const f of images) if ((await readFile(join(l.output, f), 'utf8')) === `${j.label} ${j.epoch}\n`) made.push(f)
    if (made.length !== 1)
      wrong.push(`The image of ${j.label}, epoch ${j.epoch}, exists ${made.length} times: ${made}.`)
  }
  if (images.length !== jobs.filter((j) => j.state === 'done').length) wrong.push(`Images of no done job: ${images}.`)

  for (const answer of new Set(jobs.map((j) => j.answer))) {
    // A lane that ran empty numbers its tickets anew: jobs of a scene's past have a label that ends in 0.
    const of = jobs.filter((j) => j.answer === answer)
    const past = (j: { label: string }) => (j.label.endsWith('0') ? 1 : 0)
    const last = of.sort((a, b) => past(a) - past(b) || b.ticket - a.ticket)[0]!
    const image = await readFile(join(l.output, `${answer}.qcow2`), 'utf8').catch(() => undefined)
    const error = await readFile(join(l.output, `${answer}.error`), 'utf8').catch(() => undefined)
    const wanted = last.state === 'done' ? `${last.label} ${last.epoch}\n` : undefined
    if (image !== wanted) wrong.push(`${answer}.qcow2 is ${JSON.stringify(image)}, not ${JSON.stringify(wanted)}.`)
    if ((error !== undefined) !== (last.state !== 'done'))
      wrong.push(`${answer}.error ${error ? 'is there' : 'is missing'}.`)
  }
  const active = {
    new: l.new,
    held: l.held,
    committed: l.committed,
    claimed: l.claimed,
    intake: l.intake,
    owners: l.owners,
  }
  for (const [what, dir] of Object.entries({ ...active, old: l.old, work: l.work, queue: l.queue })) {
    // A temporary file that never got its name is no state; retention removes it after a day.
    const left = await filesBelow(dir, (f) => !/(^|\/)\.[^/]*\.tmp$/.test(f))
    if (left.length > 0) wrong.push(`Left behind in ${what}: ${left.slice(0, 5)}.`)
  }
  const tickets = await filesBelow(l.lanes, () => true)
  if (tickets.length > 0) wrong.push(`Tickets of no waiting job: ${tickets}.`)
  return wrong
}

async function filesBelow(dir: string, wanted: (relative: string) => boolean): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true }).catch(() => [])
  return entries
    .filter((e) => !e.isDirectory())
    .map((e) => join(e.parentPath, e.name).slice(dir.length + 1))
    .filter(wanted)
}
