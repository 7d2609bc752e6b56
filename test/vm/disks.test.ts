// Disks of a VM with the real qemu-img: whole or not at all, taken up again, never smaller, never somebody else's file.
import { linkSync } from 'node:fs'
import { chmod, chown, mkdir, readdir, readFile, rename, stat, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { describe, expect, test } from 'vitest'
import { linkWhole, lookAtSource, makeCopy, makeEmpty, makeOverlay, takesDirectIo } from '../../src/vm/disks.ts'
import type { NamedFile } from '../../src/vm/types.ts'
import { holds, makeDisk } from '../support/disks.ts'
import { isRoot } from '../support/libvirtd.ts'
import { loopFs } from '../support/loop-fs.ts'
import { tempDir } from '../support/temp.ts'
import { recordingHooks } from './hooks.ts'

const MIB = 2 ** 20
const code = (c: string) => expect.objectContaining({ name: 'VmError', code: c })

async function info(path: string): Promise<Record<string, unknown>> {
  return JSON.parse((await execa('qemu-img', ['info', '--output=json', path])).stdout) as Record<string, unknown>
}
const named = (path: string, root: string, more: Partial<NamedFile> = {}): NamedFile => ({
  path,
  import_roots: [root],
  ...more,
})

describe('overlays', () => {
  test('lie on the base by its name alone, are larger on request, and are taken up when they are there', async () => {
    await using dir = await tempDir()
    const hooks = recordingHooks()
    const disk = await makeDisk(dir.path, 'base', { format: 'qcow2', size_mib: 4 })
    const base = { path: disk.path, format: 'qcow2' as const }
    const path = join(dir.path, 'disk.qcow2')
    expect(await makeOverlay({ base, path, hooks })).toBe(4 * MIB)
    expect(await info(path)).toMatchObject({
      'backing-filename': 'base.qcow2',
      'backing-filename-format': 'qcow2',
      'virtual-size': 4 * MIB,
    })
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    await execa('qemu-io', ['-f', 'qcow2', '-c', 'write -P 0x55 0 64k', path])
    const before = await readFile(path)
    // the same again, then a larger one: what the guest wrote stays
    const { children } = hooks
    expect(await makeOverlay({ base, path, size_bytes: 4 * MIB, hooks })).toBe(4 * MIB)
    expect(await readFile(path)).toEqual(before)
    expect(hooks.children).toBe(children)
    expect(await makeOverlay({ base, path, size_bytes: 6 * MIB + 1, hooks })).toBe(6 * MIB + 512)
    expect((await execa('qemu-io', ['-f', 'qcow2', '-r', '-c', 'read -P 0x55 0 64k', path])).stdout).not.toMatch(
      /verification failed/,
    )
    expect((await info(path))['virtual-size']).toBe(6 * MIB + 512)
    // the whole folder can be moved
    await mkdir(join(dir.path, 'new'))
    for (const f of ['base.qcow2', 'disk.qcow2']) await rename(join(dir.path, f), join(dir.path, 'new', f))
    expect((await info(join(dir.path, 'new/disk.qcow2')))['full-backing-filename']).toBe(
      join(dir.path, 'new/base.qcow2'),
    )
  })

  test('are never smaller than what they lie on, and never take what was made for something else', async () => {
    await using dir = await tempDir()
    const hooks = recordingHooks()
    const raw = { path: join(dir.path, 'base.raw'), format: 'raw' as const }
    await writeFile(raw.path, Buffer.alloc(MIB))
    const path = join(dir.path, 'disk.qcow2')
    await expect(makeOverlay({ base: raw, path, size_bytes: MIB - 512, hooks })).rejects.toEqual(code('vm-invalid'))
    expect(await readdir(dir.path)).toEqual(['base.raw'])
    await makeEmpty({ path, format: 'qcow2', size_bytes: MIB, hooks })
    await expect(makeOverlay({ base: raw, path, hooks })).rejects.toEqual(code('vm-conflict'))
    await expect(makeEmpty({ path, format: 'qcow2', size_bytes: 512, hooks })).rejects.toEqual(code('vm-invalid'))
    expect((await info(path))['virtual-size']).toBe(MIB)
  })

  test('a base that names another file is refused', async () => {
    await using dir = await tempDir()
    const hooks = recordingHooks()
    await writeFile(join(dir.path, 'secret'), Buffer.alloc(MIB))
    const path = join(dir.path, 'base.qcow2')
    await execa('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', 'secret', path])
    const base = { path, format: 'qcow2' as const }
    await expect(makeOverlay({ base, path: join(dir.path, 'disk.qcow2'), hooks })).rejects.toEqual(
      code('image-invalid'),
    )
    expect((await readdir(dir.path)).sort()).toEqual(['base.qcow2', 'secret'])
  })
})

describe('copies', () => {
  test.each([
    ['qcow2', 'qcow2', 'compression_type=zlib'],
    ['qcow2', 'raw', undefined],
    ['raw', 'qcow2', undefined],
    ['raw', 'raw', undefined],
  ] as const)('%s to %s, larger and with progress', async (from, to, options) => {
    await using dir = await tempDir()
    const hooks = recordingHooks()
    const disk = await makeDisk(dir.path, 'src', { format: from, size_mib: 8, ...(options ? { options } : {}) })
    const path = join(dir.path, `disk.${to}`)
    const size_bytes = await makeCopy({
      from: named(disk.path, dir.path),
      path,
      format: to,
      size_bytes: 9 * MIB,
      hooks,
    })
    expect(size_bytes).toBe(9 * MIB)
    // the rest is zeros
    await truncate(disk.raw, 9 * MIB)
    expect(await holds(path, to, disk)).toBe(true)
    expect((await info(path))['backing-filename']).toBeUndefined()
    expect((await stat(path)).blocks * 512).toBeLessThan(6 * MIB)
    if (hooks.told.length > 0)
      expect(hooks.told.at(-1)).toMatchObject({ phase: 'disks', bytes_total: 8 * MIB, percent: 100 })
    expect((await readdir(dir.path)).filter((f) => f.startsWith('.'))).toEqual([])
  })

  test.runIf(isRoot)(
    'share blocks where the filesystem can, unless the original is compressed',
    async () => {
      await using dir = await tempDir()
      await using fs = await loopFs(dir.path, 'btrfs', 1)
      const hooks = recordingHooks()
      const disk = await makeDisk(fs.path, 'src', { format: 'qcow2', size_mib: 8 })
      const plain = join(fs.path, 'plain.qcow2')
      await makeCopy({ from: { path: disk.path, format: 'qcow2' }, path: plain, format: 'qcow2', hooks })
      expect(await readFile(plain)).toEqual(await readFile(disk.path))
      const packed = join(fs.path, 'packed.qcow2')
      // noise does not get smaller, this does
      for (const image of [disk.raw, disk.path])
        await execa('qemu-io', ['-f', image === disk.raw ? 'raw' : 'qcow2', '-c', 'write -P 7 512k 256k', image])
      await execa('qemu-img', ['convert', '-c', '-f', 'qcow2', '-O', 'qcow2', disk.path, packed])
      const copy = join(fs.path, 'copy.qcow2')
      await makeCopy({ from: { path: packed, format: 'qcow2' }, path: copy, format: 'qcow2', hooks })
      expect(await holds(copy, 'qcow2', disk)).toBe(true)
      const compressed = async (image: string) =>
        /[1-9][\d.]*% compressed/.test((await execa('qemu-img', ['check', image])).stdout)
      expect([await compressed(packed), await compressed(copy)]).toEqual([true, false])
    },
    600_000,
  )

  test('a raw disk whose guest wrote a qcow2 header reads nothing but itself', async () => {
    await using dir = await tempDir()
    const hooks = recordingHooks()
    await writeFile(join(dir.path, 'secret'), 'the secret\n'.repeat(50_000))
    const evil = join(dir.path, 'evil.raw')
    await execa('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', join(dir.path, 'secret'), evil])
    const path = join(dir.path, 'disk.raw')
    // taken for what it looks like, it is refused; taken for what it is, it is bytes
    await expect(makeCopy({ from: named(evil, dir.path), path, format: 'raw', hooks })).rejects.toEqual(
      code('image-invalid'),
    )
    await makeCopy({ from: named(evil, dir.path, { format: 'raw' }), path, format: 'raw', hooks })
    expect((await readFile(path)).includes('the secret')).toBe(false)
    expect(await lookAtSource(named(evil, dir.path, { format: 'raw' }), { signal: hooks.signal })).toMatchObject({
      format: 'raw',
    })
  })

  test('files that a VM is not made from are told apart', async () => {
    await using dir = await tempDir()
    await using other = await tempDir()
    const hooks = recordingHooks()
    const vmdk = await makeDisk(dir.path, 'a')
    const path = join(dir.path, 'disk.qcow2')
    const copy = (from: NamedFile) => makeCopy({ from, path, format: 'qcow2', hooks })
    await expect(copy(named(vmdk.path, dir.path))).rejects.toThrow(/looks like vmdk.*made from qcow2 or raw/)
    await expect(copy(named(join(dir.path, 'gone'), dir.path))).rejects.toEqual(code('image-not-found'))
    await expect(copy(named(vmdk.path, other.path))).rejects.toThrow(/outside the folders/)
    await symlink(vmdk.raw, join(dir.path, 'link'))
    await expect(copy(named(join(dir.path, 'link'), dir.path))).rejects.toThrow(/symbolic link/)
    await writeFile(join(dir.path, 'empty'), '')
    await expect(copy(named(join(dir.path, 'empty'), dir.path))).rejects.toEqual(code('image-invalid'))
    await expect(
      makeCopy({ from: named(vmdk.raw, dir.path), path, format: 'qcow2', hooks, max_virtual_size: MIB }),
    ).rejects.toThrow(/at most 1048576 are accepted/)
  })

  test.runIf(isRoot)('only what the submitter may read', async () => {
    await using dir = await tempDir()
    await chmod(dir.path, 0o755)
    const hooks = recordingHooks()
    const path = join(dir.path, 'private.raw')
    await writeFile(path, Buffer.alloc(MIB), { mode: 0o600 })
    const from = (uid: number) => named(path, dir.path, { submitter: { uid, gid: uid, groups: [uid] } })
    const to = join(dir.path, 'disk.raw')
    await expect(makeCopy({ from: from(65_534), path: to, format: 'raw', hooks })).rejects.toThrow(
      /may read only what its submitter may read/,
    )
    await chown(path, 65_534, 65_534)
    expect(await makeCopy({ from: from(65_534), path: to, format: 'raw', hooks })).toBe(MIB)
  })
})

describe('whole or not at all', () => {
  test('an abort in the middle leaves nothing, and the next attempt removes what a killed one left', async () => {
    await using dir = await tempDir()
    const disk = await makeDisk(dir.path, 'src', { format: 'qcow2', size_mib: 8 })
    const out = join(dir.path, 'vm')
    await mkdir(out)
    const path = join(out, 'disk.qcow2')
    const reason = new Error('no longer wanted')
    const hooks = recordingHooks({ onSpawned: (h) => h.children === 2 && h.abort(reason) })
    await expect(makeCopy({ from: named(disk.path, dir.path), path, format: 'qcow2', hooks })).rejects.toBe(reason)
    expect(await readdir(out)).toEqual([])
    await writeFile(join(out, '.disk.qcow2.0123456789ab.tmp'), 'half')
    await writeFile(join(out, '.other.qcow2.0123456789ab.tmp'), "another disk's")
    await makeCopy({ from: named(disk.path, dir.path), path, format: 'qcow2', hooks: recordingHooks() })
    expect((await readdir(out)).sort()).toEqual(['.other.qcow2.0123456789ab.tmp', 'disk.qcow2'])
    expect(await holds(path, 'qcow2', disk)).toBe(true)
  })

  test('an attempt that was thought dead does not put its disk under a VM that runs', async () => {
    await using dir = await tempDir()
    const path = join(dir.path, 'disk.qcow2')
    const theirs = join(dir.path, 'theirs.qcow2')
    await makeEmpty({ path: theirs, format: 'qcow2', size_bytes: MIB, hooks: recordingHooks() })
    // the later attempt finishes while the earlier one still makes its own
    const hooks = recordingHooks({ onSpawned: () => linkSync(theirs, path) })
    expect(await makeEmpty({ path, format: 'qcow2', size_bytes: MIB, hooks })).toBe(MIB)
    expect(hooks.children).toBe(1)
    expect((await stat(path)).ino).toBe((await stat(theirs)).ino)
    expect((await readdir(dir.path)).sort()).toEqual(['disk.qcow2', 'theirs.qcow2'])
  })

  test.runIf(isRoot)('a full disk is said, with how much there is, and leaves nothing', async () => {
    await using dir = await tempDir()
    const mount = join(dir.path, 'small')
    await mkdir(mount)
    await execa('mount', ['-t', 'tmpfs', '-o', 'size=4M', 'tmpfs', mount])
    try {
      const hooks = recordingHooks()
      const disk = await makeDisk(dir.path, 'src', { format: 'raw', size_mib: 16, dense: true })
      const path = join(mount, 'disk.raw')
      const failing = (format: 'raw' | 'qcow2', p: string) =>
        makeCopy({ from: named(disk.path, dir.path), path: p, format, hooks })
      await expect(failing('raw', path)).rejects.toThrow(/not enough space.*\d+ bytes are needed.*\d+ bytes free/)
      await expect(linkWhole(disk.path, path, hooks)).rejects.toThrow(/./)
      await expect(failing('qcow2', join(mount, 'disk.qcow2'))).rejects.toEqual(
        expect.objectContaining({ code: 'storage', transient: true }),
      )
      expect(await readdir(mount)).toEqual([])
      // a filesystem that fills up while the copy runs
      await writeFile(join(mount, 'other'), Buffer.alloc(4 * MIB - 32_768))
      await expect(
        makeEmpty({ path: join(mount, 'new.qcow2'), format: 'qcow2', size_bytes: MIB, hooks }),
      ).rejects.toThrow(/did not fit on the filesystem.*\d+ bytes free/)
      expect(await readdir(mount)).toEqual(['other'])
    } finally {
      await execa('umount', [mount])
    }
  })

  test('a second name is a link, a copy on another filesystem, and never in the place of what is there', async () => {
    await using dir = await tempDir()
    const hooks = recordingHooks()
    const disk = await makeDisk(dir.path, 'src', { format: 'raw', size_mib: 8 })
    const to = join(dir.path, 'base.raw')
    expect(await linkWhole(disk.path, to, hooks)).toBe('link')
    expect((await stat(to)).ino).toBe((await stat(disk.path)).ino)
    expect(await linkWhole(disk.raw, to, hooks)).toBe('there')
    if (!isRoot) return
    const mount = join(dir.path, 'else')
    await mkdir(mount)
    await execa('mount', ['-t', 'tmpfs', 'tmpfs', mount])
    try {
      await chmod(disk.path, 0o640)
      const copy = join(mount, 'base.raw')
      expect(await linkWhole(disk.path, copy, hooks)).toBe('copy')
      expect(await holds(copy, 'raw', disk)).toBe(true)
      expect((await stat(copy)).mode & 0o777).toBe(0o640)
      expect((await stat(copy)).blocks * 512).toBeLessThan(6 * MIB)
      expect(await linkWhole(disk.path, copy, hooks)).toBe('there')
      expect(await readdir(mount)).toEqual(['base.raw'])
    } finally {
      await execa('umount', [mount])
    }
  })

  test('whether the cache can be passed is tried on the filesystem itself', async () => {
    await using dir = await tempDir()
    expect(await takesDirectIo(dir.path)).toBe(true)
    if (isRoot) {
      const mount = join(dir.path, 'ram')
      await mkdir(mount)
      await execa('mount', ['-t', 'ramfs', 'ramfs', mount])
      try {
        expect(await takesDirectIo(mount)).toBe(false)
        expect(await readdir(mount)).toEqual([])
      } finally {
        await execa('umount', [mount])
      }
    }
    expect(await readdir(dir.path)).toEqual(isRoot ? ['ram'] : [])
  })
})
