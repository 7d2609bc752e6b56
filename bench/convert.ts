// `npm run bench:convert [-- --quick] [-- --write]`: conversions against qemu-img, tar and cp in one run, on the file system of
// $TMPDIR and, as root, on file systems that clone. Run by hand; fails nothing. --quick takes a disk of 1 GiB and fewer rounds, --write puts
// the result into docs/benchmarks.md. Words choose sections (ext4 btrfs inflate workers formats zstd memory). $BENCH_DATA names a folder that keeps the disks for the next run.
import { copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { asFormat, type BenchDisk, benchDisk, sparseDisk } from './convert-data.ts'
import { alternately, type Median, ours, peakMemory, peer, type Side } from './convert-sides.ts'
import { type LoopFs, loopFs } from '../test/support/loop-fs.ts'
import { format, machine, table, writePart } from './measure.ts'

const quick = process.argv.includes('--quick')
/** sections to run, by name; then nothing is written */
const only = process.argv.slice(2).filter((a) => !a.startsWith('--'))
const rounds = quick ? 1 : 3
const dir = await mkdtemp(join(tmpdir(), 'vsbench-'))
const kept = process.env.BENCH_DATA
const data = kept ?? join(dir, 'data')
await mkdir(data, { recursive: true })
const lines: string[] = []
const verdicts: string[] = []
const say = (text: string) => {
  lines.push(text)
  process.stdout.write(`${text}\n`)
}
const load = loadavg()[0]!.toFixed(1)
const note = (text: string) => process.stderr.write(`${text}\n`)

/** Configuration of our side. */
const structure = { VMSPOOL_CONVERT_GRAINS: 'structure' }
const zeroCopy = { compress: true, convert: { path: 'zero-copy' } }
const plain = (to: 'qcow2' | 'raw') => ({ compress: false, output: { format: to } })

try {
  const disk = await benchDisk(data, quick ? 1 : 4, note)
  const small = quick ? undefined : await benchDisk(data, 1, note)
  const sparse = await sparseDisk(data)
  say(`Machine: ${await machine(dir)}, ${(await execa('qemu-img', ['--version'])).stdout.split('\n')[0]}.\n`)
  say(
    `The disk: ${disk.capacity_bytes / 2 ** 30} GiB with an ext4 of files from /usr, ${mib(disk.allocated_bytes)} MiB in ${disk.grains} grains. Times are medians of ${rounds} in seconds (of what takes a minute: one run), sides in turn, each with the fsync of its output; the sources are in the page cache. "engine" is the sum of the phases in the report, "command" all of \`vmspool convert\`.`,
  )
  await onlyInMemory(disk.raw, disk.stream, disk.ova)
  const sections: [string, () => Promise<void>][] = [
    ['ext4', () => archives(dir, 'ext4 of the host', disk, false)],
    ['ext4', () => growth(dir, 'ext4 of the host', disk, small)],
    ['btrfs', () => onReflink('btrfs', disk, small)],
    ['inflate', () => inflate(disk)],
    ['workers', () => scaling(disk)],
    ['formats', () => otherSources(disk)],
    ['zstd', () => recompress(disk)],
    ['memory', () => memory(disk, sparse)],
  ]
  for (const [name, run] of sections) if (only.length === 0 || only.includes(name)) await run()
  say(`\nOther load on the machine: a load average of ${load} at the start, ${loadavg()[0]!.toFixed(1)} at the end.`)
  say(`\nAims, by the engine's time and by the whole command's:\n\n${verdicts.join('\n')}`)
  if (process.argv.includes('--write') && only.length === 0) await writePart('convert', lines)
} finally {
  await rm(dir, { recursive: true, force: true })
}

function mib(bytes: number): number {
  return Math.round(bytes / 2 ** 20)
}

/** These files in the page cache, and as root no others: with memory full of them each write has to make room first, which took up to 5 s. */
async function onlyInMemory(...files: string[]): Promise<void> {
  await execa('sync')
  if (process.geteuid?.() === 0) await writeFile('/proc/sys/vm/drop_caches', '1')
  for (const f of files) await execa('cat', [f], { stdout: 'ignore' })
}

/** One table; the peers' time is divided by ours. Returns it by name. */
async function compare(
  title: string,
  at: string,
  sides: (Side & { rounds?: number })[],
  n = rounds,
): Promise<Map<string, Median>> {
  note(title)
  const m = await alternately(at, sides, n)
  say(`\n${title}:\n`)
  say(
    table(
      ['side', 'engine s', 'command s', 'CPU s', 'output MiB'],
      m.map((x) => [
        x.path === '' ? x.name : `**${x.name}**`,
        x.path === '' ? '' : seconds(x.engine_ms),
        seconds(x.ms),
        seconds(x.cpu_ms),
        mib(x.bytes),
      ]),
    ),
  )
  return new Map(m.map((x) => [x.name, x]))
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(ms < 1000 ? 3 : 2)
}

/** Records whether `ours` is at least `factor` times as fast as `peer`. */
function faster(what: string, m: Map<string, Median>, mine: string, other: string, factor: number): void {
  const [a, b] = [m.get(mine)!, m.get(other)!]
  const [engine, command] = [b.ms / a.engine_ms, b.ms / a.ms]
  verdict(
    what,
    `at least ${factor} times as fast as ${other}`,
    `${format(engine)}, command ${format(command)}`,
    engine >= factor,
    command >= factor,
  )
}

/** Records whether `ours` takes at most `factor` times what the fastest of `others` takes. */
function within(what: string, m: Map<string, Median>, mine: string, others: string[], factor: number): void {
  const a = m.get(mine)!
  const best = others.map((o) => m.get(o)!).reduce((x, y) => (y.ms < x.ms ? y : x))
  const [engine, command] = [a.engine_ms / best.ms, a.ms / best.ms]
  verdict(
    what,
    `at most ${factor} of ${best.name}`,
    `${format(engine)}, command ${format(command)}`,
    engine <= factor,
    command <= factor,
  )
}

function verdict(what: string, aim: string, got: string, engine: boolean, command = engine): void {
  const word = engine && command ? 'met' : engine ? 'met by the engine, missed by the command' : 'missed'
  verdicts.push(`- ${what}: ${aim}. Measured ${got}: **${word}**.`)
}

/** streamOptimized to compressed qcow2: alone and in an OVA. */
async function archives(at: string, fs: string, disk: BenchDisk, clones: boolean): Promise<void> {
  const single = 'qemu-img convert -c'
  const unpack = 'tar -xf "$1"; sha256sum disk.ovf disk.vmdk >sums; qemu-img convert -f vmdk -O qcow2'
  const chain = `tar x; sha256sum; ${single}`
  const alone = await compare(`streamOptimized VMDK → compressed qcow2, ${fs}`, at, [
    ours('zero copy, structure', { source: disk.stream, format: 'vmdk', manifest: zeroCopy, env: structure }),
    ours('zero copy, full', { source: disk.stream, format: 'vmdk', manifest: zeroCopy }),
    peer('cp', `cp --reflink=${clones ? 'always' : 'never'} "$1" "$2"`, disk.stream),
    { ...peer(single, 'qemu-img convert -f vmdk -O qcow2 -c "$1" "$2"', disk.stream), rounds: 1 },
  ])
  const what = `VMDK → compressed, ${fs}`
  faster(`${what}, structure`, alone, 'zero copy, structure', single, clones ? 100 : 20)
  faster(`${what}, full`, alone, 'zero copy, full', single, 8)
  if (!clones) within(`${what}, structure`, alone, 'zero copy, structure', ['cp'], 1.3)

  const ova = await compare(`The same disk in an OVA with SHA-256 manifest → compressed qcow2, ${fs}`, at, [
    ours('zero copy, structure', {
      source: disk.ova,
      format: 'ova',
      manifest: { ...zeroCopy, validate: { grains: 'structure' } },
    }),
    ours('zero copy, full', { source: disk.ova, format: 'ova', manifest: zeroCopy }),
    peer('sha256sum', 'sha256sum "$1" >"$2"', disk.ova),
    peer('tar x; sha256sum; qemu-img convert (not compressed)', `${unpack} disk.vmdk "$2"`, disk.ova),
    ...(clones ? [] : [{ ...peer(chain, `${unpack} -c disk.vmdk "$2"`, disk.ova), rounds: 1 }]),
  ])
  // where it was not run again, the bare conversion of the disk alone stands for the chain, which takes longer
  const other = clones ? single : chain
  const both = new Map([...ova, ...alone].map(([name, m]) => [name, ova.get(name) ?? m]))
  faster(`OVA → compressed, ${fs}, structure`, both, 'zero copy, structure', other, clones ? 100 : 20)
  faster(`OVA → compressed, ${fs}, full`, both, 'zero copy, full', other, 8)
}

async function onReflink(type: 'btrfs' | 'xfs', disk: BenchDisk, small: BenchDisk | undefined): Promise<void> {
  let fs: LoopFs
  try {
    fs = await loopFs(dir, type, quick ? 8 : 16)
  } catch (error) {
    say(`\nNo figures for ${type}: ${error instanceof Error ? error.message.split('\n')[0] : error}`)
    return
  }
  await using _ = fs
  const moved: BenchDisk[] = []
  for (const [i, d] of [disk, ...(small ? [small] : [])].entries()) {
    const to = join(fs.path, `source-${i}`)
    await mkdir(to)
    const [stream, ova] = [join(to, 'disk.vmdk'), join(to, 'disk.ova')]
    await copyFile(d.stream, stream)
    await copyFile(d.ova, ova)
    moved.push({ ...d, stream, ova })
  }
  await execa('sync', ['-f', fs.path])
  const name = `${type} on a loop device`
  await archives(fs.path, name, moved[0]!, true)
  await growth(fs.path, name, moved[0]!, moved[1])
}

/** Does the time without looking into grains grow with their number only? */
async function growth(at: string, fs: string, disk: BenchDisk, small: BenchDisk | undefined): Promise<void> {
  if (small === undefined) return
  const side = (d: BenchDisk) =>
    ours(`${d.grains} grains`, { source: d.stream, format: 'vmdk', manifest: zeroCopy, env: structure })
  const m = [
    ...(
      await compare(`Zero copy, structure, by the number of grains, ${fs}`, at, [side(small), side(disk)], 5)
    ).values(),
  ]
  const per = m.map((x, i) => (x.engine_ms * 1000) / [small, disk][i]!.grains)
  say(`\nMicroseconds of the engine per grain: ${per.map((x) => format(x)).join(' and ')}.`)
}

async function inflate(disk: BenchDisk): Promise<void> {
  for (const to of ['qcow2', 'raw'] as const) {
    const m = await compare(`streamOptimized VMDK → plain ${to}`, dir, [
      ours('inflate', { source: disk.stream, format: 'vmdk', manifest: plain(to) }),
      peer('qemu-img convert', `qemu-img convert -f vmdk -O ${to} "$1" "$2"`, disk.stream),
    ])
    faster(`VMDK → plain ${to}`, m, 'inflate', 'qemu-img convert', 2)
  }
  const chain = 'tar x; sha256sum; qemu-img convert'
  const m = await compare('The same disk in an OVA → plain qcow2', dir, [
    ours('inflate', { source: disk.ova, format: 'ova', manifest: plain('qcow2') }),
    peer(
      chain,
      'tar -xf "$1"; sha256sum disk.ovf disk.vmdk >sums; qemu-img convert -f vmdk -O qcow2 disk.vmdk "$2"',
      disk.ova,
    ),
  ])
  faster('OVA → plain qcow2', m, 'inflate', chain, 2)
}

async function scaling(disk: BenchDisk): Promise<void> {
  const counts = [1, 2, 4].filter((n) => n === 1 || n <= availableParallelism())
  for (const [what, manifest] of [
    ['zero copy, full', zeroCopy],
    ['inflate to qcow2', plain('qcow2')],
  ] as const) {
    const m = await compare(
      `By workers: ${what}`,
      dir,
      counts.map((n) =>
        ours(`${n} worker${n > 1 ? 's' : ''}`, {
          source: disk.stream,
          format: 'vmdk',
          manifest,
          env: { VMSPOOL_CONVERT_WORKERS: String(n) },
        }),
      ),
    )
    const [one, two] = [m.get('1 worker'), m.get('2 workers')]
    if (one && two) {
      const gain = one.engine_ms / two.engine_ms
      verdict(`Two workers, ${what}`, 'scales with cores (at least 1.6 times one)', format(gain), gain >= 1.6)
    }
  }
}

async function otherSources(disk: BenchDisk): Promise<void> {
  const sources: [string, string, string, string, string?][] = [
    ['raw', 'raw', 'raw', ''],
    ['sparse VMDK', 'vmdk', 'vmdk', 'sparse.vmdk', 'subformat=monolithicSparse'],
    ['VHDX', 'vhdx', 'vhdx', 'disk.vhdx'],
    ['VHD', 'vhd', 'vpc', 'disk.vhd', 'force_size=on'],
    ['VDI', 'vdi', 'vdi', 'disk.vdi'],
  ]
  for (const [name, source_format, driver, file, options] of sources) {
    note(`preparing ${name}`)
    const source = file === '' ? disk.raw : await asFormat(disk, { file, driver, options })
    await onlyInMemory(source)
    const m = await compare(
      `${name} → plain qcow2`,
      dir,
      [
        ours('vmspool', { source, format: source_format, manifest: plain('qcow2') }),
        peer('qemu-img convert', `qemu-img convert -f ${driver} -O qcow2 "$1" "$2"`, source),
        peer('qemu-img convert -W', `qemu-img convert -W -f ${driver} -O qcow2 "$1" "$2"`, source),
        peer('cp', 'cp --sparse=auto "$1" "$2"', source),
      ],
      rounds,
    )
    within(`${name} → plain qcow2`, m, 'vmspool', ['qemu-img convert', 'qemu-img convert -W'], 1.05)
  }
}

async function recompress(disk: BenchDisk): Promise<void> {
  const qemu = (args: string) => `qemu-img convert -c ${args} -f raw -O qcow2 "$1" "$2"`
  const zstd = '-o compression_type=zstd'
  const m = await compare('raw → compressed qcow2', dir, [
    ours('vmspool (zstd)', { source: disk.raw, format: 'raw', manifest: { compress: true } }),
    peer('qemu-img convert -c -W, zstd', qemu(`-W ${zstd}`), disk.raw),
    peer('qemu-img convert -c -W -m 16, zstd', qemu(`-W -m 16 ${zstd}`), disk.raw),
    { ...peer('qemu-img convert -c (zlib)', qemu(''), disk.raw), rounds: 1 },
  ])
  const best = [...m.keys()].slice(1)
  within('raw → compressed qcow2', m, 'vmspool (zstd)', best, 1.05)
}

async function memory(disk: BenchDisk, sparse: string): Promise<void> {
  const cases: [string, Parameters<typeof peakMemory>[1]][] = [
    ['zero copy, structure', { source: disk.stream, format: 'vmdk', manifest: zeroCopy, env: structure }],
    ['zero copy, full', { source: disk.stream, format: 'vmdk', manifest: zeroCopy }],
    ['zero copy, full, OVA', { source: disk.ova, format: 'ova', manifest: zeroCopy }],
    ['inflate to qcow2', { source: disk.stream, format: 'vmdk', manifest: plain('qcow2') }],
    ['inflate to raw', { source: disk.stream, format: 'vmdk', manifest: plain('raw') }],
    ['1 TiB of holes, zero copy, full', { source: sparse, format: 'vmdk', manifest: zeroCopy }],
    ['1 TiB of holes, inflate to qcow2', { source: sparse, format: 'vmdk', manifest: plain('qcow2') }],
    ['1 TiB of holes, inflate to raw', { source: sparse, format: 'vmdk', manifest: plain('raw') }],
    ['raw → plain qcow2 (qemu-img)', { source: disk.raw, format: 'raw', manifest: plain('qcow2') }],
    ['raw → zstd (qemu-img)', { source: disk.raw, format: 'raw', manifest: { compress: true } }],
  ]
  const rows: (string | number)[][] = []
  let worst = 0
  for (const [name, request] of cases) {
    note(`memory: ${name}`)
    const peak = await peakMemory(dir, request)
    worst = Math.max(worst, peak.all)
    rows.push([name, peak.own, peak.all])
  }
  say('\nPeak memory, VmHWM in MiB, of the command alone and with the children that lived beside it:\n')
  say(table(['case', 'command', 'with children'], rows))
  verdict(
    'Memory, whatever the size of the disk',
    'under 200 MB',
    `${Math.round(worst * 1.048576)} MB`,
    worst * 1.048576 < 200,
  )
}
