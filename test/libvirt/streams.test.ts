// Streams: consoles of a real guest, and a scripted peer that breaks the rules, floods, or takes nothing.
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ByteStream, type Connection, connect, type Domain } from '../../src/libvirt/index.ts'
import { readHeader } from '../../src/libvirt/frame.ts'
import { echoDomain, LINE, LINES, writeEchoDisk } from '../support/echo-guest.ts'
import { isRoot, type Libvirtd, privateLibvirtd } from '../support/libvirtd.ts'
import { until } from '../support/wait.ts'
import { frame, peer } from './peer.ts'

const CONSOLE = 201
const dom: Domain = { name: 'x', uuid: '6ba7b810-9dad-11d1-80b4-00c04fd430c8', id: 1 }

/** reads until the text has it */
async function reads(from: AsyncIterator<Buffer>, wanted: string): Promise<string> {
  let text = ''
  while (!text.includes(wanted)) {
    const { value, done } = await from.next()
    if (done) throw new Error(`It ended after: ${text}`)
    text += value.toString()
  }
  return text
}

describe.runIf(isRoot)('the console of a guest', { timeout: 600_000 }, () => {
  let daemon: Libvirtd
  let c: Connection
  const guest = async (name: string) => {
    const disk = join(daemon.dir, `${name}.raw`)
    writeEchoDisk(disk)
    return c.domains.create(await c.domains.define(echoDomain(name, disk)))
  }
  beforeAll(async () => {
    daemon = await privateLibvirtd()
    c = await connect(daemon.uri('qemu:///system'))
  })
  afterAll(async () => {
    await c?.close()
    await daemon?.[Symbol.asyncDispose]()
  })

  test('what is typed comes back, many lines come whole and in order, and it ends with the guest', async () => {
    const d = await guest('echo')
    await using own = await connect(daemon.uri('qemu:///system'))
    await using s = await own.domains.console(d)
    const from = s[Symbol.asyncIterator]()
    await until('the guest answers', async () => {
      await s.write(Buffer.from('a'))
      return (await reads(from, 'a')) !== ''
    })
    await s.write(Buffer.from('\u0000\u001d{é}'))
    await reads(from, '\u0000\u001d{é}')
    await s.write(Buffer.from('!'))
    expect(await reads(from, LINE.repeat(LINES))).toContain(LINE.repeat(LINES))
    // the connection does its other work meanwhile
    expect((await own.domains.state(d)).state).toBe('running')
    await s.write(Buffer.from('.'))
    expect(await from.next()).toEqual({ done: true, value: undefined })
    await s.finish().catch((e) => expect(e).toMatchObject({ name: 'LibvirtError' }))
    expect(own.isOver()).toBe(false)
    await expect(s.write(Buffer.from('x'))).rejects.toThrow()
    await until('it is off', async () => (await own.domains.state(d)).state === 'shutoff')
  })

  test('one console has one user, unless he is forced off', async () => {
    const d = await guest('shared')
    const first = await c.domains.console(d)
    await expect(c.domains.console(d)).rejects.toMatchObject({ name: 'LibvirtError', code: 9 })
    await using own = await connect(daemon.uri('qemu:///system'))
    await using second = await own.domains.console(d, { flags: ['force'] })
    await expect(
      (async () => {
        for await (const _ of first) void _
      })(),
    ).rejects.toMatchObject({ name: 'LibvirtError', procedure: 'DOMAIN_OPEN_CONSOLE' })
    await until('the second is heard', async () => {
      await second.write(Buffer.from('z'))
      return (await reads(second[Symbol.asyncIterator](), 'z')) !== ''
    })
    await second.finish()
    await (await c.domains.console(d)).abort()
    // and once more: what was given up is free again
    await (await c.domains.console(d, { device: 'serial0' })).abort()
    await expect(c.domains.console(d, { device: 'serial7' })).rejects.toMatchObject({ name: 'LibvirtError' })
    await c.domains.destroy(d)
    await expect(c.domains.console(d)).rejects.toMatchObject({ name: 'LibvirtError', code: 55 })
    expect(c.isOver()).toBe(false)
  })

  test('the daemon’s end is the end of the stream', async () => {
    const d = await guest('orphan')
    const own = await connect(daemon.uri('qemu:///system'))
    const s = await own.domains.console(d)
    await daemon.signal('KILL')
    await expect(
      (async () => {
        for await (const _ of s) void _
      })(),
    ).rejects.toMatchObject({ name: 'ConnectionError', reason: 'lost' })
    await expect(s.write(Buffer.from('x'))).rejects.toMatchObject({ name: 'ConnectionError' })
    await s.abort()
    await daemon.start()
  })
})

type Part = (serial: number, status: number, payload?: Buffer) => Buffer
const part: Part = (serial, status, payload) =>
  frame({ serial, type: 3, procedure: CONSOLE, status, ...(payload ? { payload } : {}) })
const opened = (serial: number) => frame({ serial, procedure: CONSOLE })
const OK = 0
const ERROR = 1
const CONTINUE = 2

async function opens(uri: string): Promise<{ c: Connection; s: ByteStream }> {
  const c = await connect(uri, { keepalive: { interval_ms: 0, misses: 0 } })
  return { c, s: await c.domains.console(dom) }
}

describe('a peer that breaks the rules of streams', () => {
  test.each<[string, (serial: number) => Buffer]>([
    ['a part of a stream that was never opened', (serial) => part(serial + 7, CONTINUE, Buffer.from('x'))],
    ['a part of another procedure', (serial) => frame({ serial, type: 3, procedure: 14, status: 2 })],
    ['a part with status 3', (serial) => part(serial, 3)],
    ['a hole', (serial) => frame({ serial, type: 6, procedure: CONSOLE, status: 2 })],
    ['an end that nobody asked for', (serial) => part(serial, OK)],
    ['an end with bytes', (serial) => part(serial, OK, Buffer.from('xxxx'))],
    ['an error that is cut off', (serial) => part(serial, ERROR, Buffer.alloc(8))],
    [
      'bytes after the end of bytes',
      (serial) => Buffer.concat([part(serial, CONTINUE), part(serial, CONTINUE, Buffer.from('x'))]),
    ],
  ])('%s ends the connection', async (_, say) => {
    await using p = await peer(
      (_call, serial, socket) => void socket.write(Buffer.concat([opened(serial), say(serial)])),
    )
    const { c, s } = await opens(p.uri)
    await expect(
      (async () => {
        for await (const _b of s) void _b
        await s.finish()
      })(),
    ).rejects.toMatchObject({ name: 'ConnectionError', reason: 'protocol' })
    expect(await c.ended).toMatchObject({ reason: 'protocol' })
  })

  test('bytes may come before the answer to the call, and are not lost; a call that is refused opens nothing', async () => {
    await using p = await peer((_call, serial, socket) => {
      socket.write(part(serial, CONTINUE, Buffer.from('early')))
      setImmediate(() => socket.write(Buffer.concat([opened(serial), part(serial, CONTINUE)])))
    })
    const { c, s } = await opens(p.uri)
    const got: string[] = []
    for await (const b of s) got.push(b.toString())
    expect(got).toEqual(['early'])
    await c.close()
  })

  test('who gives up waiting for the answer leaves no stream behind', async () => {
    let answer: (() => void) | undefined
    await using p = await peer((call, serial, socket) => {
      if (readHeader(call).type === 0) answer = () => void socket.write(opened(serial))
    })
    await using c = await connect(p.uri, { keepalive: { interval_ms: 0, misses: 0 } })
    const given = new AbortController()
    const call = c.domains.console(dom, {}, { signal: given.signal })
    await until('the call is there', () => answer !== undefined)
    given.abort(new Error('enough'))
    await expect(call).rejects.toThrow('enough')
    answer!()
    const last = await until('it was aborted', () => {
      const h = readHeader(p.heard.at(-1)!)
      return h.type === 3 ? h : undefined
    })
    expect(last).toMatchObject({ status: ERROR, procedure: CONSOLE })
  })

  test('a flood that nobody reads stops at the other side, and is read to the end later', async () => {
    const total = 2048
    const block = Buffer.alloc(16 * 1024, 'x')
    let sent = 0
    let stuck = false
    await using p = await peer((call, serial, socket) => {
      if (readHeader(call).type !== 0) return
      socket.write(opened(serial))
      const more = (): void => {
        while (sent < total) {
          sent++
          if (!socket.write(part(serial, CONTINUE, block))) {
            stuck = true
            return
          }
        }
        if (sent === total) socket.write(part(serial, CONTINUE))
      }
      socket.on('drain', () => {
        stuck = false
        more()
      })
      more()
    })
    const { c, s } = await opens(p.uri)
    // it stands still: nothing more goes while nobody reads
    let before = -1
    await until(
      'nothing more is sent',
      () => {
        const same = stuck && before === sent
        before = sent
        return same
      },
      { every_ms: 200 },
    )
    expect(sent).toBeLessThan(total / 4)
    let bytes = 0
    for await (const b of s) bytes += b.length
    expect(bytes).toBe(total * block.length)
    await c.close()
  })

  test('who takes nothing is written to no further, and can be left', async () => {
    await using p = await peer((call, serial, socket) => {
      if (readHeader(call).type !== 0) return
      socket.write(opened(serial))
      socket.pause()
    })
    const { c, s } = await opens(p.uri)
    let written = 0
    const writing = (async () => {
      for (;;) {
        await s.write(Buffer.alloc(64 * 1024))
        written++
      }
    })().catch((e: unknown) => e)
    let before = -1
    await until(
      'it is stuck',
      () => {
        const same = written > 0 && before === written
        before = written
        return same
      },
      { every_ms: 200 },
    )
    expect(written).toBeLessThan(1000)
    await c.close()
    expect(await writing).toBeInstanceOf(Error)
  })

  test('an abort that is never confirmed comes back all the same', async () => {
    await using p = await peer((call, serial, socket) => {
      if (readHeader(call).type === 0) socket.write(opened(serial))
    })
    const { c, s } = await opens(p.uri)
    await s.abort()
    expect(c.isOver()).toBe(false)
    await c.close()
  })
})
