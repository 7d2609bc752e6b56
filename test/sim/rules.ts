/** The rules of DESIGN section 1, checked on the bare disk after every step that changed it. */
import { fsck } from '../../src/spool/index.ts'
import { type JobName, parseJobName, WAITS } from '../../src/spool/names.ts'
import { LAYOUT, spoolOf } from './actors.ts'
import { readAnswer } from './answers.ts'
import type { Node } from './disk.ts'
import type { Random } from './random.ts'
import type { World } from './world.ts'

export class Violation extends Error {}

interface Place {
  state: string
  path: string
  name: JobName
}

const STATES = ['new', 'held', 'claimed', 'committed', 'done', 'failed', 'cancelled', 'rejected'] as const
const FINAL = new Set(['done', 'failed', 'cancelled', 'rejected'])
const ANSWERS = ['a', 'b', 'c0', 'c1', 'p', 'vm', 'm0', 'm1', 'm2', 'artifact-manifest']

export class Rules {
  private world: World
  private seen = new Set<string>()
  private toldJobs = new Map<string, string>()
  /** when a job drew its last ticket: numbers start again in an empty lane, so they rank only those that share one */
  private drawn = new Map<string, number>()
  private ofDrop = new Map<string, string>()
  private committed = new Map<string, string>()
  private published = new Map<string, { id: string; node: number }>()
  private cancels = new Set<string>()
  private exempt = new Set<string>()
  private openers = new Map<number, Set<string>>()
  private lossy = new Set<string>()
  private drops = new Set<string>()
  private disks = new Map<string, string>()
  private lostPower = false
  private batches = new Map<string, readonly string[]>()
  private keptWrong: string | undefined
  /** when a drop was taken */
  private taken = new Map<string, number>()
  private early: string | undefined
  /** runs of jobs that repeat → the run after each */
  private following = new Map<string, string>()

  constructor(world: World) {
    this.world = world
  }

  told(name: JobName, answer: string): void {
    // A later run of a job that repeats: its name is not its own before its time.
    this.toldJobs.set(name.id, name.ticket === 0 ? '' : answer)
  }
  /** What a job that repeats another one read in the folder of a kept attempt. */
  keptFound(id: string, kept: { epoch: number; owner: string }, text: string): void {
    const maker = readAnswer(text)
    const right = maker?.id === id && maker.epoch === kept.epoch && maker.owner === kept.owner
    const commit = this.committed.get(id)
    if (!right || (commit !== undefined && !commit.includes(`~${kept.epoch}.`)))
      this.keptWrong ??= `KEPT-WRONG of ${id}: epoch ${kept.epoch} holds ${JSON.stringify(text)}, committed was ${commit}`
  }
  /** A batch ended: each of its children was made, and is over. */
  batchEnded(id: string, children: readonly string[]): void {
    this.batches.set(id, children)
  }
  dropped(drop: string): void {
    this.drops.add(drop)
  }
  droppedDisk(stem: string, content: string): void {
    this.disks.set(stem, content)
  }
  opened(node: Node, drop: string): void {
    const set = this.openers.get(node.id) ?? new Set()
    set.add(drop)
    this.openers.set(node.id, set)
    if (set.size > 1) for (const d of set) this.lossy.add(d)
  }
  overwritten(node: Node): void {
    for (const d of this.openers.get(node.id) ?? []) this.lossy.add(d)
  }
  cancelAsked(id: string): void {
    this.cancels.add(id)
  }
  anyJob(r: Random): string | undefined {
    const ids = [...this.places().keys()]
    return ids.length > 0 ? r.pick(ids) : undefined
  }

  /** A job that failed for good. */
  failedJob(r: Random): string | undefined {
    const ids = [...this.places()].filter(([, [at]]) => at?.state === 'failed').map(([id]) => id)
    return ids.length > 0 ? r.pick(ids) : undefined
  }

  /** Every rename passes here, to know in which order tickets were drawn. */
  renamed(to: string): void {
    const id = /lanes\/.*-([0-9A-Z]{26})$/.exec(to)?.[1]
    if (id) this.drawn.set(id, this.world.steps)
    const drop = /intake\/.*\/([0-9A-Z]{26})--/.exec(to)?.[1]
    if (drop && !this.taken.has(drop)) this.taken.set(drop, this.world.steps)
  }

  /** A job that comes after others begins: they have ended as they had to. */
  begins(id: string): void {
    const places = this.places()
    const own = places.get(id)?.[0]
    if (!own || this.lostPower) return
    const read = (at: Place) => JSON.parse(this.world.disk.find(at.path).data)
    for (const { job, when } of read(own).manifest.after ?? []) {
      const at = /^[0-9A-Z]{26}$/.test(job) ? places.get(job)?.[0] : this.before(id, job, places, read)
      if (!at) continue
      const outcome = at.state === 'committed' ? at.name.outcome : FINAL.has(at.state) ? at.state : undefined
      const good = outcome === 'done'
      if (outcome === undefined || (when !== 'always' && good !== (when === 'success')))
        this.early ??= `AFTER-EARLY ${id} begins after ${when} of ${job}, but ${at.name.id} is in ${at.path}`
    }
  }

  /** The newest job of a name that was taken before this one, where no other can be meant (clocks differ). */
  private before(id: string, name: string, places: Map<string, Place[]>, read: (at: Place) => { answer: string }) {
    const taken = this.taken.get(id)
    const named = [...places].flatMap(([x, [at]]) => (x < id && at && read(at).answer === name ? [{ x, at }] : []))
    const last = named.sort((a, b) => (a.x < b.x ? -1 : 1)).at(-1)
    const then = last && this.taken.get(last.x)
    return taken !== undefined && then !== undefined && then < taken ? last?.at : undefined
  }

  private rank(id: string): number {
    return this.drawn.get(id) ?? -1
  }

  private places(): Map<string, Place[]> {
    const out = new Map<string, Place[]>()
    for (const state of STATES) {
      for (const [path] of this.world.disk.files(LAYOUT[state])) {
        const name = parseJobName(path.slice(path.lastIndexOf('/') + 1))
        if (!name) continue
        const list = out.get(name.id)
        if (list) list.push({ state, path, name })
        else out.set(name.id, [{ state, path, name }])
      }
    }
    return out
  }

  /** The next run of a job that repeats is accepted again when it is due. */
  private isToken(id: string): boolean {
    return [...this.world.disk.files(LAYOUT.intake)].some(([path]) => path.endsWith(`/${id}.job`))
  }

  check(): void {
    const places = this.places()
    if (this.keptWrong !== undefined) throw new Violation(this.keptWrong)
    if (this.early !== undefined) throw new Violation(this.early)
    const working = new Map<string, string[]>()
    for (const [id, list] of places) {
      if (list.length > 1) throw new Violation(`TWO-STATES ${list.map((p) => p.path).join(' ')}`)
      const { state, name, path } = list[0]!
      if (!this.seen.has(id)) {
        this.seen.add(id)
        const record = JSON.parse(this.world.disk.find(path).data)
        if (record.rejected) this.exempt.add(id)
        if (record.follows) {
          const other = this.following.get(record.follows)
          if (other && other !== id && places.has(other))
            throw new Violation(`FOLLOWED-TWICE ${record.follows}: ${other} and ${id}`)
          this.following.set(record.follows, id)
        }
        const drop = record.manifest?.labels?.drop
        if (drop) {
          const other = this.ofDrop.get(drop)
          if (other && other !== id) throw new Violation(`DROP-TWICE ${drop}: ${other} and ${id}`)
          this.ofDrop.set(drop, id)
        }
      }
      if (state === 'committed') {
        const before = this.committed.get(id)
        if (before && before !== name.file) throw new Violation(`COMMIT-TWICE ${before} and ${name.file}`)
        this.committed.set(id, name.file)
      }
      // What is not to run is claimed out of its turn: cancelled, rejected, or waiting for what will not happen.
      const unrun = () => this.world.disk.tryFind(`${LAYOUT.work}/${id}/after-unrun.json`) !== undefined
      if (state === 'claimed' && !this.cancels.has(id) && !this.exempt.has(id) && !unrun()) {
        working.set(name.key, [...(working.get(name.key) ?? []), id])
      }
    }
    for (const [key, ids] of working)
      if (ids.length > 1) throw new Violation(`OVERLAP in lane ${key}: ${ids.join(' ')}`)
    for (const id of this.toldJobs.keys())
      if (!places.has(id) && !this.isToken(id)) throw new Violation(`LOST-JOB ${id}`)
    this.checkBatches(places)
    this.checkAnswers()
  }

  private checkBatches(places: ReadonlyMap<string, Place[]>): void {
    for (const [batch, children] of this.batches) {
      // Its commit may have been taken back: by power loss, or because it came from an attempt that had lost the job.
      const state = places.get(batch)?.[0]?.state
      if (state !== 'committed' && state !== 'failed') continue
      for (const id of children) {
        const at = places.get(id)?.[0]?.state
        if (at === undefined) throw new Violation(`CHILD-LOST ${id} of ${batch}`)
        if (at !== 'committed' && !FINAL.has(at)) throw new Violation(`CHILD-OPEN ${id} of ${batch} is in ${at}`)
      }
    }
  }

  private checkAnswers(): void {
    const disk = this.world.disk
    const output = disk.find(LAYOUT.output)
    const file = (name: string) => {
      const id = output.kids.get(name)
      return id === undefined ? undefined : disk.nodes.get(id)!
    }
    for (const answer of ANSWERS) {
      const image = file(`${answer}.qcow2`)
      const error = file(`${answer}.error`)
      if (image && error) throw new Violation(`BOTH image and error of ${answer}`)
      for (const node of [image, error]) {
        if (!node) continue
        const maker = readAnswer(node.data)
        if (!maker && node === image) throw new Violation(`TORN image ${answer}`)
        if (!maker) continue // a rejection's or cancellation's own text
        const { id, epoch } = maker
        for (const [other, told] of this.toldJobs) {
          if (told === answer && this.rank(other) > this.rank(id))
            throw new Violation(`STALE-ANSWER ${answer} of ${id} though ${other} was accepted after it`)
        }
        const commit = this.committed.get(id)
        if (!commit) throw new Violation(`PUBLISHED-UNCOMMITTED ${id}`)
        const name = parseJobName(commit)!
        if (name.epoch !== epoch || name.owner !== maker.owner)
          throw new Violation(`WRONG-ATTEMPT ${answer}: ${node.data} but ${commit}`)
        if (node === image) this.checkImage(answer, maker.id, maker.epoch, node)
      }
    }
    const alive = new Set<number>()
    if (this.published.size > 0) for (const [, node] of disk.files('/s/output')) alive.add(node.id)
    for (const { id, node } of this.published.values())
      if (!alive.has(node)) throw new Violation(`ANSWER-DELETED of ${id}`)
  }

  /** The image is published last: whoever sees it sees all of its answer. */
  private checkImage(answer: string, id: string, epoch: number, node: Node): void {
    const data = this.world.disk.tryFind(`${LAYOUT.output}/${answer}.disks/data.qcow2`)
    const maker = data && readAnswer(data.data)
    if (!maker || maker.id !== id || maker.epoch !== epoch)
      throw new Violation(`PART-ANSWER ${answer} of ${id}: its second disk is ${data?.data ?? 'missing'}`)
    const result = this.world.disk.tryFind(`${LAYOUT.output}/${answer}.result.json`)
    if (!result?.data.includes(id))
      throw new Violation(`PART-ANSWER ${answer} of ${id}: its result is ${result?.data ?? 'missing'}`)
    this.published.set(`${id}`, { id, node: node.id })
  }

  /** After power loss: what was told is there, what was published stays committed; the rest may be forgotten. */
  afterPower(): void {
    this.lostPower = true
    const places = this.places()
    for (const id of this.toldJobs.keys())
      if (!places.has(id) && !this.isToken(id)) throw new Violation(`LOST-JOB after power loss: ${id}`)
    for (const id of [...this.seen]) {
      if (places.has(id)) continue
      this.seen.delete(id)
      for (const [drop, job] of this.ofDrop) if (job === id) this.ofDrop.delete(drop)
    }
    for (const id of [...this.committed.keys()]) {
      const state = places.get(id)?.[0]?.state
      if (state === 'committed' || (state && FINAL.has(state))) continue
      if (this.published.has(id)) throw new Violation(`PUBLISHED-THEN-UNCOMMITTED ${id}`)
      this.committed.delete(id)
    }
    this.check()
  }

  /** Whether nothing is left to do. */
  quiet(): boolean {
    const disk = this.world.disk
    if ([...disk.find(LAYOUT.queue).kids.keys()].some((n) => !n.startsWith('.'))) return false
    for (const [path] of disk.files(LAYOUT.intake))
      if (!/\/\.[^/]*$/.test(path)) {
        // a drop whose writer lost power before it was whole waits for its end, rightly
        if (this.lostPower && /--[^/]*$/.test(path)) continue
        return false
      }
    const open = [...this.places().values()].map(([at]) => at!).filter((at) => !FINAL.has(at.state))
    return open.length === 0 || open.some((at) => this.waitsRightly(at))
  }

  /** Behind a drop that is never whole nobody knows what a name means: its writer lost power. Others may wait behind that one. */
  private waitsRightly(at: Place): boolean {
    return (
      this.lostPower &&
      at.name.due_ms === WAITS &&
      [...this.world.disk.files(LAYOUT.intake)].some(([p]) => /--[^/]*$/.test(p))
    )
  }

  why(): string {
    const open = [...this.places().values()].map((l) => l[0]!).filter((p) => !FINAL.has(p.state))
    const rest = [...this.world.disk.files(LAYOUT.intake)].map(([p]) => p)
    const lanes = [...this.world.disk.files(LAYOUT.lanes)].map(([p]) => p)
    return JSON.stringify({
      queue: [...this.world.disk.find(LAYOUT.queue).kids.keys()],
      intake: rest,
      open: open.map(
        (p) => `${p.path} ${JSON.stringify(JSON.parse(this.world.disk.find(p.path).data).manifest?.after ?? '')}`,
      ),
      lanes,
    })
  }

  /** What must hold when all is done. */
  async atEnd(): Promise<void> {
    this.check()
    const disk = this.world.disk
    const places = this.places()
    const last = new Map<string, string>()
    for (const [id, [place]] of places) {
      const { answer } = JSON.parse(disk.find(place!.path).data)
      const now = last.get(answer)
      if (!now || this.rank(now) < this.rank(id)) last.set(answer, id)
    }
    for (const [id, [place]] of places) {
      const { manifest, follows: _f, rejected } = JSON.parse(disk.find(place!.path).data)
      if (rejected || !['done', 'failed'].includes(place!.state) || Number(manifest?.labels?.repeat ?? 0) === 0)
        continue
      const next = this.following.get(id)
      if (!next || !places.has(next)) throw new Violation(`NOT-FOLLOWED ${id} in ${place!.path}`)
    }
    for (const [answer, id] of last) {
      const { state, name } = places.get(id)![0]!
      if (!FINAL.has(state)) continue // it waits rightly
      const image = disk.tryFind(`${LAYOUT.output}/${answer}.qcow2`)
      const error = disk.tryFind(`${LAYOUT.output}/${answer}.error`)
      const maker = image && readAnswer(image.data)
      if (state === 'done' && maker?.id !== id)
        throw new Violation(`DONE-NO-ANSWER ${answer}: ${id} ended in epoch ${name.epoch}, image is ${image?.data}`)
      if (state !== 'done' && (!error || image))
        throw new Violation(`${state.toUpperCase()}-NO-ERROR ${answer} of ${id}`)
    }
    if (!this.lostPower) {
      for (const drop of this.drops)
        if (!this.lossy.has(drop) && !this.ofDrop.has(drop)) {
          const rejected = [...disk.files(LAYOUT.rejected)].some(([, n]) => n.data.includes(drop))
          if (!rejected) throw new Violation(`DROP-LOST ${drop}`)
        }
      const all = [...disk.files('/s')].filter(([p]) => !p.includes('/.work/'))
      for (const [stem, content] of this.disks)
        if (!all.some(([, n]) => n.data === content)) throw new Violation(`DISK-LOST ${stem}`)
    }
    const proc = this.world.spawn('fsck', false, async (_fs, p) => {
      const report = await fsck(spoolOf(this.world, p, false))
      const errors = report.problems.filter((x) => x.severity === 'error')
      if (errors.length > 0) found.push(errors.map((e) => e.message).join(' '))
    })
    const found: string[] = []
    while (this.world.procs.includes(proc)) if (!(await this.world.step(true))) break
    if (found.length > 0) throw new Violation(`FSCK ${found.join(' ')}`)
  }
}
