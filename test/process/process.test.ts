import { spawn } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { endGroup, identify, isAlive, ownMembers, type ProcessIdentity, runGroup } from '../../src/process/index.ts'
import { until } from '../support/wait.ts'

let dir: string
const started: ProcessIdentity[] = []
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'vmspool-process-'))
})
afterEach(async () => {
  for (const id of started.splice(0)) {
    await endGroup(id, 0)
    expect(ownMembers(id, { live: true })).toEqual([])
  }
  rmSync(dir, { recursive: true })
})
const onSpawn = (id: ProcessIdentity): void => {
  started.push(id)
}
/** What the system counted of it; nothing when it has ended. */
function ioOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/io`, 'utf8')
  } catch {
    return ''
  }
}
const pidIn = (file: string): number => Number(readFileSync(join(dir, file), 'utf8'))
const has = (file: string) => (): boolean => {
  try {
    return readFileSync(join(dir, file), 'utf8').endsWith('\n')
  } catch {
    return false
  }
}

describe('identify and isAlive', () => {
  it('knows itself, and no recycled pid, other boot or other namespace', () => {
    const me = identify(process.pid) as ProcessIdentity
    expect(isAlive(me)).toBe(true)
    expect(isAlive({ ...me, start_ticks: me.start_ticks - 1 })).toBe(false)
    expect(isAlive({ ...me, boot_id: 'another' })).toBe(false)
    expect(isAlive({ ...me, pidns: me.pidns + 1 })).toBe(false)
  })

  it('calls a process dead that has ended and was not waited for', async () => {
    const p = spawn('sh', ['-c', 'sleep 600 & echo $!; exec sleep 600'], {
      stdio: ['ignore', 'pipe', 'ignore'],
      detached: true,
    })
    const id = identify(p.pid as number) as ProcessIdentity
    started.push(id)
    // Killed it becomes a zombie: its parent turns into a sleep that waits for nobody.
    const pid = await new Promise<number>((r) => p.stdout.once('data', (d) => r(Number(String(d)))))
    await until('its parent has turned', () => readFileSync(`/proc/${p.pid}/comm`, 'utf8') === 'sleep\n')
    const zombie = identify(pid) as ProcessIdentity
    process.kill(pid, 'SIGKILL')
    await until('it is a zombie', () => / Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8')))
    expect(isAlive(zombie)).toBe(false)
    expect(identify(pid)).toEqual(zombie)
  })

  it('reads names with blanks and parentheses', async () => {
    const id = identify(process.pid) as ProcessIdentity
    const file = join(dir, 'a ) S 1 (b')
    writeFileSync(file, '#!/bin/sh\nread x </dev/null\necho ready\nexec sleep 600\n', { mode: 0o755 })
    const p = spawn(file, { stdio: ['ignore', 'pipe', 'ignore'], detached: true })
    const child = identify(p.pid as number) as ProcessIdentity
    started.push(child)
    expect(child.start_ticks).toBeGreaterThanOrEqual(id.start_ticks)
    expect(isAlive(child)).toBe(true)
  })
})

describe('runGroup', () => {
  it('tells exit code and output apart', async () => {
    const out: Buffer[] = []
    const err: Buffer[] = []
    const r = await runGroup(['sh', '-c', 'echo "$A|$B|$(pwd)"; echo problem >&2; exit 7'], {
      cwd: dir,
      env: { A: 'one two', B: undefined },
      onStdout: (c) => void out.push(c),
      onStderr: (c) => void err.push(c),
      onSpawn,
    })
    expect(r).toMatchObject({ exit_code: 7, signal: null })
    expect(Buffer.concat(out).toString()).toBe(`one two||${dir}\n`)
    expect(Buffer.concat(err).toString()).toBe('problem\n')
  })

  it('feeds text and descriptors', async () => {
    writeFileSync(join(dir, 'third'), 'the third\n')
    writeFileSync(join(dir, 'fourth'), 'the fourth\n')
    const fds = [openSync(join(dir, 'third'), 'r'), openSync(join(dir, 'fourth'), 'r')]
    const out: Buffer[] = []
    await runGroup(['sh', '-c', 'cat; cat /dev/fd/3; cat /proc/self/fd/4'], {
      stdin: 'standard input\n',
      extraFds: fds,
      onStdout: (c) => void out.push(c),
      onSpawn,
    })
    for (const fd of fds) closeSync(fd)
    expect(Buffer.concat(out).toString()).toBe('standard input\nthe third\nthe fourth\n')
  })

  it('says what could not be started', async () => {
    await expect(runGroup([join(dir, 'nothing')])).rejects.toMatchObject({ name: 'SpawnError', code: 'ENOENT' })
    writeFileSync(join(dir, 'plain'), 'x')
    await expect(runGroup([join(dir, 'plain')])).rejects.toMatchObject({ name: 'SpawnError', code: 'EACCES' })
    await expect(runGroup(['true'], { cwd: join(dir, 'no-folder') })).rejects.toThrow(/working directory/)
    await expect(runGroup([])).rejects.toMatchObject({ code: 'EINVAL' })
  })

  it('kills a tree that ignores TERM, wherever it forked to', async () => {
    const abort = new AbortController()
    const run = runGroup(
      [
        'sh',
        '-c',
        `trap '' TERM; (trap '' TERM; echo $$ > ${dir}/x; sh -c 'echo $$ > ${dir}/child; while :; do sleep 600; done') & wait; wait; sleep 600`,
      ],
      { signal: abort.signal, killGraceMs: 100, onSpawn },
    )
    await until('the grandchild runs', has('child'))
    const grandchild = identify(pidIn('child')) as ProcessIdentity
    abort.abort({ kind: 'cancel', message: 'enough' })
    expect(await run).toMatchObject({ exit_code: null, signal: 'SIGKILL' })
    expect(isAlive(grandchild)).toBe(false)
    expect(ownMembers(started[0] as ProcessIdentity, { live: true })).toEqual([])
  })

  it('lets a program that handles TERM end by itself', async () => {
    const abort = new AbortController()
    const out: Buffer[] = []
    const run = runGroup(
      ['sh', '-c', `trap 'echo bye; exit 3' TERM; echo up > ${dir}/up; while :; do sleep 0.02; done`],
      {
        signal: abort.signal,
        killGraceMs: 30_000,
        onStdout: (c) => void out.push(c),
        onSpawn,
      },
    )
    await until('it is up', has('up'))
    abort.abort()
    expect(await run).toMatchObject({ exit_code: 3, signal: null })
    expect(Buffer.concat(out).toString()).toBe('bye\n')
  })

  it('ends what the leader leaves behind in its group, also with an empty environment', async () => {
    const r = await runGroup(
      [
        'sh',
        '-c',
        `env -i sh -c 'echo $$ > ${dir}/left; exec sleep 600' & while ! [ -s ${dir}/left ]; do sleep 0.01; done; exit 0`,
      ],
      {
        killGraceMs: 100,
        onStdout: () => {},
        onSpawn,
      },
    )
    expect(r.exit_code).toBe(0)
    // Nobody may have waited for it yet, but it does not run any more.
    const left = identify(pidIn('left'))
    expect(left !== undefined && isAlive(left)).toBe(false)
  })

  it('does not wait for output of a process that left the group', async () => {
    const r = await runGroup(
      [
        'sh',
        '-c',
        `setsid sh -c 'echo $$ > ${dir}/away; exec sleep 600' & while ! [ -s ${dir}/away ]; do sleep 0.01; done`,
      ],
      {
        onStdout: () => {},
        onSpawn,
      },
    )
    expect(r.exit_code).toBe(0)
    const away = identify(pidIn('away')) as ProcessIdentity
    started.push(away)
    expect(isAlive(away)).toBe(true)
  })

  it('holds a flood of output back instead of storing it', async () => {
    let bytes = 0
    let inFlight = 0
    let most = 0
    let ahead = 0
    let pid = 0
    await runGroup(['head', '-c', String(64 * 1024 * 1024), '/dev/zero'], {
      onStdout: async (c) => {
        inFlight++
        most = Math.max(most, inFlight)
        bytes += c.length
        // what it got rid of, and is not here yet; it may have ended by the end
        const written = /wchar: (\d+)/.exec(ioOf(pid))?.[1]
        if (written !== undefined) ahead = Math.max(ahead, Number(written) - bytes)
        await new Promise((r) => setImmediate(r))
        inFlight--
      },
      onSpawn: (id) => {
        pid = id.pid
        onSpawn(id)
      },
    })
    expect(bytes).toBe(64 * 1024 * 1024)
    expect(most).toBe(1)
    expect(ahead).toBeLessThan(1024 * 1024)
  })

  it('ends the group and throws when a sink fails', async () => {
    await expect(
      runGroup(['sh', '-c', 'echo x; exec sleep 600'], {
        killGraceMs: 100,
        onStdout: () => {
          throw new Error('disk full')
        },
        onSpawn,
      }),
    ).rejects.toThrow('disk full')
  })

  it('keeps limits through prlimit', async () => {
    const out: Buffer[] = []
    await runGroup(['sh', '-c', 'ulimit -v; ulimit -t'], {
      limits: { as_bytes: 512 * 1024 * 1024, cpu_s: 9 },
      onStdout: (c) => void out.push(c),
      onSpawn,
    })
    expect(Buffer.concat(out).toString()).toBe(`${512 * 1024}\n9\n`)
  })
})

describe('endGroup', () => {
  it('never signals a recycled pid or another boot', async () => {
    const p = spawn('sleep', ['600'], { stdio: 'ignore', detached: true })
    const id = identify(p.pid as number) as ProcessIdentity
    started.push(id)
    await endGroup({ ...id, start_ticks: id.start_ticks + 1 }, 0)
    await endGroup({ ...id, boot_id: 'another' }, 0)
    await endGroup({ ...id, pidns: 1 }, 0)
    expect(isAlive(id)).toBe(true)
    await endGroup(id, 10_000)
    expect(isAlive(id)).toBe(false)
  })

  it('finds members by their token when the leader is gone, and only by it', async () => {
    const p = spawn('sh', ['-c', `sleep 600 & echo $! > ${dir}/m`], {
      stdio: 'ignore',
      detached: true,
      env: { ...process.env, VMSPOOL_GROUP: 'token-of-this-test' },
    })
    const id = { ...(identify(p.pid as number) as ProcessIdentity), token: 'token-of-this-test' }
    await until('the leader is gone', () => identify(id.pid) === undefined)
    const member = identify(pidIn('m')) as ProcessIdentity
    await endGroup({ ...id, token: 'another' }, 0)
    await endGroup({ pid: id.pid, start_ticks: id.start_ticks, boot_id: id.boot_id, pidns: id.pidns }, 0)
    expect(isAlive(member)).toBe(true)
    await endGroup(id, 1000)
    expect(isAlive(member)).toBe(false)
  })
})
