// Something on the other end that is no libvirt, or one that breaks its protocol. A scripted peer says what it likes: the beginning
// of it is what the real daemon said (captured.json), and then come frames that no daemon sends.
import { randomBytes } from 'node:crypto'
import fc from '../support/fc.ts'
import { describe, expect, test } from 'vitest'
import { type Connection, connect } from '../../src/libvirt/index.ts'
import { FRAME_MAX, KEEPALIVE, readHeader, splitFrames } from '../../src/libvirt/frame.ts'
import { events } from '../../src/libvirt/procedures/events.ts'
import { readRemoteError } from '../../src/libvirt/structs.ts'
import { STRING_MAX, XdrReader, XdrWriter } from '../../src/libvirt/xdr.ts'
import { procedures } from './captured.ts'
import { all, bytes, frame, peer } from './peer.ts'
import { testDomain } from './scene.ts'

/** The connection ends by it, with reason `protocol`, and so does the call that was under way. */
async function refused(
  say: (serial: number, procedure: number) => Buffer,
  call: (c: Connection) => Promise<unknown> = (c) => c.host.version(),
) {
  await using p = await peer((f, serial, socket) => void socket.write(say(serial, readHeader(f).procedure)))
  const c = await connect(p.uri, { keepalive: { interval_ms: 0, misses: 0 } })
  const error = await call(c).then(
    (value) => ({ value }),
    (e: unknown) => e,
  )
  expect(error).toMatchObject({ name: 'ConnectionError', reason: 'protocol', sent: true })
  expect(await c.ended).toMatchObject({ reason: 'protocol' })
  expect(c.isOver()).toBe(true)
  await expect(c.host.version()).rejects.toMatchObject({ name: 'ConnectionError', reason: 'protocol', sent: false })
  await c.close()
}

const word = (...words: number[]) => {
  const b = Buffer.alloc(words.length * 4)
  for (const [i, w] of words.entries()) b.writeUInt32BE(w, i * 4)
  return b
}
const version = word(0, 9_000_000)
const good = (serial: number) => frame({ serial, payload: version })

describe('frames that no daemon sends end the connection', () => {
  test('the peer of these tests is understood when it behaves', async () => {
    await using p = await peer((_, serial, socket) => void socket.write(good(serial)))
    await using c = await connect(p.uri)
    expect(await c.host.version()).toBe('9.0.0')
  })
  test.each<[string, (serial: number) => Buffer]>([
    ['a length below the header’s', (serial) => frame({ serial, length: 27 })],
    ['length 0', () => Buffer.alloc(64)],
    ['a length beyond the cap', (serial) => frame({ serial, length: FRAME_MAX + 1 })],
    ['the largest length there is', (serial) => frame({ serial, length: 0xffff_ffff })],
    ['another program', (serial) => frame({ serial, program: 0x2000_8087, payload: version })],
    ['another version', (serial) => frame({ serial, version: 2, payload: version })],
    ['a call', (serial) => frame({ serial, type: 0, payload: version })],
    ['a stream', (serial) => frame({ serial, type: 3, payload: version })],
    ['passed file descriptors', (serial) => frame({ serial, type: 5, payload: version })],
    ['a hole in a stream', (serial) => frame({ serial, type: 6 })],
    ['type 7', (serial) => frame({ serial, type: 7 })],
    ['an answer to a call that never was', (serial) => good(serial + 1)],
    ['an answer to call 0', () => good(0)],
    ['an answer of another procedure', (serial) => frame({ serial, procedure: 4, payload: version })],
    ['status 2, more follows', (serial) => frame({ serial, status: 2, payload: version })],
    ['status 3', (serial) => frame({ serial, status: 3, payload: version })],
    ['an answer that is cut off', (serial) => frame({ serial, payload: version.subarray(0, 4) })],
    ['an answer without a payload', (serial) => frame({ serial })],
    [
      'an answer with more behind it',
      (serial) => frame({ serial, payload: Buffer.concat([version, Buffer.alloc(1)]) }),
    ],
    ['an error that is cut off', (serial) => frame({ serial, status: 1, payload: word(42, 10, 1, 100) })],
    ['an unknown event', () => frame({ type: 2, procedure: 107, payload: Buffer.alloc(40) })],
    ['an event that is cut off', () => frame({ type: 2, procedure: 318, payload: Buffer.alloc(8) })],
    ['an event with status 1', () => frame({ type: 2, procedure: 318, status: 1 })],
    ['a keepalive that is a call', () => frame({ program: KEEPALIVE, procedure: 1, type: 0 })],
    ['a keepalive with a payload', () => frame({ program: KEEPALIVE, procedure: 1, type: 2, payload: version })],
    ['an unknown keepalive', () => frame({ program: KEEPALIVE, procedure: 3, type: 2 })],
    ['an HTTP server', () => Buffer.from('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n')],
  ])('%s', (_, say) => refused(say))

  test.each<[string, Buffer, (c: Connection) => Promise<unknown>]>([
    ['a string longer than the cap', word(STRING_MAX + 1), (c) => c.host.type()],
    ['a string longer than its frame', word(1000, 0), (c) => c.host.type()],
    ['a list longer than the cap', word(16_385), (c) => c.domains.list()],
    ['a list longer than its frame', word(16_384, 0, 0), (c) => c.domains.list()],
    [
      'half a million parameters',
      Buffer.concat([word(1, 0), Buffer.alloc(16), word(0, 262_145)]),
      (c) => c.domains.stats(),
    ],
    [
      'a parameter of an unknown type',
      Buffer.concat([word(1, 0), Buffer.alloc(16), word(0, 1, 0, 8, 0)]),
      (c) => c.domains.stats(),
    ],
    [
      'a truth value of 2',
      Buffer.concat([word(1, 0, 2), Buffer.alloc(40)]),
      (c) => c.domains.addresses({ name: 'x', uuid: '6ba7b810-9dad-11d1-80b4-00c04fd430c8', id: 1 }),
    ],
  ])('%s', (_, payload, call) => refused((serial, procedure) => frame({ serial, procedure, payload }), call))

  test('before the connection is open, not even a large frame', async () => {
    await using p = await peer(() => {}, frame({ length: 300_000, serial: 1, procedure: 66 }))
    await expect(connect(p.uri)).rejects.toMatchObject({ name: 'ConnectionError', reason: 'protocol' })
  })
  test('somebody who says nothing is given up', async () => {
    await using p = await peer(() => {}, Buffer.alloc(0))
    await expect(connect(p.uri, { open_ms: 200 })).rejects.toMatchObject({
      name: 'ConnectionError',
      reason: 'unresponsive',
    })
  })
  test('a daemon that hangs up', async () => {
    await using p = await peer((_, __, socket) => void socket.destroy())
    await using c = await connect(p.uri)
    await expect(c.host.version()).rejects.toMatchObject({ reason: 'lost', sent: true })
  })
})

describe('what is allowed, however it is cut up', () => {
  test('frames arrive byte by byte, many at once, and out of order', async () => {
    const calls: number[] = []
    await using p = await peer((_, serial, socket) => {
      calls.push(serial)
      if (calls.length < 4) return
      const stream = Buffer.concat([
        ...calls.toReversed().map(good),
        frame({ program: KEEPALIVE, procedure: 1, type: 2 }),
        bytes(all.events.lifecycle!.frame),
      ])
      calls.length = 0
      const send = (from: number) => {
        if (from < 60) setImmediate(() => send(from + 1))
        socket.write(from < 60 ? stream.subarray(from, from + 1) : stream.subarray(60))
      }
      send(0)
    })
    await using c = await connect(p.uri, { keepalive: { interval_ms: 0, misses: 0 } })
    expect(await Promise.all(Array.from({ length: 8 }, () => c.host.version()))).toEqual(Array(8).fill('9.0.0'))
    // the ping was answered
    expect(p.heard.some((f) => readHeader(f).program === KEEPALIVE && readHeader(f).procedure === 2)).toBe(true)
  })

  test('the largest answer: 4 MiB of XML', async () => {
    const text = 'ä'.repeat(STRING_MAX / 2)
    await using p = await peer((_, serial, socket) => {
      const w = new XdrWriter()
      w.string(text)
      socket.write(frame({ serial, procedure: 7, payload: w.done() }))
    })
    await using c = await connect(p.uri)
    expect((await c.host.capabilities()) === text).toBe(true)
  })

  test('what is too large, or no XDR, is never sent', async () => {
    await using p = await peer((_, serial, socket) => void socket.write(good(serial)))
    await using c = await connect(p.uri)
    const before = p.heard.length
    await expect(c.domains.define('x'.repeat(STRING_MAX + 1))).rejects.toThrow(/longer than the 4194304 bytes/)
    await expect(c.domains.define('a\0b')).rejects.toThrow(/no NUL/)
    await expect(c.domains.byId(2 ** 31)).rejects.toThrow(/no signed 32-bit/)
    await expect(
      c.domains.stats({
        domains: Array(16_385).fill({ name: 'x', uuid: '6ba7b810-9dad-11d1-80b4-00c04fd430c8', id: 1 }),
      }),
    ).rejects.toThrow(/at most 16384/)
    expect(await c.host.version()).toBe('9.0.0')
    expect(p.heard.length).toBe(before + 1)
    await expect(c.domains.define(testDomain('x'), ['nonsense' as 'validate'])).rejects.toThrow(TypeError)
  })
})

describe('fuzz', () => {
  const samples = [
    ...procedures.map((p) => ({ name: p.name, read: p.read, reply: bytes(all.calls[p.name]!.reply) })),
    ...events.map((e) => ({ name: e.kind, read: e.read, reply: bytes(all.events[e.kind]!.frame) })),
    ...all.refusals.map((r) => ({ name: r.step, read: readRemoteError, reply: bytes(r.reply) })),
  ].filter((s) => s.reply.length > 28)

  test('each captured answer, cut anywhere, is refused and never read as something else', () => {
    for (const s of samples) {
      for (let end = 28; end < s.reply.length; end += s.reply.length > 2000 ? 97 : 1) {
        const reader = new XdrReader(s.reply.subarray(0, end), 28)
        expect(() => {
          s.read(reader)
          reader.end()
        }, `${s.name} cut at ${end}`).toThrow(expect.objectContaining({ name: 'XdrError' }))
      }
    }
  })

  test('answers with bytes changed are read or refused, and nothing else happens', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...samples),
        fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 8 }),
        (s, changes) => {
          const b = Buffer.from(s.reply)
          for (const [at, value] of changes) b[28 + (at % (b.length - 28))] = value
          try {
            const reader = new XdrReader(b, 28)
            s.read(reader)
            reader.end()
          } catch (error) {
            expect(error).toMatchObject({ name: 'XdrError' })
          }
        },
      ),
      { numRuns: 3000 },
    )
  })

  test('random bytes after the handshake never hang a call or crash the process', async () => {
    for (let i = 0; i < 40; i++) {
      const noise = randomBytes(4 + (i % 7) * 50)
      if (i % 2) noise.writeUInt32BE(Math.max(28, noise.length), 0)
      await using p = await peer((_, __, socket) => void socket.end(noise))
      await using c = await connect(p.uri)
      await expect(c.host.version()).rejects.toMatchObject({ name: 'ConnectionError' })
    }
  })

  test('any string, number and list comes back as it went', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme' }).filter((s) => !s.includes('\0')),
        fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        fc.array(
          fc.option(
            fc.string().filter((s) => !s.includes('\0')),
            { nil: null },
          ),
          { maxLength: 20 },
        ),
        (text, n, big, list) => {
          const w = new XdrWriter(28)
          w.string(text)
            .int(n)
            .uhyper(big)
            .array(list, 20, (x, v) => x.optionalString(v))
          const r = new XdrReader(w.done(), 28)
          expect([r.string(), r.int(), r.uhyper(), r.array(20, 4, (x) => x.optionalString())]).toEqual([
            text,
            n,
            big,
            list,
          ])
          r.end()
        },
      ),
      { numRuns: 500 },
    )
  })

  test('a stream of frames is the same however it is cut', () => {
    const stream = Buffer.concat(samples.map((s) => s.reply))
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 50 }), (sizes) => {
        const splitter = splitFrames()
        const got: Buffer[] = []
        for (let at = 0, i = 0; at < stream.length; i++) {
          const size = sizes[i % sizes.length]!
          got.push(...splitter.push(stream.subarray(at, at + size)))
          at += size
        }
        expect(got.length).toBe(samples.length)
        expect(Buffer.concat(got).equals(stream)).toBe(true)
      }),
      { numRuns: 30 },
    )
  })
})
