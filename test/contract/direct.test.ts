// `hyper2kvm MANIFEST [-v] [--dry-run]`, as hyperexport calls it when no daemon runs (contract A1, direct mode).
import { execFile } from 'node:child_process'
import { chmod, readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { home } from '../support/agent.ts'
import { holds, makeDisk } from '../support/disks.ts'
import { artifactManifest, writeManifest } from '../support/manifests.ts'
import { tempDir } from '../support/temp.ts'

const exec = promisify(execFile)

async function hyper2kvm(dir: string, ...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const env = { ...process.env, VMSPOOL_CONFIG_DIR: join(dir, 'etc'), NO_COLOR: '1' }
  try {
    const r = await exec(join(home, 'bin/hyper2kvm'), args, { env, cwd: '/' })
    return { code: 0, out: r.stdout, err: r.stderr }
  } catch (e) {
    const { code, stdout, stderr } = e as { code: number; stdout: string; stderr: string }
    return { code, out: stdout, err: stderr }
  }
}

test('converts where the manifest says, prints the path, again over its own result, and leaves the source alone', {
  timeout: 600_000,
}, async () => {
  await using dir = await tempDir()
  const disk = await makeDisk(dir.path, 'web-disk-0', { size_mib: 4 })
  await chmod(disk.path, 0o444)
  const before = await readFile(disk.path)
  const at = await writeManifest(dir.path, { ...artifactManifest('web', [disk]), output: { format: 'qcow2' } })

  const dry = await hyper2kvm(dir.path, at, '--dry-run')
  expect(dry).toMatchObject({ code: 0 })
  expect(JSON.parse(dry.out)).toHaveProperty('bytes')
  await expect(stat(join(dir.path, 'output'))).rejects.toThrow('ENOENT')

  const wanted = join(dir.path, 'output/web.qcow2')
  const first = await hyper2kvm(dir.path, at)
  expect(first).toMatchObject({ code: 0, out: `Output: ${wanted}\n` })
  expect(first.err).not.toContain('copy')
  expect(await holds(wanted, 'qcow2', disk)).toBe(true)
  const again = await hyper2kvm(dir.path, at, '-v')
  expect(again).toMatchObject({
    code: 0,
    out: `Output: ${wanted}\n`,
    err: expect.stringContaining('web (direct): copy'),
  })
  expect((await readdir(join(dir.path, 'output'))).sort()).toEqual(['web.qcow2', 'web.report.json', 'web.xml'])
  expect(await readFile(disk.path)).toEqual(before)

  const named = { directory: join(dir.path, 'images'), filename: 'boot.raw', format: 'raw' }
  const raw = await writeManifest(dir.path, { ...artifactManifest('web', [disk]), output: named })
  expect((await hyper2kvm(dir.path, raw)).out).toMatch(/^Output: .*\/images\/boot\.raw\n$/)
  expect(await holds(join(dir.path, 'images/boot.raw'), 'raw', disk)).toBe(true)
})

test('what cannot be converted says why, and leaves nothing', { timeout: 600_000 }, async () => {
  await using dir = await tempDir()
  const disk = await makeDisk(dir.path, 'web-disk-0', { size_mib: 4 })
  const m = artifactManifest('web', [disk])
  m.disks[0]!.checksum = `sha256:${'0'.repeat(64)}`
  const wrong = await hyper2kvm(dir.path, await writeManifest(dir.path, { ...m, output: {} }))
  expect(wrong).toMatchObject({ code: 1, out: '', err: expect.stringMatching(/disk-0/) })
  expect(await readdir(join(dir.path, 'output'))).toEqual([])
  const out = { filename: '../../x.qcow2' }
  const away = await hyper2kvm(
    dir.path,
    await writeManifest(dir.path, { ...artifactManifest('web', [disk]), output: out }),
  )
  expect(away).toMatchObject({ code: 65, out: '', err: expect.stringContaining('is no file name') })
  expect(await hyper2kvm(dir.path, join(dir.path, 'none.json'))).toMatchObject({ code: 74, out: '' })
  expect((await hyper2kvm(dir.path)).code).toBe(2)
})
