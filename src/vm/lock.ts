/**
 * One action at a time on one VM, others beside it: a queue inside the process, and a file for other processes of this host. The file spares
 * two processes from working against each other; what keeps an old attempt from doing harm is the fence (fence.ts), so a lock whose holder is
 * dead, or carries out an earlier attempt of the same job, is simply taken.
 */
import { createHash, randomBytes } from 'node:crypto'
import { link, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { identify, isAlive, isLocal, type ProcessIdentity } from '../process/index.ts'
import type { VmOrder } from './types.ts'

export interface VmLocks {
  /** Waits for its turn. `onWait` is told for whom. @throws the signal's reason */
  take(
    name: string,
    order: VmOrder,
    o: { signal: AbortSignal; onWait?(message: string): void },
  ): Promise<AsyncDisposable>
}

interface Holder extends VmOrder {
  process: ProcessIdentity
}

const POLL_MS = 100

/** @param dir of this host alone, in memory or on a local disk; made when missing */
export function openLocks(dir: string): VmLocks {
  const me = identify(process.pid)!
  const tails = new Map<string, { end: Promise<void>; job: string }>()
  let swept: Promise<void> | undefined

  return {
    async take(name, order, o) {
      const path = join(dir, `${createHash('sha256').update(name).digest('hex').slice(0, 32)}.lock`)
      const before = tails.get(name)
      const mine = Promise.withResolvers<void>()
      const tail = { end: Promise.all([before?.end, mine.promise]).then(() => undefined), job: order.job }
      tails.set(name, tail)
      const leave = (): void => {
        mine.resolve()
        if (tails.get(name) === tail) tails.delete(name)
      }
      try {
        if (before) {
          o.onWait?.(`waits until job ${before.job} is done with the VM "${name}"`)
          await orAbort(before.end, o.signal)
        }
        o.signal.throwIfAborted()
        await mkdir(dir, { recursive: true, mode: 0o700 })
        swept ??= sweep(dir)
        await swept
        const text = JSON.stringify({ ...order, process: me } satisfies Holder)
        await takeFile(path, text, order, o, name)
        return {
          async [Symbol.asyncDispose]() {
            // another attempt may have taken it meanwhile
            if ((await read(path)) === text) await rm(path, { force: true })
            leave()
          },
        }
      } catch (e) {
        leave()
        throw e
      }
    },
  }

  async function takeFile(
    path: string,
    text: string,
    order: VmOrder,
    o: { signal: AbortSignal; onWait?(message: string): void },
    name: string,
  ): Promise<void> {
    const temp = `${path}.${process.pid}.${randomBytes(4).toString('hex')}`
    await writeFile(temp, text, { mode: 0o600 })
    try {
      for (let told = false; ; ) {
        try {
          await link(temp, path)
          return
        } catch (e) {
          if ((e as NodeJS.ErrnoException).code !== 'EEXIST') throw e
        }
        const there = await read(path)
        if (there === undefined) continue
        const holder = parse(there)
        if (!holder || !counts(holder, order)) {
          const aside = `${temp}.old`
          await rename(path, aside).catch(() => {})
          // somebody was faster, and this is his: give it back
          if ((await read(aside)) !== there) await link(aside, path).catch(() => {})
          await rm(aside, { force: true })
          continue
        }
        if (!told) o.onWait?.(`waits until process ${holder.process.pid} (job ${holder.job}) is done with "${name}"`)
        told = true
        await sleep(POLL_MS, undefined, { signal: o.signal }).catch(() => o.signal.throwIfAborted())
      }
    } finally {
      await rm(temp, { force: true })
    }
  }
}

/** Removes what processes left that were killed between writing their name down and taking the lock. */
async function sweep(dir: string): Promise<void> {
  for (const file of await readdir(dir)) {
    const pid = /\.lock\.(\d+)\.[0-9a-f]{8}(?:\.old)?$/.exec(file)?.[1]
    if (pid === undefined) continue
    const path = join(dir, file)
    const writer = parse((await read(path)) ?? '')?.process ?? identify(Number(pid))
    if (!writer || !isAlive(writer)) await rm(path, { force: true })
  }
}

/** Whether somebody else works on the VM who need not give way. */
function counts(h: Holder, order: VmOrder): boolean {
  if (!isLocal(h.process) || !isAlive(h.process)) return false
  return !(h.job === order.job && h.epoch < order.epoch)
}

async function read(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw e
  }
}

function parse(text: string): Holder | undefined {
  try {
    const h = JSON.parse(text) as Holder
    return typeof h.job === 'string' && typeof h.epoch === 'number' && typeof h.process?.pid === 'number'
      ? h
      : undefined
  } catch {
    return undefined
  }
}

function orAbort(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const aborted = () => reject(signal.reason)
    if (signal.aborted) return aborted()
    signal.addEventListener('abort', aborted, { once: true })
    void promise.then(() => {
      signal.removeEventListener('abort', aborted)
      resolve()
    })
  })
}
