/**
 * What was promised to VMs that are being made or started, and that libvirt does not show yet. One small file each, in a folder of this
 * host that all instances and processes share; no lock, so nobody waits for a process that stands still.
 *
 * Who wants something first announces it, under a number greater than all others; one that finds a greater number afterwards takes a new
 * one and looks again. So of two announcements the one with the greater number was made by somebody who had seen the other: each counts what
 * was announced before it, and between them nothing is promised twice.
 */
import { randomBytes } from 'node:crypto'
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { identify, isAlive, isLocal, type ProcessIdentity, processStat } from '../process/index.ts'

export interface Promised {
  uuid: string
  name: string
  vcpus: number
  memory_bytes: number
  disk_bytes: number
  /** of the filesystem where the disks come to lie (st_dev) */
  dev: number
  maker: ProcessIdentity
  /** RFC 3339 */
  at: string
}

export interface Announced extends AsyncDisposable {
  /** What others announced before, and did not take back: `admitted` says that they may have it, else they do not know yet. */
  before(): Promise<(Promised & { admitted: boolean })[]>
  /** From now on it is a promise. It ends with the disposal, or with this process. */
  admit(): Promise<void>
}

export interface Promises {
  announce(p: Omit<Promised, 'maker' | 'at'>): Promise<Announced>
  /** those that were admitted, stale ones left out */
  list(): Promise<Promised[]>
  /** removes what processes left that are gone */
  clean(): Promise<void>
}

/** Of a process in another pid namespace nobody here can see whether it lives. */
const FOREIGN_MS = 24 * 3_600_000
const PROMISE = /^\d{12}-.*\.json$/
const ADMITTED = '.admitted'

/** @param dir of this host alone; made when missing */
export function openPromises(dir: string): Promises {
  const me = identify(process.pid)!
  const nameOf = (n: number): string =>
    `${String(n).padStart(12, '0')}-${me.pid}-${me.start_ticks}-${randomBytes(4).toString('hex')}.json`

  const names = async (): Promise<string[]> => (await readdir(dir)).filter((f) => PROMISE.test(f)).sort()

  async function read(file: string): Promise<Promised | undefined> {
    let p: Promised | undefined
    try {
      p = JSON.parse(await readFile(join(dir, file), 'utf8'))
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code === 'ENOENT') return undefined // it was taken back
      if (!(e instanceof SyntaxError)) throw e
      // it had its name only when it was whole: the host lost its power since
    }
    if (p && !stale(p)) return p
    await remove(file)
    return undefined
  }
  // Its name is never used again, so what is removed is what was read.
  const remove = async (file: string): Promise<void> => {
    await rm(join(dir, file), { force: true })
    await rm(join(dir, file + ADMITTED), { force: true })
  }

  /** what processes left that were killed while they wrote */
  async function sweep(files: readonly string[]): Promise<void> {
    for (const file of files) {
      const half = /^\.new-(\d+)-(\d+)-/.exec(file)
      if (half && processStat(half[1]!)?.start_ticks !== Number(half[2])) await rm(join(dir, file), { force: true })
      if (file.endsWith(ADMITTED) && !files.includes(file.slice(0, -ADMITTED.length))) {
        await rm(join(dir, file), { force: true })
      }
    }
  }

  return {
    async announce(p) {
      await mkdir(dir, { recursive: true, mode: 0o755 })
      await sweep(await readdir(dir))
      const temp = join(dir, `.new-${me.pid}-${me.start_ticks}-${randomBytes(4).toString('hex')}`)
      const promise: Promised = { ...p, maker: me, at: new Date().toISOString() }
      await writeFile(temp, JSON.stringify(promise))
      let file = nameOf(numberOf((await names()).at(-1)) + 1)
      await rename(temp, join(dir, file))
      for (;;) {
        const last = (await names()).at(-1)!
        if (last <= file) break
        const next = nameOf(numberOf(last) + 1)
        await rename(join(dir, file), join(dir, next))
        file = next
      }
      return {
        async before() {
          const all = await readdir(dir)
          const marks = new Set(all.filter((f) => f.endsWith(ADMITTED)))
          const earlier = all.filter((f) => PROMISE.test(f) && f < file)
          const found = await Promise.all(
            earlier.map(async (f) => {
              const there = await read(f)
              return there && { ...there, admitted: marks.has(f + ADMITTED) }
            }),
          )
          return found.filter((f) => f !== undefined)
        },
        admit: () => writeFile(join(dir, file + ADMITTED), ''),
        [Symbol.asyncDispose]: () => remove(file),
      }
    },
    async clean() {
      let all: string[]
      try {
        all = await readdir(dir)
      } catch (e) {
        if ((e as NodeJS.ErrnoException).code === 'ENOENT') return
        throw e
      }
      await Promise.all(all.filter((f) => PROMISE.test(f)).map(read))
      await sweep(await readdir(dir))
    },
    async list() {
      let all: string[]
      try {
        all = await readdir(dir)
      } catch (e) {
        if ((e as NodeJS.ErrnoException).code === 'ENOENT') return []
        throw e
      }
      const marked = all.filter((f) => PROMISE.test(f) && all.includes(f + ADMITTED))
      return (await Promise.all(marked.map(read))).filter((p) => p !== undefined)
    },
  }
}

const numberOf = (file: string | undefined): number => (file === undefined ? 0 : Number(file.slice(0, 12)))

/** Its process has ended, by itself or with the host. */
function stale(p: Promised): boolean {
  if (isLocal(p.maker)) return !isAlive(p.maker)
  const other = identify(process.pid)!
  return p.maker.boot_id !== other.boot_id || Date.now() - Date.parse(p.at) > FOREIGN_MS
}
