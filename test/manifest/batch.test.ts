// The batch manifest itself (contracts A3): fields, defaults, hostile ones, and what becomes of a VM's manifest in it.
import { describe, expect, test } from 'vitest'
import { answerNameOf, type BatchManifest, manifestOfVm } from '../../src/manifest/index.ts'
import { accepted, errorsOf, minimal, parse, warningsOf } from './samples.ts'

const batch = (data: unknown, o = {}) => accepted(data, o).manifest as BatchManifest
const small = { batch_version: '1.0', vms: [{ manifest: '/m/a.json' }] }
const vms = (...list: unknown[]) => ({ batch_version: '1.0', vms: list })

describe('fields', () => {
  test('of hyper2kvm, with its defaults', () => {
    expect(batch(small, { fileName: '/x/tonight.yaml' })).toMatchObject({
      kind: 'batch',
      name: 'tonight',
      priority: 5,
      batch_metadata: { parallel_limit: 4, continue_on_error: true },
      vms: [{ id: 'vm_0', manifest: '/m/a.json', priority: 0, enabled: true }],
    })
    const full = {
      batch_version: '1.0',
      batch_metadata: { batch_id: 'dc-2026', parallel_limit: 2, continue_on_error: false, description: 'x' },
      shared_config: { output_directory: '/out', output: { format: 'raw' } },
      vms: [
        { id: 'web', manifest: '/m/web.json', priority: 7, overrides: { compress: true }, enabled: false },
        { id: 'db', manifest: 'db.yaml', priority: -1 },
      ],
    }
    const outcome = accepted(full, { dropDir: '/q' })
    expect(answerNameOf(outcome.manifest)).toBe('dc-2026.batch')
    expect(outcome.manifest).toMatchObject({
      ...full,
      name: 'dc-2026',
      vms: [full.vms[0], { ...full.vms[1], manifest: '/q/db.yaml', enabled: true }],
    })
    expect(warningsOf(outcome).map((d) => d.path)).toEqual(['shared_config.output_directory'])
  })

  test('reading what was read changes nothing, and finds nothing new', () => {
    const first = batch(vms({ manifest: 'a.json', priority: 1 }, { manifest: minimal, id: 'b' }), {
      dropDir: '/q',
      fileName: 'n.json',
    })
    const again = accepted(first, { fileName: 'other.json' })
    expect(again.manifest).toEqual(first)
  })

  test.each([
    ['a version', { ...small, batch_version: '2.0' }, 'batch_version'],
    ['no VM', vms(), 'vms'],
    ['no list', { batch_version: '1.0' }, 'vms'],
    ['no manifest', vms({ id: 'a' }), 'vms[0].manifest'],
    ['an empty path', vms({ manifest: '' }), 'vms[0].manifest'],
    ['a list for a path', vms({ manifest: [] }), 'vms[0].manifest'],
    ['a relative path from nowhere', vms({ manifest: 'a.json' }), 'vms[0].manifest'],
    ['somebody’s home', vms({ manifest: '~/a.json' }), 'vms[0].manifest'],
    ['an id with a slash', vms({ manifest: '/a', id: '../a' }), 'vms[0].id'],
    ['an id with a line feed', vms({ manifest: '/a', id: 'a\n' }), 'vms[0].id'],
    ['an id twice', vms({ manifest: '/a', id: 'a' }, { manifest: '/b', id: 'a' }), 'vms[1].id'],
    ['the id of another by default', vms({ manifest: '/a', id: 'vm_1' }, { manifest: '/b' }), 'vms[1].id'],
    ['half a priority', vms({ manifest: '/a', priority: 0.5 }), 'vms[0].priority'],
    ['a text for a flag', vms({ manifest: '/a', enabled: 'yes' }), 'vms[0].enabled'],
    ['a list of overrides', vms({ manifest: '/a', overrides: [] }), 'vms[0].overrides'],
    ['no slot', { ...small, batch_metadata: { parallel_limit: 0 } }, 'batch_metadata.parallel_limit'],
    ['a batch id that escapes', { ...small, batch_metadata: { batch_id: '../../x' } }, 'batch_metadata.batch_id'],
    ['a long name', { ...small, name: 'x'.repeat(198) }, 'name'],
    ['a made-up predecessor', vms({ manifest: '/a', done_by: '../x' }), 'vms[0].done_by'],
  ])('%s is an error', (_n, data, path) => {
    expect(Object.keys(errorsOf(parse(data)))).toEqual([path])
  })

  test('who asked is told under the name of the batch, never under that of a VM', () => {
    expect(parse({ ...small, name: 'web', vms: [] })).toMatchObject({ partial: { answer: 'web.batch', kind: 'batch' } })
    expect(parse({ batch_version: '1.0', batch_metadata: { batch_id: 'b' }, vms: [] })).toMatchObject({
      partial: { answer: 'b.batch' },
    })
  })

  test('ten thousand VMs are a batch, one more is not; neither takes long', () => {
    const many = (n: number) =>
      vms(...Array.from({ length: n }, (_, i) => ({ id: `v${i}`, manifest: `/m/${i}.json`, priority: i })))
    expect(batch(many(10_000)).vms).toHaveLength(10_000)
    expect(errorsOf(parse(many(10_001)))).toHaveProperty('vms')
    const wrong = parse(vms(...Array.from({ length: 10_000 }, () => ({ manifest: 'x' }))))
    expect(wrong.diagnostics).toHaveLength(101)
  })
})

describe('manifests that stand in the batch', () => {
  test('are checked with what the batch adds to them, each fault at its place', () => {
    const disk = minimal.disks[0]
    const outcome = parse({
      ...vms(
        { manifest: { disks: [disk], name: 'a' } },
        { manifest: { ...minimal, disks: [{ ...disk, source_format: 'vmkd' }] } },
        { manifest: { kind: 'batch', vms: [] } },
        { manifest: { hello: 1 } },
        { manifest: { ...minimal, name: 'a' } },
        { manifest: { ...minimal, name: 'b.batch' } },
        { manifest: { kind: 'command', command: {} } },
      ),
      shared_config: { manifest_version: '1.0' },
    })
    expect(errorsOf(outcome)).toMatchObject({
      'vms[1].manifest.disks[0].source_format': expect.stringContaining('Did you mean "vmdk"'),
      'vms[2].manifest.kind': expect.stringContaining('do not nest'),
      'vms[3].manifest': expect.stringContaining('no manifest'),
      'vms[4].manifest.name': expect.stringContaining('like vms[0]'),
      'vms[5].manifest.name': expect.stringContaining('.batch'),
      'vms[6].manifest.command': expect.stringContaining('neither argv'),
    })
    expect(Object.keys(errorsOf(outcome))).toHaveLength(6)
  })

  test('of YAML keep scalars as they are written', () => {
    const text =
      'batch_version: "1.0"\nvms:\n- manifest: {manifest_version: 1.0, name: 007, disks: [{id: 1, source_format: raw, bytes: 1, local_path: x.img}]}\n'
    const m = batch(text, { fileName: 'a.yaml', dropDir: '/q' })
    expect(m.vms[0]!.manifest).toMatchObject({
      manifest_version: '1.0',
      name: '007',
      disks: [{ id: '1', local_path: '/q/x.img' }],
    })
  })
})

describe("a VM's manifest", () => {
  const of = (data: object, file?: { text: string; path: string }) => {
    const m = batch({ batch_version: '1.0', ...data })
    return manifestOfVm(m, m.vms[0]!, file && { bytes: Buffer.from(file.text), path: file.path })
  }
  const file = (change: object = {}, path = '/m/vm/a.json') => ({
    text: JSON.stringify({ ...minimal, ...change }),
    path,
  })

  test('lies over what is shared, and under its overrides', () => {
    const outcome = of(
      {
        shared_config: { output: { format: 'raw', checksum: true }, compress: true, labels: { a: '1', b: '1' } },
        vms: [
          { manifest: '/m/vm/a.json', overrides: { labels: { c: '3' }, disks: [{ ...minimal.disks[0], id: 'x' }] } },
        ],
      },
      file({ output: { format: 'vdi' }, labels: { b: '2' } }),
    )
    expect(outcome).toMatchObject({
      state: 'complete',
      manifest: {
        output: { format: 'vdi', checksum: true },
        compress: true,
        labels: { a: '1', b: '2', c: '3' },
        disks: [{ id: 'x' }],
      },
    })
  })

  test('may lack what the batch adds', () => {
    const data = { shared_config: { manifest_version: '1.0' }, vms: [{ manifest: '/m/a.json' }] }
    expect(of(data, { text: JSON.stringify({ disks: minimal.disks }), path: '/m/a.json' }).state).toBe('complete')
    const bad = of(data, { text: '{"disks": [}', path: '/m/a.json' })
    expect(bad).toMatchObject({ state: 'invalid', diagnostics: [{ line: 1, column: 12 }] })
  })

  test('starts from its own folder, and may be YAML or another dialect', () => {
    const yaml = 'manifest_version: 1.0\ndisks: [{id: d, source_format: raw, bytes: 1, local_path: d.img}]\n'
    const data = { shared_config: { compress: true }, vms: [{ manifest: '/m/vm/a.yaml' }] }
    expect(of(data, { text: yaml, path: '/m/vm/a.yaml' })).toMatchObject({
      manifest: { manifest_version: '1.0', compress: true, disks: [{ local_path: '/m/vm/d.img' }] },
    })
    expect(of(data, { text: '{"input": "b.vmdk"}', path: '/m/vm/job.json' })).toMatchObject({
      manifest: { kind: 'convert', name: 'b', compress: true, disks: [{ local_path: '/m/vm/b.vmdk' }] },
    })
  })

  test('an override may name the VM as hyper2kvm has it', () => {
    const data = { vms: [{ manifest: '/m/a.json', overrides: { output: { vm_name: 'web-kvm' } } }] }
    const outcome = of(data, file({ source: { vm_name: 'web', provider: 'vsphere' } }))
    expect(outcome).toMatchObject({ manifest: { source: { vm_name: 'web-kvm', provider: 'vsphere' } } })
    expect(outcome).not.toHaveProperty('manifest.output.vm_name')
  })

  test('nothing reaches through a merge into what all objects share', () => {
    expect(parse('{"batch_version":"1.0","vms":[{"manifest":"/a","overrides":{"__proto__":{"x":1}}}]}').state).toBe(
      'invalid',
    )
    const outcome = of(
      { vms: [{ manifest: '/m/a.json', overrides: { constructor: { prototype: { polluted: 1 } } } }] },
      file(),
    )
    expect(outcome.state).toBe('complete')
    expect(({} as Record<string, unknown>).polluted).toBeUndefined()
  })
})
