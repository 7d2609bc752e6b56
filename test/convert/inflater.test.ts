/** The kept inflate stream gives what node:zlib's documented call gives, and the same verdicts. */
import { randomBytes } from 'node:crypto'
import { deflateSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { BadStream, type Inflater, inflater, plain } from '../../src/convert/fast/inflater.ts'

const MAX = 65536

function verdict(inflate: Inflater, stream: Buffer): string | Buffer {
  try {
    return Buffer.from(inflate(stream))
  } catch (e) {
    if (e instanceof BadStream) return e.message
    throw e
  }
}

function flipped(stream: Buffer, at: number): Buffer {
  const copy = Buffer.from(stream)
  copy[at]! ^= 16
  return copy
}

const text = Buffer.alloc(MAX, 'a line that repeats, more or less\n')
const noise = randomBytes(MAX)
const good = [
  text,
  noise,
  Buffer.alloc(MAX),
  text.subarray(0, 100),
  Buffer.alloc(0),
  Buffer.concat([noise.subarray(0, 999), text]).subarray(0, MAX),
]
const cases: [name: string, stream: Buffer, expected: Buffer | RegExp][] = [
  ...good.flatMap((bytes, i) =>
    [0, 1, 6, 9].map((level): [string, Buffer, Buffer] => [
      `good ${i} at level ${level}`,
      deflateSync(bytes, { level }),
      bytes,
    ]),
  ),
  ['bytes behind the end', Buffer.concat([deflateSync(text), Buffer.alloc(300, 7)]), text],
  ['one byte too long', deflateSync(Buffer.concat([text, Buffer.from('x')])), /^it inflates beyond 65536 bytes$/],
  ['far too long', deflateSync(Buffer.alloc(9_000_000)), /^it inflates beyond 65536 bytes$/],
  ['cut in the middle', deflateSync(noise).subarray(0, 30_000), /^its stream is cut off$/],
  ['cut in the Adler-32', deflateSync(text).subarray(0, -1), /^its stream is cut off$/],
  ['without its Adler-32', deflateSync(noise).subarray(0, -4), /^its stream is cut off$/],
  ['a wrong Adler-32', flipped(deflateSync(text), deflateSync(text).length - 1), /damaged \(incorrect data check\)/],
  ['a wrong byte', flipped(deflateSync(noise, { level: 0 }), 4000), /damaged/],
  ['no zlib header', text, /damaged \(incorrect header check\)/],
  ['a preset dictionary', deflateSync(text, { dictionary: Buffer.from('a line that') }), /damaged/],
]

test('the kept stream is the one in use with the Node that the project brings', () => {
  const inflate = inflater(MAX)
  const first = inflate(deflateSync(text))
  const again = inflate(deflateSync(noise))
  // one buffer for all: the result is valid until the next call
  expect(again.buffer).toBe(first.buffer)
})

test.each([
  ['kept', inflater(MAX)],
  ['plain', plain(MAX)],
])('%s: every verdict, and none depends on what came before', (_, inflate) => {
  for (const round of [cases, [...cases].reverse()]) {
    for (const [name, stream, expected] of round) {
      const got = verdict(inflate, stream)
      if (Buffer.isBuffer(expected))
        expect(Buffer.isBuffer(got) && got.equals(expected), `${name}: ${got.slice(0, 60)}`).toBe(true)
      else expect(got, name).toMatch(expected)
    }
  }
})
