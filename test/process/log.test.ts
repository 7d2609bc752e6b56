// Writing and reading a log that is rotated: nothing is lost, doubled or out of order, whoever is killed when.
import { type ChildProcess, spawn } from 'node:child_process'
import { appendFile, readdir, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { logFilesOf } from '../../src/process/log-files.ts'
import { type LogPiece, logParser, markChunk, markWords } from '../../src/process/log-format.ts'
import { type LogNotice, type LogReader, openLogReader } from '../../src/process/log-reader.ts'
import { startOfLast } from '../../src/process/log-tail.ts'
import { type LogLimits, type LogWriter, openLogWriter } from '../../src/process/log-writer.ts'
import { contentOf, logParts } from '../support/log-files.ts'
import { watchFlood } from './log-flood.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const time = '2026-11-21T10:00:00.000Z'
const small: LogLimits = { max_bytes: 2_000, max_age_ms: 0, total_bytes: 1 << 30 }

function writerOf(path: string, limits = small, now?: () => number): LogWriter {
  return openLogWriter({
    files: logFilesOf(path),
    limits,
    ...(now ? { now } : {}),
    onError: (e) => expect.unreachable(String(e)),
  })
}

/** What a reader gives now: content of the lines and what it says beside them. */
function follower(reader: LogReader) {
  const parser = logParser()
  let text = Buffer.alloc(0)
  const notices: LogNotice[] = []
  return {
    notices,
    [Symbol.asyncDispose]: () => reader.close(),
    async look(): Promise<string> {
      for await (const next of reader.read()) {
        const pieces = Buffer.isBuffer(next) ? parser.push(next) : parser.end()
        if (!Buffer.isBuffer(next)) notices.push(next)
        text = Buffer.concat([text, joined(pieces)])
      }
      const now = text.toString('latin1')
      text = Buffer.alloc(0)
      return now
    },
  }
}

function joined(pieces: readonly LogPiece[]): Buffer {
  return Buffer.concat(pieces.flatMap((p) => [p.bytes, Buffer.from(p.newline ? '\n' : '')]))
}

const numbered = (from: number, to: number, pad = ''): string => {
  let text = ''
  for (let i = from; i < to; i++) text += `line ${i} ${pad}\n`
  return text
}

describe('the format', () => {
  test('gives back every byte of every stream, however it is cut into chunks and reads', () => {
    let seed = 7
    const random = (below: number): number => {
      seed = (seed * 1103515245 + 12345) % 2 ** 31
      return Math.floor((seed / 2 ** 31) * below)
    }
    for (let round = 0; round < 60; round++) {
      const said = { stdout: Buffer.alloc(0), stderr: Buffer.alloc(0), agent: Buffer.alloc(0) }
      const log: Buffer[] = []
      for (let i = 0; i < 40; i++) {
        const stream = (['stdout', 'stderr', 'agent'] as const)[random(3)]!
        const chunk = Buffer.from(
          Array.from({ length: random(60) }, () => [10, 0, 255, 32, 70, random(256)][random(6)]!),
        )
        said[stream] = Buffer.concat([said[stream], chunk])
        log.push(markChunk(stream, chunk, time))
      }
      const all = Buffer.concat(log)
      const parser = logParser()
      const pieces: LogPiece[] = []
      for (let at = 0; at < all.length; ) {
        const n = 1 + random(50)
        pieces.push(...parser.push(all.subarray(at, at + n)).map((p) => ({ ...p, bytes: Buffer.from(p.bytes) })))
        at += n
      }
      pieces.push(...parser.end())
      expect(pieces.every((p) => p.time === time)).toBe(true)
      for (const stream of ['stdout', 'stderr', 'agent'] as const) {
        expect(joined(pieces.filter((p) => p.stream === stream)).equals(said[stream])).toBe(true)
        expect(contentOf(all, stream).equals(said[stream])).toBe(true)
      }
    }
  })

  test('is the one of Kubernetes', () => {
    expect(markChunk('stdout', Buffer.from('a\n\nb'), time).toString()).toBe(
      `${time} stdout F a\n${time} stdout F \n${time} stdout P b\n`,
    )
    expect(markWords('two\nlines\n', time).toString()).toBe(`${time} agent F two\n${time} agent F lines\n`)
    expect(markChunk('stderr', Buffer.alloc(0), time)).toHaveLength(0)
  })

  test('what has no marks comes as it is, and of a mark that was cut off nothing', () => {
    const read = (text: string) => {
      const parser = logParser()
      return [...parser.push(Buffer.from(text, 'latin1')), ...parser.end()].map((p) => [
        p.stream,
        p.bytes.toString('latin1'),
        p.newline,
      ])
    }
    expect(read('2026-11-21T10:00:00.000Z vmspool: begun\n\nout \xff\n2026-11')).toEqual([
      [undefined, '2026-11-21T10:00:00.000Z vmspool: begun', true],
      [undefined, '', true],
      [undefined, 'out \xff', true],
      [undefined, '2026-11', false],
    ])
    expect(read(`old\n${time} stdout F a\n2026-11-21T10:0\n${time} stderr P b\n${time} std`)).toEqual([
      [undefined, 'old', true],
      ['stdout', 'a', true],
      ['stderr', 'b', false],
    ])
  })
})

describe('rotation', () => {
  test('numbered lines over many parts, followed while they are written: all of them, once, in order', async () => {
    await using dir = await tempDir()
    const path = join(dir.path, 'log')
    const writer = writerOf(path, { ...small, max_bytes: 20_000 })
    await using near = follower(openLogReader(logFilesOf(path)))
    await using far = follower(openLogReader(logFilesOf(path)))
    const followers = [near, far]
    const seen = ['', '']
    let over = false
    const following = followers.map(async (f, i) => {
      while (!over) {
        seen[i] += await f.look()
        // One keeps up with the writer, the other finds several parts at once.
        await sleep(i * 40)
      }
      seen[i] += await f.look()
    })
    for (let i = 0; i < 20_000; i += 100) await writer.write('stdout', Buffer.from(numbered(i, i + 100)))
    await writer.close()
    over = true
    await Promise.all(following)
    const wanted = numbered(0, 20_000)
    expect(seen[0] === wanted).toBe(true)
    expect(seen[1] === wanted).toBe(true)
    expect(followers.map((f) => f.notices)).toEqual([[], []])
    const parts = await logParts(path)
    expect(parts.length).toBeGreaterThan(30)
    expect(parts.map((p) => p.name)).toEqual([...parts.slice(1).map((_, i) => `log.${i + 1}.gz`), 'log'])
    expect(parts.every((p) => p.bytes.at(-1) === 10)).toBe(true)
    expect((await readdir(dir.path)).filter((n) => n.startsWith('.'))).toEqual([])
  })

  test('several writers at once, which all rotate, lose nothing of each other', async () => {
    await using dir = await tempDir()
    const path = join(dir.path, 'log')
    await Promise.all(
      [0, 1, 2].map(async (w) => {
        const writer = writerOf(path, { ...small, max_bytes: 5_000 })
        for (let i = 0; i < 1500; i += 25) {
          await writer.write(w === 0 ? 'stderr' : 'stdout', Buffer.from(numbered(i, i + 25, `of ${w}`)))
          await writer.flush()
        }
        await writer.close()
      }),
    )
    const parts = await logParts(path)
    const text = contentOf(Buffer.concat(parts.map((p) => p.bytes)), 'stdout').toString()
    for (const w of [1, 2]) {
      const own = text.split('\n').filter((l) => l.endsWith(`of ${w}`))
      expect(own).toEqual(numbered(0, 1500, `of ${w}`).trimEnd().split('\n'))
    }
    expect(contentOf(Buffer.concat(parts.map((p) => p.bytes)), 'stderr').toString()).toBe(numbered(0, 1500, 'of 0'))
  })

  test('by age, with a clock that is set', async () => {
    await using dir = await tempDir()
    const path = join(dir.path, 'log')
    let now = Date.parse(time)
    const limits = { ...small, max_age_ms: 60_000 }
    const writer = writerOf(path, limits, () => now)
    const say = async (text: string): Promise<void> => {
      writer.write('stdout', Buffer.from(text))
      await writer.close()
    }
    await say('first\n')
    now += 59_999
    await say('young\n')
    now += 1
    await say('second\n')
    now += 59_999
    // Another writer finds the age in the file.
    const other = writerOf(path, limits, () => now)
    other.write('stdout', Buffer.from('still\n'))
    await other.close()
    now += 1
    other.write('stdout', Buffer.from('third\n'))
    await other.close()
    const parts = await logParts(path)
    expect(parts.map((p) => contentOf(p.bytes, 'stdout').toString())).toEqual([
      'first\nyoung\n',
      'second\nstill\n',
      'third\n',
    ])
  })

  test('the total is kept; a reader is told what was removed before it came, and loses nothing of what it has open', async () => {
    await using dir = await tempDir()
    const path = join(dir.path, 'log')
    const limits = { max_bytes: 4_000, max_age_ms: 0, total_bytes: 12_000 }
    const writer = writerOf(path, limits)
    const noise = (): string => Math.random().toString(36).repeat(8)
    await writer.write('stdout', Buffer.from('the very first\n'))
    await writer.flush()
    await using early = follower(openLogReader(logFilesOf(path)))
    expect(await early.look()).toBe('the very first\n')
    await writer.write('stdout', Buffer.from('not read yet\n'))
    for (let i = 0; i < 400; i++) {
      await writer.write('stdout', Buffer.from(`${i} ${noise()}\n`))
      await writer.flush()
    }
    await writer.close()
    let sum = 0
    for (const name of await readdir(dir.path)) sum += (await stat(join(dir.path, name))).size
    expect(sum).toBeLessThan(14_000)
    const numbers = (await logParts(path)).slice(0, -1).map((p) => Number(/\d+/.exec(p.name)?.[0]))
    expect(numbers[0]).toBeGreaterThan(3)

    const rest = await early.look()
    expect(rest.startsWith('not read yet\n0 ')).toBe(true)
    expect(early.notices).toEqual([{ notice: 'removed', from: 2, to: numbers[0]! - 1 }])
    await using late = follower(openLogReader(logFilesOf(path)))
    const what = await late.look()
    expect(late.notices).toEqual([{ notice: 'removed', from: 1, to: numbers[0]! - 1 }])
    expect(rest.endsWith(what)).toBe(true)
    expect(what).toMatch(/\n399 [^\n]*\n$/)
    const lines = what
      .trimEnd()
      .split('\n')
      .map((l) => Number(l.split(' ')[0]))
    expect(lines).toEqual(lines.map((_, i) => lines[0]! + i))
  })

  test('our own words alone rotate nothing: whoever writes the rest does', async () => {
    await using dir = await tempDir()
    const path = join(dir.path, 'log')
    const writer = writerOf(path)
    for (let i = 0; i < 100; i++) writer.write('agent', Buffer.from(`word ${i}`))
    await writer.close()
    expect(await readdir(dir.path)).toEqual(['log'])
    writer.write('stdout', Buffer.from('x'))
    await writer.close()
    expect((await readdir(dir.path)).sort()).toEqual(['log', 'log.1.gz'])
  })
})

describe('a reader', () => {
  test('of a file that is cut or replaced begins anew, and a log that is not there is empty', async () => {
    await using dir = await tempDir()
    const path = join(dir.path, 'log')
    await using f = follower(openLogReader(logFilesOf(path)))
    expect(await f.look()).toBe('')
    await writeFile(path, markChunk('stdout', Buffer.from('one\ntwo\n'), time))
    expect(await f.look()).toBe('one\ntwo\n')
    await truncate(path, 0)
    await appendFile(path, markChunk('stdout', Buffer.from('new\n'), time))
    expect(await f.look()).toBe('new\n')
    // Cut, and longer than before when it is looked at again.
    await writeFile(path, markChunk('stdout', Buffer.from('and now much longer\n'), time))
    expect(await f.look()).toBe('and now much longer\n')
    await writeFile(`${path}x`, markChunk('stdout', Buffer.from('another\n'), time))
    await rename(`${path}x`, path)
    expect(await f.look()).toBe('another\n')
    await rm(path)
    expect(await f.look()).toBe('')
    await writeFile(path, markChunk('stdout', Buffer.from('again\n'), time))
    expect(await f.look()).toBe('again\n')
    expect(f.notices.map((n) => n.notice)).toEqual(['cut', 'cut', 'replaced'])
  })

  test('goes over a part that is damaged, a number that was never used, and both forms of one part', async () => {
    await using dir = await tempDir()
    const path = join(dir.path, 'log')
    const part = (text: string): Buffer => markChunk('stdout', Buffer.from(text), time)
    const zipped = gzipSync(part(numbered(0, 500)))
    await writeFile(`${path}.1.gz`, gzipSync(part('one\n')))
    await writeFile(`${path}.1`, part('one\n'))
    await writeFile(`${path}.2`, '')
    await writeFile(`${path}.3.gz`, zipped.subarray(0, zipped.length / 2))
    await writeFile(`${path}.4`, part('four\n'))
    await writeFile(path, part('five\n'))
    await using f = follower(openLogReader(logFilesOf(path)))
    const text = await f.look()
    expect(text).toMatch(/^one\n(line \d+ \n)*/)
    expect(text).toMatch(/four\nfive\n$/)
    expect(f.notices).toEqual([{ notice: 'damaged', part: 3, why: expect.any(String) }])
    // The next writer ends what was begun.
    const writer = writerOf(path)
    writer.write('stderr', Buffer.from('more\n'))
    await writer.close()
    expect((await readdir(dir.path)).sort()).toEqual(['log', 'log.1.gz', 'log.2', 'log.3.gz', 'log.4.gz'])
    expect(await f.look()).toBe('more\n')
  })

  test('finds the last lines across parts, of all streams or of one', async () => {
    await using dir = await tempDir()
    const path = join(dir.path, 'log')
    const files = logFilesOf(path)
    expect(await startOfLast(files, 5)).toEqual({ part: 1, skip: 0 })
    await writeFile(`${path}.1.gz`, gzipSync(markChunk('stdout', Buffer.from(numbered(0, 10)), time)))
    await writeFile(
      `${path}.2`,
      Buffer.concat([
        markChunk('stderr', Buffer.from('e1\ne2\n'), time),
        markChunk('stdout', Buffer.from(`${numbered(10, 12)}half`), time),
      ]),
    )
    await writeFile(path, markChunk('stdout', Buffer.from(' whole\nno end'), time))
    expect(await startOfLast(files, 0)).toEqual({ part: 3, skip: 2 })
    expect(await startOfLast(files, 2)).toEqual({ part: 3, skip: 0 })
    expect(await startOfLast(files, 3)).toEqual({ part: 2, skip: 3 })
    expect(await startOfLast(files, 7)).toEqual({ part: 1, skip: 9 })
    expect(await startOfLast(files, 100)).toEqual({ part: 1, skip: 0 })
    expect(await startOfLast(files, 1, { stream: 'stderr' })).toEqual({ part: 2, skip: 1 })
    expect(await startOfLast(files, 3, { raw: true })).toEqual({ part: 2, skip: 4 })
  })
})

describe('a writer that is killed', () => {
  const limits: LogLimits = { max_bytes: 60_000, max_age_ms: 0, total_bytes: 1 << 30 }
  const script = join(import.meta.dirname, 'log-writer.process.ts')

  test('at any moment has lost nothing that it was done with, and the next one goes on', async () => {
    await using dir = await tempDir()
    const path = join(dir.path, 'log')
    await using f = follower(openLogReader(logFilesOf(path)))
    let seen = ''
    let from = 0
    const children: ChildProcess[] = []
    try {
      for (let round = 0; round < 6; round++) {
        let done = from - 1
        const to = round === 5 ? from + 2_000 : 10_000_000
        const child = spawn(process.execPath, [script, path, String(from), String(to), JSON.stringify(limits), '80'], {
          stdio: ['ignore', 'pipe', 'inherit'],
        })
        children.push(child)
        let said = ''
        child.stdout.on('data', (d) => {
          said += d
        })
        const ended = new Promise<NodeJS.Signals | null>((resolve) => child.on('close', (_, signal) => resolve(signal)))
        if (round < 5) {
          // Not before it has compressed something, and then at no moment in particular.
          await until('it has written for a while', async () => {
            seen += await f.look()
            return said.length > 20
          })
          await sleep(Math.random() * 60)
          child.kill('SIGKILL')
          expect(await ended).toBe('SIGKILL')
        } else expect(await ended).toBe(null)
        const lines = said
          .trim()
          .split('\n')
          .filter((l) => /^\d+$/.test(l))
        done = Number(lines.at(-1))
        expect(done).toBeGreaterThan(from)
        seen += await f.look()
        // What it wrote last may be cut, in the middle of a line, too.
        const whole = numbersIn(seen)
        expect(whole.at(-1)!).toBeGreaterThanOrEqual(done)
        from = whole.at(-1)! + 1
      }
    } finally {
      for (const child of children) child.kill('SIGKILL')
    }
    expect(numbersIn(seen)).toEqual(Array.from({ length: from }, (_, i) => i))
    const all = Buffer.concat((await logParts(path)).map((p) => p.bytes))
    const content = joined(logParser().push(all)).toString()
    expect(numbersIn(content)).toEqual(numbersIn(seen))
    for (const name of await readdir(dir.path)) {
      // Only a number that was taken and never used may be left of it.
      const empty = (await stat(join(dir.path, name))).size === 0
      expect(name).toMatch(empty ? /^log\.\d+$/ : /^log(\.\d+\.gz)?$/)
    }
  })

  /** The numbers of the lines that are whole. */
  const numbersIn = (text: string): number[] =>
    text.split('\n').flatMap((l) => {
      const n = /^line (\d+) x{80}$/.exec(l)?.[1]
      return n === undefined ? [] : [Number(n)]
    })
})

test('a flood is followed without a gap while memory and files stay bounded', async () => {
  await using dir = await tempDir()
  const path = join(dir.path, 'log')
  const limits: LogLimits = { max_bytes: 1 << 20, max_age_ms: 0, total_bytes: 6 << 20 }
  const script = join(import.meta.dirname, 'log-writer.process.ts')
  // 40 MB in lines of 100 bytes
  const child = spawn(process.execPath, [script, path, '0', '400000', JSON.stringify(limits), '80'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  let over = false
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve))
  const watching = watchFlood(
    path,
    () => child.pid,
    () => over,
  )
  expect(await ended).toBe(0)
  over = true
  const seen = await watching
  expect(seen.wrong).toEqual([])
  expect(seen.lines).toBeGreaterThan(10_000)
  expect(seen.disk).toBeLessThan(limits.total_bytes + 2 * limits.max_bytes)
  expect(seen.memory).toBeGreaterThan(0)
  expect(seen.memory).toBeLessThan(250 << 20)
})

test('of a full disk it says how much is missing, as soon as there is room again', async () => {
  await using dir = await tempDir()
  const path = join(dir.path, 'log')
  const errors: unknown[] = []
  const writer = openLogWriter({ files: logFilesOf(path), limits: small, onError: (e) => errors.push(e) })
  await writeFile(path, markChunk('stdout', Buffer.from('before\n'), time))
  await rename(path, `${path}-away`)
  const { mkdir } = await import('node:fs/promises')
  await mkdir(path) // nothing can be appended to a folder
  for (let i = 0; i < 3; i++) writer.write('stdout', Buffer.from('lost\n'))
  await writer.flush()
  writer.write('stdout', Buffer.from('lost\n'))
  await writer.flush()
  expect(errors).toHaveLength(1)
  await rm(path, { recursive: true })
  await rename(`${path}-away`, path)
  writer.write('stdout', Buffer.from('after\n'))
  await writer.close()
  const text = await readFile(path, 'utf8')
  const lost = 4 * `${time} stdout F lost\n`.length
  expect(text.split('\n').map((l) => l.slice(25))).toEqual([
    'stdout F before',
    expect.stringMatching(`^agent F ${lost} bytes of output could not be written here: `),
    'stdout F after',
    '',
  ])
})
