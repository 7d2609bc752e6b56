// One action at a time on one VM: inside a process by a queue, between processes of a host by a file that nobody has to wait for in vain.
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { describe, expect, test } from 'vitest'
import { identify } from '../../src/process/index.ts'
import { openLocks } from '../../src/vm/lock.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const never = new AbortController().signal

/** the file that another process would have left */
async function heldBy(dir: string, holder: object): Promise<string> {
  await mkdir(dir, { recursive: true })
  const mine = await openLocks(dir).take('web', { job: 'x', epoch: 1 }, { signal: never })
  const [file] = await readdir(dir)
  await mine[Symbol.asyncDispose]()
  const path = join(dir, file!)
  await writeFile(path, JSON.stringify({ job: 'other', epoch: 1, ...holder }))
  return path
}

describe('the lock of a VM', () => {
  test('is given to one after the other, in order, and others go beside it', async () => {
    await using dir = await tempDir()
    const locks = openLocks(dir.path)
    const order: string[] = []
    const first = await locks.take('web', { job: 'a', epoch: 1 }, { signal: never })
    const told: string[] = []
    const rest = ['b', 'c', 'd'].map(async (job) => {
      await using _ = await locks.take('web', { job, epoch: 1 }, { signal: never, onWait: (m) => told.push(m) })
      order.push(job)
    })
    await using _other = await locks.take('db', { job: 'e', epoch: 1 }, { signal: never })
    expect(order).toEqual([])
    expect(told[0]).toBe('waits until job a is done with the VM "web"')
    await first[Symbol.asyncDispose]()
    await Promise.all(rest)
    expect(order).toEqual(['b', 'c', 'd'])
  })

  test('whoever gives up waiting lets the next one through, in its turn', async () => {
    await using dir = await tempDir()
    const locks = openLocks(dir.path)
    const first = await locks.take('web', { job: 'a', epoch: 1 }, { signal: never })
    const aborter = new AbortController()
    const second = locks.take('web', { job: 'b', epoch: 1 }, { signal: aborter.signal })
    const third = locks.take('web', { job: 'c', epoch: 1 }, { signal: never })
    aborter.abort(new Error('Enough.'))
    await expect(second).rejects.toThrow('Enough.')
    let has = false
    void third.then(() => {
      has = true
    })
    await new Promise((resolve) => setImmediate(resolve))
    expect(has).toBe(false)
    await first[Symbol.asyncDispose]()
    await (await third)[Symbol.asyncDispose]()
    expect(await readdir(dir.path)).toEqual([])
  })

  test('of a process that is dead, of another boot, or that is no lock at all, is taken at once', async () => {
    await using dir = await tempDir()
    const gone = execa('true')
    const dead = { ...identify(process.pid)!, pid: gone.pid!, start_ticks: 1 }
    await gone
    for (const holder of [
      { process: dead },
      { process: { ...identify(process.pid)!, boot_id: 'another' } },
      { process: 7 },
    ]) {
      await heldBy(dir.path, holder)
      const mine = await openLocks(dir.path).take('web', { job: 'a', epoch: 1 }, { signal: never })
      await mine[Symbol.asyncDispose]()
      expect(await readdir(dir.path)).toEqual([])
    }
  })

  test('of a process that lives is waited for; an earlier attempt of the same job, which stands still, is not', async () => {
    await using dir = await tempDir()
    const other = execa('sleep', ['600'])
    try {
      const path = await heldBy(dir.path, { process: identify(other.pid!), job: 'a', epoch: 1 })
      const told: string[] = []
      const waiting = openLocks(dir.path).take(
        'web',
        { job: 'b', epoch: 1 },
        { signal: never, onWait: (m) => told.push(m) },
      )
      await until('it waits', () => told.length > 0)
      expect(told[0]).toContain(`process ${other.pid} (job a)`)
      // the next attempt of that very job comes
      const next = await openLocks(dir.path).take('web', { job: 'a', epoch: 2 }, { signal: never })
      expect(JSON.parse(await readFile(path, 'utf8'))).toMatchObject({ job: 'a', epoch: 2 })
      await next[Symbol.asyncDispose]()
      await (await waiting)[Symbol.asyncDispose]()
      expect(await readdir(dir.path)).toEqual([])
    } finally {
      other.kill('SIGKILL')
      await other.catch(() => {})
    }
  })
})
