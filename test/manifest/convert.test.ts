import { describe, expect, test } from 'vitest'
import { answerNameOf, bootDiskIndex, type ConvertManifest } from '../../src/manifest/index.ts'
import { accepted, errorsOf, fromHyperexport, minimal, parse, warningsOf, withDisk } from './samples.ts'

describe('Artifact Manifest 1.0', () => {
  test('the minimal manifest is a convert job with the common defaults', () => {
    const { manifest, diagnostics } = accepted(minimal)
    expect(diagnostics).toEqual([])
    expect(manifest).toEqual({ kind: 'convert', priority: 5, ...minimal })
    expect(answerNameOf(manifest)).toBe('vm')
  })

  test('what hyperexport writes is accepted without a word', () => {
    const { manifest, diagnostics } = accepted(fromHyperexport)
    expect(diagnostics).toEqual([])
    expect(manifest).toMatchObject(fromHyperexport)
    expect(answerNameOf(manifest)).toBe('web-01')
  })

  test.each([
    [
      'version missing',
      { ...minimal, manifest_version: undefined },
      'manifest_version',
      'unsupported manifest version "": expected "1.0"',
    ],
    [
      'version wrong',
      { ...minimal, manifest_version: '2.0' },
      'manifest_version',
      'unsupported manifest version "2.0": expected "1.0"',
    ],
    [
      'version a number',
      { ...minimal, manifest_version: 1 },
      'manifest_version',
      'unsupported manifest version 1: expected "1.0"',
    ],
    ['no disks', { manifest_version: '1.0' }, 'disks', 'manifest must have at least one disk'],
    ['empty disks', { ...minimal, disks: [] }, 'disks', 'manifest must have at least one disk'],
    ['null disks', { ...minimal, disks: null }, 'disks', 'disks is null; it must be a list.'],
    [
      'the same id twice',
      { ...minimal, disks: [minimal.disks[0], minimal.disks[0]] },
      'disks[1].id',
      'duplicate disk ID: "disk-0" (disks[0] has it already)',
    ],
  ])('%s: the message of the Go validator', (_name, data, path, message) => {
    const outcome = parse(data)
    expect(outcome.state).toBe('invalid')
    expect(errorsOf(outcome)).toEqual({ [path]: message })
  })

  test.each([
    ['id', 'disk 0'],
    ['id', 'disk-0\n'], // Python's re.match with $ lets this through
    ['id', ''],
    ['id', 7],
    ['source_format', 'vmdkk'],
    ['source_format', null],
    ['bytes', -1],
    ['bytes', true], // a bool is an int in Python
    ['bytes', 1.5],
    ['bytes', '1'],
    ['bytes', 2 ** 60],
    ['local_path', ''],
    ['local_path', 'export/disk.vmdk'],
    ['local_path', '~/disk.vmdk'],
    ['local_path', 'C:\\disk.vmdk'],
    ['local_path', '/a\0b'],
    ['local_path', `/${'x'.repeat(5000)}`],
    ['checksum', `sha256:${'A'.repeat(64)}`],
    ['checksum', `sha256:${'a'.repeat(63)}`],
    ['checksum', `sha256:${'a'.repeat(64)}\n`],
    ['checksum', `md5:${'a'.repeat(32)}`],
    ['checksum', 5],
    ['boot_order_hint', -1],
    ['boot_order_hint', '0'],
    ['disk_type', 'system'],
  ])('disks[0].%s must not be %j', (field, value) => {
    const outcome = parse(withDisk({ [field]: value }))
    expect(outcome.state).toBe('invalid')
    const errors = errorsOf(outcome)
    expect(Object.keys(errors)).toEqual([`disks[0].${field}`])
    expect(errors[`disks[0].${field}`]).toMatch(new RegExp(`^disks\\[0\\]\\.${field} (is .*; it must|is missing)`))
  })

  test.each([
    ['bytes', undefined], // Go takes an absent size for 0
    ['bytes', 0],
    ['checksum', null], // Go: not given; Python: TypeError
    ['checksum', ''],
    ['checksum', undefined],
    ['boot_order_hint', 0],
    ['boot_order_hint', null],
    ['disk_type', ''],
    ['label', null],
    ['source_format', 'ova'],
    ['source_format', 'ovf'],
  ])('disks[0].%s may be %j', (field, value) => {
    const { manifest } = accepted(withDisk({ [field]: value, bytes: field === 'bytes' ? value : 1 }))
    const disk = (manifest as ConvertManifest).disks[0]!
    expect(disk[field]).toBe(value === null || value === '' ? undefined : value)
  })

  test.each([
    ['vm.cpu 0, which Python refuses', { vm: { cpu: 0, mem_gb: 0 } }],
    ['firmware empty', { vm: { firmware: '' } }],
    ['no source, at which hyperexport panics', { source: null }],
    ['vm_name empty', { source: { vm_name: '' } }],
    ['a MAC that only Go accepts', { nics: [{ mac: '0050.56ab.cdef.0000' }] }],
    ['a time that only Python accepts', { source: { export_timestamp: 'yesterday' } }],
    ['notes of the wrong type', { notes: 'text', warnings: [1, 2], metadata: { tags: { a: 1 } } }],
    ['a level that nobody checks', { pipeline: { convert: { compress_level: 99 } } }],
  ])('the union of both validators: %s', (_name, change) => {
    expect(accepted({ ...minimal, ...change }).state).toBe('complete')
  })

  test('what only warns is left out of the manifest, so that types hold', () => {
    const outcome = accepted({
      ...minimal,
      notes: [1, 'two', 3],
      nics: [{ id: 'a', mac: '0050.56ab.cdef.0000' }],
      options: { verbose: 9 },
      source: { vm_name: 'web', vm_id: 12 },
    })
    expect(outcome.manifest).toMatchObject({
      notes: ['two'],
      nics: [{ id: 'a' }],
      options: {},
      source: { vm_name: 'web' },
    })
    expect(outcome.manifest).not.toHaveProperty('nics[0].mac')
    expect(
      warningsOf(outcome)
        .map((d) => d.path)
        .sort(),
    ).toEqual(['nics[0].mac', 'notes[0]', 'notes[2]', 'options.verbose', 'source.vm_id'])
  })

  test('an explicit false is not the same as nothing (Go drops it, Python then takes true)', () => {
    const explicit = accepted({ ...minimal, pipeline: { fix: { enabled: true, update_grub: false } } })
      .manifest as ConvertManifest
    expect(explicit.pipeline!.fix).toEqual({ enabled: true, update_grub: false })
    const absent = accepted({ ...minimal, pipeline: { fix: { enabled: true } } }).manifest as ConvertManifest
    expect(absent.pipeline!.fix).toEqual({ enabled: true })
  })

  test('wrong types where behaviour hangs on them are errors', () => {
    const outcome = parse({
      ...minimal,
      vm: { cpu: -1, secureboot: 'yes', firmware: 'UEFI' },
      pipeline: { fix: { enabled: 'yes', fstab_mode: 'stabilise-all' } },
      output: { format: 'qcow' },
      options: { dry_run: 1 },
      compress: 'maybe',
    })
    expect(errorsOf(outcome)).toEqual({
      'vm.cpu': 'vm.cpu is -1; it must be 0 or more.',
      'vm.secureboot': 'vm.secureboot is "yes"; it must be true or false.',
      'vm.firmware': 'vm.firmware is "UEFI"; it must be one of bios, uefi, unknown. Did you mean "uefi"?',
      'pipeline.fix.enabled': 'pipeline.fix.enabled is "yes"; it must be true or false.',
      'pipeline.fix.fstab_mode':
        'pipeline.fix.fstab_mode is "stabilise-all"; it must be one of stabilize-all, bypath-only, noop. Did you mean "stabilize-all"?',
      'output.format': 'output.format is "qcow"; it must be one of qcow2, raw, vdi. Did you mean "qcow2"?',
      'options.dry_run': 'options.dry_run is 1; it must be true or false.',
      compress: 'compress is "maybe"; it must be "auto", true ("yes") or false ("no").',
    })
  })

  test('unknown fields are kept, and reported with what was probably meant', () => {
    const outcome = accepted({
      ...minimal,
      site: { rack: 4 },
      priorty: 2,
      disks: [{ ...minimal.disks[0], bootOrderHint: 1, colour: 'red' }],
    })
    expect(outcome.manifest).toMatchObject({
      site: { rack: 4 },
      priorty: 2,
      priority: 5,
      disks: [{ colour: 'red', bootOrderHint: 1 }],
    })
    expect(Object.fromEntries(warningsOf(outcome).map((d) => [d.path, d.suggestion]))).toEqual({
      site: undefined,
      priorty: 'priority',
      'disks[0].bootOrderHint': 'boot_order_hint',
      'disks[0].colour': undefined,
    })
  })

  test('a relative path is taken from the folder that is given, and refused without one', () => {
    const { manifest } = accepted(withDisk({ local_path: '../d.vmdk' }), { baseDir: '/srv/export/a' })
    expect((manifest as ConvertManifest).disks[0]!.local_path).toBe('/srv/export/d.vmdk')
    expect(errorsOf(parse(withDisk({ local_path: '../d.vmdk' })))['disks[0].local_path']).toContain(
      'must be an absolute path',
    )
  })

  test('delta manifests are refused; hooks and profiles are said to do nothing', () => {
    expect(errorsOf(parse({ ...minimal, mode: 'delta', base_manifest_id: 'x' })).mode).toContain('delta manifest')
    const outcome = accepted({ ...minimal, hooks: { pre_fix: ['rm -rf /'] }, profile: 'fast', notify: 'x' })
    expect(
      warningsOf(outcome)
        .map((d) => d.path)
        .sort(),
    ).toEqual(['hooks', 'notify', 'profile'])
  })

  test('a disk without size and checksum is accepted, with a warning that nothing can be verified', () => {
    expect(warningsOf(accepted(withDisk({ bytes: undefined }))).map((d) => d.path)).toEqual(['disks[0]'])
    expect(warningsOf(accepted(withDisk({ bytes: undefined, source_format: 'ova' })))).toEqual([])
  })
})

describe('boot disk', () => {
  const boot = (...disks: object[]) =>
    bootDiskIndex(
      accepted({ ...minimal, disks: disks.map((d, i) => ({ ...minimal.disks[0], id: `d${i}`, ...d })) })
        .manifest as ConvertManifest,
    )

  test.each([
    ['no hints: the first', [{}, {}], 0],
    ['hint 0 dropped by Go: the first, not disk 1', [{}, { boot_order_hint: 1 }], 0],
    ['hint 0 dropped by Go, three disks', [{}, { boot_order_hint: 1 }, { boot_order_hint: 2 }], 0],
    ['lowest hint given', [{ boot_order_hint: 2 }, { boot_order_hint: 1 }], 1],
    ['a later disk without a hint is no candidate', [{ boot_order_hint: 2 }, {}], 0],
    ['an explicit 0 shows that zeros are kept', [{}, { boot_order_hint: 0 }], 1],
    ['disk_type first', [{ boot_order_hint: 0 }, { disk_type: 'boot' }], 1],
    ['a data disk is passed over', [{ disk_type: 'data' }, {}], 1],
    ['only data disks: the rules among them', [{ disk_type: 'data' }, { disk_type: 'data', boot_order_hint: 1 }], 0],
    ['the same hint twice: the earlier', [{ boot_order_hint: 3 }, { boot_order_hint: 3 }], 0],
  ])('%s', (_name, disks, index) => {
    expect(boot(...disks)).toBe(index)
  })
})
