// The batch manifest and the workflow dialects of HyperSDK and hyper2kvm (contracts A3 and A4): what becomes of each field.
import { describe, expect, test } from 'vitest'
import { answerNameOf, type BatchManifest, type ConvertManifest, type Manifest } from '../../src/manifest/index.ts'
import { accepted, errorsOf, parse, warningsOf } from './samples.ts'

const convert = (data: unknown, o = {}) => accepted(data, o).manifest as ConvertManifest
const batch = (data: unknown, o = {}) => accepted(data, o).manifest as BatchManifest
const inline = (m: Manifest, i: number) => (m as BatchManifest).vms[i]!.manifest as Record<string, unknown>

/** As hyperctl's wizard writes it. */
const workflow = {
  version: '1.0',
  pipeline: {
    load: { source_type: 'vmdk', source_path: '/data/vms/my-vm.vmdk' },
    inspect: { enabled: true, detect_os: true },
    fix: {
      fstab: { enabled: true, mode: 'bypath-only' },
      grub: { enabled: true },
      initramfs: { enabled: true, regenerate: false },
    },
    convert: { output_format: 'raw', compress: true, output_path: 'my-vm-converted.qcow2' },
    validate: { enabled: false, boot_test: false },
  },
}
const withPipeline = (change: object) => ({ ...workflow, pipeline: { ...workflow.pipeline, ...change } })

describe('workflow, one VM', () => {
  test('every field has its place in a convert manifest', () => {
    const m = convert({ ...workflow, name: 'web 01', priority: 3, timeout: '2h', labels: { a: 'b' } })
    expect(m).toMatchObject({
      kind: 'convert',
      manifest_version: '1.0',
      name: 'web 01',
      priority: 3,
      timeout_ms: 7_200_000,
      labels: { a: 'b' },
      disks: [{ id: 'disk-0', source_format: 'vmdk', local_path: '/data/vms/my-vm.vmdk' }],
      output: { format: 'raw', filename: 'my-vm-converted.qcow2' },
      compress: true,
      pipeline: {
        inspect: { enabled: true, collect_guest_info: true },
        fix: { enabled: true, fstab_mode: 'bypath-only', update_grub: true, regen_initramfs: false },
        validate: { enabled: false },
      },
    })
    expect(m).not.toHaveProperty('version')
    expect(accepted(workflow).diagnostics).toEqual([])
  })

  test.each([
    ['its own name', { ...workflow, name: 'a' }, 'a'],
    ['the output', workflow, 'my-vm-converted'],
    ['the source', withPipeline({ convert: { output_format: 'qcow2' } }), 'my-vm'],
    [
      'no folder of the output',
      withPipeline({ convert: { output_format: 'qcow2', output_path: '../../etc/x.img' } }),
      'x',
    ],
    ['no hidden output', withPipeline({ convert: { output_format: 'qcow2', output_path: '/tmp/.hidden' } }), 'my-vm'],
  ])('is answered under %s', (_n, data, name) => {
    expect(answerNameOf(convert(data))).toBe(name)
  })

  test.each([
    [{}, {}],
    [{ fstab: { enabled: false, mode: 'noop' } }, { enabled: false }],
    [
      { fstab: { enabled: true } },
      { enabled: true, fstab_mode: 'stabilize-all', update_grub: false, regen_initramfs: false },
    ],
    [{ grub: { enabled: true } }, { enabled: true, fstab_mode: 'noop', update_grub: true, regen_initramfs: false }],
    [
      { initramfs: { enabled: true } },
      { enabled: true, fstab_mode: 'noop', update_grub: false, regen_initramfs: true },
    ],
    [{ network: { enabled: true, fix_level: 'full' } }, { enabled: true, fstab_mode: 'noop' }],
  ])('fix %j', (fix, expected) => {
    const { pipeline } = convert(withPipeline({ fix }))
    expect(pipeline?.fix ?? {}).toMatchObject(expected)
  })

  test('what is not done is said where it stands', () => {
    const outcome = accepted(
      withPipeline({
        fix: { network: { enabled: true } },
        convert: { output_format: 'qcow2', output_path: '/srv/out/x.qcow2' },
        validate: { enabled: true, boot_test: true },
        colour: 'red',
      }),
    )
    expect(warningsOf(outcome).map((d) => d.path)).toEqual([
      'pipeline.fix.network',
      'pipeline.convert.output_path',
      'pipeline.validate.boot_test',
      'pipeline.colour',
    ])
  })

  test('a .vhdx that hyperctl calls vhd is read as what it is', () => {
    const outcome = accepted(withPipeline({ load: { source_type: 'vhd', source_path: '/x/a.vhdx' } }))
    expect((outcome.manifest as ConvertManifest).disks[0]!.source_format).toBe('vhdx')
    expect(warningsOf(outcome).map((d) => d.path)).toEqual(['pipeline.load.source_type'])
  })

  test.each([
    ['no version', { ...workflow, version: undefined }, 'version', /missing/],
    ['an empty version', { ...workflow, version: '' }, 'version', /at least 1/],
    ['a version that is a number', { ...workflow, version: 1 }, 'version', /text/],
    ['no type', withPipeline({ load: { source_path: '/x' } }), 'pipeline.load.source_type', /missing/],
    ['no path', withPipeline({ load: { source_type: 'raw' } }), 'pipeline.load.source_path', /missing/],
    [
      'an unknown type',
      withPipeline({ load: { source_type: 'vmkd', source_path: '/x' } }),
      'pipeline.load.source_type',
      /Did you mean "vmdk"/,
    ],
    [
      'an AMI',
      withPipeline({ load: { source_type: 'ami', source_path: '/x.tar' } }),
      'pipeline.load.source_type',
      /an AMI is an image at AWS/,
    ],
    [
      'a relative path',
      withPipeline({ load: { source_type: 'raw', source_path: 'x.img' } }),
      'pipeline.load.source_path',
      /must be an absolute path/,
    ],
    [
      'a path with NUL',
      withPipeline({ load: { source_type: 'raw', source_path: '/x\0' } }),
      'pipeline.load.source_path',
      /NUL/,
    ],
    ['no format', withPipeline({ convert: {} }), 'pipeline.convert.output_format', /missing/],
    [
      'a format that we do not write',
      withPipeline({ convert: { output_format: 'vmdk' } }),
      'pipeline.convert.output_format',
      /writes no VMDK/,
    ],
    ['no convert', withPipeline({ convert: undefined }), 'pipeline.convert', /missing/],
    ['a mode', withPipeline({ fix: { fstab: { enabled: true, mode: 'all' } } }), 'pipeline.fix.fstab.mode', /one of/],
    ['a name that escapes', { ...workflow, name: '../x' }, 'name', /cannot name the answer files/],
  ])('%s is an error of its own field', (_n, data, path, message) => {
    const outcome = parse(data)
    expect(outcome.state).toBe('invalid')
    const errors = errorsOf(outcome)
    expect(Object.keys(errors)).toEqual([path])
    expect(errors[path]).toMatch(message)
  })

  test('errors have their lines, and all are said at once', () => {
    const text =
      '{\n "version": "1.0",\n "pipeline": {\n  "load": {"source_type": "ova2", "source_path": ""},\n  "convert": {\n   "output_format": "qcow"}}}'
    expect(parse(text).diagnostics.map((d) => [d.path, d.line])).toEqual([
      ['pipeline.load.source_type', 4],
      ['pipeline.load.source_path', 4],
      ['pipeline.convert.output_format', 6],
    ])
  })

  test('a relative source starts from the folder of the manifest, else from where it was dropped', () => {
    const relative = withPipeline({ load: { source_type: 'raw', source_path: 'a/x.img' } })
    expect(convert(relative, { dropDir: '/spool/queue' }).disks[0]!.local_path).toBe('/spool/queue/a/x.img')
    expect(convert(relative, { dropDir: '/spool/queue', baseDir: '/home/u' }).disks[0]!.local_path).toBe(
      '/home/u/a/x.img',
    )
  })

  test('YAML scalars are read as they are written', () => {
    const text =
      'version: 1.0\nname: 0042\npipeline:\n  load: {source_type: raw, source_path: /x/a.img}\n  convert: {output_format: qcow2, compress: false}\n'
    expect(convert(text, { fileName: 'a.yaml' })).toMatchObject({ name: '0042', compress: false })
  })
})

describe('workflow, several VMs', () => {
  const several = {
    version: '1.0',
    batch: true,
    name: 'nightly',
    priority: 2,
    vms: [
      { name: 'web-server', pipeline: workflow.pipeline },
      { name: 'db 01', priority: -3, enabled: false, pipeline: { load: { source_path: '/data/db.vhd' } } },
    ],
  }

  test('become one batch of inline manifests', () => {
    const m = batch(several)
    expect(answerNameOf(m)).toBe('nightly.batch')
    expect(m).toMatchObject({
      kind: 'batch',
      priority: 2,
      batch_metadata: { parallel_limit: 4, continue_on_error: true },
      vms: [
        { id: 'web-server', priority: 0, enabled: true, manifest: { name: 'web-server', compress: true } },
        {
          id: 'vm_1',
          priority: -3,
          enabled: false,
          manifest: { name: 'db 01', disks: [{ source_format: 'vhd', local_path: '/data/db.vhd' }] },
        },
      ],
    })
    expect(batch({ ...several, parallel_limit: 2, continue_on_error: false }).batch_metadata).toMatchObject({
      parallel_limit: 2,
      continue_on_error: false,
    })
    expect(batch({ ...several, name: undefined }, { fileName: '/x/tonight.json' }).name).toBe('tonight')
  })

  test('without batch: true, too, when there is no pipeline beside them', () => {
    expect(batch({ version: '1', vms: several.vms }).vms).toHaveLength(2)
  })

  test.each([
    ['no VM', { vms: [] }, 'vms'],
    ['no list', { vms: undefined }, 'vms'],
    ['no name', { vms: [{ pipeline: workflow.pipeline }] }, 'vms[0].name'],
    ['a name that escapes', { vms: [{ name: '../x', pipeline: workflow.pipeline }] }, 'vms[0].name'],
    ['no path', { vms: [{ name: 'a', pipeline: { load: {} } }] }, 'vms[0].pipeline.load.source_path'],
    [
      'a path that tells nothing',
      { vms: [{ name: 'a', pipeline: { load: { source_path: '/x/disk' } } }] },
      'vms[0].pipeline.load.source_path',
    ],
    ['one name twice', { vms: [several.vms[0], several.vms[0]] }, 'vms[1]'],
    ['the name of a batch', { vms: [{ ...several.vms[0], name: 'x.batch' }] }, 'vms[0]'],
  ])('%s is an error', (_n, change, path) => {
    expect(Object.keys(errorsOf(parse({ ...several, ...change })))).toEqual([path])
  })
})

describe('the older form', () => {
  const older = {
    version: '1.0',
    metadata: { name: 'production-webserver-migration' },
    source: {
      type: 'vmdk',
      path: '/data/vms/webserver/disk.vmdk',
      format: 'vmdk',
      checksum: { algorithm: 'SHA256', value: 'AB'.repeat(32) },
    },
    output: { directory: '/data/out', format: 'vdi', filename: 'web.qcow2', compress: true, compress_level: 6 },
    pipeline: {
      inspect: { enabled: true, collect_guest_info: true },
      fix: { enabled: true, fstab_mode: 'stabilize-all', update_grub: true, remove_vmware_tools: true },
      convert: { enabled: true, flatten: true },
      validate: { enabled: true, check_image_integrity: true, smoke_test: false },
    },
    configuration: { hostname: { name: 'webserver01' }, users: { disable: ['ubuntu'] } },
    options: { dry_run: true, verbose: 2, report: { enabled: true } },
  }

  test('every field has its place in a convert manifest', () => {
    const m = convert(older)
    expect(m).toMatchObject({
      kind: 'convert',
      name: 'web',
      disks: [
        {
          source_format: 'vmdk',
          local_path: '/data/vms/webserver/disk.vmdk',
          checksum: `sha256:${'ab'.repeat(32)}`,
        },
      ],
      output: { directory: '/data/out', format: 'vdi', filename: 'web.qcow2' },
      compress: true,
      pipeline: older.pipeline,
      configuration: older.configuration,
      options: older.options,
    })
  })

  test.each([
    [{ output: { format: 'qcow2' } }, 'production-webserver-migration'],
    [{ output: undefined, metadata: undefined }, 'disk'],
    [{ name: 'x' }, 'x'],
    [{ output: { filename: '..' }, metadata: { name: 'a/b' } }, 'disk'],
  ])('%j is answered as %s', (change, name) => {
    expect(answerNameOf(convert({ ...older, ...change }))).toBe(name)
  })

  const source = (change: object) => ({ ...older, source: { path: '/x/a.img', ...change } })
  test.each([
    [{}, 'raw'],
    [{ type: 'file', format: 'vdi' }, 'vdi'],
    [{ type: 'ova', format: 'vmdk' }, 'ova'],
    [{ type: 'vhdx' }, 'vhdx'],
  ])('source %j is %s', (change, format) => {
    expect(convert(source(change)).disks[0]!.source_format).toBe(format)
  })

  test.each([
    [{ type: 'vmdk', format: 'raw' }, 'source.format', /one format/],
    [{ type: 'vsphere' }, 'source.type', /connects to no hypervisor/],
    [{ type: 'floppy' }, 'source.type', /one of vmdk/],
    [{ path: 'a.img' }, 'source.path', /absolute/],
    [{ path: '/x/disk' }, 'source.path', /does not tell its format/],
    [{ path: '/x/a.ami' }, 'source.path', /an AMI/],
    [{ checksum: { algorithm: 'md5', value: 'a'.repeat(32) } }, 'source.checksum.algorithm', /sha256/],
    [{ checksum: { algorithm: 'sha256', value: 'abc123...' } }, 'source.checksum.value', /64/],
  ])('source %j is an error', (change, path, message) => {
    const errors = errorsOf(parse(source(change)))
    expect(Object.keys(errors)).toContain(path)
    expect(errors[path]).toMatch(message)
  })
})

describe('job files', () => {
  const job = {
    input: '/in/my-vm.vmdk',
    output_format: 'raw',
    compress: true,
    flatten: true,
    fstab_mode: 'bypath-only',
    regen_initramfs: true,
    fix_grub: true,
  }

  test('one job is a convert manifest', () => {
    const outcome = accepted(job)
    expect(outcome.diagnostics).toEqual([])
    expect(outcome.manifest).toMatchObject({
      kind: 'convert',
      name: 'my-vm',
      disks: [{ source_format: 'vmdk', local_path: '/in/my-vm.vmdk' }],
      output: { format: 'raw' },
      compress: true,
      pipeline: { fix: { enabled: true, fstab_mode: 'bypath-only', regen_initramfs: true, update_grub: true } },
    })
    expect(convert({ input: '/in/a.ova' })).not.toHaveProperty('pipeline')
    expect(convert({ input: '/in/a.ova', regen_initramfs: false }).pipeline?.fix).toEqual({
      enabled: false,
      regen_initramfs: false,
    })
    expect(convert({ input: '/in/a.vhd', to_output: '/out/b.qcow2' }).name).toBe('b')
  })

  test('jobs are called <file>_job<n>', () => {
    const data = { jobs: [{ input: 'vm1.vmdk' }, { input: '/in/vm2.vhd', output_format: 'raw', name: 'second' }] }
    const m = batch(data, { fileName: '/x/night shift.yaml', dropDir: '/q' })
    expect(answerNameOf(m)).toBe('night shift.batch')
    expect(m.vms.map((vm) => vm.id)).toEqual(['night-shift_job1', 'night-shift_job2'])
    expect(inline(m, 0)).toMatchObject({ name: 'night shift_job1', disks: [{ local_path: '/q/vm1.vmdk' }] })
    expect(inline(m, 1)).toMatchObject({ name: 'second', output: { format: 'raw' } })
  })

  test('what is not done is said where it stands', () => {
    const data = { compress: true, jobs: [{ input: '/a.raw', flatten: false, fix_network: true, output_dir: '/x' }] }
    expect(warningsOf(accepted(data)).map((d) => d.path)).toEqual([
      'compress',
      'jobs[0].flatten',
      'jobs[0].fix_network',
      'jobs[0].output_dir',
    ])
  })

  test.each([
    [{ input: '' }, 'input'],
    [{ input: '/x.iso' }, 'input'],
    [{ input: '/x.ami' }, 'input'],
    [{ input: 'x.raw' }, 'input'],
    [{ input: '/x.raw', output_format: 'vmdk' }, 'output_format'],
    [{ input: '/x.raw', compress: 'yes' }, 'compress'],
    [{ jobs: [] }, 'jobs'],
    [{ jobs: [{ input: '/x.raw' }, {}] }, 'jobs[1].input'],
    [{ jobs: [{ input: '/x.raw' }, { input: '/x.iso' }] }, 'jobs[1].input'],
    [{ jobs: [{ input: '/x.raw', name: '../../x' }] }, 'jobs[0].name'],
    [
      {
        jobs: [
          { input: '/x.raw', name: 'a' },
          { input: '/y.raw', name: 'a' },
        ],
      },
      'jobs[1]',
    ],
  ])('%j is an error of %s', (data, path) => {
    expect(Object.keys(errorsOf(parse(data)))).toEqual([path])
  })
})
