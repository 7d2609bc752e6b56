// Downloads of images against a real HTTP server that cuts, hangs, lies and changes its mind.
import { createHash } from 'node:crypto'
import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { Template } from '../../src/config/index.ts'
import { type ImageHooks, openImages } from '../../src/vm/images/index.ts'
import { VmError } from '../../src/vm/types.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { expectFile, type Behaviour, imageServer, rawDisk } from './image-server.ts'

const sum = (algorithm: 'sha256' | 'sha512', body: Buffer) =>
  `${algorithm}:${createHash(algorithm).update(body).digest('hex')}`

interface Seen {
  hooks: ImageHooks
  logged: string[]
  progress: { done: number; total: number | undefined; doing: string; bytes_per_second?: number }[]
}

function watch(signal: AbortSignal = new AbortController().signal): Seen {
  const seen: Seen = {
    logged: [],
    progress: [],
    hooks: {
      signal,
      log: (text) => seen.logged.push(text),
      progress: (done, total, more) => seen.progress.push({ done, total, ...more }),
    },
  }
  return seen
}

async function scene(behave: Behaviour, template: Partial<Template> = {}, more: object = {}) {
  const dir = await tempDir()
  const server = await imageServer(behave)
  const cache = join(dir.path, 'cache')
  const open = (t: Partial<Template> = template) =>
    openImages({
      dir: cache,
      templates: { debian: { ...(t.path === undefined ? { url: server.url } : {}), ...t } },
      max_bytes: 0,
      max_age: 0,
      retry_ms: 10,
      no_progress_ms: 20_000,
      stale_ms: 2000,
      ...more,
    })
  return {
    dir: dir.path,
    cache,
    server,
    open,
    images: open(),
    /** waits until so many bytes of the download are in its file */
    written: (bytes: number) =>
      until('the beginning is written', async () => {
        const [part] = (await readdir(join(cache, 'partial')).catch(() => [])).filter((f) => f.endsWith('.part'))
        return part && (await stat(join(cache, 'partial', part))).size >= bytes
      }),
    files: async () => (await readdir(cache)).filter((f) => f !== 'partial' && f !== 'locks').sort(),
    partial: async () => (await readdir(join(cache, 'partial'))).sort(),
    [Symbol.asyncDispose]: async () => {
      await server[Symbol.asyncDispose]()
      await dir[Symbol.asyncDispose]()
    },
  }
}

const failure = async (work: Promise<unknown>): Promise<VmError> => {
  const e = await work.then(
    () => undefined,
    (error) => error,
  )
  expect(e).toBeInstanceOf(VmError)
  return e
}

describe('a download that goes well', () => {
  test('through redirects, with a checksum: the image is whole, read-only, and not fetched again', async () => {
    const body = rawDisk(3_000_000)
    await using s = await scene(
      { body, redirects: { '/disk.img': '/a/b', '/a/b': '../c' } },
      { checksum: sum('sha512', body) },
    )
    const seen = watch()
    const image = await s.images.get('debian', seen.hooks)
    expect(image).toMatchObject({
      name: 'debian',
      format: 'raw',
      size_bytes: body.length,
      virtual_size_bytes: Math.ceil(body.length / 512) * 512,
      sha256: sum('sha256', body).slice(7),
      source: s.server.url,
      in_use: 0,
      current: true,
      added: false,
    })
    await expectFile(image.path, body)
    expect((await stat(image.path)).mode & 0o7777).toBe(0o444)
    expect(s.server.requests.map((r) => r.url)).toEqual(['/disk.img', '/a/b', '/c'])
    expect(s.server.requests[0]!.headers['accept-encoding']).toBe('identity')
    expect(seen.progress.find((p) => p.doing === 'downloads')).toMatchObject({ total: body.length })
    expect(await s.partial()).toEqual([])

    expect(await s.open().get('debian', watch().hooks)).toMatchObject({ path: image.path })
    expect(s.server.requests).toHaveLength(3)
  })

  test('without a length, in chunks', async () => {
    const body = rawDisk(500_000)
    await using s = await scene({ body, length: 'chunked' })
    expect((await s.images.get('debian', watch().hooks)).size_bytes).toBe(body.length)
  })

  test('a refresh asks the server, and fetches only what has changed; VMs keep the old one', async () => {
    const body = rawDisk(400_000)
    await using s = await scene({ body, etag: '"one"' })
    const first = await s.images.get('debian', watch().hooks)
    const same = await s.images.get('debian', { ...watch().hooks, refresh: true })
    expect(same.path).toBe(first.path)
    expect(s.server.requests.map((r) => r.headers['if-none-match'])).toEqual([undefined, '"one"'])
    expect(s.server.sent).toBe(body.length)
    s.server.behave = { body: rawDisk(400_000), etag: '"two"' }
    expect((await s.images.get('debian', watch().hooks)).path).toBe(first.path) // a VM does not ask
    const second = await s.images.get('debian', { ...watch().hooks, refresh: true })
    expect(second.path).not.toBe(first.path)
    expect((await s.images.list()).map((i) => [i.path, i.current])).toEqual([
      [second.path, true],
      [first.path, false],
    ])
  })

  test('credentials and the query of an address are used, and neither shown nor written', async () => {
    const body = rawDisk(100_000)
    await using s = await scene({ body })
    const url = s.server.url.replace('http://', 'http://me:hush@').concat('?sig=secret')
    const seen = watch()
    const image = await s.open({ url }).get('debian', seen.hooks)
    expect(s.server.requests[0]).toMatchObject({
      url: '/disk.img?sig=secret',
      headers: { authorization: `Basic ${Buffer.from('me:hush').toString('base64')}` },
    })
    const written = (await readFile(`${image.path}.json`, 'utf8')) + JSON.stringify([image, seen.logged])
    expect(written).toContain(s.server.url)
    expect(written).not.toMatch(/hush|secret/)
  })
})

describe('a download that is interrupted', () => {
  test('goes on where it stopped, for as long as each try brings something', async () => {
    const body = rawDisk(4_000_000)
    await using s = await scene({ body, etag: '"v1"', cut: 500_000 }, { checksum: sum('sha256', body) })
    const seen = watch()
    const image = await s.images.get('debian', seen.hooks)
    await expectFile(image.path, body)
    expect(s.server.requests.length).toBeGreaterThanOrEqual(8)
    let reached = 0
    for (const r of s.server.requests.slice(1)) {
      const from = Number(/^bytes=(\d+)-$/.exec(r.headers.range ?? '')?.[1])
      expect(from).toBeGreaterThan(reached)
      expect(r.headers['if-range']).toBe('"v1"')
      reached = from
    }
    expect(seen.logged.join('\n')).toContain('closed the connection in the middle')
  })

  test('by the date alone, too', async () => {
    const body = rawDisk(1_000_000)
    const last_modified = 'Tue, 03 Nov 2026 10:00:00 GMT'
    await using s = await scene({ body, last_modified, cut: 600_000 })
    await expectFile((await s.images.get('debian', watch().hooks)).path, body)
    expect(s.server.requests[1]!.headers).toMatchObject({ 'if-range': last_modified })
    expect(s.server.requests[1]!.headers.range).toMatch(/^bytes=\d+-$/)
  })

  test.each([
    ['a strong tag', { etag: '"one"' }, { etag: '"two"' }],
    ['a cache on the way that ignores If-Range', { etag: '"one"' }, { etag: '"two"', ignore_if_range: true }],
    ['a weak tag, which proves nothing', { etag: 'W/"one"' }, { etag: 'W/"one"' }],
    ['no tag at all', {}, {}],
    ['no ranges', { etag: '"one"' }, { etag: '"two"', ranges: false }],
  ])('never mixes two versions: %s', async (_, one, two) => {
    const [old, fresh] = [rawDisk(1_000_000), rawDisk(1_000_000)]
    const after = { body: fresh, ...two }
    await using s = await scene({ body: old, ...one, hang: 500_000, after }, {}, { no_progress_ms: 400 })
    const getting = s.images.get('debian', watch().hooks)
    await expectFile((await getting).path, fresh)
  })

  test('with a checksum and no tag the rest is fetched, and everything again when it does not fit', async () => {
    const [old, fresh] = [rawDisk(1_000_000), rawDisk(1_000_000)]
    await using s = await scene(
      { body: old, hang: 500_000, after: { body: fresh } },
      { checksum: sum('sha256', fresh) },
      { no_progress_ms: 1000 },
    )
    const seen = watch()
    const getting = s.images.get('debian', seen.hooks)
    await expectFile((await getting).path, fresh)
    expect(s.server.requests.map((r) => r.headers.range?.replace(/\d+/, 'N'))).toEqual([
      undefined,
      'bytes=N-',
      undefined,
    ])
    expect(seen.logged.join('\n')).toContain('fetched once more from the beginning')
  })

  test('a server that sends nothing is left, one that is merely slow is not', async () => {
    const body = rawDisk(150_000)
    // more than twice as long as the limit in all, but never a second without a byte
    const after = { body, etag: '"v"', drip: { bytes: 4000, ms: 100 } }
    await using s = await scene({ body, etag: '"v"', hang: 50_000, after }, {}, { no_progress_ms: 1000 })
    const seen = watch()
    const getting = s.images.get('debian', seen.hooks)
    await until('it is tried again', () => seen.logged.some((t) => t.includes('has sent nothing for 1 s')))
    await expectFile((await getting).path, body)
    expect(s.server.requests.length).toBeGreaterThanOrEqual(2)
  })

  test('ends after some tries that bring nothing, says so, keeps the part, and goes on with it later', async () => {
    const body = rawDisk(1_000_000)
    const after = { body, status: 503 }
    await using s = await scene({ body, etag: '"v"', hang: 400_000, after }, {}, { no_progress_ms: 1000 })
    const getting = s.images.get('debian', watch().hooks)
    const e = await failure(getting)
    expect(e).toMatchObject({ code: 'image-download', transient: true })
    expect(e.message).toContain('answers with status 503; 5 tries brought nothing new')
    expect((await s.partial()).filter((f) => f.endsWith('.part'))).toHaveLength(1)
    s.server.behave = { body, etag: '"v"' }
    s.server.requests.length = 0
    await expectFile((await s.open().get('debian', watch().hooks)).path, body)
    expect(s.server.requests[0]!.headers.range).toMatch(/^bytes=[1-9]/)
  })

  test('a cancelled one throws the reason at once, keeps the part, and another goes on with it', async () => {
    const body = rawDisk(2_000_000)
    await using s = await scene({ body, etag: '"v"', hang: 1_000_000 })
    const stop = new AbortController()
    const getting = s.images.get('debian', watch(stop.signal).hooks)
    await s.written(1_000_000)
    const reason = new Error('cancelled by its owner')
    stop.abort(reason)
    await expect(getting).rejects.toBe(reason)
    s.server.behave = { body, etag: '"v"' }
    const before = await stat(join(s.cache, 'partial', (await s.partial()).find((f) => f.endsWith('.part'))!))
    const image = await s.images.get('debian', watch().hooks)
    await expectFile(image.path, body)
    expect(s.server.requests[1]!.headers.range).toBe('bytes=1000000-')
    expect((await stat(image.path)).ino).toBe(before.ino) // the same file: not a byte was copied
  })

  test('after a power loss only what was made durable counts', async () => {
    const body = rawDisk(1_500_000)
    await using s = await scene({ body, etag: '"v"', hang: 1_000_000 })
    const stop = new AbortController()
    const getting = s.images.get('debian', watch(stop.signal).hooks)
    await s.written(1_000_000)
    stop.abort(new Error('enough'))
    await expect(getting).rejects.toThrow('enough')
    const part = join(s.cache, 'partial', (await s.partial()).find((f) => f.endsWith('.part'))!)
    const record = JSON.parse(await readFile(`${part}.json`, 'utf8'))
    // another boot, and a file system that shows zeros where the data never reached the disk
    await writeFile(
      `${part}.json`,
      JSON.stringify({ ...record, synced: 300_000, writer: { ...record.writer, boot_id: 'x' } }),
    )
    await writeFile(part, Buffer.concat([body.subarray(0, 300_000), Buffer.alloc(700_000)]))
    s.server.behave = { body, etag: '"v"' }
    await expectFile((await s.images.get('debian', watch().hooks)).path, body)
    expect(s.server.requests[1]!.headers.range).toBe('bytes=300000-')
  })
})

describe('a download that is refused', () => {
  const body = rawDisk(200_000)
  const other = sum('sha256', Buffer.from('something else'))

  test.each<[string, Behaviour, Partial<Template>, string, RegExp]>([
    [
      'a wrong checksum',
      { body },
      { checksum: other },
      'image-checksum',
      /its sha256 is [0-9a-f]{64}, but .* is wanted/,
    ],
    [
      'packed on the way',
      { body, headers: { 'content-encoding': 'gzip' } },
      {},
      'image-download',
      /Content-Encoding: gzip/,
    ],
    ['not there', { body, status: 404 }, {}, 'image-download', /status 404.*publishers remove old images/s],
    ['not allowed', { body, status: 403 }, {}, 'image-download', /status 403/],
    [
      'going in circles',
      { body, redirects: { '/disk.img': '/disk.img' } },
      {},
      'image-download',
      /redirects more than 10 times/,
    ],
    [
      'leading to a file',
      { body, redirects: { '/disk.img': 'file:///etc/passwd' } },
      {},
      'image-download',
      /no http or https address/,
    ],
    ['of unknown length', { body, length: 'close' }, {}, 'image-download', /does not say how long the file is/],
    [
      'at no address',
      { body },
      { url: 'http://me:hush@[nowhere/x' },
      'image-download',
      /"http:\/\/\[nowhere\/x" is no http or https address/,
    ],
    ['a web page', { body: Buffer.from('<!DOCTYPE html><html>Sign in</html>') }, {}, 'image-invalid', /web page/],
    [
      'a packed image',
      { body: Buffer.from('\xfd7zXZ\0 …'.padEnd(2000), 'latin1') },
      {},
      'image-invalid',
      /packed with xz.*Unpack it/s,
    ],
    ['empty', { body: Buffer.alloc(0) }, {}, 'image-invalid', /is empty/],
    ['not what format says', { body }, { format: 'qcow2' }, 'image-invalid', /no qcow2 image/],
  ])('%s', async (_, behave, template, code, text) => {
    await using s = await scene(behave, template)
    const e = await failure(s.images.get('debian', watch().hooks))
    expect(e).toMatchObject({ code, transient: false })
    expect(`${e.message}\n${e.hint}`).toMatch(text)
    expect(await s.files()).toEqual([])
    expect(await s.partial()).toEqual([])
    expect(s.server.requests.length).toBeLessThan(12)
  })

  test('what nobody listens for is tried again, and then transient', async () => {
    await using s = await scene({ body })
    await s.server[Symbol.asyncDispose]()
    const e = await failure(s.images.get('debian', watch().hooks))
    expect(e).toMatchObject({ code: 'image-download', transient: true })
    expect(e.message).toContain('refuses connections')
  })

  test('a server that asks for patience gets it', async () => {
    await using s = await scene({ body, status: 503, headers: { 'retry-after': '1' }, after: { body } })
    const seen = watch()
    expect((await s.images.get('debian', seen.hooks)).size_bytes).toBe(body.length)
    expect(seen.logged.join()).toContain('The next try is in 1 s')
  })

  test('names that are none are refused before anything is touched', async () => {
    await using s = await scene({ body })
    expect(await failure(s.images.get('../debian', watch().hooks))).toMatchObject({ code: 'image-invalid' })
    expect(await failure(s.images.get('constructor', watch().hooks))).toMatchObject({ code: 'image-not-found' })
    const e = await failure(s.images.get('debain', watch().hooks))
    expect(e).toMatchObject({ code: 'image-not-found' })
    expect(e.hint).toContain('debian')
  })
})
