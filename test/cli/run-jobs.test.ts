// stop, wait, rerun, cleanup and list on jobs without an agent, and on an agent's jobs, through the real program.
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDirect } from '../../src/spool/started.ts'
import { openSpool } from '../../src/spool/spool.ts'
import { findAnywhere, viewPlaces } from '../../src/client/places.ts'
import { processStat } from '../../src/process/index.ts'
import { bed } from '../support/agent.ts'
import { commandManifest, writeManifest } from '../support/manifests.ts'
import { type RunBed, runBed } from '../support/run-bed.ts'
import { tempDir } from '../support/temp.ts'
import { makeJob } from '../support/finished-jobs.ts'
import { until } from '../support/wait.ts'
import { cli } from './run.ts'

/** Whether that pid is a process that runs (a zombie has ended). */
const runs = (pid: number): boolean => !['Z', 'X', undefined].includes(processStat(pid)?.state)

interface ProcessFile {
  pid: number
  boot_id: string
  pidns: number
  host: string
  shim: { pid: number; start_ticks: number }
}

async function processOf(b: RunBed, id: string): Promise<ProcessFile> {
  return JSON.parse(await readFile(join(b.layout.outputJobs, id, 'run/process.json'), 'utf8'))
}

async function killShim(b: RunBed, id: string): Promise<ProcessFile> {
  const found = await processOf(b, id)
  process.kill(found.shim.pid, 'SIGKILL')
  await until('the shim is gone', () => !runs(found.shim.pid))
  return found
}

describe('stop', () => {
  test('TERM, then KILL, to all that was started, and only then it returns; a second one has nothing to do', async () => {
    await using b = await runBed()
    const pids = join(b.dir, 'pids')
    // One that ignores TERM, and one that has left the session.
    const id = await b.start([
      '--name',
      'deaf',
      'sh',
      '-c',
      `trap '' TERM; setsid sh -c 'echo $$ >>${pids}; exec sleep 600' & echo $$ >>${pids}; while :; do sleep 0.1; done`,
    ])
    await until('both have begun', async () => (await readFile(pids, 'utf8').catch(() => '')).split('\n').length === 3)
    const stopped = await b.v(['stop', '--grace', '300ms', 'deaf'])
    const { pid } = await processOf(b, id)
    expect(stopped).toMatchObject({ code: 0, out: `Process ${id} (${pid}) has been killed\n` })
    for (const p of (await readFile(pids, 'utf8')).trim().split('\n')) expect(runs(Number(p))).toBe(false)
    expect(await b.status('deaf')).toMatchObject({
      state: 'cancelled',
      signal: 'SIGKILL',
      reason: expect.stringContaining('was stopped by '),
    })
    expect(await b.v(['stop', 'deaf'])).toMatchObject({
      code: 1,
      out: '',
      err: `vmspool: Task operation failed: ${id} - Task is not running (status: cancelled)\n`,
    })
    expect((await b.v(['stop', 'nobody'])).code).toBe(2)
    // The commands that speak to agents say which one is meant.
    expect((await b.v(['retry', 'deaf'])).err).toContain(`vmspool rerun ${id}`)
    const other = await b.start(['sleep', '600'])
    expect((await b.v(['cancel', other])).err).toContain(`vmspool stop ${other}`)
  })

  test('one that ends by TERM has exited; --force kills; several at once; of a name the newest', async () => {
    await using b = await runBed()
    const first = await b.start(['--name', 'twice', 'sleep', '600'])
    const second = await b.start(['--name', 'twice', 'sleep', '600'])
    const third = await b.start(['sleep', '600'])
    expect((await b.v(['stop', 'twice'])).out).toMatch(new RegExp(`^Process ${second} \\(\\d+\\) has been exited\n$`))
    expect(await b.status(first)).toMatchObject({ state: 'running' })
    const both = await b.v(['stop', '-f', '-o', 'json', first, third.slice(0, 20)])
    expect(JSON.parse(both.out)).toMatchObject([
      { id: first, state: 'cancelled', signal: 'SIGKILL' },
      { id: third, state: 'cancelled', signal: 'SIGKILL' },
    ])
  })

  test('its own signal and grace', async () => {
    await using b = await runBed()
    await b.start([
      '--name',
      'polite',
      '--kill-signal',
      'USR1',
      'sh',
      '-c',
      'trap "echo usr1; exit 5" USR1; while :; do sleep 0.05; done',
    ])
    await until('the trap is set', async () => (await b.status('polite')).pid)
    await b.v(['stop', 'polite'])
    // The trap may not have been set yet: then USR1 itself ended it.
    const { exit_code, signal } = await b.status('polite')
    expect(exit_code === 5 || signal === 'SIGUSR1').toBe(true)
  })
})

describe('a shim that was killed', () => {
  test('its command goes on, and is stopped all the same', async () => {
    await using b = await runBed()
    const id = await b.start(['--name', 'orphan', 'sleep', '600'])
    const { pid } = await killShim(b, id)
    expect(await b.status(id)).toMatchObject({ state: 'running' })
    expect((await b.v(['stop', id])).code).toBe(0)
    expect(runs(pid)).toBe(false)
    expect(await b.status(id)).toMatchObject({
      state: 'cancelled',
      reason: expect.stringContaining('its shim was gone'),
    })
    expect(await readdir(b.layout.cancelled)).toHaveLength(1)
  })

  test('whoever looks settles it: failed, unknown to Ghost; wait ends', async () => {
    await using b = await runBed()
    const id = await b.start(['--name', 'lost', 'sleep', '600'])
    const waiting = b.v(['wait', 'lost'])
    const { pid } = await killShim(b, id)
    process.kill(pid, 'SIGKILL')
    expect((await waiting).code).toBe(1)
    const lost = {
      id,
      state: 'failed',
      reason: expect.stringContaining('its shim was killed, so nobody saw how it ended'),
    }
    expect(JSON.parse((await b.v(['list', '--status', 'unknown', '-o', 'json'])).out)).toMatchObject([lost])
    expect(JSON.parse((await b.v(['list', '--status', 'exited', 'killed', '-o', 'json'])).out)).toEqual([])
    const result = JSON.parse(await readFile(join(b.layout.outputJobs, id, 'result.json'), 'utf8'))
    expect(result.error.code).toBe('lost')
    const events = (await readFile(join(b.layout.daemon, 'events.jsonl'), 'utf8')).trim().split('\n')
    expect(JSON.parse(events.at(-1)!)).toMatchObject({ event: 'finished', job: id, state: 'failed' })
    expect((await b.v(['fsck'])).out).toContain('0 errors')
  })

  test('after a restart of the host nothing is signalled; another host’s job is left alone', async () => {
    await using b = await runBed()
    const here = await b.start(['--name', 'here', 'sleep', '600'])
    const there = await b.start(['--name', 'there', 'sleep', '600'])
    const written = async (id: string, change: Partial<ProcessFile>) => {
      const was = await processOf(b, id)
      await writeFile(join(b.layout.outputJobs, id, 'run/process.json'), JSON.stringify({ ...was, ...change }))
      return was
    }
    const boot = '00000000-0000-4000-8000-000000000000'
    const before = await written(here, { boot_id: boot })
    const other = await written(there, { boot_id: boot, host: 'elsewhere.example' })
    expect(await b.status('here')).toMatchObject({
      state: 'failed',
      reason: expect.stringContaining('the host was restarted while it ran'),
    })
    expect((await b.v(['stop', 'here'])).code).toBe(1)
    expect(await b.status('there')).toMatchObject({ state: 'running' })
    const stop = await b.v(['stop', 'there'])
    expect(stop).toMatchObject({
      code: 69,
      err: expect.stringContaining('its process is on the host elsewhere.example'),
    })
    expect(runs(before.pid) && runs(other.pid)).toBe(true)
    for (const p of [before.shim.pid, other.shim.pid]) process.kill(p, 'SIGTERM') // what it does with it is its own test
    await until('both are gone', () => !runs(before.shim.pid) && !runs(other.shim.pid))
  })
})

describe('wait', () => {
  test('ends with the outcome; --any with the first; --timeout with 124', async () => {
    await using b = await runBed()
    await b.start(['--name', 'ok', 'true'])
    await b.start(['--name', 'bad', 'false'])
    await b.start(['--name', 'long', 'sleep', '600'])
    expect(await b.v(['wait', '-q', '-o', 'name', 'ok'])).toMatchObject({ code: 0 })
    expect((await b.v(['wait', '-q', 'ok', 'bad'])).code).toBe(1)
    const any = await b.v(['wait', '-q', '--any', 'long', 'ok', '-o', 'json'])
    expect(any.code).toBe(0)
    expect(JSON.parse(any.out)).toMatchObject([{ name: 'ok', state: 'succeeded' }])
    const late = await b.v(['wait', '-q', '--timeout', '300ms', 'long', 'ok'])
    expect(late).toMatchObject({ code: 124, err: expect.stringContaining('It goes on without us') })
    expect((await b.v(['wait', 'nothing'])).code).toBe(2)
  })
})

describe('rerun', () => {
  test('the same command in the same folder with the same variables; a secret must be there again', async () => {
    await using b = await runBed()
    await mkdir(join(b.dir, 'sub'))
    const script = 'echo "$PWD $A $TOKEN"; test -n "$FAIL" && exit 4; exit 0'
    await b.start([
      '-c',
      'sub',
      '-e',
      'A=1',
      '-e',
      'TOKEN=abc',
      '--name',
      'again',
      '--expect',
      '0,4',
      'sh',
      '-c',
      script,
    ])
    await b.v(['wait', '-q', 'again'])
    const missing = await b.v(['rerun', 'again'])
    expect(missing).toMatchObject({
      code: 2,
      out: '',
      err: expect.stringContaining('was given TOKEN, and values that look like secrets are not stored'),
    })
    const r = await b.v(['rerun', '-e', 'A=2', '-e', 'FAIL=yes', 'again'], { env: { TOKEN: 'def' } })
    expect(r.out).toMatch(/^Started background process:\n/)
    expect((await b.v(['wait', '-q', 'again'])).code).toBe(0)
    expect(await b.status('again')).toMatchObject({ exit_code: 4, cwd: join(b.dir, 'sub') })
    expect(await b.log('again')).toBe(`${join(b.dir, 'sub')} 2 def\n`)
    const long = await b.start(['--name', 'still', 'sleep', '600'])
    expect(await b.v(['rerun', long])).toMatchObject({ code: 1, err: expect.stringContaining('still runs') })
  })
})

describe('cleanup', () => {
  test('what Ghost’s cleanup does: by age and state, never what runs', async () => {
    await using b = await runBed()
    const [old, fresh, stopped] = [
      await b.start(['true']),
      await b.start(['--name', 'f', 'false']),
      await b.start(['--name', 's', 'sleep', '600']),
    ]
    const running = await b.start(['--name', 'r', 'sleep', '600'])
    await b.v(['stop', 's'])
    await b.v(['wait', '-q', old, fresh])
    expect(await b.v(['cleanup'])).toMatchObject({ code: 0, out: 'No tasks found matching cleanup criteria.\n' })
    expect(await b.v(['cleanup', '-s', 'running'])).toMatchObject({
      code: 1,
      err: expect.stringContaining('Cannot cleanup running tasks'),
    })
    expect((await b.v(['cleanup', '-s', 'done'])).code).toBe(2)
    const dry = await b.v(['cleanup', '--all', '-n', '-s', 'killed', '-o', 'json'])
    expect(JSON.parse(dry.out)).toMatchObject([{ id: stopped, state: 'cancelled' }])
    expect(existsSync(join(b.layout.outputJobs, stopped))).toBe(true)
    expect(await b.v(['cleanup', '--all', '-s', 'killed'])).toMatchObject({ out: 'Successfully deleted 1 task(s).\n' })
    expect(existsSync(join(b.layout.outputJobs, stopped))).toBe(false)
    expect(await b.v(['cleanup', '-d', '0'])).toMatchObject({ out: 'Successfully deleted 2 task(s).\n' })
    expect(JSON.parse((await b.v(['list', '-o', 'json'])).out)).toMatchObject([{ id: running, state: 'running' }])
    const events = (await readFile(join(b.layout.daemon, 'events.jsonl'), 'utf8'))
      .trim()
      .split('\n')
      .map((l) => JSON.parse(l))
    expect(
      events
        .filter((e) => e.event === 'removed')
        .map((e) => e.job)
        .sort(),
    ).toEqual([old, fresh, stopped].sort())
    expect((await b.v(['fsck'])).out).toContain('0 errors')
  })

  test('the age is that of the end', async () => {
    await using b = await runBed()
    const id = await b.start(['true'])
    await b.v(['wait', '-q', id])
    const path = join(b.layout.outputJobs, id, 'result.json')
    const result = JSON.parse(await readFile(path, 'utf8'))
    const long = new Date(Date.now() - 40 * 86_400_000)
    await writeFile(path, JSON.stringify({ ...result, finished_at: long.toISOString() }))
    await utimes(path, long, long)
    // The id says when it began, which was today: nothing that began within the time can have ended before it.
    expect((await b.v(['cleanup'])).out).toBe('No tasks found matching cleanup criteria.\n')
    expect((await b.v(['cleanup', '-d', '0'])).out).toBe('Successfully deleted 1 task(s).\n')
    // One that began long ago and ended today stays.
    const [over, late] = [makeJob(b.layout, 1), makeJob(b.layout, 2)]
    await writeFile(join(b.layout.outputJobs, late.id, 'result.json'), JSON.stringify({ ...result, id: late.id }))
    expect(await b.v(['cleanup'])).toMatchObject({ code: 0, out: 'Successfully deleted 1 task(s).\n' })
    expect([over, late].map((j) => existsSync(join(b.layout.outputJobs, j.id)))).toEqual([false, true])
  })
})

describe('list', () => {
  test('Ghost’s columns, and ours with PID and command; wide characters are not cut in half', async () => {
    await using b = await runBed()
    const id = await b.start(['sh', '-c', `: ${'日本語'.repeat(60)}; exec sleep 600`])
    await b.start(['--name', 'e', 'false'])
    await b.v(['wait', '-q', 'e'])
    const { pid } = await b.status(id)
    const ghost = (await b.v(['list', '--ghost', '--status', 'running'])).out.split('\n')
    expect(ghost[0]).toBe(
      `${'Task ID'.padEnd(37)}${'PID'.padEnd(9)}${'Status'.padEnd(11)}${'Started'.padEnd(21)}${'Command'.padEnd(31)}Directory`,
    )
    expect(ghost[1]).toBe('-'.repeat(134))
    expect(ghost[2]).toMatch(
      new RegExp(`^${id} {11}${pid} +running {4}\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d {5}sh -c ': .*… ${b.dir}$`),
    )
    expect(ghost).toHaveLength(4)
    const all = (await b.v(['list'])).out
    expect(all).toMatch(new RegExp(`${id} +sh +command +running +- .*PID ${pid}: sh -c`))
    expect(all).not.toContain('�')
    expect((await b.v(['list', '--ghost', '--status', 'killed'])).out).toBe('No tasks found.\n')
    expect((await b.v(['list', '--status', 'gone'])).code).toBe(2)
    expect((await b.v(['list', '--ghost', '--status', 'exited'])).out).toMatch(/ exited .* false +/)
  })
})

test('views look into the spool of the configuration and into the user’s own', async () => {
  await using dir = await tempDir()
  const host = join(dir.path, 'host')
  const own = join(dir.path, 'data/vmspool')
  await writeFile(join(dir.path, 'agent.yaml'), `root: ${host}\n`)
  const { getuid } = process
  const before = { ...process.env }
  const env = { VMSPOOL_CONFIG_DIR: dir.path, XDG_DATA_HOME: join(dir.path, 'data') }
  try {
    delete process.env.VMSPOOL_ROOT
    Object.assign(process.env, env)
    process.getuid = () => 4711 // root's own spool is the host's
    const { layoutOf } = await import('../../src/spool/layout.ts')
    const made = []
    for (const root of [host, own]) {
      const layout = layoutOf({ root, instance: 'default' })
      await openSpool({ layout, create: true })
      const manifest = { kind: 'command', name: 'x', priority: 5, command: { argv: ['true'] } } as never
      made.push(createDirect(layout, { name: 'x', manifest, cwd: '/', host: 'h', sync: false }).id)
    }
    const all = await viewPlaces()
    expect(all.map((p) => p.layout.root)).toEqual([host, own])
    expect((await findAnywhere(all, made[0]!)).place.layout.root).toBe(host)
    const newest = await findAnywhere(all, 'x')
    expect(newest.status.id).toBe([...made].sort().at(-1))
    await expect(findAnywhere(all, made[0]!.slice(0, 6))).rejects.toMatchObject({ exitCode: 2 })
    await expect(findAnywhere(all, 'y')).rejects.toMatchObject({ exitCode: 2, message: expect.stringContaining(own) })
    expect((await viewPlaces({ root: own })).map((p) => p.layout.root)).toEqual([own])
  } finally {
    process.getuid = getuid!
    for (const name of ['VMSPOOL_ROOT', ...Object.keys(env)])
      if (before[name] === undefined) delete process.env[name]
      else process.env[name] = before[name]
  }
})

describe('jobs of an agent', () => {
  const config = { lease: { timeout: '3s' }, retry: { max_attempts: 0 }, timeouts: { kill_grace: '1s' } }

  test('stop asks the agent and returns when the process is gone; without an agent it ends what runs here and says what is left', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, config)
    const v = (args: string[]) =>
      cli([args[0]!, '--instance', b.instance, '--root', b.dir, ...args.slice(1)], { env: b.env, cwd: b.dir })
    const agent = await b.start()
    const sleep = ['/bin/sh', '-c', 'echo up; exec sleep 600']
    const file = await writeManifest(dir.path, commandManifest('runs', sleep), 'a.json')
    const submit = async (): Promise<string> => JSON.parse((await v(['submit', file, '-o', 'json'])).out)[0].id
    const pidOf = (id: string): Promise<number> =>
      until('it runs', async () => JSON.parse((await v(['status', id, '-o', 'json'])).out).pid as number | undefined)

    const first = await submit()
    const pid = await pidOf(first)
    const stopped = await v(['stop', first])
    expect(stopped, stopped.err).toMatchObject({ code: 0, out: `Process ${first} (${pid}) has been exited\n` })
    expect(runs(pid)).toBe(false)
    expect(JSON.parse((await v(['status', first, '-o', 'json'])).out)).toMatchObject({ state: 'cancelled' })

    const again = await v(['rerun', '-o', 'name', first])
    expect(again.code, again.err).toBe(0)
    const second = again.out.trim()
    const left = await pidOf(second)
    await agent.kill()
    expect(runs(left)).toBe(true)
    const alone = await v(['stop', second])
    expect(alone.code).toBe(69)
    expect(alone.err).toContain('Its process was ended from here')
    expect(runs(left)).toBe(false)
    await b.start()
    expect((await v(['wait', '-q', second])).code).toBe(1)
    expect(JSON.parse((await v(['status', second, '-o', 'json'])).out)).toMatchObject({ state: 'cancelled' })
  })
})
