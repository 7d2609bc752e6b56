import { chmod, mkdir, readdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { tempDir } from '../support/temp.ts'
import { cli } from './run.ts'

interface Finding {
  check: string
  state: string
  detail: string
  fix?: string
}

test('every check reports, nothing is left behind, and the exit code follows the findings', async () => {
  await using dir = await tempDir()
  const r = await cli(['doctor', '--root', dir.path, '-o', 'json'])
  const findings: Finding[] = JSON.parse(r.out)
  const checks = findings.map((f) => f.check)
  for (const check of [
    'node',
    'qemu-img',
    'prlimit',
    'qemu-system',
    'kvm',
    'libvirt',
    'inotify',
    'open-files',
    'clock',
    'configuration',
    'guest-fixing',
    'spool',
    'mount of queue',
    'reflink',
    'space',
    'agent',
    'history',
  ]) {
    expect(checks, check).toContain(check)
  }
  for (const f of findings) expect(f.detail, f.check).not.toBe('')
  expect(r.code).toBe(findings.some((f) => f.state === 'fail') ? 1 : 0)
  expect(findings.find((f) => f.check === 'qemu-img')!.state).toMatch(/ok|note/)
  expect(findings.find((f) => f.check === 'spool')).toMatchObject({
    state: 'note',
    fix: expect.stringContaining('vmspool agent default'),
  })
  expect(await readdir(dir.path)).toEqual([])
})

test('what is missing is said with how to get it', async () => {
  await using dir = await tempDir()
  const bin = join(dir.path, 'bin')
  await mkdir(bin)
  // a PATH with nothing but what the launcher itself needs
  for (const tool of ['sh', 'dirname', 'readlink', 'pwd'])
    await symlink(`/bin/${tool}`, join(bin, tool)).catch(() => {})
  const r = await cli(['doctor', '--root', join(dir.path, 'spools'), '-o', 'json'], { env: { PATH: bin } })
  const findings: Finding[] = JSON.parse(r.out)
  expect(r.code).toBe(1)
  expect(findings.find((f) => f.check === 'qemu-img')).toMatchObject({
    state: 'fail',
    fix: expect.stringContaining('apt-get install'),
  })
  expect(findings.find((f) => f.check === 'prlimit')).toMatchObject({ state: 'fail', fix: 'Install util-linux.' })
})

test('an old or crippled qemu-img is found by asking it', async () => {
  await using dir = await tempDir()
  const bin = join(dir.path, 'bin')
  await mkdir(bin)
  await writeFile(join(bin, 'qemu-img'), '#!/bin/sh\necho "qemu-img version 4.2.1"\n')
  await chmod(join(bin, 'qemu-img'), 0o755)
  const r = await cli(['doctor', '--root', dir.path, '-o', 'json'], { env: { PATH: `${bin}:${process.env.PATH}` } })
  expect(r.code).toBe(1)
  expect(JSON.parse(r.out).find((f: Finding) => f.check === 'qemu-img')).toMatchObject({
    state: 'fail',
    detail: expect.stringContaining('too old'),
  })
})

test('a broken configuration is a finding, not the end of the report', async () => {
  await using dir = await tempDir()
  await writeFile(join(dir.path, 'agent.yaml'), 'leese: { timeout: 3s }\n')
  const r = await cli(['doctor', '--root', dir.path, '--config', join(dir.path, 'agent.yaml'), '-o', 'json'])
  expect(r.code).toBe(1)
  expect(JSON.parse(r.out).find((f: Finding) => f.check === 'configuration')).toMatchObject({
    state: 'fail',
    detail: expect.stringContaining('leese'),
  })
})

test('a name whose rejected job left an older disk in place is pointed out', async () => {
  await using dir = await tempDir()
  const output = join(dir.path, 'default/output')
  await mkdir(output, { recursive: true })
  await writeFile(join(output, 'web.qcow2'), '')
  await writeFile(
    join(output, 'web.status.json'),
    JSON.stringify({ id: '01ARZ3NDEKTSV4RRFFQ69G5FAV', name: 'web', state: 'rejected', reason: 'in use' }),
  )
  const r = await cli(['doctor', '--root', dir.path, '-o', 'json'])
  expect(JSON.parse(r.out).find((f: Finding) => f.check === 'answer in use')).toMatchObject({
    state: 'warn',
    detail: expect.stringContaining('takes the old disk'),
  })
})
