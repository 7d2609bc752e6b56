// install.sh --try as a stranger runs it; the packages are here already, so nothing is installed.
import { execFile } from 'node:child_process'
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { home } from '../support/agent.ts'
import { holds, makeDisk } from '../support/disks.ts'
import { processesMarked } from '../support/leaks.ts'
import { tempDir } from '../support/temp.ts'

const exec = promisify(execFile)
const install = join(home, 'install.sh')

async function tryIt(args: string[], tmp: string, mark: string) {
  const env: NodeJS.ProcessEnv = { ...process.env, TMPDIR: tmp, VMSPOOL_TEST_TRY: mark, NO_COLOR: '1' }
  for (const name of Object.keys(env)) if (/^(VITEST|NODE_ENV)/.test(name)) delete env[name]
  try {
    const { stdout, stderr } = await exec(install, ['--try', ...args], { env, maxBuffer: 1 << 24 })
    return { code: 0, out: stdout, err: stderr }
  } catch (error) {
    const e = error as { code: number; stdout: string; stderr: string }
    return { code: e.code, out: e.stdout, err: e.stderr }
  } finally {
    expect(processesMarked(`VMSPOOL_TEST_TRY=${mark}`)).toEqual([])
  }
}

test('with the disk it makes itself: status, result, info, comparison, what next; no process is left', {
  timeout: 600_000,
}, async () => {
  await using dir = await tempDir()
  const r = await tryIt([], dir.path, 'made')
  expect(r.code, r.err + r.out).toBe(0)
  expect(r.out).toMatch(/^State: +succeeded since /m)
  expect(r.out).toContain('"state": "succeeded"')
  expect(r.out).toContain('file format: qcow2')
  expect(r.out).toContain('Images are identical.')
  expect(r.out).toContain('What to do next:')
  expect(r.err).toMatch(/web-01 \([0-9A-Z]{26}\): \d+ %/)
  const [made] = await readdir(dir.path)
  expect(r.out).toContain(`The results lie in ${join(dir.path, made!)}/spool/`)
  expect((await readdir(join(dir.path, made!, 'export'))).sort()).toEqual([
    'artifact-manifest.json',
    'web-01-disk1.vmdk',
    'web-01.mf',
    'web-01.ovf',
  ])
})

test('with a disk of my own, twice', { timeout: 600_000 }, async () => {
  await using dir = await tempDir()
  await mkdir(join(dir.path, 'tmp'))
  const disk = await makeDisk(dir.path, 'mine', { format: 'qcow2', size_mib: 8 })
  for (const mark of ['first', 'second']) {
    const r = await tryIt([disk.path], join(dir.path, 'tmp'), mark)
    expect(r.code, r.err + r.out).toBe(0)
    expect(r.out).toContain('Images are identical.')
  }
  for (const run of await readdir(join(dir.path, 'tmp'))) {
    const [instance] = await readdir(join(dir.path, 'tmp', run, 'spool'))
    const output = join(dir.path, 'tmp', run, 'spool', instance!, 'output')
    expect(await holds(join(output, 'mine.qcow2'), 'qcow2', disk)).toBe(true)
  }
})

test('a disk that cannot be converted ends with 1 and shows why; one that is not there with 69', {
  timeout: 600_000,
}, async () => {
  await using dir = await tempDir()
  const broken = join(dir.path, 'broken.qcow2')
  await writeFile(broken, 'this is no disk')
  await mkdir(join(dir.path, 'tmp'))
  const r = await tryIt([broken], join(dir.path, 'tmp'), 'broken')
  expect(r.code).toBe(1)
  expect(r.out).toMatch(/^State: +failed since /m)
  expect(r.err).toContain('the disk was not converted')
  expect(await tryIt([join(dir.path, 'nothing.vmdk')], dir.path, 'none')).toMatchObject({
    code: 69,
    err: expect.stringContaining('does not exist'),
  })
})

test('--help says what it does; anything else is a usage error', async () => {
  const help = await exec(install, ['--help'])
  expect(help.stdout).toContain('Usage: ./install.sh --try [DISK]')
  for (const wrong of [['--instance'], ['--instance', '../x'], ['--no-such'], ['--purge'], ['--prefix', 'usr']])
    await expect(exec(install, wrong)).rejects.toMatchObject({ code: 2 })
  await expect(exec(install)).rejects.toMatchObject({ code: 2 })
})
