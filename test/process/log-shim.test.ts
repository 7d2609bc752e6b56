// The shim and the agent write the same log: the same bytes in the same files, and each goes on where the other ended.
import { appendFile, link, readdir, readFile, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { startShim, waitShim } from '../../src/process/index.ts'
import { logFilesOf } from '../../src/process/log-files.ts'
import { openLogWriter } from '../../src/process/log-writer.ts'
import { contentOf, logParts } from '../support/log-files.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

interface Limits {
  max_bytes: number
  max_age_ms: number
  total_bytes: number
}
const large = { max_bytes: 1 << 30, max_age_ms: 0, total_bytes: 1 << 30 }

async function underShim(dir: string, script: string, limits: Limits): Promise<void> {
  const at = join(dir, `run-${Math.random().toString(16).slice(2)}`)
  const started = await startShim({
    dir: at,
    argv: ['/usr/bin/perl', '-e', script],
    cwd: dir,
    env: {},
    log: { path: join(dir, 'log'), ...limits },
    kill_grace_ms: 1000,
  })
  expect(started).toHaveProperty('process')
  expect(await waitShim(at, {})).toMatchObject({ state: 'ended', exit: { exit_code: 0 } })
}

/** All of both streams in lines of every kind: empty, long, binary, without an end, in UTF-16. */
const talk = `$| = 1; binmode STDOUT; binmode STDERR;
  for my $i (1 .. 900) {
    print STDOUT "line $i\\n\\n", pack('C*', map { ($_ * $i) & 255 } 0 .. 200);
    print STDERR "no end $i", $i % 7 ? "\\n" : '', $i % 11 ? '' : 'x' x 3000;
    print STDOUT map { pack 'v', ord } split //, "wide $i\\n";
    select undef, undef, undef, 0.002 if $i % 20 == 0;
  }`

/** What that wrote, from a second run without a log. */
async function spoken(stream: 'stdout' | 'stderr'): Promise<Buffer> {
  const { execFile } = await import('node:child_process')
  return new Promise((resolve, reject) => {
    execFile('/usr/bin/perl', ['-e', talk], { encoding: 'buffer', maxBuffer: 1 << 26 }, (error, out, err) =>
      error ? reject(error) : resolve(stream === 'stdout' ? out : err),
    )
  })
}

test('both writers make the same files of the same chunks, byte for byte', async () => {
  await using dir = await tempDir()
  await underShim(dir.path, talk, { ...large, max_bytes: 10_000 })
  const byShim = await logParts(join(dir.path, 'log'))
  expect(byShim.length).toBeGreaterThan(3)
  expect(byShim.slice(0, -1).every((p) => p.name.endsWith('.gz'))).toBe(true)
  const all = Buffer.concat(byShim.map((p) => p.bytes))
  for (const stream of ['stdout', 'stderr'] as const)
    expect(contentOf(all, stream).equals(await spoken(stream))).toBe(true)

  await using mine = await tempDir()
  let now = 0
  const writer = openLogWriter({
    files: logFilesOf(join(mine.path, 'log')),
    limits: { ...large, max_bytes: 10_000 },
    now: () => now,
    onError: (e) => expect.unreachable(String(e)),
  })
  for (const c of byShim.flatMap((p) => chunksOf(p.bytes))) {
    now = Date.parse(c.time)
    writer.write(c.stream, c.bytes)
    await writer.close()
  }
  const byUs = await logParts(join(mine.path, 'log'))
  expect(byUs.map((p) => p.name)).toEqual(byShim.map((p) => p.name))
  for (const [i, part] of byUs.entries()) expect(part.bytes.equals(byShim[i]!.bytes), part.name).toBe(true)
})

/** The chunks that a part was made of: what has one time and one stream, up to what has no end. */
function chunksOf(part: Buffer): { time: string; stream: 'stdout' | 'stderr'; bytes: Buffer }[] {
  const chunks: { time: string; stream: 'stdout' | 'stderr'; bytes: Buffer; ended: boolean }[] = []
  for (let at = 0; at < part.length; ) {
    const end = part.indexOf(10, at)
    const line = part.subarray(at, end)
    at = end + 1
    const time = line.toString('latin1', 0, 24)
    const stream = line.toString('latin1', 25, 31) as 'stdout' | 'stderr'
    const full = line[32] === 70
    const content = Buffer.concat([line.subarray(34), Buffer.from(full ? '\n' : '')])
    const last = chunks.at(-1)
    if (last && !last.ended && last.time === time && last.stream === stream)
      Object.assign(last, { bytes: Buffer.concat([last.bytes, content]), ended: !full })
    else chunks.push({ time, stream, bytes: content, ended: !full })
  }
  return chunks
}

test('each goes on where the other ended, also behind a line that was cut off', async () => {
  await using dir = await tempDir()
  const path = join(dir.path, 'log')
  const limits = { ...large, max_bytes: 500 }
  const say = async (i: number): Promise<void> => {
    const writer = openLogWriter({ files: logFilesOf(path), limits, onError: (e) => expect.unreachable(String(e)) })
    for (let j = 0; j < 20; j++) writer.write('stderr', Buffer.from(`ours ${i} ${j}\n`))
    await writer.close()
  }
  let wanted = ''
  for (let i = 0; i < 3; i++) {
    await say(i)
    for (let j = 0; j < 20; j++) wanted += `ours ${i} ${j}\n`
    await underShim(dir.path, `for (0 .. 19) { print STDERR "its ${i} $_\\n" }`, limits)
    for (let j = 0; j < 20; j++) wanted += `its ${i} ${j}\n`
  }
  const parts = await logParts(path)
  expect(contentOf(Buffer.concat(parts.map((p) => p.bytes)), 'stderr').toString()).toBe(wanted)
  expect(parts.map((p) => p.name)).toEqual([...parts.slice(1).map((_, i) => `log.${i + 1}.gz`), 'log'])

  await appendFile(path, '2026-11-21T10:00:00.000Z stderr F cut o')
  await underShim(dir.path, 'print "whole\\n"', large)
  await appendFile(path, '2026-11-21T10:00:0')
  await say(9)
  const text = Buffer.concat((await logParts(path)).map((p) => p.bytes))
    .toString()
    .split('\n')
  expect(text).toContainEqual('2026-11-21T10:00:00.000Z stderr F cut o')
  expect(text).toContainEqual(expect.stringMatching(/^\S{24} stdout F whole$/))
  expect(text).toContainEqual('2026-11-21T10:00:0')
  expect(text).toContainEqual(expect.stringMatching(/^\S{24} stderr F ours 9 0$/))
})

test('a part that ended in the middle of a line is ended by who rotates it: no two lines become one', async () => {
  for (const who of ['shim', 'agent']) {
    await using dir = await tempDir()
    const path = join(dir.path, 'log')
    await writeFile(
      path,
      `2026-11-21T10:00:00.000Z stdout F ${'x'.repeat(600)}\n2026-11-21T10:00:00.000Z stderr F cut o`,
    )
    const limits = { ...large, max_bytes: 500 }
    if (who === 'shim') await underShim(dir.path, 'print STDERR "whole\\n"', limits)
    else {
      const writer = openLogWriter({ files: logFilesOf(path), limits, onError: (e) => expect.unreachable(String(e)) })
      writer.write('stderr', Buffer.from('whole\n'))
      await writer.close()
    }
    const parts = await logParts(path)
    expect(parts.map((p) => p.name)).toEqual(['log.1.gz', 'log'])
    expect(contentOf(Buffer.concat(parts.map((p) => p.bytes)), 'stderr').toString(), who).toBe('cut o\nwhole\n')
  }
})

test('a command whose log has no folder yet loses no word', async () => {
  await using dir = await tempDir()
  const path = join(dir.path, 'jobs/x/log')
  const at = join(dir.path, 'run')
  const log = { path, ...large }
  await startShim({ dir: at, argv: ['/bin/echo', 'begun'], cwd: dir.path, env: {}, log, kill_grace_ms: 1000 })
  await waitShim(at, {})
  expect(await readFile(path, 'utf8')).toMatch(/^\S{24} stdout F begun\n$/)
})

test('the shim rotates what is older than it may be, by the time of the first line', async () => {
  await using dir = await tempDir()
  const path = join(dir.path, 'log')
  const hour = { ...large, max_age_ms: 3_600_000 }
  await writeFile(path, `${new Date(Date.now() - 3_500_000).toISOString()} agent F begun\n`)
  await underShim(dir.path, 'print "a\\n"', hour)
  expect((await logParts(path)).map((p) => p.name)).toEqual(['log'])
  await writeFile(path, `${new Date(Date.now() - 3_700_000).toISOString()} agent F begun\n`)
  await underShim(dir.path, 'print "a\\n"', hour)
  const parts = await logParts(path)
  expect(parts.map((p) => p.name)).toEqual(['log.1.gz', 'log'])
  expect(parts[0]!.bytes.toString()).toMatch(/^\S+ agent F begun\n$/)
})

test('the total is kept, the newest stay, and what an agent is just appending is not lost', async () => {
  await using dir = await tempDir()
  const path = join(dir.path, 'log')
  // An agent has the file open under its second name, and writes when the file has been rotated already.
  await writeFile(path, `${new Date().toISOString()} agent F begun\n`)
  const guard = join(dir.path, `.log.w-${Date.now()}-1-x`)
  await link(path, guard)
  const noise = 'for my $i (1 .. 3000) { print map { chr 33 + rand 90 } 1 .. 100; print "\\n" }'
  const running = underShim(dir.path, noise, { max_bytes: 20_000, max_age_ms: 0, total_bytes: 100_000 })
  await until('the log is rotated', async () => (await readdir(dir.path)).includes('log.1'))
  await appendFile(guard, `${new Date().toISOString()} agent F late\n`)
  const first = await readFile(guard)
  await unlink(guard)
  await running
  expect(first.toString()).toContain(' agent F late\n')
  const parts = await logParts(path)
  const numbers = parts.slice(0, -1).map((p) => Number(/\d+/.exec(p.name)?.[0]))
  expect(numbers[0]).toBeGreaterThan(1)
  expect(numbers).toEqual(numbers.map((_, i) => numbers[0]! + i))
  let sum = 0
  for (const name of await readdir(dir.path)) {
    if (name.startsWith('log')) sum += (await readFile(join(dir.path, name))).length
  }
  // The sum, a part that is not compressed yet beside its archive, and what comes of one read; without a bound it would be 345 000.
  expect(sum).toBeLessThan(100_000 + 2 * 20_000 + 1.4 * 65_536)
})
