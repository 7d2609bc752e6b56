/** Names, several disks, checksums, sizes, options, the report, the dry run. */
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { human } from '../../src/jobs/report-units.ts'
import { assertSame, type Bench, bench, disk, list, tempFolder } from './harness.ts'

const MiB = 1024 * 1024
let dir: string
let b: Bench
const raw = (i: number) => join(dir, `${i}.raw`)

beforeAll(() => {
  dir = tempFolder()
  for (const i of [0, 1, 2]) writeFileSync(raw(i), Buffer.concat([randomBytes(MiB), Buffer.alloc(i * MiB + 512)]))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))
beforeEach(() => {
  b = bench()
})
afterEach(() => b.close())

const three = (more: Record<string, unknown>[] = [{}, {}, {}]) =>
  more.map((m, i) => ({ id: `disk-${i}`, source_format: 'raw', local_path: raw(i), checksum: sum(i), ...m }))
const sum = (i: number) =>
  `sha256:${createHash('sha256')
    .update(readFileSync(raw(i)))
    .digest('hex')}`

test('the boot disk has the name, the others lie beside it', async () => {
  const r = await b.run({ disks: three() })
  expect(b.answers()).toEqual([
    'vm.disks/disk-1.qcow2',
    'vm.disks/disk-2.qcow2',
    'vm.qcow2',
    'vm.report.json',
    'vm.xml',
  ])
  for (const [i, path] of ['vm.qcow2', 'vm.disks/disk-1.qcow2', 'vm.disks/disk-2.qcow2'].entries())
    assertSame(raw(i), 'raw', join(b.answerDir, path), 'qcow2')
  expect(r.artifacts?.map((a) => a.disk_id)).toEqual(['disk-0', 'disk-1', 'disk-2'])
  // scratch holds no second copy
  expect(list(b.attemptDir).filter((f) => f.startsWith('copy/'))).toEqual([])
})

test.each([
  ['by type', [{}, {}, { disk_type: 'boot' }], 2],
  ['by hint', [{ boot_order_hint: 5 }, { boot_order_hint: 2 }, {}], 1],
  ['hint 0 that was dropped', [{}, { boot_order_hint: 1 }, { boot_order_hint: 2 }], 0],
])('which disk boots: %s', async (_name, more, boot) => {
  await b.run({ disks: three(more) })
  assertSame(raw(boot), 'raw', join(b.answerDir, 'vm.qcow2'), 'qcow2')
})

test('several disks to raw: only the boot disk has a qcow2 for pollers, and poll_name off leaves it out', async () => {
  await b.run({ disks: three(), output: { format: 'raw' } })
  expect(b.answers()).toEqual([
    'vm.disks/disk-1.raw',
    'vm.disks/disk-2.raw',
    'vm.qcow2',
    'vm.raw',
    'vm.report.json',
    'vm.xml',
  ])
  const c = bench({ config: { poll_name: 'off' } })
  try {
    await c.run({ disks: three().slice(0, 1), output: { format: 'raw' } })
    expect(c.answers()).toEqual(['vm.raw', 'vm.report.json', 'vm.xml'])
  } finally {
    c.close()
  }
})

test('odd names: colons, commas, quotes, spaces, umlauts', async () => {
  for (const answer of ['json:{x', 'nbd:a,b', 'a "b" \\ ü', '-o x', '%s']) {
    const c = bench()
    try {
      await c.run({ disks: three().slice(0, 1), output: { format: 'raw' } }, { answer })
      expect(c.answers()).toEqual([`${answer}.qcow2`, `${answer}.raw`, `${answer}.report.json`, `${answer}.xml`].sort())
      assertSame(raw(0), 'raw', join(c.answerDir, `${answer}.qcow2`), 'qcow2')
    } finally {
      c.close()
    }
  }
})

test('checksums: right ones are verified, a wrong one publishes nothing', async () => {
  await b.run({ disks: three([{}, {}, { checksum: undefined }]) })
  expect(b.report().disks.map((d: { checksum_verified: boolean }) => d.checksum_verified)).toEqual([true, true, false])
  expect(b.report().pipeline.stages.load_manifest.result.checksums_verified).toBe(false)
  const c = bench()
  try {
    const wrong = `sha256:${'0'.repeat(64)}`
    const e = await c.run({ disks: three([{}, { checksum: wrong }, {}]) }).catch((x: Error) => x)
    expect(e).toMatchObject({
      code: 'checksum-mismatch',
      transient: false,
      message: `checksum mismatch for disk "disk-1": expected ${wrong}, got ${sum(1)}`,
    })
    expect(c.answers()).toEqual(['vm.report.json'])
    expect(c.report()).toMatchObject({
      pipeline: { success: false },
      summary: { total_errors: 1, failed_stages: 1, total_artifacts: 0 },
    })
  } finally {
    c.close()
  }
})

test('a checksum that the manifest leaves out is a warning', async () => {
  const r = await b.run({ disks: three([{}, { checksum: undefined }]) })
  expect(r.warnings).toEqual([
    expect.objectContaining({
      stage: 'load_manifest',
      message: 'The manifest states no checksum for disk "disk-1", so damage on its way here cannot be noticed.',
    }),
  ])
  expect(b.report().disks.map((d: { checksum_verified: boolean }) => d.checksum_verified)).toEqual([true, false])
})

test('a size that differs is a warning', async () => {
  const r = await b.run({ disks: three([{ bytes: 7 }, {}, { bytes: 3 * MiB + 512 }]) })
  expect(r.warnings?.map((w) => w.message)).toEqual([`Size mismatch (expected 7, got ${MiB + 512}) for disk "disk-0".`])
  expect(b.report().pipeline.stages.inspect.result.disks.map((d: { size_match: boolean }) => d.size_match)).toEqual([
    false,
    true,
    true,
  ])
})

test('the report has every field of the pipeline report 1.0', async () => {
  await b.run({
    disks: three().slice(0, 2),
    source: { provider: 'vsphere', vm_id: 'vm-7', vm_name: 'web' },
    vm: { firmware: 'uefi', os_hint: 'linux' },
  })
  const r = b.report()
  expect(r).toMatchObject({
    version: '1.0',
    input_manifest: {
      path: 'job.json',
      manifest_version: '1.0',
      source_provider: 'vsphere',
      source_vm_id: 'vm-7',
      source_vm_name: 'web',
    },
    pipeline: {
      success: true,
      stages: {
        load_manifest: { success: true, result: { disks_count: 2, firmware: 'uefi', os_hint: 'linux' } },
        inspect: { success: true },
        convert: { success: true, result: { disks_converted: 2, output_format: 'qcow2', compressed: false } },
        validate: { success: true, result: { disks_validated: 2, all_passed: true } },
      },
    },
    errors: [],
    warnings: [],
    summary: {
      total_stages: 4,
      successful_stages: 4,
      failed_stages: 0,
      total_artifacts: 3,
      input_disks: 2,
      output_disks: 2,
    },
  })
  expect(Object.keys(r.artifacts[0])).toEqual(
    expect.arrayContaining([
      'type',
      'path',
      'disk_id',
      'format',
      'size_bytes',
      'size_human',
      'boot_order_hint',
      'compressed',
    ]),
  )
  expect(r.artifacts[0].boot_order_hint).toBe(999)
  expect(Number.isNaN(Date.parse(r.timestamp))).toBe(false)
})

test('options.report.enabled false writes none', async () => {
  await b.run({ disks: three().slice(0, 1), options: { report: { enabled: false } } })
  expect(b.answers()).toEqual(['vm.qcow2', 'vm.xml'])
})

test('what cannot be done here is a warning in result, report and log, not an error', async () => {
  b.close()
  // whatever this host has installed: this appliance is not there
  b = bench({ config: { fix: { appliance: '/nowhere/appliance', virt_v2v_in_place: '/nowhere/virt-v2v-in-place' } } })
  const r = await b.run({
    disks: three().slice(0, 1),
    pipeline: {
      inspect: { enabled: true, collect_guest_info: true },
      fix: { enabled: true },
      convert: { enabled: true, compress: true },
      validate: { enabled: true },
    },
    configuration: { hostname: { name: 'x' } },
    libvirt_integration: { enabled: true },
  })
  expect(r.warnings?.map((w) => [w.stage, w.message])).toEqual([
    [
      'libvirt_integration',
      expect.stringMatching(/^stage-skipped: the VM is not defined, because this process has no VM service/),
    ],
    ['inspect', expect.stringMatching(/^The guest was not inspected: .* (is not installed here|holds no readable)/)],
    [
      'fix',
      expect.stringMatching(/^stage-skipped: the guest was not fixed, .*virt-v2v-in-place is not installed here/),
    ],
  ])
  for (const w of r.warnings ?? []) expect(b.logs.join('')).toContain(w.message)
  expect(b.report().warnings).toHaveLength(3)
  expect(b.report().pipeline.stages.inspect.result.disks[0].guest_inspection_error).toMatch(
    /Install it: |holds no readable/,
  )
  // compress: true of a pipeline beside a definition is "auto": plain
  expect(r.artifacts?.[0]?.compressed).toBe(false)
})

test('a fix that is required and cannot be done here ends the job; the copies are kept', async () => {
  b.close()
  b = bench({ config: { fix: { virt_v2v_in_place: '/nowhere/virt-v2v-in-place' } } })
  const e = await b
    .run({ disks: three().slice(0, 1), pipeline: { fix: { enabled: true, required: true } } })
    .catch((x) => x)
  expect(e).toMatchObject({ code: 'fix-unavailable', transient: false, phase: 'fix', kept: { steps: ['copy'] } })
  expect(b.answers()).toEqual(['vm.report.json'])
  expect(b.report().pipeline.stages).toMatchObject({ convert: { success: true }, fix: { success: false } })
})

test.each([
  [{ pipeline: { convert: { compress: true } } }, {}, true],
  [{ compress: false, pipeline: { convert: { compress: true } } }, {}, false],
  [{ compress: true, libvirt_integration: { enabled: true } }, {}, true],
  [{ compress: 'auto' }, { convert: { compress: 'yes' } }, false],
  [{}, { convert: { compress: 'yes' } }, true],
  [{}, {}, false],
])('compress: %j under %j', async (manifest, config, expected) => {
  const c = bench({ config })
  try {
    const r = await c.run({ disks: three().slice(0, 1), ...manifest })
    expect(r.artifacts?.[0]?.compressed).toBe(expected)
  } finally {
    c.close()
  }
})

test('a dry run touches nothing and estimates size and time', async () => {
  const r = await b.run({ disks: three(), options: { dry_run: true } })
  expect(list(b.dir)).toEqual(['.work/1-me/answer/vm.report.json'])
  expect(r).toMatchObject({ dry_run: true, artifacts: [] })
  const estimate = r.estimate as { bytes: number; time_ms: number; free_bytes: number }
  expect(estimate.bytes).toBeGreaterThanOrEqual(3 * MiB)
  expect(estimate.bytes).toBeLessThan(8 * MiB)
  expect(estimate.time_ms).toBeGreaterThan(0)
  expect(r.summary).toMatch(/^Dry run: 3 disks would be converted to qcow2, about /)
  // a bad source fails it as it would fail the real run
  await expect(b.run({ disks: [disk(join(dir, 'none'), 'raw')], options: { dry_run: true } })).rejects.toMatchObject({
    code: 'not-found',
  })
})

test('progress is in bytes, never goes back, ends at the whole', async () => {
  await b.run({ disks: three() })
  const copy = b.progress.filter((p) => p.phase === 'copy' && p.bytes_done !== undefined)
  const total = 3 * MiB + 3 * MiB + 3 * 512
  expect(copy.every((p) => p.bytes_total === total)).toBe(true)
  const done = copy.map((p) => p.bytes_done!)
  expect(done).toEqual([...done].sort((x, y) => x - y))
  expect(done.at(0)).toBe(0)
  expect(done.at(-1)).toBe(total)
  expect(new Set(done).size).toBeGreaterThan(3)
  // a phase of its own only where the sum takes longer than the copy
  const phases = new Set(b.progress.map((p) => p.phase).filter((p) => p !== 'checksum'))
  expect([...phases]).toEqual(['inspect', 'copy', 'validate', 'describe', 'collect'])
})

test('a relative local_path is meant from the payload, or from where the manifest was dropped', async () => {
  const payload = join(dir, 'payload')
  mkdirSync(payload, { mode: 0o700 })
  writeFileSync(join(payload, 'd.raw'), randomBytes(65536), { mode: 0o644 })
  // the payload folder is the agent's own: only the file's permissions count for its submitter
  await b.run(
    { disks: [disk('d.raw', 'raw')] },
    { payloadDir: payload, drop: { file: 'd.raw', uid: 65534, gid: 65534, at: '' } },
  )
  assertSame(join(payload, 'd.raw'), 'raw', join(b.answerDir, 'vm.qcow2'), 'qcow2')
  const c = bench({ config: { queue: dir, path_map: { '/remote/exports': dir } } })
  try {
    await c.run({ disks: [disk('0.raw', 'raw')] })
    await c.run({ disks: [disk('/remote/exports/0.raw', 'raw')] })
    await expect(c.run({ disks: [disk('/remote/exports-2/0.raw', 'raw')] })).rejects.toMatchObject({
      code: 'not-found',
    })
  } finally {
    c.close()
  }
})

test('a truncated source of each format is refused, not padded with zeros', async () => {
  const { qemuImg } = await import('./harness.ts')
  const formats: [string, string, string[], number][] = [
    ['vmdk', 'vmdk', ['-o', 'subformat=streamOptimized'], 65536 * 4],
    ['vmdk', 'vmdk', ['-o', 'subformat=monolithicSparse'], 65536 * 4],
    ['vhd', 'vpc', ['-o', 'subformat=dynamic'], 4096],
    ['vhd', 'vpc', ['-o', 'subformat=fixed'], 4096],
    ['vdi', 'vdi', [], 65536],
    ['qcow2', 'qcow2', [], 65536 * 4],
    ['vhdx', 'vhdx', [], 5 * MiB], // a block of 8 MiB that holds 4
  ]
  const full = join(dir, 'full.raw')
  writeFileSync(full, randomBytes(4 * MiB))
  for (const [format, driver, options, cut] of formats) {
    const image = join(dir, `cut.${format}`)
    qemuImg('convert', '-f', 'raw', '-O', driver, ...options, full, image)
    truncateSync(image, readFileSync(image).length - cut)
    const c = bench()
    try {
      const e = await c.run({ disks: [disk(image, format)] }).catch((x: Error) => x)
      expect(e, `${format} ${options.join(' ')}`).toMatchObject({ name: 'JobError' })
      expect(c.answers()).toEqual(['vm.report.json'])
    } finally {
      c.close()
    }
  }
})

test('images that are whole but end early or in a hole are not taken for cut off', async () => {
  const { qemuImg } = await import('./harness.ts')
  const { execFileSync } = await import('node:child_process')
  const io = (file: string, format: string, ...commands: string[]) =>
    execFileSync('qemu-io', ['-f', format, ...commands.flatMap((c) => ['-c', c]), file])
  const cases: [string, string, string, string[]][] = [
    ['one-sector', 'qcow2', 'qcow2', []],
    ['metadata', 'qcow2', 'qcow2', ['-o', 'preallocation=metadata']],
    ['subclusters', 'qcow2', 'qcow2', ['-o', 'extended_l2=on,cluster_size=128k']],
    ['sparse', 'vmdk', 'vmdk', []],
    ['dynamic', 'vhdx', 'vhdx', []],
    ['dynamic', 'vhd', 'vpc', ['-o', 'force_size=on']],
    ['dynamic', 'vdi', 'vdi', []],
  ]
  for (const [name, format, driver, options] of cases) {
    const image = join(dir, `${name}.${format}`)
    qemuImg('create', '-q', '-f', driver, ...options, image, String(9 * MiB + 512))
    io(image, driver, 'write -P 7 0 512', 'write -P 8 3M 4k', `write -P 9 ${9 * MiB} 512`)
    const c = bench()
    try {
      await c.run({ disks: [disk(image, format)] })
      assertSame(image, driver, join(c.answerDir, 'vm.qcow2'), 'qcow2')
    } finally {
      c.close()
    }
  }
})

test('sizes for people', () => {
  expect([0, 1023, 1024, 1.5 * 2 ** 30].map(human)).toEqual(['0 B', '1023 B', '1.0 KiB', '1.5 GiB'])
})
