import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { tempDir } from '../support/temp.ts'
import { cli } from './run.ts'

const bad = `{
  "manifest_version": "1.1",
  "source": { "vm_name": "../web" },
  "disks": [
    { "id": "disk 0", "source_format": "vmkd", "bytes": -1, "local_path": "/x" },
    { "id": "disk-1", "source_format": "raw", "bytes": 10, "local_path": "/x", "cheksum": "sha256:00" }
  ],
  "output": { "format": "qcow" }
}
`
const good =
  '{"manifest_version":"1.0","disks":[{"id":"disk-0","source_format":"vmdk","bytes":10,"local_path":"/work/d.vmdk"}]}'

test('every error at once, like a compiler: file, line, column, path, value, what is allowed, suggestion', async () => {
  await using dir = await tempDir()
  await writeFile(join(dir.path, 'bad.json'), bad)
  const r = await cli(['check', 'bad.json'], { cwd: dir.path })
  expect(r.code).toBe(65)
  expect(r.err).toBe('')
  const lines = r.out.trimEnd().split('\n')
  expect(lines).toEqual([
    'bad.json:2:23: error: manifest_version: unsupported manifest version "1.1": expected "1.0"',
    expect.stringMatching(
      /^bad\.json:3:26: error: source\.vm_name: "\.\.\/web" cannot name the answer files: it contains "\/"/,
    ),
    expect.stringMatching(/^bad\.json:5:13: error: disks\[0\]\.id is "disk 0"; it must be letters, digits/),
    expect.stringMatching(
      /^bad\.json:5:40: error: disks\[0\]\.source_format is "vmkd"; it must be one of vmdk, qcow2, .*Did you mean "vmdk"\?$/,
    ),
    'bad.json:5:57: error: disks[0].bytes is -1; it must be 0 or more.',
    expect.stringMatching(/^bad\.json:8:25: error: output\.format is "qcow"; .* Did you mean "qcow2"\?$/),
    expect.stringMatching(
      /^bad\.json:6:80: warning: disks\[1\]\.cheksum is not a known field; .*Did you mean "checksum"\?$/,
    ),
    'bad.json: not valid: 6 errors, 1 warning',
  ])
})

test('valid manifests end with 0 and say how they are answered', async () => {
  await using dir = await tempDir()
  await writeFile(join(dir.path, 'good.json'), good)
  expect(await cli(['check', 'good.json'], { cwd: dir.path })).toMatchObject({
    code: 0,
    out: 'good.json: valid, kind convert, answered as "vm"\n',
    err: '',
  })
})

test('JSON output is an array of files with their diagnostics; names are those of the valid files', async () => {
  await using dir = await tempDir()
  await writeFile(join(dir.path, 'bad.json'), bad)
  await writeFile(join(dir.path, 'good.json'), good)
  const r = await cli(['check', '-o', 'json', 'bad.json', 'good.json'], { cwd: dir.path })
  expect(r.code).toBe(65)
  const checked = JSON.parse(r.out)
  expect(checked).toMatchObject([
    { file: 'bad.json', valid: false },
    { file: 'good.json', valid: true, kind: 'convert', name: 'vm', diagnostics: [] },
  ])
  expect(checked[0].diagnostics[3]).toMatchObject({
    path: 'disks[0].source_format',
    value: 'vmkd',
    line: 5,
    column: 40,
  })
  expect(await cli(['check', '-o', 'name', 'bad.json', 'good.json'], { cwd: dir.path })).toMatchObject({
    out: 'good.json\n',
  })
})

test('standard input, JSON and YAML', async () => {
  expect(await cli(['check', '-'], { input: good })).toMatchObject({ code: 0 })
  const yaml = 'manifest_version: "1.0"\nname: web\ndisks:\n  - {id: d, source_format: raw, bytes: 1, local_path: /x}\n'
  expect(await cli(['check', '-'], { input: yaml })).toMatchObject({
    code: 0,
    out: '<stdin>: valid, kind convert, answered as "web"\n',
  })
})

test('--strict turns warnings into a failure', async () => {
  const input = good.replace('"disks"', '"colour":"red","disks"')
  expect(await cli(['check', '-'], { input })).toMatchObject({ code: 0 })
  expect(await cli(['check', '--strict', '-'], { input })).toMatchObject({ code: 65 })
})

test('of a batch the manifests that it names are checked too, with what the batch puts over them', async () => {
  await using dir = await tempDir()
  const batch = {
    batch_version: '1.0',
    shared_config: { manifest_version: '1.0' },
    vms: [
      { id: 'good', manifest: 'good.json' },
      { id: 'bad', manifest: 'bad.json' },
      { id: 'lacks', manifest: 'lacks.json' },
      { id: 'gone', manifest: 'gone.json' },
      { id: 'off', manifest: 'off.json', enabled: false },
      { id: 'itself', manifest: 'batch.json' },
    ],
  }
  await writeFile(join(dir.path, 'batch.json'), JSON.stringify(batch))
  await writeFile(join(dir.path, 'good.json'), good)
  await writeFile(join(dir.path, 'bad.json'), bad.replace('1.1', '1.0'))
  await writeFile(join(dir.path, 'lacks.json'), good.replace('"manifest_version":"1.0",', ''))
  const r = await cli(['check', 'batch.json'], { cwd: dir.path })
  expect(r.code).toBe(65)
  const lines = r.out.trimEnd().split('\n')
  expect(lines).toContain('batch.json: valid, kind batch, answered as "batch.batch"')
  expect(lines).toContainEqual(expect.stringMatching(/bad\.json:5:13: error: disks\[0\]\.id is "disk 0"/))
  expect(lines).toContainEqual(
    expect.stringMatching(/gone\.json: warning: The manifest of "gone" cannot be read from here/),
  )
  expect(lines).toContainEqual(expect.stringMatching(/batch\.json: error: .* batches do not nest/))
  expect(r.out).not.toMatch(/lacks|off\.json/)
  const json = JSON.parse((await cli(['check', 'batch.json', '-o', 'json'], { cwd: dir.path })).out)
  expect(json.map((c: { valid: boolean }) => c.valid)).toEqual([true, false, true, false])
  expect(JSON.parse((await cli(['schema', 'batch'])).out)).toMatchObject({ required: ['vms'] })
})

test('a file that cannot be read is an I/O error with a sentence, and the others are checked all the same', async () => {
  await using dir = await tempDir()
  await writeFile(join(dir.path, 'good.json'), good)
  const r = await cli(['check', 'nofile.json', 'good.json', '.'], { cwd: dir.path })
  expect(r.code).toBe(74)
  expect(r.out).toContain('good.json: valid')
  expect(r.err).toContain('nofile.json does not exist.')
  expect(r.err).toContain('. is a folder.')
  expect(r.err).not.toMatch(/\n\s+at /)
})

test('colours on a terminal only', async () => {
  const r = await cli(['check', 'nofile.json'], { terminal: true })
  expect(r.code).toBe(74)
  await using dir = await tempDir()
  await writeFile(join(dir.path, 'bad.json'), bad)
  const coloured = await cli(['check', join(dir.path, 'bad.json')], { terminal: true })
  expect(coloured.code).toBe(65)
  expect(coloured.out).toContain('\u001b[31merror\u001b[39m')
  expect((await cli(['check', join(dir.path, 'bad.json')])).out).not.toContain('\u001b')
})
