// Everything that a command started ends with it, wherever it went; and nothing else does.
import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  endGroup,
  identify,
  isAlive,
  type ProcessIdentity,
  shimState,
  stopShim,
  waitShim,
} from '../../src/process/index.ts'
import { type ShimBed, shimBed } from '../support/shim.ts'
import { until } from '../support/wait.ts'

const root = process.geteuid?.() === 0

async function pidIn(b: ShimBed, file: string): Promise<ProcessIdentity> {
  const text = await until(`${file} is written`, () => {
    const path = join(b.dir, file)
    return existsSync(path) && readFileSync(path, 'utf8').endsWith('\n') && readFileSync(path, 'utf8')
  })
  return identify(Number(text)) as ProcessIdentity
}

describe.concurrent('ending a tree', { timeout: 600_000 }, () => {
  test('children that ignore TERM are killed after the grace, in the group and outside of it', async () => {
    await using b = await shimBed()
    const deaf = (file: string) =>
      `perl -e '$SIG{$_} = "IGNORE" for qw(TERM INT HUP); open F, ">", "${b.dir}/${file}"; print F "$$\\n"; close F; sleep 600 while 1'`
    const s = await b.start(['/bin/sh', '-c', `${deaf('a')} & setsid ${deaf('b')} & (setsid ${deaf('c')} &) ; wait`])
    const all = await Promise.all(['a', 'b', 'c'].map((f) => pidIn(b, f)))
    const before = Date.now()
    const ended = await stopShim(s.dir, { by: 'me', graceMs: 400 })
    expect(Date.now() - before).toBeGreaterThanOrEqual(350)
    expect(ended).toMatchObject({ state: 'ended', exit: { signal: 'SIGTERM', stopped: { forced: false } } })
    expect(all.map(isAlive)).toEqual([false, false, false])
    expect(b.living()).toEqual([])
  })

  test('a command that ignores TERM itself is killed, and its record says by what', async () => {
    await using b = await shimBed()
    const s = await b.start([
      'perl',
      '-e',
      `$SIG{TERM} = "IGNORE"; open F, ">", "${b.dir}/up"; print F "$$\\n"; close F; sleep 600 while 1`,
    ])
    await pidIn(b, 'up')
    const ended = await stopShim(s.dir, { by: 'me', graceMs: 300 })
    expect(ended).toMatchObject({
      state: 'ended',
      exit: { exit_code: null, signal: 'SIGKILL', stopped: { forced: false } },
    })
  })

  test('what the command leaves behind ends with it: TERM first, so that it can clean up', async () => {
    await using b = await shimBed()
    const daemon = `perl -e '$SIG{TERM} = sub { open F, ">", "${b.dir}/clean"; print F "yes\\n"; exit }; open F, ">", "${b.dir}/daemon"; print F "$$\\n"; close F; sleep 600 while 1'`
    // Twice forked, in a session of its own, its parents gone, no pipe of ours: a daemon by the book.
    const script = `(setsid setsid -f ${daemon} </dev/null >/dev/null 2>&1 &); while ! [ -s ${b.dir}/daemon ]; do sleep 0.01; done; exit 5`
    const { exit } = await b.run(['/bin/sh', '-c', script], { kill_grace_ms: 30_000 })
    expect(exit).toMatchObject({ exit_code: 5, signal: null })
    expect(readFileSync(join(b.dir, 'clean'), 'utf8')).toBe('yes\n')
    expect(b.living()).toEqual([])
  })

  test('a stopped command hears TERM all the same', async () => {
    await using b = await shimBed()
    const s = await b.start([
      'perl',
      '-e',
      '$SIG{TERM} = sub { exit 4 }; print "up\\n"; kill STOP => $$; sleep 600 while 1',
    ])
    await until('it is stopped', () => / T /.test(readFileSync(`/proc/${s.process.pid}/stat`, 'utf8')))
    const ended = await stopShim(s.dir, { by: 'me', graceMs: 60_000 })
    expect(ended).toMatchObject({ state: 'ended', exit: { exit_code: 4 } })
  })

  test('the shim itself, told to end by TERM, ends its command; HUP and INT are not meant for it', async () => {
    await using b = await shimBed()
    const s = await b.start(['sleep', '600'])
    process.kill(s.process.shim.pid, 'SIGHUP')
    process.kill(s.process.shim.pid, 'SIGINT')
    process.kill(s.process.shim.pid, 'SIGTERM')
    const ended = await waitShim(s.dir)
    expect(ended).toMatchObject({ state: 'ended', exit: { signal: 'SIGTERM', stopped: { by: 'SIGTERM-to-its-shim' } } })
    expect(isAlive(s.process)).toBe(false)
  })

  test('several who stop it at once, gently and by force, agree on one end', async () => {
    await using b = await shimBed()
    const s = await b.start(['perl', '-e', '$SIG{TERM} = "IGNORE"; syswrite STDOUT, "up\\n"; sleep 600 while 1'])
    await until('it is deaf', () => existsSync(s.log) && readFileSync(s.log, 'utf8').includes('up'))
    const ends = await Promise.all([
      stopShim(s.dir, { by: 'one', graceMs: 600_000 }),
      stopShim(s.dir, { by: 'two', graceMs: 600_000 }),
      stopShim(s.dir, { by: 'three', graceMs: 0, force: true }),
    ])
    expect(new Set(ends.map((e) => JSON.stringify(e))).size).toBe(1)
    expect(ends[0]).toMatchObject({ state: 'ended', exit: { signal: 'SIGKILL', stopped: { forced: true } } })
    // Afterwards there is nothing to be stopped, and nothing is.
    expect(await stopShim(s.dir, { by: 'late', graceMs: 0 })).toEqual(ends[0])
  })

  test('a killed shim leaves its command; stop finds and ends that', async () => {
    await using b = await shimBed()
    const s = await b.start(['/bin/sh', '-c', `sleep 600 & echo $! > ${b.dir}/child; wait`])
    const child = await pidIn(b, 'child')
    process.kill(s.process.shim.pid, 'SIGKILL')
    expect(await waitShim(s.dir)).toMatchObject({ state: 'orphaned', process: { pid: s.process.pid } })
    expect(isAlive(child)).toBe(true)
    expect(await stopShim(s.dir, { by: 'me', graceMs: 5000 })).toMatchObject({ state: 'lost' })
    expect(isAlive(child)).toBe(false)
    expect(existsSync(join(s.dir, 'exit.json'))).toBe(false) // nobody saw how it ended, and nobody says so
  })
})

test('what left the group of a killed shim’s command is found by its mark, and ended too', async () => {
  await using b = await shimBed()
  const daemon = `setsid -f sh -c 'echo $$ > ${b.dir}/daemon; exec sleep 600' </dev/null >/dev/null 2>&1`
  const s = await b.start(['/bin/sh', '-c', `${daemon}; while :; do sleep 600; done`])
  const away = await pidIn(b, 'daemon')
  process.kill(s.process.shim.pid, 'SIGKILL')
  process.kill(-s.process.pid, 'SIGKILL')
  await until('the group is gone', () => identify(s.process.pid) === undefined)
  expect(shimState(s.dir)).toMatchObject({ state: 'orphaned' })
  expect(await stopShim(s.dir, { by: 'me', graceMs: 5000 })).toMatchObject({ state: 'lost' })
  expect(isAlive(away)).toBe(false)
})

/** A user of nobody's, whose processes are counted alone: the bomb goes off inside its own limit, not the machine's. */
const asNobodyElse = (uid: number, processes: number) => [
  'setpriv',
  `--reuid=${uid}`,
  `--regid=${uid}`,
  '--clear-groups',
  '--',
  'prlimit',
  `--nproc=${processes}:${processes}`,
  '--',
]
const bombs = {
  'in its group': ['perl', '-e', 'fork while 1'],
  'whose first process is gone': ['perl', '-e', '$SIG{TERM} = "IGNORE"; exit if fork; fork while 1'],
  'deaf, in a session each': [
    'perl',
    '-MPOSIX=setsid',
    '-e',
    '$SIG{TERM} = "IGNORE"; while (1) { setsid if defined(my $p = fork) && !$p }',
  ],
} as const

describe.runIf(root)('a fork bomb', { timeout: 600_000 }, () => {
  let uid = 54_300 + (process.pid % 1000) * 10

  test.for(Object.entries(bombs))('%s is ended by stop --force', async ([, bomb], { expect }) => {
    await using b = await shimBed()
    const s = await b.start([...asNobodyElse(uid++, 120), ...bomb], { kill_grace_ms: 60_000 })
    await until('it has gone off', () => b.living().length > 60)
    const ended = await stopShim(s.dir, { by: 'me', graceMs: 0, force: true })
    expect(ended.state).toBe('ended')
    expect(b.living()).toEqual([])
  })

  test.for(Object.entries(bombs))('%s is ended by its timeout', async ([name, bomb], { expect }) => {
    await using b = await shimBed()
    const { exit } = await b.run([...asNobodyElse(uid++, 120), ...bomb], { timeout_ms: 700, kill_grace_ms: 200 })
    expect(b.living()).toEqual([])
    // The second one's first process is done long before the timeout; what it left ends as what a command leaves does.
    if (name === 'whose first process is gone') expect(exit).toMatchObject({ exit_code: 0 })
    else expect(exit).toMatchObject({ timed_out: true, exit_code: null })
  })
})

test('nothing but the command’s own is ended', async () => {
  await using b = await shimBed()
  const neighbour = spawn('sleep', ['600'], { detached: true, stdio: 'ignore', env: { VMSPOOL_GROUP: 'of-another' } })
  const id = identify(neighbour.pid!) as ProcessIdentity
  try {
    const other = await b.start(['sleep', '600'])
    const s = await b.start(['sleep', '600'])
    await stopShim(s.dir, { by: 'me', graceMs: 0, force: true })
    expect(isAlive(id)).toBe(true)
    expect(shimState(other.dir).state).toBe('running')
  } finally {
    await endGroup(id, 0)
  }
})
