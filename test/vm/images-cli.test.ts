// `vmspool image` as it is typed.
import { createHash } from 'node:crypto'
import { chmod, chown, link, mkdir, readdir, stat, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { execa } from 'execa'
import { expect, test } from 'vitest'
import { cli, type RunOptions } from '../cli/run.ts'
import { vmspool } from '../support/agent.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { expectFile, imageServer, rawDisk } from './image-server.ts'

async function scene(body: Buffer) {
  const dir = await tempDir()
  const server = await imageServer({ body, etag: '"v"' })
  const config = join(dir.path, 'agent.yaml')
  const root = join(dir.path, 'root')
  const cache = join(root, 'default/output/vms/.images')
  for (const f of ['owners', 'jobs', 'output', 'queue']) await mkdir(join(root, 'default', f), { recursive: true })
  const checksum = `sha512:${createHash('sha512').update(body).digest('hex')}`
  await writeFile(
    config,
    JSON.stringify({
      root,
      templates: { debian: { url: server.url, checksum }, plain: { url: `${server.url}?token=hush` } },
    }),
  )
  return {
    dir: dir.path,
    root,
    cache,
    server,
    image: (args: string[], o: RunOptions = {}) => cli(['image', ...args, '--config', config], o),
    [Symbol.asyncDispose]: async () => {
      await server[Symbol.asyncDispose]()
      await dir[Symbol.asyncDispose]()
    },
  }
}

test('pull, list, add, rm in every format', { timeout: 600_000 }, async () => {
  const body = rawDisk(1_000_000)
  await using s = await scene(body)
  const empty = await s.image(['list', '-o', 'json'])
  expect(empty).toMatchObject({ code: 0, err: '' })
  expect(JSON.parse(empty.out)).toEqual([
    { name: 'debian', state: 'absent', source: s.server.url },
    { name: 'plain', state: 'absent', source: s.server.url },
  ])

  const pulled = await s.image(['pull', 'debian', '-o', 'name'])
  expect(pulled).toMatchObject({ code: 0, out: 'debian\n' })
  expect(pulled.err).toMatch(/debian: \d+ % downloads: .* of 977 KiB/)
  const again = await s.image(['pull', '--all', '--quiet', '-o', 'json'])
  expect(JSON.parse(again.out)).toMatchObject([
    { name: 'debian', state: 'ready', format: 'raw', size_bytes: body.length, in_use: 0, added: false },
    { name: 'plain', state: 'ready' },
  ])
  expect(again.err).not.toMatch(/debian/)
  expect(s.server.requests).toHaveLength(2)

  const file = join(s.dir, 'golden.img')
  await writeFile(file, rawDisk(600_000))
  const added = await s.image(['add', 'golden', file, '-o', 'yaml'])
  expect(added).toMatchObject({ code: 0 })
  expect(added.out).toContain('name: golden')
  const table = await s.image(['list'])
  expect(table.out).toMatch(/^NAME +STATE +FORMAT +SIZE +DISK +VMS +USED +SHA256 +SOURCE\n/)
  expect(table.out).toMatch(/\ngolden +ready +raw +586 KiB +586 KiB +0 +\d+ m?s ago +[0-9a-f]{12} +\/.*golden\.img\n/)
  expect(table.out).not.toContain('hush')
  expect((await s.image(['list', '-o', 'name'])).out).toBe('debian\ngolden\nplain\n')

  // a VM of an instance below the same root
  const instance = join(s.root, 'prod')
  for (const f of ['owners', 'jobs', 'output/vms/web-1']) await mkdir(join(instance, f), { recursive: true })
  const [{ path }] = JSON.parse((await s.image(['list', '-o', 'json'])).out).filter(
    (r: { name: string }) => r.name === 'golden',
  )
  await link(path, join(instance, 'output/vms/web-1/base.raw'))
  const refused = await s.image(['rm', 'golden'])
  expect(refused).toMatchObject({ code: 1, out: '' })
  expect(refused.err).toMatch(
    /^vmspool: The image golden \([0-9a-f]{12}\) is used by the VM web-1, so it was not removed\. Delete the VM/,
  )
  const removed = await s.image(['rm', 'debian', 'plain'])
  expect(removed).toMatchObject({ code: 0, out: 'debian\nplain\n', err: '' })
})

test('what goes wrong is said in a sentence, with an exit code', { timeout: 600_000 }, async () => {
  await using s = await scene(rawDisk(100_000))
  const file = join(s.dir, 'x.img')
  await writeFile(file, rawDisk(100_000))
  const runs = await Promise.all([
    s.image(['pull']),
    s.image(['pull', 'debain']),
    s.image(['rm', 'nothing']),
    s.image(['add', 'x', file, '--checksum', 'md5:00']),
    s.image(['add', 'x', file, '--checksum', '0'.repeat(64)]),
    s.image(['add', 'x', join(s.dir, 'nowhere')]),
    s.image(['add', 'bad/name', file]),
    s.image(['add', 'x', file, '--instance', 'mistyped']),
  ])
  expect(runs.map((r) => r.code)).toEqual([2, 1, 1, 2, 1, 1, 1, 73])
  const said = runs.map((r) => r.err)
  expect(said[0]).toContain('Say which templates, or --all. The configuration has: debian, plain.')
  expect(said[1]).toContain('There is no image debain. The configuration has these templates: debian, plain.')
  expect(said[2]).toContain('There is no image nothing in the cache')
  expect(said[3]).toContain('Write sha256: and 64 hexadecimal digits')
  expect(said[4]).toContain('is not the image that was meant')
  expect(said[5]).toContain('cannot be read')
  expect(said[6]).toContain('cannot be the name of an image')
  expect(said[7]).toContain('There is no spool "mistyped"')
  for (const r of runs) {
    expect(r.out).toBe('')
    expect(r.err).not.toMatch(/\n\s+at |error in vmspool itself/)
  }
})

test('Ctrl-C ends a pull with 130, and the next one goes on from there', { timeout: 600_000 }, async () => {
  const body = rawDisk(1_000_000)
  await using s = await scene(body)
  s.server.behave = { body, etag: '"v"', hang: 600_000 }
  let pressed = false
  const cut = await s.image(['pull', 'debian'], {
    onOutput: (text, kill) => {
      if (pressed || !text.includes('downloads')) return
      pressed = true
      void until('what is sent is in the file', async () => {
        const names = await readdir(join(s.cache, 'partial')).catch(() => [])
        const part = names.find((f) => f.endsWith('.part'))
        return part !== undefined && (await stat(join(s.cache, 'partial', part))).size >= 600_000
      }).then(() => kill('SIGINT'))
    },
  })
  expect(cut.code).toBe(130)
  expect(cut.err).toContain('What was downloaded is kept; the same command goes on from there.')
  s.server.behave = { body, etag: '"v"' }
  const whole = await s.image(['pull', 'debian', '-o', 'json'])
  expect(whole.code).toBe(0)
  expect(whole.err).toMatch(/goes on at byte [1-9]/)
  await expectFile(JSON.parse(whole.out)[0].path, body)
})

test('on a terminal there is a bar', { timeout: 600_000 }, async () => {
  const body = rawDisk(1_000_000)
  await using s = await scene(body)
  s.server.behave = { body, drip: { bytes: 50_000, ms: 30 } }
  const r = await s.image(['pull', 'debian', '-o', 'name'], { terminal: true })
  expect(r.code).toBe(0)
  expect(r.out).toMatch(/[█░]+ +\d+ % debian +downloads: .* of 977 KiB/)
  expect(r.out).toContain('debian')
})

test.skipIf(process.getuid?.() !== 0)(
  'who may not write is told as whom to run it, and may look; what root fetches belongs to the owner of the cache',
  { timeout: 600_000 },
  async () => {
    const body = rawDisk(100_000)
    await using s = await scene(body)
    await chmod(s.dir, 0o755)
    for (let at = s.dir; at !== '/'; at = join(at, '..')) await chmodIfOurs(at)
    await mkdir(s.cache, { recursive: true })
    await chown(s.cache, 1, 1) // daemon, on every Debian
    expect((await s.image(['pull', 'debian', '-q'])).code).toBe(0)
    const [{ path }] = JSON.parse((await s.image(['list', '-o', 'json'])).out)
    expect(await stat(path)).toMatchObject({ uid: 1, gid: 1 })
    expect(await stat(`${path}.json`)).toMatchObject({ uid: 1, gid: 1 })

    const as = (uid: number, ...args: string[]) =>
      execa('setpriv', ['--reuid', `${uid}`, '--regid', `${uid}`, '--clear-groups', '--', vmspool, 'image', ...args], {
        reject: false,
        cwd: '/',
        env: { HOME: '/nonexistent', VMSPOOL_ROOT: s.root },
      })
    const looked = await as(65534, 'list', '-o', 'name')
    expect(looked).toMatchObject({ exitCode: 0, stdout: 'debian' })
    const refused = await as(65534, 'rm', 'debian')
    expect(refused.exitCode).toBe(77)
    expect(refused.stderr).toMatch(
      /may not be changed by this user: it belongs to daemon\. Run this as daemon or root: sudo -u daemon vmspool image/,
    )
    expect(await as(1, 'rm', 'debian')).toMatchObject({ exitCode: 0, stdout: 'debian' })
  },
)

/** The private folder of a test run is closed to others, who have to pass through it here. */
async function chmodIfOurs(dir: string): Promise<void> {
  if (/^(vs-|vmspool-test-)/.test(basename(dir))) await chmod(dir, 0o755)
}
