// The smaller parts of the agent, each with the real thing it works on.
import { spawn } from 'node:child_process'
import { chmod, mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { childRecorder, endEarlier, ownerProcess } from '../../src/agent/children.ts'
import { lockFolder, lockHost } from '../../src/agent/host-lock.ts'
import { openJobLog } from '../../src/agent/job-log.ts'
import { type LoopHealth, startLoop } from '../../src/agent/loop.ts'
import { progressMeter } from '../../src/agent/progress.ts'
import { runtimeDir } from '../../src/agent/runtime-dir.ts'
import { parseListen } from '../../src/observe/health-server.ts'
import { createMetrics, type Logger, startHealthServer } from '../../src/observe/index.ts'
import { identify, isAlive, type ProcessIdentity } from '../../src/process/index.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const quiet = { debug() {}, info() {}, warn() {}, error() {}, setLevel() {}, flush() {} } satisfies Logger

describe('the host lock', () => {
  test('has one holder, who says who it is, and is free again at once', async () => {
    await using dir = await tempDir()
    const me = { pid: process.pid, since: '2026-01-01T00:00:00Z' }
    const tries = await Promise.all(Array.from({ length: 8 }, () => lockHost(dir.path, dir.path, me)))
    const winners = tries.filter((t) => t.held)
    expect(winners).toHaveLength(1)
    for (const t of tries) expect(t.held || t.holder === undefined || t.holder.pid === me.pid).toBe(true)
    // who is asked may be slow; who asks again is told
    const holder = await until('the holder says who it is', async () => {
      const t = await lockHost(dir.path, dir.path, me)
      return t.held ? undefined : t.holder
    })
    expect(holder).toEqual(me)
    await winners[0]!.release()
    const next = await lockHost(dir.path, dir.path, me)
    expect(next.held).toBe(true)
    if (next.held) await next.release()
  })

  test('is taken from a killed process at once, and kept by a stopped one', async () => {
    await using dir = await tempDir()
    const me = { pid: process.pid, since: 'now' }
    const lock = join(import.meta.dirname, '../../src/agent/host-lock.ts')
    const code = `import { lockHost } from ${JSON.stringify(lock)}
      const r = await lockHost(${JSON.stringify(dir.path)}, ${JSON.stringify(dir.path)}, { pid: process.pid, since: 'then' })
      console.log(r.held); setInterval(() => {}, 1000)`
    const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'inherit'] })
    expect(String(await new Promise((r) => child.stdout.once('data', r)))).toBe('true\n')
    expect(await lockHost(dir.path, dir.path, me)).toEqual({ held: false, holder: { pid: child.pid, since: 'then' } })
    child.kill('SIGSTOP')
    expect(await lockHost(dir.path, dir.path, me)).toEqual({ held: false, holder: undefined })
    child.kill('SIGKILL')
    await new Promise((r) => child.once('exit', r))
    const mine = await lockHost(dir.path, dir.path, me)
    expect(mine.held).toBe(true)
    if (mine.held) await mine.release()
  })

  test('keeps its secret to the user of the spool; two folders have two locks', async () => {
    await using dir = await tempDir()
    await mkdir(join(dir.path, 'a'))
    await mkdir(join(dir.path, 'b'))
    const me = { pid: process.pid, since: 'now' }
    const main = await lockHost(dir.path, dir.path, me)
    expect((await stat(join(dir.path, '.main-lock'))).mode & 0o777).toBe(0o600)
    const [a, b, again] = [
      await lockFolder(join(dir.path, 'a'), me),
      await lockFolder(join(dir.path, 'b'), me),
      await lockFolder(join(dir.path, 'b', '..', 'a'), me),
    ]
    expect([a.held, b.held, again.held]).toEqual([true, true, false])
    for (const l of [main, a, b]) if (l.held) await l.release()
  })
})

describe('the runtime folder', () => {
  test('is made where it is wanted, else below XDG_RUNTIME_DIR; nothing usable is an error that names all', async () => {
    await using dir = await tempDir()
    const wanted = join(dir.path, 'run')
    expect(runtimeDir(wanted, 'i', {})).toBe(wanted)
    const file = join(dir.path, 'file')
    await writeFile(file, '')
    expect(runtimeDir(join(file, 'x'), 'i', { XDG_RUNTIME_DIR: dir.path })).toBe(join(dir.path, 'vmspool', 'i'))
    const long = join(dir.path, 'l'.repeat(90))
    expect(runtimeDir(long, 'i', { XDG_RUNTIME_DIR: dir.path })).toBe(join(dir.path, 'vmspool', 'i'))
  })

  test('one that others may write loses that right', async () => {
    await using dir = await tempDir()
    const open = join(dir.path, 'open')
    await mkdir(open)
    await chmod(open, 0o777)
    expect(runtimeDir(open, 'i', {})).toBe(open)
    expect((await stat(open)).mode & 0o022).toBe(0)
  })
})

describe('a job log', () => {
  const limits = { max_bytes: 16 << 20, max_age: 0, total_bytes: 256 << 20 }

  test('keeps output as it is, marked with its stream, and our words among it', async () => {
    await using dir = await tempDir()
    const path = join(dir.path, 'jobs', 'x', 'log')
    const log = openJobLog(path, limits, (e) => expect.unreachable(String(e)))
    log.write('agent', 'begin')
    log.write('stdout', 'no newline')
    log.write('agent', 'end\nof it\n')
    await log.close()
    const again = openJobLog(path, limits, (e) => expect.unreachable(String(e)))
    again.write('stderr', Buffer.from([0xff, 0x0a]))
    await again.close()
    const bytes = await readFile(path)
    expect(bytes.toString('latin1').replaceAll(/^\S+Z/gm, 'Z')).toBe(
      'Z agent F begin\nZ stdout P no newline\nZ agent F end\nZ agent F of it\nZ stderr F \xff\n',
    )
  })

  test('that cannot be written says so once and fails no job', async () => {
    await using dir = await tempDir()
    await writeFile(join(dir.path, 'file'), '')
    const errors: unknown[] = []
    const log = openJobLog(join(dir.path, 'file', 'log'), limits, (e) => errors.push(e))
    for (let i = 0; i < 10; i++) await log.write('stdout', 'x\n')
    await log.close()
    expect(errors).toHaveLength(1)
  })
})

describe('left-over children', () => {
  test('are ended by what the attempt wrote down, and it is said whether the attempt is dead', async () => {
    await using dir = await tempDir()
    const child = spawn('sleep', ['600'], { detached: true, stdio: 'ignore' })
    const id = identify(child.pid as number) as ProcessIdentity
    childRecorder(dir.path)(id)
    const boot = id.boot_id.slice(0, 8)
    const gone = `host.${boot}.${id.pidns}.${child.pid}.${id.start_ticks - 1}.abcdef0123`
    const elsewhere = `other.00000000.${id.pidns}.1.1.abcdef0123`
    const ended: number[] = []
    const o = { graceMs: 5000, onEnded: (g: ProcessIdentity) => ended.push(g.pid) }
    const [first] = await endEarlier([{ dir: dir.path, epoch: 0, owner: gone }], new Set(), o)
    expect(ended).toEqual([child.pid])
    expect(isAlive(id)).toBe(false)
    expect(first?.dead).toBe(true)
    const [second] = await endEarlier([{ dir: dir.path, epoch: 0, owner: elsewhere }], new Set(), o)
    expect(second?.dead).toBe(false)
    const [own] = await endEarlier([{ dir: dir.path, epoch: 0, owner: elsewhere }], new Set([elsewhere]), o)
    expect(own?.dead).toBe(true)
    const [none] = await endEarlier([{ dir: join(dir.path, 'nothing'), epoch: 0, owner: gone }], new Set(), o)
    expect(none?.dead).toBe(true)
  })

  test('an owner id names its process', () => {
    expect(ownerProcess('my_host.0123abcd.4026531836.77.8800.0011aabbcc')).toEqual({
      boot: '0123abcd',
      pidns: 4026531836,
      pid: 77,
      start_ticks: 8800,
    })
    expect(ownerProcess('direct-77')).toBeUndefined()
  })
})

describe('a loop', () => {
  test('runs one round at a time, follows kicks, survives errors and shows them', async () => {
    const health: LoopHealth[] = []
    let rounds = 0
    let inside = 0
    let broken = false
    const loop = startLoop({
      name: 'test',
      interval: () => 3_600_000,
      log: quiet,
      health,
      round: async () => {
        expect(++inside).toBe(1)
        await new Promise((r) => setTimeout(r, 5))
        inside--
        rounds++
        if (broken) throw new Error('disk on fire')
      },
    })
    for (let i = 0; i < 50; i++) loop.kick()
    await until('two rounds', () => rounds === 2)
    broken = true
    loop.kick()
    await until('the error shows', () => health[0]?.error === 'disk on fire')
    broken = false
    expect(health[0]?.failures).toBe(1)
    await loop.stop()
    const after = rounds
    loop.kick()
    await new Promise((r) => setImmediate(r))
    expect(rounds).toBe(after)
  })
})

test('progress: percent, rate and remaining time over a window, anew in each phase', () => {
  let now = 0
  const meter = progressMeter(() => now)
  expect(meter({ phase: 'inspect' })).toEqual({})
  expect(meter({ phase: 'copy', bytes_done: 0, bytes_total: 1000 })).toEqual({
    bytes_done: 0,
    bytes_total: 1000,
    percent: 0,
  })
  now = 1000
  const half = meter({ phase: 'copy', bytes_done: 500, bytes_total: 1000 })
  expect(half).toEqual({ bytes_done: 500, bytes_total: 1000, percent: 50, rate_bytes_per_s: 500, eta_ms: 1000 })
  for (now = 2000; now <= 60_000; now += 1000) meter({ phase: 'copy', bytes_done: 500 + now / 1000, bytes_total: 1000 })
  expect(meter({ phase: 'copy', bytes_done: 562, bytes_total: 1000 }).rate_bytes_per_s).toBeLessThan(3)
  expect(meter({ phase: 'validate', bytes_done: 10 })).toEqual({ bytes_done: 10 })
})

describe('metrics and health', () => {
  test('counts from before the first scrape are in it', async () => {
    const m = createMetrics(() => [{ name: 'vmspool_weight_used', help: 'x', values: [{ value: 2 }] }])
    m.inc('vmspool_jobs_finished_total', { kind: 'convert', outcome: 'done' })
    m.inc('vmspool_jobs_finished_total', { kind: 'convert', outcome: 'done' }, 2)
    for (let i = 0; i < 3000; i++) m.observe('vmspool_job_wait_seconds', 0.02, { kind: 'convert' })
    const first = await m.scrape()
    m.inc('vmspool_jobs_finished_total', { kind: 'convert', outcome: 'done' })
    const second = await m.scrape()
    expect(first.text).toContain('vmspool_jobs_finished_total{kind="convert",outcome="done"} 3')
    expect(first.text).toContain('vmspool_job_wait_seconds_count{kind="convert"} 3000')
    expect(second.text).toContain('vmspool_jobs_finished_total{kind="convert",outcome="done"} 4')
    expect(second.text).toContain('vmspool_weight_used 2')
    expect(second.text).not.toMatch(/^[a-uw-z]/m)
  })

  test('health, ready, live and metrics on a Unix socket and on TCP', async () => {
    await using dir = await tempDir()
    let status: 'ok' | 'failing' = 'ok'
    const source = {
      health: () => ({ status }),
      ready: () => ({ ready: status === 'ok' }),
      live: () => ({ live: true }),
      metrics: async () => ({ text: 'vmspool_x 1\n', type: 'text/plain' }),
    }
    const socket = join(dir.path, 'h.sock')
    const server = await startHealthServer(source, { socket, listen: '127.0.0.1:0' })
    const tcp = new URL(server.addresses[1] as string)
    const get = (path: string, o: object, method = 'GET') =>
      new Promise<{ code?: number; body: string }>((resolve, reject) => {
        const r = request({ ...o, path, method, agent: false }, (res) => {
          let body = ''
          res.on('data', (d) => {
            body += d
          })
          res.on('end', () => resolve({ code: res.statusCode, body }))
        })
        r.on('error', reject)
        r.end()
      })
    for (const at of [{ socketPath: socket }, { host: tcp.hostname, port: tcp.port }]) {
      status = 'ok'
      expect(await get('/health', at)).toEqual({ code: 200, body: '{"status":"ok"}\n' })
      expect((await get('/ready?x=1', at)).code).toBe(200)
      expect((await get('/live', at)).code).toBe(200)
      expect(await get('/metrics', at)).toEqual({ code: 200, body: 'vmspool_x 1\n' })
      expect((await get('/', at)).code).toBe(404)
      expect((await get('/health', at, 'POST')).code).toBe(405)
      status = 'failing'
      expect((await get('/health', at)).code).toBe(503)
      expect((await get('/ready', at)).code).toBe(503)
    }
    expect((await stat(socket)).mode & 0o777).toBe(0o660)
    await server.close()
    await expect(get('/live', { socketPath: socket })).rejects.toThrow(/ENOENT|ECONNREFUSED/)
  })

  test('an address without a host is loopback', () => {
    expect(parseListen(':9464')).toEqual({ host: '127.0.0.1', port: 9464 })
    expect(parseListen('9464')).toEqual({ host: '127.0.0.1', port: 9464 })
    expect(parseListen('0.0.0.0:1')).toEqual({ host: '0.0.0.0', port: 1 })
    expect(parseListen('[::1]:80')).toEqual({ host: '::1', port: 80 })
    expect(parseListen('host:99999')).toBeUndefined()
    expect(parseListen('nonsense')).toBeUndefined()
  })
})
