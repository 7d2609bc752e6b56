// The protocol of the hyper2kvm daemon's control socket (contracts A6), spoken by raw clients.
import { lstat, readlink, stat } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import {
  type ControlCommand,
  type ControlSocketOptions,
  OLD_CLIENT_BYTES,
  openControlSocket,
  parseRequest,
} from '../../src/agent/control-socket.ts'
import { shortenStats, type StatsSnapshot } from '../../src/agent/stats.ts'
import { tempDir } from '../support/temp.ts'

const MEGABYTE = 'x'.repeat(1024 * 1024)

async function served(dir: string, o: Partial<ControlSocketOptions> = {}) {
  const seen: string[] = []
  const commands = new Map<string, ControlCommand>([
    ['status', { run: () => ({ status: 'ok', paused: false }) }],
    ['stats', { run: () => ({ status: 'ok', text: MEGABYTE }), shorten: (_, n) => ({ status: 'ok', bytes: n }) }],
    ['slow', { run: () => sleep(200).then(() => ({ status: 'ok' as const, slow: true })) }],
    [
      'bad',
      {
        run: () => {
          throw new Error('it broke')
        },
      },
    ],
    ['stop', { run: () => ({ status: 'ok' }), after: () => seen.push('after stop') }],
  ])
  const link = join(dir, 'link.sock')
  const socket = await openControlSocket({ dir, link, commands, onRequest: (c) => seen.push(c), ...o })
  return { ...socket, link, seen, [Symbol.asyncDispose]: () => socket.close() }
}

/** Sends pieces with pauses between them; gives everything that came back until the server closed. */
function talk(path: string, pieces: (string | number)[], o: { end?: boolean } = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    const c = connect(path)
    c.on('error', reject)
    c.on('data', (d: Buffer) => chunks.push(d))
    c.on('close', () => resolve(Buffer.concat(chunks).toString('utf8')))
    c.on('connect', async () => {
      for (const p of pieces) {
        if (typeof p === 'number') await sleep(p)
        else c.write(p)
      }
      if (o.end) c.end()
    })
  })
}

/** One recv(4096), as the old client does it. */
function oldClient(path: string, request: string): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const c: Socket = connect(path, () => c.write(request))
    c.on('error', reject)
    c.once('readable', () => {
      const all = c.read() as Buffer
      resolve(all.subarray(0, 4096))
      c.destroy()
    })
  })
}

describe('the control socket', () => {
  test('is for the group, and the link in the output leads to it', async () => {
    await using dir = await tempDir()
    await using s = await served(dir.path)
    expect((await stat(s.path)).mode & 0o777).toBe(0o660)
    expect(await readlink(s.link)).toBe(s.path)
    expect(JSON.parse(await talk(s.link, ['status\n']))).toEqual({ status: 'ok', paused: false })
  })

  test.each([
    ['an object without newline', ['{"command":"status"}']],
    ['an object with newline', ['{"command":"status"}\n']],
    ['an object in four pieces', ['{"com', 30, 'mand":', 30, '"sta', 30, 'tus"}']],
    ['a known word', ['status']],
    ['a word in two pieces', ['sta', 30, 'tus']],
    ['a word with newline', ['status\r\n']],
    ['a JSON string', ['"status"']],
    ['more fields', ['{"command":"status","full":true,"x":[1,2]}']],
  ])('answers %s', async (_, pieces) => {
    await using dir = await tempDir()
    // a pause of this process is no silence
    await using s = await served(dir.path, { quietMs: 60_000, timeoutMs: 60_000 })
    expect(JSON.parse(await talk(s.path, pieces))).toEqual({ status: 'ok', paused: false })
    expect(s.seen).toEqual(['status'])
  })

  test('who asks for a change is told by the kernel, and asked for nothing else', async () => {
    await using dir = await tempDir()
    const changes: unknown[] = []
    const commands = new Map<string, ControlCommand>([
      ['pause', { changes: true, run: () => ({ status: 'ok', told: changes.length }) }],
      ['status', { run: () => ({ status: 'ok' }) }],
    ])
    await using socket = await served(dir.path, {
      commands,
      onChange: (command, peer) => changes.push([command, peer]),
    })
    await talk(socket.path, ['status'])
    expect(JSON.parse(await talk(socket.path, ['pause']))).toEqual({ status: 'ok', told: 1 })
    const me = { pid: process.pid, uid: process.geteuid?.(), gid: process.getegid?.() }
    expect(changes).toEqual([['pause', me]])
  })

  test('an unknown command names those there are, after a newline, silence or the end of the request', async () => {
    await using dir = await tempDir()
    await using s = await served(dir.path)
    const unknown = {
      status: 'error',
      message: 'Unknown command: dance',
      available_commands: ['status', 'stats', 'slow', 'bad', 'stop'],
    }
    expect(JSON.parse(await talk(s.path, ['dance\n']))).toEqual(unknown)
    expect(JSON.parse(await talk(s.path, ['dance']))).toEqual(unknown)
    expect(JSON.parse(await talk(s.path, ['dance'], { end: true }))).toEqual(unknown)
    expect(JSON.parse(await talk(s.path, ['{"command":"dance"}']))).toEqual(unknown)
  })

  test('what is no request is told so', async () => {
    await using dir = await tempDir()
    await using s = await served(dir.path)
    const reply = async (pieces: string[]) => JSON.parse(await talk(s.path, pieces, { end: true }))
    expect(await reply([])).toMatchObject({ status: 'error', message: 'The request is empty.' })
    expect(await reply(['{"command":'])).toMatchObject({ status: 'error', message: /^Invalid JSON/ })
    expect(await reply(['{"cmd":"status"}'])).toMatchObject({ status: 'error', message: /has no "command"/ })
    expect(await reply(['[]'])).toMatchObject({ status: 'error', message: /has no "command"/ })
    expect(await reply(['bad'])).toEqual({ status: 'error', message: 'it broke' })
  })

  test('a reply of a megabyte arrives whole, also for several clients at once', async () => {
    await using dir = await tempDir()
    await using s = await served(dir.path)
    const replies = await Promise.all(Array.from({ length: 8 }, () => talk(s.path, ['{"command":"stats"}\n'])))
    for (const r of replies) expect(JSON.parse(r)).toEqual({ status: 'ok', text: MEGABYTE })
  })

  test('a client that cannot read more gets a reply that fits its only recv(4096)', async () => {
    await using dir = await tempDir()
    await using s = await served(dir.path)
    const reply = await oldClient(s.path, '{"command": "stats"}')
    expect(reply.length).toBeLessThan(OLD_CLIENT_BYTES)
    expect(JSON.parse(reply.toString())).toEqual({ status: 'ok', bytes: OLD_CLIENT_BYTES - 1 })
  })

  test('silent and slow clients hold nobody up, and are cut off', async () => {
    await using dir = await tempDir()
    await using s = await served(dir.path, { timeoutMs: 1500 })
    const silent = talk(s.path, [])
    const halting = talk(s.path, ['{"command"', 10_000])
    const slow = talk(s.path, ['slow'])
    expect(JSON.parse(await talk(s.path, ['status']))).toMatchObject({ status: 'ok' })
    expect(JSON.parse(await slow)).toEqual({ status: 'ok', slow: true })
    for (const cut of [await silent, await halting]) {
      expect(JSON.parse(cut)).toEqual({ status: 'error', message: 'No complete request came in time.' })
    }
  })

  test('a request without end is refused before it fills the memory', async () => {
    await using dir = await tempDir()
    await using s = await served(dir.path)
    const reply = await talk(s.path, [`{"command":"${'a'.repeat(70_000)}`])
    expect(JSON.parse(reply)).toMatchObject({ status: 'error', message: /larger than 65536 bytes/ })
  })

  test('what ends the agent is done after the reply is out', async () => {
    await using dir = await tempDir()
    await using s = await served(dir.path)
    expect(JSON.parse(await talk(s.path, ['{"command":"stop"}']))).toEqual({ status: 'ok' })
    expect(s.seen).toEqual(['stop', 'after stop'])
  })

  test('a dead one is replaced, a path that is too long refused, and closing removes it', async () => {
    await using dir = await tempDir()
    const first = await served(dir.path)
    const second = await served(dir.path)
    expect(JSON.parse(await talk(second.link, ['status']))).toMatchObject({ status: 'ok' })
    await second.close()
    await first.close()
    await expect(lstat(second.path)).rejects.toThrow('ENOENT')
    await expect(served(join(dir.path, 'd'.repeat(100)))).rejects.toMatchObject({ exitCode: 73 })
  })
})

test('every proper prefix of a request is incomplete', () => {
  const known = (w: string) => ['status', 'stats', 'stop'].includes(w)
  for (const text of ['{"command":"stats","a":{"b":[1,"}"]}}', '"status"', 'status']) {
    for (let i = 0; i < text.length; i++) expect(parseRequest(text.slice(0, i), known, false).state).toBe('maybe')
    expect(parseRequest(text, known, false).state).toBe('complete')
  }
})

test('statistics are shortened by what is oldest until they fit', () => {
  const job = (i: number) => ({
    filename: `disk-${i}-${'ü'.repeat(200)}.vmdk`,
    file_type: '.vmdk',
    file_size_mb: 1,
    start_time: '2026-01-01T00:00:00Z',
    end_time: null,
    duration_seconds: 1,
    status: 'failed' as const,
    error: 'e'.repeat(500),
    retry_count: 0,
  })
  const stats = {
    total_processed: 7,
    recent_completed: Array.from({ length: 10 }, (_, i) => job(i)),
    current_jobs: Array.from({ length: 4 }, (_, i) => job(i)),
    by_file_type: { '.vmdk': { processed: 7, failed: 0, success_rate_percent: 100, average_time_seconds: 1 } },
  } as unknown as StatsSnapshot
  const bytes = (s: object) => Buffer.byteLength(JSON.stringify({ status: 'ok', stats: s }))
  const short = shortenStats(stats, (s) => bytes(s) <= 4095)
  expect(bytes(short)).toBeLessThanOrEqual(4095)
  expect(short).toMatchObject({ total_processed: 7, truncated: true })
  expect(short.recent_completed.length).toBeGreaterThan(0)
  expect(stats.recent_completed).toHaveLength(10)
})
