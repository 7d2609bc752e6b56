// Several processes and one image: one fetches it, whatever happens to the others.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { execa } from 'execa'
import { expect, test } from 'vitest'
import { type CachedImage, openImages } from '../../src/vm/images/index.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { expectFile, imageServer, rawDisk } from './image-server.ts'

const quiet = { signal: new AbortController().signal }

interface Worker extends AsyncDisposable {
  child: ChildProcess
  lines: {
    image?: CachedImage
    error?: string
    code?: string
    log?: string
    doing?: string
    done?: number
    total?: number
  }[]
  ended: Promise<void>
  image(): Promise<CachedImage>
}

function worker(options: object, env: NodeJS.ProcessEnv = {}, name = 'debian'): Worker {
  const file = join(import.meta.dirname, 'images-fetch.process.ts')
  const child = spawn(process.execPath, [file, JSON.stringify({ options, name })], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...env },
  })
  const w: Worker = {
    child,
    lines: [],
    ended: new Promise((resolve) => child.once('close', () => resolve())),
    image: async () => {
      await w.ended
      const last = w.lines.at(-1)
      if (!last?.image) throw new Error(JSON.stringify(w.lines.slice(-3)))
      return last.image
    },
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGKILL')
      await w.ended
    },
  }
  let rest = ''
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    const parts = (rest + text).split('\n')
    rest = parts.pop()!
    w.lines.push(...parts.map((line) => JSON.parse(line)))
  })
  return w
}

async function scene(body: Buffer) {
  const dir = await tempDir()
  const server = await imageServer({ body, etag: '"v"' })
  const options = {
    dir: join(dir.path, 'cache'),
    templates: { debian: { url: server.url } },
    max_bytes: 0,
    max_age: 0,
    retry_ms: 10,
    // one that is killed, or stands still, is found so; one that is only slow must not be
    stale_ms: 5000,
  }
  const parts = async () =>
    (await readdir(join(options.dir, 'partial')).catch(() => [])).filter((f) => f.endsWith('.part')).sort()
  return {
    dir: dir.path,
    server,
    options,
    parts,
    written: (bytes: number) =>
      until('the beginning is written', async () => {
        for (const p of await parts()) if ((await stat(join(options.dir, 'partial', p))).size >= bytes) return p
        return undefined
      }),
    [Symbol.asyncDispose]: async () => {
      await server[Symbol.asyncDispose]()
      await dir[Symbol.asyncDispose]()
    },
  }
}

test('two processes and two callers in one of them: the server is asked once, the others wait and say so', async () => {
  const body = rawDisk(2_000_000)
  await using s = await scene(body)
  const goOn = Promise.withResolvers<void>()
  s.server.behave = { body, hang: 1_000_000, hang_until: goOn.promise }
  await using a = worker(s.options)
  await s.written(1_000_000)
  await using b = worker(s.options)
  const here = openImages(s.options)
  const both = [1, 2].map(() => {
    const said: string[] = []
    return { said, image: here.get('debian', { ...quiet, log: (t) => said.push(t) }) }
  })
  const waits = 'Another process is fetching the image debian: it is waited for.'
  await until('all others wait', () =>
    [b.lines.map((l) => l.log), ...both.map((w) => w.said)].every((w) => w.includes(waits)),
  )
  await until('who waits says how far it is', () =>
    b.lines.some(
      (l) => l.doing?.includes('waits for another process') && l.done === 1_000_000 && l.total === body.length,
    ),
  )
  goOn.resolve()
  const [one, two, three, four] = await Promise.all([a.image(), b.image(), ...both.map((w) => w.image)])
  expect(new Set([one, two, three, four].map((i) => i!.path)).size).toBe(1)
  await expectFile(one.path, body)
  expect(s.server.requests).toHaveLength(1)
  expect(s.server.sent).toBe(body.length)
})

test('a process that is killed while it fetches: another takes over, in the same file, from where it was', async () => {
  const body = rawDisk(2_000_000)
  await using s = await scene(body)
  s.server.behave = { body, etag: '"v"', hang: 1_200_000 }
  await using a = worker(s.options)
  const part = await s.written(1_200_000)
  const { ino } = await stat(join(s.options.dir, 'partial', part))
  await using b = worker(s.options)
  await until('the second waits', () => b.lines.some((l) => l.doing?.includes('waits for another process')))
  a.child.kill('SIGKILL')
  await a.ended
  s.server.behave = { body, etag: '"v"' }
  const image = await b.image()
  await expectFile(image.path, body)
  expect((await stat(image.path)).ino).toBe(ino)
  expect(s.server.requests.map((r) => r.headers.range)).toEqual([undefined, 'bytes=1200000-'])
  expect(await s.parts()).toEqual([])
})

test('a process that stood still wakes up after another took over: what it still writes reaches nobody', async () => {
  const body = rawDisk(2_000_000)
  await using s = await scene(body)
  s.server.behave = { body, etag: '"v"', drip: { bytes: 100_000, ms: 150 } }
  await using a = worker(s.options)
  const part = await s.written(500_000)
  a.child.kill('SIGSTOP')
  const { ino } = await stat(join(s.options.dir, 'partial', part))
  // what comes now is another version: were the two to write into one file, it would show
  const other = rawDisk(2_000_000)
  s.server.behave = { body: other, etag: '"w"' }
  await using b = worker(s.options)
  const image = await b.image()
  expect((await stat(image.path)).ino).not.toBe(ino)
  a.child.kill('SIGCONT')
  const late = await a.image()
  expect(late.path).toBe(image.path)
  await expectFile(image.path, other)
  expect(await s.parts()).toEqual([])
})

const mayMount = process.getuid?.() === 0 && (await execa('unshare', ['-m', 'true'], { reject: false })).exitCode === 0

test.skipIf(!mayMount)(
  'a disk that is full: said before the first byte, or while it is written; old images make room',
  async () => {
    const body = rawDisk(12 << 20)
    await using s = await scene(body)
    const small = join(s.dir, 'small')
    await execa('mkdir', [small])
    await execa('mount', ['-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', small])
    try {
      const options = { ...s.options, dir: join(small, 'cache'), reserve_bytes: 1 << 20 }
      const sha = `sha256:${createHash('sha256').update(body).digest('hex')}`
      const templates = { debian: { url: s.server.url }, other: { url: `${s.server.url}/2`, checksum: sha } }
      const images = openImages({ ...options, templates })
      await writeFile(join(small, 'ballast'), Buffer.alloc(14 << 20))
      await expect(images.get('debian', quiet)).rejects.toMatchObject({
        code: 'storage',
        transient: true,
        message: expect.stringContaining('There is not enough space for the image: 12 MiB are needed'),
      })
      // no length: it shows only while it is written
      s.server.behave = { body, length: 'chunked', etag: '"c"' }
      await expect(images.get('other', quiet)).rejects.toMatchObject({ code: 'storage', transient: true })
      expect((await execa('df', ['--output=avail', '-B1', small])).stdout.split('\n')[1]).toMatch(/^\s*[1-9]\d{6,}$/)
      // there is room now, and the download goes on with what it had
      await writeFile(join(small, 'ballast'), '')
      s.server.requests.length = 0
      const first = await images.get('other', quiet)
      expect(s.server.requests[0]!.headers.range).toMatch(/^bytes=[1-9]/)
      await expectFile(first.path, body)
      // an image that nobody has used for an hour makes room for the next
      const record = JSON.parse(await readFile(`${first.path}.json`, 'utf8'))
      await writeFile(`${first.path}.json`, JSON.stringify({ ...record, used_at: '2026-01-01T00:00:00Z' }))
      s.server.behave = { body, etag: '"v"' }
      await images.get('debian', quiet)
      expect((await images.list()).map((i) => i.name)).toEqual(['debian'])
    } finally {
      await execa('umount', [small])
    }
  },
)

test('https: whom the host does not trust is refused, and no redirect leads from it to http without a checksum', async () => {
  const body = rawDisk(200_000)
  await using s = await scene(body)
  const [key, cert] = [join(s.dir, 'key.pem'), join(s.dir, 'cert.pem')]
  execFileSync(
    'openssl',
    [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-days',
      '2',
      '-keyout',
      key,
    ].concat(['-out', cert, '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1']),
    { stdio: 'ignore' },
  )
  const tls = createServer({ key: await readFile(key), cert: await readFile(cert) }, (req, res) => {
    if (req.url === '/down') res.writeHead(302, { location: s.server.url }).end()
    else res.writeHead(200, { 'content-length': body.length }).end(body)
  })
  tls.listen(0, '127.0.0.1')
  await new Promise((resolve) => tls.once('listening', resolve))
  try {
    const base = `https://127.0.0.1:${(tls.address() as AddressInfo).port}`
    const checksum = `sha256:${createHash('sha256').update(body).digest('hex')}`
    const options = {
      ...s.options,
      templates: {
        direct: { url: `${base}/image` },
        down: { url: `${base}/down` },
        checked: { url: `${base}/down`, checksum },
      },
    }
    const ask = async (name: string, env: NodeJS.ProcessEnv, dir = options.dir) => {
      await using w = worker({ ...options, dir }, env, name)
      await w.ended
      return w.lines.at(-1)!
    }
    const trust = { NODE_EXTRA_CA_CERTS: cert }
    const [stranger, direct, down, checked] = await Promise.all([
      ask('direct', {}, join(s.dir, 'another cache')),
      ask('direct', trust),
      ask('down', trust),
      ask('checked', trust),
    ])
    expect(stranger).toMatchObject({
      code: 'image-download',
      error: expect.stringMatching(/certificate of .* is not trusted/),
    })
    expect(direct.image).toMatchObject({ size_bytes: body.length })
    expect(down).toMatchObject({
      code: 'image-download',
      error: expect.stringContaining('redirects from https to http://'),
    })
    expect(checked.image).toMatchObject({ size_bytes: body.length })
  } finally {
    tls.closeAllConnections()
    await new Promise((resolve) => tls.close(resolve))
  }
})

test('a proxy of the environment is used', async () => {
  const body = rawDisk(100_000)
  await using s = await scene(body)
  const templates = { debian: { url: 'http://images.invalid/disk.img' } }
  await using w = worker({ ...s.options, templates }, { http_proxy: `http://127.0.0.1:${s.server.port}`, no_proxy: '' })
  expect((await w.image()).size_bytes).toBe(body.length)
  expect(s.server.requests[0]!.url).toBe('http://images.invalid/disk.img')
})
