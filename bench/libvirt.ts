// `npm run bench:libvirt [-- --quick] [-- --write]`: our libvirt client against virsh, in turn, in one run, on libvirt's test driver
// with 200 domains in a private libvirtd. Root only, as that daemon is. Run by hand; fails nothing.
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { build } from 'esbuild'
import { execa } from 'execa'
import { type Connection, connect, type Domain } from '../src/libvirt/index.ts'
import { privateLibvirtd } from '../test/support/libvirtd.ts'
import { testDomain } from '../test/libvirt/scene.ts'
import { format, machine, memoryMiB, percentile, table, writePart } from './measure.ts'
import { reconcileSection } from './reconcile.ts'

const DOMAINS = 200
const quick = process.argv.includes('--quick')
/** of each operation; virsh as a process, and as one process with many commands, are repeated less */
const [ROUNDS, STARTS, BATCH] = quick ? [200, 5, 100] : [2000, 25, 1000]
const out: string[] = []
const say = (text: string) => {
  out.push(text)
  process.stdout.write(`${text}\n`)
}

interface Operation {
  name: string
  ours(c: Connection, d: Domain): Promise<unknown>
  virsh: string
}
const OPERATIONS: Operation[] = [
  { name: 'state of one', ours: (c, d) => c.domains.state(d), virsh: 'domstate many-7' },
  { name: 'look one up by name', ours: (c) => c.domains.byName('many-7'), virsh: 'domuuid many-7' },
  { name: 'XML of one', ours: (c, d) => c.domains.xml(d), virsh: 'dumpxml many-7' },
  { name: `list ${DOMAINS + 1}`, ours: (c) => c.domains.list(), virsh: 'list --all --uuid' },
  { name: `list ${DOMAINS + 1} with states`, ours: (c) => c.domains.states(), virsh: 'domstats --state' },
]

async function timed(work: () => Promise<unknown>): Promise<number> {
  const at = performance.now()
  await work()
  return performance.now() - at
}

/** MiB of a Node that does nothing but this: before, when connected, and after so many calls */
async function memory(uri: string, calls: number): Promise<[number, number, number]> {
  // as an installed program runs it: without Node's stripping of types, which takes memory of its own
  const bundle = join(dir, 'libvirt.mjs')
  const entryPoints = [join(import.meta.dirname, '../src/libvirt/index.ts')]
  await build({ entryPoints, outfile: bundle, bundle: true, format: 'esm', platform: 'node', logLevel: 'warning' })
  const program = `
    const mib = () => process.memoryUsage.rss() / 2 ** 20
    const before = mib()
    const { connect } = await import(${JSON.stringify(bundle)})
    const c = await connect(${JSON.stringify(uri)})
    const [d] = await c.domains.list()
    await c.domains.states()
    const connected = mib()
    for (let i = 0; i < ${calls}; i++) await c.domains.xml(d)
    console.log(JSON.stringify([before, connected, mib()]))
    await c.close()`
  return JSON.parse((await execa(process.execPath, ['--input-type=module', '-e', program])).stdout)
}

const load = loadavg()[0]!
const dir = await mkdtemp(join(tmpdir(), 'vsbench-'))
try {
  say(`Machine: ${await machine(dir)}.\n`)
  await using daemon = await privateLibvirtd()
  const uri = daemon.uri('test:///default')
  const virshUri = uri.replace('test:', 'test+unix:')
  const virsh = (...args: string[]) => execa('virsh', ['-q', '-c', virshUri, ...args], { env: { LC_ALL: 'C' } })
  await using c = await connect(uri)
  const define = await timed(() =>
    Promise.all(Array.from({ length: DOMAINS }, (_, i) => c.domains.define(testDomain(`many-${i}`)))),
  )
  const d = (await c.domains.byName('many-7'))!
  say(
    `libvirt ${await c.host.version()}, its test driver. ${DOMAINS} domains were defined in ${format(define)} ms, 4 calls at once.\n`,
  )

  const rows: (string | number)[][] = []
  const ratios: number[] = []
  for (const o of OPERATIONS) {
    const [ours, started, batch]: [number[], number[], number[]] = [[], [], []]
    for (let i = 0; i < 50; i++) await o.ours(c, d) // warm
    // in turn, so that whatever else the machine does meets all three
    for (let i = 0; i < STARTS; i++) {
      for (let k = 0; k < ROUNDS / STARTS; k++) ours.push(await timed(() => o.ours(c, d)))
      started.push(await timed(() => virsh(...o.virsh.split(' '))))
      if (i % 5 === 0) {
        const once = await timed(() => virsh(Array(1).fill(o.virsh).join(';')))
        const many = await timed(() =>
          virsh(
            Array(BATCH + 1)
              .fill(o.virsh)
              .join(';'),
          ),
        )
        batch.push((many - once) / BATCH)
      }
    }
    const [p50, p99, per, inOne] = [
      percentile(ours, 50),
      percentile(ours, 99),
      percentile(started, 50),
      percentile(batch, 50),
    ]
    ratios.push(per / p50)
    rows.push([o.name, p50, p99, per, per / p50, inOne, inOne / p50])
  }
  const opening: number[] = []
  for (let i = 0; i < STARTS; i++) opening.push(await timed(async () => (await connect(uri)).close()))
  say('Milliseconds of one call; `virsh` started for it, or one `virsh` that does it a thousand times:\n')
  const head = ['operation', 'ours p50', 'p99', 'virsh p50', 'times ours', 'one virsh, each', 'times ours']
  say(table(head, rows))
  say(`\nTo open and close a connection: ${format(percentile(opening, 50))} ms (p50).`)
  say(`\nA started \`virsh\` takes ${format(Math.min(...ratios))} to ${format(Math.max(...ratios))} times as long.`)

  const at64: number[] = []
  for (let i = 0; i < 20; i++) {
    at64.push(await timed(() => Promise.all(Array.from({ length: 64 }, () => c.domains.state(d)))))
  }
  say(`\n64 calls given at once (window of 4): ${format(percentile(at64, 50))} ms in all.`)

  const ours = await memory(uri, ROUNDS * 5)
  const shell = spawn('virsh', ['-q', '-c', virshUri], { stdio: ['pipe', 'ignore', 'ignore'] })
  shell.stdin.write('list --all\n')
  await sleep(1000)
  const peer = memoryMiB(shell.pid!).now
  shell.stdin.end('quit\n')
  say(
    `\nResident memory of a process of its own: Node alone ${format(ours[0])} MiB, connected and with ${DOMAINS + 1} domains listed ${format(ours[1])}, after ${ROUNDS * 5} XMLs ${format(ours[2])}; one \`virsh\` that has listed them ${format(peer)} MiB.`,
  )
  for (const line of await reconcileSection(daemon, dir, DOMAINS, quick ? 5 : 15)) say(line)
  say(`\nLoad average: ${format(load)} at the start, ${format(loadavg()[0]!)} at the end.`)
  if (process.argv.includes('--write')) await writePart('libvirt', out)
} finally {
  await rm(dir, { recursive: true, force: true })
}
