// What a command writes is in its log byte for byte, whatever it writes and however much; what it is given reaches it unchanged.
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { execa } from 'execa'
import { describe, expect, test } from 'vitest'
import { shimState, waitShim } from '../../src/process/index.ts'
import { flood } from '../support/flood.ts'
import { shimBed, streamsOf, wholeLog } from '../support/shim.ts'
import { until } from '../support/wait.ts'

const root = process.geteuid?.() === 0
const sha = (b: Buffer) => createHash('sha256').update(b).digest('hex')

describe.concurrent('output', { timeout: 600_000 }, () => {
  test.for([1e9, 300_000])('binary, of both streams, in parts of %s bytes', async (max_bytes, { expect }) => {
    await using b = await shimBed()
    // Every byte, line ends, what looks like a mark, no newline at the end.
    const mark = Buffer.from('\n2026-11-21T10:00:00.000Z stderr F no mark\n\n\r\n')
    const out = Buffer.concat([
      randomBytes(1_500_000),
      mark,
      Buffer.alloc(200_000, 10),
      randomBytes(100_000),
      Buffer.from('x'),
    ])
    const err = Buffer.concat([mark, randomBytes(900_000), Buffer.from([0, 255, 10])])
    writeFileSync(join(b.dir, 'out'), out)
    writeFileSync(join(b.dir, 'err'), err)
    const { exit, log } = await b.run(['/bin/sh', '-c', `cat ${b.dir}/out & cat ${b.dir}/err >&2; wait`], {
      log: { path: join(b.dir, 'log'), max_bytes, max_age_ms: 0, total_bytes: 1e9 },
    })
    expect(exit).toMatchObject({ exit_code: 0 })
    const streams = streamsOf(wholeLog(log))
    expect([sha(streams.stdout), sha(streams.stderr), streams.agent.length]).toEqual([sha(out), sha(err), 0])
    expect(readdirSync(b.dir).filter((f) => /^log\.\d+/.test(f)).length > 5).toBe(max_bytes < 1e6)
  })

  test('what is in the pipe when the command ends is not lost, and a stranger who holds the pipe delays nothing', async () => {
    await using b = await shimBed()
    // The pipe is made as large as it goes and filled while the shim is stopped.
    const fill = `fcntl(STDOUT, 1031, 1048576); syswrite STDERR, "up\\n"; sleep 0.01 until -e "${b.dir}/go"; print "x" x 1048000, "\\nlast"`
    const s = await b.start(['perl', '-e', fill])
    await until('it is up', () => existsSync(s.log) && readFileSync(s.log, 'utf8').includes('up'))
    process.kill(s.process.shim.pid, 'SIGSTOP')
    const held = await execa('sh', ['-c', `sleep 600 > /proc/${s.process.pid}/fd/1 & echo $!`], {
      stdin: 'ignore',
      stderr: 'ignore',
    }).then(
      (r) => Number(r.stdout),
      () => 0,
    )
    writeFileSync(join(b.dir, 'go'), '')
    await until('it has ended', () => / Z /.test(readFileSync(`/proc/${s.process.pid}/stat`, 'utf8')))
    process.kill(s.process.shim.pid, 'SIGCONT')
    try {
      expect(await waitShim(s.dir)).toMatchObject({ state: 'ended', exit: { exit_code: 0 } })
      const { stdout } = streamsOf(wholeLog(s.log))
      expect([stdout.length, stdout.subarray(-5).toString()]).toEqual([1_048_005, '\nlast'])
      expect(held).toBeGreaterThan(0)
      expect(existsSync(`/proc/${held}`)).toBe(true)
    } finally {
      if (held > 0) process.kill(held, 'SIGKILL')
    }
  })

  test.for(['lines', 'one line', 'newlines'] as const)(
    'a flood of %s costs neither memory nor disk',
    async (kind, { expect }) => {
      const f = await flood(kind, kind === 'newlines' ? 1e6 : 100e6)
      expect(f.exit).toMatchObject({ exit_code: 0, signal: null })
      expect(f.peakMiB).toBeLessThan(48)
      expect(f.mostOnDisk).toBeLessThan(f.bound)
      expect(f.problem).toBeUndefined()
    },
  )
})

describe.concurrent('what a command is given', { timeout: 600_000 }, () => {
  test('standard input: a file, or nothing', async () => {
    await using b = await shimBed()
    const bytes = randomBytes(300_000)
    writeFileSync(join(b.dir, 'in'), bytes)
    const { log } = await b.run(['cat'], { stdin: join(b.dir, 'in') })
    expect(sha(streamsOf(wholeLog(log)).stdout)).toBe(sha(bytes))
    const none = await b.run(['/bin/sh', '-c', 'wc -c; readlink /proc/self/fd/0'])
    expect(streamsOf(wholeLog(none.log)).stdout.toString()).toBe('0\n/dev/null\n')
  })

  const ours = ['VMSPOOL_GROUP', 'VMSPOOL_TEST_BED']
  async function environmentOf(env: Record<string, string | undefined>): Promise<Map<string, string>> {
    await using b = await shimBed()
    const { exit, log } = await b.run(['/bin/cat', '/proc/self/environ'], { env })
    expect(exit).toMatchObject({ exit_code: 0 })
    const words = streamsOf(wholeLog(log)).stdout.toString().split('\0').slice(0, -1)
    return new Map(words.map((w) => [w.slice(0, w.indexOf('=')), w.slice(w.indexOf('=') + 1)]))
  }

  test('an empty environment, but for what marks its processes', async () => {
    const nothing = Object.fromEntries(Object.keys(process.env).map((name) => [name, undefined]))
    expect([...(await environmentOf(nothing)).keys()].sort()).toEqual(ours)
  })

  test('odd names and values, and a megabyte of them', async () => {
    const odd = {
      'a b-c.d': '',
      NEWLINES: '\n\r\n\n',
      UTF8: 'äöü 🦀 \u0001\u007f',
      EQUALS: '=a=b=',
      QUOTES: `'"\\$x\``,
      PATH: '/bin',
    }
    const many = Object.fromEntries(Array.from({ length: 10 }, (_, i) => [`BIG_${i}`, String(i).repeat(100_000)]))
    const few = Object.fromEntries(Array.from({ length: 2000 }, (_, i) => [`SMALL_${i}`, `${i}`]))
    const seen = await environmentOf({ ...odd, ...many, ...few })
    for (const [name, value] of Object.entries({ ...odd, ...many, ...few }))
      expect([name, seen.get(name)]).toEqual([name, value])
  })

  test('arguments up to the limit of the system, byte for byte; over it nothing starts, and that is said', async () => {
    await using b = await shimBed()
    const odd = ['', ' ', '-', '--', '\n', '$HOME', '`x`', '*', 'ä🦀', '\u0001', "'", '"', '\\']
    const large = Array.from({ length: 9 }, (_, i) => String(i).repeat(131_071))
    const { log } = await b.run(['perl', '-e', 'print join "\\0", @ARGV', '--', ...odd, ...large])
    expect(streamsOf(wholeLog(log)).stdout.toString().split('\0')).toEqual([...odd, ...large])
    await expect(b.run(['echo', 'x'.repeat(131_072)])).rejects.toThrow(/E2BIG/)
    const env = Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`BIG_${i}`, 'x'.repeat(100_000)]))
    const refused = await b.run(['true'], { env })
    expect(refused.exit).toMatchObject({ exit_code: null, spawn_error: { step: 'exec', errno: 7 } })
  })

  test('no descriptor but its own three', async () => {
    await using b = await shimBed()
    const s = b.spec(['/bin/sh', '-c', 'ls -l /proc/self/fd'])
    const code = `import { startShim, waitShim } from '${join(import.meta.dirname, '../../src/process/index.ts')}'
      await startShim(${JSON.stringify(s)}); await waitShim(${JSON.stringify(s.dir)})`
    // Started by somebody who holds more, as a shell does under flock(1).
    await execa('bash', [
      '-c',
      'exec 7>"$1/lock" 200>&7; exec "$2" --input-type=module -e "$3"',
      'sh',
      b.dir,
      process.execPath,
      code,
    ])
    const open = readFileSync(s.log.path, 'utf8').match(/ (\d+) -> .*/g)
    expect(open?.map((l) => l.trim().split(' ')[0])).toEqual(['0', '1', '2', '3']) // 3: the folder that ls reads
  })
})

/** A file system of its own, of that many KiB. */
async function tmpfs(path: string, kib: number): Promise<AsyncDisposable> {
  mkdirSync(path)
  await execa('mount', ['-t', 'tmpfs', '-o', `size=${kib}k`, 'tmpfs', path])
  return { [Symbol.asyncDispose]: async () => void (await execa('umount', [path])) }
}
/** It sleeps, and nothing is left to read in its pipes: what came is dealt with. */
function waits(pid: number): boolean {
  return /\) S /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
}
function fill(path: string): void {
  for (let size = 1 << 20; size >= 1; size >>= 1) {
    for (let room = true; room; ) {
      try {
        writeFileSync(path, Buffer.alloc(size), { flag: 'a' })
      } catch (error) {
        expect((error as NodeJS.ErrnoException).code).toBe('ENOSPC')
        room = false
      }
    }
  }
}

describe.runIf(root)('a full disk', { timeout: 600_000 }, () => {
  const numbered = 'my $l = "." x 90; syswrite STDOUT, sprintf("%08d %s\\n", $_, $l) for 1..8000;'
  // until the shim has read it all (FIONREAD of the pipe), which is before it waits for more
  const read =
    'my $n = pack "i", 1; while (unpack("i", $n) > 0) { ioctl STDOUT, 0x541B, $n; select undef, undef, undef, 0.001 }'
  test('under the log: the command goes on, and what is missing is said where it is missing', async () => {
    await using b = await shimBed()
    await using _disk = await tmpfs(join(b.dir, 'disk'), 512)
    const log = join(b.dir, 'disk/log')
    writeFileSync(join(b.dir, 'disk/ballast'), Buffer.alloc(100_000))
    const script = `${numbered} ${read} open F, ">", "${b.dir}/written"; close F; select undef, undef, undef, 0.01 until -e "${b.dir}/go"; print "after\\n"; exit 9`
    const s = await b.start(['perl', '-e', script], {
      log: { path: log, max_bytes: 1e9, max_age_ms: 0, total_bytes: 2e9 },
    })
    await until('all is written', () => existsSync(join(b.dir, 'written')) && waits(s.process.shim.pid))
    rmSync(join(b.dir, 'disk/ballast'))
    writeFileSync(join(b.dir, 'go'), '')
    expect(await waitShim(s.dir)).toMatchObject({ state: 'ended', exit: { exit_code: 9 } })
    const { stdout, agent } = streamsOf(readFileSync(log))
    const said = /^(\d+) bytes of output could not be written here: No space left on device\n$/.exec(agent.toString())
    expect(said).not.toBeNull()
    const lines = stdout.toString().split('\n')
    expect(lines.slice(-2)).toEqual(['after', ''])
    const kept = lines.slice(0, -2)
    const cut = kept.findLastIndex((l) => l.length === 99) + 1
    expect(kept.slice(0, cut).map((l) => Number(l.slice(0, 8)))).toEqual(Array.from({ length: cut }, (_, i) => i + 1))
    expect(kept.length - cut).toBeLessThanOrEqual(1) // the line in which the disk was full
    // Written and not written are together what the command wrote, but for the marks of the piece in which it happened.
    const missing = 8000 * 100 - stdout.length + 'after\n'.length
    expect(Math.abs(Number(said![1]) - missing)).toBeLessThan(65_536)
    expect(cut).toBeGreaterThan(1000)
  })

  test('under the log until the end: the last thing it says is what is missing', async () => {
    await using b = await shimBed()
    await using _disk = await tmpfs(join(b.dir, 'disk'), 256)
    const log = join(b.dir, 'disk/log')
    const script = `${numbered} ${read} open F, ">", "${b.dir}/written"; close F; select undef, undef, undef, 0.01 until -e "${b.dir}/go"`
    const s = await b.start(['perl', '-e', script], {
      log: { path: log, max_bytes: 1e9, max_age_ms: 0, total_bytes: 2e9 },
    })
    await until('all is written', () => existsSync(join(b.dir, 'written')) && waits(s.process.shim.pid))
    await execa('mount', ['-o', 'remount,size=512k', join(b.dir, 'disk')])
    writeFileSync(join(b.dir, 'go'), '')
    expect(await waitShim(s.dir)).toMatchObject({ state: 'ended', exit: { exit_code: 0 } })
    expect(readFileSync(log, 'utf8')).toMatch(
      /\n\S+ agent F \d+ bytes of output could not be written here: No space left on device\n$/,
    )
  })

  test('under its record: it waits for room, and says nothing untrue meanwhile', async () => {
    await using b = await shimBed()
    await using _disk = await tmpfs(join(b.dir, 'disk'), 256)
    const dir = join(b.dir, 'disk/run')
    const s = await b.start(['/bin/sh', '-c', `while ! [ -e ${b.dir}/go ]; do sleep 0.01; done; exit 6`], { dir })
    fill(join(b.dir, 'disk/ballast'))
    writeFileSync(join(b.dir, 'go'), '')
    await until('the record was tried', () => existsSync(join(dir, 'exit.json.tmp')))
    expect(shimState(dir)).toMatchObject({ state: 'running' })
    expect(statSync(join(dir, 'exit.json.tmp')).size).toBe(0)
    rmSync(join(b.dir, 'disk/ballast'))
    expect(await waitShim(dir)).toMatchObject({
      state: 'ended',
      exit: { exit_code: 6 },
      process: { pid: s.process.pid },
    })
  })

  test('from the beginning: what cannot be written down is not started', async () => {
    await using b = await shimBed()
    await using _disk = await tmpfs(join(b.dir, 'disk'), 64)
    const dir = join(b.dir, 'disk/run')
    mkdirSync(dir)
    fill(join(b.dir, 'disk/ballast'))
    const starting = b.run(['touch', join(b.dir, 'ran')], { dir })
    await until('it was refused', () => existsSync(join(dir, 'exit.json.tmp')))
    rmSync(join(b.dir, 'disk/ballast'))
    expect((await starting).exit).toMatchObject({ exit_code: null, spawn_error: { step: 'record', errno: 28 } })
    expect(existsSync(join(b.dir, 'ran'))).toBe(false)
  })
})

test('a log that cannot be opened is opened when it can be', async () => {
  await using b = await shimBed()
  const path = join(b.dir, 'later/log')
  const waitFor = (name: string) => `while ! [ -e ${b.dir}/${name} ]; do sleep 0.01; done`
  const script = `${waitFor('gone')}; echo one; touch ${b.dir}/written; ${waitFor('later')}; echo two`
  const s = await b.start(['/bin/sh', '-c', script], { log: { path, max_bytes: 1e9, max_age_ms: 0, total_bytes: 2e9 } })
  rmdirSync(join(b.dir, 'later')) // made for the log, which is opened when there is something to write
  writeFileSync(join(b.dir, 'gone'), '')
  await until('the first is read', () => existsSync(join(b.dir, 'written')) && waits(s.process.shim.pid))
  mkdirSync(join(b.dir, 'later'))
  expect(await waitShim(s.dir)).toMatchObject({ state: 'ended', exit: { exit_code: 0 } })
  const { stdout, agent } = streamsOf(readFileSync(path))
  expect(stdout.toString()).toBe('two\n')
  expect(agent.toString()).toBe('4 bytes of output could not be written here: No such file or directory\n')
})
