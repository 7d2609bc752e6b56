/**
 * The world around the spool: processes whose every file operation waits until the scheduler picks it, and the faults that
 * a seed chooses. The code under test is the real one; only SpoolFs, the clocks and chance come from here.
 */
import { notRegular, type SpoolFs } from '../../src/spool/fs.ts'
import { Disk, fail, type Node } from './disk.ts'
import { type Random, seeded } from './random.ts'

export interface Faults {
  /** an agent dies, per step */
  crash: number
  /** an agent sleeps for longer than its lease, per step */
  stall: number
  /** the machine loses power, per step */
  power: number
  /** an operation happened, and answers as if a retransmission had found it done */
  lost: number
  /** a rename is executed a second time, later */
  replay: number
  /** an operation fails without having happened, or after it happened */
  eio: number
  /** a write fails with ENOSPC */
  nospace: number
  /** a listing is an older one */
  stale: number
}

export const NO_FAULTS: Faults = { crash: 0, stall: 0, power: 0, lost: 0, replay: 0, eio: 0, nospace: 0, stale: 0 }

interface Op {
  name: string
  args: string[]
  run(): unknown
  resolve(value: unknown): void
  reject(error: unknown): void
}

export interface Proc {
  name: string
  agent: boolean
  ops: Op[]
  dead: boolean
  asleepUntil: number
}

export class World {
  disk = new Disk()
  random: Random
  faults: Faults
  procs: Proc[] = []
  steps = 0
  /** the faults are over: nobody dies, sleeps or leaves any more */
  calm = false
  /** agents started so far */
  agents = 0
  /** monotonic time, ms; all that counts is that it goes on */
  mono = 0
  trace: string[] = []
  tracing: boolean
  private replays: { at: number; from: string; to: string }[] = []
  private current: Proc | undefined
  onChange: ((op: string, args: string[]) => void) | undefined

  constructor(seed: number, faults: Faults, tracing: boolean) {
    this.random = seeded(seed)
    this.faults = faults
    this.tracing = tracing
  }

  say(text: string): void {
    if (this.tracing) this.trace.push(`${this.steps} ${text}`)
  }

  spawn(name: string, agent: boolean, main: (fs: SpoolFs, proc: Proc) => Promise<void>): Proc {
    const proc: Proc = { name, agent, ops: [], dead: false, asleepUntil: 0 }
    this.procs.push(proc)
    const done = (error?: unknown) => {
      if (proc.dead) return
      if (error) this.say(`${name} ends: ${String(error)}`)
      this.kill(proc)
    }
    main(this.fsFor(proc), proc).then(() => done(), done)
    return proc
  }

  kill(proc: Proc): void {
    proc.dead = true
    proc.ops = []
    this.procs = this.procs.filter((p) => p !== proc)
  }

  /** One turn of the event loop for a process, without touching the disk. */
  pause(proc: Proc): Promise<void> {
    return this.op(proc, 'pause', [], () => undefined) as Promise<void>
  }

  private op(proc: Proc, name: string, args: string[], run: () => unknown): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (!proc.dead) proc.ops.push({ name, args, run, resolve, reject })
    })
  }

  fsFor(proc: Proc): SpoolFs {
    const d = this.disk
    const op = (name: string, args: string[], run: () => unknown) => this.op(proc, name, args, run) as Promise<never>
    const stat = (n: Node) => ({
      kind: d.kind(n),
      size: n.data.length,
      ino: n.id,
      mtime_ms: n.mtime,
      uid: 0,
      gid: 0,
      mode: 0o644,
    })
    const fs: SpoolFs = {
      readdir: (dir) => op('list', [dir], () => d.list(dir)),
      readdirFresh: (dir) => op('listFresh', [dir], () => d.list(dir)),
      readdirKinds: (dir) =>
        op('listFresh', [dir], () =>
          d.list(dir).map((name) => ({ name, kind: d.kind(d.nodes.get(d.find(dir).kids.get(name)!)!) })),
        ),
      readFile: (path, max = Number.POSITIVE_INFINITY) =>
        op('read', [path], () => {
          const n = d.find(path)
          if (n.dir) throw notRegular(path)
          return { bytes: Buffer.from(n.data.slice(0, max)), stat: stat(n) }
        }),
      lstat: (path) => op('lstat', [path], () => stat(d.find(path))),
      async writeFile(path, data, o) {
        const node = (await op('create', [path], () => d.create(path, o.exclusive))) as Node
        await op('write', [path], () =>
          d.write(node, typeof data === 'string' ? data : Buffer.from(data).toString('utf8')),
        )
        if (o.sync) await op('fsync', [path], () => d.syncFile(node))
      },
      appendFile: (path, data) =>
        op('write', [path], () => {
          const n = d.tryFind(path) ?? d.create(path)
          d.write(n, n.data + data)
        }),
      syncFile: (path) => op('fsync', [path], () => d.syncFile(d.find(path))),
      syncDir: (dir) => op('fsyncDir', [dir], () => d.syncDir(dir)),
      rename: (from, to) => op('rename', [from, to], () => d.rename(from, to)),
      mkdir: (dir) => op('mkdir', [dir], () => d.mkdir(dir)),
      unlink: (path) => op('unlink', [path], () => d.unlink(path)),
      rmdir: (dir) => op('rmdir', [dir], () => d.rmdir(dir)),
    }
    return fs
  }

  /** A client's own way to write: open once, then write in pieces into whatever the file is called by then. */
  opener(proc: Proc) {
    return {
      create: (path: string) => this.op(proc, 'create', [path], () => this.disk.create(path)) as Promise<Node>,
      write: (node: Node, data: string) =>
        this.op(proc, 'write', [], () => this.disk.write(node, data)) as Promise<void>,
      close: (node: Node, dir: string, then: () => void) =>
        this.op(proc, 'fsync', [], () => {
          this.disk.syncFile(node)
          this.disk.syncDir(dir)
          then()
        }) as Promise<void>,
    }
  }

  /** Runs one operation of one process. Returns false when nobody has anything to do. */
  async step(calm: boolean): Promise<boolean> {
    const r = this.random
    const ready = this.procs.filter((p) => p.ops.length > 0 && p.asleepUntil <= this.mono)
    if (ready.length === 0) {
      const sleeping = this.procs.filter((p) => p.ops.length > 0)
      if (sleeping.length === 0) return false
      this.mono = Math.min(...sleeping.map((p) => p.asleepUntil))
      return true
    }
    this.steps += 1
    this.mono += 20 + r.int(calm ? 20 : 400)
    this.disk.now = 1_700_000_000_000 + this.mono
    this.replay()
    if (!this.current || !ready.includes(this.current) || r.chance(0.25)) this.current = r.pick(ready)
    const proc = this.current
    const op = proc.ops.splice(r.int(Math.min(proc.ops.length, 4)), 1)[0]!
    this.perform(proc, op, calm)
    // All that follows in JavaScript runs before the next operation of anybody.
    await new Promise(setImmediate)
    return true
  }

  private perform(proc: Proc, op: Op, calm: boolean): void {
    const r = this.random
    const f = calm || !proc.agent ? NO_FAULTS : this.faults
    const changes = !/^(list|read|lstat|pause)/.test(op.name)
    if (op.name !== 'pause' && r.chance(f.eio)) {
      const after = changes && r.chance(0.5)
      if (after) this.attempt(op)
      this.say(`${proc.name} ${op.name} ${op.args.join(' → ')}: EIO${after ? ' after it happened' : ''}`)
      op.reject(fail('EIO', op.args[0]))
      return
    }
    if ((op.name === 'create' || op.name === 'write') && r.chance(f.nospace)) {
      this.say(`${proc.name} ${op.name} ${op.args.join(' ')}: ENOSPC`)
      op.reject(fail('ENOSPC', op.args[0]))
      return
    }
    if (op.name === 'list' && r.chance(f.stale)) {
      try {
        op.resolve(this.disk.stale(op.args[0]!, r))
      } catch (error) {
        op.reject(error)
      }
      return
    }
    const result = this.attempt(op)
    if (op.name !== 'pause' && !/^(list|read)/.test(op.name)) {
      this.say(`${proc.name} ${op.name} ${op.args.join(' → ')}${'error' in result ? `: ${String(result.error)}` : ''}`)
    }
    if ('error' in result) {
      op.reject(result.error)
      return
    }
    // Not out of queue/: where clients use a name again, a server that repeats a rename takes the next drop over the last
    // (docs/spool.md says so); every other source name is used once.
    if (op.name === 'rename' && !op.args[0]!.includes('/queue/') && r.chance(f.replay)) {
      this.replays.push({ at: this.steps + r.int(60), from: op.args[0]!, to: op.args[1]! })
    }
    if (r.chance(f.lost)) {
      const code = { rename: 'ENOENT', unlink: 'ENOENT', rmdir: 'ENOENT', mkdir: 'EEXIST' }[op.name]
      if (code) {
        this.say(`${proc.name} … reply lost: ${code}`)
        op.reject(fail(code, op.args[0]))
        return
      }
    }
    op.resolve(result.value)
  }

  private attempt(op: Op): { value: unknown } | { error: unknown } {
    try {
      const value = op.run()
      this.onChange?.(op.name, op.args)
      return { value }
    } catch (error) {
      return { error }
    }
  }

  /** A server without a reply cache executes a retransmitted rename once more, whoever waits for it. */
  private replay(): void {
    for (const x of this.replays.filter((y) => y.at <= this.steps)) {
      this.replays.splice(this.replays.indexOf(x), 1)
      try {
        this.disk.rename(x.from, x.to)
        this.say(`* replayed rename ${x.from} → ${x.to}`)
        this.onChange?.('rename', [x.from, x.to])
      } catch {
        // the source is not there any more, which is what the protocol relies on
      }
    }
  }
}
