// How a command ended, and when: told exactly, whatever it was.
import { existsSync, readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { type ShimExit, stopShim } from '../../src/process/index.ts'
import { shimBed } from '../support/shim.ts'
import { until } from '../support/wait.ts'

/** Several at a time: each costs two processes. */
async function all<T, R>(items: readonly T[], f: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  let next = 0
  const lane = async () => {
    for (let i = next++; i < items.length; i = next++) results[i] = await f(items[i]!)
  }
  await Promise.all(Array.from({ length: 6 }, lane))
  return results
}

const how = (e: ShimExit) => e.signal ?? e.exit_code

describe.concurrent('how a command ended', { timeout: 600_000 }, () => {
  test('every exit code', async () => {
    await using b = await shimBed()
    const codes = Array.from({ length: 256 }, (_, i) => i)
    const ends = await all(codes, (code) => b.run(['/bin/sh', '-c', 'exit $0', String(code)]))
    expect(ends.map((e) => e.exit.exit_code)).toEqual(codes)
    expect(ends.filter((e) => e.exit.signal !== null || e.exit.core || e.exit.spawn_error)).toEqual([])
  })

  test('every signal that ends a process, real-time ones too', async () => {
    await using b = await shimBed()
    const names = new Map<number, string>(Object.entries(constants.signals).map(([name, n]) => [n, name]))
    const harmless = ['SIGCHLD', 'SIGCONT', 'SIGURG', 'SIGWINCH', 'SIGSTOP', 'SIGTSTP', 'SIGTTIN', 'SIGTTOU']
    const signals = Array.from({ length: 64 }, (_, i) => i + 1).filter((n) => !harmless.includes(names.get(n) ?? ''))
    // SIGPOLL and SIGIOT are other names for these two.
    const expected = signals.map((n) => (n === 29 ? 'SIGIO' : n === 6 ? 'SIGABRT' : (names.get(n) ?? `SIGRT${n}`)))
    const ends = await all(signals, (n) => b.run(['/bin/sh', '-c', 'ulimit -c 0; kill -$0 $$; sleep 600', String(n)]))
    expect(ends.map((e) => e.exit.signal)).toEqual(expected)
    expect(ends.filter((e) => e.exit.exit_code !== null)).toEqual([])
  })

  test('143 is not SIGTERM, 137 not SIGKILL, and 255 not a failed start', async () => {
    await using b = await shimBed()
    const ends = await all(['exit 143', 'kill -TERM $$', 'exit 137', 'kill -KILL $$', 'exit 255'], async (script) =>
      how((await b.run(['/bin/sh', '-c', script])).exit),
    )
    expect(ends).toEqual([143, 'SIGTERM', 137, 'SIGKILL', 255])
  })

  test.skipIf(readFileSync('/proc/sys/kernel/core_pattern', 'utf8').startsWith('|'))(
    'a core is told of when there is one',
    async () => {
      await using b = await shimBed()
      const [without, dumped] = await all(['0', 'unlimited'], (n) =>
        b.run(['/bin/sh', '-c', `ulimit -c ${n}; kill -SEGV $$`]),
      )
      expect(without!.exit).toMatchObject({ signal: 'SIGSEGV' })
      expect(without!.exit.core).toBeUndefined()
      expect(dumped!.exit).toMatchObject({ signal: 'SIGSEGV', core: true })
    },
  )

  test('what could not be started is told with its reason, and leaves no exit code', async () => {
    await using b = await shimBed()
    const none = await b.run([join(b.dir, 'nothing')])
    expect(none.exit).toMatchObject({ exit_code: null, signal: null, spawn_error: { step: 'exec', errno: 2 } })
    const folder = await b.run([b.dir])
    expect(folder.exit).toMatchObject({ exit_code: null, spawn_error: { step: 'exec', errno: 13 } })
    const cwd = await b.run(['true'], { cwd: join(b.dir, 'no-folder') })
    expect(cwd.exit).toMatchObject({ exit_code: null, spawn_error: { step: 'cwd', errno: 2 } })
    const stdin = await b.run(['true'], { stdin: join(b.dir, 'no-file') })
    expect(stdin.exit).toMatchObject({ exit_code: null, spawn_error: { step: 'stdin', errno: 2 } })
    expect(existsSync(stdin.log)).toBe(false)
  })
})

describe.concurrent('when', { timeout: 600_000 }, () => {
  test('start and end are those of the command, by an outside clock', async () => {
    await using b = await shimBed()
    const before = Date.now()
    const script = `date +%s%N > ${b.dir}/first; sleep 0.4; date +%s%N > ${b.dir}/last; exit 7`
    const { exit } = await b.run(['/bin/sh', '-c', script])
    const after = Date.now()
    const [first, last] = ['first', 'last'].map((f) => Number(readFileSync(join(b.dir, f), 'utf8')) / 1e6)
    const [started, finished] = [Date.parse(exit.started_at), Date.parse(exit.finished_at)]
    // Times are cut to milliseconds.
    expect(started).toBeGreaterThanOrEqual(before)
    expect(started).toBeLessThanOrEqual(first!)
    expect(finished).toBeGreaterThanOrEqual(Math.floor(last!))
    expect(finished).toBeLessThanOrEqual(after)
    expect(exit.duration_ms).toBeGreaterThanOrEqual(400)
    // one is a monotonic clock, the other that of the host, which may be set right meanwhile
    expect(exit.duration_ms).toBeLessThanOrEqual(after - before + 100)
  })

  test('the time is that of the command, not of what it left running, nor of the wait for that', async () => {
    await using b = await shimBed()
    const script = `(trap '' TERM; sleep 600; sleep 600) & date +%s%N > ${b.dir}/last`
    const { exit } = await b.run(['/bin/sh', '-c', script], { kill_grace_ms: 1500 })
    const told = Date.now()
    expect(Date.parse(exit.finished_at)).toBeLessThanOrEqual(told - 1400)
    expect(Date.parse(exit.finished_at)).toBeGreaterThanOrEqual(
      Math.floor(Number(readFileSync(join(b.dir, 'last'), 'utf8')) / 1e6),
    )
    expect(b.living()).toEqual([])
  })

  test('processor time is that of the command with its children, without the shim’s and gzip’s', async () => {
    await using b = await shimBed()
    const busy = 'my $i; do { $i++ } while (times)[0] < 0.3;'
    const flood = 'print "a line of a flood that is compressed\\n" for 1..200000;'
    const script = `perl -e '${busy} ${flood} print STDERR join " ", times' & wait; perl -e '${busy} print STDERR " ", join " ", times'`
    const { exit, log } = await b.run(['/bin/sh', '-c', script], {
      log: { path: join(b.dir, 'log'), max_bytes: 1e6, max_age_ms: 0, total_bytes: 1e8 },
    })
    const own = readFileSync(log, 'utf8')
      .split('\n')
      .filter((l) => l.includes(' stderr '))
      .map((l) => l.replace(/^\S+ stderr [FP] /, ''))
      .join('')
      .trim()
      .split(' ')
      .map(Number)
    const [user, system] = [0, 1].map((i) => (own[i]! + own[i + 4]!) * 1000)
    // Each perl still ended after its look at the clock; the shell has its own milliseconds.
    expect(exit.user_ms + exit.system_ms).toBeGreaterThanOrEqual(user! + system! - 40)
    expect(exit.user_ms).toBeGreaterThanOrEqual(600)
    expect(exit.user_ms + exit.system_ms).toBeLessThanOrEqual(user! + system! + 500)
  })

  test('a timeout counts from the start, and is told apart from a stop', async () => {
    await using b = await shimBed()
    const [slow, stopped] = await Promise.all([
      b.run(['sleep', '600'], { timeout_ms: 300 }),
      (async () => {
        const s = await b.start(['sleep', '600'], { timeout_ms: 600_000 })
        return stopShim(s.dir, { by: 'me@here', graceMs: 20_000 })
      })(),
    ])
    expect(slow.exit).toMatchObject({ signal: 'SIGTERM', timed_out: true })
    expect(slow.exit.stopped).toBeUndefined()
    expect(slow.exit.duration_ms).toBeGreaterThanOrEqual(300)
    expect(stopped).toMatchObject({
      state: 'ended',
      exit: { signal: 'SIGTERM', stopped: { by: 'me@here', forced: false } },
    })
    expect(stopped.state === 'ended' && stopped.exit.timed_out).toBeUndefined()
  })

  test('a command that ends well in its grace keeps its own exit code', async () => {
    await using b = await shimBed()
    const script = `trap 'echo bye; exit 3' TERM; echo up > ${b.dir}/up; while :; do sleep 0.02; done`
    const s = await b.start(['/bin/sh', '-c', script], { kill_grace_ms: 60_000 })
    await until('it is up', () => existsSync(join(b.dir, 'up')))
    const ended = await stopShim(s.dir, { by: 'me', graceMs: 60_000 })
    expect(ended).toMatchObject({ state: 'ended', exit: { exit_code: 3, signal: null, stopped: { by: 'me' } } })
    expect(readFileSync(s.log, 'utf8')).toMatch(/ stdout F bye$/m)
  })
})
