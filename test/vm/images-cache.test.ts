// The cache itself: what may become an image, how VMs get it, what is kept and what goes.
import { createHash } from 'node:crypto'
import {
  chmod,
  copyFile,
  link,
  mkdir,
  open,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { describe, expect, test } from 'vitest'
import type { Template } from '../../src/config/index.ts'
import { openImages } from '../../src/vm/images/index.ts'
import { VmError } from '../../src/vm/types.ts'
import { loopFs } from '../support/loop-fs.ts'
import { tempDir } from '../support/temp.ts'
import { expectFile, rawDisk } from './image-server.ts'

const quiet = { signal: new AbortController().signal }
const sha256 = (b: Buffer) => createHash('sha256').update(b).digest('hex')
const qemu = (...args: string[]) => execa('qemu-img', args)

async function scene(more: object = {}) {
  const dir = await tempDir()
  const at = (name: string) => join(dir.path, name)
  const cache = at('cache')
  await mkdir(at('vms'))
  return {
    at,
    cache,
    open: (templates: Record<string, Template> = {}, o: object = {}) =>
      openImages({ dir: cache, templates, max_bytes: 0, max_age: 0, stale_ms: 2000, ...more, ...o }),
    /** a folder of a VM */
    vm: async (name: string) => {
      await mkdir(join(at('vms'), name), { recursive: true })
      return join(at('vms'), name)
    },
    files: async () => (await readdir(cache)).filter((f) => f !== 'partial' && f !== 'locks').sort(),
    [Symbol.asyncDispose]: () => dir[Symbol.asyncDispose](),
  }
}

async function failure(work: Promise<unknown>): Promise<VmError> {
  const e = await work.then(
    () => undefined,
    (error) => error,
  )
  expect(e).toBeInstanceOf(VmError)
  return e
}

/** As if an image had last been used so long ago. */
async function aged(path: string, days: number): Promise<void> {
  const record = JSON.parse(await readFile(`${path}.json`, 'utf8'))
  const used_at = new Date(Date.now() - days * 86_400_000).toISOString()
  await writeFile(`${path}.json`, JSON.stringify({ ...record, used_at }))
}

describe('what a file is', () => {
  test('.img may be qcow2 or raw; a template through a link is read; the file itself is not touched', async () => {
    await using s = await scene()
    await qemu('create', '-q', '-f', 'qcow2', s.at('one.img'), '64M')
    await writeFile(s.at('two.qcow2'), rawDisk(1_000_000))
    await symlink(s.at('one.img'), s.at('link'))
    const images = s.open({ one: { path: s.at('link') }, two: { path: s.at('two.qcow2') } })
    expect(await images.get('one', quiet)).toMatchObject({ format: 'qcow2', virtual_size_bytes: 64 * 2 ** 20 })
    expect(await images.get('two', quiet)).toMatchObject({ format: 'raw', virtual_size_bytes: 1_000_448 })
    expect(await stat(s.at('one.img'))).toMatchObject({ nlink: 1 })
    expect((await stat(s.at('one.img'))).mode & 0o222).not.toBe(0)
  })

  /** Overwrites bytes of a file. */
  async function patch(path: string, offset: number, bytes: Buffer): Promise<void> {
    const h = await open(path, 'r+')
    await h.write(bytes, 0, bytes.length, offset)
    await h.close()
  }
  const be64 = (n: bigint) => {
    const b = Buffer.alloc(8)
    b.writeBigUInt64BE(n)
    return b
  }

  test.each<[string, (p: string, s: { at(n: string): string }) => Promise<unknown>, Partial<Template>, RegExp]>([
    [
      'qcow2 on a backing file',
      async (p, s) => {
        await writeFile(s.at('secret'), rawDisk(1 << 20))
        await qemu('create', '-q', '-f', 'qcow2', '-b', s.at('secret'), '-F', 'raw', p)
      },
      {},
      /backing file/,
    ],
    [
      'qcow2 on a json: name',
      async (p) => {
        await qemu('create', '-q', '-f', 'qcow2', p, '1M')
        const name = 'json:{"driver":"raw","file":{"driver":"file","filename":"/etc/shadow"}}'
        await patch(p, 512, Buffer.from(name))
        await patch(p, 8, be64(512n))
        await patch(p, 16, Buffer.from([0, 0, 0, name.length]))
      },
      {},
      /backing file/,
    ],
    [
      'qcow2 with an external data file',
      async (p, s) => qemu('create', '-q', '-f', 'qcow2', '-o', `data_file=${s.at('data')}`, p, '1M'),
      {},
      /another file/,
    ],
    [
      'qcow2 that is cut off',
      async (p, s) => {
        await writeFile(s.at('full'), rawDisk(2 << 20))
        await qemu('convert', '-f', 'raw', '-O', 'qcow2', s.at('full'), p)
        const h = await open(p, 'r+')
        await h.truncate(1 << 20)
        await h.close()
      },
      {},
      /cut off/,
    ],
    [
      'qcow2 of an absurd size',
      async (p) => {
        await qemu('create', '-q', '-f', 'qcow2', p, '1M')
        await patch(p, 24, be64(2n ** 52n))
      },
      {},
      /virtual size/,
    ],
    [
      'qcow2 called raw',
      async (p) => qemu('create', '-q', '-f', 'qcow2', p, '1M'),
      { format: 'raw' },
      /is a qcow2 image, not raw/,
    ],
    ['raw called qcow2', async (p) => writeFile(p, rawDisk(1 << 20)), { format: 'qcow2' }, /no qcow2 image/],
    ['a VMDK', async (p) => qemu('create', '-q', '-f', 'vmdk', p, '1M'), {}, /is a vmdk image.*vmspool convert/s],
    ['a VHD called raw', async (p) => qemu('create', '-q', '-f', 'vpc', p, '1M'), { format: 'raw' }, /is a vhd image/],
    [
      'anything',
      async (p) => writeFile(p, 'just some text\n'.repeat(100)),
      {},
      /neither qcow2 nor a disk.*format: raw/s,
    ],
    ['a folder', async (p) => mkdir(p), {}, /no regular file/],
    ['a FIFO', async (p) => execa('mkfifo', [p]), {}, /no regular file/],
    ['nothing', async () => {}, {}, /cannot be read.*no such file/s],
  ])('%s is refused, and nothing is left', async (_, make, more, text) => {
    await using s = await scene()
    await make(s.at('x.qcow2'), s)
    const e = await failure(s.open({ x: { path: s.at('x.qcow2'), ...more } }).get('x', quiet))
    expect(e.transient).toBe(false)
    expect(e.code).toMatch(/^image-(invalid|not-found)$/)
    expect(`${e.message} ${e.hint}`).toMatch(text)
    expect(await s.files()).toEqual([])
    expect(await readdir(join(s.cache, 'partial'))).toEqual([])
  })

  test('a raw disk without partitions, when format says so', async () => {
    await using s = await scene()
    await writeFile(s.at('x'), Buffer.alloc(1 << 20, 7))
    expect(await s.open({ x: { path: s.at('x'), format: 'raw' } }).get('x', quiet)).toMatchObject({ format: 'raw' })
    // and who later calls it something else is told
    const e = await failure(s.open({ x: { path: s.at('x'), format: 'qcow2' } }).get('x', quiet))
    expect(e.message).toContain('configured as qcow2, but the image is raw')
  })
})

describe('a template of a path', () => {
  test('is taken anew when its file has changed, and used on when the file is away', async () => {
    await using s = await scene()
    await writeFile(s.at('x'), rawDisk(1 << 20))
    const images = s.open({ x: { path: s.at('x') } })
    const one = await images.get('x', quiet)
    expect((await images.get('x', quiet)).path).toBe(one.path)
    const fresh = rawDisk(1 << 20)
    await writeFile(s.at('x'), fresh)
    await utimes(s.at('x'), 1, 1)
    const two = await images.get('x', quiet)
    expect(two.sha256).toBe(sha256(fresh))
    expect(two.path).not.toBe(one.path)
    await rm(s.at('x'))
    expect((await images.get('x', quiet)).path).toBe(two.path)
  })

  test('whose path changes in the configuration is another image', async () => {
    await using s = await scene()
    const body = rawDisk(1 << 20)
    for (const name of ['x', 'y']) await writeFile(s.at(name), body)
    const one = await s.open({ t: { path: s.at('x') } }).get('t', quiet)
    const two = await s.open({ t: { path: s.at('y') } }).get('t', quiet)
    expect(two.path).not.toBe(one.path)
    // with a checksum it does not matter where it comes from
    const checked = s.open({ t: { path: s.at('gone'), checksum: `sha256:${sha256(body)}` } })
    expect([one.path, two.path]).toContain((await checked.get('t', quiet)).path)
  })
})

test('a reload of the configuration counts for a cache that is open', async () => {
  await using s = await scene()
  await writeFile(s.at('x'), rawDisk(1 << 20))
  let templates: Record<string, Template> = {}
  const images = openImages({
    dir: s.cache,
    max_bytes: 0,
    max_age: 0,
    get templates() {
      return templates
    },
  })
  expect(await failure(images.get('x', quiet))).toMatchObject({ code: 'image-not-found' })
  templates = { x: { path: s.at('x') } }
  expect(await images.get('x', quiet)).toMatchObject({ name: 'x' })
})

describe('how a VM gets its base', () => {
  test('as a hard link, again and again; never over something else', async () => {
    await using s = await scene()
    await writeFile(s.at('x'), rawDisk(1 << 20))
    const images = s.open({ x: { path: s.at('x') } })
    const image = await images.get('x', quiet)
    const base = join(await s.vm('web'), 'base.raw')
    expect(await images.link(image, base, quiet)).toBe('link')
    expect(await images.link(image, base, quiet)).toBe('link')
    expect(await stat(base)).toMatchObject({ ino: (await stat(image.path)).ino, nlink: 2 })
    expect(await readdir(join(s.at('vms'), 'web'))).toEqual(['base.raw'])
    expect((await images.list())[0]).toMatchObject({ in_use: 1 })

    const other = join(await s.vm('db'), 'base.raw')
    await writeFile(other, 'somebody’s disk')
    expect(await failure(images.link(image, other, quiet))).toMatchObject({ code: 'vm-conflict' })
    expect(await readFile(other, 'utf8')).toBe('somebody’s disk')
    expect(await images.link(image, other, { ...quiet, replace: true })).toBe('link')

    await rm(image.path)
    const gone = await failure(images.link(image, join(await s.vm('late'), 'base.raw'), quiet))
    expect(gone).toMatchObject({ code: 'image-not-found', transient: true })
    expect(await readdir(await s.vm('late'))).toEqual([])
  })

  test.skipIf(process.getuid?.() !== 0)(
    'elsewhere as a copy with its holes, or a clone: nothing depends on the cache',
    async () => {
      await using s = await scene()
      const disk = Buffer.concat([rawDisk(1 << 20), Buffer.alloc(15 << 20)])
      await writeFile(s.at('x'), disk)
      const shm = `/dev/shm/vs-${process.pid}-${Date.now()}`
      await mkdir(shm)
      try {
        const images = s.open({ x: { path: s.at('x') } })
        const image = await images.get('x', quiet)
        const logged: string[] = []
        const base = join(shm, 'base.raw')
        expect(await images.link(image, base, { ...quiet, log: (t) => logged.push(t) })).toBe('copy')
        expect(logged.join()).toContain('No hard link of the image x can be made (EXDEV)')
        await expectFile(base, disk)
        expect((await stat(base)).mode & 0o7777).toBe(0o444)
        expect(await images.link(image, base, quiet)).toBe('copy') // it is recognised
        expect((await images.list())[0]).toMatchObject({ in_use: 0 })
        await images.remove('x')
        await expectFile(base, disk)
        expect(await readdir(shm)).toEqual(['base.raw'])
      } finally {
        await rm(shm, { recursive: true })
      }
      // two subvolumes are one file system that links do not cross, and clones do
      const fs = await loopFs(s.at('.'), 'btrfs', 1).catch(() => undefined)
      if (!fs) return
      try {
        for (const v of ['a', 'b']) await execa('btrfs', ['subvolume', 'create', join(fs.path, v)])
        const images = s.open({ x: { path: s.at('x') } }, { dir: join(fs.path, 'a/cache') })
        const image = await images.get('x', quiet)
        expect(await images.link(image, join(fs.path, 'b/base.raw'), quiet)).toBe('clone')
        await expectFile(join(fs.path, 'b/base.raw'), disk)
      } finally {
        await fs[Symbol.asyncDispose]()
      }
    },
  )
})

describe('what goes', () => {
  test('nothing that a VM is based on, whoever asks', async () => {
    await using s = await scene({ max_bytes: 1, max_age: 1 })
    await writeFile(s.at('x'), rawDisk(1 << 20))
    const images = s.open({ x: { path: s.at('x') } })
    const image = await images.get('x', quiet)
    for (const name of ['web', 'db']) await images.link(image, join(await s.vm(name), 'base.raw'), quiet)
    await aged(image.path, 400)
    expect((await images.clean()).removed).toEqual([])
    const e = await failure(images.remove('x', { vm_dirs: [s.at('nowhere'), s.at('vms')] }))
    expect(e).toMatchObject({ code: 'vm-conflict', hint: 'Delete the VMs first.' })
    expect(e.message).toContain('is used by the VMs db, web, so it was not removed')
    const unknown = await failure(images.remove('x'))
    expect(unknown.message).toContain('2 hard links elsewhere')
    expect(await readFile(image.path)).toHaveLength(1 << 20)

    for (const name of ['web', 'db']) await rm(join(s.at('vms'), name), { recursive: true })
    expect((await images.clean()).removed.map((i) => i.name)).toEqual(['x'])
    expect(await s.files()).toEqual([])
  })

  test('by size the least recently used first, by age what was not used for so long; not what was used just now', async () => {
    await using s = await scene()
    const templates: Record<string, Template> = {}
    for (const name of ['a', 'b', 'c', 'd']) {
      await writeFile(s.at(name), rawDisk(1 << 20))
      templates[name] = { path: s.at(name) }
    }
    const images = s.open(templates)
    const paths: Record<string, string> = {}
    for (const name of Object.keys(templates)) paths[name] = (await images.get(name, quiet)).path
    await aged(paths.a!, 3)
    await aged(paths.b!, 9)
    await aged(paths.c!, 2)
    const limited = s.open(templates, { max_bytes: 2.5 * 2 ** 20 })
    const first = await limited.clean()
    expect(first.removed.map((i) => i.name)).toEqual(['b', 'a'])
    expect(first.freed_bytes).toBeGreaterThanOrEqual(2 << 20)
    expect(first.total_bytes).toBeLessThan(2.5 * 2 ** 20)
    const old = await s.open(templates, { max_age: 86_400_000 }).clean()
    expect(old.removed.map((i) => i.name)).toEqual(['c'])
    // used a moment ago: perhaps it is about to be linked
    expect((await s.open(templates, { max_bytes: 1 }).clean()).removed).toEqual([])
    // what is used is young again
    await aged(paths.d!, 9)
    await images.get('d', quiet)
    expect((await s.open(templates, { max_bytes: 1, max_age: 1000 }).clean()).removed).toEqual([])
  })

  test('what a changed template has left behind, once no VM needs it; never what was added by hand', async () => {
    await using s = await scene({ max_bytes: 1, max_age: 1 })
    for (const name of ['x', 'y']) await writeFile(s.at(name), rawDisk(1 << 20))
    const mine = await s.open().add('mine', s.at('x'), quiet)
    expect(mine).toMatchObject({ added: true, current: true })
    const one = await s.open({ t: { path: s.at('x') } }, { max_bytes: 0, max_age: 0 }).get('t', quiet)
    const images = s.open({ t: { path: s.at('y') } }, { max_bytes: 0, max_age: 0 })
    await images.get('t', quiet)
    await images.link(one, join(await s.vm('web'), 'base.raw'), quiet)
    for (const i of [mine, one]) await aged(i.path, 400)
    expect((await images.clean()).removed).toEqual([])
    await rm(join(s.at('vms'), 'web'), { recursive: true })
    expect((await images.clean()).removed.map((i) => i.path)).toEqual([one.path])
    expect((await s.open().clean()).removed.map((i) => i.name)).toEqual([]) // "t" was used just now
    expect(await s.open().get('mine', quiet)).toMatchObject({ path: mine.path })
    expect((await s.open().remove('mine')).map((i) => i.path)).toEqual([mine.path])
    expect(await failure(s.open().get('mine', quiet))).toMatchObject({ code: 'image-not-found' })
  })

  test('left-overs of interrupted work, after days', async () => {
    await using s = await scene()
    await writeFile(s.at('x'), rawDisk(1 << 20))
    const images = s.open({ x: { path: s.at('x') } })
    await images.get('x', quiet)
    const left = [
      join(s.cache, 'partial/x@00112233.aabbccddeeff.part'),
      join(s.cache, '.tmp-1-00'),
      join(s.cache, 'x@00112233.001122334455.raw.json'),
    ]
    for (const f of left) await writeFile(f, 'x')
    await images.clean()
    for (const f of left) expect(await readFile(f, 'utf8')).toBe('x')
    for (const f of left) await utimes(f, 1, 1)
    await images.clean()
    for (const f of left) await expect(stat(f)).rejects.toMatchObject({ code: 'ENOENT' })
    expect(await images.list()).toHaveLength(1)
  })
})

describe('the files are the truth', () => {
  test.each([
    ['lost', (p: string) => rm(p)],
    ['cut off', async (p: string) => writeFile(p, (await readFile(p, 'utf8')).slice(0, 50))],
    [
      'of another image',
      async (p: string) => writeFile(p, (await readFile(p, 'utf8')).replace(/"sha256": "..../, '"sha256": "0000')),
    ],
  ])('a record that is %s is made again', async (_, spoil) => {
    await using s = await scene()
    await qemu('create', '-q', '-f', 'qcow2', s.at('x'), '1G')
    const templates = { x: { path: s.at('x') } }
    const image = await s.open(templates).get('x', quiet)
    await spoil(`${image.path}.json`)
    const again = await s.open(templates).get('x', quiet)
    const { added_at, used_at, source, ...same } = image
    expect(again).toMatchObject(same)
    expect(JSON.parse(await readFile(`${image.path}.json`, 'utf8'))).toMatchObject({ sha256: image.sha256, schema: 1 })
  })

  test('an image that somebody wrote to is not used any more, stays for its VMs, and is got anew', async () => {
    await using s = await scene()
    const body = rawDisk(1 << 20)
    await writeFile(s.at('x'), body)
    const images = s.open({ x: { path: s.at('x'), checksum: `sha256:${sha256(body)}` } })
    const image = await images.get('x', quiet)
    const base = join(await s.vm('web'), 'base.raw')
    await images.link(image, base, quiet)
    await chmod(base, 0o644)
    await writeFile(base, rawDisk(1 << 20))
    const again = await images.get('x', quiet)
    await expectFile(again.path, body)
    expect((await images.list()).map((i) => [i.current, i.in_use])).toEqual([
      [true, 0],
      [false, 1],
    ])
  })

  test('strangers in the folder are no images and stay', async () => {
    await using s = await scene()
    await writeFile(s.at('x'), rawDisk(1 << 20))
    const images = s.open({ x: { path: s.at('x') } })
    const image = await images.get('x', quiet)
    await copyFile(image.path, join(s.cache, 'notes.qcow2'))
    await symlink('/etc/passwd', join(s.cache, 'x@00112233.001122334455.raw'))
    await mkdir(join(s.cache, 'y@00112233.001122334455.raw'))
    await execa('mkfifo', [join(s.cache, 'z@00112233.001122334455.raw')])
    expect((await images.list()).map((i) => i.path)).toEqual([image.path])
    await images.clean()
    expect(await s.files()).toHaveLength(6)
  })

  test('names of versions: all or one, by the beginning of the sha256; all or none are removed', async () => {
    await using s = await scene()
    const added = []
    for (const name of ['x', 'y', 'z']) {
      await writeFile(s.at(name), rawDisk(1 << 20))
      added.push(await s.open().add('mine', s.at(name), quiet))
    }
    expect((await s.open().list()).filter((i) => i.current)).toMatchObject([{ path: added[2]!.path }])
    await link(added[0]!.path, join(await s.vm('web'), 'base.raw'))
    expect(await failure(s.open().remove('mine'))).toMatchObject({ code: 'vm-conflict' })
    expect(await s.open().list()).toHaveLength(3)
    expect(await s.open().remove(`mine@${added[1]!.sha256.slice(0, 10)}`)).toMatchObject([{ path: added[1]!.path }])
    expect(await s.open().list()).toHaveLength(2)
    expect(await failure(s.open().remove('mine@ffff00000000ff'))).toMatchObject({ code: 'image-not-found' })
  })

  test('a template’s name may be added for a file with its checksum, and for nothing else', async () => {
    await using s = await scene()
    const body = rawDisk(1 << 20)
    await writeFile(s.at('x'), body)
    const url = 'http://images.invalid/x'
    expect(await failure(s.open({ t: { url } }).add('t', s.at('x'), quiet))).toMatchObject({ code: 'vm-conflict' })
    const checked = s.open({ t: { url, checksum: `sha256:${sha256(body)}` } })
    const image = await checked.add('t', s.at('x'), quiet)
    expect(await checked.get('t', quiet)).toMatchObject({ path: image.path, added: false })
    await writeFile(s.at('x'), rawDisk(1 << 20))
    expect(await failure(checked.add('t', s.at('x'), quiet))).toMatchObject({ code: 'image-checksum' })
  })

  test('what one process removes and another links at once: either it is linked and stays, or it is gone', async () => {
    await using s = await scene()
    await writeFile(s.at('x'), rawDisk(4096))
    const folder = await s.vm('web')
    const outcomes: string[] = []
    let removing_ms = 10
    for (let i = 0; i < 32; i++) {
      const images = s.open()
      const image = await images.add('x', s.at('x'), quiet)
      const base = join(folder, `base.${i}`)
      const began = performance.now()
      // linked before it begins, when it is over, and at any moment of it, the more often the later: what counts is the end
      const early = i === 0 ? images.link(image, base, quiet) : undefined
      await early
      const removing = s.open().remove('x')
      if (i === 1) await removing
      const moment = removing_ms * Math.sqrt(Math.random())
      while (i > 1 && performance.now() - began < moment) await new Promise((resolve) => setImmediate(resolve))
      const linking = early ?? images.link(image, base, quiet)
      const [linked, removed] = await Promise.allSettled([linking, removing])
      if (removed.status === 'fulfilled' && linked.status === 'rejected')
        removing_ms = 0.8 * removing_ms + 0.2 * (performance.now() - began)
      const there = await stat(base).then(
        () => true,
        () => false,
      )
      expect(there).toBe(linked.status === 'fulfilled')
      outcomes.push(`${linked.status} ${removed.status}`)
      await rm(base, { force: true })
      await s
        .open()
        .remove('x')
        .catch(() => {})
    }
    expect(outcomes.slice(0, 2)).toEqual(['fulfilled rejected', 'rejected fulfilled'])
    expect(outcomes.filter((o) => o !== outcomes[0] && o !== outcomes[1])).toEqual([])
  })
})
