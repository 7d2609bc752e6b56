/*
 * Mutated manifests: whatever bytes are dropped, the reader answers in bounded time and memory, never throws, lets no
 * name escape the output, and calls nothing valid that a strict reader refuses. FUZZ_RUNS sets the number (npm run soak: 100 000),
 * FUZZ_SEED repeats a run.
 */
import { expect, test } from 'vitest'
import {
  answerNameOf,
  type BatchVm,
  bootDiskIndex,
  manifestOfVm,
  type ParseOutcome,
  parseManifest,
  safeName,
} from '../../src/manifest/index.ts'
import { fromHyperexport, minimal } from './samples.ts'

const runs = Number(process.env.FUZZ_RUNS ?? 3000)
const seed = Number(process.env.FUZZ_SEED ?? 20260501)

/** mulberry32: small, and the same everywhere. */
function randomOf(start: number): () => number {
  let a = start
  return () => {
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

const yaml = `manifest_version: 1.0
source: &s {vm_name: "web 01", vm_id: 0042}
disks:
  - id: disk-0
    source_format: vmdk
    bytes: 12
    local_path: /x/y.vmdk
  - {id: b, source_format: raw, bytes: 1, local_path: *s}
notes: |
  text
`
const command = {
  kind: 'command',
  name: 'n',
  timeout: '5m',
  retry: { delay: 1 },
  command: { argv: ['true', 'a b'], env: { A: 'b' }, cwd: '/' },
}
const workflow = {
  version: '1.0',
  pipeline: {
    load: { source_type: 'vmdk', source_path: '/x/a.vmdk' },
    fix: { fstab: { enabled: true, mode: 'noop' }, grub: { enabled: true } },
    convert: { output_format: 'qcow2', compress: true, output_path: 'a.qcow2' },
  },
}
const batch = {
  batch_version: '1.0',
  batch_metadata: { batch_id: 'b', parallel_limit: 2, continue_on_error: false },
  shared_config: { output: { format: 'raw' } },
  vms: [
    { id: 'a', manifest: '/m/a.json', priority: 1, overrides: { labels: { a: 'b' } } },
    { manifest: minimal, enabled: false },
  ],
}
const older = {
  version: '1.0',
  source: { type: 'vmdk', path: '/x/a.vmdk', checksum: { algorithm: 'sha256', value: 'a' } },
}
const seeds: [string, string][] = [
  ['a.json', JSON.stringify(workflow)],
  ['a.json', JSON.stringify({ version: '1.0', batch: true, vms: [{ name: 'a', pipeline: workflow.pipeline }] })],
  ['a.yaml', JSON.stringify(batch)],
  ['a.json', JSON.stringify(batch)],
  ['a.json', JSON.stringify(older)],
  ['a.json', JSON.stringify({ jobs: [{ input: '/x/a.vmdk', fstab_mode: 'noop' }, { input: '/x/b.ova' }] })],
  ['a.json', JSON.stringify(minimal)],
  ['a.json', JSON.stringify(fromHyperexport, null, 2)],
  ['a.json', JSON.stringify(command)],
  ['a.yaml', yaml],
  ['a.yml', JSON.stringify(fromHyperexport)],
]
const words = [
  '{',
  '}',
  '[',
  ']',
  ',',
  ':',
  '"',
  '\\',
  '\0',
  '\n',
  '\t',
  ' ',
  '-',
  '- ',
  '? ',
  '& ',
  '*s',
  '&a',
  '!!binary ',
  '<<: ',
  '|',
  '>',
  '%',
  '#',
  '---\n',
  '...\n',
  "'",
  '__proto__',
  'constructor',
  'null',
  'true',
  '1e999',
  '-0',
  '1e-7',
  '9007199254740993',
  '../',
  '/',
  '.',
  '\ud800',
  '\ufeff',
  '\\u0000',
  '\\ud800',
  '\u202e',
  '\u0085',
  '"kind":"vm",',
  '"manifest_version":"1.0",',
  '"disks":[],',
  '.inf',
  '0x10',
  '~',
  '=',
  '🙂',
  'é',
]
const values: unknown[] = [
  null,
  true,
  false,
  0,
  -1,
  1.5,
  1e308,
  '',
  '../x',
  'x'.repeat(300),
  [],
  {},
  [null],
  [[[]]],
  { a: 1 },
  '\0',
  '1.0',
  'boot',
  '90s',
  1e21,
]

function mutate(random: () => number): { fileName: string; bytes: Buffer } {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!
  const [fileName, text] = pick(seeds)
  let source = text
  // Half of them are changed as data, so that they get past the grammar.
  if (random() < 0.5 && source.startsWith('{')) {
    const data = JSON.parse(source)
    for (let n = 1 + Math.floor(random() * 3); n > 0; n--) {
      let holder = data
      for (let depth = Math.floor(random() * 4); depth > 0; depth--) {
        const next = Object.values(holder).filter((v) => v !== null && typeof v === 'object') as Record<
          string,
          unknown
        >[]
        if (next.length === 0) break
        holder = pick(next)
      }
      const key =
        random() < 0.8
          ? pick(Object.keys(holder))
          : pick(['name', 'kind', 'x', 'timeout', 'mode', 'hooks', 'version', 'after'])
      if (key === undefined) continue
      if (random() < 0.2) delete holder[key]
      else holder[key] = structuredClone(random() < 0.7 ? pick(values) : pick(Object.values(holder)))
    }
    source = JSON.stringify(data)
    if (random() < 0.7) return { fileName, bytes: Buffer.from(source) }
  }
  let bytes = Buffer.from(source)
  for (let n = 1 + Math.floor(random() * 4); n > 0; n--) {
    const at = Math.floor(random() * (bytes.length + 1))
    const length = Math.floor(random() * random() * 40)
    const insert = random() < 0.6 ? Buffer.from(pick(words)) : Buffer.from([Math.floor(random() * 256)])
    const kind = random()
    if (kind < 0.35) bytes = Buffer.concat([bytes.subarray(0, at), insert, bytes.subarray(at)])
    else if (kind < 0.55) bytes = Buffer.concat([bytes.subarray(0, at), insert, bytes.subarray(at + length)])
    else if (kind < 0.7) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)])
    else if (kind < 0.85) bytes = Buffer.concat([bytes, bytes.subarray(at, at + length)])
    else if (kind < 0.98) bytes = bytes.subarray(0, at)
    else bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from(pick(words).repeat(2000)), bytes.subarray(at)])
  }
  return { fileName, bytes }
}

function audit(outcome: ParseOutcome, bytes: Buffer, fileName: string): void {
  const { diagnostics } = outcome
  if (diagnostics.length > 101) throw new Error(`${diagnostics.length} diagnostics`)
  for (const d of diagnostics) {
    if (d.message.includes('Please report this')) throw new Error(d.message)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
    if (d.message === '' || /[\u0000-\u0009\u000b-\u001f]/.test(d.message))
      throw new Error(`message ${JSON.stringify(d.message)}`)
    if (d.line !== undefined && (d.line < 1 || !(d.column! >= 1))) throw new Error(`place ${d.line}:${d.column}`)
  }
  if (outcome.state !== 'complete') {
    if (!diagnostics.some((d) => d.severity === 'error')) throw new Error(`${outcome.state} without an error`)
    if (outcome.state === 'invalid' && outcome.partial?.answer !== undefined && !safeName(outcome.partial.answer))
      throw new Error('unsafe answer')
    return
  }
  if (diagnostics.some((d) => d.severity === 'error')) throw new Error('complete with an error')
  const { manifest } = outcome
  const name = answerNameOf(manifest)
  if (name !== undefined && !safeName(name)) throw new Error(`unsafe name ${JSON.stringify(name)}`)
  if (fileName.endsWith('.json')) JSON.parse(bytes.toString('utf8').replace(/^\ufeff/, ''))
  if (manifest.kind === 'convert') {
    const index = bootDiskIndex(manifest)
    if (manifest.disks[index] === undefined) throw new Error(`boot disk ${index}`)
    const ids = manifest.disks.map((d) => d.id)
    if (new Set(ids).size !== ids.length || ids.some((id) => !/^[a-zA-Z0-9_-]+$/.test(id) || id.endsWith('\n')))
      throw new Error(`ids ${ids}`)
    for (const d of manifest.disks)
      if (!d.local_path.startsWith('/') || d.local_path.includes('\0')) throw new Error(`path ${d.local_path}`)
  }
  if (manifest.kind === 'batch') {
    const ids = (manifest.vms as BatchVm[]).map((vm) => vm.id)
    if (new Set(ids).size !== ids.length || ids.some((id) => !/^[a-zA-Z0-9_-]+$/.test(id) || id.endsWith('\n')))
      throw new Error(`ids ${ids}`)
    for (const vm of manifest.vms as BatchVm[]) {
      if (typeof vm.manifest === 'string') {
        if (!vm.manifest.startsWith('/') || vm.manifest.includes('\0')) throw new Error(`path ${vm.manifest}`)
        continue
      }
      const own = manifestOfVm(manifest, vm)
      if (own.state !== 'complete') throw new Error(`a VM was let through: ${JSON.stringify(own.diagnostics[0])}`)
      const answer = answerNameOf(own.manifest)
      if (answer !== undefined && !safeName(answer)) throw new Error(`unsafe name ${JSON.stringify(answer)}`)
    }
  }
  if (manifest.kind === 'command' && manifest.command.argv.length === 0) throw new Error('no argv')
  const again = parseManifest(Buffer.from(JSON.stringify(manifest)), { fileName: 'again.json' })
  if (again.state !== 'complete') throw new Error(`not accepted again: ${JSON.stringify(again.diagnostics[0])}`)
}

test(`${runs} mutated manifests: no throw, no escape, bounded memory`, { timeout: 20 * 60_000 }, () => {
  const random = randomOf(seed)
  const states: Record<string, number> = {}
  const heap: number[] = []
  for (let i = 0; i < runs; i++) {
    const { fileName, bytes } = mutate(random)
    try {
      const outcome = parseManifest(bytes, { fileName })
      audit(outcome, bytes, fileName)
      states[outcome.state] = (states[outcome.state] ?? 0) + 1
    } catch (error) {
      throw new Error(
        `Run ${i} of seed ${seed}, ${fileName}: ${JSON.stringify(bytes.subarray(0, 3000).toString('utf8'))}`,
        { cause: error },
      )
    }
    if (i % 1000 === 999) heap.push(process.memoryUsage().heapUsed)
  }
  // A leak of a kilobyte a run would show; the collector's own swing is some tens of megabytes.
  if (runs >= 10_000) expect(heap.at(-1)! - Math.min(...heap)).toBeLessThan(150e6)
  expect(({} as Record<string, unknown>).a).toBeUndefined()
  // The mutations must reach all three answers, or they test nothing.
  for (const state of ['complete', 'incomplete', 'invalid']) expect(states[state]).toBeGreaterThan(runs / 100)
  if (runs >= 10_000)
    console.log(
      `fuzz: ${runs} manifests, ${JSON.stringify(states)}, heap at most ${Math.round(Math.max(...heap) / 1e6)} MB`,
    )
})
