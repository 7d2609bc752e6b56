// Several hosts on one spool over a real network filesystem: a Linux NFS server, two hosts of agents and a client, each a Linux kernel
// with a boot id, a clock and caches of its own. They are user-mode Linux: under QEMU's emulation one start of Node takes the better
// part of a minute, here some seconds. Agents are killed and stopped beyond their lease, the server is restarted in the middle, and one
// host's clock is an hour off. Arguments: mount options (several runs, separated by blanks).
import { spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ChaosReport } from '../chaos/chaos.ts'
import { summary } from '../chaos/chaos.ts'
import { guestImage } from './guest-image.ts'

const MOUNTS = process.argv.length > 2 ? process.argv.slice(2) : ['vers=4.2', 'vers=3']
const JOBS = Number(process.env.VMSPOOL_NFS_JOBS ?? 500)
const MINUTES = Number(process.env.VMSPOOL_NFS_MINUTES ?? 20)
const AGENTS = Number(process.env.VMSPOOL_NFS_AGENTS ?? 4)
const LEASE_MS = 20_000
const began = performance.now()
const say = (line: string) =>
  process.stdout.write(`${((performance.now() - began) / 1000).toFixed(0).padStart(6)} s  ${line}\n`)

const dir = await mkdtemp(join(tmpdir(), 'vs-nfs-'))
/** What the guests write: in memory, for the server is to wait for the agents and not for this machine's disk. */
const written = await mkdtemp('/dev/shm/vs-nfs-')
try {
  const disk = await guestImage(dir, say)
  for (const mount of MOUNTS) await round(disk, mount)
} finally {
  for (const d of [dir, written]) await rm(d, { recursive: true, force: true })
}

async function round(disk: string, mount: string): Promise<void> {
  const seed = Date.now() % 1_000_000
  say(`NFS ${mount}: ${JOBS} jobs, ${2 * AGENTS} agents on 2 hosts, lease ${LEASE_MS / 1000} s, seed ${seed}`)
  const common = [
    ...[`vs.nfs=${mount}`, `vs.seed=${seed}`, `vs.jobs=${JOBS}`, `vs.minutes=${MINUTES}`],
    ...[`vs.agents=${AGENTS}`, `vs.lease=${LEASE_MS}`],
  ]
  const cables = await Promise.all([1, 2, 3].map(cable))
  const others = cables.map((c, i) => [`vec0:${c.far}`, `vs.net=${i + 1}`, ...common])
  const server = host(disk, [
    'vs.role=server',
    'vs.host=server',
    ...cables.map((c, i) => `vec${i}:${c.near}`),
    ...common,
  ])
  const client = host(disk, ['vs.role=client', 'vs.host=client', ...others[2]!])
  const guests = [
    server,
    host(disk, ['vs.role=agents', 'vs.host=hv-a', ...others[0]!]),
    host(disk, ['vs.role=agents', 'vs.host=hv-b', 'vs.ahead=3600', ...others[1]!]),
    client,
  ]
  try {
    const text = await client.said(/REPORT (\{.*\})\r?\n/)
    const report = JSON.parse(/REPORT (\{.*\})\r?\n/.exec(text)![1]!) as ChaosReport & {
      wrongHost: string[]
      asked: number
      told: Record<string, number>
      restarted: boolean
      skew: string[]
    }
    process.stdout.write(`${summary(report).replace(' 0 runs started,', '')}\n`)
    say(`clocks against the client's: ${report.skew.join(', ')}; server restarted: ${report.restarted}`)
    say(`${report.asked} jobs asked for a host, ${report.wrongHost.length} ran on another`)
    say(`the agents told of: ${JSON.stringify(report.told)}`)
    for (const w of report.wrongHost) process.stdout.write(`  ${w}\n`)
    const off = report.skew.some((s) => Math.abs(Number(/(-?\d+) min/.exec(s)?.[1])) > 50)
    const problems = report.lost.length + report.doubles.length + report.wrong.length + report.wrongHost.length
    if (problems > 0 || report.fsckExit !== 0 || !report.restarted || !off) process.exitCode = 1
  } catch (error) {
    process.exitCode = 1
    say(String(error))
    for (const g of guests) process.stdout.write(`${g.tail()}\n`)
  } finally {
    for (const g of guests) await g.end()
  }
}

/** An Ethernet cable between two guests: frames in datagrams (L2TPv3) between two ports of this machine's loopback. */
async function cable(session: number): Promise<{ near: string; far: string }> {
  const sockets = [createSocket('udp4'), createSocket('udp4')]
  const ports: number[] = []
  for (const s of sockets) {
    s.bind(0, '127.0.0.1')
    await once(s, 'listening')
    ports.push(s.address().port)
  }
  for (const s of sockets) s.close()
  const end = (mine: number, other: number) =>
    `transport=l2tpv3,udp=1,src=127.0.0.1,dst=127.0.0.1,srcport=${mine},dstport=${other},rx_session=${session},tx_session=${session},depth=128`
  return { near: end(ports[0]!, ports[1]!), far: end(ports[1]!, ports[0]!) }
}

interface Host {
  /** what it printed, once `pattern` is in it; throws when it ends before */
  said(pattern: RegExp): Promise<string>
  tail(): string
  end(): Promise<void>
}

function host(disk: string, words: string[]): Host {
  const name = words.find((w) => w.startsWith('vs.host='))!.slice(8)
  const child = spawn(
    'linux.uml',
    [
      ...['mem=1024M', `umid=${name}`, `uml_dir=${dir}/`, 'con=null', 'con0=null,fd:1', 'quiet'],
      ...[`ubd0=${join(written, `${name}.cow`)},${disk}`, 'root=/dev/ubda', 'rw', 'init=/opt/rig/init.sh', 'panic=-1'],
      ...words,
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  )
  let text = ''
  let shown = 0
  let over = false
  let wake = () => {}
  const heard = (d: Buffer) => {
    text += d.toString()
    const lines = text.slice(shown).split('\n')
    shown = text.length - lines.pop()!.length
    for (const line of lines) if (/^(init|agents|client): /.test(line)) say(`${name}: ${line.trimEnd()}`)
    wake()
  }
  child.stdout.on('data', heard)
  child.stderr.on('data', heard)
  const closed = new Promise<void>((resolve) => child.on('close', () => resolve()))
  void closed.then(() => {
    over = true
    wake()
  })
  return {
    async said(pattern) {
      while (!pattern.test(text)) {
        if (over) throw new Error(`The guest (${name}) ended before it printed ${pattern}.`)
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
      return text
    },
    tail: () => `--- ${name}\n${text.slice(-3000)}`,
    async end() {
      // Its guest's processes are processes of this machine, in the group that it made for itself.
      if (!over) process.kill(-child.pid!, 'SIGKILL')
      await closed
      await rm(join(written, `${name}.cow`), { force: true })
    },
  }
}
