/** A conversion without an agent: the same handler in a private folder, results moved to their names at the end. */
import { randomBytes } from 'node:crypto'
import { spawn } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Config } from '../../src/config/index.ts'
import { convertDirectly } from '../../src/jobs/direct.ts'
import type { ConvertManifest } from '../../src/manifest/index.ts'
import { assertSame, list, tempFolder } from './harness.ts'

const MiB = 1024 * 1024
let dir: string
let out: string
const config = {} as Config
const manifest = (more: Record<string, unknown> = {}) =>
  ({
    kind: 'convert',
    manifest_version: '1.0',
    priority: 5,
    name: 'web',
    disks: [0, 1].map((i) => ({ id: `d${i}`, source_format: 'raw', local_path: join(dir, `${i}.raw`) })),
    ...more,
  }) as unknown as ConvertManifest

beforeEach(() => {
  dir = tempFolder()
  out = join(dir, 'out')
  for (const i of [0, 1]) writeFileSync(join(dir, `${i}.raw`), randomBytes(2 * MiB))
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

test('makes the folder, publishes the boot disk last, leaves nothing else', async () => {
  const r = await convertDirectly({ manifest: manifest(), outputDir: out, config })
  expect(r.files.map((f) => f.slice(out.length + 1))).toEqual(['web.disks', 'web.report.json', 'web.xml', 'web.qcow2'])
  expect(list(out)).toEqual(['web.disks/d1.qcow2', 'web.qcow2', 'web.report.json', 'web.xml'])
  assertSame(join(dir, '0.raw'), 'raw', join(out, 'web.qcow2'), 'qcow2')
  assertSame(join(dir, '1.raw'), 'raw', join(out, 'web.disks', 'd1.qcow2'), 'qcow2')
})

test('refuses to overwrite, and replaces as a whole when asked', async () => {
  await convertDirectly({ manifest: manifest(), outputDir: out, config })
  const before = statSync(join(out, 'web.qcow2')).ino
  await expect(convertDirectly({ manifest: manifest(), outputDir: out, config })).rejects.toMatchObject({
    code: 'output-exists',
  })
  expect(statSync(join(out, 'web.qcow2')).ino).toBe(before)
  const one = manifest()
  one.disks.pop()
  await convertDirectly({ manifest: one, outputDir: out, overwrite: true, config })
  expect(list(out)).toEqual(['web.qcow2', 'web.report.json', 'web.xml'])
})

test('a failure and an abort leave the folder as it was', async () => {
  mkdirSync(out)
  writeFileSync(join(out, 'other'), 'x')
  await expect(
    convertDirectly({
      manifest: manifest({ disks: [{ id: 'd', source_format: 'vmdk', local_path: join(dir, '0.raw') }] }),
      outputDir: out,
      config,
    }),
  ).rejects.toMatchObject({ code: 'not-vmdk' })
  expect(list(out)).toEqual(['other'])
  const abort = new AbortController()
  const run = convertDirectly({
    manifest: manifest(),
    outputDir: out,
    config,
    signal: abort.signal,
    progress: (p) => {
      if (p.phase === 'copy' && (p.bytes_done ?? 0) > 0) abort.abort({ kind: 'cancel', message: 'Interrupted.' })
    },
  })
  await expect(run).rejects.toMatchObject({ code: 'aborted-cancel' })
  expect(readdirSync(out)).toEqual(['other'])
})

test('a dry run makes no folder', async () => {
  const r = await convertDirectly({
    manifest: manifest({ options: { dry_run: true } }),
    outputDir: join(out, 'deep'),
    config,
  })
  expect(r.files).toEqual([])
  expect(r.outcome.summary).toMatch(/^Dry run: 2 disks/)
  expect(readdirSync(dir).sort()).toEqual(['0.raw', '1.raw'])
})

test('paths are relative to the base folder, and links in them are the users own business', async () => {
  symlinkSync(join(dir, '0.raw'), join(dir, 'link.raw'))
  const m = manifest({ disks: [{ id: 'd', source_format: 'raw', local_path: 'link.raw' }] })
  await convertDirectly({ manifest: m, outputDir: out, name: 'other', baseDir: dir, config })
  assertSame(join(dir, '0.raw'), 'raw', join(out, 'other.qcow2'), 'qcow2')
})

test('what a killed run had copied is taken over, and its folder goes', async () => {
  const script = join(dir, 'killed.ts')
  const src = join(import.meta.dirname, '../../src/jobs/direct.ts')
  // dies as soon as the second disk's copy begins: the first one is finished and recorded
  writeFileSync(
    script,
    `import { convertDirectly } from ${JSON.stringify(src)}
let copied = 0
await convertDirectly({ manifest: ${JSON.stringify(manifest())}, outputDir: ${JSON.stringify(out)}, config: {},
  progress: (p) => { if (p.phase === 'copy' && p.message === 'd1') process.kill(process.pid, 'SIGKILL') } })
`,
  )
  const child = spawn(process.execPath, [script], { stdio: ['ignore', 'ignore', 'pipe'] })
  let errors = ''
  child.stderr.on('data', (c) => {
    errors += c
  })
  const signal = await new Promise((resolve) => child.once('close', (_code, s) => resolve(s)))
  expect(signal, errors).toBe('SIGKILL')
  expect(readdirSync(out)).toHaveLength(1)
  const said: string[] = []
  const copied = new Set<string>()
  await convertDirectly({
    manifest: manifest(),
    outputDir: out,
    config,
    log: (_s, t) => said.push(t.toString()),
    progress: (p) => {
      if (p.phase === 'copy' && p.message) copied.add(p.message)
    },
  })
  expect(said.join('')).toContain('copy d0: took over the finished copy')
  expect([...copied]).toEqual(['d1'])
  expect(list(out)).toEqual(['web.disks/d1.qcow2', 'web.qcow2', 'web.report.json', 'web.xml'])
  assertSame(join(dir, '0.raw'), 'raw', join(out, 'web.qcow2'), 'qcow2')
  expect(readFileSync(join(dir, '0.raw')).length).toBe(2 * MiB)
})
